"""Training of the networks of this package: a plain loop on Lightning Fabric, by Hydra's settings.

One machine:    ``lowvis-aim2020 train photos=FOLDER network=folded-x4``
Two processes:  ``torchrun --nproc-per-node 2 -m lowvis_aim2020.train photos=FOLDER``

A run writes into its ``output`` folder: checkpoints, ``metrics.jsonl``, validation pictures and the
averaged network, such as ``folded_x4.safetensors``, in the form in which it runs. Starting it again
goes on where it was. The loop is ``lowvis_shared.training.train_super_resolution``.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, cast

import hydra
import numpy as np
import torch
import torch.nn.functional as F
from hydra.core.config_store import ConfigStore
from lightning_fabric import Fabric
from lowvis_shared.checkpoint import load_weights_file, save_weights_file
from lowvis_shared.device import choose_device
from lowvis_shared.errors import MissingExtraError, UsageError
from lowvis_shared.files import sha256_file
from lowvis_shared.images import Picture, to_array, to_tensor
from lowvis_shared.pairs import evaluate_network
from lowvis_shared.photos import PackedPair, Teacher
from lowvis_shared.training import (
    Log,
    SuperResolutionConfig,
    Task,
    fabric_options,
    run_settings,
    take_fitting,
    train_super_resolution,
)
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lowvis_aim2020.model import Network, find_network
from lowvis_aim2020.weights import load_network, resolve_weights

_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


@dataclass
class TrainConfig(SuperResolutionConfig):
    """Everything that can be set on the command line as ``name=value``; see its base class too.

    ``scale`` is the network's; ``initial`` takes ``official`` or a path.

    Attributes:
        network: The network to train, such as ``folded-x4``, ``rfdn-x4`` or ``msrresnet-x4``.
        loss: ``l1`` or ``l2``.
        teacher: A network of this package with official weights to learn from as well, such as
            ``bsrn-x4``; none when left out.
        distillation: Share of the loss that is against the teacher's pictures.
    """

    output: str = "runs/${network}"
    network: str = "folded-x4"
    loss: str = "l1"
    teacher: str | None = None
    distillation: float = 0.5

    def check(self) -> None:
        """Refuse settings that make no sense; raises `UsageError`."""
        SuperResolutionConfig.check(self)
        if self.loss not in _LOSSES:
            raise UsageError(f"loss={self.loss} is not one of {', '.join(_LOSSES)}")
        if not 0 <= self.distillation <= 1:
            raise UsageError("distillation is a share between 0 and 1")


def train(config: TrainConfig) -> Path:
    """Train, or go on training, and return the path of the weights.

    Raises:
        UsageError: Options do not make sense.
        InputError: A photograph or the folder cannot be used.
        WeightsError: The initial weights or a checkpoint do not fit, or training diverged.
    """
    config.check()
    network = find_network(config.network)
    config = replace(config, scale=network.scale)
    if config.initial is not None and not network.trains_as_it_runs:
        raise UsageError(
            f"weights of {network.name} are folded and cannot be trained on",
            hint="start its run again: it goes on from its checkpoints",
        )
    path = Path(config.output) / f"{network.name.replace('-', '_')}.safetensors"

    def build() -> nn.Module:
        module = (network.build_for_training or network.build)()
        if config.initial is not None:
            source = resolve_weights(network, config.initial)
            tensors, _ = load_weights_file(source)
            first = next(iter(module.state_dict()))
            take_fitting(module, tensors, needed=first, source=str(source))
        return module

    def export(module: nn.Module, pairs: Sequence[PackedPair], notes: Mapping[str, str]) -> None:
        del pairs
        tensors = network.fold(module).state_dict()
        metadata = {**notes, "architecture": network.name}
        save_weights_file(path, tensors, metadata, overwrite=True)

    task = Task(
        build=build,
        evaluate=partial(
            evaluate_network, scale=network.scale, receptive_radius=network.receptive_radius
        ),
        export=export,
        weights_path=path,
        loss=partial(_loss, config),
        teacher=None if config.teacher is None else _teacher(config, network),
        same=("network", "teacher"),
        open_log=None if config.wandb == "disabled" else partial(_open_wandb, config),
    )
    return train_super_resolution(config, Fabric(**fabric_options(config)), task)


def _loss(config: TrainConfig, output: Tensor, target: Tensor) -> Tensor:
    """Distance to the photograph and, where there is a teacher, to its picture."""
    distance = _LOSSES[config.loss]
    loss = distance(output, target[:, :3])
    if config.teacher is None:
        return loss
    return torch.lerp(loss, distance(output, target[:, 3:]), config.distillation)


def _teacher(config: TrainConfig, student: Network) -> Teacher:
    name = str(config.teacher)
    network = find_network(name)
    if network.scale != student.scale:
        raise UsageError(f"{name} cannot teach {student.name}: their scales differ")
    path = resolve_weights(network, "official")
    place = choose_device(config.device)

    @cache  # opened when there is something to pack: a run that goes on has its pictures
    def module() -> nn.Module:
        return load_network(network, "official").to(place)

    @torch.inference_mode()
    def upscale(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        output = module()(to_tensor(Picture(low)).to(place)).clamp(0, 1)
        return np.rint(to_array(output.cpu()) * 255).astype(np.uint8)

    return Teacher(f"{name} {sha256_file(path)}", upscale)


def _open_wandb(config: TrainConfig) -> Log:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise MissingExtraError("lowvis-aim2020", "train") from error
    run = wandb.init(
        project="lowvis-aim2020",
        dir=config.output,
        config=asdict(config),
        mode=cast("Literal['online', 'offline']", config.wandb),
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
    run_settings(_job, "lowvis-aim2020", arguments)


ConfigStore.instance().store("aim2020_schema", TrainConfig)

if __name__ == "__main__":  # what torchrun starts
    from lowvis_aim2020.cli import main as command

    command(["train", *sys.argv[1:]])
