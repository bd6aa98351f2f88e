"""The paper's test protocol: patches upscaled each alone, rounded, averaged where they overlap.

The authors cut patches of 32x32 every 28 pixels (Section 4.1). What the last whole patch of a row
or column does not reach, up to 27 pixels at the right and at the bottom, is neither upscaled nor
measured, and every patch sees zeros around it instead of its neighbors. This is for figures to hold
beside the paper's; `lowvis_classsr.predict` upscales pictures whole and without seams.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from lowvis_shared.device import exact_float32
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.images import quantize
from lowvis_shared.metrics import Protocol
from lowvis_shared.metrics import psnr as measure_psnr
from lowvis_shared.pairs import ReadablePair
from numpy.typing import NDArray

from lowvis_classsr.cost import PAPER_CONSTANTS, branch_costs, classifier_cost, paper_flops
from lowvis_classsr.data import to_batch
from lowvis_classsr.model import PATCH, ClassSR, ClassSRConfig

Pixels = NDArray[np.uint8]

STEP = 28
"""Pixels between two of the paper's patches, low resolution."""

PAPER_PROTOCOL = Protocol(color="rgb", border=4, quantize=False)
"""RGB, 4 pixels cropped; averages of overlapping patches are compared without rounding."""

PERFECT = 80.0
"""What the authors report, in dB, where nothing differs."""

_BATCH = 16


@dataclass(frozen=True, slots=True)
class PaperEvaluation:
    """Figures of a ClassSR on one set by the paper's protocol.

    Attributes:
        psnr: Mean over the pictures, RGB, in dB.
        per_image: Name and PSNR of each picture, in the order of the set.
        counts: Patches of each class, simple to hard, over the whole set.
        paper_flops: Mean FLOPs of a patch as the paper counts them: with the authors' constants
            where the network is one of theirs, otherwise counted in their way.
        paper_percent: The same in percent of the hardest class.
        true_percent: Multiply-accumulates that were done, overlaps and Class-Module included, in
            percent of those of the hardest branch run once over all that was upscaled.
    """

    psnr: float
    per_image: tuple[tuple[str, float], ...]
    counts: tuple[int, ...]
    paper_flops: float
    paper_percent: float
    true_percent: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, and ``protocol``."""
        pictures = [{"image": name, "psnr": psnr} for name, psnr in self.per_image]
        protocol = {**PAPER_PROTOCOL.as_dict(), "patch": PATCH, "step": STEP}
        return {**asdict(self), "per_image": pictures, "protocol": protocol}


def crop_tiles(low: Pixels, patch: int = PATCH, step: int = STEP) -> tuple[Pixels, tuple[int, int]]:
    """Cut a picture (H, W, 3) into whole patches, from the top left.

    Returns:
        The patches (N, patch, patch, 3), row by row, and their number of rows and columns.

    Raises:
        InputError: The picture is smaller than one patch.
    """
    height, width = low.shape[:2]
    if min(height, width) < patch:
        raise InputError(
            f"a low-resolution picture of {width}x{height} is smaller than the patches of "
            f"{patch}x{patch} that the paper's protocol cuts",
            hint="leave it out, or measure without the paper's protocol",
        )
    windows = np.lib.stride_tricks.sliding_window_view(low, (patch, patch), axis=(0, 1))
    windows = windows[::step, ::step]  # (rows, columns, 3, patch, patch)
    rows, columns = windows.shape[:2]
    tiles = windows.transpose(0, 1, 3, 4, 2).copy()  # not a view of the picture, even of one patch
    return tiles.reshape(-1, patch, patch, 3), (rows, columns)


def combine(
    tiles: Pixels, grid: tuple[int, int], patch: int, step: int, scale: int
) -> NDArray[np.float32]:
    """Put upscaled patches together: the mean of two where they overlap, of four at crossings.

    Args:
        tiles: Upscaled patches (N, patch*scale, patch*scale, 3), row by row.
        grid: Their number of rows and columns.
        patch: Side of a patch in low-resolution pixels.
        step: Low-resolution pixels between two patches, from half a patch to a patch.
        scale: Output size over input size.

    Returns:
        (((rows - 1) * step + patch) * scale, likewise, 3) in 0..255.

    Raises:
        UsageError: More than two patches of a row would overlap, or some pixels be in none.
    """
    if not patch <= 2 * step <= 2 * patch:
        raise UsageError(f"a step of {step} does not suit patches of {patch}: half of it to all")
    rows, columns = grid
    side, stride = patch * scale, step * scale
    height, width = (count * stride + side - stride for count in grid)
    canvas = np.zeros((height, width, 3), np.float32)
    for tile, (row, column) in zip(tiles, np.ndindex(grid), strict=True):
        top, left = row * stride, column * stride
        canvas[top : top + side, left : left + side] += tile
    for column in range(1, columns):
        canvas[:, column * stride : (column - 1) * stride + side] /= 2
    for row in range(1, rows):
        canvas[row * stride : (row - 1) * stride + side] /= 2
    return canvas


def paper_psnr(canvas: NDArray[np.float32], high: Pixels) -> float:
    """Return the RGB PSNR in dB of what was upscaled, 80 where nothing differs.

    Args:
        canvas: (H, W, 3) in 0..255, as `combine` returns it.
        high: The photograph, of which the top left part of that size is compared.

    Raises:
        InputError: The photograph is smaller than the canvas.
    """
    height, width = canvas.shape[:2]
    target = high[:height, :width]
    found = measure_psnr(canvas.astype(np.float64) / 255, target, PAPER_PROTOCOL)
    return PERFECT if math.isinf(found) else found


@torch.inference_mode()
def evaluate_paper(
    network: ClassSR,
    pairs: Iterable[ReadablePair],
    *,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None = None,
) -> PaperEvaluation:
    """Score a network on a set as the authors do.

    Args:
        network: Moved to the device; its training mode is restored.
        pairs: The set.
        device: Where to run.
        progress: Called with the pictures done and their number.

    Raises:
        UsageError: The set is empty.
        InputError: A picture cannot be read, is smaller than a patch, or the network gives values
            that are not finite.
    """
    pairs = list(pairs)
    if not pairs:
        raise UsageError("there are no pictures to measure")
    training = network.training
    network.to(device).eval()
    scale = network.config.scale
    counts = np.zeros(network.config.classes, np.int64)
    per_image: list[tuple[str, float]] = []
    covered = 0
    try:
        for done, pair in enumerate(pairs, start=1):
            low, high = pair.read()
            tiles, grid = crop_tiles(low)
            upscaled, classes = _upscale(network, tiles, torch.device(device))
            canvas = combine(upscaled, grid, PATCH, STEP, scale)
            per_image.append((pair.name, paper_psnr(canvas, high)))
            counts += np.bincount(classes, minlength=len(counts))
            covered += canvas.shape[0] * canvas.shape[1] // scale**2
            if progress is not None:
                progress(done, len(pairs))
    finally:
        network.train(training)
    found = tuple(int(count) for count in counts)
    flops, hardest = _paper_flops(network.config, found)
    return PaperEvaluation(
        psnr=math.fsum(psnr for _, psnr in per_image) / len(per_image),
        per_image=tuple(per_image),
        counts=found,
        paper_flops=flops,
        paper_percent=100 * flops / hardest,
        true_percent=100
        * _macs(network.config, found)
        / (covered * branch_costs(network.config)[-1].macs),
    )


def _upscale(
    network: ClassSR, tiles: Pixels, device: torch.device
) -> tuple[Pixels, NDArray[np.int64]]:
    """Return each patch upscaled by the branch of its class, rounded to 8 bits, and the classes."""
    with exact_float32():
        parts = np.split(tiles, range(_BATCH, len(tiles), _BATCH))
        logits = [network.classifier(to_batch(part).to(device)).cpu() for part in parts]
        classes = torch.cat(logits).argmax(1).numpy()
        side = tiles.shape[1] * network.config.scale
        upscaled = np.empty((len(tiles), side, side, 3), np.uint8)
        for index, branch in enumerate(network.branches):
            chosen = np.flatnonzero(classes == index)
            for rows in np.split(chosen, range(_BATCH, len(chosen), _BATCH)):
                if len(rows):
                    output = branch(to_batch(tiles[rows]).to(device)).permute(0, 2, 3, 1)
                    upscaled[rows] = quantize(output.cpu().numpy(), np.dtype(np.uint8))
    return upscaled, classes


def _macs(config: ClassSRConfig, counts: tuple[int, ...]) -> float:
    """Multiply-accumulates of patches by class, each judged and upscaled."""
    pairs = zip(counts, branch_costs(config), strict=True)
    branches = sum(count * cost.macs for count, cost in pairs)
    return PATCH**2 * (branches + sum(counts) * classifier_cost(config.classes))


def _paper_flops(config: ClassSRConfig, counts: tuple[int, ...]) -> tuple[float, float]:
    """FLOPs of a patch as the paper counts: the mean, and of the hardest class."""
    if config == ClassSRConfig(network=config.network):
        return paper_flops(config.network, counts), PAPER_CONSTANTS[config.network][-1]
    costs = [2 * PATCH**2 * cost.paper_macs for cost in branch_costs(config)]
    mean = sum(count * cost for count, cost in zip(counts, costs, strict=True)) / sum(counts)
    if config.network == "fsrcnn":  # the only one for which the authors add the Class-Module
        mean += 2 * PATCH**2 * classifier_cost(config.classes)
    return mean, costs[-1]
