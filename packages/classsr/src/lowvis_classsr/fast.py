"""Branches for inference: a form with fewer operations, channels last, in half precision if wanted.

The rewrites are exact, up to the rounding of sums taken in another order:

- FSRCNN's transposed convolution of 9x9 and stride 4 is a 3x3 convolution and a pixel shuffle.
  A third of its multiplications are by zero, and it takes 2.5 times less time.
- CARN's batch normalization is folded into the 1x1 convolutions before it.
- Last convolutions compute blocks of pixels as channels (`lowvis_shared.rewrite`).
- Activations are computed in place.
"""

import copy

import torch
import torch.nn.functional as F
from lowvis_shared.rewrite import block_convolution, with_values
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lowvis_classsr.branches import CARN, FSRCNN, NO_MARGINS, RCAN, Margins, SRResNet, Upscaling

_BLOCK = 4
"""Pixels along a side of the blocks that last convolutions compute, where the scale allows."""


class FastBranch(nn.Module):
    """A branch rewritten to run faster; it takes and returns float32 as the branch does.

    Args:
        branch: The branch; it is copied and not changed.
        scale: Its output size over its input size.
        dtype: Precision of the body; the last step (skip, mean color) is always in float32.
    """

    def __init__(self, branch: Upscaling, scale: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        branch = copy.deepcopy(branch).eval().requires_grad_(False)
        if isinstance(branch, FSRCNN):
            _rewrite_tail(branch, scale)
        elif isinstance(branch, CARN):
            for module in list(branch.modules()):
                if isinstance(module, nn.Sequential):
                    _fold_normalization(module)
            branch.set_submodule("exit", _last(branch.exit, scale))
        elif isinstance(branch, SRResNet):
            branch.set_submodule("conv_last", _last(branch.conv_last, scale))
        elif isinstance(branch, RCAN):
            branch.tail[1] = _last(branch.tail[1], scale)
        for module in branch.modules():
            if isinstance(module, nn.ReLU | nn.LeakyReLU):
                module.inplace = True
        self.dtype = dtype
        self.branch = branch.to(memory_format=torch.channels_last)
        for name, child in branch.named_children():
            if name != "add_mean":  # part of the last step
                child.to(dtype)

    def forward(self, image: Tensor, margins: Margins = NO_MARGINS) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        output = self.branch.body_of(image.to(self.dtype), margins)
        return self.branch.finish(output.float(), image, margins)


class _Blocks(nn.Module):
    """A last convolution that computes blocks of pixels as channels, of maps of any size."""

    def __init__(self, convolution: nn.Conv2d, block: int) -> None:
        super().__init__()
        self.convolution = block_convolution(convolution, block)
        self.block = block

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        missing = (0, -width % self.block, 0, -height % self.block)
        if any(missing):  # what the convolution's own padding would be
            features = F.pad(features, missing)
        output = F.pixel_shuffle(self.convolution(features), self.block)
        return output[:, :, :height, :width]


def _rewrite_tail(branch: FSRCNN, scale: int) -> None:
    """Put a convolution and a pixel shuffle in the place of the transposed convolution.

    Output pixel ``scale * y + r`` takes input row ``y + delta`` times tap
    ``r + padding - scale * delta`` of the kernel, where there is such a tap.
    """
    tail = branch.tail_conv
    padding = int(tail.padding[0])
    weight = tail.weight.detach()  # (C, 3, 9, 9)
    reach = -(-4 // scale)
    side = 2 * reach + 1
    kernel = weight.new_zeros(3, scale, scale, weight.shape[0], side, side)
    taps = [
        (place, offset + reach, place + padding - scale * offset)
        for place in range(scale)
        for offset in range(-reach, reach + 1)
        if 0 <= place + padding - scale * offset < weight.shape[2]
    ]
    for row, at_row, tap_row in taps:
        for column, at_column, tap_column in taps:
            value = weight[:, :, tap_row, tap_column].T  # (3, C)
            kernel[:, row, column, :, at_row, at_column] = value
    layer = nn.Conv2d(weight.shape[0], 3 * scale**2, side, padding=reach)
    layer = with_values(layer, kernel.flatten(0, 2), tail)
    branch.set_submodule("tail_conv", nn.Sequential(layer, nn.PixelShuffle(scale)))


def _fold_normalization(layers: nn.Sequential) -> None:
    for index, layer in enumerate(list(layers)):
        before = layers[index - 1]
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            layers[index - 1] = fuse_conv_bn_eval(before, layer)
            layers[index] = nn.Identity()


def _last(convolution: nn.Module, scale: int) -> nn.Module:
    if not isinstance(convolution, nn.Conv2d) or scale % 2:
        return convolution
    return _Blocks(convolution, min(scale, _BLOCK))
