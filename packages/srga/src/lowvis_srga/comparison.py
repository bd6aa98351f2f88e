"""SRGA of two sets of patches: how differently a network treats the one and the other.

    SRGA = log10(KL(p_reference || p_test) + 1e-5) + 5          p: see `lowvis_srga.statistics`

Each set has its own principal axes; that is the paper's index. ``basis="reference"`` is ours: it
takes the axes and the mean of the reference for both, and so sees what the index is blind to.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from lowvis_shared.errors import InputError, UsageError
from numpy.typing import NDArray
from torch import Tensor

from lowvis_srga.bank import FeatureBank, as_scores
from lowvis_srga.statistics import (
    TRIM,
    Center,
    GeneralizedGaussian,
    fit_ggd,
    kld_ggd,
    srga_index,
)

Basis = Literal["own", "reference"]
"""Whose principal axes scores are on."""

Signs = Literal["patches", "features"]
"""What makes the sign of an axis: its largest score, or its largest feature as in scikit-learn."""

DIMENSIONS = 300
"""Principal axes of the paper, which has 800 patches."""

PATCHES = 800
"""Patches of a set in the paper."""

NOISE_FLOOR = 2.5
"""SRGA of other patches of the same kind: below it, sets of different scenes tell nothing."""

_ALIKE, _APART = 0.03, 1.5
"""Differences of log sigma and of alpha below which distributions coincide, and a difference of the
index on the reference's axes from which on that is an accident."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """SRGA between two sets, and what it comes from.

    Attributes:
        value: The index; 0 where the distributions are the same.
        divergence: KL(reference || test) in nats.
        reference: Distribution of the scores of the reference set.
        test: Of the test set.
        dimensions: Principal axes.
        patches: Patches of each set that were compared.
        dropped: Patches left out because the network diverges on them.
        basis: Whose axes.
        mean_shift: Distance of the mean features, over the root mean square distance of a reference
            patch from its mean: the index itself does not see it. None where it is not known, as
            when patches were left out of one of the sets.
        outside: Part of the test set's variance outside the reference's axes; None where the banks
            were not made together.
        notes: What a reader of the value has to know.
    """

    value: float
    divergence: float
    reference: GeneralizedGaussian
    test: GeneralizedGaussian
    dimensions: int
    patches: int
    dropped: int
    basis: Basis
    mean_shift: float | None
    outside: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)


def default_dimensions(patches: int) -> int:
    """Return the number of axes for so many patches: 300 from 800 on, in proportion below."""
    return DIMENSIONS if patches >= PATCHES else max(1, round(DIMENSIONS / PATCHES * patches))


def srga(
    reference: FeatureBank | NDArray[Any] | Tensor,
    test: FeatureBank | NDArray[Any] | Tensor,
    *,
    dimensions: int | None = None,
    trim: float | None = TRIM,
    center: Center | None = None,
    signs: Signs = "patches",
    basis: Basis = "own",
    drop_diverged: bool = False,
) -> Comparison:
    """Measure how differently a network treats two sets of patches.

    Args:
        reference: Features of the reference set, such as clean patches: a bank, or (n, p).
        test: Features of the same patches in another condition.
        dimensions: Principal axes d, at most n; `default_dimensions` when None.
        trim: As for `fit_ggd`; the paper has 5.
        center: As for `fit_ggd`. When None it is ``"mean"`` as the paper has it, but ``"zero"`` on
            the axes of the reference, where the signs of axes would count.
        signs: The sign of an axis is arbitrary, and with ``center="mean"`` moves alpha, by about
            .01 at 64 patches and .001 at 300. ``"patches"`` costs nothing; ``"features"`` reads
            the features once more and gives the figures of the authors' script.
        basis: ``"own"`` is the paper's index. ``"reference"`` needs banks made together.
        drop_diverged: Leave patches that diverge in either set out of both, instead of refusing.

    Raises:
        InputError: Fewer patches than axes, constant features, features that are not finite, sets
            of different size, network or layer.
        UsageError: The banks were not made together, as ``basis="reference"`` needs.
    """
    if not isinstance(reference, FeatureBank):
        reference = FeatureBank.from_features(reference)
    if not isinstance(test, FeatureBank):
        test = FeatureBank.from_features(test, reference=reference)
    pair = Pair(reference, test, drop_diverged=drop_diverged)
    return pair.compare(dimensions, trim=trim, center=center, signs=signs, basis=basis)


class Pair:
    """Two sets of patches, analysed once to be compared in any number of axes.

    Args:
        reference: The reference set.
        test: The other set.
        drop_diverged: Leave patches that diverge in either set out of both, instead of refusing.
        subset: Which patches to take, (n,); all when None.

    Raises:
        InputError: The sets differ in size, network or layer, a patch diverged, or features are
            constant.
    """

    def __init__(
        self,
        reference: FeatureBank,
        test: FeatureBank,
        *,
        drop_diverged: bool = False,
        subset: NDArray[np.bool_] | None = None,
    ) -> None:
        _check_alike(reference, test)
        keep = np.ones(reference.patches, np.bool_) if subset is None else subset.copy()
        chosen = int(keep.sum())
        if drop_diverged:
            keep &= ~(reference.diverged | test.diverged)
        if keep.sum() < 2:
            raise InputError(
                f"{int(keep.sum())} of {chosen} patches are left to be compared"
                f"{f' of {test.name}' if test.name else ''}"
            )
        self.patches = int(keep.sum())
        self.dropped = chosen - self.patches
        self.paired = not (reference.ids and test.ids) or reference.ids == test.ids
        self.keep = keep
        self._banks = reference, test
        chosen = None if keep.all() else keep  # of all patches a bank finds its axes once
        self._axes = reference.axes(chosen), test.axes(chosen)

    def compare(
        self,
        dimensions: int | None = None,
        *,
        trim: float | None = TRIM,
        center: Center | None = None,
        signs: Signs = "patches",
        basis: Basis = "own",
    ) -> Comparison:
        """Compare the sets; arguments, result and errors as for `srga`."""
        if dimensions is None:
            dimensions = default_dimensions(self.patches)
        reference, test = self._fits(dimensions, basis, trim, center, signs)
        divergence = kld_ggd(reference, test)
        value = srga_index(divergence)
        mean_shift = outside = None
        if self._crossed:
            mean_shift, outside = self._mean_shift(), self._outside(dimensions)
        return Comparison(
            value=value,
            divergence=divergence,
            reference=reference,
            test=test,
            dimensions=dimensions,
            patches=self.patches,
            dropped=self.dropped,
            basis=basis,
            mean_shift=mean_shift,
            outside=outside,
            notes=tuple(self._notes(value, reference, test, dimensions, basis)),
        )

    def index(self, dimensions: int, basis: Basis = "own") -> float:
        """Return the index alone, which is infinite where the test set has none of the axes.

        Args:
            dimensions: Principal axes.
            basis: As for `srga`.

        Raises:
            InputError: Fewer patches than axes.
            UsageError: The axes of the reference are wanted, and the banks were not made together.
        """
        if basis == "reference" and not self.scores(dimensions, basis)[1].any():
            return math.inf
        return srga_index(kld_ggd(*self._fits(dimensions, basis)))

    def _fits(
        self,
        dimensions: int,
        basis: Basis,
        trim: float | None = TRIM,
        center: Center | None = None,
        signs: Signs = "patches",
    ) -> tuple[GeneralizedGaussian, GeneralizedGaussian]:
        """The distributions of the reference and the test set."""
        ours, theirs = self.scores(dimensions, basis)
        if signs == "features":
            ours, theirs = self._signed(ours, theirs, dimensions, basis)
        center = center or ("mean" if basis == "own" else "zero")
        return fit_ggd(ours, trim=trim, center=center), fit_ggd(theirs, trim=trim, center=center)

    def scores(
        self, dimensions: int, basis: Basis = "own"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the scores (n, d) of the reference and the test set.

        Raises:
            InputError: Fewer patches than axes.
            UsageError: The axes of the reference are wanted, and the banks were not made together.
        """
        (values, vectors), own = self._axes
        ours = as_scores(values, vectors, dimensions)
        if basis == "own":
            return ours, as_scores(*own, dimensions)
        if not self._crossed:
            raise UsageError(
                "the test set has not seen this reference set, so it has no scores on its axes",
                hint="make its bank with reference=",
            )
        theirs = np.zeros_like(ours)
        count = min(dimensions, len(values))
        theirs[:, :count] = self._shared[:, :count]
        return ours, theirs

    def _signed(
        self,
        ours: NDArray[np.float64],
        theirs: NDArray[np.float64],
        dimensions: int,
        basis: Basis,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give scores the signs of scikit-learn."""
        turned: list[NDArray[np.float64]] = []
        for bank, (_, vectors) in zip(self._banks, self._axes, strict=True):
            signs = np.ones(dimensions)  # also of axes of no variance
            chosen = vectors[:, :dimensions]
            signs[: chosen.shape[1]] = bank.feature_signs(chosen, self.keep)
            turned.append(signs)
        return ours * turned[0], theirs * turned[1 if basis == "own" else 0]

    @property
    def _crossed(self) -> bool:
        reference, test = self._banks
        return test.cross is not None and test.reference == reference.key

    @cached_property
    def _shared(self) -> NDArray[np.float64]:
        """Scores of the test set on all axes of the reference, about the mean of the reference."""
        reference, test = self._banks
        assert test.cross is not None  # noqa: S101 - `_crossed` was asked
        everyone = ~reference.diverged  # the mean that the products are about is theirs
        whole = np.zeros_like(reference.gram)
        whole[np.ix_(everyone, everyone)] = reference.centered(everyone)
        offset = whole[self.keep].mean(axis=0)  # inner products with the mean of those kept
        # What is constant along a row is left out, as the vectors sum to 0.
        cross = test.cross[np.ix_(self.keep, self.keep)] - offset[self.keep]
        (values, vectors), _ = self._axes
        return cross @ vectors / np.sqrt(values)

    def _mean_shift(self) -> float | None:
        reference, test = self._banks
        # The distance is that of the means of all patches that did not diverge.
        if (self.keep != ~reference.diverged).any() or (self.keep != ~test.diverged).any():
            return None
        (values, _), _ = self._axes
        return test.shift / math.sqrt(values.sum() / self.patches)

    def _outside(self, dimensions: int) -> float:
        _, theirs = self.scores(dimensions, "reference")
        _, (values, _) = self._axes
        # About their own mean: what the shift of the mean is has its own figure.
        inside = float(np.square(theirs - theirs.mean(axis=0)).sum())
        return min(1.0, max(0.0, 1 - inside / float(values.sum())))

    def _notes(
        self,
        value: float,
        reference: GeneralizedGaussian,
        test: GeneralizedGaussian,
        dimensions: int,
        basis: Basis,
    ) -> list[str]:
        notes: list[str] = []
        if self.dropped:
            notes.append(f"without {self.dropped} patches on which the network diverges")
        if not self.paired:
            notes.append(
                f"the sets show different scenes: SRGA below about {NOISE_FLOOR:g} says nothing"
            )
        notes += saturation_notes(reference, test)
        if math.isinf(value):
            notes.append("the divergence exceeds what numbers can hold")
        same = abs(math.log(test.sigma / reference.sigma)) < _ALIKE and (
            abs(test.alpha - reference.alpha) < _ALIKE
        )
        if basis == "own" and same and self._crossed:
            shared = self.index(dimensions, "reference")
            if shared > value + _APART:
                notes.append(
                    "the distributions coincide although the features differ "
                    f"({shared:.2f} on the axes of the reference)"
                )
        return notes


def saturation_notes(reference: GeneralizedGaussian, test: GeneralizedGaussian) -> list[str]:
    """Return what is to be said of distributions whose shape was sought beyond the grid."""
    return [
        f"the shape of the {which} set lies at an end of the grid ({fitted.alpha:.3f}): its scores "
        "are not distributed so"
        for which, fitted in (("reference", reference), ("test", test))
        if fitted.saturated
    ]


def _check_alike(reference: FeatureBank, test: FeatureBank) -> None:
    if reference.patches != test.patches:
        raise InputError(
            f"{reference.patches} patches in the reference set, but {test.patches} in the other",
            hint="SRGA grows with the number of patches: compare equally many",
        )
    for what in ("network", "layer", "width"):
        ours, theirs = getattr(reference, what), getattr(test, what)
        if ours and theirs and ours != theirs:
            raise InputError(f"the sets differ in {what}: {ours} and {theirs}")


def resampled_fits(
    bank: FeatureBank, draws: Sequence[NDArray[np.int64]], dimensions: int
) -> list[GeneralizedGaussian]:
    """Fit the distribution anew for each draw of patches, each draw with axes of its own.

    A resampled set is more alike in itself than new patches are, so that its index is off; how
    much the index *varies* from draw to draw is what this is for. Holding the axes instead costs
    nothing and shows about half of the true variation under noise.

    Args:
        bank: The set.
        draws: Numbers of patches, drawn with replacement.
        dimensions: Principal axes.

    Raises:
        InputError: As for `FeatureBank.scores`.
    """
    return [fit_ggd(bank.scores(dimensions, draw)) for draw in draws]


def indices(
    reference: Sequence[GeneralizedGaussian], test: Sequence[GeneralizedGaussian]
) -> NDArray[np.float64]:
    """Return SRGA for each draw of the same patches in both sets."""
    pairs = zip(reference, test, strict=True)
    return np.array([srga_index(kld_ggd(one, other)) for one, other in pairs])
