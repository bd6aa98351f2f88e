"""Small pictures made by arithmetic: the same on every machine, without any file.

All are (height, width, 3) uint8 RGB arrays unless stated otherwise.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowvis_shared._picture import Picture, quantize


def photo(height: int = 96, width: int = 128, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return a picture with the statistics of a photograph.

    A sky that falls off smoothly, ground with a 1/f spectrum as natural scenes have it (Field,
    JOSA A 1987), objects with sharp edges and some fine texture.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width, 2)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    spectrum = np.fft.fft2(random.standard_normal((height, width)))
    texture = np.fft.ifft2(spectrum / np.maximum(frequency, 1 / max(height, width))).real
    texture /= max(float(np.abs(texture).max()), 1e-9)
    picture = np.stack([0.45 + 0.3 * y, 0.55 + 0.1 * x, 0.75 - 0.4 * y], axis=-1)
    picture += 0.25 * texture[..., None]
    for _ in range(6):
        center_y, center_x, radius = random.random(3) * (height, width, 0.25)
        center_y, center_x = center_y / max(height, width, 2), center_x / max(height, width, 2)
        inside = np.abs(y - center_y) + np.abs(x - center_x) < radius
        if random.random() < 0.5:
            inside = np.hypot(y - center_y, x - center_x) < radius
        shade = random.random(3) * 0.8 + 0.1
        picture[inside] = 0.8 * shade + 0.2 * picture[inside]
    return quantize(picture, np.dtype(np.uint8))


def gradient(height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    """Return ramps: red from left to right, green from top to bottom, blue along both."""
    y, x = np.mgrid[:height, :width]
    red, green = x / max(width - 1, 1), y / max(height - 1, 1)
    return quantize(np.stack([red, green, (red + green) / 2], axis=-1), np.dtype(np.uint8))


def constant(height: int = 64, width: int = 64, *, value: int = 128) -> NDArray[np.uint8]:
    """Return one gray value everywhere."""
    return np.full((height, width, 3), value, np.uint8)


def noise(height: int = 64, width: int = 64, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return independent uniform noise in every sample."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def checkerboard(height: int = 64, width: int = 64, *, period: int = 1) -> NDArray[np.uint8]:
    """Return black and white squares with sides of ``period`` pixels."""
    y, x = np.mgrid[:height, :width] // period
    return _gray((x + y) % 2 * 255)


def stripes(height: int = 64, width: int = 64, *, vertical: bool = True) -> NDArray[np.uint8]:
    """Return stripes one pixel wide, black and white in turn."""
    y, x = np.mgrid[:height, :width]
    return _gray((x if vertical else y) % 2 * 255)


def dither(height: int = 64, width: int = 64, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return a gray ramp as random black and white pixels (1-bit dither)."""
    ramp = np.linspace(0, 1, width)[None, :]
    return _gray((np.random.default_rng(seed).random((height, width)) < ramp) * 255)


def stress_patterns(height: int = 64, width: int = 64) -> dict[str, NDArray[np.uint8]]:
    """Return the patterns by name that make super-resolution networks diverge."""
    return {
        "noise": noise(height, width),
        "checkerboard": checkerboard(height, width),
        "vertical-stripes": stripes(height, width),
        "horizontal-stripes": stripes(height, width, vertical=False),
        "dither": dither(height, width),
        "black": constant(height, width, value=0),
        "white": constant(height, width, value=255),
    }


def make_picture(
    height: int = 24,
    width: int = 32,
    *,
    dtype: type[np.generic] = np.uint8,
    gray: bool = False,
    alpha: bool = False,
    seed: int = 0,
) -> Picture:
    """Return a ``Picture`` of noise that uses the whole range of its type."""
    random = np.random.default_rng(seed)
    pixels = random.random((height, width, 1 if gray else 3))
    opacity = quantize(random.random((height, width)), np.dtype(dtype)) if alpha else None
    samples = quantize(pixels, np.dtype(dtype))
    return Picture(
        pixels=np.repeat(samples, 3, axis=2) if gray else samples, alpha=opacity, gray=gray
    )


def _gray(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)
