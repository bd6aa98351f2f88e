"""Pictures to learn from without anybody's retouching: operations, defects, a local effect.

The operations are those of the supplement's table 1, by their formulas there. Defects are what goes
wrong in a photograph as a whole; a network that is shown them and the original learns to retouch.
All take and return sRGB float32 arrays (H, W, 3) in 0..1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from lowvis_shared.color import linear_to_srgb, srgb_to_linear
from numpy.typing import NDArray

Image = NDArray[np.float32]
Operation = Callable[[Image], Image]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness, as the paper gives them."""


def brightness(image: Image, factor: float) -> Image:
    """Multiply by a factor and clip."""
    return _clipped(image * np.float32(factor))


def contrast(image: Image, factor: float) -> Image:
    """Move every value away from the mean brightness of the picture, or towards it."""
    mean = np.float32((image @ LUMA).mean())
    return _clipped(image * np.float32(factor) + mean * np.float32(1 - factor))


def saturation(image: Image, factor: float) -> Image:
    """Move every value away from the gray of its pixel, or towards it."""
    gray = (image @ LUMA)[..., np.newaxis]
    return _clipped(gray + np.float32(factor) * (image - gray))


def tone_map(image: Image, slopes: tuple[float, ...]) -> Image:
    """Apply a curve of straight segments: ``sum_i clip(L I - i, 0, 1) t_i`` for L slopes t."""
    steps = [
        np.clip(len(slopes) * image - i, 0, 1) * np.float32(slope) for i, slope in enumerate(slopes)
    ]
    return _clipped(np.stack(steps).sum(axis=0))


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "brightness-1.5": lambda image: brightness(image, 1.5),
        "brightness-0.5": lambda image: brightness(image, 0.5),
        # The paper does not print the slopes of its tone map, nor the factor of its contrast.
        "tone-map-4": lambda image: tone_map(image, (0.4, 0.3, 0.2, 0.1)),
        "contrast-1.5": lambda image: contrast(image, 1.5),
        "contrast-0.7": lambda image: contrast(image, 0.7),
        "saturation-1.5": lambda image: saturation(image, 1.5),
        "local-contrast": lambda image: local_contrast(image),
    }
)
"""Operations to imitate, by name; all but the last work on each pixel by itself."""


def local_contrast(image: Image, *, sigma: float = 3.0, amount: float = 1.0) -> Image:
    """Move every value away from the brightness around it: an effect that no curve can imitate.

    Args:
        image: The picture.
        sigma: Of the Gaussian that averages the surroundings, in pixels.
        amount: How much of the difference to the surroundings is added.
    """
    luma = image @ LUMA
    detail = luma - cv2.GaussianBlur(luma, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return _clipped(image + np.float32(amount) * detail[..., np.newaxis])


@dataclass(frozen=True, slots=True, kw_only=True)
class Defects:
    """What goes wrong with a photograph as a whole; the defaults change nothing.

    Attributes:
        exposure: Stops.
        warmth: Stops by which red is brighter and blue darker.
        tint: Stops by which green is brighter.
        gamma: Exponent of the tone curve.
        contrast: Factor around the mean brightness.
        saturation: Factor around the gray of each pixel.
        fade: How far black is lifted, in 0..1.
    """

    exposure: float = 0.0
    warmth: float = 0.0
    tint: float = 0.0
    gamma: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    fade: float = 0.0

    @classmethod
    def draw(cls, generator: np.random.Generator, severity: float = 1.0) -> "Defects":
        """Draw all defects at once: mostly dark, flat, pale and of a wrong white.

        Args:
            generator: Source of chance.
            severity: 0 changes nothing, 0.5 is a snapshot, 1 a photograph that went wrong.
        """

        def normal(mean: float, deviation: float, low: float, high: float) -> float:
            return float(np.clip(severity * generator.normal(mean, deviation), low, high))

        return cls(
            exposure=normal(-1.3, 1.0, -3, 1.5),
            warmth=normal(0, 0.6, -1.2, 1.2),
            tint=normal(0, 0.2, -0.6, 0.6),
            gamma=2.0 ** normal(0, 0.4, -0.8, 0.8),
            contrast=2.0 ** normal(-0.7, 0.45, -1.5, 0.4),
            saturation=2.0 ** normal(-0.6, 0.6, -2, 0.6),
            fade=normal(0.03, 0.06, 0, 0.2),
        )

    def __call__(self, image: Image) -> Image:
        """Return the picture with its defects; it and the result are rounded to 8 bits."""
        codes = np.rint(image * 255).astype(np.uint8)
        image = np.stack(
            [table[codes[..., channel]] for channel, table in enumerate(self._tables())], axis=-1
        )
        image = contrast(saturation(image, self.saturation), self.contrast)
        image = np.float32(self.fade) + np.float32(1 - self.fade) * image
        return (np.rint(image * 255) / 255).astype(np.float32)

    def _tables(self) -> list[Image]:
        """Exposure, white balance and tone curve for each of 256 codes of red, green and blue."""
        light = srgb_to_linear(np.arange(256) / 255)
        stops = (self.exposure + shift for shift in (self.warmth, self.tint, -self.warmth))
        return [
            (linear_to_srgb(np.minimum(light * 2.0**stop, 1)) ** self.gamma).astype(np.float32)
            for stop in stops
        ]


def _clipped(image: NDArray[np.floating]) -> Image:
    return np.clip(image, 0, 1).astype(np.float32, copy=False)
