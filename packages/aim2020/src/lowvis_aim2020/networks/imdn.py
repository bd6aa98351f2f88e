"""IMDN: with contrast-aware attention, as published, and without, as it won AIM 2019.

Hui, Gao, Yang, Wang: Lightweight Image Super-Resolution with Information Multi-distillation
Network, ACM Multimedia 2019, https://arxiv.org/abs/1909.11856. The network without attention won
the AIM 2019 challenge on constrained super-resolution, https://arxiv.org/abs/1911.01249, is in the
tables of AIM 2020, and was a baseline of NTIRE 2022.

Attribute names are those of the authors' state dictionaries, so that their files load strictly.
"""

from dataclasses import dataclass

import torch
from lowvis_shared.errors import UsageError
from torch import Tensor, nn

from lowvis_aim2020.networks.attention import CCA
from lowvis_aim2020.networks.scales import check_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class IMDNConfig:
    """Shape of an IMDN; the defaults are the paper's x4.

    Attributes:
        scale: Upscaling factor: 2, 3 or 4.
        channels: Width of the network (``nf``), of which each step distills a quarter.
        blocks: Number of distillation blocks (``num_modules``).
    """

    scale: int = 4
    channels: int = 64
    blocks: int = 6

    def __post_init__(self) -> None:
        _check(self.scale, self.blocks)
        if self.channels < 16 or self.channels % 16:
            raise UsageError(f"channels is {self.channels}; a multiple of 16 is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class IMDNBaselineConfig:
    """Shape of an IMDN without attention; the defaults are the challenge's network.

    Attributes:
        scale: Upscaling factor: 2, 3 or 4.
        channels: Width of the network (``nc``), of which each step distills a quarter.
        blocks: Number of distillation blocks (``nb``).
    """

    scale: int = 4
    channels: int = 64
    blocks: int = 8

    def __post_init__(self) -> None:
        _check(self.scale, self.blocks)
        if self.channels < 4 or self.channels % 4:
            raise UsageError(f"channels is {self.channels}; a multiple of 4 is needed")

    @property
    def receptive_radius(self) -> int:
        """Input pixels on each side that an output pixel depends on."""
        return 1 + 4 * self.blocks + 1 + 1  # first, four 3x3 in each block, last, upsampling


def _check(scale: int, blocks: int) -> None:
    check_scale("IMDN", scale)
    if blocks < 1:
        raise UsageError("blocks must be at least 1")


class IMDB(nn.Module):
    """Information multi-distillation block (Section 3.2): (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        distilled = channels // 4
        remaining = channels - distilled
        self.sizes = (distilled, remaining)
        self.c1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.c2 = nn.Conv2d(remaining, channels, 3, padding=1)
        self.c3 = nn.Conv2d(remaining, channels, 3, padding=1)
        self.c4 = nn.Conv2d(remaining, distilled, 3, padding=1)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.cca = CCA(4 * distilled)
        self.c5 = nn.Conv2d(4 * distilled, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        # Of what each step makes, a quarter is kept and three quarters go on.
        distilled1, remaining = self.act(self.c1(features)).split(self.sizes, 1)
        distilled2, remaining = self.act(self.c2(remaining)).split(self.sizes, 1)
        distilled3, remaining = self.act(self.c3(remaining)).split(self.sizes, 1)
        distilled4 = self.c4(remaining)
        kept = torch.cat((distilled1, distilled2, distilled3, distilled4), 1)  # (B, C, H, W)
        return self.c5(self.cca(kept)) + features


class IMDN(nn.Module):
    """Information multi-distillation network: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*scale, ...).

    The output is not clamped. Any size from 1x1 on works. There is no receptive radius: the channel
    attention sees the whole picture.

    Args:
        config: Shape of the network; the paper's x4 when left out.
    """

    def __init__(self, config: IMDNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or IMDNConfig()
        channels = config.channels
        self.fea_conv = nn.Conv2d(3, channels, 3, padding=1)
        for number in range(1, config.blocks + 1):
            setattr(self, f"IMDB{number}", IMDB(channels))
        self.c = nn.Sequential(
            nn.Conv2d(config.blocks * channels, channels, 1), nn.LeakyReLU(0.05, inplace=True)
        )
        self.LR_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(channels, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    def forward(self, image: Tensor) -> Tensor:
        first = features = self.fea_conv(image)  # (B, C, H, W)
        outputs: list[Tensor] = []
        for number in range(1, self.config.blocks + 1):
            features = self.get_submodule(f"IMDB{number}")(features)
            outputs.append(features)
        return self.upsampler(self.LR_conv(self.c(torch.cat(outputs, 1))) + first)


class PlainIMDB(nn.Module):
    """Information multi-distillation block without attention: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        distilled = channels // 4
        remaining = channels - distilled
        self.sizes = (distilled, remaining)
        self.conv1 = _activated_convolution(channels, channels)
        self.conv2 = _activated_convolution(remaining, channels)
        self.conv3 = _activated_convolution(remaining, channels)
        self.conv4 = nn.Conv2d(remaining, distilled, 3, padding=1)
        self.conv1x1 = nn.Conv2d(4 * distilled, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        distilled1, remaining = self.conv1(features).split(self.sizes, 1)
        distilled2, remaining = self.conv2(remaining).split(self.sizes, 1)
        distilled3, remaining = self.conv3(remaining).split(self.sizes, 1)
        distilled4 = self.conv4(remaining)
        kept = torch.cat((distilled1, distilled2, distilled3, distilled4), 1)  # (B, C, H, W)
        return self.conv1x1(kept) + features


class Shortcut(nn.Module):
    """Adds its input to the output of a module: (B, C, H, W) -> the same."""

    def __init__(self, sub: nn.Module) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, features: Tensor) -> Tensor:
        return features + self.sub(features)


class IMDNBaseline(nn.Module):
    """IMDN without attention: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*scale, W*scale).

    The output is not clamped. Any size from 1x1 on works.

    Args:
        config: Shape of the network; the challenge's when left out.
    """

    def __init__(self, config: IMDNBaselineConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or IMDNBaselineConfig()
        channels = config.channels
        self.model = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            Shortcut(
                nn.Sequential(
                    *(PlainIMDB(channels) for _ in range(config.blocks)),
                    nn.Conv2d(channels, channels, 3, padding=1),
                )
            ),
            nn.Conv2d(channels, 3 * config.scale**2, 3, padding=1),
            nn.PixelShuffle(config.scale),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


def _activated_convolution(incoming: int, outgoing: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, 3, padding=1), nn.LeakyReLU(0.05, inplace=True)
    )
