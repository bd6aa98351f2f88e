"""Which branch upscales which part of a picture: judged cell by cell, then planned as few windows.

A picture is divided into cells of the size of a training patch. All of them are judged in one dense
pass. Neighboring cells are then joined to larger squares, up to a limit, wherever one window around
them costs less than the windows of the parts: each window is read with a margin of true context
(the halo) that is computed and thrown away, so that few large windows waste less than many small
ones. A square takes the class of its hardest cell: no cell is ever given less than it asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from lowvis_shared.errors import UsageError
from lowvis_shared.tiling import Tile
from numpy.typing import NDArray
from torch import Tensor

from lowvis_classsr.data import edge_map
from lowvis_classsr.model import BLOCK, Classifier

Logits = NDArray[np.float32]
"""Logits of the cells of a picture, (rows, columns, classes)."""

_STRIP = 1024
"""Rows of a picture that the classifier sees at once, down to whole cells."""

_BISECTIONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a picture may be divided.

    Attributes:
        height: Rows of the picture.
        width: Columns of the picture.
        cell: Side of a cell in pixels.
        largest: Largest side of a square, ``cell`` times a power of two.
        halo: Pixels of context around it.
    """

    height: int
    width: int
    cell: int
    largest: int
    halo: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.height // self.cell), -(-self.width // self.cell)

    @property
    def levels(self) -> int:
        """How often the side of a square can be doubled."""
        return int(math.log2(self.largest // self.cell))

    def areas(self, level: int) -> NDArray[np.int64]:
        """Pixels of the window of every square of a level, (rows, columns); 0 outside."""
        extents: list[NDArray[np.int64]] = []
        for size, cells in zip((self.height, self.width), self.grid, strict=True):
            side = self.cell << level
            starts = np.arange(-(-cells // (1 << self.levels)) << (self.levels - level)) * side
            windows = np.minimum(starts + side + self.halo, size) - np.maximum(
                starts - self.halo, 0
            )
            extents.append(np.where(starts < size, windows, 0))
        return extents[0][:, None] * extents[1]

    def tile(self, level: int, row: int, column: int) -> Tile:
        """The square at a place of a level, and its window."""
        side = self.cell << level
        spans: list[tuple[slice, slice]] = []
        for start, size in ((row * side, self.height), (column * side, self.width)):
            stop = min(start + side, size)
            window = slice(max(start - self.halo, 0), min(stop + self.halo, size))
            spans.append((slice(start, stop), window))
        (rows, window_rows), (columns, window_columns) = spans
        return Tile(core_rows=rows, core_columns=columns, rows=window_rows, columns=window_columns)


@dataclass(frozen=True, slots=True)
class Route:
    """A tile of a picture and the class of the branch that upscales it."""

    tile: Tile
    index: int


@torch.inference_mode()
def classifier_logits(
    classifier: Classifier, image: Tensor, cell: int, *, every: int = 1
) -> Logits:
    """Judge the cells of a picture in one dense pass of the Class-Module.

    Args:
        classifier: The Class-Module.
        image: (1, 3, H, W) RGB in 0..1, on the classifier's device.
        cell: Side of a cell in pixels, a multiple of 4. Cells at the right and bottom border are
            judged by what they hold.
        every: Let one block of so many vote, in each direction; 4 times it must divide ``cell``.

    Returns:
        Logits (rows, columns, classes), float32.
    """
    height, width = image.shape[2:]
    kernel = cell // (BLOCK * every)
    rows = max(_STRIP // cell, 1) * cell
    parts: list[Tensor] = []
    for top in range(0, height, rows):
        strip = image[:, :, top : top + rows]
        # Whole blocks: what is missing repeats the border.
        missing = (0, -width % BLOCK, 0, -strip.shape[2] % BLOCK)
        blocks = classifier.block_logits(F.pad(strip, missing, mode="replicate"), every)
        parts.append(F.avg_pool2d(blocks, kernel, ceil_mode=True, count_include_pad=False))
    return torch.cat(parts, 2)[0].permute(1, 2, 0).float().cpu().numpy()


def edge_logits(image: Tensor, thresholds: Sequence[float], cell: int) -> Logits:
    """Judge the cells of a picture by their edges, without learning: a baseline.

    Args:
        image: (1, 3, H, W) RGB in 0..1.
        thresholds: Edge scores between the classes, rising.
        cell: Side of a cell in pixels.

    Returns:
        Logits (rows, columns, classes): the largest is that of the class between whose thresholds
        the mean of `edge_map` over the cell lies.
    """
    edges = torch.from_numpy(edge_map(image[0].permute(1, 2, 0).cpu().numpy()))
    means = F.avg_pool2d(edges[None, None], cell, ceil_mode=True, count_include_pad=False)
    scores = np.log(np.maximum(means[0, 0].numpy(), 1e-6))
    above = scores[..., None] - np.log(np.maximum(thresholds, 1e-6))
    rising = np.cumsum(above, axis=2)
    return np.concatenate([np.zeros_like(scores)[..., None], rising], 2).astype(np.float32)


def choose_classes(
    logits: Logits, costs: Sequence[float], penalty: float = 0.0
) -> NDArray[np.int64]:
    """Return the class of each cell: the largest logit less ``penalty`` times its cost."""
    return (logits - penalty * np.array(costs) / costs[-1]).argmax(2)


def plan_routes(
    classes: NDArray[np.int64], layout: Layout, costs: Sequence[float]
) -> tuple[list[Route], float]:
    """Find the cheapest windows that give every cell a branch of its class or a harder one.

    Args:
        classes: Class of each cell, (rows, columns).
        layout: How the picture may be divided.
        costs: Multiply-accumulates of one pixel by class, rising.

    Returns:
        The routes, which cover every pixel once, and their multiply-accumulates, halos included.
    """
    hardest, merged, total = _cheapest(classes, layout, costs)
    routes: list[Route] = []
    opened = np.ones(merged[-1].shape, bool)
    for level in range(layout.levels, -1, -1):
        here = opened & merged[level] & (layout.areas(level) > 0)
        routes += [
            Route(layout.tile(level, int(row), int(column)), int(hardest[level][row, column]))
            for row, column in np.argwhere(here)
        ]
        if level:
            opened = (opened & ~merged[level]).repeat(2, 0).repeat(2, 1)
    return routes, total


def _cheapest(
    classes: NDArray[np.int64], layout: Layout, costs: Sequence[float]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.bool_]], float]:
    """Return by level the hardest class of each square, and whether it is better left whole."""
    per_pixel = np.array(costs)
    areas = layout.areas(0)
    grid = np.zeros(areas.shape, np.int64)
    grid[: classes.shape[0], : classes.shape[1]] = classes
    hardest, merged = [grid], [np.ones(grid.shape, bool)]
    best = per_pixel[grid] * areas
    for level in range(1, layout.levels + 1):
        hardest.append(_quarters(hardest[-1]).max((1, 3)))
        whole = per_pixel[hardest[-1]] * layout.areas(level)
        parts = _quarters(best).sum((1, 3))
        merged.append(whole <= parts)
        best = np.minimum(whole, parts)
    return hardest, merged, float(best.sum())


def _quarters(values: NDArray[np.generic]) -> NDArray[np.generic]:
    rows, columns = values.shape
    return values.reshape(rows // 2, 2, columns // 2, 2)


def fit_penalty(logits: Logits, layout: Layout, costs: Sequence[float], most: float) -> float:
    """Find the smallest penalty on cost under which the windows of a picture cost at most ``most``.

    Args:
        logits: Logits of the cells.
        layout: How the picture may be divided.
        costs: Multiply-accumulates of one pixel by class, rising.
        most: Multiply-accumulates that the picture may take.

    Returns:
        The penalty for `choose_classes`: negative where more may be spent than the classes ask for,
        and infinite where even the simplest branch everywhere costs more.
    """
    shares = np.array(costs) / costs[-1]
    # From here on every cell is in the first class, or in the last.
    reach = float(np.ptp(logits, axis=2).max()) / float(np.diff(shares).min()) + 1
    low, high = -reach, reach

    def affordable(penalty: float) -> bool:
        return _cheapest(choose_classes(logits, costs, penalty), layout, costs)[2] <= most

    if affordable(low):
        return low
    if not affordable(high):
        return math.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if affordable(middle) else (middle, high)
    return high


def check_largest(largest: int, cell: int) -> int:
    """Return a limit on the side of squares as the next lower ``cell`` times a power of two.

    Raises:
        UsageError: It is smaller than a cell.
    """
    if largest < cell:
        raise UsageError(
            f"a tile of {largest} pixels is smaller than a patch", hint=f"--tile {cell} or more"
        )
    return cell << int(math.log2(largest // cell))
