"""Training data: photographs, the pairs that are made of them, and how they are sampled."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lowvis_shared.cli import named
from lowvis_shared.errors import InputError, LowvisError, UsageError
from lowvis_shared.images import IMAGE_SUFFIXES, quantize, read_image, to_unit_float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lowvis_csrnet.profile import SRGB, read_profile
from lowvis_csrnet.simulate import OPERATIONS, Defects, Image
from lowvis_csrnet.spaces import InputSpace, reduced, to_input_space

logger = logging.getLogger("lowvis")

_SMALLEST = 11
"""Least side of a photograph in training: that of the window of SSIM, which validates."""

Lesson = Callable[["Photo", np.random.Generator], tuple[Image, Image]]
"""Makes an input and its target, both (H, W, 3) sRGB in 0..1, of a photograph."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph whose long edge has been brought to the size of training.

    Attributes:
        name: Name of the file.
        pixels: (H, W, 3), 8 bits.
        before: What it was before somebody retouched it, of the same size; None where unknown.
    """

    name: str
    pixels: NDArray[np.uint8]
    before: NDArray[np.uint8] | None = None


def load_photos(
    paths: Sequence[Path],
    *,
    side: int,
    inputs: Path | None = None,
    on_error: Literal["fail", "skip"] = "fail",
) -> list[Photo]:
    """Read photographs, reduced to a long edge of `side`; they stay in memory.

    Args:
        paths: Picture files.
        side: Pixels of the long edge; smaller photographs stay as they are.
        inputs: Folder with what each photograph was before, under the same name.
        on_error: Whether a photograph that cannot be used ends the run or is left out.

    Raises:
        InputError: A photograph cannot be read or has no partner (``fail``), or none is left.
    """
    if inputs is not None and not inputs.is_dir():
        raise InputError(f"{inputs}: not a folder of pictures", hint="inputs=FOLDER")
    photos: list[Photo] = []
    for path in paths:
        try:
            photos.append(_load_photo(path, side, inputs))
        except LowvisError as error:
            if on_error == "fail":
                raise
            logger.warning("left out: %s", error)
    if not photos:
        raise InputError(f"none of the {len(paths)} photographs can be used")
    return photos


def _load_photo(path: Path, side: int, inputs: Path | None) -> Photo:
    pixels = _read(path, side)
    if min(pixels.shape[:2]) < _SMALLEST:
        height, width = pixels.shape[:2]
        raise InputError(f"{path} has {width}x{height} pixels at a long edge of {side}: too few")
    if inputs is None:
        return Photo(path.name, pixels)
    partners = [
        partner
        for partner in inputs.iterdir()
        if partner.stem == path.stem and partner.suffix.lower() in IMAGE_SUFFIXES
    ]
    if len(partners) != 1:
        raise InputError(f"{path}: {len(partners)} pictures in {inputs} are called {path.stem}")
    before = _read(partners[0], side)
    if before.shape != pixels.shape:
        raise InputError(f"{path} and {partners[0]} differ in size")
    return Photo(path.name, pixels, before)


def _read(path: Path, side: int) -> NDArray[np.uint8]:
    picture = read_image(path)
    codes = reduced(picture.to_float(), side)
    with named(path):
        profile = SRGB if picture.gray else read_profile(picture.icc_profile)
    return quantize(profile.to_srgb(codes), np.dtype(np.uint8))


def lesson(name: str) -> Lesson:
    """Return what is to be learnt: ``retouch``, ``pairs`` or the name of an operation.

    Raises:
        UsageError: There is no lesson of that name.
    """
    if name == "retouch":
        return _retouch
    if name == "pairs":
        return _pairs
    if name not in OPERATIONS:
        names = ", ".join(("retouch", "pairs", *OPERATIONS))
        raise UsageError(f"there is no lesson '{name}'", hint=f"one of {names}")
    return partial(_imitate, name)


def _retouch(photo: Photo, generator: np.random.Generator) -> tuple[Image, Image]:
    image = to_unit_float(photo.pixels)
    severity = float(generator.uniform(0.2, 1.3))  # hardly visible too: to learn to leave alone
    return Defects.draw(generator, severity)(image), image


def _pairs(photo: Photo, generator: np.random.Generator) -> tuple[Image, Image]:
    del generator
    if photo.before is None:
        raise UsageError("learn=pairs needs what the photographs were before", hint="inputs=FOLDER")
    return to_unit_float(photo.before), to_unit_float(photo.pixels)


def _imitate(name: str, photo: Photo, generator: np.random.Generator) -> tuple[Image, Image]:
    del generator
    image = to_unit_float(photo.pixels)
    return image, OPERATIONS[name](image)


class Batch(NamedTuple):
    """Pictures of one step.

    Attributes:
        image: (B, 3, H, W) in the network's input space; single pixels (H = P, W = 1) or crops.
        target: (B, 3, H, W), sRGB.
        references: The whole inputs, (1, 3, h, w) each, which conditions are taken from; empty
            where crops are their own.
    """

    image: Tensor
    target: Tensor
    references: list[Tensor]


class Batches(Dataset[Batch]):
    """Batch ``step`` of a run, a pure function of (seed, step, rank): a run resumes by its step.

    CSRNet works on single pixels, so that a few thousand of each photograph, drawn at random, stand
    for all of them, at a fortieth of the cost; only the condition network sees the whole.

    Args:
        photos: The photographs.
        lesson: What is to be learnt of them.
        space: Input space of the network.
        batch: Photographs per batch.
        pixels: Pixels drawn of each; 0 for crops.
        crop: Side of a crop, where `pixels` is 0.
        seed: Seed of the run.
        rank: Number of this process in a distributed run.

    Raises:
        InputError: A photograph is smaller than a crop.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        lesson: Lesson,
        *,
        space: InputSpace,
        batch: int,
        pixels: int,
        crop: int,
        seed: int,
        rank: int = 0,
    ) -> None:
        self.photos, self.lesson = photos, lesson
        self.space: InputSpace = space
        self.batch, self.pixels, self.crop = batch, pixels, crop
        self.seed, self.rank = seed, rank
        for photo in photos if pixels == 0 else ():
            if min(photo.pixels.shape[:2]) < crop:
                raise InputError(f"{photo.name} is smaller than a crop of {crop}")

    def __getitem__(self, step: int) -> Batch:
        generator = np.random.default_rng([self.seed, step, self.rank])
        choices = generator.choice(len(self.photos), self.batch)
        images: list[Tensor] = []
        targets: list[Tensor] = []
        references: list[Tensor] = []
        for choice in choices:
            before, after = self.lesson(self.photos[choice], generator)
            if generator.integers(2):
                before, after = before[:, ::-1], after[:, ::-1]
            if self.pixels:
                chosen = generator.integers(before.shape[0] * before.shape[1], size=self.pixels)
                rows, columns = np.divmod(chosen, before.shape[1])
                window: Any = (rows, columns, np.newaxis)  # (P, 1, 3)
                references.append(network_input(before, self.space))
            else:
                window = self._window(before.shape, generator)
            images.append(network_input(before[window], self.space))
            targets.append(_planes(after[window]))
        return Batch(torch.cat(images), torch.cat(targets), references)

    def _window(
        self, shape: tuple[int, ...], generator: np.random.Generator
    ) -> tuple[slice, slice]:
        top = int(generator.integers(shape[0] - self.crop + 1))
        left = int(generator.integers(shape[1] - self.crop + 1))
        return slice(top, top + self.crop), slice(left, left + self.crop)


def network_input(image: Image, space: InputSpace) -> Tensor:
    """Return an sRGB picture (H, W, 3) as (1, 3, H, W) in a network's input space."""
    planes = _planes(image)
    return to_input_space(planes[0].flatten(1), space).view(planes.shape)


def _planes(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].contiguous()
