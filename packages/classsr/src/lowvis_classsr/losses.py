"""The two losses of the Class-Module (Section 3.3), confident and balanced, and our own measures.

The two take probabilities (B, classes) and are one number each. They pull apart and meet where each
patch is sure of its class and the classes are equally large: one looks at rows, one at columns.
"""

import math
from collections.abc import Sequence

import torch
from lowvis_shared.errors import UsageError
from torch import Tensor

_SMALLEST_SQUARE = 1e-6
"""A quarter of a step of 8 bits, squared: less is no error worth dividing by, nor a root of one."""


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
    """What each branch loses on each patch in decibels, the better its picture is, the more.

    10 / ln 10 (error - least error of any branch) over the geometric mean of the error of the
    picture and the least error of the patch. With the former alone it would be what the picture's
    PSNR falls by, were all its patches to lose so; but large pictures are more of a kind than the
    small ones at hand, where smooth patches lie among hard ones and seem to cost nothing.

    Args:
        errors: Mean squared error of each branch on each patch, (N, classes).
        pictures: Number of the picture of each patch, (N,).

    Returns:
        (N, classes), 0 for the best branch of each patch.
    """
    count = int(pictures.max()) + 1
    of_picture = errors.new_zeros(count).index_add_(0, pictures, errors[:, -1])
    patches = torch.bincount(pictures, minlength=count)
    mean = (of_picture / patches.clamp(min=1))[pictures, None]
    best = errors.min(1, keepdim=True).values
    least = _SMALLEST_SQUARE
    scale = (mean.clamp(min=least) * best.clamp(min=least)).sqrt()
    return 10 / math.log(10) * (errors - best) / scale


def patch_loss(output: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over pictures (B, C, H, W) of the root of their mean squared difference, times weights.

    It asks for PSNR, the same whatever a picture's contrast: L1 over a batch hardly sees the smooth
    patches of the simplest branch. Not in the paper.
    """
    squares = (output - target).square().mean((1, 2, 3))
    roots = (squares + _SMALLEST_SQUARE).sqrt()
    return (roots if weights is None else weights * roots).mean()
