"""The command ``lowvis-aim2020``: rank, validate, upscale, evaluate, reproduce, train, weights."""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from lowvis_shared.candidates import Candidate, foreign_code
from lowvis_shared.cli import (
    AcceptLicenceOption,
    AllowTruncatedOption,
    DataDirOption,
    DeviceOption,
    InputsArgument,
    Job,
    JsonOption,
    MaxPixelsOption,
    OfflineOption,
    OutputOption,
    OverwriteOption,
    PartProgress,
    QualityOption,
    add_train,
    check_reports,
    make_app,
    official_weights_row,
    own_weights_row,
    plan_jobs,
    print_json,
    process_files,
    progress_bar,
    refuse_failures,
    run,
    show_weights,
    write_reports,
)
from lowvis_shared.device import choose_device
from lowvis_shared.errors import PartialFailure, UsageError
from lowvis_shared.images import MAX_PIXELS, check_writable, read_image, write_image
from lowvis_shared.pairs import ReadablePair, bicubic, load_pairs
from lowvis_shared.reproduce import add_reproduce
from rich.console import Console

from lowvis_aim2020 import PACKAGE
from lowvis_aim2020.candidates import find_candidate
from lowvis_aim2020.evaluate import Quality, challenge_protocol, evaluate_candidate
from lowvis_aim2020.evaluate import evaluate as evaluate_upscaling
from lowvis_aim2020.model import BASELINE, NETWORKS, find_network
from lowvis_aim2020.predict import Upscaler
from lowvis_aim2020.ranking import MEASURES, Ranking, published_psnr
from lowvis_aim2020.ranking import rank as rank_models
from lowvis_aim2020.report import as_csv, as_html, as_json, as_markdown, as_tables, settings
from lowvis_aim2020.reproduce import MEASURERS
from lowvis_aim2020.validation import validate as validate_candidate
from lowvis_aim2020.weights import own_file, resolve_weights

app = make_app("aim2020", "Rank efficient super-resolution networks as the AIM 2020 challenge did.")
weights_app = typer.Typer(no_args_is_help=True, help="List and fetch weights.")
app.add_typer(weights_app, name="weights")

MODEL_HELP = (
    "A name such as rfdn-x4 or pan-x4@official, or your own network: module:factory or "
    "file.py:factory, with @FILE for its checkpoint."
)
DatasetOption = Annotated[
    str | None,
    typer.Option(help="set5, set14, b100, urban100, manga109, div2k, or a folder of pictures."),
]
ScaleOption = Annotated[int, typer.Option(min=1, help="Upscaling factor of the networks.")]
WhiteOption = Annotated[
    float,
    typer.Option("--white", help="White in pictures of your own networks: 1, or 255."),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(help=f"What to compare with: {BASELINE} for x4; @FILE gives it weights."),
]
PSNROption = Annotated[
    float | None,
    typer.Option("--psnr", help="RGB PSNR to be kept, where the baseline has no weights."),
]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with these arguments, those of the process when left out, and exit."""
    run(app, arguments)


@app.command()
def rank(
    models: Annotated[
        list[str] | None,
        typer.Argument(help=MODEL_HELP + " All of the installed packages when left out."),
    ] = None,
    dataset: DatasetOption = None,
    input_size: Annotated[
        str, typer.Option("--input", help="Height and width for costs and run time.")
    ] = "256x256",
    scale: ScaleOption = 4,
    white: WhiteOption = 1.0,
    baseline: BaselineOption = None,
    psnr: PSNROption = None,
    sort: Annotated[str, typer.Option(help=f"One of {', '.join(MEASURES)}.")] = "run_time",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing.")] = 7,
    report: Annotated[
        list[Path] | None,
        typer.Option(help="Write the ranking too: FILE.html, .csv, .json or .md. May be repeated."),
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Measure networks beside the challenge's baseline and show them in order."""
    size = _parse_size(input_size)
    reports = report or []
    check_reports(reports, _WRITERS, overwrite=overwrite)
    _check_psnr(psnr)
    pairs = None
    if dataset is not None:
        pairs = load_pairs(
            dataset, scale, data_dir=data_dir, accept_licence=accept_licence, offline=offline
        )
    find = partial(
        find_candidate,
        scale=scale,
        white=white,
        weights=pairs is not None,
        accept_licence=accept_licence,
        offline=offline,
    )
    # What the user's code prints is not part of the result.
    with progress_bar("networks") as progress, redirect_stdout(sys.stderr):
        ranking = rank_models(
            [find(name) for name in models or ()],
            find=find,
            pairs=pairs,
            dataset=dataset or "",
            input_size=size,
            device=device,
            scale=scale,
            sort=sort,
            baseline=baseline,
            required_psnr=psnr,
            repeats=repeats,
            progress=lambda _what, done, of: progress(done, of),
        )
    if json:
        print_json(ranking.as_dict())
    else:
        _show(ranking)
    write_reports(reports, _WRITERS, ranking, overwrite=overwrite)
    refuse_failures({each.name: each.problem for each in ranking.failed}, len(ranking.entries))


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    dataset: DatasetOption = None,
    scale: ScaleOption = 4,
    white: WhiteOption = 1.0,
    baseline: BaselineOption = None,
    psnr: PSNROption = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Check whether a network may enter: loading, sizes, repeatability, and the baseline's PSNR."""
    find = partial(
        find_candidate, scale=scale, white=white, accept_licence=accept_licence, offline=offline
    )
    _check_psnr(psnr)
    candidate, reference = find(model), find(baseline or BASELINE)
    if baseline is not None and reference.scale != candidate.scale:
        raise UsageError(f"{model} upscales by {candidate.scale}, {baseline} by {reference.scale}")
    pairs = None
    if dataset is not None:
        pairs = load_pairs(
            dataset,
            candidate.scale,
            data_dir=data_dir,
            accept_licence=accept_licence,
            offline=offline,
        )
    comparable = reference.trained and reference.scale == candidate.scale
    if psnr is None and pairs is not None and comparable:
        with progress_bar(f"{reference.name} on {dataset}", len(pairs)) as progress:
            psnr = _evaluate(reference, pairs, device, progress).rgb.psnr
    if psnr is None and dataset is not None:
        psnr = published_psnr(dataset, candidate.scale)
    bar = progress_bar(f"{model} on {dataset or 'no set'}", len(pairs or ()))
    with bar as progress, redirect_stdout(sys.stderr):
        checks = validate_candidate(
            candidate, pairs=pairs, required_psnr=psnr, device=device, progress=progress
        )
    failed = [check for check in checks if check.needed and check.verdict == "no"]
    if json:
        print_json({"model": model, "valid": not failed, "checks": [asdict(c) for c in checks]})
    else:
        for check in checks:
            typer.echo(f"{_MARKS[check.verdict]} {check.name:<28} {check.detail}")
    if failed:
        raise PartialFailure(f"{model} may not enter: {'; '.join(c.name for c in failed)}: no")


_MARKS: Mapping[str, str] = {"yes": "✓", "no": "✗", "unknown": "?"}


@app.command()
def upscale(
    photos: InputsArgument,
    output: OutputOption,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "folded-x4",
    scale: ScaleOption = 4,
    white: WhiteOption = 1.0,
    device: DeviceOption = "auto",
    quality: QualityOption = 95,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    allow_truncated: AllowTruncatedOption = False,
    overwrite: OverwriteOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Upscale photographs with any of the networks, to see what the figures mean."""
    jobs = plan_jobs(photos, output)
    upscaler = Upscaler(
        model,
        device=device,
        scale=scale,
        white=white,
        accept_licence=accept_licence,
        offline=offline,
    )

    def work(job: Job, progress: PartProgress) -> Mapping[str, object]:
        del progress
        picture = read_image(job.source, max_pixels=max_pixels, allow_truncated=allow_truncated)
        size = (picture.height * upscaler.scale, picture.width * upscaler.scale)
        alpha = picture.alpha is not None
        check_writable(job.target, overwrite=overwrite, alpha=alpha, size=size)
        result = upscaler(picture)
        write_image(result, job.target, overwrite=overwrite, quality=quality)
        return {"width": result.width, "height": result.height}

    process_files(jobs, work, overwrite=overwrite, json=json)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP + " Or 'bicubic': no network.")],
    dataset: Annotated[
        str,
        typer.Option(help="set5, set14, b100, urban100, manga109, div2k, or a folder of pictures."),
    ],
    scale: ScaleOption = 4,
    white: WhiteOption = 1.0,
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Measure PSNR and SSIM on a test set, by the protocols of the challenge and of the tables."""
    candidate = None
    if model != "bicubic":
        candidate = find_candidate(
            model, scale=scale, white=white, accept_licence=accept_licence, offline=offline
        )
        scale = candidate.scale
    pairs = load_pairs(
        dataset, scale, data_dir=data_dir, accept_licence=accept_licence, offline=offline
    )
    with progress_bar(f"{dataset} x{scale}", len(pairs)) as progress:
        if candidate is None:
            result = evaluate_upscaling(
                partial(bicubic, scale=scale), pairs, scale, progress=progress
            )
        else:
            result = _evaluate(candidate, pairs, device, progress)
    if json:
        print_json({"dataset": dataset, "scale": scale, "model": model, **result.as_dict()})
        return
    typer.echo(f"{'':<24}   RGB PSNR     SSIM     Y PSNR     SSIM")
    for name, rgb, y in (*result.per_image, ("mean", result.rgb, result.y)):
        typer.echo(f"{name:<24} {rgb.psnr:8.4f} dB {rgb.ssim:.6f}  {y.psnr:8.4f} dB {y.ssim:.6f}")
    typer.echo(f"RGB: {challenge_protocol(scale).describe()}")
    typer.echo(f"Y: {result.y.protocol.describe()}")


add_reproduce(app, PACKAGE, MEASURERS)
add_train(app, "aim2020")


@weights_app.command(name="list")
def list_weights(json: JsonOption = False) -> None:
    """Say which weights there are and where each file lies or comes from."""
    rows: dict[str, list[Mapping[str, object]]] = {}
    for network in NETWORKS.values():
        found = [own_weights_row(own_file(network))] if network.own else []
        if network.asset is not None:
            found.append(official_weights_row(network.asset))
        rows[network.name] = [{"model": network.name, **row} for row in found]
    show_weights(rows, json=json)


@weights_app.command(name="fetch")
def fetch_weights(
    models: Annotated[
        list[str] | None, typer.Argument(help="Whose files; all when left out.")
    ] = None,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch the authors' weights into the cache and verify them."""
    networks = [find_network(name) for name in models or ()] or [
        network for network in NETWORKS.values() if network.official
    ]
    paths = {
        network.name: resolve_weights(
            network, "official", accept_licence=accept_licence, offline=offline
        )
        for network in networks
    }
    if json:
        print_json(paths)
        return
    for name, path in paths.items():
        typer.echo(f"{name:<18} {path}")


def _evaluate(
    candidate: Candidate, pairs: Sequence[ReadablePair], device: str, progress: PartProgress
) -> Quality:
    with redirect_stdout(sys.stderr), foreign_code(candidate.name):
        network = candidate.open().to(choose_device(device))
        return evaluate_candidate(candidate, network, pairs, progress)


def _parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"--input {text!r} is no size", hint="HEIGHTxWIDTH, such as 256x256")
    return int(height), int(width)


def _check_psnr(psnr: float | None) -> None:
    if psnr is not None and not math.isfinite(psnr):
        raise UsageError(f"--psnr {psnr} is no figure")


_WRITERS = {
    ".html": as_html,
    ".csv": as_csv,
    ".md": as_markdown,
    ".json": as_json,
}


def _show(ranking: Ranking) -> None:
    console = Console()
    if console.is_terminal:
        console.print(*as_tables(ranking, console), sep="\n")
        console.print(settings(ranking), markup=False)
    else:
        typer.echo(as_markdown(ranking), nl=False)
