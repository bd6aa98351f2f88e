"""The enlarged picture that an upscaler fills piece by piece, and the bicubic one beside it."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lowvis_shared.device import available_memory
from lowvis_shared.errors import InputError
from lowvis_shared.images import Picture, quantize, to_array
from lowvis_shared.resize import imresize

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Canvas:
    """The result of upscaling a picture: its depth, profile and metadata stay, gray stays gray.

    Args:
        picture: What is upscaled.
        scale: Output size over input size.

    Raises:
        InputError: The result would not fit into memory with the file made of it.
    """

    def __init__(self, picture: Picture, scale: int) -> None:
        self._picture, self._scale = picture, scale
        shape = (picture.height * scale, picture.width * scale, 3)
        needed = 2 * 4 * shape[0] * shape[1] * picture.pixels.dtype.itemsize  # twice RGB and alpha
        available = available_memory()
        if available is not None and needed > available:
            raise InputError(
                f"the result of {shape[1]}x{shape[0]} pixels takes {needed / 2**30:.1f} GiB, and "
                f"{available / 2**30:.1f} GiB are free",
                hint="cut the picture into parts, or take a smaller scale",
            )
        self._pixels: NDArray[Any] = np.empty(shape, picture.pixels.dtype)

    def write(self, rows: slice, columns: slice, pixels: Tensor) -> None:
        """Put pixels (1, 3, h, w), white is 1, into their place; values beyond 0..1 are clipped."""
        values = to_array(pixels)
        if self._picture.gray:
            # The weights of luma, as in files that are gray; the three channels stay equal.
            values = (values @ _LUMA)[..., np.newaxis]
        self._pixels[rows, columns] = quantize(np.clip(values, 0, 1), self._pixels.dtype)

    def picture(self) -> Picture:
        """Return the result; alpha is upscaled apart by bicubic interpolation."""
        alpha = self._picture.alpha
        resized = None if alpha is None else _clipped_resize(alpha, self._scale)
        return replace(self._picture, pixels=self._pixels, alpha=resized)


def bicubic_upscale(picture: Picture, scale: int) -> Picture:
    """Upscale a picture, alpha included, with MATLAB's bicubic ``imresize``: the baseline."""
    alpha = None if picture.alpha is None else _clipped_resize(picture.alpha, scale)
    return replace(picture, pixels=_clipped_resize(picture.pixels, scale), alpha=alpha)


def _clipped_resize(values: NDArray[Any], scale: int) -> NDArray[Any]:
    resized = imresize(values, scale=scale)
    return np.clip(resized, 0, 1) if resized.dtype.kind == "f" else resized
