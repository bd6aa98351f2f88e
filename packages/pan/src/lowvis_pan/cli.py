"""The command ``lowvis-pan``: upscale, evaluate, export, reproduce, train and weights."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from lowvis_shared.canvas import bicubic_upscale
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
    TileOption,
    WeightsOption,
    add_train,
    comparison_path,
    logger,
    make_app,
    official_weights_row,
    own_weights_row,
    parse_tile,
    plan_jobs,
    print_json,
    process_files,
    progress_bar,
    refuse_comparison_collisions,
    run,
    show_weights,
)
from lowvis_shared.device import Precision
from lowvis_shared.errors import UsageError
from lowvis_shared.images import MAX_PIXELS, check_writable, comparison, read_image, write_image
from lowvis_shared.pairs import Pixels, bicubic, load_pairs
from lowvis_shared.pairs import evaluate as evaluate_on
from lowvis_shared.reproduce import add_reproduce
from numpy.typing import NDArray

from lowvis_pan import PACKAGE
from lowvis_pan.export import SUFFIXES, convert
from lowvis_pan.export import export as export_network
from lowvis_pan.fast import Backend
from lowvis_pan.model import PAN, SCALES, PANConfig
from lowvis_pan.predict import Upscaler
from lowvis_pan.reproduce import MEASURERS
from lowvis_pan.weights import OFFICIAL, load_weights, own_file, resolve_weights

app = make_app("pan", "Super-resolution x2, x3 and x4 with PAN, a network of 272 thousand values.")
weights_app = typer.Typer(no_args_is_help=True, help="List, fetch and convert weights.")
app.add_typer(weights_app, name="weights")

ScaleOption = Annotated[int, typer.Option(help="Factor: 2, 3 or 4.")]
BackendOption = Annotated[
    str, typer.Option(help="'auto' (the best one installed), 'torch', 'openvino' or 'onnx'.")
]
GuardOption = Annotated[
    bool,
    typer.Option(
        "--guard/--no-guard",
        help="Rerun tiles on which the network is unstable (noise, dither) at reduced contrast.",
    ),
]
EnsembleOption = Annotated[
    bool,
    typer.Option(
        "--self-ensemble", help="Average all eight flips and rotations: 8 times slower, better."
    ),
]
BackProjectionOption = Annotated[
    bool,
    typer.Option("--back-projection", help="Correct the result once by how it comes down again."),
]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with these arguments, those of the process when left out, and exit."""
    run(app, arguments)


@app.command()
def upscale(
    photos: InputsArgument,
    output: OutputOption,
    scale: ScaleOption = 4,
    weights: WeightsOption = "own",
    tile: TileOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    backend: BackendOption = "auto",
    guard: GuardOption = True,
    self_ensemble: EnsembleOption = False,
    back_projection: BackProjectionOption = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also write NAME_compare.png: bicubic left, PAN right."),
    ] = False,
    quality: QualityOption = 95,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    allow_truncated: AllowTruncatedOption = False,
    overwrite: OverwriteOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Upscale photographs, keeping their depth, alpha, color profile and metadata."""
    jobs = plan_jobs(photos, output)
    if compare:
        refuse_comparison_collisions(jobs)
    upscaler = _open_upscaler(
        scale,
        weights,
        tile=tile,
        device=device,
        precision=precision,
        backend=backend,
        guard=guard,
        self_ensemble=self_ensemble,
        back_projection=back_projection,
        accept_licence=accept_licence,
        offline=offline,
    )

    def work(job: Job, progress: PartProgress) -> Mapping[str, object]:
        picture = read_image(job.source, max_pixels=max_pixels, allow_truncated=allow_truncated)
        size = (picture.height * scale, picture.width * scale)
        alpha = picture.alpha is not None
        check_writable(job.target, overwrite=overwrite, alpha=alpha, size=size)
        beside = comparison_path(job)
        if compare:
            check_writable(beside, overwrite=overwrite)
        result, report = upscaler.run(picture, progress=progress)
        write_image(result, job.target, overwrite=overwrite, quality=quality)
        figures = {"width": result.width, "height": result.height, **asdict(report)}
        if compare:
            before = bicubic_upscale(picture, scale)
            write_image(comparison(before, result), beside, overwrite=overwrite)
            logger.info("wrote %s", beside)
            figures["comparison"] = beside
        return figures

    process_files(jobs, work, overwrite=overwrite, json=json)


@app.command()
def evaluate(
    dataset: Annotated[
        str,
        typer.Option(help="set5, set14, b100, urban100, manga109, or a folder of sharp pictures."),
    ],
    scale: ScaleOption = 4,
    weights: Annotated[
        str, typer.Option(help="'own', 'official', the path of a file, or 'bicubic': no network.")
    ] = "own",
    data_dir: DataDirOption = None,
    tile: TileOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    backend: BackendOption = "auto",
    guard: GuardOption = True,
    self_ensemble: EnsembleOption = False,
    back_projection: BackProjectionOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Measure PSNR and SSIM on a test set, by the protocol of the paper."""
    PANConfig(scale=scale)  # refuses other scales
    pairs = load_pairs(
        dataset, scale, data_dir=data_dir, accept_licence=accept_licence, offline=offline
    )
    source: dict[str, str] = {"name": weights}
    run_one: Callable[[Pixels], NDArray[Any]]
    if weights == "bicubic":
        run_one = partial(bicubic, scale=scale)
    else:
        run_one = upscaler = _open_upscaler(
            scale,
            weights,
            tile=tile,
            device=device,
            precision=precision,
            backend=backend,
            guard=guard,
            self_ensemble=self_ensemble,
            back_projection=back_projection,
            accept_licence=accept_licence,
            offline=offline,
        )
        source["sha256"] = upscaler.weights.sha256
    with progress_bar(f"{dataset} x{scale}", len(pairs)) as progress:
        evaluation = evaluate_on(run_one, pairs, scale, progress=progress)
    if json:
        head = {"dataset": dataset, "scale": scale, "weights": source}
        print_json({**head, **evaluation.as_dict()})
        return
    for name, score in evaluation.per_image:
        typer.echo(f"{name:<24} {score.psnr:8.4f} dB  {score.ssim:.6f}")
    typer.echo(f"{'mean':<24} {evaluation.psnr:8.4f} dB  {evaluation.ssim:.6f}")
    typer.echo(evaluation.protocol.describe())


@app.command()
def export(
    export_format: Annotated[
        str, typer.Option("--format", help="'onnx', 'torchscript' or 'safetensors'.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file, or a folder for it: FOLDER/.")
    ],
    scale: ScaleOption = 4,
    weights: WeightsOption = "own",
    overwrite: OverwriteOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Write the network in another format, proved equal to PyTorch at three sizes."""
    if export_format not in SUFFIXES:
        raise UsageError(f"there is no format '{export_format}'", hint=", ".join(SUFFIXES))
    network = PAN(PANConfig(scale=scale))
    resolve_weights(weights, scale, accept_licence=accept_licence, offline=offline)
    loaded = load_weights(network, weights)
    path = Path(output)
    if output.endswith(("/", os.sep)) or os.path.isdir(output):  # noqa: PTH112 - also of bad names
        path /= f"pan_x{scale}{SUFFIXES[export_format]}"
    metadata = {
        **loaded.metadata,
        "weights_sha256": loaded.sha256,
        "feature_limit": f"{loaded.feature_limit:g}",
    }
    parity = export_network(network, path, export_format, metadata=metadata, overwrite=overwrite)
    if json:
        print_json({"output": path, **asdict(parity)})
    else:
        sizes = ", ".join(f"{height}x{width}" for height, width in parity.sizes)
        typer.echo(f"{path}: within {parity.max_difference:.1e} of PyTorch at {sizes}")


add_reproduce(app, PACKAGE, MEASURERS)
add_train(app, "pan")


@weights_app.command(name="list")
def list_weights(json: JsonOption = False) -> None:
    """Say which weights there are and where each file lies or comes from."""
    rows: dict[str, list[Mapping[str, object]]] = {}
    for scale in SCALES:
        own = own_file(scale)
        found = [own_weights_row(own)] if own.is_file() else []
        found.append(official_weights_row(OFFICIAL[scale]))
        rows[f"x{scale}"] = [{"scale": scale, **row} for row in found]
    show_weights(rows, json=json)


@weights_app.command(name="fetch")
def fetch_weights(
    scale: Annotated[
        list[int] | None, typer.Option(help="Which of the authors' files; all when left out.")
    ] = None,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch the authors' weights into the cache and verify them."""
    paths: dict[str, Path] = {}
    for each in scale or SCALES:
        PANConfig(scale=each)  # refuses other scales
        paths[f"x{each}"] = resolve_weights(
            "official", each, accept_licence=accept_licence, offline=offline
        )
    if json:
        print_json(paths)
        return
    for name, path in paths.items():
        typer.echo(f"{name}  {path}")


@weights_app.command(name="convert")
def convert_weights(
    source: Annotated[Path, typer.Argument(help="A .pth or .safetensors file of PAN weights.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .safetensors or .pth.")
    ],
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Rewrite weights in the other file format, keys and values unchanged."""
    metadata = convert(source, output, overwrite=overwrite)
    if json:
        print_json({"output": output, "metadata": metadata})
    else:
        typer.echo(f"{output}: PAN x{metadata['scale']}")


def _open_upscaler(
    scale: int,
    weights: str,
    *,
    tile: str,
    device: str,
    precision: str,
    backend: str,
    guard: bool,
    self_ensemble: bool,
    back_projection: bool,
    accept_licence: bool,
    offline: bool,
) -> Upscaler:
    PANConfig(scale=scale)  # refuses other scales before anything is fetched
    side = parse_tile(tile)
    resolve_weights(weights, scale, accept_licence=accept_licence, offline=offline)
    return Upscaler(
        scale,
        weights=weights,
        backend=cast("Backend", backend),
        device=device,
        precision=cast("Precision", precision),
        tile="auto" if side is None else side,
        guard=guard,
        self_ensemble=self_ensemble,
        back_projection=back_projection,
    )
