"""Layers rewritten to run faster: exact, up to the rounding of sums taken in another order."""

from typing import TypeVar

from torch import Tensor, nn

from lowvis_shared.errors import UsageError

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d)


def block_convolution(convolution: nn.Conv2d, block: int) -> nn.Conv2d:
    """Return a padded 3x3 convolution that computes blocks of pixels as channels.

    It suits a last convolution, whose three outputs leave most of a vector unit idle: it does more
    multiplications and takes less time. The map's height and width must be multiples of ``block``;
    a pixel shuffle by ``block`` gives what the convolution gives.

    Raises:
        UsageError: The convolution has no bias.
    """
    weight = convolution.weight.detach()
    outputs, inputs = weight.shape[:2]
    kernel = weight.new_zeros(outputs, block, block, inputs, block + 2, block + 2)
    for row in range(block):
        for column in range(block):
            kernel[:, row, column, :, row : row + 3, column : column + 3] = weight
    layer = nn.Conv2d(inputs, outputs * block**2, block + 2, stride=block, padding=1)
    return with_values(layer, kernel.flatten(0, 2), convolution)


def with_values(layer: Layer, kernel: Tensor, origin: nn.Conv2d | nn.ConvTranspose2d) -> Layer:
    """Give a layer its kernel and the bias of the layer it stands for, once per output.

    Args:
        layer: What is to run.
        kernel: Its weight, outputs of one output of the origin side by side.
        origin: What it stands for.

    Raises:
        UsageError: The origin has no bias.
    """
    if origin.bias is None:
        raise UsageError("the convolution to rewrite has no bias")
    outputs = kernel.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0]
    bias = origin.bias.detach().repeat_interleave(outputs // origin.out_channels)
    layer.weight = nn.Parameter(kernel.to(origin.weight), requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
