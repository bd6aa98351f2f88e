"""The network of PAN, readable top to bottom with the paper at hand.

Zhao, Kong, He, Qiao, Dong: Efficient Image Super-Resolution Using Pixel Attention,
ECCV 2020 Workshops, https://arxiv.org/abs/2010.01073.

Attribute names are those of the authors' state dictionaries, so that their files load strictly.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from lowvis_shared.errors import UsageError
from torch import Tensor, nn

Attention = Literal["pixel", "channel", "spatial", "none"]
"""How a feature map is weighted: per value, per channel, per position, or not at all (Figure 2)."""

Block = Literal["scpa", "residual"]
"""Trunk block: self-calibrated with pixel attention (Section 3.2) or plain residual (baseline)."""

SCALES = (2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class PANConfig:
    """Shape of a PAN; the defaults are the paper's network.

    Attributes:
        scale: Upscaling factor: 2, 3 or 4.
        channels: Width of the trunk (``nf`` of the paper).
        reconstruction_channels: Width of the reconstruction (``unf``).
        blocks: Number of trunk blocks (``nb``).
        block: Kind of trunk block.
        trunk_attention: Attention in the upper branch of each SC-PA block.
        reconstruction_attention: Attention after each upsampling convolution (U-PA).
    """

    scale: int = 4
    channels: int = 40
    reconstruction_channels: int = 24
    blocks: int = 16
    block: Block = "scpa"
    trunk_attention: Attention = "pixel"
    reconstruction_attention: Attention = "pixel"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(f"scale is {self.scale}; PAN knows 2, 3 and 4")
        if self.channels < 2 or self.channels % 2:
            raise UsageError(f"channels is {self.channels}; an even number of at least 2 is needed")
        if self.blocks < 1 or self.reconstruction_channels < 1:
            raise UsageError("blocks and reconstruction_channels must be at least 1")

    @property
    def receptive_radius(self) -> int:
        """Input pixels on each side that an output pixel depends on, from the layers.

        Not defined for channel attention, whose pooling sees the whole picture.
        """
        radius = 0
        for factor in reversed(upsampling_factors(self.scale)):
            # From the output backwards: HRconv and upconv, and conv_last behind the last stage.
            radius += 2 if radius else 3
            radius = -(-radius // factor)
        return radius + 1 + 2 * self.blocks + 1  # trunk_conv, two 3x3 in each block, conv_first


def upsampling_factors(scale: int) -> tuple[int, ...]:
    """Factors of the reconstruction stages: scale 4 is two stages of 2."""
    return (2, 2) if scale == 4 else (scale,)


class GlobalPool(nn.Module):
    """Mean over all positions: (B, C, H, W) -> (B, C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)


def attention_logits(kind: Attention, channels: int) -> nn.Module | None:
    """One 1x1 convolution that computes the attention before the sigmoid (equations 1 to 3).

    Pixel attention keeps (C, H, W), channel attention pools to (C, 1, 1) first, spatial
    attention yields (1, H, W).
    """
    if kind == "pixel":
        return nn.Conv2d(channels, channels, 1)
    if kind == "channel":
        return nn.Sequential(GlobalPool(), nn.Conv2d(channels, channels, 1))
    if kind == "spatial":
        return nn.Conv2d(channels, 1, 1)
    return None


class PixelAttention(nn.Module):
    """Attention of the reconstruction (PA in U-PA): y * sigmoid(conv(y))."""

    def __init__(self, kind: Attention, channels: int) -> None:
        super().__init__()
        self.conv = attention_logits(kind, channels)
        self.sigmoid = nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        if self.conv is None:
            return features
        return features * self.sigmoid(self.conv(features))


class PAConv(nn.Module):
    """Upper branch of an SC-PA block: k4(k3(x) * sigmoid(k2(x)))."""

    def __init__(self, kind: Attention, channels: int) -> None:
        super().__init__()
        self.k2 = attention_logits(kind, channels)
        self.sigmoid = nn.Sigmoid()
        self.k3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.k4 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        weighted = self.k3(features)
        if self.k2 is not None:
            weighted = weighted * self.sigmoid(self.k2(features))
        return self.k4(weighted)


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention (Section 3.2): (B, C, H, W) -> the same."""

    def __init__(self, config: PANConfig) -> None:
        super().__init__()
        channels, half = config.channels, config.channels // 2
        self.conv1_a = nn.Conv2d(channels, half, 1, bias=False)
        self.conv1_b = nn.Conv2d(channels, half, 1, bias=False)
        self.k1 = nn.Sequential(nn.Conv2d(half, half, 3, padding=1, bias=False))
        self.PAConv = PAConv(config.trunk_attention, half)
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, features: Tensor) -> Tensor:
        branch_a = self.lrelu(self.k1(self.lrelu(self.conv1_a(features))))  # (B, C/2, H, W)
        branch_b = self.lrelu(self.PAConv(self.lrelu(self.conv1_b(features))))
        return self.conv3(torch.cat((branch_a, branch_b), 1)) + features


class ResidualBlock(nn.Module):
    """Plain residual block of the ablation: conv, LeakyReLU, conv, attention, + input."""

    def __init__(self, config: PANConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.conv2 = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.attention = PixelAttention(config.trunk_attention, config.channels)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, features: Tensor) -> Tensor:
        return self.attention(self.conv2(self.lrelu(self.conv1(features)))) + features


class PAN(nn.Module):
    """Pixel attention network: (B, 3, H, W) RGB in [0, 1] -> (B, 3, H*scale, W*scale).

    The output is not clamped. Any size from 1x1 on works.

    Args:
        config: Shape of the network; the paper's x4 when left out.
    """

    def __init__(self, config: PANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PANConfig()
        width = config.reconstruction_channels
        block = SCPA if config.block == "scpa" else ResidualBlock
        self.conv_first = nn.Conv2d(3, config.channels, 3, padding=1)
        self.SCPA_trunk = nn.Sequential(*(block(config) for _ in range(config.blocks)))
        self.trunk_conv = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        for stage, _ in enumerate(upsampling_factors(config.scale), start=1):
            incoming = config.channels if stage == 1 else width
            setattr(self, f"upconv{stage}", nn.Conv2d(incoming, width, 3, padding=1))
            setattr(self, f"att{stage}", PixelAttention(config.reconstruction_attention, width))
            setattr(self, f"HRconv{stage}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.2)
        self.SCPA_trunk.apply(_initialise_trunk)

    @property
    def receptive_radius(self) -> int:
        """Input pixels on each side that an output pixel depends on."""
        return self.config.receptive_radius

    def forward(self, image: Tensor) -> Tensor:
        first = self.conv_first(image)  # (B, C, H, W)
        features = first + self.trunk_conv(self.SCPA_trunk(first))
        return self.reconstruct(features) + F.interpolate(
            image, scale_factor=self.config.scale, mode="bilinear", align_corners=False
        )

    def reconstruct(self, features: Tensor) -> Tensor:
        """U-PA stages and last convolution: (B, C, H, W) -> (B, 3, H*scale, W*scale)."""
        for stage, factor in enumerate(upsampling_factors(self.config.scale), start=1):
            upsampled = F.interpolate(features, scale_factor=factor, mode="nearest")
            features = self.get_submodule(f"upconv{stage}")(upsampled)
            features = self.lrelu(self.get_submodule(f"att{stage}")(features))
            features = self.lrelu(self.get_submodule(f"HRconv{stage}")(features))
        return self.conv_last(features)

    @classmethod
    def from_pretrained(cls, name: str = "x4", *, weights: str | Path = "own") -> Self:
        """Return a PAN with trained weights, in evaluation mode, on the CPU.

        Args:
            name: Scale: ``x2``, ``x3`` or ``x4``.
            weights: ``own`` (in the package), ``official`` (the authors' files), or a path.

        Raises:
            UsageError: The name is not one of the three.
            WeightsError: The file is missing, damaged, or of another network.
        """
        # Here, not above: weights.py describes files in terms of this module's configuration.
        from lowvis_pan.weights import load_weights

        scales = {f"x{scale}": scale for scale in SCALES}
        if name not in scales:
            raise UsageError(f"there is no PAN '{name}'", hint="one of " + ", ".join(scales))
        network = cls(PANConfig(scale=scales[name]))
        load_weights(network, weights)
        return network.eval()


def ablation_configs(scale: int = 4) -> dict[str, PANConfig]:
    """Networks of the paper's ablation by name (Section 4.3), as configurations of one model."""
    paper = PANConfig(scale=scale)
    names: tuple[Attention, ...] = ("pixel", "channel", "spatial", "none")
    configs = {
        f"scpa-{trunk}-upa-{head}": replace(
            paper, trunk_attention=trunk, reconstruction_attention=head
        )
        for trunk, head in [(name, name) for name in names] + [("pixel", "none"), ("none", "pixel")]
    }
    for name in ("pixel", "none"):
        configs[f"residual-{name}"] = replace(paper, block="residual", trunk_attention=name)
    return configs


def _initialise_trunk(module: nn.Module) -> None:
    """Kaiming-normal (fan in) times 0.1, as residual trunks of this family start."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in")
        with torch.no_grad():
            module.weight.mul_(0.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
