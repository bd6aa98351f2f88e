"""Reproduction: what a paper claims, what we measured, and pages that say the same.

A package's ``reproduce`` command is one call, with one function for each ``kind`` of measurement::

    def measure_psnr(row: Row, context: Context) -> Measurement: ...

    add_reproduce(app, PACKAGE, {"psnr_y": measure_psnr})

``python -m lowvis_shared.reproduce check`` proves that papers, evidence and pages agree.
"""

from lowvis_shared.reproduce.command import add_reproduce, reproduce_package
from lowvis_shared.reproduce.evidence import check, render_benchmark, update
from lowvis_shared.reproduce.pairs import find_pairs, pair_assets
from lowvis_shared.reproduce.paper import Paper, Row, load_paper
from lowvis_shared.reproduce.recipe import recipe_weights
from lowvis_shared.reproduce.results import (
    Context,
    Measurement,
    Measurer,
    Result,
    RowResult,
    Unavailable,
    find_root,
    git_state,
    markdown_table,
    newest_result,
    raise_if_outside,
    read_result,
    render_table,
    run_paper,
    show_table,
    write_result,
)

__all__ = [
    "Context",
    "Measurement",
    "Measurer",
    "Paper",
    "Result",
    "Row",
    "RowResult",
    "Unavailable",
    "add_reproduce",
    "check",
    "find_pairs",
    "find_root",
    "git_state",
    "load_paper",
    "markdown_table",
    "newest_result",
    "pair_assets",
    "raise_if_outside",
    "read_result",
    "recipe_weights",
    "render_benchmark",
    "render_table",
    "reproduce_package",
    "run_paper",
    "show_table",
    "update",
    "write_result",
]
