import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_pan.model import PAN, PANConfig
from lowvis_pan.predict import Upscaler, upscale
from lowvis_pan.weights import load_weights
from lowvis_shared.canvas import bicubic_upscale
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.errors import DeviceError, InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, comparison, to_array, to_tensor
from lowvis_shared.pairs import evaluate, load_pairs
from lowvis_shared.resize import imresize
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import make_picture, photo, stress_patterns

FULL_RANGE = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


@pytest.fixture(scope="module")
def upscaler(weights: str) -> Upscaler:
    return Upscaler(weights=weights, backend="torch", precision="fp32")


def deep(pixels: np.ndarray, dtype: type) -> np.ndarray:
    """Bring 8-bit pixels to another type by the range of both."""
    return (pixels / 255 * FULL_RANGE[dtype]).astype(dtype)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("dtype", FULL_RANGE)
def test_depth_gray_alpha_and_metadata_stay(
    upscaler: Upscaler, dtype: Any, gray: bool, alpha: bool
) -> None:
    made = make_picture(9, 12, dtype=dtype, gray=gray, alpha=alpha)
    picture = Picture(
        made.pixels, made.alpha, gray, icc_profile=b"profile", exif=b"Exif", format="WebP"
    )
    result = upscaler(picture)
    assert result.pixels.shape == (36, 48, 3)
    assert result.pixels.dtype == dtype
    assert (result.gray, result.format) == (gray, "WebP")
    assert (result.icc_profile, result.exif) == (b"profile", b"Exif")
    if gray:
        assert np.array_equal(result.pixels[..., 0], result.pixels[..., 1])
        assert np.array_equal(result.pixels[..., 0], result.pixels[..., 2])
    if picture.alpha is None:
        assert result.alpha is None
    else:
        expected = np.clip(imresize(picture.alpha, scale=4), 0, FULL_RANGE[dtype])
        assert np.array_equal(result.alpha, expected)


@pytest.mark.parametrize("dtype", FULL_RANGE)
def test_an_array_gives_an_array_of_its_type(upscaler: Upscaler, dtype: Any) -> None:
    pixels = deep(photo(9, 12), dtype)
    result = upscaler(pixels)
    assert result.dtype == dtype
    assert np.array_equal(result, upscaler(Picture(pixels)).pixels)


def test_the_result_is_the_networks_own(upscaler: Upscaler, weights: str) -> None:
    network = PAN(PANConfig(scale=4)).eval()
    load_weights(network, weights)
    picture = Picture(photo(20, 30))
    with torch.inference_mode():
        expected = to_array(network(to_tensor(picture)).clamp(0, 1)) * 255
    assert np.abs(upscaler(picture).pixels - expected).max() < 0.501


def test_sixteen_bits_are_sixteen_bits(upscaler: Upscaler) -> None:
    pixels = deep(photo(24, 24), np.uint16)
    fine, coarse = upscaler(pixels), upscaler(photo(24, 24)).astype(np.uint16) * 257
    assert np.abs(fine.astype(int) - coarse).max() <= 129  # half a step of 8 bits
    assert len(np.unique(fine)) > 256


def test_dark_sixteen_bits_are_scaled_by_their_type(upscaler: Upscaler) -> None:
    dark = deep(photo(16, 16), np.uint16) // 300  # all below 256
    expected = upscaler(dark.astype(np.float32) / 65535) * 65535
    assert np.abs(upscaler(dark) - expected).max() < 0.51


def test_colors_under_transparent_pixels_do_not_leak_into_alpha(upscaler: Upscaler) -> None:
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    clean, garbage = np.full((16, 16, 3), 90, np.uint8), photo(16, 16)
    results = [upscaler(Picture(pixels, alpha)) for pixels in (clean, garbage)]
    assert np.array_equal(results[0].alpha, results[1].alpha)


@pytest.mark.parametrize("options", [{}, {"self_ensemble": True}, {"back_projection": True}])
def test_tiles_give_what_the_whole_picture_gives(weights: str, options: dict[str, bool]) -> None:
    pixels = deep(photo(50, 130), np.float32)
    whole, tiled = (
        Upscaler(weights=weights, backend="torch", tile=tile, **options)(pixels) for tile in (0, 41)
    )
    assert np.abs(whole - tiled).max() < 2e-5


def test_memory_at_hand_decides_the_tiles(
    weights: str, upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Picture(deep(photo(100, 400), np.float32))
    monkeypatch.setattr("lowvis_pan.predict._CPU_BUDGET", 25_000 * 6400)
    tiled, report = upscaler.run(picture)
    assert report.tiles == 2
    monkeypatch.undo()
    whole, report = upscaler.run(picture)
    assert report.tiles == 1
    assert np.abs(tiled.pixels - whole.pixels).max() < 2e-5


def test_progress_ends_at_the_whole(weights: str) -> None:
    seen: list[tuple[int, int]] = []
    upscaler = Upscaler(weights=weights, backend="torch", tile=32)
    _, report = upscaler.run(
        Picture(photo(40, 60)), progress=lambda done, of: seen.append((done, of))
    )
    assert report.tiles == len(seen) == 4
    assert seen[-1] == (2400, 2400)


def test_self_ensemble_treats_all_orientations_alike(weights: str) -> None:
    upscaler = Upscaler(weights=weights, backend="torch", precision="fp32", self_ensemble=True)
    pixels = deep(photo(14, 20), np.float32)
    upright = upscaler(pixels)
    for turned_back in (
        np.rot90(upscaler(np.rot90(pixels).copy()), -1),
        upscaler(pixels[:, ::-1].copy())[:, ::-1],
    ):
        assert np.abs(upright - turned_back).max() < 1e-5


def test_back_projection_comes_down_closer_to_the_input(weights: str) -> None:
    pixels = deep(photo(40, 40), np.float32) * 0.8 + 0.1
    errors = [
        np.square(imresize(result, scale=1 / 4) - pixels).mean()
        for result in (
            Upscaler(weights=weights, backend="torch", back_projection=step)(pixels)
            for step in (False, True)
        )
    ]
    assert errors[1] < errors[0]


@pytest.mark.slow
@pytest.mark.parametrize(("option", "gain"), [("self_ensemble", 0.106), ("back_projection", 0.016)])
def test_quality_options_gain_what_they_promise(option: str, gain: float) -> None:
    asset_path("pan/x4/official")
    plain, better = (
        Upscaler(weights="official", backend="torch", precision="fp32", **options)
        for options in ({}, {option: True})
    )
    pairs = load_pairs("set5", 4)
    measured = evaluate(better, pairs, 4).psnr - evaluate(plain, pairs, 4).psnr
    assert measured == pytest.approx(gain, abs=0.005)


@pytest.mark.parametrize("name", stress_patterns())
def test_unstable_patterns_come_out_bounded_and_said(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    asset_path("pan/x4/official")
    upscaler = Upscaler(weights="official", backend="torch", precision="fp32")
    pattern = stress_patterns(48, 48)[name]
    with caplog.at_level(logging.WARNING, "lowvis"):
        result, report = upscaler.run(Picture(deep(pattern, np.float32)))
    assert np.isfinite(result.pixels).all()
    assert (report.attenuated > 0) == ("unstable" in caplog.text)
    # An unguarded network gives white and black at random, unlike the input in every place.
    mean = np.abs(imresize(result.pixels, scale=1 / 4) - deep(pattern, np.float32)).mean()
    assert mean < 0.4


def test_the_guard_leaves_photographs_alone(weights: str) -> None:
    results = [
        Upscaler(weights=weights, backend="torch", guard=guard).run(Picture(photo(64, 64)))
        for guard in (True, False)
    ]
    assert results[0][1].attenuated == 0
    assert np.array_equal(results[0][0].pixels, results[1][0].pixels)


def test_float_values_outside_the_range_are_clipped_and_said(
    upscaler: Upscaler, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = deep(photo(12, 12), np.float32) * 1.5 - 0.2
    with caplog.at_level(logging.WARNING, "lowvis"):
        result = upscaler(pixels)
    assert "clipped" in caplog.text
    assert np.array_equal(result, upscaler(np.clip(pixels, 0, 1)))


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((4, 4, 3), np.nan, np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int32),
    ],
)
def test_arrays_that_are_no_picture_are_refused(upscaler: Upscaler, pixels: np.ndarray) -> None:
    with pytest.raises(InputError):
        upscaler(pixels)


def test_a_result_too_large_for_memory_is_refused_before_work(upscaler: Upscaler) -> None:
    picture = Picture(np.broadcast_to(np.uint8(9), (60_000, 60_000, 3)))
    with pytest.raises(InputError, match=r"240000x240000 pixels takes .* GiB"):
        upscaler(picture)


def test_the_limit_of_a_container_counts(
    upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = Picture(photo(64, 64))  # the result is refused below 2 * 4 * 256 * 256 bytes
    monkeypatch.setattr("lowvis_shared.device._CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("9000000\n")
    (tmp_path / "memory.max").write_text("9300000\n")
    with pytest.raises(InputError, match="are free"):
        upscaler(picture)
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 400000\n")
    assert upscaler(picture).height == 256
    (tmp_path / "memory.stat").unlink()
    (tmp_path / "memory.max").write_text("max\n")
    assert upscaler(picture).height == 256


@pytest.mark.parametrize(
    ("free", "kept", "pixels"),
    [
        (2**30, 0, 2**29 // 6400),
        (2**30, 2**30, 2**30 // 6400),  # what torch keeps is free to it
        (2**42, 0, (2**31 - 1) // (24 * 16)),  # kernels count in 32 bits
    ],
)
def test_the_free_memory_of_a_gpu_decides_the_tiles(
    weights: str, monkeypatch: pytest.MonkeyPatch, free: int, kept: int, pixels: int
) -> None:
    upscaler = Upscaler(weights=weights, backend="torch", device="cpu", precision="fp32")
    monkeypatch.setattr(upscaler, "device", torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 2**43))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: kept + 10**6)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 10**6)
    planned: list[int] = []

    def plan(*arguments: Any, max_pixels: int, **options: Any) -> None:
        planned.append(max_pixels)

    monkeypatch.setattr("lowvis_pan.predict.stream_tiled", plan)
    upscaler(Picture(photo(8, 8)))
    assert planned == [pixels]


def test_values_that_are_not_finite_are_an_error_and_no_black_picture(
    weights: str, tmp_path: Any
) -> None:
    network = PAN(PANConfig(scale=4))
    load_weights(network, weights)
    with torch.no_grad():
        network.conv_last.weight.fill_(3e38)
    save_weights_file(tmp_path / "huge.safetensors", network.state_dict(), {"feature_limit": "8"})
    broken = Upscaler(
        weights=tmp_path / "huge.safetensors", backend="torch", precision="bf16", guard=False
    )
    with pytest.raises(InputError, match="not finite"):
        broken(photo(8, 8))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scale": 5}, UsageError, "2, 3 and 4"),
        ({"tile": 3}, UsageError, "too small"),
        ({"tile": -64}, UsageError, "too small"),
        ({"backend": "tensorflow"}, UsageError, "tensorflow"),
        ({"precision": "fp8"}, UsageError, "fp8"),
        ({"precision": "fp16", "device": "cpu"}, DeviceError, "fp16"),
        ({"device": "cuda:9"}, DeviceError, "cuda:9"),
        ({"weights": "missing.pth"}, WeightsError, "missing.pth"),
    ],
)
def test_bad_options_are_refused_when_it_is_opened(
    weights: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Upscaler(**{"weights": weights, **options})


def test_upscale_is_one_call(weights: str) -> None:
    picture = Picture(photo(8, 10))
    result = upscale(picture, weights=weights, device="cpu")
    assert isinstance(result, Picture)
    assert result.pixels.shape == (32, 40, 3)


@pytest.mark.parametrize("dtype", FULL_RANGE)
def test_comparison_shows_both_halves(dtype: Any) -> None:
    picture = make_picture(6, 9, dtype=dtype, alpha=True)
    before, after = bicubic_upscale(picture, 4), bicubic_upscale(picture, 4)
    sides = comparison(before, after)
    assert sides.pixels.shape == (24, 2 * 36 + 2, 3)
    assert np.array_equal(sides.pixels[:, :36], before.pixels)
    assert np.array_equal(sides.pixels[:, -36:], after.pixels)
    assert (sides.pixels[:, 36:38] == FULL_RANGE[dtype]).all()
    assert sides.alpha is not None
