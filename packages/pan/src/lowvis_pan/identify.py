"""Which PAN a state dict belongs to: its shape from the keys, its scale by what it does."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from lowvis_shared.checkpoint import load_state_dict_strict
from lowvis_shared.errors import WeightsError
from lowvis_shared.resize import imresize_tensor
from torch import Tensor

from lowvis_pan.model import PAN, PANConfig

_MARKS = (
    "conv_first.weight",
    "SCPA_trunk.0.conv1_a.weight",
    "SCPA_trunk.0.PAConv.k2.weight",
    "trunk_conv.weight",
    "upconv1.weight",
    "att1.conv.weight",
    "HRconv1.weight",
    "conv_last.weight",
)


def is_pan(state_dict: Mapping[str, object]) -> bool:
    """Return whether the keys are those of a PAN."""
    return all(key in state_dict for key in _MARKS)


@torch.no_grad()
def config_of(state_dict: Mapping[str, Tensor], *, source: str = "the state dict") -> PANConfig:
    """Return the shape of the PAN that a state dict belongs to.

    Networks for x2 and x3 have the same keys and shapes, and are told apart by what they do: the
    right scale upscales a disk so that, brought down again, it is the disk (to 0.0008 RMS with the
    authors' files; the wrong one misses it by 0.0038 and more).

    Args:
        state_dict: Tensors by the authors' keys.
        source: What messages call them: a path or a name.

    Raises:
        WeightsError: The keys are not those of a PAN, or for x2 and x3 some are missing or wrong.
    """
    if not is_pan(state_dict):
        raise WeightsError(f"{source} holds no weights of a PAN")
    blocks = {key.split(".")[1] for key in state_dict if key.startswith("SCPA_trunk.")}
    config = PANConfig(
        channels=state_dict["conv_first.weight"].shape[0],
        reconstruction_channels=state_dict["upconv1.weight"].shape[0],
        blocks=len(blocks),
    )
    if "upconv2.weight" in state_dict:
        return config
    errors: dict[int, float] = {}
    disk = _disk(24)
    for scale in (2, 3):
        network = PAN(replace(config, scale=scale)).eval()
        load_state_dict_strict(network, state_dict, source=source)
        difference = imresize_tensor(network(disk), scale=1 / scale) - disk
        errors[scale] = float(difference.square().mean())
    return replace(config, scale=min(errors, key=errors.__getitem__))


def _disk(size: int) -> Tensor:
    """Draw a bright disk as a camera would see it, band-limited: (1, 3, size, size)."""
    axis = torch.linspace(-1, 1, 12 * size)
    inside = torch.hypot(axis[:, None], axis[None, :]) < 0.6
    return imresize_tensor(0.2 + 0.6 * inside.float().expand(1, 3, -1, -1), size=(size, size))
