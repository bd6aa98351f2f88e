"""Trained weights by name: our own, which lie in this package, and the authors' published files."""

from dataclasses import dataclass
from pathlib import Path

from lowvis_shared.assets import fetch
from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file
from lowvis_shared.errors import WeightsError
from lowvis_shared.files import sha256_file
from torch import nn

from lowvis_aim2020.model import Network


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What was loaded into a network.

    Attributes:
        name: ``own``, ``official``, or the path given.
        path: The file.
        sha256: Its checksum.
    """

    name: str
    path: Path
    sha256: str


def own_file(network: Network) -> Path:
    """Path of our own weights of a network, in this package."""
    name = network.name.replace("-", "_")
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def resolve_weights(
    network: Network, weights: str, *, accept_licence: bool = False, offline: bool = False
) -> Path:
    """Return the file behind ``own``, ``official`` or a path; the official one may be fetched.

    Raises:
        WeightsError: There is no such file, or it may not or cannot be fetched.
    """
    names = ", ".join((*network.weights, "or the path of a file"))
    if weights in ("own", "official") and weights not in network.weights:
        raise WeightsError(f"{network.name} has no {weights} weights", hint=names)
    if weights == "official" and network.asset is not None:
        return fetch(network.asset, accept_licence=accept_licence, offline=offline)
    path = own_file(network) if weights == "own" else Path(weights)
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}", hint=names)
    return path


def load_weights(
    module: nn.Module,
    network: Network,
    weights: str,
    *,
    accept_licence: bool = False,
    offline: bool = False,
) -> LoadedWeights:
    """Load ``own``, ``official`` or a file strictly into what ``network.build`` made.

    Raises:
        WeightsError: The file is missing, damaged or of another network.
    """
    path = resolve_weights(network, weights, accept_licence=accept_licence, offline=offline)
    state_dict, _ = load_weights_file(path)
    load_state_dict_strict(module, state_dict, source=str(path))
    return LoadedWeights(weights, path, sha256_file(path))


def load_network(
    network: Network, weights: str, *, accept_licence: bool = False, offline: bool = False
) -> nn.Module:
    """Return the network with these weights, in evaluation mode, on the CPU.

    Raises:
        WeightsError: As `load_weights`.
    """
    module = network.build()
    load_weights(module, network, weights, accept_licence=accept_licence, offline=offline)
    return module.eval()
