"""What several tests need: weights that anybody can make from names, and packed photographs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lowvis_classsr.branches import FSRCNN
from lowvis_classsr.model import Classifier, ClassSR, ClassSRConfig
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.images import Picture, write_image
from lowvis_shared.photos import PackedPhotos, list_photos, pack_photos
from lowvis_shared.reproduce import recipe_weights
from lowvis_shared.testing.pictures import photo
from torch import nn


def fill(network: nn.Module) -> nn.Module:
    """Fill a network with weights made from nothing but names and shapes, and return it."""
    network.load_state_dict(recipe_weights(network))
    return network.eval()


@pytest.fixture(scope="session")
def filled() -> Callable[[nn.Module], nn.Module]:
    """Return `fill`."""
    return fill


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedPhotos:
    """Return three photographs of 96x112 with their low-resolution partners of 24x28."""
    folder = tmp_path_factory.mktemp("packed")
    for seed in range(3):
        write_image(Picture(photo(96, 112, seed=seed)), folder / f"{seed}.png")
    return pack(list_photos(folder), folder)


def pack(photos: list[Path], folder: Path, scale: int = 4) -> PackedPhotos:
    return pack_photos(photos, scale=scale, minimum=8, folder=folder / "pack")


def judge_by_brightness(classifier: Classifier, sharpness: float = 10.0) -> None:
    """Let a Class-Module of three see the mean of a cell alone: simple below 1/3, hard above 2/3.

    Args:
        classifier: It is changed.
        sharpness: What its logits are multiplied with.
    """
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
        first, *others = (each for each in classifier.CondNet if isinstance(each, nn.Conv2d))
        first.weight[0] = 1 / 48  # the mean of three colors of 4x4 pixels
        for layer in others:
            layer.weight[0, 0] = 1
        # As lines over the mean m: 0, m - 1/3, and 2 m - 1; the highest is the class.
        classifier.lastOut.weight[:, 0] = sharpness * torch.tensor([0.0, 1.0, 2.0])
        classifier.lastOut.bias.copy_(sharpness * torch.tensor([0.0, -1 / 3, -1.0]))


def near_sighted(branch: FSRCNN) -> None:
    """Let no output of an FSRCNN depend on inputs more than 3 pixels away."""
    with torch.no_grad():
        for layer in branch.body_conv:
            if isinstance(layer, nn.Conv2d):
                center = layer.weight[:, :, 1, 1].clone()
                layer.weight.zero_()
                layer.weight[:, :, 1, 1] = center


@pytest.fixture(scope="session")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes weights of an untrained ClassSR which judges by brightness.

    Its FSRCNNs see no further than a tile's context, so that tiles and the whole are the same; all
    branches upscale about bilinearly, each otherwise. Cells have 8 pixels, unless said otherwise.
    """
    folder = tmp_path_factory.mktemp("weights")

    def make(config: ClassSRConfig | None = None, **metadata: str) -> Path:
        config = config or ClassSRConfig()
        torch.manual_seed(5)
        network = ClassSR(config)
        judge_by_brightness(network.classifier)
        for branch in network.branches:
            if isinstance(branch, FSRCNN):
                near_sighted(branch)
        known = {"patch": "8", "scale": str(config.scale), "edge_thresholds": "0.02 0.06"}
        path = folder / f"{len(list(folder.iterdir()))}.safetensors"
        save_weights_file(path, network.state_dict(), known | metadata)
        return path

    return make


@pytest.fixture(scope="session")
def weights(make_weights: Callable[..., Path]) -> Path:
    """Return weights of ClassSR-FSRCNN as `make_weights` writes them."""
    return make_weights()
