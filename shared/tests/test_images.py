import io
import logging
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared._decode import decode
from lowvis_shared.errors import InputError, LowvisError, OutputError, UsageError
from lowvis_shared.images import (
    IMAGE_SUFFIXES,
    OUTPUT_SUFFIXES,
    Picture,
    check_writable,
    read_image,
    to_array,
    to_tensor,
    write_image,
)
from lowvis_shared.testing import faults
from lowvis_shared.testing.pictures import constant, gradient, make_picture, photo
from numpy.typing import NDArray
from PIL import Image, ImageOps


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def exif_of(picture: Picture) -> Image.Exif:
    exif = Image.Exif()
    assert picture.exif is not None
    exif.load(picture.exif)
    return exif


# --- depth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_read_exactly_from_png(channels: int, dark: bool, tmp_path: Path) -> None:
    samples = faults.deep_samples(channels, dark=dark)
    picture = read_image(write_bytes(tmp_path / "a.png", faults.png(samples)))
    assert picture.pixels.dtype == np.uint16
    color = samples[..., :3] if channels >= 3 else np.repeat(samples[..., :1], 3, axis=2)
    np.testing.assert_array_equal(picture.pixels, color)
    if channels in {2, 4}:
        np.testing.assert_array_equal(picture.alpha, samples[..., -1])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_samples_are_read_exactly_from_tiff(
    channels: int, dtype: type, byte_order: Any, compressed: bool, tmp_path: Path
) -> None:
    samples = faults.deep_samples(channels)
    if dtype is np.float32:
        samples = (samples / 65535).astype(np.float32)
    data = faults.tiff(samples, byte_order=byte_order, compressed=compressed)
    picture = read_image(write_bytes(tmp_path / "a.tif", data))
    assert picture.pixels.dtype == dtype
    color = samples[..., :3] if channels >= 3 else np.repeat(samples, 3, axis=2)
    np.testing.assert_array_equal(picture.pixels, color)
    if channels == 4:
        np.testing.assert_array_equal(picture.alpha, samples[..., 3])


def test_the_range_follows_from_the_type_never_from_the_values(tmp_path: Path) -> None:
    samples = faults.deep_samples(3, dark=True)
    picture = read_image(write_bytes(tmp_path / "dark.png", faults.png(samples)))
    assert picture.to_float().max() <= 255 / 65535


def test_16_bit_tiff_where_white_is_zero_is_inverted(tmp_path: Path) -> None:
    samples = faults.deep_samples(1)
    picture = read_image(write_bytes(tmp_path / "a.tif", faults.tiff(samples, tag262=0)))
    np.testing.assert_array_equal(picture.pixels[..., :1], 65535 - samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_premultiplied_colors_of_a_tiff_are_restored(dtype: type, tmp_path: Path) -> None:
    full = np.iinfo(dtype).max
    samples = np.full((4, 4, 4), full // 4, dtype)
    samples[..., 3] = full // 2
    samples[0, 0] = 0
    picture = read_image(write_bytes(tmp_path / "a.tif", faults.tiff(samples, tag338=1)))
    assert picture.pixels[1:] == pytest.approx(full / 2, rel=0.02)
    assert (picture.pixels[0, 0] == 0).all()
    assert picture.alpha is not None
    assert (picture.alpha[1:] == full // 2).all()


def test_a_fourth_tiff_channel_that_is_not_opacity_is_left_out(tmp_path: Path) -> None:
    data = faults.tiff(faults.deep_samples(4), tag338=0)
    assert read_image(write_bytes(tmp_path / "a.tif", data)).alpha is None


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_gray_of_few_bits_is_found(depth: int, tmp_path: Path) -> None:
    # One row of four pixels: 0, 1, 0, largest value; the value 1 is transparent.
    bits = "".join(f"{value:0{depth}b}" for value in (0, 1, 0, 2**depth - 1)).ljust(16, "0")
    row = bytes([0]) + int(bits, 2).to_bytes(2)
    header = struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)
    buffer = io.BytesIO()
    Image.new("L", (4, 1)).save(buffer, "PNG")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        faults.png_chunk(kind, content)
        for kind, content in (
            (b"IHDR", header),
            (b"tRNS", struct.pack(">H", 1)),
            (b"IDAT", zlib.compress(row[: 1 + (4 * depth + 7) // 8])),
            (b"IEND", b""),
        )
    )
    picture = read_image(write_bytes(tmp_path / "a.png", data))
    assert picture.gray
    assert picture.alpha is not None
    last = 0 if depth == 1 else 255
    assert picture.alpha.tolist() == [[255, 0, 255, last]]
    assert picture.pixels[0, :, 0].tolist() == [0, 255 // (2**depth - 1), 0, 255]


# --- color ---------------------------------------------------------------------------------------


def cmyk_profile() -> bytes:
    """Build an ICC profile (ICC.1:2001-04, section 6.5.9) under which every ink prints gray."""

    def tag(kind: bytes, content: bytes) -> bytes:
        return kind + bytes(4) + content

    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    grid = bytes(
        value
        for corner in np.ndindex(2, 2, 2, 2)
        for value in (round(255 * (1 - sum(corner) / 4)), 128, 128)
    )
    table = tag(b"mft1", bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3)
    text = tag(b"desc", struct.pack(">I", 5) + b"gray\0" + bytes(78))
    white = tag(b"XYZ ", struct.pack(">3i", 63190, 65536, 54061))
    tags = {b"desc": text, b"cprt": tag(b"text", b"none\0"), b"wtpt": white, b"A2B0": table}
    offset = 128 + 4 + 12 * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for kind, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        index += kind + struct.pack(">II", offset + len(body), len(content))
        body += padded
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK",
                         b"Lab ")  # fmt: skip
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + index + body


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_goes_through_its_profile(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # cyan without the profile
    image.save(tmp_path / f"a{suffix}", icc_profile=cmyk_profile())
    picture = read_image(tmp_path / f"a{suffix}")
    assert int(np.ptp(picture.pixels[4, 4].astype(int))) <= 2
    assert picture.icc_profile is None
    assert "by its profile" in caplog.text


def test_cmyk_with_a_broken_profile_is_still_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image.save(tmp_path / "a.jpg", icc_profile=b"not a profile" * 20)
    assert read_image(tmp_path / "a.jpg").pixels[4, 4].tolist() == pytest.approx([0, 255, 255], 2)
    assert "not usable" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_colors_hidden_under_alpha_stay(suffix: str, tmp_path: Path) -> None:
    fault = next(fault for fault in faults.ODD_FILES if fault.name == "hidden-colors")
    picture = read_image(fault.create(tmp_path))
    left = picture.pixels[:, : faults.WIDTH // 2 - 8].astype(int)
    assert (left == (255, 0, 255)).all()
    write_image(picture, tmp_path / f"copy{suffix}")
    copy = read_image(tmp_path / f"copy{suffix}")
    assert np.abs(copy.pixels[:, : left.shape[1]].astype(int) - left).max() <= 6
    assert copy.alpha is not None
    assert not copy.alpha[:, : faults.WIDTH // 2].any()


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_and_reset(
    orientation: int, file_format: str, tmp_path: Path
) -> None:
    data = faults.encoded(file_format, exif=faults.exif_block(orientation))
    picture = read_image(write_bytes(tmp_path / "a", data))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(picture.pixels, np.asarray(upright))
    exif = exif_of(picture)
    assert exif[0x0112] == 1
    assert exif[0x010F] == "lowvis camera"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_16_bits(orientation: int, tmp_path: Path) -> None:
    samples = faults.deep_samples()
    chunk = faults.png_chunk(b"eXIf", faults.exif_block(orientation)[6:])
    png = read_image(write_bytes(tmp_path / "a.png", faults.png(samples, extra=chunk)))
    tiff = read_image(write_bytes(tmp_path / "a.tif", faults.tiff(samples, tag274=orientation)))
    high = Image.fromarray((samples >> 8).astype(np.uint8))
    high.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(high))
    np.testing.assert_array_equal(png.pixels >> 8, expected)
    np.testing.assert_array_equal(tiff.pixels, png.pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_profile_and_exif_survive_with_the_new_size(
    suffix: str, dtype: type, tmp_path: Path
) -> None:
    picture = make_picture(dtype=dtype)
    source = Picture(picture.pixels, icc_profile=faults.srgb_profile(), exif=faults.exif_block())
    large = source.with_pixels(np.zeros((48, 80, 3), np.float32))
    write_image(large, tmp_path / f"a{suffix}")
    copy = read_image(tmp_path / f"a{suffix}")
    assert copy.icc_profile == source.icc_profile
    exif = exif_of(copy)
    assert exif[0x010F] == "lowvis camera"
    assert exif.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05", 0xA002: 80, 0xA003: 48}
    assert exif.get_ifd(0x8825)[2] == (52.0, 30.0, 0.5)
    # Another program sees the same.
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.getexif()[0x010F] == "lowvis camera"


def test_a_profile_for_another_kind_of_picture_is_dropped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = make_picture(gray=True)
    colored = Picture(picture.pixels, gray=True, icc_profile=faults.srgb_profile())
    write_image(colored, tmp_path / "gray.png")
    assert read_image(tmp_path / "gray.png").icc_profile is None
    assert "ICC" in caplog.text


def test_damaged_metadata_does_not_stop_a_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in (".png", ".tif"):
        picture = Picture(photo(8, 8), exif=b"Exif\0\0nonsense")
        write_image(picture, tmp_path / f"a{suffix}")
        assert read_image(tmp_path / f"a{suffix}").exif is None
    assert "EXIF" in caplog.text


# --- damaged and huge files ----------------------------------------------------------------------


def test_a_header_bomb_reserves_no_memory(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in ("PNG", "JPEG", "WebP", "TIFF", "BMP", "GIF"):
        path = write_bytes(tmp_path / kind, faults.header_bomb(kind))
        with pytest.raises(InputError, match="limit of 178,956,970") as caught:
            read_image(path)
        assert "--max-pixels" in str(caught.value.hint)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_the_limit_on_pixels_is_exact(suffix: str, tmp_path: Path) -> None:
    write_image(make_picture(24, 32), tmp_path / f"a{suffix}")
    assert read_image(tmp_path / f"a{suffix}", max_pixels=24 * 32).width == 32
    with pytest.raises(InputError, match=r"32 x 24 pixels \(768\)"):
        read_image(tmp_path / f"a{suffix}", max_pixels=24 * 32 - 1)


def test_a_larger_limit_than_that_of_the_library_is_honored(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (20_000, 9_000)).save(path)  # 180 million pixels in 23 kB
    with pytest.raises(InputError, match="more than the limit"):
        read_image(path)
    with pytest.raises(InputError, match="truncated"):  # past the limit: decoding has begun
        read_image(write_bytes(path, path.read_bytes()[:200]), max_pixels=200_000_000)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_truncated_file_is_read_in_part_when_asked(
    file_format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.fromarray(photo(64, 64))
    data = faults.encoded(file_format, image)
    whole = read_image(write_bytes(tmp_path / "whole", data))
    path = write_bytes(tmp_path / "cut", data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match="truncated") as caught:
        read_image(path)
    assert "--allow-truncated" in str(caught.value.hint)
    part = read_image(path, allow_truncated=True)
    if file_format == "BMP":  # stored from the bottom up
        part, whole = (replace(p, pixels=p.pixels[::-1]) for p in (part, whole))
    np.testing.assert_array_equal(part.pixels[:12], whole.pixels[:12])
    assert (part.pixels[-8:] != whole.pixels[-8:]).any()
    assert "truncated" in caplog.text
    with pytest.raises(InputError, match="truncated"):  # the permission was for one call
        read_image(path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_no_truncated_file_passes_as_whole(file_format: str, tmp_path: Path) -> None:
    data = faults.encoded(file_format)
    whole = read_image(write_bytes(tmp_path / "whole", data))
    for length in range(1, len(data), max(1, len(data) // 60)):
        path = write_bytes(tmp_path / "cut", data[:length])
        try:
            picture = read_image(path)
        except InputError:
            continue
        np.testing.assert_array_equal(picture.pixels, whole.pixels)


def test_damaged_files_raise_nothing_but_our_errors() -> None:
    seeds = [
        faults.encoded("PNG", Image.fromarray(photo(24, 32)).quantize(16)),
        faults.encoded("JPEG", exif=faults.exif_block(6), icc_profile=faults.srgb_profile()),
        faults.encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (32, 24))]),
        faults.encoded("TIFF", compression="tiff_lzw"),
        faults.tiff(faults.deep_samples(), compressed=True),
        faults.encoded("GIF"),
        faults.png(faults.deep_samples()),
        faults.encoded("BMP"),
    ]
    random = np.random.default_rng(20)
    read = 0
    for turn in range(8000):
        data = bytearray(seeds[turn % len(seeds)])
        # Half of the damage goes to the header, where it does the most harm.
        for _ in range(random.integers(1, 6)):
            end = len(data) if random.random() < 0.5 else min(len(data), 160)
            data[random.integers(0, end)] = random.integers(0, 256)
        try:
            decode(
                bytes(data),
                "fuzz",
                max_pixels=10**6,
                allow_truncated=bool(turn // len(seeds) % 2),
            )
        except LowvisError:
            continue
        read += 1
    assert read > 500  # damage to a pixel is not damage to the file


def test_files_are_read_from_several_threads(tmp_path: Path) -> None:
    paths: list[Path] = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        write_image(Picture(constant(16, 16, value=number)), path)
        paths.append(path)
        if number % 3 == 0:
            path.write_bytes(path.read_bytes()[:-30])
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda path: read_image(path, allow_truncated=True), paths * 4))
    assert [int(value.pixels[0, 0, 0]) for value in values][1::3] == [1, 4, 7, 10] * 4


# --- pictures and arrays -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_survives_the_way_through_floats(dtype: type) -> None:
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16)
    picture = Picture(np.repeat(values[..., None], 3, axis=2))
    again = picture.with_pixels(picture.to_float())
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    np.testing.assert_array_equal(to_array(to_tensor(picture)), picture.to_float())


def test_new_pixels_are_rounded_and_clipped() -> None:
    picture = Picture(constant(1, 1))
    pixels = np.array([[[-0.5, 1.5, 127.6 / 255]]], np.float32)
    assert picture.with_pixels(pixels).pixels.tolist() == [[[0, 255, 128]]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_values_that_are_not_finite_are_refused(value: float, dtype: type) -> None:
    picture = make_picture(dtype=dtype)
    with pytest.raises(InputError, match="NaN or infinite"):
        picture.with_pixels(np.full((4, 4, 3), value, np.float32))


def test_alpha_must_follow_a_new_size() -> None:
    picture = make_picture(8, 8, alpha=True)
    same = picture.with_pixels(np.zeros((8, 8, 3), np.float32))
    assert same.alpha is picture.alpha
    with pytest.raises(UsageError, match="alpha"):
        picture.with_pixels(np.zeros((16, 16, 3), np.float32))
    large = picture.with_pixels(np.zeros((16, 16, 3), np.float32), np.ones((16, 16), np.float32))
    assert large.alpha is not None
    assert (large.alpha == 255).all()


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8),
     np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 3), np.float64)],
    ids=lambda array: f"{array.shape}-{array.dtype}",
)  # fmt: skip
def test_arrays_that_are_no_picture_are_refused(pixels: NDArray[Any]) -> None:
    with pytest.raises(InputError):
        Picture(pixels)


def test_tensors_have_the_layout_of_networks() -> None:
    picture = Picture(gradient(5, 7))
    tensor = to_tensor(picture)
    assert tensor.shape == (1, 3, 5, 7)
    assert tensor.dtype == torch.float32
    assert tensor[0, 0, 0, 6] == 1.0
    with pytest.raises(InputError, match="shape"):
        to_array(torch.zeros(2, 3, 4, 4))


# --- writing -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    gray=st.booleans(),
    alpha=st.booleans(),
    suffix=st.sampled_from([".png", ".PNG", ".tif", ".tiff", ".bmp"]),
    seed=st.integers(0, 99),
)
def test_lossless_formats_give_back_what_they_hold(
    tmp_path_factory: pytest.TempPathFactory,
    height: int, width: int, dtype: type, gray: bool, alpha: bool, suffix: str, seed: int,
) -> None:  # fmt: skip
    alpha = alpha and suffix != ".bmp"
    holds = {".png": (np.uint8, np.uint16), ".bmp": (np.uint8,)}.get(suffix.lower())
    dtype = dtype if holds is None or dtype in holds else np.uint8
    picture = make_picture(height, width, dtype=dtype, gray=gray, alpha=alpha, seed=seed)
    path = tmp_path_factory.mktemp("lossless") / f"picture{suffix}"
    write_image(picture, path)
    copy = read_image(path)
    np.testing.assert_array_equal(copy.pixels, picture.pixels)
    assert copy.pixels.dtype == dtype
    assert (copy.alpha is not None) == alpha
    if alpha:
        np.testing.assert_array_equal(copy.alpha, picture.alpha)
    if not (gray and alpha and dtype != np.uint8 and suffix.startswith(".tif")):
        assert copy.gray == gray


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_other_programs_read_16_bits_exactly(
    suffix: str, gray: bool, alpha: bool, tmp_path: Path
) -> None:
    picture = make_picture(33, 29, dtype=np.uint16, gray=gray, alpha=alpha)
    path = tmp_path / f"a{suffix}"
    write_image(picture, path)
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    assert array is not None
    color = array if array.ndim == 2 else array[..., [2, 1, 0]]
    np.testing.assert_array_equal(
        color, picture.pixels[..., 0] if color.ndim == 2 else picture.pixels
    )
    if alpha:
        np.testing.assert_array_equal(array[..., 3], picture.alpha)


def test_smooth_16_bit_pictures_are_compressed_well(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(200), np.arange(200)) * 100
    picture = Picture(np.repeat(ramp.astype(np.uint16)[..., None], 3, axis=2))
    for suffix in (".png", ".tif"):
        write_image(picture, tmp_path / f"a{suffix}")
        assert (tmp_path / f"a{suffix}").stat().st_size < picture.pixels.nbytes / 50


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_formats_stay_close(suffix: str, tmp_path: Path) -> None:
    picture = Picture(photo())
    write_image(picture, tmp_path / f"a{suffix}")
    error = read_image(tmp_path / f"a{suffix}").pixels.astype(float) - picture.pixels
    assert np.sqrt((error**2).mean()) < 5
    write_image(picture, tmp_path / f"b{suffix}", quality=30)
    assert (tmp_path / f"b{suffix}").stat().st_size < (tmp_path / f"a{suffix}").stat().st_size / 2


def test_gray_stays_gray_although_a_network_colors_it_a_little(tmp_path: Path) -> None:
    picture = Picture(constant(8, 8, value=100), gray=True)
    output = picture.to_float() + np.array([0.004, 0, -0.004], np.float32)
    write_image(picture.with_pixels(output), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "L"
    assert (read_image(tmp_path / "a.png").pixels == 100).all()


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_alpha_is_never_lost_in_silence(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="alpha") as caught:
        write_image(make_picture(alpha=True), tmp_path / f"a{suffix}")
    assert "PNG" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "dtype", "bits"),
    [(".jpg", np.uint16, 8), (".webp", np.uint16, 8), (".bmp", np.uint16, 8),
     (".jpg", np.float32, 8), (".png", np.float32, 16)],
)  # fmt: skip
def test_depth_that_a_format_cannot_hold_is_rounded_with_a_warning(
    suffix: str, dtype: type, bits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = 1 if dtype is np.float32 else 65535
    picture = Picture((np.full((16, 16, 3), 0.5) * full).astype(dtype))
    with caplog.at_level(logging.WARNING, "lowvis"):
        write_image(picture, tmp_path / f"a{suffix}")
    assert f"holds {bits} bits" in caplog.text
    copy = read_image(tmp_path / f"a{suffix}")
    assert copy.bit_depth == bits
    assert copy.to_float() == pytest.approx(0.5, abs=0.6 / (2**bits - 1) + 1e-3)


def test_16_bits_to_8_round_to_the_nearest_value(tmp_path: Path) -> None:
    values = np.array([0, 128, 129, 385, 386, 65406, 65407, 65535], np.uint16)
    picture = Picture(np.repeat(values.reshape(1, -1, 1), 3, axis=2))
    write_image(picture, tmp_path / "a.bmp")
    expected = np.rint(values / 257).astype(int).tolist()
    assert read_image(tmp_path / "a.bmp").pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize(("suffix", "side"), [(".webp", 16384), (".jpg", 65501)])
def test_sizes_beyond_a_format_are_refused_before_work(
    suffix: str, side: int, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    check_writable(path, size=(1, side - 1))
    with pytest.raises(OutputError, match=f"{side} x 1 pixels are more than"):
        check_writable(path, size=(1, side))
    with pytest.raises(OutputError, match="more than"):
        write_image(Picture(np.zeros((side, 1, 3), np.uint8)), path)
    write_image(Picture(np.zeros((side - 1, 1, 3), np.uint8)), path)
    assert read_image(path).height == side - 1


@pytest.mark.parametrize("name", ["a.gif", "a.xyz", "a", "a.png.bak"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        check_writable(tmp_path / name)
    assert ".png" in str(caught.value.hint)


def test_every_suffix_that_is_written_is_also_found_in_folders(tmp_path: Path) -> None:
    assert OUTPUT_SUFFIXES < IMAGE_SUFFIXES
    for suffix in OUTPUT_SUFFIXES:
        write_image(make_picture(), tmp_path / f"a{suffix}")
        assert read_image(tmp_path / f"a{suffix}").width == 32


def test_the_input_is_never_replaced_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(make_picture(), path)
    (tmp_path / "link.png").symlink_to(path)
    with pytest.raises(OutputError, match="the input itself"):
        check_writable(tmp_path / "link.png", source=path)
    with pytest.raises(OutputError, match="exists already"):
        write_image(make_picture(), path)
    check_writable(path, source=path, overwrite=True)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_image(make_picture(), tmp_path / "a.png", overwrite=True)
    with pytest.raises(UsageError, match="quality"):
        write_image(make_picture(), tmp_path / "b.jpg", quality=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_bmp_says_that_it_drops_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(Picture(photo(8, 8), icc_profile=faults.srgb_profile()), tmp_path / "a.bmp")
    assert "BMP holds no ICC profile" in caplog.text
