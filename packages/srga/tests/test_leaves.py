"""Dead leaves: pictures that can stand in for photographs."""

import numpy as np
import pytest
from lowvis_shared.errors import UsageError
from lowvis_shared.resize import imresize
from lowvis_srga.leaves import dead_leaves


def test_a_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first = dead_leaves(96, 128, 5)
    assert first.shape == (96, 128, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, dead_leaves(96, 128, 5))
    assert np.abs(first.astype(int) - dead_leaves(96, 128, 6)).mean() > 20


@pytest.mark.parametrize("seed", range(3))
def test_the_statistics_are_those_of_photographs(seed: int) -> None:
    picture = dead_leaves(256, 256, seed)
    gray = picture.mean(axis=2)
    assert 90 < gray.mean() < 165
    assert 35 < gray.std() < 75
    assert (picture == 255).mean() < 0.1
    # Channels vary together, as light does more than color.
    correlation = np.corrcoef(picture.reshape(-1, 3).T)
    assert correlation.min() > 0.6
    # Amplitudes fall with frequency as 1/f does, to within what photographs differ by.
    spectrum = np.abs(np.fft.fft2(gray - gray.mean())) ** 2
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :]) * 256
    bands = [(4, 8), (8, 16), (16, 32), (32, 64), (64, 128)]
    power = [spectrum[(radius >= low) & (radius < high)].mean() for low, high in bands]
    slope = np.polyfit(np.log2([low for low, _ in bands]), np.log2(power), 1)[0]
    assert -3 < slope < -1.3


def test_there_is_detail_for_super_resolution_to_find() -> None:
    picture = dead_leaves(128, 128, 0)
    again = imresize(imresize(picture, scale=0.25), scale=4)
    error = np.mean((picture.astype(float) - again) ** 2)
    assert 10 < 10 * np.log10(255**2 / error) < 28


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (65, 33)])
def test_any_size_can_be_had(height: int, width: int) -> None:
    assert dead_leaves(height, width, 0).shape == (height, width, 3)


def test_no_size_is_no_picture() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        dead_leaves(0, 10, 0)
