"""Y and luma are those of the standards they are named after."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.color import rgb_to_luma_full_range, rgb_to_y_bt601
from lowvis_shared.errors import InputError

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
