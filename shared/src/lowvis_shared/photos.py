"""Training photographs: packed once into one file, then cropped at random, reproducibly.

Packing decodes every photograph, makes its low-resolution partner with the field's bicubic
downscaling (of the whole picture, as the field's training data) and lays both into one
memory-mapped file: training then reads crops without decoding, whatever the folder's size.

A teacher, a network whose pictures another one learns from, works while packing: its picture lies
behind the photograph's own channels, so that every crop holds both.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lowvis_shared.errors import InputError, LowvisError
from lowvis_shared.files import atomic_write
from lowvis_shared.images import IMAGE_SUFFIXES, quantize, read_image
from lowvis_shared.resize import imresize, modcrop

logger = logging.getLogger("lowvis")


@dataclass(frozen=True, slots=True)
class Teacher:
    """A network whose pictures are packed beside the photographs.

    Attributes:
        name: What it is, weights included: another name makes another pack.
        upscale: Low-resolution picture (H, W, 3) -> (H*scale, W*scale, 3), both 8-bit RGB.
    """

    name: str
    upscale: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Photo:
    """Where one photograph lies in the packed file; sizes are of the low-resolution picture."""

    name: str
    offset: int
    height: int
    width: int


class PackedPhotos:
    """High- and low-resolution pairs in one memory-mapped file.

    Args:
        path: The ``.bin`` file written by `pack_photos`, its index beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.scale: int = index["scale"]
        self.channels: int = index["channels"]
        self.photos = [Photo(**photo) for photo in index["photos"]]
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __reduce__(self) -> tuple[type["PackedPhotos"], tuple[Path]]:
        # A worker process opens the file itself; pickling a memory map would copy all of it.
        return PackedPhotos, (self.path,)

    def pair(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return views (H*scale, W*scale, channels) and (H, W, 3) of photograph ``index``.

        The first three channels are its RGB; with a teacher the teacher's RGB follows.
        """
        photo, scale = self.photos[index], self.scale
        pixels = photo.height * photo.width
        middle = photo.offset + pixels * scale * scale * self.channels
        high = self._bytes[photo.offset : middle]
        low = self._bytes[middle : middle + pixels * 3]
        return (
            high.reshape(photo.height * scale, photo.width * scale, self.channels),
            low.reshape(photo.height, photo.width, 3),
        )


@dataclass(frozen=True, slots=True)
class PackedPair:
    """One packed photograph, to validate on."""

    photos: PackedPhotos
    index: int

    @property
    def name(self) -> str:
        """Name of the file it was."""
        return self.photos.photos[self.index].name

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the low-resolution picture and the high-resolution one, (H, W, 3)."""
        high, low = self.photos.pair(self.index)
        return low, high[..., :3]


def list_photos(folder: Path) -> list[Path]:
    """Return the pictures under ``folder``, sub-folders included, in order of their names.

    Raises:
        InputError: The folder does not exist or holds no picture.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder of photographs", hint="photos=FOLDER")
    photos = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not photos:
        raise InputError(f"{folder}: holds no picture")
    return photos


def split_photos(photos: Sequence[Path], held_out: int) -> tuple[list[Path], list[Path]]:
    """Return (training, validation): ``held_out`` photographs, spread evenly over the list.

    Raises:
        InputError: Nothing would be left to train on.
    """
    if held_out >= len(photos):
        raise InputError(
            f"{len(photos)} photographs, of which {held_out} are to be held out",
            hint="held_out=1, or more photographs",
        )
    chosen = {round((i + 0.5) * len(photos) / held_out) for i in range(held_out)}
    training = [photo for i, photo in enumerate(photos) if i not in chosen]
    return training, [photo for i, photo in enumerate(photos) if i in chosen]


def pack_photos(
    photos: Sequence[Path],
    *,
    scale: int,
    minimum: int,
    folder: Path,
    on_error: Literal["fail", "skip"] = "fail",
    teacher: Teacher | None = None,
) -> PackedPhotos:
    """Pack photographs for training, or reuse a pack made before of the same files.

    Args:
        photos: Picture files.
        scale: Upscaling factor.
        minimum: Smallest low-resolution side in pixels; smaller photographs are left out.
        folder: Where the pack is kept.
        on_error: Whether a photograph that cannot be read ends the packing or is left out.
        teacher: Whose pictures are to lie beside the photographs; none when left out.

    Raises:
        InputError: A photograph cannot be read (``fail``), or none is left.
    """
    taught = "" if teacher is None else teacher.name
    key = hashlib.sha256(f"pack 2, x{scale}, {minimum}, {taught}".encode())
    for photo in photos:
        status = photo.stat()
        key.update(f"\n{photo.resolve()}\t{status.st_size}\t{status.st_mtime_ns}".encode())
    path = folder / f"photos-x{scale}-{key.hexdigest()[:16]}.bin"
    if not path.with_suffix(".json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_pack(photos, path, scale, minimum, on_error, teacher)
    return PackedPhotos(path)


def _write_pack(
    photos: Sequence[Path],
    path: Path,
    scale: int,
    minimum: int,
    on_error: str,
    teacher: Teacher | None,
) -> None:
    packed: list[dict[str, Any]] = []

    def write(file: BinaryIO) -> None:
        for photo in photos:
            try:
                high = modcrop(_read_8_bit(photo), scale)
            except LowvisError as error:
                if on_error == "fail":
                    raise
                logger.warning("left out: %s", error)
                continue
            height, width = high.shape[0] // scale, high.shape[1] // scale
            if min(height, width) < minimum:
                logger.warning("left out: %s is smaller than the crop", photo)
                continue
            packed.append(
                {"name": photo.name, "offset": file.tell(), "height": height, "width": width}
            )
            low = imresize(high, scale=1 / scale)
            if teacher is not None:
                high = np.concatenate([high, teacher.upscale(low)], axis=2)
            file.write(np.ascontiguousarray(high).data)
            file.write(np.ascontiguousarray(low).data)
        if not packed:
            raise InputError(f"none of the {len(photos)} photographs can be used")

    atomic_write(path, write, overwrite=True)
    channels = 3 if teacher is None else 6
    index = json.dumps({"scale": scale, "channels": channels, "photos": packed}, indent=1)
    # The index is written last: a pack without one is not complete.
    atomic_write(path.with_suffix(".json"), lambda file: _write_text(file, index), overwrite=True)
    logger.info("packed %d photographs into %s", len(packed), path)


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(text.encode())


def _read_8_bit(path: Path) -> NDArray[np.uint8]:
    return quantize(read_image(path).to_float(), np.dtype(np.uint8))


class CropBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch ``step`` of a run: (B, 3, h, w) low and (B, C, h*scale, w*scale) high, in [0, 1].

    C is 3, or 6 with a teacher, whose picture comes after the photograph's.

    A batch is a pure function of (seed, step, rank): workers, restarts and the order of reading
    change nothing, so a resumed run needs to remember no more than its step.

    Args:
        photos: Packed photographs; each is drawn in proportion to its area.
        crop: Low-resolution side of a crop in pixels.
        batch: Crops per batch.
        seed: Seed of the run.
        rank: Number of this process in a distributed run.
    """

    def __init__(
        self, photos: PackedPhotos, *, crop: int, batch: int, seed: int, rank: int = 0
    ) -> None:
        self.photos, self.crop, self.batch, self.seed, self.rank = photos, crop, batch, seed, rank
        areas = np.array([photo.height * photo.width for photo in photos.photos], np.float64)
        self._probabilities = areas / areas.sum()

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng([self.seed, step, self.rank])
        choices = generator.choice(len(self._probabilities), self.batch, p=self._probabilities)
        crops = [self._crop(int(choice), generator) for choice in choices]
        low, high = (np.stack(pictures) for pictures in zip(*crops, strict=True))
        return _to_batch(low), _to_batch(high)

    def _crop(
        self, choice: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        high, low = self.photos.pair(choice)
        crop, scale = self.crop, self.photos.scale
        top = int(generator.integers(low.shape[0] - crop + 1))
        left = int(generator.integers(low.shape[1] - crop + 1))
        turns, mirrored = int(generator.integers(4)), bool(generator.integers(2))
        low = low[top : top + crop, left : left + crop]
        high = high[top * scale : (top + crop) * scale, left * scale : (left + crop) * scale]
        if mirrored:
            low, high = low[:, ::-1], high[:, ::-1]
        return np.rot90(low, turns), np.rot90(high, turns)


def _to_batch(pictures: NDArray[np.uint8]) -> Tensor:
    # (B, H, W, C) bytes are channels_last already: permuting leaves them where they are.
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(255)
