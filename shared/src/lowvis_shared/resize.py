"""MATLAB's ``imresize``: antialiased bicubic resampling, bit for bit on integer pictures.

The super-resolution literature makes its low-resolution pictures with MATLAB's
``imresize(picture, 1 / scale, 'bicubic')``. Other libraries differ from it in the kernel, in
antialiasing or in rounding, and a network tested on their pictures scores differently: by
hundredths of a decibel with Pillow, by several decibels with OpenCV.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowvis_shared.errors import InputError, UsageError

_KERNEL_WIDTH = 4.0
_BAND_SOURCE = (
    64  # source pixels under one block of outputs: few wasted zeros, still a matrix product
)
# Averages exactly halfway between two integers are common. Weights of x2 and x4 are dyadic and hit
# them exactly; with others (x3) the order in which a matrix product sums would decide. This rounds
# them up on every machine, and lies far below the distance to the next value there is.
_TIE = 1e-8


def imresize(
    image: NDArray[Any], *, scale: float | None = None, size: tuple[int, int] | None = None
) -> NDArray[Any]:
    """Resample a picture as MATLAB's ``imresize`` does by default (bicubic, antialiased).

    The axis with the smaller scale is done first, rows (axis 0) where both are equal, and an
    integer picture is rounded (half up) and clipped after each of the two passes: as MATLAB does.

    Args:
        image: (H, W) or (H, W, C); uint8, uint16, float32 or float64, of any range.
        scale: Factor for both axes; the result has ``ceil(H * scale)`` rows and
            ``ceil(W * scale)`` columns.
        size: Rows and columns of the result; give either this or ``scale``.

    Returns:
        The picture in the type of the input. Floats are not clipped: they overshoot at edges.

    Raises:
        InputError: The picture is empty or has another number of axes or another type.
        UsageError: Both or neither of ``scale`` and ``size`` are given, or they are not positive.
    """
    if image.ndim not in (2, 3) or image.size == 0:
        raise InputError(f"imresize needs a picture (H, W) or (H, W, C), got shape {image.shape}")
    if image.dtype.name not in ("uint8", "uint16", "float32", "float64"):
        raise InputError(
            f"imresize does not take pictures of type {image.dtype}",
            hint="convert to uint8, uint16, float32 or float64",
        )
    planes = image[np.newaxis] if image.ndim == 2 else np.moveaxis(image, 2, 0)  # (C, H, W)
    for axis, scale_of_axis, length in _passes((planes.shape[1], planes.shape[2]), scale, size):
        planes = _resample_planes(
            planes, axis, _bands(planes.shape[1 + axis], length, scale_of_axis)
        )
    if image.ndim == 2:
        return planes[0]
    return np.ascontiguousarray(np.moveaxis(planes, 0, 2))


def imresize_tensor(
    image: Tensor, *, scale: float | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """Resample a batch with the weights of ``imresize``, differentiably and without rounding.

    Args:
        image: (B, C, H, W), floating point, on any device.
        scale: As in ``imresize``.
        size: As in ``imresize``.

    Returns:
        (B, C, H', W') of the same type and device.

    Raises:
        InputError: The tensor has another number of axes, is empty or is not floating point.
        UsageError: As in ``imresize``.
    """
    if image.ndim != 4 or image.numel() == 0 or not image.is_floating_point():
        raise InputError(
            "imresize_tensor needs a floating-point tensor (B, C, H, W), "
            f"got {image.dtype} of shape {tuple(image.shape)}"
        )
    for axis, scale_of_axis, length in _passes((image.shape[2], image.shape[3]), scale, size):
        blocks: list[Tensor] = []
        for band in _bands(image.shape[2 + axis], length, scale_of_axis):
            weights = torch.tensor(band.weights, dtype=image.dtype, device=image.device)
            if axis == 0:
                blocks.append(weights @ image[:, :, band.source])
            else:
                blocks.append(image[:, :, :, band.source] @ weights.T)
        image = torch.cat(blocks, dim=2 + axis)
    return image


def modcrop(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """Cut rows at the bottom and columns at the right so that both sizes divide by ``scale``.

    Args:
        image: (H, W) or (H, W, C).
        scale: The integer factor of a super-resolution test.

    Returns:
        A view of the picture.

    Raises:
        InputError: The picture is smaller than ``scale``, so that nothing would be left.
        UsageError: ``scale`` is not positive.
    """
    if scale < 1:
        raise UsageError(f"modcrop needs a positive scale, got {scale}")
    height, width = (length - length % scale for length in image.shape[:2])
    if height == 0 or width == 0:
        raise InputError(f"a picture of shape {image.shape} is too small for scale {scale}")
    return image[:height, :width]


@dataclass(frozen=True, slots=True)
class _Band:
    """A block of the resampling matrix: ``result[target] = weights @ picture[source]``."""

    target: slice
    source: slice
    weights: NDArray[np.float64]  # (targets, sources), read-only


def _passes(
    shape: tuple[int, int], scale: float | None, size: tuple[int, int] | None
) -> list[tuple[int, float, int]]:
    """Return axis, scale and resulting length of the two passes, in MATLAB's order."""
    if scale is not None and size is None:
        if not (math.isfinite(scale) and scale > 0):
            raise UsageError(f"imresize needs a positive scale, got {scale}")
        lengths = [math.ceil(length * scale) for length in shape]
        scales = [scale, scale]
    elif size is not None and scale is None:
        if min(size) < 1:
            raise UsageError(f"imresize needs a positive size, got {size}")
        lengths = list(size)
        scales = [target / length for target, length in zip(size, shape, strict=True)]
    else:
        raise UsageError("imresize needs either scale or size")
    return [(axis, scales[axis], lengths[axis]) for axis in sorted((0, 1), key=scales.__getitem__)]


def _cubic(x: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Keys' cubic convolution kernel with a = -0.5 (IEEE ASSP 29, 1981, equation 15)."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x**2 + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


@lru_cache(maxsize=64)
def _bands(source: int, target: int, scale: float) -> tuple[_Band, ...]:
    """Return the resampling matrix (target, source) of one axis as dense blocks along its band."""
    stretch = min(scale, 1.0)  # antialiasing: the kernel widens as the picture shrinks
    width = _KERNEL_WIDTH / stretch
    # Centers of the result's pixels in the coordinates of the source, whose pixel i lies at i.
    centers = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(centers - width / 2).astype(np.int64)
    taps = first[:, np.newaxis] + np.arange(math.ceil(width) + 2)
    weights = _cubic(stretch * (centers[:, np.newaxis] - taps))
    weights /= weights.sum(axis=1, keepdims=True)
    # Symmetric border: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ..., repeated for pictures below the kernel.
    taps = np.mod(taps, 2 * source)
    taps = np.where(taps < source, taps, 2 * source - 1 - taps)

    bands: list[_Band] = []
    block = max(1, round(_BAND_SOURCE * scale))
    for start in range(0, target, block):
        stop = min(start + block, target)
        used = taps[start:stop]
        low, high = int(used.min()), int(used.max()) + 1
        dense = np.zeros((stop - start, high - low))
        np.add.at(dense, (np.arange(stop - start)[:, np.newaxis], used - low), weights[start:stop])
        dense.flags.writeable = False
        bands.append(_Band(slice(start, stop), slice(low, high), dense))
    return tuple(bands)


def _resample_planes(planes: NDArray[Any], axis: int, bands: tuple[_Band, ...]) -> NDArray[Any]:
    """Apply one pass to (C, H, W) along rows (0) or columns (1), keeping the type."""
    shape = list(planes.shape)
    shape[1 + axis] = bands[-1].target.stop
    result = np.empty(shape, planes.dtype)
    integer = np.issubdtype(planes.dtype, np.integer)
    working = np.float64 if integer else planes.dtype
    # Only one block at a time is held in the working type.
    for band in bands:
        weights = band.weights.astype(working, copy=False)
        if axis == 0:
            block = weights @ planes[:, band.source].astype(working)
        else:
            block = planes[:, :, band.source].astype(working) @ weights.T
        if integer:
            block = np.clip(np.floor(block + (0.5 + _TIE)), 0, np.iinfo(planes.dtype).max)
        result[(slice(None),) * (1 + axis) + (band.target,)] = block
    return result
