"""PSNR and SSIM follow their protocol, and the field's known traps are told apart."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.color import rgb_to_y_bt601
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.metrics import (
    Protocol,
    Score,
    psnr,
    score,
    ssim,
    summarize,
    super_resolution_protocol,
)
from lowvis_shared.resize import imresize, modcrop
from lowvis_shared.testing import mirror_path
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

RGB = Protocol(color="rgb")
Y = Protocol()


def pair(height: int = 40, width: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random picture and a noisy copy of it, uint8."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    target = imresize(small, size=(height, width))
    noisy = target + generator.normal(0, 8, target.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), target


def test_a_known_difference_gives_the_known_figure() -> None:
    target = np.full((20, 20, 3), 100, np.uint8)
    # 5 levels everywhere: 20 log10(255 / 5)
    assert psnr(target + 5, target, RGB) == pytest.approx(34.1514, abs=1e-4)
    assert psnr(target + 5, target, Protocol(color="luma-full-range")) == pytest.approx(
        34.1514, abs=1e-4
    )


def test_full_range_luma_lies_below_limited_range_y_by_a_constant() -> None:
    output, target = pair()
    gap = psnr(output, target, Y) - psnr(output, target, Protocol(color="luma-full-range"))
    assert gap == pytest.approx(20 * math.log10(255 / 219), abs=1e-10)
    assert gap == pytest.approx(1.3219, abs=1e-4)


def test_rgb_figures_agree_with_scikit_image() -> None:
    output, target = pair()
    assert psnr(output, target, RGB) == pytest.approx(
        peak_signal_noise_ratio(target, output, data_range=255), abs=1e-10
    )
    theirs = structural_similarity(
        target,
        output,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(output, target, RGB) == pytest.approx(theirs, abs=1e-9)


def test_y_figures_agree_with_scikit_image() -> None:
    output, target = pair(seed=3)
    y_output, y_target = rgb_to_y_bt601(output), rgb_to_y_bt601(target)
    theirs = structural_similarity(
        y_target,
        y_output,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    result = score(output, target, Y)
    assert result.ssim == pytest.approx(theirs, abs=1e-9)
    assert result.psnr == pytest.approx(
        peak_signal_noise_ratio(y_target, y_output, data_range=255), abs=1e-10
    )


@pytest.mark.parametrize("color", ["y-bt601", "rgb", "luma-full-range"])
def test_identical_pictures_are_infinitely_close(color: str) -> None:
    _, target = pair()
    result = score(target, target, Protocol(color=color))
    assert result.psnr == math.inf
    assert result.ssim == 1.0
    assert result.mse == 0.0


def test_border_is_cut_off_before_anything_is_compared() -> None:
    output, target = pair()
    spoiled = output.copy()
    spoiled[:4], spoiled[-4:], spoiled[:, :4], spoiled[:, -4:] = 0, 0, 255, 255
    protocol = Protocol(border=4)
    inner = score(output[4:-4, 4:-4], target[4:-4, 4:-4], Y)
    outer = score(spoiled, target, protocol)
    assert (outer.psnr, outer.ssim) == (inner.psnr, inner.ssim)
    spoiled[4, 4] = 255 - spoiled[4, 4]  # the first pixel inside counts
    assert psnr(spoiled, target, protocol) < outer.psnr


def test_floats_are_clipped_and_rounded_to_8_bits_unless_told_otherwise() -> None:
    _, target = pair()
    exact = target / 255
    nudged = (target + 0.4) / 255
    assert psnr(exact, target, Y) == math.inf
    assert psnr(nudged, target, Y) == math.inf
    raw = psnr(nudged, target, Protocol(color="rgb", quantize=False))
    assert raw == pytest.approx(20 * math.log10(255 / 0.4), abs=1e-6)
    white = np.full((20, 20, 3), 255, np.uint8)
    overshooting = np.full((20, 20, 3), 1.2, np.float32)
    assert psnr(overshooting, white, Y) == math.inf
    assert psnr(overshooting, white, Protocol(quantize=False)) < 20


def test_float_and_8_bit_forms_of_a_picture_score_the_same() -> None:
    output, target = pair()
    plain = score(output, target, Y)
    for dtype in (np.float32, np.float64):
        assert score((output / 255).astype(dtype), (target / 255).astype(dtype), Y) == plain
        assert score((output / 255).astype(dtype), target, Y) == plain


def test_mean_and_pooled_reductions_differ_as_defined() -> None:
    pairs = [pair(seed=1), (pair(seed=2)[1] // 2, pair(seed=2)[1])]
    mean, pooled = (
        summarize([score(a, b, Protocol(reduction=reduction)) for a, b in pairs])
        for reduction in ("mean", "pooled")
    )
    each = [score(a, b, Y) for a, b in pairs]
    assert mean.psnr == pytest.approx(np.mean([one.psnr for one in each]), abs=1e-12)
    squared = np.mean([one.mse for one in each])
    assert pooled.psnr == pytest.approx(10 * math.log10(255**2 / squared), abs=1e-12)
    assert pooled.psnr < mean.psnr - 1  # Jensen's inequality, strict here
    assert mean.ssim == pooled.ssim == pytest.approx(np.mean([one.ssim for one in each]))


def test_scores_of_different_protocols_are_never_averaged() -> None:
    output, target = pair()
    with pytest.raises(UsageError, match="different protocols"):
        summarize([score(output, target, Y), score(output, target, RGB)])
    with pytest.raises(UsageError, match="no scores"):
        summarize([])


def test_the_protocol_travels_with_the_score_and_says_what_it_is() -> None:
    output, target = pair()
    protocol = super_resolution_protocol(4)
    result = score(output, target, protocol)
    assert isinstance(result, Score)
    assert result.protocol == Protocol("y-bt601", 4, True, "mean")
    assert protocol.as_dict() == {
        "color": "y-bt601",
        "border": 4,
        "quantize": True,
        "reduction": "mean",
    }
    assert protocol.describe() == (
        "on Y of limited-range BT.601, border of 4 cropped, rounded to 8 bits, mean over pictures"
    )
    assert Protocol(color="rgb", quantize=False, reduction="pooled").describe() == (
        "on RGB, no border cropped, not rounded, pooled over pictures"
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(11, 40), st.integers(11, 40), st.integers(0, 100))
def test_figures_are_symmetric_and_bounded(height: int, width: int, seed: int) -> None:
    one, other = pair(height, width, seed)
    forward, backward = score(one, other, Y), score(other, one, Y)
    assert forward.psnr == pytest.approx(backward.psnr)
    assert forward.ssim == pytest.approx(backward.ssim)
    assert -1 <= forward.ssim <= 1
    assert forward.psnr > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", [psnr, ssim, score])
def test_values_that_are_not_finite_are_refused(measure, bad: float) -> None:
    _, target = pair()
    output = target / 255
    output[3, 2, 1] = bad
    with pytest.raises(InputError, match="the output holds values that are not finite"):
        measure(output, target, Y)
    with pytest.raises(InputError, match="the target"):
        measure(target, output, Y)


def test_pictures_that_cannot_be_compared_are_refused_with_the_reason() -> None:
    _, target = pair(20, 20)
    with pytest.raises(InputError, match="different shapes"):
        psnr(target[:-1], target, Y)
    with pytest.raises(InputError, match=r"RGB pictures \(H, W, 3\)"):
        psnr(target[..., 0], target[..., 0], Y)
    with pytest.raises(InputError, match="uint16"):
        psnr(target.astype(np.uint16), target, Y)
    with pytest.raises(InputError, match="20x20 is too small to cut off a border of 10"):
        psnr(target, target, Protocol(border=10))
    with pytest.raises(InputError, match=r"SSIM needs at least 11x11 pixels .* 10x10 are left"):
        ssim(target, target, Protocol(border=5))
    assert psnr(target, target, Protocol(border=9)) == math.inf


@pytest.mark.parametrize("fields", [{"color": "ycbcr"}, {"border": -1}, {"reduction": "median"}])
def test_protocols_that_do_not_exist_are_refused(fields: dict) -> None:
    with pytest.raises(UsageError):
        Protocol(**fields)


def test_bicubic_baseline_of_set5_is_the_published_one() -> None:
    scores = []
    for path in sorted((mirror_path("data/Set5") / "HR").glob("*.png")):
        with Image.open(path) as image:
            target = modcrop(np.asarray(image.convert("RGB")), 4)
        output = imresize(imresize(target, scale=1 / 4), scale=4)
        scores.append(score(output, target, super_resolution_protocol(4)))
    assert len(scores) == 5
    result = summarize(scores)
    assert 28.42 <= result.psnr <= 28.43
    assert result.ssim == pytest.approx(0.811, abs=1e-3)
