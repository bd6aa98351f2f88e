"""Test sets of super-resolution, and the figures of a network on them: per picture and their mean.

The low-resolution pictures are MATLAB's bicubic ones. Unless another protocol is asked for, the
output is rounded to 8 bits, and PSNR and SSIM are those of the Y of limited-range BT.601 inside a
border of ``scale`` pixels, as the field's tables have them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from typing import Protocol as StructuralType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lowvis_shared.assets import dataset_files, fetch
from lowvis_shared.device import exact_float32
from lowvis_shared.errors import InputError
from lowvis_shared.images import IMAGE_SUFFIXES, Picture, read_image, to_array, to_tensor
from lowvis_shared.metrics import Protocol, Score, score, summarize, super_resolution_protocol
from lowvis_shared.resize import imresize, modcrop
from lowvis_shared.tiling import run_tiled

Pixels = NDArray[np.uint8]
"""An 8-bit RGB picture: (H, W, 3)."""

DATASETS: dict[str, tuple[str, ...]] = {
    "set5": ("Set5",),
    "set14": ("Set14",),
    "b100": ("B100", "BSD100", "BSDS100"),
    "urban100": ("Urban100",),
    "manga109": ("Manga109",),
    "div2k": ("DIV2K", "DIV2K_valid_HR", "DIV2K_val"),
}
"""Test sets by name, with the names that their folders bear; DIV2K is its validation set."""

_FETCHED = ("set5", "set14")
"""The sets that are small enough to be fetched by name; the others come from the user."""

_LARGEST_WHOLE = 150_000
"""Pixels of a low-resolution picture beyond which a network runs in tiles: about 1 GiB."""


class MissingSetError(InputError):
    """The pictures of a test set are not on this machine, and only the user can bring them."""


class ReadablePair(StructuralType):
    """A named picture that can be read in both resolutions, as a ``Pair`` can."""

    @property
    def name(self) -> str: ...

    def read(self) -> tuple[Pixels, Pixels]: ...


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture of a test set with its low-resolution version, read when asked for.

    Attributes:
        name: Name of the picture, as the published tables of figures call it.
        scale: Factor between the two.
        high: The file in high resolution.
        low: The file in low resolution; where there is none it is made as MATLAB makes it.
    """

    name: str
    scale: int
    high: Path
    low: Path | None = None

    def read(self) -> tuple[Pixels, Pixels]:
        """Return the low-resolution picture and the high-resolution one, cropped to fit.

        Both are (H, W, 3) uint8; a grey picture has three equal channels, as the authors read it.

        Raises:
            InputError: A file cannot be read, holds 16 bits, or the sizes do not fit.
        """
        high = modcrop(_read_8_bit(self.high), self.scale)
        if self.low is None:
            return imresize(high, scale=1 / self.scale), high
        low = _read_8_bit(self.low)
        if (low.shape[0] * self.scale, low.shape[1] * self.scale) != high.shape[:2]:
            raise InputError(
                f"{self.low} is {low.shape[1]}x{low.shape[0]}, which times {self.scale} is not "
                f"{high.shape[1]}x{high.shape[0]}, the size of {self.high}"
            )
        return low, high


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one network on one set.

    Attributes:
        psnr: Mean over the pictures, in dB.
        ssim: Mean over the pictures.
        protocol: How both were measured.
        per_image: Name and score of each picture, in the order of the set.
    """

    psnr: float
    ssim: float
    protocol: Protocol
    per_image: tuple[tuple[str, Score], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return ``psnr``, ``ssim``, ``protocol`` and ``per_image`` for JSON."""
        return {
            "psnr": self.psnr,
            "ssim": self.ssim,
            "protocol": self.protocol.as_dict(),
            "per_image": [
                {"image": name, "psnr": each.psnr, "ssim": each.ssim}
                for name, each in self.per_image
            ],
        }


def load_pairs(
    dataset: str | Path,
    scale: int,
    *,
    data_dir: Path | None = None,
    accept_licence: bool = False,
    offline: bool = False,
) -> list[Pair]:
    """Find the pictures of a test set.

    Args:
        dataset: A name of ``DATASETS``, or a folder of high-resolution pictures.
        scale: Factor between high and low resolution.
        data_dir: Folder that holds the sets as ``NAME/HR/*.png`` (beside ``NAME/LR_bicubic/X4`` or
            ``NAME/LRbicx4``, where there are such), ``NAME/image_SRF_4/*_HR.png``,
            ``DIV2K/DIV2K_valid_HR/*.png`` or ``NAME/*.png``. Set5 and Set14 are fetched where they
            are not in it.
        accept_licence: Fetch Set5 and Set14 although no licence is stated for them.
        offline: Never use the network.

    Returns:
        The pairs in the order of their names; a low-resolution file is used where one lies there.

    Raises:
        MissingSetError: The set is neither in `data_dir` nor one that is fetched.
        InputError: There is no such folder, it holds no pictures, or it is the well-known
            redistribution of Urban100 at half size.
        WeightsError: A picture of Set5 or Set14 cannot be fetched.
    """
    name = str(dataset).lower()
    if name not in DATASETS:
        return folder_pairs(Path(dataset), scale)
    folder = None if data_dir is None else _folder_of_set(data_dir, DATASETS[name])
    if folder is not None:
        pairs = folder_pairs(folder, scale)
    elif name in _FETCHED:
        files = {
            Path(asset.path): fetch(asset, accept_licence=accept_licence, offline=offline)
            for asset in dataset_files(name)
            if "HR" in Path(asset.path).parts or f"X{scale}" in Path(asset.path).parts
        }
        low = {path.stem: file for path, file in files.items() if "HR" not in path.parts}
        pairs = [
            Pair(path.stem, scale, file, low.get(f"{path.stem}x{scale}"))
            for path, file in sorted(files.items())
            if "HR" in path.parts
        ]
    else:
        where = "come from you" if data_dir is None else f"are not in {data_dir}"
        raise MissingSetError(
            f"the pictures of {DATASETS[name][0]} {where}",
            hint=f"--data-dir DIR, with {DATASETS[name][0]}/HR/*.png in it",
        )
    if name == "urban100":
        _refuse_half_size(pairs)
    return pairs


def folder_pairs(folder: Path, scale: int) -> list[Pair]:
    """Find the pictures of one folder, in any layout that ``load_pairs`` knows.

    Raises:
        InputError: The folder does not exist or holds no pictures.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is neither a folder nor the name of a test set",
            hint="names are " + ", ".join(DATASETS),
        )
    names = [f"image_SRF_{scale}", "image_SRF_4"]
    if folder.name.lower() == "urban100":  # SelfExSR's image_SRF_2 holds it at half size
        names.reverse()
    high = _first_folder(folder, ["HR", *names, "DIV2K_valid_HR"]) or folder
    lows = (f"LR_bicubic/X{scale}", f"LRbicx{scale}", f"DIV2K_valid_LR_bicubic/X{scale}")
    low = _first_folder(folder, lows)
    low_files = {} if low is None else {path.stem: path for path in _pictures(low)}
    pairs: list[Pair] = []
    for path in _pictures(high):
        name = re.sub(r"_SRF_\d+_HR$", "", path.stem)
        if not path.stem.endswith("_LR"):
            low_file = low_files.get(f"{name}x{scale}") or low_files.get(name)
            pairs.append(Pair(name, scale, path, low_file))
    if not pairs:
        raise InputError(f"{high} holds no pictures")
    return pairs


def evaluate(
    upscale: Callable[[Pixels], NDArray[Any]],
    pairs: Iterable[ReadablePair],
    scale: int,
    *,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score any way of upscaling on a set.

    Args:
        upscale: Low-resolution picture (H, W, 3) uint8 -> (H*scale, W*scale, 3), uint8 or float
            in 0..1, such as an ``Upscaler``.
        pairs: The set.
        scale: Factor of ``upscale``.
        protocol: How to measure; that of the field's tables when left out.
        progress: Called with the pictures done and their number.

    Raises:
        InputError: A picture cannot be read or comes out at the wrong size.
    """
    protocol = protocol or super_resolution_protocol(scale)
    pairs = list(pairs)
    per_image: list[tuple[str, Score]] = []
    for done, pair in enumerate(pairs, start=1):
        low, high = pair.read()
        per_image.append((pair.name, score(upscale(low), high, protocol)))
        if progress is not None:
            progress(done, len(pairs))
    total = summarize([each for _, each in per_image])
    return Evaluation(total.psnr, total.ssim, protocol, tuple(per_image))


def upscaler(
    network: nn.Module, scale: int, *, receptive_radius: int | None
) -> Callable[[Pixels], NDArray[np.float32]]:
    """Return a network as a way of upscaling, in its own precision and on its own device.

    Args:
        network: (B, 3, H, W) in 0..1 -> (B, 3, H*scale, W*scale), in evaluation mode.
        scale: Factor of the network.
        receptive_radius: Input pixels on each side that an output pixel depends on: pictures that
            are very large run in tiles. None for networks that look at the whole picture.

    Returns:
        A function (H, W, 3) uint8 -> (H*scale, W*scale, 3) float32, white is 1.
    """
    weight = next(network.parameters(), torch.zeros(()))
    local = receptive_radius is not None

    def run(image: torch.Tensor) -> torch.Tensor:
        image = image.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        with exact_float32():
            return network(image).float()

    @torch.inference_mode()
    def upscale(low: Pixels) -> NDArray[np.float32]:
        output = run_tiled(
            run,
            to_tensor(Picture(low)),
            scale=scale,
            tile=None if local else 0,
            halo=receptive_radius or 0,
            max_pixels=_LARGEST_WHOLE if local else None,
            divisible=local,
        )
        return to_array(output)

    return upscale


def evaluate_network(
    network: nn.Module,
    pairs: Iterable[ReadablePair],
    scale: int,
    *,
    receptive_radius: int | None,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a network as it is, in its own precision and on its own device.

    The network's training mode is restored. Errors are those of ``evaluate``.

    Args:
        network: As for ``upscaler``, in any mode.
        pairs: The set.
        scale: Factor of the network.
        receptive_radius: As for ``upscaler``.
        protocol: How to measure; that of the field's tables when left out.
        progress: Called with the pictures done and their number.
    """
    upscale = upscaler(network, scale, receptive_radius=receptive_radius)
    training = network.training
    network.eval()
    try:
        return evaluate(upscale, pairs, scale, protocol=protocol, progress=progress)
    finally:
        network.train(training)


def bicubic(low: Pixels, scale: int) -> Pixels:
    """Upscale with MATLAB's bicubic ``imresize``, the baseline of the tables."""
    return imresize(low, scale=scale)


def _read_8_bit(path: Path) -> Pixels:
    picture = read_image(path)
    if picture.bit_depth != 8:
        raise InputError(f"{path} holds {picture.bit_depth} bits; the protocol is for 8")
    return picture.pixels


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _folder_of_set(data_dir: Path, names: Sequence[str]) -> Path | None:
    """Return the folder of a set, which may also be ``data_dir`` itself, or None."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder")
    wanted = {name.lower() for name in names}
    folders = [data_dir, *sorted(data_dir.iterdir())]
    return next((f for f in folders if f.name.lower() in wanted and f.is_dir()), None)


def _refuse_half_size(pairs: Sequence[Pair]) -> None:
    """Urban100's pictures are 1024 pixels long; a known redistribution holds them at 512."""
    length = median(max(read_image(pair.high).pixels.shape) for pair in pairs[:5])
    if length < 800:
        raise InputError(
            f"the pictures of Urban100 beside {pairs[0].high} are {length:.0f} pixels long instead "
            "of about 1024: this is the redistribution at half size",
            hint="take the HR pictures of image_SRF_4",
        )
