"""PAN in other formats, each proved equal to PyTorch at three sizes before it is written."""

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import safetensors.torch
import torch
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import MissingExtraError, OutputError, UsageError
from lowvis_shared.files import atomic_write, check_output
from lowvis_shared.resize import imresize_tensor
from torch import Tensor

from lowvis_pan.graph import onnx_graph
from lowvis_pan.identify import config_of
from lowvis_pan.model import PAN

ExportFormat = Literal["onnx", "torchscript", "safetensors"]

SUFFIXES: dict[ExportFormat, str] = {
    "onnx": ".onnx",
    "torchscript": ".pt",
    "safetensors": ".safetensors",
}

PARITY_SIZES = ((17, 23), (32, 48), (65, 40))
"""Heights and widths at which an export is compared with PyTorch."""

PARITY_TOLERANCE = 1e-4
"""Largest difference allowed, for outputs around 0..1."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Parity:
    """How close an export is to PyTorch.

    Attributes:
        sizes: Heights and widths compared.
        max_difference: Largest difference over all of them, for outputs around 0..1.
    """

    sizes: tuple[tuple[int, int], ...]
    max_difference: float


def export(
    network: PAN,
    path: Path,
    export_format: ExportFormat,
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Parity:
    """Write a network in another format, for pictures of any height and width.

    The input is ``image`` (1, 3, H, W) RGB in 0..1, the output (1, 3, H*scale, W*scale), not
    clamped. The guard against unstable pictures is not part of it.

    Args:
        network: The network, on the CPU in float32.
        path: The file to write.
        export_format: ``onnx`` and ``torchscript`` hold the whole network, ``safetensors`` its
            weights with the configuration as metadata.
        metadata: What to note in the file, besides the configuration.
        overwrite: Replace a file that exists.

    Raises:
        OutputError: The export differs from PyTorch by more than ``PARITY_TOLERANCE``, so that
            nothing was written; or the file cannot be written.
        MissingExtraError: ONNX is not installed.
    """
    check_output(path, overwrite=overwrite)
    network = network.eval()
    notes = {name: str(value) for name, value in asdict(network.config).items()}
    notes |= {"architecture": "PAN", **(metadata or {})}
    if export_format == "onnx":
        content, run = _onnx(network, notes)
    elif export_format == "torchscript":
        content, run = _torchscript(network, notes)
    else:
        content, run = _safetensors(network, notes)
    parity = _compare(network, run)
    if not parity.max_difference <= PARITY_TOLERANCE:  # also refuses NaN
        raise OutputError(
            f"{path}: the {export_format} export differs from PyTorch by "
            f"{parity.max_difference:.2g}; it was not written"
        )
    atomic_write(path, lambda file: file.write(content), overwrite=overwrite)
    return parity


def convert(source: Path, target: Path, *, overwrite: bool = False) -> dict[str, str]:
    """Rewrite a file of weights as ``.pth`` or ``.safetensors``, keys and values unchanged.

    Returns:
        The metadata of the result: what the source had, and the shape of its network. A ``.pth``
        file has no place for it and holds the tensors only.

    Raises:
        WeightsError: The source is no file of PAN weights.
        UsageError: The target has another suffix.
        OutputError: The target cannot be written.
    """
    if target.suffix not in (".pth", ".safetensors"):
        raise UsageError(f"{target}: weights are written as .pth or .safetensors")
    check_output(target, overwrite=overwrite)
    state_dict, metadata = load_weights_file(source)
    config = {
        name: str(value)
        for name, value in asdict(config_of(state_dict, source=str(source))).items()
    }
    metadata = {**config, "architecture": "PAN", **metadata}
    if target.suffix == ".safetensors":
        content = _safetensors_bytes(state_dict, metadata)
    else:
        buffer = io.BytesIO()
        torch.save(state_dict, buffer)
        content = buffer.getvalue()
    atomic_write(target, lambda file: file.write(content), overwrite=overwrite)
    return metadata


def _onnx(network: PAN, notes: Mapping[str, str]) -> tuple[bytes, Run]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("lowvis-pan", "onnx") from error
    shape = ("batch", 3, "upscaled height", "upscaled width")
    content = onnx_graph(network, outputs={"output": shape}, metadata=notes)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        outputs = session.run(None, {"image": image.numpy()})
        return torch.from_numpy(np.asarray(outputs[0]))

    return content, run


def _torchscript(network: PAN, notes: Mapping[str, str]) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # PyTorch advises against TorchScript for new work; who asks for this format has old work.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        traced = cast("Any", torch.jit.trace(network, _natural_picture(16, 20)))
        torch.jit.save(traced, buffer, _extra_files=dict(notes))
        content = buffer.getvalue()
        loaded = cast("Run", torch.jit.load(io.BytesIO(content)))
    return content, loaded


def _safetensors(network: PAN, notes: Mapping[str, str]) -> tuple[bytes, Run]:
    content = _safetensors_bytes(network.state_dict(), notes)
    loaded = PAN(network.config).eval()
    loaded.load_state_dict(safetensors.torch.load(content))
    return content, loaded


def _safetensors_bytes(state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    tensors = {name: tensor.contiguous() for name, tensor in state_dict.items()}
    return safetensors.torch.save(tensors, dict(metadata))


@torch.no_grad()
def _compare(network: PAN, run: Run) -> Parity:
    differences = [
        float((run(image) - network(image)).abs().max())
        for image in (_natural_picture(*size) for size in PARITY_SIZES)
    ]
    # torch, unlike max(), does not lose a NaN.
    return Parity(PARITY_SIZES, float(torch.tensor(differences).max()))


def _natural_picture(height: int, width: int) -> Tensor:
    """Draw a smooth random picture (1, 3, height, width); on noise the outputs would explode."""
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand((1, 3, height // 6 + 2, width // 6 + 2), generator=generator)
    return imresize_tensor(coarse, size=(height, width)).clamp(0, 1)
