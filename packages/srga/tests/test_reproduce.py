"""Rows of the report: the formula, what is not at hand, and the pictures of the check figures."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lowvis_shared.images import Picture, write_image
from lowvis_shared.reproduce import Context, Result, Row, load_paper, run_paper
from lowvis_shared.testing.pictures import photo
from lowvis_srga import PACKAGE, reproduce
from lowvis_srga.degrade import parse_degradation
from lowvis_srga.patches import make_sets
from lowvis_srga.reproduce import MEASURERS, measure_photographs
from lowvis_srga.scoring import find_trends

PAPER = load_paper(PACKAGE.paper_toml)
CHECKS = [row for row in PAPER.rows if row.kind == "check"]
PAN = next(row.id for row in CHECKS if row.measure["network"] == "pan-x4@official")


@pytest.fixture(autouse=True)
def _forgotten() -> Generator[None]:
    """Sets and scores are kept for further rows; here they are made of other pictures each time."""
    for kept in (reproduce._sets, reproduce._scored):
        kept.cache_clear()
    yield
    for kept in (reproduce._sets, reproduce._scored):
        kept.cache_clear()


@pytest.fixture
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))


def run(only: str, data_dir: Path | None = None) -> Result:
    context = Context(device="cpu", offline=True, data_dir=data_dir)
    return run_paper(PAPER, MEASURERS, context, only=only)


def rows_of(kind: str) -> list[Row]:
    return [row for row in PAPER.rows if row.kind == kind]


def test_the_paper_has_rows_of_every_kind_that_is_measured() -> None:
    assert {row.kind for row in PAPER.rows} == set(MEASURERS)
    for row in (*CHECKS, *rows_of("photographs")):
        assert row.measure["network"], row.id
        assert row.measure["figure"] in ("srga", "sigma", "alpha", "diverged", "falls"), row.id
    # What a set is called is what the patches are made by.
    names = {str(row.measure["set"]) for row in PAPER.rows if "set" in row.measure}
    assert {parse_degradation(name).name for name in names} == names


def test_the_formula_gives_the_index_of_the_printed_distributions() -> None:
    result = run("fig3/*/srga")
    assert len(result.rows) == len(rows_of("formula")) == 8
    assert [row.mark for row in result.rows] == ["✓"] * 8, [row.cells() for row in result.rows]


def test_figures_that_nobody_can_measure_say_why() -> None:
    paper = replace(PAPER, rows=tuple(rows_of("printed")))
    found = run_paper(paper, MEASURERS).rows
    assert len(found) == len(paper.rows) > 0
    assert {each.mark for each in found} == {"○"}
    assert all(each.reason == each.row.reason != "" for each in found)


@pytest.mark.parametrize("network", sorted({str(row.measure["network"]) for row in CHECKS}))
def test_check_rows_are_not_run_where_nothing_is_at_hand(
    network: str, nothing_at_hand: None
) -> None:
    row = next(row for row in CHECKS if row.measure["network"] == network)
    (found,) = run(row.id).rows
    assert found.mark == "○"
    lacking = str(row.measure.get("asset") or network)
    assert lacking in found.reason


def test_check_rows_name_the_pictures_they_need(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"not read before the pictures are there")
    monkeypatch.setattr(reproduce, "_fetched", lambda name, context: weights)
    (found,) = run(PAN).rows
    assert found.mark == "○"
    assert "Urban100 come from you" in found.reason
    (tmp_path / "sets").mkdir()
    (found,) = run(PAN, tmp_path / "sets").rows
    assert found.mark == "○"
    assert "Urban100 are not in" in found.reason


def test_check_rows_of_other_pictures_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"not read before the pictures have been checked")
    monkeypatch.setattr(reproduce, "_fetched", lambda name, context: weights)
    monkeypatch.setattr(reproduce, "_PATCHES", 4)  # 800 would take a minute
    for name, size in (("Urban100", (128, 1024)), ("B100", (128, 256))):
        write_image(Picture(photo(*size)), tmp_path / "sets" / name / "HR" / "1.png")
    (found,) = run(PAN, tmp_path / "sets").rows
    assert found.mark == "✗"
    assert "clean: the patches have the sum" in found.reason
    assert "not the check's" in found.reason


def test_photographs_are_not_run_where_they_may_not_be_fetched(nothing_at_hand: None) -> None:
    result = run("photographs/pan-x4/blur?*")
    assert result.rows
    assert {row.mark for row in result.rows} == {"○"}
    assert all(row.reason for row in result.rows)


def test_rows_of_photographs_are_figures_of_one_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [(f"photo {seed}", photo(96, 128, seed=seed)) for seed in range(2)]
    names = ("clean", "blur1", "blur2", "noise10")
    monkeypatch.setattr(reproduce, "_PATCHES", 16)
    monkeypatch.setattr(reproduce, "_SIZE", 32)
    monkeypatch.setattr(reproduce, "_PHOTOGRAPH_SETS", names)
    monkeypatch.setattr(reproduce, "photographs", lambda context: (sources, {"photo": "sum"}))
    context = Context(device="cpu", offline=True)
    one = next(row for row in rows_of("photographs") if row.measure["figure"] == "srga")

    def measured(**options: object) -> float:
        spec = {"kind": "photographs", "network": "pan-x4@own", "dimensions": 6, **options}
        found = measure_photographs(replace(one, measure=spec), context)
        assert found.assets == {"photo": "sum"}
        return found.value

    scored = reproduce._scored("pan-x4@own", "photographs", 16, 6, 1, context)
    by_name = {each.name: each for each in scored.sets}
    assert list(by_name) == list(names[1:])
    for name, each in by_name.items():
        made = each.comparison
        assert made is not None
        assert measured(set=name, figure="srga") == made.value
        assert measured(set=name, figure="sigma") == made.test.sigma
        assert measured(set=name, figure="alpha") == made.test.alpha
        assert measured(set=name, figure="diverged") == 0
        assert measured(set="clean", figure="sigma") == made.reference.sigma
    (blur, *_) = find_trends(scored.sets)
    assert measured(family="blur", figure="falls") == blur.falls
    low = make_sets(sources, [parse_degradation("blur2")], patches=16, size=32)[0].low
    assert np.array_equal(reproduce._sets("photographs", context)[0][2].low, low)


def test_a_network_that_is_not_installed_is_not_run() -> None:
    one = rows_of("photographs")[0]
    spec = {**one.measure, "network": "none-x4@official"}
    row = replace(one, measure=spec)
    (found,) = run_paper(replace(PAPER, rows=(row,)), MEASURERS, Context(offline=True)).rows
    assert found.mark == "○"
    assert "none-x4@official is a network of a lowvis package that is not installed" in found.reason
