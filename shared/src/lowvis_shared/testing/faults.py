"""Every bad or odd picture file that users bring, made in milliseconds without any sample file.

A test parametrises over ``BAD_FILES`` (an error with a known exit code and text) and over
``ODD_FILES`` (read, with a known outcome), and calls ``create`` with its temporary folder::

    @pytest.mark.parametrize("fault", BAD_FILES, ids=str)
    def test_refused(fault, tmp_path):
        with pytest.raises(InputError, match=fault.message):
            read_image(fault.create(tmp_path))
"""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

from lowvis_shared.testing.pictures import photo

HEIGHT, WIDTH = 24, 32
"""The size of every file here that does not say otherwise."""


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that must be refused with one clear line.

    Attributes:
        name: What is wrong, as an identifier for tests.
        filename: The name of the file.
        make: Writes the file to the path given; a missing file is simply not written.
        message: A part of the error message (a regular expression).
        exit_code: The exit code of a command that was given this file alone.
    """

    name: str
    filename: str
    make: Callable[[Path], object]
    message: str
    exit_code: int = 65

    def __str__(self) -> str:
        return self.name

    def create(self, folder: Path) -> Path:
        """Write the file into a folder and return its path."""
        path = folder / self.filename
        self.make(path)
        return path


@dataclass(frozen=True, slots=True)
class OddFile:
    """An unusual file that must be read, and what must come out.

    Attributes:
        name: What is unusual, as an identifier for tests.
        filename: The name of the file.
        make: Writes the file to the path given.
        bit_depth: The depth of the picture: 8, 16 or 32.
        gray: The picture is gray.
        alpha: The picture has alpha.
        size: Height and width, upright.
        log: A part of the warning that must be logged (a regular expression), or None for none.
    """

    name: str
    filename: str
    make: Callable[[Path], object]
    bit_depth: int = 8
    gray: bool = False
    alpha: bool = False
    size: tuple[int, int] = (HEIGHT, WIDTH)
    log: str | None = None

    def __str__(self) -> str:
        return self.name

    def create(self, folder: Path) -> Path:
        """Write the file into a folder and return its path."""
        path = folder / self.filename
        self.make(path)
        return path


# --- the bytes of files --------------------------------------------------------------------------


def encoded(file_format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """Return the bytes of a small photograph, or of an image, as Pillow writes them."""
    buffer = io.BytesIO()
    (_rgb() if image is None else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def deep_samples(channels: int = 3, *, dark: bool = False) -> NDArray[np.uint16]:
    """Return (HEIGHT, WIDTH, channels) 16-bit samples, all below 256 when ``dark``."""
    samples = np.random.default_rng(7).integers(0, 65536, (HEIGHT, WIDTH, channels))
    return (samples // 512 if dark else samples).astype(np.uint16)


def png(samples: NDArray[np.uint16], *, extra: bytes = b"") -> bytes:
    """Return a 16-bit PNG of (H, W, 1 to 4) samples, without filters; ``extra`` are chunks."""
    height, width, channels = samples.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            extra,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        ]
    )


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return one PNG chunk with its checksum."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def tiff(
    samples: NDArray[Any],
    *,
    byte_order: Literal["<", ">"] = "<",
    compressed: bool = False,
    **tags: int,
) -> bytes:
    """Return a TIFF of (H, W, C) samples of any type, in one strip.

    Args:
        samples: Unsigned, signed or float samples.
        byte_order: ``<`` (Intel) or ``>`` (Motorola).
        compressed: Deflate instead of plain samples.
        tags: Further or other tags by number, named ``tag262=0``.
    """
    height, width, channels = samples.shape
    content = samples.astype(samples.dtype.newbyteorder(byte_order)).tobytes()
    content = zlib.compress(content) if compressed else content
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II" if byte_order == "<" else b"MM")
    directory[256], directory[257] = width, height
    directory[258] = (samples.dtype.itemsize * 8,) * channels
    directory[259] = 8 if compressed else 1
    directory[262] = 2 if channels >= 3 else 1
    directory[273], directory[279] = (0,), (len(content),)
    directory[277], directory[278], directory[284] = channels, height, 1
    directory[339] = ({"u": 1, "i": 2, "f": 3}[samples.dtype.kind],) * channels
    if channels in {2, 4}:
        directory[338] = (2,)
    for tag, value in tags.items():
        directory[int(tag.removeprefix("tag"))] = value
    buffer = io.BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + content


def srgb_profile() -> bytes:
    """Return an sRGB ICC profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(orientation: int = 1) -> bytes:
    """Return EXIF data with a camera, a date, a place, dimensions and an orientation."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "lowvis camera", orientation
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: WIDTH, 0xA003: HEIGHT}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.5)}
    return exif.tobytes()


def header_bomb(file_format: str, width: int = 60_000, height: int = 60_000) -> bytes:
    """Return a tiny file whose header announces a huge picture; WebP is limited to 16383."""
    if file_format == "PNG":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = png_chunk(b"IDAT", zlib.compress(b"\0" * 64)) + png_chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data
    if file_format == "JPEG":
        data = encoded("JPEG")
        start = data.index(b"\xff\xc0") + 5
        return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]
    if file_format == "GIF":
        data = encoded("GIF")
        return data[:6] + struct.pack("<HH", width, height) + data[10:]
    if file_format == "BMP":
        data = encoded("BMP")
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    if file_format == "TIFF":
        return tiff(np.zeros((1, 1, 3), np.uint8), tag256=width, tag257=height)
    if file_format == "WebP":
        side = (16383 - 1).to_bytes(3, "little")
        content = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + side + side
        return b"RIFF" + struct.pack("<I", len(content)) + content
    raise ValueError(f"no header bomb for {file_format}")


def _rgb() -> Image.Image:
    return Image.fromarray(photo(HEIGHT, WIDTH))


def _rgba() -> Image.Image:
    image = _rgb()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _bytes(data: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data())


def _cut(data: Callable[[], bytes], share: float = 0.6) -> Callable[[Path], object]:
    """Keep the first part of a file, as an interrupted copy does."""
    return lambda path: path.write_bytes(data()[: int(len(data()) * share)])


def _hidden_colors() -> bytes:
    """A transparent half whose colors are garbage."""
    samples = np.dstack([photo(HEIGHT, WIDTH), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    samples[:, : WIDTH // 2] = (255, 0, 255, 0)
    return encoded("PNG", Image.fromarray(samples))


def _frames(file_format: str) -> bytes:
    return encoded(file_format, save_all=True, append_images=[_rgb().rotate(180)])


def _float_with(value: float) -> bytes:
    samples = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    samples[3, 4, 1] = value
    return tiff(samples)


def _opencv(suffix: str, samples: NDArray[Any]) -> bytes:
    return cv2.imencode(suffix, samples)[1].tobytes()


def _write_nothing(_: Path) -> None:
    """Leave the file missing."""


BAD_FILES: tuple[BadFile, ...] = (
    BadFile("missing", "missing.png", _write_nothing, "no such file"),
    BadFile("folder", "folder.png", lambda path: path.mkdir(), "a folder"),
    BadFile("empty", "empty.png", _bytes(lambda: b""), "empty file"),
    BadFile("one-byte", "one.jpg", _bytes(lambda: b"\xff"), "not a picture"),
    BadFile("text", "text.png", _bytes(lambda: b"hello world\n" * 9), "not a picture"),
    BadFile(
        "html-named-jpg",
        "page.jpg",
        _bytes(lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        "HTML page",
    ),
    BadFile(
        "git-lfs-pointer",
        "pointer.png",
        _bytes(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "Git LFS pointer",
    ),
    BadFile(
        "heic-named-jpg",
        "phone.jpg",
        _bytes(lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)),
        "HEIC",
    ),
    BadFile("truncated-jpeg", "cut.jpg", _cut(lambda: encoded("JPEG", quality=95)), "truncated"),
    BadFile(
        "truncated-progressive-jpeg",
        "cut-progressive.jpg",
        _cut(lambda: encoded("JPEG", quality=95, progressive=True)),
        "truncated",
    ),
    BadFile("truncated-png", "cut.png", _cut(lambda: encoded("PNG")), "truncated"),
    BadFile("truncated-16-bit-png", "cut16.png", _cut(lambda: png(deep_samples())), "truncated"),
    BadFile("truncated-webp", "cut.webp", _cut(lambda: encoded("WEBP")), "truncated"),
    BadFile("truncated-tiff", "cut.tif", _cut(lambda: encoded("TIFF")), "truncated"),
    BadFile("truncated-16-bit-tiff", "cut16.tif", _cut(lambda: tiff(deep_samples())), "truncated"),
    BadFile("truncated-bmp", "cut.bmp", _cut(lambda: encoded("BMP")), "truncated"),
    BadFile("truncated-gif", "cut.gif", _cut(lambda: encoded("GIF")), "truncated"),
    BadFile("truncated-header", "head.jpg", _cut(lambda: encoded("JPEG"), 0.05), "truncated"),
    *(
        BadFile(
            f"{kind.lower()}-header-bomb",
            f"bomb.{kind.lower()}",
            _bytes(lambda kind=kind: header_bomb(kind)),
            "more than the limit",
        )
        for kind in ("PNG", "JPEG", "WebP", "TIFF", "BMP", "GIF")
    ),
    BadFile("nan", "nan.tif", _bytes(lambda: _float_with(float("nan"))), "NaN or infinite"),
    BadFile("infinite", "inf.tif", _bytes(lambda: _float_with(float("inf"))), "NaN or infinite"),
    BadFile(
        "signed-tiff",
        "signed.tif",
        _bytes(lambda: tiff(deep_samples().astype(np.int16))),
        "signed samples",
    ),
    BadFile(
        "32-bit-whole-numbers",
        "whole.tif",
        _bytes(lambda: tiff(deep_samples().astype(np.uint32))),
        "32 bits of unsigned samples",
    ),
    BadFile(
        "lab-tiff",
        "lab.tif",
        _bytes(lambda: tiff(photo(HEIGHT, WIDTH), tag262=8)),
        "mode LAB",
    ),
    BadFile(
        "16-bit-planes",
        "planes.tif",
        _bytes(lambda: tiff(deep_samples(), tag284=2)),
        "not supported",
    ),
    BadFile(
        "symlink-loop",
        "loop.png",
        lambda path: path.symlink_to(path.name),
        "symbolic links",
    ),
)
"""Files that are refused."""


def _name(name: str, filename: str) -> OddFile:
    return OddFile(name, filename, _bytes(lambda: encoded("PNG")))


def _sized(height: int, width: int) -> OddFile:
    return OddFile(
        f"size-{height}x{width}",
        f"size-{height}x{width}.png",
        _bytes(lambda: encoded("PNG", Image.fromarray(photo(height, width)))),
        size=(height, width),
    )


def _oriented(file_format: str, suffix: str, orientation: int) -> OddFile:
    return OddFile(
        f"{file_format.lower()}-orientation-{orientation}",
        f"orientation-{orientation}{suffix}",
        _bytes(lambda: encoded(file_format, exif=exif_block(orientation))),
        size=(WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH),
    )


ODD_FILES: tuple[OddFile, ...] = (
    OddFile("png-named-jpg", "really-png.jpg", _bytes(lambda: encoded("PNG"))),
    OddFile("jpeg-named-png", "really-jpeg.png", _bytes(lambda: encoded("JPEG"))),
    OddFile("no-suffix", "picture", _bytes(lambda: encoded("WEBP"))),
    OddFile("gray", "gray.png", _bytes(lambda: encoded("PNG", _rgb().convert("L"))), gray=True),
    OddFile(
        "gray-jpeg", "gray.jpg", _bytes(lambda: encoded("JPEG", _rgb().convert("L"))), gray=True
    ),
    OddFile(
        "gray-alpha",
        "gray-alpha.png",
        _bytes(lambda: encoded("PNG", _rgba().convert("LA"))),
        gray=True,
        alpha=True,
    ),
    OddFile("rgba", "rgba.png", _bytes(lambda: encoded("PNG", _rgba())), alpha=True),
    OddFile("rgba-webp", "rgba.webp", _bytes(lambda: encoded("WEBP", _rgba())), alpha=True),
    OddFile("rgba-tiff", "rgba.tif", _bytes(lambda: encoded("TIFF", _rgba())), alpha=True),
    OddFile("hidden-colors", "hidden.png", _bytes(_hidden_colors), alpha=True),
    OddFile("palette", "palette.png", _bytes(lambda: encoded("PNG", _rgb().quantize(16)))),
    OddFile(
        "palette-alpha",
        "palette-alpha.png",
        _bytes(lambda: encoded("PNG", _rgb().quantize(16), transparency=bytes([0, 128, 255]))),
        alpha=True,
    ),
    OddFile(
        "transparent-color",
        "transparent-color.png",
        _bytes(lambda: encoded("PNG", transparency=_rgb().getpixel((0, 0)))),
        alpha=True,
    ),
    OddFile(
        "transparent-gray",
        "transparent-gray.png",
        _bytes(lambda: encoded("PNG", _rgb().convert("L"), transparency=128)),
        gray=True,
        alpha=True,
    ),
    OddFile("one-bit", "bits.png", _bytes(lambda: encoded("PNG", _rgb().convert("1"))), gray=True),
    OddFile(
        "one-bit-tiff",
        "bits.tif",
        _bytes(lambda: encoded("TIFF", _rgb().convert("1"), compression="group4")),
        gray=True,
    ),
    OddFile(
        "cmyk-jpeg",
        "cmyk.jpg",
        _bytes(lambda: encoded("JPEG", _rgb().convert("CMYK"))),
        log="CMYK",
    ),
    OddFile(
        "cmyk-tiff",
        "cmyk.tif",
        _bytes(lambda: encoded("TIFF", _rgb().convert("CMYK"))),
        log="CMYK",
    ),
    OddFile("ycbcr-tiff", "ycbcr.tif", _bytes(lambda: encoded("TIFF", compression="jpeg"))),
    OddFile("16-bit-gray", "gray16.png", _bytes(lambda: png(deep_samples(1))), 16, gray=True),
    OddFile(
        "16-bit-gray-alpha",
        "gray-alpha16.png",
        _bytes(lambda: png(deep_samples(2))),
        16,
        gray=True,
        alpha=True,
    ),
    OddFile("16-bit-rgb", "rgb16.png", _bytes(lambda: png(deep_samples(3))), 16),
    OddFile("16-bit-rgba", "rgba16.png", _bytes(lambda: png(deep_samples(4))), 16, alpha=True),
    OddFile("16-bit-dark", "dark16.png", _bytes(lambda: png(deep_samples(3, dark=True))), 16),
    OddFile("16-bit-tiff", "rgb16.tif", _bytes(lambda: tiff(deep_samples())), 16),
    OddFile(
        "16-bit-tiff-motorola",
        "motorola16.tif",
        _bytes(lambda: tiff(deep_samples(), byte_order=">", compressed=True)),
        16,
    ),
    OddFile("16-bit-tiff-lzw", "lzw16.tif", _bytes(lambda: _opencv(".tif", deep_samples())), 16),
    OddFile("16-bit-gray-tiff", "gray16.tif", _bytes(lambda: tiff(deep_samples(1))), 16, gray=True),
    OddFile(
        "16-bit-rgba-tiff", "rgba16.tif", _bytes(lambda: tiff(deep_samples(4))), 16, alpha=True
    ),
    OddFile(
        "float-tiff",
        "float.tif",
        _bytes(lambda: tiff((deep_samples() / 65535).astype(np.float32))),
        32,
    ),
    OddFile(
        "float-gray-tiff",
        "float-gray.tif",
        _bytes(lambda: tiff((deep_samples(1) / 65535).astype(np.float32))),
        32,
        gray=True,
    ),
    OddFile(
        "float-beyond-one",
        "float-beyond.tif",
        _bytes(lambda: tiff((deep_samples() / 255).astype(np.float32))),
        32,
        log="outside 0..1",
    ),
    OddFile("animated-gif", "animated.gif", _bytes(lambda: _frames("GIF")), log="first frame"),
    OddFile("animated-webp", "animated.webp", _bytes(lambda: _frames("WEBP")), log="first frame"),
    OddFile("animated-png", "animated.png", _bytes(lambda: _frames("PNG")), log="first frame"),
    OddFile("jpeg-with-a-second-picture", "phone.jpg", _bytes(lambda: _frames("MPO"))),
    OddFile("two-pages", "pages.tif", _bytes(lambda: _frames("TIFF")), log="page"),
    *(_oriented("JPEG", ".jpg", orientation) for orientation in range(1, 9)),
    _oriented("PNG", ".png", 6),
    _oriented("WEBP", ".webp", 6),
    OddFile(
        "16-bit-orientation-6",
        "orientation16.png",
        _bytes(lambda: png(deep_samples(), extra=png_chunk(b"eXIf", exif_block(6)[6:]))),
        16,
        size=(WIDTH, HEIGHT),
    ),
    OddFile(
        "tiff-orientation-6",
        "orientation.tif",
        _bytes(lambda: tiff(photo(HEIGHT, WIDTH), tag274=6)),
        size=(WIDTH, HEIGHT),
    ),
    OddFile(
        "16-bit-tiff-orientation-6",
        "orientation16.tif",
        _bytes(lambda: tiff(deep_samples(), tag274=6)),
        16,
        size=(WIDTH, HEIGHT),
    ),
    OddFile(
        "damaged-exif",
        "damaged-exif.jpg",
        _bytes(lambda: encoded("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")),
        log="",
    ),
    *(_sized(height, width) for height, width in ((1, 1), (1, 37), (41, 1), (2, 3), (31, 29))),
    _name("spaces", "a picture  with spaces.png"),
    _name("quotes", """it's "quoted" $HOME `x`.png"""),
    _name("leading-dash", "-o.png"),
    _name("not-ascii", "påñ-写真-🐙.png"),
    _name("newline", "two\nlines.png"),
    _name("brackets", "a[1]*?.png"),
    _name("255-bytes", "x" * 251 + ".png"),
    _name("upper-case-suffix", "UPPER.PNG"),
    # Only Linux file systems take any bytes as a name.
    *([_name("not-utf-8", os.fsdecode(b"caf\xe9.png"))] if sys.platform == "linux" else []),
)
"""Files that are read."""


def folder_without_pictures(folder: Path) -> Path:
    """Fill a folder with files that are no pictures, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.txt").write_text("no picture\n")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "Thumbs.db").write_bytes(bytes(16))
    return folder


def folder_with_name_collision(folder: Path) -> Path:
    """Fill a folder with two pictures whose names differ in the suffix only, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "same.png").write_bytes(encoded("PNG"))
    (folder / "same.jpg").write_bytes(encoded("JPEG"))
    return folder


def mixed_folder(folder: Path) -> tuple[Path, list[Path], list[Path]]:
    """Fill a folder with good and bad files; return it, the good paths and the bad paths."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [folder / "first.png", folder / "last.jpg"]
    good[0].write_bytes(encoded("PNG"))
    good[1].write_bytes(encoded("JPEG"))
    names = {"empty", "html-named-jpg", "truncated-jpeg", "png-header-bomb"}
    return folder, good, [fault.create(folder) for fault in BAD_FILES if fault.name in names]
