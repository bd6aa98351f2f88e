"""Pictures to bytes, with all the depth, profile and metadata that a format can hold.

Pillow writes what has 8 bits; PNG with 16 bits and TIFF of every depth are written here, because
no library at hand writes them together with an ICC profile and EXIF.
"""

import io
import logging
import struct
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from lowvis_shared._decode import EXIF_FOLDERS, TIFF_DESCRIPTION, TIFF_ICC_PROFILE
from lowvis_shared._picture import Picture, Samples, change_depth
from lowvis_shared.errors import OutputError

_LOGGER = logging.getLogger("lowvis")


@dataclass(frozen=True, slots=True)
class Format:
    """What a file format can hold."""

    name: str
    alpha: bool = True
    gray: bool = True
    metadata: bool = True
    depths: tuple[int, ...] = (8,)
    max_side: int = 2**31 - 1


PNG = Format("PNG", depths=(8, 16))
JPEG = Format("JPEG", alpha=False, max_side=65500)  # the limit of libjpeg, not of the standard
WEBP = Format("WebP", gray=False, max_side=16383)
TIFF = Format("TIFF", depths=(8, 16, 32))
BMP = Format("BMP", alpha=False, metadata=False)

FORMATS = {
    ".png": PNG,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": WEBP,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".bmp": BMP,
}
_DTYPES = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.float32)}


def encode(picture: Picture, file_format: Format, name: str, *, quality: int) -> bytes:
    """Encode a picture, logging what the format cannot hold; see ``write_image``."""
    depth = max((d for d in file_format.depths if d <= picture.bit_depth), default=8)
    if depth != picture.bit_depth:
        _LOGGER.warning(
            "%s: %s holds %d bits; %s samples are rounded", name, file_format.name, depth,
            "float" if picture.bit_depth == 32 else f"{picture.bit_depth}-bit",
        )  # fmt: skip
    channels = _channels(picture, gray=picture.gray and file_format.gray, dtype=_DTYPES[depth])
    icc_profile, exif = picture.icc_profile, picture.exif
    if not file_format.metadata and (icc_profile or exif):
        _LOGGER.warning(
            "%s: %s holds no ICC profile and no EXIF; they are dropped", name, file_format.name
        )
        icc_profile = exif = None
    if icc_profile and icc_profile[16:20] != (b"GRAY" if channels.shape[2] < 3 else b"RGB "):
        _LOGGER.warning("%s: the ICC profile is of another kind of picture; dropped", name)
        icc_profile = None
    exif = None if exif is None else _exif_for_size(exif, picture, name)
    if file_format is JPEG and exif is not None and len(exif) > 65533:
        _LOGGER.warning("%s: the EXIF data is too long for JPEG and is dropped", name)
        exif = None

    if file_format is TIFF:
        return _encode_tiff(channels, icc_profile, exif, name)
    if file_format is PNG and depth == 16:
        return _encode_png16(channels, icc_profile, exif)
    image = Image.fromarray(channels[..., 0] if channels.shape[2] == 1 else channels)
    options: dict[str, Any] = {}
    if icc_profile:
        options["icc_profile"] = icc_profile
    if exif:
        options["exif"] = exif
    if file_format is JPEG:
        # Color at full resolution where quality is asked for: restored detail must not bleed.
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    elif file_format is WEBP:
        options |= {"quality": quality, "method": 4, "exact": True}
    buffer = io.BytesIO()
    image.save(buffer, file_format.name, **options)
    return buffer.getvalue()


def _channels(picture: Picture, *, gray: bool, dtype: np.dtype[Any]) -> Samples:
    """Return (H, W, 1 to 4): gray or RGB, then alpha where there is one."""
    pixels = change_depth(picture.pixels, dtype)
    if gray:
        # Equal channels give themselves; a network's small differences are averaged as luma.
        luma = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        pixels = (luma if dtype.kind == "f" else np.rint(luma)).astype(dtype)[..., None]
    if picture.alpha is None:
        return np.ascontiguousarray(pixels)
    return np.concatenate([pixels, change_depth(picture.alpha, dtype)[..., None]], axis=2)


def _exif_for_size(exif: bytes, picture: Picture, name: str) -> bytes | None:
    """Return the EXIF block with the size of this picture where it states one."""
    try:
        block = Image.Exif()
        block.load(exif)
        folder = block.get_ifd(ExifTags.IFD.Exif)
        if ExifTags.Base.ExifImageWidth in folder:
            folder[ExifTags.Base.ExifImageWidth] = picture.width
        if ExifTags.Base.ExifImageHeight in folder:
            folder[ExifTags.Base.ExifImageHeight] = picture.height
        return block.tobytes()
    except Exception as error:  # noqa: BLE001 - any damage means the same, and is logged
        _LOGGER.warning("%s: damaged EXIF data is dropped (%s)", name, error)
        return None


# --- PNG with 16 bits (W3C PNG, third edition) ---------------------------------------------------


def _encode_png16(channels: Samples, icc_profile: bytes | None, exif: bytes | None) -> bytes:
    height, width, count = channels.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    parts = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)),
    ]
    if icc_profile:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    if exif:
        parts.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    compressor = zlib.compressobj(6)
    rows = channels.astype(">u2").reshape(height, -1).view(np.uint8)
    pieces = [compressor.compress(row) for row in _filtered(rows, count * 2)]
    pieces.append(compressor.flush())
    # A chunk holds at most 2**31 - 1 bytes; one for each row's output is just as valid.
    parts.extend(_chunk(b"IDAT", piece) for piece in pieces if piece)
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _filtered(rows: NDArray[np.uint8], pixel_bytes: int) -> Generator[bytes]:
    """Filter each row the way that leaves the smallest differences (section 12.7)."""
    above = np.zeros_like(rows[0])
    for row in rows:
        left, above_left = np.zeros_like(row), np.zeros_like(row)
        left[pixel_bytes:], above_left[pixel_bytes:] = row[:-pixel_bytes], above[:-pixel_bytes]
        a, b, c = left.astype(np.int16), above.astype(np.int16), above_left.astype(np.int16)
        to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
        paeth = np.where((to_a <= to_b) & (to_a <= to_c), left,
                         np.where(to_b <= to_c, above, above_left))  # fmt: skip
        candidates = {0: row, 1: row - left, 2: row - above, 4: row - paeth}
        best = min(
            candidates,
            key=lambda kind: int(abs(candidates[kind].view(np.int8).astype(np.int16)).sum()),
        )
        yield bytes([best]) + candidates[best].tobytes()
        above = row


# --- TIFF (TIFF 6.0; Adobe technical note 3 for the predictor) -----------------------------------


def _encode_tiff(
    channels: Samples, icc_profile: bytes | None, exif: bytes | None, name: str
) -> bytes:
    if channels.shape[2] == 2 and channels.dtype != np.uint8:
        # Deep gray with alpha is a layout that common readers, this one included, refuse.
        channels = channels[..., [0, 0, 0, 1]]
    height, width, count = channels.shape
    depth = channels.dtype.itemsize * 8
    is_float = channels.dtype.kind == "f"
    rows = max(1, 2**18 // (width * count * depth // 8))
    strips = [_encode_strip(channels[top : top + rows]) for top in range(0, height, rows)]
    lengths = [len(strip) for strip in strips]
    if sum(lengths) > 2**32 - 2**20:
        raise OutputError(f"{name}: a TIFF holds at most 4 GiB", hint="write a PNG")

    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    if exif:
        block = Image.Exif()
        block.load(exif)
        for tag in TIFF_DESCRIPTION:
            if tag in block:
                tags[tag] = block[tag]
        for tag in EXIF_FOLDERS:
            if folder := block.get_ifd(tag):
                tags[tag] = {key: value for key, value in folder.items() if key != 0xA005}
    tags[256], tags[257] = width, height
    tags[258] = (depth,) * count
    tags[259] = 8  # deflate
    tags[262] = 2 if count >= 3 else 1  # RGB, or black is zero
    tags[273] = tuple(sum(lengths[:i]) for i in range(len(lengths)))  # from the end of the tags
    tags[277] = count
    tags[278], tags[279] = rows, tuple(lengths)
    tags[284] = 1  # samples of a pixel side by side
    tags[317] = 1 if is_float else 2  # horizontal differences for whole numbers
    if count in {2, 4}:
        tags[338] = (2,)  # alpha that colors are not multiplied by
    tags[339] = (3 if is_float else 1,) * count
    if icc_profile:
        tags[TIFF_ICC_PROFILE] = icc_profile
    buffer = io.BytesIO()
    tags.save(buffer)
    return b"".join([buffer.getvalue(), *strips])


def _encode_strip(strip: Samples) -> bytes:
    if strip.dtype.kind == "u":
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]
        strip = differences
    return zlib.compress(strip.astype(strip.dtype.newbyteorder("<")).tobytes(), 6)
