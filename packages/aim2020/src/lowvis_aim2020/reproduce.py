"""How each kind of row in ``paper.toml`` is measured."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import cast

import torch
from lowvis_shared.assets import assets_available
from lowvis_shared.cost import Cost
from lowvis_shared.device import choose_device
from lowvis_shared.errors import InputError, WeightsError
from lowvis_shared.plugins import discover
from lowvis_shared.reproduce import (
    Context,
    Measurement,
    Measurer,
    Row,
    Unavailable,
    find_pairs,
    pair_assets,
)

from lowvis_aim2020.candidates import find_candidate
from lowvis_aim2020.evaluate import Quality, evaluate_network
from lowvis_aim2020.model import BASELINE, NETWORKS, find_network
from lowvis_aim2020.ranking import Ranking, measure, rank
from lowvis_aim2020.weights import load_weights

_INPUT = (256, 256)
"""Height and width of the challenge's counts."""


def measure_cost_row(row: Row, context: Context) -> Measurement:  # noqa: ARG001 - a Measurer
    """Count what a network costs on the challenge's input.

    ``measure`` holds ``network``, ``count`` (a field of ``Cost``), ``unit`` (what it is divided
    by), and ``cut`` where the report cuts a figure off after so many digits instead of rounding.

    Raises:
        Unavailable: The network is one of a package that is not installed.
    """
    counts = asdict(_cost(str(row.measure["network"])))
    figure = counts[str(row.measure["count"])] / cast("float", row.measure["unit"])
    if "cut" in row.measure:
        power = 10 ** cast("int", row.measure["cut"])
        figure = math.floor(figure * power) / power
    return Measurement(figure)


def measure_quality_row(row: Row, context: Context) -> Measurement:
    """Measure PSNR or SSIM of a network's weights on a test set, in float32.

    ``measure`` holds ``network``, ``dataset``, ``color`` (``rgb`` or ``y``) and ``metric``.

    Raises:
        Unavailable: The weights or the pictures are not on this machine.
    """
    spec = {key: str(value) for key, value in row.measure.items()}
    quality, assets = _quality(spec["network"], spec["dataset"], row.weights, context)
    score = getattr(quality, spec["color"])
    return Measurement(
        getattr(score, spec["metric"]),
        per_item={
            name: getattr(rgb if spec["color"] == "rgb" else y, spec["metric"])
            for name, rgb, y in quality.per_image
        },
        assets=assets,
    )


def measure_run_time_row(row: Row, context: Context) -> Measurement:  # noqa: ARG001 - as above
    """Measure a network's run time over the baseline's, both in turn on the challenge's input.

    ``measure`` holds ``network`` and ``device``: ``cuda`` for the report's own figures, which are
    of a GPU, and ``cpu`` for ours.

    Raises:
        Unavailable: The row needs a GPU and there is none, or a package is not installed.
    """
    wanted = str(row.measure["device"])
    if wanted == "cuda" and not torch.cuda.is_available():
        raise Unavailable("the report's run times are of a GPU, and there is none here")
    name = str(row.measure["network"])
    times = {entry.name: entry for entry in _run_times(wanted).entries}
    if name not in times:
        raise Unavailable(_not_installed(name))
    own, baseline = (times[each].run_time for each in (name, BASELINE))
    if own is None or baseline is None:
        raise InputError(f"{name}: {times[name].problem or times[BASELINE].problem}")
    return Measurement(own.median_s / baseline.median_s)


MEASURERS: Mapping[str, Measurer] = {
    "cost": measure_cost_row,
    "quality": measure_quality_row,
    "run-time": measure_run_time_row,
}
"""Measurers by the ``kind`` of a row."""


def _not_installed(name: str) -> str:
    word = name.partition("-")[0]
    return f"{name} is a network of lowvis-{word}, which is not installed"


@lru_cache(maxsize=32)
def _cost(name: str) -> Cost:
    """Count once for all figures of a network."""
    if name not in NETWORKS and name.partition("-")[0] not in discover():
        raise Unavailable(_not_installed(name))
    return measure(find_candidate(name, weights=False).make(), _INPUT)


@lru_cache(maxsize=8)
def _quality(
    name: str, dataset: str, weights: str, context: Context
) -> tuple[Quality, Mapping[str, str]]:
    """Evaluate once for all figures of the same pictures; with the sums of all files."""
    network = find_network(name)
    pairs = find_pairs(dataset, network.scale, context)
    module = network.build().eval()
    try:
        loaded = load_weights(
            module,
            network,
            weights,
            accept_licence=context.accept_licence,
            offline=context.offline,
        )
    except WeightsError as error:
        if weights == "official" and not assets_available([network.official]):
            raise Unavailable(str(error)) from error
        raise  # a file that is here and wrong is an error, not a lack
    quality = evaluate_network(
        module.to(choose_device(context.device)),
        pairs,
        network.scale,
        receptive_radius=network.receptive_radius,
    )
    own = f"aim2020/{name.replace('-', '_')}/own"
    weights_asset = {network.official if weights == "official" else own: loaded.sha256}
    return quality, weights_asset | dict(pair_assets(dataset, network.scale, pairs))


@lru_cache(maxsize=2)
def _run_times(device: str) -> Ranking:
    """Time every x4 network that stands in one run."""
    return rank(input_size=_INPUT, device=device, repeats=5)
