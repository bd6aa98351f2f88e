"""The networks are the published ones: counts, keys, value range, sizes and reach."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lowvis_aim2020.networks.attention import CCA, ESA, SMALLEST_ESA_INPUT, DeepESA
from lowvis_aim2020.networks.bsrn import BSRN, BSRNConfig
from lowvis_aim2020.networks.carn import CARNM, CARNMConfig
from lowvis_aim2020.networks.imdn import IMDN, IMDNBaseline, IMDNBaselineConfig, IMDNConfig
from lowvis_aim2020.networks.msrresnet import MSRResNet, MSRResNetConfig
from lowvis_aim2020.networks.rfdn import RFDN, RFDNConfig
from lowvis_aim2020.networks.rlfn import RLFN, RLFNConfig
from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file
from lowvis_shared.cost import measure_cost
from lowvis_shared.errors import UsageError
from lowvis_shared.testing import asset_path
from torch import Tensor, nn

OFFICIAL: dict[str, tuple[str, int, Callable[[], nn.Module]]] = {
    "rfdn-x4": ("aim2020/rfdn-x4/official", 4, RFDN),
    "imdn-x2": ("aim2020/imdn-x2/official", 2, lambda: IMDN(IMDNConfig(scale=2))),
    "imdn-x3": ("aim2020/imdn-x3/official", 3, lambda: IMDN(IMDNConfig(scale=3))),
    "imdn-x4": ("aim2020/imdn-x4/official", 4, IMDN),
    "imdn-baseline-x4": ("aim2020/imdn-baseline-x4/official", 4, IMDNBaseline),
    "carn-m-x2": ("aim2020/carn-m/official", 2, lambda: CARNM(CARNMConfig(scale=2))),
    "carn-m-x3": ("aim2020/carn-m/official", 3, lambda: CARNM(CARNMConfig(scale=3))),
    "carn-m-x4": ("aim2020/carn-m/official", 4, CARNM),
    "rlfn-x4": ("aim2020/rlfn-x4/official", 4, RLFN),
    "bsrn-x4": ("aim2020/bsrn-x4/official", 4, BSRN),
}


def official(name: str) -> nn.Module:
    """The network with the authors' weights, which must fit it exactly."""
    asset, _, build = OFFICIAL[name]
    network = build()
    state_dict, _ = load_weights_file(asset_path(asset))
    load_state_dict_strict(network, state_dict, source=asset)
    return network.eval()


# --- what the tables say --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "parameters", "flops", "activations", "convolutions"),
    [
        (MSRResNet, 1_517_571, "166.3629", "292.5527", 37),
        (RFDN, 433_448, "27.1026", "112.0342", 64),
        (IMDNBaseline, 893_936, "58.53", "154.14", 43),
        (RLFN, 317_218, "19.70", "80.05", 39),
    ],
)
def test_costs_are_the_published(
    build: Callable[[], nn.Module],
    parameters: int,
    flops: str,
    activations: str,
    convolutions: int,
) -> None:
    cost = measure_cost(build(), (3, 256, 256))
    assert cost.parameters == parameters
    assert f"{cost.flops / 1e9:.{len(flops.split('.')[1])}f}" == flops
    assert f"{cost.activations / 1e6:.{len(activations.split('.')[1])}f}" == activations
    assert cost.convolutions == convolutions


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: IMDN(IMDNConfig(scale=2)), 694_404),
        (lambda: IMDN(IMDNConfig(scale=3)), 703_059),
        (IMDN, 715_176),
        (CARNM, 414_811),
        (BSRN, 352_400),
    ],
)
def test_parameters_are_those_of_the_file(build: Callable[[], nn.Module], parameters: int) -> None:
    assert sum(parameter.numel() for parameter in build().parameters()) == parameters


def test_mean_shift_is_frozen_and_cancels() -> None:
    network = CARNM()
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert frozen == {
        f"{shift}.shifter.{kind}"
        for shift in ("sub_mean", "add_mean")
        for kind in ("weight", "bias")
    }
    image = torch.rand(1, 3, 2, 2)
    torch.testing.assert_close(network.add_mean(network.sub_mean(image)), image)


# --- the authors' weights -------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
@torch.inference_mode()
def test_official_weights_load_and_values_stay_in_range(name: str) -> None:
    network, scale = official(name), OFFICIAL[name][1]
    for level in (0.0, 0.2, 0.5, 0.8, 1.0):
        output = network(torch.full((1, 3, 24, 21), level))
        assert output.shape == (1, 3, 24 * scale, 21 * scale)
        # The picture's own level, so that neither a wrong range nor a wrong mean can hide.
        inner = output[..., 6 * scale : -6 * scale, 6 * scale : -6 * scale]
        assert float((inner - level).abs().max()) < 0.05
        assert -0.2 <= float(output.min()) <= float(output.max()) <= 1.2


@pytest.mark.parametrize("name", OFFICIAL)
@torch.inference_mode()
def test_official_weights_upscale_a_smooth_picture_as_bicubic_does(name: str) -> None:
    network, scale = official(name), OFFICIAL[name][1]
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(28.0), indexing="ij")
    waves = [torch.sin(rows / 4), torch.sin(columns / 5), torch.cos((rows + columns) / 6)]
    image = 0.5 + 0.4 * torch.stack(waves)[None]
    output = network(image)
    bicubic = F.interpolate(image, scale_factor=scale, mode="bicubic", align_corners=False)
    inner = (output - bicubic)[..., 4 * scale : -4 * scale, 4 * scale : -4 * scale]
    assert float(inner.square().mean().sqrt()) < 0.01


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (14, 15), (19, 23)])
@torch.inference_mode()
def test_any_size_works(name: str, size: tuple[int, int]) -> None:
    network, scale = official(name), OFFICIAL[name][1]
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    output = network(image)
    assert output.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert torch.isfinite(output).all()
    # Pictures of a batch do not see each other.
    torch.testing.assert_close(network(image[1:]), output[1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "build", [MSRResNet, RFDN, IMDN, IMDNBaseline, CARNM, RLFN, BSRN], ids=lambda it: it.__name__
)
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (19, 23)])
@torch.inference_mode()
def test_any_size_works_without_weights(
    build: Callable[[], nn.Module], size: tuple[int, int]
) -> None:
    output = build().eval()(torch.rand(1, 3, *size))
    assert output.shape == (1, 3, size[0] * 4, size[1] * 4)
    assert torch.isfinite(output).all()


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [ESA, partial(DeepESA, activation=nn.ReLU())])
@torch.inference_mode()
def test_small_pictures_get_the_attention_of_their_repeated_edges(
    build: Callable[[int, int], ESA],
) -> None:
    torch.manual_seed(0)
    attention = build(6, 4)
    small = torch.rand(1, 6, 5, 9)
    around = (3, 3, 5, 5)
    enlarged = F.pad(small, around, mode="replicate")
    assert enlarged.shape[-2:] == (SMALLEST_ESA_INPUT, SMALLEST_ESA_INPUT)
    torch.testing.assert_close(attention(small), attention(enlarged)[..., 5:-5, 3:-3])


def test_contrast_attention_has_a_gradient_on_constant_features() -> None:
    attention = CCA(16, reduction=4)
    features = torch.ones(1, 16, 4, 4, requires_grad=True)
    attention(features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


# --- reach ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "scale", "radius"),
    [
        (MSRResNet(MSRResNetConfig(channels=8, blocks=2)), 4, 7),
        (IMDNBaseline(IMDNBaselineConfig(channels=8, blocks=2)), 4, 11),
        (IMDNBaseline(IMDNBaselineConfig(channels=8, blocks=1, scale=3)), 3, 7),
        (CARNM(CARNMConfig(channels=16, scale=2)), 2, 21),
        (CARNM(CARNMConfig(channels=16, scale=3)), 3, 21),
        (CARNM(CARNMConfig(channels=16, scale=4)), 4, 21),
    ],
)
def test_receptive_radius_is_exact(
    network: MSRResNet | IMDNBaseline | CARNM, scale: int, radius: int
) -> None:
    # Positive weights: nothing that reaches the edge is cancelled or cut off by a ReLU on its way.
    # The gradient says exactly which inputs an output value depends on.
    assert network.config.receptive_radius == radius
    for parameter in network.parameters():
        parameter.data = torch.rand(parameter.shape, dtype=torch.float64) + 0.1
        parameter.data /= max(1, parameter[0].numel())
    size = 2 * radius + 5
    middle = size // 2
    image = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    rows = slice(middle * scale, (middle + 1) * scale)
    (gradient,) = torch.autograd.grad(network(image)[..., rows, rows].sum(), image)
    touched: Tensor = gradient.abs().amax((0, 1)) > 0
    for axis in (0, 1):
        reached = touched.any(axis).nonzero().squeeze(1)
        assert (int(reached.min()), int(reached.max())) == (middle - radius, middle + radius)


def test_published_networks_reach() -> None:
    assert MSRResNetConfig().receptive_radius == 35
    assert IMDNBaselineConfig().receptive_radius == 35
    assert CARNMConfig().receptive_radius == 21
    for config in (RFDNConfig(), IMDNConfig(), RLFNConfig(), BSRNConfig()):
        assert not hasattr(config, "receptive_radius")


# --- impossible shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        (MSRResNetConfig, {"scale": 2}),
        (MSRResNetConfig, {"blocks": 0}),
        (RFDNConfig, {"scale": 5}),
        (RFDNConfig, {"channels": 49}),
        (RFDNConfig, {"attention_channels": 0}),
        (IMDNConfig, {"scale": 1}),
        (IMDNConfig, {"channels": 40}),
        (IMDNBaselineConfig, {"channels": 42}),
        (IMDNBaselineConfig, {"blocks": 0}),
        (CARNMConfig, {"scale": 8}),
        (CARNMConfig, {"groups": 3}),
        (RLFNConfig, {"scale": 0}),
        (RLFNConfig, {"block_channels": 0}),
        (BSRNConfig, {"scale": 8}),
        (BSRNConfig, {"channels": 60}),
        (BSRNConfig, {"blocks": 0}),
    ],
)
def test_impossible_shapes_are_refused(
    config: Callable[..., object], arguments: dict[str, int]
) -> None:
    with pytest.raises(UsageError):
        config(**arguments)
