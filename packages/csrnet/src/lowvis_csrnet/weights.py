"""Trained weights by name: our own, which lie in this package, and the authors' published file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowvis_shared.assets import Asset, fetch, find_asset
from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.files import sha256_file
from torch import Tensor

from lowvis_csrnet.model import NETWORKS, CSRNet, CSRNetConfig, CSRNetL
from lowvis_csrnet.spaces import InputSpace, check_input_space

OFFICIAL: Asset = find_asset("csrnet/csrnet/official")
"""The authors' file, trained on MIT-Adobe FiveK, expert C."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network with its weights, and what they are.

    Attributes:
        network: In evaluation mode.
        name: ``own``, ``official``, or the path given.
        sha256: Checksum of the file.
        input_space: What the network expects to see.
    """

    network: CSRNet | CSRNetL
    name: str
    sha256: str
    input_space: InputSpace


def own_file(network: str) -> Path:
    """Path of our own weights of a network, in this package."""
    return Path(__file__).parent / "weights" / f"{network.replace('-', '_')}.safetensors"


def resolve_weights(
    network: str, weights: str | Path, *, accept_licence: bool = False, offline: bool = False
) -> Path:
    """Return the file behind ``own``, ``official`` or a path; the official one may be fetched.

    Raises:
        UsageError: There is no such network.
        WeightsError: There is no such file, or it may not or cannot be fetched.
    """
    if network not in NETWORKS:
        raise UsageError(f"there is no network '{network}'", hint=", ".join(NETWORKS))
    if weights == "own":
        path = own_file(network)
    elif weights == "official":
        if network != "csrnet":
            raise WeightsError(f"the authors published no weights of {network}", hint="own")
        return fetch(OFFICIAL, accept_licence=accept_licence, offline=offline)
    else:
        path = Path(weights)
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}", hint="own, official, or a file")
    return path


def load(
    network: str,
    weights: str | Path,
    *,
    input_space: str | None = None,
    accept_licence: bool = False,
    offline: bool = False,
) -> Loaded:
    """Load ``own``, ``official`` or a file strictly into a network.

    Args:
        network: ``csrnet`` or ``csrnet-l``.
        weights: Which.
        input_space: What the network expects to see. By default what the file says of itself; the
            authors' file, which says nothing, expects ``prophoto-1.8``.
        accept_licence: Consent to fetching a file whose authors state no licence.
        offline: Use no network connection.

    Raises:
        UsageError: There is no such network or input space.
        WeightsError: The file is missing, damaged, or of another network.
    """
    path = resolve_weights(network, weights, accept_licence=accept_licence, offline=offline)
    state_dict, metadata = load_weights_file(path)
    module = NETWORKS[network](CSRNetConfig.of_condition(metadata.get("condition", "network")))
    load_state_dict_strict(module, state_dict, source=str(path), hint=_hint(network, state_dict))
    sha256 = sha256_file(path)
    space = check_input_space(input_space or expected_space(metadata, sha256))
    return Loaded(module.eval(), str(weights), sha256, space)


def expected_space(metadata: Mapping[str, str], sha256: str) -> str:
    """Return the input space that a file notes; that of the authors' file, which has no notes."""
    noted = "prophoto-1.8" if sha256 == OFFICIAL.sha256 else "srgb"
    return metadata.get("input_space", noted)


def _hint(network: str, state_dict: Mapping[str, Tensor]) -> str | None:
    if "conv2.weight" not in state_dict:
        return None
    side = state_dict["conv2.weight"].shape[-1]
    found = {1: "csrnet", 3: "csrnet-l"}.get(side, network)
    return None if found == network else f"this looks like {found}; {network} was asked for"
