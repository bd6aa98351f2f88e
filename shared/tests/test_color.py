"""Luma, curves, L*a*b* and color differences are those of the standards they are named after."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.color import (
    delta_e_76,
    delta_e_2000,
    linear_to_srgb,
    rgb_to_lab,
    rgb_to_luma_full_range,
    rgb_to_y_bt601,
    srgb_to_linear,
)
from lowvis_shared.errors import InputError
from skimage import color as skimage_color

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        (BLACK, 16.0),
        (WHITE, 235.0),
        # MATLAB: rgb2ycbcr of the three primaries, before it rounds
        (RED, 81.481),
        (GREEN, 144.553),
        (BLUE, 40.966),
    ],
)
def test_y_of_primaries_is_that_of_matlab(color: tuple[int, int, int], expected: float) -> None:
    assert rgb_to_y_bt601(np.array(color, np.uint8)) == pytest.approx(expected, abs=1e-12)


def test_full_range_luma_agrees_with_opencv_up_to_its_rounding() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    theirs = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., 0]
    assert np.abs(rgb_to_luma_full_range(rgb) - theirs).max() <= 0.5 + 2e-2


@settings(deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_limited_range_is_full_range_scaled_and_shifted(color: tuple[int, int, int]) -> None:
    rgb = np.array(color, np.uint8)
    expected = rgb_to_luma_full_range(rgb) * 219 / 255 + 16
    assert rgb_to_y_bt601(rgb) == pytest.approx(expected, abs=1e-10)


def test_channels_are_the_last_axis_of_any_number_of_axes() -> None:
    rgb = np.random.default_rng(1).random((2, 5, 4, 3), dtype=np.float32) * 255
    y = rgb_to_y_bt601(rgb)
    assert y.shape == (2, 5, 4)
    assert y.dtype == np.float64
    assert y[1, 2, 3] == rgb_to_y_bt601(rgb[1, 2, 3])


@pytest.mark.parametrize("shape", [(), (4, 4), (4, 4, 4), (3, 4, 4)])
def test_anything_but_three_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="three channels"):
        rgb_to_y_bt601(np.zeros(shape, np.uint8))


# --- sRGB --------------------------------------------------------------------------------------


def test_the_curve_is_that_of_the_standard() -> None:
    codes = np.array([0.0, 0.04045, 0.5, 1.0])
    expected = [0.0, 0.04045 / 12.92, 0.21404114048223255, 1.0]
    assert srgb_to_linear(codes) == pytest.approx(expected, abs=1e-15)


@settings(deadline=None)
@given(st.floats(-4, 4))
def test_codes_survive_the_way_to_light_and_back(code: float) -> None:
    codes = np.array([code])
    light = srgb_to_linear(codes)
    assert linear_to_srgb(light) == pytest.approx(codes, abs=5e-8)
    assert srgb_to_linear(-codes) == -light


def test_nothing_is_clamped_and_the_shape_is_free() -> None:
    light = srgb_to_linear(np.full((2, 1, 4), 1.5, np.float32))
    assert light.shape == (2, 1, 4)
    assert light.dtype == np.float64
    assert light.min() > 1


# --- CIE L*a*b* --------------------------------------------------------------------------------

RGB = np.random.default_rng(2).random((40, 50, 3))


def test_lab_agrees_with_scikit_image() -> None:
    # Its white is D65 with two more digits than the chromaticities of sRGB.
    assert np.abs(rgb_to_lab(RGB) - skimage_color.rgb2lab(RGB)).max() < 0.02


def test_lab_agrees_with_opencv() -> None:
    # From linear light OpenCV computes; from sRGB it looks up and interpolates, more roughly.
    linear = srgb_to_linear(RGB).astype(np.float32)
    computed = cv2.cvtColor(linear, cv2.COLOR_LRGB2LAB)
    looked_up = cv2.cvtColor(RGB.astype(np.float32), cv2.COLOR_RGB2LAB)
    assert np.abs(rgb_to_lab(RGB) - computed).max() < 0.05
    assert np.abs(rgb_to_lab(RGB) - looked_up).max() < 0.8
    assert np.abs(rgb_to_lab(RGB) - looked_up).mean() < 0.1


def test_gray_has_no_chroma_and_white_is_100() -> None:
    gray = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    lab = rgb_to_lab(gray)
    assert np.abs(lab[:, 1:]).max() < 1e-12
    assert lab[[0, 255], 0] == pytest.approx([0, 100], abs=1e-12)
    assert np.all(np.diff(lab[:, 0]) > 0)


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integers_and_floats_give_the_same_lab(dtype: type, full: int) -> None:
    codes = np.rint(RGB * full).astype(dtype)
    assert rgb_to_lab(codes) == pytest.approx(rgb_to_lab(codes / full), abs=1e-12)


def test_lab_of_colors_outside_the_gamut_is_finite_and_not_clipped() -> None:
    outside = rgb_to_lab(np.array([[-0.2, 1.1, 0.0], [0.0, 1.0, 0.0]]))
    assert np.isfinite(outside).all()
    assert outside[0, 0] > outside[1, 0]


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        (np.zeros((4, 4), np.uint8), "three channels"),
        (np.zeros((4, 3), np.int32), "int32"),
        (np.full((1, 3), np.nan), "not finite"),
    ],
)
def test_lab_refuses_what_is_not_rgb(rgb: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rgb_to_lab(rgb)


# --- color differences -------------------------------------------------------------------------

LAB = np.random.default_rng(3).uniform([0, -100, -100], [100, 100, 100], (2, 30, 40, 3))

# From table 1 of Sharma, Wu and Dalal (2005), where implementations differ: hues nearly or exactly
# opposite, gray against color, blue with its rotated ellipses, dark colors.
SHARMA = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, 2.8361, -74.0200), (50, 0, -82.7485), 3.4412),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0009), 7.1792),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0010), 7.1792),
    ((50, 2.4900, -0.0010), (50, -2.4900, 0.0011), 7.2195),
    ((50, -0.0010, 2.4900), (50, 0.0009, -2.4900), 4.8045),
    ((50, -0.0010, 2.4900), (50, 0.0010, -2.4900), 4.8045),
    ((50, -0.0010, 2.4900), (50, 0.0011, -2.4900), 4.7461),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((36.4612, 47.8580, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "expected"), SHARMA)
def test_ciede2000_of_the_published_pairs(
    first: tuple[float, ...], second: tuple[float, ...], expected: float
) -> None:
    pair = np.array(first), np.array(second)
    assert delta_e_2000(*pair) == pytest.approx(expected, abs=5.1e-5)
    assert delta_e_2000(*pair[::-1]) == pytest.approx(expected, abs=5.1e-5)


def test_color_differences_agree_with_scikit_image() -> None:
    assert delta_e_76(*LAB) == pytest.approx(skimage_color.deltaE_cie76(*LAB), abs=1e-12)
    assert delta_e_2000(*LAB) == pytest.approx(skimage_color.deltaE_ciede2000(*LAB), abs=1e-10)


def test_equal_colors_do_not_differ() -> None:
    assert delta_e_76(LAB, LAB).shape == LAB.shape[:-1]
    assert not delta_e_76(LAB, LAB).any()
    assert not delta_e_2000(LAB, LAB).any()


@pytest.mark.parametrize("difference", [delta_e_76, delta_e_2000])
def test_colors_of_other_shapes_are_refused(difference: Callable[..., np.ndarray]) -> None:
    with pytest.raises(InputError, match="different shapes"):
        difference(np.zeros((4, 3)), np.zeros(3))
    with pytest.raises(InputError, match="three channels"):
        difference(np.zeros((3, 4)), np.zeros((3, 4)))
