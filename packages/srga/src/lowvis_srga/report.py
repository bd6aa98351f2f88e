"""A scoring as text, CSV, JSON and one HTML page with its curves, which needs no other file."""

import csv
import html
import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from lowvis_shared.cli import json_text
from lowvis_shared.page import page
from lowvis_shared.plot import Axis, Series, lines
from lowvis_shared.reproduce import load_paper, markdown_table

from lowvis_srga import PACKAGE
from lowvis_srga.scoring import NetworkScore, Scoring, SetScore, course

ABSENT = "–"  # noqa: RUF001 - the dash that tables use for an empty cell

_CSV_COLUMNS = (
    *("network", "layer", "features", "set", "family", "degree", "srga", "low", "high"),
    *("srga_shared", "kld", "sigma_reference", "alpha_reference", "sigma", "alpha", "clipped"),
    *("mean_shift", "outside", "psnr", "diverged", "dropped", "patches", "dimensions", "basis"),
    *("problem", "notes"),
)

_CHECK_PATCHES = 300  # of the check figures that plots show

_NO_PLOT = "no degradation has several degrees"

_EMPTY_SVG = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 60">
<text x="20" y="36" font-family="system-ui, sans-serif">{_NO_PLOT}</text>
</svg>
"""

_BOX = re.compile(r'viewBox="([^"]+)"')

_AXES: Mapping[str, Axis] = {
    "blur": Axis("blur: standard deviation, pixels"),
    "noise": Axis("noise: standard deviation of 255"),
    "jpeg": Axis("JPEG: 100 - quality"),
}


def title(scoring: Scoring) -> str:
    """Name the index: what is on the axes of the reference is not the paper's."""
    return "SRGA" if scoring.settings.basis == "own" else "SRGA-shared"


def settings(scoring: Scoring) -> str:
    """Say in one paragraph what the figures of a scoring are of."""
    chosen = scoring.settings
    side = scoring.side
    parts = [
        f"{title(scoring)} against '{chosen.reference}': smaller means that a network treats the "
        f"set more like the reference, not that its pictures are better. {scoring.patches} patches "
        f"of {side * scoring.scale}x{side * scoring.scale} pixels, {side}x{side} for the network, "
        f"from {scoring.source or 'patches given'}; {scoring.dimensions} principal axes.",
    ]
    if chosen.basis == "reference":
        parts.append("Scores are on the axes of the reference, which is not the paper's index.")
    if chosen.bootstrap and chosen.basis == "own":
        parts.append(
            f"± is half of the 95 % confidence interval over the choice of patches "
            f"({chosen.bootstrap} draws)."
        )
    if scoring.common:
        parts.append(f"The mean is over {', '.join(scoring.common)}.")
    made = [each.comparison for network in scoring.networks for each in network.sets]
    if any(each is not None and each.notes for each in made):
        parts.append("* see the remarks.")
    if any(each is not None and each.dropped for each in made):
        parts.append("Where patches were left out, fewer patches and axes alone move the index.")
    layers = {(each.layer, each.features) for each in scoring.networks if not each.problem}
    if len({features for _, features in layers}) > 1:
        parts.append(
            "The networks are read at layers of different size, and their order depends on that: "
            "--layer output reads all at the same place."
        )
    on_gpu = "gpu" in scoring.environment
    parts.append(
        f"{scoring.environment['gpu' if on_gpu else 'processor']}, "
        f"torch {scoring.environment['torch']}."
    )
    return " ".join(parts)


def remarks(scoring: Scoring) -> list[str]:
    """Return what has to be said beside the figures: trends, notes and problems, by network."""
    said: list[str] = []
    for network in scoring.networks:
        if network.problem:
            said.append(f"{network.name}: {network.problem}")
            continue
        said += [f"{network.name}: {each.family} {each.text}" for each in network.trends]
        for each in network.sets:
            if each.problem:
                said.append(f"{network.name}, {each.name}: {each.problem}")
            elif each.comparison is not None:
                said += [f"{network.name}, {each.name}: {note}" for note in each.comparison.notes]
    return said


def as_rows(scoring: Scoring) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of texts: a column for each network, the first the best."""
    networks = [each for each in scoring.networks if not each.problem]
    reference = scoring.settings.reference
    rows = [
        ["layer", *(each.layer for each in networks)],
        [f"PSNR, dB, {reference}", *(_number(each.psnr, 2) for each in networks)],
        [f"mean {title(scoring)}", *(_with_error(each.mean, each.interval) for each in networks)],
        *([name, *(_cell(each, name) for each in networks)] for name in _set_names(scoring)),
    ]
    return ["", *(each.name for each in networks)], rows


def as_markdown(scoring: Scoring) -> str:
    """Write a scoring as Markdown: the table, what it is of, and what has to be said about it."""
    said = "".join(f"- {each}\n" for each in remarks(scoring))
    return f"{markdown_table(*as_rows(scoring))}\n\n{settings(scoring)}\n\n{said}"


def details(network: NetworkScore) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of texts, one for each set of a network."""
    headings = [
        *("set", "SRGA", "SRGA-shared", "sigma", "alpha", "clipped", "KL, nats"),
        *("mean shift", "outside the axes", "PSNR, dB", "diverged"),
    ]
    return headings, [_detail(each) for each in network.sets]


def as_csv(scoring: Scoring) -> str:
    """Write a scoring as CSV, one line for each network and set."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for network in scoring.networks:
        about = {"network": network.name, "layer": network.layer, "features": network.features}
        if network.problem:
            writer.writerow({"network": network.name, "problem": network.problem})
        writer.writerows({**about, **_csv_cells(each)} for each in network.sets)
    return file.getvalue()


def as_json(scoring: Scoring) -> str:
    """Write a scoring as JSON; figures that are not finite are null."""
    return json_text(scoring.as_dict())


def as_html(scoring: Scoring) -> str:
    """Write a scoring as one page: tables, curves over the degree, and curves over the axes."""
    plots = _family_plots(scoring)
    parts = [
        f"<p>{html.escape(settings(scoring))}</p>",
        _html_table(*as_rows(scoring)),
        "<ul>",
        *(f"<li>{html.escape(each)}</li>" for each in remarks(scoring)),
        "</ul>",
        "<h2>Over the degree</h2>",
        _html_plots(plots) or f"<p>{_NO_PLOT}</p>",
    ]
    if any("stroke-dasharray" in plot for plot in plots):
        parts.append(
            "<p>Dashed: the check figures of this package's paper.toml, on patches of Urban100 and "
            "B100 (300 patches, 299 axes). Other pictures, patches and axes give other values; the "
            "course is what can be compared.</p>"
        )
    for network in scoring.networks:
        if network.sets:
            parts += [
                f"<h2>{html.escape(network.name)}, {html.escape(network.layer)}</h2>",
                _html_table(*details(network)),
                _html_plots([plot for plot in [plot_axes(network)] if plot]),
            ]
    return page("Generalization of super-resolution networks (SRGA)", "\n".join(parts))


def _html_plots(plots: Sequence[str]) -> str:
    figures = "\n".join(f"<figure>{plot}</figure>" for plot in plots)
    return f'<div class="plots">\n{figures}\n</div>' if plots else ""


def _family_plots(scoring: Scoring) -> list[str]:
    """The plots of all degradations of several degrees."""
    return [plot for family in _AXES if (plot := plot_family(scoring, family))]


def plot_family(scoring: Scoring, family: str) -> str:
    """Draw the index of all networks over the degree of a degradation as SVG; empty if too few.

    A dashed line beside a network has the check figures of ``paper.toml``.
    """
    series: list[Series] = []
    for color, network in enumerate(scoring.networks):
        found = course(network.sets, family)
        points = _line((each.degree, each.value) for each in found)
        if len(points) < 2:
            continue
        band = [
            (_across(family, each.degree), *each.interval)
            for each in found
            if each.interval is not None and each.degree is not None
        ]
        shown = [(_across(family, degree), value) for degree, value in points]
        series.append(Series(network.name, sorted(shown), band=sorted(band), color=color))
        check = [
            (_across(family, each.degree), published(network)[each.name])
            for each in found
            if each.degree is not None and each.name in published(network)
        ]
        if len(check) > 1 and scoring.settings.basis == "own":
            label = f"{network.name}, check figures"
            series.append(Series(label, sorted(check), dashed=True, color=color))
    return lines(series, _AXES[family], Axis(title(scoring)))


def as_svg(scoring: Scoring) -> str:
    """Write the curves over the degrees of all degradations as one picture, side by side."""
    plots = _family_plots(scoring)
    if not plots:
        return _EMPTY_SVG
    boxes = [[float(each) for each in _BOX.findall(plot)[0].split()] for plot in plots]
    height = max(box[3] for box in boxes)
    across = itertools.accumulate((box[2] for box in boxes), initial=0.0)
    placed: list[str] = []
    for plot, (_, _, width, own), x in zip(plots, boxes, across, strict=False):
        place = f'x="{x:g}" y="{height - own:g}" width="{width:g}" height="{own:g}"'
        placed.append(plot.replace("<svg", f"<svg {place}", 1))
    width = sum(box[2] for box in boxes)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">',
            f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
            *placed,
            "</svg>\n",
        ]
    )


def plot_axes(network: NetworkScore) -> str:
    """Draw the index of a network over the number of principal axes as SVG, a line for each set."""
    series = [
        Series(each.name, [(point.dimensions, point.own) for point in each.curve])
        for each in network.sets
        if len(each.curve) > 1
    ]
    return lines(series, Axis("principal axes"), Axis("SRGA"))


def published(network: NetworkScore) -> Mapping[str, float]:
    """Return the check figures of a network by set, none where it is another layer or network."""
    name, _, weights = network.name.partition(" @")
    if weights not in ("", "official"):
        return {}
    return _published().get((name, network.layer), {})


@cache
def _published() -> Mapping[tuple[str, str], Mapping[str, float]]:
    figures: dict[tuple[str, str], dict[str, float]] = {}
    for row in load_paper(PACKAGE.paper_toml).rows:
        spec = row.measure
        # Those of another input or number of patches are no counterpart.
        alike = spec.get("patches") == _CHECK_PATCHES and "divisor" not in spec
        if row.kind == "check" and alike and spec["figure"] == "srga" and row.value is not None:
            place = str(spec["network"]).partition("@")[0], f"input of {spec['layer']}"
            figures.setdefault(place, {})[str(spec["set"])] = row.value
    return figures


def _across(family: str, degree: float | None) -> float:
    # Falling quality goes to the right, as rising degrees of the others do.
    return (100 - degree if family == "jpeg" else degree) if degree is not None else math.nan


def _line(points: Iterable[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    return [(at, value) for at, value in points if at is not None and value is not None]


def _set_names(scoring: Scoring) -> list[str]:
    return next(([each.name for each in net.sets] for net in scoring.networks if net.sets), [])


def _with_error(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return ABSENT
    if interval is None:
        return f"{value:.2f}"
    return f"{value:.2f} ± {interval[1] - value:.2f}"


def _cell(network: NetworkScore, name: str) -> str:
    found = next((each for each in network.sets if each.name == name), None)
    if found is None:
        return ABSENT
    if found.value is None:
        return f"diverges on {found.diverged}" if found.diverged else ABSENT
    mark = "*" if found.comparison is not None and found.comparison.notes else ""
    return _with_error(found.value, found.interval) + mark


def _detail(each: SetScore) -> list[str]:
    made = each.comparison
    if made is None:
        return [each.name, *[ABSENT] * 8, _number(each.psnr, 2), str(each.diverged)]
    return [
        each.name,
        _with_error(each.own, each.interval),
        _number(each.shared, 2),
        f"{made.reference.sigma:.4g} → {made.test.sigma:.4g}",
        f"{made.reference.alpha:.3f} → {made.test.alpha:.3f}",
        str(made.test.clipped),
        f"{made.divergence:.4g}",
        _number(made.mean_shift, 3),
        ABSENT if made.outside is None else f"{100 * made.outside:.0f} %",
        _number(each.psnr, 2),
        str(each.diverged),
    ]


def _number(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _csv_cells(each: SetScore) -> dict[str, object]:
    cells: dict[str, object] = {
        "set": each.name,
        "family": each.family,
        "degree": each.degree,
        "psnr": each.psnr,
        "diverged": each.diverged,
        "problem": each.problem,
    }
    if each.interval is not None:
        cells["low"], cells["high"] = each.interval
    made = each.comparison
    if made is not None:
        cells |= {
            "srga": each.own,
            "srga_shared": each.shared,
            "kld": made.divergence,
            "sigma_reference": made.reference.sigma,
            "alpha_reference": made.reference.alpha,
            "sigma": made.test.sigma,
            "alpha": made.test.alpha,
            "clipped": made.test.clipped,
            "mean_shift": made.mean_shift,
            "outside": made.outside,
            "dropped": made.dropped,
            "patches": made.patches,
            "dimensions": made.dimensions,
            "basis": made.basis,
            "notes": "; ".join(made.notes),
        }
    return cells


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th>{html.escape(each)}</th>" for each in headings)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{html.escape(each)}</td>' for each in row)}</tr>" for row in rows
    )
    return (
        f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
