"""Folded: our own entry, a chain of plain 3x3 convolutions that trains as something richer.

While it trains, each convolution is the product of a 3x3 convolution that widens, a 1x1 convolution
that narrows, and an identity: linear maps in a row, which fold into one 3x3 kernel. The kernels are
folded in every step and the picture passes one convolution only, so that training costs hardly more
than the network that is left (Bhardwaj et al.: Collapsible Linear Blocks for Super-Efficient Super
Resolution, MLSys 2022). `fold` leaves just the kernels.

Nothing joins the chain but the picture itself at its end, so at most two feature maps live at a
time, and little but convolutions takes time: what ranks well in run time, activations and memory.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from lowvis_shared.errors import UsageError
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedConfig:
    """Shape of a Folded; the defaults are our entry.

    Attributes:
        scale: Upscaling factor.
        channels: Width of the chain.
        layers: 3x3 convolutions between the first and the last.
        expansion: How many times wider each convolution is while it trains.
        folded: Whether each convolution is its single kernel; such a network is for inference.
    """

    scale: int = 4
    channels: int = 48
    layers: int = 10
    expansion: int = 2
    folded: bool = False

    def __post_init__(self) -> None:
        if min(self.scale, self.channels, self.layers, self.expansion) < 1:
            raise UsageError("scale, channels, layers and expansion must be at least 1")

    @property
    def receptive_radius(self) -> int:
        """Input pixels on each side that an output pixel depends on: one for each layer."""
        return self.layers + 2


class CollapsibleConvolution(nn.Module):
    """A padded 3x3 convolution, the product of a wider one and a narrowing one, plus identity.

    (B, inputs, H, W) -> (B, outputs, H, W); the identity is there where both widths agree.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, expansion * max(inputs, outputs), 3, bias=False)
        self.project = nn.Conv2d(self.expand.out_channels, outputs, 1)
        self.residual = inputs == outputs
        nn.init.kaiming_normal_(self.expand.weight, nonlinearity="linear")
        nn.init.xavier_normal_(self.project.weight, gain=0.5)
        nn.init.zeros_(_bias(self.project))

    def kernel(self) -> Tensor:
        """Fold everything into one kernel (outputs, inputs, 3, 3), in float32."""
        device = self.expand.weight.device.type
        # Shapes alone (the meta device) know no autocast.
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):
            narrow = self.project.weight.flatten(1)  # (outputs, wide)
            kernel = (narrow @ self.expand.weight.flatten(1)).unflatten(
                1, self.expand.weight.shape[1:]
            )
            if not self.residual:
                return kernel
            identity = torch.eye(kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
            return kernel + F.pad(identity[:, :, None, None], (1, 1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.kernel(), self.project.bias, padding=1)

    @torch.no_grad()
    def fold(self) -> nn.Conv2d:
        """Return the same map as one plain convolution."""
        kernel = self.kernel()
        plain = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
        plain.weight.copy_(kernel)
        _bias(plain).copy_(_bias(self.project))
        return plain


class Folded(nn.Module):
    """Chain of 3x3 convolutions: (B, 3, H, W) RGB in 0..1 -> (B, 3, H*scale, W*scale).

    The output is not clamped. Any size from 1x1 on works.

    Args:
        config: Shape of the network; our entry, as it trains, when left out.
    """

    def __init__(self, config: FoldedConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FoldedConfig()
        width, values = config.channels, 3 * config.scale**2
        widths = [3, *[width] * (config.layers + 1), values]
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1)
            if config.folded
            else CollapsibleConvolution(inputs, outputs, config.expansion)
            for inputs, outputs in pairwise(widths)
        )
        # In place where nothing is learnt: with gradients it would copy what it overwrites.
        self.activation = nn.SiLU(inplace=config.folded)
        self.shuffle = nn.PixelShuffle(config.scale)

    def forward(self, image: Tensor) -> Tensor:
        features = image
        for layer in self.layers[:-1]:
            features = self.activation(layer(features))  # (B, channels, H, W)
        values = self.layers[-1](features)  # (B, 3 * scale**2, H, W)
        del features
        # Every output pixel starts from the input pixel it lies in.
        values += image.repeat_interleave(self.config.scale**2, dim=1)
        return self.shuffle(values)

    def fold(self) -> "Folded":
        """Return the same network with one kernel for each layer, in evaluation mode."""
        folded = Folded(replace(self.config, folded=True))
        for index, layer in enumerate(self.layers):
            if isinstance(layer, CollapsibleConvolution):
                folded.layers[index] = layer.fold()
            else:
                folded.layers[index].load_state_dict(layer.state_dict())
        return folded.to(next(self.parameters()).device).eval()


def _bias(layer: nn.Conv2d) -> Tensor:
    if layer.bias is None:
        raise UsageError("a convolution to fold has a bias")
    return layer.bias
