"""Lay out a new package: ``new_package.py WORD --title TITLE --url URL --citation CITATION``.

Writes ``packages/WORD`` with the anatomy that every package shares and names it in the workspace.
All of `PackageConformance` passes, except what needs the network: that is to be written, in
``model.py``. Afterwards ``uv sync --all-packages`` installs it.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from lowvis_shared.cli import run
from lowvis_shared.errors import OutputError, UsageError

ROOT = Path(__file__).parents[1]
TEMPLATES = Path(__file__).parent / "templates"
TRAINING_FILES = ("train.py", "data.py", "conf/__init__.py", "conf/train.yaml")

app = typer.Typer(name="new_package.py", add_completion=False)


@app.command()
def new_package(
    word: Annotated[str, typer.Argument(help="The paper's word, such as 'pan'.")],
    title: Annotated[str, typer.Option(help="The paper's title.")],
    url: Annotated[str, typer.Option(help="Where the paper can be read.")],
    citation: Annotated[str, typer.Option(help="Authors, venue, year.")],
    verb: Annotated[str, typer.Option(help="The main command.")] = "upscale",
    task: Annotated[str, typer.Option(help="What the network does.")] = "super-resolution",
    scale: Annotated[int, typer.Option(min=1, help="Output size over input size.")] = 4,
    trains: Annotated[bool, typer.Option(help="Whether the paper trains a network.")] = True,
    root: Annotated[Path, typer.Option(help="The checkout.")] = ROOT,
) -> None:
    """Lay out packages/WORD and name it in the workspace."""
    for name, value in (("word", word), ("verb", verb)):
        if not re.fullmatch(r"[a-z][a-z0-9]*", value):
            raise UsageError(f"the {name} '{value}' is not made of a-z and 0-9")
    if '"' in title + url + citation + task or "\\" in title + url + citation + task:
        raise UsageError("quotes and backslashes are left out of the texts")
    target = root / "packages" / word
    if target.exists():
        raise OutputError(f"{target} exists", hint="choose another word")
    values = {
        "word": word,
        "title": title,
        "url": url,
        "citation": citation,
        "verb": verb,
        "Verb": verb.capitalize(),
        "task": task,
        "scale": str(scale),
        "trains": str(trains),
    }
    for template in sorted(TEMPLATES.rglob("*.template")):
        relative = str(template.relative_to(TEMPLATES)).removesuffix(".template")
        if not trains and relative.endswith(TRAINING_FILES):
            continue
        path = target / relative.replace("WORD", word)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fill(template.read_text(encoding="utf-8"), values, trains=trains))
    shutil.copy(root / "LICENSE", target / "LICENSE")
    _name_in_workspace(root / "pyproject.toml", word)
    typer.echo(f"{target}: write the network in src/lowvis_{word}/model.py")
    typer.echo("then: uv sync --all-packages --all-extras")


def fill(template: str, values: Mapping[str, str], *, trains: bool) -> str:
    """A template with each ``{name}`` of `values` filled in and its training parts kept or not.

    Those parts stand between the lines ``# <training>`` and ``# </training>``. Other braces stay.
    """
    if not trains:
        template = re.sub(r"# <training>\n.*?# </training>\n", "", template, flags=re.DOTALL)
    template = re.sub(r"# </?training>\n", "", template)
    names = "|".join(values)
    return re.sub(rf"\{{({names})\}}", lambda match: values[match[1]], template)


def _name_in_workspace(pyproject: Path, word: str) -> None:
    """Add the package to the table [tool.uv.sources], after those that are there."""
    text = pyproject.read_text(encoding="utf-8")
    heading, table = "[tool.uv.sources]\n", f"lowvis-{word} = {{ workspace = true }}\n"
    before, found, after = text.partition(heading)
    if not found:
        raise UsageError(f"{pyproject} has no {heading.strip()}")
    entries, blank, rest = after.partition("\n\n")
    pyproject.write_text(f"{before}{heading}{entries}\n{table.rstrip()}{blank}{rest}")


if __name__ == "__main__":
    run(app)
