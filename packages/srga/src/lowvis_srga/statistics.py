"""The statistics of SRGA: trimming, the generalized Gaussian, its divergence and the index.

    v = scores of the patches on their principal axes, all axes together
    p(x) = alpha / (2 b Gamma(1 / alpha)) exp(-(|x| / b)^alpha)         fitted to v by moments
    SRGA = log10(KL(p of the reference || p of the test) + 1e-5) + 5

All of it in float64, and number by number what the authors' script computes.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from lowvis_shared.errors import InputError, UsageError
from numpy.typing import NDArray

TRIM = 5.0
"""Standard deviations beyond which scores are dropped before the fit."""

Center = Literal["mean", "zero"]
"""What the mean absolute deviation is taken about; see `fit_ggd`."""

_FLOOR = 1e-5  # added to the divergence: equal distributions have an index of 0
_LARGEST_EXPONENT = math.log(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True)
class GeneralizedGaussian:
    """A generalized Gaussian distribution about zero: Laplace at `alpha` 1, Gaussian at 2.

    Attributes:
        sigma: Standard deviation.
        alpha: Shape; smaller is more peaked with longer tails.
        count: How many values it was fitted to; 0 where it was not fitted.
        clipped: How many values were dropped as outliers before.
    """

    sigma: float
    alpha: float
    count: int = 0
    clipped: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.sigma < math.inf and 0 < self.alpha < math.inf):
            raise UsageError(
                f"a generalized Gaussian has a positive sigma and alpha, not {self.sigma:g} and "
                f"{self.alpha:g}"
            )

    @property
    def scale(self) -> float:
        """The ``b`` of the density: ``sigma * sqrt(Gamma(1 / alpha) / Gamma(3 / alpha))``."""
        return math.exp(self.log_scale)

    @property
    def saturated(self) -> bool:
        """Whether the shape lies at an end of the grid: the values have no such distribution."""
        return self.alpha <= _grid()[0][0] or self.alpha >= _grid()[0][-1]

    @property
    def log_scale(self) -> float:
        """Its logarithm, which stays finite for every shape."""
        half = (math.lgamma(1 / self.alpha) - math.lgamma(3 / self.alpha)) / 2
        return math.log(self.sigma) + half

    def density(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability density at some values, of the same shape."""
        log_norm = math.log(self.alpha / 2) - self.log_scale - math.lgamma(1 / self.alpha)
        return np.exp(log_norm - (np.abs(values) / self.scale) ** self.alpha)


@cache
def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the shapes that are tried and their ratios sigma^2 / E|x|^2, which fall."""
    alpha = np.arange(0.2, 10.0, 0.001)
    return alpha, np.array([moment_ratio(each) for each in alpha.tolist()])


def moment_ratio(alpha: float) -> float:
    """Return ``rho(alpha) = Gamma(1/alpha) Gamma(3/alpha) / Gamma(2/alpha)^2``, 2 for Laplace."""
    return math.exp(math.lgamma(1 / alpha) + math.lgamma(3 / alpha) - 2 * math.lgamma(2 / alpha))


def fit_ggd(
    values: NDArray[Any], *, trim: float | None = TRIM, center: Center = "mean"
) -> GeneralizedGaussian:
    """Fit a generalized Gaussian by its moments, as the authors' script does.

    Values that lie `trim` standard deviations or more from the mean are dropped, in one pass. Then
    sigma is the root of the mean square (about zero), and alpha the value of the grid 0.2, 0.201,
    ..., 9.999 whose ``rho`` is nearest to sigma^2 / E^2, where E is the mean absolute deviation.

    Args:
        values: Any shape; at least two values.
        trim: Standard deviations; None drops nothing.
        center: What E is taken about: ``"mean"`` as the script has it, which after trimming
            depends a little on the arbitrary signs of the principal axes, or ``"zero"``, which
            does not.

    Raises:
        InputError: Values are not finite, constant, or fewer than two.
        UsageError: ``trim`` is not positive.
    """
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    if flat.size < 2:
        raise InputError(f"a distribution cannot be fitted to {flat.size} values")
    if not np.isfinite(flat).all():
        bad = flat.size - int(np.isfinite(flat).sum())
        raise InputError(f"{bad} of {flat.size} values are infinite or no numbers")
    with np.errstate(over="ignore"):
        kept = _trimmed(flat, trim)
        square = float(np.mean(np.square(kept)))
    if kept.min() == kept.max():
        raise InputError("all values are the same, so that they have no distribution")
    middle = kept.mean() if center == "mean" else 0.0
    deviation = float(np.mean(np.abs(kept - middle)))
    if not (0 < square < math.inf and deviation > 0):
        raise InputError("the values are too large or too small for their squares to be computed")
    alpha, ratios = _grid()
    nearest = int(np.argmin(np.abs(square / deviation**2 - ratios)))
    return GeneralizedGaussian(
        sigma=math.sqrt(square),
        alpha=float(alpha[nearest]),
        count=kept.size,
        clipped=flat.size - kept.size,
    )


def _trimmed(values: NDArray[np.float64], trim: float | None) -> NDArray[np.float64]:
    if trim is None:
        return values
    if not trim > 0:
        raise UsageError(f"trimming at {trim:g} standard deviations leaves nothing")
    mean, bound = values.mean(), trim * values.std()
    if not bound > 0:
        return values
    # The bounds themselves are dropped too, as in the script.
    kept = values[(values > mean - bound) & (values < mean + bound)]
    if kept.size == 0:
        raise InputError(f"no value lies within {trim:g} standard deviations of the mean")
    return kept


def kld_ggd(reference: GeneralizedGaussian, test: GeneralizedGaussian) -> float:
    """Return the Kullback-Leibler divergence KL(reference || test) in nats; not symmetric.

    It is infinite where it exceeds the range of float64. Rounding never makes it negative.
    """
    inner = (
        test.alpha * (reference.log_scale - test.log_scale)
        + math.lgamma((test.alpha + 1) / reference.alpha)
        - math.lgamma(1 / reference.alpha)
    )
    if inner > _LARGEST_EXPONENT:
        return math.inf
    logs = (
        math.log(reference.alpha / test.alpha)
        + test.log_scale
        - reference.log_scale
        + math.lgamma(1 / test.alpha)
        - math.lgamma(1 / reference.alpha)
    )
    return max(0.0, logs + math.exp(inner) - 1 / reference.alpha)


def srga_index(divergence: float) -> float:
    """Return ``log10(divergence + 1e-5) + 5``: 0 for equal distributions, 5 at 1 nat.

    Raises:
        UsageError: The divergence is negative or no number.
    """
    if not divergence >= 0:
        raise UsageError(f"a divergence is not negative, as {divergence} is")
    return math.log10(divergence + _FLOOR) + 5
