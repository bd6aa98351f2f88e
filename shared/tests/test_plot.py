"""Plots: every figure stands where its axis says, and nothing covers anything."""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.color import delta_e_2000, rgb_to_lab
from lowvis_shared.plot import Axis, Point, Series, lines, scatter

SVG = "http://www.w3.org/2000/svg"


def grid(svg: ET.Element) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Places and figures of the vertical lines, and of the horizontal ones."""
    lines = [path.get("d") or "" for path in svg.iter(f"{{{SVG}}}path")]
    texts = [each for each in svg.iter(f"{{{SVG}}}text") if each.get("fill") == "#555"]
    figures = [float((each.text or "").replace(",", "")) for each in texts]
    vertical, horizontal = [], []
    for line, figure in zip(lines, figures, strict=True):
        if match := re.fullmatch(r"M([\d.]+) 16V328", line):
            vertical.append((float(match[1]), figure))
        elif match := re.fullmatch(r"M64 ([\d.]+)H540", line):
            horizontal.append((float(match[1]), figure))
        else:
            pytest.fail(line)
    return vertical, horizontal


def check_axes(points: Sequence[Point], *, log: bool) -> None:
    svg = ET.fromstring(scatter(points, Axis("across", log=log), Axis("up", log=log)))
    vertical, horizontal = grid(svg)
    for start, end, ticks in ((64, 540, vertical), (16, 328, horizontal)):
        assert 2 <= len(ticks) <= 20
        assert all(start <= place <= end for place, _ in ticks)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(vertical))
    # Upwards on the page is downwards in its coordinates.
    assert all(a[0] > b[0] and a[1] < b[1] for a, b in pairwise(horizontal))
    circles = list(svg.iter(f"{{{SVG}}}circle"))
    assert len(circles) == len(points)
    for point, circle in zip(points, circles, strict=True):
        x, y = float(circle.get("cx") or "nan"), float(circle.get("cy") or "nan")
        assert 64 < x < 540
        assert 16 < y < 328
        scale = math.log10 if log else float
        for value, place, ticks in ((point.x, x, vertical), (point.y, y, horizontal)):
            known = [(scale(figure), pixel) for pixel, figure in ticks]
            slope = (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0])
            expected = known[0][1] + slope * (scale(value) - known[0][0])
            assert place == pytest.approx(expected, abs=2)  # a dot stands where its figure is


positive = st.floats(1e-5, 1e7)


@settings(max_examples=200, deadline=None)
@given(positive, st.floats(1.01, 1e6), st.floats(0, 1), st.booleans())
def test_ticks_lie_on_the_axis_and_ascend(low: float, ratio: float, part: float, log: bool) -> None:
    high = low * ratio
    middle = low + part * (high - low)
    points = [Point("a", low, high), Point("b", high, low), Point("c", middle, middle)]
    check_axes(points, log=log)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [1e-4, 0.433, 1, 28.12, 1024, 5e4])
def test_one_point_has_axes_too(value: float, log: bool) -> None:
    check_axes([Point("only", value, value)], log=log)


def test_ticks_between_nearly_equal_figures_have_different_texts() -> None:
    check_axes([Point("a", 28.12345, 1), Point("b", 28.12346, 2)], log=False)


def test_no_points_are_no_plot() -> None:
    assert scatter([], Axis("across"), Axis("up")) == ""


def test_labels_do_not_cover_each_other() -> None:
    points = [Point(f"network {index}", 1 + index % 2, 1 + index // 2) for index in range(4)]
    svg = ET.fromstring(scatter(points, Axis("across"), Axis("up")))
    places = [
        (float(each.get("x") or 0), float(each.get("y") or 0))
        for each in svg.iter(f"{{{SVG}}}text")
        if (each.text or "").startswith("network")
    ]
    distances = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in places for b in places if a != b]
    assert len(places) == 4
    assert min(distances) > 14  # the height of a label


# --- lines ----------------------------------------------------------------------------------------

AXES = Axis("blur"), Axis("score")
RISING = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0))


def chart(*series: Series, across: Axis = AXES[0], up: Axis = AXES[1]) -> ET.Element:
    return ET.fromstring(lines(series, across, up))


def strokes(svg: ET.Element) -> list[ET.Element]:
    """The lines of the plot: those of the legend lie within groups."""
    return [each for each in svg.findall(f"{{{SVG}}}path") if each.get("fill") == "none"]


def areas(svg: ET.Element) -> list[ET.Element]:
    return [each for each in svg.findall(f"{{{SVG}}}path") if each.get("fill-opacity")]


def places(path: ET.Element) -> list[tuple[float, float]]:
    pairs = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d") or "")
    return [(float(left), float(top)) for left, top in pairs]


def markers(svg: ET.Element) -> dict[str, tuple[float, float]]:
    """Where the marker of each tooltip stands."""
    found: dict[str, tuple[float, float]] = {}
    for group in svg.findall(f"{{{SVG}}}g"):
        title = group.findtext(f"{{{SVG}}}title")
        shape = group.find(f"{{{SVG}}}path")
        if title is not None and shape is not None:
            place = re.fullmatch(r"translate\(([\d.]+) ([\d.]+)\)", shape.get("transform") or "")
            assert place is not None
            found[title] = (float(place[1]), float(place[2]))
    return found


def legend(svg: ET.Element) -> dict[str, ET.Element]:
    groups = [each for each in svg.findall(f"{{{SVG}}}g") if each.find(f"{{{SVG}}}title") is None]
    return {each.findtext(f"{{{SVG}}}text") or "": each for each in groups}


def test_a_line_joins_its_points_where_their_markers_are() -> None:
    svg = chart(Series("one", RISING), Series("two", RISING[:2]))
    assert svg.findtext(f"{{{SVG}}}title") == "score over blur"
    first, second = strokes(svg)
    assert (len(places(first)), len(places(second))) == (3, 2)
    marked = markers(svg)
    assert list(marked) == ["one: 0, 1", "one: 1, 2", "one: 2, 4", "two: 0, 1", "two: 1, 2"]
    assert [marked[name] for name in list(marked)[:3]] == places(first)
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(places(first)))


def test_a_point_stands_where_its_figures_are_on_logarithmic_axes() -> None:
    points = ((1.0, 10.0), (10.0, 100.0), (100.0, 1000.0))
    svg = chart(Series("a", points), across=Axis("x", log=True), up=Axis("y", log=True))
    one, two, three = places(strokes(svg)[0])
    assert two == pytest.approx(((one[0] + three[0]) / 2, (one[1] + three[1]) / 2), abs=0.1)


def test_a_band_reaches_from_low_to_high_in_the_color_of_its_line() -> None:
    band = [(0.0, 0.5, 1.5), (1.0, 1.5, 2.5), (2.0, 2.0, 9.0)]
    svg = chart(Series("one", RISING, band=band))
    (area,) = areas(svg)
    (line,) = strokes(svg)
    assert area.get("fill") == line.get("stroke")
    outline, middle = places(area), places(line)
    assert [left for left, _ in outline] == [left for left, _ in (*middle, *reversed(middle))]
    for (_, low), (_, high), (_, top) in zip(outline, reversed(outline), middle, strict=False):
        assert high < top < low
        assert 16 <= high < low <= 328  # the axis has room for it
    assert "one: 2, 4 (2 to 9)" in markers(svg)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_missing_figure_is_a_gap(value: float) -> None:
    points = ((0, 1), (1, 2), (2, value), (3, 2), (4, 3))
    svg = chart(Series("a", points, band=[(x, y - 0.5, y + 0.5) for x, y in points]))
    assert [len(places(line)) for line in strokes(svg)] == [2, 2]
    assert [len(places(area)) for area in areas(svg)] == [4, 4]
    assert len(markers(svg)) == 4


def test_what_a_logarithmic_axis_does_not_have_is_a_gap() -> None:
    svg = chart(Series("a", ((0, 1), (1, 2), (2, 3))), across=Axis("x", log=True))
    assert list(markers(svg)) == ["a: 1, 2", "a: 2, 3"]


def test_nothing_to_show_is_no_plot() -> None:
    assert lines([], *AXES) == ""
    assert lines([Series("none", ()), Series("gap", ((1, math.nan),))], *AXES) == ""


def test_ten_series_look_different() -> None:
    svg = chart(*(Series(f"series {index}", RISING) for index in range(10)))
    colors = [line.get("stroke") or "" for line in strokes(svg)]
    lab = rgb_to_lab(np.array([list(bytes.fromhex(color[1:])) for color in colors], np.uint8)[None])
    different = delta_e_2000(lab.repeat(10, axis=0), lab.swapaxes(0, 1).repeat(10, axis=1))
    assert different[~np.eye(10, dtype=bool)].min() > 10


def test_a_dashed_counterpart_has_the_color_and_the_marker_of_the_other() -> None:
    svg = chart(
        Series("a", RISING, color=3), Series("b", RISING), Series("a'", RISING, True, color=3)
    )
    one, other, counterpart = strokes(svg)
    assert one.get("stroke") == counterpart.get("stroke") != other.get("stroke")
    assert counterpart.get("stroke-dasharray")
    assert one.get("stroke-dasharray") is None
    shapes = {name: [p.get("d") for p in key][1] for name, key in legend(svg).items()}
    assert shapes["a"] == shapes["a'"] != shapes["b"]
    assert legend(svg)["a'"][0].get("stroke-dasharray")


@pytest.mark.parametrize("count", [1, 4, 11, 24])
@pytest.mark.parametrize("length", [1, 12, 30, 90])
def test_the_legend_names_all_and_covers_nothing(count: int, length: int) -> None:
    labels = [f"{index} {'n' * length}" for index in range(count)]
    svg = chart(*(Series(label, RISING) for label in labels))
    left, top, width, height = map(float, (svg.get("viewBox") or "").split())
    assert list(legend(svg)) == labels
    boxes = []
    for label, key in legend(svg).items():
        text = key.find(f"{{{SVG}}}text")
        assert text is not None
        x, y = float(text.get("x") or 0), float(text.get("y") or 0)
        right = x + float(text.get("textLength") or 7 * len(label))
        boxes.append((x - 40, y - 12, right, y + 4))
    for index, box in enumerate(boxes):
        assert left <= box[0] < box[2] <= left + width
        assert top <= box[1] < box[3] <= 16  # the plot begins there
        for other in boxes[:index]:
            apart = (box[0] >= other[2], other[0] >= box[2], box[1] >= other[3], other[1] >= box[3])
            assert any(apart)
    assert top + height == 380


def test_labels_with_signs_of_html_are_shown_as_they_are() -> None:
    hostile = "<b>&\"'</script>{0}"
    svg = chart(Series(hostile, RISING))
    assert list(legend(svg)) == [hostile]
    assert f"{hostile}: 0, 1" in markers(svg)
