"""What ClassSR costs: multiply-accumulates as they are done, and as the paper counts them.

The paper counts a transposed convolution at its output, where each of its multiplications is
counted ``scale`` squared times: FSRCNN-56 becomes 9.4 times what it is. All its other figures are
true.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial

import torch
from lowvis_shared.cost import measure_cost
from torch import Tensor, nn

from lowvis_classsr.branches import Margins
from lowvis_classsr.model import PATCH, Classifier, ClassSRConfig

WindowCosts = Mapping[float, Sequence[float]]
"""Multiply-accumulates of a low-resolution pixel by class, simple to hard, of those layers that
compute so many pixels of context around a tile."""

PAPER_CONSTANTS = {
    "fsrcnn": (141e6, 304e6, 468e6),
    "carn": (0.38e9, 0.77e9, 1.15e9),
    "srresnet": (1.66e9, 3.44e9, 5.20e9),
    "rcan": (10.33e9, 19.90e9, 32.60e9),
}
"""FLOPs of a 32x32 patch by class, as the authors' tests have them (FLOPs are 2 MACs)."""

PAPER_CLASSIFIER = {"fsrcnn": 7.4e6}
"""FLOPs of the Class-Module on a patch, which the authors' tests add for FSRCNN only."""


@dataclass(frozen=True, slots=True)
class PixelCost:
    """Multiply-accumulates for one low-resolution pixel.

    Attributes:
        macs: What is done.
        paper_macs: As the paper counts: more where there is a transposed convolution.
    """

    macs: float
    paper_macs: float


@cache
def branch_costs(config: ClassSRConfig) -> tuple[PixelCost, ...]:
    """Return the cost of each branch, simple to hard; padding at borders is counted as pixels."""
    costs: list[PixelCost] = []
    for index in range(config.classes):
        with _undrawn():
            branch = config.build_branch(index)
        macs = measure_cost(branch, (3, PATCH, PATCH)).macs
        transposed = sum(
            layer.weight.numel() * PATCH**2
            for layer in branch.modules()
            if isinstance(layer, nn.ConvTranspose2d)
        )
        paper = macs + (config.scale**2 - 1) * transposed
        costs.append(PixelCost(macs / PATCH**2, paper / PATCH**2))
    return tuple(costs)


@cache
def window_costs(config: ClassSRConfig, halo: int) -> WindowCosts:
    """Return the cost of each branch by the context that its layers compute.

    Args:
        config: Shape of the network.
        halo: Context of a window in low-resolution pixels. Layers near the output compute less of
            it, since it is cut away on the way (`lowvis_classsr.branches.Margins`).
    """
    side = PATCH + 2 * halo
    costs: dict[float, list[float]] = defaultdict(lambda: [0.0] * config.classes)

    def count(index: int, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        size = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output).shape[3]
        # Of the map over the low resolution: 1, 2, 4; 0 for the one pixel of channel attention.
        factor = size // PATCH
        context = (size / factor - PATCH) / 2 if factor else 0.0
        weights = sum(each.numel() for each in layer.parameters() if each.ndim == 4)
        costs[context][index] += weights * (factor**2 if factor else (size / PATCH) ** 2)

    for index in range(config.classes):
        with _undrawn():
            branch = config.build_branch(index).to("meta").eval()
        for layer in branch.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(partial(count, index))
        with torch.no_grad():
            picture = torch.empty(1, 3, side, side, device="meta")
            branch.forward(picture, Margins(halo, halo, halo, halo))
    return dict(costs)


@cache
def classifier_cost(classes: int = 3) -> float:
    """Return the multiply-accumulates of the Class-Module for one low-resolution pixel."""
    with _undrawn():
        classifier = Classifier(classes)
    return measure_cost(classifier, (3, PATCH, PATCH)).macs / PATCH**2


def _undrawn() -> AbstractContextManager[None]:
    """Leave the random generator as it was: whether a cost is cached must not change a training."""
    return torch.random.fork_rng(devices=())


def paper_flops(network: str, counts: Sequence[int]) -> float:
    """Return the paper's FLOPs column: the mean over patches, with the authors' own constants.

    Neither the overlap of patches nor (but for FSRCNN) the Class-Module is in it.

    Args:
        network: ``fsrcnn``, ``carn``, ``srresnet`` or ``rcan``.
        counts: Patches of each class.
    """
    total = sum(count * each for count, each in zip(counts, PAPER_CONSTANTS[network], strict=True))
    return total / sum(counts) + PAPER_CLASSIFIER.get(network, 0.0)
