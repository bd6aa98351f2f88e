"""The inference form equals PAN, and every engine computes what PAN computes."""

import importlib.util
import logging
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from lowvis_pan import fast
from lowvis_pan.fast import Backend, Body, InferenceForm, open_engine
from lowvis_pan.graph import onnx_graph
from lowvis_pan.model import PAN, SCALES, PANConfig, ablation_configs
from lowvis_shared.errors import DeviceError, MissingExtraError, UsageError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import photo
from torch import Tensor, nn

SIZES = ((1, 1), (1, 7), (2, 3), (9, 5), (16, 13), (31, 20))
CPU = torch.device("cpu")


def lively_pan(config: PANConfig, seed: int = 0) -> PAN:
    """A PAN whose every layer matters: as initialized, the trunk does next to nothing."""
    torch.manual_seed(seed)
    network = PAN(config).eval().requires_grad_(False)
    for module in network.SCPA_trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(6)
    return network


def small_pan(scale: int = 4) -> PAN:
    return lively_pan(PANConfig(scale=scale, blocks=3))


def picture(height: int, width: int) -> Tensor:
    return to_tensor(Picture(photo(height, width)))


def engine_of(backend: Backend, network: PAN, dtype: torch.dtype = torch.float32) -> fast.Engine:
    if backend != "torch":
        pytest.importorskip("onnx")
        pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    return open_engine(network, backend=backend, device=CPU, dtype=dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", SCALES)
def test_the_inference_form_equals_the_network(scale: int, size: tuple[int, int]) -> None:
    network = small_pan(scale)
    image = torch.rand(2, 3, *size)
    output, _ = InferenceForm(network)(image)
    torch.testing.assert_close(output, network(image), rtol=0, atol=1e-5)
    double = network.double()
    output, magnitude = InferenceForm(double)(image.double())
    torch.testing.assert_close(output, double(image.double()), rtol=0, atol=1e-12)
    features = double.SCPA_trunk(double.conv_first(image.double()))
    torch.testing.assert_close(magnitude, features.abs().max(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(ablation_configs()))
def test_every_network_of_the_ablation_has_an_inference_form_and_a_graph(name: str) -> None:
    network = lively_pan(replace(ablation_configs()[name], blocks=2))
    image = picture(11, 14)
    output, _ = InferenceForm(network)(image)
    torch.testing.assert_close(output, network(image), rtol=0, atol=1e-5)
    engine = engine_of("onnx", network)
    torch.testing.assert_close(engine(image)[0], network(image), rtol=0, atol=1e-4)


def test_the_network_itself_is_not_changed() -> None:
    network = small_pan()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    image = picture(12, 12)
    expected = network(image)
    InferenceForm(network, torch.bfloat16)(image)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network(image), expected)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_engines_equal_the_network_at_any_size(backend: Backend, scale: int) -> None:
    network = small_pan(scale)
    engine = engine_of(backend, network)
    assert engine.name.split() == [backend, "fp32"]
    for size in SIZES:
        image = picture(*size)
        output, magnitude = engine(image)
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, network(image), rtol=0, atol=1e-4)
        features = network.SCPA_trunk(network.conv_first(image))
        assert magnitude == pytest.approx(float(features.abs().max()), rel=1e-3)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_stays_close(backend: Backend) -> None:
    network = small_pan()
    engine = engine_of(backend, network, torch.bfloat16)
    image = picture(24, 40)
    difference = engine(image)[0] - network(image)
    assert float(difference.square().mean().sqrt()) < 4e-3
    assert engine(image)[0].unique().numel() > 2000  # the skip is not rounded to bf16


def test_openvino_gives_the_same_before_and_after_it_specializes_on_a_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast, "_STATIC_AFTER_PIXELS", 2 * 24 * 32)
    engine = cast("fast.OpenVINOEngine", engine_of("openvino", small_pan()))
    image, other = picture(24, 32), picture(20, 36)
    outputs = [engine(image)[0] for _ in range(5)]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-6)
    for size in (other, image, other, other, other, image):
        expected = engine.__class__(small_pan(), torch.float32)(size)[0]
        torch.testing.assert_close(engine(size)[0], expected, rtol=0, atol=1e-6)


def test_results_do_not_change_when_the_engine_runs_again() -> None:
    """Engines reuse their buffers: what was returned must not be among them."""
    network = small_pan()
    for backend in ("torch", "openvino", "onnx"):
        engine = engine_of(backend, network)
        first, _ = engine(picture(16, 16))
        kept = first.clone()
        engine(1 - picture(16, 16))
        assert torch.equal(first, kept), backend


class RequestWithoutMemory:
    """What OpenVINO's request is once memory has run out: it returns, and has written nothing."""

    def set_tensor(self, name: str, tensor: Any) -> None: ...

    def infer(self, *inputs: Any, **options: Any) -> None: ...


def test_openvino_never_returns_what_it_has_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("openvino", small_pan())
    image = picture(16, 16)
    expected, _ = engine(image)
    monkeypatch.setattr(engine, "_any_size", RequestWithoutMemory())
    with pytest.raises(MemoryError, match="without a result"):
        engine(image)
    assert torch.equal(engine(image)[0], expected)  # with a new request


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from lowvis_pan.fast import open_engine
from lowvis_pan.model import PAN, PANConfig
from lowvis_shared.tiling import stream_tiled
torch.set_num_threads(1)
network = PAN(PANConfig(scale=4, blocks=1)).eval().requires_grad_(False)
engine = open_engine(network, backend=sys.argv[1], device=torch.device("cpu"))
image = torch.rand(1, 3, 300, 300)
expected = network(image)
output = torch.empty_like(expected)  # beforehand: the tiles alone shall run short
def sink(rows, columns, pixels):
    output[:, :, rows, columns] = pixels
engine(image[:, :, :64, :64])
lines = Path("/proc/self/status").read_text().splitlines()
used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 350 * 2**20, limits[1]))
halo = network.receptive_radius
stream_tiled(lambda window: engine(window)[0], image, sink, scale=4, tile=0, halo=halo)
resource.setrlimit(resource.RLIMIT_AS, limits)
print(sum(float((a - b).abs().max()) > 1e-4 for a, b in zip(output[0], expected[0])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory can be limited on Linux only")
@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_memory_that_runs_out_makes_the_tiles_smaller_in_every_engine(backend: Backend) -> None:
    engine_of(backend, small_pan())
    ended = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, backend], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "going on with tiles of" in ended.stderr
    assert ended.stdout.split() == ["0"]


@pytest.mark.parametrize("message", ["std::bad_alloc", "Failed to allocate memory for buffer"])
def test_what_libraries_say_when_memory_runs_out_is_a_memory_error(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of("torch", small_pan())

    def fail(image: Tensor) -> tuple[Tensor, float]:
        raise RuntimeError(message)

    monkeypatch.setattr(engine, "_run", fail)
    with pytest.raises(MemoryError, match=message):
        engine(picture(4, 4))


def test_another_precision_than_asked_for_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lowvis"):
        engine_of("onnx", small_pan())
        assert not caplog.records
        engine_of("onnx", small_pan(), torch.bfloat16)
    assert caplog.messages == ["the backend onnx computes in fp32 here, not in bf16"]


def test_auto_takes_openvino_on_the_cpu_where_it_is_installed() -> None:
    installed = all(importlib.util.find_spec(name) for name in ("openvino", "onnx"))
    engine = open_engine(small_pan(), device=CPU)
    assert engine.name == ("openvino fp32" if installed else "torch fp32")


@pytest.mark.parametrize(("backend", "module"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_a_missing_backend_is_named_with_the_command_that_installs_it(
    backend: Backend, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        open_engine(small_pan(), backend=backend, device=CPU)
    assert caught.value.hint == f"pip install 'lowvis-pan[{backend}]'"


def test_what_a_backend_cannot_do_is_refused() -> None:
    network = small_pan()
    with pytest.raises(UsageError, match="tensorrt"):
        open_engine(network, backend=cast("Backend", "tensorrt"), device=CPU)
    with pytest.raises(DeviceError, match="openvino runs on the CPU"):
        open_engine(network, backend="openvino", device=torch.device("cuda"))
    with pytest.raises(DeviceError, match="emulated"):
        open_engine(network, backend="torch", device=CPU, dtype=torch.float16)


def test_a_module_that_has_no_graph_is_refused_by_name() -> None:
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match="Linear"):
        onnx_graph(nn.Sequential(nn.Linear(3, 3)), outputs={"y": (3,)})


def test_the_form_saves_multiplications_where_it_says() -> None:
    body = Body(PAN())
    kernels = [each for each in body.modules() if isinstance(each, nn.ConvTranspose2d)]
    assert [tuple(each.kernel_size) for each in kernels] == [(4, 4), (4, 4)]  # 16 instead of 36


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_official_weights_agree_in_every_engine(backend: Backend, scale: int) -> None:
    path = asset_path(f"pan/x{scale}/official")
    network = PAN(PANConfig(scale=scale)).eval().requires_grad_(False)
    network.load_state_dict(torch.load(path, weights_only=True))
    image = picture(45, 60)
    engine = engine_of(backend, network)
    torch.testing.assert_close(engine(image)[0], network(image), rtol=0, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_computes_the_same(dtype: torch.dtype) -> None:
    network = small_pan()
    engine = open_engine(network, device=torch.device("cuda"), dtype=dtype)
    image = picture(33, 47)
    output, _ = engine(image)
    assert output.device.type == "cuda"
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(output.cpu(), network(image), rtol=0, atol=tolerance)
