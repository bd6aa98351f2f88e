"""PAN on test sets, by the protocol of the paper: per-image figures and their mean.

The low-resolution pictures are MATLAB's bicubic ones, the output is rounded to 8 bits, and PSNR and
SSIM are those of the Y of limited-range BT.601 inside a border of ``scale`` pixels (Section 4.1).
"""

from collections.abc import Callable, Iterable

from lowvis_shared import pairs as shared_pairs
from lowvis_shared.metrics import Protocol
from lowvis_shared.pairs import Evaluation, ReadablePair

from lowvis_pan.model import PAN


def evaluate_network(
    network: PAN,
    pairs: Iterable[ReadablePair],
    scale: int,
    *,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a network as it is, in its own precision and on its own device, without the guard.

    Arguments and errors are those of ``lowvis_shared.pairs.evaluate``; the network's training mode
    is restored.
    """
    config = network.config
    local = "channel" not in (config.trunk_attention, config.reconstruction_attention)
    return shared_pairs.evaluate_network(
        network,
        pairs,
        scale,
        receptive_radius=network.receptive_radius if local else None,
        protocol=protocol,
        progress=progress,
    )
