"""Attention that several networks share: by contrast (IMDN, BSRN) and by place (RFDN, RLFN, BSRN).

Attribute names are those of the authors' state dictionaries.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_ESA_INPUT = 15
"""Pixels that ESA needs on each side: 15 become 7 behind the 3x3 convolution of stride 2."""


class CCA(nn.Module):
    """Contrast-aware channel attention: (B, C, H, W) -> the same.

    Hui et al., https://arxiv.org/abs/1909.11856, Section 3.2: a channel is weighted by its mean
    plus its standard deviation over the whole picture.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        # Unlike the square root of a variance, torch's deviation has a gradient where it is zero.
        deviation, mean = torch.std_mean(features, (2, 3), correction=0, keepdim=True)
        return features * self.conv_du(deviation + mean)  # weights: (B, C, 1, 1)


class ESA(nn.Module):
    """Enhanced spatial attention with one convolution behind the pooling: (B, C, H, W) -> the same.

    Kong et al., https://arxiv.org/abs/2205.07514; the grid of the pooling starts at the upper left
    corner and covers the whole picture, so that results depend on the picture's size.

    Args:
        channels: C.
        width: Channels inside.
        convolution: Makes the 3x3 convolutions, called as ``nn.Conv2d`` is.
    """

    def __init__(
        self, channels: int, width: int, *, convolution: Callable[..., nn.Module] = nn.Conv2d
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv_f = nn.Conv2d(width, width, 1)
        self.conv2 = convolution(width, width, 3, stride=2)
        self.pool = nn.MaxPool2d(7, stride=3)
        self.conv3 = convolution(width, width, 3, padding=1)
        self.conv4 = nn.Conv2d(width, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[-2:]
        reduced = self.conv1(features)  # (B, width, H, W)
        # The authors' networks refuse pictures below 15 pixels. Here their edges are repeated all
        # around until the pooling has one position, and what it says of the repeated part is cut
        # off again. Larger pictures are not padded, so that their results are the authors'.
        left, right = _margins(width)
        top, bottom = _margins(height)
        padded = reduced
        if left + right + top + bottom:
            padded = F.pad(reduced, (left, right, top, bottom), mode="replicate")
        coarse = self.transform(self.pool(self.conv2(padded)))  # (B, width, about H/6, about W/6)
        spread = F.interpolate(coarse, padded.shape[-2:], mode="bilinear", align_corners=False)
        spread = spread[..., top : top + height, left : left + width]
        return features * self.sigmoid(self.conv4(spread + self.conv_f(reduced)))

    def transform(self, pooled: Tensor) -> Tensor:
        """Process the pooled features: (B, width, h, w) -> the same."""
        return self.conv3(pooled)


class DeepESA(ESA):
    """Enhanced spatial attention with three convolutions: (B, C, H, W) -> the same.

    Liu et al., Residual Feature Aggregation Network for Image Super-Resolution, CVPR 2020.

    Args:
        channels: C.
        width: Channels inside.
        activation: Follows the first two of the three.
        convolution: Makes the 3x3 convolutions, called as ``nn.Conv2d`` is.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        activation: nn.Module,
        convolution: Callable[..., nn.Module] = nn.Conv2d,
    ) -> None:
        super().__init__(channels, width, convolution=convolution)
        self.conv_max = convolution(width, width, 3, padding=1)
        self.conv3_ = convolution(width, width, 3, padding=1)
        self.activation = activation

    def transform(self, pooled: Tensor) -> Tensor:
        """Process the pooled features: (B, width, h, w) -> the same."""
        features = self.activation(self.conv_max(pooled))
        return self.conv3_(self.activation(self.conv3(features)))


def _margins(size: int) -> tuple[int, int]:
    """Pixels to add before and after a side for ESA."""
    missing = max(SMALLEST_ESA_INPUT - size, 0)
    return missing // 2, missing - missing // 2
