"""PSNR and SSIM as protocols: color, border, quantization and reduction are part of the number."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from lowvis_shared.color import rgb_to_luma_full_range, rgb_to_y_bt601
from lowvis_shared.errors import InputError, UsageError

Color = Literal["y-bt601", "rgb", "luma-full-range"]
Reduction = Literal["mean", "pooled"]

_PEAK = 255.0
_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * _PEAK) ** 2
_C2 = (0.03 * _PEAK) ** 2

_COLOR_NAMES: dict[Color, str] = {
    "y-bt601": "Y of limited-range BT.601",
    "rgb": "RGB",
    "luma-full-range": "full-range luma",
}


@dataclass(frozen=True, slots=True)
class Protocol:
    """How two pictures are compared; figures of different protocols are not comparable.

    Attributes:
        color: What is compared: the Y of limited-range BT.601, all three channels, or luma of
            full range. The peak is 255 for each of them.
        border: Pixels cut off at each side before comparing.
        quantize: Whether floating-point pictures are clipped and rounded to 8 bits first.
        reduction: ``mean`` averages PSNR over pictures; ``pooled`` computes it from the average
            of their mean squared errors. SSIM is averaged either way.
    """

    color: Color = "y-bt601"
    border: int = 0
    quantize: bool = True
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        if self.color not in _COLOR_NAMES:
            raise UsageError(f"unknown color '{self.color}'", hint=f"one of {list(_COLOR_NAMES)}")
        if self.reduction not in ("mean", "pooled"):
            raise UsageError(f"unknown reduction '{self.reduction}'", hint="'mean' or 'pooled'")
        if self.border < 0:
            raise UsageError(f"the border to cut off cannot be negative: {self.border}")

    def describe(self) -> str:
        """Return the protocol in words, to be printed beside a figure."""
        return ", ".join(
            (
                f"on {_COLOR_NAMES[self.color]}",
                f"border of {self.border} cropped" if self.border else "no border cropped",
                "rounded to 8 bits" if self.quantize else "not rounded",
                "mean over pictures" if self.reduction == "mean" else "pooled over pictures",
            )
        )

    def as_dict(self) -> dict[str, str | int | bool]:
        """Return the fields by name, for result files."""
        return asdict(self)


def super_resolution_protocol(scale: int) -> Protocol:
    """Return the protocol of the super-resolution tables: Y, 8 bits, border of ``scale`` pixels."""
    return Protocol(border=scale)


@dataclass(frozen=True, slots=True)
class Score:
    """PSNR and SSIM of one picture or a set, with the protocol they hold under.

    Attributes:
        psnr: Decibels; infinite for identical pictures.
        ssim: At most 1, which means identical.
        mse: Mean squared error on the 0..255 scale, from which pooled PSNR is computed.
        protocol: How the figures were obtained.
    """

    psnr: float
    ssim: float
    mse: float
    protocol: Protocol


def psnr(output: NDArray[Any], target: NDArray[Any], protocol: Protocol) -> float:
    """Return the peak signal-to-noise ratio in decibels, infinite for identical pictures.

    Args:
        output: (H, W, 3) RGB, uint8 or floating point in 0..1.
        target: The same size; its type may differ.
        protocol: What is compared and how.

    Raises:
        InputError: The sizes differ, values are not finite, the type is another one, or nothing
            is left inside the border.
    """
    return _psnr_of(_mean_squared_error(*_prepare(output, target, protocol)))


def ssim(output: NDArray[Any], target: NDArray[Any], protocol: Protocol) -> float:
    """Return the structural similarity of Wang et al. (IEEE TIP 13, 2004), as their code does.

    Gaussian window of 11x11 with sigma 1.5, only where it fits inside the picture; K1 = 0.01,
    K2 = 0.03, dynamic range 255; for RGB the mean of the three channels.

    Args:
        output: (H, W, 3) RGB, uint8 or floating point in 0..1.
        target: The same size; its type may differ.
        protocol: What is compared and how.

    Raises:
        InputError: As for ``psnr``, or less than 11x11 pixels are left inside the border.
    """
    return _structural_similarity(*_prepare(output, target, protocol))


def score(output: NDArray[Any], target: NDArray[Any], protocol: Protocol) -> Score:
    """Return PSNR and SSIM of one picture; arguments and errors are those of ``ssim``."""
    planes = _prepare(output, target, protocol)
    similarity = _structural_similarity(*planes)
    mse = _mean_squared_error(*planes)
    return Score(_psnr_of(mse), similarity, mse, protocol)


def summarize(scores: Sequence[Score]) -> Score:
    """Reduce the scores of a set of pictures to one, each picture weighing the same.

    Raises:
        UsageError: There are no scores, or their protocols differ.
    """
    if not scores:
        raise UsageError("there are no scores to summarize")
    protocol = scores[0].protocol
    if any(other.protocol != protocol for other in scores):
        raise UsageError("scores of different protocols cannot be averaged")
    mse = math.fsum(one.mse for one in scores) / len(scores)
    if protocol.reduction == "mean":
        ratio = math.fsum(one.psnr for one in scores) / len(scores)
    else:
        ratio = _psnr_of(mse)
    return Score(ratio, math.fsum(one.ssim for one in scores) / len(scores), mse, protocol)


def _prepare(
    output: NDArray[Any], target: NDArray[Any], protocol: Protocol
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Check two pictures and return what the protocol compares: (H, W, channels) in 0..255."""
    if output.shape != target.shape:
        raise InputError(f"pictures of different shapes: {output.shape} and {target.shape}")
    if output.ndim != 3 or output.shape[2] != 3:
        raise InputError(f"metrics need RGB pictures (H, W, 3), got shape {output.shape}")
    border = protocol.border
    height, width = output.shape[0] - 2 * border, output.shape[1] - 2 * border
    if height < 1 or width < 1:
        raise InputError(
            f"a picture of {output.shape[0]}x{output.shape[1]} is too small "
            f"to cut off a border of {border}"
        )
    inside = (slice(border, border + height), slice(border, border + width))
    return (
        _compared(_to_255(output, "output", protocol)[inside], protocol),
        _compared(_to_255(target, "target", protocol)[inside], protocol),
    )


def _to_255(picture: NDArray[Any], name: str, protocol: Protocol) -> NDArray[Any]:
    if picture.dtype == np.uint8:
        return picture
    if not np.issubdtype(picture.dtype, np.floating):
        raise InputError(
            f"metrics take uint8 or floating-point pictures, the {name} is {picture.dtype}",
            hint="Picture.to_float() gives any picture in 0..1",
        )
    if not np.isfinite(picture).all():
        raise InputError(f"the {name} holds values that are not finite")
    if protocol.quantize:
        return np.rint(np.clip(picture, 0.0, 1.0) * 255.0)
    return picture.astype(np.float64) * 255.0


def _compared(picture: NDArray[Any], protocol: Protocol) -> NDArray[np.float64]:
    if protocol.color == "y-bt601":
        return rgb_to_y_bt601(picture)[..., np.newaxis]
    if protocol.color == "luma-full-range":
        return rgb_to_luma_full_range(picture)[..., np.newaxis]
    return picture.astype(np.float64)


def _mean_squared_error(output: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    return float(np.mean((output - target) ** 2))


def _psnr_of(mse: float) -> float:
    return math.inf if mse == 0.0 else 10.0 * math.log10(_PEAK**2 / mse)


def _structural_similarity(output: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Mean SSIM of (H, W, channels): equation 13 of the paper, its index map averaged."""
    height, width, channels = output.shape
    if height < _WINDOW or width < _WINDOW:
        raise InputError(
            f"SSIM needs at least {_WINDOW}x{_WINDOW} pixels inside the border, "
            f"{height}x{width} are left"
        )
    values = [
        float(np.mean(_similarity_map(output[..., channel], target[..., channel])))
        for channel in range(channels)
    ]
    return math.fsum(values) / channels


def _similarity_map(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    return ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2)
    )


def _window_mean(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean around each pixel whose window lies inside: (H - 10, W - 10)."""
    kernel = cv2.getGaussianKernel(_WINDOW, _SIGMA, cv2.CV_64F)
    margin = _WINDOW // 2
    filtered = cv2.sepFilter2D(np.ascontiguousarray(plane), cv2.CV_64F, kernel, kernel)
    return np.asarray(filtered[margin:-margin, margin:-margin], dtype=np.float64)
