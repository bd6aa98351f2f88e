"""Training: settings, a plain loop, a log, and an exact resumption; super-resolution on top of it.

`train_network` is the loop for any network: a package says in a `Training` what is trained on what.
`train_super_resolution` does so for networks that upscale, of which a package brings a `Task`. The
processes come as a Lightning Fabric, made with what `fabric_options` returns; Hydra, wandb and
Fabric itself stay in the packages' extra ``train``. A run writes into its ``output`` folder:
checkpoints, ``metrics.jsonl``, validation pictures, weights. Starting it again goes on where it
was, bit by bit on a CPU.
"""

import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from lowvis_shared.checkpoint import CheckpointFolder, capture_random_state, restore_random_state
from lowvis_shared.cli import progress_bar
from lowvis_shared.device import choose_device, choose_precision, deterministic, seed_everything
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.files import atomic_write
from lowvis_shared.images import Picture, comparison, to_tensor, write_image
from lowvis_shared.pairs import Evaluation, bicubic
from lowvis_shared.photos import (
    CropBatches,
    PackedPair,
    Teacher,
    list_photos,
    pack_photos,
    split_photos,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

logger = logging.getLogger("lowvis")

# Settings that weights do not note: paths and how the work was spread.
_OF_THE_MACHINE = ("photos", "inputs", "output", "initial", "devices", "nodes", "workers", "wandb")


@dataclass
class TrainingConfig:
    """What can be set of any training, on the command line as ``name=value``.

    Attributes:
        photos: Folder of photographs of any size, sub-folders included.
        output: Folder of the run.
        initial: Weights to start from: a name that the package knows, or a path.
        held_out: Photographs kept out of training, to validate on.
        on_error: Whether a photograph that cannot be read ends the run or is left out.
        batch: Pictures per step and process.
        steps: Length of the run. A finished run goes on when started with more.
        learning_rate: Adam's, at its highest.
        floor: The lowest learning rate, where the schedule ends.
        schedule: ``trapezoid`` warms up, holds, and decays linearly over the last part;
            ``restarts`` is cosine annealing that starts anew every ``period``; ``halving`` halves
            the rate every ``period``.
        warmup: Steps of warm-up.
        decay: Share of the steps over which ``trapezoid`` decays.
        period: Steps between two ``restarts`` or halvings.
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

    photos: str = "???"  # OmegaConf's mark of a setting that must be given
    output: str = "???"
    initial: str | None = None
    held_out: int = 8
    on_error: str = "fail"
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

    _COUNTS: ClassVar[tuple[str, ...]] = (
        "batch",
        "steps",
        "held_out",
        "period",
        "log_every",
        "checkpoint_every",
        "validate_every",
        "devices",
        "nodes",
    )

    def check(self) -> None:
        """Refuse settings that make no sense; raises `UsageError`."""
        for name in self._COUNTS:
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: it must be at least 1")
        if min(self.warmup, self.workers) < 0:
            raise UsageError("warmup and workers cannot be negative")
        if not (0 <= self.floor <= self.learning_rate < math.inf):
            raise UsageError("learning_rate and floor are numbers, the floor not above the rate")
        if self.device not in ("auto", "cpu", "cuda", "mps"):
            raise UsageError(
                f"device={self.device} is not one of auto, cpu, cuda, mps",
                hint="CUDA_VISIBLE_DEVICES chooses among several GPUs",
            )
        if not (0 <= self.decay <= 1 and 0 <= self.average < 1):
            raise UsageError("decay and average are shares between 0 and 1")
        for name, value, known in (
            ("schedule", self.schedule, ("trapezoid", "restarts", "halving")),
            ("on_error", self.on_error, ("fail", "skip")),
            ("wandb", self.wandb, ("disabled", "offline", "online")),
            ("precision", self.precision, ("auto", "fp32", "bf16")),
        ):
            if value not in known:
                raise UsageError(f"{name}={value} is not one of {', '.join(known)}")


@dataclass
class SuperResolutionConfig(TrainingConfig):
    """What can be set of the training of a network that upscales; see its base class too.

    ``initial`` may be weights of another scale: they give the layers that fit.

    Attributes:
        scale: Upscaling factor.
        crop: Low-resolution side of a training crop in pixels.
    """

    scale: int = 4
    crop: int = 48

    _COUNTS: ClassVar[tuple[str, ...]] = (*TrainingConfig._COUNTS, "crop")


Log = Callable[[dict[str, float], int], None]
"""Takes figures by name, and the step they are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained on what, for `train_network`.

    Attributes:
        build: Makes the network, with its initial weights; what takes no gradient stays as it is.
        batches: Batch ``step`` of the run for this process: tensors, or tuples and lists of them.
        loss: Of the network and a batch.
        validate: Scores the averaged network, in evaluation mode, after a step, writes weights and
            pictures, and returns figures for the log. Called on the first process only.
        title: What the progress bar says.
        same: Settings that a run must keep when it goes on, besides seed and batch.
        open_log: Called on the first process, where given; what it returns is called with the
            figures and the step of every line of ``metrics.jsonl``.
    """

    build: Callable[[], nn.Module]
    batches: Dataset[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    validate: Callable[[nn.Module, int], Mapping[str, float]]
    title: str = "training"
    same: tuple[str, ...] = ()
    open_log: Callable[[], Log] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A network that upscales, for `train_super_resolution`.

    Attributes:
        build: Makes the network, with its initial weights; called after seeding.
        evaluate: Scores a network on the photographs held out.
        export: Writes the weights: network, held-out photographs, what is to be noted of them.
        weights_path: The file that `export` writes.
        loss: Of an output (B, 3, H, W) and its target: the photograph, in 0..1; with a teacher its
            picture follows in channels 3 to 5.
        teacher: A network to learn from; none when left out.
        same: As in `Training`, besides scale and crop.
        open_log: As in `Training`.
    """

    build: Callable[[], nn.Module]
    evaluate: Callable[[nn.Module, Sequence[PackedPair]], Evaluation]
    export: Callable[[nn.Module, Sequence[PackedPair], Mapping[str, str]], None]
    weights_path: Path
    loss: Callable[[Tensor, Tensor], Tensor] = F.l1_loss
    teacher: Teacher | None = None
    same: tuple[str, ...] = ()
    open_log: Callable[[], Log] | None = None


def fabric_options(config: TrainingConfig) -> dict[str, Any]:
    """Return what to make the run's ``Fabric`` with: processes of torchrun, SLURM or this one.

    Raises:
        UsageError: SLURM started another number of tasks than the settings say.
        DeviceError: There is no such device.
    """
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
    return {
        "accelerator": device.type,
        "devices": devices,
        "num_nodes": nodes,
        "precision": precision,
    }


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of a step, a function of nothing but the configuration and the step."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "halving":
        return max(config.floor, config.learning_rate / 2 ** (step // config.period))
    span = config.learning_rate - config.floor
    if config.schedule == "restarts":
        return config.floor + span * (1 + math.cos(math.pi * (step / config.period % 1))) / 2
    remaining = (config.steps - step) / max(1, round(config.decay * config.steps))
    return config.floor + span * min(1.0, remaining)


def train_network(
    config: TrainingConfig, fabric: "Fabric", prepare: Callable[["Fabric"], Training]
) -> None:
    """Train, or go on training.

    Args:
        config: The settings.
        fabric: The processes.
        prepare: Called once the processes run and are seeded; says what is trained on what.

    Raises:
        UsageError: Settings do not make sense, or the output folder holds another run.
        WeightsError: A checkpoint does not fit, or training diverged.
        LowvisError: As `prepare`.
    """
    config.check()
    fabric.launch()
    output = Path(config.output)
    seed_everything(config.seed)
    deterministic(config.deterministic)
    training = prepare(fabric)
    network = training.build().to(fabric.device).to(memory_format=torch.channels_last)
    averaged = AveragedModel(network, avg_fn=_moving_average(config.average)).eval()
    trained = [each for each in network.parameters() if each.requires_grad]
    if not trained:
        raise UsageError("these settings leave no parameter to train")
    optimizer = torch.optim.Adam(
        trained,
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    model, optimizer = fabric.setup(network, optimizer)

    checkpoints = CheckpointFolder(output / "checkpoints")
    start = 0
    loss_sum = torch.zeros((), device=fabric.device)  # since the last line of the log
    if (found := checkpoints.latest()) is not None:
        start, state = found
        _require_same_run(config, state["config"], training.same)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"])
        loss_sum.copy_(state["loss_sum"])
        logger.info("going on from step %d", start)
    log = None
    if fabric.is_global_zero:
        output.mkdir(parents=True, exist_ok=True)
        log = MetricsLog(output, start, training.open_log() if training.open_log else None)

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
            log.validation(step, training.validate(averaged.module, step))
        fabric.barrier()

    loader = DataLoader(
        training.batches,
        batch_size=None,
        sampler=range(start, config.steps),
        num_workers=config.workers,
        persistent_workers=False,
    )
    loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    with progress_bar(training.title) as advance, _stop_signal() as stop:
        for step, batch in enumerate(loader, start=start + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step - 1)
            loss = training.loss(model, batch)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            averaged.update_parameters(network)
            loss_sum += loss.detach()
            advance(step, config.steps)
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


def train_super_resolution(config: SuperResolutionConfig, fabric: "Fabric", task: Task) -> Path:
    """Train, or go on training, a network that upscales, and return the path of the weights.

    Raises:
        UsageError: Settings do not make sense, or the output folder holds another run.
        InputError: A photograph or the folder cannot be used.
        WeightsError: The initial weights or a checkpoint do not fit, or training diverged.
    """
    output = Path(config.output)

    def prepare(fabric: "Fabric") -> Training:
        training, held_out = split_photos(list_photos(Path(config.photos)), config.held_out)
        with fabric.rank_zero_first():  # the first process packs, the others find it packed
            photos, unseen = (
                pack_photos(
                    files,
                    scale=config.scale,
                    minimum=config.crop,
                    folder=output / "photos",
                    on_error="skip" if config.on_error == "skip" else "fail",
                    teacher=teacher,
                )
                for files, teacher in ((training, task.teacher), (held_out, None))
            )
        pairs = [PackedPair(unseen, index) for index in range(len(unseen.photos))]

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            low, high = batch
            return task.loss(model(low), high)

        def validate(network: nn.Module, step: int) -> Mapping[str, float]:
            evaluation = task.evaluate(network, pairs)
            picture = output / "pictures" / f"{step:07d}.png"
            _write_validation_picture(network, pairs[0], config.scale, picture)
            task.export(network, pairs, run_notes(config, step, psnr=evaluation.psnr))
            return {"psnr": evaluation.psnr, "ssim": evaluation.ssim}

        return Training(
            build=task.build,
            batches=CropBatches(
                photos,
                crop=config.crop,
                batch=config.batch,
                seed=config.seed,
                rank=fabric.global_rank,
            ),
            loss=loss,
            validate=validate,
            title=f"training x{config.scale}",
            same=("scale", "crop", *task.same),
            open_log=task.open_log,
        )

    train_network(config, fabric, prepare)
    return task.weights_path


def run_notes(config: TrainingConfig, step: int, *, psnr: float) -> dict[str, str]:
    """Return what weights are to say of themselves: the settings, the step, the held-out PSNR."""
    settings = {
        name: str(value) for name, value in asdict(config).items() if name not in _OF_THE_MACHINE
    }
    return {**settings, "step": str(step), "held_out_psnr": f"{psnr:.4f}"}


def run_settings(job: Callable[[], None], command: str, arguments: list[str] | None) -> None:
    """Run a Hydra job with ``name=value`` arguments, those of the process when None.

    Args:
        job: What ``hydra.main`` made.
        command: The package's command, such as ``lowvis-pan``, as messages call it.
        arguments: What stands behind ``train`` on the command line.

    Raises:
        UsageError: Hydra knows no such setting, or a value is of another type or missing.
        LowvisError: As the job.
    """
    if arguments is not None:
        sys.argv = [f"{command} train", *arguments]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here instead of being printed
    try:
        job()
    except Exception as error:
        # Told by name, since Hydra is an extra of the packages and none of the core.
        kind = type(error)
        if kind.__module__.partition(".")[0] not in ("hydra", "omegaconf"):
            raise
        if kind.__name__ == "MissingMandatoryValue":
            raise UsageError(
                "the folder of photographs is missing", hint=f"{command} train photos=FOLDER"
            ) from error
        reason = " ".join(str(error).split("\n")[:2]).strip()
        raise UsageError(reason, hint=f"{command} train --help lists every setting") from error


class MetricsLog:
    """Figures of a run as lines of ``metrics.jsonl``.

    Args:
        folder: Where the file lies.
        start: Step at which the run goes on: later lines, of a run that was killed, are removed.
        also: Called with the figures and the step of every line as well.
    """

    def __init__(self, folder: Path, start: int, also: Log | None = None) -> None:
        self._path, self._also = folder / "metrics.jsonl", also
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step_of(line) <= start]

        def write(file: BinaryIO) -> None:
            file.write("".join(f"{line}\n" for line in kept).encode())

        atomic_write(self._path, write, overwrite=True)
        spent = float(json.loads(kept[-1])["seconds"]) if kept else 0.0
        self._started = time.monotonic() - spent

    def training(self, step: int, loss: float, rate: float) -> None:
        """Record the mean loss since the last line."""
        self._write(step, {"loss": loss, "learning_rate": rate})

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures on the held-out photographs."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        logger.info("step %d: %s on the held-out photographs", step, shown)
        self._write(step, figures)

    def _write(self, step: int, figures: Mapping[str, float]) -> None:
        seconds = round(time.monotonic() - self._started, 1)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **figures, "seconds": seconds}) + "\n")
        if self._also is not None:
            self._also(dict(figures), step)


def take_fitting(
    network: nn.Module, state_dict: Mapping[str, Tensor], *, needed: str, source: str
) -> None:
    """Take over every tensor of a state dict that fits a network: a start for its training.

    Args:
        network: The network to be trained.
        state_dict: Tensors by the network's own keys, of this scale or another.
        needed: A key that must be among those that fit.
        source: What messages call the weights.

    Raises:
        WeightsError: The key does not fit: these are weights of another network.
    """
    own = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state_dict.items()
        if name in own and own[name].shape == tensor.shape
    }
    if needed not in fitting:
        raise WeightsError(f"{source} holds no layer of this network")
    network.load_state_dict(fitting, strict=False)
    logger.info("started from %d of %d tensors of %s", len(fitting), len(own), source)


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average that forgets the first, untrained steps faster."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        steps = int(count)
        return torch.lerp(averaged, current, 1 - min(decay, (1 + steps) / (10 + steps)))

    return average


def _any_process(fabric: "Fabric", stop: list[int]) -> int:
    """Return the number of a signal that any process received, or 0: all must stop together."""
    number = stop[0] if stop else 0
    if fabric.world_size == 1:
        return number
    highest = fabric.all_reduce(torch.tensor(number, device=fabric.device), reduce_op="max")
    return int(cast("Tensor", highest))


def _require_same_run(
    config: TrainingConfig, saved: Mapping[str, Any], names: Sequence[str]
) -> None:
    for name in ("seed", "batch", *names):
        if saved[name] != getattr(config, name):
            raise UsageError(
                f"the run in {config.output} has {name}={saved[name]}, not {getattr(config, name)}",
                hint="give this run another output=FOLDER",
            )


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):  # the line that a kill cut short
        return math.inf


@torch.inference_mode()
def _write_validation_picture(network: nn.Module, pair: PackedPair, scale: int, path: Path) -> None:
    low, _ = pair.read()
    low = low[:128, :128]
    image = to_tensor(Picture(low)).to(next(network.parameters()).device)
    upscaled = Picture(low).with_pixels(network(image)[0].permute(1, 2, 0).float().cpu().numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(comparison(Picture(bicubic(low, scale)), upscaled), path, overwrite=True)


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
