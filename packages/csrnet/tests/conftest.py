"""What several tests need: weights without any asset, and profiles of other colors than sRGB."""

import struct
from pathlib import Path

import pytest
import torch
from lowvis_csrnet.model import CSRNet, CSRNetL
from lowvis_csrnet.profile import srgb_profile
from lowvis_shared.checkpoint import save_weights_file

# Red, green and blue are columns of XYZ for the white D50, as in the profiles of their makers.
DISPLAY_P3 = ((0.51512, 0.29198, 0.1571), (0.2412, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407))
ADOBE_RGB = ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457))


def save_mild(network: CSRNet | CSRNetL, path: Path) -> Path:
    """Write random weights under which the look depends on the picture, and stays mild.

    Each layer of the base network also passes the three colors on.
    """
    generator = torch.Generator().manual_seed(0)
    gains = {"cond_net": 3.0, "cond_scale": 0.5, "cond_shift": 0.3, "conv": 0.3}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            gain = next(gains[part] for part in gains if name.startswith(part))
            spread = gain / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.02
            parameter.uniform_(-spread, spread, generator=generator)
        for layer in (network.conv1, network.conv2, network.conv3):
            middle = layer.kernel_size[0] // 2
            layer.weight[:3, :3, middle, middle] += torch.eye(3)
    save_weights_file(path, network.state_dict(), {"input_space": "srgb"})
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of mild weights of ``csrnet``."""
    return save_mild(CSRNet(), tmp_path_factory.mktemp("weights") / "mild.safetensors")


@pytest.fixture(scope="session")
def local_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of mild weights of ``csrnet-l``."""
    return save_mild(CSRNetL(), tmp_path_factory.mktemp("weights") / "mild-l.safetensors")


def make_profile(matrix: tuple[tuple[float, ...], ...], gamma: float | None = None) -> bytes:
    """Return the profile of sRGB with other primaries, and with a power for its tone curve."""
    profile = bytearray(srgb_profile())
    (count,) = struct.unpack_from(">I", profile, 128)
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), zip(*matrix, strict=True), strict=True))
    for index in range(count):
        tag, start, _ = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        numbers: tuple[float, ...] = columns.get(tag, ())
        if tag.endswith(b"TRC") and gamma is not None:
            numbers = (gamma, 1, 0, 0, 0)  # of a parametric curve: gamma, a, b, c, d
            start += 4
        fixed = [round(number * 65536) for number in numbers]
        struct.pack_into(f">{len(fixed)}i", profile, start + 8, *fixed)
    return bytes(profile)


@pytest.fixture(scope="session")
def profiles() -> dict[str, bytes]:
    """Return ICC profiles by name."""
    return {
        "sRGB": srgb_profile(),
        "Display P3": make_profile(DISPLAY_P3),
        "Adobe RGB": make_profile(ADOBE_RGB, 2.19921875),
        "linear P3": make_profile(DISPLAY_P3, 1.0),
    }
