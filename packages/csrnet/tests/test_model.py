"""The networks are the paper's: counts, keys, and the authors' numbers stage by stage."""

import json

import pytest
import torch
import torch.nn.functional as F
from lowvis_csrnet.model import NETWORKS, CSRNet, CSRNetConfig, CSRNetL
from lowvis_csrnet.spaces import to_input_space
from lowvis_csrnet.weights import load
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.reproduce import recipe_weights
from lowvis_shared.testing import asset_path, mirror_path
from safetensors.torch import load_file
from torch import Tensor

SOURCES = [(), ("network",), ("brightness",), ("mean",), ("histogram",), ("network", "mean")]


def golden(case: str) -> dict[str, Tensor]:
    return load_file(mirror_path(f"golden/csrnet/csrnet_{case}.safetensors"))


def official() -> CSRNet:
    network = load("csrnet", asset_path("csrnet/csrnet/official")).network
    assert isinstance(network, CSRNet)
    return network


def recipe() -> CSRNet:
    network = CSRNet()
    network.load_state_dict(recipe_weights(network))
    return network


def shaped(*sources: str) -> CSRNet:
    torch.manual_seed(7)
    return CSRNet(CSRNetConfig(condition=sources))  # type: ignore[arg-type]


def picture(height: int, width: int, *, seed: int = 0, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float = 2e-6) -> None:
    assert ours.shape == theirs.shape
    largest = max(1.0, float(theirs.abs().max()))
    assert float((ours - theirs).detach().abs().max()) <= tolerance * largest


# --- structure ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "parameters"),
    [
        (("network",), 36_489),
        ((), 4_611),
        (("brightness",), 5_135),
        (("mean",), 5_659),
        (("histogram",), 206_089),
    ],
    ids=str,
)
def test_parameters_are_the_papers(sources: tuple[str, ...], parameters: int) -> None:
    assert sum(each.numel() for each in shaped(*sources).parameters()) == parameters


def test_parts_have_the_parameters_of_the_specification() -> None:
    for network, base, total in ((CSRNet(), 4_611, 36_489), (CSRNetL(), 40_451, 72_329)):
        counts = {name: each.numel() for name, each in network.named_parameters()}
        condition = sum(count for name, count in counts.items() if name.startswith("cond_net."))
        modulation = sum(
            count for name, count in counts.items() if name.startswith(("cond_scale", "cond_shift"))
        )
        assert (condition, modulation) == (23_232, 8_646)
        assert sum(counts.values()) - condition - modulation == base
        assert sum(counts.values()) == total


def test_keys_and_shapes_are_the_authors() -> None:
    keys = json.loads(mirror_path("golden/csrnet/csrnet.keys.json").read_text())
    own = [[name, list(value.shape)] for name, value in CSRNet().state_dict().items()]
    assert own == keys
    assert list(CSRNetL().state_dict()) == [name for name, _ in keys]


@pytest.mark.parametrize(
    "settings",
    [
        {"base_features": 0},
        {"condition_features": 0},
        {"condition": ("entropy",)},
        {"condition": ("mean", "mean")},
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        CSRNetConfig(**settings)  # type: ignore[arg-type]


def test_csrnet_l_takes_no_other_condition() -> None:
    with pytest.raises(UsageError, match="maps"):
        NETWORKS["csrnet-l"](CSRNetConfig(condition=("mean",)))


# --- the authors' numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("case", ["official", "recipe", "recipe_odd_batch"])
@torch.inference_mode()
def test_every_stage_computes_what_the_authors_code_computes(case: str) -> None:
    expected = golden(case)
    network = official() if case == "official" else recipe()
    image = expected["input"]
    condition = network.condition(image)
    computed = {
        "condition_features": network.cond_net(image),
        "condition": condition,
        "output": network(image),
    }
    for index, (scale, shift) in enumerate(network.modulation(condition), start=1):
        computed |= {f"scale{index}": scale, f"shift{index}": shift}
    assert set(computed) | {"input"} == set(expected)
    for name, tensor in computed.items():
        assert_near(tensor, expected[name])


@torch.inference_mode()
def test_prophoto_protocol_and_fold_are_those_of_the_specification() -> None:
    expected = golden("prophoto_protocol")
    network = official()
    planes = expected["srgb"].permute(2, 0, 1)
    seen = to_input_space(planes.flatten(1), "prophoto-1.8").view(1, *planes.shape)
    assert_near(seen, expected["network_input"], 1e-7)
    condition = network.condition(seen)
    assert_near(condition, expected["condition"])
    folded = network.fold(condition)
    for index in range(3):
        assert_near(folded.weights[index], expected[f"folded_weight{index + 1}"])
        assert_near(folded.biases[index], expected[f"folded_bias{index + 1}"])
    assert_near(network(seen), expected["output"])
    assert_near(folded(seen[0].flatten(1)), expected["output"][0].flatten(1))


def test_a_training_step_is_that_of_the_authors_code() -> None:
    expected = golden("training_step")
    network = recipe()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))
    loss = F.l1_loss(network(expected["input"]), expected["target"])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected["loss"]), rel=1e-6)
    parameters = dict(network.named_parameters())
    gradients = [name for name in expected if name.startswith("grad.")]
    assert len(gradients) == 5
    for name in gradients:
        gradient = parameters[name.removeprefix("grad.")].grad
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)
    optimizer.step()
    after = F.l1_loss(network(expected["input"]), expected["target"])
    assert float(after.detach()) == pytest.approx(float(expected["loss_after_step"]), rel=1e-6)
    assert after < loss


# --- fold --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sources", SOURCES, ids=str)
@torch.inference_mode()
def test_fold_equals_the_network(sources: tuple[str, ...]) -> None:
    network = shaped(*sources)
    for seed, size in enumerate([(5, 5), (37, 53), (96, 64)]):
        image = picture(*size, seed=seed)
        condition = network.condition(image) if sources else torch.zeros(1, 0)
        folded = network.fold(condition)
        assert_near(folded(image[0].flatten(1)), network(image)[0].flatten(1))


@torch.inference_mode()
def test_fold_moves_to_another_precision() -> None:
    network = recipe()
    image = picture(16, 16)
    folded = network.fold(network.condition(image))
    pixels = image[0].flatten(1)
    precise = folded.to(torch.float64)(pixels.double())
    assert precise.dtype == torch.float64
    assert_near(folded(pixels), precise.float())


def test_several_conditions_are_not_folded() -> None:
    network = CSRNet()
    with pytest.raises(InputError, match="one picture"):
        network.fold(network.condition(picture(8, 8, count=2)))


# --- condition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sources", SOURCES[1:], ids=str)
@torch.inference_mode()
def test_references_of_different_sizes_equal_one_by_one(sources: tuple[str, ...]) -> None:
    network = shaped(*sources)
    image = picture(7, 9, count=2)
    references = [picture(20, 31, seed=1), picture(13, 5, seed=2)]
    together = network(image, references)
    for index, reference in enumerate(references):
        assert_near(together[index : index + 1], network(image[index : index + 1], reference))
    assert not torch.allclose(together, network(image))


@pytest.mark.parametrize("network", ["csrnet", "csrnet-l"])
@torch.inference_mode()
def test_smallest_side_is_five(network: str) -> None:
    made = NETWORKS[network](None)
    for size in [(5, 5), (5, 64), (64, 5)]:
        assert made(picture(*size)).shape == (1, 3, *size)
    for size in [(4, 5), (64, 4), (1, 1)]:
        with pytest.raises(InputError, match=f"{size[1]}x{size[0]}"):
            made(picture(*size))


@torch.inference_mode()
def test_base_network_alone_takes_single_pixels() -> None:
    assert shaped()(picture(1, 1)).shape == (1, 3, 1, 1)


@torch.inference_mode()
def test_conditions_are_what_they_are_called() -> None:
    image = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 6, 8).clone()
    image[..., :4] = 1.0
    assert_near(shaped("mean").condition(image), torch.tensor([[0.5, 0.75, 1.0]]))
    brightness = 0.299 * 0.5 + 0.587 * 0.75 + 0.114
    assert_near(shaped("brightness").condition(image), torch.tensor([[brightness]]))
    histogram = shaped("histogram").condition(image)
    assert histogram.shape == (1, 768)
    red, green, blue = histogram.view(3, 256)
    assert (red[0], red[255], green[128], green[255], blue[255]) == (0.5, 0.5, 0.5, 0.5, 1.0)
    both = shaped("mean", "brightness").condition(image)
    assert_near(both, torch.tensor([[0.5, 0.75, 1.0, brightness]]))


@torch.inference_mode()
def test_histogram_is_a_share_of_the_pixels() -> None:
    image = picture(19, 23, count=2) * 1.4 - 0.2  # values outside count as black and white
    histogram = shaped("histogram").condition(image).view(2, 3, 256)
    torch.testing.assert_close(histogram.sum(-1), torch.ones(2, 3))
    assert float(histogram[..., 0].min()) > 0.05
    assert float(histogram[..., 255].min()) > 0.05


@pytest.mark.parametrize("sources", SOURCES, ids=str)
def test_every_parameter_learns(sources: tuple[str, ...]) -> None:
    network = shaped(*sources)
    network(picture(16, 16, count=2)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


# --- CSRNet-L ----------------------------------------------------------------------------------


def local_twin(network: CSRNet) -> CSRNetL:
    """A CSRNet-L whose 3x3 kernels are zero but for their centre: the weights of a CSRNet."""
    twin = CSRNetL()
    own = network.state_dict()
    for name, value in twin.state_dict().items():
        given = own[name]
        if name.startswith("conv") and name.endswith("weight"):
            value.zero_()
            value[..., 1, 1] = given[..., 0, 0]
        else:
            value.copy_(given.view(value.shape))
    return twin


@torch.inference_mode()
def test_csrnet_l_with_a_constant_condition_is_csrnet() -> None:
    network = recipe().double()
    twin = local_twin(network).double()
    image = picture(23, 31).double()
    condition = network.condition(image)
    maps = condition[:, :, None, None].expand(1, -1, 23, 31)
    torch.testing.assert_close(twin(image, maps), network(image), rtol=0, atol=1e-12)
    assert not torch.allclose(twin(image), network(image), atol=1e-2)  # maps are no mean


@pytest.mark.parametrize(
    ("cells", "size"), [((4, 7), (29, 53)), ((1, 2), (9, 12)), ((6, 6), (6, 6))]
)
def test_spread_is_bilinear_interpolation(cells: tuple[int, int], size: tuple[int, int]) -> None:
    maps = torch.randn(2, 5, *cells, generator=torch.Generator().manual_seed(0))
    whole = CSRNetL.spread(maps, size)
    expected = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(whole, expected, rtol=0, atol=2e-6)
    for rows, columns in [((0, size[0]), (2, 5)), ((3, size[0]), (0, 1)), ((1, 2), (4, size[1]))]:
        window = (slice(*rows), slice(*columns))
        assert torch.equal(CSRNetL.spread(maps, size, window), whole[..., window[0], window[1]])


@torch.inference_mode()
def test_tiles_with_their_halo_equal_the_whole() -> None:
    torch.manual_seed(1)
    network = CSRNetL().double()
    image = picture(40, 24).double()
    maps = network.spread(network.condition(image), (40, 24))
    whole = network(image)
    halo = network.receptive_radius
    tile = slice(10 - halo, 20 + halo)
    part = network(image[:, :, tile], maps[:, :, tile])[:, :, halo:-halo]
    torch.testing.assert_close(part, whole[:, :, 10:20], rtol=0, atol=1e-12)
    narrow = slice(10 - halo + 1, 20 + halo - 1)
    short = network(image[:, :, narrow], maps[:, :, narrow])[:, :, halo - 1 : 1 - halo]
    assert not torch.allclose(short, whole[:, :, 10:20], rtol=0, atol=1e-9)  # 3 and no less
