"""Rank networks as the challenge did: cost, run time and quality of each, in one run.

    from lowvis_aim2020 import measure, rank

    measure(network, (256, 256))  # parameters, FLOPs, activations, convolutions, memory
    print(rank(["rfdn-x4", "pan-x4", "mine.py:Net@best.pth"]).as_dict())

A candidate that cannot be loaded, returns another size, other channels or no numbers is named with
the reason; the others are ranked all the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from lowvis_shared.candidates import FOREIGN_ERRORS, Candidate, reason
from lowvis_shared.cost import Cost, measure_cost
from lowvis_shared.device import (
    Timing,
    available_memory,
    choose_device,
    environment,
    exact_float32,
    peak_memory,
    time_in_turn,
)
from lowvis_shared.errors import DeviceError, InputError, UsageError
from lowvis_shared.pairs import ReadablePair
from torch import Tensor, nn

from lowvis_aim2020.candidates import all_names, find_candidate
from lowvis_aim2020.evaluate import Quality, evaluate_candidate
from lowvis_aim2020.model import BASELINE

MEASURES = (
    "run_time",
    "parameters",
    "flops",
    "activations",
    "memory",
    "convolutions",
    "psnr",
    "ssim",
    "psnr_y",
    "ssim_y",
)
"""What networks are compared by; the order of the columns."""

HIGHER_IS_BETTER = frozenset({"psnr", "ssim", "psnr_y", "ssim_y"})

BASELINE_PSNR = {"div2k": 29.00}
"""x4 PSNR that the challenge's report gives for the baseline, which entries have to keep."""

TOLERANCE = 0.005
"""Decibels by which an entry may miss the baseline: the report prints two digits."""

_PROBE = (37, 53)
"""Height and width of the picture on which a network has to behave first: odd and not square."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts of it are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One network in the ranking.

    Attributes:
        name: How it was named.
        title: How tables call it.
        weights: Its weights; empty for random ones.
        cost: What is counted; None where that is not possible.
        run_time: On the input of the ranking; None where it was not measured.
        allocated: Bytes that a GPU's memory held at most; None on other devices.
        quality: None where no test set was given or there are no weights.
        problem: Why it is out of the ranking; empty where it is in.
        notes: What the reader of the table should know.
    """

    name: str
    title: str
    weights: str
    cost: Cost | None = None
    run_time: Timing | None = None
    allocated: int | None = None
    quality: Quality | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()

    def value(self, measure: str) -> float | None:
        """Return one of `MEASURES`: seconds, counts, bytes, decibels; None where it is missing.

        ``spread`` is that of the run time, the longest minus the shortest.
        """
        if measure in ("run_time", "spread"):
            field = "median_s" if measure == "run_time" else "spread_s"
            return None if self.run_time is None else getattr(self.run_time, field)
        if measure in HIGHER_IS_BETTER:
            metric, _, color = measure.partition("_")
            score = None if self.quality is None else getattr(self.quality, color or "rgb")
            return None if score is None else getattr(score, metric)
        if measure == "memory" and self.allocated is not None:
            return self.allocated
        field = "peak_memory" if measure == "memory" else measure
        return None if self.cost is None else getattr(self.cost, field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Networks in their order, the best first, those with a problem last.

    Attributes:
        entries: The networks.
        sort: The measure they are sorted by.
        baseline: Name of the entry they are compared with; empty where it could not be measured.
        required_psnr: RGB PSNR that an entry has to reach; None where that is not known.
        scale: Upscaling factor of all of them.
        input_size: Height and width that costs and run time are of.
        device: Where the networks ran.
        dataset: The test set; empty for none.
        environment: Versions and hardware.
    """

    entries: tuple[Entry, ...]
    sort: str
    baseline: str
    required_psnr: float | None
    scale: int
    input_size: tuple[int, int]
    device: str
    dataset: str
    environment: Mapping[str, str]

    @property
    def failed(self) -> tuple[Entry, ...]:
        """The networks with a problem."""
        return tuple(entry for entry in self.entries if entry.problem)

    def gain(self, entry: Entry, measure: str) -> float | None:
        """Return by how many per cent of the baseline's figure a network is better.

        For PSNR it is the difference in decibels, for SSIM the plain difference.
        """
        reference = next((each for each in self.entries if each.name == self.baseline), None)
        if measure not in MEASURES:  # a spread is no merit
            return None
        own = entry.value(measure)
        base = None if reference is None else reference.value(measure)
        # A picture that comes out exactly has an infinite PSNR.
        if own is None or base is None or not (math.isfinite(own) and math.isfinite(base)):
            return None
        if measure in HIGHER_IS_BETTER:
            return own - base
        return 100 * (base - own) / base if base else None

    def meets(self, entry: Entry) -> bool | None:
        """Return whether an entry keeps the baseline's PSNR; None where that is not known."""
        psnr = entry.value("psnr")
        if psnr is None or self.required_psnr is None:
            return None
        return psnr >= self.required_psnr - TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON; figures that are not finite are None."""
        return {
            "sort": self.sort,
            "baseline": self.baseline,
            "required_psnr": finite(self.required_psnr),
            "scale": self.scale,
            "input_size": list(self.input_size),
            "device": self.device,
            "dataset": self.dataset,
            "environment": dict(self.environment),
            "entries": [self._entry_dict(entry) for entry in self.entries],
        }

    def _entry_dict(self, entry: Entry) -> dict[str, Any]:
        return {
            "name": entry.name,
            "title": entry.title,
            "weights": entry.weights,
            **{measure: finite(entry.value(measure)) for measure in MEASURES},
            "gain": {measure: self.gain(entry, measure) for measure in MEASURES},
            "meets": self.meets(entry),
            "timing": None if entry.run_time is None else asdict(entry.run_time),
            "quality": None if entry.quality is None else entry.quality.as_dict(),
            "problem": entry.problem,
            "notes": list(entry.notes),
        }


def measure(network: nn.Module, input_size: tuple[int, int] = (256, 256)) -> Cost:
    """Count what a super-resolution network costs on one RGB picture, as the challenge counts.

    Args:
        network: (1, 3, H, W) -> (1, 3, H*scale, W*scale).
        input_size: Height and width; the challenge's when left out.

    Raises:
        UsageError: The network multiplies in ways that the challenge's counter does not see.
    """
    return measure_cost(network, (3, *input_size))


def rank(
    models: Sequence[str | Candidate | nn.Module] | str = (),
    *,
    find: Callable[[str], Candidate] | None = None,
    pairs: Sequence[ReadablePair] | None = None,
    dataset: str = "",
    input_size: tuple[int, int] = (256, 256),
    device: str = "auto",
    scale: int = 4,
    sort: str = "run_time",
    baseline: str | None = None,
    required_psnr: float | None = None,
    repeats: int = 7,
    progress: Progress | None = None,
) -> Ranking:
    """Measure networks beside the baseline and put them in order.

    Args:
        models: What `find_candidate` takes or returned, or networks of pictures in 0..1, ready to
            run; all networks of the installed packages when empty.
        find: Finds the networks that are named; `find_candidate` when left out, which loads
            weights only where there is a test set.
        pairs: Test set for the quality; none is measured when left out.
        dataset: What the test set is called.
        input_size: Height and width that costs are counted and run times are measured on.
        device: ``auto``, ``cpu``, ``cuda`` and so on.
        scale: Upscaling factor; networks of another one are out of the ranking.
        sort: One of `MEASURES`.
        baseline: What all are compared with; ranked too where it is not among the models. The
            challenge's when left out, which there is for x4 only.
        required_psnr: RGB PSNR to be kept; the baseline's own where it has weights, else what the
            report gives for it on this set.
        repeats: Rounds in which every network is timed once, after two that do not count.
        progress: Called as the work goes on.

    Raises:
        UsageError: There is no such measure, or nothing has one of the names.
        DeviceError: There is no such device.
    """
    if sort not in MEASURES:
        raise UsageError(f"there is no measure '{sort}'", hint=f"one of {', '.join(MEASURES)}")
    if min(input_size) < 1 or repeats < 1:
        raise UsageError("the input has at least 1x1 pixels, and each is timed at least once")
    place = choose_device(device)
    if baseline is None:
        baseline = BASELINE if scale == 4 else ""
    find = find or partial(find_candidate, scale=scale, weights=pairs is not None)
    candidates = _candidates(models, baseline, scale, find)
    say = progress or _silent
    entries: dict[str, Entry] = {}
    networks: dict[str, nn.Module] = {}
    for index, candidate in enumerate(candidates):
        say("networks", index, len(candidates))
        entry, network = _examine(candidate, scale, input_size, place)
        if network is not None and pairs is not None:
            entry = _with_quality(entry, network, candidate, pairs, say)
        entries[candidate.name] = entry
        if network is not None and not entry.problem:
            networks[candidate.name] = network
    timings, problems = _time(networks, input_size, place, repeats, say)
    for name in networks:
        entries[name] = replace(
            entries[name], run_time=timings.get(name), problem=problems.get(name, "")
        )
    present = baseline in timings
    return Ranking(
        entries=tuple(sorted(entries.values(), key=lambda entry: _sort_key(entry, sort))),
        sort=sort,
        baseline=baseline if present else "",
        required_psnr=_required(required_psnr, entries.get(baseline), dataset, scale),
        scale=scale,
        input_size=input_size,
        device=str(place),
        dataset=dataset,
        environment=environment(),
    )


def _candidates(
    models: Sequence[str | Candidate | nn.Module] | str,
    baseline: str,
    scale: int,
    find: Callable[[str], Candidate],
) -> list[Candidate]:
    given = [models] if isinstance(models, str) else models
    names: list[str | Candidate] = [
        _as_candidate(each, scale, number) if isinstance(each, nn.Module) else each
        for number, each in enumerate(given, start=1)
    ]
    if not names:  # all there are; a baseline with weights stands for the one without
        names += [name for name in all_names(scale) if name != baseline.partition("@")[0]]
    if baseline and baseline not in {getattr(name, "name", name) for name in names}:
        names.append(baseline)
    found = [find(name) if isinstance(name, str) else name for name in names]
    return list({candidate.name: candidate for candidate in found}.values())


def _as_candidate(network: nn.Module, scale: int, number: int) -> Candidate:
    name = f"{number}: {type(network).__name__}"
    return Candidate(
        name=name,
        title=name,
        scale=scale,
        weights="",
        make=network.eval,
        receptive_radius=None,
        own=True,
    )


def _examine(
    candidate: Candidate, scale: int, input_size: tuple[int, int], device: torch.device
) -> tuple[Entry, nn.Module | None]:
    """Build a candidate, see that it behaves, and count what it costs."""
    entry = Entry(name=candidate.name, title=candidate.title, weights=candidate.weights)
    try:
        network = _load(candidate, scale, device)
    except FOREIGN_ERRORS as error:  # anyone's code runs here: its error is the result
        return replace(entry, problem=reason(error)), None
    try:
        entry = replace(entry, cost=measure(network, input_size))
    except FOREIGN_ERRORS as error:  # what cannot be counted can be timed
        entry = replace(entry, notes=(*entry.notes, f"not counted: {reason(error)}"))
    try:
        _refuse_too_large(entry, device)
        return replace(entry, allocated=_rehearse(network, scale, input_size, device)), network
    except FOREIGN_ERRORS as error:  # such as too little memory for the input
        return replace(entry, problem=reason(error)), None


def _refuse_too_large(entry: Entry, device: torch.device) -> None:
    available = available_memory() if device.type == "cpu" else None
    if entry.cost is not None and available is not None and entry.cost.peak_memory > available:
        raise DeviceError(
            f"the input takes {entry.cost.peak_memory / 2**30:.1f} GiB, and "
            f"{available / 2**30:.1f} GiB are free"
        )


def _load(candidate: Candidate, scale: int, device: torch.device) -> nn.Module:
    if candidate.scale != scale:
        raise InputError(f"it upscales by {candidate.scale}; this ranking is of x{scale}")
    network = candidate.make().to(device)
    probe(network, scale, _PROBE)
    return network


@torch.inference_mode()
def probe(network: nn.Module, scale: int, size: tuple[int, int]) -> Tensor:
    """Run a network on a picture of random colors and return its output.

    Raises:
        InputError: The output has another shape than (1, 3, H*scale, W*scale), or is not finite.
    """
    output: object = network(_picture(network, size))
    if not isinstance(output, Tensor):
        raise InputError(f"it returns no tensor but a {type(output).__name__}")
    expected = (1, 3, size[0] * scale, size[1] * scale)
    if tuple(output.shape) != expected:
        raise InputError(
            f"a picture of {size[0]}x{size[1]} comes out as {tuple(output.shape)}, not {expected}"
        )
    if not bool(output.isfinite().all()):
        raise InputError("its output holds values that are not finite (NaN or Inf)")
    return output


def _with_quality(
    entry: Entry,
    network: nn.Module,
    candidate: Candidate,
    pairs: Sequence[ReadablePair],
    say: Progress,
) -> Entry:
    if not candidate.trained:
        note = f"no weights are at hand: {entry.name}@FILE gives some"
        return replace(entry, notes=(*entry.notes, note))
    try:
        quality = evaluate_candidate(candidate, network, pairs, partial(say, entry.title))
    except FOREIGN_ERRORS as error:  # a network may fail on one size only
        return replace(entry, problem=reason(error))
    return replace(entry, quality=quality, notes=(*entry.notes, *suspicions(quality)))


def suspicions(quality: Quality) -> tuple[str, ...]:
    """Name what a low PSNR mostly comes from."""
    if quality.rgb.psnr >= 20:
        return ()
    return (
        f"{quality.rgb.psnr:.1f} dB is below what bicubic gives mostly: does it take pictures in "
        "0..255 (--white 255), or BGR?",
    )


def _time(
    networks: Mapping[str, nn.Module],
    size: tuple[int, int],
    device: torch.device,
    repeats: int,
    say: Progress,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time the networks in turn; one that fails has a problem, and its turns take no time."""
    problems: dict[str, str] = {}

    def run(name: str, picture: Tensor) -> None:
        if name not in problems:
            try:
                networks[name](picture)
            except FOREIGN_ERRORS as error:
                problems[name] = reason(error)

    with torch.inference_mode(), exact_float32():
        timings = time_in_turn(
            {name: partial(run, name, _picture(each, size)) for name, each in networks.items()},
            device=device,
            repeats=repeats,
            progress=partial(say, "run time"),
        )
    return {name: each for name, each in timings.items() if name not in problems}, problems


def _rehearse(
    network: nn.Module, scale: int, size: tuple[int, int], device: torch.device
) -> int | None:
    """Try the input of the ranking; return what that allocates of a GPU's memory."""
    if device.type != "cuda":
        probe(network, scale, size)
        return None
    before = torch.cuda.memory_allocated(device)
    own = sum(value.nbytes for value in (*network.parameters(), *network.buffers()))
    with peak_memory(device) as peak, exact_float32():
        probe(network, scale, size)
    return peak.bytes - before + own


def _picture(network: nn.Module, size: tuple[int, int]) -> Tensor:
    """A picture of random colors, always the same, on a network's device and of its type."""
    weight = next(network.parameters(), torch.zeros(()))
    picture = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(0))
    return picture.to(weight.device, weight.dtype)


def _required(
    given: float | None, baseline: Entry | None, dataset: str, scale: int
) -> float | None:
    if given is not None:
        return given
    measured = None if baseline is None else baseline.value("psnr")
    return published_psnr(dataset, scale) if measured is None else measured


def published_psnr(dataset: str, scale: int) -> float | None:
    """Return what the report gives for the baseline on a set, or None."""
    return BASELINE_PSNR.get(dataset.lower()) if scale == 4 else None


def finite(value: float | None) -> float | None:
    """Return a figure, or None where it is missing, infinite or no number."""
    return value if value is not None and math.isfinite(value) else None


def _sort_key(entry: Entry, sort: str) -> tuple[bool, bool, float, str]:
    value = entry.value(sort)
    number = math.inf if value is None else value
    signed = -number if sort in HIGHER_IS_BETTER and value is not None else number
    return bool(entry.problem), value is None, signed, entry.name


def _silent(_what: str, _done: int, _of: int) -> None: ...
