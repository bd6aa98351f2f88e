"""The command ``lowvis-csrnet``: retouch, lut, apply, evaluate, reproduce, train and weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn, cast

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
    WeightsOption,
    add_train,
    comparison_path,
    logger,
    make_app,
    named,
    official_weights_row,
    own_weights_row,
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
from lowvis_shared.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    OUTPUT_SUFFIXES,
    Picture,
    check_writable,
    comparison,
    read_image,
    write_image,
)
from lowvis_shared.reproduce import add_reproduce
from lowvis_shared.video import VIDEO_OUTPUT_SUFFIXES, VIDEO_SUFFIXES

from lowvis_csrnet import PACKAGE
from lowvis_csrnet.clip import SMOOTHING, retouch_clip
from lowvis_csrnet.evaluate import PROTOCOL, Figures, folder_pairs, load_fivek
from lowvis_csrnet.evaluate import evaluate as evaluate_on
from lowvis_csrnet.lut import Lut3D, check_lut_writable, hald_size
from lowvis_csrnet.model import NETWORKS
from lowvis_csrnet.predict import LUT_SIZE, ProfileChoice, Retoucher, apply_look, check_profile
from lowvis_csrnet.reproduce import MEASURERS
from lowvis_csrnet.spaces import CONDITION_SIDE, InputSpace
from lowvis_csrnet.weights import OFFICIAL, own_file, resolve_weights

app = make_app("csrnet", "Photo retouching with CSRNet, a network of 36 thousand values.")
weights_app = typer.Typer(no_args_is_help=True, help="List and fetch weights.")
app.add_typer(weights_app, name="weights")

NetworkOption = Annotated[str, typer.Option(help="'csrnet', or 'csrnet-l' for a local effect.")]
StrengthOption = Annotated[
    float, typer.Option(help="0 changes nothing, 1 is the network's result, up to 1.5.")
]
ExposureOption = Annotated[float, typer.Option(help="Stops by which the result is brighter.")]
InputSpaceOption = Annotated[
    str,
    typer.Option(
        help="What the network expects: 'auto' (what the weights say), 'srgb', 'prophoto-1.8'."
    ),
]
LutSizeOption = Annotated[
    str,
    typer.Option(
        help="Nodes on an axis of the LUT that the look is baked to; 'off' runs the network on "
        "every pixel. 'auto' is 33, and off for csrnet-l."
    ),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        help="'keep' converts to sRGB and back by the ICC profile, 'srgb' leaves it at sRGB, "
        "'ignore' takes the codes as sRGB."
    ),
]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with these arguments, those of the process when left out, and exit."""
    run(app, arguments)


@app.command()
def retouch(
    photos: InputsArgument,
    output: OutputOption,
    network: NetworkOption = "csrnet",
    weights: WeightsOption = "own",
    strength: StrengthOption = 1.0,
    exposure: ExposureOption = 0.0,
    lut_size: LutSizeOption = "auto",
    input_space: InputSpaceOption = "auto",
    profile: ProfileOption = "keep",
    smoothing: Annotated[
        float,
        typer.Option(help="Videos: seconds in which the look follows the clip; 0 for none."),
    ] = SMOOTHING,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Photographs: also write NAME_compare.png, before left, after right."
        ),
    ] = False,
    device: DeviceOption = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="With --lut-size off and for csrnet-l: 'auto', 'fp32', 'bf16' or 'fp16'."
        ),
    ] = "auto",
    quality: QualityOption = 95,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    allow_truncated: AllowTruncatedOption = False,
    overwrite: OverwriteOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Retouch photographs and videos at full resolution; depth, alpha, profile, audio stay."""
    jobs = plan_jobs(
        photos,
        output,
        suffixes=IMAGE_SUFFIXES | VIDEO_SUFFIXES,
        written=OUTPUT_SUFFIXES | VIDEO_OUTPUT_SUFFIXES,
        others=dict.fromkeys(VIDEO_SUFFIXES, ".mp4"),
    )
    if compare:
        refuse_comparison_collisions(jobs, [job for job in jobs if not _is_video(job)])
    retoucher = Retoucher(
        network,
        weights=weights,
        input_space=_input_space(input_space),
        strength=strength,
        exposure=exposure,
        lut_size=_lut_size(lut_size, network),
        profile=cast("ProfileChoice", profile),
        device=device,
        precision=cast("Precision", precision),
        accept_licence=accept_licence,
        offline=offline,
    )

    def work(job: Job, progress: PartProgress) -> Mapping[str, object]:
        if _is_video(job):
            return retouch_clip(
                retoucher,
                job.source,
                job.target,
                smoothing=smoothing,
                overwrite=overwrite,
                allow_truncated=allow_truncated,
                max_pixels=max_pixels,
                progress=progress,
            ).as_dict()
        picture = read_image(job.source, max_pixels=max_pixels, allow_truncated=allow_truncated)
        _check_target(job, picture, overwrite=overwrite)
        beside = comparison_path(job)
        if compare:
            check_writable(beside, overwrite=overwrite)
        with named(job.source):
            result, report = retoucher.run(picture, progress=progress)
        write_image(result, job.target, overwrite=overwrite, quality=quality)
        figures = {"width": result.width, "height": result.height, **asdict(report)}
        if compare:
            write_image(comparison(picture, result), beside, overwrite=overwrite)
            logger.info("wrote %s", beside)
            figures["comparison"] = beside
        return figures

    process_files(jobs, work, overwrite=overwrite, json=json)


@app.command()
def lut(
    photo: Annotated[Path, typer.Argument(help="The photograph whose look is wanted.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A .cube file, or a HaldCLUT picture (.png, .tif)."),
    ],
    weights: WeightsOption = "own",
    strength: StrengthOption = 1.0,
    exposure: ExposureOption = 0.0,
    size: Annotated[
        int, typer.Option(help="Nodes on an axis, 2 to 256; a HaldCLUT has the next square.")
    ] = LUT_SIZE,
    blend: Annotated[
        list[str] | None,
        typer.Option(
            help="Mix with another look: FILE:SHARE, such as film.cube:0.3; may be repeated."
        ),
    ] = None,
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Clip values to 0..1, for programs that need it.")
    ] = False,
    bit_depth: Annotated[int, typer.Option(help="Of a HaldCLUT: 8 or 16.")] = 16,
    input_space: InputSpaceOption = "auto",
    profile: ProfileOption = "keep",
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    allow_truncated: AllowTruncatedOption = False,
    overwrite: OverwriteOption = False,
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Write the look of a photograph as a LUT for other programs, from sRGB to sRGB."""
    check_lut_writable(output, overwrite=overwrite)
    if bit_depth not in (8, 16):
        raise UsageError(f"a HaldCLUT has 8 or 16 bits, not {bit_depth}")
    others = [_read_share(text) for text in blend or ()]
    shares = [share for _, share in others]
    if sum(shares) > 1:
        raise UsageError(f"the shares of --blend sum to {sum(shares):g}, which is more than 1")
    retoucher = Retoucher(
        weights=weights,
        input_space=_input_space(input_space),
        strength=strength,
        exposure=exposure,
        lut_size=size if output.suffix.lower() == ".cube" else hald_size(size),
        profile=cast("ProfileChoice", profile),
        device=device,
        accept_licence=accept_licence,
        offline=offline,
    )
    picture = read_image(photo, max_pixels=max_pixels, allow_truncated=allow_truncated)
    with named(photo):
        look = retoucher.bake(picture)
    if others:
        look = Lut3D.blend([look, *(other for other, _ in others)], [1 - sum(shares), *shares])
    look.save(output, overwrite=overwrite, clamp=clamp, bit_depth=16 if bit_depth == 16 else 8)
    if json:
        print_json({"output": output, "size": look.size, "input": photo})
    else:
        typer.echo(f"{output}: {look.size} nodes on an axis")


@app.command()
def apply(
    look: Annotated[Path, typer.Argument(help="A .cube file or a HaldCLUT picture.")],
    photos: InputsArgument,
    output: OutputOption,
    strength: StrengthOption = 1.0,
    profile: ProfileOption = "keep",
    quality: QualityOption = 95,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    allow_truncated: AllowTruncatedOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Send photographs (no videos) through a LUT of any program, sRGB to sRGB, tetrahedrally."""
    check_profile(profile)
    jobs = plan_jobs(photos, output)
    table = Lut3D.load(look).with_strength(strength)

    def work(job: Job, progress: PartProgress) -> Mapping[str, object]:
        del progress
        picture = read_image(job.source, max_pixels=max_pixels, allow_truncated=allow_truncated)
        _check_target(job, picture, overwrite=overwrite)
        with named(job.source):
            result = apply_look(picture, table, profile=cast("ProfileChoice", profile))
        write_image(result, job.target, overwrite=overwrite, quality=quality)
        return {"width": result.width, "height": result.height}

    process_files(jobs, work, overwrite=overwrite, json=json)


@app.command()
def evaluate(
    inputs: Annotated[
        Path | None, typer.Option(help="Folder of photographs; FiveK when left out.")
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(help="Folder of what they should become, under the same names.")
    ] = None,
    data_dir: DataDirOption = None,
    network: NetworkOption = "csrnet",
    weights: Annotated[
        str,
        typer.Option(help="'own', 'official', the path of a file, or 'none': the input itself."),
    ] = "own",
    strength: StrengthOption = 1.0,
    exposure: ExposureOption = 0.0,
    lut_size: LutSizeOption = "off",
    input_space: InputSpaceOption = "auto",
    profile: ProfileOption = "keep",
    condition_side: Annotated[
        str,
        typer.Option(
            help="Long edge of the picture that the condition sees; 0 for the whole. 'auto' is the "
            "whole for FiveK, as the authors measure, and 500 for --inputs, as retouch does."
        ),
    ] = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Measure PSNR, SSIM and color differences against retouched photographs."""
    if (inputs is None) != (targets is None):
        raise UsageError("--inputs and --targets belong together")
    if inputs is not None and targets is not None:
        pairs = folder_pairs(inputs, targets)
    else:
        pairs = load_fivek(data_dir, accept_licence=accept_licence, offline=offline)
    source: dict[str, str] = {"name": weights}
    run_one = _unchanged
    if weights != "none":
        run_one = retoucher = Retoucher(
            network,
            weights=weights,
            input_space=_input_space(input_space),
            strength=strength,
            exposure=exposure,
            lut_size=_lut_size(lut_size, network),
            profile=cast("ProfileChoice", profile),
            condition_side=_condition_side(condition_side, whole=inputs is None),
            device=device,
            precision=cast("Precision", precision),
            accept_licence=accept_licence,
            offline=offline,
        )
        source |= {"sha256": retoucher.weights.sha256, "input_space": retoucher.input_space}
    with progress_bar("evaluating", len(pairs)) as progress:
        evaluation = evaluate_on(run_one, pairs, progress=progress)
    if json:
        print_json({"weights": source, **evaluation.as_dict()})
        return
    for name, figures in (*evaluation.per_image, ("mean", evaluation.mean)):
        typer.echo(f"{name:<24} {_figures_line(figures)}")
    typer.echo(f"PSNR and SSIM {PROTOCOL.describe()}; color differences of 8-bit codes")


add_reproduce(app, PACKAGE, MEASURERS)
add_train(app, "csrnet")


@weights_app.command(name="list")
def list_weights(json: JsonOption = False) -> None:
    """Say which weights there are and where each file lies or comes from."""
    rows: dict[str, list[Mapping[str, object]]] = {}
    for network in NETWORKS:
        file = own_file(network)
        found = [own_weights_row(file)] if file.is_file() else []
        if network == "csrnet":
            found.append(official_weights_row(OFFICIAL))
        rows[network] = [{"network": network, **row} for row in found]
    show_weights(rows, json=json)


@weights_app.command(name="fetch")
def fetch_weights(
    accept_licence: AcceptLicenceOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Fetch the authors' weights into the cache and verify them."""
    path = resolve_weights("csrnet", "official", accept_licence=accept_licence, offline=offline)
    if json:
        print_json({"csrnet": path})
    else:
        typer.echo(f"csrnet  {path}")


def _check_target(job: Job, picture: Picture, *, overwrite: bool) -> None:
    alpha, size = picture.alpha is not None, (picture.height, picture.width)
    check_writable(job.target, overwrite=overwrite, alpha=alpha, size=size)


def _is_video(job: Job) -> bool:
    return job.source.suffix.lower() in VIDEO_SUFFIXES


def _unchanged(picture: Picture) -> Picture:
    return picture


def _figures_line(figures: Figures) -> str:
    return (
        f"{figures.psnr:8.4f} dB  {figures.ssim:.5f}  "
        f"CIE76 {figures.delta_e_76:7.4f}  CIEDE2000 {figures.delta_e_2000:7.4f}  "
        f"(wrapped Lab {figures.lab_wrapped:7.4f})"
    )


def _condition_side(text: str, *, whole: bool) -> int | None:
    """Return the long edge that the condition sees, None for the whole picture."""
    if text == "auto":
        return None if whole else CONDITION_SIDE
    if not text.isdecimal():
        raise UsageError(f"--condition-side '{text}' is neither 'auto' nor a number of pixels")
    return int(text) or None


def _input_space(text: str) -> InputSpace | None:
    return None if text == "auto" else cast("InputSpace", text)


def _lut_size(text: str, network: str) -> int | None:
    """Return the size of the LUT, None for no LUT, from the value of `LutSizeOption`."""
    local = network == "csrnet-l"
    if text == "auto":
        return None if local else LUT_SIZE
    if text == "off":
        return None
    if not text.isdecimal():
        raise UsageError(f"--lut-size '{text}' is neither 'auto', 'off' nor a number")
    if local:
        raise UsageError("csrnet-l looks around each pixel: it has no LUT", hint="--lut-size off")
    return int(text)


def _read_share(text: str) -> tuple[Lut3D, float]:
    """Return a LUT and its share of a blend from ``FILE:SHARE``."""
    name, _, share = text.rpartition(":")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value <= 1:
        raise UsageError(f"--blend '{text}' is no FILE:SHARE with a share of 0 to 1")
    return Lut3D.load(name), value
