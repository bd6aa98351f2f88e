"""Resampling is MATLAB's: bit for bit on the published pictures, by its rules on any other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.resize import imresize, imresize_tensor, modcrop
from lowvis_shared.testing import mirror_path
from PIL import Image

DTYPES = ["uint8", "uint16", "float32", "float64"]
sizes = st.integers(1, 40)
scales = st.sampled_from([0.1, 1 / 4, 1 / 3, 1 / 2, 0.7, 1.0, 1.3, 2.0, 3.0, 4.0])


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if dtype.startswith("uint"):
        return generator.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    return generator.random(shape).astype(dtype)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("dataset", "count"), [("Set5", 5), ("Set14", 14)])
def test_published_low_resolution_pictures_come_out_bit_exact(
    dataset: str, count: int, scale: int
) -> None:
    folder = mirror_path(f"data/{dataset}")
    pictures = sorted((folder / "HR").glob("*.png"))
    assert len(pictures) == count
    for path in pictures:
        published = read(folder / "LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png")
        ours = imresize(modcrop(read(path), scale), scale=1 / scale)
        assert ours.shape == published.shape, path.name
        assert np.array_equal(ours, published), path.name


def test_impulse_shows_the_stretched_kernel() -> None:
    # Keys' kernel (a = -0.5) stretched by 2, at distances 0.5, 1.5, 2.5 and 3.5
    impulse = np.zeros((1, 16))
    impulse[0, 8] = 256.0
    expected = [0, 0, -3, 29, 111, -9, 0, 0]
    half = imresize(np.repeat(impulse, 16, axis=0), scale=0.5)
    np.testing.assert_allclose(half, np.tile(expected, (8, 1)), atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_borders_are_mirrored_with_the_edge_pixel_repeated(scale: float) -> None:
    picture = noise(6, 4, dtype="float64")
    surrounded = imresize(np.pad(picture, 8, mode="symmetric"), scale=scale)
    inside = slice(round(8 * scale), -round(8 * scale))
    np.testing.assert_allclose(
        imresize(picture, scale=scale), surrounded[inside, inside], atol=1e-12
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_one_changes_nothing(dtype: str) -> None:
    picture = noise(13, 7, 3, dtype=dtype)
    assert np.array_equal(imresize(picture, scale=1), picture)


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, scales, st.sampled_from(DTYPES))
def test_constant_pictures_stay_constant_and_sizes_round_up(
    height: int, width: int, scale: float, dtype: str
) -> None:
    value = 0.3 if dtype.startswith("float") else 77
    picture = np.full((height, width, 3), value, dtype)
    result = imresize(picture, scale=scale)
    assert result.shape == (int(np.ceil(height * scale)), int(np.ceil(width * scale)), 3)
    assert result.dtype == picture.dtype
    np.testing.assert_allclose(result, value, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, sizes, sizes)
def test_given_sizes_are_met_and_channels_do_not_mix(
    height: int, width: int, rows: int, columns: int
) -> None:
    picture = noise(height, width, 3)
    result = imresize(picture, size=(rows, columns))
    assert result.shape == (rows, columns, 3)
    for channel in range(3):
        gray = imresize(picture[..., channel], size=(rows, columns))
        assert np.array_equal(gray, result[..., channel])


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, scales)
def test_flipping_and_resampling_commute(height: int, width: int, scale: float) -> None:
    picture = noise(height, width, dtype="float64")
    size = (int(np.ceil(height * scale)), int(np.ceil(width * scale)))
    flipped = imresize(picture[::-1, ::-1], size=size)[::-1, ::-1]
    np.testing.assert_allclose(flipped, imresize(picture, size=size), atol=1e-9)


@pytest.mark.parametrize("maximum", [255, 65535])
def test_integers_are_clipped_not_wrapped(maximum: int) -> None:
    dtype = "uint8" if maximum == 255 else "uint16"
    edge = np.zeros((8, 8), dtype)
    edge[:, 4:] = maximum
    result = imresize(edge, scale=3)
    overshooting = imresize(edge.astype("float64"), scale=3)
    assert overshooting.min() < -1
    assert overshooting.max() > maximum + 1
    assert np.array_equal(result, np.clip(np.floor(overshooting + 0.5), 0, maximum))


def test_halves_are_rounded_up() -> None:
    # Stripes of n + 1 and n: far from the borders the exact average is n + 0.5
    stripes = np.array([np.resize([n + 1, n], 32) for n in range(250)], np.uint8)
    middle = (slice(None), slice(4, 12))
    assert (imresize(stripes.astype("float64"), size=(250, 16))[middle] % 1 == 0.5).all()
    expected = np.tile(np.arange(1, 251)[:, np.newaxis], 8)
    assert np.array_equal(imresize(stripes, size=(250, 16))[middle], expected)


def test_axis_with_the_smaller_scale_comes_first_and_each_pass_is_rounded() -> None:
    picture = noise(40, 30)
    rows_first = imresize(imresize(picture, size=(10, 30)), size=(10, 15))
    columns_first = imresize(imresize(picture, size=(40, 15)), size=(10, 15))
    assert not np.array_equal(rows_first, columns_first)
    assert np.array_equal(imresize(picture, size=(10, 15)), rows_first)
    assert np.array_equal(imresize(picture.T, size=(15, 10)), rows_first.T)
    equal_scales = imresize(imresize(picture, size=(20, 30)), size=(20, 15))
    assert np.array_equal(imresize(picture, scale=0.5), equal_scales)


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, scales)
def test_tensor_version_computes_the_same(height: int, width: int, scale: float) -> None:
    picture = noise(height, width, 3, dtype="float32")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    result = imresize_tensor(tensor, scale=scale)[0].permute(1, 2, 0).numpy()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, imresize(picture, scale=scale), atol=1e-5)


def test_tensor_version_spans_many_blocks() -> None:
    picture = noise(300, 200, 3, dtype="float64")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    for size in [(75, 50), (600, 801), (100, 400)]:
        result = imresize_tensor(tensor, size=size)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(result, imresize(picture, size=size), atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_tensor_version_is_differentiable(scale: float) -> None:
    tensor = torch.rand(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: imresize_tensor(x, scale=scale), (tensor,))


def test_input_is_left_as_it_is() -> None:
    picture = noise(20, 20, 3)
    before = picture.copy()
    picture.flags.writeable = False
    imresize(picture, scale=0.5)
    assert np.array_equal(picture, before)


def test_modcrop_cuts_bottom_and_right() -> None:
    picture = noise(11, 14, 3)
    assert np.array_equal(modcrop(picture, 4), picture[:8, :12])
    assert modcrop(picture[..., 0], 3).shape == (9, 12)


def test_pictures_that_cannot_be_resampled_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        imresize(np.zeros((0, 4)), scale=2)
    with pytest.raises(InputError, match="shape"):
        imresize(np.zeros(4), scale=2)
    with pytest.raises(InputError, match="int64"):
        imresize(np.zeros((4, 4), np.int64), scale=2)
    with pytest.raises(InputError, match="floating-point"):
        imresize_tensor(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), scale=2)
    with pytest.raises(InputError, match="too small"):
        modcrop(np.zeros((3, 9)), 4)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scale": 2, "size": (4, 4)},
        {"scale": 0},
        {"scale": -1},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"size": (0, 4)},
    ],
)
def test_contradictory_or_empty_requests_are_refused(arguments: dict) -> None:
    with pytest.raises(UsageError):
        imresize(np.zeros((4, 4)), **arguments)
    with pytest.raises(UsageError):
        imresize_tensor(torch.zeros(1, 1, 4, 4), **arguments)
