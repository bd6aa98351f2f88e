"""How each kind of row in ``paper.toml`` is measured."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from lowvis_shared.assets import assets_available, dataset_files, fetch, mirror_folder
from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file
from lowvis_shared.device import choose_device
from lowvis_shared.errors import WeightsError
from lowvis_shared.files import sha256_file
from lowvis_shared.pairs import folder_pairs
from lowvis_shared.reproduce import (
    Context,
    Measurement,
    Measurer,
    Row,
    Unavailable,
    pair_assets,
    recipe_weights,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from lowvis_classsr.branches import BRANCHES, CARN, RCAN
from lowvis_classsr.cost import (
    PAPER_CLASSIFIER,
    PAPER_CONSTANTS,
    branch_costs,
    classifier_cost,
    paper_flops,
)
from lowvis_classsr.evaluate import Measured, ReducedPair, measure, stand_ins
from lowvis_classsr.losses import average_loss, class_loss
from lowvis_classsr.model import PATCH, Classifier, ClassSR, ClassSRConfig
from lowvis_classsr.predict import Router, Upscaler, Way
from lowvis_classsr.protocol import (
    STEP,
    PaperEvaluation,
    combine,
    crop_tiles,
    evaluate_paper,
    paper_psnr,
)
from lowvis_classsr.weights import load_weights, own_file

_SCALE = 4

_CLASS_MODULE = "class-module"
"""What rows of counts call the Class-Module, in the place of a network."""

_SHORTENED = "our weights, trained by a shorter recipe, on other pictures"


def measure_parameters_row(row: Row, context: Context) -> Measurement:
    """Count the parameters of a ClassSR, or of one ``branch`` (0 the simplest, -1 the original).

    ``measure`` holds ``network``: a word of ``BRANCHES``, or ``class-module``.
    """
    del context
    name = str(row.measure["network"])
    if name == _CLASS_MODULE:
        network: nn.Module = Classifier()
    elif "branch" in row.measure:
        network = ClassSRConfig(network=name).build_branch(cast("int", row.measure["branch"]))
    else:
        network = ClassSR(ClassSRConfig(network=name))
    return Measurement(sum(parameter.numel() for parameter in network.parameters()))


def measure_flops_row(row: Row, context: Context) -> Measurement:
    """Count the FLOPs (2 multiply-accumulates) of a branch on a patch of 32x32.

    ``measure`` holds ``network`` and ``branch`` as for `measure_parameters_row`, ``convention``
    (``paper`` counts a transposed convolution at its output, ``true`` what is multiplied) and
    ``unit`` (what the count is divided by).
    """
    del context
    name = str(row.measure["network"])
    if name == _CLASS_MODULE:
        macs = classifier_cost()
    else:
        cost = branch_costs(ClassSRConfig(network=name))[cast("int", row.measure["branch"])]
        macs = cost.paper_macs if row.measure["convention"] == "paper" else cost.macs
    return Measurement(2 * PATCH**2 * macs / cast("float", row.measure["unit"]))


def measure_counts_row(row: Row, context: Context) -> Measurement:
    """Compute the paper's FLOPs column from the patches of each class.

    ``measure`` holds ``network``, ``counts`` (simple to hard), and ``unit`` that the FLOPs are
    divided by; without it they are in percent of the hardest branch.
    """
    del context
    network = str(row.measure["network"])
    flops = paper_flops(network, cast("list[int]", row.measure["counts"]))
    unit = row.measure.get("unit", PAPER_CONSTANTS[network][-1] / 100)
    return Measurement(flops / cast("float", unit))


def measure_ceiling_row(row: Row, context: Context) -> Measurement:
    """Compute what a printed figure of FLOPs means in multiply-accumulates that are done.

    In percent of the original network once over a large picture: the overlap of the patches and the
    Class-Module are counted, transposed convolutions as they are. ``measure`` holds ``network`` and
    ``flops``, the mean of a patch as printed.
    """
    del context
    network = str(row.measure["network"])
    costs = branch_costs(ClassSRConfig(network=network))
    printed = cast("float", row.measure["flops"]) - PAPER_CLASSIFIER.get(network, 0.0)
    # Classes need not be known: FSRCNN's two costs are both linear in the width, so that the mean
    # of one gives the mean of the other, and for all other networks they are the same.
    branches = np.interp(
        printed / (2 * PATCH**2), [each.paper_macs for each in costs], [each.macs for each in costs]
    )
    overlap = (PATCH / STEP) ** 2
    return Measurement(100 * overlap * float(branches + classifier_cost()) / costs[-1].macs)


def measure_golden_row(row: Row, context: Context) -> Measurement:
    """Return the largest difference to a tensor that the authors' code computed.

    It is divided by the largest value of that tensor where that is above 1. ``measure`` holds
    ``case`` and ``tensor``.

    Raises:
        Unavailable: The tensors, which no public address has, are not here.
    """
    del context
    case, name = str(row.measure["case"]), str(row.measure["tensor"])
    mirror = mirror_folder()
    path = None if mirror is None else mirror / "golden" / "classsr" / f"{case}.safetensors"
    if path is None or not path.is_file():
        raise Unavailable("the golden tensors come with a mirror: LOWVIS_MIRROR=FOLDER")
    golden = load_file(path)
    expected = golden[name].double()
    ours = _computed(case, golden)[name].detach().double().reshape(expected.shape)
    largest = max(1.0, float(expected.abs().max()))
    return Measurement(float((ours - expected).abs().max()) / largest)


def measure_paper_set_row(row: Row, context: Context) -> Measurement:
    """Measure the authors' weights on a test set of the paper, by its protocol.

    ``measure`` holds ``network``, ``dataset`` (a folder of the data), ``original`` (whether the
    hardest branch gets all patches: the row of the network by itself) and ``figure``: ``psnr``,
    ``flops``, which are divided by ``unit``, or ``percent`` of the hardest branch.

    Raises:
        Unavailable: The user gave no weights or no pictures.
    """
    if context.data_dir is None:
        raise Unavailable(row.reason)
    evaluation, assets = _paper_evaluation(
        str(row.measure["network"]),
        bool(row.measure["original"]),
        str(row.measure["dataset"]),
        context,
    )
    if row.measure["figure"] == "psnr":
        return Measurement(evaluation.psnr, per_item=dict(evaluation.per_image), assets=assets)
    if row.measure["figure"] == "percent":
        return Measurement(evaluation.paper_percent, assets=assets)
    return Measurement(evaluation.paper_flops / cast("float", row.measure["unit"]), assets=assets)


def measure_stand_in_row(row: Row, context: Context) -> Measurement:
    """Measure our own weights in float32 on public photographs, by whole pictures.

    ``measure`` holds ``network``, ``dataset`` (``2k`` or ``4k``), ``path``, ``router`` and
    ``budget`` of the upscaler where they are not its own, and ``figure``: ``psnr`` in dB, ``share``
    (multiply-accumulates in percent of the original network's), ``branch_share`` (without context
    and judging), ``paper_share`` (as the paper counts) or ``gain`` (PSNR less that of the original
    network on whole pictures).

    Raises:
        Unavailable: There are no weights of ours, or the photographs are not here.
    """
    spec = row.measure
    network, dataset = str(spec["network"]), str(spec["dataset"])
    budget = cast("float | None", spec.get("budget"))
    path = cast("Way", spec.get("path", "routed"))
    router = cast("Router", spec.get("router", "classifier"))
    measured, assets = _stand_in(network, dataset, path, router, budget, context)
    figure = str(spec["figure"])
    per_item = _per_picture(measured, figure)
    if figure == "gain":
        original, _ = _stand_in(network, dataset, "whole", "classifier", None, context)
        before = _per_picture(original, "psnr")
        per_item = {name: psnr - before[name] for name, psnr in per_item.items()}
    return Measurement(
        sum(per_item.values()) / len(per_item),
        per_item=per_item,
        assets=assets,
        shortened="" if row.value is None else _SHORTENED,
    )


MEASURERS: Mapping[str, Measurer] = {
    "parameters": measure_parameters_row,
    "flops": measure_flops_row,
    "counts": measure_counts_row,
    "ceiling": measure_ceiling_row,
    "golden": measure_golden_row,
    "paper-set": measure_paper_set_row,
    "stand-in": measure_stand_in_row,
}
"""Measurers by the ``kind`` of a row."""


_Network = TypeVar("_Network", bound=nn.Module)


def _filled(network: _Network) -> _Network:
    network.load_state_dict(recipe_weights(network))
    return network.eval()


def _computed(case: str, golden: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Compute what a golden case holds from what it was computed from."""
    if case == "losses":
        return _computed_losses(golden["logits"])
    if case == "protocol":
        tiles, grid = crop_tiles(golden["lr"].numpy(), 8, 6)
        canvas = combine(golden["sr_tiles"].numpy(), grid, 8, 6, _SCALE)
        psnr = paper_psnr(canvas, golden["gt"].numpy())
        found = {"lr_tiles": torch.from_numpy(tiles), "canvas": torch.from_numpy(canvas)}
        return {**found, "psnr": torch.tensor(psnr, dtype=torch.float64)}
    with torch.no_grad():
        return _computed_networks(case, golden)


def _computed_losses(logits: Tensor) -> Mapping[str, Tensor]:
    logits = logits.requires_grad_()
    found: dict[str, Tensor] = {}
    for name, loss in (("class_loss", class_loss), ("average_loss", average_loss)):
        found[name] = loss(logits.softmax(1))
        (found[f"{name}_grad_logits"],) = torch.autograd.grad(found[name], logits)
    return found


def _computed_networks(case: str, golden: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    image = golden["x"]
    if case == _CLASS_MODULE:
        classifier = _filled(Classifier())
        blocks = classifier.block_logits(golden["wide"])
        dense = F.avg_pool2d(blocks, PATCH // 4, STEP // 4)[0]  # patches of 32 every 28 pixels
        return {"logits": classifier(image), "wide_logits": dense.flatten(1).T}
    if case == "classsr-fsrcnn-hard":
        network = _filled(ClassSR())
        return {"y": network(image), "classes": network.classifier(image).argmax(1)}
    if case == "classsr-fsrcnn-soft":
        output, probabilities = _filled(ClassSR()).blend(image)
        return {"y": output, "probabilities": probabilities}
    if case == "carn-36-train":
        alone = _filled(CARN(36)).train()
        outputs = torch.cat([alone(patch[None]) for patch in image])
        return {"y_one_by_one": outputs, "y_batched": _filled(CARN(36)).train()(image)}
    if case == "rcan-50-2x2":  # the authors' works on 0..255
        return {"y": 255 * _filled(RCAN(50, groups=2, blocks=2))(image / 255)}
    network, _, width = case.partition("-")
    return {"y": _filled(BRANCHES[network].build(int(width), _SCALE))(image)}


@lru_cache(maxsize=4)
def _paper_evaluation(
    network: str, original: bool, dataset: str, context: Context
) -> tuple[PaperEvaluation, Mapping[str, str]]:
    """Evaluate once for all figures of the same weights and pictures; with the sums of all files.

    Raises:
        Unavailable: A file or a folder is not in the user's data.
        WeightsError: A file of weights is damaged or of another network.
    """
    folder = cast("Path", context.data_dir)
    title = BRANCHES[network].title
    file = folder / "weights" / (f"{title}_branch3.pth" if original else f"ClassSR_{title}.pth")
    pictures = folder / dataset
    if not file.is_file():
        raise Unavailable(f"{file} is not there; it comes from the authors' Google Drive folder")
    if not pictures.is_dir():
        raise Unavailable(f"{pictures} is not there: {dataset} comes from you")
    if original:  # one class, for which any Class-Module decides
        module = ClassSR(ClassSRConfig(network=network, widths=BRANCHES[network].widths[-1:]))
        state_dict, _ = load_weights_file(file)
        load_state_dict_strict(module.branches[0], state_dict, source=str(file))
    else:
        module = ClassSR(ClassSRConfig(network=network))
        load_weights(module, file)
    pairs = folder_pairs(pictures, _SCALE)
    evaluation = evaluate_paper(module, pairs, device=choose_device(context.device))
    sums = {f"weights/{file.name}": sha256_file(file)}
    return evaluation, sums | dict(pair_assets(dataset, _SCALE, pairs))


@lru_cache(maxsize=32)
def _stand_in(
    network: str, dataset: str, path: Way, router: Router, budget: float | None, context: Context
) -> tuple[Measured, Mapping[str, str]]:
    """Upscale the photographs once for all figures of a way; with the sums of all files."""
    file = own_file(network)
    if not file.is_file():
        raise Unavailable(f"there are no weights of our own of {network}")
    pairs = _photographs(dataset, context)
    upscaler = Upscaler(
        network,
        weights=file,
        budget=budget,
        router=router,
        path=path,
        device=context.device,
        precision="fp32",
    )
    assets = {f"classsr/{file.stem.removeprefix('classsr_')}/own": upscaler.weights.sha256}
    assets |= {asset.name: asset.sha256 for asset in dataset_files("large")}
    return measure(upscaler, pairs), assets


def _photographs(dataset: str, context: Context) -> list[ReducedPair]:
    try:
        return stand_ins(
            dataset, _SCALE, accept_licence=context.accept_licence, offline=context.offline
        )
    except WeightsError as error:
        for asset in dataset_files("large"):
            if assets_available([asset.name]):
                fetch(asset, offline=True)  # raises for a file that is here and wrong
        raise Unavailable(str(error)) from error


def _per_picture(measured: Measured, figure: str) -> dict[str, float]:
    """Return a figure of each picture: PSNR in dB, shares in percent."""
    if figure in ("psnr", "gain"):
        return {name: psnr for name, psnr, _ in measured.per_image}
    return {name: 100 * getattr(report, figure) for name, _, report in measured.per_image}
