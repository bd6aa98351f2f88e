"""Training patches: cut from packed photographs, scored by how hard they are, divided into classes.

The authors score patches by the PSNR that a trained SRResNet reaches on them, and take thirds. Here
any network scores, or none: the plain way of upscaling orders patches much alike.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.files import atomic_write
from lowvis_shared.pairs import bicubic
from lowvis_shared.photos import PackedPhotos
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Pixels = NDArray[np.uint8]

_DARKEST = 3.0
"""Exposures by which a patch is darkened at most."""

_EDGE_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches of packed photographs and how hard they are, one row each.

    Attributes:
        side: Height and width in low-resolution pixels.
        photo: Number of the photograph.
        top: First row, in low-resolution pixels.
        left: First column.
        psnr: PSNR of the scorer's picture inside the patch, RGB, in dB: high is simple.
        edges: The score of `edge_map` inside the patch: high is hard.
    """

    side: int
    photo: NDArray[np.int32]
    top: NDArray[np.int32]
    left: NDArray[np.int32]
    psnr: NDArray[np.float32]
    edges: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.photo)

    def thresholds(self, classes: int) -> list[float]:
        """PSNR between the classes, rising: the class sizes are equal (Section 4.1)."""
        return _quantiles(self.psnr, classes)

    def edge_thresholds(self, classes: int) -> list[float]:
        """Edge scores between the classes, rising: the class sizes are equal."""
        return _quantiles(self.edges, classes)

    def classes(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """Class of each patch by PSNR: 0 from the highest threshold on, the last below all."""
        return len(thresholds) - np.searchsorted(np.array(thresholds), self.psnr, side="right")


def _quantiles(values: NDArray[np.float32], classes: int) -> list[float]:
    shares = np.arange(1, classes) / classes
    return [float(each) for each in np.quantile(values.astype(np.float64), shares)]


def degrade(low: Pixels, noise: float, generator: np.random.Generator) -> Pixels:
    """Add Gaussian noise of a standard deviation in 8-bit steps; a picture as it is for 0."""
    if not noise:
        return low
    noisy = low + generator.normal(0, noise, low.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def plain(low: Pixels, scale: int) -> Pixels:
    """What any network must beat: bicubic upscaling, or a slight blur where nothing is upscaled."""
    return (
        bicubic(low, scale)
        if scale > 1
        else np.asarray(cv2.GaussianBlur(low, (0, 0), 1.0), np.uint8)
    )


def edge_map(image: NDArray[Any]) -> NDArray[np.float32]:
    """Magnitude of the Laplacian of the luma of a picture (H, W, 3) in 0..1 -> (H, W).

    Its mean over a patch is the edge score, by which patches can be routed without learning, as
    ARM (Chen et al., ECCV 2022) does.
    """
    luma = np.ascontiguousarray(image, np.float32) @ _EDGE_WEIGHTS
    return np.abs(cv2.Laplacian(luma, cv2.CV_32F))


def find_patches(
    photos: PackedPhotos,
    *,
    side: int,
    step: int,
    upscale: Callable[[Pixels], Pixels],
    scorer: str,
    noise: float = 0.0,
    seed: int = 0,
) -> Patches:
    """Score the patches of all photographs, or read the scores found before.

    Args:
        photos: Packed photographs.
        side: Height and width of a patch in low-resolution pixels.
        step: Pixels between two patches; the last ones of a row and column end at the border.
        upscale: The scorer: low-resolution picture (H, W, 3) -> (H*scale, W*scale, 3).
        scorer: Its name, weights included: the scores are kept under it, beside the photographs.
        noise: Standard deviation of the noise added, in 8-bit steps.
        seed: Seed of the noise.
    """
    text = f"patches 1, {photos.path.name}, {side}, {step}, {scorer}, {noise:g}, {seed}"
    name = f"patches-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    path = photos.path.with_name(name)
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return Patches(side, *(stored[each] for each in _COLUMNS))
    rows: list[NDArray[np.float64]] = []
    for number in range(len(photos.photos)):
        high, low = photos.pair(number)
        low = degrade(low, noise, np.random.default_rng([seed, number]))
        rows.append(_score(number, low, high[..., :3], upscale(low), side, step, photos.scale))
    table = np.concatenate(rows)
    photo, top, left = table[:, :3].astype(np.int32).T
    psnr, edges = table[:, 3:].astype(np.float32).T
    found = Patches(side, photo, top, left, psnr, edges)
    stored = {each: getattr(found, each) for each in _COLUMNS}
    atomic_write(path, lambda file: np.savez(file, **stored), overwrite=True)
    return found


_COLUMNS = ("photo", "top", "left", "psnr", "edges")


def _score(
    number: int, low: Pixels, high: Pixels, upscaled: Pixels, side: int, step: int, scale: int
) -> NDArray[np.float64]:
    """Return rows of photo, top, left, PSNR, edge score."""
    tops, lefts = (starts(extent, side, step) for extent in low.shape[:2])
    squares = ((high.astype(np.float64) - upscaled) ** 2).mean(2)
    errors = _window_means(squares, tops * scale, lefts * scale, side * scale)
    psnr = 10 * np.log10(255**2 / np.maximum(errors, 1e-3))
    edges = _window_means(edge_map(low / np.float32(255)).astype(np.float64), tops, lefts, side)
    grid = np.meshgrid(tops, lefts, indexing="ij")
    columns = [np.full(psnr.shape, number), *grid, psnr, edges]
    return np.stack([each.ravel().astype(np.float64) for each in columns], 1)


def starts(extent: int, side: int, step: int) -> NDArray[np.int64]:
    """First pixels of windows that cover an extent: every ``step``, the last at the border."""
    regular = np.arange(0, extent - side + 1, step)
    return np.unique(np.append(regular, extent - side))


def _window_means(
    values: NDArray[np.float64], tops: NDArray[np.int64], lefts: NDArray[np.int64], side: int
) -> NDArray[np.float64]:
    """Mean of every square window, by sums over rectangles from the corner."""
    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows = sums[tops + side] - sums[tops]
    return (rows[:, lefts + side] - rows[:, lefts]) / side**2


class PatchBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch ``step`` of a run: (B, 3, side, side) and (B, 3, side*scale, side*scale), in [0, 1].

    A batch is a pure function of (seed, step, rank), so that a resumed run needs no more than its
    step. Patches are flipped and transposed at random, both pictures alike (Section 4.1).

    Args:
        photos: Packed photographs.
        patches: Where patches lie.
        chosen: Rows of ``patches`` to draw from.
        batch: Patches per batch.
        noise: Standard deviation of the noise added, in 8-bit steps.
        seed: Seed of the run.
        rank: Number of this process in a distributed run.

    Raises:
        InputError: There is nothing to draw from.
    """

    def __init__(
        self,
        photos: PackedPhotos,
        patches: Patches,
        chosen: NDArray[np.int64],
        *,
        batch: int,
        noise: float,
        seed: int,
        rank: int = 0,
    ) -> None:
        if not len(chosen):
            raise InputError("a class has no patches", hint="more photographs")
        self.photos, self.patches, self.chosen = photos, patches, chosen
        self.batch, self.noise, self.seed, self.rank = batch, noise, seed, rank

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng([self.seed, step, self.rank])
        rows = self.chosen[generator.integers(len(self.chosen), size=self.batch)]
        pairs = [self._pair(int(row), generator) for row in rows]
        low, high = (np.stack(pictures) for pictures in zip(*pairs, strict=True))
        return to_batch(low), to_batch(high)

    def _pair(self, row: int, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
        low, high = read_patch(self.photos, self.patches, row)
        low, high = turned(degrade(low, self.noise, generator), high, generator=generator)
        return low, high


class JudgedPatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch ``step`` of the Class-Module's own training: (B, 3, side, side), (B, classes).

    The second tensor has what each branch loses on a patch. Batches are as `PatchBatches` has them.

    Args:
        low: Patches (N, side, side, 3).
        regrets: (N, classes).
        batch: Patches per batch.
        dimmed: Share of the patches that are darkened, to an eighth of their brightness at most.
            What branches lose in decibels hardly depends on the brightness of a picture.
        seed: Seed of the run.
        rank: Number of this process in a distributed run.
    """

    def __init__(
        self,
        low: Pixels,
        regrets: NDArray[np.float32],
        *,
        batch: int,
        dimmed: float,
        seed: int,
        rank: int = 0,
    ) -> None:
        self.low, self.regrets = low, regrets
        self.batch, self.dimmed, self.seed, self.rank = batch, dimmed, seed, rank

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng([self.seed, step, self.rank])
        rows = generator.integers(len(self.low), size=self.batch)
        low = np.stack([turned(self.low[row], generator=generator)[0] for row in rows])
        gains = 2 ** generator.uniform(-_DARKEST, 0, self.batch)
        gains[generator.random(self.batch) >= self.dimmed] = 1
        low = np.rint(low * gains[:, None, None, None]).astype(np.uint8)
        return to_batch(low), torch.from_numpy(self.regrets[rows])


def turned(*pictures: Pixels, generator: np.random.Generator) -> list[Pixels]:
    """Flip and turn pictures (H, W, 3) at random, all alike (Section 4.1)."""
    turns, mirrored = int(generator.integers(4)), bool(generator.integers(2))
    return [np.rot90(each[:, ::-1] if mirrored else each, turns) for each in pictures]


def read_patch(photos: PackedPhotos, patches: Patches, row: int) -> tuple[Pixels, Pixels]:
    """Return patch ``row``: (side, side, 3) and (side*scale, side*scale, 3), without noise."""
    high, low = photos.pair(int(patches.photo[row]))
    top, left, side, scale = (
        int(patches.top[row]),
        int(patches.left[row]),
        patches.side,
        photos.scale,
    )
    if top + side > low.shape[0] or left + side > low.shape[1]:
        raise UsageError("these patches are of other photographs")
    bottom, right = (top + side) * scale, (left + side) * scale
    return (
        low[top : top + side, left : left + side],
        high[top * scale : bottom, left * scale : right, :3],
    )


def to_batch(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures (B, H, W, 3) of 8 bits -> (B, 3, H, W) in 0..1, channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(255)
