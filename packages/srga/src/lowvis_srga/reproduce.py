"""How each kind of row in ``paper.toml`` is measured."""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Literal, cast

from lowvis_shared.assets import assets_available, fetch, find_asset, registry
from lowvis_shared.candidates import find_candidate, installed_networks
from lowvis_shared.device import choose_device
from lowvis_shared.errors import InputError, ReproductionError, WeightsError
from lowvis_shared.files import sha256_file
from lowvis_shared.images import read_image
from lowvis_shared.reproduce import (
    Context,
    Measurement,
    Measurer,
    Row,
    Unavailable,
    find_pairs,
    pair_assets,
)
from lowvis_shared.resize import imresize, modcrop
from torch import Tensor, nn

from lowvis_srga.degrade import parse_degradation
from lowvis_srga.features import Tap, plain_picture, tap_module
from lowvis_srga.patches import PatchSet, Source, make_sets, pixels_sha256
from lowvis_srga.scoring import NetworkScore, Settings, find_trends, score
from lowvis_srga.statistics import GeneralizedGaussian, kld_ggd, srga_index

_SCALE, _SIZE, _PATCHES = 4, 128, 800

_CHECK_SETS: Mapping[str, str] = {
    "clean": "8717731534063fdf5bb2dbd230e8affb560f555d47bdf505fbd0c24c9199d690",
    "blur0.5": "4b9e64eed6f94e664bba9ea9c25f179579c3ae878580e417ed68339c92030b1f",
    "blur1": "3a8a2ba9acf4c35926019110d3458564f0f987e51c3a0a73c9ed280bf4bd75b8",
    "blur2": "f126a4e91158b65b936bd369129f78210653efb1cfe325a9aa81a9f4a1f8d094",
    "blur3": "9cec2cbc9ed567736427af3dc8e790562c294f95d2e83a1e7e15908a606ddf55",
    "blur4": "213b4a3b2f3b4f22ec67b642df08f328d5e93d41790fe39a08f1aa237917aabb",
    "blur6": "cfabaedfc50762ec14095f8e7393fc272dde46f6425ae55bd743b97c4e0460e6",
    "blur21-6": "16da5c659772ca64510b5e873612449e06e5d45bf7593e0edd15634883da6d4e",
    "noise5": "c0384ec08b96300a6d80cb04b381cb6316984da3d8b7820df7aed61f7bfb5aaf",
    "noise10": "f351d41be71659bd6d1803c1119b0bcc644f0674261a35fda64ea268054c6171",
    "noise20": "0a25eb17982a28cce2cd928e1105c0fbf24e5dc63552bca9ec42c78c9d1db39c",
    "noise40": "e2737b4c856f1a46fa7f97836cda4c9f58190a2dc605d812e6bac207b9ab9398",
    "jpeg90": "8bda868c1ae5afa4720f99a364eff256dd94dd71a626f33ca59b31e28bbcba9a",
    "jpeg50": "6890f9c564a720e4fc84e4aaad837062f94403feea02d3e764735717c51928a2",
    "jpeg20": "9f83951c2081c2a3d98549eead174a803304771bca45727caa61e62ba56ad7bf",
}
"""Sets of the check figures, with the SHA-256 of their 800 low-resolution patches, uint8."""

_PHOTOGRAPH_SETS = (
    *("clean", "blur1", "blur2", "blur4", "noise5", "noise10", "noise20", "noise40"),
    *("jpeg90", "jpeg50", "jpeg20"),
)

_Which = Literal["check", "photographs"]


def measure_formula(row: Row, context: Context) -> Measurement:  # noqa: ARG001 - a Measurer
    """Compute the index of two distributions that the paper prints.

    ``measure`` holds ``reference`` and ``test``, each ``[sigma, alpha]``.
    """
    return Measurement(srga_index(kld_ggd(_printed(row, "reference"), _printed(row, "test"))))


def _printed(row: Row, which: str) -> GeneralizedGaussian:
    sigma, alpha = cast("Sequence[float]", row.measure[which])
    return GeneralizedGaussian(sigma, alpha)


def measure_printed(row: Row, context: Context) -> Measurement:
    """Refuse figures of networks and pictures that nobody can fetch; their rows say why."""
    del context
    raise Unavailable(row.reason)


def measure_check(row: Row, context: Context) -> Measurement:
    """Measure a figure on patches of Urban100 and B100.

    ``measure`` holds ``network``, ``asset`` (of its weights), ``layer``, ``divisor`` (of its
    input), ``set``, ``patches``, ``dimensions`` and ``figure``: ``srga``, ``sigma``, ``alpha``, or
    ``diverged``, the number of patches on which the network diverges.

    Raises:
        Unavailable: The pictures or the weights are not on this machine.
        InputError: The patches or the layer are not those of the check figures.
    """
    return _measure(row, "check", context)


def measure_photographs(row: Row, context: Context) -> Measurement:
    """Measure a figure on patches of Set5, Set14 and six large photographs.

    ``measure`` is as for `measure_check`; ``figure`` may be ``falls`` too, the number of steps at
    which the index falls over the degrees of the ``family``.

    Raises:
        Unavailable: The pictures or the weights are not on this machine.
    """
    if row.measure["figure"] != "falls":
        return _measure(row, "photographs", context)
    scored, assets = _score(row, "photographs", context)
    family = [each for each in scored.sets if each.family == row.measure["family"]]
    trends = find_trends([each for each in family if not each.diverged])
    if not trends:
        raise InputError(
            f"{scored.name} diverges on all degrees of {row.measure['family']} but one"
        )
    values = {each.name: each.value for each in family if each.value is not None}
    return Measurement(trends[0].falls, per_item=values, assets=assets)


MEASURERS: Mapping[str, Measurer] = {
    "formula": measure_formula,
    "printed": measure_printed,
    "check": measure_check,
    "photographs": measure_photographs,
}
"""Measurers by the ``kind`` of a row."""


def _measure(row: Row, which: _Which, context: Context) -> Measurement:
    scored, assets = _score(row, which, context)
    found = next((each for each in scored.sets if each.name == row.measure["set"]), None)
    if row.measure["figure"] == "diverged" and found is not None:
        return Measurement(found.diverged, assets=assets)
    if found is None and row.measure["set"] != Settings().reference:
        raise ReproductionError(f"row {row.id}: there is no set {row.measure['set']}")
    any_set = found or scored.sets[0]  # of the reference there is the other half of a comparison
    made = any_set.comparison
    if made is None:
        raise InputError(f"{any_set.name}: {any_set.problem}")
    fitted = made.reference if found is None else made.test
    figures: dict[str, float | None] = {
        "srga": made.value,
        "srga_shared": any_set.shared,
        "sigma": fitted.sigma,
        "alpha": fitted.alpha,
        "mean_shift": made.mean_shift,
        "outside": made.outside,
    }
    known = {name: value for name, value in figures.items() if value is not None}
    return Measurement(known[str(row.measure["figure"])], per_item=known, assets=assets)


def _score(row: Row, which: _Which, context: Context) -> tuple[NetworkScore, Mapping[str, str]]:
    """Score a network once for all rows of the same sets; with the sums of all files."""
    spec = row.measure
    name, asset = str(spec["network"]), str(spec.get("asset", ""))
    if name.partition("@")[0] not in _installed():
        raise Unavailable(f"{name} is a network of a lowvis package that is not installed")
    weights = {asset: sha256_file(_fetched(asset, context))} if asset else {}
    patches = cast("int", spec.get("patches", _PATCHES))
    dimensions, divisor = cast("int", spec["dimensions"]), cast("float", spec.get("divisor", 1))
    scored = _scored(name, which, patches, dimensions, divisor, context)
    if scored.problem:
        raise InputError(f"{name}: {scored.problem}")
    if "layer" in spec and scored.layer != f"input of {spec['layer']}":
        raise InputError(f"{name} is read at the {scored.layer}, not that of {spec['layer']}")
    _, pictures = _sets(which, context)
    return scored, {**pictures, **weights}


_installed = cache(partial(installed_networks, task=None))
"""The networks of all packages, looked for once."""


@lru_cache(maxsize=4)
def _scored(
    name: str, which: _Which, patches: int, dimensions: int, divisor: float, context: Context
) -> NetworkScore:
    sets, _ = _sets(which, context)

    def opened() -> Tap:
        candidate = find_candidate(
            name,
            scale=_SCALE,
            accept_licence=context.accept_licence,
            offline=context.offline,
            task=None,
        )
        network = candidate.open()
        return tap_module(
            network if divisor == 1 else _Divided(network, divisor),
            name=candidate.title,
            scale=_SCALE,
            device=choose_device(context.device),
            example=plain_picture(_SIZE // _SCALE),
        )

    scoring = score(
        {name: opened},
        [each.first(patches) for each in sets],
        Settings(dimensions=dimensions, bootstrap=0),
        scale=_SCALE,
    )
    return scoring.networks[0]


class _Divided(nn.Module):
    """A network that is given its pictures smaller than it expects them, as one check was made."""

    def __init__(self, network: nn.Module, divisor: float) -> None:
        super().__init__()
        self.network = network
        self.divisor = divisor

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image / self.divisor)


@lru_cache(maxsize=1)
def _sets(which: _Which, context: Context) -> tuple[Sequence[PatchSet], Mapping[str, str]]:
    """Make the sets; with the sums of all pictures."""
    sources, assets = (_check_pictures if which == "check" else photographs)(context)
    names = tuple(_CHECK_SETS) if which == "check" else _PHOTOGRAPH_SETS
    sets = make_sets(
        sources,
        [parse_degradation(name) for name in names],
        patches=_PATCHES,
        size=_SIZE,
        scale=_SCALE,
    )
    for each in sets if which == "check" else ():
        if (actual := pixels_sha256(each.low)) != _CHECK_SETS[each.name]:
            raise InputError(f"{each.name}: the patches have the sum {actual}, not the check's")
    return sets, assets


def _check_pictures(context: Context) -> tuple[list[Source], Mapping[str, str]]:
    sources: list[Source] = []
    assets: dict[str, str] = {}
    for dataset in ("urban100", "b100"):
        pairs = sorted(find_pairs(dataset, _SCALE, context), key=lambda pair: pair.high.name)
        sources += [(f"{dataset}/{pair.name}", pair.read()[1]) for pair in pairs]
        assets |= pair_assets(dataset, _SCALE, pairs)
    return sources, assets


def photographs(context: Context) -> tuple[list[Source], Mapping[str, str]]:
    """The two small test sets, and six photographs at half their size, which hides their JPEG."""
    sources: list[Source] = []
    assets: dict[str, str] = {}
    for dataset in ("set5", "set14"):
        pairs = find_pairs(dataset, _SCALE, context)
        sources += [(f"{dataset}/{pair.name}", pair.read()[1]) for pair in pairs]
        assets |= pair_assets(dataset, _SCALE, pairs)
    for name in sorted(name for name in registry() if name.startswith("large/")):
        path = _fetched(name, context)
        sources.append((name, imresize(modcrop(read_image(path).pixels, 2), scale=0.5)))
        assets[name] = sha256_file(path)
    return sources, assets


def _fetched(name: str, context: Context) -> Path:
    try:
        return fetch(
            find_asset(name), accept_licence=context.accept_licence, offline=context.offline
        )
    except WeightsError as error:
        if assets_available([name]):
            raise  # a file that is here and wrong is an error, not a lack
        raise Unavailable(str(error)) from error
