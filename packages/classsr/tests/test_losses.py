"""Both losses are the authors', values and gradients, and say what their names promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_classsr.losses import average_loss, class_loss, patch_loss, regrets
from lowvis_shared.errors import UsageError
from lowvis_shared.testing import mirror_path
from safetensors.torch import load_file
from torch import Tensor

LOSSES = {"class_loss": class_loss, "average_loss": average_loss}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(mirror_path("golden/classsr/losses.safetensors"))


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    """Probabilities of a few patches, from unsure to sure."""
    count, classes = draw(st.integers(1, 8)), draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return (draw(st.floats(0, 30)) * logits).softmax(1)


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_the_authors(name: str, golden: dict[str, Tensor]) -> None:
    logits = golden["logits"].requires_grad_()
    probabilities = logits.softmax(1)
    torch.testing.assert_close(probabilities, golden["probabilities"])
    loss = LOSSES[name](probabilities)
    assert loss.shape == ()
    torch.testing.assert_close(loss, golden[name][0])
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, golden[f"{name}_grad_logits"])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("case", "probabilities"),
    [
        ("onehot", torch.eye(3)),
        ("uniform", torch.full((3, 3), 1 / 3)),
        ("collapsed", torch.eye(3)[[2, 2, 2]]),
    ],
    ids=["onehot", "uniform", "collapsed"],
)
def test_extremes_are_the_authors(
    name: str, case: str, probabilities: Tensor, golden: dict[str, Tensor]
) -> None:
    expected = golden[f"{name}_{case}"][0]
    torch.testing.assert_close(LOSSES[name](probabilities), expected, rtol=0, atol=1e-6)


@given(batches())
@settings(max_examples=50, deadline=None)
def test_class_loss_lies_between_sure_and_clueless(probabilities: Tensor) -> None:
    classes = probabilities.shape[1]
    loss = float(class_loss(probabilities))
    assert -1e-9 <= loss <= classes - 1 + 1e-9
    naive = sum(
        classes - 1 - sum(abs(float(a - b)) for i, a in enumerate(row) for b in row[:i])
        for row in probabilities
    )
    assert loss == pytest.approx(naive / len(probabilities), abs=1e-9)
    sure = torch.eye(classes)[probabilities.argmax(1)]
    assert float(class_loss(sure)) == 0


@given(batches())
@settings(max_examples=50, deadline=None)
def test_average_loss_lies_between_balanced_and_collapsed(probabilities: Tensor) -> None:
    count, classes = probabilities.shape
    loss = float(average_loss(probabilities))
    assert -1e-9 <= loss <= 1 + 1e-9
    # All orders of the classes of a patch together are balanced, whatever the patch.
    turned = torch.cat([probabilities.roll(turn, 1) for turn in range(classes)])
    assert float(average_loss(turned)) == pytest.approx(0, abs=1e-9)
    collapsed = torch.eye(classes)[[classes - 1] * count]
    assert float(average_loss(collapsed)) == pytest.approx(1)


@given(batches())
@settings(max_examples=25, deadline=None)
def test_neither_depends_on_the_order_of_patches_or_classes(probabilities: Tensor) -> None:
    for loss in LOSSES.values():
        expected = float(loss(probabilities))
        assert float(loss(probabilities.flip(0))) == pytest.approx(expected, abs=1e-9)
        assert float(loss(probabilities.flip(1))) == pytest.approx(expected, abs=1e-9)


def test_wanted_shares_cost_nothing() -> None:
    probabilities = torch.eye(3)[[0, 1, 2, 2]]
    assert float(average_loss(probabilities, [25, 25, 50])) == 0
    assert float(average_loss(probabilities)) > 0.1
    assert float(average_loss(probabilities, [1, 1, 1])) == float(average_loss(probabilities))


def test_a_collapse_into_the_smallest_class_is_the_worst() -> None:
    shares = [0.25, 0.25, 0.5]
    worst = [float(average_loss(torch.eye(3)[[each] * 4], shares)) for each in range(3)]
    assert worst == pytest.approx([1, 1, 2 / 3])


@pytest.mark.parametrize(
    "shares",
    [[0.5, 0.5], [1, 1, 1, 1], [], [1, 0, 1], [0, 0, 0], [2, -1, 2], [-1, -1, -1]],
    ids=str,
)
def test_impossible_shares_are_refused(shares: list[float]) -> None:
    with pytest.raises(UsageError, match="not 3 positive numbers"):
        average_loss(torch.full((4, 3), 1 / 3), shares)


def test_regrets_are_decibels_of_patch_and_picture() -> None:
    """Two pictures of two patches: the means of the last branch are 2.5e-3 and 0.2e-3."""
    errors = torch.tensor([[2.0, 1.0], [5.0, 4.0], [0.3, 0.1], [0.1, 0.3]]) * 1e-3
    found = regrets(errors, torch.tensor([0, 0, 1, 1]))
    factor = 10 / math.log(10)
    first, second = (factor / math.sqrt(2.5 * best) for best in (1, 4))
    third = factor * 0.2 / math.sqrt(0.2 * 0.1)
    expected = torch.tensor([[first, 0.0], [second, 0.0], [third, 0.0], [0.0, third]])
    torch.testing.assert_close(found, expected)


def test_a_small_regret_of_a_patch_like_its_picture_is_what_psnr_falls_by() -> None:
    errors = torch.tensor([[1.001, 1.0], [1.0, 1.0]]) * 1e-3
    lost = float(regrets(errors, torch.tensor([0, 0]))[:, 0].mean())
    before, after = (-10 * math.log10(float(each)) for each in errors.mean(0).flip(0))
    assert lost == pytest.approx(before - after, rel=1e-3)


def test_patch_loss_asks_for_psnr_whatever_the_contrast() -> None:
    """The gradient on a picture is of one length, whether its difference is large or small."""
    target = torch.zeros(2, 3, 8, 8)
    output = torch.full_like(target, 0.5)
    output[1] = 0.05
    output.requires_grad_()
    loss = patch_loss(output, target)
    weights = torch.zeros(len(output))
    weights[0] = 1
    weighted = patch_loss(output, target, weights).item()
    assert weighted == pytest.approx(patch_loss(output[:1], target[:1]).item() / len(output))
    assert loss.item() == pytest.approx((0.5 + 0.05) / 2, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, output)
    lengths = gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths[0], lengths[1], rtol=1e-3, atol=0)
    same = torch.zeros(1, 3, 4, 4, requires_grad=True)
    (still,) = torch.autograd.grad(patch_loss(same, torch.zeros(1, 3, 4, 4)), same)
    assert not still.any(), "finite where nothing differs"
