"""Cells judged as the Class-Module judges them one by one, and the cheapest windows around them."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_classsr import router
from lowvis_classsr.data import edge_map
from lowvis_classsr.model import Classifier
from lowvis_classsr.router import (
    Layout,
    Logits,
    Route,
    check_largest,
    choose_classes,
    classifier_logits,
    edge_logits,
    fit_penalty,
    plan_routes,
)
from lowvis_shared.errors import UsageError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.testing.pictures import photo
from numpy.typing import NDArray
from torch import Tensor

COSTS = (10.0, 17.0, 24.0)
"""About those of FSRCNN's branches, relative to each other."""

SIZES = [(64, 96), (65, 33), (1, 1), (1, 70), (31, 3), (40, 100), (5, 6)]


def lively_classifier(classes: int = 3) -> Classifier:
    """A Class-Module whose every layer matters, with logits apart."""
    torch.manual_seed(classes)
    classifier = Classifier(classes).eval().requires_grad_(False)
    for parameter in classifier.CondNet.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape))
    classifier.lastOut.weight.mul_(10)
    return classifier


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return to_tensor(Picture(photo(height, width, seed=seed)))


def cells_of(image: Tensor, cell: int) -> list[list[Tensor]]:
    """Cut a picture into its cells; those at the border are what is there."""
    height, width = image.shape[2:]
    return [
        [image[:, :, top : top + cell, left : left + cell] for left in range(0, width, cell)]
        for top in range(0, height, cell)
    ]


def judged_one_by_one(classifier: Classifier, image: Tensor, cell: int) -> Logits:
    """What the Class-Module says of each cell alone, its border repeated up to whole blocks."""

    def judge(part: Tensor) -> NDArray[np.float32]:
        missing = (0, -part.shape[3] % 4, 0, -part.shape[2] % 4)
        return classifier(F.pad(part, missing, mode="replicate"))[0].numpy()

    return np.array([[judge(part) for part in row] for row in cells_of(image, cell)])


# --- judging --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [8, 32])
@pytest.mark.parametrize("size", SIZES)
def test_one_pass_judges_every_cell_as_if_alone(size: tuple[int, int], cell: int) -> None:
    classifier, image = lively_classifier(), picture(*size)
    found = classifier_logits(classifier, image, cell)
    expected = judged_one_by_one(classifier, image, cell)
    assert found.dtype == np.float32
    assert found.shape == (-(-size[0] // cell), -(-size[1] // cell), 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("cell", "every"), [(16, 2), (32, 2), (24, 3)])
@pytest.mark.parametrize("size", SIZES)
def test_some_blocks_vote_for_all(size: tuple[int, int], cell: int, every: int) -> None:
    classifier, image = lively_classifier(), picture(*size)
    found = classifier_logits(classifier, image, cell, every=every)
    height, width = (-(-each // 4) for each in size)
    missing = (0, 4 * width - size[1], 0, 4 * height - size[0])
    blocks = classifier.block_logits(F.pad(image, missing, mode="replicate"))[
        :, :, ::every, ::every
    ]
    kernel = cell // 4 // every
    means = F.avg_pool2d(blocks, kernel, ceil_mode=True, count_include_pad=False)
    assert found.shape == (-(-size[0] // cell), -(-size[1] // cell), 3)
    np.testing.assert_allclose(found, means[0].permute(1, 2, 0), rtol=0, atol=1e-5)


def test_cells_are_judged_apart() -> None:
    """What the test above would miss if all logits were about the same."""
    logits = classifier_logits(lively_classifier(), picture(64, 96), 32)
    assert np.ptp(logits, axis=(0, 1)).min() > 0.01


@pytest.mark.parametrize("classes", [2, 5])
def test_any_number_of_classes_is_judged(classes: int) -> None:
    found = classifier_logits(lively_classifier(classes), picture(40, 20), 16)
    assert found.shape == (3, 2, classes)


@pytest.mark.parametrize("height", [1, 63, 64, 65, 130])
def test_strips_change_nothing(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, image = lively_classifier(), picture(height, 50)
    whole = classifier_logits(classifier, image, 24)
    monkeypatch.setattr(router, "_STRIP", 64)  # 48 rows, whole cells, at once
    shapes: list[int] = []
    judge = classifier.block_logits

    def watch(strip: Tensor, every: int) -> Tensor:
        shapes.append(strip.shape[2])
        return judge(strip, every)

    monkeypatch.setattr(classifier, "block_logits", watch)
    np.testing.assert_allclose(classifier_logits(classifier, image, 24), whole, atol=1e-6)
    assert len(shapes) == -(-height // 48)
    assert max(shapes) <= 48


@pytest.mark.parametrize("cell", [8, 32])
@pytest.mark.parametrize("size", SIZES)
def test_edges_put_a_cell_between_the_thresholds_of_its_mean(
    size: tuple[int, int], cell: int
) -> None:
    image = picture(*size)
    edges = torch.from_numpy(edge_map(image[0].permute(1, 2, 0).numpy()))[None, None]
    means = np.array([[float(part.mean()) for part in row] for row in cells_of(edges, cell)])
    thresholds = (np.quantile(means, [0.3, 0.6]) + np.array([1e-4, 2e-4])).tolist()
    apart = np.abs(means[..., None] - thresholds).min()
    assert apart > 1e-6  # else rounding decides
    found = edge_logits(image, thresholds, cell)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.argmax(2), np.searchsorted(thresholds, means))


def test_a_flat_picture_has_no_edges_and_is_simple() -> None:
    flat = torch.full((1, 3, 20, 20), 0.5)
    assert (edge_logits(flat, [0.0, 0.1], 8).argmax(2) == 0).all()
    assert np.isfinite(edge_logits(flat, [0.0, 0.1], 8)).all()


def test_a_penalty_takes_costs_off_the_logits() -> None:
    logits = np.array([[[0.0, 1.0, 1.5], [3.0, 1.0, 0.0]]], np.float32)
    assert choose_classes(logits, COSTS).tolist() == [[2, 0]]
    # 7/24 of the penalty stands between two classes.
    assert choose_classes(logits, COSTS, 0.49 * 24 / 7).tolist() == [[2, 0]]
    assert choose_classes(logits, COSTS, 0.51 * 24 / 7).tolist() == [[1, 0]]
    assert choose_classes(logits, COSTS, 1.01 * 24 / 7).tolist() == [[0, 0]]
    assert choose_classes(logits, COSTS, -3.1 * 24 / 14).tolist() == [[2, 2]]


# --- planning -------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn, cells: int = 6, levels: int = 3) -> Layout:
    cell = draw(st.sampled_from([4, 8]))
    return Layout(
        height=draw(st.integers(1, cells * cell)),
        width=draw(st.integers(1, cells * cell)),
        cell=cell,
        largest=cell << draw(st.integers(0, levels)),
        halo=draw(st.integers(0, 6)),
    )


def draw_classes(data: st.DataObject, layout: Layout) -> NDArray[np.int64]:
    """Classes that lie together, as they do in pictures, more often than not."""
    rows, columns = layout.grid
    base = data.draw(st.integers(0, 2))
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1), st.integers(0, 2))
    classes = np.full((rows, columns), base, np.int64)
    for row, column, index in data.draw(st.lists(places, max_size=rows * columns)):
        classes[row, column] = index
    return classes


def total_of(routes: Sequence[Route], costs: Sequence[float] = COSTS) -> float:
    """Multiply-accumulates of routes, from their windows alone."""
    return sum(route.tile.pixels * costs[route.index] for route in routes)


@given(layouts(), st.data())
@settings(max_examples=150, deadline=None)
def test_routes_cover_every_pixel_once_with_its_class_or_a_harder_one(
    layout: Layout, data: st.DataObject
) -> None:
    classes = draw_classes(data, layout)
    routes, total = plan_routes(classes, layout, COSTS)
    covered = np.zeros((layout.height, layout.width), int)
    given_class = np.full(covered.shape, -1)
    for route in routes:
        tile = route.tile
        covered[tile.core_rows, tile.core_columns] += 1
        given_class[tile.core_rows, tile.core_columns] = route.index
        assert max(tile.core_size) <= layout.largest
        for core, window, size in (
            (tile.core_rows, tile.rows, layout.height),
            (tile.core_columns, tile.columns, layout.width),
        ):
            assert window.start == max(0, core.start - layout.halo)
            assert window.stop == min(size, core.stop + layout.halo)
    assert (covered == 1).all()
    asked = classes.repeat(layout.cell, 0).repeat(layout.cell, 1)
    assert (given_class >= asked[: layout.height, : layout.width]).all()
    # A tile is as hard as its hardest cell, no harder.
    for route in routes:
        core = asked[: layout.height, : layout.width][route.tile.core_rows, route.tile.core_columns]
        assert core.max() == route.index
    assert total == pytest.approx(total_of(routes), rel=1e-12)


@given(layouts(), st.data())
@settings(max_examples=60, deadline=None)
def test_joining_is_never_dearer_than_not_joining(layout: Layout, data: st.DataObject) -> None:
    classes = draw_classes(data, layout)
    totals: list[float] = []
    for level in range(layout.levels + 1):
        limited = Layout(
            height=layout.height,
            width=layout.width,
            cell=layout.cell,
            largest=layout.cell << level,
            halo=layout.halo,
        )
        totals.append(plan_routes(classes, limited, COSTS)[1])
    assert totals == sorted(totals, reverse=True)


Square = tuple[int, int, int]
"""Side, top and left, in cells."""


def divisions(side: int, top: int, left: int) -> Iterator[tuple[Square, ...]]:
    """All ways to divide a square of cells: into itself, or into those of its quarters."""
    yield ((side, top, left),)
    if side > 1:
        half = side // 2
        corners = product((top, top + half), (left, left + half))
        parts = [list(divisions(half, row, column)) for row, column in corners]
        for chosen in product(*parts):
            yield tuple(square for part in chosen for square in part)


def cost_of(square: Square, classes: NDArray[np.int64], layout: Layout) -> float:
    """Cost of the window around a square; nothing where it lies outside of the picture."""
    side, top, left = square
    inside = classes[top : top + side, left : left + side]
    if not inside.size:
        return 0.0
    area = 1
    for first, size in ((top, layout.height), (left, layout.width)):
        start, stop = first * layout.cell, min((first + side) * layout.cell, size)
        area *= min(stop + layout.halo, size) - max(start - layout.halo, 0)
    return area * COSTS[int(inside.max())]


@given(layouts(cells=5, levels=2), st.data())
@settings(max_examples=100, deadline=None)
def test_no_other_division_is_cheaper(layout: Layout, data: st.DataObject) -> None:
    classes = draw_classes(data, layout)
    side = layout.largest // layout.cell
    rows, columns = layout.grid
    best = 0.0
    for top, left in product(range(0, rows, side), range(0, columns, side)):
        best += min(
            sum(cost_of(square, classes, layout) for square in division)
            for division in divisions(side, top, left)
        )
    assert plan_routes(classes, layout, COSTS)[1] == pytest.approx(best, rel=1e-12)


def test_equal_cells_are_joined_and_an_odd_one_is_left_alone() -> None:
    layout = Layout(height=128, width=128, cell=32, largest=64, halo=4)
    classes = np.zeros((4, 4), np.int64)
    assert len(plan_routes(classes, layout, COSTS)[0]) == 4
    classes[0, 0] = 2
    routes, _ = plan_routes(classes, layout, COSTS)
    assert [route.index for route in routes].count(2) == 1
    assert len(routes) == 7
    # With much context to waste, the neighbors are better taken along.
    wide = Layout(height=128, width=128, cell=32, largest=64, halo=32)
    routes, _ = plan_routes(classes, wide, COSTS)
    assert len(routes) == 4


# --- budgets --------------------------------------------------------------------------------------


def judged(layout: Layout, seed: int, spread: float = 1.0) -> Logits:
    random = np.random.default_rng(seed)
    return (spread * random.standard_normal((*layout.grid, 3))).astype(np.float32)


def spent(logits: Logits, layout: Layout, penalty: float) -> float:
    return plan_routes(choose_classes(logits, COSTS, penalty), layout, COSTS)[1]


@given(layouts(), st.integers(0, 1000), st.floats(0.0, 1.2), st.sampled_from([0.01, 1.0, 30.0]))
@settings(max_examples=100, deadline=None)
def test_a_budget_is_kept_and_used_up_to_one_decision(
    layout: Layout, seed: int, share: float, spread: float
) -> None:
    logits = judged(layout, seed, spread)
    dearest = total_of(plan_routes(np.full(layout.grid, 2), layout, COSTS)[0])
    cheapest = plan_routes(np.zeros(layout.grid, np.int64), layout, COSTS)[1]
    most = share * dearest
    penalty = fit_penalty(logits, layout, COSTS, most)
    if cheapest > most:
        assert penalty == math.inf
        return
    assert spent(logits, layout, penalty) <= most
    if dearest <= most:
        assert spent(logits, layout, penalty) == dearest  # all that can be bought
        return
    # A little less penalty, and with it one more decision the other way, exceeds the budget.
    assert spent(logits, layout, penalty - 1e-6 * max(1.0, spread)) > most


@given(layouts(), st.integers(0, 1000), st.lists(st.floats(0.2, 1.2), min_size=2, max_size=5))
@settings(max_examples=60, deadline=None)
def test_more_budget_never_buys_less(layout: Layout, seed: int, shares: list[float]) -> None:
    logits = judged(layout, seed)
    full = COSTS[-1] * layout.height * layout.width
    penalties = [fit_penalty(logits, layout, COSTS, share * full) for share in sorted(shares)]
    assert penalties == sorted(penalties, reverse=True)
    affordable = [each for each in penalties if each != math.inf]
    costs = [spent(logits, layout, each) for each in affordable]
    assert costs == sorted(costs)


def test_where_all_is_affordable_every_cell_gets_the_original() -> None:
    layout = Layout(height=64, width=64, cell=8, largest=32, halo=4)
    logits = judged(layout, 0)
    logits[..., 0] += 5  # the classes ask for the simplest
    penalty = fit_penalty(logits, layout, COSTS, math.inf)
    assert penalty < 0
    assert (choose_classes(logits, COSTS, penalty) == 2).all()


def test_nothing_is_affordable_for_nothing() -> None:
    layout = Layout(height=64, width=64, cell=8, largest=32, halo=4)
    logits = judged(layout, 0)
    cheapest = plan_routes(np.zeros(layout.grid, np.int64), layout, COSTS)[1]
    assert fit_penalty(logits, layout, COSTS, cheapest) < math.inf
    for most in (cheapest - 1, 0.0, -5.0):
        assert fit_penalty(logits, layout, COSTS, most) == math.inf


# --- the limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "cell", "expected"),
    [(32, 32, 32), (63, 32, 32), (64, 32, 64), (128, 32, 128), (255, 32, 128), (100, 24, 96)],
)
def test_a_limit_is_a_doubled_cell(asked: int, cell: int, expected: int) -> None:
    assert check_largest(asked, cell) == expected


@pytest.mark.parametrize("asked", [31, 1, 0, -5])
def test_a_limit_below_a_cell_is_refused(asked: int) -> None:
    with pytest.raises(UsageError, match=f"{asked} pixels") as caught:
        check_largest(asked, 32)
    assert caught.value.hint == "--tile 32 or more"


def test_levels_of_a_layout() -> None:
    values: dict[str, Any] = {"height": 100, "width": 30, "cell": 24, "halo": 0}
    assert Layout(**values, largest=24).levels == 0
    assert Layout(**values, largest=192).levels == 3
    assert Layout(**values, largest=24).grid == (5, 2)
