"""Trained weights by name: our own, which lie in this package, the authors' files, or yours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.files import sha256_file
from torch import Tensor

from lowvis_classsr.branches import BRANCHES
from lowvis_classsr.model import ClassSR, ClassSRConfig

OWN = ("fsrcnn", "carn", "srresnet")
"""Networks of which this package has weights of its own."""

_FIRST_LAYERS = {
    "head_conv.0.weight": "fsrcnn",
    "entry.weight": "carn",
    "conv_first.weight": "srresnet",
    "head.0.weight": "rcan",
}

_UPSAMPLING = (
    ("carn", "upsample.up.body.0.weight", "upsample.up.body.3.weight"),
    ("srresnet", "upconv1.weight", "upconv2.weight"),
    ("rcan", "tail.0.0.weight", "tail.0.2.weight"),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network with its weights, and what they are.

    Attributes:
        network: In evaluation mode.
        name: ``own``, or the path given.
        path: The file.
        sha256: Its checksum.
        metadata: What the file says of itself.
    """

    network: ClassSR
    name: str
    path: Path
    sha256: str
    metadata: Mapping[str, str]

    @property
    def edge_thresholds(self) -> tuple[float, ...]:
        """Edge scores between the classes, as training found them; none in foreign files."""
        return tuple(float(each) for each in self.metadata.get("edge_thresholds", "").split())


def own_file(network: str) -> Path:
    """Path of our own weights of a network, in this package."""
    return Path(__file__).parent / "weights" / f"classsr_{network}_x4.safetensors"


def resolve_weights(weights: str | Path, network: str) -> Path:
    """Return the file behind ``own``, ``official`` or a path.

    Raises:
        UsageError: There is no such network.
        WeightsError: There is no such file; the authors' files come from the user.
    """
    if network not in BRANCHES:
        raise UsageError(f"there is no network '{network}'", hint=", ".join(BRANCHES))
    title = BRANCHES[network].title
    if weights == "official":
        raise WeightsError(
            "the authors' files lie in a Google Drive folder, which no program can fetch",
            hint=f"fetch ClassSR_{title}.pth from the README of "
            "https://github.com/XPixelGroup/ClassSR and give its path to --weights",
        )
    if weights == "own" and network not in OWN:
        raise WeightsError(
            f"this package has no weights of ClassSR-{title}",
            hint=f"--network {' or '.join(OWN)}, or --weights FILE",
        )
    path = own_file(network) if weights == "own" else Path(weights)
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}", hint="own, or a file")
    return path


def load_weights(network: ClassSR, weights: str | Path) -> Mapping[str, str]:
    """Load ``own`` or a file strictly into a network, and return what the file says of itself.

    Raises:
        WeightsError: The file is missing, damaged, or of another network.
    """
    path = resolve_weights(weights, network.config.network)
    state_dict, metadata = load_weights_file(path)
    found = identify(state_dict, metadata)
    hint = None if found in (None, network.config) else f"this looks like {describe(found)}"
    load_state_dict_strict(network, state_dict, source=str(path), hint=hint)
    return metadata


def open_weights(weights: str | Path, network: str = "fsrcnn") -> Loaded:
    """Build the network that a file is of, and load it.

    Args:
        weights: ``own``, or the path of a file, which says by itself what network it is.
        network: Which one of our own.

    Raises:
        WeightsError: The file is missing, damaged, or no ClassSR.
    """
    path = resolve_weights(weights, network)
    state_dict, metadata = load_weights_file(path)
    config = identify(state_dict, metadata)
    if config is None:
        raise WeightsError(f"{path} holds no ClassSR: there is no 'classifier' or no 'net1' in it")
    try:
        module = ClassSR(config)
    except UsageError as error:  # a width that the network cannot have
        raise WeightsError(f"{path} holds no ClassSR: {error}") from error
    load_state_dict_strict(module, state_dict, source=str(path))
    return Loaded(module.eval(), str(weights), path, sha256_file(path), metadata)


def identify(state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> ClassSRConfig | None:
    """Return the shape of the network that a state dict is of; None if it is no ClassSR.

    Args:
        state_dict: Tensors by the authors' keys.
        metadata: What the file says of itself; only FSRCNN's scale is taken from it, which no
            tensor tells.
    """
    branches: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        if match := re.fullmatch(r"net(\d+)\.(.+)", key):
            branches.setdefault(int(match[1]), {})[match[2]] = tensor
    first = branches.get(1, {})
    layer = next((name for name in _FIRST_LAYERS if name in first), None)
    rising = sorted(branches) == list(range(1, len(branches) + 1))
    if layer is None or not rising or "classifier.lastOut.weight" not in state_dict:
        return None
    network = _FIRST_LAYERS[layer]
    widths = tuple(_outputs(branches[each], layer) for each in sorted(branches))
    if min(widths) < 1 or list(widths) != sorted(set(widths)):
        return None
    stated = metadata.get("scale", "4")
    scale = int(stated) if stated in ("1", "2", "3", "4") else 4
    for word, one, two in _UPSAMPLING:
        if word == network:
            ratio = _outputs(first, one) // widths[0] if one in first else 1
            scale = 4 if two in first else {1: 1, 4: 2, 9: 3}.get(ratio, 4)
    return ClassSRConfig(network=network, widths=widths, scale=scale)


def _outputs(branch: Mapping[str, Tensor], key: str) -> int:
    """Return the output channels of a convolution, 0 where there is none."""
    return int(branch[key].shape[0]) if key in branch and branch[key].ndim == 4 else 0


def describe(config: ClassSRConfig) -> str:
    """Name a network in a message."""
    widths = "/".join(map(str, config.widths))
    return f"ClassSR-{BRANCHES[config.network].title} x{config.scale} with widths {widths}"
