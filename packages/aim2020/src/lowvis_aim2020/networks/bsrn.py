"""BSRN: blueprint separable convolutions instead of RFDN's, and both kinds of attention.

Li, Liu, Chen, Cai, Gu, Qiao, Dong: Blueprint Separable Residual Network for Efficient Image
Super-Resolution, CVPR 2022 Workshops, https://arxiv.org/abs/2205.05996.

Attribute names are those of the authors' state dictionary, so that their file loads strictly.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from lowvis_shared.errors import UsageError
from torch import Tensor, nn

from lowvis_aim2020.networks.attention import CCA, DeepESA
from lowvis_aim2020.networks.scales import check_scale

_COPIES = 4  # of the picture, from which the first convolution starts


@dataclass(frozen=True, slots=True, kw_only=True)
class BSRNConfig:
    """Shape of a BSRN; the defaults are the paper's x4.

    Attributes:
        scale: Upscaling factor: 2, 3 or 4.
        channels: Width of the network (``num_feat``).
        blocks: Number of distillation blocks (``num_block``).
    """

    scale: int = 4
    channels: int = 64
    blocks: int = 8

    def __post_init__(self) -> None:
        check_scale("BSRN", self.scale)
        if self.channels < 16 or self.channels % 16:
            raise UsageError(f"channels is {self.channels}; a multiple of 16 is needed")
        if self.blocks < 1:
            raise UsageError("blocks must be at least 1")


class BlueprintConv(nn.Module):
    """Blueprint separable convolution (BSConv): 1x1 over channels, then depthwise over positions.

    Haase, Amthor, https://arxiv.org/abs/2003.13549. Arguments and shapes are those of
    ``nn.Conv2d``.
    """

    def __init__(
        self, incoming: int, outgoing: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.pw = nn.Conv2d(incoming, outgoing, 1, bias=False)
        self.dw = nn.Conv2d(outgoing, outgoing, kernel, stride, padding, groups=outgoing)

    def forward(self, features: Tensor) -> Tensor:
        return self.dw(self.pw(features))


class ESDB(nn.Module):
    """Efficient separable distillation block (Section 3 of the paper): (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        distilled = channels // 2
        self.c1_d = nn.Conv2d(channels, distilled, 1)
        self.c1_r = BlueprintConv(channels, channels, 3, padding=1)
        self.c2_d = nn.Conv2d(channels, distilled, 1)
        self.c2_r = BlueprintConv(channels, channels, 3, padding=1)
        self.c3_d = nn.Conv2d(channels, distilled, 1)
        self.c3_r = BlueprintConv(channels, channels, 3, padding=1)
        self.c4 = BlueprintConv(channels, distilled, 3, padding=1)
        self.act = nn.GELU()
        self.c5 = nn.Conv2d(4 * distilled, channels, 1)
        self.esa = DeepESA(channels, channels // 4, activation=nn.GELU(), convolution=BlueprintConv)
        self.cca = CCA(channels)

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
        return self.cca(self.esa(self.c5(torch.cat(distilled, 1)))) + features


class BSRN(nn.Module):
    """Blueprint separable residual network: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*scale, ...).

    The output is not clamped. Any size from 1x1 on works. There is no receptive radius: the channel
    attention sees the whole picture.

    Args:
        config: Shape of the network; the paper's x4 when left out.
    """

    def __init__(self, config: BSRNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BSRNConfig()
        channels, scale = config.channels, config.scale
        self.fea_conv = BlueprintConv(_COPIES * 3, channels, 3, padding=1)
        for number in range(1, config.blocks + 1):
            setattr(self, f"B{number}", ESDB(channels))
        self.c1 = nn.Conv2d(config.blocks * channels, channels, 1)
        self.GELU = nn.GELU()
        self.c2 = BlueprintConv(channels, channels, 3, padding=1)
        upsample = nn.Sequential(
            nn.Conv2d(channels, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )
        self.upsampler = nn.Sequential(OrderedDict(upsampleOneStep=upsample))

    def forward(self, image: Tensor) -> Tensor:
        first = features = self.fea_conv(torch.cat((image,) * _COPIES, 1))  # (B, C, H, W)
        outputs: list[Tensor] = []
        for number in range(1, self.config.blocks + 1):
            features = self.get_submodule(f"B{number}")(features)
            outputs.append(features)
        fused = self.GELU(self.c1(torch.cat(outputs, 1)))
        return self.upsampler(self.c2(fused) + first)
