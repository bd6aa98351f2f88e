"""The paper's rows are measured by what their kinds say, and not run where something is missing."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowvis_csrnet import PACKAGE, reproduce
from lowvis_csrnet.evaluate import Pair, load_fivek
from lowvis_csrnet.reproduce import MEASURERS
from lowvis_csrnet.weights import OFFICIAL
from lowvis_shared.assets import dataset_files
from lowvis_shared.errors import WeightsError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.metrics import Protocol, psnr
from lowvis_shared.reproduce import (
    Context,
    Measurement,
    Result,
    Row,
    Unavailable,
    load_paper,
    run_paper,
)
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_shared.testing.pictures import photo
from numpy.typing import NDArray

PAPER = load_paper(PACKAGE.paper_toml)
FEW = 2  # of the public pairs: enough for a mean


def run(only: str, **context: Any) -> Result:
    given = {"device": "cpu", "offline": True} | context
    return run_paper(PAPER, MEASURERS, Context(**given), only=only)


def marks(result: Result) -> list[str]:
    assert result.rows
    return [row.mark for row in result.rows]


def measured(
    kind: str, weights: str = "", context: Context | None = None, **measure: Any
) -> Measurement:
    row = Row(
        id="tiny",
        table="",
        protocol="",
        metric="",
        digits=2,
        level="L2",
        status="ran",
        weights=weights,
        measure={"kind": kind, **measure},
    )
    return MEASURERS[kind](row, context or Context(device="cpu", offline=True))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with neither mirror nor cache."""
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    reproduce._fivek.cache_clear()
    return tmp_path


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first public pairs only."""
    asset_path("csrnet/csrnet/official")
    mirror_path("data/FiveK")
    pairs = load_fivek(offline=True)[:FEW]
    monkeypatch.setattr(reproduce, "load_fivek", lambda *_, **__: pairs)
    reproduce._fivek.cache_clear()
    yield [pair.name for pair in pairs]
    reproduce._fivek.cache_clear()


@pytest.fixture
def small_photos(monkeypatch: pytest.MonkeyPatch) -> dict[str, NDArray[np.uint8]]:
    """Small photographs in place of the large ones."""
    photos = {"a": photo(40, 56, seed=1), "b": photo(48, 40, seed=2)}
    monkeypatch.setattr(reproduce, "_large_photos", lambda _: (photos, {}))
    return photos


def reference() -> dict[str, dict[str, float]]:
    """What was measured on each pair with the authors' code."""
    content = json.loads(mirror_path("golden/csrnet/fivek_reference.json").read_text())
    return {pair["id"]: pair for pair in content["pairs"]}


# --- rows --------------------------------------------------------------------------------------


def test_every_row_that_ran_has_a_measurer_and_what_it_needs() -> None:
    needed: Mapping[str, set[str]] = {
        "parameters": {"network"},
        "golden": {"case", "tensor"},
        "fivek": {"metric", "pairs"},
        "lut": {"size"},
        "photos": {"lesson", "network", "what"},
        "operation": {"operation", "steps"},
    }
    assert set(needed) == set(MEASURERS)
    ran = [row for row in PAPER.rows if row.status == "ran"]
    assert {row.kind for row in ran} == set(MEASURERS)
    for row in ran:
        assert needed[row.kind] <= set(row.measure), row.id


def test_parameters_are_the_papers() -> None:
    result = run("*parameters")
    assert len(result.rows) >= 5
    assert [row.mark for row in result.rows if row.row.status == "ran"].count("✓") >= 5
    assert "✗" not in marks(result)


@pytest.mark.parametrize("case", ["official", "recipe", "recipe_odd_batch", "prophoto_protocol"])
def test_golden_rows_are_within_their_tolerance(case: str) -> None:
    mirror_path("golden/csrnet")
    asset_path("csrnet/csrnet/official")
    result = run(f"golden/csrnet_{case}/*")
    assert set(marks(result)) == {"✓"}
    assert len(result.rows) == 8
    for row in result.rows:
        assert row.measurement is not None
        named = row.row.weights == "official"
        assert list(row.measurement.assets) == (["csrnet/csrnet/official"] if named else [])


def test_a_wrong_network_falls_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror_path("golden/csrnet")
    right = reproduce.recipe_weights

    def wrong(network: Any) -> dict[str, Any]:
        weights = right(network)
        weights["cond_shift2.bias"] = weights["cond_shift2.bias"] + 1e-3
        return weights

    monkeypatch.setattr(reproduce, "recipe_weights", wrong)
    result = run("golden/csrnet_recipe/*")
    outside = {row.row.measure["tensor"] for row in result.rows if row.mark == "✗"}
    assert outside == {"shift2", "output"}


# --- FiveK -------------------------------------------------------------------------------------


def test_the_papers_column_holds_the_reference() -> None:
    figures = reference()
    rows = [
        row
        for row in PAPER.rows
        if row.kind == "fivek" and row.measure["pairs"] not in ("public", "full")
    ]
    assert len(rows) == 9
    for row in rows:
        assert row.value == figures[str(row.measure["pairs"])]["psnr_prophoto"]
    names = [str(row.measure["pairs"]) for row in rows]
    for row in PAPER.rows:
        columns = {
            "fivek/input/psnr": "psnr_input",
            "fivek/input/ssim": "ssim_input",
            "fivek/official/psnr": "psnr_prophoto",
            "fivek/official/ssim": "ssim_prophoto",
            "fivek/official-srgb/psnr": "psnr_srgb",
            "fivek/official-k040/psnr": "psnr_prophoto_k040",
        }
        if row.id in columns:
            mean = np.mean([figures[name][columns[row.id]] for name in names])
            assert row.value == pytest.approx(mean, abs=6e-5), row.id


def test_pairs_give_the_figures_of_the_reference(few_pairs: list[str]) -> None:
    result = run(f"fivek-pairs/official/{few_pairs[0]}/psnr")
    assert marks(result) == ["✓"]
    for column, weights, options in (
        ("psnr_input", "none", {"metric": "psnr"}),
        ("psnr_prophoto", "official", {"metric": "psnr"}),
        ("psnr_srgb", "official", {"metric": "psnr", "input_space": "srgb"}),
        ("psnr_prophoto_k040", "official", {"metric": "psnr", "factor": 0.4}),
        ("ssim_prophoto", "official", {"metric": "ssim"}),
        ("lab_wrapped_prophoto", "official", {"metric": "lab_wrapped"}),
    ):
        found = measured("fivek", weights, pairs="public", **options)
        assert list(found.per_item) == few_pairs
        assert found.value == pytest.approx(np.mean(list(found.per_item.values())))
        assert ("csrnet/csrnet/official" in found.assets) == (weights == "official")
        tolerance = 1e-4 if column.startswith("ssim") else 0.01
        for name, value in found.per_item.items():
            assert value == pytest.approx(reference()[name][column], abs=tolerance), column


def test_the_full_set_runs_when_it_is_there(tmp_path: Path, few_pairs: list[str]) -> None:
    del few_pairs
    measure = {"metric": "psnr", "pairs": "full"}
    with pytest.raises(Unavailable, match="--data-dir"):
        measured("fivek", "none", **measure)
    reproduce_context = Context(device="cpu", offline=True, data_dir=tmp_path)
    for folder, seed in (("raw_input_test", 1), ("expert_C_test", 2)):
        write_image(Picture(photo(24, 32, seed=seed)), tmp_path / "FiveK" / folder / "1.png")
    assert measured("fivek", "none", reproduce_context, **measure).value > 0


def test_a_lut_is_measured_against_the_network(few_pairs: list[str]) -> None:
    coarse, fine = (measured("lut", "official", size=size) for size in (5, 17))
    assert list(fine.per_item) == few_pairs
    assert 25 < coarse.value < fine.value < 70
    assert "csrnet/csrnet/official" in fine.assets


# --- our own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lesson", ["retouch", "contrast-1.5"])
def test_photographs_are_scored_before_and_after(
    lesson: str, small_photos: dict[str, NDArray[np.uint8]]
) -> None:
    options = {"lesson": lesson, "network": "csrnet", "severity": 1.0}
    shown = measured("photos", what="input", **options)
    draws, rest = divmod(len(shown.per_item), len(small_photos))
    assert rest == 0
    assert draws >= 10 if lesson == "retouch" else draws == 1
    assert shown.value == pytest.approx(np.mean(list(shown.per_item.values())))
    assert not shown.assets
    if lesson == "contrast-1.5":
        image = small_photos["a"].astype(np.float32) / np.float32(255)
        target = reproduce.OPERATIONS[lesson](image)
        expected = psnr(image, target, Protocol(color="rgb"))
        assert shown.per_item["a 0"] == pytest.approx(expected, abs=1e-6)
        return
    milder = measured("photos", what="input", **(options | {"severity": 0.3}))
    assert milder.value > shown.value + 5
    retouched = measured("photos", what="output", **options)
    assert list(retouched.assets) == ["csrnet/csrnet/own"]
    assert retouched.value > shown.value


def test_an_operation_is_trained_on_the_users_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(25):  # one more than are held out
        write_image(Picture(photo(24, 24, seed=seed)), tmp_path / "photos" / f"{seed}.png")
    context = Context(device="cpu", offline=True, data_dir=tmp_path)
    short = {"steps": 4, "operation": "brightness-0.5"}
    found = measured("operation", context=context, **short, condition="none")
    assert np.isfinite(found.value)
    assert "4 steps" in found.shortened
    runs: list[tuple[Any, ...]] = []
    train = reproduce._train
    monkeypatch.setattr(reproduce, "_train", lambda *given: runs.append(given) or train(*given))
    measured("operation", context=context, **short, start="brightness-1.5")
    assert [run[1] for run in runs] == ["brightness-1.5", "brightness-0.5"]
    assert runs[0][-1] is None
    assert Path(runs[1][-1]).name == "csrnet.safetensors"


# --- what is missing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "weights", "measure", "missing"),
    [
        ("golden", "", {"case": "csrnet_recipe", "tensor": "output"}, "LOWVIS_MIRROR"),
        ("fivek", "none", {"metric": "psnr", "pairs": "public"}, "fivek/"),
        ("fivek", "none", {"metric": "psnr", "pairs": "full"}, "--data-dir"),
        ("lut", "official", {"size": 5}, "fivek/"),
        ("photos", "", {"lesson": "retouch", "network": "csrnet", "what": "input"}, "large/"),
        ("operation", "", {"operation": "contrast-1.5", "steps": 1}, "--data-dir"),
    ],
    ids=str,
)
def test_what_is_not_here_is_not_run(
    alone: Path, kind: str, weights: str, measure: dict[str, Any], missing: str
) -> None:
    with pytest.raises(Unavailable, match=missing):
        measured(kind, weights, **measure)
    context = Context(device="cpu", offline=True, data_dir=alone)
    with pytest.raises(Unavailable):
        measured(kind, weights, context, **({"severity": 1.0} | measure))


def test_official_weights_that_may_not_be_fetched_are_a_lack(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(Picture(photo(24, 32)), alone / "1.png")
    pair = Pair("1", alone / "1.png", alone / "1.png")
    monkeypatch.setattr(reproduce, "load_fivek", lambda *_, **__: [pair])
    with pytest.raises(Unavailable, match="csrnet/csrnet/official"):
        measured("fivek", "official", metric="psnr", pairs="public")


@pytest.mark.parametrize("only", ["golden/*", "fivek/official/*", "lut/*", "retouch/severe/*"])
def test_a_run_without_a_mirror_marks_its_rows_not_run(alone: Path, only: str) -> None:
    result = run(only, data_dir=alone)
    assert set(marks(result)) == {"○"}
    assert all(row.reason for row in result.rows)


@pytest.mark.parametrize(
    ("kind", "weights", "measure", "dataset"),
    [
        ("fivek", "none", {"metric": "psnr", "pairs": "public"}, "fivek"),
        ("photos", "", {"lesson": "contrast-1.5", "network": "csrnet", "what": "input"}, "large"),
    ],
    ids=str,
)
def test_pictures_that_are_here_and_wrong_are_an_error_and_no_lack(
    alone: Path, kind: str, weights: str, measure: dict[str, Any], dataset: str
) -> None:
    for asset in dataset_files(dataset):
        damaged = alone / "cache" / asset.path
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="is not the published"):
        measured(kind, weights, **measure)


def test_official_weights_that_are_here_and_wrong_are_an_error(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "load_fivek", lambda *_, **__: [])
    damaged = alone / "cache" / OFFICIAL.path
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="is not the published"):
        measured("lut", "official", size=5)
