"""RFDN, the winner of the challenge (team NJU_MCG).

Liu, Tang, Wu: Residual Feature Distillation Network for Lightweight Image Super-Resolution,
ECCV 2020 Workshops, https://arxiv.org/abs/2009.11551.

Attribute names are those of the authors' state dictionary, so that their file loads strictly.
"""

from dataclasses import dataclass

import torch
from lowvis_shared.errors import UsageError
from torch import Tensor, nn

from lowvis_aim2020.networks.attention import DeepESA
from lowvis_aim2020.networks.scales import check_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class RFDNConfig:
    """Shape of an RFDN; the defaults are the challenge's network.

    Attributes:
        scale: Upscaling factor: 2, 3 or 4.
        channels: Width of the network (``nf``).
        blocks: Number of distillation blocks (``num_modules``).
        attention_channels: Width inside the spatial attention.
    """

    scale: int = 4
    channels: int = 50
    blocks: int = 4
    attention_channels: int = 12

    def __post_init__(self) -> None:
        check_scale("RFDN", self.scale)
        if self.channels < 2 or self.channels % 2:
            raise UsageError(f"channels is {self.channels}; an even number of at least 2 is needed")
        if self.blocks < 1 or self.attention_channels < 1:
            raise UsageError("blocks and attention_channels must be at least 1")


class RFDB(nn.Module):
    """Residual feature distillation block (Figure 2 of the paper): (B, C, H, W) -> the same."""

    def __init__(self, config: RFDNConfig) -> None:
        super().__init__()
        channels, distilled = config.channels, config.channels // 2
        self.c1_d = nn.Conv2d(channels, distilled, 1)
        self.c1_r = nn.Conv2d(channels, channels, 3, padding=1)
        self.c2_d = nn.Conv2d(channels, distilled, 1)
        self.c2_r = nn.Conv2d(channels, channels, 3, padding=1)
        self.c3_d = nn.Conv2d(channels, distilled, 1)
        self.c3_r = nn.Conv2d(channels, channels, 3, padding=1)
        self.c4 = nn.Conv2d(channels, distilled, 3, padding=1)
        self.act = nn.LeakyReLU(0.05, inplace=True)
        self.c5 = nn.Conv2d(4 * distilled, channels, 1)
        self.esa = DeepESA(channels, config.attention_channels, activation=nn.ReLU(inplace=True))

    def forward(self, features: Tensor) -> Tensor:
        remaining1 = self.act(self.c1_r(features) + features)  # (B, C, H, W)
        remaining2 = self.act(self.c2_r(remaining1) + remaining1)
        remaining3 = self.act(self.c3_r(remaining2) + remaining2)
        distilled = (  # each (B, C/2, H, W)
            self.act(self.c1_d(features)),
            self.act(self.c2_d(remaining1)),
            self.act(self.c3_d(remaining2)),
            self.act(self.c4(remaining3)),
        )
        return self.esa(self.c5(torch.cat(distilled, 1)))


class RFDN(nn.Module):
    """Residual feature distillation network: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*scale, ...).

    The output is not clamped. Any size from 1x1 on works. There is no receptive radius: the grid of
    the spatial attention depends on the size of the picture.

    Args:
        config: Shape of the network; the challenge's when left out.
    """

    def __init__(self, config: RFDNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RFDNConfig()
        channels = config.channels
        self.fea_conv = nn.Conv2d(3, channels, 3, padding=1)
        for number in range(1, config.blocks + 1):
            setattr(self, f"B{number}", RFDB(config))
        self.c = nn.Sequential(
            nn.Conv2d(config.blocks * channels, channels, 1), nn.LeakyReLU(0.05, inplace=True)
        )
        self.LR_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(channels, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    def forward(self, image: Tensor) -> Tensor:
        first = features = self.fea_conv(255 * image)  # trained on 0..255; (B, C, H, W)
        outputs: list[Tensor] = []
        for number in range(1, self.config.blocks + 1):
            features = self.get_submodule(f"B{number}")(features)
            outputs.append(features)
        fused = self.LR_conv(self.c(torch.cat(outputs, 1))) + first
        return self.upsampler(fused) / 255
