"""The four networks are the authors': keys, numbers, reach and sizes, at any width and scale."""

import json
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lowvis_classsr.branches import (
    BRANCHES,
    CARN,
    FSRCNN,
    RCAN,
    SCALES,
    SRResNet,
    Upscaling,
    narrowed,
)
from lowvis_classsr.model import ClassSRConfig
from lowvis_shared.errors import UsageError, WeightsError
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


CASES = [
    *((f"fsrcnn-{width}", FSRCNN, width) for width in (16, 36, 56)),
    *((f"carn-{width}", CARN, width) for width in (36, 52, 64)),
    *((f"srresnet-{width}", SRResNet, width) for width in (36, 52, 64)),
]


@pytest.mark.parametrize(("case", "network", "width"), CASES, ids=[case for case, *_ in CASES])
@torch.inference_mode()
def test_a_branch_has_the_authors_keys_and_computes_what_theirs_computes(
    case: str, network: Callable[[int], nn.Module], width: int, filled: Filled
) -> None:
    expected = golden(case)
    branch = filled(network(width))
    assert keys(branch) == golden_keys(case)
    assert_golden(branch(expected["x"]), expected["y"])


@torch.inference_mode()
def test_rcan_computes_what_the_authors_computes(filled: Filled) -> None:
    # Theirs takes 0..255 and ours 0..1, as all other networks here do.
    expected = golden("rcan-50-2x2")
    network = filled(RCAN(50, groups=2, blocks=2))
    assert keys(network) == golden_keys("rcan-50-2x2")
    assert_golden(network(expected["x"] / 255) * 255, expected["y"])


def test_rcan_in_full_has_the_authors_keys() -> None:
    assert keys(RCAN(64)) == golden_keys("rcan-64")


@torch.no_grad()
def test_batch_statistics_of_carn_are_those_of_the_batch(filled: Filled) -> None:
    """In training it matters whether patches come one by one, as the authors' do, or together."""
    expected = golden("carn-36-train")
    together = filled(CARN(36)).train()
    assert_golden(together(expected["x"]), expected["y_batched"])
    statistics = together.state_dict()["b1.c1.1.running_mean"]
    assert_golden(statistics, expected["running_mean_batched"])

    alone = filled(CARN(36)).train()
    outputs = torch.cat([alone(patch[None]) for patch in expected["x"]])
    assert_golden(outputs, expected["y_one_by_one"])
    assert_golden(alone.state_dict()["b1.c1.1.running_mean"], expected["running_mean_one_by_one"])
    assert float((outputs - expected["y_batched"]).abs().max()) > 0.1


@torch.inference_mode()
def test_every_slope_of_fsrcnn_acts_where_it_should(filled: Filled) -> None:
    """The golden weights have slopes near 1, which would not show one that is out of place."""
    network = filled(FSRCNN(8))
    slopes = {"head_conv.1": 0.1, "body_conv.0.1": 0.7, "body_conv.5": -0.4, "body_conv.6.1": 0.3}
    weights = network.state_dict()
    for name, slope in slopes.items():
        assert weights[f"{name}.weight"].shape == (1,)
        weights[f"{name}.weight"].fill_(slope)

    def layer(name: str, features: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(features, weights[f"{name}.weight"], weights[f"{name}.bias"], 1, padding)

    def prelu(name: str, features: Tensor) -> Tensor:
        return torch.where(features > 0, features, slopes[name] * features)

    image = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0)) - 0.5
    features = prelu("head_conv.1", layer("head_conv.0", image, 2))
    features = prelu("body_conv.0.1", layer("body_conv.0.0", features))
    for mapping in (1, 2, 3, 4):
        features = layer(f"body_conv.{mapping}", features, 1)
    features = prelu("body_conv.5", features)
    features = prelu("body_conv.6.1", layer("body_conv.6.0", features))
    tail = (weights["tail_conv.weight"], weights["tail_conv.bias"])
    expected = F.conv_transpose2d(features, *tail, stride=4, padding=3, output_padding=1)
    torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize("scale", SCALES)
@torch.inference_mode()
def test_fsrcnn_starts_as_bilinear_upscaling(scale: int) -> None:
    # Three channels carry the colors; those that are to learn add a little noise.
    torch.manual_seed(0)
    network = FSRCNN(16, scale)
    network.tail_conv.weight[3:] = 0
    image = torch.rand(1, 3, 12, 10)
    bilinear = image if scale == 1 else F.interpolate(image, scale_factor=scale, mode="bilinear")
    inside = (..., slice(scale, -scale), slice(scale, -scale))  # zeros lie around the picture
    torch.testing.assert_close(network(image)[inside], bilinear[inside])


@pytest.mark.parametrize(
    ("build", "wide", "narrow"),
    [
        (FSRCNN, 8, 5),
        (CARN, 20, 12),
        (partial(SRResNet, blocks=2), 8, 5),
        (partial(RCAN, groups=1, blocks=1), 48, 32),
    ],
    ids=["fsrcnn", "carn", "srresnet", "rcan"],
)
@torch.inference_mode()
def test_a_narrowed_network_is_the_wide_one_without_its_last_channels(
    build: Callable[[int, int], Upscaling], wide: int, narrow: int
) -> None:
    """Where the wide network's last channels (of each group) hold nothing, both compute the same.

    Those of a convolution are silenced by giving what feeds on them nothing but zeros there.
    """
    network = build(wide, 4).eval()
    small = build(narrow, 4).eval()
    groups = network.channel_groups
    last = torch.arange(wide).reshape(groups, -1)[:, narrow // groups :].flatten()
    for key, weight in network.state_dict().items():
        if weight.ndim < 2:
            continue
        dimension = 0 if key == "tail_conv.weight" else 1  # transposed in FSRCNN
        fed = weight.shape[dimension]
        if fed % wide == 0:
            for start in range(0, fed, wide):
                weight.index_fill_(dimension, last + start, 0)
        elif wide % fed == 0:  # one group, or what is inside channel attention
            weight.index_fill_(dimension, torch.arange(narrow // (wide // fed), fed), 0)
    small.load_state_dict(narrowed(network.state_dict(), wide, small))
    image = torch.rand(1, 3, 9, 10)
    torch.testing.assert_close(small(image), network(image), rtol=1e-4, atol=1e-4)


def test_only_a_wider_network_of_the_kind_can_be_narrowed() -> None:
    with pytest.raises(WeightsError, match="narrower"):
        narrowed(FSRCNN(8, 4).state_dict(), 8, FSRCNN(16, 4))
    with pytest.raises(WeightsError, match="another network"):
        narrowed(CARN(16, 4).state_dict(), 16, FSRCNN(8, 4))
    with pytest.raises(WeightsError, match="no 4 groups"):
        narrowed(FSRCNN(10, 4).state_dict(), 10, CARN(8, 4))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("network", [FSRCNN, CARN, SRResNet])
@torch.inference_mode()
def test_receptive_radius_is_exact(network: Callable[[int, int], nn.Module], scale: int) -> None:
    """A pixel just outside the radius changes nothing, one just inside does."""
    branch = network(4, scale).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in branch.named_parameters():
        # With positive weights nothing cancels, and without biases a black picture stays exactly
        # black: what a lone pixel lights up is what sees it.
        noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_((0.5 + noise) * (not name.endswith("bias")))
    radius = branch.receptive_radius
    assert isinstance(radius, int)
    center = radius + 2
    image = torch.zeros(1, 3, 2 * center + 1, 2 * center + 1, dtype=torch.float64)
    assert not branch(image).any()
    image[..., center, center] = 1
    lit = branch(image)[0].amax(0) > 0
    lit = lit.reshape(2 * center + 1, scale, 2 * center + 1, scale).any(3).any(1)
    for axis in (0, 1):
        seen = lit.any(axis).nonzero()[:, 0]
        assert max(center - int(seen.min()), int(seen.max()) - center) == radius


@torch.inference_mode()
def test_rcan_looks_at_the_whole_picture(filled: Filled) -> None:
    network = filled(RCAN(16, groups=1, blocks=1)).double()
    assert network.receptive_radius is None
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    changed = image.clone()
    changed[..., -1, -1] += 1
    assert (network(changed) != network(image))[..., 0, 0].any()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("name", BRANCHES)
@torch.inference_mode()
def test_any_size_and_scale_works(name: str, size: tuple[int, int], scale: int) -> None:
    networks = {
        "fsrcnn": lambda: FSRCNN(6, scale),
        "carn": lambda: CARN(8, scale),
        "srresnet": lambda: SRResNet(5, scale, blocks=1),
        "rcan": lambda: RCAN(16, scale, groups=1, blocks=1),
    }
    output = networks[name]().eval()(torch.rand(2, 3, *size))
    assert output.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize(
    ("network", "widths", "said"),
    [
        ("carn", (6,), "multiple of 4"),
        ("rcan", (8,), "at least 16"),
        ("fsrcnn", (2,), "at least 3"),
    ],
)
def test_impossible_widths_are_refused(network: str, widths: tuple[int, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ClassSRConfig(network=network, widths=widths).build_branch(0)


@pytest.mark.parametrize("name", BRANCHES)
def test_every_weight_trains(name: str) -> None:
    torch.manual_seed(0)
    networks: dict[str, Callable[[], nn.Module]] = {
        "fsrcnn": lambda: FSRCNN(6),
        "carn": lambda: CARN(8),
        "srresnet": lambda: SRResNet(6, blocks=1),
        "rcan": lambda: RCAN(16, groups=1, blocks=1),
    }
    network = networks[name]()
    network(torch.rand(2, 3, 8, 8)).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
