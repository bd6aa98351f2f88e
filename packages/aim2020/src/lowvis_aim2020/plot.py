"""Scatter plots with labels, as SVG: small enough to lie within a page, with nothing to fetch."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 380, 64, 20, 16, 52
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'

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
class Axis:
    """What an axis shows, and whether it is logarithmic."""

    heading: str
    log: bool = False


def scatter(points: Sequence[Point], across: Axis, up: Axis) -> str:
    """Draw points with their labels as an SVG element; an empty text where there are none."""
    if not points:
        return ""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x = _Scale([point.x for point in points], (_LEFT, right), log=across.log)
    y = _Scale([point.y for point in points], (bottom, _TOP), log=up.log)
    middle = (_TOP + bottom) / 2
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f"{_FONT}>",
        f"<title>{html.escape(up.heading)} over {html.escape(across.heading)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        *(_vertical_line(x(value), text) for value, text in x.ticks()),
        *(_horizontal_line(y(value), text) for value, text in y.ticks()),
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">'
        f"{html.escape(across.heading)}</text>",
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        f"{html.escape(up.heading)}</text>",
    ]
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
        width = 7.2 * len(text)  # of a wide font at 12 pixels
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
