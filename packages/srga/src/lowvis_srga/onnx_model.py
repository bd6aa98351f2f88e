"""ONNX models whose intermediate tensors are read: each is made one more output of the graph."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lowvis_shared.errors import InputError, MissingExtraError, UsageError
from torch import Tensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_CONVOLUTIONS = ("Conv", "ConvTranspose", "DeformConv", "ConvInteger", "QLinearConv", "FusedConv")
_NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxNetwork:
    """An ONNX model on the CPU, with the tensor that enters one of its nodes.

    Args:
        path: The model; weights in files beside it are read as well.
        layer: ``auto`` for the last convolution, ``output`` for the result, or the name of a node,
            whose first input is read, or of a tensor. A node comes first where both have the name.
        white: What white is in its pictures.
        size: Height and width of the pictures to come.

    Attributes:
        layer: What is read.

    Raises:
        UsageError: There is no such layer, or no convolution.
        InputError: The file holds no model, or one that takes other pictures. Other errors of
            onnx and onnxruntime pass through.
        MissingExtraError: ONNX is not installed.
    """

    def __init__(self, path: Path, layer: str, *, white: float, size: tuple[int, ...]) -> None:
        try:
            import onnx
            import onnx.inliner
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError("lowvis-srga", "onnx") from error
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        model: ModelProto = onnx.load(path)
        if not model.graph.node:
            raise InputError(f"{path} holds no ONNX model")
        if model.functions:  # convolutions may be inside
            model = onnx.inliner.inline_local_functions(model)
        graph = model.graph
        tensor, self.layer = _find_layer(graph, path.name, layer)
        result = graph.output[0].name
        if tensor not in [output.name for output in graph.output]:
            graph.output.append(onnx.ValueInfoProto(name=tensor))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised as well
        self._session = cast("Any", onnxruntime).InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input, self._numbers = self._check_input(path.name, size)
        kind = self._session.get_outputs()[0].type
        if kind not in _NUMBERS:
            raise InputError(f"{path.name} returns a {kind}, not floating-point numbers")
        self._names = [tensor, result]
        self._white = white

    def __call__(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """Run (B, 3, h, w) in 0..1: the tensor that is read, and the result."""
        image = (self._white * low).numpy().astype(self._numbers)
        features, output = self._session.run(self._names, {self._input: image})
        picture = torch.from_numpy(output) / self._white
        return picture if self.layer == "output" else torch.from_numpy(features), picture

    def _check_input(self, name: str, size: tuple[int, ...]) -> tuple[str, type]:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise InputError(f"{name} takes {len(inputs)} inputs, not one picture")
        kind, shape = inputs[0].type, list(inputs[0].shape)
        if kind not in _NUMBERS:
            raise InputError(f"{name} takes a {kind}, not floating-point numbers")
        wanted = [1, 3, *size]
        fits = len(shape) == 4 and all(
            fixed == number or not isinstance(fixed, int)
            for fixed, number in zip(shape, wanted, strict=True)
        )
        if not fits:
            raise InputError(
                f"{name} takes pictures of shape {shape}, and the patches are {wanted}",
                hint="export it for any batch, height and width, or for these",
            )
        return inputs[0].name, _NUMBERS[kind]


def _find_layer(graph: "GraphProto", name: str, layer: str) -> tuple[str, str]:
    """Return the tensor to read, and what it is called in results."""
    if layer == "output":
        return graph.output[0].name, "output"
    convolutions = [node for node in graph.node if _holds_convolution(node)]
    if layer == "auto":
        if not convolutions:
            raise UsageError(
                f"{name} has no convolution", hint="name a layer, or take layer 'output'"
            )
        last = convolutions[-1]
        if last.op_type not in _CONVOLUTIONS:
            raise UsageError(
                f"the last convolution of {name} lies within its node '{last.name}' "
                f"({last.op_type})",
                hint="name a layer, or take layer 'output'",
            )
        number = len(convolutions)
        return last.input[0], f"input of {last.name or f'convolution {number} of {number}'}"
    nodes = {node.name: node for node in graph.node if node.name and node.input}
    if layer in nodes:
        return nodes[layer].input[0], f"input of {layer}"
    weights = {weight.name for weight in graph.initializer}
    tensors = [each.name for each in graph.input if each.name not in weights]
    tensors += [output for node in graph.node for output in node.output if output]
    if layer in tensors:
        return layer, f"tensor {layer}"
    close = difflib.get_close_matches(layer, [*nodes, *tensors], n=3)
    last_names = [node.name or node.input[0] for node in convolutions[-3:]]
    names = dict.fromkeys([*close, *last_names, "auto", "output"])
    raise UsageError(f"{name} has no layer '{layer}'", hint=f"layers are {', '.join(names)}")


def _holds_convolution(node: "NodeProto") -> bool:
    """Whether it is a convolution, or a branch or loop with one inside."""
    return node.op_type in _CONVOLUTIONS or any(
        _holds_convolution(inner) for attribute in node.attribute for inner in attribute.g.node
    )
