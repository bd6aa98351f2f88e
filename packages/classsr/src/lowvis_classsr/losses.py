"""The two losses of the Class-Module (Section 3.3), confident and balanced, and one of pictures.

The two take probabilities (B, classes) and are one number each. They pull apart and meet where each
patch is sure of its class and the classes are equally large: one looks at rows, one at columns.
"""

import math
from collections.abc import Sequence

import torch
from lowvis_shared.errors import UsageError
from torch import Tensor


def class_loss(probabilities: Tensor) -> Tensor:
    """Class-Loss: 0 where every patch is sure of its class, classes - 1 where none knows anything.

    The mean over patches of (M - 1) - sum over pairs of |p_a - p_b|, as the authors' code has it.
    Soft routing alone would leave probabilities that blend well and route badly.
    """
    classes = probabilities.shape[1]
    first, second = torch.triu_indices(classes, classes, 1, device=probabilities.device)
    apart = (probabilities[:, first] - probabilities[:, second]).abs().sum(1)
    return (classes - 1 - apart).mean()


def average_loss(probabilities: Tensor, shares: Sequence[float] | None = None) -> Tensor:
    """Average-Loss: 0 where the classes of a batch have their shares, 1 where one class has all.

    sum_a |sum_i p_ia - n s_a| over what that sum is when everything is in the class of the smallest
    share. With equal shares of three classes it is the authors' |...| / (4 n / 3).

    Args:
        probabilities: (B, classes) of the whole batch: the loss is a statistic of it.
        shares: Wanted share of each class; equal ones when left out.

    Raises:
        UsageError: The shares are not positive, or not as many as classes.
    """
    count, classes = probabilities.shape
    wanted = [1.0] * classes if shares is None else list(shares)
    if len(wanted) != classes or not all(0 < each < math.inf for each in wanted):
        raise UsageError(f"shares {wanted} are not {classes} positive numbers")
    targets = probabilities.new_tensor([count * each / sum(wanted) for each in wanted])
    worst = 2 * (count - targets.min())
    return (probabilities.sum(0) - targets).abs().sum() / worst


def regrets(errors: Tensor, pictures: Tensor) -> Tensor:
    """What each branch loses on each patch, in the decibels of the picture it lies in.

    Were all patches of a picture to lose as this one does, its PSNR would fall by that much, to
    first order: 10 / ln 10 (error - least error of any branch) / error of the picture. So a patch
    without edges in a picture full of them counts little, as it does in the picture's PSNR.

    Args:
        errors: Mean squared error of each branch on each patch, (N, classes).
        pictures: Number of the picture of each patch, (N,).

    Returns:
        (N, classes), 0 for the best branch of each patch.
    """
    count = int(pictures.max()) + 1
    of_picture = errors.new_zeros(count).index_add_(0, pictures, errors[:, -1])
    patches = torch.bincount(pictures, minlength=count)
    mean = (of_picture / patches.clamp(min=1)).clamp(min=_SMALLEST_SQUARE)[pictures]
    best = errors.min(1, keepdim=True).values
    return 10 / math.log(10) * (errors - best) / mean[:, None]


def patch_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over pictures (B, C, H, W) of the root of their mean squared difference.

    It asks for PSNR, the same whatever a picture's contrast: L1 over a batch hardly sees the smooth
    patches of the simplest branch. Not in the paper.
    """
    squares = (output - target).square().mean((1, 2, 3))
    return (squares + _SMALLEST_SQUARE).sqrt().mean()


_SMALLEST_SQUARE = 1e-6
"""Keeps the gradient of `patch_loss` finite: a quarter of a step of 8 bits, squared."""
