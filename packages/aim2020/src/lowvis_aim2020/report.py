"""A ranking as text, CSV and one HTML page with scatter plots that needs no other file."""

import csv
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from lowvis_shared.page import page
from lowvis_shared.plot import Axis, Point, scatter
from lowvis_shared.reproduce import markdown_table
from rich.console import Console
from rich.markup import escape
from rich.table import Column as Header
from rich.table import Table

from lowvis_aim2020.evaluate import challenge_protocol
from lowvis_aim2020.ranking import HIGHER_IS_BETTER, MEASURES, Entry, Ranking, finite

ABSENT = "–"  # noqa: RUF001 - the dash that tables use for an empty cell


@dataclass(frozen=True, slots=True)
class Column:
    """How a measure is shown.

    Attributes:
        measure: One of ``MEASURES``.
        heading: With the unit.
        unit: What the figure is divided by.
        digits: Digits after the point.
    """

    measure: str
    heading: str
    unit: float
    digits: int

    def text(self, value: float | None) -> str:
        """Return a figure as the table shows it."""
        return ABSENT if value is None else f"{value / self.unit:,.{self.digits}f}"


COLUMNS = (
    Column("run_time", "run time, ms", 1e-3, 1),
    Column("spread", "spread, ms", 1e-3, 1),
    Column("parameters", "parameters, M", 1e6, 3),
    Column("flops", "FLOPs, G", 1e9, 2),
    Column("activations", "activations, M", 1e6, 2),
    Column("memory", "memory, MiB", 2**20, 0),
    Column("convolutions", "convolutions", 1, 0),
    Column("psnr", "PSNR, dB", 1, 2),
    Column("ssim", "SSIM", 1, 4),
    Column("psnr_y", "PSNR on Y, dB", 1, 2),
    Column("ssim_y", "SSIM on Y", 1, 4),
)
"""Columns in the order of ``MEASURES``, the spread behind the run time it is of."""


def shown_columns(ranking: Ranking) -> list[Column]:
    """Return the columns in which at least one network has a figure."""
    return [
        column
        for column in COLUMNS
        if any(entry.value(column.measure) is not None for entry in ranking.entries)
    ]


def cells(ranking: Ranking, entry: Entry, column: Column) -> str:
    """Return a figure and, in brackets, the gain over the baseline."""
    text = column.text(entry.value(column.measure))
    gain = ranking.gain(entry, column.measure)
    if gain is None or entry.name == ranking.baseline:
        return text
    if column.measure in HIGHER_IS_BETTER:
        return f"{text} ({gain:+.{column.digits}f})"
    return f"{text} ({gain:+.0f}%)"


def verdict(ranking: Ranking, entry: Entry) -> str:
    """Return whether an entry keeps the baseline's PSNR, its problem, or nothing."""
    if entry.problem:
        return f"out: {entry.problem}"
    meets = ranking.meets(entry)
    said = {True: "keeps the PSNR", False: "below the PSNR", None: ""}[meets]
    return "; ".join(part for part in (said, *entry.notes) if part)


def settings(ranking: Ranking) -> str:
    """Say in one paragraph what the figures of a ranking are of."""
    height, width = ranking.input_size
    on_gpu = ranking.device.startswith("cuda") and "gpu" in ranking.environment
    parts = [
        f"Costs and run time on one picture of {height}x{width}, on {ranking.device} "
        f"({ranking.environment['gpu' if on_gpu else 'processor']}, "
        f"threads: {ranking.environment['threads']}, torch {ranking.environment['torch']}). "
        "Run times are medians of rounds in which every network has one turn; the spread is the "
        "longest minus the shortest.",
    ]
    if ranking.baseline:
        parts.append(f"In brackets the gain over {ranking.baseline}: positive is better.")
    if ranking.dataset:
        parts.append(
            f"PSNR and SSIM on {ranking.dataset} x{ranking.scale}: "
            f"{challenge_protocol(ranking.scale).describe().removeprefix('on ')}."
        )
    if ranking.required_psnr is not None:
        parts.append(f"The PSNR to keep is {ranking.required_psnr:.2f} dB.")
    elif ranking.dataset:
        parts.append("The baseline has no weights here, so the PSNR to keep is not known.")
    return " ".join(parts)


def as_tables(ranking: Ranking, console: Console) -> list[Table]:
    """Draw a ranking for a terminal: one table, or several where its columns do not fit."""
    columns = shown_columns(ranking)
    for parts in range(1, len(columns) + 1):
        size = -(-len(columns) // parts)
        tables = [
            _table(ranking, columns[start : start + size], last=start + size >= len(columns))
            for start in range(0, len(columns), size)
        ]
        if all(_needed(table, console) <= console.width for table in tables):
            return tables
    return [_table(ranking, [column], last=column is columns[-1]) for column in columns]


def _needed(table: Table, console: Console) -> int:
    """Columns of the terminal that a table takes at least, however many there are."""
    return console.measure(table, options=console.options.update_width(10_000)).minimum


def _table(ranking: Ranking, columns: Sequence[Column], *, last: bool) -> Table:
    table = Table("", Header("network", min_width=10, overflow="fold"))
    for column in columns:
        longest = max(len(cells(ranking, entry, column)) for entry in ranking.entries)
        width = max(longest, len(column.heading))
        table.add_column(column.heading, justify="right", no_wrap=True, min_width=width)
    if last:
        table.add_column("", min_width=12, overflow="fold")
    for place, entry in enumerate(ranking.entries, start=1):
        table.add_row(
            "" if entry.problem else str(place),
            escape(entry.title),
            *(cells(ranking, entry, column) for column in columns),
            *([escape(verdict(ranking, entry))] if last else []),
        )
    return table


def as_rows(ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of texts, one for each network."""
    columns = shown_columns(ranking)
    rows = [
        [
            entry.title,
            *(cells(ranking, entry, column) for column in columns),
            verdict(ranking, entry),
        ]
        for entry in ranking.entries
    ]
    return ["network", *(column.heading for column in columns), ""], rows


def as_markdown(ranking: Ranking) -> str:
    """Write a ranking as a Markdown table and what its figures are of."""
    return f"{markdown_table(*as_rows(ranking))}\n\n{settings(ranking)}\n"


def as_csv(ranking: Ranking) -> str:
    """Write a ranking as CSV: plain figures in seconds, counts, bytes and decibels."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    gains = [f"{measure}_gain" for measure in MEASURES]
    measured = (*MEASURES, "spread")
    writer.writerow(["name", "title", "weights", *measured, *gains, "meets", "problem", "notes"])
    for entry in ranking.entries:
        values = [entry.value(measure) for measure in measured]
        gained = [ranking.gain(entry, measure) for measure in MEASURES]
        head = [entry.name, entry.title, entry.weights]
        writer.writerow(
            [*head, *values, *gained, ranking.meets(entry), entry.problem, "; ".join(entry.notes)]
        )
    return file.getvalue()


def as_json(ranking: Ranking) -> str:
    """Write a ranking as JSON, with the figures of every picture."""
    return json.dumps(ranking.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_html(ranking: Ranking) -> str:
    """Write a ranking as one page: its table, and plots of each cost against quality or run time.

    The page holds everything: no script, no style and no picture is fetched.
    """
    columns = shown_columns(ranking)
    heads = "".join(f"<th>{html.escape(column.heading)}</th>" for column in columns)
    rows = "\n".join(_html_row(ranking, entry, columns) for entry in ranking.entries)
    plots = "\n".join(f"<figure>{plot(ranking, x, y)}</figure>" for x, y in _plotted(columns))
    body = _BODY.format(
        settings=html.escape(settings(ranking)), heads=heads, rows=rows, plots=plots
    )
    return page("Efficient super-resolution networks, ranked", body)


def _html_row(ranking: Ranking, entry: Entry, columns: Sequence[Column]) -> str:
    kind = "out" if entry.problem else "baseline" if entry.name == ranking.baseline else ""
    figures = "".join(
        f"<td>{html.escape(cells(ranking, entry, column))}</td>" for column in columns
    )
    name = f'<th title="{html.escape(entry.name)}">{html.escape(entry.title)}</th>'
    return (
        f'<tr class="{kind}">{name}{figures}'
        f'<td class="text">{html.escape(verdict(ranking, entry))}</td></tr>'
    )


def _plotted(columns: Sequence[Column]) -> list[tuple[Column, Column]]:
    """Pairs of axes: quality over each cost where there is quality, else run time over costs."""
    by_name = {column.measure: column for column in columns}
    quality = by_name.get("psnr")
    vertical = quality or by_name.get("run_time")
    costs = ("run_time", "parameters", "flops", "activations", "memory")
    if vertical is None:
        return []
    across = [by_name[name] for name in costs if name in by_name]
    return [(column, vertical) for column in across if column is not vertical]


def plot(ranking: Ranking, x: Column, y: Column) -> str:
    """Draw the networks on two measures, the baseline in another color, as an SVG element."""
    points: list[Point] = []
    for entry in ranking.entries:
        across, up = finite(entry.value(x.measure)), finite(entry.value(y.measure))
        if across and up and not entry.problem:
            emphasized = entry.name == ranking.baseline
            points.append(Point(entry.title, across / x.unit, up / y.unit, emphasized))
    plain = y.measure in HIGHER_IS_BETTER
    return scatter(points, Axis(x.heading, log=True), Axis(y.heading, log=not plain))


_BODY = """<p>{settings}</p>
<div class="wide"><table>
<thead><tr><th>network</th>{heads}<th></th></tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<h2>Plots</h2>
<div class="plots">
{plots}
</div>"""
