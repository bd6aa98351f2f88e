"""CARN-M: cascading residual network with grouped, recursive blocks, one file for x2, x3 and x4.

Ahn, Kang, Sohn: Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual Network,
ECCV 2018, https://arxiv.org/abs/1803.08664.

Attribute names are those of the authors' state dictionary, so that their file loads strictly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from lowvis_shared.errors import UsageError
from torch import Tensor, nn

from lowvis_aim2020.networks.scales import SCALES, check_scale

_MEAN_RGB = (0.4488, 0.4371, 0.4040)  # of DIV2K


@dataclass(frozen=True, slots=True, kw_only=True)
class CARNMConfig:
    """Shape of a CARN-M; the defaults are the paper's network at x4.

    Attributes:
        scale: Upscaling factor that is run: 2, 3 or 4. The network holds the weights of all three.
        channels: Width of the network.
        groups: Groups of the 3x3 convolutions in the blocks and in the upsampling.
    """

    scale: int = 4
    channels: int = 64
    groups: int = 4

    def __post_init__(self) -> None:
        check_scale("CARN-M", self.scale)
        if self.channels < 1 or self.groups < 1 or self.channels % self.groups:
            raise UsageError(
                f"channels is {self.channels}, which does not divide into {self.groups} groups"
            )

    @property
    def receptive_radius(self) -> int:
        """Input pixels on each side that an output pixel depends on, whatever the scale."""
        # From the output backwards: exit reaches 1 pixel, which is 1 before each pixel shuffle
        # too; at scale 4 the second upsampling makes that 2, which is 1 before the first.
        upsampling = 1 + 1
        return upsampling + 3 * 3 * 2 + 1  # 3 blocks that run 3 times two 3x3, entry


class MeanShift(nn.Module):
    """Adds a color to a picture: (B, 3, H, W) -> the same; frozen, but part of the weights."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.shifter = nn.Conv2d(3, 3, 1)
        self.shifter.weight = nn.Parameter(torch.eye(3).reshape(3, 3, 1, 1), requires_grad=False)
        self.shifter.bias = nn.Parameter(sign * torch.tensor(_MEAN_RGB), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.shifter(image)


class EfficientResidualBlock(nn.Module):
    """Two grouped 3x3 convolutions and a 1x1 (Section 3.2): (B, C, H, W) -> the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.relu(self.body(features) + features)


class Fusion(nn.Module):
    """1x1 convolution that a cascade ends in: (B, N*C, H, W) -> (B, C, H, W)."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(inputs * channels, channels, 1), nn.ReLU(inplace=True))

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features)


class CascadingBlock(nn.Module):
    """Cascade of one residual block that runs three times (Section 3.2): (B, C, H, W) -> same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.b1 = EfficientResidualBlock(channels, groups)
        self.c1 = Fusion(2, channels)
        self.c2 = Fusion(3, channels)
        self.c3 = Fusion(4, channels)

    def forward(self, features: Tensor) -> Tensor:
        return cascade(features, (self.b1, self.b1, self.b1), (self.c1, self.c2, self.c3))


def cascade(features: Tensor, blocks: Sequence[nn.Module], fusions: Sequence[nn.Module]) -> Tensor:
    """Fuse, behind each block, the input and all blocks' outputs so far (Section 3.1)."""
    collected = fused = features
    for block, fusion in zip(blocks, fusions, strict=True):
        collected = torch.cat((collected, block(fused)), 1)
        fused = fusion(collected)
    return fused


class UpsampleStages(nn.Module):
    """Pixel shuffle of one scale: (B, C, H, W) -> (B, C, H*scale, W*scale)."""

    def __init__(self, channels: int, groups: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for factor in (2, 2) if scale == 4 else (scale,):
            layers += [
                nn.Conv2d(channels, channels * factor**2, 3, padding=1, groups=groups),
                nn.ReLU(inplace=True),
                nn.PixelShuffle(factor),
            ]
        self.body = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.body(features)


class MultiScaleUpsample(nn.Module):
    """Upsampling of every scale, of which one runs: (B, C, H, W) -> (B, C, H*scale, W*scale)."""

    def __init__(self, config: CARNMConfig) -> None:
        super().__init__()
        self.scale = config.scale
        for scale in SCALES:
            setattr(self, f"up{scale}", UpsampleStages(config.channels, config.groups, scale))

    def forward(self, features: Tensor) -> Tensor:
        return self.get_submodule(f"up{self.scale}")(features)


class CARNM(nn.Module):
    """CARN-M: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*scale, W*scale).

    The output is not clamped. Any size from 1x1 on works.

    Args:
        config: Shape of the network; the paper's at x4 when left out.
    """

    def __init__(self, config: CARNMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CARNMConfig()
        channels, groups = config.channels, config.groups
        self.sub_mean = MeanShift(-1)
        self.add_mean = MeanShift(1)
        self.entry = nn.Conv2d(3, channels, 3, padding=1)
        self.b1 = CascadingBlock(channels, groups)
        self.b2 = CascadingBlock(channels, groups)
        self.b3 = CascadingBlock(channels, groups)
        self.c1 = Fusion(2, channels)
        self.c2 = Fusion(3, channels)
        self.c3 = Fusion(4, channels)
        self.upsample = MultiScaleUpsample(config)
        self.exit = nn.Conv2d(channels, 3, 3, padding=1)

    def freeze_other_scales(self) -> Self:
        """Leave the upsampling of other scales out of training, which does not run it."""
        for scale in set(SCALES) - {self.config.scale}:
            self.upsample.get_submodule(f"up{scale}").requires_grad_(False)
        return self

    def forward(self, image: Tensor) -> Tensor:
        features = self.entry(self.sub_mean(image))  # (B, C, H, W)
        features = cascade(features, (self.b1, self.b2, self.b3), (self.c1, self.c2, self.c3))
        return self.add_mean(self.exit(self.upsample(features)))
