"""Figures of pictures whose original is known: of which pixels, and means of what."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from lowvis_classsr.evaluate import NOISE_SEED, SIDES, ReducedPair, measure, stand_ins, summarize
from lowvis_classsr.predict import Report, Upscaler
from lowvis_shared.assets import dataset_files
from lowvis_shared.errors import InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.resize import imresize
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import photo
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GivenPair:
    """Two pictures that are at hand."""

    name: str
    low: Pixels
    high: Pixels

    def read(self) -> tuple[Pixels, Pixels]:
        return self.low, self.high


@pytest.fixture(scope="module")
def upscaler(weights: Path) -> Upscaler:
    return Upscaler(weights=weights, path="routed", precision="fp32", device="cpu", tile=16)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a photograph of 150x100 pixels."""
    write_image(Picture(photo(100, 150)), tmp_path / "sea.png")
    return tmp_path / "sea.png"


# --- photographs reduced --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "scale", "low", "high"),
    [
        (90, 4, (15, 22), (60, 88)),  # 60x90
        (75, 4, (12, 18), (48, 72)),  # 50x75
        (75, 2, (25, 37), (50, 74)),
        (75, 1, (50, 75), (50, 75)),
        (500, 4, (25, 37), (100, 148)),  # it has 150, and stays as it is
    ],
)
def test_both_pictures_fit_each_other(
    large: Path, side: int, scale: int, low: tuple[int, int], high: tuple[int, int]
) -> None:
    pair = ReducedPair(large, side, scale)
    small, original = pair.read()
    assert pair.name == "sea"
    assert small.shape == (*low, 3)
    assert original.shape == (*high, 3)
    assert (small.dtype, original.dtype) == (np.uint8, np.uint8)


def test_upright_photographs_are_reduced_by_their_height(tmp_path: Path) -> None:
    write_image(Picture(photo(150, 100)), tmp_path / "tower.png")
    assert ReducedPair(tmp_path / "tower.png", 75, 1).read()[1].shape == (75, 50, 3)


def test_a_photograph_is_reduced_as_matlab_does_twice(large: Path) -> None:
    small, original = ReducedPair(large, 75, 4).read()
    expected = imresize(read_image(large).pixels, scale=0.5)[:48, :72]
    np.testing.assert_array_equal(original, expected)
    np.testing.assert_array_equal(small, imresize(expected, scale=1 / 4))


def test_noise_is_on_the_small_picture_alone_and_the_same_each_time(large: Path) -> None:
    clean, original = ReducedPair(large, 90, 1).read()
    np.testing.assert_array_equal(clean, original)
    pair = ReducedPair(large, 90, 1, noise=25)
    noisy, high = pair.read()
    np.testing.assert_array_equal(high, original)
    expected = clean + np.random.default_rng(NOISE_SEED).normal(0, 25, clean.shape)
    np.testing.assert_array_equal(noisy, np.clip(np.rint(expected), 0, 255))
    np.testing.assert_array_equal(pair.read()[0], noisy)


def test_a_photograph_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg"):
        ReducedPair(tmp_path / "gone.jpg", 75, 4).read()


# --- stand-ins ------------------------------------------------------------------------------------


def test_stand_ins_are_six_photographs_of_the_papers_sizes() -> None:
    names = [asset.name for asset in dataset_files("large")]
    for name in names:
        asset_path(name)
    for word, side in (("2k", 2048), ("4k", 4096)):
        pairs = stand_ins(word, offline=True)
        assert [f"large/{pair.path.name}" for pair in pairs] == names
        assert len(pairs) == 6
        assert {pair.side for pair in pairs} == {side} == {SIDES[word]}
        assert {pair.scale for pair in pairs} == {4}
    low, high = stand_ins("2k", offline=True)[1].read()
    assert 2045 <= max(high.shape) <= 2048
    assert tuple(4 * each for each in low.shape[:2]) == high.shape[:2]


def test_unknown_sets_and_missing_files_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no set '8k'") as caught:
        stand_ins("8k")
    assert caught.value.hint == "2k, 4k"
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path))
    with pytest.raises(WeightsError):
        stand_ins("2k", offline=True)


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 5])
def test_a_known_difference_has_its_psnr(upscaler: Upscaler, step: int) -> None:
    """Nothing within 4 pixels of the border counts."""
    low = photo(20, 30)
    output = upscaler(low)
    high = np.where(output > 128, output - step, output + step).astype(np.uint8)
    high[:4], high[-4:], high[:, :4], high[:, -4:] = 0, 255, 0, 255
    found = measure(upscaler, [GivenPair("a", low, high)])
    assert found.psnr == pytest.approx(20 * np.log10(255 / step), abs=1e-9)
    high[4, 4:-4] = 0
    assert measure(upscaler, [GivenPair("a", low, high)]).psnr < found.psnr - 1


def test_figures_of_a_set_are_means_over_its_pictures(upscaler: Upscaler) -> None:
    pairs: list[GivenPair] = []
    for name, (height, width) in {"a": (20, 30), "b": (64, 100), "c": (9, 9)}.items():
        high = photo(4 * height, 4 * width, seed=ord(name))
        pairs.append(GivenPair(name, imresize(high, scale=1 / 4), high))
    steps: list[tuple[int, int]] = []
    found = measure(upscaler, iter(pairs), progress=lambda done, of: steps.append((done, of)))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert [name for name, _, _ in found.per_image] == ["a", "b", "c"]
    reports = [report for _, _, report in found.per_image]
    for pair, (_, psnr, report) in zip(pairs, found.per_image, strict=True):
        output, again = upscaler.run(Picture(pair.low))
        error = np.mean((output.pixels[4:-4, 4:-4] - pair.high[4:-4, 4:-4].astype(float)) ** 2)
        assert psnr == pytest.approx(10 * np.log10(255**2 / error), abs=1e-9)
        assert (report.macs, report.shares) == (again.macs, again.shares)
    assert found.psnr == pytest.approx(np.mean([psnr for _, psnr, _ in found.per_image]))
    assert found.share == pytest.approx(np.mean([each.macs / each.full_macs for each in reports]))
    assert found.paper_share == pytest.approx(np.mean([each.paper_share for each in reports]))
    assert found.shares == pytest.approx(np.mean([each.shares for each in reports], axis=0))
    assert found.seconds == pytest.approx(sum(each.seconds for each in reports))


def test_a_set_without_pictures_is_refused(upscaler: Upscaler) -> None:
    with pytest.raises(UsageError, match="no pictures"):
        measure(upscaler, [])


def test_a_mean_is_of_pictures_and_not_of_pixels() -> None:
    reports = [
        Report(
            path="routed",
            precision="fp32",
            shares=shares,
            macs=macs,
            full_macs=full,
            branch_share=paper,
            paper_share=paper,
            seconds=1.0,
        )
        for shares, macs, full, paper in (
            ((1.0, 0.0), 5.0, 10.0, 0.4),
            ((0.0, 1.0), 900.0, 1000.0, 1.0),
        )
    ]
    found = summarize([("a", 20.0, reports[0]), ("b", 30.0, reports[1])])
    assert (found.psnr, found.share, found.seconds) == (25, pytest.approx(0.7), 2)
    assert found.shares == (0.5, 0.5)
    assert found.paper_share == pytest.approx(0.7)
