"""Our entry: what trains and what runs are the same map."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_aim2020.networks.folded import CollapsibleConvolution, Folded, FoldedConfig
from lowvis_shared.cost import measure_cost
from lowvis_shared.errors import UsageError

TINY = FoldedConfig(channels=6, layers=2)


@settings(deadline=None, max_examples=20)
@given(
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    expansion=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_a_collapsible_convolution_is_its_parts_in_a_row(
    inputs: int, outputs: int, expansion: int, height: int, width: int
) -> None:
    layer = CollapsibleConvolution(inputs, outputs, expansion).double()
    torch.nn.init.normal_(layer.project.bias)
    features = torch.randn(2, inputs, height, width, dtype=torch.float64)
    wide = torch.nn.functional.conv2d(features, layer.expand.weight, padding=1)
    expected = layer.project(wide) + (features if inputs == outputs else 0)
    torch.testing.assert_close(layer(features), expected)
    torch.testing.assert_close(layer.fold().double()(features), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_folding_changes_no_picture_and_removes_the_wide_layers() -> None:
    network = Folded(TINY)
    folded = network.fold()
    assert not folded.training
    picture = torch.rand(1, 3, 13, 17)
    torch.testing.assert_close(folded(picture), network(picture))
    # One 3x3 kernel and one bias for each of 3 -> 6 -> 6 -> 6 -> 48 channels.
    assert measure_cost(folded, (3, 8, 8)).parameters == (
        (3 * 6 + 6 * 6 + 6 * 6 + 6 * 48) * 9 + 6 + 6 + 6 + 48
    )
    torch.testing.assert_close(folded.fold()(picture), folded(picture))


def test_an_untrained_network_gives_the_pixels_of_its_input() -> None:
    network = Folded(TINY)
    for layer in network.layers:
        torch.nn.init.zeros_(layer.project.weight)
    # What is left of the last layer, whose widths differ, is nothing at all.
    picture = torch.rand(1, 3, 5, 4)
    with torch.no_grad():
        expected = torch.nn.functional.interpolate(picture, scale_factor=4, mode="nearest")
        torch.testing.assert_close(network(picture), expected)


def test_mixed_precision_folds_in_float32() -> None:
    layer = CollapsibleConvolution(4, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.kernel().dtype == torch.float32
        assert torch.equal(layer.kernel(), layer.kernel())
    assert torch.equal(layer.kernel(), layer.fold().weight)


@pytest.mark.parametrize("changes", [{"scale": 0}, {"channels": 0}, {"layers": 0}], ids=str)
def test_impossible_shapes_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        FoldedConfig(**changes)
