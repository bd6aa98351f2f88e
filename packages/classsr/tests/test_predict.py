"""Pictures of any size and kind, upscaled without seams, at a cost that is kept and told."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_classsr.branches import Margins
from lowvis_classsr.data import edge_map
from lowvis_classsr.fast import FastBranch
from lowvis_classsr.model import ClassSR, ClassSRConfig
from lowvis_classsr.predict import Report, Upscaler
from lowvis_classsr.router import Route
from lowvis_classsr.weights import open_weights
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.device import Precision
from lowvis_shared.errors import DeviceError, InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, to_array, to_tensor
from lowvis_shared.resize import imresize
from lowvis_shared.testing.pictures import make_picture, photo
from numpy.typing import NDArray
from torch import Tensor, nn

MakeWeights = Callable[..., Path]
FULL: dict[type[np.generic], int] = {np.uint8: 255, np.uint16: 65535, np.float32: 1}

FSRCNN_MACS = tuple(342.0 * width + 5184 for width in (16, 36, 56))
FSRCNN_TAIL_MACS = tuple(243.0 * width for width in (16, 36, 56))
"""Of a pixel: 5x5x3, 12 and 12 channels and a kernel of 9x9x3 for each of d, and four 3x3x12x12."""

FSRCNN_PAPER_MACS = tuple((99 + 16 * 243.0) * width + 5184 for width in (16, 36, 56))

CLASSIFIER_MACS = (48 * 128 + 3 * 128 * 128 + 128 * 32) / 16 + 32 * 3 / 32**2
"""Of a pixel: five layers on blocks of 16 pixels, and one on a patch of 32x32."""


def shaded(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture that rises from dark on the left to bright: all classes by brightness."""
    ramp = np.linspace(0.1, 0.9, width)[None, :, None]
    values = photo(height, width, seed=seed) / 255 * 0.3 - 0.15 + ramp
    return np.rint(values * 255).astype(np.uint8)


def as_float(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return pixels.astype(np.float32) / np.float32(255)


def brightness_classes(pixels: NDArray[np.uint8], cell: int = 8) -> NDArray[np.int64]:
    """Class of each cell by its mean, which is all that the test's Class-Module sees."""
    image = as_float(pixels)
    rows, columns = -(-pixels.shape[0] // cell), -(-pixels.shape[1] // cell)
    classes = np.zeros((rows, columns), np.int64)
    for row, column in np.ndindex(rows, columns):
        top, left = row * cell, column * cell
        mean = image[top : top + cell, left : left + cell].mean()
        classes[row, column] = int(mean > 1 / 3) + int(mean > 2 / 3)
    return classes


def outputs_of(weights: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """What each branch by itself makes of a whole picture, in 0..1."""
    network = open_weights(weights).network
    with torch.inference_mode():
        return [
            to_array(branch(to_tensor(Picture(pixels))).clamp(0, 1)) for branch in network.branches
        ]


def macs_of(routes: Sequence[Route], height: int, width: int) -> float:
    """Multiply-accumulates of FSRCNN: its last layer computes one pixel of context."""
    total = 0.0
    for route in routes:
        core = route.tile.core_rows, route.tile.core_columns
        near = [
            min(each.stop + 1, size) - max(each.start - 1, 0)
            for each, size in zip(core, (height, width), strict=True)
        ]
        tail = FSRCNN_TAIL_MACS[route.index]
        total += route.tile.pixels * (FSRCNN_MACS[route.index] - tail) + near[0] * near[1] * tail
    return total


class Steps(list[tuple[int, int]]):
    """What was told of the progress."""

    def note(self, done: int, total: int) -> None:
        self.append((done, total))


def watch_branches(monkeypatch: pytest.MonkeyPatch, note: Callable[[Tensor], None]) -> None:
    """Let a function see all that reaches a branch; it may raise an error."""
    forward = FastBranch.forward

    def watched(self: FastBranch, image: Tensor, margins: Margins) -> Tensor:
        note(image)
        return forward(self, image, margins)

    monkeypatch.setattr(FastBranch, "forward", watched)


@pytest.fixture(scope="module")
def routed(weights: Path) -> Upscaler:
    return Upscaler(weights=weights, path="routed", precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def whole(weights: Path) -> Upscaler:
    return Upscaler(weights=weights, path="whole", precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def at_budget(weights: Path) -> Callable[[float], Upscaler]:
    def make(budget: float, **options: Any) -> Upscaler:
        known: dict[str, Any] = {"precision": "fp32", "device": "cpu", "tile": 64}
        return Upscaler(weights=weights, budget=budget, **(known | options))

    return make


# --- what comes out -------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["routed", "whole", "auto"]))
@settings(max_examples=40, deadline=None)
def test_any_size_comes_out_exactly_scaled(
    every_way: dict[str, Upscaler], height: int, width: int, path: str
) -> None:
    upscaler = every_way[path]
    pixels = shaded(height, width)
    result, report = upscaler.run(Picture(pixels))
    assert result.pixels.shape == (4 * height, 4 * width, 3)
    # All of it was written: the branches change a picture little.
    away = np.abs(imresize(as_float(result.pixels), scale=1 / 4) - as_float(pixels))
    assert float(away.mean()) < 0.2
    assert sum(report.shares) == pytest.approx(1)


@pytest.fixture(scope="module")
def every_way(weights: Path, routed: Upscaler, whole: Upscaler) -> dict[str, Upscaler]:
    auto = Upscaler(weights=weights, precision="fp32", device="cpu")
    return {"routed": routed, "whole": whole, "auto": auto}


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_other_scales_come_out_exactly_scaled(make_weights: MakeWeights, scale: int) -> None:
    weights = make_weights(ClassSRConfig(widths=(4, 6, 8), scale=scale))
    pixels = shaded(21, 35)
    expected = outputs_of(weights, pixels)[-1]
    assert expected.shape == (21 * scale, 35 * scale, 3)
    result = Upscaler(weights=weights, path="whole", precision="fp32")(as_float(pixels))
    assert np.abs(result - expected).max() < 1e-5
    assert Upscaler(weights=weights, path="routed")(pixels).shape == expected.shape


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("path", ["routed", "whole"])
def test_depth_gray_alpha_and_metadata_stay(
    every_way: dict[str, Upscaler], path: str, dtype: type[np.generic], gray: bool, alpha: bool
) -> None:
    made = make_picture(9, 12, dtype=dtype, gray=gray, alpha=alpha)
    picture = Picture(
        made.pixels, made.alpha, gray, icc_profile=b"profile", exif=b"Exif", format="WebP"
    )
    result = every_way[path](picture)
    assert result.pixels.shape == (36, 48, 3)
    assert result.pixels.dtype == dtype
    assert (result.gray, result.format) == (gray, "WebP")
    assert (result.icc_profile, result.exif) == (b"profile", b"Exif")
    if gray:
        assert np.array_equal(result.pixels[..., 0], result.pixels[..., 1])
        assert np.array_equal(result.pixels[..., 0], result.pixels[..., 2])
    if picture.alpha is None or result.alpha is None:
        assert not alpha
    else:
        expected = np.clip(imresize(picture.alpha, scale=4), 0, FULL[dtype])
        assert np.array_equal(result.alpha, expected)


@pytest.mark.parametrize("dtype", FULL)
def test_an_array_gives_an_array_of_its_type(routed: Upscaler, dtype: type[np.generic]) -> None:
    pixels = (as_float(shaded(9, 40)) * FULL[dtype]).astype(dtype)
    result = routed(pixels)
    assert result.dtype == dtype
    assert np.array_equal(result, routed(Picture(pixels)).pixels)


def test_sixteen_bits_are_sixteen_bits(routed: Upscaler) -> None:
    pixels = shaded(24, 48)
    fine, coarse = routed(pixels.astype(np.uint16) * 257), routed(pixels).astype(int) * 257
    assert np.abs(fine - coarse).max() <= 129  # half a step of 8 bits
    assert len(np.unique(fine)) > 256


def test_float_values_outside_the_range_are_clipped(routed: Upscaler) -> None:
    pixels = as_float(shaded(12, 20)) * 1.5 - 0.2
    assert np.array_equal(routed(pixels), routed(np.clip(pixels, 0, 1)))


# --- tiles have no seams --------------------------------------------------------------------------


def test_the_whole_picture_is_the_original_networks(whole: Upscaler, weights: Path) -> None:
    pixels = shaded(40, 60)
    expected = outputs_of(weights, pixels)[-1]
    assert np.abs(whole(as_float(pixels)) - expected).max() < 1e-5
    assert np.abs(whole(pixels) - expected * 255).max() < 0.501


@pytest.mark.parametrize("size", [(64, 160), (61, 101), (7, 90)])
@pytest.mark.parametrize("tile", [8, 32, "auto"])
def test_every_tile_is_what_its_branch_makes_of_the_whole(
    weights: Path, tile: Any, size: tuple[int, int]
) -> None:
    """Context is true: the test's networks look 3 pixels far, and tiles are read with 4."""
    pixels = shaded(*size)
    upscaler = Upscaler(weights=weights, path="routed", tile=tile, precision="fp32")
    result, report = upscaler.run(Picture(as_float(pixels)))
    assert len({route.index for route in report.routes}) > 1
    expected = np.full_like(result.pixels, np.nan)
    outputs = outputs_of(weights, pixels)
    for route in report.routes:
        rows, columns = (
            slice(4 * each.start, 4 * each.stop)
            for each in (route.tile.core_rows, route.tile.core_columns)
        )
        expected[rows, columns] = outputs[route.index][rows, columns]
    assert np.abs(result.pixels - expected).max() < 1e-5
    # That is no small thing here: the branches are far apart, and so are zeros around a tile.
    assert np.abs(outputs[0] - outputs[1]).mean() > 0.01
    assert np.abs(outputs[1] - outputs[2]).mean() > 0.01


def test_zeros_around_tiles_would_be_seen(weights: Path) -> None:
    """The test above has something to find: this is what the authors' patches look like."""
    pixels = shaded(16, 40)
    expected = outputs_of(weights, pixels)[-1][:, 32:64]
    alone = outputs_of(weights, pixels[:, 8:16])[-1]
    assert np.abs(alone - expected).max() > 0.05


@pytest.mark.parametrize(("value", "index"), [(0.1, 0), (0.5, 1), (0.9, 2)])
def test_a_picture_of_one_class_is_that_branchs(
    weights: Path, routed: Upscaler, value: float, index: int
) -> None:
    pixels = np.rint((as_float(photo(150, 170)) * 0.2 + value - 0.1) * 255).astype(np.uint8)
    result, report = routed.run(Picture(as_float(pixels)))
    assert [share == 1 for share in report.shares].index(True) == index
    assert len(report.routes) == 4  # 128 and the rest, both ways
    assert np.abs(result.pixels - outputs_of(weights, pixels)[index]).max() < 1e-5
    eight = routed(pixels).astype(int)
    assert np.abs(eight - np.rint(outputs_of(weights, pixels)[index] * 255)).max() <= 1


def test_cells_get_the_branch_of_their_brightness(routed: Upscaler) -> None:
    pixels = shaded(40, 130)
    classes = brightness_classes(pixels)
    _, report = routed.run(Picture(pixels))
    for route in report.routes:
        rows, columns = (
            slice(each.start // 8, -(-each.stop // 8))
            for each in (route.tile.core_rows, route.tile.core_columns)
        )
        assert classes[rows, columns].max() == route.index
    exact = Upscaler(weights=routed.weights.path, path="routed", tile=8)
    _, report = exact.run(Picture(pixels))
    assert len(report.routes) == classes.size
    for route in report.routes:
        place = route.tile.core_rows.start // 8, route.tile.core_columns.start // 8
        assert classes[place] == route.index


def test_cells_are_the_patches_of_the_training(make_weights: MakeWeights) -> None:
    upscaler = Upscaler(weights=make_weights(patch="16"), path="routed", tile=16)
    _, report = upscaler.run(Picture(shaded(40, 64)))
    assert sorted({route.tile.core_rows.start for route in report.routes}) == [0, 16, 32]
    assert len(report.routes) == 12


def test_tiles_are_never_smaller_than_the_patches(make_weights: MakeWeights) -> None:
    """Also where patches are larger than tiles are by default."""
    weights = make_weights(patch="160")
    assert Upscaler(weights=weights, path="routed")(shaded(12, 170)).shape == (48, 680, 3)
    with pytest.raises(UsageError, match="smaller than a patch"):
        Upscaler(weights=weights, tile=128)


def test_patches_larger_than_a_strip_are_judged(make_weights: MakeWeights) -> None:
    upscaler = Upscaler(weights=make_weights(patch="1200"), path="routed")
    _, report = upscaler.run(Picture(shaded(1, 1300)))
    assert len(report.routes) == 2


def test_the_original_network_may_come_in_tiles_too(
    tmp_path: Path, filled: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an FSRCNN that looks as far as it can: 7 pixels."""
    network = filled(ClassSR(ClassSRConfig(widths=(4, 6, 8))))
    save_weights_file(tmp_path / "a.safetensors", network.state_dict(), {})
    upscaler = Upscaler(weights=tmp_path / "a.safetensors", path="whole", precision="fp32")
    pixels = as_float(shaded(50, 130))
    calls = Steps()
    expected = upscaler.run(Picture(pixels), progress=calls.note)[0].pixels
    assert len(calls) == 1
    monkeypatch.setattr("lowvis_classsr.predict._WHOLE_PIXELS", 4000)
    tiled, report = upscaler.run(Picture(pixels), progress=calls.note)
    assert len(calls) == 1 + 2
    assert calls[-1] == (6500, 6500)
    assert np.abs(tiled.pixels - expected).max() < 1e-5
    assert report.share == pytest.approx((6500 + 50 * 2 * 7) / 6500)  # context is counted


def test_the_same_again_is_the_same(routed: Upscaler) -> None:
    pixels = shaded(61, 101)
    assert np.array_equal(routed(pixels), routed(pixels))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_windows_are_computed_side_by_side(
    routed: Upscaler, weights: Path, threads: Callable[[int], None], count: int
) -> None:
    image = shaded(40, 100)
    expected = routed(image)
    threads(count)
    watched: set[int] = set()
    upscaler = Upscaler(weights=weights, path="routed", device="cpu", precision="fp32")
    run = upscaler._run_branch

    def watch(branch: FastBranch, windows: Tensor, margins: Margins) -> Tensor:
        watched.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        return run(branch, windows, margins)

    upscaler._run_branch = watch  # type: ignore[method-assign]
    np.testing.assert_array_equal(upscaler(image), expected)
    assert torch.get_num_threads() == count
    assert (threading.get_ident() in watched) == (count == 1)


def test_an_error_in_a_thread_is_raised(
    weights: Path, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(2)
    upscaler = Upscaler(weights=weights, path="routed", device="cpu", precision="fp32")
    monkeypatch.setattr(FastBranch, "forward", lambda _, image, __: image * float("nan"))
    with pytest.raises(InputError, match="not finite"):
        upscaler(shaded(40, 100))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("pixels_of_a_call", [1, 700, 10**9])
def test_how_many_tiles_run_together_changes_nothing(
    weights: Path, monkeypatch: pytest.MonkeyPatch, pixels_of_a_call: int
) -> None:
    pixels = as_float(shaded(61, 101))
    options: dict[str, Any] = {"path": "routed", "precision": "fp32", "device": "cpu", "tile": 16}
    expected = Upscaler(weights=weights, **options)(pixels)
    monkeypatch.setattr("lowvis_classsr.predict._BATCH_PIXELS", {"cpu": pixels_of_a_call})
    batches: list[int] = []
    watch_branches(monkeypatch, lambda windows: batches.append(len(windows)))
    result = Upscaler(weights=weights, **options)(pixels)
    assert np.abs(result - expected).max() < 1e-5
    if pixels_of_a_call == 1:
        assert max(batches) == 1
    else:
        assert max(batches) > 1


# --- cost and what is told of it ------------------------------------------------------------------


def test_costs_are_those_of_windows_and_of_judging(weights: Path, whole: Upscaler) -> None:
    pixels = shaded(61, 180)
    area = 61 * 180
    _, report = Upscaler(weights=weights, path="routed", tile=16).run(Picture(pixels))
    assert report.full_macs == pytest.approx(FSRCNN_MACS[-1] * area, rel=1e-9)
    expected = macs_of(report.routes, 61, 180) + CLASSIFIER_MACS * area
    assert report.macs == pytest.approx(expected, rel=1e-9)
    assert report.share == pytest.approx(expected / (FSRCNN_MACS[-1] * area), rel=1e-9)
    areas = [
        sum(np.prod(each.tile.core_size) for each in report.routes if each.index == index)
        for index in range(3)
    ]
    assert report.shares == pytest.approx([each / area for each in areas])
    assert min(report.shares) > 0.1
    paper = sum(s * macs for s, macs in zip(report.shares, FSRCNN_PAPER_MACS, strict=True))
    assert report.paper_share == pytest.approx(paper / FSRCNN_PAPER_MACS[-1], rel=1e-9)
    true = np.array(report.shares) @ np.array(FSRCNN_MACS)
    assert report.branch_share == pytest.approx(true / FSRCNN_MACS[-1], rel=1e-9)
    assert report.seconds > 0

    _, report = whole.run(Picture(pixels))
    assert report.macs == report.full_macs == pytest.approx(FSRCNN_MACS[-1] * area, rel=1e-9)
    assert (report.share, report.paper_share, report.shares) == (1, 1, (0, 0, 1))
    assert (report.path, report.routes) == ("whole", ())


def test_a_router_without_learning_costs_nothing_and_counts_edges(weights: Path) -> None:
    pixels = np.full((32, 72, 3), 128, np.uint8)
    pixels[:, 24:48] += photo(32, 24) // 8
    pixels[:, 48:] = photo(32, 24, seed=1)
    pixels[::2, 48:] = 0
    upscaler = Upscaler(weights=weights, router="edges", path="routed", tile=8)
    _, report = upscaler.run(Picture(pixels))
    edges = edge_map(as_float(pixels))
    for route in report.routes:
        score = float(edges[route.tile.core_rows, route.tile.core_columns].mean())
        assert route.index == int(score > 0.02) + int(score > 0.06)
    assert min(report.shares) > 0
    assert report.macs == pytest.approx(macs_of(report.routes, 32, 72), rel=1e-9)


def test_a_report_says_what_happened(
    routed: Upscaler, whole: Upscaler, make_weights: MakeWeights
) -> None:
    said = routed.run(Picture(shaded(32, 160)))[1].describe()
    for word in ("simple", "medium", "hard", "GMAC", "% of the original", "s in fp32", "the paper"):
        assert word in said
    said = whole.run(Picture(shaded(32, 160)))[1].describe()
    assert said.startswith("the whole picture by the original network; 0.1 GMAC, 100% of")
    assert "simple" not in said
    report = Report(
        path="routed",
        precision="bf16",
        shares=(0.25, 0.75),
        macs=3e9,
        full_macs=4e9,
        branch_share=0.7,
        paper_share=0.5,
        seconds=1.5,
    )
    assert report.describe() == (
        "25% class 1, 75% class 2; 3.0 GMAC, 75% of the original network's (as the paper counts: "
        "50%); 1.50 s in bf16"
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_any_number_of_classes_is_routed(
    tmp_path: Path, filled: Callable[[nn.Module], nn.Module], classes: int
) -> None:
    network = filled(ClassSR(ClassSRConfig(widths=(4, 6, 8, 10)[:classes])))
    save_weights_file(tmp_path / "a.safetensors", network.state_dict(), {"patch": "8"})
    _, report = Upscaler(weights=tmp_path / "a.safetensors", path="routed").run(
        Picture(photo(48, 64))
    )
    assert len(report.shares) == classes
    assert sum(report.shares) == pytest.approx(1)


@given(st.floats(0.62, 1.0), st.integers(0, 3), st.integers(30, 80), st.integers(30, 120))
@settings(max_examples=25, deadline=None)
def test_a_budget_is_kept(
    at_budget: Callable[..., Upscaler], budget: float, seed: int, height: int, width: int
) -> None:
    pixels = shaded(height, width, seed)
    _, report = at_budget(budget).run(Picture(pixels))
    least = at_budget(0, path="routed")
    assert budget == 1 or report.path == "routed"
    if report.share > budget:  # then nothing less could be had
        cheapest = least.plan(to_tensor(Picture(pixels)))[1]
        assert report.macs == pytest.approx(cheapest + CLASSIFIER_MACS * height * width)


def test_more_budget_costs_more_and_asks_harder_branches(
    at_budget: Callable[..., Upscaler],
) -> None:
    pixels = shaded(64, 200)
    reports = [at_budget(each).run(Picture(pixels))[1] for each in (0.5, 0.68, 0.75, 0.85, 0.95)]
    for report, budget in zip(reports[1:], (0.68, 0.75, 0.85, 0.95), strict=True):
        assert report.share <= budget
        assert report.share > budget - 0.1  # it is used
    for less, more in pairwise(reports):
        assert less.macs < more.macs
        assert less.shares[0] >= more.shares[0]


def test_a_budget_beyond_what_the_classes_ask_for_is_spent(
    at_budget: Callable[..., Upscaler], weights: Path
) -> None:
    natural = Upscaler(weights=weights, path="routed", tile=64, precision="fp32", device="cpu")
    dark = Picture(shaded(64, 200) // 4)
    assert natural.run(dark)[1].shares == (1, 0, 0)
    assert at_budget(0.95).run(dark)[1].shares[0] < 0.8
    mixed = Picture(shaded(64, 200) // 2)
    asked = natural.run(mixed)[1]
    assert asked.share < 0.99
    assert at_budget(asked.share + 1e-6).run(mixed)[1].macs >= asked.macs


@pytest.mark.parametrize("router", ["classifier", "edges"])
@pytest.mark.parametrize("budget", [0, 0.3])
def test_a_budget_below_the_floor_is_said_with_the_floor(
    at_budget: Callable[..., Upscaler],
    caplog: pytest.LogCaptureFixture,
    budget: float,
    router: str,
) -> None:
    upscaler = at_budget(budget, router=router)
    with caplog.at_level(logging.WARNING, "lowvis"):
        _, report = upscaler.run(Picture(shaded(48, 64)))
    assert report.shares == (1, 0, 0)
    assert f"costs {100 * report.share:.0f} %" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lowvis"):
        at_budget(0.9, router=router)(shaded(48, 64))
    assert caplog.text == ""


@pytest.mark.parametrize("path", ["auto", "routed"])
def test_all_the_budget_buys_the_original(
    at_budget: Callable[..., Upscaler], whole: Upscaler, path: str
) -> None:
    pixels = as_float(shaded(30, 60))
    result, report = at_budget(1, path=path).run(Picture(pixels))
    assert (report.path, report.share) == ("whole", 1)
    assert np.array_equal(result.pixels, whole(pixels))


def test_edges_can_be_given_a_budget(at_budget: Callable[..., Upscaler]) -> None:
    _, report = at_budget(0.7, router="edges").run(Picture(shaded(64, 200)))
    assert 0.6 < report.share <= 0.7


# --- which way ------------------------------------------------------------------------------------


def test_a_small_picture_takes_the_way_of_fewer_multiplications(weights: Path) -> None:
    upscaler = Upscaler(weights=weights, precision="fp32", device="cpu")
    dark, bright = np.full((40, 60, 3), 20, np.uint8), np.full((40, 60, 3), 240, np.uint8)
    assert upscaler.run(Picture(dark))[1].path == "routed"
    result, report = upscaler.run(Picture(bright))
    assert report.path == "whole"
    # It was judged before.
    assert report.macs == pytest.approx((FSRCNN_MACS[-1] + CLASSIFIER_MACS) * 2400, rel=1e-9)
    assert np.array_equal(
        result.pixels, Upscaler(weights=weights, path="whole", precision="fp32")(bright)
    )


def test_a_larger_picture_takes_the_way_that_is_faster(
    weights: Path, routed: Upscaler, whole: Upscaler
) -> None:
    upscaler = Upscaler(weights=weights, precision="fp32", device="cpu")
    pixels = shaded(120, 180)
    result, report = upscaler.run(Picture(pixels))
    expected = {"routed": routed, "whole": whole}[report.path]
    assert np.array_equal(result.pixels, expected(pixels))
    assert np.array_equal(upscaler(pixels), result.pixels)  # measured once


class Rates(NamedTuple):
    """Seconds for a pixel, as measured: the machine decides them, so the tests below do."""

    branches: NDArray[np.float64]
    whole: float


@pytest.mark.parametrize(("slowness", "path"), [(0.5, "routed"), (10.0, "whole")])
def test_measured_rates_decide(
    weights: Path, monkeypatch: pytest.MonkeyPatch, slowness: float, path: str
) -> None:
    rates = Rates(np.array([slowness] * 3), 1.0)
    upscaler = Upscaler(weights=weights, precision="fp32", device="cpu")
    monkeypatch.setattr(upscaler, "_rate", {torch.float32: rates}.__getitem__)
    assert upscaler.run(Picture(shaded(120, 180)))[1].path == path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_precision_asked_for_is_obeyed_and_near(weights: Path, dtype: type[np.generic]) -> None:
    pixels = (shaded(30, 60).astype(np.uint32) * (FULL[dtype] // 255)).astype(dtype)
    results: list[NDArray[Any]] = []
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        upscaler = Upscaler(weights=weights, path="routed", precision=precision, device="cpu")
        result, report = upscaler.run(Picture(pixels))
        assert report.precision == precision
        results.append(result.pixels.astype(np.float64) / FULL[dtype])
    error = np.abs(results[0] - results[1])
    assert 0 < error.mean() < 0.003
    assert error.max() < 0.03


@pytest.mark.parametrize("dtype", FULL)
def test_by_itself_nothing_small_or_deep_is_computed_in_half_precision(
    weights: Path, dtype: type[np.generic]
) -> None:
    upscaler = Upscaler(weights=weights, device="cpu")
    assert upscaler.run(make_picture(9, 12, dtype=dtype))[1].precision == "fp32"
    if dtype != np.uint8:
        assert upscaler.run(make_picture(120, 180, dtype=dtype))[1].precision == "fp32"


def test_half_precision_is_taken_where_it_is_faster(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = (Rates(np.full(3, each), each) for each in (2.0, 1.0))
    monkeypatch.setattr("lowvis_shared.device._cpu_has_native_bf16", lambda: True)
    upscaler = Upscaler(weights=weights, path="whole", device="cpu")
    rates = {torch.float32: slow, torch.bfloat16: fast}
    monkeypatch.setattr(upscaler, "_rate", rates.__getitem__)
    picture = make_picture(120, 180)
    assert upscaler.run(picture)[1].precision == "bf16"
    rates[torch.bfloat16] = slow
    assert upscaler.run(picture)[1].precision == "fp32"


def test_progress_ends_at_the_whole(weights: Path) -> None:
    for path in ("routed", "whole"):
        seen = Steps()
        upscaler = Upscaler(weights=weights, path=path, tile=8, device="cpu")
        upscaler.run(Picture(shaded(40, 60)), progress=seen.note)
        assert seen == sorted(seen)
        assert seen[-1] == (2400, 2400)


# --- what goes wrong ------------------------------------------------------------------------------


def limit(monkeypatch: pytest.MonkeyPatch, most: int, failures: list[int]) -> None:
    """Let memory run out for more input pixels at once, all pictures of a batch together."""

    def note(windows: Tensor) -> None:
        if windows[:, 0].numel() > most:
            failures.append(len(windows))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    watch_branches(monkeypatch, note)


def test_out_of_memory_halves_the_batch_and_goes_on(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaler = Upscaler(weights=weights, path="routed", precision="fp32", device="cpu", tile=16)
    pixels = as_float(shaded(61, 101))
    expected = upscaler(pixels)
    failures: list[int] = []
    limit(monkeypatch, 24 * 24 * 3, failures)
    seen = Steps()
    result, report = upscaler.run(Picture(pixels), progress=seen.note)
    assert failures
    assert min(failures) > 3  # no smaller than need be
    assert np.abs(result.pixels - expected).max() < 1e-5
    assert seen[-1] == (61 * 101, 61 * 101)
    assert sum(report.shares) == pytest.approx(1)


def test_not_even_one_tile_is_a_device_error(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaler = Upscaler(weights=weights, path="routed", precision="fp32", device="cpu", tile=32)
    failures: list[int] = []
    limit(monkeypatch, 10, failures)
    with pytest.raises(DeviceError, match=r"out of memory for the tile of rows .*CUDA") as caught:
        upscaler(shaded(64, 64))
    assert failures[-1] == 1
    assert "--tile below 32" in (caught.value.hint or "")


def test_out_of_memory_divides_the_whole_picture(
    whole: Upscaler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = as_float(shaded(60, 90))
    expected = whole(pixels)
    failures: list[int] = []
    limit(monkeypatch, 50 * 50, failures)
    with caplog.at_level(logging.WARNING, "lowvis"):
        assert np.abs(whole(pixels) - expected).max() < 1e-5
    assert failures
    assert "out of memory" in caplog.text


def test_other_errors_are_not_taken_for_memory(
    routed: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(windows: Tensor) -> None:
        raise RuntimeError("the cable is loose")

    watch_branches(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="the cable is loose"):
        routed(shaded(16, 16))


@pytest.mark.parametrize("path", ["routed", "whole"])
def test_values_that_are_not_finite_are_an_error_and_no_black_picture(
    tmp_path: Path, path: Any
) -> None:
    torch.manual_seed(0)
    network = ClassSR()
    for branch in network.branches:
        for parameter in branch.parameters():
            torch.nn.init.constant_(parameter, 1e30)
    save_weights_file(tmp_path / "huge.safetensors", network.state_dict(), {})
    with pytest.raises(InputError, match="not finite"):
        Upscaler(weights=tmp_path / "huge.safetensors", path=path)(photo(8, 8))


def test_a_result_too_large_for_memory_is_refused_before_work(routed: Upscaler) -> None:
    """And before its float form is made, which is too large by itself."""
    picture = Picture(np.broadcast_to(np.uint8(9), (60_000, 60_000, 3)))
    with pytest.raises(InputError, match=r"240000x240000 pixels takes .* GiB"):
        routed(picture)


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
def test_arrays_that_are_no_picture_are_refused(routed: Upscaler, pixels: NDArray[Any]) -> None:
    with pytest.raises(InputError):
        routed(pixels)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"router": "psychic"}, UsageError, "psychic"),
        ({"path": "scenic"}, UsageError, "scenic"),
        ({"budget": -0.1}, UsageError, "share between 0 and 1"),
        ({"budget": 1.5}, UsageError, "share between 0 and 1"),
        ({"budget": float("nan")}, UsageError, "share between 0 and 1"),
        ({"budget": 0.5, "path": "whole"}, UsageError, "no budget"),
        ({"tile": 7}, UsageError, "7 pixels"),
        ({"tile": 0}, UsageError, "0 pixels"),
        ({"tile": -64}, UsageError, "-64 pixels"),
        ({"precision": "fp8"}, UsageError, "fp8"),
        ({"precision": "fp16", "device": "cpu"}, DeviceError, "fp16"),
        ({"device": "cuda:9"}, DeviceError, "cuda:9"),
        ({"network": "edsr"}, UsageError, "edsr"),
        ({"weights": "missing.pth"}, WeightsError, "missing.pth"),
        ({"weights": "official", "network": "rcan"}, WeightsError, "no program can fetch"),
        ({"weights": "own", "network": "rcan"}, WeightsError, "no weights of ClassSR-RCAN"),
    ],
)
def test_bad_options_are_refused_when_it_is_opened(
    weights: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    known: dict[str, Any] = {"weights": weights}
    with pytest.raises(error, match=message):
        Upscaler(**(known | options))


@pytest.mark.parametrize("stated", ["", "0.01", "0.01 0.02 0.03"])
def test_edges_need_a_threshold_between_any_two_classes(
    make_weights: MakeWeights, stated: str
) -> None:
    weights = make_weights(edge_thresholds=stated)
    Upscaler(weights=weights)
    with pytest.raises(UsageError, match="says nothing of edges") as caught:
        Upscaler(weights=weights, router="edges")
    assert caught.value.hint == "--router classifier"


@pytest.mark.parametrize("stated", ["many", "0", "30", "-8", "8.0", ""])
def test_patches_that_cannot_be_are_an_error_of_the_file(
    make_weights: MakeWeights, stated: str
) -> None:
    with pytest.raises(WeightsError, match=f"patches of '{stated}' pixels"):
        Upscaler(weights=make_weights(patch=stated))
