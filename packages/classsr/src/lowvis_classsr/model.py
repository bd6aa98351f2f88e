"""ClassSR, readable top to bottom with the paper at hand.

Kong, Zhao, Qiao, Dong: ClassSR: A General Framework to Accelerate Super-Resolution Networks by Data
Characteristic, CVPR 2021, https://arxiv.org/abs/2103.04039.

A Class-Module judges each patch; the branch of its class, one of several widths of the same network
(`lowvis_classsr.branches`), upscales it. Class 0 is the simplest, the last the hardest. Attribute
names are those of the authors' state dictionaries, so that their files load strictly.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import torch
import torch.nn.functional as F
from lowvis_shared.errors import UsageError
from torch import Tensor, nn

from lowvis_classsr.branches import BRANCHES, SCALES, Upscaling

BLOCK = 4
"""Pixels along a side of what the Class-Module sees at once; patches are multiples of it."""

PATCH = 32
"""Side of the paper's patches in low-resolution pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSRConfig:
    """Shape of a ClassSR network; the paper's, x4, by the name of the network it accelerates.

    Attributes:
        network: A word of ``BRANCHES``.
        widths: Widths of the branches from simple to hard; the paper's when empty.
        scale: Output size over input size: 1 (restoration, such as denoising) to 4.
    """

    network: str = "fsrcnn"
    widths: tuple[int, ...] = ()
    scale: int = 4

    def __post_init__(self) -> None:
        if self.network not in BRANCHES:
            raise UsageError(f"there is no network '{self.network}'", hint=", ".join(BRANCHES))
        if self.scale not in SCALES:
            raise UsageError(f"scale is {self.scale}; ClassSR knows 1, 2, 3 and 4")
        if not self.widths:
            object.__setattr__(self, "widths", BRANCHES[self.network].widths)
        if min(self.widths) < 1 or list(self.widths) != sorted(set(self.widths)):
            raise UsageError(f"widths are {self.widths}; they must rise from simple to hard")

    @property
    def classes(self) -> int:
        """Number of classes and branches."""
        return len(self.widths)

    def build_branch(self, index: int) -> Upscaling:
        """Return a new branch: 0 the simplest, -1 the original network."""
        return BRANCHES[self.network].build(self.widths[index], self.scale)


class Classifier(nn.Module):
    """The Class-Module (Section 3.2): (B, 3, H, W) RGB in 0..1 -> logits (B, classes).

    It is a perceptron on blocks of 4x4 pixels followed by a mean, so that the logits of a patch are
    the mean of the logits of its blocks. Pixels beyond the last whole block are not seen.
    """

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.lastOut = nn.Linear(32, classes)
        self.CondNet = nn.Sequential(
            nn.Conv2d(3, 128, BLOCK, stride=BLOCK),
            nn.LeakyReLU(0.1),
            nn.Conv2d(128, 128, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(128, 128, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(128, 128, 1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(128, 32, 1),
        )
        _start_seeing_contrast(self.CondNet)
        nn.init.normal_(self.lastOut.weight, std=0.01)

    def forward(self, image: Tensor) -> Tensor:
        return self.lastOut(self.CondNet(image).mean((2, 3)))

    def block_logits(self, image: Tensor, every: int = 1) -> Tensor:
        """Logits of every whole block in one pass: (B, 3, H, W) -> (B, classes, H//4, W//4).

        Averaged over the blocks of any patch they are the logits of that patch.

        Args:
            image: (B, 3, H, W) RGB in 0..1.
            every: Take one block of so many, in each direction, beginning with the first.
        """
        first = cast("nn.Conv2d", self.CondNet[0])
        blocks = F.conv2d(image, first.weight, first.bias, stride=BLOCK * every)
        weight = self.lastOut.weight[:, :, None, None]
        return F.conv2d(self.CondNet[1:](blocks), weight, self.lastOut.bias)


class ClassSR(nn.Module):
    """ClassSR: (B, 3, H, W) RGB in 0..1 -> (B, 3, H*scale, W*scale), not clamped.

    For pictures use `lowvis_classsr.predict.Upscaler`, which divides them into patches.

    Args:
        config: Shape of the network; the paper's ClassSR-FSRCNN when left out.
    """

    def __init__(self, config: ClassSRConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ClassSRConfig()
        self.classifier = Classifier(config.classes)
        for index in range(config.classes):
            setattr(self, f"net{index + 1}", config.build_branch(index))

    @property
    def branches(self) -> list[Upscaling]:
        """The branches from simple to hard."""
        found = (self.get_submodule(f"net{index + 1}") for index in range(self.config.classes))
        return [cast("Upscaling", each) for each in found]

    def forward(self, patches: Tensor) -> Tensor:
        """Upscale each patch with the branch of its class (hard routing, as in testing)."""
        classes = self.classifier(patches).argmax(1)
        outputs: Tensor | None = None
        for index, branch in enumerate(self.branches):
            chosen = (classes == index).nonzero()[:, 0]
            if len(chosen):
                results: Tensor = branch(patches[chosen])
                if outputs is None:
                    outputs = results.new_empty((len(patches), *results.shape[1:]))
                outputs[chosen] = results
        if outputs is None:
            raise UsageError("an empty batch has no patch to upscale")
        return outputs

    def blend(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Upscale with all branches, weighted by the probabilities (soft routing, as in training).

        Returns:
            The output, and the probabilities (B, classes).
        """
        probabilities = self.classifier(patches).softmax(1)
        outputs = torch.stack([branch(patches) for branch in self.branches], 1)  # (B, K, 3, H, W)
        return (probabilities[:, :, None, None, None] * outputs).sum(1), probabilities

    @classmethod
    def from_pretrained(cls, name: str = "fsrcnn", *, weights: str | Path = "own") -> Self:
        """Return a ClassSR x4 with trained weights, in evaluation mode, on the CPU.

        Args:
            name: A word of ``BRANCHES``.
            weights: ``own`` (in the package), ``official``, or the path of a file.

        Raises:
            UsageError: There is no such network.
            WeightsError: The file is missing, damaged, or of another network.
        """
        # Here, not above: weights.py describes files in terms of this module's configuration.
        from lowvis_classsr.weights import load_weights

        network = cls(ClassSRConfig(network=name))
        load_weights(network, weights)
        return network.eval()


@torch.no_grad()
def _start_seeing_contrast(layers: nn.Sequential) -> None:
    """Start the Class-Module with filters of no mean, all but a few, and signals of full size.

    How hard a block is lies in its contrast, a few hundredths of its brightness. The authors' start
    (Kaiming times 0.1) takes thousands of steps to see it.
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, a=0.1)
            nn.init.zeros_(layer.bias)
    contrast = cast("nn.Conv2d", layers[0]).weight[_OF_BRIGHTNESS:]
    contrast.sub_(contrast.mean((2, 3), keepdim=True)).mul_(_CONTRAST)


_OF_BRIGHTNESS = 16
"""First filters of the Class-Module that start with a mean."""

_CONTRAST = 5.0
"""How much larger than these the others start."""
