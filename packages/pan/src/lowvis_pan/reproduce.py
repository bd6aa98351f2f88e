"""How each kind of row in ``paper.toml`` is measured."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import cast

from lowvis_shared.assets import assets_available
from lowvis_shared.cost import measure_cost
from lowvis_shared.device import choose_device
from lowvis_shared.errors import WeightsError
from lowvis_shared.pairs import Evaluation, evaluate
from lowvis_shared.reproduce import (
    Context,
    Measurement,
    Measurer,
    Row,
    Unavailable,
    find_pairs,
    pair_assets,
)

from lowvis_pan.evaluate import evaluate_network
from lowvis_pan.model import PAN, PANConfig, ablation_configs
from lowvis_pan.predict import Upscaler
from lowvis_pan.weights import OFFICIAL, load_weights, resolve_weights


def measure_cost_row(row: Row, context: Context) -> Measurement:  # noqa: ARG001 - a Measurer
    """Count parameters, multiplications, activations or convolutions of a network.

    ``measure`` holds ``count`` (a field of ``Cost``), ``unit`` (what it is divided by), ``scale``,
    ``height`` and ``width`` of the input, and for an ablation its ``network``.
    """
    measure = row.measure
    scale = cast("int", measure["scale"])
    config = PANConfig(scale=scale)
    if "network" in measure:
        config = ablation_configs(scale)[str(measure["network"])]
    size = (3, cast("int", measure["height"]), cast("int", measure["width"]))
    counts = asdict(measure_cost(PAN(config), size))
    return Measurement(counts[str(measure["count"])] / cast("float", measure["unit"]))


def measure_quality_row(row: Row, context: Context) -> Measurement:
    """Measure PSNR or SSIM of the row's weights on a test set, in plain float32.

    ``measure`` holds ``metric`` (``psnr`` or ``ssim``), ``dataset``, ``scale``, and for a quality
    option of the upscaler its ``option``.

    Raises:
        Unavailable: The weights or the pictures are not on this machine.
    """
    measure = row.measure
    dataset, scale = str(measure["dataset"]), cast("int", measure["scale"])
    evaluation, assets = _evaluation(
        dataset, scale, row.weights, str(measure.get("option", "")), context
    )
    metric = str(measure["metric"])
    return Measurement(
        getattr(evaluation, metric),
        per_item={name: getattr(score, metric) for name, score in evaluation.per_image},
        assets=assets,
    )


MEASURERS: Mapping[str, Measurer] = {"cost": measure_cost_row, "quality": measure_quality_row}
"""Measurers by the ``kind`` of a row."""


@lru_cache(maxsize=8)
def _evaluation(
    dataset: str, scale: int, weights: str, option: str, context: Context
) -> tuple[Evaluation, Mapping[str, str]]:
    """Evaluate once for the PSNR and the SSIM of the same pictures; with the sums of all files."""
    pairs = find_pairs(dataset, scale, context)
    _require_weights(weights, scale, context)
    if option:
        upscaler = Upscaler(
            scale,
            weights=weights,
            backend="torch",
            device=context.device,
            precision="fp32",
            self_ensemble=option == "self_ensemble",
            back_projection=option == "back_projection",
        )
        loaded = upscaler.weights
        evaluation = evaluate(upscaler, pairs, scale)
    else:
        network = PAN(PANConfig(scale=scale))
        loaded = load_weights(network, weights)
        evaluation = evaluate_network(network.to(choose_device(context.device)), pairs, scale)
    weights_asset = {f"pan/x{scale}/{weights}": loaded.sha256}
    return evaluation, weights_asset | dict(pair_assets(dataset, scale, pairs))


def _require_weights(weights: str, scale: int, context: Context) -> None:
    """Fetch the weights if need be; a file that is here and wrong is an error, not a lack."""
    if weights == "official" and not assets_available([OFFICIAL[scale].name]):
        try:
            resolve_weights(
                weights, scale, accept_licence=context.accept_licence, offline=context.offline
            )
        except WeightsError as error:
            raise Unavailable(str(error)) from error
