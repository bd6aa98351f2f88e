"""A network as an ONNX graph, written node by node in milliseconds.

torch's own exporter takes ten seconds and more for PAN; the graph of a network this plain can be
written directly from its symbolic trace. OpenVINO and ONNX Runtime both read it.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from lowvis_shared.errors import MissingExtraError, UsageError
from numpy.typing import NDArray
from torch import nn

_OPSET = 18
_IR_VERSION = 9
"""Of 2023: what the oldest runtimes that the extras allow can read."""


def onnx_graph(
    module: nn.Module,
    *,
    outputs: Mapping[str, Sequence[int | str]],
    metadata: Mapping[str, str] | None = None,
    extra: str = "onnx",
) -> bytes:
    """Return a module as an ONNX file for an input ``image`` (B, 3, H, W) of any size, in float32.

    Args:
        module: Made of convolutions, LeakyReLU, sigmoid, pixel shuffle, interpolation, sums,
            products, concatenation, means over positions, and the largest magnitude of a tensor.
        outputs: Names of the outputs, in their order, each with its shape: sizes, or names of
            sizes that vary.
        metadata: Notes that the file carries.
        extra: The extra of this package to name in the error when ONNX is not installed.

    Raises:
        MissingExtraError: The package ``onnx`` is not installed.
        UsageError: The module holds something else.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("lowvis-pan", extra) from error
    helper = onnx.helper
    writer = _Writer(module, onnx)
    traced = torch.fx.symbolic_trace(module)
    results: Sequence[torch.fx.Node] = ()
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            writer.names[node] = "image"
        elif node.op == "output":
            result = node.args[0]
            results = result if isinstance(result, tuple) else (result,)
        else:
            writer.write(node)
    for node, name in zip(results, outputs, strict=True):
        writer.nodes.append(helper.make_node("Identity", [writer.names[node]], [name]))
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        writer.nodes,
        "lowvis",
        [helper.make_tensor_value_info("image", float32, ["batch", 3, "height", "width"])],
        [
            helper.make_tensor_value_info(name, float32, list(shape))
            for name, shape in outputs.items()
        ],
        writer.constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    return model.SerializeToString()


class _Writer:
    """Collects the nodes and constants of a graph; ``names`` holds the tensor of each node."""

    def __init__(self, module: nn.Module, onnx: Any) -> None:
        self._modules = dict(module.named_modules())
        self._onnx = onnx
        self.names: dict[torch.fx.Node, str] = {}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def write(self, node: torch.fx.Node) -> None:
        target: Any = node.target
        if node.op == "call_module":
            self._write_module(node, self._modules[target])
        elif target in _FUNCTIONS:
            self._add(node, _FUNCTIONS[target], self._inputs(node))
        elif target is torch.cat:
            tensors = cast("Sequence[torch.fx.Node]", node.args[0])
            self._add(node, "Concat", [self.names[each] for each in tensors], axis=node.args[1])
        elif target == "mean":
            axes = self._constant(np.array(node.args[1], np.int64))
            self._add(node, "ReduceMean", [*self._inputs(node), axes], keepdims=1)
        elif target is F.interpolate:
            self._write_interpolation(node)
        elif target == "amax":
            self._add(node, "ReduceMax", self._inputs(node), keepdims=0)
        else:
            raise UsageError(f"a network with {target} cannot be written as an ONNX graph")

    def _write_module(self, node: torch.fx.Node, module: nn.Module) -> None:
        inputs = self._inputs(node)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            inputs.append(self._constant(_array(module.weight)))
            if module.bias is not None:
                inputs.append(self._constant(_array(module.bias)))
            padding = cast("tuple[int, ...]", module.padding)
            kind = "Conv" if isinstance(module, nn.Conv2d) else "ConvTranspose"
            self._add(node, kind, inputs, pads=padding * 2, strides=module.stride)
        elif isinstance(module, nn.LeakyReLU):
            self._add(node, "LeakyRelu", inputs, alpha=module.negative_slope)
        elif isinstance(module, nn.Sigmoid):
            self._add(node, "Sigmoid", inputs)
        elif isinstance(module, nn.PixelShuffle):
            block = module.upscale_factor
            self._add(node, "DepthToSpace", inputs, blocksize=block, mode="CRD")
        else:
            kind = type(module).__name__
            raise UsageError(f"a network with {kind} cannot be written as an ONNX graph")

    def _write_interpolation(self, node: torch.fx.Node) -> None:
        factor = float(cast("float", node.kwargs["scale_factor"]))
        scales = self._constant(np.array([1, 1, factor, factor], np.float32))
        # PyTorch's two ways of laying the positions of the output over those of the input.
        attributes: dict[str, str] = (
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            if node.kwargs["mode"] == "bilinear"
            else {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            }
        )
        self._add(node, "Resize", [*self._inputs(node), "", scales], **attributes)

    def _inputs(self, node: torch.fx.Node) -> list[str]:
        return [self.names[each] for each in node.args if isinstance(each, torch.fx.Node)]

    def _add(self, node: torch.fx.Node, kind: str, inputs: list[str], **attributes: Any) -> None:
        self.names[node] = node.name
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [node.name], **attributes))

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name


_FUNCTIONS: dict[Callable[..., Any] | str, str] = {
    operator.add: "Add",
    operator.mul: "Mul",
    "abs": "Abs",
}


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
