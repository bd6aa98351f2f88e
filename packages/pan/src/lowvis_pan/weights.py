"""Trained weights by name: our own, which lie in this package, and the authors' published files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lowvis_shared.assets import Asset, fetch, find_asset
from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file
from lowvis_shared.errors import WeightsError
from lowvis_shared.files import sha256_file
from torch import Tensor

from lowvis_pan.identify import config_of, is_pan
from lowvis_pan.model import PAN, SCALES

OFFICIAL: Mapping[int, Asset] = {scale: find_asset(f"pan/x{scale}/official") for scale in SCALES}
"""The authors' files by scale (trained on DF2K)."""

DEFAULT_FEATURE_LIMIT = 32.0
"""Magnitude of features at which the guard acts, where the weights do not say.

The authors' networks stay below 7 on photographs and below 14 on charts and text, and reach
hundreds and more where they blow up; the guard also looks at the range of the output.
"""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What was loaded into a network.

    Attributes:
        name: ``own``, ``official``, or the path given.
        path: The file.
        sha256: Its checksum.
        feature_limit: Magnitude of features beyond which the guard acts.
        metadata: What the file says of itself.
    """

    name: str
    path: Path
    sha256: str
    feature_limit: float
    metadata: Mapping[str, str]


def own_file(scale: int) -> Path:
    """Path of our own weights for a scale, in this package."""
    return Path(__file__).parent / "weights" / f"pan_x{scale}.safetensors"


def resolve_weights(
    weights: str | Path, scale: int, *, accept_licence: bool = False, offline: bool = False
) -> Path:
    """Return the file behind ``own``, ``official`` or a path; the official one may be fetched.

    Raises:
        WeightsError: There is no such file, or it may not or cannot be fetched.
    """
    if weights == "own":
        path = own_file(scale)
    elif weights == "official":
        return fetch(OFFICIAL[scale], accept_licence=accept_licence, offline=offline)
    else:
        path = Path(weights)
    if not path.is_file():
        raise WeightsError(f"there are no weights at {path}", hint="own, official, or a file")
    return path


def load_weights(network: PAN, weights: str | Path) -> LoadedWeights:
    """Load ``own``, ``official`` or a file strictly into a network.

    Raises:
        WeightsError: The file is missing, damaged, of another network, or of another scale.
    """
    scale = network.config.scale
    path = resolve_weights(weights, scale)
    state_dict, metadata = load_weights_file(path)
    found = _scale_of(path, state_dict, metadata)
    hint = None
    if found is not None and found != scale:
        hint = f"this looks like PAN x{found}; x{scale} was asked for"
        if {scale, found} == {2, 3}:  # the same keys and shapes: nothing else tells
            raise WeightsError(f"{path} does not upscale x{scale}", hint=hint)
    load_state_dict_strict(network, state_dict, source=str(path), hint=hint)
    return LoadedWeights(
        name=str(weights),
        path=path,
        sha256=sha256_file(path),
        feature_limit=_feature_limit(path, metadata),
        metadata=metadata,
    )


def _scale_of(
    path: Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> int | None:
    """Return the scale that a file is for: what it says, else what the network does."""
    if metadata.get("architecture") == "PAN" and metadata.get("scale", "") in map(str, SCALES):
        return int(metadata["scale"])
    return config_of(state_dict, source=str(path)).scale if is_pan(state_dict) else None


def _feature_limit(path: Path, metadata: Mapping[str, str]) -> float:
    text = metadata.get("feature_limit", str(DEFAULT_FEATURE_LIMIT))
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not (math.isfinite(limit) and limit > 0):
        raise WeightsError(f"{path} has feature_limit '{text}', which is no positive number")
    return limit
