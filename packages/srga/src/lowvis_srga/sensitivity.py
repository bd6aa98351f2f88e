"""How the index of a network moves with what one is free to choose.

One choice at a time is changed, and the others stay as they are: the number of patches (with axes
in proportion), the number of axes, the layer, and the size of the patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from lowvis_shared.errors import InputError, UsageError

from lowvis_srga.bank import FeatureBank, FeatureStore
from lowvis_srga.comparison import Pair, default_dimensions
from lowvis_srga.features import Tap
from lowvis_srga.patches import PatchSet
from lowvis_srga.scoring import find_reference, read_bank


class OpenTap(Protocol):
    """Opens the network at a layer, for patches of some size; `open_tap` with all else given."""

    def __call__(self, *, layer: str, side: int) -> Tap: ...


OpenSets = Callable[[int, int], Sequence[PatchSet]]
"""Makes the sets: number of patches, side of a high-resolution patch -> sets."""


@dataclass(frozen=True, slots=True)
class Variations:
    """What is tried.

    Attributes:
        patches: Numbers of patches, rising; the last is the usual one.
        dimensions: Numbers of axes at the usual number of patches.
        layers: Layers as `open_tap` takes them; the first is the usual one.
        sizes: Sides of high-resolution patches; the first is the usual one.

    Raises:
        UsageError: One of them is empty, or the numbers of patches do not rise from 2.
    """

    patches: tuple[int, ...]
    dimensions: tuple[int, ...]
    layers: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (self.patches and self.dimensions and self.layers and self.sizes):
            raise UsageError("there is at least one number of patches, axes, layer and size")
        if list(self.patches) != sorted(set(self.patches)) or self.patches[0] < 2:
            listed = ", ".join(str(each) for each in self.patches)
            raise UsageError(f"numbers of patches rise from at least 2, unlike {listed}")


@dataclass(frozen=True, slots=True)
class Line:
    """The index of all sets at one choice.

    Attributes:
        choice: What was changed: ``patches``, ``axes``, ``layer`` or ``size``.
        value: To what.
        usual: Whether that is the usual value.
        patches: Patches of a set.
        dimensions: Principal axes.
        indices: The index of each set; None where the network diverges.
    """

    choice: str
    value: str
    usual: bool
    patches: int
    dimensions: int
    indices: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What `measure` found.

    Attributes:
        network: Title of the network.
        sets: Names of the sets.
        lines: One for each choice and value.
    """

    network: str
    sets: tuple[str, ...]
    lines: tuple[Line, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)

    def as_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of texts; the usual choice is marked."""
        rows = [
            [
                line.choice,
                f"{line.value} *" if line.usual else line.value,
                str(line.patches),
                str(line.dimensions),
                *("diverges" if each is None else f"{each:.2f}" for each in line.indices),
            ]
            for line in self.lines
        ]
        return ["changed", "to", "patches", "axes", *self.sets], rows


def measure(
    open_network: OpenTap,
    open_sets: OpenSets,
    variations: Variations,
    *,
    reference: str = "clean",
    scale: int = 4,
    drop_diverged: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Measure the index at each choice.

    Args:
        open_network: Opens the network.
        open_sets: Makes the sets.
        variations: What is tried.
        reference: Name of the reference set.
        scale: Upscaling factor.
        drop_diverged: As for `lowvis_srga.comparison.srga`.
        progress: Called with the choices done and the choices there are.

    Raises:
        UsageError: There is no such layer or set.
        InputError: The pictures give too few patches, a number of axes exceeds that of patches, or
            the network has another scale.
    """
    count, usual = variations.patches[-1], (variations.layers[0], variations.sizes[0])
    if (most := max(variations.dimensions)) > count:
        raise InputError(
            f"{count} patches have no {most} principal axes",
            hint="--dimensions says which numbers to try",
        )
    runs = [
        usual,
        *((layer, usual[1]) for layer in variations.layers[1:]),
        *((usual[0], size) for size in variations.sizes[1:]),
    ]
    lines: list[Line] = []
    network, names = "", ()
    sets: dict[int, Sequence[PatchSet]] = {}
    for done, (layer, size) in enumerate(runs):
        tap = open_network(layer=layer, side=size // scale)
        if size not in sets:
            sets[size] = open_sets(count, size)
        if (side := sets[size][0].low.shape[1]) != size // scale:
            raise InputError(f"the sets are of {side * scale} pixels, and {size} were to be tried")
        banks = _Banks(tap, sets[size], reference, drop_diverged)
        network, names = tap.name, banks.names
        axes, first = default_dimensions(count), done == 0
        if first:
            lines += [
                banks.line("patches", str(fewer), fewer, default_dimensions(fewer), fewer == count)
                for fewer in variations.patches
            ]
            lines += [
                banks.line("axes", str(each), count, each, each == axes)
                for each in sorted({*variations.dimensions, axes})
            ]
        if first or layer != usual[0]:
            lines.append(banks.line("layer", tap.layer, count, axes, first))
        if first or size != usual[1]:
            lines.append(banks.line("size", f"{size}x{size}", count, axes, first))
        if progress is not None:
            progress(done + 1, len(runs))
    order = ("patches", "axes", "layer", "size")
    lines.sort(key=lambda line: order.index(line.choice))
    return Sensitivity(network, names, tuple(lines))


class _Banks:
    """A network on all sets."""

    def __init__(self, tap: Tap, sets: Sequence[PatchSet], reference: str, drop: bool) -> None:
        base = find_reference(sets, reference)
        count = len(base.low)
        self._drop = drop
        self._tests: list[FeatureBank] = []
        with FeatureStore(count) as store:
            self._reference, _ = read_bank(tap, base, store)
            for each in sets:
                if each is not base:
                    with FeatureStore(count) as other:
                        self._tests.append(read_bank(tap, each, other, self._reference)[0])
        self.names = tuple(bank.name for bank in self._tests)

    def line(self, choice: str, value: str, count: int, dimensions: int, usual: bool) -> Line:
        """The index of the first patches on each set."""
        found = tuple(self._index(test, count, dimensions) for test in self._tests)
        return Line(choice, value, usual, count, dimensions, found)

    def _index(self, test: FeatureBank, count: int, dimensions: int) -> float | None:
        subset = np.arange(test.patches) < count
        diverged = self._reference.diverged | test.diverged
        if (not self._drop and diverged[subset].any()) or (subset & ~diverged).sum() < 2:
            return None
        pair = Pair(self._reference, test, drop_diverged=self._drop, subset=subset)
        return pair.index(min(dimensions, pair.patches))
