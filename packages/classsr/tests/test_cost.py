"""Costs are those of the paper's tables in its way of counting, and the true ones beside them."""

import json

import numpy as np
import pytest
import torch
from lowvis_classsr.branches import BRANCHES
from lowvis_classsr.cost import (
    PAPER_CLASSIFIER,
    PAPER_CONSTANTS,
    branch_costs,
    classifier_cost,
    paper_flops,
    window_costs,
)
from lowvis_classsr.model import ClassSRConfig
from lowvis_shared.testing import mirror_path
from safetensors import safe_open

PIXELS = 32 * 32

# Millions of FLOPs (2 multiply-accumulates) of a patch of 32x32: width, as the paper counts, true.
TABLE = {
    "fsrcnn": [(16, 141.26, 21.82), (36, 304.57, 35.83), (56, 467.88, 49.84)],
    "carn": [(36, 380.5, 380.5), (52, 771.9, 771.9), (64, 1155.2, 1155.2)],
    "srresnet": [(36, 1658.2, 1658.2), (52, 3438.0, 3438.0), (64, 5194.0, 5194.0)],
    "rcan": [(36, 10329.9, 10329.9), (50, 19907.9, 19907.9), (64, 32600.1, 32600.1)],
}


@pytest.mark.parametrize("network", BRANCHES)
def test_costs_of_a_patch_are_the_table(network: str) -> None:
    config = ClassSRConfig(network=network)
    digits = 0.005 if network == "fsrcnn" else 0.05
    for width, cost, (known_width, paper, true) in zip(
        config.widths, branch_costs(config), TABLE[network], strict=True
    ):
        assert width == known_width
        assert 2 * PIXELS * cost.paper_macs / 1e6 == pytest.approx(paper, abs=1.01 * digits)
        assert 2 * PIXELS * cost.macs / 1e6 == pytest.approx(true, abs=1.01 * digits)


@pytest.mark.parametrize("network", BRANCHES)
def test_costs_are_the_constants_of_the_authors_tests(network: str) -> None:
    costs = branch_costs(ClassSRConfig(network=network))
    counted = [2 * PIXELS * cost.paper_macs for cost in costs]
    assert counted == pytest.approx(PAPER_CONSTANTS[network], rel=0.006)


@pytest.mark.parametrize("width", [16, 36, 56, 8])
def test_costs_of_a_pixel_follow_from_the_layers(width: int) -> None:
    """FSRCNN's mapping of 12 channels, and what grows with the width: mostly 243 at the tail."""
    (cost,) = branch_costs(ClassSRConfig(widths=(width,)))
    assert cost.macs == 342 * width + 5184
    assert cost.paper_macs == 3987 * width + 5184


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_paper_counts_a_transposed_convolution_at_its_output(scale: int) -> None:
    (cost,) = branch_costs(ClassSRConfig(widths=(16,), scale=scale))
    assert cost.macs == 342 * 16 + 5184
    assert cost.paper_macs - cost.macs == (scale**2 - 1) * 243 * 16


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("network", BRANCHES)
def test_the_layers_of_a_window_cost_what_the_branch_costs(network: str, scale: int) -> None:
    config = ClassSRConfig(network=network, scale=scale)
    costs = window_costs(config, 4)
    sums = np.sum(list(costs.values()), 0)
    assert sums.tolist() == pytest.approx([each.macs for each in branch_costs(config)], rel=1e-12)


def test_layers_near_the_output_compute_less_context() -> None:
    """SRResNet: 32 convolutions and a first one, two before the shuffles, two at the output."""
    width, pixel = 64, 9 * 64
    costs = window_costs(ClassSRConfig(network="srresnet"), 4)
    assert {context: each[-1] for context, each in costs.items()} == {
        4: pixel * (32 * width + 3),
        2: pixel * 4 * width,
        1: pixel * 4 * width * 4,
        0.5: pixel * (width + 3) * 16,
    }
    fsrcnn = window_costs(ClassSRConfig(), 4)
    assert {context: each[-1] for context, each in fsrcnn.items()} == {4: 10728, 1: 243 * 56}


def test_context_smaller_than_a_layers_reach_is_all_there_is() -> None:
    costs = window_costs(ClassSRConfig(network="srresnet"), 1)
    assert sorted(costs) == [0.5, 1]


def test_the_class_module_costs_what_the_spec_says() -> None:
    assert classifier_cost() * PIXELS == 3_801_184
    assert 2 * PIXELS * classifier_cost() == pytest.approx(PAPER_CLASSIFIER["fsrcnn"], rel=0.03)
    assert (classifier_cost(5) - classifier_cost(3)) * PIXELS == 2 * 32


def test_asking_for_a_cost_draws_no_random_numbers() -> None:
    """Or a training would depend on what was asked before it."""
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    branch_costs(ClassSRConfig(widths=(5, 7)))
    classifier_cost(7)
    assert torch.equal(torch.rand(4), expected)


def test_flops_of_class_counts_are_those_of_the_authors_code() -> None:
    path = mirror_path("golden/classsr/protocol.safetensors")
    with safe_open(path, framework="pt") as file:
        noted = json.loads(file.metadata()["cal_FLOPs"])
    counts = noted["counts"]
    assert counts == [3347, 3387, 5586]
    names = {
        "fsrcnn": "classSR_3class_fsrcnn_net",
        "carn": "classSR_3class_carn",
        "srresnet": "classSR_3class_srresnet",
        "rcan": "classSR_3class_rcan",
    }
    for network, name in names.items():
        flops, share = noted["result"][name]
        unit = 1e6 if network == "fsrcnn" else 1e9
        assert paper_flops(network, counts) / unit == pytest.approx(flops, rel=1e-12)
        ratio = paper_flops(network, counts) / PAPER_CONSTANTS[network][-1]
        assert ratio == pytest.approx(share, rel=1e-12)


def test_the_paper_column_lies_between_its_extremes() -> None:
    assert paper_flops("carn", [7, 0, 0]) == PAPER_CONSTANTS["carn"][0]
    assert paper_flops("carn", [0, 0, 7]) == PAPER_CONSTANTS["carn"][2]
    assert paper_flops("fsrcnn", [0, 0, 7]) == 468e6 + 7.4e6


def test_counts_of_other_classes_than_the_papers_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paper_flops("carn", [1, 2])
