"""Tetrahedral interpolation in a 3D LUT on a CUDA GPU; needs Triton."""

# Triton reads the annotations of a kernel and its decorator has no types.
# pyright: reportUntypedFunctionDecorator=false

from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512
_FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}


@triton.jit
def _interpolate(pixels, nodes, out, count, size, full: tl.constexpr, block: tl.constexpr):  # pyright: ignore
    """One pixel a lane; step by step as the kernel in `_tetrahedral`."""
    pixel = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = pixel < count
    one = 1.0
    red = tl.load(pixels + 3 * pixel, inside, 0).to(tl.float32)
    green = tl.load(pixels + 3 * pixel + 1, inside, 0).to(tl.float32)
    blue = tl.load(pixels + 3 * pixel + 2, inside, 0).to(tl.float32)
    red = tl.clamp(red, 0.0, one * full) * (size - 1)
    green = tl.clamp(green, 0.0, one * full) * (size - 1)
    blue = tl.clamp(blue, 0.0, one * full) * (size - 1)
    red_cell = tl.minimum((red * (one / full)).to(tl.int32), size - 2)
    green_cell = tl.minimum((green * (one / full)).to(tl.int32), size - 2)
    blue_cell = tl.minimum((blue * (one / full)).to(tl.int32), size - 2)
    red -= red_cell * (one * full)
    green -= green_cell * (one * full)
    blue -= blue_cell * (one * full)
    is_green = green > blue
    larger, smaller = tl.maximum(green, blue), tl.minimum(green, blue)
    is_first, is_last = red > larger, red < smaller
    most, least = tl.maximum(red, larger), tl.minimum(red, smaller)
    middle = tl.where(is_first, larger, tl.where(is_last, smaller, red))
    first_step = tl.where(is_first, 1, tl.where(is_green, size, size * size))
    last_step = tl.where(is_last, 1, tl.where(is_green, size * size, size))
    diagonal = 1 + size + size * size
    base = red_cell + green_cell * size + blue_cell * size * size
    for channel in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues]
        column = nodes + channel
        mixed = tl.load(column + 3 * base) * (one * full - most)
        mixed += tl.load(column + 3 * (base + first_step)) * (most - middle)
        mixed += tl.load(column + 3 * (base + diagonal - last_step)) * (middle - least)
        mixed += tl.load(column + 3 * (base + diagonal)) * least
        mixed = tl.clamp(mixed, 0.0, one * full)
        if full > 1:
            mixed = (mixed + 0.5).to(tl.int32)
        tl.store(out + 3 * pixel + channel, mixed.to(out.dtype.element_ty), inside)


def apply_triton(pixels: Tensor, nodes: Tensor) -> Tensor:
    """Interpolate pixels in a LUT on the GPU, clipped, and rounded for whole numbers.

    Args:
        pixels: (H, W, 3), uint8, uint16 or float32, finite; float samples are clipped to 0..1.
        nodes: (N, N, N, 3) float32, [blue, green, red, channel], on the same device.

    Returns:
        A tensor like ``pixels``, contiguous.
    """
    pixels, nodes = pixels.contiguous(), nodes.contiguous()
    out = torch.empty_like(pixels)
    count = pixels.numel() // 3
    if count:
        full = cast("tl.constexpr", _FULL_SCALE[pixels.dtype])
        _interpolate[(triton.cdiv(count, _BLOCK),)](
            pixels, nodes, out, count, nodes.shape[0], full, cast("tl.constexpr", _BLOCK)
        )
    return out
