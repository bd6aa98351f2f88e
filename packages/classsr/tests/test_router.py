"""Cells judged as the Class-Module judges them one by one, and the cheapest windows around them."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_classsr import router
from lowvis_classsr.cost import WindowCosts
from lowvis_classsr.data import edge_map
from lowvis_classsr.model import Classifier
from lowvis_classsr.router import (
    Layout,
    Logits,
    Route,
    check_largest,
    classifier_logits,
    edge_logits,
    plan_routes,
)
from lowvis_shared.errors import UsageError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.testing.pictures import photo
from numpy.typing import NDArray
from torch import Tensor

BODY, TAIL = (6.5, 8.5, 10.5), (4.0, 9.0, 13.5)
"""About those of FSRCNN's branches: what is done with all of the context, and with a quarter."""

COSTS = tuple(body + tail for body, tail in zip(BODY, TAIL, strict=True))
"""What a pixel costs without context."""

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


def asking(classes: NDArray[np.int64]) -> Logits:
    """Logits of cells that want these classes."""
    return np.eye(3, dtype=np.float32)[classes]


def costs_of(layout: Layout) -> WindowCosts:
    """What layers cost by the context that they compute."""
    return {float(layout.halo): BODY, layout.halo / 4: TAIL} if layout.halo else {0.0: COSTS}


def total_of(routes: Sequence[Route], layout: Layout) -> float:
    """Multiply-accumulates of routes, from their windows alone."""
    total = 0.0
    for route in routes:
        core = route.tile.core_rows, route.tile.core_columns
        for context, costs in costs_of(layout).items():
            height, width = (
                min(each.stop + context, size) - max(each.start - context, 0)
                for each, size in zip(core, (layout.height, layout.width), strict=True)
            )
            total += height * width * costs[route.index]
    return total


@given(layouts(), st.data())
@settings(max_examples=150, deadline=None)
def test_routes_cover_every_pixel_once_with_its_class_or_a_harder_one(
    layout: Layout, data: st.DataObject
) -> None:
    classes = draw_classes(data, layout)
    routes, total = plan_routes(asking(classes), layout, costs_of(layout))
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
    assert total == pytest.approx(total_of(routes, layout), rel=1e-12)
    for route in routes:
        assert route.macs == pytest.approx(total_of([route], layout), rel=1e-12)


@given(layouts(), st.data())
@settings(max_examples=60, deadline=None)
def test_joining_is_never_dearer_than_not_joining(layout: Layout, data: st.DataObject) -> None:
    classes = draw_classes(data, layout)
    totals: list[float] = []
    for level in range(layout.doublings + 1):
        limited = Layout(
            height=layout.height,
            width=layout.width,
            cell=layout.cell,
            largest=layout.cell << level,
            halo=layout.halo,
        )
        totals.append(plan_routes(asking(classes), limited, costs_of(limited))[1])
    assert totals == sorted(totals, reverse=True)


Rectangle = tuple[int, int, int, int]
"""Height, width, top and left, in cells."""


@cache
def divisions(height: int, width: int, top: int, left: int) -> frozenset[frozenset[Rectangle]]:
    """All ways to divide a rectangle of cells: into itself, or into those of two halves."""
    found = {frozenset([(height, width, top, left)])}
    for halves in (
        [(height // 2, width, top, left), (height // 2, width, top + height // 2, left)],
        [(height, width // 2, top, left), (height, width // 2, top, left + width // 2)],
    ):
        if halves[0][0] and halves[0][1]:
            parts = [divisions(*half) for half in halves]
            found |= {first | second for first, second in product(*parts)}
    return frozenset(found)


def costs_at(rectangle: Rectangle, layout: Layout) -> list[float]:
    """Cost of a rectangle by class; nothing where it lies outside of the picture."""
    height, width, top, left = rectangle
    total = np.zeros(len(COSTS))
    for context, costs in costs_of(layout).items():
        area = 1.0
        for first, cells, size in ((top, height, layout.height), (left, width, layout.width)):
            start, stop = first * layout.cell, min((first + cells) * layout.cell, size)
            area *= min(stop + context, size) - max(start - context, 0) if start < size else 0
        total += area * np.array(costs)
    return total.tolist()


def cost_of(rectangle: Rectangle, classes: NDArray[np.int64], layout: Layout) -> float:
    """Cost of a rectangle whose cells want these classes."""
    height, width, top, left = rectangle
    inside = classes[top : top + height, left : left + width]
    return costs_at(rectangle, layout)[int(inside.max(initial=0))]


@given(layouts(cells=5, levels=2), st.data())
@settings(max_examples=100, deadline=None)
def test_no_other_division_is_cheaper(layout: Layout, data: st.DataObject) -> None:
    classes = draw_classes(data, layout)
    side = layout.largest // layout.cell
    rows, columns = layout.grid
    best = 0.0
    for top, left in product(range(0, rows, side), range(0, columns, side)):
        best += min(
            sum(cost_of(each, classes, layout) for each in division)
            for division in divisions(side, side, top, left)
        )
    assert plan_routes(asking(classes), layout, costs_of(layout))[1] == pytest.approx(
        best, rel=1e-12
    )


def test_equal_cells_are_joined_and_an_odd_one_is_left_alone() -> None:
    layout = Layout(height=128, width=128, cell=32, largest=64, halo=4)
    classes = np.zeros((4, 4), np.int64)
    assert len(plan_routes(asking(classes), layout, costs_of(layout))[0]) == 4
    classes[0, 0] = 2
    routes, _ = plan_routes(asking(classes), layout, costs_of(layout))
    assert [route.index for route in routes].count(2) == 1
    assert len(routes) == 6, "the odd one's neighbors are a pair and another"
    # With much context to waste, the neighbors are better taken along.
    wide = Layout(height=128, width=128, cell=32, largest=64, halo=32)
    routes, _ = plan_routes(asking(classes), wide, costs_of(wide))
    assert len(routes) == 4


# --- budgets --------------------------------------------------------------------------------------


def judged(layout: Layout, seed: int, spread: float = 1.0) -> Logits:
    random = np.random.default_rng(seed)
    return (spread * random.standard_normal((*layout.grid, 3))).astype(np.float32)


def value_of(routes: Sequence[Route], logits: Logits, layout: Layout) -> float:
    """Sum over cells of the largest logit of their branch and of those below it."""
    total = 0.0
    for route in routes:
        rows, columns = (
            range(core.start // layout.cell, -(-core.stop // layout.cell))
            for core in (route.tile.core_rows, route.tile.core_columns)
        )
        total += sum(logits[at][: route.index + 1].max() for at in product(rows, columns))
    return float(total)


@given(layouts(), st.integers(0, 1000), st.floats(0.0, 1.2), st.sampled_from([0.01, 1.0, 30.0]))
@settings(max_examples=100, deadline=None)
def test_a_budget_is_kept(layout: Layout, seed: int, share: float, spread: float) -> None:
    logits = judged(layout, seed, spread)
    wide = np.zeros(layout.grid, np.int64)
    dearest = plan_routes(asking(wide + 2), layout, costs_of(layout))[1]
    cheapest = plan_routes(asking(wide), layout, costs_of(layout))[1]
    most = share * dearest
    routes, total = plan_routes(logits, layout, costs_of(layout), most)
    assert total == pytest.approx(total_of(routes, layout), rel=1e-12)
    if cheapest > most:
        assert total == cheapest
    elif dearest <= most:
        assert total == dearest, "all that can be bought"
    else:
        assert total <= most


def best_under(penalty: float, logits: Logits, layout: Layout) -> tuple[float, float]:
    """Value and cost of the best windows and classes, found by trying all of them."""
    useful = np.maximum.accumulate(logits.astype(float), axis=2)
    price = penalty / (COSTS[-1] * layout.cell**2)
    side = layout.largest // layout.cell
    rows, columns = layout.grid

    @cache
    def best_class(rectangle: Rectangle) -> tuple[float, float, float]:
        height, width, top, left = rectangle
        values = useful[top : top + height, left : left + width].sum((0, 1))
        costs = costs_at(rectangle, layout)
        return max((v - price * c, v, c) for v, c in zip(values, costs, strict=True))

    value = cost = 0.0
    for top, left in product(range(0, rows, side), range(0, columns, side)):
        parts = max(
            (
                [best_class(each) for each in division]
                for division in divisions(side, side, top, left)
            ),
            key=lambda found: sum(gain for gain, _, _ in found),
        )
        value += sum(each for _, each, _ in parts)
        cost += sum(each for _, _, each in parts)
    return value, cost


@given(layouts(cells=5, levels=2), st.integers(0, 1000), st.floats(0.01, 10.0))
@settings(max_examples=60, deadline=None)
def test_nothing_better_is_to_be_had_for_what_the_best_costs(
    layout: Layout, seed: int, penalty: float
) -> None:
    logits = judged(layout, seed)
    value, cost = best_under(penalty, logits, layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(router, "_SPENT", 1.0)
        routes, total = plan_routes(logits, layout, costs_of(layout), cost * (1 + 1e-9))
    assert total <= cost * (1 + 1e-9)
    assert value_of(routes, logits, layout) >= value - 1e-4


def test_a_budget_is_used_in_small_pictures() -> None:
    """Four cells, of which the best plans of all budgets would serve all or none."""
    layout = Layout(height=64, width=64, cell=32, largest=64, halo=4)
    logits = asking(np.full((2, 2), 2)) + judged(layout, 0, 0.01)
    dearest = plan_routes(logits, layout, costs_of(layout))[1]
    routes, total = plan_routes(logits, layout, costs_of(layout), 0.95 * dearest)
    assert 0.6 * dearest < total <= 0.95 * dearest
    assert {route.index for route in routes} > {0}


def test_where_all_is_affordable_every_cell_gets_the_original() -> None:
    layout = Layout(height=64, width=64, cell=8, largest=32, halo=4)
    logits = judged(layout, 0)
    logits[..., 0] += 5  # the classes ask for the simplest
    routes, _ = plan_routes(logits, layout, costs_of(layout), math.inf)
    assert {route.index for route in routes} == {2}


def test_for_too_little_there_is_the_simplest_branch() -> None:
    layout = Layout(height=64, width=64, cell=8, largest=32, halo=4)
    logits = judged(layout, 0)
    cheapest = plan_routes(asking(np.zeros((8, 8), np.int64)), layout, costs_of(layout))[1]
    for most in (cheapest, cheapest - 1, 0.0, -5.0):
        routes, total = plan_routes(logits, layout, costs_of(layout), most)
        assert {route.index for route in routes} == {0}
        assert total == cheapest


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
    assert Layout(**values, largest=24).levels == [(0, 0)]
    layout = Layout(**values, largest=192)
    assert layout.doublings == 3
    assert sorted(layout.levels) == list(product(range(4), repeat=2))
    # 24 x 30 pixels are left of the last row and column: nothing is outside of the picture.
    areas = layout.areas((2, 0), 0)
    assert areas.tolist() == [[96 * 24, 96 * 6] + 6 * [0], [4 * 24, 4 * 6] + 6 * [0]]
    areas = layout.areas((2, 0), 0.5)
    assert areas[:, :2].tolist() == [[96.5 * 24.5, 96.5 * 6.5], [4.5 * 24.5, 4.5 * 6.5]]
    assert not areas[:, 2:].any()
    assert Layout(**values, largest=24).grid == (5, 2)
