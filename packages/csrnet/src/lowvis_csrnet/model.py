"""CSRNet and CSRNet-L, readable top to bottom with the paper at hand.

A small network works on each pixel alone (1x1 convolutions); a condition network looks at the whole
picture and scales and shifts its features (global feature modulation, GFM, section 3 of the paper).
Attribute names are those of the authors' state dictionaries, so that their files load strictly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from lowvis_shared.errors import InputError, UsageError
from torch import Tensor, nn

ConditionSource = Literal["network", "brightness", "mean", "histogram"]
"""What the condition vector is made of; all but ``network`` are of the paper's ablation."""

Modulation: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
"""Scale and shift of each of the three layers."""

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a part of a picture."""

SMALLEST_SIDE = 5
"""The condition network takes no smaller picture: its 7x7 kernel pads one pixel."""

_HISTOGRAM_BINS = 256
_BRIGHTNESS = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True, kw_only=True)
class CSRNetConfig:
    """Shape of a CSRNet; the defaults are the paper's.

    Attributes:
        base_features: Channels of the base network (``base_nf`` in the authors' code).
        condition_features: Channels of the condition network (``cond_nf``).
        condition: What the condition is made of, concatenated; empty for the base network alone.
    """

    base_features: int = 64
    condition_features: int = 32
    condition: tuple[ConditionSource, ...] = ("network",)

    def __post_init__(self) -> None:
        if min(self.base_features, self.condition_features) < 1:
            raise UsageError("a layer needs at least one feature")
        known = {"network", "brightness", "mean", "histogram"}
        if not set(self.condition) <= known or len(set(self.condition)) < len(self.condition):
            raise UsageError(
                f"condition={self.condition} is not made of {', '.join(sorted(known))}"
            )

    @classmethod
    def of_condition(cls, text: str) -> "CSRNetConfig":
        """Return the shape for a condition such as ``network+mean``, or ``none``.

        Raises:
            UsageError: There is no such condition.
        """
        sources = () if text == "none" else tuple(text.split("+"))
        return cls(condition=cast("tuple[ConditionSource, ...]", sources))

    @property
    def condition_size(self) -> int:
        """Length of the condition vector."""
        sizes = {
            "network": self.condition_features,
            "brightness": 1,
            "mean": 3,
            "histogram": 3 * _HISTOGRAM_BINS,
        }
        return sum(sizes[source] for source in self.condition)


class ConditionNetwork(nn.Module):
    """Three strided convolutions: (B, 3, H, W) -> (B, C, h, w), about an eighth of each side.

    The first one pads 1 pixel, not 3, as the authors' does. CSRNet takes the mean of what it gives.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, features, 7, stride=2, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(features, features, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[-2:]) < SMALLEST_SIDE:
            raise InputError(
                f"the condition network needs {SMALLEST_SIDE} pixels each way, "
                f"not {image.shape[-1]}x{image.shape[-2]}"
            )
        features = F.relu(self.conv1(image))
        features = F.relu(self.conv2(features))
        return F.relu(self.conv3(features))


@dataclass(frozen=True, slots=True)
class FoldedNetwork:
    """What CSRNet is for one picture: a network of three layers on single pixels, exactly.

    GFM folds into the 1x1 convolutions: ``W' = (1 + scale) W``, ``b' = (1 + scale) b + shift``.

    Attributes:
        weights: (64, 3), (64, 64) and (3, 64).
        biases: (64), (64) and (3).
    """

    weights: tuple[Tensor, Tensor, Tensor]
    biases: tuple[Tensor, Tensor, Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Run on (3, P) pixels in the network's input space; (3, P), not clamped."""
        first, second, third = self.weights
        pixels = torch.addmm(self.biases[0][:, None], first, pixels).relu_()
        pixels = torch.addmm(self.biases[1][:, None], second, pixels).relu_()
        return torch.addmm(self.biases[2][:, None], third, pixels)

    def to(self, place: torch.device | torch.dtype) -> "FoldedNetwork":
        """Return it on another device or in another precision."""
        first, second, third = (weight.to(place) for weight in self.weights)
        one, two, three = (bias.to(place) for bias in self.biases)
        return FoldedNetwork((first, second, third), (one, two, three))


class CSRNet(nn.Module):
    """CSRNet: 36,489 parameters, of which 4,611 are the base network.

    Args:
        config: Its shape.
    """

    def __init__(self, config: CSRNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CSRNetConfig()
        base, condition = config.base_features, config.condition_size
        if "network" in config.condition:
            self.cond_net = ConditionNetwork(config.condition_features)
        if condition:
            self.cond_scale1 = nn.Linear(condition, base)
            self.cond_scale2 = nn.Linear(condition, base)
            self.cond_scale3 = nn.Linear(condition, 3)
            self.cond_shift1 = nn.Linear(condition, base)
            self.cond_shift2 = nn.Linear(condition, base)
            self.cond_shift3 = nn.Linear(condition, 3)
        self.conv1 = nn.Conv2d(3, base, 1)
        self.conv2 = nn.Conv2d(base, base, 1)
        self.conv3 = nn.Conv2d(base, 3, 1)

    def forward(self, image: Tensor, reference: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """Retouch pictures.

        Args:
            image: (B, 3, H, W), nominally in [0, 1], in the input space of the weights.
            reference: The pictures that the conditions are taken from: (B, 3, h, w), or B pictures
                (1, 3, h, w) of their own sizes. The image itself when left out.

        Returns:
            (B, 3, H, W), sRGB, not clamped.

        Raises:
            InputError: A picture is smaller than 5 pixels each way.
        """
        if not self.config.condition:
            features = F.relu(self.conv1(image))
            return self.conv3(F.relu(self.conv2(features)))
        if reference is None or isinstance(reference, Tensor):
            condition = self.condition(image if reference is None else reference)
        else:
            condition = torch.cat([self.condition(each) for each in reference])
        first, second, third = self.modulation(condition)
        features = F.relu(_modulate(self.conv1(image), first))
        features = F.relu(_modulate(self.conv2(features), second))
        return _modulate(self.conv3(features), third)

    def condition(self, image: Tensor) -> Tensor:
        """Return the condition vectors (B, 32) of pictures (B, 3, H, W).

        They depend on the size of a pixel: take pictures whose long edge is 500 pixels, as the
        network was trained on.

        Raises:
            InputError: A picture is smaller than 5 pixels each way.
        """
        parts: list[Tensor] = []
        for source in self.config.condition:
            if source == "network":
                parts.append(self.cond_net(image).mean(dim=(2, 3)))
            elif source == "mean":
                parts.append(image.mean(dim=(2, 3)))
            elif source == "brightness":
                weights = image.new_tensor(_BRIGHTNESS)
                parts.append((image.mean(dim=(2, 3)) @ weights)[:, None])
            else:
                parts.append(_histogram(image))
        return torch.cat(parts, dim=1) if parts else image.new_zeros(len(image), 0)

    def modulation(self, condition: Tensor) -> Modulation:
        """Return scale and shift of each layer, (B, 64), (B, 64) and (B, 3), for conditions."""
        return (
            (self.cond_scale1(condition), self.cond_shift1(condition)),
            (self.cond_scale2(condition), self.cond_shift2(condition)),
            (self.cond_scale3(condition), self.cond_shift3(condition)),
        )

    def fold(self, condition: Tensor) -> FoldedNetwork:
        """Fold the modulation of one condition (1, 32) into the base network: exact.

        Raises:
            InputError: There are several conditions.
        """
        if condition.shape[0] != 1:
            raise InputError("a network is folded for one picture at a time")
        modulation: Sequence[tuple[Tensor, Tensor] | None] = (None, None, None)
        if self.config.condition:
            modulation = self.modulation(condition)
        layers = (self.conv1, self.conv2, self.conv3)
        folded = [_fold(layer, each) for layer, each in zip(layers, modulation, strict=True)]
        first, second, third = folded
        return FoldedNetwork((first[0], second[0], third[0]), (first[1], second[1], third[1]))


class CSRNetL(nn.Module):
    """CSRNet-L, for local effects: 72,329 parameters. This is our reading, not the authors'.

    The journal paper says that the framework extends to local enhancement; neither code nor weights
    nor the layers are public. Here the base network has 3x3 kernels, the condition keeps its maps
    instead of their mean, and the maps of scale and shift, brought to the picture's size, modulate
    each pixel by itself (spatial feature modulation). With 3x3 kernels that are zero but for their
    centre, and a condition that is the same everywhere, it equals CSRNet.

    Args:
        config: Its shape; the condition is the network's.
    """

    receptive_radius = 3
    """Of the base network: three 3x3 convolutions. The condition comes as a picture of its own."""

    def __init__(self, config: CSRNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CSRNetConfig()
        if config.condition != ("network",):
            raise UsageError("CSRNet-L has no other condition than its network's maps")
        base, condition = config.base_features, config.condition_features
        self.cond_net = ConditionNetwork(condition)
        self.cond_scale1 = nn.Conv2d(condition, base, 1)
        self.cond_scale2 = nn.Conv2d(condition, base, 1)
        self.cond_scale3 = nn.Conv2d(condition, 3, 1)
        self.cond_shift1 = nn.Conv2d(condition, base, 1)
        self.cond_shift2 = nn.Conv2d(condition, base, 1)
        self.cond_shift3 = nn.Conv2d(condition, 3, 1)
        self.conv1 = nn.Conv2d(3, base, 3, padding=1)
        self.conv2 = nn.Conv2d(base, base, 3, padding=1)
        self.conv3 = nn.Conv2d(base, 3, 3, padding=1)

    def forward(self, image: Tensor, maps: Tensor | None = None) -> Tensor:
        """Retouch pictures.

        Args:
            image: (B, 3, H, W) in [0, 1], sRGB.
            maps: (B, 32, H, W): the condition at each pixel, as `condition` and `spread` give it;
                of the image itself when left out.

        Returns:
            (B, 3, H, W), sRGB, not clamped.

        Raises:
            InputError: A picture is smaller than 5 pixels each way.
        """
        if maps is None:
            maps = self.spread(self.condition(image), (image.shape[-2], image.shape[-1]))
        features = F.relu(
            self._modulate(self.conv1(image), maps, self.cond_scale1, self.cond_shift1)
        )
        features = F.relu(
            self._modulate(self.conv2(features), maps, self.cond_scale2, self.cond_shift2)
        )
        return self._modulate(self.conv3(features), maps, self.cond_scale3, self.cond_shift3)

    def condition(self, image: Tensor) -> Tensor:
        """Return the condition maps (B, 32, h, w) of pictures (B, 3, H, W)."""
        return self.cond_net(image)

    @staticmethod
    def spread(maps: Tensor, size: tuple[int, int], window: Window | None = None) -> Tensor:
        """Bring condition maps to a picture's size, bilinearly.

        Args:
            maps: (B, 32, h, w).
            size: Height and width of the picture.
            window: Rows and columns that are wanted of it; all when left out.
        """
        rows, columns = window or (slice(0, size[0]), slice(0, size[1]))
        maps = _stretch(maps, 2, size[0], rows)
        return _stretch(maps, 3, size[1], columns)

    @staticmethod
    def _modulate(features: Tensor, maps: Tensor, scale: nn.Conv2d, shift: nn.Conv2d) -> Tensor:
        # 1x1 convolutions and interpolation commute: modulating the spread maps is the same.
        return features + features * scale(maps) + shift(maps)


NETWORKS: Mapping[str, Callable[[CSRNetConfig | None], "CSRNet | CSRNetL"]] = MappingProxyType(
    {"csrnet": CSRNet, "csrnet-l": CSRNetL}
)
"""The networks by name."""


def _modulate(features: Tensor, scale_and_shift: tuple[Tensor, Tensor]) -> Tensor:
    """Global feature modulation: ``y * scale + shift + y`` for each channel."""
    scale, shift = (values[:, :, None, None] for values in scale_and_shift)
    return features * scale + shift + features


def _stretch(maps: Tensor, dimension: int, length: int, part: slice) -> Tensor:
    """Resample one dimension linearly to `length` (pixel centres aligned); return a part of it."""
    cells = maps.shape[dimension]
    position = torch.arange(part.start, part.stop, device=maps.device, dtype=torch.float32)
    position = ((position + 0.5) * (cells / length) - 0.5).clamp(0, cells - 1)
    low = position.long()
    fraction = (position - low).to(maps.dtype)
    shape = [1] * maps.ndim
    shape[dimension] = -1
    first = maps.index_select(dimension, low)
    second = maps.index_select(dimension, (low + 1).clamp(max=cells - 1))
    return torch.lerp(first, second, fraction.view(shape))


def _fold(layer: nn.Conv2d, scale_and_shift: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().flatten(1)
    bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.detach()
    if scale_and_shift is None:
        return weight, bias
    scale, shift = (values[0].detach() for values in scale_and_shift)
    return (1 + scale)[:, None] * weight, (1 + scale) * bias + shift


def _histogram(image: Tensor) -> Tensor:
    """Return the share of pixels in each of 256 bins of each channel: (B, 768)."""
    bins = (image.clamp(0, 1) * (_HISTOGRAM_BINS - 1)).round().long().flatten(2)
    counts = image.new_zeros(*bins.shape[:2], _HISTOGRAM_BINS)
    counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=image.dtype))
    return (counts / bins.shape[2]).flatten(1)
