"""The four networks that ClassSR accelerates, each at any width, to be read beside their papers.

FSRCNN (Dong et al., ECCV 2016), CARN (Ahn et al., ECCV 2018), SRResNet (Ledig et al., CVPR 2017, as
in ESRGAN) and RCAN (Zhang et al., ECCV 2018), in the forms that ClassSR uses (Section 4.1).

All take and return RGB in 0..1, (B, 3, H, W) -> (B, 3, H*scale, W*scale), not clamped. Attribute
names are those of the authors' state dictionaries, so that their files load strictly.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import cast

import torch
import torch.nn.functional as F
from lowvis_shared.errors import UsageError, WeightsError
from torch import Tensor, nn

SCALES = (1, 2, 3, 4)
"""Output size over input size; 1 restores a picture at its own size, as denoising does."""

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean color of DIV2K, which CARN and RCAN subtract."""


def upsampling_factors(scale: int) -> tuple[int, ...]:
    """Factors of the pixel shuffles: scale 4 is two stages of 2, scale 1 is none."""
    return {1: (), 2: (2,), 3: (3,), 4: (2, 2)}[scale]


@dataclass(frozen=True, slots=True)
class Margins:
    """Context around the part of a map that is wanted, in its pixels: looked at, then cut off.

    A picture is divided into windows that overlap by their context. Layers near the output look at
    less of it than those before them, and compute less of it once it is cut away on the way.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def cut(self, features: Tensor, reach: int = 0) -> tuple[Tensor, "Margins"]:
        """Cut a map (B, C, H, W) down to what layers of this reach look at, and return the rest."""
        kept = Margins(*(min(each, reach) for each in astuple(self)))
        if kept == self:
            return features, self
        height, width = features.shape[2:]
        rows = slice(self.top - kept.top, height - self.bottom + kept.bottom)
        columns = slice(self.left - kept.left, width - self.right + kept.right)
        return features[:, :, rows, columns], kept

    def scaled(self, factor: int) -> "Margins":
        """Return the margins of a map that is so many times larger."""
        return Margins(*(each * factor for each in astuple(self)))


NO_MARGINS = Margins()


class Upscaling(nn.Module, ABC):
    """A network in two parts: the body, which may run in half precision, and a cheap last step.

    Attributes:
        receptive_radius: Input pixels on each side that an output pixel depends on; None where it
            is the whole picture.
        channel_groups: Groups of its grouped convolutions.
    """

    receptive_radius: int | None = None
    channel_groups: int = 1

    def forward(self, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        """Upscale a window, and return what its margins leave of it, ``scale`` times larger."""
        return self.finish(self.body_of(image, margins), image, margins)

    @abstractmethod
    def body_of(self, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        """All that takes time, from the window to the size of the result."""

    def finish(self, output: Tensor, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        """What brings the result of the body to its place, in float32 for full precision."""
        del image, margins
        return output


class FSRCNN(Upscaling):
    """FSRCNN(d, 12, 4): shrink, map, expand, and one transposed convolution of 9x9.

    Args:
        width: ``d``, the channels outside the mapping, at least one for each color.
        scale: Output size over input size.
    """

    def __init__(self, width: int, scale: int = 4) -> None:
        super().__init__()
        narrow, mappings = 12, 4
        if width < 3:
            raise UsageError(f"FSRCNN's width is {width}; it must be at least 3")
        self.head_conv = nn.Sequential(nn.Conv2d(3, width, 5, padding=2), nn.PReLU())
        self.body_conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(width, narrow, 1), nn.PReLU()),
            *(nn.Conv2d(narrow, narrow, 3, padding=1) for _ in range(mappings)),
            nn.PReLU(),
            nn.Sequential(nn.Conv2d(narrow, width, 1), nn.PReLU()),
        )
        # 9 - scale columns too many, half of them on each side; one is given back if that is odd.
        padding = -(-(9 - scale) // 2)
        self.scale = scale
        self.tail_radius = max(-(-padding // scale), (8 - padding) // scale)  # before, and behind
        self.receptive_radius = 2 + mappings + self.tail_radius
        self.tail_conv = nn.ConvTranspose2d(
            width, 3, 9, stride=scale, padding=padding, output_padding=2 * padding - (9 - scale)
        )
        self._start_bilinear(scale)

    def _start_bilinear(self, scale: int) -> None:
        """Let the untrained network upscale bilinearly: three channels carry the colors through.

        The authors' start (Kaiming times 0.1) takes thousands of steps to find that by itself.
        """
        # Where the middle of an input pixel lies in the kernel.
        center = int(self.tail_conv.padding[0]) + (scale - 1) / 2
        places = torch.arange(9)
        slope = (1 - (places - center).abs() / scale).clamp(min=0)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
                    nn.init.dirac_(layer.weight[:3])
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
            self.tail_conv.weight.mul_(0.3)
            for color in range(3):
                self.tail_conv.weight[color] = 0
                self.tail_conv.weight[color, color] = slope[:, None] * slope
            if self.tail_conv.bias is not None:
                nn.init.zeros_(self.tail_conv.bias)

    def body_of(self, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        features = self.body_conv(self.head_conv(image))
        features, margins = margins.cut(features, self.tail_radius)
        return margins.scaled(self.scale).cut(self.tail_conv(features))[0]


class MeanShift(nn.Conv2d):
    """Adds ``sign * value_range * DIV2K_MEAN``: a 1x1 convolution whose weights train like others.

    The authors meant it to be fixed; its 12 values are in their counts of parameters.
    """

    def __init__(self, sign: int, value_range: float = 1.0) -> None:
        super().__init__(3, 3, 1)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3).reshape(3, 3, 1, 1))
            if self.bias is not None:
                self.bias.copy_(sign * value_range * torch.tensor(DIV2K_MEAN))


class EResidualBlock(nn.Module):
    """CARN-M's efficient residual block: two grouped 3x3 convolutions and a 1x1, + input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=groups),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.body(features) + features)


def fusion(stages: int, width: int) -> nn.Sequential:
    """1x1 convolution over everything so far, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d((stages + 1) * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def cascade(features: Tensor, blocks: Sequence[nn.Module], fusions: Sequence[nn.Module]) -> Tensor:
    """CARN's cascade: each block sees the fusion of the input and all blocks before it."""
    collected, fused = features, features
    for block, fuse in zip(blocks, fusions, strict=True):
        collected = torch.cat((collected, block(fused)), 1)  # (B, (k + 1) C, H, W)
        fused = fuse(collected)
    return fused


class CascadingBlock(nn.Module):
    """A cascade of one residual block with itself: its three uses share their weights."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.b1 = EResidualBlock(width, groups)
        self.c1, self.c2, self.c3 = (fusion(stages, width) for stages in (1, 2, 3))

    def forward(self, features: Tensor) -> Tensor:
        return cascade(features, [self.b1] * 3, [self.c1, self.c2, self.c3])


def upsampled(
    features: Tensor, margins: Margins, layers: Iterable[nn.Module]
) -> tuple[Tensor, Margins]:
    """Run 3x3 convolutions and pixel shuffles, and return the map with its margins.

    Two pixels of context are left for the layers behind.
    """
    features, margins = margins.cut(features, 2)
    for layer in layers:
        if isinstance(layer, nn.PixelShuffle):
            features, margins = margins.cut(features, 1)  # which becomes two, or three
            margins = margins.scaled(layer.upscale_factor)
        features = layer(features)
    return features, margins


class UpsampleBlock(nn.Module):
    """Grouped convolutions and pixel shuffles of CARN."""

    def __init__(self, width: int, scale: int, groups: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for factor in upsampling_factors(scale):
            convolution = nn.Conv2d(width, width * factor**2, 3, padding=1, groups=groups)
            stages += [convolution, nn.ReLU(), nn.PixelShuffle(factor)]
        # The authors' keys have two levels of names above the list.
        self.up = nn.ModuleDict({"body": nn.Sequential(*stages)})

    def forward(self, features: Tensor, margins: Margins) -> tuple[Tensor, Margins]:
        return upsampled(features, margins, cast("nn.Sequential", self.up["body"]))


class CARN(Upscaling):
    """CARN-M with four groups: a cascade of three cascading blocks.

    Args:
        width: Channels, a multiple of four.
        scale: Output size over input size.
    """

    channel_groups = 4

    def __init__(self, width: int, scale: int = 4) -> None:
        super().__init__()
        if width % self.channel_groups:
            raise UsageError(f"CARN's width is {width}, no multiple of {self.channel_groups}")
        self.receptive_radius = 1 + 3 * 3 * 2 + _reconstruction_radius(scale, at_output=1)
        self.sub_mean = MeanShift(-1)
        self.add_mean = MeanShift(+1)
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        self.b1, self.b2, self.b3 = (CascadingBlock(width, self.channel_groups) for _ in range(3))
        self.c1, self.c2, self.c3 = (fusion(stages, width) for stages in (1, 2, 3))
        self.upsample = UpsampleBlock(width, scale, self.channel_groups)
        self.exit = nn.Conv2d(width, 3, 3, padding=1)
        if width // self.channel_groups >= 3:  # the colors need channels of one group
            self._start_bilinear()

    @torch.no_grad()
    def _start_bilinear(self) -> None:
        """Let the untrained network upscale about bilinearly: three channels carry the colors.

        They pass every ReLU, being positive, and batch normalization, whose statistics start at 0
        and 1. By itself the network takes thousands of steps to find that.
        """
        mean = torch.tensor(DIV2K_MEAN)
        for layer, bias in ((self.entry, mean), (self.exit, -mean)):
            layer.weight.mul_(0.3 if layer is self.exit else 1.0)
            nn.init.dirac_(layer.weight[:3])
            _set_bias(layer, bias)
        blocks = [self.b1, self.b2, self.b3]
        for each in blocks:
            _clear_colors(each.b1.body[-1])
        for cascading in (self, *blocks):
            for fuse in (cascading.c1, cascading.c2, cascading.c3):
                nn.init.dirac_(_clear_colors(fuse[0]).weight[:3])
        for module in self.upsample.modules():
            if isinstance(module, nn.Conv2d):
                _upsample_colors(module)

    def body_of(self, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        features = self.entry(self.sub_mean(image))
        blocks, fusions = [self.b1, self.b2, self.b3], [self.c1, self.c2, self.c3]
        features, margins = self.upsample(cascade(features, blocks, fusions), margins)
        return margins.cut(self.exit(features))[0]

    def finish(self, output: Tensor, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        del image, margins
        return self.add_mean(output)


class ResidualBlock(nn.Module):
    """3x3, ReLU, 3x3, + input, without normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.conv2(F.relu(self.conv1(features)))


class SRResNet(Upscaling):
    """The SRResNet of ESRGAN's code (MSRResNet): residual trunk, + the picture upsampled.

    Args:
        width: Channels.
        scale: Output size over input size.
        blocks: Residual blocks.
    """

    def __init__(self, width: int, scale: int = 4, blocks: int = 16) -> None:
        super().__init__()
        self.scale = scale
        self.receptive_radius = 1 + 2 * blocks + _reconstruction_radius(scale, at_output=2)
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.recon_trunk = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        for stage, factor in enumerate(upsampling_factors(scale), start=1):
            setattr(self, f"upconv{stage}", nn.Conv2d(width, width * factor**2, 3, padding=1))
        self.HRconv = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1)
        self.apply(_initialise_small)

    def body_of(self, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        features = self.recon_trunk(self.lrelu(self.conv_first(image)))  # no skip around the trunk
        layers: list[nn.Module] = []
        for stage, factor in enumerate(upsampling_factors(self.scale), start=1):
            layers += [self.get_submodule(f"upconv{stage}"), nn.PixelShuffle(factor), self.lrelu]
        features, margins = upsampled(features, margins, layers)
        return margins.cut(self.conv_last(self.lrelu(self.HRconv(features))))[0]

    def finish(self, output: Tensor, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        if self.scale == 1:
            return output + margins.cut(image)[0]
        image, margins = margins.cut(image, 1)
        enlarged = F.interpolate(
            image, scale_factor=self.scale, mode="bilinear", align_corners=False
        )
        return output + margins.scaled(self.scale).cut(enlarged)[0]


class ChannelAttention(nn.Module):
    """RCAN's channel attention: every channel weighted after the means of all over the picture."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(width, width // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(width // reduction, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features * self.conv_du(features.mean((2, 3), keepdim=True))


class RCAB(nn.Module):
    """Residual channel attention block: 3x3, ReLU, 3x3, channel attention, + input."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            ChannelAttention(width, reduction),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


class ResidualGroup(nn.Module):
    """RCABs and a 3x3, + input."""

    def __init__(self, width: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(RCAB(width, reduction) for _ in range(blocks)),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


class RCAN(Upscaling):
    """RCAN: residual groups of channel attention blocks, with a long skip.

    Inside, values are 0..255 as the authors' weights want them. Channel attention looks at the
    whole picture, so the network has no receptive radius.

    Args:
        width: Channels, at least ``reduction``.
        scale: Output size over input size.
        groups: Residual groups.
        blocks: RCABs of a group.
        reduction: Channels over those inside the attention.
    """

    def __init__(
        self, width: int, scale: int = 4, groups: int = 10, blocks: int = 20, reduction: int = 16
    ) -> None:
        super().__init__()
        if width < reduction:
            raise UsageError(f"RCAN's width is {width}; it must be at least {reduction}")
        self.sub_mean = MeanShift(-1, 255.0)
        self.add_mean = MeanShift(+1, 255.0)
        self.head = nn.Sequential(nn.Conv2d(3, width, 3, padding=1))
        self.body = nn.Sequential(
            *(ResidualGroup(width, blocks, reduction) for _ in range(groups)),
            nn.Conv2d(width, width, 3, padding=1),
        )
        upsampler: list[nn.Module] = []
        for factor in upsampling_factors(scale):
            convolution = nn.Conv2d(width, width * factor**2, 3, padding=1)
            upsampler += [convolution, nn.PixelShuffle(factor)]
        self.tail = nn.Sequential(nn.Sequential(*upsampler), nn.Conv2d(width, 3, 3, padding=1))
        for part in (self.head, self.body, self.tail):
            part.apply(_initialise_small)

    def body_of(self, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        features = self.head(self.sub_mean(image * 255))
        upsampler, last = self.tail
        layers = cast("nn.Sequential", upsampler)
        features, margins = upsampled(features + self.body(features), margins, layers)
        return margins.cut(last(features))[0]

    def finish(self, output: Tensor, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        del image, margins
        return self.add_mean(output) / 255


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the networks: what it is called and the widths that ClassSR gives it.

    Attributes:
        title: The name that papers use.
        build: Width and scale -> the network.
        widths: The paper's widths, simple, medium and hard; the last is the original network.
    """

    title: str
    build: Callable[[int, int], Upscaling]
    widths: tuple[int, ...]


BRANCHES: Mapping[str, Branch] = {
    "fsrcnn": Branch("FSRCNN", FSRCNN, (16, 36, 56)),
    "carn": Branch("CARN", CARN, (36, 52, 64)),
    "srresnet": Branch("SRResNet", SRResNet, (36, 52, 64)),
    "rcan": Branch("RCAN", RCAN, (36, 50, 64)),
}
"""The networks by the word that options use."""


def narrowed(state: Mapping[str, Tensor], width: int, network: Upscaling) -> dict[str, Tensor]:
    """Cut the weights of a network down to a narrower one: a far better start than a random one.

    The first channels are kept, of every group where convolutions are grouped, so that the three
    that carry the colors are among them.

    Args:
        state: Weights of the wider network.
        width: Its width.
        network: The narrower network; it is not changed.

    Raises:
        WeightsError: The weights are of another network.
    """
    groups = network.channel_groups
    if width % groups:
        raise WeightsError(f"weights of width {width} have no {groups} groups")
    own = network.state_dict()
    if set(own) - set(state) or any(own[key].ndim != state[key].ndim for key in own):
        raise WeightsError("the weights to start from are of another network")
    cut: dict[str, Tensor] = {}
    for key, like in own.items():
        tensor = state[key]
        for dimension, (size, wanted) in enumerate(zip(tensor.shape, like.shape, strict=True)):
            if wanted > size:
                raise WeightsError("the weights to start from are of a narrower network")
            if wanted < size:
                chosen = _first_channels(size, wanted, width, groups, shuffled=dimension == 0)
                tensor = tensor.index_select(dimension, chosen)
        cut[key] = tensor.clone()
    return cut


def _first_channels(size: int, wanted: int, width: int, groups: int, *, shuffled: bool) -> Tensor:
    """Numbers of the channels that a narrower network keeps of a dimension of a weight.

    Before a pixel shuffle every channel stands ``size / width`` times side by side; behind a
    concatenation the channels follow each other as often.
    """
    if size < width:  # the channels of one group, or those inside channel attention
        return torch.arange(wanted)
    times = size // width
    each = width // groups
    kept = torch.arange(width).reshape(groups, each)[:, : wanted // times // groups].flatten()
    if shuffled:
        return (kept[:, None] * times + torch.arange(times)).flatten()
    return (torch.arange(times)[:, None] * width + kept).flatten()


def _clear_colors(layer: nn.Module) -> nn.Conv2d:
    """Let a convolution give nothing in the three channels that carry the colors; return it."""
    convolution = cast("nn.Conv2d", layer)
    nn.init.zeros_(convolution.weight[:3])
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias[:3])
    return convolution


def _set_bias(convolution: nn.Conv2d, values: Tensor) -> None:
    if convolution.bias is not None:
        convolution.bias[: len(values)] = values


def _upsample_colors(convolution: nn.Conv2d) -> None:
    """Let a 3x3 convolution before a pixel shuffle upscale the first three channels bilinearly."""
    factor = math.isqrt(convolution.out_channels // convolution.in_channels)
    places = (torch.arange(factor) + 0.5) / factor - 0.5  # of the new pixels, in old ones
    taps = (1 - (places[:, None] - torch.arange(-1, 2)).abs()).clamp(min=0)  # (factor, 3)
    kernels = (taps[:, None, :, None] * taps[None, :, None, :]).reshape(factor**2, 3, 3)
    _set_bias(convolution, torch.zeros(3 * factor**2))
    for color in range(3):
        places_of_color = slice(color * factor**2, (color + 1) * factor**2)
        convolution.weight[places_of_color] = 0
        convolution.weight[places_of_color, color] = kernels


def _reconstruction_radius(scale: int, *, at_output: int) -> int:
    """Input pixels that the layers from the first upsampling on look around them.

    Args:
        scale: Output size over input size.
        at_output: Radius of the layers behind the last pixel shuffle, in output pixels.
    """
    radius = at_output
    for factor in reversed(upsampling_factors(scale)):
        radius = -(-radius // factor) + 1  # one for the convolution before the shuffle
    return radius


def _initialise_small(module: nn.Module) -> None:
    """Kaiming-normal (fan in) times 0.1 and no bias, as residual trunks of this family start."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in")
        with torch.no_grad():
            module.weight.mul_(0.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
