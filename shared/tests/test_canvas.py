"""The enlarged picture: values in their place and range, and all else as the picture had it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_shared.canvas import Canvas, bicubic_upscale
from lowvis_shared.errors import InputError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.resize import imresize
from lowvis_shared.testing.pictures import make_picture, photo
from numpy.typing import NDArray
from torch import Tensor

FULL: dict[type[np.generic], int] = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


def fill(picture: Picture, scale: int, pixels: Tensor) -> Picture:
    canvas = Canvas(picture, scale)
    canvas.write(slice(0, pixels.shape[2]), slice(0, pixels.shape[3]), pixels)
    return canvas.picture()


def colors(*values: tuple[float, float, float]) -> Tensor:
    """Return a row of pixels (1, 3, 1, N)."""
    return torch.tensor(values).T.reshape(1, 3, 1, -1)


@pytest.mark.parametrize("dtype", FULL)
def test_values_are_clipped_and_rounded_to_the_type(dtype: type[np.generic]) -> None:
    found = fill(
        make_picture(1, 3, dtype=dtype), 1, colors((-0.5, 0, 0.3), (1, 1.7, 0.6), (2, 2, 2))
    )
    full = FULL[dtype]
    expected = np.clip([[-0.5, 0, 0.3], [1, 1.7, 0.6], [2, 2, 2]], 0, 1).astype(np.float32) * full
    assert found.pixels.dtype == dtype
    np.testing.assert_array_equal(
        found.pixels[0], (expected if full == 1 else np.rint(expected)).astype(dtype)
    )


def test_pieces_come_into_their_place() -> None:
    picture, scale = make_picture(5, 7), 3
    expected = photo(15, 21)
    whole = to_tensor(Picture(expected))
    canvas = Canvas(picture, scale)
    for rows in (slice(0, 4), slice(4, 15)):
        for columns in (slice(0, 20), slice(20, 21)):
            canvas.write(rows, columns, whole[:, :, rows, columns])
    np.testing.assert_array_equal(canvas.picture().pixels, expected)


@pytest.mark.parametrize("dtype", FULL)
def test_gray_stays_gray_by_luma(dtype: type[np.generic]) -> None:
    picture = make_picture(1, 2, dtype=dtype, gray=True)
    found = fill(picture, 1, colors((1, 0, 0), (0.25, 0.25, 0.25)))
    assert found.gray
    np.testing.assert_array_equal(found.pixels[..., 0], found.pixels[..., 1])
    np.testing.assert_array_equal(found.pixels[..., 0], found.pixels[..., 2])
    expected = np.array([0.299, 0.25]) * FULL[dtype]
    assert np.abs(found.pixels[0, :, 0] - expected).max() <= (0.51 if FULL[dtype] > 1 else 1e-6)


def test_gray_weights_colors_before_they_are_clipped() -> None:
    picture = make_picture(1, 1, dtype=np.float32, gray=True)
    found = fill(picture, 1, colors((2, 0, -0.5)))
    assert float(found.pixels[0, 0, 0]) == pytest.approx(2 * 0.299 - 0.5 * 0.114, abs=1e-6)


@pytest.mark.parametrize("dtype", FULL)
def test_alpha_is_bicubic_and_metadata_stay(dtype: type[np.generic]) -> None:
    made = make_picture(6, 9, dtype=dtype, alpha=True)
    picture = replace(made, icc_profile=b"profile", exif=b"Exif", format="WebP")
    found = fill(picture, 2, torch.zeros(1, 3, 12, 18))
    assert (found.icc_profile, found.exif, found.format) == (b"profile", b"Exif", "WebP")
    assert picture.alpha is not None
    assert found.alpha is not None
    assert found.alpha.dtype == dtype
    expected = np.clip(imresize(picture.alpha, scale=2), 0, FULL[dtype])
    np.testing.assert_array_equal(found.alpha, expected)
    assert fill(make_picture(6, 9, dtype=dtype), 2, torch.zeros(1, 3, 12, 18)).alpha is None


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        fill(make_picture(1, 1), 1, torch.full((1, 3, 1, 1), torch.nan))


def test_a_result_too_large_for_memory_is_refused_before_it_is_reserved() -> None:
    picture = Picture(np.broadcast_to(np.uint8(9), (60_000, 60_000, 3)))
    with pytest.raises(InputError, match=r"240000x240000 pixels takes .* GiB") as caught:
        Canvas(picture, 4)
    assert "smaller scale" in (caught.value.hint or "")


def test_what_is_needed_is_twice_color_and_alpha(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The result and the file made of it; the limit is that of a container, for 16 bits here."""
    picture = make_picture(32, 64, dtype=np.uint16)
    needed = 2 * 4 * (32 * 4) * (64 * 4) * 2
    monkeypatch.setattr("lowvis_shared.device._CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text(f"{1000 + needed - 1}\n")
    with pytest.raises(InputError, match="are free"):
        Canvas(picture, 4)
    (tmp_path / "memory.max").write_text(f"{1000 + needed}\n")
    assert Canvas(picture, 4).picture().pixels.shape == (128, 256, 3)


def overshooting(dtype: type[np.generic]) -> NDArray[Any]:
    """Black beside white, where bicubic interpolation leaves the range."""
    pixels = np.zeros((8, 8, 3), dtype)
    pixels[:, 4:] = FULL[dtype]
    return pixels


@pytest.mark.parametrize("dtype", FULL)
def test_the_bicubic_picture_is_imresize_within_the_range(dtype: type[np.generic]) -> None:
    pixels = overshooting(dtype)
    picture = Picture(pixels, pixels[..., 0].copy(), exif=b"Exif")
    found = bicubic_upscale(picture, 3)
    full = FULL[dtype]
    expected = np.clip(imresize(pixels, scale=3), 0, full)
    np.testing.assert_array_equal(found.pixels, expected)
    np.testing.assert_array_equal(found.alpha, expected[..., 0])
    assert (found.pixels.dtype, found.exif) == (np.dtype(dtype), b"Exif")
    assert (found.pixels.min(), found.pixels.max()) == (0, full)
    assert bicubic_upscale(Picture(pixels), 3).alpha is None
