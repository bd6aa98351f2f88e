"""Counts equal those worked out by hand."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lowvis_shared.cost import Cost, measure_cost
from lowvis_shared.errors import UsageError
from torch import Tensor, nn


def test_convolutions_and_activations_of_a_small_network() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 10x12 outputs, 27 products each
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, stride=2, bias=False),  # 5x6, 2 channels x 9
        nn.PReLU(8),
        nn.Conv2d(8, 4, 1),
        nn.Sigmoid(),
    )
    macs = 10 * 12 * 8 * 27 + 5 * 6 * 8 * 18 + 5 * 6 * 4 * 8
    assert measure_cost(network, (3, 10, 12)) == Cost(
        parameters=(8 * 27 + 8) + 8 * 18 + 8 + (4 * 8 + 4),
        macs=macs,
        flops=macs + 10 * 12 * 8 + 5 * 6 * 8,
        activations=10 * 12 * 8 + 5 * 6 * 8 + 5 * 6 * 4,
        convolutions=3,
        # the picture, the first convolution's output and the activation's, and the parameters
        peak_memory=4 * (10 * 12 * (3 + 8 + 8) + (8 * 27 + 8) + 8 * 18 + 8 + (4 * 8 + 4)),
        input_size=(3, 10, 12),
    )


class PixelAttentionUpsampler(nn.Module):
    """A layer used twice, upsampling in two modes, attention, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)
        self.attention = nn.Conv2d(3, 3, 1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        features = self.activation(self.body(self.activation(self.body(image))))
        features = F.interpolate(features, scale_factor=2, mode="nearest")
        features = features * torch.sigmoid(self.attention(features))
        return features + F.interpolate(image, scale_factor=2, mode="bilinear")


def test_shared_layers_count_once_as_parameters_and_twice_as_work() -> None:
    cost = measure_cost(PixelAttentionUpsampler(), (3, 6, 5))
    assert cost.parameters == (3 * 27 + 3) + (3 * 3 + 3)
    assert cost.macs == 2 * 30 * 3 * 27 + 120 * 3 * 3
    assert cost.flops == cost.macs + 2 * 30 * 3
    assert cost.activations == 2 * 30 * 3 + 120 * 3
    assert cost.convolutions == 3


def test_transposed_convolution_takes_its_kernel_for_each_input_position() -> None:
    network = nn.ConvTranspose2d(4, 2, 6, stride=2, padding=2, groups=2)
    cost = measure_cost(network, (4, 5, 7))
    assert cost.macs == 5 * 7 * 4 * (1 * 36)
    # the challenge's counter takes it for each output position
    assert cost.flops == 10 * 14 * 2 * (2 * 36)
    assert cost.activations == 10 * 14 * 2
    assert cost.convolutions == 1


def test_linear_layers_and_batch_normalization() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(48, 10)
    )
    cost = measure_cost(network, (3, 4, 4))
    assert cost.macs == 480
    assert cost.flops == 480 + 2 * 48 + 48
    assert cost.activations == cost.convolutions == 0
    assert cost.parameters == 6 + 490


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure_cost(network, (3, 8, 8))
    assert network.training
    assert not network[0]._forward_hooks
    for name, value in network.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


def test_half_precision_networks_cost_the_same_and_half_the_memory() -> None:
    network = PixelAttentionUpsampler()
    expected = measure_cost(network, (3, 9, 9))
    half = measure_cost(network.bfloat16(), (3, 9, 9))
    assert replace(half, peak_memory=2 * half.peak_memory) == expected


def test_sizes_beyond_any_memory_are_counted() -> None:
    cost = measure_cost(nn.Conv2d(3, 64, 3, padding=1), (3, 100_000, 100_000))
    assert cost.macs == 10**10 * 64 * 27


class FunctionalConvolution(nn.Module):
    """Convolves without a layer that could be counted."""

    def forward(self, image: Tensor) -> Tensor:
        return F.conv2d(image, torch.empty(3, 3, 3, 3, device=image.device))


@pytest.mark.parametrize("network", [FunctionalConvolution(), nn.Conv1d(3, 3, 1)])
def test_uncounted_products_are_refused_instead_of_passed_over(network: nn.Module) -> None:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> Tensor:
            return self.network(image[..., 0] if isinstance(network, nn.Conv1d) else image)

    with pytest.raises(UsageError, match="Caller multiplies outside"):
        measure_cost(Caller(), (3, 8, 8))


class Chain(nn.Module):
    """Three convolutions of the same width, the first output kept to the end or not."""

    def __init__(self, *, skip: bool, inplace: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1, bias=False) for _ in range(3))
        self.activation = nn.ReLU(inplace=inplace)
        self.skip = skip

    def forward(self, image: Tensor) -> Tensor:
        first = features = self.layers[0](image)
        if not self.skip:
            del first
        for layer in list(self.layers)[1:]:
            features = self.activation(layer(features))
        return features + first if self.skip else features


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    plane, weights = 4 * 4 * 100, 4 * 3 * 16
    peaks = {
        (skip, inplace): measure_cost(Chain(skip=skip, inplace=inplace), (4, 10, 10)).peak_memory
        for skip in (False, True)
        for inplace in (False, True)
    }
    # the picture, what a layer reads, and what it writes; a skip keeps one more alive
    assert peaks[False, True] == weights + 3 * plane
    assert peaks[True, True] == weights + 4 * plane
    assert peaks[False, False] == weights + 4 * plane
    assert peaks[True, False] == weights + 5 * plane
