"""LUTs as objects and as files: mixing, resampling, and what other programs see in them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_csrnet.lut import LUT_SUFFIXES, Lut3D
from lowvis_shared.errors import InputError, OutputError, UsageError
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing import mirror_path
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.numpy import load_file


def smooth_lut(size: int = 33) -> Lut3D:
    """A look as retouching gives it: a curve for each channel, some mixing, a bit beyond 0..1."""
    grid = Lut3D.identity(size).values.astype(np.float64)
    curved = 1.15 * grid ** np.array([0.8, 1.0, 1.3]) - 0.05
    values = 0.85 * curved + 0.15 * curved.mean(axis=-1, keepdims=True) ** 2
    return Lut3D(values.astype(np.float32), "smooth")


def wild_lut(size: int = 9, seed: int = 0) -> Lut3D:
    random = np.random.default_rng(seed)
    return Lut3D(random.uniform(-0.2, 1.2, (size, size, size, 3)).astype(np.float32), "wild")


def noise(dtype: Any = np.uint8, height: int = 48, width: int = 64) -> NDArray[Any]:
    random = np.random.default_rng(5)
    if dtype == np.float32:
        return random.random((height, width, 3), np.float32)
    return random.integers(0, np.iinfo(dtype).max + 1, (height, width, 3)).astype(dtype)


# --- the table -------------------------------------------------------------------------------


def test_a_lut_of_another_shape_type_or_value_is_refused() -> None:
    good = Lut3D.identity(3).values
    for shape in ((3, 3, 3), (3, 3, 3, 4), (3, 3, 4, 3), (1, 1, 1, 3), (0, 0, 0, 3), ()):
        with pytest.raises(InputError, match="shape"):
            Lut3D(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="uint8"):
        Lut3D(np.zeros((2, 2, 2, 3), np.uint8))  # type: ignore[arg-type]
    for bad in (np.nan, np.inf, -np.inf):
        values = good.copy()
        values[1, 2, 0, 1] = bad
        with pytest.raises(InputError, match="finite"):
            Lut3D(values)


def test_any_float_array_becomes_contiguous_float32() -> None:
    values = np.asfortranarray(Lut3D.identity(4).values.astype(np.float64))
    lut = Lut3D(values)  # type: ignore[arg-type]
    assert lut.values.dtype == np.float32
    assert lut.values.flags.c_contiguous
    assert lut.size == 4


@pytest.mark.parametrize("size", [1, 0, -3, 257, 100_000])
def test_a_size_out_of_range_is_refused_before_memory_is_taken(size: int) -> None:
    with pytest.raises(UsageError, match="2 to 256"):
        Lut3D.identity(size)
    with pytest.raises(UsageError, match="2 to 256"):
        Lut3D.identity(2).resized(size)


def test_red_runs_along_the_last_axis() -> None:
    values = Lut3D.identity(5).values
    np.testing.assert_array_equal(values[1, 2, 3], np.array([0.75, 0.5, 0.25], np.float32))


# --- pictures --------------------------------------------------------------------------------


def test_a_picture_of_another_kind_is_refused() -> None:
    lut = Lut3D.identity(3)
    for shape in ((4, 4), (4, 4, 4), (4, 4, 1), (1, 4, 4, 3)):
        with pytest.raises(InputError, match="shape"):
            lut.apply(np.zeros(shape, np.uint8))
    for dtype in (np.float64, np.float16, np.int32, np.int8, bool):
        with pytest.raises(InputError, match="samples"):
            lut.apply(np.zeros((4, 4, 3), dtype))
    with pytest.raises(InputError, match="colors"):
        lut.sample(np.zeros((4, 3)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="colors"):
        lut.sample(np.zeros(4, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (47, 63, 2), (20, 31, 1)])
def test_samples_that_are_not_finite_are_refused(bad: float, place: tuple[int, int, int]) -> None:
    pixels = noise(np.float32)
    pixels[place] = bad
    with pytest.raises(InputError, match="1 of 3072 pixels"):
        smooth_lut().apply(pixels)
    with pytest.raises(InputError, match="1 of 3072 pixels"):
        smooth_lut().sample(pixels)


def test_huge_floats_are_clipped_and_not_taken_for_infinite_ones() -> None:
    pixels = np.full((1, 1, 3), 3e38, np.float32)
    np.testing.assert_array_equal(Lut3D.identity(9).apply(pixels), np.ones((1, 1, 3)))


def test_floats_are_clipped_before_and_after() -> None:
    lut = smooth_lut()
    pixels = np.array([[[-0.5, 2, -1e9], [0, 1, 0]]], np.float32)
    applied, sampled = lut.apply(pixels), lut.sample(pixels)
    np.testing.assert_array_equal(applied[0, 0], applied[0, 1])
    np.testing.assert_array_equal(applied, np.clip(sampled, 0, 1))
    assert sampled.min() < -0.01
    assert applied.min() == 0


def test_the_result_goes_where_it_is_wanted() -> None:
    lut, pixels = smooth_lut(), noise()
    expected = lut.apply(pixels)
    out = np.empty_like(pixels)
    assert lut.apply(pixels, out) is out
    np.testing.assert_array_equal(out, expected)
    # A window of a larger picture.
    canvas = np.zeros((100, 100, 3), np.uint8)
    lut.apply(pixels, canvas[10:58, 20:84])
    np.testing.assert_array_equal(canvas[10:58, 20:84], expected)
    assert canvas.sum() == expected.sum()
    # Memory that overlaps in part: the picture shifted by a row.
    rows = np.concatenate([pixels, pixels[:1]])
    lut.apply(rows[:-1], rows[1:])
    np.testing.assert_array_equal(rows[1:], expected)


def test_a_result_that_does_not_fit_is_refused() -> None:
    lut, pixels = Lut3D.identity(3), noise()
    for out in (np.empty((48, 63, 3), np.uint8), np.empty((48, 64, 3), np.uint16)):
        with pytest.raises(UsageError, match="does not fit"):
            lut.apply(pixels, out)
    out = np.empty_like(pixels)
    out.flags.writeable = False
    with pytest.raises(UsageError, match="read-only"):
        lut.apply(pixels, out)
    for threads in (0, -1):
        with pytest.raises(UsageError, match="thread"):
            lut.apply(pixels, threads=threads)


def test_arrays_that_are_read_only_or_badly_aligned_are_taken() -> None:
    pixels = noise(np.uint16)
    expected = smooth_lut().apply(pixels)
    shifted = np.frombuffer(b"\0" + pixels.tobytes(), np.uint16, offset=1).reshape(pixels.shape)
    assert not shifted.flags.writeable
    np.testing.assert_array_equal(smooth_lut().apply(shifted), expected)


def test_a_picture_without_pixels_stays_one() -> None:
    assert Lut3D.identity(3).apply(np.empty((0, 7, 3), np.uint8)).shape == (0, 7, 3)


def test_a_tensor_on_the_cpu_goes_the_same_way() -> None:
    lut = smooth_lut()
    for dtype in (np.uint8, np.uint16, np.float32):
        pixels = noise(dtype)
        got = lut.apply_tensor(torch.from_numpy(pixels))
        np.testing.assert_array_equal(got.numpy(), lut.apply(pixels))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_tensor_on_a_gpu_gives_the_same() -> None:
    lut = smooth_lut()
    for dtype in (np.uint8, np.uint16, np.float32):
        pixels = noise(dtype)
        got = lut.apply_tensor(torch.from_numpy(pixels).cuda()).cpu().numpy()
        tolerance = 1e-5 if dtype == np.float32 else 1
        np.testing.assert_allclose(
            got.astype(np.float64), lut.apply(pixels), rtol=0, atol=tolerance
        )


# --- mixing and resampling -------------------------------------------------------------------


def test_strength_mixes_with_the_identity() -> None:
    lut = wild_lut()
    identity = Lut3D.identity(9).values
    np.testing.assert_array_equal(lut.with_strength(0).values, identity)
    np.testing.assert_array_equal(lut.with_strength(1).values, lut.values)
    half = lut.with_strength(0.5)
    np.testing.assert_allclose(half.values, (identity + lut.values) / 2, rtol=0, atol=1e-7)
    beyond = lut.with_strength(1.5).values
    np.testing.assert_allclose(beyond - lut.values, (lut.values - identity) / 2, atol=2e-7)
    assert half.title == "wild"
    # The picture is mixed as the LUTs are, which needs values that are not clamped.
    pixels = noise(np.float32)
    mixed = 0.5 * pixels + 0.5 * lut.sample(pixels)
    np.testing.assert_allclose(half.sample(pixels), mixed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strength", [-0.01, 1.51, np.nan, np.inf])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="strength"):
        wild_lut().with_strength(strength)


def test_a_blend_of_looks() -> None:
    first, second = wild_lut(seed=1), wild_lut(seed=2)
    np.testing.assert_array_equal(Lut3D.blend([first], [1]).values, first.values)
    np.testing.assert_array_equal(Lut3D.blend([first, second], [0, 1]).values, second.values)
    mixed = Lut3D.blend([first, second], [0.25, 0.75])
    np.testing.assert_allclose(
        mixed.values, 0.25 * first.values + 0.75 * second.values, rtol=0, atol=1e-7
    )
    assert mixed.title == "wild"
    # Thirds written with two decimals: the same look three times stays as it is.
    thirds = Lut3D.blend([first] * 3, [0.33, 0.33, 0.33])
    np.testing.assert_allclose(thirds.values, first.values, rtol=0, atol=2e-7)


def test_looks_of_other_sizes_are_brought_to_the_largest() -> None:
    small, large = smooth_lut(17), smooth_lut(33)
    mixed = Lut3D.blend([small, large], [0.5, 0.5])
    assert mixed.size == 33
    colors = noise(np.float32)
    expected = (small.sample(colors) + large.sample(colors)) / 2
    np.testing.assert_allclose(mixed.sample(colors), expected, rtol=0, atol=2e-6)


def test_a_blend_that_makes_no_sense_is_refused() -> None:
    lut = Lut3D.identity(3)
    for luts, weights in (([], []), ([lut], [0.5, 0.5]), ([lut, lut], [1])):
        with pytest.raises(UsageError, match="blend"):
            Lut3D.blend(luts, weights)
    for weights in ([0.5, 0.4], [1, 1], [np.nan, 1], [0, 0], [np.inf, -np.inf]):
        with pytest.raises(UsageError, match="sum to 1"):
            Lut3D.blend([lut, lut], weights)


def test_resizing_to_a_multiple_loses_nothing() -> None:
    lut, colors = wild_lut(9), noise(np.float32)
    assert lut.resized(9) is lut
    finer = lut.resized(33)
    assert finer.size == 33
    np.testing.assert_allclose(finer.sample(colors), lut.sample(colors), rtol=0, atol=1e-5)
    np.testing.assert_allclose(finer.resized(9).values, lut.values, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        Lut3D.identity(17).resized(36).values, Lut3D.identity(36).values, rtol=0, atol=2e-7
    )


def test_clamping() -> None:
    clamped = wild_lut().clamped()
    np.testing.assert_array_equal(clamped.values, np.clip(wild_lut().values, 0, 1))


# --- .cube -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 17, 33])
def test_a_cube_file_comes_back(tmp_path: Path, size: int) -> None:
    lut = wild_lut(size)
    lut.save(tmp_path / "new" / "look.CUBE")
    back = Lut3D.load(tmp_path / "new" / "look.CUBE")
    assert back.title == "wild"
    assert back.size == size
    np.testing.assert_allclose(back.values, lut.values, rtol=0, atol=5.7e-7)


def test_the_text_of_a_cube_file(tmp_path: Path) -> None:
    values = Lut3D.identity(2).values.copy()
    values[0, 0, 0] = (-1e-9, -0.25, 1.5)
    Lut3D(values, 'a "quoted"\ntitle, é').save(tmp_path / "look.cube")
    assert (tmp_path / "look.cube").read_bytes().decode("ascii").split("\n") == [
        'TITLE "a quoted title, ?"',
        "LUT_3D_SIZE 2",
        "DOMAIN_MIN 0.0 0.0 0.0",
        "DOMAIN_MAX 1.0 1.0 1.0",
        "0.000000 -0.250000 1.500000",
        "1.000000 0.000000 0.000000",
        "0.000000 1.000000 0.000000",
        "1.000000 1.000000 0.000000",
        "0.000000 0.000000 1.000000",
        "1.000000 0.000000 1.000000",
        "0.000000 1.000000 1.000000",
        "1.000000 1.000000 1.000000",
        "",
    ]


def test_lines_stay_within_the_250_bytes_of_the_specification(tmp_path: Path) -> None:
    Lut3D(Lut3D.identity(2).values, "x" * 1000).save(tmp_path / "look.cube")
    assert max(map(len, (tmp_path / "look.cube").read_bytes().split(b"\n"))) <= 250


def test_clamped_export(tmp_path: Path) -> None:
    wild_lut().save(tmp_path / "look.cube", clamp=True)
    back = Lut3D.load(tmp_path / "look.cube").values
    assert back.min() == 0
    assert back.max() == 1


def test_a_look_of_the_network_comes_back(tmp_path: Path) -> None:
    golden = load_file(mirror_path("golden/csrnet/csrnet_prophoto_protocol.safetensors"))
    lut = Lut3D(golden["lut17"], "CSRNet")
    lut.save(tmp_path / "look.cube")
    np.testing.assert_allclose(
        Lut3D.load(tmp_path / "look.cube").values, golden["lut17"], rtol=0, atol=5.7e-7
    )


TABLE = "".join(f"{r} {g} {b}\n" for b in (0, 1) for g in (0, 1) for r in (0, 1))


@pytest.mark.parametrize(
    "text",
    [
        f"LUT_3D_SIZE 2\n{TABLE}",
        f'# by hand\n\n  LUT_3D_SIZE   2  \n\nTITLE "x"\n# numbers\n\n{TABLE}\n# end\n\n',
        f"DOMAIN_MAX 1 1 1\nDOMAIN_MIN 0 0 0\nLUT_3D_SIZE 2\n{TABLE}",
        f"LUT_3D_INPUT_RANGE 0.0 1.0\nLUT_3D_SIZE 2\n{TABLE}",
        f"LUT_3D_SIZE 2\n{TABLE}".replace("\n", "\r\n"),
        f"\ufeffLUT_3D_SIZE 2\n{TABLE.rstrip()}",
        f"{TABLE}LUT_3D_SIZE 2\n",
        f"LUT_3D_SIZE 2\n{TABLE}".replace("1 1 1", "\t+1.0e0  1. 10E-1"),
    ],
)
def test_ways_to_write_the_same_cube_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "look.cube").write_bytes(text.encode())
    np.testing.assert_array_equal(
        Lut3D.load(tmp_path / "look.cube").values, Lut3D.identity(2).values
    )


def test_a_keyword_that_is_not_known_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "look.cube").write_text(f"LUT_3D_SIZE 2\nLUT_IN_VIDEO_RANGE\n{TABLE}")
    Lut3D.load(tmp_path / "look.cube")
    assert "line 2: LUT_IN_VIDEO_RANGE is not known" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        (" \n\n ", "empty"),
        ("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        ("\x01\x02\x03", "line 1"),
        ("# nothing but a comment\n", "no LUT_3D_SIZE"),
        (TABLE, "no LUT_3D_SIZE"),
        (f"LUT_1D_SIZE 8\n{TABLE}", r"line 1: a 1D LUT"),
        (f"LUT_3D_SIZE 2\n\nLUT_1D_SIZE 8\n{TABLE}", r"line 3: a 1D LUT"),
        (f"LUT_3D_SIZE 3\n{TABLE}", "needs 27 lines of numbers, not 8"),
        (f"LUT_3D_SIZE 2\n{TABLE}0 0 0\n", "needs 8 lines of numbers, not 9"),
        (f"LUT_3D_SIZE 2\n{TABLE[:-3]}", r"line 9: 3 finite numbers"),
        ("LUT_3D_SIZE 2\n0 0 0\n1 O 0\n", r"line 3: 3 finite numbers are wanted, not '1 O 0'"),
        ("LUT_3D_SIZE 2\n0 0 0\n\n1 0\n", r"line 4: 3 finite numbers"),
        ("LUT_3D_SIZE 2\n0 0 0 0\n", r"line 2: 3 finite numbers"),
        ("LUT_3D_SIZE 2\n0 0 0\nx y z\n", r"line 3: neither a keyword nor three numbers: 'x y z'"),
        ("LUT_3D_SIZE 2\n0 0 0\nNAN 0 0\n", r"line 3: neither"),
        ("LUT_3D_SIZE 2\n0 nan 0\n", r"line 2: 3 finite numbers"),
        ("LUT_3D_SIZE 2\n0 inf 0\n", r"line 2: 3 finite numbers"),
        ("LUT_3D_SIZE 2\n0 1e40 0\n", r"line 2: 3 finite numbers"),
        ("LUT_3D_SIZE 100000\n", r"line 1: LUT_3D_SIZE is 2 to 256, not 100000"),
        ("LUT_3D_SIZE 1\n0 0 0\n", r"line 1: LUT_3D_SIZE is 2 to 256"),
        ("LUT_3D_SIZE -2\n", r"line 1: LUT_3D_SIZE"),
        ("LUT_3D_SIZE 2.5\n", r"line 1: LUT_3D_SIZE"),
        ("LUT_3D_SIZE\n", r"line 1: 1 finite number is wanted"),
        ("LUT_3D_SIZE nan\n", r"line 1: 1 finite"),
        (f"LUT_3D_SIZE 2\nDOMAIN_MIN 0 0\n{TABLE}", r"line 2: 3 finite numbers"),
        (f"LUT_3D_SIZE 2\nDOMAIN_MAX 1 0 1\n{TABLE}", "domain"),
        (f"LUT_3D_SIZE 2\nLUT_3D_INPUT_RANGE 1 0\n{TABLE}", "domain"),
        ("LUT_3D_SIZE 2\n" + "é" * 500, "neither.*…"),
        ("LUT_3D_SIZE 2\nDOMAIN_MAX 1e-40 1 1\n" + TABLE, "domain"),
    ],
)
def test_a_bad_cube_file_is_refused_by_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "look.cube"
    path.write_bytes(content.encode())
    with pytest.raises(InputError, match=message) as caught:
        Lut3D.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 160


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.cube").mkdir()
    (tmp_path / "huge.cube").touch()
    with (tmp_path / "huge.cube").open("r+b") as file:
        file.truncate(5 << 30)
    (tmp_path / "look.3dl").write_text("x")
    for name, message in (
        ("missing.cube", "no such file"),
        ("missing.png", "no such file"),
        ("folder.cube", "a folder"),
        ("huge.cube", "larger than"),
        ("look.3dl", "suffix '.3dl'"),
        ("look", "suffix ''"),
    ):
        with pytest.raises(InputError, match=message):
            Lut3D.load(tmp_path / name)


def test_another_domain_is_brought_to_0_to_1(tmp_path: Path) -> None:
    # A table for -1..3 with nodes at the whole numbers, red doubled, green halved.
    size = 5
    lines = [
        f"{2 * r} {g / 2} {b}" for b in range(-1, 4) for g in range(-1, 4) for r in range(-1, 4)
    ]
    header = f"LUT_3D_SIZE {size}\nDOMAIN_MIN -1 -1 -1\nDOMAIN_MAX 3 3 3\n"
    (tmp_path / "wide.cube").write_text(header + "\n".join(lines))
    identity = Lut3D.identity(size).values
    wide = Lut3D.load(tmp_path / "wide.cube")
    np.testing.assert_allclose(wide.values, identity * np.array([2, 0.5, 1], np.float32), atol=1e-6)
    # A narrow domain: colors outside take the nearest inside. Each axis may have its own.
    header = f"LUT_3D_SIZE 2\nDOMAIN_MIN 0 0.5 0\nDOMAIN_MAX 1 1 0.5\n{TABLE}"
    (tmp_path / "narrow.cube").write_text(header)
    narrow = Lut3D.load(tmp_path / "narrow.cube")
    assert narrow.size == 3
    got = narrow.sample(np.array([[0.5, 0.2, 0.5], [0.5, 0.75, 1], [1, 0, 0.25]], np.float32))
    np.testing.assert_allclose(got, [[0.5, 0, 1], [0.5, 0.5, 1], [1, 0, 0.5]], atol=1e-6)


# --- HaldCLUT --------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "level"), [(9, 3), (16, 4), (17, 5), (33, 6)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_a_hald_picture_comes_back(
    tmp_path: Path, size: int, level: int, suffix: str, bit_depth: Any
) -> None:
    lut, path = smooth_lut(size), tmp_path / f"look{suffix}"
    lut.save(path, bit_depth=bit_depth)
    picture = read_image(path)
    assert (picture.width, picture.height) == (level**3, level**3)
    assert picture.bit_depth == bit_depth
    back = Lut3D.load(path)
    assert back.title == "look"
    half_a_code = 0.5 / (2**bit_depth - 1) + 2e-7
    np.testing.assert_allclose(
        back.values, lut.resized(level**2).clamped().values, rtol=0, atol=half_a_code
    )


def test_the_identity_hald_picture_is_the_one_that_others_draw(tmp_path: Path) -> None:
    Lut3D.identity(64).save(tmp_path / "hald.png", bit_depth=8)
    drawn = read_image(tmp_path / "hald.png").pixels
    assert drawn.shape == (512, 512, 3)
    index = np.arange(512 * 512)
    codes = np.stack([index % 64, index // 64 % 64, index // 4096], axis=-1) / 63
    np.testing.assert_array_equal(drawn.reshape(-1, 3), np.rint(codes * 255))


def test_a_level_may_be_chosen(tmp_path: Path) -> None:
    smooth_lut(33).save(tmp_path / "small.png", level=4)
    assert Lut3D.load(tmp_path / "small.png").size == 16
    for level in (1, 17, 0, -1):
        with pytest.raises(UsageError, match="level"):
            smooth_lut(9).save(tmp_path / "other.png", level=level)
    with pytest.raises(UsageError, match="bits"):
        smooth_lut(9).save(tmp_path / "other.png", bit_depth=12)  # type: ignore[arg-type]
    assert not (tmp_path / "other.png").exists()


def test_a_float_hald_picture_keeps_what_lies_outside(tmp_path: Path) -> None:
    lut = wild_lut(9)
    write_image(Picture(lut.values.reshape(27, 27, 3)), tmp_path / "hald.tif")
    np.testing.assert_array_equal(Lut3D.load(tmp_path / "hald.tif").values, lut.values)


@pytest.mark.parametrize(("height", "width"), [(64, 48), (48, 64), (50, 50), (1, 1), (9, 27)])
def test_a_picture_that_is_no_hald_is_refused(tmp_path: Path, height: int, width: int) -> None:
    write_image(Picture(noise(height=height, width=width)), tmp_path / "photo.png")
    with pytest.raises(InputError, match=f"photo.png: {width} x {height}.*not a HaldCLUT"):
        Lut3D.load(tmp_path / "photo.png")


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", LUT_SUFFIXES)
def test_nothing_is_replaced_unless_asked_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"look{suffix}"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        smooth_lut(9).save(path)
    assert path.read_bytes() == b"mine"
    smooth_lut(9).save(path, overwrite=True)
    assert Lut3D.load(path).size == 9
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["look.3dl", "look", "look.jpg", "look.cube.gz", ".cube"])
def test_another_suffix_is_refused_with_the_choices(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError) as caught:
        smooth_lut(9).save(tmp_path / name)
    assert ".cube, .png, .tif, .tiff" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", LUT_SUFFIXES)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        smooth_lut(9).save(tmp_path / "file" / f"look{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(OutputError, match="folder"):
        smooth_lut(9).save(tmp_path / f"folder{suffix}", overwrite=True)


# --- other programs --------------------------------------------------------------------------


def through_ffmpeg(
    pixels: NDArray[Any], frame_format: str, name: str, argument: str
) -> NDArray[Any]:
    """Send a picture through one filter of FFmpeg."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    graph = av.filter.Graph()
    frame = av.VideoFrame.from_ndarray(pixels, format=frame_format)
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    middle, sink = graph.add(name, argument), graph.add("buffersink")
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull().to_ndarray(format=frame_format)


@pytest.mark.parametrize("make", [smooth_lut, wild_lut])
@pytest.mark.parametrize(
    ("dtype", "frame_format"),
    [(np.uint8, "rgb24"), (np.uint16, "rgb48le"), (np.float32, "gbrpf32le")],
)
def test_ffmpeg_sees_the_same_look_in_the_cube_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, dtype: Any, frame_format: str
) -> None:
    lut, pixels = make(), noise(dtype)
    lut.save(tmp_path / "look.cube")
    monkeypatch.chdir(tmp_path)
    theirs = through_ffmpeg(pixels, frame_format, "lut3d", "file=look.cube:interp=tetrahedral")
    if dtype == np.float32:
        # FFmpeg clips no floats; the file has six decimals.
        np.testing.assert_allclose(theirs, lut.sample(pixels), rtol=0, atol=1e-5)
        return
    # FFmpeg cuts off fractions where lowvis rounds.
    difference = lut.apply(pixels).astype(int) - theirs.astype(int)
    assert difference.min() >= 0
    assert difference.max() <= 1


def test_ffmpeg_sees_the_same_look_in_the_hald_picture(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    lut, pixels = smooth_lut(36), noise()
    lut.save(tmp_path / "hald.png", bit_depth=16)
    hald = av.VideoFrame.from_ndarray(read_image(tmp_path / "hald.png").pixels, format="rgb48le")
    frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint16) * 257, format="rgb48le")
    graph = av.filter.Graph()
    sources = []
    for index, image in enumerate((frame, hald)):
        image.pts, image.time_base = 0, Fraction(1, 25)
        source = graph.add_buffer(
            width=image.width, height=image.height, format=image.format, time_base=image.time_base
        )
        sources.append((source, image, index))
    middle, sink = graph.add("haldclut", "interp=tetrahedral"), graph.add("buffersink")
    for source, _, index in sources:
        source.link_to(middle, 0, index)
    middle.link_to(sink)
    graph.configure()
    for source, image, _ in sources:
        source.push(image)
        source.push(None)
    theirs = graph.pull().to_ndarray(format="rgb48le")
    difference = Lut3D.load(tmp_path / "hald.png").apply(pixels) - theirs / 257
    assert np.abs(difference).max() <= 0.51


def test_pillow_sees_the_same_look_in_the_table(tmp_path: Path) -> None:
    lut, pixels = smooth_lut(), noise()
    lut.save(tmp_path / "look.cube")
    table = np.loadtxt(tmp_path / "look.cube", skiprows=4)
    theirs = Image.fromarray(pixels).filter(ImageFilter.Color3DLUT(33, table.reshape(-1).tolist()))
    difference = np.asarray(theirs).astype(int) - lut.apply(pixels)
    # Trilinear in Pillow: on a smooth look that is at most a code away, and mostly none.
    assert np.abs(difference).max() <= 1
    assert (difference == 0).mean() > 0.9
