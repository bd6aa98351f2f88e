"""The command ``lowvis-classsr``: upscale, evaluate, reproduce, train and weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NoReturn, cast

import typer
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
    PrecisionOption,
    QualityOption,
    add_train,
    logger,
    make_app,
    own_weights_row,
    parse_tile,
    plan_jobs,
    print_json,
    process_files,
    progress_bar,
    run,
    show_weights,
)
from lowvis_shared.device import Precision, choose_device
from lowvis_shared.errors import UsageError
from lowvis_shared.images import MAX_PIXELS, check_writable, read_image, write_image
from lowvis_shared.pairs import ReadablePair, load_pairs
from lowvis_shared.reproduce import add_reproduce

from lowvis_classsr import PACKAGE
from lowvis_classsr.branches import BRANCHES
from lowvis_classsr.evaluate import SIDES, Measured, measure, stand_ins
from lowvis_classsr.predict import Report, Router, Upscaler, Way
from lowvis_classsr.protocol import evaluate_paper
from lowvis_classsr.reproduce import MEASURERS
from lowvis_classsr.routing_map import draw_routes
from lowvis_classsr.weights import OWN, open_weights, own_file

app = make_app(
    "classsr", "Upscaling x4 of large pictures, each part by a network of fitting size (ClassSR)."
)
weights_app = typer.Typer(no_args_is_help=True, help="List weights.")
app.add_typer(weights_app, name="weights")

NetworkOption = Annotated[str, typer.Option(help=f"One of {', '.join(BRANCHES)}.")]
WeightsOption = Annotated[str, typer.Option(help="'own', or the path of a ClassSR checkpoint.")]
TileOption = Annotated[
    str, typer.Option(help="'auto', or the largest side of a tile in input pixels.")
]
RouterOption = Annotated[
    str, typer.Option(help="Who judges: 'classifier', or 'edges' (a baseline without learning).")
]
WayOption = Annotated[
    str,
    typer.Option(
        "--path",
        help="'routed', 'whole' (the original network everywhere), or 'auto': the faster one.",
    ),
]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with these arguments, those of the process when left out, and exit."""
    run(app, arguments)


@app.command()
def upscale(
    photos: InputsArgument,
    output: OutputOption,
    network: NetworkOption = "fsrcnn",
    weights: WeightsOption = "own",
    budget: Annotated[
        float | None,
        typer.Option(help="Share of the original network's cost that may be spent, 0..1."),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option("--map", help="Also draw who upscaled what: a picture, or a folder/."),
    ] = None,
    router: RouterOption = "classifier",
    path: WayOption = "auto",
    tile: TileOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    quality: QualityOption = 95,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    allow_truncated: AllowTruncatedOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Upscale photographs x4, keeping their depth, alpha, color profile and metadata."""
    jobs = plan_jobs(photos, output)
    maps = {each.source: each.target for each in _plan_maps(photos, class_map, jobs)}
    upscaler = Upscaler(
        network,
        weights=weights,
        budget=budget,
        router=cast("Router", router),
        path=cast("Way", path),
        tile=_tile(tile),
        device=device,
        precision=cast("Precision", precision),
    )

    def work(job: Job, progress: PartProgress) -> Mapping[str, object]:
        picture = read_image(job.source, max_pixels=max_pixels, allow_truncated=allow_truncated)
        size = (picture.height * upscaler.scale, picture.width * upscaler.scale)
        alpha = picture.alpha is not None
        check_writable(job.target, overwrite=overwrite, alpha=alpha, size=size)
        drawn = maps.get(job.source)
        if drawn is not None:
            check_writable(drawn, overwrite=overwrite)
        result, report = upscaler.run(picture, progress=progress)
        write_image(result, job.target, overwrite=overwrite, quality=quality)
        logger.info("%s: %s", job.source.name, report.describe())
        figures = {"width": result.width, "height": result.height, **_figures(report)}
        if drawn is not None:
            classes = len(report.shares)
            write_image(draw_routes(picture, report.routes, classes), drawn, overwrite=overwrite)
            logger.info("wrote %s", drawn)
            figures["map"] = drawn
        return figures

    process_files(jobs, work, overwrite=overwrite, json=json)


@app.command()
def evaluate(
    dataset: Annotated[
        str,
        typer.Option(help="2k, 4k (stand-ins), set5, set14, …, or a folder of sharp pictures."),
    ],
    network: NetworkOption = "fsrcnn",
    weights: WeightsOption = "own",
    budget: Annotated[
        str, typer.Option(help="Budgets to compare, such as 0.5,0.6; 'none' asks the classes.")
    ] = "none",
    router: RouterOption = "classifier",
    path: WayOption = "routed",
    protocol: Annotated[
        str,
        typer.Option(help="'whole' pictures, or the 'paper': 32/28 patches, borders dropped."),
    ] = "whole",
    tile: TileOption = "auto",
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Measure PSNR and cost on pictures of known originals, at one or several budgets."""
    if protocol not in ("whole", "paper"):
        raise UsageError(f"there is no protocol '{protocol}'", hint="whole, paper")
    budgets = [_budget(each) for each in budget.split(",")]
    if protocol == "paper" and budgets != [None]:
        raise UsageError("the paper's protocol knows no --budget", hint="--protocol whole")
    loaded = open_weights(weights, network)
    scale = loaded.network.config.scale
    pairs: Sequence[ReadablePair]
    if dataset.lower() in SIDES:
        pairs = stand_ins(dataset.lower(), scale, accept_licence=accept_licence, offline=offline)
    else:
        pairs = load_pairs(
            dataset, scale, data_dir=data_dir, accept_licence=accept_licence, offline=offline
        )
    head = {
        "dataset": dataset,
        "network": loaded.network.config.network,
        "weights": {"sha256": loaded.sha256},
    }
    if protocol == "paper":
        found = evaluate_paper(loaded.network, pairs, device=choose_device(device))
        if json:
            print_json({**head, **found.as_dict()})
            return
        for name, value in found.per_image:
            typer.echo(f"{name:<28} {value:8.4f} dB")
        typer.echo(f"{'mean':<28} {found.psnr:8.4f} dB")
        typer.echo(
            f"{found.paper_flops / 1e6:.0f} MFLOPs per patch as the paper counts, "
            f"{found.paper_percent:.1f} % of a hard one"
        )
        typer.echo(f"in truth {found.true_percent:.1f} % of the original network, same pixels")
        return
    rows: list[tuple[str, Measured]] = []
    for each in budgets:
        upscaler = Upscaler(
            network,
            weights=weights,
            budget=each,
            router=cast("Router", router),
            path=cast("Way", path),
            tile=_tile(tile),
            device=device,
            precision=cast("Precision", precision),
        )
        name = "none" if each is None else f"{each:g}"
        with progress_bar(f"{dataset}, budget {name}", len(pairs)) as progress:
            rows.append((name, measure(upscaler, pairs, progress=progress)))
    if json:
        print_json({**head, "budgets": {name: _measured(each) for name, each in rows}})
        return
    typer.echo("budget    PSNR, dB    cost   as the paper counts   classes              seconds")
    for name, each in rows:
        shares = " ".join(f"{share:4.0%}" for share in each.shares)
        typer.echo(
            f"{name:<8} {each.psnr:9.4f} {each.share:7.1%} {each.paper_share:17.1%}     "
            f"{shares:<20} {each.seconds:7.2f}"
        )


add_reproduce(app, PACKAGE, MEASURERS)
add_train(app, "classsr")


@weights_app.command(name="list")
def list_weights(json: JsonOption = False) -> None:
    """Say which weights this package has and where the authors' files come from."""
    rows: dict[str, list[Mapping[str, object]]] = {
        word: [own_weights_row(own_file(word))] for word in OWN
    }
    show_weights(rows, json=json)


def _plan_maps(photos: Sequence[str], class_map: Path | None, jobs: Sequence[Job]) -> list[Job]:
    if class_map is None:
        return []
    maps = plan_jobs(photos, class_map)
    taken = {job.target.resolve() for job in jobs}
    for each in maps:
        if each.target.resolve() in taken:
            raise UsageError(f"{each.target} would be the result and its map")
    return maps


def _tile(text: str) -> int | Literal["auto"]:
    side = parse_tile(text)
    if side == 0:
        raise UsageError("--tile 0 makes no tiles to route", hint="--path whole")
    return "auto" if side is None else side


def _budget(text: str) -> float | None:
    if text.strip() == "none":
        return None
    try:
        budget = float(text)
    except ValueError as error:
        raise UsageError(f"--budget {text!r} is no number", hint="0.5,0.6, or none") from error
    if not 0 <= budget <= 1:  # said before the first of several is measured
        raise UsageError(f"the budget is {budget}; it is a share between 0 and 1")
    return budget


def _figures(report: Report) -> dict[str, object]:
    figures = asdict(report)
    del figures["routes"]
    return {**figures, "share": report.share}


def _measured(measured: Measured) -> dict[str, object]:
    rows = [
        {"image": name, "psnr": psnr, **_figures(report)}
        for name, psnr, report in measured.per_image
    ]
    return {**asdict(measured), "per_image": rows}
