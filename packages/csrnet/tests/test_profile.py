"""Colors of any profile become sRGB as LittleCMS has it, at any depth, and come back."""

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_csrnet.profile import SRGB, RgbProfile, read_profile, srgb_profile
from lowvis_shared.errors import InputError
from lowvis_shared.images import read_image
from PIL import Image, ImageCms

# --- a writer of ICC profiles ------------------------------------------------------------------

# Red, green and blue are columns of XYZ for the white D50, as in the profiles of their makers.
DISPLAY_P3 = ((0.51512, 0.29198, 0.1571), (0.2412, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407))
ADOBE_RGB = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))
PROPHOTO = ((0.79767, 0.13519, 0.03134), (0.28804, 0.71188, 0.00009), (0.0, 0.0, 0.82491))
PRIMARIES = [DISPLAY_P3, ADOBE_RGB, PROPHOTO]
Matrix = tuple[tuple[float, ...], ...]


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def gamma_curve(gamma: float) -> bytes:
    return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))


def table_curve(entries: np.ndarray) -> bytes:
    words = np.rint(np.asarray(entries) * 65535).astype(">u2")
    return struct.pack(">4sII", b"curv", 0, len(words)) + words.tobytes()


def parametric_curve(kind: int, *numbers: float) -> bytes:
    return struct.pack(">4sIHH", b"para", 0, kind, 0) + fixed(*numbers)


def write_profile(matrix: Matrix, *curves: bytes, space: bytes = b"RGB ") -> bytes:
    """Write a version 4 matrix profile of one curve, or one for each channel."""
    tags = {b"desc": b"mluc" + bytes(12), b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    columns = zip(*matrix, strict=True)
    for channel, primary, curve in zip("rgb", columns, (curves * 3)[:3], strict=True):
        tags[f"{channel}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(*primary)
        tags[f"{channel}TRC".encode()] = curve
    start = 132 + 12 * len(tags)
    directory, contents = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        directory += struct.pack(">4sII", name, start + len(contents), len(content))
        contents += content + bytes(-len(content) % 4)
    header = struct.pack(
        ">I4s4s4s4s4s", start + len(contents), b"", b"\4\x40", b"mntr", space, b"XYZ "
    )
    header += struct.pack(">6H4s28x3I", 2000, 1, 1, 0, 0, 0, b"acsp", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + directory + contents


SRGB_FUNCTION = parametric_curve(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
LIGHT = np.linspace(0, 1, 4096)
PROFILES = {
    "Display P3": write_profile(DISPLAY_P3, SRGB_FUNCTION),
    "Adobe RGB": write_profile(ADOBE_RGB, gamma_curve(2.19921875)),
    "ProPhoto": write_profile(PROPHOTO, gamma_curve(1.80078125)),
    "linear": write_profile(DISPLAY_P3, table_curve(np.zeros(0))),
    "table": write_profile(ADOBE_RGB, table_curve(LIGHT**2.2)),
    "table of two entries": write_profile(ADOBE_RGB, table_curve(np.array([0, 1]))),
    "a curve each": write_profile(
        DISPLAY_P3, gamma_curve(1.8), table_curve(LIGHT**2), parametric_curve(0, 2.2)
    ),
    "function 0": write_profile(PROPHOTO, parametric_curve(0, 1.8)),
    "function 1": write_profile(ADOBE_RGB, parametric_curve(1, 2.0, 0.9, 0.1)),
    "function 2": write_profile(ADOBE_RGB, parametric_curve(2, 2.0, 0.9, 0.1, -0.01)),
    "function 4": write_profile(
        DISPLAY_P3, parametric_curve(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0, 0)
    ),
    "sRGB": srgb_profile(),
}
EDGES = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 3), axis=-1).reshape(-1, 3)


def test_the_writer_writes_what_littlecms_accepts() -> None:
    for icc in PROFILES.values():
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile
        assert profile.xcolor_space.strip() == "RGB"
        assert profile.is_matrix_shaper


# --- agreement with LittleCMS ------------------------------------------------------------------


@pytest.mark.parametrize("icc", PROFILES.values(), ids=PROFILES)
def test_srgb_codes_are_those_of_littlecms(icc: bytes) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    codes[:27] = np.rint(EDGES * 255).reshape(27, 27, 3).repeat(8, axis=1)[:, :200]
    theirs = ImageCms.profileToProfile(
        Image.fromarray(codes),
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.NONE,
    )
    assert theirs is not None
    ours = np.rint(np.clip(read_profile(icc).to_srgb(codes / 255), 0, 1) * 255)
    assert np.abs(ours - np.asarray(theirs)).max() <= 1


def test_a_known_color_of_display_p3() -> None:
    red = read_profile(PROFILES["Display P3"]).to_srgb(np.array([1.0, 0.0, 0.0]))
    assert red == pytest.approx(
        [1.0931, -0.2267, -0.1501], abs=5e-4
    )  # CSS Color 4, color(display-p3)


# --- sRGB itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "icc",
    [
        None,
        srgb_profile(),
        read_image(Path(skimage.__file__).parent / "data/astronaut.png").icc_profile,
    ],
    ids=["none", "LittleCMS", "IEC61966-2.1 by Hewlett-Packard"],
)
def test_srgb_is_recognized_and_costs_nothing(icc: bytes | None) -> None:
    profile = read_profile(icc)
    assert profile.is_srgb
    values = np.random.default_rng(1).random((4, 5, 3))
    assert profile.to_srgb(values) is values
    assert profile.from_srgb(values) is values


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {"sRGB"}))
def test_other_profiles_are_not_taken_for_srgb(name: str) -> None:
    assert not read_profile(PROFILES[name]).is_srgb


def test_what_passes_for_srgb_would_change_next_to_nothing() -> None:
    exact = RgbProfile(SRGB.curves, SRGB.matrix)
    assert exact.to_srgb(EDGES) == pytest.approx(EDGES, abs=1e-7)
    assert exact.from_srgb(EDGES) == pytest.approx(EDGES, abs=1e-7)


def test_the_profile_to_embed_is_the_same_every_day() -> None:
    first = srgb_profile()
    srgb_profile.cache_clear()
    assert srgb_profile() == first
    assert struct.unpack(">6H", first[24:36]) == (2000, 1, 1, 0, 0, 0)
    description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(first)))
    assert "sRGB" in description


# --- there and back ----------------------------------------------------------------------------

triples = st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=20).map(np.array)


@settings(deadline=None)
@given(st.sampled_from(PRIMARIES), st.floats(1, 2.5), triples)
def test_codes_survive_the_way_to_srgb_and_back(
    matrix: Matrix, gamma: float, codes: np.ndarray
) -> None:
    profile = read_profile(write_profile(matrix, gamma_curve(gamma)))
    assert np.abs(profile.from_srgb(profile.to_srgb(codes)) - codes).max() < 1e-6
    assert np.abs(profile.to_srgb(profile.from_srgb(codes)) - codes).max() < 1e-6


@settings(deadline=None)
@given(st.sampled_from(sorted(PROFILES)), triples)
def test_codes_of_every_kind_of_curve_come_back(name: str, codes: np.ndarray) -> None:
    profile = read_profile(PROFILES[name])
    assert np.abs(profile.from_srgb(profile.to_srgb(codes)) - codes).max() < 1e-6


def test_every_16_bit_code_of_a_table_comes_back() -> None:
    # The darkest 29 entries of this table are equal: even there codes stay apart.
    profile = read_profile(PROFILES["table"])
    gray = np.repeat(np.arange(65536)[:, None], 3, axis=1)
    back = profile.from_srgb(profile.to_srgb(gray / 65535)) * 65535
    assert np.array_equal(np.rint(back), gray)


def test_colors_outside_srgb_are_kept_not_clipped() -> None:
    profile = read_profile(PROFILES["ProPhoto"])
    srgb = profile.to_srgb(np.eye(3))
    assert srgb.min() < -0.3
    assert srgb.max() > 1.1
    assert profile.from_srgb(srgb) == pytest.approx(np.eye(3), abs=1e-6)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_values_beyond_the_range_come_back_too(name: str) -> None:
    profile = read_profile(PROFILES[name])
    beyond = np.array([[-0.3, 1.4, 0.5], [2.0, -0.01, -1.0], [1.0001, 3.0, 0.0]])
    assert profile.to_srgb(profile.from_srgb(beyond)) == pytest.approx(beyond, abs=1e-6)


def test_type_and_shape_are_those_of_pictures() -> None:
    profile = read_profile(PROFILES["Adobe RGB"])
    out = profile.to_srgb(np.zeros((2, 4, 5, 3), np.float32))
    assert out.shape == (2, 4, 5, 3)
    assert out.dtype == np.float64
    with pytest.raises(InputError, match="three channels"):
        profile.from_srgb(np.zeros((3, 4)))


# --- what cannot be used -----------------------------------------------------------------------

ADOBE = PROFILES["Adobe RGB"]


def replaced(icc: bytes, position: int, content: bytes) -> bytes:
    return icc[:position] + content + icc[position + len(content) :]


def position_of(icc: bytes, tag: bytes) -> int:
    """Return where the directory of tags describes one of them."""
    return icc.index(tag, 128)


@pytest.mark.parametrize(
    ("icc", "message"),
    [
        (b"", "0 bytes are too few"),
        (ADOBE[:100], "100 bytes are too few"),
        (ADOBE[:-1], "announced"),
        (replaced(ADOBE, 128, b"\xff" * 4), "announced"),
        (replaced(ADOBE, 36, b"ACSP"), "acsp"),
        (replaced(ADOBE, 20, b"Lab "), "look-up tables"),
        (replaced(ADOBE, position_of(ADOBE, b"desc"), b"A2B0"), "look-up tables"),
        (replaced(ADOBE, position_of(ADOBE, b"gTRC"), b"none"), "no gTRC"),
        (replaced(ADOBE, position_of(ADOBE, b"bXYZ") + 4, b"\xff" * 4), "bXYZ lies outside"),
        (replaced(ADOBE, position_of(ADOBE, b"bXYZ") + 8, b"\0\0\0\x0c"), "bXYZ is truncated"),
        (replaced(ADOBE, ADOBE.index(b"curv"), b"text"), "rTRC is truncated or of another type"),
        (write_profile(((0.0,) * 3,) * 3, SRGB_FUNCTION), "do not span"),
        (write_profile(((0.3, 0.3, 0.3),) * 3, SRGB_FUNCTION), "do not span"),
        (write_profile(ADOBE_RGB, gamma_curve(0)), "rTRC is no tone curve"),
        (write_profile(ADOBE_RGB, gamma_curve(2.2), gamma_curve(2.2), gamma_curve(99)), "bTRC"),
        (write_profile(ADOBE_RGB, table_curve(1 - LIGHT)), "falls"),
        (write_profile(ADOBE_RGB, table_curve(np.array([0, 0.6, 0.5, 1]))), "falls"),
        (write_profile(ADOBE_RGB, table_curve(np.ones(9))), "flat"),
        (write_profile(ADOBE_RGB, table_curve(LIGHT * 0.3)), "to 0.3"),
        (write_profile(ADOBE_RGB, struct.pack(">4sII", b"curv", 0, 2**32 - 1)), "truncated"),
        (write_profile(ADOBE_RGB, parametric_curve(3, 2.4, 0.9)), "truncated"),
        (write_profile(ADOBE_RGB, parametric_curve(5, 2.4)), "unknown kind 5"),
        (write_profile(ADOBE_RGB, parametric_curve(1, 2, 1.1, -0.1)), "no rising power"),
        (write_profile(ADOBE_RGB, parametric_curve(3, 2, 1, 0, 1, 0.5)), "do not meet"),
        (write_profile(ADOBE_RGB, parametric_curve(4, 2, 1, 0, 0, 0.02, 0, 8e-4)), "does not rise"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(icc: bytes, message: str) -> None:
    with pytest.raises(InputError, match="the ICC profile cannot be used") as caught:
        read_profile(icc)
    assert message in str(caught.value)
    assert "--profile ignore" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["Adobe RGB", "Display P3", "table"])
def test_damage_is_refused_or_harmless(name: str) -> None:
    rng = np.random.default_rng(4)
    icc = PROFILES[name]
    refused = 0
    for _ in range(1500):
        damaged = bytearray(icc[: rng.integers(len(icc))] if rng.random() < 0.1 else icc)
        for _ in range(rng.integers(1, 4)):
            # Most of the bytes of a table tell nothing new; the others lie before it.
            if damaged:
                damaged[rng.integers(min(len(damaged), 600))] = rng.integers(256)
        try:
            profile = read_profile(bytes(damaged))
        except InputError:
            refused += 1
            continue
        srgb = profile.to_srgb(EDGES)
        assert np.isfinite(srgb).all()
        assert np.isfinite(profile.from_srgb(srgb)).all()
        assert np.isfinite(profile.from_srgb(EDGES)).all()
    assert 300 < refused < 1300


@pytest.mark.parametrize("space", [b"GRAY", b"CMYK"])
def test_a_profile_of_another_kind_of_picture_is_logged_and_not_applied(
    space: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lowvis"):
        profile = read_profile(write_profile(ADOBE_RGB, gamma_curve(2.2), space=space))
    assert profile.is_srgb
    assert space.decode() in caplog.text
