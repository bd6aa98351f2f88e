"""The paper's rows are measured by what their kinds say, and not run where something is missing."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from lowvis_classsr import PACKAGE, reproduce
from lowvis_classsr.branches import BRANCHES
from lowvis_classsr.cost import PAPER_CONSTANTS
from lowvis_classsr.evaluate import Measured, ReducedPair, measure
from lowvis_classsr.model import ClassSR, ClassSRConfig
from lowvis_classsr.predict import Upscaler
from lowvis_classsr.protocol import evaluate_paper
from lowvis_classsr.reproduce import MEASURERS
from lowvis_shared.assets import dataset_files
from lowvis_shared.images import Picture, write_image
from lowvis_shared.pairs import folder_pairs
from lowvis_shared.reproduce import Context, Result, Row, RowResult, load_paper, run_paper
from lowvis_shared.testing import mirror_path
from lowvis_shared.testing.pictures import photo
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

PAPER = load_paper(PACKAGE.paper_toml)
KINDS: Mapping[str, set[str]] = {
    "parameters": {"network"},
    "flops": {"network", "convention", "unit"},
    "counts": {"network", "counts"},
    "ceiling": {"network", "flops"},
    "golden": {"case", "tensor"},
    "paper-set": {"network", "original", "dataset", "figure"},
    "stand-in": {"network", "dataset", "figure"},
}
QUOTED = {"anchor", "unverified"}  # figures of others, which nothing here measures


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Evaluations are kept for further rows; here they are made of other files each time."""
    for kept in (reproduce._paper_evaluation, reproduce._stand_in):
        kept.cache_clear()
    yield
    for kept in (reproduce._paper_evaluation, reproduce._stand_in):
        kept.cache_clear()


def run(only: str, **context: Any) -> Result:
    given = {"device": "cpu", "offline": True} | context
    return run_paper(PAPER, MEASURERS, Context(**given), only=only)


def marks(result: Result) -> list[str]:
    assert result.rows
    return [row.mark for row in result.rows]


def by_id(result: Result) -> dict[str, RowResult]:
    return {each.row.id: each for each in result.rows}


def value(result: RowResult) -> float:
    assert result.measurement is not None, result.reason
    return result.measurement.value


def of_kind(kind: str) -> list[Row]:
    return [row for row in PAPER.rows if row.kind == kind]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with neither mirror nor cache."""
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    return tmp_path


# --- rows ----------------------------------------------------------------------------------------


def test_every_row_has_a_measurer_and_what_it_needs_or_only_quotes() -> None:
    assert set(KINDS) == set(MEASURERS)
    assert {row.kind for row in PAPER.rows} == set(MEASURERS) | QUOTED
    for row in PAPER.rows:
        assert row.kind in QUOTED or KINDS[row.kind] <= set(row.measure), row.id
        assert row.status != "ran" or row.kind not in QUOTED, row.id


def test_unverified_figures_are_not_quoted() -> None:
    assert of_kind("unverified")
    for row in of_kind("unverified"):
        assert (row.status, row.value) == ("paper-ambiguous", None), row.id


def test_figures_of_others_are_marked_not_run() -> None:
    paper = replace(PAPER, rows=tuple(row for row in PAPER.rows if row.kind in QUOTED))
    found = run_paper(paper, MEASURERS).rows
    assert {each.mark for each in found} == {"○"}
    assert all(each.row.reason for each in found)


def test_the_main_table_is_whole_and_agrees_with_itself() -> None:
    rows = {row.id: row for row in of_kind("paper-set")}
    assert len(rows) == 4 * 3 * 4
    for network in BRANCHES:
        for dataset in ("test2k", "test4k", "test8k"):
            original = rows[f"{network}-o/{dataset}/psnr"].value
            psnr, flops, percent = (
                rows[f"{network}/{dataset}/{figure}"]
                for figure in ("psnr", "flops", "flops-percent")
            )
            assert original is not None
            assert psnr.value == pytest.approx(original, abs=0.1)
            assert flops.value is not None
            assert percent.value is not None
            share = flops.value * float(str(flops.measure["unit"])) / PAPER_CONSTANTS[network][-1]
            assert 100 * share == pytest.approx(percent.value, abs=1)
            ceiling = next(row for row in PAPER.rows if row.id == f"true-cost/{network}/{dataset}")
            printed = flops.value * float(str(flops.measure["unit"]))
            assert ceiling.measure["flops"] == pytest.approx(printed)


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", ["*parameters", "counts/*", "true-cost/*", "branches/*true-flops"])
def test_counts_are_met(only: str) -> None:
    result = run(only)
    ran = [each for each in result.rows if each.row.status == "ran"]
    assert len(ran) >= 8
    assert {each.mark for each in ran} == {"✓"}, [each.cells() for each in ran]


def test_the_papers_flops_are_met_but_for_a_constant_that_its_code_contradicts() -> None:
    found = by_id(run("branches/*/flops"))
    assert len(found) == 13
    module = found.pop("branches/class-module/flops")
    assert module.mark == "•"
    assert value(module) == pytest.approx(7.602368)
    assert {each.mark for each in found.values()} == {"✓"}


def test_true_and_papers_flops_differ_where_there_is_a_transposed_convolution() -> None:
    found = by_id(run("branches/*flops"))
    for network, branch in BRANCHES.items():
        for width in branch.widths:
            paper, true = (
                value(found[f"branches/{network}-{width}/{each}"])
                for each in ("flops", "true-flops")
            )
            expected = (3987 * width + 5184) / (342 * width + 5184) if network == "fsrcnn" else 1
            assert paper / true == pytest.approx(expected)


def test_the_column_of_class_counts_holds_what_the_authors_code_computes() -> None:
    path = mirror_path("golden/classsr/protocol.safetensors")
    with safe_open(path, framework="pt") as file:
        noted = json.loads(file.metadata()["cal_FLOPs"])
    rows = {row.id: row for row in of_kind("counts")}
    assert len(rows) == 2 * len(noted["result"]) == 8
    for name, (flops, share) in noted["result"].items():
        network = name.removeprefix("classSR_3class_").removesuffix("_net")
        assert rows[f"counts/{network}/flops"].value == flops
        assert rows[f"counts/{network}/flops-percent"].value == 100 * share
        assert rows[f"counts/{network}/flops"].measure["counts"] == noted["counts"]


def test_a_ceiling_is_what_the_overlap_and_the_class_module_leave() -> None:
    """If all patches are hard, routing costs the overlap of patches of 32 every 28, and judging."""
    row = next(row for row in of_kind("ceiling") if row.measure["network"] == "carn")
    hard = replace(row, measure={**row.measure, "flops": 2e9})  # above the hardest branch
    found = MEASURERS["ceiling"](hard, Context())
    pixel, judge = 130.5 * 64**2 + 459 * 64 + 153, 3_801_184 / 1024
    assert found.value == pytest.approx(100 * (32 / 28) ** 2 * (pixel + judge) / pixel)


# --- golden tensors ------------------------------------------------------------------------------


def test_golden_rows_are_within_their_tolerance() -> None:
    mirror_path("golden/classsr")
    result = run("golden/*")
    assert set(marks(result)) == {"✓"}, [row.cells() for row in result.rows if row.mark != "✓"]
    cases = {str(row.measure["case"]) for row in of_kind("golden")}
    there = {path.stem for path in mirror_path("golden/classsr").glob("*.safetensors")}
    assert cases == there


def test_a_wrong_network_falls_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror_path("golden/classsr")
    right = reproduce.recipe_weights

    def wrong(network: nn.Module) -> dict[str, torch.Tensor]:
        weights = right(network)
        key = next(key for key in weights if key.endswith("lastOut.bias") or key == "exit.bias")
        weights[key] = weights[key] + torch.linspace(1e-2, 2e-2, 3)
        return weights

    monkeypatch.setattr(reproduce, "recipe_weights", wrong)
    assert set(marks(run("golden/carn-52/*"))) == {"✗"}
    assert set(marks(run("golden/class-module/*"))) == {"✗"}
    assert set(marks(run("golden/classsr-fsrcnn-soft/*"))) == {"✗"}


# --- the paper's test sets -----------------------------------------------------------------------


@pytest.fixture
def users_data(tmp_path: Path) -> Path:
    """What a user has who has the authors' weights and pictures; here, two small ones."""
    for seed, size in enumerate([(260, 300), (240, 270)]):
        write_image(Picture(photo(*size, seed=seed)), tmp_path / f"Test2K/HR/{seed}.png")
    (tmp_path / "weights").mkdir()
    torch.manual_seed(0)
    torch.save(ClassSR().state_dict(), tmp_path / "weights/ClassSR_FSRCNN.pth")
    branch = ClassSRConfig().build_branch(-1).state_dict()
    torch.save(branch, tmp_path / "weights/FSRCNN_branch3.pth")
    return tmp_path


def test_weights_and_pictures_of_the_user_are_measured_as_the_paper_does(users_data: Path) -> None:
    found = by_id(run("fsrcnn/test2k/*", data_dir=users_data))
    network = ClassSR()
    network.load_state_dict(torch.load(users_data / "weights/ClassSR_FSRCNN.pth"))
    expected = evaluate_paper(network, folder_pairs(users_data / "Test2K", 4), device="cpu")
    psnr = found["fsrcnn/test2k/psnr"]
    assert value(psnr) == expected.psnr
    assert psnr.measurement is not None
    assert psnr.measurement.per_item == dict(expected.per_image)
    assert set(psnr.measurement.assets) == {
        "weights/ClassSR_FSRCNN.pth",
        "Test2K/HR/0.png",
        "Test2K/HR/1.png",
    }
    assert value(found["fsrcnn/test2k/flops"]) == expected.paper_flops / 1e6
    assert value(found["fsrcnn/test2k/flops-percent"]) == expected.paper_percent
    assert psnr.mark == "✗"  # these are not the authors'


def test_the_original_network_runs_on_every_patch(users_data: Path) -> None:
    (found,) = run("fsrcnn-o/test2k/*", data_dir=users_data).rows
    network = ClassSR()
    network.net3.load_state_dict(torch.load(users_data / "weights/FSRCNN_branch3.pth"))
    with torch.no_grad():
        network.classifier.lastOut.bias[2] = 99.0
    expected = evaluate_paper(network, folder_pairs(users_data / "Test2K", 4), device="cpu")
    assert expected.counts[:2] == (0, 0)
    assert value(found) == expected.psnr


def test_a_set_is_measured_once_for_all_its_rows(
    users_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(given)
        return evaluate_paper(*given, **options)

    monkeypatch.setattr(reproduce, "evaluate_paper", counted)
    assert len(run("fsrcnn/test2k/*", data_dir=users_data).rows) == 3
    assert len(calls) == 1


@pytest.mark.parametrize("absent", ["weights/ClassSR_FSRCNN.pth", "Test2K"])
def test_what_the_user_lacks_is_named(users_data: Path, absent: str) -> None:
    assert "--data-dir" in run("fsrcnn/test2k/psnr").rows[0].reason
    (users_data / absent).rename(users_data / "elsewhere")
    (found,) = run("fsrcnn/test2k/psnr", data_dir=users_data).rows
    assert found.mark == "○"
    assert str(users_data / absent) in found.reason


@pytest.mark.parametrize("row", ["fsrcnn/test2k/psnr", "fsrcnn-o/test2k/psnr"])
def test_weights_of_another_network_are_an_error_and_no_lack(users_data: Path, row: str) -> None:
    torch.manual_seed(0)
    carn = ClassSR(ClassSRConfig(network="carn")).state_dict()
    for name in ("ClassSR_FSRCNN.pth", "FSRCNN_branch3.pth"):
        torch.save(carn, users_data / "weights" / name)
    (found,) = run(row, data_dir=users_data).rows
    assert found.mark == "✗"
    assert "weights" in found.reason


# --- our own weights -----------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Weights as those of the package, and small photographs in place of the large ones."""
    for seed in range(2):
        write_image(Picture(photo(280, 320, seed=seed)), tmp_path / f"{seed}.png")
    pairs = [ReducedPair(tmp_path / f"{seed}.png", 300, 4) for seed in range(2)]
    torch.manual_seed(0)
    network = ClassSR()
    with torch.no_grad():
        network.classifier.lastOut.weight.mul_(100)  # classes of all kinds, though untrained
    save_file(
        network.state_dict(),
        tmp_path / "classsr_fsrcnn_x4.safetensors",
        metadata={"edge_thresholds": "0.02 0.05"},
    )

    def file(network: str) -> Path:
        return tmp_path / f"classsr_{network}_x4.safetensors"

    monkeypatch.setattr(reproduce, "own_file", file)
    monkeypatch.setattr(reproduce, "stand_ins", lambda *_, **__: pairs)
    return file


def measured(file: Path, **options: Any) -> Measured:
    upscaler = Upscaler(weights=file, device="cpu", precision="fp32", **options)
    pairs = [ReducedPair(file.parent / f"{seed}.png", 300, 4) for seed in range(2)]
    return measure(upscaler, pairs)


def test_rows_of_stand_ins_are_figures_of_their_ways(own: Callable[[str], Path]) -> None:
    found = by_id(run("stand-ins/fsrcnn/2k/*"))
    ways: dict[str, dict[str, object]] = {
        "original": {"path": "whole"},
        "classsr": {"path": "routed"},
        "edges": {"path": "routed", "router": "edges"},
        "budget-0.7": {"path": "routed", "budget": 0.7},
        "budget-0.85": {"path": "routed", "budget": 0.85},
        "edges-0.85": {"path": "routed", "router": "edges", "budget": 0.85},
    }
    expected = {name: measured(own("fsrcnn"), **options) for name, options in ways.items()}
    assert len(found) == 2 * len(ways) + 2 + 3
    for name, each in expected.items():
        psnr, share = (
            found[f"stand-ins/fsrcnn/2k/{name}/{figure}"] for figure in ("psnr", "share")
        )
        assert value(psnr) == pytest.approx(each.psnr)
        assert value(share) == pytest.approx(100 * each.share)
        assert (psnr.mark, share.mark) == ("•", "•")
        assert psnr.measurement is not None
        assert psnr.measurement.per_item == {name: psnr for name, psnr, _ in each.per_image}
        assert set(psnr.measurement.assets) == {
            "classsr/fsrcnn_x4/own",
            *(asset.name for asset in dataset_files("large")),
        }
    gain, share = (
        found[f"stand-ins/fsrcnn/2k/classsr/{figure}"] for figure in ("gain", "paper-share")
    )
    assert value(gain) == pytest.approx(expected["classsr"].psnr - expected["original"].psnr)
    assert value(share) == pytest.approx(100 * expected["classsr"].paper_share)
    for name in ("classsr", "edges", "edges-0.85"):
        branches = fmean(report.branch_share for _, _, report in expected[name].per_image)
        assert value(found[f"stand-ins/fsrcnn/2k/{name}/branch-share"]) == pytest.approx(
            100 * branches
        )
    # Beside the paper's values stand figures of another training on other pictures: never a fault.
    assert (gain.mark, share.mark) == ("≈", "≈")


def test_every_way_upscales_once_for_all_its_rows(
    own: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def counted(*given: Any) -> Measured:
        calls.append(given)
        return measure(*given)

    monkeypatch.setattr(reproduce, "measure", counted)
    run("stand-ins/fsrcnn/4k/*")
    assert len(calls) == 6


def test_large_pictures_of_the_slow_network_are_upscaled_three_times_at_most() -> None:
    ways = {
        tuple(str(row.measure.get(key)) for key in ("path", "router", "budget"))
        for row in of_kind("stand-in")
        if (row.measure["network"], row.measure["dataset"]) == ("carn", "4k")
    }
    assert len(ways) == 3


def test_stand_ins_are_not_run_without_our_weights(own: Callable[[str], Path]) -> None:
    result = run("stand-ins/carn/2k/*")
    assert set(marks(result)) == {"○"}
    assert "no weights of our own of carn" in result.rows[0].reason


# --- what is missing -----------------------------------------------------------------------------


def test_a_machine_without_a_mirror_runs_no_golden_row(alone: Path) -> None:
    result = run("golden/losses/*")
    assert set(marks(result)) == {"○"}
    assert "LOWVIS_MIRROR" in result.rows[0].reason


def test_photographs_that_may_not_be_fetched_are_a_lack_and_wrong_ones_an_error(
    alone: Path, own: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lowvis_classsr.evaluate import stand_ins

    monkeypatch.setattr(reproduce, "stand_ins", stand_ins)
    only = "stand-ins/fsrcnn/2k/original/psnr"
    (found,) = run(only).rows
    assert found.mark == "○"
    assert "large/" in found.reason

    damaged = alone / "cache" / dataset_files("large")[-1].path  # the others are absent
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    (found,) = run(only).rows
    assert found.mark == "✗"
    assert str(damaged) in found.reason
