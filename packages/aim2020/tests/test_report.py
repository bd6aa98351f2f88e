"""A ranking as a table, CSV, JSON and one page with plots: all figures, and nothing to fetch."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from lowvis_aim2020.evaluate import Quality, challenge_protocol
from lowvis_aim2020.ranking import MEASURES, Entry, Ranking
from lowvis_aim2020.report import (
    COLUMNS,
    as_csv,
    as_html,
    as_json,
    as_markdown,
    as_rows,
    as_tables,
    cells,
    shown_columns,
)
from lowvis_shared.cost import Cost
from lowvis_shared.device import Timing, environment
from lowvis_shared.metrics import Score, super_resolution_protocol
from rich.console import Console

SVG = "http://www.w3.org/2000/svg"
VOID = {"meta", "br", "hr", "img", "input", "link"}


def quality(psnr: float) -> Quality:
    rgb = Score(psnr, 0.81, 20.0, challenge_protocol())
    y = Score(psnr + 1.5, 0.84, 15.0, super_resolution_protocol(4))
    return Quality(rgb, y, (("one", rgb, y),))


def entry(name: str, size: int = 1, psnr: float | None = 28.0, **options: object) -> Entry:
    return Entry(
        name=name,
        title=options.pop("title", name),
        weights="best.pth",
        cost=Cost(
            parameters=433_448 * size,
            macs=10**9 * size,
            flops=27_102_600_000 * size,
            activations=112_034_200 * size,
            convolutions=64 * size,
            peak_memory=100 * 2**20 * size,
            input_size=(3, 256, 256),
        ),
        run_time=Timing(median_s=0.0125 * size, minimum_s=0.01, spread_s=0.001, repeats=3),
        quality=None if psnr is None else quality(psnr),
        **options,
    )


def ranking_of(*entries: Entry, **options: object) -> Ranking:
    return Ranking(
        entries=entries,
        sort="run_time",
        device="cpu",
        environment=environment(),
        **{
            "baseline": "base",
            "required_psnr": 28.0,
            "scale": 4,
            "input_size": (256, 256),
            "dataset": "set14",
            **options,
        },
    )


BASE = entry("base", 2, title="Baseline")
SMALL = entry("small", 1, psnr=28.25, title="Small one", notes=("has a note",))
BELOW = entry("below", 4, psnr=27.5)
OUT = Entry(name="out", title="Broken | one", weights="", problem="ValueError: int | None")
FOUR = ranking_of(SMALL, BASE, BELOW, OUT)
HOSTILE = "<b>&\"'</script>{0}"


class Page(HTMLParser):
    """Checks that every tag is closed in turn, and collects the cells of the table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def plots(page: str) -> list[ET.Element]:
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


# --- tables ---------------------------------------------------------------------------------------


def test_the_columns_are_the_measures() -> None:
    assert tuple(c.measure for c in COLUMNS if c.measure != "spread") == MEASURES


def test_markdown_holds_every_network_figure_gain_and_problem() -> None:
    lines = as_markdown(FOUR).splitlines()
    assert lines[0].startswith("| network | run time, ms | spread, ms | parameters, M | FLOPs, G |")
    small, base, below, out = lines[2:6]
    assert small.startswith(
        "| Small one | 12.5 (+50%) | 1.0 | 0.433 (+50%) | 27.10 (+50%) | 112.03 (+50%) "
        "| 100 (+50%) | 64 (+50%) | 28.25 (+0.25) |"
    )
    assert small.endswith("| keeps the PSNR; has a note |")
    assert base.startswith("| Baseline | 25.0 | 1.0 | 0.867 | 54.21 |")
    assert "(-100%)" in below
    assert "27.50 (-0.50)" in below
    assert below.endswith("| below the PSNR |")
    assert out.startswith("| Broken \\| one | – | – |")  # noqa: RUF001 - the dash of tables
    assert out.endswith("| out: ValueError: int \\| None |")
    for text in ("256x256", "set14", "gain over base", "28.00 dB", "border of 4"):
        assert text in lines[-1]


def test_columns_without_any_figure_are_left_out() -> None:
    ranking = ranking_of(entry("base", psnr=None), dataset="", required_psnr=None)
    headings = [column.heading for column in shown_columns(ranking)]
    assert headings == [column.heading for column in COLUMNS[:7]]
    assert "PSNR" not in as_markdown(ranking)


def test_csv_is_read_back_as_the_same_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(FOUR))))
    assert [row["name"] for row in rows] == ["small", "base", "below", "out"]
    for row, each in zip(rows, FOUR.entries, strict=True):
        assert None not in row
        for measure in MEASURES:
            for key, value in (
                (measure, each.value(measure)),
                (f"{measure}_gain", FOUR.gain(each, measure)),
            ):
                assert (float(row[key]) if row[key] else None) == value
    assert [row["meets"] for row in rows] == ["True", "True", "False", ""]
    assert rows[-1]["problem"] == "ValueError: int | None"


@pytest.mark.parametrize("name", ["a,b", 'quo"te', HOSTILE])
def test_csv_keeps_any_name(name: str) -> None:
    ranking = ranking_of(entry(name), replace(OUT, problem=name))
    first, second = csv.DictReader(io.StringIO(as_csv(ranking)))
    assert (first["name"], second["problem"]) == (name, name)


def test_json_is_the_whole_ranking() -> None:
    assert json.loads(as_json(FOUR)) == json.loads(json.dumps(FOUR.as_dict()))
    assert json.loads(as_json(FOUR))["entries"][0]["parameters"] == 433_448


def test_the_table_of_a_terminal_shows_names_with_brackets_as_they_are() -> None:
    console = Console(width=300, record=True, file=io.StringIO())
    odd = replace(OUT, title="net[bold].py:Net", problem="got [1, 3] and [/red]")
    tables = as_tables(ranking_of(SMALL, BASE, odd), console)
    assert len(tables) == 1
    console.print(*tables)
    text = console.export_text()
    assert "net[bold].py:Net" in text
    assert "out: got [1, 3] and [/red]" in text
    assert "12.5 (+50%)" in text
    assert re.search(r"│ 2 +│ Baseline", text)
    assert re.search(r"│ +│ net\[bold\]", text)  # what is out has no place


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_figure_can_be_read_in_a_narrow_terminal(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(*as_tables(FOUR, console), sep="\n")
    text = console.export_text()
    assert "…" not in text
    for column in shown_columns(FOUR):
        assert cells(FOUR, SMALL, column) in text


def test_the_spread_of_run_times_is_shown() -> None:
    headings, rows = as_rows(FOUR)
    place = headings.index("spread, ms")
    assert SMALL.run_time is not None
    shown = {row[0]: row[place] for row in rows}
    assert shown[SMALL.title] == f"{SMALL.run_time.spread_s * 1e3:.1f}"
    first = next(csv.DictReader(io.StringIO(as_csv(FOUR))))
    assert float(first["spread"]) == FOUR.entries[0].value("spread")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"baseline": "base"}, "The PSNR to keep is 28.00 dB."),
        ({"required_psnr": None}, "PSNR to keep is not known"),
        ({"dataset": "holiday"}, "PSNR and SSIM on holiday"),
        ({"input_size": (64, 48)}, "64x48"),
    ],
)
def test_what_the_figures_are_of_is_said(options: dict[str, object], said: str) -> None:
    assert said in as_markdown(ranking_of(SMALL, BASE, **options))


# --- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ranking",
    [
        FOUR,
        ranking_of(OUT, baseline=""),
        ranking_of(entry("only", psnr=None), baseline="", required_psnr=None, dataset=""),
        ranking_of(entry(HOSTILE), BASE, replace(OUT, title=HOSTILE, problem=HOSTILE)),
        ranking_of(baseline=""),
    ],
    ids=["four", "none ranked", "one", "hostile", "empty"],
)
def test_the_page_is_well_formed_and_fetches_nothing(ranking: Ranking) -> None:
    text = as_html(ranking)
    page = Page(text)
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {SVG}
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.tags)
    assert not {"src", "href", "xlink:href", "srcset", "data"} & {n for n, _ in page.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert all(plot.tag == f"{{{SVG}}}svg" for plot in plots(text))


def test_the_page_holds_every_network_figure_gain_and_problem() -> None:
    heads, *rows = Page(as_html(FOUR)).rows
    assert heads[:3] == ["network", "run time, ms", "spread, ms"]
    assert [row[0] for row in rows] == ["Small one", "Baseline", "below", "Broken | one"]
    assert rows[0][1:4] == ["12.5 (+50%)", "1.0", "0.433 (+50%)"]
    assert rows[0][8] == "28.25 (+0.25)"
    assert rows[1][1] == "25.0"
    assert [row[-1] for row in rows] == [
        "keeps the PSNR; has a note",
        "keeps the PSNR",
        "below the PSNR",
        "out: ValueError: int | None",
    ]


def test_names_with_signs_of_html_are_shown_as_they_are() -> None:
    ranking = ranking_of(entry(HOSTILE), BASE, replace(OUT, problem=HOSTILE))
    text = as_html(ranking)
    page = Page(text)
    assert page.rows[1][0] == HOSTILE
    assert page.rows[3][-1] == f"out: {HOSTILE}"
    assert ("title", HOSTILE) in page.attributes
    assert "b" not in page.tags
    for plot in plots(text):
        assert HOSTILE in [label.text for label in plot.iter(f"{{{SVG}}}text")]


def test_every_plot_has_a_dot_for_each_network() -> None:
    drawn = plots(as_html(FOUR))
    titles = [plot.findtext(f"{{{SVG}}}title") for plot in drawn]
    assert titles == [
        f"PSNR, dB over {across}"
        for across in (
            "run time, ms",
            "parameters, M",
            "FLOPs, G",
            "activations, M",
            "memory, MiB",
        )
    ]
    for plot in drawn:
        circles = list(plot.iter(f"{{{SVG}}}circle"))
        assert len(circles) == 3  # the one that is out has no figures
        assert len({circle.get("fill") for circle in circles}) == 2  # the baseline's is another
        labels = [label.text for label in plot.iter(f"{{{SVG}}}text")]
        assert {"Small one", "Baseline", "below"} <= set(labels)


def test_without_quality_costs_are_plotted_against_run_time() -> None:
    ranking = ranking_of(entry("base", psnr=None), entry("a", 3, psnr=None), dataset="")
    titles = [plot.findtext(f"{{{SVG}}}title") for plot in plots(as_html(ranking))]
    assert titles[0] == "run time, ms over parameters, M"
    assert len(titles) == 4


def test_a_network_with_infinite_psnr_does_not_lose_the_page() -> None:
    Page(as_html(ranking_of(entry("exact", psnr=math.inf), BASE)))


def test_a_network_with_infinite_psnr_is_valid_json() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads(as_json(ranking_of(entry("exact", psnr=math.inf))), parse_constant=refuse)
