"""The command ``lowvis-srga``: score, pies, sensitivity, compare, reproduce."""

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from lowvis_shared.cli import (
    AcceptLicenceOption,
    DeviceOption,
    JsonOption,
    OfflineOption,
    OverwriteOption,
    SeedOption,
    check_reports,
    expand_inputs,
    make_app,
    print_json,
    progress_bar,
    refuse_failures,
    run,
    write_reports,
)
from lowvis_shared.errors import UsageError
from lowvis_shared.reproduce import add_reproduce, markdown_table
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lowvis_srga import PACKAGE
from lowvis_srga.bank import FeatureBank
from lowvis_srga.comparison import PATCHES, Basis, srga
from lowvis_srga.conditions import (
    SIZE,
    Wanted,
    canonical_name,
    is_folder_of_sets,
    make_wanted,
    open_sets,
    parse_conditions,
)
from lowvis_srga.features import find_model, open_tap
from lowvis_srga.patches import PatchSet
from lowvis_srga.pies import check_target, describe_sources, write_pies
from lowvis_srga.report import (
    as_csv,
    as_html,
    as_json,
    as_markdown,
    as_rows,
    as_svg,
    remarks,
    settings,
)
from lowvis_srga.reproduce import MEASURERS
from lowvis_srga.scoring import Scoring, Settings
from lowvis_srga.scoring import score as score_networks
from lowvis_srga.sensitivity import Variations
from lowvis_srga.sensitivity import measure as measure_sensitivity

logger = logging.getLogger("lowvis")

app = make_app(
    "srga", "Measure how well super-resolution networks generalize to unseen degradations."
)

MODEL_HELP = (
    "A network of an installed lowvis package (pan-x4, imdn-x4@official), your own as "
    "module:factory or file.py:factory with @FILE for its checkpoint, a TorchScript or ONNX file."
)
ModelsArgument = Annotated[list[str], typer.Argument(help=MODEL_HELP)]
DegradationsOption = Annotated[
    str,
    typer.Option(
        help="short, pies, names such as blur2,noise10+jpeg50, a file with one on each line "
        "(name = FOLDER for real pictures), or a folder of sets as 'pies' writes it."
    ),
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option(help="High-resolution pictures, folders or globs; made by chance when left out."),
]
ReferenceOption = Annotated[str, typer.Option(help="The set that the others are compared with.")]
PatchesOption = Annotated[
    int | None,
    typer.Option(min=2, help="Patches of a set: 800, or all of a folder of sets, when left out."),
]
SizeOption = Annotated[
    int | None,
    typer.Option(min=1, help="Side of a high-resolution patch, pixels: 128 when left out."),
]
ScaleOption = Annotated[int, typer.Option(min=1, help="Upscaling factor; 1 for restoration.")]
LayerOption = Annotated[
    str,
    typer.Option(
        help="auto (what enters the last convolution), output, or the name of a module, whose "
        "input is read."
    ),
]
DimensionsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Principal axes: 300 of 800 patches, in proportion for fewer."),
]
DropOption = Annotated[
    bool,
    typer.Option("--drop-diverged", help="Leave patches out on which a network diverges."),
]
WhiteOption = Annotated[
    float, typer.Option(help="White in pictures of your own networks: 1, or 255.")
]
BasisOption = Annotated[
    str, typer.Option(help="Whose principal axes: own (the paper's index) or reference.")
]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with these arguments, those of the process when left out, and exit."""
    run(app, arguments)


@app.command()
def score(
    models: ModelsArgument,
    reference: ReferenceOption = "clean",
    degradations: DegradationsOption = "short",
    images: ImagesOption = None,
    layer: LayerOption = "auto",
    patches: PatchesOption = None,
    dimensions: DimensionsOption = None,
    size: SizeOption = None,
    scale: ScaleOption = 4,
    white: WhiteOption = 1.0,
    basis: BasisOption = "own",
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Draws of patches for confidence intervals; 0 for none.")
    ] = 50,
    drop_diverged: DropOption = False,
    seed: SeedOption = 0,
    report: Annotated[
        list[Path] | None,
        typer.Option(help="Write the result too: FILE.html, .csv, .json, .md or .svg. Repeatable."),
    ] = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Score networks: how differently each treats degraded pictures and clean ones."""
    reports = report or []
    check_reports(reports, _WRITERS, overwrite=overwrite)
    if len(set(models)) < len(models):
        raise UsageError("a network is named twice")
    for model in models:
        find_model(model, scale=scale, white=white)
    reference = canonical_name(reference)
    chosen = Settings(
        reference=reference,
        dimensions=dimensions,
        basis=_parse_basis(basis),
        drop_diverged=drop_diverged,
        bootstrap=bootstrap,
        seed=seed,
    )
    with progress_bar("patches") as progress:
        sets, source = open_sets(
            degradations,
            images or (),
            reference=reference,
            patches=patches,
            size=size,
            scale=scale,
            seed=seed,
            progress=progress,
        )
    if dimensions is None and len(sets[0].low) < PATCHES:
        logger.info(
            "%d patches, of which the paper has 800: fewer principal axes, in proportion",
            len(sets[0].low),
        )
    openers = {
        model: partial(
            open_tap,
            model,
            layer=layer,
            scale=scale,
            white=white,
            device=device,
            side=sets[0].low.shape[1],
            accept_licence=accept_licence,
            offline=offline,
        )
        for model in models
    }
    # What the user's code prints is not part of the result.
    with progress_bar("scores") as progress, redirect_stdout(sys.stderr):
        scoring = score_networks(
            openers,
            sets,
            chosen,
            scale=scale,
            source=source,
            progress=lambda _what, done, of: progress(done, of),
        )
    if json:
        print_json(scoring.as_dict())
    else:
        _show(scoring)
    write_reports(reports, _WRITERS, scoring, overwrite=overwrite)
    refuse_failures({each.name: each.problem for each in scoring.failed}, len(scoring.networks))


@app.command()
def pies(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to be made.")],
    images: ImagesOption = None,
    degradations: Annotated[
        str, typer.Option(help="pies, short, names with commas, or a file with one on each line.")
    ] = "pies",
    real: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER: a set of your own low-resolution pictures. Repeatable."),
    ] = None,
    patches: Annotated[int, typer.Option(min=1, help="Patches of a set.")] = 800,
    size: SizeOption = None,
    scale: ScaleOption = 4,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Make a set of patches in the manner of the paper's PIES, from any pictures."""
    if not images:
        raise UsageError("which pictures?", hint="--images FOLDER")
    size = size or SIZE
    wanted = parse_conditions(degradations)
    sources = expand_inputs(images)
    if all(each.degradation is None for each in wanted):
        raise UsageError(f"{degradations} names no degradation of the pictures")
    wanted.sort(key=lambda each: each.degradation is None)  # those of other pictures come last
    for each in real or ():
        name, equals, folder = each.partition("=")
        taken = any(other.name == name for other in wanted if other.folder is not None)
        if not (name and equals and folder) or taken:
            raise UsageError(f"--real {each!r} is no new NAME=FOLDER")
        wanted.append(Wanted(name, None, Path(folder)))
    check_target(output, [each.name for each in wanted], overwrite=overwrite)
    with progress_bar("pictures", len(sources)) as progress:
        sets = make_wanted(
            wanted,
            sources,
            patches=patches,
            size=size,
            scale=scale,
            seed=seed,
            progress=progress,
        )
    write_pies(output, sets, manifest=describe_sources(sources, seed=seed), overwrite=overwrite)
    names = [each.name for each in sets]
    if json:
        print_json({"output": output, "patches": patches, "sets": names})
    else:
        typer.echo(f"{output}: {len(sets)} sets of {patches} patches: {', '.join(names)}")


@app.command()
def sensitivity(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    degradations: DegradationsOption = "blur2,noise10,jpeg50",
    images: ImagesOption = None,
    reference: ReferenceOption = "clean",
    patches: Annotated[
        str, typer.Option(help="Numbers of patches, the usual one last: 100,200,400,800.")
    ] = "100,200,400,800",
    dimensions: Annotated[
        str, typer.Option(help="Principal axes, at the largest number of patches.")
    ] = "50,100,200,300,500",
    layers: Annotated[
        str, typer.Option(help="Layers: auto, output, or names; the usual one first.")
    ] = "auto,output",
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Sides of high-resolution patches, the usual one first: 128,256, or what a "
            "folder of sets has, when left out."
        ),
    ] = None,
    scale: ScaleOption = 4,
    white: WhiteOption = 1.0,
    drop_diverged: DropOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Show how the index of a network moves with patches, axes, layer, and size of patches."""
    find_model(model, scale=scale, white=white)
    tried = _numbers("--patches", patches)
    open_at = partial(
        open_sets, degradations, images or (), reference=reference, scale=scale, seed=seed
    )
    in_folder: list[PatchSet] = []
    if is_folder_of_sets(degradations):  # they have one size
        in_folder, _ = open_at(patches=tried[-1])
        sizes = sizes or str(in_folder[0].low.shape[1] * scale)
    variations = Variations(
        patches=tried,
        dimensions=_numbers("--dimensions", dimensions),
        layers=tuple(each.strip() for each in layers.split(",") if each.strip()),
        sizes=_numbers("--sizes", sizes or f"{SIZE},{2 * SIZE}"),
    )
    opener = partial(
        open_tap,
        model,
        scale=scale,
        white=white,
        device=device,
        accept_licence=accept_licence,
        offline=offline,
    )
    with progress_bar(model) as progress, redirect_stdout(sys.stderr):
        table = measure_sensitivity(
            opener,
            lambda count, size: in_folder or open_at(patches=count, size=size)[0],
            variations,
            reference=canonical_name(reference),
            scale=scale,
            drop_diverged=drop_diverged,
            progress=progress,
        )
    if json:
        print_json({"model": model, **table.as_dict()})
    else:
        typer.echo(markdown_table(*table.as_rows()))


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="Features of the reference set, .npy.")],
    tests: Annotated[list[Path], typer.Argument(help="Features of other sets, .npy.")],
    dimensions: DimensionsOption = None,
    rows: Annotated[
        int | None, typer.Option(min=2, help="Patches from the start of each; all when left out.")
    ] = None,
    basis: BasisOption = "own",
    drop_diverged: DropOption = False,
    official: Annotated[
        bool,
        typer.Option(
            "--official",
            help="Compute as the authors' script does, all features in memory: 800 patches and 300 "
            "axes, unless --rows and --dimensions say otherwise.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compare feature files, as the authors' script takes them: (patches, features) of any size."""
    chosen = _parse_basis(basis)
    if official and (chosen != "own" or drop_diverged):
        raise UsageError("--official knows neither --basis nor --drop-diverged")
    if official:
        from lowvis_srga.official import official_srga

        found = [
            official_srga(reference, test, dimensions=dimensions or 300, rows=rows or 800)
            for test in tests
        ]
    else:
        base = FeatureBank.from_npy(reference, rows=rows)
        found = [
            srga(
                base,
                FeatureBank.from_npy(test, rows=rows, reference=base),
                dimensions=dimensions,
                basis=chosen,
                drop_diverged=drop_diverged,
            )
            for test in tests
        ]
    if json:
        each = {str(test): result.as_dict() for test, result in zip(tests, found, strict=True)}
        print_json({"reference": reference, "tests": each})
        return
    for test, result in zip(tests, found, strict=True):
        typer.echo(
            f"{test}: {'SRGA' if chosen == 'own' else 'SRGA-shared'} {result.value:.4f} "
            f"(KL {result.divergence:.4g}; sigma {result.reference.sigma:.4g} to "
            f"{result.test.sigma:.4g}, alpha {result.reference.alpha:.3f} to "
            f"{result.test.alpha:.3f}; {result.patches} patches, {result.dimensions} axes)"
        )
        for note in result.notes:
            typer.echo(f"  {note}")


add_reproduce(app, PACKAGE, MEASURERS)

_WRITERS = {
    ".html": as_html,
    ".csv": as_csv,
    ".md": as_markdown,
    ".json": as_json,
    ".svg": as_svg,
}


def _parse_basis(text: str) -> Basis:
    if text not in ("own", "reference"):
        raise UsageError(f"--basis {text!r} is neither 'own' nor 'reference'")
    return text


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} {text!r} are no numbers", hint="such as 100,200,400")
    return tuple(int(part) for part in parts)


def _show(scoring: Scoring) -> None:
    console = Console()
    if not console.is_terminal:
        typer.echo(as_markdown(scoring), nl=False)
        return
    headings, rows = as_rows(scoring)
    table = Table()
    for each in headings:
        table.add_column(escape(each), overflow="fold")
    for row in rows:
        table.add_row(*(escape(each) for each in row))
    console.print(table)
    console.print(settings(scoring), markup=False)
    for each in remarks(scoring):
        console.print(f"- {each}", markup=False)
