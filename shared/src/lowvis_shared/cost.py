"""What a network costs: parameters, multiplications, activations, convolutions and memory, exactly.

All of it is counted, none of it measured: the figures depend on the network and the size of the
picture alone.
"""

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lowvis_shared.errors import UsageError

# ReLU-like layers, each element of which the challenge's counter counts as one operation.
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.ELU, nn.LeakyReLU)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one forward pass over one picture.

    The counts are those of the AIM 2020 challenge on efficient super-resolution
    (https://arxiv.org/abs/2009.06943).

    Attributes:
        parameters: Trainable and frozen values; a layer used twice counts once.
        macs: Multiply-accumulates of convolutions and linear layers, biases not counted; what
            papers call Mult-Adds. A layer executed twice counts twice.
        flops: The challenge's "FLOPs": ``macs``, one for each element of a ReLU-like layer and two
            of an affine batch normalization. A transposed convolution counts its kernel for each
            output position there, more than it takes. Sigmoids, products, sums, pooling and
            upsampling are not counted.
        activations: Elements of the outputs of all convolutions.
        convolutions: Convolution layers executed, transposed ones included.
        peak_memory: Most bytes alive at one moment of the pass: parameters, picture and whatever
            tensors the network keeps, without gradients. What ``torch.cuda.max_memory_allocated``
            shows, but for the working space of the convolution library.
        input_size: Channels, height and width of the picture.
    """

    parameters: int
    macs: int
    flops: int
    activations: int
    convolutions: int
    peak_memory: int
    input_size: tuple[int, int, int]


def measure_cost(model: nn.Module, input_size: tuple[int, int, int]) -> Cost:
    """Count what one forward pass of a network takes, without doing it.

    A copy of the network runs on PyTorch's meta device, which knows shapes only: a large picture
    takes no memory and no time. The network itself is left as it is.

    Args:
        model: A network of ``Conv2d``, ``ConvTranspose2d``, ``Linear`` and layers without
            matrix products, called with one tensor (1, C, H, W).
        input_size: (C, H, W).

    Raises:
        UsageError: The network multiplies matrices in other ways (attention, functional
            convolutions), so that the count would be too low.
    """
    twin = copy.deepcopy(model).to("meta").eval()
    counts = _Counts()
    for module in twin.modules():
        hook = counts.hook_for(module)
        if hook is not None:
            module.register_forward_hook(hook)
    dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
    # PyTorch counts every matrix product, whoever asks for it: proof that none escaped the hooks.
    every_product, memory = FlopCounterMode(display=False), _LiveMemory(twin)
    with torch.no_grad(), every_product, memory:
        picture = torch.empty((1, *input_size), dtype=dtype, device="meta")
        twin(picture)
    if every_product.get_total_flops() != 2 * counts.macs:
        raise UsageError(
            f"{type(model).__name__} multiplies outside Conv2d, ConvTranspose2d and Linear layers: "
            f"{every_product.get_total_flops() // 2} multiply-accumulates in all, "
            f"{counts.macs} in these layers"
        )
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=counts.macs,
        flops=counts.flops,
        activations=counts.activations,
        convolutions=counts.convolutions,
        peak_memory=memory.peak,
        input_size=input_size,
    )


class _LiveMemory(TorchDispatchMode):
    """Adds up the bytes of a network and of all tensors made while this is active, while they live.

    Args:
        network: Whose parameters and buffers are there from the start.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._storages: dict[int, int] = {}  # bytes by identity: views share a storage
        for value in (*network.parameters(), *network.buffers()):
            self._see(value.untyped_storage())

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        identity = id(storage)  # torch keeps the Python object for as long as any tensor uses it
        if identity not in self._storages:
            self._storages[identity] = storage.nbytes()
            self._alive += storage.nbytes()
            self.peak = max(self.peak, self._alive)
            weakref.finalize(storage, self._forget, identity)

    def _forget(self, identity: int) -> None:
        self._alive -= self._storages.pop(identity)


@dataclass(slots=True)
class _Counts:
    """Running totals, added to by forward hooks."""

    macs: int = 0
    flops: int = 0
    activations: int = 0
    convolutions: int = 0

    def hook_for(
        self, module: nn.Module
    ) -> Callable[[Any, tuple[Tensor, ...], Tensor], None] | None:
        if isinstance(module, nn.Conv2d):
            return self._convolution
        if isinstance(module, nn.ConvTranspose2d):
            return self._transposed_convolution
        if isinstance(module, nn.Linear):
            return self._linear
        if isinstance(module, nn.BatchNorm2d):
            return self._normalization
        if isinstance(module, _ACTIVATIONS):
            return self._activation
        return None

    def _convolution(self, layer: nn.Conv2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        # Each output value takes one kernel over the input channels of its group.
        macs = output.numel() * layer.weight[0].numel()
        self.macs += macs
        self.flops += macs
        self.activations += output.numel()
        self.convolutions += 1

    def _transposed_convolution(
        self, layer: nn.ConvTranspose2d, inputs: tuple[Tensor, ...], output: Tensor
    ) -> None:
        # Each input value is spread by one kernel over the output channels of its group.
        kernel = layer.weight[0].numel()
        self.macs += inputs[0].numel() * kernel
        self.flops += output[:, 0].numel() * layer.in_channels * kernel
        self.activations += output.numel()
        self.convolutions += 1

    def _linear(self, layer: nn.Linear, _: tuple[Tensor, ...], output: Tensor) -> None:
        macs = output.numel() * layer.in_features
        self.macs += macs
        self.flops += macs

    def _normalization(self, layer: nn.BatchNorm2d, _: tuple[Tensor, ...], output: Tensor) -> None:
        self.flops += output.numel() * (2 if layer.affine else 1)

    def _activation(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        self.flops += output.numel()
