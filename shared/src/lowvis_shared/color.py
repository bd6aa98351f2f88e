"""Luma by its two standards: the limited range that papers measure on, and the full range."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowvis_shared.errors import InputError

# Weights of red, green and blue in Y for components in 0..1: MATLAB's rgb2ycbcr as it prints them,
# 219 times the weights of ITU-R BT.601 (0.299, 0.587, 0.114).
_Y_WEIGHTS = np.array([65.481, 128.553, 24.966])
_Y_OFFSET = 16.0
_Y_RANGE = 219.0


def rgb_to_y_bt601(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Y of limited-range YCbCr (ITU-R BT.601), as MATLAB's ``rgb2ycbcr`` computes it.

    Super-resolution papers measure PSNR and SSIM on it. Its differences are 219/255 of those of
    full-range luma, so its PSNR is higher by 20 log10(255 / 219) = 1.3219 dB.

    Args:
        rgb: (..., 3), values in 0..255, of any real type.

    Returns:
        (...), 16 for black to 235 for white, not rounded.

    Raises:
        InputError: The last axis does not hold three channels.
    """
    return _weighted(rgb, _Y_WEIGHTS / 255.0) + _Y_OFFSET


def rgb_to_luma_full_range(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Return full-range luma (the Y of JPEG, OpenCV and Pillow, there rounded).

    Args:
        rgb: (..., 3), values in 0..255, of any real type.

    Returns:
        (...), 0 for black to 255 for white, not rounded.

    Raises:
        InputError: The last axis does not hold three channels.
    """
    return _weighted(rgb, _Y_WEIGHTS / _Y_RANGE)


def _weighted(rgb: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    if rgb.ndim < 1 or rgb.shape[-1] != 3:
        raise InputError(f"luma needs three channels on the last axis, got shape {rgb.shape}")
    return rgb.astype(np.float64) @ weights
