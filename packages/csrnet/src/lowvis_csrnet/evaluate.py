"""Retouched pictures against somebody's: PSNR, SSIM and color differences, each named truly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lowvis_shared.assets import dataset_files, fetch
from lowvis_shared.cli import PartProgress, expand_inputs, named
from lowvis_shared.color import delta_e_76, delta_e_2000, rgb_to_lab
from lowvis_shared.errors import InputError
from lowvis_shared.images import Picture, quantize, read_image
from lowvis_shared.metrics import Protocol, score
from numpy.typing import NDArray

PROTOCOL = Protocol(color="rgb")
"""PSNR and SSIM of the paper: all RGB values, rounded to 8 bits, mean over pictures."""

_FOLDERS = (("input", "label"), ("raw_input_test", "expert_C_test"))
"""Names of the two folders: of the public pairs, and of the authors' prepared test set."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A photograph and what somebody made of it.

    Attributes:
        name: What rows of a table are called.
        source: File of the photograph.
        target: File of the retouched one.
    """

    name: str
    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Figures:
    """How close a picture is to its target, or the means over several.

    Attributes:
        psnr: Decibels, over all RGB values rounded to 8 bits.
        ssim: Mean of the three channels, 11x11 Gaussian, valid region.
        delta_e_76: Mean CIE76 color difference: the true distance in CIE Lab.
        delta_e_2000: Mean CIEDE2000 color difference.
        lab_wrapped: The authors' "L2 Lab": differences and squares of 8-bit Lab that wrap around
            modulo 256. It is no distance, and stands only beside the paper's column.
    """

    psnr: float
    ssim: float
    delta_e_76: float
    delta_e_2000: float
    lab_wrapped: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of a set.

    Attributes:
        mean: The mean of each figure over the pictures.
        per_image: Names and figures, in order.
    """

    mean: Figures
    per_image: tuple[tuple[str, Figures], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name, for result files."""
        each = {name: asdict(figures) for name, figures in self.per_image}
        return {"protocol": PROTOCOL.as_dict(), "mean": asdict(self.mean), "per_image": each}


def load_fivek(
    data_dir: Path | None = None, *, accept_licence: bool = False, offline: bool = False
) -> list[Pair]:
    """Return pairs of MIT-Adobe FiveK: input and expert C.

    Args:
        data_dir: Folder with ``FiveK/input`` and ``FiveK/label``, or ``FiveK/raw_input_test`` and
            ``FiveK/expert_C_test``; the nine pairs that are published singly when left out.
        accept_licence: Consent to fetching files whose authors state no licence.
        offline: Use no network connection.

    Raises:
        InputError: The folders are missing, or the pictures do not match.
        WeightsError: A published picture cannot be fetched.
    """
    if data_dir is not None:
        for inputs, targets in _FOLDERS:
            if (data_dir / "FiveK" / inputs).is_dir():
                return folder_pairs(data_dir / "FiveK" / inputs, data_dir / "FiveK" / targets)
        tried = " or ".join("/".join(("FiveK", inputs)) for inputs, _ in _FOLDERS)
        raise InputError(f"{data_dir}: there is no folder {tried}")
    files = {
        asset.name: fetch(asset, accept_licence=accept_licence, offline=offline)
        for asset in dataset_files("fivek")
    }
    sources = sorted(name for name in files if name.startswith("fivek/input/"))
    return [
        Pair(Path(name).stem, files[name], files[name.replace("/input/", "/label/")])
        for name in sources
    ]


def folder_pairs(inputs: Path, targets: Path) -> list[Pair]:
    """Return the pairs of two folders, by their names without suffixes, sub-folders included.

    Raises:
        InputError: A folder is missing, a picture has no partner, or several of one name.
    """
    sources, partners = _by_name(inputs), _by_name(targets)
    for name, source in sources.items():
        if name not in partners:
            raise InputError(f"{source}: no picture in {targets} is called {name}")
    return [Pair(name, source, partners[name]) for name, source in sources.items()]


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in expand_inputs([str(folder)]):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{path} and {found[name]} have one name")
        found[name] = path
    return found


def compare(output: NDArray[Any], target: NDArray[Any]) -> Figures:
    """Return how close a picture is to its target.

    Args:
        output: (H, W, 3) RGB codes, uint8 or floating point in 0..1; profiles are not looked at.
        target: The same size; its type may differ.

    Raises:
        InputError: The sizes differ, values are not finite, or there are less than 11x11 pixels.
    """
    result = score(output, target, PROTOCOL)
    first, second = _to_8_bit(output), _to_8_bit(target)
    lab, other = rgb_to_lab(first), rgb_to_lab(second)
    return Figures(
        result.psnr,
        result.ssim,
        float(delta_e_76(lab, other).mean()),
        float(delta_e_2000(lab, other).mean()),
        _lab_wrapped(first, second),
    )


def evaluate(
    retouch: Callable[[Picture], Picture],
    pairs: Sequence[Pair],
    *,
    progress: PartProgress | None = None,
) -> Evaluation:
    """Retouch the photograph of each pair and compare it with its target.

    Raises:
        InputError: There are no pairs, a file cannot be read, or the sizes of a pair differ.
    """
    if not pairs:
        raise InputError("there are no pairs to evaluate on")
    rows: list[tuple[str, Figures]] = []
    for pair in pairs:
        source, target = read_image(pair.source), read_image(pair.target)
        if source.pixels.shape != target.pixels.shape:
            raise InputError(f"{pair.source} and {pair.target} differ in size")
        with named(pair.source):
            # Alpha, which some published pairs carry, is no part of what is compared.
            output = retouch(Picture(source.pixels, icc_profile=source.icc_profile))
            rows.append((pair.name, compare(output.to_float(), target.to_float())))
        if progress is not None:
            progress(len(rows), len(pairs))
    return Evaluation(mean_of([figures for _, figures in rows]), tuple(rows))


def mean_of(figures: Sequence[Figures]) -> Figures:
    """Return the mean of each figure."""
    columns: Mapping[str, list[float]] = {
        name: [getattr(each, name) for each in figures] for name in Figures.__slots__
    }
    return Figures(**{name: sum(values) / len(values) for name, values in columns.items()})


def _to_8_bit(picture: NDArray[Any]) -> NDArray[np.uint8]:
    if picture.dtype == np.uint8:
        return picture
    return quantize(picture, np.dtype(np.uint8))


def _lab_wrapped(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    lab, other = (cv2.cvtColor(each, cv2.COLOR_RGB2LAB) for each in (first, second))
    difference = np.subtract(lab, other, dtype=np.uint8)
    squared = np.multiply(difference, difference, dtype=np.uint8)
    return float(np.sqrt(squared.sum(axis=-1, dtype=np.int64)).mean())
