"""Weights by name or file: told by their content, strictly loaded, refused with a reason."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lowvis_classsr.branches import FSRCNN
from lowvis_classsr.model import ClassSR, ClassSRConfig
from lowvis_classsr.weights import (
    describe,
    identify,
    load_weights,
    open_weights,
    own_file,
    resolve_weights,
)
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.files import sha256_file
from torch import Tensor, nn

SMALL = ClassSRConfig(widths=(4, 6, 8))

CONFIGS = [
    *(ClassSRConfig(network=name) for name in ("fsrcnn", "carn", "srresnet", "rcan")),
    *(ClassSRConfig(network="carn", widths=(4, 12), scale=scale) for scale in (1, 2, 3, 4)),
    *(ClassSRConfig(network="srresnet", widths=(5, 6, 7, 9), scale=scale) for scale in (1, 2, 3)),
    ClassSRConfig(network="rcan", widths=(16, 18), scale=1),
    ClassSRConfig(network="fsrcnn", widths=(4, 6, 8, 10, 12)),
]


def small(seed: int = 0) -> ClassSR:
    torch.manual_seed(seed)
    return ClassSR(SMALL)


def same(network: nn.Module, tensors: dict[str, Tensor]) -> bool:
    own = network.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[k], tensors[k]) for k in own)


# --- what a file is of ---------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=describe)
def test_tensors_tell_network_widths_classes_and_scale(config: ClassSRConfig) -> None:
    assert identify(ClassSR(config).state_dict(), {}) == config


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_scale_of_fsrcnn_is_told_by_the_file(scale: int, tmp_path: Path) -> None:
    config = ClassSRConfig(widths=(4, 6), scale=scale)
    network = ClassSR(config)
    assert identify(network.state_dict(), {"scale": str(scale)}) == config
    assert identify(network.state_dict(), {"scale": "many"}) == ClassSRConfig(widths=(4, 6))
    save_weights_file(tmp_path / "a.safetensors", network.state_dict(), {"scale": str(scale)})
    loaded = open_weights(tmp_path / "a.safetensors").network
    assert loaded.config == config
    assert loaded(torch.rand(1, 3, 8, 8)).shape[-1] == 8 * scale


def without(part: str) -> dict[str, Tensor]:
    return {key: each for key, each in small().state_dict().items() if not key.startswith(part)}


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        FSRCNN(4).state_dict(),
        without("classifier"),
        without("net1"),
        without("net2"),
        without("net3.head_conv"),
        {"net1.entry.weight": torch.zeros(()), "classifier.lastOut.weight": torch.zeros(3, 32)},
        {**small().state_dict(), "net2.head_conv.0.weight": torch.zeros(4, 3, 5, 5)},
    ],
    ids=["empty", "branch", "no judge", "no net1", "gap", "half", "no shape", "widths"],
)
def test_what_is_no_classsr_is_told(tensors: dict[str, Tensor]) -> None:
    assert identify(tensors, {}) is None


# --- files ---------------------------------------------------------------------------------------


def test_a_file_as_torch_saves_it_loads(tmp_path: Path) -> None:
    """As the authors published theirs, with the prefix of data-parallel training."""
    network = small()
    tensors = {f"module.{key}": each for key, each in network.state_dict().items()}
    path = tmp_path / "ClassSR_FSRCNN.pth"
    torch.save(tensors, path)
    loaded = open_weights(path)
    assert same(loaded.network, network.state_dict())
    assert loaded.network.config == SMALL
    assert not loaded.network.training
    assert (loaded.name, loaded.path, loaded.sha256) == (str(path), path, sha256_file(path))
    assert loaded.edge_thresholds == ()

    other = small(1)
    assert load_weights(other, path) == {}
    assert same(other, network.state_dict())


def test_the_authors_checkpoint_of_fsrcnn_opens_as_the_papers_network(
    tmp_path: Path, filled: Callable[[nn.Module], nn.Module]
) -> None:
    network = filled(ClassSR())
    torch.save(network.state_dict(), tmp_path / "a.pth")
    loaded = ClassSR.from_pretrained("fsrcnn", weights=tmp_path / "a.pth")
    assert same(loaded, network.state_dict())
    assert not loaded.training


def test_thresholds_come_with_the_file(tmp_path: Path) -> None:
    notes = {"edge_thresholds": "0.0125 0.05"}
    save_weights_file(tmp_path / "a.safetensors", small().state_dict(), notes)
    loaded = open_weights(tmp_path / "a.safetensors")
    assert loaded.edge_thresholds == (0.0125, 0.05)
    assert loaded.metadata == notes


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(ClassSR(ClassSRConfig(network="carn", widths=(4, 8))).state_dict(), path)
    with pytest.raises(WeightsError, match="does not fit ClassSR") as caught:
        load_weights(small(), path)
    assert caught.value.hint == "this looks like ClassSR-CARN x4 with widths 4/8"


def test_slopes_for_each_channel_are_refused(tmp_path: Path) -> None:
    """Some FSRCNN elsewhere have them: the keys are the same, the network is not."""
    tensors = small().state_dict()
    tensors["net1.head_conv.1.weight"] = torch.full((4,), 0.25)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"net1\.head_conv\.1\.weight: file \(4,\)"):
        open_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("width", [2, 6], ids=["fsrcnn", "carn"])
def test_widths_that_no_network_has_are_an_error_of_the_file(tmp_path: Path, width: int) -> None:
    key = {2: "head_conv.0.weight", 6: "entry.weight"}[width]
    tensors = {f"net{n}.{key}": torch.zeros(width * n, 3, 3, 3) for n in (1, 2)}
    torch.save({**tensors, "classifier.lastOut.weight": torch.zeros(2, 32)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="width"):
        open_weights(tmp_path / "a.pth")


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = small().state_dict()
    tensors["net2.tail_conv.bias"][0] = torch.nan
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"NaN or Inf in the tensor net2\.tail_conv\.bias"):
        open_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x80\x02nonsense", "not a"),
    ],
    ids=["empty", "page", "damaged"],
)
def test_what_is_no_file_of_weights_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        open_weights(path)
    with pytest.raises(WeightsError, match=said):
        load_weights(small(), path)


def test_a_single_branch_is_no_classsr(tmp_path: Path) -> None:
    torch.save(FSRCNN(16).state_dict(), tmp_path / "FSRCNN_branch1.pth")
    with pytest.raises(WeightsError, match="holds no ClassSR"):
        open_weights(tmp_path / "FSRCNN_branch1.pth")


# --- names ---------------------------------------------------------------------------------------


def test_official_weights_are_to_be_fetched_by_the_user() -> None:
    with pytest.raises(WeightsError, match="no program can fetch") as caught:
        open_weights("official", "rcan")
    hint = caught.value.hint or ""
    assert "ClassSR_RCAN.pth" in hint
    assert "https://github.com/XPixelGroup/ClassSR" in hint
    assert "--weights" in hint


def test_networks_without_weights_of_our_own_are_told() -> None:
    with pytest.raises(WeightsError, match="no weights of ClassSR-RCAN") as caught:
        resolve_weights("own", "rcan")
    assert "fsrcnn" in (caught.value.hint or "")


def test_unknown_networks_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="edsr"):
        resolve_weights("own", "edsr")
    with pytest.raises(WeightsError, match=r"no weights at .*missing\.pth"):
        open_weights(tmp_path / "missing.pth")


def test_own_weights_lie_in_the_package() -> None:
    assert own_file("fsrcnn").name == "classsr_fsrcnn_x4.safetensors"
    assert own_file("fsrcnn").is_file()
