"""Rewritten layers give what the layers they stand for give."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.errors import UsageError
from lowvis_shared.rewrite import block_convolution, with_values
from torch import nn


@given(
    st.sampled_from([1, 2, 3, 4]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_blocks_shuffled_are_the_convolution(
    block: int, rows: int, columns: int, inputs: int, outputs: int
) -> None:
    """At the borders too: the padding of the blocks is that of the pixels."""
    torch.manual_seed(rows)
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1).double()
    features = torch.randn(2, inputs, rows * block, columns * block, dtype=torch.float64)
    found = F.pixel_shuffle(block_convolution(convolution, block)(features), block)
    torch.testing.assert_close(found, convolution(features), rtol=0, atol=1e-12)


@torch.inference_mode()
def test_single_precision_loses_nothing_that_is_seen() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(16, 3, 3, padding=1)
    features = torch.rand(1, 16, 24, 32)
    found = F.pixel_shuffle(block_convolution(convolution, 4)(features), 4)
    torch.testing.assert_close(found, convolution(features), rtol=0, atol=1e-5)


def test_the_layer_has_its_own_values_of_the_same_kind_and_is_not_trained() -> None:
    convolution = nn.Conv2d(4, 3, 3, padding=1).to(torch.bfloat16)
    before = convolution.weight.detach().clone()
    layer = block_convolution(convolution, 2)
    assert layer.bias is not None
    assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(7)
    assert torch.equal(convolution.weight, before)
    assert convolution.bias is not None
    assert float(convolution.bias.detach().abs().max()) < 7


def test_each_output_hands_its_bias_to_all_that_stand_for_it() -> None:
    origin = nn.Conv2d(2, 3, 1)
    origin.bias = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    plain = with_values(nn.Conv2d(2, 6, 1), torch.zeros(6, 2, 1, 1), origin)
    transposed = with_values(nn.ConvTranspose2d(2, 6, 1), torch.zeros(2, 6, 1, 1), origin)
    for layer in (plain, transposed):
        assert layer.bias is not None
        assert layer.bias.tolist() == [1, 1, 2, 2, 3, 3]


def test_a_convolution_without_bias_is_refused() -> None:
    with pytest.raises(UsageError, match="no bias"):
        block_convolution(nn.Conv2d(2, 3, 3, padding=1, bias=False), 2)
