"""``python -m lowvis_shared.reproduce check|update``: do papers, evidence and pages agree?"""

from pathlib import Path
from typing import Annotated

import typer

from lowvis_shared.cli import DebugOption, run
from lowvis_shared.errors import ReproductionError, UsageError
from lowvis_shared.reproduce import evidence, find_root

app = typer.Typer(name="python -m lowvis_shared.reproduce", no_args_is_help=True)

RootOption = Annotated[Path | None, typer.Option(help="The checkout; found from here by default.")]


@app.callback()
def options(debug: DebugOption = False) -> None:
    """Keep papers, evidence and pages in agreement."""


def _root(root: Path | None) -> Path:
    found = find_root(root)
    if found is None:
        raise UsageError("this is no checkout of lowvis", hint="run it in one, or use --root")
    return found


@app.command()
def check(root: RootOption = None) -> None:
    """Prove that papers, evidence and pages agree; offline, without running a model."""
    problems = evidence.check(_root(root))
    if problems:
        raise ReproductionError(
            "\n  ".join(["evidence and pages do not agree:", *problems]),
            hint="`python -m lowvis_shared.reproduce update` rewrites the pages",
        )
    typer.echo("papers, evidence and pages agree")


@app.command()
def update(root: RootOption = None) -> None:
    """Rewrite the marked blocks of every page from the newest evidence."""
    for page in evidence.update(_root(root)):
        typer.echo(page)


if __name__ == "__main__":
    run(app)
