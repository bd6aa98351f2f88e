"""Pictures through any of the networks: true to the network, the file's depth and metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_aim2020.model import NETWORKS
from lowvis_aim2020.predict import Upscaler
from lowvis_aim2020.weights import load_network
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.errors import DeviceError, InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, to_array, to_tensor
from lowvis_shared.resize import imresize
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import make_picture, photo
from torch import nn

FULL_RANGE = {np.uint8: 255, np.uint16: 65535, np.float32: 1}

OWN = """
import torch
from torch import nn

class Bilinear(nn.Upsample):
    def __init__(self, scale=4):
        super().__init__(scale_factor=scale, mode="bilinear")

class Twice(Bilinear):
    def __init__(self):
        super().__init__(2)

class Offset(Bilinear):
    '''Two more, of 255.'''
    def forward(self, image):
        return super().forward(image) + 2

class NotANumber(Bilinear):
    def forward(self, image):
        return super().forward(image) / torch.zeros(1)
"""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Return our entry with fixed random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS["folded-x4"].build().eval()


@pytest.fixture(scope="module")
def upscaler(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    path = tmp_path_factory.mktemp("weights") / "folded.safetensors"
    save_weights_file(path, network.state_dict(), {})
    return Upscaler(f"folded-x4@{path}", device="cpu")


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "networks.py"
    path.write_text(OWN)
    return str(path)


@torch.inference_mode()
def whole(network: nn.Module, picture: Picture) -> np.ndarray:
    return to_array(network(to_tensor(picture)).clamp(0, 1))


def test_the_result_is_that_of_our_own_weights() -> None:
    network = load_network(NETWORKS["folded-x4"], "own")
    picture = Picture(photo(20, 30))
    result = Upscaler(device="cpu")(picture)
    assert np.abs(result.pixels - 255 * whole(network, picture)).max() < 0.501
    # A photograph comes out as the photograph, not as any picture.
    assert np.abs(result.to_float() - imresize(picture.to_float(), scale=4)).mean() < 0.03


def test_the_result_is_the_networks_own(upscaler: Upscaler, network: nn.Module) -> None:
    picture = Picture(photo(9, 14))
    result = upscaler(picture)
    assert result.pixels.shape == (36, 56, 3)
    assert np.abs(result.pixels - 255 * whole(network, picture)).max() < 0.501


@pytest.mark.parametrize("size", [(6, 300), (300, 5)])
def test_tiles_equal_the_whole_picture(
    upscaler: Upscaler, network: nn.Module, size: tuple[int, int]
) -> None:
    seen: list[tuple[int, ...]] = []
    handle = upscaler.network.register_forward_pre_hook(
        lambda _, inputs: seen.append(tuple(inputs[0].shape[2:]))
    )
    picture = Picture((photo(*size) / 255).astype(np.float32))
    result = upscaler(picture)
    handle.remove()
    assert len(seen) == 2
    assert max(max(each) for each in seen) < 300
    assert np.abs(result.pixels - whole(network, picture)).max() < 1e-5


def test_a_network_that_looks_at_the_whole_picture_gets_it_whole() -> None:
    path = asset_path("aim2020/rlfn-x4/official")
    upscaler = Upscaler(f"rlfn-x4@{path}", device="cpu")
    picture = Picture((photo(16, 280) / 255).astype(np.float32))
    expected = whole(upscaler.network, picture)
    assert np.abs(upscaler(picture).pixels - expected).max() < 1e-6


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("dtype", FULL_RANGE)
def test_depth_alpha_and_metadata_stay(
    upscaler: Upscaler, dtype: Any, gray: bool, alpha: bool
) -> None:
    made = make_picture(9, 12, dtype=dtype, gray=gray, alpha=alpha)
    picture = Picture(
        made.pixels, made.alpha, gray, icc_profile=b"profile", exif=b"Exif", format="WebP"
    )
    result = upscaler(picture)
    assert result.pixels.shape == (36, 48, 3)
    assert result.pixels.dtype == dtype
    assert (result.gray, result.format) == (gray, "WebP")
    assert (result.icc_profile, result.exif) == (b"profile", b"Exif")
    if made.alpha is None:
        assert result.alpha is None
    else:
        expected = np.clip(imresize(made.alpha / FULL_RANGE[dtype], scale=4), 0, 1)
        difference = np.abs(result.alpha / FULL_RANGE[dtype] - expected).max()
        assert difference <= 0.51 / FULL_RANGE[dtype] if dtype != np.float32 else difference < 1e-6


def test_sixteen_bits_are_sixteen_bits(upscaler: Upscaler, network: nn.Module) -> None:
    pixels = photo(16, 16).astype(np.uint16) * 256 + np.arange(16, dtype=np.uint16)[:, None]
    picture = Picture(pixels)
    result = upscaler(picture).pixels
    assert np.abs(result - 65535.0 * whole(network, picture)).max() < 1
    assert len(np.unique(result)) > 256


def test_the_users_network_knows_its_scale_and_white(own: str) -> None:
    picture = Picture(photo(8, 10))
    assert Upscaler(f"{own}:Twice", scale=2, device="cpu")(picture).pixels.shape == (16, 20, 3)
    plain, offset = (
        Upscaler(f"{own}:{name}", white=255, device="cpu")(picture).pixels.astype(int)
        for name in ("Bilinear", "Offset")
    )
    assert np.abs(offset - np.minimum(plain + 2, 255)).max() <= 1
    assert (offset - plain).mean() == pytest.approx(2, abs=0.1)


def test_values_that_are_not_finite_are_an_error_and_no_black_picture(own: str) -> None:
    with pytest.raises(InputError, match="NotANumber gives values that are not finite"):
        Upscaler(f"{own}:NotANumber", device="cpu")(Picture(photo(8, 8)))


def test_a_network_of_another_scale_is_an_input_error(own: str) -> None:
    with pytest.raises(InputError):
        Upscaler(f"{own}:Twice", scale=4, device="cpu")(Picture(photo(8, 8)))


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(UsageError, match="msrresnet-x4"):
        Upscaler("msrresnet-x4", device="cpu")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"model": "nothing-x4"}, UsageError, "nothing-x4"),
        ({"model": "folded-x4@missing.pth"}, WeightsError, "missing.pth"),
        ({"device": "cuda:99"}, DeviceError, "cuda:99"),
        ({"model": "net.py:Net", "white": 2}, UsageError, "1 or 255"),
    ],
)
def test_bad_options_are_refused_when_it_is_opened(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Upscaler(**options)
