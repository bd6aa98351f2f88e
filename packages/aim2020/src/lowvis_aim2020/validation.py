"""Whether a network may enter: what the challenge's organisers check before they measure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from lowvis_shared.candidates import FOREIGN_ERRORS, Candidate, reason
from lowvis_shared.cost import Cost
from lowvis_shared.device import choose_device
from lowvis_shared.pairs import ReadablePair
from torch import nn

from lowvis_aim2020.evaluate import evaluate_candidate
from lowvis_aim2020.ranking import TOLERANCE, measure, probe, suspicions

SIZES = ((64, 64), (37, 53), (1, 64), (17, 1))
"""Heights and widths that a network is tried on: even, odd, and a single row and column."""

Verdict = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer.

    Attributes:
        name: What was checked.
        verdict: The answer; ``unknown`` where something is missing for it.
        detail: Figures or the reason.
        needed: Whether the network may not enter unless the answer is yes.
    """

    name: str
    verdict: Verdict
    detail: str
    needed: bool = True


def validate(
    candidate: Candidate,
    *,
    pairs: Sequence[ReadablePair] | None = None,
    required_psnr: float | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[Check]:
    """Check one network: loading, sizes, repeatability, counting and the constraint on PSNR.

    Args:
        candidate: The network.
        pairs: Test set for the constraint.
        required_psnr: RGB PSNR to be kept on it.
        device: Where to run.
        progress: Called with the pictures of the set done and their number.

    Returns:
        The answers in the order of the questions; after one that cannot be passed over, no more.
    """
    place = choose_device(device)
    try:
        network = candidate.make().to(place)
    except FOREIGN_ERRORS as error:  # anyone's code runs here: its error is the result
        return [Check("loads strictly", "no", reason(error))]
    loaded = f"every tensor of {candidate.weights}"
    if not candidate.weights:
        loaded = "no checkpoint was given" if candidate.own else "it has no weights"
    checks = [Check("loads strictly", "yes" if candidate.weights else "unknown", loaded)]
    checks += [_check_size(network, candidate.scale, size) for size in SIZES]
    if checks[1].verdict == "no":
        return checks
    checks.append(_check_repeats(network, candidate.scale))
    checks.append(_check_counts(network))
    checks.append(_check_quality(network, candidate, pairs, required_psnr, progress))
    return checks


def _check_size(network: nn.Module, scale: int, size: tuple[int, int]) -> Check:
    name = f"upscales {size[0]}x{size[1]}"
    # A single row or column is a courtesy to users; the challenge's pictures are larger.
    needed = min(size) > 1
    try:
        output = probe(network, scale, size)
    except FOREIGN_ERRORS as error:
        return Check(name, "no", reason(error), needed)
    return Check(name, "yes", f"to {output.shape[2]}x{output.shape[3]}", needed)


def _check_repeats(network: nn.Module, scale: int) -> Check:
    name = "gives the same twice"
    try:
        first, second = (probe(network, scale, SIZES[0]) for _ in range(2))
    except FOREIGN_ERRORS as error:
        return Check(name, "no", reason(error))
    difference = float((first - second).abs().max())
    return Check(
        name,
        "yes" if torch.equal(first, second) else "no",
        "bit by bit" if difference == 0 else f"differs by {difference:.1e}",
    )


def _check_counts(network: nn.Module) -> Check:
    name = "can be counted"
    try:
        cost: Cost = measure(network)
    except FOREIGN_ERRORS as error:
        return Check(name, "no", reason(error), needed=False)
    return Check(
        name,
        "yes",
        f"{cost.parameters / 1e6:.3f} M parameters, {cost.flops / 1e9:.2f} G FLOPs, "
        f"{cost.activations / 1e6:.2f} M activations, {cost.convolutions} convolutions",
        needed=False,
    )


def _check_quality(
    network: nn.Module,
    candidate: Candidate,
    pairs: Sequence[ReadablePair] | None,
    required_psnr: float | None,
    progress: Callable[[int, int], None] | None,
) -> Check:
    name = "keeps the baseline's PSNR"
    if pairs is None:
        return Check(name, "unknown", "no test set: --dataset gives one")
    if not candidate.trained:
        return Check(name, "unknown", f"no weights are at hand: {candidate.name}@FILE gives some")
    try:
        quality = evaluate_candidate(candidate, network, pairs, progress)
    except FOREIGN_ERRORS as error:
        return Check(name, "no", reason(error))
    found = "; ".join((f"{quality.rgb.psnr:.4f} dB RGB", *suspicions(quality)))
    if required_psnr is None:
        why = "the baseline's is not known: --psnr or --baseline gives it"
        return Check(name, "unknown", f"{found}; {why}")
    verdict: Verdict = "yes" if quality.rgb.psnr >= required_psnr - TOLERANCE else "no"
    return Check(name, verdict, f"{found}, at least {required_psnr:.2f} dB")
