"""Evidence: the paper's rows are read strictly, measured honestly, and pages say the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lowvis_shared.assets import find_asset
from lowvis_shared.errors import ReproductionError, UsageError, WeightsError
from lowvis_shared.files import sha256_file
from lowvis_shared.plugins import PackageInfo
from lowvis_shared.reproduce import (
    Context,
    Measurement,
    Result,
    Row,
    Unavailable,
    check,
    load_paper,
    read_result,
    render_table,
    reproduce_package,
    run_paper,
    show_table,
    update,
    write_result,
)

HEAD = """
[paper]
word = "toy"
title = "A Toy"
url = "https://example.org"
"""

PSNR = """
[[row]]
id = "set5/psnr"
table = "Table 1"
dataset = "Set5"
protocol = "Y, border 4"
metric = "PSNR"
unit = "dB"
value = 32.13
digits = 2
tolerance = 0.01
because = "arithmetic of other hardware"
weights = "official"
level = "L2"
status = "ran"
measure = { kind = "fixed" }
"""


def row(name: str, **changes: object) -> str:
    """The PSNR row under another id; a change to ``None`` drops the key."""
    lines = PSNR.replace('"set5/psnr"', f'"{name}"').strip().splitlines()
    for key, value in changes.items():
        lines = [line for line in lines if not line.startswith(f"{key} =")]
        if value is not None:
            lines.append(f"{key} = {value}")
    return "\n" + "\n".join(lines) + "\n"


def paper_of(tmp_path: Path, *rows: str):
    path = tmp_path / "paper.toml"
    path.write_text(HEAD + "".join(rows))
    return load_paper(path)


def measure(value: float, **more: object):
    return {"fixed": lambda row, context: Measurement(value, **more)}


# --- paper.toml ----------------------------------------------------------------------------------


def test_a_paper_is_read_row_by_row(tmp_path: Path):
    paper = paper_of(tmp_path, PSNR, row("b", value=None, tolerance=None, because=None))
    assert (paper.word, [entry.id for entry in paper.rows]) == ("toy", ["set5/psnr", "b"])
    assert paper.rows[0].value == 32.13
    assert paper.rows[0].kind == "fixed"
    assert paper.rows[1].value is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (row("r", valeu="32.1"), "row r: unknown key valeu"),
        (row("r", metric=None), "row r: missing key metric"),
        (row("r", value='"32.13"'), "row r: value = '32.13' is of the wrong type"),
        (row("r", digits="2.0"), "row r: digits = 2.0 is of the wrong type"),
        (row("r", value="true"), "row r: value = True is of the wrong type"),
        (row("r", measure="{ scale = 4 }"), "row r: measure needs a kind"),
        (row("r", level='"L9"'), "row r: level 'L9' is none of"),
        (row("r", status='"done"'), "row r: status 'done' is none of"),
        (row("r", status='"needs-gpu"'), "row r: status 'needs-gpu' needs a reason"),
        (row("r", tolerance=None), "row r: value and tolerance come together"),
        (row("r", because=None), "row r: a tolerance is not negative and says because"),
        (row("r") + row("r"), "row r: the id occurs twice"),
        (row("r", id=None), "row number 1: missing key id"),
        ('\n[rows]\nid = "r"\n', r"holds one \[paper\]"),
        ("\n[[row]\n", "paper.toml: "),
    ],
)
def test_a_row_with_a_fault_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(ReproductionError, match=message):
        paper_of(tmp_path, text)


# --- Marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "mark"),
    [(32.13, "✓"), (32.14, "✓"), (32.12, "✓"), (32.1401, "✗"), (32.1199, "✗"), (float("nan"), "✗")],
)
def test_the_tolerance_decides_and_is_part_of_the_inside(tmp_path: Path, value: float, mark: str):
    result = run_paper(paper_of(tmp_path, PSNR), measure(value))
    assert result.rows[0].mark == mark
    assert bool(result.outside) == (mark == "✗")


def test_a_row_without_the_papers_value_is_reported_only(tmp_path: Path):
    bare = row("b", value=None, tolerance=None, because=None)
    unsure = row("c", status='"paper-ambiguous"', reason='"recalled, not read"')
    result = run_paper(paper_of(tmp_path, bare, unsure), measure(99.0))
    assert [entry.mark for entry in result.rows] == ["•", "•"]
    assert result.outside == ()
    assert "| b | \N{EN DASH} | 99.00 dB | \N{EN DASH} |" in render_table(result)


def test_a_shortened_recipe_is_never_judged(tmp_path: Path):
    result = run_paper(paper_of(tmp_path, PSNR), measure(30.0, shortened="1,000 steps"))
    assert result.rows[0].mark == "≈"
    assert "≈ 1,000 steps" in render_table(result)


def test_rows_that_need_data_run_where_the_data_is_and_say_so_elsewhere(tmp_path: Path):
    def on_data(row: Row, context: Context) -> Measurement:
        if context.data_dir is None:
            raise Unavailable("--data-dir with B100 is needed")
        return Measurement(32.13)

    paper = paper_of(tmp_path, row("b100", status='"needs-data"', reason='"not redistributed"'))
    elsewhere = run_paper(paper, {"fixed": on_data})
    assert elsewhere.rows[0].mark == "○"
    assert "○ --data-dir with B100 is needed" in render_table(elsewhere)
    assert elsewhere.outside == ()
    there = run_paper(paper, {"fixed": on_data}, Context(data_dir=tmp_path))
    assert there.rows[0].mark == "✓"


def test_an_error_fails_its_row_and_the_others_go_on(tmp_path: Path):
    def broken(row: Row, context: Context) -> Measurement:
        if row.id == "a":
            raise WeightsError("damaged")
        return Measurement(32.13)

    result = run_paper(paper_of(tmp_path, row("a"), row("b")), {"fixed": broken})
    assert [entry.mark for entry in result.rows] == ["✗", "✓"]
    assert result.rows[0].reason == "damaged"


def test_a_defect_of_a_measurer_fails_its_row_and_ctrl_c_ends_the_run(tmp_path: Path):
    def broken(row: Row, context: Context) -> Measurement:
        if row.id == "a":
            raise ZeroDivisionError("division by zero")
        if row.id == "c":
            raise KeyboardInterrupt
        return Measurement(32.13)

    paper = paper_of(tmp_path, row("a"), row("b"), row("c"))
    result = run_paper(paper, {"fixed": broken}, only="[ab]")
    assert [entry.mark for entry in result.rows] == ["✗", "✓"]
    assert result.rows[0].reason == "ZeroDivisionError: division by zero"
    with pytest.raises(KeyboardInterrupt):
        run_paper(paper, {"fixed": broken})


def test_a_row_said_to_run_needs_a_measurer(tmp_path: Path):
    with pytest.raises(ReproductionError, match="nothing measures fixed"):
        run_paper(paper_of(tmp_path, PSNR), {})
    training = row("t", status='"needs-training"', reason='"ten GPU days"')
    result = run_paper(paper_of(tmp_path, training), {})
    assert (result.rows[0].mark, result.rows[0].reason) == ("○", "ten GPU days")


def test_figures_are_shown_with_the_digits_of_the_row(tmp_path: Path):
    counts = row("p", value=272419, digits=0, tolerance=0, unit='""')
    text = render_table(run_paper(paper_of(tmp_path, counts), measure(272_419)))
    assert "| p | 272,419 | 272,419 | 0 | 0 | L2 | ✓ |" in text
    text = render_table(run_paper(paper_of(tmp_path, PSNR), measure(32.1349)))
    assert "| 32.13 dB | 32.13 dB | +0.005 | 0.01 | L2 | ✓ |" in text


def test_the_table_in_a_pipe_is_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = run_paper(paper_of(tmp_path, PSNR), measure(32.13))
    show_table(result)
    assert capsys.readouterr().out.strip() == render_table(result)


# --- Evidence ------------------------------------------------------------------------------------


def test_evidence_holds_everything_and_reads_back(tmp_path: Path):
    found = measure(32.131, per_item={"baby": 33.4}, assets={"pan/x4/official": "ab" * 32})
    result = run_paper(paper_of(tmp_path, PSNR), found)
    path = write_result(result, tmp_path / "results")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-(\w{8}|unknown)\.json", path.name)
    assert path.parent.name == "toy"
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert set(content) >= {"command", "date", "environment", "git", "duration_s", "rows"}
    assert content["environment"]["torch"]
    assert content["rows"][0]["measurement"]["per_item"] == {"baby": 33.4}
    assert content["rows"][0]["measurement"]["assets"] == {"pan/x4/official": "ab" * 32}
    assert read_result(path) == result


def test_a_run_over_some_rows_is_no_evidence(tmp_path: Path):
    result = run_paper(paper_of(tmp_path, row("a"), row("b")), measure(32.13), only="a")
    assert [entry.row.id for entry in result.rows] == ["a"]
    with pytest.raises(ReproductionError, match="no evidence"):
        write_result(result, tmp_path)


def test_evidence_with_an_edited_figure_is_refused(tmp_path: Path):
    path = write_result(run_paper(paper_of(tmp_path, PSNR), measure(31.0)), tmp_path)
    path.write_text(path.read_text().replace('"value": 31.0', '"value": 32.13'))
    with pytest.raises(ReproductionError, match="does not follow"):
        read_result(path)


# --- Pages ---------------------------------------------------------------------------------------

PAGE = """# toy

<!-- table: toy/* -->
<!-- end -->

On Set5 it reaches <!-- figure: toy/set5/psnr -->?<!-- end --> dB.

<!-- table: bench/toy -->
<!-- end -->
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose one package has evidence, a benchmark and a page that shows both."""
    root = tmp_path / "checkout"
    source = root / "packages" / "toy" / "src" / "lowvis_toy"
    source.mkdir(parents=True)
    (root / "shared").mkdir()
    (root / "shared" / "pyproject.toml").touch()
    result: Result = run_paper(paper_of(source, PSNR, row("b")), measure(32.131))
    write_result(result, root / "benchmarks" / "results")
    bench = root / "benchmarks" / "results" / "bench" / "toy.json"
    bench.parent.mkdir()
    table = {"columns": ["engine", "ms"], "rows": [["eager | float32", "2,000"]]}
    bench.write_text(json.dumps({"table": table}))
    (root / "packages" / "toy" / "README.md").write_text(PAGE)
    update(root)
    return root


def test_update_fills_pages_and_check_agrees(checkout: Path):
    page = (checkout / "packages" / "toy" / "README.md").read_text()
    assert "| set5/psnr | 32.13 dB | 32.13 dB | +0.001 | 0.01 | L2 | ✓ |" in page
    assert "reaches <!-- figure: toy/set5/psnr -->32.13<!-- end --> dB" in page
    assert "| eager \\| float32 | 2,000 |" in page
    assert check(checkout) == []
    assert update(checkout) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("packages/toy/README.md", "+0.001", "+0.000", "README.md: not what the evidence says"),
        ("packages/toy/README.md", "-->32.13<", "-->32.2<", "not what the evidence says"),
        ("packages/toy/README.md", "2,000", "200", "not what the evidence says"),
        ("packages/toy/README.md", "toy/*", "tyo/*", "no evidence in benchmarks/results/tyo"),
        ("packages/toy/README.md", "toy/set5/psnr", "toy/x", "no row of toy matches 'x'"),
        ("packages/toy/README.md", "bench/toy", "bench/x", "carries no table"),
        ("packages/toy/src/lowvis_toy/paper.toml", "= 32.13", "= 32.14", "value 32.13"),
        ("packages/toy/src/lowvis_toy/paper.toml", '"b"', '"c"', "row c is missing"),
        ("packages/toy/src/lowvis_toy/paper.toml", '"b"', '"c"', "row b is not in paper.toml"),
        ("packages/toy/src/lowvis_toy/paper.toml", "digits", "digit", "unknown key digit"),
        ("packages/toy/README.md", PAGE[:5], "", ""),
    ],
)
def test_check_finds_what_does_not_agree(
    checkout: Path, file: str, old: str, new: str, problem: str
):
    path = checkout / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    problems = check(checkout)
    assert not problems if problem == "" else any(problem in line for line in problems), problems


def test_check_asks_for_evidence_and_for_a_page_that_shows_it(checkout: Path):
    page = checkout / "packages" / "toy" / "README.md"
    page.write_text("# toy\n")
    assert check(checkout) == ["toy: no page shows its table"]
    for file in (checkout / "benchmarks" / "results" / "toy").iterdir():
        file.unlink()
    assert check(checkout) == ["toy: no evidence in benchmarks/results/toy"]


def test_check_ties_evidence_to_the_files_that_are_shipped_and_published(checkout: Path):
    def measured_with(**assets: str) -> list[str]:
        found = {name.replace("__", "/"): digest for name, digest in assets.items()}
        paper = load_paper(checkout / "packages" / "toy" / "src" / "lowvis_toy" / "paper.toml")
        result = run_paper(paper, measure(32.131, assets=found))
        write_result(result, checkout / "benchmarks" / "results")
        return check(checkout)

    weights = (
        checkout / "packages" / "toy" / "src" / "lowvis_toy" / "weights" / "toy_x4.safetensors"
    )
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    shipped, published = sha256_file(weights), find_asset("pan/x4/official").sha256
    own = "toy__x4__own"
    assert measured_with(**{own: shipped, "pan__x4__official": published}) == []
    assert measured_with(b100__HR__1="0" * 64) == []  # a file of the user
    (problem,) = measured_with(**{own: "0" * 64})
    assert all(part in problem for part in ("toy/x4/own", "0" * 64, weights.name, shipped))
    (problem,) = measured_with(pan__x4__official="0" * 64)
    assert all(part in problem for part in ("pan/x4/official", "0" * 64, "assets.tsv", published))
    assert measured_with(**{own: shipped}) == []
    # A package of several architectures calls its files by the networks' whole names.
    other = weights.with_name("net_x4.safetensors")
    other.write_bytes(b"other")
    assert measured_with(toy__net_x4__own=sha256_file(other)) == []
    (problem,) = measured_with(toy__net_x4__own=shipped)
    assert other.name in problem
    assert measured_with(**{own: shipped}) == []
    weights.unlink()
    assert any("missing" in line for line in check(checkout))


def test_the_newest_evidence_counts(checkout: Path):
    paper = load_paper(checkout / "packages" / "toy" / "src" / "lowvis_toy" / "paper.toml")
    newer = run_paper(paper, measure(32.135))
    newer = Result(newer.paper, newer.rows, {**newer.provenance, "date": "2999-01-01T00:00:00"})
    write_result(newer, checkout / "benchmarks" / "results")
    assert any("not what the evidence says" in line for line in check(checkout))
    assert [path.name for path in update(checkout)] == ["README.md"]
    assert check(checkout) == []


def test_the_check_command_exits_with_the_list(checkout: Path):
    def run() -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-W", "error", "-m", "lowvis_shared.reproduce", "check"]
        return subprocess.run(line, cwd=checkout, capture_output=True, text=True, check=False)

    agreed = run()
    assert (agreed.returncode, agreed.stderr) == (0, "")
    page = checkout / "packages" / "toy" / "README.md"
    page.write_text(page.read_text().replace("+0.001", "+0.000"))
    refused = run()
    assert refused.returncode == 1
    assert "packages/toy/README.md: not what the evidence says" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_reproduce_command_writes_evidence_and_fails_only_outside(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(checkout)
    toml = checkout / "packages" / "toy" / "src" / "lowvis_toy" / "paper.toml"
    package = PackageInfo("toy", "A Toy", "Nobody", "https://example.org", "play", (), toml)
    for file in (checkout / "benchmarks" / "results" / "toy").iterdir():
        file.unlink()
    with pytest.raises(ReproductionError, match="2 rows outside"):
        reproduce_package(package, measure(31.0))
    assert check(checkout) == []
    assert "✗" in (checkout / "packages" / "toy" / "README.md").read_text()
    capsys.readouterr()
    reproduce_package(package, measure(32.13), only="b", json=True)
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)["rows"]] == ["b"]
    assert "✗" in (checkout / "packages" / "toy" / "README.md").read_text()


def test_a_glob_that_matches_no_row_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no row of toy matches 'b"):
        run_paper(paper_of(tmp_path, row("a")), measure(32.13), only="b/*")
