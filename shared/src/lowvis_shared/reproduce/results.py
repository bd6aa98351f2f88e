"""Measure what a paper claims, write down the evidence and show it as a table."""

import fnmatch
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.table import Table

from lowvis_shared.cli import progress_bar
from lowvis_shared.device import environment
from lowvis_shared.errors import LowvisError, ReproductionError, UsageError
from lowvis_shared.files import atomic_write
from lowvis_shared.reproduce.paper import Paper, Row

SCHEMA = 1

WITHIN, OUTSIDE, NOT_RUN, SHORTENED, REPORTED = "✓", "✗", "○", "≈", "•"
ABSENT = "–"  # noqa: RUF001 - the dash that tables use for an empty cell
LEGEND = (
    f"{WITHIN} within the tolerance · {OUTSIDE} outside · {NOT_RUN} not run, and why · "
    f"{SHORTENED} by a shortened recipe · {REPORTED} reported only: the paper's cell is not at "
    "hand or ambiguous"
)
COLUMNS = ("Row", "Paper", "lowvis", "Δ", "Tolerance", "Level", "Mark")


class Unavailable(LowvisError):  # noqa: N818 - a reason why a row cannot run here, not a fault
    """Raised by a measurer when what a row needs is not on this machine; the message says what."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a measurer may use.

    Attributes:
        device: Name of the device, as `lowvis_shared.device.choose_device` takes it.
        data_dir: The user's folder of data sets, or ``None``.
        accept_licence: Whether files without a stated licence may be fetched.
        offline: Whether the network is left alone.
    """

    device: str = "auto"
    data_dir: Path | None = None
    accept_licence: bool = False
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a measurer found.

    Attributes:
        value: The figure, in the unit of the row, not rounded.
        per_item: The figure of each picture, where it is a mean of some.
        assets: SHA-256 of every file it rests on, by asset name.
        shortened: In which way the recipe was shortened; empty for the full one.
    """

    value: float
    per_item: Mapping[str, float] = field(default_factory=dict[str, float])
    assets: Mapping[str, str] = field(default_factory=dict[str, str])
    shortened: str = ""


Measurer = Callable[[Row, Context], Measurement]


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row with what was measured.

    Attributes:
        row: The paper's claim.
        measurement: Our figure; ``None`` where the row did not run.
        reason: Why it did not run, or what went wrong.
        failed: Whether measuring ended in an error, which counts as outside.
        seconds: How long measuring took.
    """

    row: Row
    measurement: Measurement | None
    reason: str = ""
    failed: bool = False
    seconds: float = 0.0

    @property
    def delta(self) -> float | None:
        """Our figure minus the paper's, or ``None``."""
        if self.measurement is None or self.row.value is None:
            return None
        return self.measurement.value - self.row.value

    @property
    def mark(self) -> str:
        """One of the marks of `LEGEND`."""
        if self.measurement is None:
            return OUTSIDE if self.failed else NOT_RUN
        if self.measurement.shortened:
            return SHORTENED
        if self.delta is None or self.row.tolerance is None or self.row.status == "paper-ambiguous":
            return REPORTED
        # the slack is that of decimal figures such as 32.13 held in binary
        slack = 4 * sys.float_info.epsilon * abs(self.row.value or 0)
        return WITHIN if abs(self.delta) <= self.row.tolerance + slack else OUTSIDE

    def cells(self) -> tuple[str, ...]:
        """The row as text, one cell for each of `COLUMNS`."""
        row = self.row
        tail = self.measurement.shortened if self.measurement else self.reason or row.reason
        unit = f" {row.unit}" if row.unit else ""
        return (
            row.id,
            ABSENT if row.value is None else f"{row.value:,.{row.digits}f}{unit}",
            ABSENT if self.measurement is None else self.figure() + unit,
            ABSENT if self.delta is None else _signed(self.delta, row.digits + 1),
            ABSENT if row.tolerance is None else f"{row.tolerance:g}",
            row.level,
            f"{self.mark} {tail}".strip(),
        )

    def figure(self) -> str:
        """Our figure, rounded to the digits of the row."""
        if self.measurement is None:
            raise ReproductionError(f"row {self.row.id} was not measured: {self.reason}")
        return f"{self.measurement.value:,.{self.row.digits}f}"


def _signed(value: float, digits: int) -> str:
    text = f"{value:+,.{digits}f}"
    return "0" if float(text.replace(",", "")) == 0 else text


@dataclass(frozen=True, slots=True)
class Result:
    """A run over a paper.

    Attributes:
        paper: The paper with all its rows.
        rows: The rows that were tried.
        provenance: Date, command, git commit, versions, device and duration.
    """

    paper: Paper
    rows: tuple[RowResult, ...]
    provenance: Mapping[str, Any]

    @property
    def outside(self) -> tuple[RowResult, ...]:
        """The rows that ran and fell outside their tolerance, or failed."""
        return tuple(result for result in self.rows if result.mark == OUTSIDE)


def run_paper(
    paper: Paper,
    measurers: Mapping[str, Measurer],
    context: Context | None = None,
    *,
    only: str = "*",
) -> Result:
    """Measure every row that this machine can.

    Every row is tried, whatever its status: a row that needs data runs where the data is.

    Args:
        paper: What `load_paper` returned.
        measurers: By the ``kind`` of a row's ``measure``. One raises `Unavailable` where what it
            needs is not here; any other exception makes that row fail and the others go on.
        context: What the measurers may use.
        only: A glob over the ids of the rows, such as ``"x4/*"``.

    Raises:
        ReproductionError: A row that is said to run has a kind without a measurer.
        UsageError: The paper has rows, and none matches.
    """
    context = context or Context()
    chosen = [row for row in paper.rows if fnmatch.fnmatchcase(row.id, only)]
    if paper.rows and not chosen:
        raise UsageError(f"no row of {paper.word} matches '{only}'")
    unknown = sorted({row.kind for row in chosen if row.status == "ran"} - set(measurers))
    if unknown:
        raise ReproductionError(f"{paper.word}: nothing measures {', '.join(unknown)}")
    start = time.perf_counter()
    started = datetime.now(UTC)
    results: list[RowResult] = []
    with progress_bar("rows", len(chosen)) as progress:
        for row in chosen:
            results.append(_measure(row, measurers, context))
            progress(len(results), len(chosen))
    provenance = {
        "date": started.isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_state(find_root(Path(__file__))),
        "environment": environment(),
        "duration_s": round(time.perf_counter() - start, 1),
    }
    return Result(paper, tuple(results), provenance)


def _measure(row: Row, measurers: Mapping[str, Measurer], context: Context) -> RowResult:
    measurer = measurers.get(row.kind)
    if measurer is None:
        return RowResult(row, None, reason=row.reason)
    start = time.perf_counter()
    try:
        measurement = measurer(row, context)
    except Unavailable as error:
        return RowResult(row, None, reason=str(error))
    except LowvisError as error:
        return RowResult(row, None, reason=str(error), failed=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded as a failure: one
        # broken measurer must not lose the hours that the other rows took. Ctrl-C passes.
        reason = f"{type(error).__name__}: {error}"
        return RowResult(row, None, reason=reason, failed=True)
    if not math.isfinite(measurement.value):
        return RowResult(row, None, reason=f"measured {measurement.value}", failed=True)
    return RowResult(row, measurement, seconds=round(time.perf_counter() - start, 3))


def find_root(start: Path | None = None) -> Path | None:
    """The checkout of lowvis that holds `start` (the current folder by default), or ``None``."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "packages").is_dir() and (folder / "shared" / "pyproject.toml").is_file():
            return folder
    return None


def git_state(root: Path | None) -> dict[str, object]:
    """The commit of a checkout and whether files differ from it; empty where there is none."""
    if root is None:
        return {}

    def ask(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],  # noqa: S607 - the user's git
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return {"sha": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, replacing the one that is there."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    atomic_write(path, write, overwrite=True)


def write_result(result: Result, results: Path) -> Path:
    """Write the evidence to ``<results>/<word>/<date>-<commit>.json`` and return that path.

    Args:
        result: A run over all rows of the paper.
        results: The folder ``benchmarks/results`` of the checkout.

    Raises:
        ReproductionError: The run left rows out.
        OutputError: The file cannot be written.
    """
    if len(result.rows) != len(result.paper.rows):
        raise ReproductionError("a run over some of the rows is no evidence: run them all")
    commit = str(result.provenance["git"].get("sha", "unknown"))[:8]
    date = result.provenance["date"][:10]
    path = results / result.paper.word / f"{date}-{commit}.json"
    text = json.dumps(as_json(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)
    return path


def as_json(result: Result) -> dict[str, object]:
    """What `write_result` writes."""
    paper = result.paper
    return {
        "schema": SCHEMA,
        "paper": {"word": paper.word, "title": paper.title, "url": paper.url},
        **result.provenance,
        "rows": [
            {
                **asdict(entry.row),
                "mark": entry.mark,
                "delta": entry.delta,
                "measurement": asdict(entry.measurement) if entry.measurement else None,
                "not_run": entry.reason,
                "failed": entry.failed,
                "seconds": entry.seconds,
            }
            for entry in result.rows
        ],
    }


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote.

    Raises:
        ReproductionError: The file is damaged, of another schema, or its marks do not follow from
            its figures.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ReproductionError(f"{path}: not of schema {SCHEMA}")
        entries: list[dict[str, Any]] = content.pop("rows")
        meta: dict[str, str] = content.pop("paper")
        rows = tuple(_read_row_result(entry) for entry in entries)
        paper = Paper(meta["word"], meta["title"], meta["url"], tuple(r.row for r in rows))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReproductionError(f"{path}: damaged: {error!r}") from error
    for entry, result in zip(entries, rows, strict=True):
        if entry["mark"] != result.mark or entry["delta"] != result.delta:
            raise ReproductionError(f"{path}: row {result.row.id}: mark does not follow")
    return Result(paper, rows, content)


def _read_row_result(entry: dict[str, Any]) -> RowResult:
    row = Row(**{name.name: entry[name.name] for name in fields(Row)})
    measurement = Measurement(**entry["measurement"]) if entry["measurement"] else None
    return RowResult(row, measurement, entry["not_run"], entry["failed"], entry["seconds"])


def newest_result(results: Path, word: str) -> Path | None:
    """The newest evidence of a package by the date written in it, or ``None``."""
    files = sorted((results / word).glob("*.json"))
    return max(files, key=lambda path: str(read_result(path).provenance["date"]), default=None)


def select(result: Result, only: str) -> Result:
    """The rows whose id the glob matches."""
    rows = tuple(entry for entry in result.rows if fnmatch.fnmatchcase(entry.row.id, only))
    return replace(result, rows=rows)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, with the bars of its cells escaped."""
    lines = [tuple(columns), ("---",) * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def render_table(result: Result) -> str:
    """The table *Paper | lowvis | Δ | tolerance | level | mark* in Markdown, with its legend."""
    table = markdown_table(COLUMNS, [entry.cells() for entry in result.rows])
    return f"{table}\n\n{LEGEND}."


def show_table(result: Result) -> None:
    """Show the table on standard output: drawn in a terminal, as Markdown in a pipe."""
    console = Console()
    if not console.is_terminal:
        sys.stdout.write(render_table(result) + "\n")
        return
    table = Table(*COLUMNS, title=result.paper.title, caption=LEGEND)
    for entry in result.rows:
        table.add_row(*entry.cells())
    console.print(table, markup=False)


def raise_if_outside(result: Result) -> None:
    """Raise `ReproductionError` with a list where a row that ran fell outside its tolerance."""
    if result.outside:
        lines = "".join(f"\n  {', '.join(entry.cells())}" for entry in result.outside)
        raise ReproductionError(f"{len(result.outside)} rows outside their tolerance:{lines}")
