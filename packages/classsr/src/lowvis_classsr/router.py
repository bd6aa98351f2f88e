"""Which branch upscales which part of a picture: judged cell by cell, then planned as few windows.

A picture is divided into cells of the size of a training patch. All of them are judged in one dense
pass. Neighboring cells are then joined, in pairs and pairs of pairs, to larger rectangles, up to a
limit, wherever one window around them costs less than the windows of the parts: each window is read
with a margin of true context (the halo) that is computed and thrown away, so that few large windows
waste less than many small ones. Where nothing limits the cost, a rectangle takes the class of its
hardest cell: no cell is given less than it asked for. Under a budget, classes and windows are found
together.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from lowvis_shared.errors import UsageError
from lowvis_shared.tiling import Tile
from numpy.typing import NDArray
from torch import Tensor

from lowvis_classsr.cost import WindowCosts
from lowvis_classsr.data import edge_map
from lowvis_classsr.model import BLOCK, Classifier

Logits = NDArray[np.float32]
"""Logits of the cells of a picture, (rows, columns, classes)."""

_STRIP = 1024
"""Rows of a picture that the classifier sees at once, down to whole cells."""

_BISECTIONS = 40

_SPENT = 0.998
"""Share of a budget from which on no better use of it is looked for."""

Level = tuple[int, int]
"""How often the height and the width of a rectangle of cells were doubled."""

_LEAST_PENALTY = 1e-9
"""Of two plans that serve the cells as well, the cheaper one is better."""

_WHOLE, _ABOVE, _BESIDE = range(3)
"""A rectangle is left whole, or divided into two above each other, or beside each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a picture may be divided.

    Attributes:
        height: Rows of the picture.
        width: Columns of the picture.
        cell: Side of a cell in pixels.
        largest: Largest side of a rectangle, ``cell`` times a power of two.
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
    def doublings(self) -> int:
        """How often a side of a rectangle can be doubled."""
        return int(math.log2(self.largest // self.cell))

    @property
    def levels(self) -> list[Level]:
        """All shapes of rectangles: the parts of each come before it."""
        doublings = range(self.doublings + 1)
        return [(rows, columns) for rows, columns in product(doublings, doublings)]

    def areas(self, level: Level, context: float) -> NDArray[np.float64]:
        """Pixels of every rectangle of a level with context, (rows, columns); 0 outside."""
        extents: list[NDArray[np.float64]] = []
        for size, cells, doubled in zip((self.height, self.width), self.grid, level, strict=True):
            side = self.cell << doubled
            count = -(-cells // (1 << self.doublings)) << (self.doublings - doubled)
            starts = np.arange(count) * side
            windows = np.minimum(starts + side + context, size) - np.maximum(starts - context, 0)
            extents.append(np.where(starts < size, windows, 0.0))
        return extents[0][:, None] * extents[1]

    def tile(self, level: Level, row: int, column: int) -> Tile:
        """The rectangle at a place of a level, and its window."""
        spans: list[tuple[slice, slice]] = []
        places = zip((row, column), (self.height, self.width), level, strict=True)
        for place, size, doubled in places:
            start = place * (self.cell << doubled)
            stop = min(start + (self.cell << doubled), size)
            window = slice(max(start - self.halo, 0), min(stop + self.halo, size))
            spans.append((slice(start, stop), window))
        (rows, window_rows), (columns, window_columns) = spans
        return Tile(core_rows=rows, core_columns=columns, rows=window_rows, columns=window_columns)


@dataclass(frozen=True, slots=True)
class Route:
    """A tile of a picture, the class of the branch that upscales it, and what that costs.

    Attributes:
        tile: The tile with its window.
        index: The class.
        macs: Multiply-accumulates, context included.
    """

    tile: Tile
    index: int
    macs: float


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


def plan_routes(
    logits: Logits, layout: Layout, costs: WindowCosts, most: float | None = None
) -> tuple[list[Route], float]:
    """Divide a picture into windows and choose the branch of each, as well as a budget allows.

    Without a budget every cell gets the branch of its largest logit or a harder one, in the
    windows that cost least. With one, the sum of the logits is to be as large as can be.

    Args:
        logits: Logits of the cells.
        layout: How the picture may be divided.
        costs: Multiply-accumulates of one pixel by class, rising, by the context they are done in.
        most: Multiply-accumulates that the windows may take, context included.

    Returns:
        The routes, which cover every pixel once, and their multiply-accumulates in all.
        Those are more than ``most`` where even the simplest branch everywhere takes more.
    """
    pixel = np.sum(list(costs.values()), 0)
    shares = pixel / pixel[-1]
    dearest = float(pixel[-1]) * layout.cell**2
    windows = _windows_of(layout, costs)  # once for all penalties

    def by_cell(penalty: float) -> _Plans:
        return _best_plans(_useful(logits - penalty * shares), windows, _LEAST_PENALTY / dearest)

    useful = _useful(logits)

    def by_window(penalty: float) -> _Plans:
        return _best_plans(useful, windows, penalty / dearest)

    if most is None:
        return _routes_of(by_cell(0.0), windows, layout)
    # From here on every cell is in the first class, or in the last.
    reach = float(np.ptp(logits, axis=2).max()) / float(np.diff(shares).min()) + 1
    routes, cost = _routes_of(_dearest(by_cell, -reach, reach, most), windows, layout)
    if cost <= most:
        # A penalty on windows does not pay for context that is not worth it, and is the better one
        # but for pictures of few cells, which it decides about by the dozen.
        highest = reach * layout.cell**2  # of a cell at the border, one pixel may be in the picture
        others, other_cost = _routes_of(
            _dearest(by_window, _LEAST_PENALTY, highest, most), windows, layout
        )
        if _value_of(others, useful, layout) > _value_of(routes, useful, layout):
            return others, other_cost
    return routes, cost


def _windows_of(layout: Layout, costs: WindowCosts) -> "_Windows":
    parts = [(context, np.array(each)) for context, each in costs.items()]
    return {
        level: np.sum(
            [layout.areas(level, context)[..., None] * each for context, each in parts], 0
        )
        for level in layout.levels
    }


def _dearest(
    plans_at: Callable[[float], "_Plans"], low: float, high: float, most: float
) -> "_Plans":
    """Return the plans of the smallest penalty that cost no more than that, or the highest's."""
    plans = plans_at(low)
    if plans.cost <= most:
        return plans
    plans = plans_at(high)
    for _ in range(_BISECTIONS if plans.cost <= most else 0):
        middle = (low + high) / 2
        tried = plans_at(middle)
        if tried.cost > most:
            low = middle
            continue
        high, plans = middle, tried
        if tried.cost >= _SPENT * most:
            break
    return plans


def _useful(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Let a branch harder than asked for be worth as much: only its cost speaks against it."""
    return np.maximum.accumulate(logits.astype(np.float64), axis=2)


def _value_of(routes: Sequence[Route], values: NDArray[np.float64], layout: Layout) -> float:
    """Sum of what the branches that the cells are given are worth to them."""
    total = 0.0
    for route in routes:
        rows, columns = (
            slice(core.start // layout.cell, -(-core.stop // layout.cell))
            for core in (route.tile.core_rows, route.tile.core_columns)
        )
        total += float(values[rows, columns, route.index].sum())
    return total


def _routes_of(plans: "_Plans", windows: "_Windows", layout: Layout) -> tuple[list[Route], float]:
    """Return the routes of a picture's best plan, and their cost."""
    opened = {level: np.zeros(plan.choice.shape, bool) for level, plan in plans.levels.items()}
    opened[layout.levels[-1]][:] = True
    routes: list[Route] = []
    for level in reversed(layout.levels):
        plan, costs = plans.levels[level], windows[level]
        for axis, choice in enumerate((_ABOVE, _BESIDE)):
            divided = opened[level] & (plan.choice == choice)
            if divided.any():
                opened[_half(level, axis)] |= divided.repeat(2, axis)
        here = opened[level] & (plan.choice == _WHOLE) & (costs[..., 0] > 0)
        for row, column in np.argwhere(here):
            tile, index = layout.tile(level, int(row), int(column)), int(plan.classes[row, column])
            routes.append(Route(tile, index, float(costs[row, column, index])))
    return routes, plans.cost


@dataclass(frozen=True, slots=True)
class _Plan:
    """All rectangles of a level: what is best done with each.

    Attributes:
        values: Sums of the logits, (rows, columns, classes).
        gain: Value of the best plan less the penalty on its cost.
        cost: Its multiply-accumulates.
        choice: Whether it leaves the rectangle whole, or how it divides it.
        classes: The best class of the whole rectangle.
    """

    values: NDArray[np.float64]
    gain: NDArray[np.float64]
    cost: NDArray[np.float64]
    choice: NDArray[np.int64]
    classes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Plans:
    """The plans of all levels, and the cost of the picture."""

    levels: dict[Level, _Plan]
    cost: float


_Windows = Mapping[Level, NDArray[np.float64]]
"""Multiply-accumulates of every window of a level by class, (rows, columns, classes)."""


def _best_plans(values: NDArray[np.float64], windows: _Windows, price: float) -> _Plans:
    """Find the plans of the highest value less the price of their windows.

    Args:
        values: What a branch is worth to a cell, (rows, columns, classes).
        windows: What windows cost; the parts of each level come before it.
        price: Of a multiply-accumulate.
    """
    plans: dict[Level, _Plan] = {}
    for level, costs in windows.items():
        halves = {axis: plans[_half(level, axis)] for axis in (0, 1) if level[axis]}
        if halves:
            axis, half = next(iter(halves.items()))
            sums = _paired(half.values, axis).sum(axis + 1)
        else:
            sums = np.zeros(costs.shape)
            sums[: values.shape[0], : values.shape[1]] = values
        gains = sums - price * costs
        classes = gains.argmax(2)
        gain, cost = np.full((2, 3, *classes.shape), -np.inf)
        gain[_WHOLE] = gains.max(2)
        cost[_WHOLE] = np.take_along_axis(costs, classes[..., None], 2)[..., 0]
        for axis, half in halves.items():
            way = (_ABOVE, _BESIDE)[axis]
            gain[way] = _paired(half.gain, axis).sum(axis + 1)
            cost[way] = _paired(half.cost, axis).sum(axis + 1)
        choice = gain.argmax(0)
        cost = np.take_along_axis(cost, choice[None], 0)[0]
        plans[level] = _Plan(sums, gain.max(0), cost, choice, classes)
    return _Plans(plans, float(plans[max(windows)].cost.sum()))


def _half(level: Level, axis: int) -> Level:
    return (level[0] - 1, level[1]) if axis == 0 else (level[0], level[1] - 1)


def _paired(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Neighbors along an axis of (rows, columns, ...) as one more axis after it."""
    rows, columns = values.shape[:2]
    shape = (rows // 2, 2, columns) if axis == 0 else (rows, columns // 2, 2)
    return values.reshape(*shape, *values.shape[2:])


def check_largest(largest: int, cell: int) -> int:
    """Return a limit on the side of rectangles as the next lower ``cell`` times a power of two.

    Raises:
        UsageError: It is smaller than a cell.
    """
    if largest < cell:
        raise UsageError(
            f"a tile of {largest} pixels is smaller than a patch", hint=f"--tile {cell} or more"
        )
    return cell << int(math.log2(largest // cell))
