"""The network is the paper's: keys, counts, reach, and the authors' numbers layer by layer."""

import json

import pytest
import torch
from lowvis_pan import PAN, PANConfig
from lowvis_pan.model import SCALES, ablation_configs
from lowvis_shared.cost import measure_cost
from lowvis_shared.errors import UsageError
from lowvis_shared.reproduce import recipe_weights
from lowvis_shared.testing import mirror_path
from safetensors.torch import load_file
from torch import Tensor

HD_INPUT = {2: (360, 640), 3: (240, 426), 4: (180, 320)}


@pytest.mark.parametrize("scale", SCALES)
def test_keys_and_shapes_are_the_authors(scale: int) -> None:
    keys = json.loads(mirror_path(f"golden/pan/pan_x{scale}.keys.json").read_text())
    own = [
        [name, list(value.shape)]
        for name, value in PAN(PANConfig(scale=scale)).state_dict().items()
    ]
    assert own == keys


def stages(network: PAN, image: Tensor) -> dict[str, Tensor]:
    """What the authors' code recorded on the way from the input to the output."""
    computed = {"input": image, "conv_first": network.conv_first(image)}
    computed["scpa_0"] = network.SCPA_trunk[0](computed["conv_first"])
    trunk = network.trunk_conv(network.SCPA_trunk(computed["conv_first"]))
    computed["trunk"] = computed["conv_first"] + trunk
    computed["output"] = network(image)
    return computed


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("weights", ["official", "recipe"])
@torch.inference_mode()
def test_every_stage_computes_what_the_authors_code_computes(scale: int, weights: str) -> None:
    golden = load_file(mirror_path(f"golden/pan/pan_x{scale}_{weights}.safetensors"))
    network = PAN(PANConfig(scale=scale)).eval()
    if weights == "official":
        path = mirror_path(f"weights/pan/PANx{scale}_DF2K.pth")
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        network.load_state_dict(recipe_weights(network))

    computed = stages(network, golden["input"])
    assert {"input", "output"} <= golden.keys()
    if weights == "recipe":
        for name, expected in golden.items():
            torch.testing.assert_close(computed[name], expected, rtol=1e-4, atol=1e-4)
        return
    # On the noise of this input the official weights diverge, up to 1e20, and rounding grows with
    # the values. What the authors' code computed in float32 may differ from the exact values by
    # what a rounding of the input does to them; ours in float32 depends on the processor as much,
    # and is held to the authors' by the recipe and by the stages before the trunk.
    for name in ("conv_first", "scpa_0"):
        torch.testing.assert_close(computed[name], golden[name], rtol=1e-4, atol=1e-4)
    network, image = network.double(), golden["input"].double()
    exact = stages(network, image)
    generator = torch.Generator().manual_seed(0)
    rounded = [
        stages(network, image * (1 + 2e-7 * torch.randn(image.shape, generator=generator)))
        for _ in range(16)
    ]
    for name, expected in golden.items():
        unit = expected.abs().clamp(min=1)
        moved = torch.stack([(other[name] - exact[name]).abs() for other in rounded]).amax(0)
        tolerance = 1e-5 * unit + 20 * moved
        assert bool(((exact[name] - expected).abs() <= tolerance).all()), name
        sharp = float((tolerance <= 1e-3 * unit).double().mean())
        assert sharp >= {"trunk": 0.6, "output": 0.6}.get(name, 1.0) * (scale < 4), (name, sharp)


@pytest.mark.parametrize(
    ("scale", "parameters", "multi_adds", "flops", "activations", "convolutions"),
    [
        (2, 261_403, 70.52, 20.1552, 192.6758, 118),
        (3, 261_403, 38.99, 25.1019, 217.2518, 118),
        (4, 272_419, 28.16, 32.1908, 270.5326, 121),
    ],
)
def test_costs_are_the_papers(
    scale: int,
    parameters: int,
    multi_adds: float,
    flops: float,
    activations: float,
    convolutions: int,
) -> None:
    network = PAN(PANConfig(scale=scale))
    at_720p = measure_cost(network, (3, *HD_INPUT[scale]))
    assert at_720p.parameters == parameters
    assert at_720p.macs / 1e9 == pytest.approx(multi_adds, abs=0.005)
    challenge = measure_cost(network, (3, 256, 256))
    assert challenge.flops / 1e9 == pytest.approx(flops, abs=5e-5)
    assert challenge.activations / 1e6 == pytest.approx(activations, abs=5e-5)
    assert challenge.convolutions == convolutions


@pytest.mark.parametrize("scale", SCALES)
@torch.inference_mode()
def test_receptive_radius_is_exact(scale: int) -> None:
    # Two blocks keep the reach of a changed pixel strong enough to be seen at its very edge.
    torch.manual_seed(0)
    network = PAN(PANConfig(scale=scale, blocks=2)).double().eval()
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter))
    radius, size = network.receptive_radius, 31
    image = torch.rand(1, 3, size, size, dtype=torch.float64)
    changed = image.clone()
    changed[..., size // 2, size // 2] += 1
    difference = (network(changed) - network(image)).abs().amax((0, 1))
    touched = difference.reshape(size, scale, size, scale).amax((1, 3)) > 0  # per input pixel
    rows = touched.any(1).nonzero().squeeze(1)
    assert size // 2 - int(rows.min()) == radius
    assert int(rows.max()) - size // 2 == radius


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@torch.inference_mode()
def test_any_size_works(scale: int, size: tuple[int, int]) -> None:
    output = PAN(PANConfig(scale=scale)).eval()(torch.rand(2, 3, *size))
    assert output.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert torch.isfinite(output).all()


def test_ablation_changes_what_its_name_says() -> None:
    configs = ablation_configs()
    counts = {name: measure_cost(PAN(config), (3, 8, 8)) for name, config in configs.items()}
    paper = counts["scpa-pixel-upa-pixel"]
    assert paper.parameters == 272_419
    # 16 blocks lose a 1x1 convolution 20 -> 20 with bias, both stages one of 24 -> 24.
    assert paper.parameters - counts["scpa-none-upa-pixel"].parameters == 16 * (20 * 20 + 20)
    assert paper.parameters - counts["scpa-pixel-upa-none"].parameters == 2 * (24 * 24 + 24)
    # Channel attention has the weights of pixel attention but works on one position.
    assert counts["scpa-channel-upa-channel"].parameters == paper.parameters
    assert counts["scpa-channel-upa-channel"].macs < paper.macs
    assert counts["scpa-spatial-upa-spatial"].parameters == paper.parameters - 16 * (
        19 * 20 + 19
    ) - 2 * (23 * 24 + 23)
    assert counts["residual-none"].parameters > paper.parameters


@pytest.mark.parametrize("name", sorted(ablation_configs()))
def test_every_ablation_trains(name: str) -> None:
    network = PAN(ablation_configs()[name])
    network(torch.rand(1, 3, 6, 6)).mean().backward()
    assert all(
        parameter.grad is not None and torch.isfinite(parameter.grad).all()
        for parameter in network.parameters()
    )


@pytest.mark.parametrize("arguments", [{"scale": 5}, {"channels": 41}, {"blocks": 0}])
def test_impossible_shapes_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        PANConfig(**arguments)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="x8"):
        PAN.from_pretrained("x8")
