"""Keep the tables and figures in the repository's pages equal to the evidence they come from.

A page holds marked blocks, which `update` rewrites and `check` compares:

- a table of a paper's rows, whose ids a glob chooses: a line ``table: pan/x4/*``;
- a benchmark's own table, from ``benchmarks/results/bench/pan.json``: ``table: bench/pan``;
- one figure within a sentence: ``figure: pan/x4/set5/psnr`` around ``32.13``.

Each stands in an HTML comment and ends with the comment ``end``.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from lowvis_shared.assets import registry
from lowvis_shared.errors import ReproductionError
from lowvis_shared.files import sha256_file
from lowvis_shared.reproduce.paper import Row, load_paper
from lowvis_shared.reproduce.results import (
    Result,
    markdown_table,
    newest_result,
    read_result,
    render_table,
    select,
    write_text,
)

_TABLE = re.compile(r"^(<!-- table: (\S+) -->\n).*?^(<!-- end -->)$", re.MULTILINE | re.DOTALL)
_OWN_WEIGHTS = re.compile(r"(\w+)/(\w+)/own")
_FIGURE = re.compile(r"(<!-- figure: (\S+) -->)[^\n]*?(<!-- end -->)")


def update(root: Path) -> list[Path]:
    """Rewrite every marked block from the newest evidence; return the pages that changed."""
    texts = {page: page.read_text(encoding="utf-8") for page in _pages(root)}
    # All are rendered before one is written: pages that cannot be shall not agree by halves.
    rendered = {page: _render_page(root, page, text) for page, text in texts.items()}
    changed = [page for page in rendered if rendered[page] != texts[page]]
    for page in changed:
        write_text(page, rendered[page])
    return changed


def check(root: Path) -> list[str]:
    """What does not agree between papers, evidence and pages; empty when all of it does.

    Uses no network and runs no model. Every paper with rows needs evidence that holds exactly its
    rows with exactly its values and was measured with the files that are shipped and published, a
    page that shows it, and pages whose blocks are up to date.
    """
    problems: list[str] = []
    for toml in sorted((root / "packages").glob("*/src/lowvis_*/paper.toml")):
        try:
            problems += _check_package(root, toml)
        except ReproductionError as error:
            problems.append(str(error))
    for page in _pages(root):
        text = page.read_text(encoding="utf-8")
        try:
            if _render_page(root, page, text) != text:
                problems.append(f"{page.relative_to(root)}: not what the evidence says")
        except ReproductionError as error:
            problems.append(str(error))
    return problems


def _check_package(root: Path, toml: Path) -> Iterator[str]:
    paper = load_paper(toml)
    if not paper.rows:
        return
    newest = newest_result(_results(root), paper.word)
    if newest is None:
        yield f"{paper.word}: no evidence in benchmarks/results/{paper.word}"
        return
    result = read_result(newest)
    evidence = {row.id: row for row in result.paper.rows}
    name = newest.relative_to(root)
    for row in paper.rows:
        if row.id not in evidence:
            yield f"{name}: row {row.id} is missing"
            continue
        for field in fields(Row):
            claimed, recorded = getattr(row, field.name), getattr(evidence[row.id], field.name)
            if claimed != recorded:
                yield f"{name}: row {row.id}: {field.name} {recorded!r}, the paper {claimed!r}"
    for stray in evidence.keys() - {row.id for row in paper.rows}:
        yield f"{name}: row {stray} is not in paper.toml"
    for problem in _asset_problems(root, result):
        yield f"{name}: {problem}"
    shown = (page.read_text(encoding="utf-8") for page in _pages(root))
    if not any(f"<!-- table: {paper.word}/" in text for text in shown):
        yield f"{paper.word}: no page shows its table"


def _asset_problems(root: Path, result: Result) -> Iterator[str]:
    """Name the files that the evidence rests on and that are now others than it was made with."""
    measured = [entry.measurement for entry in result.rows if entry.measurement is not None]
    recorded = {item for measurement in measured for item in measurement.assets.items()}
    for name, digest in sorted(recorded):
        if match := _OWN_WEIGHTS.fullmatch(name):
            word, network = match.groups()
            folder = f"packages/{word}/src/lowvis_{word}/weights"
            # Networks of a package of one architecture are called by their scale alone.
            names = f"{word}_{network}.safetensors", f"{network}.safetensors"
            where = next(
                (f"{folder}/{name}" for name in names if (root / folder / name).is_file()),
                f"{folder}/{names[0]}",
            )
            current = sha256_file(root / where) if (root / where).is_file() else "missing"
        elif name in registry():
            where, current = "assets.tsv", registry()[name].sha256
        else:  # a file of the user, such as a picture of B100
            continue
        if digest != current:
            yield f"{name} was measured with sha256 {digest}, {where} has {current}"


def _results(root: Path) -> Path:
    return root / "benchmarks" / "results"


def _pages(root: Path) -> Iterator[Path]:
    package = "packages/*/"
    cards = package + "src/*/weights/*.md"
    for pattern in ("*.md", "shared/*.md", package + "*.md", cards, "benchmarks/*.md"):
        yield from sorted(root.glob(pattern))


def _render_page(root: Path, page: Path, text: str) -> str:
    try:
        text = _TABLE.sub(partial(_render_table_block, root), text)
        return _FIGURE.sub(partial(_render_figure, root), text)
    except ReproductionError as error:
        raise ReproductionError(f"{page.relative_to(root)}: {error}") from error


def _render_table_block(root: Path, match: re.Match[str]) -> str:
    start, key, end = match.groups()
    word, _, only = key.partition("/")
    if word == "bench":
        table = render_benchmark(_results(root) / "bench" / f"{only}.json")
    else:
        table = render_table(_rows(root, word, only))
    return f"{start}{table}\n{end}"


def _render_figure(root: Path, match: re.Match[str]) -> str:
    start, key, end = match.groups()
    word, _, only = key.partition("/")
    rows = _rows(root, word, only).rows
    if len(rows) != 1:
        raise ReproductionError(f"figure {key} names {len(rows)} rows")
    return f"{start}{rows[0].figure()}{end}"


def _rows(root: Path, word: str, only: str) -> Result:
    newest = newest_result(_results(root), word)
    if newest is None:
        raise ReproductionError(f"no evidence in benchmarks/results/{word}")
    chosen = select(read_result(newest), only)
    if not chosen.rows:
        raise ReproductionError(f"no row of {word} matches '{only}'")
    return chosen


def render_benchmark(path: Path) -> str:
    """The table that a benchmark's JSON carries: ``{"table": {"columns": […], "rows": [[…]]}}``.

    Raises:
        ReproductionError: The file is missing or carries no such table of texts.
    """
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["table"]
        columns: list[str] = table["columns"]
        rows: list[list[str]] = table["rows"]
        if any(len(row) != len(columns) for row in rows):
            raise ReproductionError(f"{path}: a row of the table is not as long as its columns")
        return markdown_table(columns, rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReproductionError(f"{path}: carries no table: {error!r}") from error
