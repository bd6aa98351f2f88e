"""ClassSR is the authors': its keys and counts, how it judges patches, and both ways of routing."""

import json
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from lowvis_classsr.model import Classifier, ClassSR, ClassSRConfig
from lowvis_shared.errors import UsageError
from lowvis_shared.testing import mirror_path
from safetensors.torch import load_file
from torch import Tensor, nn

Filled = Callable[[nn.Module], nn.Module]


def golden(case: str) -> dict[str, Tensor]:
    return load_file(mirror_path(f"golden/classsr/{case}.safetensors"))


def golden_keys(case: str) -> list[list[object]]:
    return json.loads(mirror_path(f"golden/classsr/{case}.keys.json").read_text())


def keys(network: nn.Module) -> list[list[object]]:
    return [[name, list(value.shape)] for name, value in network.state_dict().items()]


def assert_golden(actual: Tensor, expected: Tensor) -> None:
    """Within the tolerance that the golden tensors state."""
    largest = max(1.0, float(expected.abs().max()))
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= 1e-4 * largest


@cache
def build(network: str) -> ClassSR:
    """The paper's ClassSR of a network; RCAN's takes a second."""
    return ClassSR(ClassSRConfig(network=network))


# --- what it is made of --------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["fsrcnn", "carn", "srresnet"])
def test_keys_and_shapes_are_the_authors(network: str) -> None:
    assert keys(build(network)) == golden_keys(f"classsr-{network}")


def test_keys_of_rcan_are_the_authors() -> None:
    own = keys(build("rcan"))
    assert len(own) == 4914
    classifier = [[f"classifier.{key}", shape] for key, shape in golden_keys("class-module")]
    hard = [[f"net3.{key}", shape] for key, shape in golden_keys("rcan-64")]
    assert own[: len(classifier)] == classifier
    assert own[-len(hard) :] == hard


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        ("fsrcnn", 112_940),
        ("carn", 645_476),
        ("srresnet", 3_062_060),
        ("rcan", 30_114_948),
    ],
)
def test_parameters_are_the_papers(network: str, parameters: int) -> None:
    assert sum(each.numel() for each in build(network).parameters()) == parameters


def test_branches_rise_from_simple_to_hard() -> None:
    network = ClassSR(ClassSRConfig(widths=(4, 6, 8, 9)))
    counts = [sum(each.numel() for each in branch.parameters()) for branch in network.branches]
    assert len(counts) == network.config.classes == 4
    assert counts == sorted(counts)
    assert network.classifier.lastOut.out_features == 4


# --- the Class-Module ----------------------------------------------------------------------------


@torch.inference_mode()
def test_class_module_computes_what_the_authors_computes(filled: Filled) -> None:
    expected = golden("class-module")
    classifier = filled(Classifier())
    assert keys(classifier) == golden_keys("class-module")
    assert_golden(classifier(expected["x"]), expected["logits"])
    assert_golden(classifier(expected["x"]).softmax(1), expected["probabilities"])


@torch.inference_mode()
def test_one_pass_judges_all_patches_of_a_picture(filled: Filled) -> None:
    expected = golden("class-module")
    classifier = filled(Classifier())
    assert isinstance(classifier, Classifier)
    blocks = classifier.block_logits(expected["wide"])
    assert blocks.shape == (1, 3, 15, 22)
    patches = F.avg_pool2d(blocks, 8, 7)  # patches of 32 every 28, in blocks of 4
    assert_golden(patches[0].flatten(1).T, expected["wide_logits"])


@torch.inference_mode()
def test_patches_need_not_be_square(filled: Filled) -> None:
    """The authors' pooling sees the left square of a wide patch alone; ours sees all of it."""
    classifier = filled(Classifier())
    wide = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    halves = classifier(torch.cat((wide[..., :8], wide[..., 8:])))
    torch.testing.assert_close(classifier(wide)[0], halves.mean(0))


# --- routing -------------------------------------------------------------------------------------


@torch.inference_mode()
def test_hard_routing_is_the_authors(filled: Filled) -> None:
    expected = golden("classsr-fsrcnn-hard")
    network = filled(ClassSR())
    assert isinstance(network, ClassSR)
    logits = network.classifier(expected["x"])
    assert_golden(logits, expected["logits"])
    assert logits.argmax(1).tolist() == expected["classes"].tolist() == [2, 0, 1, 0]
    assert_golden(network(expected["x"]), expected["y"])


@torch.inference_mode()
def test_soft_routing_is_the_authors(filled: Filled) -> None:
    expected = golden("classsr-fsrcnn-soft")
    network = filled(ClassSR())
    assert isinstance(network, ClassSR)
    output, probabilities = network.blend(expected["x"])
    assert_golden(output, expected["y"])
    assert_golden(probabilities, expected["probabilities"])


@torch.inference_mode()
def test_a_patch_does_not_depend_on_its_batch(filled: Filled) -> None:
    patches = golden("classsr-fsrcnn-hard")["x"]
    network = filled(ClassSR())
    together = network(patches)
    for index, patch in enumerate(patches):
        torch.testing.assert_close(network(patch[None])[0], together[index])


@torch.inference_mode()
def test_soft_routing_approaches_hard_routing_as_the_classifier_becomes_sure(
    filled: Filled,
) -> None:
    patches = golden("classsr-fsrcnn-hard")["x"]
    network = filled(ClassSR())
    assert isinstance(network, ClassSR)
    for parameter in network.classifier.lastOut.parameters():
        parameter.mul_(1e4)
    output, probabilities = network.blend(patches)
    torch.testing.assert_close(probabilities.amax(1), torch.ones(4))
    torch.testing.assert_close(output, network(patches))


def test_soft_routing_teaches_all_of_it() -> None:
    torch.manual_seed(0)
    network = ClassSR(ClassSRConfig(widths=(4, 6, 8)))
    output, probabilities = network.blend(torch.rand(2, 3, 8, 8))
    assert output.shape == (2, 3, 32, 32)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2))
    output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@torch.inference_mode()
def test_any_scale_and_number_of_classes_works(scale: int) -> None:
    network = ClassSR(ClassSRConfig(widths=(4, 8), scale=scale))
    assert network(torch.rand(3, 3, 8, 12)).shape == (3, 3, 8 * scale, 12 * scale)


# --- what is refused -----------------------------------------------------------------------------


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="no patch"):
        ClassSR(ClassSRConfig(widths=(4, 8)))(torch.rand(0, 3, 8, 8))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"network": "edsr"}, "edsr"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": 8}, "scale is 8"),
        ({"widths": (56, 16)}, "rise"),
        ({"widths": (16, 16)}, "rise"),
        ({"widths": (0, 16)}, "rise"),
        ({"widths": (-4, 16)}, "rise"),
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ClassSRConfig(**arguments)  # pyright: ignore[reportArgumentType]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="edsr") as caught:
        ClassSR.from_pretrained("edsr")
    assert "srresnet" in (caught.value.hint or "")
