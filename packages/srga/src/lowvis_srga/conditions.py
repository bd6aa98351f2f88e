"""The sets that the user asks for: made from pictures or from chance, or read from folders."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowvis_shared.cli import expand_inputs, named
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
    known = {"pies": PIES, "short": SHORT}
    path = Path(text)
    if text in known:
        wanted = [Wanted(name, parse_degradation(name)) for name in known[text]]
    elif path.is_file():
        wanted = _read_list(path)
    elif path.suffix and len(path.parts) > 1:
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
    size: int = 128,
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
        size: Height and width of a high-resolution patch.
        scale: Factor between the resolutions.
        seed: Of the choice of patches.
        progress: Called with the pictures done and the pictures to be done.

    Returns:
        The sets, and what their patches were cut from.

    Raises:
        UsageError: As for `parse_conditions`; or pictures are given for sets that exist.
        InputError: Pictures cannot be read, are too few, or of another scale.
    """
    folder = Path(conditions)
    if folder.is_dir():
        if images:
            raise UsageError(f"{folder} holds patches already, which are of no other pictures")
        return _read(folder, patches, scale), str(folder)
    count = patches or PATCHES
    wanted = parse_conditions(conditions)
    if reference not in [each.name for each in wanted]:
        wanted.insert(0, _synthetic(reference))
    sources: list[Source] = list(expand_inputs(images)) if images else _leaves(count, size, seed)
    made = make_sets(
        sources,
        [each.degradation for each in wanted if each.degradation is not None],
        patches=count,
        size=size,
        scale=scale,
        seed=seed,
        progress=progress,
    )
    found = {each.name: each for each in made}
    for each in wanted:
        if each.folder is not None:
            found[each.name] = read_patches(
                each.folder, name=each.name, side=size // scale, patches=count, seed=seed
            )
    source = ", ".join(images) if images else f"pictures made by chance (dead leaves, seed {seed})"
    return [found[_made_name(each)] for each in wanted], source


def _made_name(wanted: Wanted) -> str:
    return wanted.name if wanted.degradation is None else wanted.degradation.name


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
        with named(path):
            wanted.append(Wanted(name, None, path.parent / folder) if equals else _synthetic(name))
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
