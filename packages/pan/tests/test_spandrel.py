from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lowvis_pan.export import convert
from lowvis_pan.identify import config_of
from lowvis_pan.model import PAN, PANConfig
from lowvis_pan.weights import load_weights
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import WeightsError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.pairs import Pixels
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import photo

spandrel = pytest.importorskip("spandrel")
spandrel_bridge = pytest.importorskip("lowvis_pan.spandrel_bridge")

PHOTO: Pixels = photo(20, 24)


def load_with_spandrel(path: Path) -> "spandrel.ImageModelDescriptor":
    spandrel_bridge.install()
    return spandrel.ModelLoader().load_from_file(path)


def check_same_output(path: Path, scale: int) -> None:
    model = load_with_spandrel(path)
    assert (model.architecture.id, model.scale, model.purpose) == ("PAN", scale, "SR")
    network = PAN(PANConfig(scale=scale)).eval()
    load_weights(network, path)
    picture = to_tensor(Picture(PHOTO))
    with torch.inference_mode():
        expected = network(picture).clamp(0, 1)
    assert torch.equal(model(picture), expected)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_authors_files_load_with_their_scale(scale: int) -> None:
    check_same_output(asset_path(f"pan/x{scale}/official"), scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_files_of_this_package_load_with_their_scale(
    weights_of: Callable[[int], Path], scale: int
) -> None:
    check_same_output(weights_of(scale), scale)


def test_a_converted_file_loads(weights: str, tmp_path: Path) -> None:
    convert(Path(weights), tmp_path / "pan.pth")
    check_same_output(tmp_path / "pan.pth", 4)


def test_other_networks_are_left_to_others(tmp_path: Path) -> None:
    spandrel_bridge.install()
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader().load_from_state_dict({"conv_first.weight": torch.zeros(1)})


def test_networks_of_another_size_are_read_from_their_keys() -> None:
    shape = PANConfig(scale=4, channels=8, reconstruction_channels=6, blocks=3)
    assert config_of(PAN(shape).state_dict()) == shape


def test_incomplete_weights_are_named(weights: str) -> None:
    state_dict, _ = load_weights_file(weights)
    with pytest.raises(WeightsError, match="holds no weights of a PAN"):
        config_of({"conv_first.weight": state_dict["conv_first.weight"]})
