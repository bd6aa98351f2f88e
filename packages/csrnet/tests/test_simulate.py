"""Operations and defects do what their formulas say."""

import numpy as np
import pytest
from lowvis_csrnet.simulate import (
    LUMA,
    OPERATIONS,
    Defects,
    Image,
    brightness,
    contrast,
    local_contrast,
    saturation,
    tone_map,
)
from lowvis_shared.color import srgb_to_linear
from lowvis_shared.metrics import Protocol, psnr
from lowvis_shared.testing.pictures import constant, photo


def unit(pixels: np.ndarray) -> Image:
    return pixels.astype(np.float32) / np.float32(255)


def pixel(*values: float) -> Image:
    return np.array([[values]], np.float32)


PICTURE = unit(photo(48, 64))

# Two pixels of brightness 0.299 * 0.4 + 0.587 * 0.2 + 0.114 * 0.8 = 0.3282 and 0.6.
PAIR = np.array([[[0.4, 0.2, 0.8], [0.6, 0.6, 0.6]]], np.float32)
MEAN = (0.3282 + 0.6) / 2


# --- operations --------------------------------------------------------------------------------


def test_brightness_multiplies_and_clips() -> None:
    np.testing.assert_allclose(brightness(PAIR, 0.5), PAIR / 2, atol=1e-7)
    np.testing.assert_allclose(brightness(pixel(0.4, 0.8, 1.0), 1.5), pixel(0.6, 1.0, 1.0))


def test_contrast_is_around_the_pictures_mean() -> None:
    expected = 1.5 * PAIR - 0.5 * MEAN
    np.testing.assert_allclose(contrast(PAIR, 1.5), np.clip(expected, 0, 1), atol=1e-6)
    np.testing.assert_allclose(contrast(PAIR, 0.0), np.full_like(PAIR, MEAN), atol=1e-6)
    # The same pixel becomes another one in another picture: no curve can do this.
    darker = np.concatenate([PAIR, np.zeros_like(PAIR)], axis=1)
    assert abs(float(contrast(darker, 1.5)[0, 0, 0] - contrast(PAIR, 1.5)[0, 0, 0])) > 0.1


def test_saturation_is_around_the_gray_of_each_pixel() -> None:
    gray = saturation(PAIR, 0.0)
    np.testing.assert_allclose(gray[0, 0], 0.3282, atol=1e-6)
    np.testing.assert_allclose(gray[0, 1], 0.6, atol=1e-6)
    expected = np.clip([0.3282 + 1.5 * (value - 0.3282) for value in (0.4, 0.2, 0.8)], 0, 1)
    np.testing.assert_allclose(saturation(PAIR, 1.5)[0, 0], expected, atol=1e-6)


def test_tone_map_is_piecewise_linear() -> None:
    slopes = (0.4, 0.3, 0.2, 0.1)
    values = (0.0, 0.125, 0.25, 0.4, 0.5, 0.75, 0.9, 1.0)
    expected = (0.0, 0.2, 0.4, 0.58, 0.7, 0.9, 0.96, 1.0)
    mapped = [float(tone_map(pixel(value, value, value), slopes)[0, 0, 1]) for value in values]
    assert mapped == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(tone_map(PICTURE, (0.25,) * 4), PICTURE, atol=1e-6)


def test_local_contrast_adds_the_difference_to_the_surroundings() -> None:
    flat = unit(constant(24, 32, value=100))
    np.testing.assert_allclose(local_contrast(flat), flat, atol=1e-6)
    dot = flat.copy()
    dot[12, 16] = 0.6
    changed = local_contrast(dot)
    assert float(changed[12, 16, 0]) > 0.65
    assert float(changed[12, 18, 0]) < float(flat[12, 18, 0])
    np.testing.assert_allclose(changed[0, 0], flat[0, 0], atol=1e-5)
    np.testing.assert_allclose(local_contrast(dot, amount=0.0), dot, atol=1e-7)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_shape_type_and_range(name: str) -> None:
    for image in (PICTURE, np.zeros((5, 7, 3), np.float32), np.ones((7, 5, 3), np.float32)):
        before = image.copy()
        result = OPERATIONS[name](image)
        assert result.dtype == np.float32
        assert result.shape == image.shape
        assert 0 <= float(result.min()) <= float(result.max()) <= 1
        np.testing.assert_array_equal(image, before)
    assert np.abs(OPERATIONS[name](PICTURE) - PICTURE).max() > 0.02


# --- defects -----------------------------------------------------------------------------------


def test_no_defect_changes_nothing() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for pixels in (photo(40, 56), np.stack([every, every.T, every[::-1]], axis=-1)):
        np.testing.assert_array_equal(Defects()(unit(pixels)), unit(pixels))


def test_severity_zero_draws_no_defect() -> None:
    for seed in range(5):
        drawn = Defects.draw(np.random.default_rng(seed), 0.0)
        assert drawn == Defects()
        np.testing.assert_array_equal(drawn(PICTURE), PICTURE)


def test_defects_are_those_of_the_seed() -> None:
    first, again, other = (Defects.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    np.testing.assert_array_equal(first(PICTURE), again(PICTURE))
    assert np.abs(first(PICTURE) - other(PICTURE)).max() > 0.02


def test_defects_stay_in_range_whatever_is_drawn() -> None:
    for seed in range(40):
        defects = Defects.draw(np.random.default_rng(seed), 1.3)
        result = defects(PICTURE)
        assert result.dtype == np.float32
        assert 0 <= float(result.min()) <= float(result.max()) <= 1
        codes = result * 255
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
        assert -3 <= defects.exposure <= 1.5
        assert 0 <= defects.fade <= 0.2


def test_psnr_falls_as_severity_grows() -> None:
    protocol = Protocol(color="rgb")
    means = [
        np.mean(
            [
                psnr(
                    Defects.draw(np.random.default_rng(seed), severity)(PICTURE), PICTURE, protocol
                )
                for seed in range(20)
            ]
        )
        for severity in (0.2, 0.5, 1.0)
    ]
    assert means[0] > means[1] + 2
    assert means[1] > means[2] + 2


def test_exposure_and_white_balance_are_stops_of_light() -> None:
    gray = np.full((1, 1, 3), 128 / 255, np.float32)
    light = srgb_to_linear(gray)
    for defects, stops in (
        (Defects(exposure=-1.0), (-1.0, -1.0, -1.0)),
        (Defects(warmth=0.5), (0.5, 0.0, -0.5)),
        (Defects(tint=0.25), (0.0, 0.25, 0.0)),
    ):
        ratio = srgb_to_linear(defects(gray)) / light
        np.testing.assert_allclose(np.log2(ratio)[0, 0], stops, atol=0.02)


def test_other_defects_are_what_they_are_called() -> None:
    half = pixel(0.2, 0.4, 0.6)
    np.testing.assert_allclose(Defects(gamma=2.0)(half), half**2, atol=0.003)
    np.testing.assert_allclose(Defects(fade=0.1)(half), 0.1 + 0.9 * half, atol=0.003)
    np.testing.assert_allclose(Defects(saturation=0.5)(half), saturation(half, 0.5), atol=0.003)
    flat = Defects(contrast=0.5)(PICTURE)
    np.testing.assert_allclose(flat, contrast(PICTURE, 0.5), atol=0.003)
    assert float((flat @ LUMA).std()) == pytest.approx(float((PICTURE @ LUMA).std()) / 2, rel=0.02)
