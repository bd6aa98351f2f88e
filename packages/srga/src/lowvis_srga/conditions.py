"""The sets that the user asks for: made from pictures or from chance, or read from folders."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowvis_shared.cli import expand_inputs
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.files import read_bytes

from lowvis_srga.comparison import PATCHES
from lowvis_srga.degrade import Degradation, parse_degradation
from lowvis_srga.leaves import dead_leaves
from lowvis_srga.patches import PatchSet, Source, make_sets, read_patches
from lowvis_srga.pies import read_pies

PIES: tuple[str, ...] = (
    "clean",
    *(f"blur{half / 2:g}" for half in range(1, 17)),
    *(f"noise{sigma}" for sigma in (5, 10, 15, 20, 30, 40, 50)),
    *(f"jpeg{quality}" for quality in (90, 70, 50, 30, 20, 10)),
    *("blur2+noise10", "blur2+jpeg50", "noise10+jpeg50", "blur2+noise10+jpeg50"),
)
"""Degradations of a set in the manner of the paper's PIES.

The names of the first seventeen, clean and blur, stand in the authors' script. All others are
ours: the rest of the paper's subsets is not described well enough to be made again.
"""

SHORT: tuple[str, ...] = (
    *("clean", "blur1", "blur2", "blur4", "noise5", "noise10", "noise20"),
    *("jpeg90", "jpeg50", "jpeg20"),
)
"""Degradations that show the course of each family in little time."""

SIZE = 128
"""Side of a high-resolution patch of the paper."""

_LISTS = {"pies": PIES, "short": SHORT}

_LEAVES_SIDE = 1024  # of a picture made by chance, unless a patch is larger


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a set is to hold: a degradation, or the real pictures of a folder."""

    name: str
    degradation: Degradation | None
    folder: Path | None = None


def parse_conditions(text: str) -> list[Wanted]:
    """Read what ``--degradations`` says.

    Args:
        text: ``pies``, ``short``, names with commas between them, or a file with one on each line:
            the name of a degradation, or ``name = folder`` for real low-resolution pictures, with
            the folder as seen from the file. A line that starts with ``#`` is a remark.

    Raises:
        UsageError: A name is no degradation, or given twice.
        InputError: The file cannot be read.
    """
    path = Path(text)
    if text in _LISTS:
        wanted = [_synthetic(name) for name in _LISTS[text]]
    elif os.path.isfile(text):  # noqa: PTH113 - pathlib raises for a list too long for a name
        wanted = _read_list(path)
    elif path.suffix[1:].isalpha():
        raise InputError(f"{path}: no such file of degradations")
    else:
        wanted = [_synthetic(name.strip()) for name in text.split(",") if name.strip()]
    names = [each.name for each in wanted]
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise UsageError(f"'{twice}' is given twice")
    if not wanted:
        raise UsageError(f"{text!r} names no degradation")
    return wanted


def open_sets(
    conditions: str,
    images: Sequence[str] = (),
    *,
    reference: str = "clean",
    patches: int | None = None,
    size: int | None = None,
    scale: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[PatchSet], str]:
    """Make or read the sets of a scoring.

    Args:
        conditions: What `parse_conditions` takes, or a folder as `read_pies` takes it.
        images: High-resolution pictures, or folders of them; pictures made by chance when empty.
        reference: Name of the reference set, which is made too where it is not among the others.
        patches: Patches of a set; 800 when None, or all that a folder of sets has.
        size: Height and width of a high-resolution patch; 128 when None, or as a folder has it.
        scale: Factor between the resolutions.
        seed: Of the choice of patches.
        progress: Called with the pictures done and the pictures to be done.

    Returns:
        The sets, and what their patches were cut from.

    Raises:
        UsageError: As for `parse_conditions`; or pictures or a size are given for sets that exist.
        InputError: Pictures cannot be read, are too few, or of another scale.
    """
    if is_folder_of_sets(conditions):
        if images or size is not None:
            raise UsageError(f"{conditions} holds patches already, of their own pictures and size")
        return _read(Path(conditions), patches, scale), conditions
    count, size = patches or PATCHES, size or SIZE
    reference = canonical_name(reference)
    wanted = parse_conditions(conditions)
    if reference not in [each.name for each in wanted]:
        wanted.insert(0, _synthetic(reference))
    sources: list[Source] = []
    if images:
        sources = list(expand_inputs(images))
    elif any(each.degradation is not None for each in wanted):
        sources = _leaves(count, size, seed)
    sets = make_wanted(
        wanted, sources, patches=count, size=size, scale=scale, seed=seed, progress=progress
    )
    source = ", ".join(images) if images else f"pictures made by chance (dead leaves, seed {seed})"
    return sets, source


def make_wanted(
    wanted: Sequence[Wanted],
    sources: Sequence[Source],
    *,
    patches: int,
    size: int,
    scale: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[PatchSet]:
    """Make or read each of the sets that are wanted, in their order.

    Args:
        wanted: What the sets are to hold.
        sources: High-resolution pictures for those of a degradation.
        patches: Patches of a set.
        size: Height and width of a high-resolution patch.
        scale: Factor between the resolutions.
        seed: Of the choice of patches.
        progress: Called with the pictures done and the pictures to be done.

    Raises:
        InputError: Pictures cannot be read, or are too few.
        UsageError: The numbers do not fit together.
    """
    synthetic = [each.degradation for each in wanted if each.degradation is not None]
    found: dict[str, PatchSet] = {}
    if synthetic:
        made = make_sets(
            sources,
            synthetic,
            patches=patches,
            size=size,
            scale=scale,
            seed=seed,
            progress=progress,
        )
        found = {each.name: each for each in made}
    for each in wanted:
        if each.folder is not None:
            found[each.name] = read_patches(
                each.folder, name=each.name, side=size // scale, patches=patches, seed=seed
            )
    return [found[each.name] for each in wanted]


def canonical_name(name: str) -> str:
    """Return the one name of a degradation, such as ``blur2`` for ``blur2.0``; others as they are.

    So the name of a reference is compared with those of sets.
    """
    try:
        return parse_degradation(name).name
    except UsageError:
        return name


def is_folder_of_sets(conditions: str) -> bool:
    """Tell whether ``--degradations`` names a folder of sets: words of their own come first."""
    # pathlib raises for a list too long for a name
    return conditions not in _LISTS and os.path.isdir(conditions)  # noqa: PTH112


def _synthetic(name: str) -> Wanted:
    degradation = parse_degradation(name)
    return Wanted(degradation.name, degradation)


def _read_list(path: Path) -> list[Wanted]:
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text file") from error
    wanted: list[Wanted] = []
    for line in text.splitlines():
        name, equals, folder = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        try:
            folder_of = path.parent / folder
            wanted.append(Wanted(name, None, folder_of) if equals else _synthetic(name))
        except UsageError as error:
            raise UsageError(f"{path}: {error}", hint=error.hint) from error
    return wanted


def _leaves(count: int, size: int, seed: int) -> list[Source]:
    """Enough pictures made by chance for so many patches."""
    side = max(_LEAVES_SIDE // size, 1) * size
    needed = math.ceil(count / (side // size) ** 2)
    if count < (side // size) ** 2:  # less than one picture
        side = math.ceil(math.sqrt(count)) * size
    return [
        (f"leaves-{number}", dead_leaves(side, side, seed * 100_000 + number))
        for number in range(needed)
    ]


def _read(folder: Path, patches: int | None, scale: int) -> list[PatchSet]:
    sets = read_pies(folder)
    for each in sets:
        if each.scale not in (None, scale):
            raise InputError(
                f"{folder}: {each.name} is of scale {each.scale}, not {scale}",
                hint=f"--scale {each.scale} scores networks of that scale",
            )
        if patches is not None and patches > len(each.low):
            raise InputError(f"{folder}: holds {len(each.low)} patches, {patches} are wanted")
    return sets if patches is None else [each.first(patches) for each in sets]
