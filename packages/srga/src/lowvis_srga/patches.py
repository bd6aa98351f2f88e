"""Patches of pictures in one condition or another, for a network to be measured on.

SRGA compares how a network treats one scene in several conditions, so all sets made together hold
the same patches in the same order. Which cells of which pictures they are is decided by a seed.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from lowvis_shared.cli import expand_inputs
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.images import quantize, read_image
from lowvis_shared.resize import modcrop
from numpy.typing import NDArray
from PIL import ExifTags, Image

from lowvis_srga import degrade
from lowvis_srga.degrade import NOISE_SEED, Degradation, finish, reduce_cell

logger = logging.getLogger("lowvis")

Pixels: TypeAlias = NDArray[np.uint8]
Family: TypeAlias = degrade.Family | Literal["real", "other"]
Source: TypeAlias = Path | tuple[str, Pixels]
"""A picture: its file, or a name and an (H, W, 3) uint8 array."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchSet:
    """Patches in one condition.

    Attributes:
        name: The degradation, or what a set of real pictures is called.
        family: Kind of the degradation; ``other`` where the name does not tell.
        degree: Its strength as `Degradation.degree` has it; None when there is no one number.
        low: What the network is given, (n, h, w, 3).
        high: What it was made from, (n, H, W, 3); None of real pictures.
        ids: Which picture and cell each patch is: ``name@top,left``, or the name of a whole
            picture. Equal ids in two sets are the same scene.

    Raises:
        InputError: Shapes or types do not fit.
    """

    name: str
    family: Family
    degree: float | None
    low: Pixels
    high: Pixels | None
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check shapes and types."""
        for what, array in (("low", self.low), ("high", self.high)):
            if array is not None and (
                array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.size == 0
            ):
                raise InputError(
                    f"{self.name}: patches are uint8 (n, h, w, 3), but the {what} ones are "
                    f"{array.dtype} of shape {array.shape}"
                )
        if len(self.ids) != len(self.low):
            raise InputError(f"{self.name}: {len(self.ids)} ids for {len(self.low)} patches")
        if self.high is None:
            return
        count, height, width, _ = self.low.shape
        scale = self.high.shape[1] // height
        if self.high.shape[:3] != (count, height * scale, width * scale) or scale < 1:
            raise InputError(
                f"{self.name}: high-resolution patches of shape {self.high.shape} are no whole "
                f"multiple of low-resolution ones of shape {self.low.shape}"
            )

    @property
    def scale(self) -> int | None:
        """Factor between the two resolutions; None without high-resolution patches."""
        return None if self.high is None else self.high.shape[1] // self.low.shape[1]

    def first(self, count: int) -> "PatchSet":
        """Return the first patches of the set."""
        high = None if self.high is None else self.high[:count]
        return replace(self, low=self.low[:count], high=high, ids=self.ids[:count])


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which cells of which pictures become patches.

    Attributes:
        cells: For each picture the (top, left) of its cells, in the order of being drawn.
        order: Permutation of all cells: patch i is cell ``order[i]`` of the pictures one after
            the other.
        skipped: How many pictures are smaller than a cell.
    """

    cells: tuple[tuple[tuple[int, int], ...], ...]
    order: NDArray[np.int64]
    skipped: int


def cut_cells(sizes: Sequence[tuple[int, int]], patches: int, *, size: int, seed: int) -> Selection:
    """Draw cells that do not overlap, equally many from each picture as far as it has them.

    Pictures give one cell each in turn until there are enough; a small one drops out when it has
    no more. The chance is drawn as in this package's check figures: one permutation for each
    picture, and one for all patches.

    Args:
        sizes: Rows and columns of each picture.
        patches: How many cells.
        size: Rows and columns of a cell.
        seed: Source of chance.

    Raises:
        InputError: The pictures have too few cells in all.
        UsageError: A number is not positive.
    """
    if patches < 1 or size < 1:
        raise UsageError(f"{patches} patches of {size} x {size} pixels: both are at least 1")
    available = [_cell_count(shape, size) for shape in sizes]
    if sum(available) < patches:
        raise _too_few(sum(available), patches, size)
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(count) for count in available]
    taken = _share(available, patches)
    cells = tuple(
        tuple(
            (int(cell) // (width // size) * size, int(cell) % (width // size) * size)
            for cell in permutation[:count]
        )
        for (_, width), permutation, count in zip(sizes, drawn, taken, strict=True)
    )
    skipped = available.count(0)
    if skipped:
        logger.warning("%d of %d pictures are smaller than a patch", skipped, len(sizes))
    return Selection(cells, generator.permutation(patches), skipped)


def make_sets(
    sources: Sequence[Source],
    degradations: Sequence[Degradation],
    *,
    patches: int = 800,
    size: int = 128,
    scale: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[PatchSet]:
    """Make one set for each degradation, all of the same patches.

    Args:
        sources: High-resolution pictures. Deeper ones are rounded to 8 bits.
        degradations: What is done to them, each once.
        patches: Patches in a set.
        size: Rows and columns of a high-resolution patch; divides by ``scale``.
        scale: Factor by which the patches are reduced; 1 for networks that keep the size.
        seed: Of the choice of patches; the noise has a seed of its own, the same for each set.
        progress: Called with the pictures done and the pictures to be done.

    Raises:
        InputError: A picture cannot be read or has transparent pixels, two have the same name, or
            all together have too few cells.
        UsageError: The numbers do not fit together, or a degradation is missing or named twice.
    """
    if scale < 1 or size % scale:
        raise UsageError(f"patches of {size} pixels do not divide by a scale of {scale}")
    if not degradations or len(set(degradations)) < len(degradations):
        listed = ", ".join(each.name for each in degradations) or "none"
        raise UsageError(f"each degradation is given once, and at least one: {listed}")
    names = source_names(sources)
    sizes = [_source_size(each) for each in sources]
    selection = cut_cells(sizes, patches, size=size, seed=seed)
    position = np.argsort(selection.order).tolist()  # of a drawn cell among the patches
    ids = [""] * patches
    high = np.empty((patches, size, size, 3), np.uint8)
    low = {
        each: np.empty((patches, size // scale, size // scale, 3), np.uint8)
        for each in degradations
    }
    noise = {each: np.random.default_rng(NOISE_SEED) for each in degradations}
    blurs = {each.blur for each in degradations}

    used = [index for index, cells in enumerate(selection.cells) if cells]
    number = 0
    for done, index in enumerate(used, start=1):
        picture = modcrop(_read_source(sources[index], sizes[index]), scale)
        for top, left in selection.cells[index]:
            place = position[number]
            number += 1
            ids[place] = _id(names[index], top, left)
            high[place] = picture[top : top + size, left : left + size]
            reduced = {blur: reduce_cell(picture, top, left, size, blur, scale) for blur in blurs}
            for each in degradations:
                low[each][place] = finish(reduced[each.blur], each, noise[each])
        if progress is not None:
            progress(done, len(used))
    return [
        PatchSet(each.name, each.family, each.degree, low[each], high, tuple(ids))
        for each in degradations
    ]


def read_patches(folder: Path, *, name: str, side: int, patches: int, seed: int) -> PatchSet:
    """Make a set of real low-resolution pictures, of which no better version exists.

    Pictures of exactly the size of a patch come first, whole and in the order of their names;
    what is then missing is cut from larger ones.

    Args:
        folder: The pictures; sub-folders are searched too.
        name: What the set is to be called.
        side: Rows and columns of a patch.
        patches: How many patches.
        seed: Of the choice of cells from larger pictures.

    Raises:
        InputError: A picture cannot be read, or all together give too few patches.
        UsageError: A number is not positive.
    """
    if patches < 1 or side < 1:
        raise UsageError(f"{patches} patches of {side} x {side} pixels: both are at least 1")
    paths = expand_inputs([str(folder)])
    sizes = {path: _source_size(path) for path in paths}
    available = sum(_cell_count(size, side) for size in sizes.values())
    if available < patches:
        raise _too_few(available, patches, side)
    whole = [path for path in paths if sizes[path] == (side, side)][:patches]
    low = [_read_source(path, sizes[path]) for path in whole]
    ids = [path.relative_to(folder).as_posix() for path in whole]
    missing = patches - len(whole)
    if missing:
        larger = [path for path in paths if sizes[path] != (side, side)]
        selection = cut_cells([sizes[path] for path in larger], missing, size=side, seed=seed)
        cut: list[tuple[str, Pixels]] = []
        for path, cells in zip(larger, selection.cells, strict=True):
            if cells:
                picture, label = (
                    _read_source(path, sizes[path]),
                    path.relative_to(folder).as_posix(),
                )
                cut += [
                    (_id(label, top, left), picture[top : top + side, left : left + side].copy())
                    for top, left in cells
                ]
        ids += [cut[index][0] for index in selection.order]
        low += [cut[index][1] for index in selection.order]
    return PatchSet(name, "real", None, np.stack(low), None, tuple(ids))


def source_names(sources: Sequence[Source]) -> list[str]:
    """Return names that tell the pictures apart: of the file alone where that is enough.

    Raises:
        InputError: Two pictures have the same name.
    """
    names = [each[0] if isinstance(each, tuple) else each.name for each in sources]
    if len(set(names)) < len(names):
        names = [each[0] if isinstance(each, tuple) else each.as_posix() for each in sources]
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InputError(f"{twice}: the same picture is given twice")
    return names


def read_pixels(path: Path) -> Pixels:
    """Read a picture as 8-bit RGB; 16 bits and float are rounded, gray has equal channels."""
    picture = read_image(path)
    alpha = picture.alpha_to_float()
    if alpha is not None and alpha.min() < 1:
        raise InputError(
            f"{path}: has transparent pixels, and what lies under them is not known",
            hint="save it without transparency, or leave it out",
        )
    if picture.bit_depth == 8:
        return picture.pixels
    return quantize(picture.to_float(), np.dtype(np.uint8))


def pixels_sha256(array: Pixels) -> str:
    """Return the sum of the values of a picture or of patches, whatever file they come from."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _cell_count(shape: tuple[int, int], size: int) -> int:
    return (shape[0] // size) * (shape[1] // size)


def _too_few(available: int, wanted: int, size: int) -> InputError:
    hint = "give more or larger pictures"
    if available:
        hint += f", or ask for at most {available} patches"
    return InputError(
        f"the pictures give {available} patches of {size} x {size} pixels, but {wanted} are wanted",
        hint=hint,
    )


def _share(available: Sequence[int], total: int) -> list[int]:
    """How many cells each picture gives, when they give one each in turn."""
    taken = [0] * len(available)
    while total:
        givers = [index for index, count in enumerate(available) if taken[index] < count]
        for index in givers[:total]:
            taken[index] += 1
        total -= min(len(givers), total)
    return taken


def _id(name: str, top: int, left: int) -> str:
    return f"{name}@{top},{left}"


def _source_size(source: Source) -> tuple[int, int]:
    """Rows and columns of a picture, from the header of its file where that is possible."""
    if isinstance(source, tuple):
        name, pixels = source
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise InputError(
                f"{name}: a picture is uint8 (H, W, 3), not {pixels.dtype} of shape {pixels.shape}"
            )
        return pixels.shape[0], pixels.shape[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                # A PNG's own getexif decodes all of it, for EXIF data that may stand at its end.
                exif = Image.Image.getexif(image)
                if exif.get(ExifTags.Base.Orientation, 1) == 1:
                    return image.height, image.width
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ):
        pass  # what is wrong with it, if anything, read_image says
    picture = read_image(source)
    return picture.height, picture.width


def _read_source(source: Source, size: tuple[int, int]) -> Pixels:
    """Read a picture that has to have the size by which its cells were chosen."""
    if isinstance(source, tuple):
        return source[1]
    pixels = read_pixels(source)
    if pixels.shape[:2] != size:
        raise InputError(
            f"{source}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, but its header said "
            f"{size[1]} x {size[0]}: changed meanwhile, or turned by EXIF data at its end",
            hint="save it again, upright",
        )
    return pixels
