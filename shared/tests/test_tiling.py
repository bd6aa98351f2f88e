import itertools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.errors import DeviceError, UsageError
from lowvis_shared.tiling import (
    Tile,
    minimum_tile,
    out_of_memory,
    plan_tiles,
    run_tiled,
    stream_tiled,
)
from torch import Tensor, nn


class Upsampler(nn.Module):
    """Convolutions, nearest upsampling with a convolution after it, and a bilinear skip."""

    def __init__(self, scale: int, depth: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(depth)
        channels = [2, *[4] * depth]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(channels)
        )
        self.last = nn.Conv2d(channels[-1], 3, 3, padding=1)
        self.scale = scale
        self.double()
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        # The last convolution runs on the upsampled map: its radius of 1 reaches one input pixel.
        self.radius = depth + 1

    def forward(self, image: Tensor) -> Tensor:
        features = image
        for convolution in self.convolutions:
            features = nn.functional.leaky_relu(convolution(features), 0.2)
        features = nn.functional.interpolate(features, scale_factor=self.scale, mode="nearest")
        skip = nn.functional.interpolate(
            image[:, :1], scale_factor=self.scale, mode="bilinear", align_corners=False
        )
        return self.last(features) + skip


def picture(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(1, 2, height, width, generator=generator, dtype=torch.float64)


# --- the result -----------------------------------------------------------------------------------


@torch.inference_mode()
@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    tile=st.one_of(st.integers(16, 80), st.just(0)),
    scale=st.integers(1, 3),
    depth=st.integers(1, 4),
    extra_halo=st.integers(0, 3),
)
def test_tiled_equals_whole(
    height: int, width: int, tile: int, scale: int, depth: int, extra_halo: int
) -> None:
    network = Upsampler(scale, depth)
    image = picture(height, width)
    tiled = run_tiled(network, image, scale=scale, tile=tile, halo=network.radius + extra_halo)
    assert tiled.shape == (1, 3, height * scale, width * scale)
    assert float((tiled - network(image)).abs().max()) < 1e-12


@torch.inference_mode()
@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), budget=st.integers(26**2, 3000))
def test_tiled_equals_whole_for_any_budget(height: int, width: int, budget: int) -> None:
    network = Upsampler(scale=2, depth=3)
    image = picture(height, width)
    seen: list[int] = []

    def function(window: Tensor) -> Tensor:
        seen.append(window.shape[2] * window.shape[3])
        return network(window)

    tiled = run_tiled(function, image, scale=2, tile=None, halo=5, max_pixels=max(budget, 41**2))
    assert float((tiled - network(image)).abs().max()) < 1e-12
    assert max(seen) <= max(budget, 41**2)


@torch.inference_mode()
def test_a_halo_one_pixel_short_is_seen() -> None:
    network = Upsampler(scale=2, depth=3)
    image = picture(50, 50)
    short = run_tiled(network, image, scale=2, tile=16, halo=network.radius - 1)
    assert float((short - network(image)).abs().max()) > 1e-6


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_in_a_smaller_precision_arrive_as_float32_on_the_cpu(dtype: torch.dtype) -> None:
    image = torch.rand(1, 3, 20, 20)
    result = run_tiled(lambda window: window.to(dtype) / 2, image, scale=1, tile=16, halo=0)
    assert result.dtype == torch.float32
    assert torch.equal(result, (image.to(dtype) / 2).float())


def test_a_function_that_works_in_place_spoils_neither_the_picture_nor_its_neighbors() -> None:
    image = picture(40, 40)
    before = image.clone()
    result = run_tiled(lambda window: window.mul_(2), image, scale=1, tile=16, halo=8)
    assert torch.equal(image, before)
    assert torch.equal(result, before * 2)


def test_a_sink_gets_every_output_pixel_once_without_the_whole_ever_existing() -> None:
    image = picture(45, 33)
    pixels = torch.zeros(45 * 2, 33 * 2, dtype=torch.uint8)
    count = torch.zeros_like(pixels)
    largest = 0

    def sink(rows: slice, columns: slice, piece: Tensor) -> None:
        nonlocal largest
        largest = max(largest, piece.shape[2] * piece.shape[3])
        pixels[rows, columns] = (piece[0, 0] * 255).round().to(torch.uint8)
        count[rows, columns] += 1

    def function(window: Tensor) -> Tensor:
        return nn.functional.interpolate(window, scale_factor=2, mode="nearest")

    stream_tiled(function, image, sink, scale=2, tile=16, halo=0)
    assert bool((count == 1).all())
    assert torch.equal(pixels, (function(image)[0, 0] * 255).round().to(torch.uint8))
    assert largest <= 32 * 32


def test_progress_counts_pixels_up_to_all_of_them() -> None:
    calls: list[tuple[int, int]] = []
    run_tiled(
        lambda window: window,
        picture(40, 30),
        scale=1,
        tile=16,
        halo=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert len(calls) == 6
    assert calls == sorted(calls)
    assert calls[-1] == (1200, 1200)


# --- the plan -------------------------------------------------------------------------------------


def assert_covers(tiles: list[Tile], height: int, width: int, halo: int) -> None:
    count = torch.zeros(height, width, dtype=torch.int32)
    for tile in tiles:
        count[tile.core_rows, tile.core_columns] += 1
        for core, window, size in (
            (tile.core_rows, tile.rows, height),
            (tile.core_columns, tile.columns, width),
        ):
            assert core.start < core.stop
            assert window == slice(max(core.start - halo, 0), min(core.stop + halo, size))
    assert bool((count == 1).all())


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    halo=st.integers(0, 40),
    tile=st.integers(20, 400),
)
def test_a_plan_covers_every_pixel_once_with_tiles_of_at_most_the_size_asked_for(
    height: int, width: int, halo: int, tile: int
) -> None:
    tiles = plan_tiles(height, width, halo=halo, tile=tile)
    assert_covers(tiles, height, width, halo)
    assert max(max(one.core_size) for one in tiles) <= tile
    assert len(tiles) == -(-height // tile) * -(-width // tile)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    halo=st.integers(0, 12),
    budget=st.integers(56**2, 8000),
)
def test_a_budget_is_kept_and_no_other_grid_within_it_computes_fewer_pixels(
    height: int, width: int, halo: int, budget: int
) -> None:
    tiles = plan_tiles(height, width, halo=halo, max_pixels=budget)
    assert_covers(tiles, height, width, halo)
    assert max(tile.pixels for tile in tiles) <= budget
    computed = sum(tile.pixels for tile in tiles)

    def windows(size: int, parts: int) -> list[int]:
        ends = [size * part // parts for part in range(parts + 1)]
        return [
            min(stop + halo, size) - max(start - halo, 0)
            for start, stop in itertools.pairwise(ends)
        ]

    for rows in range(1, max(1, height // 16) + 1):
        for columns in range(1, max(1, width // 16) + 1):
            heights, widths = windows(height, rows), windows(width, columns)
            if max(heights) * max(widths) <= budget:
                assert computed <= sum(heights) * sum(widths)


def test_narrow_pictures_become_strips_and_large_ones_near_squares() -> None:
    strips = plan_tiles(5000, 100, halo=36, max_pixels=40_000)
    assert all(tile.columns == slice(0, 100) for tile in strips)
    squares = plan_tiles(8000, 8000, halo=36, max_pixels=256**2)
    height, width = squares[0].core_size
    assert 0.7 < height / width < 1.4


def test_a_picture_that_fits_is_one_tile() -> None:
    whole = [Tile(slice(0, 50), slice(0, 60), slice(0, 50), slice(0, 60))]
    assert plan_tiles(50, 60, halo=9) == whole
    assert plan_tiles(50, 60, halo=9, tile=0) == whole
    assert plan_tiles(50, 60, halo=9, tile=60) == whole
    assert plan_tiles(50, 60, halo=9, max_pixels=3000) == whole


@pytest.mark.parametrize("tile", [-1, -64, 1, 15])
def test_a_tile_too_small_or_negative_is_a_usage_error_before_any_work(tile: int) -> None:
    def function(window: Tensor) -> Tensor:
        pytest.fail("work was begun")

    with pytest.raises(UsageError, match=f"tile of {tile} pixels") as caught:
        run_tiled(function, picture(40, 40), scale=2, tile=tile, halo=4)
    assert caught.value.hint is not None
    assert "--tile with 16 or more" in caught.value.hint


def test_the_smallest_tile_grows_with_the_halo() -> None:
    assert minimum_tile(0) == minimum_tile(32) == 16
    assert minimum_tile(60) == 30


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (0, 5, {"halo": 1}),
        (5, 0, {"halo": 1}),
        (5, 5, {"halo": -1}),
        (500, 500, {"halo": 20, "max_pixels": 1000}),
        (5, 5, {"halo": 0, "max_pixels": 0}),
        (5, 5, {"halo": 0, "max_pixels": -4}),
    ],
)
def test_impossible_plans_are_usage_errors(
    height: int, width: int, options: dict[str, int]
) -> None:
    with pytest.raises(UsageError):
        plan_tiles(height, width, **options)


# --- faults ---------------------------------------------------------------------------------------


def test_a_failing_tile_is_an_error_that_names_it_and_never_a_stale_copy() -> None:
    calls = 0

    def function(window: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("the driver gave up")
        return window

    with pytest.raises(RuntimeError, match="the driver gave up") as caught:
        run_tiled(function, picture(40, 40), scale=1, tile=20, halo=2)
    assert caught.value.__notes__ == ["in the tile of rows 20 to 39, columns 20 to 39"]
    assert calls == 4


def test_a_result_of_the_wrong_size_is_an_error_with_both_sizes() -> None:
    with pytest.raises(
        ValueError, match=r"expected .*\(1, C, 44, 44\) at scale 2, got \(1, 2, 22, 22\)"
    ):
        run_tiled(lambda window: window, picture(40, 40), scale=2, tile=20, halo=2)


def test_pictures_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        run_tiled(lambda window: window, torch.zeros(2, 3, 4, 4), scale=1, tile=0, halo=0)
    with pytest.raises(ValueError, match="scale"):
        run_tiled(lambda window: window, torch.zeros(1, 3, 4, 4), scale=0, tile=0, halo=0)


def out_of_device_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")


def test_a_picture_that_is_needed_whole_is_never_divided() -> None:
    with pytest.raises(DeviceError, match="needed whole"):
        run_tiled(
            lambda window: out_of_device_memory() or window,
            picture(40, 40),
            scale=1,
            tile=0,
            halo=0,
            divisible=False,
        )


def out_of_cpu_memory() -> None:
    torch.empty(1 << 60)


@torch.inference_mode()
@pytest.mark.parametrize("fail", [out_of_device_memory, out_of_cpu_memory])
@pytest.mark.parametrize("tile", [0, 64])
def test_out_of_memory_halves_the_tile_and_goes_on(
    fail, tile: int, caplog: pytest.LogCaptureFixture
) -> None:
    network = Upsampler(scale=2, depth=3)
    image = picture(150, 110)
    sizes: list[int] = []

    def function(window: Tensor) -> Tensor:
        sizes.append(window.shape[2] * window.shape[3])
        if sizes[-1] > 45**2:
            fail()
        return network(window)

    with caplog.at_level(logging.WARNING, logger="lowvis"):
        tiled = run_tiled(function, image, scale=2, tile=tile, halo=network.radius)
    assert float((tiled - network(image)).abs().max()) < 1e-12
    failures = sum(size > 45**2 for size in sizes)
    assert len(caplog.records) == failures
    assert failures <= 3  # what was learned from one tile holds for those that follow
    assert "out of memory" in caplog.text


@torch.inference_mode()
def test_memory_that_runs_out_halfway_does_not_repeat_what_is_done() -> None:
    image = picture(64, 64)
    count = torch.zeros(64, 64, dtype=torch.int32)
    calls = 0

    def function(window: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            out_of_device_memory()
        return window

    def sink(rows: slice, columns: slice, piece: Tensor) -> None:
        count[rows, columns] += 1
        assert torch.equal(piece, image[:, :, rows, columns])

    stream_tiled(function, image, sink, scale=1, tile=32, halo=3)
    assert bool((count == 1).all())
    assert calls == 2 + 1 + 8


def test_memory_too_small_for_the_smallest_tile_is_a_device_error() -> None:
    smallest: list[int] = []

    def function(window: Tensor) -> Tensor:
        smallest.append(max(window.shape[2:]))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(DeviceError, match=r"out of memory .* CUDA out of memory") as caught:
        run_tiled(function, picture(128, 128), scale=1, tile=64, halo=2)
    assert smallest == [64 + 2, 32 + 2, 16 + 2]
    assert caught.value.hint is not None
    assert "--tile" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), "CUDA out of memory."),
        (RuntimeError("MPS backend out of memory (9 GB)"), "MPS backend out of memory (9 GB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "can't allocate"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("the cable is loose"), ""),
        (ValueError(), ""),
    ],
)
def test_what_memory_that_ran_out_says_is_told_from_other_errors(
    error: Exception, said: str
) -> None:
    found = out_of_memory(error)
    assert said in found
    assert bool(found) == bool(said)
    assert "\n" not in found
