"""3D LUTs in files: the ``.cube`` text of grading programs and the HaldCLUT picture.

Arrays are (N, N, N, 3), indexed [blue, green, red, channel]: in both formats red runs fastest.
"""

import logging
import math
import os
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from lowvis_shared.errors import InputError
from lowvis_shared.files import read_bytes
from lowvis_shared.images import Picture, read_image
from numpy.typing import NDArray

_LOGGER = logging.getLogger("lowvis")

SIZES = range(2, 257)
"""Nodes on an axis that the .cube specification (Adobe, version 1.0) allows."""

LEVELS = range(2, 17)
"""Levels of a HaldCLUT: level L has L^2 nodes on an axis, in a picture of L^3 by L^3 pixels."""

_MAX_BYTES = 1 << 30
_LARGEST = 1e9
_NARROWEST = 1e-3
_NUMBER = frozenset(b"+-.0123456789")


@dataclass(frozen=True, slots=True, eq=False)
class Cube:
    """What a .cube file says.

    Attributes:
        values: (N, N, N, 3) float32, finite.
        title: Its title, or an empty string.
        low: The red, green and blue of the first node.
        high: The red, green and blue of the last node, larger than ``low``.
    """

    values: NDArray[np.float32]
    title: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]


def read_cube(path: str | os.PathLike[str]) -> Cube:
    """Read a .cube file with a 3D LUT.

    Keywords may come in any order. Keywords that are not known are named in a logged warning.

    Raises:
        InputError: The file cannot be read or used; the message names the line.
    """
    size, title = 0, ""
    low, high = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    table = array("d")
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith(b"#"):
            continue
        where = f"{path}, line {number}"
        keyword, arguments = fields[0].decode("utf-8", "replace"), fields[1:]
        if line.lstrip()[0] in _NUMBER:
            table.extend(_numbers(fields, 3, where))
        elif keyword == "TITLE":
            title = line.strip()[len("TITLE") :].decode("utf-8", "replace").strip().strip('"')
        elif keyword == "LUT_3D_SIZE":
            (nodes,) = _numbers(arguments, 1, where)
            if nodes not in SIZES:
                raise InputError(f"{where}: LUT_3D_SIZE is 2 to 256, not {nodes:g}")
            size = int(nodes)
        elif keyword == "DOMAIN_MIN":
            low = _three(_numbers(arguments, 3, where))
        elif keyword == "DOMAIN_MAX":
            high = _three(_numbers(arguments, 3, where))
        elif keyword == "LUT_3D_INPUT_RANGE":
            bottom, top = _numbers(arguments, 2, where)
            low, high = (bottom, bottom, bottom), (top, top, top)
        elif keyword.startswith("LUT_1D_"):
            raise InputError(
                f"{where}: a 1D LUT, where a 3D LUT is wanted",
                hint="convert it to a .cube with LUT_3D_SIZE in a grading program",
            )
        elif not table and keyword.isascii() and keyword.isupper() and len(keyword) > 3:
            _LOGGER.warning("%s: %s is not known and left aside", where, keyword)
        else:
            raise InputError(f"{where}: neither a keyword nor three numbers: '{_shown(line)}'")
    if not size:
        raise InputError(f"{path}: no LUT_3D_SIZE, so no 3D LUT")
    if len(table) != 3 * size**3:
        raise InputError(
            f"{path}: LUT_3D_SIZE {size} needs {size**3} lines of numbers, not {len(table) // 3}"
        )
    if min(last - first for first, last in zip(low, high, strict=True)) < _NARROWEST:
        raise InputError(f"{path}: the domain from {low} to {high} is empty")
    values = np.frombuffer(table).astype(np.float32).reshape(size, size, size, 3)
    return Cube(values, title, low, high)


def write_cube(file: BinaryIO, values: NDArray[np.float32], title: str) -> None:
    """Write a .cube file for the domain 0..1: ASCII, six decimals, lines ending in a newline."""
    # A line has 250 bytes at most, and a quote ends the title.
    printable = "".join(c if c.isprintable() else " " for c in title if c != '"')[:200]
    size = values.shape[0]
    file.write(
        f'TITLE "{printable}"\nLUT_3D_SIZE {size}\n'
        "DOMAIN_MIN 0.0 0.0 0.0\nDOMAIN_MAX 1.0 1.0 1.0\n".encode("ascii", "replace")
    )
    lines = "%.6f %.6f %.6f\n" * size**2
    for plane in values:
        # Adding zero to what is rounded turns -0.000000 into 0.000000.
        numbers = np.round(plane.astype(np.float64).reshape(-1), 6) + 0.0
        file.write((lines % tuple(numbers.tolist())).encode("ascii"))


def read_hald(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read the (N, N, N, 3) values of a HaldCLUT picture; its alpha and profile are left aside.

    Raises:
        InputError: The picture cannot be read or has not the size of a HaldCLUT.
    """
    picture = read_image(path)
    level = next((level for level in LEVELS if level**3 == picture.width), 0)
    if not level or picture.height != picture.width:
        raise InputError(
            f"{path}: {picture.width} x {picture.height} pixels are not a HaldCLUT",
            hint="one of level 8, say, has 512 x 512 pixels and 64 nodes on an axis",
        )
    # Float pictures keep what lies outside 0..1.
    pixels = picture.pixels if picture.bit_depth == 32 else picture.to_float()
    return np.ascontiguousarray(pixels).reshape(level**2, level**2, level**2, 3)


def hald_picture(values: NDArray[np.float32], bit_depth: Literal[8, 16]) -> Picture:
    """The HaldCLUT picture of (N, N, N, 3) values, N a square: clipped to 0..1 and rounded."""
    side = math.isqrt(values.shape[0]) ** 3
    blank = np.zeros((side, side, 3), np.uint8 if bit_depth == 8 else np.uint16)
    return Picture(blank).with_pixels(values.reshape(side, side, 3))


def _read_text(path: str | os.PathLike[str]) -> bytes:
    with suppress(OSError, ValueError):  # said by what reads it
        if Path(path).stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: larger than any .cube file of 256 nodes on an axis")
    data = read_bytes(path)
    if not data.strip():
        raise InputError(f"{path}: the file is empty")
    if b"\0" in data:
        raise InputError(f"{path}: binary data, not the text of a .cube file")
    return data.removeprefix(b"\xef\xbb\xbf")


def _numbers(fields: list[bytes], count: int, where: str) -> list[float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        numbers = []
    # NaN compares false. float32 holds larger numbers, but no LUT does.
    if len(numbers) != count or not sum(map(abs, numbers)) < _LARGEST:
        wanted = "1 finite number is" if count == 1 else f"{count} finite numbers are"
        raise InputError(f"{where}: {wanted} wanted, not '{_shown(b' '.join(fields))}'")
    return numbers


def _three(numbers: list[float]) -> tuple[float, float, float]:
    red, green, blue = numbers
    return red, green, blue


def _shown(line: bytes) -> str:
    text = "".join(c if c.isprintable() else "?" for c in line.strip().decode("ascii", "replace"))
    return text if len(text) <= 60 else f"{text[:60]}…"
