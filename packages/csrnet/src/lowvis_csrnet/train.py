"""Training of CSRNet and CSRNet-L: a plain loop on Lightning Fabric, configured by Hydra.

One machine:    ``lowvis-csrnet train photos=FOLDER``
Two processes:  ``torchrun --nproc-per-node 2 -m lowvis_csrnet.train photos=FOLDER``

A run writes into its ``output`` folder: checkpoints, ``metrics.jsonl``, validation pictures and
``csrnet.safetensors``, the averaged network. Starting it again goes on where it was. The loop is
``lowvis_shared.training.train_network``.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, cast

import hydra
import numpy as np
import torch
import torch.nn.functional as F
from hydra.core.config_store import ConfigStore
from lightning_fabric import Fabric
from lowvis_shared.checkpoint import load_weights_file, save_weights_file
from lowvis_shared.errors import MissingExtraError, UsageError
from lowvis_shared.files import sha256_file
from lowvis_shared.images import Picture, comparison, to_array, write_image
from lowvis_shared.metrics import Protocol, Score, score, summarize
from lowvis_shared.photos import list_photos, split_photos
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
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lowvis_csrnet.data import Batch, Batches, Lesson, Photo, lesson, load_photos, network_input
from lowvis_csrnet.model import NETWORKS, CSRNetConfig
from lowvis_csrnet.spaces import InputSpace, check_input_space
from lowvis_csrnet.weights import expected_space, resolve_weights


@dataclass
class TrainConfig(TrainingConfig):
    """Everything that can be set on the command line as ``name=value``; see its base class too.

    ``photos`` are what the network is to learn to make; ``initial`` takes ``own``, ``official`` or
    a path.

    Attributes:
        network: ``csrnet`` or ``csrnet-l``.
        condition: What the condition of ``csrnet`` is made of, joined by ``+``: ``network``,
            ``brightness``, ``mean``, ``histogram``; ``none`` for the base network alone.
        learn: ``retouch`` takes defects away that are simulated; ``pairs`` learns from ``inputs``;
            or an operation to imitate, such as ``contrast-1.5`` or ``local-contrast``.
        inputs: For ``pairs``: folder with what the photographs were before, under the same names.
        input_space: ``srgb``, or ``prophoto-1.8`` to go on from the official weights.
        train_only: ``all``, or ``condition`` to leave the base network as it is (expert transfer).
        side: Long edge that photographs are reduced to, in pixels.
        pixels: Pixels drawn of each photograph and step (``csrnet``).
        crop: Side of a training crop in pixels (``csrnet-l``).
    """

    output: str = "runs/${network}"
    held_out: int = 24
    network: str = "csrnet"
    condition: str = "network"
    learn: str = "retouch"
    inputs: str | None = None
    input_space: str = "srgb"
    train_only: str = "all"
    side: int = 500
    pixels: int = 4096
    crop: int = 96

    _COUNTS: ClassVar[tuple[str, ...]] = (*TrainingConfig._COUNTS, "side", "pixels", "crop")

    def check(self) -> None:
        """Refuse settings that make no sense; raises `UsageError`."""
        TrainingConfig.check(self)
        lesson(self.learn)
        check_input_space(self.input_space)
        for name, value, known in (
            ("network", self.network, tuple(NETWORKS)),
            ("train_only", self.train_only, ("all", "condition")),
        ):
            if value not in known:
                raise UsageError(f"{name}={value} is not one of {', '.join(known)}")
        if (self.learn == "pairs") != (self.inputs is not None):
            raise UsageError("learn=pairs and inputs=FOLDER belong together")
        NETWORKS[self.network](CSRNetConfig.of_condition(self.condition))
        if self.train_only == "condition" and self.condition == "none":
            raise UsageError("condition=none has no condition to train")


def train(config: TrainConfig) -> Path:
    """Train, or go on training, and return the path of the weights.

    Raises:
        UsageError: Options do not make sense.
        InputError: A photograph or the folder cannot be used.
        WeightsError: The initial weights or a checkpoint do not fit, or training diverged.
    """
    config.check()
    output = Path(config.output)
    path = output / f"{config.network.replace('-', '_')}.safetensors"
    space = cast("InputSpace", config.input_space)
    learnt = lesson(config.learn)

    def build() -> nn.Module:
        network = NETWORKS[config.network](CSRNetConfig.of_condition(config.condition))
        if config.initial is not None:
            source = resolve_weights(config.network, config.initial)
            tensors, metadata = load_weights_file(source)
            expected = expected_space(metadata, sha256_file(source))
            if expected != space:
                raise UsageError(
                    f"{source} expects {expected}, not {space}", hint=f"input_space={expected}"
                )
            take_fitting(network, tensors, needed="conv1.weight", source=str(source))
        if config.train_only == "condition":
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name.startswith("cond_"))
        return network

    def prepare(fabric: Fabric) -> Training:
        training, held_out = (
            load_photos(
                paths,
                side=config.side,
                inputs=None if config.inputs is None else Path(config.inputs),
                on_error="skip" if config.on_error == "skip" else "fail",
            )
            for paths in split_photos(list_photos(Path(config.photos)), config.held_out)
        )

        def validate(network: nn.Module, step: int) -> Mapping[str, float]:
            figures, picture = _score(network, held_out, learnt, space, config.seed)
            write_image(picture, output / "pictures" / f"{step:07d}.png", overwrite=True)
            notes = run_notes(config, step, psnr=figures["psnr"])
            save_weights_file(path, network.state_dict(), notes, overwrite=True)
            return figures

        return Training(
            build=build,
            batches=Batches(
                training,
                learnt,
                space=space,
                batch=config.batch,
                pixels=config.pixels if config.network == "csrnet" else 0,
                crop=config.crop,
                seed=config.seed,
                rank=fabric.global_rank,
            ),
            loss=_loss,
            validate=validate,
            title=f"training {config.network}",
            same=(
                *("network", "condition", "learn", "input_space", "train_only"),
                *("initial", "held_out", "side", "pixels", "crop"),
            ),
            open_log=None if config.wandb == "disabled" else partial(_open_wandb, config),
        )

    train_network(config, Fabric(**fabric_options(config)), prepare)
    return path


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean absolute difference between the output, not clamped, and the target."""
    output = model(batch.image, batch.references) if batch.references else model(batch.image)
    return F.l1_loss(output, batch.target)


@torch.inference_mode()
def _score(
    network: nn.Module, photos: Sequence[Photo], learnt: Lesson, space: InputSpace, seed: int
) -> tuple[dict[str, float], Picture]:
    """Return figures on photographs held out, whose defects are always the same, and a picture."""
    # One picture that is equal in every code would make a mean of decibels infinite.
    protocol = Protocol(color="rgb", reduction="pooled")
    device = next(network.parameters()).device
    inputs: list[Score] = []
    outputs: list[Score] = []
    pictures: list[Picture] = []
    for index, photo in enumerate(photos):
        before, after = learnt(photo, np.random.default_rng([seed, index]))
        output = to_array(network(network_input(before, space).to(device)))
        inputs.append(score(before, after, protocol))
        outputs.append(score(output, after, protocol))
        if index == 0:
            pictures = [Picture(photo.pixels).with_pixels(each) for each in (before, output)]
    result = summarize(outputs)
    figures = {"psnr": result.psnr, "ssim": result.ssim, "psnr_input": summarize(inputs).psnr}
    return figures, comparison(*pictures)


def _open_wandb(config: TrainConfig) -> Log:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise MissingExtraError("lowvis-csrnet", "train") from error
    run = wandb.init(
        project="lowvis-csrnet",
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
    run_settings(_job, "lowvis-csrnet", arguments)


ConfigStore.instance().store("csrnet_schema", TrainConfig)

if __name__ == "__main__":  # what torchrun starts
    from lowvis_csrnet.cli import main as command

    command(["train", *sys.argv[1:]])
