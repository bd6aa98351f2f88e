"""Degradations: their names, the procedure of the check figures, and cells that equal the whole."""

import io
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.errors import UsageError
from lowvis_shared.testing.pictures import constant, photo
from lowvis_srga.degrade import (
    Degradation,
    finish,
    parse_degradation,
    reduce_cell,
    reduce_picture,
)
from numpy.typing import NDArray
from PIL import Image


def random() -> np.random.Generator:
    return np.random.default_rng(123)


@pytest.mark.parametrize(
    ("name", "family", "degree"),
    [
        ("clean", "clean", 0.0),
        ("blur0.5", "blur", 0.5),
        ("blur2", "blur", 2.0),
        ("blur21-6", "blur", 6.0),
        ("noise10", "noise", 10.0),
        ("noise2.5", "noise", 2.5),
        ("jpeg50", "jpeg", 50.0),
        ("blur2+noise10", "mixture", None),
        ("noise10+jpeg50", "mixture", None),
        ("blur21-6+noise10+jpeg50", "mixture", None),
    ],
)
def test_a_name_says_what_is_done(name: str, family: str, degree: float | None) -> None:
    degradation = parse_degradation(name)
    assert (degradation.name, degradation.family, degradation.degree) == (name, family, degree)


def test_different_names_of_one_degradation_become_one() -> None:
    assert parse_degradation("blur2.0") == parse_degradation("blur13-2")
    assert parse_degradation("blur13-2.00+jpeg50").name == "blur2+jpeg50"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " clean",
            "Clean",
            "clean\n",
            "blur",
            "blur0",
            "blur-2",
            "blur1e1",
            "blur02",
            "blur.5",
        ),
        *("blur101", "blur0.01", "blur20-6", "blur1-6", "blur6-21-3", "blur9999999999", "blur٣"),
        *("noise0", "noise256", "noise", "jpeg0", "jpeg101", "jpeg50.5", "jpeg", "sharpen2"),
        *("noise10+blur2", "jpeg50+noise10", "blur2+blur3", "clean+noise5", "+noise5", "blur2+"),
        *("blur2noise10", "blur2++noise10", "blur2 + noise10"),
    ],
)
def test_anything_else_is_refused_with_the_grammar(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_degradation(name)
    assert "blur2+noise10+jpeg50" in str(caught.value.hint)


@given(
    blur=st.none() | st.decimals("0.1", "100", places=3),
    taps=st.none() | st.integers(1, 100),
    noise=st.none() | st.decimals("0.001", "255", places=3),
    jpeg=st.none() | st.integers(1, 100),
)
def test_the_name_of_a_degradation_gives_it_back(
    blur: object, taps: int | None, noise: object, jpeg: int | None
) -> None:
    width = "" if taps is None else f"{2 * taps + 1}-"
    parts = (("noise", noise), ("jpeg", jpeg))
    steps = [] if blur is None else [f"blur{width}{blur}"]
    steps += [f"{word}{number}" for word, number in parts if number is not None]
    degradation = parse_degradation("+".join(steps) or "clean")
    assert parse_degradation(degradation.name) == degradation
    assert len(degradation.steps) == len(steps)


def direct_bicubic(picture: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Section 6.1 item 4 of the specification as it is written, along rows, then columns."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    def matrix(length: int) -> NDArray[np.float64]:
        result = np.zeros((length // scale, length))
        for i in range(length // scale):
            center = (i + 0.5) * scale - 0.5
            first = math.floor(center - 2 * scale) + 1
            for tap in range(first, first + 4 * scale + 2):
                at = -tap - 1 if tap < 0 else 2 * length - tap - 1 if tap >= length else tap
                result[i, at] += cubic((center - tap) / scale) / scale
        return result / result.sum(axis=1, keepdims=True)

    height, width = picture.shape[:2]
    return np.einsum("ij,jkc,lk->ilc", matrix(height), picture, matrix(width))


def direct_blur(picture: NDArray[np.float64], sigma: float, width: int) -> NDArray[np.float64]:
    """The blur of section 6.1 item 4 by a sum over shifted copies."""
    reach = width // 2
    weights = np.array([math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)])
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(0, 0)] * 3
        padding[axis] = (reach, reach)
        padded = np.pad(picture, padding, mode="symmetric")
        length = picture.shape[axis]
        shifted = (np.take(padded, range(k, k + length), axis) for k in range(width))
        picture = np.sum(
            [weight * each for weight, each in zip(weights, shifted, strict=True)], axis=0
        )
    return picture


@pytest.mark.parametrize(
    ("name", "sigma", "width"), [("blur0.5", 0.5, 5), ("blur2", 2, 13), ("blur21-6", 6, 21)]
)
def test_blur_and_reduction_are_those_of_the_check_figures(
    name: str, sigma: float, width: int
) -> None:
    picture = photo(72, 100) / 255.0
    blur = parse_degradation(name).blur
    expected = direct_blur(picture, sigma, width)
    np.testing.assert_allclose(reduce_picture(picture, blur, 1), expected, rtol=0, atol=1e-13)
    opencv = cv2.GaussianBlur(picture, (width, width), sigma, borderType=cv2.BORDER_REFLECT)
    np.testing.assert_allclose(reduce_picture(picture, blur, 1), opencv, rtol=0, atol=1e-12)
    expected = direct_bicubic(expected, 4)
    np.testing.assert_allclose(reduce_picture(picture, blur, 4), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_clean_reduction_is_that_of_the_check_figures(scale: int) -> None:
    picture = photo(72, 96, seed=1) / 255.0
    expected = direct_bicubic(picture, scale)
    np.testing.assert_allclose(reduce_picture(picture, None, scale), expected, rtol=0, atol=1e-12)


def test_networks_that_keep_the_size_get_untouched_clean_patches() -> None:
    picture = photo(40, 56)
    cell = reduce_cell(picture, 8, 24, 32, None, 1)
    assert np.array_equal(finish(cell, Degradation(), random()), picture[8:40, 24:56])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_cell_is_that_of_the_whole_picture(data: st.DataObject) -> None:
    scale = data.draw(st.sampled_from([1, 2, 3, 4]))
    size = scale * data.draw(st.integers(1, 8))
    # From pictures that are smaller than the kernel to such of which the window is a small part.
    rows, columns = (size + scale * data.draw(st.integers(0, 40)) for _ in range(2))
    picture = photo(rows, columns, seed=data.draw(st.integers(0, 3)))
    top = scale * data.draw(st.integers(0, (rows - size) // scale))
    left = scale * data.draw(st.integers(0, (columns - size) // scale))
    name = data.draw(st.sampled_from(["clean", "blur0.5", "blur1", "blur2", "blur21-6", "blur8"]))
    degradation = parse_degradation(name)
    whole = reduce_picture(picture / 255.0, degradation.blur, scale)
    row, column, length = top // scale, left // scale, size // scale
    expected = whole[row : row + length, column : column + length]
    cell = reduce_cell(picture, top, left, size, degradation.blur, scale)
    np.testing.assert_allclose(cell, expected, rtol=0, atol=1e-12)


def test_cells_put_together_are_the_whole_picture_to_the_last_bit() -> None:
    picture = photo(256, 384, seed=2)
    for name in ("clean", "blur1", "blur4", "blur21-6"):
        degradation = parse_degradation(name)
        whole = finish(reduce_picture(picture / 255.0, degradation.blur, 4), degradation, random())
        for top in range(0, 256, 128):
            for left in range(0, 384, 128):
                cell = reduce_cell(picture, top, left, 128, degradation.blur, 4)
                patch = finish(cell, degradation, random())
                low = whole[top // 4 : top // 4 + 32, left // 4 : left // 4 + 32]
                assert np.array_equal(patch, low)


def test_noise_is_the_draw_of_the_check_figures_patch_after_patch() -> None:
    degradation, generator, reference = parse_degradation("noise20"), random(), random()
    for seed in range(3):
        low = photo(32, 32, seed=seed) / 255.0
        noisy = np.clip(low + reference.normal(0, 20 / 255, (32, 32, 3)), 0, 1) * 255
        assert np.array_equal(finish(low, degradation, generator), np.rint(noisy).astype(np.uint8))


def test_levels_of_noise_differ_in_strength_only() -> None:
    gray = constant(32, 32) / 255.0

    def noise(name: str) -> NDArray[np.int_]:
        return finish(gray, parse_degradation(name), random()).astype(int) - 128

    assert np.abs(noise("noise20") - 2 * noise("noise10")).max() <= 2  # both are rounded
    assert abs(noise("noise10").std() - 10) < 0.5


def test_overshoot_is_cut_and_halves_are_rounded_to_even() -> None:
    values = np.array([-0.1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 1.1])
    patch = np.repeat(values[:, None, None], 3, axis=2)
    assert finish(patch, Degradation(), random())[:, 0, 0].tolist() == [0, 0, 2, 2, 255]


def test_compression_comes_last_and_is_pillows_own() -> None:
    low = photo(32, 32) / 255.0
    degradation = parse_degradation("noise10+jpeg20")
    file = io.BytesIO()
    noisy = finish(low, parse_degradation("noise10"), random())
    Image.fromarray(noisy).save(file, "JPEG", quality=20)
    expected = np.asarray(Image.open(file))
    assert np.array_equal(finish(low, degradation, random()), expected)
    assert not np.array_equal(expected, noisy)
