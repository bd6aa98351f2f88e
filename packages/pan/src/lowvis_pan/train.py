"""Training of PAN: a plain loop on Lightning Fabric, configured by Hydra.

One machine:    ``lowvis-pan train photos=FOLDER scale=4``
Two processes:  ``torchrun --nproc-per-node 2 -m lowvis_pan.train photos=FOLDER``

A run writes into its ``output`` folder: checkpoints, ``metrics.jsonl``, validation pictures and
``pan_x4.safetensors``, the averaged network. Starting it again goes on where it was.
"""

import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import hydra
import torch
import torch.nn.functional as F
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from lightning_fabric import Fabric
from lowvis_shared.checkpoint import (
    CheckpointFolder,
    capture_random_state,
    load_weights_file,
    restore_random_state,
)
from lowvis_shared.device import choose_device, choose_precision, deterministic, seed_everything
from lowvis_shared.errors import MissingExtraError, UsageError, WeightsError
from lowvis_shared.files import atomic_write
from lowvis_shared.images import Picture, to_tensor, write_image
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from lowvis_pan.data import CropBatches, PackedPair, list_photos, pack_photos, split_photos
from lowvis_pan.evaluate import Evaluation, bicubic, evaluate_network
from lowvis_pan.guard import calibrate_limit
from lowvis_pan.model import PAN, PANConfig
from lowvis_pan.predict import comparison
from lowvis_pan.weights import resolve_weights, save_weights

logger = logging.getLogger("lowvis")


@dataclass
class TrainConfig:
    """Everything that can be set on the command line as ``name=value``.

    Attributes:
        photos: Folder of photographs of any size, sub-folders included.
        output: Folder of the run.
        scale: Upscaling factor.
        initial: Weights to start from: ``own``, ``official`` or a path. Weights of another scale
            give the layers that fit, which is all but the upsampling.
        held_out: Photographs kept out of training, to validate on.
        on_error: Whether a photograph that cannot be read ends the run or is left out.
        crop: Low-resolution side of a training crop in pixels.
        batch: Crops per step and process.
        steps: Length of the run. A finished run goes on when started with more.
        learning_rate: Adam's, at its highest.
        floor: The lowest learning rate, where the schedule ends.
        schedule: ``trapezoid`` warms up, holds, and decays linearly over the last part;
            ``restarts`` is the paper's cosine annealing that starts anew every ``period``.
        warmup: Steps of warm-up.
        decay: Share of the steps over which ``trapezoid`` decays.
        period: Steps between two ``restarts``.
        average: Decay of the exponential moving average that is validated and saved.
        seed: Seed of the network and of the crops.
        deterministic: Use deterministic algorithms on a GPU too, slower; a CPU's always are.
        precision: ``fp32``, ``bf16`` (mixed), or what the hardware is best at.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: Processes on each machine; torchrun sets it, under SLURM it is ``srun``'s
            ``--ntasks-per-node``.
        nodes: Machines; likewise.
        workers: Processes that read crops; 0 reads them in the loop.
        log_every: Steps between two lines of ``metrics.jsonl``.
        checkpoint_every: Steps between two checkpoints.
        validate_every: Steps between two validations.
        wandb: ``disabled``, ``offline`` or ``online``.
    """

    photos: str = MISSING
    output: str = "runs/pan-x${scale}"
    scale: int = 4
    initial: str | None = None
    held_out: int = 8
    on_error: str = "fail"
    crop: int = 48
    batch: int = 8
    steps: int = 20_000
    learning_rate: float = 1e-3
    floor: float = 1e-6
    schedule: str = "trapezoid"
    warmup: int = 200
    decay: float = 0.4
    period: int = 250_000
    average: float = 0.999
    seed: int = 10
    deterministic: bool = False
    precision: str = "auto"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    log_every: int = 50
    checkpoint_every: int = 500
    validate_every: int = 2000
    wandb: str = "disabled"


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of a step, a function of nothing but the configuration and the step."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    span = config.learning_rate - config.floor
    if config.schedule == "restarts":
        return config.floor + span * (1 + math.cos(math.pi * (step / config.period % 1))) / 2
    remaining = (config.steps - step) / max(1, round(config.decay * config.steps))
    return config.floor + span * min(1.0, remaining)


def train(config: TrainConfig) -> Path:
    """Train, or go on training, and return the path of the weights.

    Raises:
        UsageError: Options do not make sense.
        InputError: A photograph or the folder cannot be used.
        WeightsError: The initial weights or a checkpoint do not fit, or training diverged.
    """
    _check(config)
    shape = PANConfig(scale=config.scale)
    fabric = _fabric(config)
    fabric.launch()
    output = Path(config.output)
    seed_everything(config.seed)
    deterministic(config.deterministic)
    training, held_out = split_photos(list_photos(Path(config.photos)), config.held_out)
    with fabric.rank_zero_first():  # the first process packs, the others find it packed
        photos, unseen = (
            pack_photos(
                files,
                scale=config.scale,
                minimum=config.crop,
                folder=output / "photos",
                on_error="skip" if config.on_error == "skip" else "fail",
            )
            for files in (training, held_out)
        )
    pairs = [PackedPair(unseen, index) for index in range(len(unseen.photos))]

    network = PAN(shape)
    if config.initial is not None:
        _start_from(network, config.initial)
    network = network.to(fabric.device).to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, avg_fn=_moving_average(config.average))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), fused=True
    )
    model, optimizer = fabric.setup(network, optimizer)

    checkpoints = CheckpointFolder(output / "checkpoints")
    start = 0
    loss_sum = torch.zeros((), device=fabric.device)  # since the last line of the log
    if (found := checkpoints.latest()) is not None:
        start, state = found
        _require_same_run(config, state["config"])
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"])
        loss_sum.copy_(state["loss_sum"])
        logger.info("going on from step %d", start)
    log = MetricsLog(config, start) if fabric.is_global_zero else None

    def save(step: int) -> None:
        if fabric.is_global_zero:
            checkpoints.save(
                step,
                {
                    "config": asdict(config),
                    "network": network.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": capture_random_state(),
                    "loss_sum": loss_sum,
                },
            )
        fabric.barrier()

    def validate(step: int) -> None:
        if log is not None:
            average = cast("PAN", averaged.module)
            evaluation = evaluate_network(average, pairs, config.scale)
            log.validation(step, evaluation)
            _write_validation_picture(average, pairs[0], output / "pictures" / f"{step:07d}.png")
            _export(average, config, pairs, step, evaluation)
        fabric.barrier()

    batches = CropBatches(
        photos, crop=config.crop, batch=config.batch, seed=config.seed, rank=fabric.global_rank
    )
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.workers,
        persistent_workers=False,
    )
    loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    with _progress(config, start, shown=fabric.is_global_zero) as advance, _stop_signal() as stop:
        for step, (low, high) in enumerate(loader, start=start + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step - 1)
            loss = F.l1_loss(model(low), high)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            averaged.update_parameters(network)
            loss_sum += loss.detach()
            advance(step)
            if step % config.log_every == 0:
                mean_loss = float(loss_sum) / config.log_every
                loss_sum.zero_()
                if not math.isfinite(mean_loss):
                    raise WeightsError(
                        f"training diverged before step {step}", hint="lower learning_rate"
                    )
                if log is not None:
                    log.training(step, mean_loss, learning_rate(config, step - 1))
            if step % config.validate_every == 0 or step == config.steps:
                validate(step)
            stopping = _any_process(fabric, stop)
            if step % config.checkpoint_every == 0 or step == config.steps or stopping:
                save(step)
            if stopping:
                raise SystemExit(128 + stopping)
    return _weights_path(config)


def _check(config: TrainConfig) -> None:
    if min(config.crop, config.batch, config.steps, config.held_out, config.log_every) < 1:
        raise UsageError("crop, batch, steps, held_out and log_every must be at least 1")
    if not (0 <= config.decay <= 1 and 0 <= config.average < 1):
        raise UsageError("decay and average are shares between 0 and 1")
    for name, value, known in (
        ("schedule", config.schedule, ("trapezoid", "restarts")),
        ("on_error", config.on_error, ("fail", "skip")),
        ("wandb", config.wandb, ("disabled", "offline", "online")),
        ("precision", config.precision, ("auto", "fp32", "bf16")),
    ):
        if value not in known:
            raise UsageError(f"{name}={value} is not one of {', '.join(known)}")


def _fabric(config: TrainConfig) -> Fabric:
    device = choose_device(config.device)
    dtype = choose_precision(cast("Any", config.precision), device)
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", config.devices))
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", config.nodes))
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if "SLURM_PROCID" in os.environ and tasks not in (1, devices * nodes):
        # Each task would train alone and write over the others.
        raise UsageError(
            f"srun started {tasks} tasks for devices={devices} on nodes={nodes}",
            hint="devices is --ntasks-per-node, nodes is --nodes",
        )
    # float16 would need a loss scale, and hardware without bfloat16 is rare: float32 there.
    precision = "bf16-mixed" if dtype == torch.bfloat16 else "32-true"
    return Fabric(accelerator=device.type, devices=devices, num_nodes=nodes, precision=precision)


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average that forgets the first, untrained steps faster."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        steps = int(count)
        return torch.lerp(averaged, current, 1 - min(decay, (1 + steps) / (10 + steps)))

    return average


def _any_process(fabric: Fabric, stop: list[int]) -> int:
    """Return the number of a signal that any process received, or 0: all must stop together."""
    number = stop[0] if stop else 0
    if fabric.world_size == 1:
        return number
    highest = fabric.all_reduce(torch.tensor(number, device=fabric.device), reduce_op="max")
    return int(cast("Tensor", highest))


def _start_from(network: PAN, initial: str) -> None:
    """Take over every tensor of the initial weights that fits."""
    path = resolve_weights(initial, network.config.scale)
    state_dict, _ = load_weights_file(path)
    own = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state_dict.items()
        if name in own and own[name].shape == tensor.shape
    }
    if "conv_first.weight" not in fitting:
        raise WeightsError(f"{path} holds no layer of this network")
    network.load_state_dict(fitting, strict=False)
    logger.info("started from %d of %d tensors of %s", len(fitting), len(own), path)


def _require_same_run(config: TrainConfig, saved: dict[str, Any]) -> None:
    for name in ("scale", "seed", "crop", "batch"):
        if saved[name] != getattr(config, name):
            raise UsageError(
                f"the run in {config.output} has {name}={saved[name]}, not {getattr(config, name)}",
                hint="give this run another output=FOLDER",
            )


class MetricsLog:
    """Figures of a run as lines of ``metrics.jsonl`` and, where asked for, in wandb.

    Args:
        config: The run's.
        start: Step at which it goes on: later lines, of a run that was killed, are removed.
    """

    def __init__(self, config: TrainConfig, start: int) -> None:
        self._path = Path(config.output) / "metrics.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step_of(line) <= start]

        def write(file: BinaryIO) -> None:
            file.write("".join(f"{line}\n" for line in kept).encode())

        atomic_write(self._path, write, overwrite=True)
        spent = float(json.loads(kept[-1])["seconds"]) if kept else 0.0
        self._started, self._wandb = time.monotonic() - spent, None
        if config.wandb != "disabled":
            try:
                import wandb
            except ModuleNotFoundError as error:
                raise MissingExtraError("lowvis-pan", "train") from error
            self._wandb = wandb.init(
                project="lowvis-pan",
                dir=config.output,
                config=asdict(config),
                mode=cast("Literal['online', 'offline']", config.wandb),
            )

    def training(self, step: int, loss: float, rate: float) -> None:
        """Record the mean loss since the last line."""
        self._write(step, {"loss": loss, "learning_rate": rate})

    def validation(self, step: int, evaluation: Evaluation) -> None:
        """Record the figures on the held-out photographs."""
        logger.info("step %d: %.3f dB on the held-out photographs", step, evaluation.psnr)
        self._write(step, {"psnr": evaluation.psnr, "ssim": evaluation.ssim})

    def _write(self, step: int, figures: dict[str, float]) -> None:
        seconds = round(time.monotonic() - self._started, 1)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures, "seconds": seconds}) + "\n")
        if self._wandb is not None:
            self._wandb.log(figures, step=step)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):  # the line that a kill cut short
        return math.inf


_OF_THE_MACHINE = ("photos", "output", "initial", "devices", "nodes", "workers", "wandb")
"""Settings that weights do not note: paths and how the work was spread."""


def _weights_path(config: TrainConfig) -> Path:
    return Path(config.output) / f"pan_x{config.scale}.safetensors"


def _export(
    network: PAN, config: TrainConfig, pairs: list[PackedPair], step: int, evaluation: Evaluation
) -> None:
    images = [to_tensor(Picture(pair.read()[0])) for pair in pairs]
    settings = {
        name: str(getattr(config, name)) for name in asdict(config) if name not in _OF_THE_MACHINE
    }
    metadata = {
        **settings,
        "architecture": "PAN",
        "step": str(step),
        "held_out_psnr": f"{evaluation.psnr:.4f}",
        "feature_limit": f"{calibrate_limit(network, images):.4f}",
    }
    save_weights(_weights_path(config), network.state_dict(), metadata, overwrite=True)


@torch.inference_mode()
def _write_validation_picture(network: PAN, pair: PackedPair, path: Path) -> None:
    low, _ = pair.read()
    low = low[:128, :128]
    image = to_tensor(Picture(low)).to(next(network.parameters()).device)
    upscaled = Picture(low).with_pixels(network(image)[0].permute(1, 2, 0).float().cpu().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    before = Picture(bicubic(low, network.config.scale))
    write_image(comparison(before, upscaled), path, overwrite=True)


@contextmanager
def _progress(config: TrainConfig, start: int, *, shown: bool) -> Generator[Callable[[int], None]]:
    bar = Progress(
        TextColumn(f"PAN x{config.scale}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not (shown and sys.stderr.isatty()),
    )
    with bar:
        task = bar.add_task("train", total=config.steps, completed=start)

        def advance(step: int) -> None:
            bar.update(task, completed=step)

        yield advance


@contextmanager
def _stop_signal() -> Generator[list[int]]:
    """Collect Ctrl-C and SIGTERM (a preempted job), so that the loop saves before it ends."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process at once

    previous = [signal.signal(each, note) for each in signals]
    try:
        yield received
    finally:
        for each, handler in zip(signals, previous, strict=True):
            signal.signal(each, handler)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def _job(settings: DictConfig) -> None:
    train(cast("TrainConfig", OmegaConf.to_object(settings)))


def main(arguments: list[str] | None = None) -> None:
    """Run the Hydra command with ``name=value`` arguments, those of the process when left out.

    Raises:
        UsageError: Hydra knows no such setting, or a value is of another type.
        LowvisError: As `train`.
    """
    if arguments is not None:
        sys.argv = ["lowvis-pan train", *arguments]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of being printed
    try:
        _job()
    except MissingMandatoryValue as error:
        raise UsageError(
            "the folder of photographs is missing", hint="lowvis-pan train photos=FOLDER"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split("\n")[:2]).strip()
        raise UsageError(reason, hint="lowvis-pan train --help lists every setting") from error


ConfigStore.instance().store("schema", TrainConfig)

if __name__ == "__main__":  # what torchrun starts
    from lowvis_pan.cli import main as command

    command(["train", *sys.argv[1:]])
