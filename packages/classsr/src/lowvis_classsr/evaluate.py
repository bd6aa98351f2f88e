"""ClassSR on pictures whose original is known: PSNR, and what it cost, at any budget."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from lowvis_shared.assets import dataset_files, fetch
from lowvis_shared.errors import UsageError
from lowvis_shared.images import Picture, read_image
from lowvis_shared.metrics import Protocol, psnr
from lowvis_shared.pairs import Pixels, ReadablePair
from lowvis_shared.resize import imresize, modcrop

from lowvis_classsr.data import degrade
from lowvis_classsr.predict import Report, Upscaler

SIDES = {"2k": 2048, "4k": 4096}
"""Long sides of the stand-ins for the paper's Test2K and Test4K."""

NOISE_SEED = 10
"""Seed of the noise of a denoising test: the same for every network."""


@dataclass(frozen=True, slots=True)
class ReducedPair:
    """A photograph reduced to a long side, and once more by the scale, read when asked for.

    Reducing takes away what compression and the camera left, as the paper's sets are reduced.

    Attributes:
        path: The photograph.
        side: Long side in pixels; smaller photographs stay as they are.
        scale: Factor between the two pictures.
        noise: Standard deviation of noise added to the small one, in 8-bit steps.
    """

    path: Path
    side: int
    scale: int
    noise: float = 0.0

    @property
    def name(self) -> str:
        """Name of the photograph."""
        return self.path.stem

    def read(self) -> tuple[Pixels, Pixels]:
        """Return the small picture and the large one, (H, W, 3) of 8 bits."""
        pixels = read_image(self.path).pixels
        factor = self.side / max(pixels.shape[:2])
        high = modcrop(imresize(pixels, scale=factor) if factor < 1 else pixels, self.scale)
        low = imresize(high, scale=1 / self.scale) if self.scale > 1 else high
        return degrade(low, self.noise, np.random.default_rng(NOISE_SEED)), high


def stand_ins(
    name: str, scale: int = 4, *, accept_licence: bool = False, offline: bool = False
) -> list[ReducedPair]:
    """Return six public photographs as stand-ins for a test set of the paper, which is licensed.

    Args:
        name: ``2k`` or ``4k``.
        scale: Factor between the two pictures of a pair.
        accept_licence: Fetch what has no stated licence.
        offline: Never use the network.

    Raises:
        UsageError: There is no such set.
        WeightsError: A photograph cannot be fetched.
    """
    if name not in SIDES:
        raise UsageError(f"there is no set '{name}'", hint=", ".join(SIDES))
    return [
        ReducedPair(
            fetch(asset, accept_licence=accept_licence, offline=offline), SIDES[name], scale
        )
        for asset in dataset_files("large")
    ]


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one way of upscaling on a set of pictures.

    Attributes:
        psnr: RGB, 8 bits, a border of the scale cropped; the mean over pictures, in dB.
        share: Multiply-accumulates over those of the original network on whole pictures; this and
            what follows are means over pictures too.
        paper_share: The paper's figure (see `Report`).
        shares: Share of the area by class, simple to hard.
        seconds: Sum over the pictures.
        per_image: Name, PSNR and report of each picture.
    """

    psnr: float
    share: float
    paper_share: float
    shares: tuple[float, ...]
    seconds: float
    per_image: tuple[tuple[str, float, Report], ...]


def measure(
    upscaler: Upscaler,
    pairs: Iterable[ReadablePair],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Upscale pictures of known originals and measure.

    Raises:
        InputError: A picture cannot be read.
    """
    protocol = Protocol(color="rgb", border=upscaler.scale)
    rows: list[tuple[str, float, Report]] = []
    pairs = list(pairs)
    for done, pair in enumerate(pairs, start=1):
        low, high = pair.read()
        output, report = upscaler.run(Picture(low))
        rows.append((pair.name, psnr(output.pixels, high, protocol), report))
        if progress is not None:
            progress(done, len(pairs))
    return summarize(rows)


def summarize(rows: Sequence[tuple[str, float, Report]]) -> Measured:
    """Reduce the figures of pictures to those of the set.

    Raises:
        UsageError: There are none.
    """
    if not rows:
        raise UsageError("there are no pictures to measure on")
    reports = [report for _, _, report in rows]
    classes = range(len(reports[0].shares))
    return Measured(
        psnr=fmean(psnr for _, psnr, _ in rows),
        share=fmean(each.share for each in reports),
        paper_share=fmean(each.paper_share for each in reports),
        shares=tuple(fmean(each.shares[index] for each in reports) for index in classes),
        seconds=sum(each.seconds for each in reports),
        per_image=tuple(rows),
    )
