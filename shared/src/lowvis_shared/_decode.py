"""Bytes to pictures: by content, with every trick of the decoding libraries made visible.

Pillow decodes all that has 8 bits; it reduces 16-bit color to 8 bits without a word, so deeper
color is decoded by OpenCV after Pillow has read the header and checked that the file is whole.
OpenCV in turn fills a truncated JPEG with gray without a word, and never sees one here.
"""

import io
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from lowvis_shared._picture import Picture, Samples
from lowvis_shared.errors import InputError, LowvisError

_LOGGER = logging.getLogger("lowvis")

# Python's warning filters and the switch for truncated files belong to the process, not to a call.
_LOCK = threading.RLock()

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}
_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*<(!doctype html|html|head|body|!--)", "an HTML page"),
    (rb"\s*(<\?xml|<svg)", "an XML or SVG document"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file it points to"),
    (rb"%PDF", "a PDF document"),
    (rb"....ftyp(avif|avis)", "an AVIF picture"),
    (rb"....ftyp(heic|heix|mif1|msf1)", "a HEIC picture"),
    (rb"....ftyp", "a video or audio file"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (rb"8BPS", "a Photoshop document"),
)
# TIFF tags that describe the picture; the others describe the bytes of one file.
TIFF_DESCRIPTION = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
TIFF_ICC_PROFILE = 34675
EXIF_FOLDERS = (int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo))


def decode(data: bytes, name: str, *, max_pixels: int, allow_truncated: bool) -> Picture:
    """Decode the bytes of one file; see ``lowvis_shared.images.read_image``."""
    file_format = sniff(data)
    if file_format is None:
        if not data:
            raise InputError(f"{name}: empty file", hint="copy or download it again")
        kind = next((k for p, k in _KINDS if re.match(p, data, re.IGNORECASE | re.DOTALL)), None)
        raise InputError(
            f"{name}: not a picture" + (f": the content is {kind}" if kind else ""),
            hint="PNG, JPEG, WebP, TIFF, BMP and GIF are read, whatever the file is called",
        )
    with _LOCK, _warnings_to_log(name):
        try:
            return _decode_as(file_format, data, name, max_pixels)
        except LowvisError:
            raise
        except MemoryError as error:
            raise InputError(f"{name}: does not fit into the memory of this machine") from error
        except Exception as error:
            # Decoders of damaged files raise whatever they stumble over; all of it means one thing.
            if not allow_truncated:
                raise _damaged(file_format, data, name, error) from error
            failure = error
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            picture = _decode_as(file_format, data, name, max_pixels)
        except LowvisError:
            raise
        except Exception as error:
            raise _damaged(file_format, data, name, error, hint=False) from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _LOGGER.warning("%s: truncated or damaged, read as far as possible (%s)", name, failure)
        return picture


def sniff(data: bytes) -> str | None:
    """Return the format that the first bytes announce, or None."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return "GIF"
    return None


def _damaged(
    file_format: str, data: bytes, name: str, error: Exception, *, hint: bool = True
) -> InputError:
    """Name what is wrong with a file that no decoder finishes."""
    ends = {
        "PNG": b"IEND" not in data[-64:],
        "JPEG": b"\xff\xd9" not in data[-64:],
        "WebP": len(data) < 20 or int.from_bytes(data[4:8], "little") + 8 > len(data),
        "BMP": len(data) < 54 or int.from_bytes(data[2:6], "little") > len(data),
        "GIF": b";" not in data[-8:],
    }
    text = str(error) or type(error).__name__
    if ends.get(file_format, False) or re.search("truncated|unexpected end|not enough|EOF", text):
        return InputError(
            f"{name}: the {file_format} file is truncated ({len(data):,} bytes: {text})",
            hint="copy it again, or pass --allow-truncated to use what is there" if hint else None,
        )
    return InputError(f"{name}: the {file_format} file is damaged or not supported ({text})")


@contextmanager
def _warnings_to_log(name: str) -> Generator[None]:
    """Log what the libraries warn about, under the name of the file."""
    level = cv2.utils.logging.getLogLevel()
    with warnings.catch_warnings(record=True) as caught:
        # OpenCV writes its doubts to stderr, past any logger; what it fails on is raised here.
        cv2.utils.logging.setLogLevel(0)
        warnings.simplefilter("always")
        try:
            yield
        finally:
            cv2.utils.logging.setLogLevel(level)
            for warning in caught:
                # The limit on pixels is checked here, with the number that the user chose.
                if not issubclass(warning.category, Image.DecompressionBombWarning):
                    _LOGGER.warning("%s: %s", name, " ".join(str(warning.message).split()))


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name}: the header gives a size of {width} x {height} pixels")
    if width * height > max_pixels:
        raise InputError(
            f"{name}: {width} x {height} pixels ({width * height:,}) are more than "
            f"the limit of {max_pixels:,}",
            hint=f"pass --max-pixels {width * height} if you trust the file",
        )


def _decode_as(file_format: str, data: bytes, name: str, max_pixels: int) -> Picture:
    if file_format == "TIFF":
        return _decode_tiff(data, name, max_pixels)
    if file_format == "WebP":
        # Pillow's decoder reserves the canvas as soon as it opens the file.
        _check_size(_webp_size(data), name, max_pixels)
    image = _PLUGINS[file_format](io.BytesIO(data))
    _check_size(image.size, name, max_pixels)
    if getattr(image, "is_animated", False):
        _LOGGER.warning("%s: animated; only the first frame is used", name)
    image.load()
    if file_format == "PNG" and data[24] == 16 and data[25] != 0:
        _check_png(data)
        channels = _decode_deep(data, name, image.size, np.dtype(np.uint16))
        if data[25] == 4:  # gray with alpha, which OpenCV spreads over four channels
            channels = channels[..., [0, 3]]
    else:
        channels = _from_pillow(image, name, depth=data[24] if file_format == "PNG" else 8)
    icc_profile = image.info.get("icc_profile")
    exif, orientation = _read_exif(image, name)
    return _picture(
        _upright(channels, orientation),
        icc_profile=None if image.mode == "CMYK" else icc_profile,
        exif=exif,
        file_format=file_format,
        name=name,
    )


def _picture(
    channels: Samples, *, icc_profile: Any, exif: bytes | None, file_format: str, name: str
) -> Picture:
    """Sort (H, W, 1 to 4) channels, gray or color with or without alpha, into a picture."""
    gray, has_alpha = channels.shape[2] < 3, channels.shape[2] in {2, 4}
    pixels = np.repeat(channels[..., :1], 3, axis=2) if gray else channels[..., :3]
    try:
        return Picture(
            pixels=np.ascontiguousarray(pixels),
            alpha=np.ascontiguousarray(channels[..., -1]) if has_alpha else None,
            gray=gray,
            icc_profile=icc_profile if isinstance(icc_profile, bytes) and icc_profile else None,
            exif=exif,
            format=file_format,
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _from_pillow(image: Image.Image, name: str, *, depth: int) -> Samples:
    """Return the channels, (H, W, 1 to 4), of a loaded image."""
    mode = image.mode
    transparent = image.info.get("transparency")  # before a conversion drops or changes it
    if mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif mode == "1":
        image = image.convert("L")
    elif mode == "CMYK":
        image = _cmyk_to_srgb(image, name)
    elif mode == "YCbCr":
        image = image.convert("RGB")
    elif mode in {"PA", "RGBa", "La", "RGBX"}:
        image = image.convert({"PA": "RGBA", "RGBa": "RGBA", "La": "LA", "RGBX": "RGB"}[mode])
    elif mode not in {"L", "LA", "RGB", "RGBA", "I;16", "I;16B"}:
        raise InputError(
            f"{name}: pictures of mode {mode} are not supported",
            hint="convert it to gray or RGB with 8 or 16 bits first",
        )
    array = np.array(image)
    if array.dtype.kind == "u":
        array = array.astype(array.dtype.newbyteorder("="))
    channels = array.reshape(image.height, image.width, -1)
    if mode in {"1", "L", "I;16", "RGB"} and isinstance(transparent, int | tuple):
        # One color of a PNG or GIF stands for "transparent", on the scale of the file. Pillow
        # scales it together with the pixels for 1 bit, and does not for 2 and 4 bits.
        full = np.iinfo(channels.dtype).max
        scale = 1 if mode == "1" else full // (2**depth - 1)
        color = np.atleast_1d(transparent) * scale
        opaque = np.any(channels != color, axis=2, keepdims=True)
        channels = np.concatenate([channels, (opaque * full).astype(channels.dtype)], axis=2)
    return channels


def _cmyk_to_srgb(image: Image.Image, name: str) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError) as error:
            _LOGGER.warning("%s: the CMYK profile is not usable (%s)", name, error)
        else:
            if converted is not None:
                _LOGGER.warning("%s: CMYK converted to sRGB by its profile", name)
                return converted
    _LOGGER.warning("%s: CMYK without a usable profile, converted to RGB roughly", name)
    return image.convert("RGB")


def _decode_deep(data: bytes, name: str, size: tuple[int, int], dtype: np.dtype[Any]) -> Samples:
    """Decode 16-bit or float samples with OpenCV into (H, W, C) in the order RGB(A)."""
    array: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("the samples cannot be decoded; the file is truncated or damaged")
    channels = array.reshape(*array.shape[:2], -1)
    if channels.dtype != dtype or sorted(channels.shape[:2]) != sorted(size):
        # Layouts that OpenCV does not know come out as something else instead of an error.
        raise InputError(
            f"{name}: this layout of {dtype.itemsize * 8}-bit samples is not supported",
            hint="save it as a PNG or as a plain RGB TIFF first",
        )
    return channels if channels.shape[2] < 3 else channels[..., [2, 1, 0, 3][: channels.shape[2]]]


def _check_png(data: bytes) -> None:
    """Find out what is wrong with a PNG before OpenCV does, which writes it to stderr."""
    position, kind = 8, b""
    while kind != b"IEND":
        head = data[position : position + 8]
        if len(head) < 8:
            raise ValueError("truncated before the end chunk")
        length, kind = int.from_bytes(head[:4]), head[4:]
        position += 12 + length
        if position > len(data):
            raise ValueError(f"truncated in chunk {kind.decode('ascii', 'replace')}")
        content, checksum = (
            data[position - 8 - length : position - 4],
            data[position - 4 : position],
        )
        if zlib.crc32(content) != int.from_bytes(checksum):
            raise ValueError(f"wrong checksum of chunk {kind.decode('ascii', 'replace')}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Read width and height from the header (RFC 9649, sections 2.5 to 2.7)."""
    kind, header = data[12:16], data[20:30]
    if len(header) < 10:
        raise ValueError("truncated in the header")
    if kind == b"VP8X":
        return int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(header[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", header[6:])
    return width & 0x3FFF, height & 0x3FFF


# --- metadata ----------------------------------------------------------------------------------


def _read_exif(image: Image.Image, name: str) -> tuple[bytes | None, int]:
    """Return the EXIF block with its orientation reset, and the orientation that it had."""
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        if not exif:
            return None, 1
        exif.pop(ExifTags.Base.ImageWidth, None)
        exif.pop(ExifTags.Base.ImageLength, None)
        if ExifTags.Base.Orientation in exif:
            exif[ExifTags.Base.Orientation] = 1
        return exif.tobytes(), orientation if orientation in range(1, 9) else 1
    except Exception as error:  # noqa: BLE001 - any damage means the same, and is logged
        _LOGGER.warning("%s: damaged EXIF data is dropped (%s)", name, error)
        return None, 1


def _upright(channels: Samples, orientation: int) -> Samples:
    """Turn (H, W, C) as the EXIF orientation says (EXIF 2.32, tag 0x0112)."""
    if orientation in {5, 6, 7, 8}:
        channels = channels.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        channels = channels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        channels = channels[::-1]
    return channels


# --- TIFF --------------------------------------------------------------------------------------


def _decode_tiff(data: bytes, name: str, max_pixels: int) -> Picture:
    file = io.BytesIO(data)
    header = file.read(16 if b"+" in data[:4] else 8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    if not 0 < tags.next < len(data):
        raise ValueError("truncated before the directory of tags")
    start = tags.next
    file.seek(start)
    tags.load(file)
    _check_tiff(data, start, tags)
    size = _numbers(tags, 256, (0,))[0], _numbers(tags, 257, (0,))[0]
    _check_size(size, name, max_pixels)
    if tags.next:
        _LOGGER.warning("%s: more than one page; only the first is used", name)

    bits = set(_numbers(tags, 258, (1,)))
    kinds = set(_numbers(tags, 339, (1,)))
    count = _numbers(tags, 277, (1,))[0]
    photometric = _numbers(tags, 262, (1,))[0]
    is_float = kinds == {3}
    mode = ""
    if kinds <= {1, 4} and (max(bits) <= 8 or (bits == {16} and (count == 1 or photometric == 5))):
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
        _check_size(image.size, name, max_pixels)
        image.load()
        mode = image.mode
        channels = _from_pillow(image, name, depth=8)
        if mode.startswith("I;16") and photometric == 0:
            channels = np.iinfo(np.uint16).max - channels  # Pillow inverts 8 bits only
    elif _is_deep_color(tags, bits, kinds):
        channels = _decode_deep_tiff(data, name, size, tags, is_float=is_float, bits=max(bits))
    else:
        sample = {1: "unsigned", 2: "signed", 3: "float"}.get(max(kinds), "unknown")
        raise InputError(
            f"{name}: a TIFF with {count} x {max(bits)} bits of {sample} samples in this layout "
            "is not supported",
            hint="convert it to gray or RGB with 8 or 16 bits or 32-bit float first",
        )
    return _picture(
        channels,
        icc_profile=None if mode == "CMYK" else tags.get(TIFF_ICC_PROFILE),
        exif=_read_tiff_exif(tags, header, file, name),
        file_format="TIFF",
        name=name,
    )


def _check_tiff(data: bytes, start: int, tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """Find out whether a TIFF is cut off before libtiff does, which writes it to stderr."""
    order: Literal["little", "big"] = "little" if data.startswith(b"I") else "big"
    entries = int.from_bytes(data[start : start + 2], order)
    if b"+" not in data[:4] and start + 2 + 12 * entries > len(data):
        raise ValueError("truncated in the directory of tags")
    if _numbers(tags, 259, (1,))[0] == 1:
        return  # Pillow itself reads what is not compressed, in part if need be
    for offsets, lengths in ((273, 279), (324, 325)):  # strips, tiles
        ends = zip(_numbers(tags, offsets, (0,)), _numbers(tags, lengths, (0,)), strict=False)
        if any(offset + length > len(data) for offset, length in ends):
            raise ValueError("truncated before the end of the samples")


def _is_deep_color(
    tags: TiffImagePlugin.ImageFileDirectory_v2, bits: set[int], kinds: set[int]
) -> bool:
    """Tell whether OpenCV reads the samples as they are: RGB of 16 bits, gray or RGB of floats."""
    layout = _numbers(tags, 277, (1,))[0], _numbers(tags, 262, (1,))[0]
    if kinds == {3}:
        supported = bits in ({32}, {64}) and layout in {(1, 1), (3, 2), (4, 2)}
    else:
        supported = kinds <= {1, 4} and bits == {16} and layout in {(3, 2), (4, 2)}
    # Separate planes come out as if the samples of a pixel stood side by side.
    return supported and (layout[0] == 1 or _numbers(tags, 284, (1,))[0] == 1)


def _decode_deep_tiff(
    data: bytes,
    name: str,
    size: tuple[int, int],
    tags: TiffImagePlugin.ImageFileDirectory_v2,
    *,
    is_float: bool,
    bits: int,
) -> Samples:
    dtype = np.dtype(f"f{bits // 8}" if is_float else "u2")
    if not is_float:
        # Pillow finds out about missing data; what it decodes, with 8 bits, is not used.
        TiffImagePlugin.TiffImageFile(io.BytesIO(data)).load()
    channels = _decode_deep(data, name, size, dtype)
    if is_float:
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
            channels = channels.astype(np.float32)
        low, high = float(channels.min()), float(channels.max())
        if low < 0 or high > 1:
            _LOGGER.warning(
                "%s: float samples from %g to %g; what lies outside 0..1 will be clipped",
                name, low, high,
            )  # fmt: skip
    extra = _numbers(tags, 338, (2,))[0]
    if channels.shape[2] == 4 and extra == 0:
        return channels[..., :3]  # a fourth channel that is not opacity
    if channels.shape[2] == 4 and extra == 1:
        return _unmultiply(channels)
    return channels


def _unmultiply(channels: Samples) -> Samples:
    """Turn associated alpha, where colors are multiplied by it, into unassociated alpha."""
    full = 1.0 if channels.dtype.kind == "f" else float(np.iinfo(channels.dtype).max)
    alpha = channels[..., 3:].astype(np.float64)
    color = np.divide(channels[..., :3] * full, alpha, out=np.zeros(channels[..., :3].shape),
                      where=alpha > 0)  # fmt: skip
    if channels.dtype.kind != "f":
        color = np.rint(np.minimum(color, full))
    return np.concatenate([color.astype(channels.dtype), channels[..., 3:]], axis=2)


def _numbers(
    tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, default: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the values of a TIFF tag as whole numbers."""
    value: Any = tags.get(tag, default)
    values: tuple[Any, ...] = value if isinstance(value, tuple) and value else (value,)
    return tuple(int(number) for number in values)


def _read_tiff_exif(
    tags: TiffImagePlugin.ImageFileDirectory_v2, header: bytes, file: io.BytesIO, name: str
) -> bytes | None:
    """Collect the tags that describe the picture into an EXIF block."""
    try:
        exif = Image.Exif()
        for tag in TIFF_DESCRIPTION:
            if tag in tags:
                exif[tag] = tags[tag]
        for tag in EXIF_FOLDERS:
            if tag in tags:
                folder = TiffImagePlugin.ImageFileDirectory_v2(header, group=tag)
                file.seek(_numbers(tags, tag, (0,))[0])
                folder.load(file)
                exif[tag] = {key: value for key, value in folder.items() if key != 0xA005}
        return exif.tobytes() if exif else None
    except Exception as error:  # noqa: BLE001 - any damage means the same, and is logged
        _LOGGER.warning("%s: damaged EXIF data is dropped (%s)", name, error)
        return None
