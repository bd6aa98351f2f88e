"""What a network expects to see: the input space of its weights, an explicit argument everywhere.

The authors' weights were trained on linear-looking ProPhoto exports of raw files, which nobody
says; on plain sRGB they are worse than doing nothing. The conversion below restores what they
expect (found by measuring, section 3.2 of the specification): linear light, ProPhoto primaries, 1.5
stops darker, a power of 1/1.8 without the linear toe of ROMM. What they return is sRGB.
"""

from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
import torch
from lowvis_shared.errors import UsageError
from numpy.typing import NDArray
from torch import Tensor

CONDITION_SIDE = 500
"""Long edge, in pixels, of the picture that the condition is taken from, as in training."""

InputSpace: TypeAlias = Literal["srgb", "prophoto-1.8"]
"""``srgb``: the photograph as it is. ``prophoto-1.8``: converted to what the official weights saw.
"""

INPUT_SPACES: tuple[str, ...] = get_args(InputSpace)

EXPOSURE_FACTOR = 0.35
"""What linear light is multiplied by for ``prophoto-1.8``."""

_POWER = 1.8

_SRGB_TO_XYZ = torch.tensor(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ],
    dtype=torch.float64,
)
_BRADFORD_D65_TO_D50 = torch.tensor(
    [
        [1.0478112, 0.0228866, -0.0501270],
        [0.0295424, 0.9904844, -0.0170491],
        [-0.0092345, 0.0150436, 0.7521316],
    ],
    dtype=torch.float64,
)
_XYZ_TO_PROPHOTO = torch.tensor(
    [
        [1.3459433, -0.2556075, -0.0511118],
        [-0.5445989, 1.5081673, 0.0205351],
        [0.0, 0.0, 1.2118128],
    ],
    dtype=torch.float64,
)
_SRGB_TO_PROPHOTO = _XYZ_TO_PROPHOTO @ _BRADFORD_D65_TO_D50 @ _SRGB_TO_XYZ


def to_linear(srgb: Tensor) -> Tensor:
    """Return linear light for sRGB codes of any shape; negative ones mirror positive ones."""
    code = srgb.abs()
    light = torch.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return light.copysign(srgb)


def from_linear(light: Tensor) -> Tensor:
    """Return sRGB codes for linear light of any shape; the inverse of `to_linear`."""
    amount = light.abs()
    code = torch.where(amount <= 0.0031308, amount * 12.92, 1.055 * amount ** (1 / 2.4) - 0.055)
    return code.copysign(light)


def to_input_space(srgb: Tensor, space: InputSpace, *, exposure: float = 0.0) -> Tensor:
    """Return what a network of that input space is to see.

    Args:
        srgb: (3, P) sRGB codes, nominally in [0, 1].
        space: The input space of the weights.
        exposure: Stops by which ``prophoto-1.8`` is developed brighter. ``srgb`` ignores it: a
            network that corrects exposure would take it back; see `expose`.

    Returns:
        (3, P) float32.
    """
    if space == "srgb":
        return srgb.float()
    light = _SRGB_TO_PROPHOTO.to(srgb.device) @ to_linear(srgb.double())
    factor = EXPOSURE_FACTOR * 2.0**exposure
    return (light * factor).clamp_(0, 1).pow_(1 / _POWER).float()


def expose(srgb: Tensor, stops: float) -> Tensor:
    """Return sRGB codes of light that is `stops` stops brighter, not clamped."""
    return srgb if stops == 0 else from_linear(to_linear(srgb) * 2.0**stops)


def check_input_space(name: str) -> InputSpace:
    """Return the name as it is; raises `UsageError` where there is no such input space."""
    if name not in INPUT_SPACES:
        raise UsageError(f"input space '{name}' is not one of {', '.join(INPUT_SPACES)}")
    return name  # pyright: ignore[reportReturnType] - just checked


def reduced(pixels: NDArray[Any], side: int = CONDITION_SIDE) -> NDArray[Any]:
    """Reduce a picture (H, W, 3) to a long edge of `side` pixels by area averaging; never enlarge.

    The condition is a mean of responses of strided convolutions, and changes with the size of a
    pixel: the same photograph in 12 and in 1 megapixels gets the same look only this way.
    """
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
