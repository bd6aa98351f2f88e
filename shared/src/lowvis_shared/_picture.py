"""The record that every package receives and returns: a picture with all that its file said."""

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lowvis_shared.errors import InputError, UsageError

Samples: TypeAlias = NDArray[Any]
"""An array of uint8, uint16 or float32."""

_FULL_SCALE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One still picture in memory, upright, with the metadata of its file.

    The value range follows from the type of the array, never from the values: 0..255 for uint8,
    0..65535 for uint16, nominally 0..1 for float32.

    Attributes:
        pixels: RGB, (H, W, 3), uint8, uint16 or float32; three equal channels when ``gray``.
        alpha: Opacity, (H, W), of the same type, or None when the picture is opaque. Colors
            under transparent pixels stay as they were in the file.
        gray: The picture is gray and is written back as gray.
        icc_profile: The ICC profile as stored, or None.
        exif: The EXIF block as Pillow keeps it (with its ``Exif`` prefix), orientation reset.
        format: The format that the content had, such as ``PNG`` or ``JPEG``.

    Raises:
        InputError: Shapes or types do not fit, or a float sample is NaN or infinite.
    """

    pixels: Samples
    alpha: Samples | None = None
    gray: bool = False
    icc_profile: bytes | None = None
    exif: bytes | None = None
    format: str = "PNG"

    def __post_init__(self) -> None:
        """Check shapes, types and values."""
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or 0 in self.pixels.shape:
            raise InputError(f"a picture needs shape (H, W, 3), not {self.pixels.shape}")
        if self.pixels.dtype not in _FULL_SCALE:
            raise InputError(
                f"a picture holds uint8, uint16 or float32 samples, not {self.pixels.dtype}"
            )
        if self.alpha is not None and (
            self.alpha.shape != self.pixels.shape[:2] or self.alpha.dtype != self.pixels.dtype
        ):
            raise InputError(
                f"alpha of shape {self.alpha.shape} and type {self.alpha.dtype} does not fit "
                f"pixels of shape {self.pixels.shape} and type {self.pixels.dtype}"
            )
        require_finite(self.pixels, self.alpha)

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    @property
    def bit_depth(self) -> int:
        """Bits in a sample: 8, 16 or 32 (float)."""
        return self.pixels.dtype.itemsize * 8

    def to_float(self) -> NDArray[np.float32]:
        """Return the pixels as (H, W, 3) float32 in 0..1; float values outside are clipped."""
        return to_unit_float(self.pixels)

    def alpha_to_float(self) -> NDArray[np.float32] | None:
        """Return alpha as (H, W) float32 in 0..1, or None when the picture is opaque."""
        return None if self.alpha is None else to_unit_float(self.alpha)

    def with_pixels(
        self, pixels: NDArray[np.float32], alpha: NDArray[np.float32] | None = None
    ) -> "Picture":
        """Return a picture of other content and the same depth and metadata.

        Args:
            pixels: (H, W, 3) in 0..1, of any size; rounded and clipped for integer pictures, kept
                as they are for float pictures.
            alpha: (H, W) in 0..1; may be left out when the size stays or there is no alpha.

        Raises:
            InputError: A value is NaN or infinite, or a shape does not fit.
            UsageError: The size changes and the new alpha is missing.
        """
        new_alpha = None if alpha is None else quantize(alpha, self.pixels.dtype)
        if alpha is None and self.alpha is not None:
            if self.alpha.shape != pixels.shape[:2]:
                raise UsageError("the picture changes its size: give its alpha in the new size")
            new_alpha = self.alpha
        return replace(self, pixels=quantize(pixels, self.pixels.dtype), alpha=new_alpha)


def require_finite(*arrays: Samples | None) -> None:
    """Refuse float arrays with NaN or infinite values, which would turn black without a word."""
    for array in arrays:
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise InputError(f"{count} of {math.prod(array.shape)} samples are NaN or infinite")


def to_unit_float(samples: Samples) -> NDArray[np.float32]:
    """Scale samples to float32 in 0..1 by the range of their type."""
    if samples.dtype.kind == "f":
        return np.clip(samples, 0, 1, dtype=np.float32)
    return samples.astype(np.float32) / np.float32(_FULL_SCALE[samples.dtype])


def quantize(samples: Samples, dtype: np.dtype[Any]) -> Samples:
    """Bring float samples in 0..1 to a type: rounded and clipped, or as they are for float32.

    Raises:
        InputError: A value is NaN or infinite.
    """
    require_finite(samples)
    if dtype.kind == "f":
        return samples.astype(dtype)
    full = _FULL_SCALE[dtype]
    # A fresh array, rounded in place: upscaled pictures are large.
    scaled = samples * samples.dtype.type(full)
    return np.clip(np.rint(scaled, out=scaled), 0, full, out=scaled).astype(dtype)


def change_depth(samples: Samples, dtype: np.dtype[Any]) -> Samples:
    """Bring samples of any supported type to another one, rounding to the nearest value."""
    if samples.dtype == dtype:
        return samples
    if samples.dtype == np.uint16 and dtype == np.uint8:
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return quantize(to_unit_float(samples), dtype)
