"""Weights that golden tensors were computed with, made anew from the names of the parameters."""

import math
import zlib

import torch
from torch import Tensor, nn


def recipe_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return weights made of names and shapes alone: random, and the same everywhere.

    Kernels have a gain of one, scales, slopes and variances are near 1, biases and means near 0.
    """
    made: dict[str, Tensor] = {}
    for key, tensor in network.state_dict().items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        values = torch.randn(tensor.shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            made[key] = torch.zeros_like(tensor)
        elif tensor.ndim > 1:
            made[key] = values * (1 / math.sqrt(math.prod(tensor.shape[1:])))
        elif key.endswith("running_var"):
            made[key] = 1 + 0.1 * values.abs()
        else:
            made[key] = 0.1 * values + key.endswith(".weight")
    return made
