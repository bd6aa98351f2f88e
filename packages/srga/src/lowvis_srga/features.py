"""What a network makes of patches just before its last convolution: the features that SRGA reads.

A tap runs any network of RGB pictures and returns the features with the result. Networks of
PyTorch and TorchScript are watched operation by operation, so that functional convolutions are
found as well as modules; ONNX models get the features as one more output.
"""

import difflib
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lowvis_shared.candidates import Candidate, FullRange, find_candidate, foreign_code
from lowvis_shared.device import choose_device, exact_float32
from lowvis_shared.errors import InputError, UsageError
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from lowvis_srga.onnx_model import OnnxNetwork

logger = logging.getLogger("lowvis")

SCRIPT_SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")
"""What files of TorchScript are called."""

FAR_OUT = 10.0
"""Times white: pictures of networks that work overshoot it by some hundredths."""

_CONVOLUTION_MODULES = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

_NO_POINTER = -1  # of packed weights, which are no tensors

_BATCH_TOLERANCE = 1e-3  # of the largest feature; kernels chosen by batch size round differently

# Every way to convolve: conv2d, _convolution, mkldnn_convolution, cudnn_convolution_add_relu,
# conv_transpose2d, deform_conv2d, quantized::conv2d. Not: conversions, layouts of weights.
_CONVOLUTION = re.compile(r"::\w*conv(?!ert)(?!\w*(?:pack|weight|backward))")


class Tap(Protocol):
    """A network whose features are read.

    Attributes:
        name: Title of the network.
        layer: What is read: ``input of conv_last``, ``output``.
    """

    @property
    def name(self) -> str: ...

    @property
    def layer(self) -> str: ...

    def __call__(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """Run a batch (B, 3, h, w) in 0..1, float32.

        Returns:
            Features (B, p) float32 and the network's pictures (B, 3, H, W) float32, on its device.
            They may be infinite or no numbers where the network diverges.

        Raises:
            InputError: The network raises something or cannot be read at this batch.
            DeviceError: Out of memory.
        """
        ...


def open_tap(
    model: str,
    *,
    layer: str = "auto",
    scale: int = 4,
    white: float = 1.0,
    device: str = "auto",
    side: int = 32,
    accept_licence: bool = False,
    offline: bool = False,
) -> Tap:
    """Open a network of any kind for reading features.

    Args:
        model: A file ``*.onnx``, a file of TorchScript (``SCRIPT_SUFFIXES``), or what
            `find_candidate` takes: ``pan-x4``, ``rfdn-x4@official``, ``mine.py:make@best.pth``.
        layer: ``auto`` for the input of the last convolution that runs, ``output`` for the result,
            or the name of a module (ONNX: of a node or tensor), whose input is read.
        scale: Upscaling factor that the network must have; 1 for networks that keep the size.
        white: What white is in the user's pictures, 1 or 255; lowvis networks know theirs.
        device: As for `choose_device`; ONNX models run on the CPU.
        side: Height and width of the patches, which the network is tried at.
        accept_licence: Fetch weights although their authors state no licence.
        offline: Never use the network.

    Raises:
        UsageError: There is no such network or layer, or it has no trained weights.
        InputError: The network cannot be read or run, or has another scale.
        WeightsError: Its weights are missing, damaged or of another network.
        DeviceError: There is no such device, or too little memory.
        MissingExtraError: An ONNX model, and ONNX is not installed.
    """
    example = plain_picture(side)
    found = find_model(
        model, scale=scale, white=white, accept_licence=accept_licence, offline=offline
    )
    if isinstance(found, Path) and found.suffix == ".onnx":
        if device not in ("auto", "cpu"):
            raise UsageError(
                f"{model} runs on the CPU, not on {device}", hint="use --device auto or cpu"
            )
        return tap_onnx(found, layer=layer, scale=scale, white=white, example=example)
    chosen = choose_device(device)
    if isinstance(found, Path):
        return tap_script(
            found, layer=layer, scale=scale, white=white, device=chosen, example=example
        )
    if found.scale != scale:  # before weights are fetched in vain
        raise _wrong_scale(found.title, found.scale, scale, side)
    return tap_module(
        found.open(),
        name=found.title,
        layer=layer,
        scale=scale,
        device=chosen,
        example=example,
    )


def find_model(
    model: str,
    *,
    scale: int = 4,
    white: float = 1.0,
    accept_licence: bool = False,
    offline: bool = False,
) -> Path | Candidate:
    """Find what a word names, without opening it.

    Args:
        model: As for `open_tap`.
        scale: As for `open_tap`.
        white: As for `open_tap`.
        accept_licence: As for `open_tap`.
        offline: As for `open_tap`.

    Returns:
        The file of an ONNX model or of TorchScript, or a network that is not built yet.

    Raises:
        UsageError: There is no such network, or white is something else.
        InputError: There is no such file.
    """
    path = Path(model)
    is_file = path.is_file() or "@" not in model  # mine.py:make@best.pth ends like a file, too
    if is_file and path.suffix in (".onnx", *SCRIPT_SUFFIXES):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        _check_white(white)
        return path
    return find_candidate(
        model,
        scale=scale,
        white=white,
        accept_licence=accept_licence,
        offline=offline,
        task=None,
    )


def tap_module(
    network: nn.Module,
    *,
    name: str,
    layer: str = "auto",
    scale: int,
    device: torch.device,
    example: Tensor,
) -> Tap:
    """Open a network of PyTorch or TorchScript, which is moved to the device.

    A layer that runs several times is read at its last run. In TorchScript only convolutions have
    names that can be read, and with padding other than zeros they are read padded.

    Args:
        network: Maps (B, 3, h, w) in 0..1 to (B, 3, H, W).
        name: Its title, for messages and tables.
        layer: As for `open_tap`.
        scale: Upscaling factor that it must have.
        device: Where it runs.
        example: A plain picture (1, 3, h, w) of the size of the patches.

    Raises:
        UsageError: There is no such layer, it never runs, or no convolution runs.
        InputError: The network cannot be run, or has another scale.
        DeviceError: Too little memory.
    """
    with foreign_code(name):
        network = network.to(device).eval()
    watched = _Watched(network, name, layer)
    with foreign_code(name):
        found = watched.resolve(example.to(device))
    return _checked(_Tap(name, found, watched, device), scale, example)


def tap_script(
    path: Path,
    *,
    layer: str = "auto",
    scale: int,
    white: float = 1.0,
    device: torch.device,
    example: Tensor,
) -> Tap:
    """Open a file of TorchScript, scripted, traced or frozen; arguments as for `open_tap`.

    Raises:
        UsageError: As for `tap_module`; or white is neither 1 nor 255.
        InputError: As for `tap_module`; or the file holds no TorchScript.
        DeviceError: Too little memory.
    """
    _check_white(white)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with warnings.catch_warnings():
        # PyTorch advises against TorchScript for new work; who has such a file has old work.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        try:
            network = cast("nn.Module", torch.jit.load(str(path), map_location=device))
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{path} holds no TorchScript that torch can load: {_first_line(error)}",
                hint=f"weights alone need their network: module:factory@{path}",
            ) from error
    return tap_module(
        network if white == 1.0 else FullRange(network),
        name=path.name,
        layer=layer,
        scale=scale,
        device=device,
        example=example,
    )


def tap_onnx(
    path: Path, *, layer: str = "auto", scale: int, white: float = 1.0, example: Tensor
) -> Tap:
    """Open an ONNX model, which runs on the CPU; arguments as for `open_tap`.

    Raises:
        UsageError: There is no such layer or no convolution; or white is neither 1 nor 255.
        InputError: The model cannot be read or run, takes other pictures or has another scale.
        DeviceError: Too little memory.
        MissingExtraError: ONNX is not installed.
    """
    _check_white(white)
    with foreign_code(path.name):
        network = OnnxNetwork(path, layer, white=white, size=tuple(example.shape[2:]))
    tap = _Tap(path.name, network.layer, network, torch.device("cpu"))
    return _checked(tap, scale, example)


@dataclass(frozen=True, slots=True)
class _Tap:
    """A `Tap`: what runs the network, and around it what is the same for all kinds."""

    name: str
    layer: str
    run: Callable[[Tensor], tuple[object, object]]
    device: torch.device
    one_by_one: bool = False

    def __call__(self, low: Tensor) -> tuple[Tensor, Tensor]:
        low = low.to(self.device, torch.float32)
        with exact_float32():
            parts = [self._part(part) for part in low.split(1 if self.one_by_one else len(low))]
        # Copies made out here are plain tensors, which others may change in place.
        features = torch.cat([features for features, _ in parts])
        return features, torch.cat([output for _, output in parts])

    def _part(self, low: Tensor) -> tuple[Tensor, Tensor]:
        devices = [self.device] if self.device.type == "cuda" else []
        # The seed makes a network that draws noise give the same for the same patch.
        with foreign_code(self.name), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            features, output = self.run(low)
        features = self._batch(features, f"the {self.layer}", len(low))
        output = self._batch(output, "the result", len(low))
        return features.reshape(len(low), -1).float(), output.float()

    def _batch(self, value: object, what: str, size: int) -> Tensor:
        if not isinstance(value, Tensor):
            raise InputError(f"{self.name}: {what} is no tensor but a {type(value).__name__}")
        if not value.is_floating_point():
            raise InputError(f"{self.name}: {what} holds {value.dtype}, no floating-point numbers")
        if value.ndim == 0 or value.shape[0] != size:
            raise InputError(
                f"{self.name}: {what} has the shape {tuple(value.shape)}: "
                f"its first axis is not the batch of {size}"
            )
        return value


def _checked(tap: _Tap, scale: int, example: Tensor) -> Tap:
    """Try a tap, and have it run patch by patch where patches of a batch are not independent."""
    features, output = tap(example)
    _check_output(tap.name, output, scale, example)
    if features.numel() == 0:
        raise InputError(f"{tap.name}: the {tap.layer} is empty")
    try:
        # Two different pictures: traces may be of one batch size, norms may be over the batch.
        pair, _ = tap(torch.cat([example, 1 - example]))
    except InputError:
        independent = False
    else:
        allowed = _BATCH_TOLERANCE * features.abs().max()
        independent = pair.shape[1] == features.shape[1] and bool(
            ((pair[:1] - features).abs() <= allowed).all()
        )
    if not independent:
        logger.info("%s takes no batches: patches run one by one", tap.name)
    return replace(tap, one_by_one=not independent)


def _check_output(name: str, output: Tensor, scale: int, example: Tensor) -> None:
    height, width = example.shape[2:]
    if output.ndim != 4 or output.shape[1] != 3:
        raise InputError(
            f"{name} turns {tuple(example.shape)} into {tuple(output.shape)}: no RGB picture"
        )
    factor = output.shape[2] // height
    if output.shape[2:] != (factor * height, factor * width) or factor == 0:
        raise InputError(
            f"{name} turns {height}x{width} into {output.shape[2]}x{output.shape[3]}: "
            "no whole upscaling factor"
        )
    if factor != scale:
        raise _wrong_scale(name, factor, scale, width)
    if not output.isfinite().all():
        raise InputError(
            f"{name}: the result of a plain picture is not finite", hint="are its weights whole?"
        )
    if output.abs().max() > FAR_OUT:
        raise InputError(
            f"{name}: the result of a plain picture reaches {output.abs().max():.0f} times white",
            hint="--white 255 is for networks of pictures in 0..255",
        )


def _wrong_scale(name: str, factor: int, scale: int, side: int) -> InputError:
    return InputError(
        f"{name} upscales by {factor}, and the patches are {side} and {side * scale} wide: {scale}",
        hint=f"take a network of scale {scale}, or patches for scale {factor}",
    )


class _Watched:
    """A network and the layer whose input is read: (B, 3, h, w) -> that input, and the result."""

    def __init__(self, network: nn.Module, name: str, layer: str) -> None:
        self.network = network
        self.name = name
        self.layer = layer
        # Names are those that the user knows, without our wrapper's.
        self.inner = network.network if isinstance(network, FullRange) else network
        self.weights = {
            parameter_name.removesuffix(".weight"): parameter
            for parameter_name, parameter in self.inner.named_parameters(remove_duplicate=False)
            if parameter_name.endswith(".weight")
        }
        self.modules = dict(self.inner.named_modules(remove_duplicate=False))
        self.found = ""
        self.entries = 0  # until what is read had entered

    def resolve(self, example: Tensor) -> str:
        """Run once and say what is read; errors as for `tap_module`."""
        script = isinstance(self.inner, torch.jit.ScriptModule)
        if self.layer == "output":
            return "output"
        if self.layer not in ("auto", *self.modules, *self.weights) or not self.layer:
            raise UsageError(f"{self.name} has no layer '{self.layer}'", hint=self._hint())
        if script and "prim::mkldnn_convolution" in str(cast("Any", self.inner).inlined_graph):
            raise InputError(
                f"{self.name} is optimized for inference, which hides its convolutions",
                hint="take it as it was before torch.jit.optimize_for_inference",
            )
        watch, _ = self._watch(example)
        self.found, self.entries = watch.found, watch.entries
        if self.found:
            return self.found
        if self.layer == "auto":
            raise UsageError(
                f"{self.name} runs no convolution", hint="name a layer, or take layer 'output'"
            )
        only = ", and in TorchScript only convolutions can be read" if script else ""
        raise UsageError(f"{self.name} never runs '{self.layer}'{only}", hint=self._hint())

    def __call__(self, low: Tensor) -> tuple[object, object]:
        watch, output = self._watch(low, skip=self.entries - 1)
        if self.layer == "output":
            return output, output
        if watch.entries < self.entries:  # it takes another course for other patches
            watch, output = self._watch(low)
        if watch.found != self.found:
            raise InputError(
                f"{self.name} runs other layers for other patches: {watch.found or 'none'} "
                f"instead of {self.found}",
                hint="take layer 'output'",
            )
        return watch.features, output

    def _watch(self, low: Tensor, skip: int = 0) -> tuple["_Watch", object]:
        with (
            torch.inference_mode(),
            # Otherwise TorchScript fuses operations, and what is fused is not seen.
            torch.jit.optimized_execution(False),  # pyright: ignore[reportPrivateImportUsage]
            ExitStack() as hooks,
            _Watch(self.layer, self.weights, skip) as watch,
        ):
            watch.hook(self.modules, hooks)
            output: object = self.network(low)
        return watch, output

    def _hint(self) -> str:
        known = [name for name in self.modules if name not in ("", self.layer)]
        close = difflib.get_close_matches(self.layer, known, n=3)
        convolutions = [name for name, weight in self.weights.items() if weight.ndim >= 3]
        names = dict.fromkeys([*close, *convolutions[-3:]])
        return f"layers are {', '.join([*names, 'auto', 'output'])}"


class _Watch(TorchDispatchMode):
    """Keeps a copy of what enters a layer while a network runs in its block.

    Attributes:
        features: What entered last; None where nothing did.
        found: What entered; empty where nothing did.
        entries: How many times something entered.

    Args:
        layer: As for `open_tap`.
        weights: The network's weights by the names of their modules.
        skip: How many entries not to copy, as later ones will come.
    """

    def __init__(self, layer: str, weights: Mapping[str, Tensor], skip: int) -> None:
        super().__init__()
        self.features: object = None
        self.found = ""
        self.entries = 0
        self._skip = skip
        self._layer = layer
        self._names = {weight.data_ptr(): name for name, weight in weights.items()}
        if layer in weights:
            self._names[weights[layer].data_ptr()] = layer  # if it has several names, then this
        self._inside: tuple[str, object] | None = None  # the module that is running, its input
        self._entered = False
        self._count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # The compiler has no part in this, and importing it takes ten times as long as all else.
        return False

    def hook(self, modules: Mapping[str, nn.Module], hooks: ExitStack) -> None:
        """Have modules tell what enters them until the hooks are closed; TorchScript's cannot."""
        for name, module in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            if self._layer == name:
                entering = module.register_forward_pre_hook(self._enter_layer, with_kwargs=True)
                hooks.callback(entering.remove)
            elif self._layer == "auto" and isinstance(module, _CONVOLUTION_MODULES):
                enter = partial(self._enter_convolution, name)
                entering = module.register_forward_pre_hook(enter, with_kwargs=True)
                leaving = module.register_forward_hook(self._leave_convolution)
                hooks.callback(entering.remove)
                hooks.callback(leaving.remove)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if self._layer != "output" and _is_convolution(func.name()):
            self._convolution(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _convolution(self, value: Tensor, weight: object) -> None:
        self._count += 1
        pointer = weight.data_ptr() if isinstance(weight, Tensor) else _NO_POINTER
        if self._layer == "auto":
            # A module is read where it is entered, before it pads. It knows its name also where
            # its weight is computed or cast.
            name, entering = self._inside or (self._names.get(pointer, ""), value)
            self._keep(entering, name or f"convolution {self._count} of {self._count}")
        elif self._names.get(pointer) == self._layer and not self._entered:
            self._keep(value, self._layer)

    def _enter_layer(
        self, _module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        self._entered = True
        self._keep(_first(args, kwargs), self._layer)

    def _enter_convolution(
        self, name: str, _module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        self._inside = (name, _first(args, kwargs))

    def _leave_convolution(self, _module: nn.Module, _args: object, _output: object) -> None:
        self._inside = None

    def _keep(self, value: object, name: str) -> None:
        self.entries += 1
        self.found = f"input of {name}"
        if self.entries > self._skip:
            # A copy: a block may start with an activation in place.
            self.features = value.clone() if isinstance(value, Tensor) else value


@cache
def _is_convolution(operation: str) -> bool:
    return _CONVOLUTION.search(operation) is not None


def _first(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    return next(iter((*args, *kwargs.values())), None)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")


def plain_picture(side: int) -> Tensor:
    """Return a picture (1, 3, side, side) of soft ramps in 0.2..0.8.

    Noise would not do: some networks diverge on it.
    """
    ramp = torch.linspace(0.2, 0.8, side)
    across, down = ramp.expand(side, side), ramp[:, None].expand(side, side)
    return torch.stack([across, down, (across + down) / 2])[None]


def _check_white(white: float) -> None:
    if white not in (1.0, 255.0):
        raise UsageError(f"white is 1 or 255 in the pictures of a network, not {white:g}")
