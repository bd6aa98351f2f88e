"""How each kind of row in ``paper.toml`` is measured."""

import math
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lowvis_shared.assets import assets_available, dataset_files, fetch, mirror_folder
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import WeightsError
from lowvis_shared.files import sha256_file
from lowvis_shared.images import Picture, read_image, to_unit_float
from lowvis_shared.metrics import psnr
from lowvis_shared.reproduce import (
    Context,
    Measurement,
    Measurer,
    Row,
    Unavailable,
    recipe_weights,
)
from numpy.typing import NDArray
from safetensors.torch import load_file

from lowvis_csrnet.evaluate import PROTOCOL, Evaluation, Pair, evaluate, load_fivek
from lowvis_csrnet.model import NETWORKS, ConditionSource, CSRNet, CSRNetConfig
from lowvis_csrnet.predict import Retoucher
from lowvis_csrnet.simulate import OPERATIONS, Defects
from lowvis_csrnet.spaces import EXPOSURE_FACTOR, InputSpace, reduced
from lowvis_csrnet.weights import OFFICIAL, load, own_file, resolve_weights


def measure_parameters_row(row: Row, context: Context) -> Measurement:
    """Count the parameters of a network: ``network``, and ``condition`` of an ablation."""
    del context
    sources = cast("list[ConditionSource]", row.measure.get("condition", ["network"]))
    network = NETWORKS[str(row.measure["network"])](CSRNetConfig(condition=tuple(sources)))
    return Measurement(sum(parameter.numel() for parameter in network.parameters()))


@torch.inference_mode()
def measure_golden_row(row: Row, context: Context) -> Measurement:
    """Return the largest difference to a tensor that the authors' code computed.

    ``measure`` holds ``case`` and ``tensor``.

    Raises:
        Unavailable: The tensors, which no public address has, or the weights are not here.
    """
    case, name = str(row.measure["case"]), str(row.measure["tensor"])
    mirror = mirror_folder()
    path = None if mirror is None else mirror / "golden" / "csrnet" / f"{case}.safetensors"
    if path is None or not path.is_file():
        raise Unavailable("the golden tensors come with a mirror: LOWVIS_MIRROR=FOLDER")
    golden = load_file(path)
    if row.weights == "official":
        network = _official(context)
    else:
        network = CSRNet()
        network.load_state_dict(recipe_weights(network))
    image = golden["network_input" if "network_input" in golden else "input"]
    condition = network.condition(image)
    if name == "output":
        ours = network(image)
    elif name == "condition":
        ours = condition
    elif name.startswith("folded_"):
        folded = network.fold(condition)
        parts = folded.weights if "weight" in name else folded.biases
        ours = parts[int(name[-1]) - 1]
    else:
        index = int(name[-1]) - 1
        ours = network.modulation(condition)[index][0 if name.startswith("scale") else 1]
    assets = {OFFICIAL.name: OFFICIAL.sha256} if row.weights == "official" else {}
    return Measurement(float((ours - golden[name]).abs().max()), assets=assets)


def measure_fivek_row(row: Row, context: Context) -> Measurement:
    """Measure a figure of the row's weights on pairs of FiveK, by the authors' protocol.

    ``measure`` holds ``metric``, ``pairs`` (``public``, ``full`` or the name of one pair), and,
    where they are not the weights' own, ``input_space`` and ``factor`` (of linear light).

    Raises:
        Unavailable: The weights or the pictures are not on this machine.
    """
    measure = row.measure
    full = measure["pairs"] == "full"
    evaluation, assets = _fivek(
        row.weights,
        str(measure.get("input_space", "")),
        float(cast("float", measure.get("factor", EXPOSURE_FACTOR))),
        full,
        context,
    )
    metric = str(measure["metric"])
    per_item = {name: getattr(figures, metric) for name, figures in evaluation.per_image}
    if measure["pairs"] in ("public", "full"):
        return Measurement(getattr(evaluation.mean, metric), per_item=per_item, assets=assets)
    return Measurement(per_item[str(measure["pairs"])], assets=assets)


def measure_lut_row(row: Row, context: Context) -> Measurement:
    """Return the mean PSNR between a LUT of ``size`` nodes and the network, on the public pairs."""
    pairs, assets = _pairs(False, context)
    assets |= _weights_asset(row.weights, context)
    exact = Retoucher(weights=row.weights, lut_size=None, device="cpu")
    baked = Retoucher(weights=row.weights, lut_size=cast("int", row.measure["size"]), device="cpu")
    per_item: dict[str, float] = {}
    for pair in pairs:
        picture = Picture(read_image(pair.source).pixels)
        per_item[pair.name] = psnr(baked(picture).pixels, exact(picture).pixels, PROTOCOL)
    mean = sum(per_item.values()) / len(per_item)
    return Measurement(mean, per_item=per_item, assets=assets)


def measure_photos_row(row: Row, context: Context) -> Measurement:
    """Measure our weights on open photographs that no training saw, reduced to 500 pixels.

    ``measure`` holds ``lesson`` (``retouch``, whose defects of ``severity`` are drawn twenty times
    a photograph with fixed seeds, or an operation), ``network``, and ``what``: ``output``, or
    ``input`` for what the network is shown. PSNR over RGB, the mean over all pictures.

    Raises:
        Unavailable: The photographs are not on this machine.
    """
    photos, assets = _large_photos(context)
    lesson, network = str(row.measure["lesson"]), str(row.measure["network"])
    run = None
    if row.measure["what"] == "output":
        own = own_file(network)
        if not own.is_file():
            raise Unavailable(f"there are no own weights of {network}")
        assets[f"csrnet/{own.stem}/own"] = sha256_file(own)
        run = Retoucher(network, lut_size=None, device=context.device, precision="fp32")
    per_item: dict[str, float] = {}
    for index, (name, pixels) in enumerate(photos.items()):
        image = to_unit_float(pixels)
        for seed in range(20 if lesson == "retouch" else 1):
            before, after = image, image
            if lesson == "retouch":
                generator = np.random.default_rng([index, seed])
                before = Defects.draw(generator, cast("float", row.measure["severity"]))(image)
            else:
                after = OPERATIONS[lesson](image)
            output = before if run is None else run(before)
            per_item[f"{name} {seed}"] = psnr(output, after, PROTOCOL)
    return Measurement(sum(per_item.values()) / len(per_item), per_item=per_item, assets=assets)


def measure_operation_row(row: Row, context: Context) -> Measurement:
    """Train a network to imitate an operation, and return its PSNR on photographs held out.

    ``measure`` holds ``operation``, ``network``, ``condition`` (``network``, or ``none`` for the
    base network alone), ``steps``, and for a transfer ``start``: the operation that the network was
    trained for before only its condition was trained on. The photographs are those of
    ``DATA_DIR/photos``, or of a mirror.

    Raises:
        Unavailable: There are no photographs, or the extra ``train`` is not installed.
    """
    photos = _training_photos(context)
    measure = row.measure
    operation, steps = str(measure["operation"]), cast("int", measure["steps"])
    network, condition = (
        str(measure.get("network", "csrnet")),
        str(measure.get("condition", "network")),
    )
    with tempfile.TemporaryDirectory() as folder:
        initial = None
        if "start" in measure:
            first = Path(folder) / "start"
            start = str(measure["start"])
            initial = _train(photos, start, network, condition, steps, first, context, None)
        output = Path(folder) / "run"
        path = _train(photos, operation, network, condition, steps, output, context, initial)
        figure = float(load_weights_file(path)[1]["held_out_psnr"])
    return Measurement(figure, shortened=f"{steps:,} steps at 128 pixels, not 600,000 at 500")


MEASURERS: Mapping[str, Measurer] = {
    "parameters": measure_parameters_row,
    "golden": measure_golden_row,
    "fivek": measure_fivek_row,
    "lut": measure_lut_row,
    "photos": measure_photos_row,
    "operation": measure_operation_row,
}
"""Measurers by the ``kind`` of a row."""


def _official(context: Context) -> CSRNet:
    """Return the official network; a file that is here and wrong is an error, not a lack."""
    if not assets_available([OFFICIAL.name]):
        try:
            resolve_weights(
                "csrnet",
                "official",
                accept_licence=context.accept_licence,
                offline=context.offline,
            )
        except WeightsError as error:
            raise Unavailable(str(error)) from error
    return cast("CSRNet", load("csrnet", "official").network)


def _weights_asset(weights: str, context: Context) -> dict[str, str]:
    """Return the checksum of the weights by the name of their asset, once they are here."""
    if weights == "official":
        _official(context)
        return {OFFICIAL.name: OFFICIAL.sha256}
    if not own_file("csrnet").is_file():
        raise Unavailable("there are no own weights")
    return {"csrnet/csrnet/own": sha256_file(own_file("csrnet"))}


def _pairs(full: bool, context: Context) -> tuple[list[Pair], dict[str, str]]:
    if full:
        if context.data_dir is None:
            raise Unavailable("MIT-Adobe FiveK as the authors prepared it: --data-dir FOLDER")
        if not (context.data_dir / "FiveK").is_dir():
            raise Unavailable(f"{context.data_dir} has no folder FiveK")
        return load_fivek(context.data_dir), {}
    files = dataset_files("fivek")
    try:
        pairs = load_fivek(accept_licence=context.accept_licence, offline=context.offline)
    except WeightsError as error:
        # A file that is here and wrong is an error, not a lack.
        if any(assets_available([file.name]) for file in files):
            raise
        raise Unavailable(str(error)) from error
    return pairs, {file.name: file.sha256 for file in files}


@lru_cache(maxsize=8)
def _fivek(
    weights: str, input_space: str, factor: float, full: bool, context: Context
) -> tuple[Evaluation, Mapping[str, str]]:
    """Evaluate once for all figures of the same weights."""
    pairs, assets = _pairs(full, context)
    if weights == "none":
        return evaluate(lambda picture: picture, pairs), assets
    assets |= _weights_asset(weights, context)
    retoucher = Retoucher(
        weights=weights,
        input_space=cast("InputSpace", input_space) if input_space else None,
        exposure=math.log2(factor / EXPOSURE_FACTOR),
        lut_size=None,
        condition_side=None,  # the authors' protocol: of the whole picture
        device=context.device,
        precision="fp32",
    )
    return evaluate(retoucher, pairs), assets


def _large_photos(context: Context) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    files = dataset_files("large")
    photos: dict[str, NDArray[np.uint8]] = {}
    for file in files:
        try:
            path = fetch(file, accept_licence=context.accept_licence, offline=context.offline)
        except WeightsError as error:
            if assets_available([file.name]):
                raise
            raise Unavailable(str(error)) from error
        photos[file.name] = reduced(read_image(path).pixels)
    return photos, {file.name: file.sha256 for file in files}


def _training_photos(context: Context) -> Path:
    mirror = mirror_folder()
    tried = [
        *([context.data_dir / "photos"] if context.data_dir else []),
        *([mirror / "data" / "cc_photos"] if mirror else []),
    ]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise Unavailable("photographs to train on: --data-dir FOLDER with FOLDER/photos")


def _train(
    photos: Path,
    operation: str,
    network: str,
    condition: str,
    steps: int,
    output: Path,
    context: Context,
    initial: Path | None,
) -> Path:
    try:
        from lowvis_csrnet.train import TrainConfig, train
    except ModuleNotFoundError as error:
        raise Unavailable("the extra 'train': pip install 'lowvis-csrnet[train]'") from error
    return train(
        TrainConfig(
            photos=str(photos),
            output=str(output),
            network=network,
            learn=operation,
            condition=condition,
            initial=None if initial is None else str(initial),
            train_only="all" if initial is None else "condition",
            side=128,
            crop=48,
            batch=8,
            pixels=2048,
            steps=steps,
            learning_rate=3e-3,
            decay=0.9,
            average=0.99,
            precision="fp32",
            device=context.device,
            validate_every=steps,
            checkpoint_every=steps,
        )
    )
