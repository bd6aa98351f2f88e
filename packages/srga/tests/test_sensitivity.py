"""How the index moves with patches, axes, layer and size: one choice at a time."""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from lowvis_shared.errors import InputError, UsageError
from lowvis_srga.conditions import open_sets
from lowvis_srga.features import Tap, plain_picture, tap_module
from lowvis_srga.patches import PatchSet
from lowvis_srga.scoring import Settings, score
from lowvis_srga.sensitivity import Line, Sensitivity, Variations, measure
from torch import Tensor, nn
from torch.nn import functional as F

SCALE, SIZE, COUNT = 4, 32, 24
USUAL = Variations(
    patches=(8, 16, COUNT), dimensions=(4, 9, 20), layers=("auto", "output"), sizes=(SIZE, 16)
)
BLOCKS = ["patches"] * 3 + ["axes"] * 3 + ["layer"] * 2 + ["size"] * 2


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.head = nn.Conv2d(3, 6, 3, padding=1)
            self.tail = nn.Conv2d(6, 3 * SCALE**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(F.relu(self.head(image))), SCALE)


class Diverging(Small):
    """Gives patches that are rougher than the bound a value that no picture has."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, image: Tensor) -> Tensor:
        bad = rough(image) > self.bound
        return torch.where(bad[:, None, None, None], math.nan, super().forward(image))


def rough(image: Tensor) -> Tensor:
    return (image[..., 1:] - image[..., :-1]).abs().mean(dim=(1, 2, 3))


def open_small(kind: Callable[[], nn.Module] = Small, *, layer: str, side: int) -> Tap:
    return tap_module(
        kind(),
        name="small",
        layer=layer,
        scale=SCALE,
        device=torch.device("cpu"),
        example=plain_picture(side),
    )


def sets_of(names: str, count: int, size: int) -> Sequence[PatchSet]:
    return open_sets(names, patches=count, size=size, scale=SCALE, seed=1)[0]


def measured(kind: Callable[[], nn.Module] = Small, **options: Any) -> Sensitivity:
    return measure(
        partial(open_small, kind),
        partial(sets_of, options.pop("names", "clean,blur2,noise20")),
        options.pop("variations", USUAL),
        **options,
    )


def roughness(patches: PatchSet) -> Tensor:
    return rough(torch.from_numpy(patches.low).permute(0, 3, 1, 2).float() / 255)


@pytest.fixture(scope="module")
def bound() -> float:
    """Between the three roughest patches of noise20 and all others, of all sets."""
    clean, blur, noise = (roughness(each) for each in sets_of("clean,blur2,noise20", COUNT, SIZE))
    values = torch.sort(noise, descending=True).values
    found = float(values[2:4].mean())
    assert found > max(float(clean.max()), float(blur.max()))
    return found


@pytest.fixture(scope="module")
def table() -> Sensitivity:
    return measured()


def one(table: Sensitivity, choice: str, value: str) -> Line:
    return next(each for each in table.lines if (each.choice, each.value) == (choice, value))


def test_every_choice_is_a_block_and_changes_one_thing(table: Sensitivity) -> None:
    assert (table.network, table.sets) == ("small", ("blur2", "noise20"))
    assert [line.choice for line in table.lines] == BLOCKS
    assert [(line.value, line.patches, line.dimensions) for line in table.lines] == [
        ("8", 8, 3),  # axes in proportion, as everywhere
        ("16", 16, 6),
        ("24", 24, 9),
        ("4", 24, 4),
        ("9", 24, 9),
        ("20", 24, 20),
        ("input of tail", 24, 9),
        ("output", 24, 9),
        ("32x32", 24, 9),
        ("16x16", 24, 9),
    ]


def test_the_usual_choice_is_marked_and_the_same_in_all_blocks(table: Sensitivity) -> None:
    usual = [line for line in table.lines if line.usual]
    assert [line.choice for line in usual] == ["patches", "axes", "layer", "size"]
    assert len({line.indices for line in usual}) == 1
    assert all(value is not None for value in usual[0].indices)
    others = {line.indices for line in table.lines if not line.usual}
    assert usual[0].indices not in others
    assert len(others) == len(table.lines) - 4  # each choice has its own values


@pytest.mark.parametrize(
    ("choice", "value", "layer", "count", "size", "dimensions"),
    [
        ("patches", "16", "auto", 24, 32, 6),
        ("axes", "20", "auto", 24, 32, 20),
        ("layer", "output", "output", 24, 32, 9),
        ("size", "16x16", "auto", 24, 16, 9),
    ],
)
def test_each_value_is_that_of_a_scoring_with_this_choice(
    table: Sensitivity,
    choice: str,
    value: str,
    layer: str,
    count: int,
    size: int,
    dimensions: int,
) -> None:
    sets = sets_of("clean,blur2,noise20", count, size)
    if choice == "patches":
        sets = [each.first(16) for each in sets]
    (network,) = score(
        {"small": partial(open_small, layer=layer, side=size // SCALE)},
        sets,
        Settings(bootstrap=0, dimensions=dimensions),
    ).networks
    assert network.problem == ""
    expected = [each.value for each in network.sets]
    assert list(one(table, choice, value).indices) == [pytest.approx(each) for each in expected]


def test_rows_are_marked_texts(table: Sensitivity) -> None:
    headings, rows = table.as_rows()
    assert headings == ["changed", "to", "patches", "axes", "blur2", "noise20"]
    assert [row[0] for row in rows] == BLOCKS
    assert [row[1] for row in rows if row[1].endswith(" *")] == [
        "24 *",
        "9 *",
        "input of tail *",
        "32x32 *",
    ]
    first = table.lines[0]
    assert rows[0] == ["patches", "8", "8", "3", *(f"{each:.2f}" for each in first.indices)]


def test_all_of_it_is_json(table: Sensitivity) -> None:
    told = json.loads(json.dumps(table.as_dict()))
    assert told["sets"] == ["blur2", "noise20"]
    assert [tuple(each["indices"]) for each in told["lines"]] == [
        line.indices for line in table.lines
    ]


def test_sets_on_which_a_network_diverges_have_no_index(bound: float) -> None:
    table = measured(partial(Diverging, bound))
    usual = next(line for line in table.lines if line.usual)
    assert usual.indices[0] is not None
    assert usual.indices[1] is None
    _, rows = table.as_rows()
    assert [row[-1] for row in rows if row[1].endswith("*")] == ["diverges"] * 4


def test_fewer_patches_may_have_an_index_where_all_have_none(bound: float) -> None:
    (_, noise) = sets_of("clean,noise20", COUNT, SIZE)
    first = int((roughness(noise) > bound).nonzero().min())
    assert first > 2, "another seed has diverging patches that come later"
    variations = Variations((first, COUNT), (4,), ("auto",), (SIZE,))
    table = measured(partial(Diverging, bound), variations=variations)
    assert one(table, "patches", str(first)).indices[1] is not None
    assert one(table, "patches", str(COUNT)).indices[1] is None


def test_diverged_patches_are_left_out_on_request(bound: float) -> None:
    variations = Variations((COUNT,), (9, 23), ("auto",), (SIZE,))
    network = partial(Diverging, bound)
    table = measured(network, variations=variations, drop_diverged=True)
    # The 21 patches that are left have no 23 axes: the index is that of as many as there are.
    assert all(value is not None for line in table.lines for value in line.indices)
    assert one(table, "axes", "23").indices[1] != one(table, "axes", "9").indices[1]


def test_any_set_may_be_the_reference(table: Sensitivity) -> None:
    other = measured(reference="blur2")
    assert other.sets == ("clean", "noise20")
    assert other.lines[0].indices != table.lines[0].indices
    with pytest.raises(UsageError, match="no reference set 'cleen'"):
        measured(reference="cleen")


def test_the_network_runs_once_for_each_layer_and_size_and_that_is_the_progress() -> None:
    opened: list[tuple[str, int]] = []
    seen: list[tuple[int, int]] = []

    def opener(*, layer: str, side: int) -> Tap:
        opened.append((layer, side))
        return open_small(layer=layer, side=side)

    measure(opener, partial(sets_of, "clean,blur2"), USUAL, progress=lambda *at: seen.append(at))
    assert opened == [("auto", 8), ("output", 8), ("auto", 4)]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_set_of_one_value_each_is_a_table_too() -> None:
    variations = Variations((COUNT,), (9,), ("output",), (SIZE,))
    table = measured(names="clean,blur2", variations=variations)
    assert [(line.choice, line.usual) for line in table.lines] == [
        (choice, True) for choice in ("patches", "axes", "layer", "size")
    ]
    assert len({line.indices for line in table.lines}) == 1


@pytest.mark.parametrize("patches", [(24, 12), (12, 12), (8, 24, 16)])
def test_numbers_of_patches_have_to_rise(patches: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="rise"):
        Variations(patches, (4,), ("auto",), (SIZE,))


@pytest.mark.parametrize("missing", ["patches", "dimensions", "layers", "sizes"])
def test_nothing_of_a_kind_is_refused(missing: str) -> None:
    options: dict[str, Any] = {
        "patches": (8,),
        "dimensions": (4,),
        "layers": ("auto",),
        "sizes": (SIZE,),
    }
    with pytest.raises(UsageError, match="at least one"):
        Variations(**{**options, missing: ()})


def test_more_axes_than_patches_are_refused_before_the_work() -> None:
    def never(*, layer: str, side: int) -> Tap:
        raise AssertionError("the network was opened")

    variations = Variations((8, 16), (4, 17), ("auto",), (SIZE,))
    with pytest.raises(InputError, match="16 patches have no 17 principal axes"):
        measure(never, partial(sets_of, "clean,blur2"), variations)


def test_a_layer_that_does_not_exist_is_named() -> None:
    variations = Variations((8,), (3,), ("auto", "tial"), (SIZE,))
    with pytest.raises(UsageError, match="no layer 'tial'"):
        measured(variations=variations)
