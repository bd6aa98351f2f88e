"""Networks on sets of patches: the index of each, how sure it is, and whether it behaves.

Every set of a network goes through it once. What stays is its `FeatureBank`; the features
themselves are gone when the next set comes, but for those of the reference set.
"""

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from lowvis_shared.candidates import FOREIGN_ERRORS, reason
from lowvis_shared.device import environment
from lowvis_shared.errors import InputError, LowvisError, UsageError
from lowvis_shared.metrics import Protocol, psnr
from numpy.typing import NDArray
from torch import Tensor

from lowvis_srga.bank import FeatureBank, FeatureStore
from lowvis_srga.comparison import (
    Basis,
    Comparison,
    Pair,
    default_dimensions,
    indices,
    resampled_fits,
)
from lowvis_srga.features import FAR_OUT, Tap
from lowvis_srga.patches import Family, PatchSet
from lowvis_srga.statistics import GeneralizedGaussian

logger = logging.getLogger("lowvis")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the parts done and the parts there are."""

_BATCH = 16
_CURVE = (50, 100, 200, 300, 500)  # numbers of axes beside the one asked for
_WIDTH_OF_95 = 1.96  # standard deviations on each side
_RISING: tuple[Family, ...] = ("blur", "noise", "jpeg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is equal for all networks of a scoring.

    Attributes:
        reference: Name of the set that the others are compared with.
        dimensions: Principal axes; `default_dimensions` when None.
        basis: Whose axes; see `lowvis_srga.comparison`.
        drop_diverged: Leave patches that a network diverges on out, instead of refusing the set.
        bootstrap: Draws of patches for confidence intervals; none when 0. On the axes of the
            reference there are none.
        seed: Of those draws.

    Raises:
        UsageError: The number of draws is negative or 1.
    """

    reference: str = "clean"
    dimensions: int | None = None
    basis: Basis = "own"
    drop_diverged: bool = False
    bootstrap: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the number of draws."""
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise UsageError(f"{self.bootstrap} draws have no spread: 0 for none, or at least 2")


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The index at one number of axes: on the axes of each set, and on those of the reference."""

    dimensions: int
    own: float
    shared: float


@dataclass(frozen=True, slots=True)
class SetScore:
    """One network on one set.

    Attributes:
        name: Of the set.
        family: Kind of its degradation.
        degree: Strength of the degradation; None where there is no one number.
        comparison: The index and what it comes from; None where there is a problem.
        interval: 95 % confidence interval over the choice of patches; None where none was drawn.
        curve: The index at other numbers of axes.
        psnr: Of the network's pictures against the high-resolution patches, mean over patches, RGB;
            None where there are no such patches.
        diverged: Patches on which the network diverges.
        problem: Why there is no index.
    """

    name: str
    family: Family
    degree: float | None
    comparison: Comparison | None
    interval: tuple[float, float] | None
    curve: tuple[CurvePoint, ...]
    psnr: float | None
    diverged: int
    problem: str = ""
    draws: NDArray[np.float64] | None = field(default=None, repr=False)

    @property
    def value(self) -> float | None:
        """The index on the axes asked for; None where there is a problem."""
        return None if self.comparison is None else self.comparison.value

    @property
    def own(self) -> float | None:
        """The paper's index; None where there is a problem."""
        point = self._point()
        return None if point is None else point.own

    @property
    def shared(self) -> float | None:
        """The index on the axes of the reference; None where there is a problem."""
        point = self._point()
        return None if point is None else point.shared

    def _point(self) -> CurvePoint | None:
        wanted = None if self.comparison is None else self.comparison.dimensions
        return next((point for point in self.curve if point.dimensions == wanted), None)


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether the index grows with the degree of a degradation.

    Attributes:
        family: The degradation.
        falls: Steps at which it falls or stays.
        holds: Whether it grows at every step.
        text: Where it does not, or that it does.
    """

    family: str
    falls: int
    holds: bool
    text: str


@dataclass(frozen=True, slots=True)
class NetworkScore:
    """One network on all sets.

    Attributes:
        name: Title of the network.
        layer: What was read.
        features: Number of features of a patch.
        sets: Its scores, without the reference set.
        trends: One for each degradation of several degrees.
        psnr: On the reference set, as in `SetScore`.
        mean: Mean index over the sets that all networks have; None where there is none.
        interval: 95 % confidence interval of the mean.
        problem: Why it could not be scored.
    """

    name: str
    layer: str = ""
    features: int = 0
    sets: tuple[SetScore, ...] = ()
    trends: tuple[Trend, ...] = ()
    psnr: float | None = None
    mean: float | None = None
    interval: tuple[float, float] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Scoring:
    """Networks in order of their mean index, the smallest first, those with a problem last.

    Attributes:
        networks: The networks.
        settings: What is equal for all.
        dimensions: Principal axes.
        patches: Patches of a set.
        side: Height and width of a low-resolution patch.
        scale: Upscaling factor.
        source: What the patches were cut from.
        common: Names of the sets that the mean is of.
        environment: Versions and hardware.
    """

    networks: tuple[NetworkScore, ...]
    settings: Settings
    dimensions: int
    patches: int
    side: int
    scale: int
    source: str
    common: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def failed(self) -> tuple[NetworkScore, ...]:
        """The networks with a problem."""
        return tuple(each for each in self.networks if each.problem)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "reference": self.settings.reference,
            "dimensions": self.dimensions,
            "patches": self.patches,
            "side": self.side,
            "scale": self.scale,
            "source": self.source,
            "basis": self.settings.basis,
            "drop_diverged": self.settings.drop_diverged,
            "bootstrap": self.settings.bootstrap,
            "seed": self.settings.seed,
            "mean_over": list(self.common),
            "environment": dict(self.environment),
            "networks": [_network_dict(each) for each in self.networks],
        }


def score(
    networks: Mapping[str, Callable[[], Tap]],
    sets: Sequence[PatchSet],
    settings: Settings | None = None,
    *,
    scale: int = 4,
    source: str = "",
    progress: Progress | None = None,
) -> Scoring:
    """Score networks on the same sets with the same settings.

    A network that fails has a problem, and the others go on; the error of the only one is raised.

    Args:
        networks: Titles, and what opens each network, such as a call of `open_tap`.
        sets: The sets, the reference among them, of equally many patches of equal size.
        settings: What is equal for all; the usual ones when None.
        scale: Upscaling factor.
        source: What the patches were cut from, for the report.
        progress: Called as the work goes on.

    Raises:
        UsageError: There is no such reference set, nothing to compare with it, or no network.
        InputError: The sets differ in number or size of patches, or have fewer than axes.
        LowvisError: The only network fails.
    """
    settings = settings or Settings()
    if settings.basis != "own":  # drawn again, patches have axes of their own only
        settings = replace(settings, bootstrap=0)
    reference = find_reference(sets, settings.reference)
    if not networks:
        raise UsageError("there is no network to score")
    count = len(reference.low)
    dimensions = settings.dimensions
    if dimensions is None:
        dimensions = default_dimensions(count)
    if not 1 <= dimensions <= count:
        raise InputError(
            f"{count} patches have no {dimensions} principal axes",
            hint="take more patches, or fewer dimensions",
        )
    say = progress or _silent
    scored: list[NetworkScore] = []
    for name, open_network in networks.items():
        try:
            scored.append(_score_one(open_network(), reference, sets, settings, dimensions, say))
        except FOREIGN_ERRORS as error:  # anyone's code runs here: its error is the result
            if len(networks) == 1 and isinstance(error, LowvisError):
                raise
            scored.append(NetworkScore(name, problem=reason(error)))
    titles = [each.name for each in scored]
    scored = [
        # Files of one name in two folders have one title.
        replace(each, name=name) if titles.count(each.name) > 1 else each
        for name, each in zip(networks, scored, strict=True)
    ]
    common = _common(scored)
    scored = [_with_mean(each, common) for each in scored]
    return Scoring(
        networks=tuple(sorted(scored, key=_order)),
        settings=settings,
        dimensions=dimensions,
        patches=count,
        side=reference.low.shape[1],
        scale=scale,
        source=source,
        common=common,
        environment=environment(),
    )


def find_reference(sets: Sequence[PatchSet], name: str) -> PatchSet:
    """Return the reference set of sets that go together.

    Raises:
        UsageError: There is no set of that name, nothing to compare with it, or a name twice.
        InputError: The sets differ in number or size of patches.
    """
    names = [each.name for each in sets]
    if name not in names:
        raise UsageError(
            f"there is no reference set '{name}'", hint=f"there are: {', '.join(names)}"
        )
    if len(set(names)) < len(names):
        raise UsageError(f"two sets have the same name: {', '.join(names)}")
    if len(sets) < 2:
        raise UsageError(f"there is no set to compare with '{name}'")
    found = sets[names.index(name)]
    for each in sets:
        if each.low.shape != found.low.shape:
            raise InputError(
                f"{each.name} holds patches of shape {each.low.shape}, {name} of "
                f"{found.low.shape}: all sets need equally many of equal size"
            )
    return found


def read_bank(
    tap: Tap,
    patches: PatchSet,
    store: FeatureStore,
    reference: FeatureBank | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FeatureBank, float | None]:
    """Run a network on a set.

    Args:
        tap: The network.
        patches: The set.
        store: Where its features go, for as many patches.
        reference: Bank of the reference set, of the same network.
        progress: Called with the patches done and the patches there are.

    Returns:
        The bank, and the mean PSNR as in `SetScore`.

    Raises:
        InputError: The network fails, or has the same features for all patches.
        DeviceError: Out of memory.
    """
    decibels: list[float] = []
    protocol = Protocol(color="rgb", border=patches.scale or 0)
    has_inside = patches.high is not None and patches.high.shape[1] > 2 * protocol.border
    total = len(patches.low)
    for start in range(0, total, _BATCH):
        low = torch.from_numpy(patches.low[start : start + _BATCH])
        features, output = tap(low.permute(0, 3, 1, 2).float() / 255)
        # A network that diverges may do so in numbers that are finite still.
        diverged = ~(output.flatten(1).abs().amax(dim=1) <= FAR_OUT)
        store.add(features, diverged)
        if patches.high is not None and has_inside:
            high = patches.high[start : start + _BATCH]
            decibels += _psnr(output[~diverged], high[~diverged.cpu().numpy()], protocol)
        if progress is not None:
            progress(start + len(low), total)
    bank = store.bank(
        reference, ids=patches.ids, name=patches.name, network=tap.name, layer=tap.layer
    )
    return bank, math.fsum(decibels) / len(decibels) if decibels else None


def _psnr(output: Tensor, high: NDArray[np.uint8], protocol: Protocol) -> list[float]:
    pictures = output.permute(0, 2, 3, 1).cpu().numpy()
    return [psnr(each, target, protocol) for each, target in zip(pictures, high, strict=True)]


def _score_one(
    tap: Tap,
    reference: PatchSet,
    sets: Sequence[PatchSet],
    settings: Settings,
    dimensions: int,
    say: Progress,
) -> NetworkScore:
    count = len(reference.low)
    with FeatureStore(count) as store:
        base, quality = read_bank(
            tap, reference, store, progress=lambda done, of: say(reference.name, done, of)
        )
        if not settings.drop_diverged:
            base.centered()  # refuses a reference that diverges before anything else runs
        base.require_variation(base.gram)
        fits = _reference_fits(base, settings, dimensions)
        scores: list[SetScore] = []
        for patches in sets:
            if patches is reference:
                continue
            with FeatureStore(count) as other:
                bank, decibels = read_bank(
                    tap,
                    patches,
                    other,
                    base,
                    progress=lambda done, of, name=patches.name: say(name, done, of),
                )
            scored = _score_set(base, bank, patches, settings, dimensions, fits)
            scores.append(replace(scored, psnr=decibels))
    return NetworkScore(
        name=tap.name,
        layer=tap.layer,
        features=base.width,
        sets=tuple(scores),
        # Degrees are distances from clean patches, and from nothing else.
        trends=find_trends(scores) if reference.family == "clean" else (),
        psnr=quality,
    )


def _reference_fits(
    base: FeatureBank, settings: Settings, dimensions: int
) -> list[GeneralizedGaussian] | None:
    """The draws of the reference, once for all sets; None where no set could use them."""
    if base.diverged.any() or not settings.bootstrap:
        return None
    try:
        return resampled_fits(base, _draws(settings, np.arange(base.patches)), dimensions)
    except InputError:  # what is wrong is said of the sets that need them
        return None


def _score_set(
    base: FeatureBank,
    bank: FeatureBank,
    patches: PatchSet,
    settings: Settings,
    dimensions: int,
    fits: Sequence[GeneralizedGaussian] | None,
) -> SetScore:
    diverged = int(bank.diverged.sum())
    empty = SetScore(patches.name, patches.family, patches.degree, None, None, (), None, diverged)
    try:
        pair = Pair(base, bank, drop_diverged=settings.drop_diverged)
        # Without some patches there may be fewer of them than axes.
        axes = min(dimensions, pair.patches)
        comparison = pair.compare(axes, basis=settings.basis)
        curve = _curve(pair, axes)
    except InputError as error:
        return replace(empty, problem=reason(error))
    values = _resample(base, bank, pair, settings, axes, fits)
    return replace(
        empty,
        comparison=comparison,
        interval=None if values is None else _interval(comparison.value, values),
        curve=curve,
        # Without some patches the draws are others than those of other sets.
        draws=None if pair.dropped else values,
    )


def _resample(
    base: FeatureBank,
    bank: FeatureBank,
    pair: Pair,
    settings: Settings,
    dimensions: int,
    fits: Sequence[GeneralizedGaussian] | None,
) -> NDArray[np.float64] | None:
    """The index of each draw; None where none are wanted, or patches differ too little for it."""
    if not settings.bootstrap:
        return None
    draws = _draws(settings, np.flatnonzero(pair.keep))
    try:
        if pair.dropped or fits is None:
            fits = resampled_fits(base, draws, dimensions)
        return indices(fits, resampled_fits(bank, draws, dimensions))
    except InputError as error:
        logger.info("%s: no confidence interval: %s", bank.name, reason(error))
        return None


def _draws(settings: Settings, patches: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Draw as many patches as there are, of which at least two differ."""
    generator = np.random.default_rng(settings.seed)
    draws: list[NDArray[np.int64]] = []
    while len(draws) < settings.bootstrap:
        draw = patches[generator.integers(0, len(patches), len(patches))]
        if (draw != draw[0]).any():
            draws.append(draw)
    return draws


def _interval(value: float, draws: NDArray[np.float64]) -> tuple[float, float]:
    """Around the value itself: the spread of the draws is that of real ones, their mean is not."""
    width = _WIDTH_OF_95 * float(np.std(draws, ddof=1))
    return max(0.0, value - width), value + width


def _curve(pair: Pair, dimensions: int) -> tuple[CurvePoint, ...]:
    chosen = sorted({dimensions, *(each for each in _CURVE if each < pair.patches)})
    return tuple(
        CurvePoint(each, pair.index(each), pair.index(each, "reference")) for each in chosen
    )


def course(scores: Sequence[SetScore], family: str) -> list[SetScore]:
    """Return the sets of a degradation from weak to strong, one of each degree.

    For JPEG that is falling quality; of blurs of one width the one of the usual kernel.
    """
    found = [each for each in scores if each.family == family and each.degree is not None]
    found.sort(key=lambda each: (each.degree or 0, len(each.name)))
    firsts = [next(group) for _, group in itertools.groupby(found, key=lambda each: each.degree)]
    return firsts[::-1] if family == "jpeg" else firsts


def find_trends(scores: Sequence[SetScore]) -> tuple[Trend, ...]:
    """Say for each degradation of several degrees whether the index grows with the degree."""
    trends: list[Trend] = []
    for family in _RISING:
        found = course(scores, family)
        if len(found) < 2:
            continue
        lacking = [each.name for each in found if each.value is None]
        valued = [(each.name, each.value) for each in found if each.value is not None]
        falls = [
            f"from {weak} ({below:.2f}) to {strong} ({above:.2f})"
            for (weak, below), (strong, above) in itertools.pairwise(valued)
            if above <= below
        ]
        parts: list[str] = []
        if falls:
            parts.append(f"falls {' and '.join(falls)}")
        if lacking:
            parts.append(f"has no value at {', '.join(lacking)}")
        text = "; ".join(parts) or f"grows from {found[0].name} to {found[-1].name}"
        trends.append(Trend(family, len(falls), not parts, text))
    return tuple(trends)


def _common(scored: Sequence[NetworkScore]) -> tuple[str, ...]:
    """Names of the sets on which every network that could be scored has an index."""
    running = [each for each in scored if not each.problem]
    if not running:
        return ()
    return tuple(
        each.name
        for index, each in enumerate(running[0].sets)
        if all(network.sets[index].value is not None for network in running)
    )


def _with_mean(network: NetworkScore, common: Sequence[str]) -> NetworkScore:
    scores = [each for each in network.sets if each.name in common]
    values = [each.value for each in scores if each.value is not None]
    if not values:
        return network
    mean = math.fsum(values) / len(values)
    draws = [each.draws for each in scores if each.draws is not None]
    interval = None
    if len(draws) == len(scores):  # the same patches in all sets, so that they vary together
        interval = _interval(mean, np.mean(draws, axis=0))
    return replace(network, mean=mean, interval=interval)


def _order(network: NetworkScore) -> tuple[bool, float, str]:
    mean = math.inf if network.mean is None else network.mean
    return bool(network.problem), mean, network.name


def _network_dict(network: NetworkScore) -> dict[str, Any]:
    return {
        "name": network.name,
        "layer": network.layer,
        "features": network.features,
        "mean": network.mean,
        "interval": network.interval,
        "psnr": network.psnr,
        "problem": network.problem,
        "trends": [asdict(each) for each in network.trends],
        "sets": [
            {
                "name": each.name,
                "family": each.family,
                "degree": each.degree,
                "srga": each.own,
                "srga_shared": each.shared,
                "interval": each.interval,
                "psnr": each.psnr,
                "diverged": each.diverged,
                "problem": each.problem,
                "curve": [
                    {"dimensions": point.dimensions, "srga": point.own, "shared": point.shared}
                    for point in each.curve
                ],
                "comparison": None if each.comparison is None else each.comparison.as_dict(),
            }
            for each in network.sets
        ],
    }


def _silent(_what: str, _done: int, _of: int) -> None: ...
