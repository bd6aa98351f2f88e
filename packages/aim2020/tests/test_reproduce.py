"""Rows of the report: the counts, and the published weights on a small set."""

from pathlib import Path

import pytest
from lowvis_aim2020 import PACKAGE
from lowvis_aim2020.reproduce import MEASURERS
from lowvis_shared.reproduce import Context, Result, load_paper, run_paper
from lowvis_shared.testing import asset_path

PAPER = load_paper(PACKAGE.paper_toml)


def run(only: str) -> Result:
    return run_paper(PAPER, MEASURERS, Context(device="cpu", offline=True), only=only)


def test_the_challenges_counts_are_met() -> None:
    result = run("structure/*")
    judged = [row for row in result.rows if row.row.status == "ran"]
    assert len(judged) == 5 * 4 + 1
    assert all(row.mark == "✓" for row in judged), [row.cells() for row in judged]
    assert all(row.mark == "•" for row in result.rows if row not in judged)


@pytest.mark.parametrize(
    "network",
    sorted({str(row.measure["network"]) for row in PAPER.rows if row.id.startswith("quality/")}),
)
def test_published_weights_give_the_published_figures_on_set5(network: str) -> None:
    asset_path(f"aim2020/{'carn-m' if network[:4] == 'carn' else network}/official")
    result = run(f"quality/{network}/set5/*")
    assert result.rows
    for row in result.rows:
        assert row.mark == "✓", row.cells()
        assert row.measurement is not None
        assert len(row.measurement.per_item) == 5


def test_rows_are_not_run_where_weights_may_not_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset_path("set5/HR/baby.png")
    pictures = tmp_path / "Set5" / "HR"
    pictures.mkdir(parents=True)
    (pictures / "baby.png").write_bytes(asset_path("set5/HR/baby.png").read_bytes())
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    context = Context(device="cpu", offline=True, data_dir=tmp_path)
    (row,) = run_paper(PAPER, MEASURERS, context, only="quality/rlfn-x4/set5/y").rows
    assert row.mark == "○"
    assert "aim2020/rlfn-x4/official" in row.reason


@pytest.mark.slow
def test_run_time_is_that_of_the_same_run() -> None:
    rows = {row.row.id: row for row in run("run-time*").rows}
    folded = rows["run-time-cpu/folded-x4"].measurement
    assert folded is not None
    assert 0 < folded.value < 1
    assert rows["run-time/imdn-baseline-x4"].mark in "○•"  # needs a GPU


def test_recalled_figures_are_compared_with_nothing() -> None:
    result = run("entrants/*")
    assert len(result.rows) > 60
    assert {row.mark for row in result.rows} == {"○"}
    assert all(row.reason for row in result.rows)
