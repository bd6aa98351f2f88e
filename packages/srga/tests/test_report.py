"""A scoring as a table, CSV, JSON, one page and one picture: all figures, and nothing to fetch."""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from lowvis_srga import PACKAGE
from lowvis_srga.comparison import Comparison
from lowvis_srga.patches import Family
from lowvis_srga.report import (
    as_csv,
    as_html,
    as_json,
    as_markdown,
    as_rows,
    as_svg,
    details,
    plot_axes,
    plot_family,
    published,
    remarks,
    settings,
)
from lowvis_srga.scoring import (
    CurvePoint,
    NetworkScore,
    Scoring,
    SetScore,
    Settings,
    find_trends,
)
from lowvis_srga.statistics import GeneralizedGaussian

SVG = "http://www.w3.org/2000/svg"
VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = "<b>&\"'</script>{0}"
NOTE = "the shape of the test set lies at an end of the grid (9.999): its scores are not so"
DASH = "–"  # noqa: RUF001 - the dash of tables

FAMILIES: Mapping[str, tuple[Family, float | None]] = {
    "blur1": ("blur", 1.0),
    "blur2": ("blur", 2.0),
    "noise5": ("noise", 5.0),
    "noise20": ("noise", 20.0),
    "jpeg90": ("jpeg", 90.0),
    "jpeg20": ("jpeg", 20.0),
    "blur2+noise10": ("mixture", None),
}


def compared(value: float, *, notes: tuple[str, ...] = (), basis: str = "own") -> Comparison:
    return Comparison(
        value=value,
        divergence=0.25,
        reference=GeneralizedGaussian(1.5, 0.6, 290, 10),
        test=GeneralizedGaussian(0.75, 0.7, 280, 20),
        dimensions=9,
        patches=24,
        dropped=0,
        basis="own" if basis == "own" else "reference",
        mean_shift=0.125,
        outside=0.5,
        notes=notes,
    )


def scored(name: str, value: float | None, **options: object) -> SetScore:
    family, degree = FAMILIES[name]
    comparison = None if value is None else compared(value)
    curve = () if value is None else (CurvePoint(9, value, value + 1), CurvePoint(20, 2.0, 3.0))
    each = SetScore(name, family, degree, comparison, None, curve, 25.5, 0)
    return replace(each, **options)


def network(
    name: str,
    values: Mapping[str, float | None],
    *,
    layer: str = "input of tail",
    **options: object,
) -> NetworkScore:
    sets = tuple(scored(each, value) for each, value in values.items())
    found = NetworkScore(name, layer, 384, sets, find_trends(sets), 27.25, mean=2.0)
    return replace(found, **options)


def scoring_of(*networks: NetworkScore, **options: object) -> Scoring:
    basis = options.pop("basis", "own")
    return Scoring(
        networks=networks,
        settings=Settings(bootstrap=20, basis="own" if basis == "own" else "reference"),
        dimensions=9,
        patches=24,
        side=8,
        scale=4,
        source=str(options.pop("source", "photographs")),
        common=("blur1", "blur2"),
        environment={"processor": "a processor", "torch": "2.9"},
    )


GOOD_VALUES = {
    "blur1": 1.5,
    "blur2": 2.5,
    "noise5": 3.0,
    "noise20": 2.75,
    "jpeg90": 0.5,
    "jpeg20": 1.25,
    "blur2+noise10": 4.0,
}
GOOD = network("good", GOOD_VALUES, interval=(1.9, 2.1))
GOOD = replace(
    GOOD,
    sets=(
        replace(GOOD.sets[0], interval=(1.25, 1.75)),
        replace(GOOD.sets[1], comparison=compared(2.5, notes=(NOTE,))),
        *GOOD.sets[2:],
    ),
)
BAD = network("bad | one", {**GOOD_VALUES, "noise20": None}, mean=2.5)
BAD = replace(
    BAD,
    sets=tuple(
        replace(each, diverged=3, problem="diverges on 3 of 24 patches", psnr=math.inf)
        if each.name == "noise20"
        else each
        for each in BAD.sets
    ),
)
FAILED = NetworkScore("failed", problem="ValueError: int | None")
THREE = scoring_of(GOOD, BAD, FAILED)


class Page(HTMLParser):
    """Checks that every tag is closed in turn, and collects the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.items: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "li":
            self.items.append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] == "li":
            self.items[-1] += data


def plots(page: str) -> list[ET.Element]:
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def labels(plot: str) -> list[str]:
    """What the legend calls the lines."""
    drawn = ET.fromstring(plot)
    groups = [
        group for group in drawn.iter(f"{{{SVG}}}g") if group.find(f"{{{SVG}}}text") is not None
    ]
    return [str(group.findtext(f"{{{SVG}}}text")) for group in groups]


def told(plot: str) -> list[str]:
    """What the points say of themselves."""
    drawn = ET.fromstring(plot)
    return [title for g in drawn.iter(f"{{{SVG}}}g") if (title := g.findtext(f"{{{SVG}}}title"))]


def dashes(plot: str) -> int:
    """Dashed lines, each of which stands in the legend too."""
    return plot.count("stroke-dasharray") // 2


# --- tables ---------------------------------------------------------------------------------------


def test_the_table_has_a_column_for_each_network_that_could_be_scored() -> None:
    headings, rows = as_rows(THREE)
    assert headings == ["", "good", "bad | one"]
    assert rows == [
        ["layer", "input of tail", "input of tail"],
        ["PSNR, dB, clean", "27.25", "27.25"],
        ["mean SRGA", "2.00 ± 0.10", "2.50"],
        ["blur1", "1.50 ± 0.25", "1.50"],
        ["blur2", "2.50*", "2.50"],
        ["noise5", "3.00", "3.00"],
        ["noise20", "2.75", "diverges on 3"],
        ["jpeg90", "0.50", "0.50"],
        ["jpeg20", "1.25", "1.25"],
        ["blur2+noise10", "4.00", "4.00"],
    ]


def test_markdown_holds_the_table_the_settings_and_the_remarks() -> None:
    text = as_markdown(THREE)
    lines = text.splitlines()
    assert lines[0] == "|  | good | bad \\| one |"
    assert lines[4] == "| mean SRGA | 2.00 ± 0.10 | 2.50 |"
    assert settings(THREE) in lines
    assert [line[2:] for line in lines if line.startswith("- ")] == remarks(THREE)


def test_remarks_name_trends_notes_and_problems() -> None:
    said = remarks(THREE)
    assert "good: blur grows from blur1 to blur2" in said
    assert "good: noise falls from noise5 (3.00) to noise20 (2.75)" in said
    assert "good: jpeg grows from jpeg90 to jpeg20" in said
    assert f"good, blur2: {NOTE}" in said
    assert "bad | one: noise has no value at noise20" in said
    assert "bad | one, noise20: diverges on 3 of 24 patches" in said
    assert said[-1] == "failed: ValueError: int | None"
    assert len(said) == 3 + 1 + 3 + 1 + 1


def test_settings_say_what_the_figures_are_of() -> None:
    said = settings(THREE)
    for part in (
        "SRGA against 'clean'",
        "24 patches of 32x32 pixels, 8x8 for the network, from photographs",
        "9 principal axes",
        "20 draws",
        "mean is over blur1, blur2",
        "a processor, torch 2.9",
    ):
        assert part in said
    assert "layers of different size" not in said
    assert "not the paper's index" not in said
    assert "* see the remarks" in said  # of what has a note, and is marked in the table
    assert "* see the remarks" not in settings(scoring_of(BAD))
    other = replace(BAD, layer="input of last", features=999)
    assert "layers of different size" in settings(scoring_of(GOOD, other))
    assert "layers of different size" not in settings(scoring_of(GOOD, FAILED))


def test_what_is_not_the_papers_index_is_never_called_so() -> None:
    sets = tuple(replace(each, comparison=compared(2.0, basis="reference")) for each in GOOD.sets)
    shared = scoring_of(replace(GOOD, sets=sets), basis="reference")
    assert settings(shared).startswith("SRGA-shared against 'clean'")
    assert "which is not the paper's index" in settings(shared)
    assert "95 %" not in settings(shared)
    assert as_rows(shared)[1][2][0] == "mean SRGA-shared"
    assert "SRGA-shared over blur" in plot_family(shared, "blur")
    headings, rows = details(shared.networks[0])
    assert (headings[1:3], rows[0][1:3]) == (["SRGA", "SRGA-shared"], ["1.50 ± 0.25", "2.50"])
    first = next(csv.DictReader(io.StringIO(as_csv(shared))))
    assert (first["srga"], first["srga_shared"], first["basis"]) == ("1.5", "2.5", "reference")


def test_details_of_a_network_have_all_figures_of_a_set() -> None:
    headings, rows = details(BAD)
    by_name = {row[0]: dict(zip(headings, row, strict=True)) for row in rows}
    assert list(by_name) == list(FAMILIES)
    assert by_name["blur1"] == {
        "set": "blur1",
        "SRGA": "1.50",
        "SRGA-shared": "2.50",
        "sigma": "1.5 → 0.75",
        "alpha": "0.600 → 0.700",
        "clipped": "20",
        "KL, nats": "0.25",
        "mean shift": "0.125",
        "outside the axes": "50 %",
        "PSNR, dB": "25.50",
        "diverged": "0",
    }
    assert by_name["noise20"]["SRGA"] == by_name["noise20"]["sigma"] == DASH
    assert by_name["noise20"]["diverged"] == "3"


def test_csv_has_a_line_for_each_network_and_set() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(THREE))))
    expected = [(each.name, one.name) for each in (GOOD, BAD) for one in each.sets]
    assert [(row["network"], row["set"]) for row in rows] == [*expected, ("failed", "")]
    assert all(None not in row for row in rows)
    first, second = rows[0], rows[1]
    figures = {
        "srga": 1.5,
        "low": 1.25,
        "high": 1.75,
        "srga_shared": 2.5,
        "kld": 0.25,
        "sigma_reference": 1.5,
        "alpha_reference": 0.6,
        "sigma": 0.75,
        "alpha": 0.7,
        "clipped": 20,
        "mean_shift": 0.125,
        "outside": 0.5,
        "psnr": 25.5,
        "diverged": 0,
        "dropped": 0,
        "patches": 24,
        "dimensions": 9,
        "degree": 1,
        "features": 384,
    }
    assert {name: float(first[name]) for name in figures} == figures
    assert (first["family"], first["basis"], first["layer"]) == ("blur", "own", "input of tail")
    assert (second["notes"], second["low"]) == (NOTE, "")
    (lost,) = (row for row in rows if row["network"] == BAD.name and row["set"] == "noise20")
    assert (lost["srga"], lost["diverged"]) == ("", "3")
    assert lost["problem"] == "diverges on 3 of 24 patches"
    assert rows[-1]["problem"] == "ValueError: int | None"


@pytest.mark.parametrize("name", ["a,b", 'quo"te', HOSTILE])
def test_csv_keeps_any_name(name: str) -> None:
    scoring = scoring_of(replace(GOOD, name=name), replace(FAILED, problem=name))
    rows = list(csv.DictReader(io.StringIO(as_csv(scoring))))
    assert (rows[0]["network"], rows[-1]["problem"]) == (name, name)


def test_json_is_the_whole_scoring_without_nan() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    beyond = (CurvePoint(9, math.inf, math.inf),)
    first_set = replace(GOOD.sets[0], comparison=compared(math.inf), curve=beyond)
    infinite = replace(GOOD, sets=(first_set,))
    told = json.loads(as_json(scoring_of(infinite, BAD, FAILED)), parse_constant=refuse)
    first, bad, failed = told["networks"]
    assert first["sets"][0]["srga"] is None
    assert [each["srga"] for each in bad["sets"]] == [each.value for each in BAD.sets]
    assert bad["sets"][3]["psnr"] is None  # infinite
    assert failed["problem"] == "ValueError: int | None"
    assert (told["reference"], told["dimensions"], told["patches"]) == ("clean", 9, 24)


# --- the page -------------------------------------------------------------------------------------

EMPTY = scoring_of(FAILED)
STRANGE = scoring_of(
    replace(GOOD, name=HOSTILE, layer=HOSTILE),
    replace(FAILED, name=HOSTILE, problem=HOSTILE),
    source=HOSTILE,
)


@pytest.mark.parametrize(
    "scoring",
    [THREE, EMPTY, STRANGE, scoring_of(network("pan-x4", GOOD_VALUES, layer="input of conv_last"))],
    ids=["three", "none", "hostile", "published"],
)
def test_the_page_is_well_formed_and_fetches_nothing(scoring: Scoring) -> None:
    text = as_html(scoring)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {SVG}
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(page.tags)
    assert not {"src", "href", "xlink:href", "srcset", "data"} & {n for n, _ in page.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert all(plot.tag == f"{{{SVG}}}svg" for plot in plots(text))


def test_the_page_holds_every_network_figure_and_remark() -> None:
    page = Page(as_html(THREE))
    table, good, bad = page.tables
    headings, rows = as_rows(THREE)
    assert table == [headings, *rows]
    assert good == [details(GOOD)[0], *details(GOOD)[1]]
    assert bad == [details(BAD)[0], *details(BAD)[1]]
    assert page.items == remarks(THREE)


def test_names_with_signs_of_html_are_shown_as_they_are() -> None:
    page = Page(as_html(STRANGE))
    assert page.tables[0][0] == ["", HOSTILE]
    assert page.tables[0][1] == ["layer", HOSTILE]
    assert page.items[-1] == f"{HOSTILE}: {HOSTILE}"
    assert "b" not in page.tags
    assert HOSTILE in labels(plot_family(STRANGE, "blur"))


# --- plots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["blur", "noise", "jpeg"])
def test_a_plot_has_a_line_for_each_network_with_several_degrees(family: str) -> None:
    drawn = plot_family(THREE, family)
    expected = ["good"] if family == "noise" else ["good", "bad | one"]  # one value is no line
    assert labels(drawn) == expected
    assert dashes(drawn) == 0


def test_points_are_the_values_over_the_degrees() -> None:
    points = told(plot_family(THREE, "blur"))
    assert points == [
        "good: 1, 1.5 (1.25 to 1.75)",  # with the interval that is drawn around it
        "good: 2, 2.5",
        "bad | one: 1, 1.5",
        "bad | one: 2, 2.5",
    ]
    # Worse quality lies to the right, as stronger blur does.
    assert told(plot_family(scoring_of(GOOD), "jpeg")) == ["good: 10, 0.5", "good: 80, 1.25"]


def test_a_degradation_of_one_degree_is_no_plot() -> None:
    few = scoring_of(network("n", {"blur1": 1.0, "noise5": 1.0, "blur2+noise10": 2.0}))
    assert [plot_family(few, family) for family in ("blur", "noise", "jpeg")] == ["", "", ""]
    assert "SRGA over blur" not in as_html(few)
    assert "<figure></figure>" not in as_html(few)
    assert "<p>no degradation has several degrees</p>" in as_html(few)
    assert "no degradation has several degrees" in as_svg(few)
    ET.fromstring(as_svg(few))


def test_a_plot_over_the_axes_has_a_line_for_each_set() -> None:
    drawn = plot_axes(BAD)
    assert labels(drawn) == [name for name in FAMILIES if name != "noise20"]
    assert told(drawn)[:2] == ["blur1: 9, 1.5", "blur1: 20, 2"]


def test_all_plots_lie_side_by_side_in_one_picture() -> None:
    text = as_svg(THREE)
    whole = ET.fromstring(text)
    inner = whole.findall(f"{{{SVG}}}svg")
    assert len(inner) == 3
    width, height = map(float, whole.attrib["viewBox"].split()[2:])
    right = 0.0
    for each in inner:
        assert float(each.attrib["x"]) == right
        right += float(each.attrib["width"])
        assert float(each.attrib["y"]) + float(each.attrib["height"]) <= height
    assert right == width
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) == {SVG}


# --- check figures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "blur1"),
    [
        ("pan-x4", "input of conv_last", 3.314),
        ("pan-x4 @official", "input of conv_last", 3.314),
        ("imdn-x4", "input of upsampler.0", 2.779),
        ("imdn-x4 @official", "input of upsampler.0", 2.779),
    ],
)
def test_a_network_with_check_figures_has_them_dashed_beside_it(
    name: str, layer: str, blur1: float
) -> None:
    mine = network(name, GOOD_VALUES, layer=layer)
    scoring = scoring_of(GOOD, mine)
    assert published(mine)["blur1"] == blur1
    for family, sets in (("blur", 2), ("noise", 2), ("jpeg", 2)):
        drawn = plot_family(scoring, family)
        assert labels(drawn) == ["good", name, f"{name}, check figures"]
        assert dashes(drawn) == 1
        assert sum(text.startswith(f"{name}, check figures: ") for text in told(drawn)) == sets
    assert f"{name}, check figures: 1, {blur1}" in told(plot_family(scoring, "blur"))
    assert "Dashed: the check figures" in as_html(scoring)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("pan-x4", "output"),
        ("pan-x4", "input of upsampler.0"),
        ("pan-x4 @own", "input of conv_last"),
        ("pan-x4 @best.pth", "input of conv_last"),
        ("pan-x2", "input of conv_last"),
        ("imdn-x4", "input of conv_last"),
        ("rfdn-x4", "input of upsampler.0"),  # its figures are of pictures 255 times as dark
        ("good", "input of tail"),
    ],
)
def test_another_layer_or_network_has_no_check_figures(name: str, layer: str) -> None:
    mine = network(name, GOOD_VALUES, layer=layer)
    assert published(mine) == {}
    scoring = scoring_of(mine)
    assert dashes(plot_family(scoring, "blur")) == 0
    assert "Dashed" not in as_html(scoring)


def test_check_figures_are_those_of_one_number_of_patches() -> None:
    # The rows of paper.toml are of two; a line through both would be of neither.
    pan = published(network("pan-x4", {}, layer="input of conv_last"))
    assert len(pan) == 13
    text = PACKAGE.paper_toml.read_text()
    assert 'set = "blur2", patches = 800' in text
    assert pan["blur2"] == 4.354


def test_check_figures_are_not_drawn_beside_another_index() -> None:
    mine = network("pan-x4", GOOD_VALUES, layer="input of conv_last")
    scoring = scoring_of(mine, basis="reference")
    assert labels(plot_family(scoring, "blur")) == ["pan-x4"]


@pytest.mark.parametrize(
    "scoring",
    [
        scoring_of(network("pan-x4", GOOD_VALUES, layer="input of conv_last"), basis="reference"),
        scoring_of(network("pan-x4", {"blur1": 1.0}, layer="input of conv_last")),
    ],
)
def test_dashed_lines_are_explained_only_where_they_are(scoring: Scoring) -> None:
    text = as_html(scoring)
    assert "stroke-dasharray" not in text
    assert "Dashed" not in text
