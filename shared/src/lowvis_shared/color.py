"""Color by its standards: luma of both ranges, the sRGB curve, CIE L*a*b* and color differences.

Luma takes values in 0..255, as the papers that measure on it do; everything else takes sRGB codes
in 0..1. All of it is computed and returned in float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowvis_shared.errors import InputError

# Weights of red, green and blue in Y for components in 0..1: MATLAB's rgb2ycbcr as it prints them,
# 219 times the weights of ITU-R BT.601 (0.299, 0.587, 0.114).
_Y_WEIGHTS = np.array([65.481, 128.553, 24.966])
_Y_OFFSET = 16.0
_Y_RANGE = 219.0

SRGB_TO_XYZ: NDArray[np.float64] = np.array(
    [
        [0.41239080, 0.35758434, 0.18048079],
        [0.21263901, 0.71516868, 0.07219232],
        [0.01933082, 0.11919478, 0.95053215],
    ]
)
"""Linear sRGB to CIE XYZ, derived from the chromaticities of IEC 61966-2-1, white D65."""
SRGB_TO_XYZ.flags.writeable = False

# The white is that of the matrix, so that gray has a* = b* = 0. Y of white is 1.
_LINEAR_SRGB_TO_RELATIVE_XYZ = SRGB_TO_XYZ / SRGB_TO_XYZ.sum(axis=1, keepdims=True)
_LAB_FROM_XYZ = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_LAB_EPSILON = (6.0 / 29.0) ** 3
_LAB_SLOPE = (29.0 / 6.0) ** 2 / 3.0


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


def srgb_to_linear(codes: NDArray[Any]) -> NDArray[np.float64]:
    """Return light, linear from 0 (black) to 1 (white), of sRGB codes (IEC 61966-2-1).

    Extended sRGB: nothing is clamped, the curve goes on above 1, and negative codes mirror it.

    Args:
        codes: Any shape, nominally 0..1.
    """
    magnitude = np.abs(codes.astype(np.float64))
    light = np.where(magnitude <= 0.04045, magnitude / 12.92, ((magnitude + 0.055) / 1.055) ** 2.4)
    return np.copysign(light, codes)


def linear_to_srgb(light: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sRGB codes of linear light, the inverse of ``srgb_to_linear`` within 5e-8.

    The standard rounds the thresholds of both curves, so its pieces meet within 3e-8 only.

    Args:
        light: Any shape, nominally 0..1; not clamped, negative light mirrors the curve.
    """
    magnitude = np.abs(light.astype(np.float64))
    codes = np.where(
        magnitude <= 0.0031308, magnitude * 12.92, 1.055 * magnitude ** (1.0 / 2.4) - 0.055
    )
    return np.copysign(codes, light)


def rgb_to_lab(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Return CIE L*a*b* of sRGB for the white D65 (CIE 15; no adaptation to D50).

    Args:
        rgb: (..., 3) sRGB: uint8 or uint16 of full range, or floating point, nominally 0..1; what
            lies outside is taken as extended sRGB.

    Returns:
        (..., 3): L* from 0 for black to 100 for white, a* and b* 0 for gray.

    Raises:
        InputError: The last axis does not hold three channels, the type is another one, or a
            value is not finite.
    """
    _require_channels(rgb, "L*a*b*")
    if rgb.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        full = np.iinfo(rgb.dtype).max
        linear = srgb_to_linear(np.arange(full + 1) / full)[rgb]
    elif not np.issubdtype(rgb.dtype, np.floating):
        raise InputError(f"L*a*b* takes uint8, uint16 or floating-point RGB, not {rgb.dtype}")
    elif not np.isfinite(rgb).all():
        raise InputError("the RGB to convert to L*a*b* holds values that are not finite")
    else:
        linear = srgb_to_linear(rgb)
    xyz = linear @ _LINEAR_SRGB_TO_RELATIVE_XYZ.T
    root = np.where(xyz > _LAB_EPSILON, np.cbrt(xyz), _LAB_SLOPE * xyz + 4.0 / 29.0)
    return root @ _LAB_FROM_XYZ.T - np.array([16.0, 0.0, 0.0])


def delta_e_76(lab: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return the CIE 1976 color difference: the distance of two colors in L*a*b*.

    Args:
        lab: (..., 3) L*a*b*.
        other: The same shape.

    Returns:
        (...), 0 for equal colors.

    Raises:
        InputError: The shapes differ, or the last axis does not hold three channels.
    """
    first, second = _lab_pair(lab, other)
    return np.sqrt(np.sum((first - second) ** 2, axis=-1))


def delta_e_2000(lab: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return the CIEDE2000 color difference with its three weights at 1.

    Names and steps are those of Sharma, Wu and Dalal (Color Research and Application 30, 2005).

    Args:
        lab: (..., 3) L*a*b*.
        other: The same shape.

    Returns:
        (...), 0 for equal colors; the order of the two does not matter.

    Raises:
        InputError: The shapes differ, or the last axis does not hold three channels.
    """
    first, second = _lab_pair(lab, other)
    l1, a1, b1 = np.moveaxis(first, -1, 0)
    l2, a2, b2 = np.moveaxis(second, -1, 0)

    # a* is stretched near gray (equations 2 to 7); hue is an angle in 0..2 pi.
    stretch = 1.5 - 0.5 * _chroma_weight((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2.0)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.arctan2(b1, a1) % (2.0 * np.pi), np.arctan2(b2, a2) % (2.0 * np.pi)

    # Differences (8 to 11): hues differ by the shorter way round, not at all where one is gray.
    colored = c1 * c2 > 0.0
    turn = np.where(colored, h2 - h1, 0.0)
    far = np.abs(turn) > np.pi
    turn = np.where(far, turn - np.copysign(2.0 * np.pi, turn), turn)
    delta_h = 2.0 * np.sqrt(c1 * c2) * np.sin(turn / 2.0)

    # Means (12 to 14): that of the hues lies on the shorter arc between them.
    l_mean, c_mean = (l1 + l2) / 2.0, (c1 + c2) / 2.0
    h_mean = np.where(colored, (h1 + h2) / 2.0 + np.pi * far, h1 + h2)

    # Weights (15 to 21) and their sum (22).
    t = (
        1.0
        - 0.17 * np.cos(h_mean - np.radians(30.0))
        + 0.24 * np.cos(2.0 * h_mean)
        + 0.32 * np.cos(3.0 * h_mean + np.radians(6.0))
        - 0.20 * np.cos(4.0 * h_mean - np.radians(63.0))
    )
    offset = (l_mean - 50.0) ** 2
    lightness = (l2 - l1) / (1.0 + 0.015 * offset / np.sqrt(20.0 + offset))
    chroma = (c2 - c1) / (1.0 + 0.045 * c_mean)
    hue = delta_h / (1.0 + 0.015 * c_mean * t)
    blue = np.exp(-(((np.degrees(h_mean) % 360.0 - 275.0) / 25.0) ** 2))
    rotation = -2.0 * _chroma_weight(c_mean) * np.sin(np.radians(60.0) * blue)
    # Rounding may leave a sum just below zero for colors that are nearly equal.
    total = lightness**2 + chroma**2 + hue**2 + rotation * chroma * hue
    return np.sqrt(np.maximum(total, 0.0))


def _chroma_weight(chroma: NDArray[np.float64]) -> NDArray[np.float64]:
    seventh = chroma**7
    return np.sqrt(seventh / (seventh + 25.0**7))


def _lab_pair(
    lab: NDArray[Any], other: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if lab.shape != other.shape:
        raise InputError(f"colors of different shapes: {lab.shape} and {other.shape}")
    _require_channels(lab, "a color difference")
    return lab.astype(np.float64), other.astype(np.float64)


def _require_channels(colors: NDArray[Any], what: str) -> None:
    if colors.ndim < 1 or colors.shape[-1] != 3:
        raise InputError(f"{what} needs three channels on the last axis, got shape {colors.shape}")


def _weighted(rgb: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    _require_channels(rgb, "luma")
    return rgb.astype(np.float64) @ weights
