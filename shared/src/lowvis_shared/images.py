"""Pictures read and written without losing depth, alpha, color profile or metadata.

What is read, always by content and never by the name of the file:

============================  ======================================================
in the file                   in the picture
============================  ======================================================
gray, RGB; 8 or 16 bits       as they are; gray is written back as gray
1, 2 or 4 bits, palette       8 bits, gray or RGB, with alpha where a color is transparent
alpha (LA, RGBA, tRNS)        ``alpha``; colors under it stay; premultiplied TIFF is undone
32 or 64-bit float TIFF       float32; NaN and infinite samples are refused
CMYK                          sRGB through the ICC profile, or roughly without one (logged)
several frames or pages       the first one (logged)
EXIF orientation              applied and reset
ICC profile, EXIF             kept; XMP and text comments are not
signed, 32-bit whole, Lab …   refused by name
============================  ======================================================

What a format cannot hold is refused where it would be lost to the eye (alpha in JPEG or BMP) and
rounded or dropped with a warning on the logger ``lowvis`` otherwise.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowvis_shared._decode import decode
from lowvis_shared._encode import FORMATS, Format, encode
from lowvis_shared._picture import Picture, quantize, to_unit_float
from lowvis_shared.errors import InputError, OutputError, UsageError
from lowvis_shared.files import atomic_write, check_output, read_bytes

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "OUTPUT_SUFFIXES",
    "Picture",
    "check_writable",
    "comparison",
    "quantize",
    "read_image",
    "to_array",
    "to_tensor",
    "to_unit_float",
    "write_image",
]

OUTPUT_SUFFIXES: frozenset[str] = frozenset(FORMATS)
"""The suffixes, in lower case, that ``write_image`` knows."""

IMAGE_SUFFIXES: frozenset[str] = OUTPUT_SUFFIXES | {".apng", ".gif", ".jfif", ".jpe"}
"""The suffixes, in lower case, by which pictures are found in a folder."""

MAX_PIXELS = 178_956_970
"""The most pixels read by default: 512 MiB of 8-bit RGB, Pillow's own limit."""


def read_image(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False
) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF, BMP or GIF file, whatever its name.

    Args:
        path: The file.
        max_pixels: A larger picture is refused from its header, before memory is reserved.
        allow_truncated: Use what is there of a file that was cut off, with a logged warning. The
            missing rows are blank. 16-bit color, float and WebP files cannot be read in part.

    Raises:
        InputError: The file is missing, empty, no picture, truncated, damaged, too large, or of a
            kind that is not supported; the message names it.
    """
    return decode(
        read_bytes(path), str(path), max_pixels=max_pixels, allow_truncated=allow_truncated
    )


def write_image(
    picture: Picture,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    quality: int = 95,
) -> None:
    """Write a picture, whole or not at all, in the format that the suffix names.

    PNG, TIFF and BMP are lossless. The folder is created when it is missing.

    Args:
        picture: What to write; its ICC profile and EXIF are kept where the format has them.
        path: The file; its suffix is one of ``OUTPUT_SUFFIXES``.
        overwrite: Replace an existing file.
        quality: 1 to 100 for JPEG and WebP; from 90 on JPEG keeps color at full resolution.

    Raises:
        OutputError: As ``check_writable``, or the disk is full.
        UsageError: The quality is not in 1..100.
    """
    if not 1 <= quality <= 100:
        raise UsageError(f"the quality is 1 to 100, not {quality}")
    check_writable(
        path,
        overwrite=overwrite,
        alpha=picture.alpha is not None,
        size=(picture.height, picture.width),
    )
    data = encode(picture, _format(path), str(path), quality=quality)
    atomic_write(path, lambda file: file.write(data), overwrite=overwrite)


def check_writable(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    alpha: bool = False,
    size: tuple[int, int] | None = None,
    source: str | os.PathLike[str] | None = None,
) -> None:
    """Refuse an output that ``write_image`` would refuse, before any work is done.

    Args:
        path: The file to be written; nothing is created.
        overwrite: Replacing an existing file is wanted.
        alpha: The picture will have alpha.
        size: Height and width that the picture will have.
        source: The input, named in the message when the output is the same file.

    Raises:
        OutputError: The suffix is not known, the format cannot hold alpha or this size, the path
            is a folder, exists without ``overwrite``, or its folder cannot be written to.
    """
    file_format = _format(path)
    if alpha and not file_format.alpha:
        raise OutputError(
            f"{path}: {file_format.name} cannot hold the alpha channel of this picture",
            hint="write a PNG, WebP or TIFF instead",
        )
    if size is not None and max(size) > file_format.max_side:
        raise OutputError(
            f"{path}: {size[1]} x {size[0]} pixels are more than {file_format.name} holds "
            f"({file_format.max_side} each way)",
            hint="write a PNG or TIFF instead",
        )
    if source is not None and not overwrite and _is_same_file(path, source):
        raise OutputError(
            f"{path}: the output is the input itself",
            hint="choose another name, or pass --overwrite to replace it",
        )
    check_output(path, overwrite=overwrite)


def comparison(before: Picture, after: Picture) -> Picture:
    """Put two pictures of the same size and kind side by side, with a thin white line between."""
    width = max(2, after.width // 400)
    white = np.iinfo(after.pixels.dtype).max if after.pixels.dtype.kind == "u" else 1

    def beside(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
        line = np.full((right.shape[0], width, *right.shape[2:]), white, right.dtype)
        return np.concatenate([left, line, right], axis=1)

    alpha = None
    if before.alpha is not None and after.alpha is not None:
        alpha = beside(before.alpha, after.alpha)
    return replace(after, pixels=beside(before.pixels, after.pixels), alpha=alpha)


def to_tensor(image: Picture | NDArray[np.float32]) -> Tensor:
    """Return a picture, or an (H, W, 3) float array, as a (1, 3, H, W) float32 tensor.

    A picture is scaled to 0..1; an array is taken as it is.
    """
    array = image.to_float() if isinstance(image, Picture) else image
    tensor = torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
    return tensor.permute(2, 0, 1).unsqueeze(0).contiguous()


def to_array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a (1, 3, H, W) tensor on any device as an (H, W, 3) float32 array.

    Raises:
        InputError: The tensor has another shape.
    """
    if tensor.ndim != 4 or tensor.shape[0] != 1:
        raise InputError(f"one picture has shape (1, C, H, W), not {tuple(tensor.shape)}")
    planes: NDArray[Any] = tensor.detach()[0].to("cpu", torch.float32).numpy()
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _format(path: str | os.PathLike[str]) -> Format:
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        named = f"the suffix '{suffix}' is not one that can be written" if suffix else "no suffix"
        raise OutputError(f"{path}: {named}", hint=f"use one of {', '.join(sorted(FORMATS))}")
    return FORMATS[suffix]


def _is_same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    try:
        return Path(first).samefile(second)
    except (OSError, ValueError):
        return False
