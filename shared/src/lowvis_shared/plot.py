"""Scatter plots and line charts as SVG: small enough to lie in a page, with nothing to fetch."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 380, 64, 20, 16, 52
_ACROSS, _UP = (_LEFT, _WIDTH - _RIGHT), (_HEIGHT - _BOTTOM, _TOP)
"""Where the axes start and end, in pixels."""

_FONT = 'font-family="system-ui, sans-serif" font-size="12"'
_LETTER = 7.2
"""Width of a letter of a wide font at that size."""

_COLORS = (
    "#1d4ed8",
    "#c2410c",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#882255",
    "#999933",
    "#777777",
)
"""Of series: mostly of the palette by Okabe and Ito, which the color-blind can tell apart."""

_SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-4.5L4.5 3.5h-9z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.5L4.5-3.5h-9z",
)
"""Markers around the origin: a dot, a square, a triangle, a diamond, a triangle upside down."""

_Place = TypeVar("_Place", bound=tuple[float, ...])

_Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True, slots=True)
class Point:
    """One dot.

    Attributes:
        label: What stands beside it.
        x: Place across; above 0 on a logarithmic axis.
        y: Place upwards; likewise.
        emphasized: Whether it has another color.
    """

    label: str
    x: float
    y: float
    emphasized: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        label: What the legend calls it.
        points: Places across and upwards, joined in this order.
        dashed: Whether the line is dashed.
        band: Place across, low and high end of an area around the line, such as a confidence
            interval.
        color: Number of its color; its place among the series when left out. Series of one number
            look alike, as a dashed counterpart should.
    """

    label: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    color: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows, and whether it is logarithmic."""

    heading: str
    log: bool = False


def scatter(points: Sequence[Point], across: Axis, up: Axis) -> str:
    """Draw points with their labels as an SVG element; an empty text where there are none."""
    if not points:
        return ""
    x = _Scale([point.x for point in points], _ACROSS, log=across.log)
    y = _Scale([point.y for point in points], _UP, log=up.log)
    parts = _frame(x, y, across, up)
    places = [(x(point.x), y(point.y)) for point in points]
    labels = _place_labels(places, [point.label for point in points])
    for point, place, (left, top, anchor) in zip(points, places, labels, strict=True):
        label = html.escape(point.label)
        parts.append(
            f"<g><title>{label}: {point.x:,.4g}, {point.y:,.4g}</title>"
            f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="5" '
            f'fill="{"#c2410c" if point.emphasized else "#1d4ed8"}"/>'
            f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="#222">{label}</text>'
            "</g>"
        )
    return "\n".join([*parts, "</svg>"])


def lines(series: Sequence[Series], across: Axis, up: Axis) -> str:
    """Draw series as lines, with a legend above them, as an SVG element.

    A point without a place on the axes (NaN, infinite, not above 0 on a logarithmic axis) is a gap
    in its line. Empty text where no point has a place.
    """

    def placed(point: tuple[float, ...]) -> bool:
        place, *heights = point
        return _has_place(place, across) and all(_has_place(height, up) for height in heights)

    points = [point for each in series for point in each.points if placed(point)]
    if not points:
        return ""
    ranges = [place for each in series for place in each.band if placed(place)]
    x = _Scale([point[0] for point in (*points, *ranges)], _ACROSS, log=across.log)
    heights = [height for _, *both in ranges for height in both]
    y = _Scale([*(height for _, height in points), *heights], _UP, log=up.log)
    colors = [place if each.color is None else each.color for place, each in enumerate(series)]
    legend, height = _legend(series, colors)
    parts = _frame(x, y, across, up, above=height)
    for each, color in zip(series, colors, strict=True):
        for run in _runs(each.band, placed):
            outline = [(x(at), y(low)) for at, low, _ in run]
            outline += [(x(at), y(high)) for at, _, high in reversed(run)]
            parts.append(
                f'<path d="M{_joined(outline)}Z" fill="{_color(color)}" fill-opacity="0.15" '
                f'stroke="{_color(color)}" stroke-opacity="0.3"/>'
            )
    for each, color in zip(series, colors, strict=True):
        for run in _runs(each.points, placed):
            parts.append(_stroke([(x(at), y(value)) for at, value in run], color, each.dashed))
        parts += [
            f"<g><title>{html.escape(_told(each, point))}</title>"
            f"{_marker((x(point[0]), y(point[1])), color)}</g>"
            for point in each.points
            if placed(point)
        ]
    return "\n".join([*parts, *legend, "</svg>"])


def _has_place(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _runs(
    points: Sequence[_Place], placed: Callable[[tuple[float, ...]], bool]
) -> list[list[_Place]]:
    """Cut points where one has no place."""
    return [list(group) for there, group in groupby(points, key=placed) if there]


def _told(series: Series, point: tuple[float, float]) -> str:
    """What a point says of itself: its figures, and the ends of the band around it."""
    text = f"{series.label}: {point[0]:,.4g}, {point[1]:,.4g}"
    ends = next(((low, high) for at, low, high in series.band if at == point[0]), None)
    return text if ends is None else f"{text} ({ends[0]:,.4g} to {ends[1]:,.4g})"


def _legend(series: Sequence[Series], colors: Sequence[int]) -> tuple[list[str], float]:
    """Lay out all labels in columns above the plot; also return the height that takes."""
    room = _WIDTH - _RIGHT - _LEFT
    key, row = 40, 20
    longest = max(_LETTER * len(each.label) for each in series)
    columns = max(1, min(len(series), int(room // (key + longest + 12))))
    rows = -(-len(series) // columns)
    parts: list[str] = []
    for place, (each, color) in enumerate(zip(series, colors, strict=True)):
        left = _LEFT + place // rows * room / columns
        middle = (place % rows - rows) * row + 8
        width = _LETTER * len(each.label)
        # What is longer than the plot is wide is squeezed.
        squeezed = f' textLength="{room - key}" lengthAdjust="spacingAndGlyphs"'
        parts.append(
            f"<g>{_stroke([(left, middle), (left + 32, middle)], color, each.dashed)}"
            f"{_marker((left + 16, middle), color)}"
            f'<text x="{left + key:.1f}" y="{middle + 4}" fill="#222"'
            f"{squeezed if width > room - key else ''}>{html.escape(each.label)}</text></g>"
        )
    return parts, rows * row + 4


def _color(index: int) -> str:
    return _COLORS[index % len(_COLORS)]


def _marker(place: tuple[float, float], color: int) -> str:
    # The shape tells series apart where the color does not: to the color-blind, and on paper.
    shape = _SHAPES[(color + color // len(_COLORS)) % len(_SHAPES)]
    at = f"translate({place[0]:.1f} {place[1]:.1f})"
    return f'<path d="{shape}" transform="{at}" fill="{_color(color)}"/>'


def _stroke(places: Sequence[tuple[float, float]], color: int, dashed: bool) -> str:
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<path d="M{_joined(places)}" fill="none" stroke="{_color(color)}" stroke-width="2" '
        f'stroke-linejoin="round"{dashes}/>'
    )


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{left:.1f} {top:.1f}" for left, top in places)


def _frame(x: "_Scale", y: "_Scale", across: Axis, up: Axis, *, above: float = 0) -> list[str]:
    """Open an SVG element: its title, its axes, and some free height above them."""
    left, right = _ACROSS
    bottom, top = _UP
    middle = (top + bottom) / 2
    start = f' y="{-above}"' if above else ""
    return [
        f'<svg viewBox="0 {-above} {_WIDTH} {_HEIGHT + above}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg" {_FONT}>',
        f"<title>{html.escape(up.heading)} over {html.escape(across.heading)}</title>",
        f'<rect{start} width="{_WIDTH}" height="{_HEIGHT + above}" fill="#fff"/>',
        *(_vertical_line(x(value), text) for value, text in x.ticks()),
        *(_horizontal_line(y(value), text) for value, text in y.ticks()),
        f'<text x="{(left + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">'
        f"{html.escape(across.heading)}</text>",
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        f"{html.escape(up.heading)}</text>",
    ]


def _vertical_line(place: float, text: str) -> str:
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<path d="M{place:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>'
        f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">{text}</text>'
    )


def _horizontal_line(place: float, text: str) -> str:
    return (
        f'<path d="M{_LEFT} {place:.1f}H{_WIDTH - _RIGHT}" stroke="#e4e4e4"/>'
        f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end" fill="#555">{text}</text>'
    )


class _Scale:
    """Maps figures to pixels, with some room at both ends."""

    def __init__(self, values: Sequence[float], pixels: tuple[float, float], *, log: bool) -> None:
        self._log = log
        low, high = self._of(min(values)), self._of(max(values))
        room = 0.1 * (high - low) or (0.1 if log else 0.5)
        self._low, self._high = low - room, high + room
        self._pixels = pixels

    def _of(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def __call__(self, value: float) -> float:
        start, end = self._pixels
        return start + (self._of(value) - self._low) / (self._high - self._low) * (end - start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round figures within the axis, about five of them, and how they are written."""
        low, high = self._low, self._high
        if self._log:
            decades = range(math.floor(low), math.ceil(high) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
                found = [step * 10.0**decade for decade in decades for step in steps]
                found = [value for value in found if low <= math.log10(value) <= high]
                if len(found) >= 4:
                    return [(value, f"{value:,g}") for value in found]
            low, high = 10**low, 10**high
        power = math.floor(math.log10((high - low) / 3))
        factor = next(each for each in (1, 2, 5) if (high - low) / (each * 10.0**power) < 7)
        step, digits = factor * 10.0**power, max(0, -power)
        places = range(math.ceil(low / step), math.floor(high / step) + 1)
        return [(place * step, f"{place * step:,.{digits}f}") for place in places]


def _place_labels(
    places: Sequence[tuple[float, float]], texts: Sequence[str]
) -> list[tuple[float, float, str]]:
    """Put each label beside its dot where it covers the least of other labels and dots."""
    boxes = [(left - 6, top - 6, left + 6, top + 6) for left, top in places]
    chosen: list[tuple[float, float, str]] = []
    for (left, top), text in zip(places, texts, strict=True):
        width = _LETTER * len(text)
        options = [
            (left + 9, top + 4, "start", (left + 9, top - 7, left + 9 + width, top + 7)),
            (left - 9, top + 4, "end", (left - 9 - width, top - 7, left - 9, top + 7)),
            (left, top - 10, "middle", (left - width / 2, top - 21, left + width / 2, top - 7)),
            (left, top + 20, "middle", (left - width / 2, top + 8, left + width / 2, top + 22)),
        ]
        x, y, anchor, box = min(options, key=lambda option: _covered(option[3], boxes))
        boxes.append(box)
        chosen.append((x, y, anchor))
    return chosen


def _covered(box: _Box, others: Sequence[_Box]) -> float:
    """Area of a box that others cover, and ten times what lies outside the plot."""
    inside = _overlap(box, (_LEFT, 0, _WIDTH, _HEIGHT - _BOTTOM))
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_overlap(box, other) for other in others) + 10 * (area - inside)


def _overlap(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
