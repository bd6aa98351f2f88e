import io
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_pan.export import SUFFIXES, ExportFormat, convert, export
from lowvis_pan.model import PAN, PANConfig
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import OutputError, UsageError, WeightsError

TINY = PANConfig(scale=3, channels=4, reconstruction_channels=4, blocks=2)
SIZES = [(1, 1), (5, 9), (33, 16)]


@pytest.fixture
def network() -> PAN:
    torch.manual_seed(3)
    return PAN(TINY).eval()


def pictures() -> list[torch.Tensor]:
    return [torch.rand(1, 3, *size) for size in SIZES]


def test_onnx_runs_at_any_size_and_names_itself(network: PAN, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "pan.onnx"
    parity = export(network, path, "onnx", metadata={"note": "of a test"})
    assert parity.max_difference < 1e-4
    assert len(parity.sizes) == 3
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for picture in pictures():
        (output,) = session.run(None, {"image": picture.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(output, network(picture).numpy(), atol=1e-5)
    notes = session.get_modelmeta().custom_metadata_map
    assert (notes["scale"], notes["architecture"], notes["note"]) == ("3", "PAN", "of a test")


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_torchscript_runs_at_any_size(network: PAN, tmp_path: Path) -> None:
    path = tmp_path / "pan.pt"
    assert export(network, path, "torchscript").max_difference < 1e-4
    loaded = torch.jit.load(io.BytesIO(path.read_bytes()))
    for picture in pictures():
        with torch.no_grad():
            torch.testing.assert_close(loaded(picture), network(picture), atol=1e-5, rtol=0)


def test_safetensors_holds_weights_and_configuration(network: PAN, tmp_path: Path) -> None:
    path = tmp_path / "pan.safetensors"
    assert export(network, path, "safetensors").max_difference == 0
    state_dict, metadata = load_weights_file(path)
    assert metadata["scale"] == "3"
    assert metadata["channels"] == "4"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state_dict[name])


@pytest.mark.parametrize("export_format", SUFFIXES)
def test_a_file_that_exists_is_kept(
    network: PAN, tmp_path: Path, export_format: ExportFormat
) -> None:
    path = tmp_path / f"pan{SUFFIXES[export_format]}"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        export(network, path, export_format)
    assert path.read_text() == "mine"


def test_an_export_that_differs_is_not_written(network: PAN, tmp_path: Path) -> None:
    class Drifting(PAN):
        """Gives something else at each run, as a broken conversion would."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image) + torch.rand(1)

    drifting = Drifting(TINY).eval()
    drifting.load_state_dict(network.state_dict())
    with pytest.raises(OutputError, match="differs from PyTorch"):
        export(drifting, tmp_path / "pan.safetensors", "safetensors")
    with torch.no_grad():
        network.conv_last.bias.fill_(float("nan"))
    with pytest.raises(OutputError, match="differs from PyTorch"):
        export(network, tmp_path / "pan.safetensors", "safetensors")
    assert not list(tmp_path.iterdir())


def test_conversion_there_and_back_keeps_every_value(weights: str, tmp_path: Path) -> None:
    metadata = convert(Path(weights), tmp_path / "pan.pth")
    assert metadata["scale"] == "4"
    convert(tmp_path / "pan.pth", tmp_path / "pan.safetensors")
    original, _ = load_weights_file(weights)
    returned, noted = load_weights_file(tmp_path / "pan.safetensors")
    assert noted["scale"] == "4"
    assert list(original) == list(returned) or set(original) == set(returned)
    for name, tensor in original.items():
        assert torch.equal(tensor, returned[name])


def test_conversion_refuses_what_is_no_pan(weights: str, tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no weights of a PAN"):
        convert(tmp_path / "other.pth", tmp_path / "pan.safetensors")
    with pytest.raises(UsageError, match="written as"):
        convert(Path(weights), tmp_path / "pan.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]
