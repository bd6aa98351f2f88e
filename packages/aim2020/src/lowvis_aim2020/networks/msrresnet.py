"""MSRResNet, the baseline of the challenge: SRResNet without batch normalization.

Zhang et al.: AIM 2020 Challenge on Efficient Super-Resolution, ECCV 2020 Workshops,
https://arxiv.org/abs/2009.06943. SRResNet: Ledig et al., https://arxiv.org/abs/1609.04802.

Attribute names are those of the organisers' state dictionary.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from lowvis_shared.errors import UsageError
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class MSRResNetConfig:
    """Shape of an MSRResNet; the defaults are the challenge's.

    Attributes:
        scale: Upscaling factor: 4, which the challenge is about.
        channels: Width of the network (``nf``).
        blocks: Number of residual blocks (``nb``).
    """

    scale: int = 4
    channels: int = 64
    blocks: int = 16

    def __post_init__(self) -> None:
        if self.scale != 4:
            raise UsageError(f"scale is {self.scale}; MSRResNet knows 4")
        if self.channels < 1 or self.blocks < 1:
            raise UsageError("channels and blocks must be at least 1")

    @property
    def receptive_radius(self) -> int:
        """Input pixels on each side that an output pixel depends on."""
        # From the output backwards: conv_last and HRconv reach 2 pixels of the output, which are 1
        # at half its size; upconv2 makes that 2, which are 1 of the input; upconv1 makes that 2.
        return 2 + 2 * self.blocks + 1  # two 3x3 in each block, conv_first


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions without normalization: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        # A function as in the organisers' code, not a layer: their counter saw layers only, so
        # that the FLOPs they published are without these.
        return features + self.conv2(F.relu(self.conv1(features), inplace=True))


class MSRResNet(nn.Module):
    """The challenge's baseline: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*4, W*4).

    The output is not clamped. Any size from 1x1 on works.

    Args:
        config: Shape of the network; the challenge's when left out.
    """

    def __init__(self, config: MSRResNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MSRResNetConfig()
        channels = config.channels
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.recon_trunk = nn.Sequential(*(ResidualBlock(channels) for _ in range(config.blocks)))
        self.upconv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.upconv2 = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.HRconv = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        features = self.recon_trunk(self.lrelu(self.conv_first(image)))  # (B, C, H, W)
        features = self.lrelu(self.pixel_shuffle(self.upconv1(features)))  # (B, C, H*2, W*2)
        features = self.lrelu(self.pixel_shuffle(self.upconv2(features)))  # (B, C, H*4, W*4)
        return self.conv_last(self.lrelu(self.HRconv(features))) + F.interpolate(
            image, scale_factor=self.config.scale, mode="bilinear", align_corners=False
        )
