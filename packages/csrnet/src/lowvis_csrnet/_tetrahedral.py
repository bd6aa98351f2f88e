"""Tetrahedral interpolation in a 3D LUT, compiled for the processor it runs on.

Imported when the first picture is interpolated, because numba takes its time: 0.2 s to import and
0.5 s to load code from its cache. Compiling takes one to two seconds for each type of sample, once
on a machine.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LOGGER = logging.getLogger("lowvis")

BLOCK = 512
"""Pixels taken through the three loops at once, so that all they hand on stays in the L1 cache."""

_TASK = 512 * BLOCK
"""Pixels that a thread takes at a time, about a millisecond of work.

A multiple of `BLOCK`, so that the bits do not depend on how pixels are shared among threads.
"""

_ZERO, _ONE = np.float32(0), np.float32(1)


def _compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile at the first call of each type, in the cache where a folder for it is writable."""
    # By its own stubs the result would lose the types of the parameters.
    compiler = cast("Any", njit)
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"contract", "nsz"},
        "error_model": "numpy",
    }
    try:
        return compiler(function, cache=True, **options)
    except RuntimeError as error:
        # numba looks for a folder at decoration and raises where it finds none.
        _LOGGER.debug("compiled code is not kept, each process compiles anew: %s", error)
        return compiler(function, **options)


@register_jitable
def _clip(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """Clip a number; NaN becomes ``low``."""
    value = value if value > low else low
    return value if value < high else high


# What it costs, measured on one thread of a Zen 4 core: 12 megapixels of uint8 through 33^3 nodes
# take 49 ms (4.1 ns a pixel), 64 ms through 65^3, whose nodes leave the L2 cache; copying them
# takes 3 ms. The limit is the second loop, two thirds of the time: 12 loads of nodes and 7 of
# corners and weights a pixel, at two loads a cycle. The loops are apart because the first and third
# run on whole vectors of pixels, all in float32 and without branches, 15 ms together. Nodes padded
# to four numbers gain nothing, since numba leaves LLVM's SLP vectorizer off; loading a corner at
# once through an intrinsic written in LLVM's language takes 35 ms, and is not worth its code.
@_compiled
def _interpolate(
    samples: NDArray[Any],
    nodes: NDArray[np.float32],
    size: int,
    full: np.float32,
    low: np.float32,
    high: np.float32,
    half: np.float32,
    out: NDArray[Any],
    start: int,
    stop: int,
) -> int:
    """Interpolate the pixels from ``start`` to ``stop``.

    Args:
        samples: RGB, flat.
        nodes: (size^3, 3), red fastest.
        size: Nodes on an axis.
        full: The sample that stands for 1.
        low: Results below are raised to it.
        high: Results above are lowered to it.
        half: Added last: 0.5 where ``out`` cuts off fractions.
        out: As ``samples``, which it may be.
        start: The first pixel.
        stop: The pixel after the last one.

    Returns:
        How many pixels hold NaN or infinite samples.
    """
    corners = np.empty(3 * BLOCK, np.int32)
    weights = np.empty(4 * BLOCK, np.float32)
    mixed = np.empty(3 * BLOCK, np.float32)
    last, before_last = np.float32(size - 1), np.float32(size - 2)
    inverse = _ONE / full
    # Steps from node to node along an axis; red's is one. float32 holds all of 256^3 exactly.
    green_step, blue_step = np.float32(size), np.float32(size * size)
    diagonal = _ONE + green_step + blue_step
    not_finite = 0
    for begin in range(start, stop, BLOCK):
        count = min(BLOCK, stop - begin)
        source = samples[3 * begin : 3 * (begin + count)]
        target = out[3 * begin : 3 * (begin + count)]
        # 1. The corners of each pixel's tetrahedron and their weights, which sum to ``full``.
        for i in range(count):
            red = np.float32(source[3 * i])
            green = np.float32(source[3 * i + 1])
            blue = np.float32(source[3 * i + 2])
            not_finite += (red * _ZERO + green * _ZERO + blue * _ZERO) != _ZERO
            # Times ``full`` and divided late: whole numbers below 2^24, exact for integers.
            red = _clip(red, _ZERO, full) * last
            green = _clip(green, _ZERO, full) * last
            blue = _clip(blue, _ZERO, full) * last
            red_cell = np.float32(np.int32(red * inverse))
            green_cell = np.float32(np.int32(green * inverse))
            blue_cell = np.float32(np.int32(blue * inverse))
            red_cell = red_cell if red_cell < before_last else before_last
            green_cell = green_cell if green_cell < before_last else before_last
            blue_cell = blue_cell if blue_cell < before_last else before_last
            red -= red_cell * full
            green -= green_cell * full
            blue -= blue_cell * full
            # Green and blue in order, then red put before, between or behind them.
            is_green = green > blue
            larger = green if is_green else blue
            smaller = blue if is_green else green
            is_first, is_last = red > larger, red < smaller
            most = red if is_first else larger
            middle = larger if is_first else (smaller if is_last else red)
            least = red if is_last else smaller
            first_step = _ONE if is_first else (green_step if is_green else blue_step)
            last_step = _ONE if is_last else (blue_step if is_green else green_step)
            base = red_cell + green_cell * green_step + blue_cell * blue_step
            corners[i] = np.int32(base)
            corners[BLOCK + i] = np.int32(base + first_step)
            corners[2 * BLOCK + i] = np.int32(base + diagonal - last_step)
            weights[i] = full - most
            weights[BLOCK + i] = most - middle
            weights[2 * BLOCK + i] = middle - least
            weights[3 * BLOCK + i] = least
        # 2. The mixtures. An unsigned index is one that numba need not compare with zero.
        for i in range(count):
            a, b = np.uint32(corners[i]), np.uint32(corners[BLOCK + i])
            c, d = np.uint32(corners[2 * BLOCK + i]), np.uint32(corners[i] + np.int32(diagonal))
            w, x = weights[i], weights[BLOCK + i]
            y, z = weights[2 * BLOCK + i], weights[3 * BLOCK + i]
            mixed[3 * i] = nodes[a, 0] * w + nodes[b, 0] * x + nodes[c, 0] * y + nodes[d, 0] * z
            mixed[3 * i + 1] = nodes[a, 1] * w + nodes[b, 1] * x + nodes[c, 1] * y + nodes[d, 1] * z
            mixed[3 * i + 2] = nodes[a, 2] * w + nodes[b, 2] * x + nodes[c, 2] * y + nodes[d, 2] * z
        # 3. The samples.
        for i in range(3 * count):
            target[i] = _clip(mixed[i], low, high) + half
    return not_finite


def interpolate(
    pixels: NDArray[Any],
    nodes: NDArray[np.float32],
    out: NDArray[Any],
    *,
    threads: int,
    clip: bool = True,
) -> int:
    """Interpolate pixels in a LUT, on several threads.

    The kernel gives up the interpreter lock, so plain threads do: they start in 0.1 ms, leave no
    pool behind that a forked process would inherit, and there are never more than asked for.

    Args:
        pixels: (..., 3), uint8, uint16 or float32, contiguous; float samples outside 0..1 are
            clipped.
        nodes: (N, N, N, 3), [blue, green, red, channel], contiguous.
        out: As ``pixels``, which it may be: where the result goes, rounded for whole numbers.
        threads: How many threads; the bits do not depend on it.
        clip: Clip the result to the range of the type.

    Returns:
        How many pixels hold NaN or infinite samples.
    """
    whole = pixels.dtype.kind == "u"
    full = np.float32(np.iinfo(pixels.dtype).max if whole else 1)
    low, high = (_ZERO, full) if clip else (np.float32(-np.inf), np.float32(np.inf))
    half = np.float32(0.5 if whole else 0)
    source, target, table = pixels.reshape(-1), out.reshape(-1), nodes.reshape(-1, 3)
    # numba compiles anew for arrays that may not be written: these two never may.
    source.flags.writeable = table.flags.writeable = False

    count = source.size // 3

    def run(start: int) -> int:
        stop = min(start + _TASK, count)
        return _interpolate(
            source, table, nodes.shape[0], full, low, high, half, target, start, stop
        )

    try:
        run(count)  # No pixels: compiles, once, whatever the number of threads.
    except OSError as error:
        # The code is compiled and in memory by the time numba fails to store it.
        _LOGGER.debug("compiled code could not be kept: %s", error)
    starts = range(0, count, _TASK)
    if threads == 1 or len(starts) == 1:
        return sum(map(run, starts))
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, starts))
