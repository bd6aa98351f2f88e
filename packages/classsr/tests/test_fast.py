"""The form for inference computes what the branch computes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from lowvis_classsr.branches import (
    BRANCHES,
    CARN,
    DIV2K_MEAN,
    FSRCNN,
    RCAN,
    SCALES,
    Margins,
    SRResNet,
    Upscaling,
)
from lowvis_classsr.fast import FastBranch
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.testing.pictures import photo
from torch import Tensor, nn

Fill = Callable[[nn.Module], nn.Module]

SIZES = ((1, 1), (1, 7), (9, 5), (16, 13))

SMALL: dict[str, Callable[[int], Upscaling]] = {
    "fsrcnn": lambda scale: FSRCNN(7, scale),
    "carn": lambda scale: CARN(8, scale),
    "srresnet": lambda scale: SRResNet(6, scale, blocks=3),
    "rcan": lambda scale: RCAN(16, scale, groups=2, blocks=2, reduction=4),
}
"""Each network, small, by its scale."""


def lively(branch: nn.Module, fill: Fill) -> Upscaling:
    """A branch whose every layer matters, normalization and slopes too."""
    fill(branch).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for module in branch.modules():
        if isinstance(module, nn.PReLU):
            module.weight.uniform_(-0.3, 0.4, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator).mul_(0.3)
            module.running_var.uniform_(0.5, 2, generator=generator)
    assert isinstance(branch, Upscaling)
    return branch


def picture(height: int, width: int) -> Tensor:
    return to_tensor(Picture(photo(height, width)))


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest value, as sums in another order allow."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("network", SMALL)
def test_the_fast_form_equals_the_branch(
    network: str, scale: int, size: tuple[int, int], filled: Fill
) -> None:
    branch = lively(SMALL[network](scale), filled)
    image = torch.cat([picture(*size), torch.rand(1, 3, *size)])
    expected = branch(image)
    assert expected.shape == (2, 3, size[0] * scale, size[1] * scale)
    close(FastBranch(branch, scale)(image), expected)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("network", "width"),
    [(name, width) for name in ("fsrcnn", "carn", "srresnet") for width in BRANCHES[name].widths],
)
def test_the_papers_widths_do_too(network: str, width: int, filled: Fill) -> None:
    branch = lively(BRANCHES[network].build(width, 4), filled)
    image = picture(9, 12)
    expected = branch(image)
    assert float(expected.std()) > 0.05
    close(FastBranch(branch, 4)(image), expected)


@torch.inference_mode()
@pytest.mark.parametrize("margins", [(4, 4, 4, 4), (0, 4, 3, 0), (1, 2, 0, 9), (0, 0, 0, 0)])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("network", SMALL)
def test_context_cut_away_early_changes_nothing(
    network: str, scale: int, margins: tuple[int, int, int, int], filled: Fill
) -> None:
    """A margin at the border of the picture is the border: convolutions pad there as ever."""
    branch = lively(SMALL[network](scale), filled)
    top, bottom, left, right = margins
    height, width = 11, 9
    image = torch.cat([picture(top + height + bottom, left + width + right)] * 2)
    rows = slice(top * scale, (top + height) * scale)
    columns = slice(left * scale, (left + width) * scale)
    expected = branch(image)[:, :, rows, columns]
    close(branch(image, Margins(*margins)), expected)
    close(FastBranch(branch, scale)(image, Margins(*margins)), expected)


@torch.inference_mode()
@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize("scale", [1, 4])
def test_the_branch_itself_is_not_changed(network: str, scale: int, filled: Fill) -> None:
    branch = lively(SMALL[network](scale), filled).train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in branch.state_dict().items()}
    modules = {name: type(module) for name, module in branch.named_modules()}
    for dtype in (torch.float32, torch.bfloat16):
        FastBranch(branch, scale, dtype)(picture(6, 7))
    after = branch.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert tensor.stride() == before[name].stride()
        assert torch.equal(tensor, before[name])
    assert {name: type(module) for name, module in branch.named_modules()} == modules
    assert all(module.training for module in branch.modules())
    assert all(parameter.requires_grad for parameter in branch.parameters())
    assert not any(getattr(module, "inplace", False) for module in branch.modules())


@torch.inference_mode()
def test_normalization_is_folded_and_transposed_convolutions_are_gone(filled: Fill) -> None:
    """The form has what makes it fast, not only the same values."""
    carn = FastBranch(lively(CARN(8), filled), 4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in carn.modules())
    fsrcnn = FastBranch(lively(FSRCNN(7), filled), 4)
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in fsrcnn.modules())
    for form in (carn, fsrcnn):
        assert not any(parameter.requires_grad for parameter in form.parameters())


@torch.inference_mode()
def test_the_picture_given_is_not_changed(filled: Fill) -> None:
    """Activations are computed in place, and the last step takes the picture once more."""
    for network, build in SMALL.items():
        image = picture(8, 9).contiguous(memory_format=torch.channels_last)
        before = image.clone()
        FastBranch(lively(build(4), filled), 4)(image)
        assert torch.equal(image, before), network


@torch.inference_mode()
@pytest.mark.parametrize("network", SMALL)
def test_half_precision_is_near_and_comes_out_single(network: str, filled: Fill) -> None:
    """bf16 has 8 significant bits: layer by layer about 0.4 percent of what goes through."""
    branch = lively(SMALL[network](4), filled)
    image = picture(24, 20)
    expected = branch(image)
    found = FastBranch(branch, 4, torch.bfloat16)(image)
    assert found.dtype == torch.float32
    error = (found - expected).abs()
    assert 0 < float(error.mean()) < 0.01 * float(expected.std())
    assert float(error.max()) < 0.1 * float(expected.std())


@torch.inference_mode()
@pytest.mark.parametrize("scale", [1, 4])
def test_in_half_precision_the_skip_is_single(scale: int, filled: Fill) -> None:
    branch = lively(SRResNet(6, scale, blocks=1), filled)
    assert isinstance(branch, SRResNet)
    branch.conv_last.weight.zero_()
    assert branch.conv_last.bias is not None
    branch.conv_last.bias.zero_()
    image = picture(7, 9)
    found = FastBranch(branch, scale, torch.bfloat16)(image)
    expected = image if scale == 1 else F.interpolate(image, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("network", ["carn", "rcan"])
def test_in_half_precision_the_mean_color_is_single(network: str, scale: int) -> None:
    """Rounded to bf16, red alone would be wrong by 0.0008."""
    branch = SMALL[network](scale).eval()
    last = branch.get_submodule("exit" if network == "carn" else "tail.1")
    for parameter in last.parameters():
        parameter.zero_()
    found = FastBranch(branch, scale, torch.bfloat16)(picture(5, 6))
    expected = torch.tensor(DIV2K_MEAN)[None, :, None, None].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
