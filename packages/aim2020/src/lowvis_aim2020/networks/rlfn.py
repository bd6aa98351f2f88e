"""RLFN, the fastest network of the NTIRE 2022 challenge (team ByteESR).

Kong, Li, Liu, Liu, He, Bai, Chen, Fu: Residual Local Feature Network for Efficient
Super-Resolution, CVPR 2022 Workshops, https://arxiv.org/abs/2205.07514.

Attribute names are those of the authors' state dictionary, so that their file loads strictly.
"""

from dataclasses import dataclass

from lowvis_shared.errors import UsageError
from torch import Tensor, nn

from lowvis_aim2020.networks.attention import ESA
from lowvis_aim2020.networks.scales import check_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class RLFNConfig:
    """Shape of an RLFN; the defaults are the challenge's network.

    Attributes:
        scale: Upscaling factor: 2, 3 or 4.
        channels: Width between the blocks.
        block_channels: Width inside a block.
        blocks: Number of blocks.
        attention_channels: Width inside the spatial attention.
    """

    scale: int = 4
    channels: int = 46
    block_channels: int = 48
    blocks: int = 4
    attention_channels: int = 16

    def __post_init__(self) -> None:
        check_scale("RLFN", self.scale)
        counts = (self.channels, self.block_channels, self.blocks, self.attention_channels)
        if min(counts) < 1:
            raise UsageError("channels and blocks must be at least 1")


class RLFB(nn.Module):
    """Residual local feature block (Section 3 of the paper): (B, C, H, W) -> the same."""

    def __init__(self, config: RLFNConfig) -> None:
        super().__init__()
        channels, inner = config.channels, config.block_channels
        self.c1_r = nn.Conv2d(channels, inner, 3, padding=1)
        self.c2_r = nn.Conv2d(inner, inner, 3, padding=1)
        self.c3_r = nn.Conv2d(inner, channels, 3, padding=1)
        self.c5 = nn.Conv2d(channels, channels, 1)
        self.esa = ESA(channels, config.attention_channels)
        self.act = nn.LeakyReLU(0.05, inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        refined = self.act(self.c1_r(features))  # (B, inner, H, W)
        refined = self.act(self.c2_r(refined))
        refined = self.act(self.c3_r(refined))  # (B, C, H, W)
        return self.esa(self.c5(refined + features))


class RLFN(nn.Module):
    """Residual local feature network: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*scale, W*scale).

    The output is not clamped. Any size from 1x1 on works. There is no receptive radius: the grid of
    the spatial attention depends on the size of the picture.

    Args:
        config: Shape of the network; the challenge's when left out.
    """

    def __init__(self, config: RLFNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RLFNConfig()
        channels = config.channels
        self.fea_conv = nn.Conv2d(3, channels, 3, padding=1)
        for number in range(1, config.blocks + 1):
            setattr(self, f"B{number}", RLFB(config))
        self.LR_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(channels, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    def forward(self, image: Tensor) -> Tensor:
        first = features = self.fea_conv(255 * image)  # trained on 0..255; (B, C, H, W)
        for number in range(1, self.config.blocks + 1):
            features = self.get_submodule(f"B{number}")(features)
        return self.upsampler(self.LR_conv(features) + first) / 255
