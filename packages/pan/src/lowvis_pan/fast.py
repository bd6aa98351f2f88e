"""PAN for inference: a form with fewer operations, and the engines that can run it.

The rewrites are exact, up to the rounding of sums taken in another order:

- Nearest-neighbor upsampling by n followed by a 3x3 convolution is one transposed convolution of
  stride n whose (n+2)x(n+2) kernel is the 3x3 kernel convolved with an nxn box. It never forms
  the upsampled map, and multiplies (n+2)^2 instead of 9 n^2 times per input value. The zero
  padding of one upsampled pixel is the padding of the transposed one.
- The last convolution has 3 outputs, which leaves most of a vector unit idle. Computing all
  outputs of 2x2 (at x3: 3x3) neighboring pixels at once, as channels that a pixel shuffle puts
  into place, does more multiplications and takes less time.
- Activations are computed in place.

What was measured and left out: merging ``conv1_a`` and ``conv1_b`` (the split costs what the merge
gains), phase convolutions with a pixel shuffle instead of the transposed convolution, and
``conv3`` as the sum of two convolutions instead of one of the concatenated branches. Also
``torch.compile`` on the CPU: it needs a C++ compiler and 7 to 35 seconds for each new size, and in
bf16 gains about 1.1 times over eager channels last.
"""

import copy
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from lowvis_shared.device import PRECISION_NAMES, exact_float32
from lowvis_shared.errors import DeviceError, MissingExtraError, UsageError
from lowvis_shared.rewrite import block_convolution, with_values
from numpy.typing import NDArray
from torch import Tensor, nn

from lowvis_pan.graph import onnx_graph
from lowvis_pan.model import PAN, upsampling_factors

logger = logging.getLogger("lowvis")

Backend = Literal["auto", "torch", "openvino", "onnx"]

BACKENDS: tuple[Backend, ...] = ("auto", "torch", "openvino", "onnx")

_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate")
"""What the errors of OpenVINO, ONNX Runtime and oneDNN say when memory runs out."""

_UNWRITTEN = np.float32(-1.2345678e38)
"""Stands in an output until the engine has written it; no network gives exactly this."""

_STATIC_AFTER_PIXELS = 2**18
"""Input pixels of one size after which OpenVINO compiles a graph for that size only.

A graph for any size takes about 1 microsecond more per pixel (it fuses less) and compiling takes
about a quarter of a second: compiling when that much is lost costs at most twice the optimum.
"""


class Body(nn.Module):
    """What an inference form computes beside the bilinear skip.

    (B, 3, H, W) -> residual (B, 3, H*scale, W*scale) and the largest magnitude of the features
    that leave the trunk blocks, a scalar.
    """

    def __init__(self, network: PAN) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval().requires_grad_(False)
        factors = upsampling_factors(network.config.scale)
        self.conv_first = network.conv_first
        self.trunk = network.SCPA_trunk
        self.trunk_conv = network.trunk_conv
        self.stages = nn.Sequential()
        for stage, factor in enumerate(factors, start=1):
            self.stages.append(
                nn.Sequential(
                    _upsampling_convolution(_convolution(network, f"upconv{stage}"), factor),
                    network.get_submodule(f"att{stage}"),
                    network.lrelu,
                    network.get_submodule(f"HRconv{stage}"),
                    network.lrelu,
                )
            )
        self.last = nn.Sequential(
            block_convolution(network.conv_last, factors[-1]), nn.PixelShuffle(factors[-1])
        )
        for module in self.modules():
            if isinstance(module, nn.LeakyReLU):
                module.inplace = True

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        first = self.conv_first(image)  # (B, C, H, W)
        trunk = self.trunk(first)
        magnitude = trunk.abs().amax()
        return self.last(self.stages(first + self.trunk_conv(trunk))), magnitude


class InferenceForm(nn.Module):
    """A trained PAN rewritten to run faster: (B, 3, H, W) RGB -> output and feature magnitude.

    Any configuration of PAN and any size from 1x1 on. The bilinear skip is added in the precision
    of the image, so that an image in float32 keeps its precision around a body in half precision.

    Args:
        network: The network; it is copied and not changed.
        dtype: Precision of the convolutions; the network's own when left out.
    """

    def __init__(self, network: PAN, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.scale = network.config.scale
        self.dtype = dtype or network.conv_first.weight.dtype
        self.body = Body(network).to(self.dtype).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, 3, H*scale, W*scale), not clamped, and the magnitude, a scalar."""
        body_input = image.to(self.dtype, memory_format=torch.channels_last)
        residual, magnitude = self.body(body_input)
        return residual + bilinear_skip(image, self.scale), magnitude


def bilinear_skip(image: Tensor, scale: int) -> Tensor:
    """Return the part of PAN's output that is the image itself, upscaled bilinearly."""
    return F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)


class Engine(ABC):
    """Runs one network in one precision.

    Attributes:
        name: What computes, and in which precision: ``openvino bf16``.
        scale: Upscaling factor.
    """

    def __init__(self, name: str, scale: int) -> None:
        self.name = name
        self.scale = scale

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, float]:
        """Upscale (1, 3, H, W) float32.

        Returns:
            The output (1, 3, H*scale, W*scale) float32, not clamped, on the engine's device; and
            the largest magnitude of the trunk's features, which is inf or NaN after an overflow.

        Raises:
            MemoryError: Memory ran out; the engine can go on with a smaller image.
            torch.OutOfMemoryError: The same on a GPU.
        """
        with _memory_errors():
            return self._run(image)

    @abstractmethod
    def _run(self, image: Tensor) -> tuple[Tensor, float]: ...


def open_engine(
    network: PAN,
    *,
    backend: Backend = "auto",
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Engine:
    """Make a network ready to run.

    Args:
        network: The trained network.
        backend: ``torch``, ``openvino``, ``onnx``, or ``auto``: OpenVINO on a CPU where it is
            installed, else torch.
        device: Where to run; OpenVINO and ONNX Runtime serve the CPU only.
        dtype: Precision of the convolutions. ONNX Runtime has no other than float32 on a CPU and
            computes in that whatever is asked for, as OpenVINO does on a processor without bf16;
            that is logged as a warning.

    Raises:
        UsageError: There is no such backend.
        MissingExtraError: The backend is not installed.
        DeviceError: The backend does not serve the device, or not in that precision.
    """
    if backend not in BACKENDS:
        raise UsageError(f"there is no backend '{backend}'", hint="one of " + ", ".join(BACKENDS))
    on_cpu = device.type == "cpu"
    if on_cpu and dtype == torch.float16:
        raise DeviceError(
            "fp16 is emulated on the CPU and many times slower than fp32", hint="use bf16 or fp32"
        )
    if backend == "auto":
        installed = find_spec("openvino") is not None and find_spec("onnx") is not None
        backend = "openvino" if on_cpu and installed else "torch"
    if backend == "torch":
        return TorchEngine(network, device, dtype)
    if not on_cpu:
        raise DeviceError(
            f"the backend {backend} runs on the CPU, not on {device}",
            hint="--device cpu or --backend torch",
        )
    engine = OpenVINOEngine(network, dtype) if backend == "openvino" else ONNXEngine(network)
    used = engine.name.split()[-1]
    if used != PRECISION_NAMES[dtype]:
        logger.warning(
            "the backend %s computes in %s here, not in %s", backend, used, PRECISION_NAMES[dtype]
        )
    return engine


class TorchEngine(Engine):
    """Eager PyTorch on any device, channels last; float32 is never TF32."""

    def __init__(self, network: PAN, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(f"torch {PRECISION_NAMES[dtype]}", network.config.scale)
        self._device = device
        self._form = InferenceForm(network, dtype).to(device)

    def _run(self, image: Tensor) -> tuple[Tensor, float]:
        with exact_float32():
            output, magnitude = self._form(image.to(self._device))
        return output, float(magnitude)


class OpenVINOEngine(Engine):
    """OpenVINO on a CPU, with as many threads as torch has when the engine is opened."""

    def __init__(self, network: PAN, dtype: torch.dtype) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise MissingExtraError("lowvis-pan", "openvino") from error
        graph = _body_graph(network, extra="openvino")
        self._tensor: Any = openvino.Tensor
        self._core: Any = openvino.Core()
        self._model: Any = self._core.read_model(graph)
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # pinned threads of two processes share one core
        }
        self._compiled: Any = self._core.compile_model(self._model, "CPU", self._settings)
        self._any_size: Any = None
        self._pixels: Counter[tuple[int, ...]] = Counter()
        self._one_size: tuple[tuple[int, ...], Any] | None = None
        # What the processor does, which is float32 where it knows no bf16.
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        super().__init__(f"openvino {'bf16' if used == 'bf16' else 'fp32'}", network.config.scale)

    def _run(self, image: Tensor) -> tuple[Tensor, float]:
        image = image.cpu().float().contiguous()
        try:
            residual, magnitude = self._infer(image)
        except (RuntimeError, MemoryError):
            self._any_size = self._one_size = None  # they hold memory, and may be damaged
            raise
        return bilinear_skip(image, self.scale).add_(torch.from_numpy(residual)), magnitude

    def _infer(self, image: Tensor) -> tuple[NDArray[np.float32], float]:
        """Run the graph into new arrays, and make sure that it has written them.

        When memory runs out, OpenVINO may return as if nothing had happened, and leave in its own
        outputs what the run before gave.
        """
        height, width = (size * self.scale for size in image.shape[2:])
        residual = np.empty((1, 3, height, width), np.float32)
        magnitude = np.full((), _UNWRITTEN)
        corners = residual[:, :, :: height - 1, :: width - 1]
        corners[...] = _UNWRITTEN
        request = self._request(tuple(image.shape))
        request.set_tensor("residual", self._tensor(residual, shared_memory=True))
        request.set_tensor("magnitude", self._tensor(magnitude, shared_memory=True))
        request.infer({"image": image.numpy()}, share_inputs=True, share_outputs=True)
        if magnitude == _UNWRITTEN or bool((corners == _UNWRITTEN).any()):
            raise MemoryError("OpenVINO ended without a result, as it does when memory runs out")
        return residual, float(magnitude)

    def _request(self, size: tuple[int, ...]) -> Any:
        """Return what runs this size: the graph for any size, or in the long run one for it only.

        Tiles mostly share one size. One graph is kept, since each holds the memory of a tile; both
        give the same bits.
        """
        if self._one_size is not None and self._one_size[0] == size:
            return self._one_size[1]
        self._pixels[size] += size[-2] * size[-1]
        if self._pixels[size] <= _STATIC_AFTER_PIXELS:
            if self._any_size is None:
                # The graph itself is kept: compiling while memory is short can crash.
                self._any_size = self._compiled.create_infer_request()
            return self._any_size
        self._pixels.clear()
        self._one_size = None  # frees its memory before the next takes its own
        model = self._model.clone()
        model.reshape(list(size))
        compiled = self._core.compile_model(model, "CPU", self._settings)
        self._one_size = (size, compiled.create_infer_request())
        return self._one_size[1]


class ONNXEngine(Engine):
    """ONNX Runtime on a CPU in float32, with as many threads as torch has when it is opened."""

    def __init__(self, network: PAN) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError("lowvis-pan", "onnx") from error
        super().__init__("onnx fp32", network.config.scale)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        graph = _body_graph(network, extra="onnx")
        self._session: Any = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def _run(self, image: Tensor) -> tuple[Tensor, float]:
        image = image.cpu().float().contiguous()
        residual, magnitude = self._session.run(None, {"image": image.numpy()})
        output = bilinear_skip(image, self.scale).add_(torch.from_numpy(residual))
        return output, float(magnitude)


@contextmanager
def _memory_errors() -> Generator[None]:
    """Turn the errors by which each library says that memory ran out into MemoryError."""
    try:
        yield
    except Exception as error:  # ONNX Runtime's own errors are no RuntimeError
        if any(phrase in str(error) for phrase in _OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise


def _body_graph(network: PAN, *, extra: str) -> bytes:
    residual = ("batch", 3, "output_height", "output_width")
    outputs = {"residual": residual, "magnitude": ()}
    return onnx_graph(Body(network), outputs=outputs, extra=extra)


def _convolution(network: PAN, name: str) -> nn.Conv2d:
    return cast("nn.Conv2d", network.get_submodule(name))


def _upsampling_convolution(convolution: nn.Conv2d, factor: int) -> nn.ConvTranspose2d:
    """Return nearest-neighbor upsampling and a padded 3x3 convolution as one layer.

    Input row y is the upsampled rows n y + q, 0 <= q < n; the convolution adds row r times
    w[t] to the output row r + 1 - t. So tap k of the transposed kernel, which writes to row
    n y + k - 1 under a padding of 1, is the sum of the w[t] with q + 2 - t = k.
    """
    weight = convolution.weight.detach()
    spread = weight.double().transpose(0, 1).flip(2, 3)
    kernel = spread.new_zeros(*spread.shape[:2], factor + 2, factor + 2)
    for row in range(factor):
        for column in range(factor):
            kernel[:, :, row : row + 3, column : column + 3] += spread
    layer = nn.ConvTranspose2d(
        convolution.in_channels, convolution.out_channels, factor + 2, stride=factor, padding=1
    )
    return with_values(layer, kernel, convolution)
