"""Training of ClassSR in its stages: a plain loop on Lightning Fabric, configured by Hydra.

One machine:    ``lowvis-classsr train photos=FOLDER network=fsrcnn``
Two processes:  ``torchrun --nproc-per-node 2 -m lowvis_classsr.train photos=FOLDER``

``stage=all`` runs one after the other what ``stage=...`` runs alone (Section 3.4):

- ``original``: the widest network on all patches, which the others are compared with;
- ``branches``: each branch on the patches of its class, but for the hardest, which is the original;
- ``classifier``: the Class-Module, with the branches as they are;
- ``joint``: the branches once more, on the patches that the Class-Module gives them, or (as the
  paper does) everything together.

Each stage has a folder in ``output`` with its checkpoints, ``metrics.jsonl`` and weights, and takes
up the weights of those before it. Starting it again goes on where it was.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, cast

import hydra
import numpy as np
import torch
import torch.nn.functional as F
from hydra.core.config_store import ConfigStore
from lightning_fabric import Fabric
from lowvis_shared.candidates import find_candidate
from lowvis_shared.checkpoint import load_weights_file, save_weights_file
from lowvis_shared.errors import MissingExtraError, UsageError, WeightsError
from lowvis_shared.images import quantize
from lowvis_shared.pairs import upscaler
from lowvis_shared.photos import PackedPhotos, list_photos, pack_photos, split_photos
from lowvis_shared.training import (
    Log,
    Training,
    TrainingConfig,
    fabric_options,
    run_notes,
    run_settings,
    take_fitting,
    train_network,
)
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import Dataset

from lowvis_classsr.branches import narrowed
from lowvis_classsr.cost import branch_costs
from lowvis_classsr.data import (
    JudgedPatches,
    PatchBatches,
    Patches,
    Pixels,
    degrade,
    find_patches,
    plain,
    read_patch,
    to_batch,
)
from lowvis_classsr.losses import average_loss, class_loss, patch_loss, regrets
from lowvis_classsr.model import BLOCK, PATCH, ClassSR, ClassSRConfig
from lowvis_classsr.weights import load_weights

logger = logging.getLogger("lowvis")

STAGES = ("original", "branches", "classifier", "joint")

_COLLAPSE_STEPS = 200
"""Steps over which the classifier must have used more than one class."""

_JUDGED_AT_ONCE = 512

_TEMPERATURE = 0.1
"""Decibels by which ``regret`` lets the classifier hesitate."""

_MOST_LOST = 3.0
"""Decibels from which on a branch is simply wrong for a patch.

In denoising a narrow branch, which has only seen smooth patches, loses 20 on others: such patches
would drown what tells the rest apart, and all would go to the medium branch.
"""

_VALIDATED = 4000
"""Most patches of a validation, spread evenly over those held out."""


@dataclass
class TrainConfig(TrainingConfig):
    """Everything that can be set on the command line as ``name=value``; see its base class too.

    ``steps``, ``batch`` and ``learning_rate`` are those of ``original`` and of each branch;
    ``initial`` gives them weights to start from: a file of the whole network, or of one branch.
    With ``stage=classifier`` or ``stage=joint`` it takes the place of the stages before.

    Attributes:
        stage: ``all``, or one of ``original``, ``branches``, ``classifier``, ``joint``.
        network: ``fsrcnn``, ``carn``, ``srresnet`` or ``rcan``.
        widths: Widths of the branches, simple to hard; the paper's when empty. Their number is the
            number of classes.
        scale: Output size over input size; 1 restores.
        noise: Standard deviation of noise to be taken away, in 8-bit steps.
        patch: Side of a patch in low-resolution pixels, a multiple of 4.
        patch_step: Pixels between two patches.
        scorer: Who tells simple patches from hard ones: ``plain`` (bicubic), or a network of any
            installed package or of your own, such as ``pan-x4``.
        from_original: Start the branches from ``original``, the narrower ones from its first
            channels, instead of from nothing.
        hardest_alone: Train the hardest branch on its class too, as the authors do, instead of
            taking ``original`` as it is, which is better where it upscales a picture alone.
        branch_loss: ``patch`` (`lowvis_classsr.losses.patch_loss`) or ``l1``, as the authors.
        batch_statistics: Let CARN's batch normalization follow the statistics of its batches, as
            the authors do, instead of leaving them at what they are.
        classifier_steps: Length of ``classifier``.
        classifier_rate: Its learning rate.
        joint_steps: Length of ``joint``.
        joint_rate: Its learning rate.
        routed_batch: Patches per step of both.
        image_weight: Weight of the L1 loss of the blended picture.
        class_weight: Weight of Class-Loss.
        average_weight: Weight of Average-Loss.
        classifier_loss: What ``classifier`` minimizes. ``regret``: the decibels lost to the best
            branch plus the price of the branch taken, expected over the probabilities, less a
            little of their entropy, from a table of what each branch makes of each patch; ``joint``
            then trains the branches (but for the hardest, where that is the original) by
            `lowvis_classsr.losses.patch_loss`, each patch for as much as its probability.
            ``paper``: the three losses above, on blended pictures, in both stages.
        judged: Patches in that table.
        dimmed: Share of the patches that the Class-Module is shown darkened, as if taken at night,
            where detail lies in small differences.
        price: Decibels that the original network's cost is worth, for ``regret``: the higher, the
            more patches go to narrow branches.
        shares: Shares of the classes that Average-Loss wants; equal ones when empty.
    """

    output: str = "runs/classsr-${network}"
    batch: int = 16
    held_out: int = 16
    stage: str = "all"
    network: str = "fsrcnn"
    widths: list[int] = field(default_factory=list[int])
    scale: int = 4
    noise: float = 0.0
    patch: int = PATCH
    patch_step: int = 8
    scorer: str = "plain"
    from_original: bool = True
    hardest_alone: bool = False
    branch_loss: str = "patch"
    batch_statistics: bool = False
    classifier_steps: int = 5000
    classifier_rate: float = 1e-3
    joint_steps: int = 4000
    joint_rate: float = 1e-3
    routed_batch: int = 48
    image_weight: float = 1000.0
    class_weight: float = 0.5
    average_weight: float = 3.0
    classifier_loss: str = "regret"
    judged: int = 12_000
    dimmed: float = 0.5
    price: float = 0.5
    shares: list[float] = field(default_factory=list[float])

    _COUNTS: ClassVar[tuple[str, ...]] = (
        *TrainingConfig._COUNTS,
        *("patch", "patch_step", "classifier_steps", "joint_steps", "routed_batch", "judged"),
    )

    def check(self) -> None:
        """Refuse settings that make no sense; raises `UsageError`."""
        TrainingConfig.check(self)
        if self.stage not in ("all", *STAGES):
            raise UsageError(f"stage={self.stage} is not one of all, {', '.join(STAGES)}")
        if self.patch % BLOCK:
            raise UsageError(f"patch={self.patch} is no multiple of {BLOCK}")
        if self.noise < 0 or (self.scale == 1) != (self.noise > 0):
            raise UsageError("scale=1 and a positive noise belong together", hint="task=denoise")
        for name, value, known in (
            ("branch_loss", self.branch_loss, ("patch", "l1")),
            ("classifier_loss", self.classifier_loss, ("regret", "paper")),
        ):
            if value not in known:
                raise UsageError(f"{name}={value} is not one of {', '.join(known)}")
        if not 0 <= self.dimmed <= 1:
            raise UsageError(f"dimmed={self.dimmed} is no share between 0 and 1")
        if min(self.image_weight, self.class_weight, self.average_weight, self.price) < 0:
            raise UsageError("weights of losses and the price cannot be negative")
        shape = self.shape
        average_loss(torch.ones(1, shape.classes), self.shares or None)
        if shape.classes == 1:
            raise UsageError("one width is one class: there is nothing to choose")

    @property
    def shape(self) -> ClassSRConfig:
        """The network these settings describe."""
        return ClassSRConfig(network=self.network, widths=tuple(self.widths), scale=self.scale)


class Routing(nn.Module):
    """What is trained of a ClassSR, as a module of one result per step.

    Batch normalization keeps the statistics of the branches' own training: those of a batch that
    every branch sees whole would not be those of the patches it is given in use.

    Args:
        network: The ClassSR.
        classifier: Train the Class-Module.
        branches: Train so many branches, from the simplest on.
        blend: Return the blended picture instead of those of the branches that are trained.
    """

    def __init__(
        self, network: ClassSR, *, classifier: bool, branches: int, blend: bool = False
    ) -> None:
        super().__init__()
        self.network, self._blend = network, blend
        network.classifier.requires_grad_(classifier)
        self._trained = network.branches[:branches]
        for branch in network.branches:
            branch.eval()
            branch.requires_grad_(branch in self._trained)

    def forward(self, patches: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return pictures (B, 3, H, W), and the probabilities (B, classes)."""
        if self._blend:
            picture, probabilities = self.network.blend(patches)
            return [picture], probabilities
        probabilities = self.network.classifier(patches).softmax(1)
        return [branch(patches) for branch in self._trained], probabilities


@dataclass(frozen=True, slots=True)
class Material:
    """Patches of the photographs to train on, and of those held out.

    Attributes:
        photos: Packed photographs to train on.
        patches: Their patches.
        unseen: Packed photographs held out.
        unseen_patches: Their patches, side by side.
        thresholds: PSNR between the classes, rising, of the patches to train on.
    """

    photos: PackedPhotos
    patches: Patches
    unseen: PackedPhotos
    unseen_patches: Patches
    thresholds: list[float]

    def rows(self, index: int | None, *, unseen: bool = False) -> NDArray[np.int64]:
        """Return the patches of a class, or all of them."""
        patches = self.unseen_patches if unseen else self.patches
        if index is None:
            return np.arange(len(patches))
        return np.flatnonzero(patches.classes(self.thresholds) == index)


def train(config: TrainConfig) -> Path:
    """Train, or go on training, and return the path of the weights of the last stage.

    Raises:
        UsageError: Options do not make sense, or an earlier stage has not been run.
        InputError: A photograph or the folder cannot be used.
        WeightsError: Weights or a checkpoint do not fit, or training diverged.
    """
    config.check()
    for index in range(config.shape.classes):
        config.shape.build_branch(index)  # refuses a width before hours, not after
    fabric = Fabric(**fabric_options(config))
    path = Path(config.output)
    for stage in STAGES if config.stage == "all" else (config.stage,):
        if stage == "original":
            path = _train_branch(config, fabric, "original", -1, None)
        elif stage == "branches":
            for index, name in enumerate(_branch_stages(config)):
                if name != "original":
                    path = _train_branch(config, fabric, name, index, index)
        else:
            path = _train_routed(config, fabric, stage)
    return path


def stage_weights(config: TrainConfig, stage: str) -> Path:
    """Path of the weights that a stage writes, ``branch1`` and so on among the stages."""
    name = "classsr_" * (stage in STAGES[2:]) + config.network
    return Path(config.output) / stage / f"{name}.safetensors"


def _branch_stages(config: TrainConfig) -> list[str]:
    """Names of the stages that the branches come from, simple to hard."""
    names = [f"branch{index + 1}" for index in range(config.shape.classes)]
    return names if config.hardest_alone else [*names[:-1], "original"]


def _train_branch(
    config: TrainConfig, fabric: Fabric, stage: str, branch: int, patch_class: int | None
) -> Path:
    """Train one branch on the patches of a class, or of all."""
    own = replace(config, output=str(stage_weights(config, stage).parent))
    path = stage_weights(config, stage)
    shape = config.shape
    measure = F.l1_loss if config.branch_loss == "l1" else patch_loss

    def build() -> nn.Module:
        network = shape.build_branch(branch)
        original = stage_weights(config, "original")
        if config.initial is not None:
            tensors, _ = load_weights_file(Path(config.initial))
            place = f"net{branch % shape.classes + 1}."  # in a file of the whole network
            tensors = {key.removeprefix(place): tensor for key, tensor in tensors.items()}
            needed = next(iter(network.state_dict()))
            take_fitting(network, tensors, needed=needed, source=config.initial)
        elif patch_class is not None and config.from_original and original.is_file():
            state, _ = load_weights_file(original)
            network.load_state_dict(narrowed(state, shape.widths[-1], network))
        # Statistics of a few patches are noise. Left at 0 and 1 they make of batch normalization
        # a scale and a shift, and training and use the same.
        return network.train(config.batch_statistics)

    def prepare(fabric: Fabric) -> Training:
        material = _material(config, fabric)
        rows = material.rows(patch_class)
        low, high = _validation(material, material.rows(patch_class, unseen=True), config)

        def validate(network: nn.Module, step: int) -> Mapping[str, float]:
            psnr = _psnr(_in_parts(network, low), high)
            notes = run_notes(own, step, psnr=psnr)
            save_weights_file(path, network.state_dict(), notes, overwrite=True)
            return {"psnr": psnr}

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return measure(model(batch[0]), batch[1])

        batches = _patches(material, rows, own, fabric)
        return _training(own, build, batches, loss, validate, stage)

    train_network(own, fabric, prepare)
    return path


def _train_routed(config: TrainConfig, fabric: Fabric, stage: str) -> Path:
    """Train the Class-Module, with the branches frozen or not."""
    path = stage_weights(config, stage)
    joint = stage == "joint"
    by_regret = config.classifier_loss == "regret"
    rate = config.joint_rate if joint else config.classifier_rate
    own = replace(
        config,
        output=str(path.parent),
        batch=config.routed_batch,
        steps=config.joint_steps if joint else config.classifier_steps,
        learning_rate=rate,
        floor=min(config.floor, rate),
    )
    shape = config.shape
    watch = CollapseWatch(shape.classes)
    costs = torch.tensor([each.macs for each in branch_costs(shape)], dtype=torch.float32)
    relative_costs = costs / costs[-1]

    def build() -> nn.Module:
        network = ClassSR(shape)
        if config.initial is not None and config.stage == stage:
            load_weights(network, Path(config.initial))
        elif joint:
            network.load_state_dict(_tensors(stage_weights(config, "classifier")))
        else:
            for name, branch in zip(_branch_stages(config), network.branches, strict=True):
                branch.load_state_dict(_tensors(stage_weights(config, name)))
        if not by_regret:
            trained = shape.classes if joint else 0
            return Routing(network, classifier=True, branches=trained, blend=True)
        if not joint:
            return Routing(network, classifier=True, branches=0)
        trained = shape.classes if config.hardest_alone else shape.classes - 1
        return Routing(network, classifier=False, branches=trained)

    def blended_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        (output,), probabilities = model(batch[0])
        watch.see(probabilities)
        balance = average_loss(probabilities, config.shares or None)
        return (
            config.image_weight * F.l1_loss(output, batch[1])
            + config.class_weight * class_loss(probabilities)
            + config.average_weight * balance
        )

    def routed_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        pictures, probabilities = model(batch[0])
        watch.see(probabilities)
        losses = [
            patch_loss(picture, batch[1], probabilities[:, index])
            for index, picture in enumerate(pictures)
        ]
        return torch.stack(losses).sum()

    def regret_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        _, probabilities = model(batch[0])
        watch.see(probabilities)
        losses = batch[1] + config.price * relative_costs.to(batch[1])
        # Least where the logits are the expected losses over -_TEMPERATURE: so they never
        # saturate, and a penalty on the cost is a price in decibels.
        surprises = _TEMPERATURE * probabilities.clamp(min=1e-9).log()
        return (probabilities * (losses + surprises)).sum(1).mean()

    def prepare(fabric: Fabric) -> Training:
        material = _material(config, fabric)
        low, high = _validation(material, material.rows(None, unseen=True), config)
        thresholds = material.patches.edge_thresholds(shape.classes)

        def validate(network: nn.Module, step: int) -> Mapping[str, float]:
            routed = cast("Routing", network).network
            psnr = _psnr(_in_parts(routed, low), high)
            classes = _in_parts(routed.classifier, low).argmax(1)
            counts = torch.bincount(classes, minlength=shape.classes) / len(classes)
            watch.tell(step)
            notes = {
                **run_notes(own, step, psnr=psnr),
                "architecture": "ClassSR",
                "edge_thresholds": " ".join(f"{each:.6g}" for each in thresholds),
                "psnr_thresholds": " ".join(f"{each:.4f}" for each in material.thresholds),
            }
            save_weights_file(path, routed.state_dict(), notes, overwrite=True)
            figures = {f"share{index + 1}": float(each) for index, each in enumerate(counts)}
            return {"psnr": psnr, **figures, "macs": float(counts @ relative_costs)}

        if joint or not by_regret:
            batches = _patches(material, material.rows(None), own, fabric)
            loss = routed_loss if by_regret else blended_loss
            return _training(own, build, batches, loss, validate, stage)
        branches = cast("Routing", build()).network.branches
        batches = _judge(material, branches, own, fabric)
        return _training(own, build, batches, regret_loss, validate, stage)

    train_network(own, fabric, prepare)
    return path


def _judge(
    material: Material, branches: Sequence[nn.Module], config: TrainConfig, fabric: Fabric
) -> JudgedPatches:
    """Let every branch upscale patches of all photographs, and note what it loses."""
    rows = material.rows(None)
    if len(rows) > config.judged:
        generator = np.random.default_rng([config.seed, 1])
        rows = np.sort(generator.choice(rows, config.judged, replace=False))
    logger.info("judging %d patches by %d branches", len(rows), len(branches))
    lows: list[Pixels] = []
    errors: list[Tensor] = []
    for part in np.array_split(rows, -(-len(rows) // _JUDGED_AT_ONCE)):
        low, high = _read(material.photos, material.patches, part, config)
        lows.append(low)
        outputs = [_in_parts(branch.to(fabric.device), to_batch(low)) for branch in branches]
        target = to_batch(high)
        squares = [(each.clamp(0, 1) - target).square().mean((1, 2, 3)) for each in outputs]
        errors.append(torch.stack(squares, 1))
    photos = torch.from_numpy(material.patches.photo[rows].astype(np.int64))
    return JudgedPatches(
        np.concatenate(lows),
        regrets(torch.cat(errors), photos).clamp(max=_MOST_LOST).numpy(),
        batch=config.batch,
        dimmed=config.dimmed,
        seed=config.seed,
        rank=fabric.global_rank,
    )


class CollapseWatch:
    """Notices that the Class-Module sends everything to one class, which no loss undoes by itself.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._recent: deque[Tensor] = deque(maxlen=_COLLAPSE_STEPS)

    def see(self, probabilities: Tensor) -> None:
        """Count the classes of one step's probabilities (B, classes)."""
        chosen = probabilities.detach().argmax(1)
        self._recent.append(torch.bincount(chosen, minlength=self._classes).cpu())

    def tell(self, step: int) -> bool:
        """Warn if the last steps used one class alone, and return whether they did."""
        if not self._recent:
            return False
        counts = torch.stack(list(self._recent)).sum(0)
        collapsed = int((counts > 0).sum()) == 1
        if collapsed:
            logger.warning(
                "step %d: the classifier has collapsed, all patches of the last %d steps went to "
                "class %d; lower the learning rate, raise average_weight, or change price",
                step,
                len(self._recent),
                int(counts.argmax()) + 1,
            )
        return collapsed


def _patches(
    material: Material, rows: NDArray[np.int64], config: TrainConfig, fabric: Fabric
) -> PatchBatches:
    return PatchBatches(
        material.photos,
        material.patches,
        rows,
        batch=config.batch,
        noise=config.noise,
        seed=config.seed,
        rank=fabric.global_rank,
    )


def _training(
    config: TrainConfig,
    build: Callable[[], nn.Module],
    batches: Dataset[tuple[Tensor, Tensor]],
    loss: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor],
    validate: Callable[[nn.Module, int], Mapping[str, float]],
    stage: str,
) -> Training:
    return Training(
        build=build,
        batches=batches,
        loss=loss,
        validate=validate,
        title=f"{config.network}, {stage}",
        same=("network", "widths", "scale", "noise", "patch", "patch_step", "scorer", "held_out"),
        open_log=None if config.wandb == "disabled" else partial(_open_wandb, config, stage),
    )


def _material(config: TrainConfig, fabric: Fabric) -> Material:
    """Pack the photographs and score their patches, once for all stages."""
    folder = Path(config.output) / "photos"
    upscale = _scorer(config)
    with fabric.rank_zero_first():  # the first process packs and scores, the others find it done
        found: list[tuple[PackedPhotos, Patches]] = []
        files = split_photos(list_photos(Path(config.photos)), config.held_out)
        for paths, step in zip(files, (config.patch_step, config.patch), strict=True):
            photos = pack_photos(
                paths,
                scale=config.scale,
                minimum=config.patch,
                folder=folder,
                on_error="skip" if config.on_error == "skip" else "fail",
            )
            patches = find_patches(
                photos,
                side=config.patch,
                step=step,
                upscale=upscale,
                scorer=config.scorer,
                noise=config.noise,
                seed=config.seed,
            )
            found.append((photos, patches))
    (photos, patches), (unseen, unseen_patches) = found
    thresholds = patches.thresholds(config.shape.classes)
    return Material(photos, patches, unseen, unseen_patches, thresholds)


def _scorer(config: TrainConfig) -> Callable[[Pixels], Pixels]:
    if config.scorer == "plain":
        return partial(plain, scale=config.scale)
    task = "denoising" if config.scale == 1 else "super-resolution"
    candidate = find_candidate(config.scorer, scale=config.scale, task=task)
    if candidate.scale != config.scale:
        raise UsageError(f"scorer={config.scorer} has scale {candidate.scale}")
    run = upscaler(candidate.open(), config.scale, receptive_radius=candidate.receptive_radius)
    return lambda low: quantize(run(low).clip(0, 1), np.dtype(np.uint8))


def _validation(
    material: Material, rows: NDArray[np.int64], config: TrainConfig
) -> tuple[Tensor, Tensor]:
    """Return patches held out and their targets, a few thousand at most."""
    if not len(rows):
        raise UsageError("a class has no patch held out", hint="a larger held_out")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _VALIDATED).astype(int))]
    low, high = _read(material.unseen, material.unseen_patches, chosen, config)
    return to_batch(low), to_batch(high)


def _read(
    photos: PackedPhotos, patches: Patches, rows: NDArray[np.int64], config: TrainConfig
) -> tuple[Pixels, Pixels]:
    """Return patches, with the noise that is always theirs, and their targets, (N, H, W, 3)."""
    pairs = [read_patch(photos, patches, int(row)) for row in rows]
    lows = [
        degrade(low, config.noise, np.random.default_rng([config.seed, int(row)]))
        for row, (low, _) in zip(rows, pairs, strict=True)
    ]
    return np.stack(lows), np.stack([high for _, high in pairs])


@torch.inference_mode()
def _in_parts(network: nn.Module, batch: Tensor) -> Tensor:
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).cpu() for part in batch.split(64)])


def _psnr(output: Tensor, target: Tensor) -> float:
    """PSNR over all pixels together, RGB, in dB."""
    error = (output.clamp(0, 1).double() - target.double()).square().mean()
    return float(-10 * torch.log10(error))


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"there are no weights at {path}: an earlier stage has not been run",
            hint=f"stage=all, or one after the other stage={', '.join(STAGES)}",
        )
    return load_weights_file(path)[0]


def _open_wandb(config: TrainConfig, stage: str) -> Log:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise MissingExtraError("lowvis-classsr", "train") from error
    run = wandb.init(
        project="lowvis-classsr",
        group=config.network,
        name=stage,
        dir=config.output,
        config=asdict(config),
        mode=cast("Literal['online', 'offline']", config.wandb),
        reinit=True,
    )
    return lambda figures, step: run.log(figures, step=step)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def _job(settings: DictConfig) -> None:
    train(cast("TrainConfig", OmegaConf.to_object(settings)))


def main(arguments: list[str] | None = None) -> None:
    """Run the Hydra command with ``name=value`` arguments, those of the process when left out.

    Raises:
        UsageError: Hydra knows no such setting, or a value is of another type.
        LowvisError: As `train`.
    """
    run_settings(_job, "lowvis-classsr", arguments)


ConfigStore.instance().store("classsr_schema", TrainConfig)

if __name__ == "__main__":  # what torchrun starts
    from lowvis_classsr.cli import main as command

    command(["train", *sys.argv[1:]])
