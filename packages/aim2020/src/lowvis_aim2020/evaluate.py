"""Networks on test sets, by the protocol of the challenge and by that of the field's tables."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lowvis_shared.candidates import Candidate
from lowvis_shared.errors import InputError
from lowvis_shared.images import quantize
from lowvis_shared.metrics import Protocol, Score, score, summarize, super_resolution_protocol
from lowvis_shared.pairs import Pixels, ReadablePair, upscaler
from numpy.typing import NDArray
from torch import nn


def challenge_protocol(scale: int = 4) -> Protocol:
    """Return how the challenge compares: all three channels, rounded to 8 bits, mean over pictures.

    A border of ``scale`` pixels is cut off, as in NTIRE 2022's code, which prints the same figure
    for the same network as AIM 2020 does; the report itself does not speak of a border.
    """
    return Protocol(color="rgb", border=scale)


@dataclass(frozen=True, slots=True)
class Quality:
    """How true a network's pictures are.

    Attributes:
        rgb: Mean by the protocol of the challenge.
        y: Mean by that of the field's tables (Y of limited-range BT.601).
        per_image: Name and both scores of each picture, in the order of the set.
    """

    rgb: Score
    y: Score
    per_image: tuple[tuple[str, Score, Score], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON; a PSNR that is infinite is None."""
        return {
            "rgb": _plain(self.rgb) | {"protocol": self.rgb.protocol.as_dict()},
            "y": _plain(self.y) | {"protocol": self.y.protocol.as_dict()},
            "per_image": [
                {"image": name, "rgb": _plain(rgb), "y": _plain(y)}
                for name, rgb, y in self.per_image
            ],
        }


def _plain(score: Score) -> dict[str, Any]:
    # JSON knows no infinity, the PSNR of a picture that comes out exactly.
    return {"psnr": score.psnr if math.isfinite(score.psnr) else None, "ssim": score.ssim}


def evaluate_network(
    network: nn.Module,
    pairs: Sequence[ReadablePair],
    scale: int,
    *,
    receptive_radius: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Quality:
    """Score a network, in evaluation mode, on a set by both protocols.

    Args:
        network: (B, 3, H, W) in 0..1 -> (B, 3, H*scale, W*scale).
        pairs: The set.
        scale: Factor of the network.
        receptive_radius: Input pixels on each side that an output pixel depends on; None for
            networks that look at the whole picture.
        progress: Called with the pictures done and their number.

    Raises:
        InputError: A picture cannot be read, or comes out at the wrong size or not finite.
    """
    return evaluate(
        upscaler(network, scale, receptive_radius=receptive_radius), pairs, scale, progress=progress
    )


def evaluate_candidate(
    candidate: Candidate,
    network: nn.Module,
    pairs: Sequence[ReadablePair],
    progress: Callable[[int, int], None] | None = None,
) -> Quality:
    """Score what a candidate's `make` or `open` built; otherwise as `evaluate_network`."""
    return evaluate_network(
        network,
        pairs,
        candidate.scale,
        receptive_radius=candidate.receptive_radius,
        progress=progress,
    )


def evaluate(
    upscale: Callable[[Pixels], NDArray[Any]],
    pairs: Sequence[ReadablePair],
    scale: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Quality:
    """Score any way of upscaling (H, W, 3) uint8 on a set; otherwise as `evaluate_network`."""
    protocols = challenge_protocol(scale), super_resolution_protocol(scale)
    per_image: list[tuple[str, Score, Score]] = []
    for done, pair in enumerate(pairs, start=1):
        low, high = pair.read()
        output = _eight_bits(upscale(low), pair.name)
        rgb, y = (score(output, high, protocol) for protocol in protocols)
        per_image.append((pair.name, rgb, y))
        if progress is not None:
            progress(done, len(pairs))
    return Quality(
        rgb=summarize([rgb for _, rgb, _ in per_image]),
        y=summarize([y for _, _, y in per_image]),
        per_image=tuple(per_image),
    )


def _eight_bits(output: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if output.dtype == np.uint8:
        return output
    if not np.isfinite(output).all():
        raise InputError(f"the output for {name} holds values that are not finite")
    return quantize(output, np.dtype(np.uint8))
