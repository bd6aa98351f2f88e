"""What ClassSR costs: multiply-accumulates as they are done, and as the paper counts them.

The paper counts a transposed convolution at its output, where each of its multiplications is
counted ``scale`` squared times: FSRCNN-56 becomes 9.4 times what it is. All its other figures are
true.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

import torch
from lowvis_shared.cost import measure_cost
from torch import nn

from lowvis_classsr.model import PATCH, Classifier, ClassSRConfig

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
