"""Run a network over a picture tile by tile, with the result of running it over the whole.

A network whose every output pixel depends on inputs at most ``halo`` pixels away (its receptive
radius, in input pixels) gives the same result on a tile as on the picture, if the tile is read with
``halo`` pixels of true context around it and the context is cut off afterwards. At the border of
the picture the window ends where the picture ends, so that the network's own padding does there
what it does for the whole. Networks with global statistics must not be run this way.

Tiled and whole agree to rounding: about 1e-14 in float64; in float32 about 1e-7, because a library
may choose another convolution algorithm for another size. One operation is coarser: torch's
bilinear upsampling by 3 computes positions in float32, so that on a picture 4000 pixels wide the
whole is off by up to 2e-4 and the tiles, whose positions are small, by 3e-6.
"""

import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowvis_shared.errors import DeviceError, UsageError

logger = logging.getLogger("lowvis")

Sink = Callable[[slice, slice, Tensor], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a picture: the core it answers for, and the window that is read for it.

    All four are slices of the picture in pixels; the window is the core with the halo around it,
    ending at the border of the picture.
    """

    core_rows: slice
    core_columns: slice
    rows: slice
    columns: slice

    @property
    def core_size(self) -> tuple[int, int]:
        """Height and width of the core."""
        return _length(self.core_rows), _length(self.core_columns)

    @property
    def pixels(self) -> int:
        """Number of pixels of the window: what has to be computed and to fit into memory."""
        return _length(self.rows) * _length(self.columns)

    def core_of(self, result: Tensor, scale: int) -> Tensor:
        """Cut the context off what was made of the window: (B, C, h, w), ``scale`` times larger."""
        top = (self.core_rows.start - self.rows.start) * scale
        left = (self.core_columns.start - self.columns.start) * scale
        height, width = self.core_size
        return result[:, :, top : top + height * scale, left : left + width * scale]

    def core_at(self, scale: int) -> tuple[slice, slice]:
        """Rows and columns of the core in the result, ``scale`` times as large as the picture."""
        return _scaled(self.core_rows, scale), _scaled(self.core_columns, scale)

    def __str__(self) -> str:
        return (
            f"tile of rows {self.core_rows.start} to {self.core_rows.stop - 1}, "
            f"columns {self.core_columns.start} to {self.core_columns.stop - 1}"
        )


def minimum_tile(halo: int) -> int:
    """Return the smallest core size allowed: 16 pixels, or half the halo where that is more.

    Smaller tiles would be exact as well, but mostly context: at half the halo, 25 pixels are
    already computed for each one kept.
    """
    return max(16, halo // 2)


def plan_tiles(
    height: int, width: int, *, halo: int, tile: int | None = None, max_pixels: int | None = None
) -> list[Tile]:
    """Divide a picture into a grid of tiles of nearly equal cores, row by row.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        halo: Pixels of context that a tile needs on each side.
        tile: Largest height and width of a core; 0 stands for the whole picture in one tile.
        max_pixels: Most pixels of a window, halo included. Of all grids that keep to it, the one
            that computes the fewest pixels in total is chosen: strips for narrow pictures, about
            squares for large ones. Not used when ``tile`` is given.

    Returns:
        Tiles whose cores cover every pixel exactly once; one tile when neither limit is given.

    Raises:
        UsageError: The tile or the budget is negative or too small, or the picture is empty.
    """
    if height < 1 or width < 1:
        raise UsageError(f"a picture of {height} x {width} pixels cannot be divided into tiles")
    if halo < 0:
        raise UsageError(f"the halo must not be negative, but is {halo}")
    if tile is not None:
        if tile != 0 and tile < minimum_tile(halo):
            raise UsageError(
                f"a tile of {tile} pixels is too small",
                hint=f"use --tile with {minimum_tile(halo)} or more, or with 0 for no tiles",
            )
        rows, columns = (-(-height // tile), -(-width // tile)) if tile else (1, 1)
    elif max_pixels is not None:
        rows, columns = _best_grid(height, width, halo, max_pixels)
    else:
        rows, columns = 1, 1
    return _grid(slice(0, height), slice(0, width), rows, columns, (height, width), halo)


def _length(extent: slice) -> int:
    return extent.stop - extent.start


def _with_halo(core: slice, size: int, halo: int) -> slice:
    return slice(max(core.start - halo, 0), min(core.stop + halo, size))


def _grid(
    core_rows: slice,
    core_columns: slice,
    rows: int,
    columns: int,
    picture: tuple[int, int],
    halo: int,
) -> list[Tile]:
    """Divide a rectangle of the picture into rows x columns tiles."""

    def divide(extent: slice, parts: int) -> list[slice]:
        ends = [extent.start + _length(extent) * part // parts for part in range(parts + 1)]
        return [slice(*pair) for pair in itertools.pairwise(ends)]

    return [
        Tile(
            core_rows=row,
            core_columns=column,
            rows=_with_halo(row, picture[0], halo),
            columns=_with_halo(column, picture[1], halo),
        )
        for row in divide(core_rows, rows)
        for column in divide(core_columns, columns)
    ]


def _best_grid(height: int, width: int, halo: int, max_pixels: int) -> tuple[int, int]:
    """Find the grid that computes the fewest pixels with no window above ``max_pixels``."""
    tallest, total_height = _window_extents(height, halo)
    widest, total_width = _window_extents(width, halo)
    grids: list[tuple[int, int, int, int]] = []
    for row_index, window_height in enumerate(tallest):
        fitting = np.flatnonzero(window_height * widest <= max_pixels)
        if fitting.size:
            column_index = fitting[np.argmin(total_width[fitting])]
            computed = int(total_height[row_index] * total_width[column_index])
            rows, columns = row_index + 1, int(column_index) + 1
            grids.append((computed, rows * columns, columns, rows))
    if not grids:
        raise UsageError(
            f"no tile fits into {max_pixels} pixels",
            hint=f"with its context the smallest one has {int(tallest.min() * widest.min())}",
        )
    # Of equal costs, the one with fewer tiles; of those, strips of whole rows.
    _, _, columns, rows = min(grids)
    return rows, columns


def _window_extents(size: int, halo: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for 1, 2, 3 ... parts of an extent, the longest window and the sum of all windows."""
    longest: list[int] = []
    total: list[int] = []
    for parts in range(1, max(1, size // minimum_tile(halo)) + 1):
        ends = np.arange(parts + 1, dtype=np.int64) * size // parts
        windows = np.minimum(ends[1:] + halo, size) - np.maximum(ends[:-1] - halo, 0)
        longest.append(int(windows.max()))
        total.append(int(windows.sum()))
    return np.array(longest, dtype=np.int64), np.array(total, dtype=np.int64)


def run_tiled(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    scale: int,
    tile: int | None,
    halo: int,
    max_pixels: int | None = None,
    divisible: bool = True,
    progress: Progress | None = None,
) -> Tensor:
    """Run a function over a picture tile by tile and return the whole result.

    Args:
        function: Maps (1, C, h, w) to (1, C', h * scale, w * scale), each output pixel depending on
            inputs at most ``halo`` away.
        image: Picture of shape (1, C, H, W).
        scale: Output pixels per input pixel along each axis.
        tile: Largest height and width of a core; 0 means the whole picture at once. None leaves it
            to ``max_pixels``.
        halo: Receptive radius of the function in input pixels.
        max_pixels: Most input pixels that one call of the function may see; see `plan_tiles`.
        divisible: Whether tiles may become smaller when memory runs out; False with ``tile=0`` for
            functions that need the whole picture.
        progress: Called with the input pixels done and their total after each tile.

    Returns:
        Tensor (1, C', H * scale, W * scale) on the CPU, of float32 (float64 where the function
        gives float64).

    Raises:
        UsageError: The tile is too small or negative; before any work.
        DeviceError: Not even the smallest tile fits into memory, or one that may not be divided.
        ValueError: The function returned another size than ``scale`` promises.
    """
    output: Tensor | None = None

    def write(rows: slice, columns: slice, pixels: Tensor) -> None:
        nonlocal output
        if output is None:
            size = (1, pixels.shape[1], image.shape[2] * scale, image.shape[3] * scale)
            output = torch.empty(size, dtype=pixels.dtype)
        output[:, :, rows, columns] = pixels

    stream_tiled(
        function,
        image,
        write,
        scale=scale,
        tile=tile,
        halo=halo,
        max_pixels=max_pixels,
        divisible=divisible,
        progress=progress,
    )
    if output is None:  # a plan has at least one tile
        raise RuntimeError("no tile was run")
    return output


def stream_tiled(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    sink: Sink,
    *,
    scale: int,
    tile: int | None,
    halo: int,
    max_pixels: int | None = None,
    divisible: bool = True,
    progress: Progress | None = None,
) -> None:
    """Run a function over a picture tile by tile and hand each piece of the result to a sink.

    It is `run_tiled` for results that shall not stand in memory as one float picture: the sink can
    write 8-bit pixels into an array right away.

    Args:
        function: As for `run_tiled`.
        image: Picture of shape (1, C, H, W).
        sink: Called with rows and columns of the output and their pixels (1, C', h, w), a tensor on
            the CPU of float32 or float64; each output pixel comes exactly once.
        scale: As for `run_tiled`.
        tile: As for `run_tiled`.
        halo: As for `run_tiled`.
        max_pixels: As for `run_tiled`.
        divisible: As for `run_tiled`.
        progress: As for `run_tiled`.

    When memory runs out the tile is halved, down to `minimum_tile`, and the work goes on with a
    message on the logger ``lowvis``. Any other error of the function propagates at once, with a
    note that names the tile.
    """
    if image.ndim != 4 or image.shape[0] != 1:
        raise ValueError(f"expected a picture of shape (1, C, H, W), got {tuple(image.shape)}")
    if scale < 1:
        raise ValueError(f"the scale must be at least 1, but is {scale}")
    height, width = image.shape[2:]
    pending = plan_tiles(height, width, halo=halo, tile=tile, max_pixels=max_pixels)
    pending.reverse()
    done = 0
    while pending:
        current = pending[-1]
        pixels = within_memory(partial(_run_tile, function, image, current, scale))
        if isinstance(pixels, str) and not divisible:
            raise DeviceError(
                f"out of memory for a picture of {height} x {width} pixels, which is needed whole: "
                f"{pixels}",
                hint="take a smaller picture, or another --device",
            )
        if isinstance(pixels, str):
            pending = _halve(pending, (height, width), halo, reason=pixels)
            continue
        pending.pop()
        sink(*current.core_at(scale), pixels)
        done += math.prod(current.core_size)
        if progress is not None:
            progress(done, height * width)


def _scaled(extent: slice, scale: int) -> slice:
    return slice(extent.start * scale, extent.stop * scale)


def within_memory(work: Callable[[], Tensor]) -> Tensor | str:
    """Return the result of some work, or what the device said when its memory ran out.

    The error itself is not returned: its traceback would keep the tensors of the work alive. Any
    other error propagates.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if reason := out_of_memory(error):
            return reason
        raise


def out_of_memory(error: Exception) -> str:
    """Return what a device said when its memory ran out; empty for an error of another kind."""
    # The allocators of the CPU and of MPS raise a plain RuntimeError.
    phrases = ("not enough memory", "can't allocate memory", "out of memory")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in str(error) for phrase in phrases
    ):
        return next(iter(str(error).splitlines()), type(error).__name__)
    return ""


def _run_tile(
    function: Callable[[Tensor], Tensor], image: Tensor, tile: Tile, scale: int
) -> Tensor:
    # A copy, so that a function that works in place cannot spoil the context of the next tile.
    window = image[:, :, tile.rows, tile.columns].clone(memory_format=torch.contiguous_format)
    expected = (window.shape[2] * scale, window.shape[3] * scale)
    try:
        result = function(window)
        _check_size(result, expected, scale)
    except Exception as error:
        error.add_note(f"in the {tile}")
        raise
    core = tile.core_of(result, scale).detach()
    return core.to("cpu", torch.promote_types(core.dtype, torch.float32))


def _check_size(result: Tensor, expected: tuple[int, int], scale: int) -> None:
    if result.ndim != 4 or result.shape[0] != 1 or tuple(result.shape[2:]) != expected:
        raise ValueError(
            f"expected a result of shape (1, C, {expected[0]}, {expected[1]}) at scale {scale}, "
            f"got {tuple(result.shape)}"
        )


def _halve(pending: list[Tile], picture: tuple[int, int], halo: int, *, reason: str) -> list[Tile]:
    """Divide every tile still to do to half the size of the one that failed, the last of them."""
    failed = pending[-1]
    size = max(failed.core_size)
    minimum = minimum_tile(halo)
    if size <= minimum:
        raise DeviceError(
            f"out of memory even for the smallest {failed}: {reason}",
            hint="no smaller --tile can help: free memory, or choose another --device",
        )
    size = max(-(-size // 2), minimum)
    logger.warning(
        "out of memory for a tile of %d x %d pixels; going on with tiles of %d (--tile %d)",
        *failed.core_size,
        size,
        size,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    smaller: list[Tile] = []
    for tile in pending:
        height, width = tile.core_size
        parts = _grid(
            tile.core_rows, tile.core_columns, -(-height // size), -(-width // size), picture, halo
        )
        smaller.extend(reversed(parts))
    return smaller
