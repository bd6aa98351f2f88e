"""Training of PAN: a plain loop on Lightning Fabric, configured by Hydra.

One machine:    ``lowvis-pan train photos=FOLDER scale=4``
Two processes:  ``torchrun --nproc-per-node 2 -m lowvis_pan.train photos=FOLDER``

A run writes into its ``output`` folder: checkpoints, ``metrics.jsonl``, validation pictures and
``pan_x4.safetensors``, the averaged network. Starting it again goes on where it was. The loop is
``lowvis_shared.training.train_super_resolution``.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import hydra
from hydra.core.config_store import ConfigStore
from lightning_fabric import Fabric
from lowvis_shared.checkpoint import load_weights_file, save_weights_file
from lowvis_shared.errors import MissingExtraError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.photos import PackedPair
from lowvis_shared.training import (
    Log,
    SuperResolutionConfig,
    Task,
    fabric_options,
    run_settings,
    take_fitting,
    train_super_resolution,
)
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lowvis_pan.evaluate import evaluate_network
from lowvis_pan.guard import calibrate_limit
from lowvis_pan.model import PAN, PANConfig
from lowvis_pan.weights import resolve_weights


@dataclass
class TrainConfig(SuperResolutionConfig):
    """Everything that can be set on the command line as ``name=value``; see its base class.

    ``initial`` takes ``own``, ``official`` or a path.
    """

    output: str = "runs/pan-x${scale}"


def train(config: TrainConfig) -> Path:
    """Train, or go on training, and return the path of the weights.

    Raises:
        UsageError: Options do not make sense.
        InputError: A photograph or the folder cannot be used.
        WeightsError: The initial weights or a checkpoint do not fit, or training diverged.
    """
    config.check()
    shape = PANConfig(scale=config.scale)
    path = Path(config.output) / f"pan_x{config.scale}.safetensors"

    def build() -> PAN:
        network = PAN(shape)
        if config.initial is not None:
            source = resolve_weights(config.initial, config.scale)
            tensors, _ = load_weights_file(source)
            take_fitting(network, tensors, needed="conv_first.weight", source=str(source))
        return network

    def export(network: nn.Module, pairs: Sequence[PackedPair], notes: Mapping[str, str]) -> None:
        images = [to_tensor(Picture(pair.read()[0])) for pair in pairs]
        limit = calibrate_limit(cast("PAN", network), images)
        metadata = {**notes, "architecture": "PAN", "feature_limit": f"{limit:.4f}"}
        save_weights_file(path, network.state_dict(), metadata, overwrite=True)

    task = Task(
        build=build,
        evaluate=lambda network, pairs: evaluate_network(cast("PAN", network), pairs, config.scale),
        export=export,
        weights_path=path,
        open_log=None if config.wandb == "disabled" else partial(_open_wandb, config),
    )
    return train_super_resolution(config, Fabric(**fabric_options(config)), task)


def _open_wandb(config: TrainConfig) -> Log:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise MissingExtraError("lowvis-pan", "train") from error
    run = wandb.init(
        project="lowvis-pan",
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
    run_settings(_job, "lowvis-pan", arguments)


ConfigStore.instance().store("pan_schema", TrainConfig)

if __name__ == "__main__":  # what torchrun starts
    from lowvis_pan.cli import main as command

    command(["train", *sys.argv[1:]])
