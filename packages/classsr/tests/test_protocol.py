"""The paper's protocol, bit by bit: how patches are cut, put together, measured and counted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_classsr.model import ClassSR, ClassSRConfig
from lowvis_classsr.protocol import Pixels, combine, crop_tiles, evaluate_paper, paper_psnr
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.pairs import Pair
from lowvis_shared.testing import mirror_path
from lowvis_shared.testing.pictures import noise, photo
from safetensors.torch import load_file


@dataclass(frozen=True)
class MadePair:
    """A pair of pictures without files."""

    name: str
    low: Pixels
    high: Pixels

    def read(self) -> tuple[Pixels, Pixels]:
        return self.low, self.high


@pytest.fixture(scope="module")
def network() -> ClassSR:
    """A small ClassSR that upscales bilinearly, and judges patches by their brightness."""
    torch.manual_seed(0)
    network = ClassSR(ClassSRConfig(widths=(4, 6, 8)))
    for branch in network.branches:
        branch.get_parameter("tail_conv.weight").data[3:] = 0
    judge = network.classifier
    with torch.no_grad():
        for layer in (judge.CondNet[0], judge.CondNet[8], judge.lastOut):
            for parameter in layer.parameters():
                parameter.zero_()
        for index in (2, 4, 6):
            torch.nn.init.dirac_(judge.CondNet[index].get_parameter("weight"))
        judge.CondNet[0].get_parameter("weight")[0] = 1 / 48  # the mean of a block
        judge.CondNet[8].get_parameter("weight")[0, 0] = 1
        judge.lastOut.weight[:, 0] = torch.tensor([0.0, 4.0, 8.0])
        judge.lastOut.bias.copy_(torch.tensor([0.0, -1.0, -4.0]))  # classes part at 1/4 and 3/4
    return network


def shades(rows: int, columns: int, value: int) -> Pixels:
    return np.full((28 * rows + 4, 28 * columns + 4, 3), value, np.uint8)


# --- the authors' code ---------------------------------------------------------------------------


def test_every_step_is_the_authors_bit_by_bit() -> None:
    golden = load_file(mirror_path("golden/classsr/protocol.safetensors"))
    tiles, grid = crop_tiles(golden["lr"].numpy(), 8, 6)
    assert grid == (3, 3)
    np.testing.assert_array_equal(tiles, golden["lr_tiles"].numpy())
    canvas = combine(golden["sr_tiles"].numpy(), grid, 8, 6, 4)
    assert canvas.dtype == np.float32
    np.testing.assert_array_equal(canvas, golden["canvas"].numpy())
    psnr = paper_psnr(canvas, golden["gt"].numpy())
    assert psnr == pytest.approx(float(golden["psnr"]), rel=1e-13)


def test_the_size_that_the_paper_measures() -> None:
    """Image 1201 of Test2K: 816x528 pixels, of which 800x464 are upscaled."""
    tiles, grid = crop_tiles(noise(132, 204))
    assert grid == (4, 7)
    assert tiles.shape == (28, 32, 32, 3)
    upscaled = np.zeros((28, 128, 128, 3), np.uint8)
    assert combine(upscaled, grid, 32, 28, 4).shape == (464, 800, 3)


# --- cutting and putting together ----------------------------------------------------------------


@given(
    st.integers(32, 130),
    st.integers(32, 130),
    st.sampled_from([(32, 28), (32, 32), (32, 16), (16, 12), (8, 7)]),
)
@settings(max_examples=40, deadline=None)
def test_patches_put_together_are_the_picture(
    height: int, width: int, sizes: tuple[int, int]
) -> None:
    patch, step = sizes
    low = noise(height, width, seed=height)
    tiles, grid = crop_tiles(low, patch, step)
    canvas = combine(tiles, grid, patch, step, 1)
    assert canvas.shape[0] == (height - patch) // step * step + patch
    assert canvas.shape[1] == (width - patch) // step * step + patch
    np.testing.assert_array_equal(canvas, low[: canvas.shape[0], : canvas.shape[1]])


def test_overlaps_are_means_of_two_and_of_four() -> None:
    tiles = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (1, 2, 4, 8)])
    canvas = combine(tiles, (2, 2), 4, 3, 2)[..., 0]
    assert canvas[0].tolist() == [1] * 6 + [1.5] * 2 + [2] * 6
    assert canvas[:, 0].tolist() == [1] * 6 + [2.5] * 2 + [4] * 6
    assert canvas[6:8, 6:8].tolist() == [[3.75] * 2] * 2


@pytest.mark.parametrize("step", [0, 15, 33])
def test_steps_for_which_halving_is_wrong_are_refused(step: int) -> None:
    with pytest.raises(UsageError, match="does not suit"):
        combine(np.zeros((1, 32, 32, 3), np.uint8), (1, 1), 32, step, 1)


def test_other_patches_than_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        combine(np.zeros((3, 8, 8, 3), np.uint8), (2, 2), 8, 6, 1)


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_a_picture_smaller_than_a_patch_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{size[1]}x{size[0]} is smaller than the patches"):
        crop_tiles(noise(*size))


# --- figures -------------------------------------------------------------------------------------


def test_psnr_is_of_all_colors_without_rounding_inside_four_pixels() -> None:
    high = noise(40, 44)
    canvas = high[:36, :40].astype(np.float32)
    assert paper_psnr(canvas, high) == 80
    canvas[:4] = canvas[-4:] = 0
    canvas[:, :4] = canvas[:, -4:] = 0
    assert paper_psnr(canvas, high) == 80
    canvas[4, 4, 0] += 0.25
    error = 0.25**2 / (28 * 32 * 3)
    assert paper_psnr(canvas, high) == pytest.approx(10 * np.log10(255**2 / error), rel=1e-12)


def test_a_photograph_smaller_than_its_canvas_is_refused() -> None:
    with pytest.raises(InputError, match="shapes"):
        paper_psnr(np.zeros((40, 40, 3), np.float32), noise(39, 40))


def test_a_set_is_measured_patch_by_patch(network: ClassSR) -> None:
    """What the authors' loop does, written down step by step."""
    low, high = photo(65, 90, seed=3), photo(260, 360, seed=3)
    low[:, :40] //= 8
    found = evaluate_paper(network, [MadePair("a", low, high)], device="cpu")

    canvas, counts = np.zeros((240, 352, 3)), [0, 0, 0]
    weights = np.zeros((240, 352, 1))
    for top in (0, 28):
        for left in (0, 28, 56):
            patch = torch.from_numpy(low[top : top + 32, left : left + 32].copy())
            patch = patch.permute(2, 0, 1)[None] / 255
            with torch.inference_mode():
                counts[int(network.classifier(patch).argmax())] += 1
                output = network(patch)[0].permute(1, 2, 0).clamp(0, 1).numpy()
            place = (slice(4 * top, 4 * top + 128), slice(4 * left, 4 * left + 128))
            canvas[place] += np.rint(output * 255)
            weights[place] += 1
    error = canvas / weights - high[:240, :352]
    inside = error[4:-4, 4:-4]
    expected = 10 * np.log10(255**2 / np.mean(inside**2))
    assert found.per_image == (("a", found.psnr),)
    assert found.psnr == pytest.approx(expected, rel=1e-12)
    assert found.counts == tuple(counts)
    assert min(counts[:2]) > 0, "patches of one class alone prove nothing"


def test_classes_are_counted_over_the_set_and_psnr_is_averaged(network: ClassSR) -> None:
    pairs = [
        MadePair("dark", shades(1, 2, 20), np.full((128, 240, 3), 30, np.uint8)),
        MadePair("gray", shades(1, 1, 128), np.full((128, 128, 3), 128, np.uint8)),
        MadePair("bright", shades(3, 7, 240), np.full((352, 800, 3), 250, np.uint8)),
    ]
    seen: list[tuple[int, int]] = []
    found = evaluate_paper(
        network, pairs, device="cpu", progress=lambda done, count: seen.append((done, count))
    )
    assert found.counts == (2, 1, 21)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [name for name, _ in found.per_image] == ["dark", "gray", "bright"]
    assert found.psnr == pytest.approx(np.mean([psnr for _, psnr in found.per_image]))


def test_flops_are_the_papers_and_the_true_ones_beside_them() -> None:
    torch.manual_seed(0)
    network = ClassSR()
    with torch.no_grad():
        network.classifier.lastOut.bias.copy_(torch.tensor([0.0, 0.0, 99.0]))
    high = np.zeros((4 * 60, 4 * 75, 3), np.uint8)
    pair = MadePair("a", np.zeros((60, 75, 3), np.uint8), high)
    found = evaluate_paper(network, [pair], device="cpu")
    assert found.counts == (0, 0, 4)
    assert found.paper_flops == 468e6 + 7.4e6
    assert found.paper_percent == pytest.approx(100 * 475.4 / 468)
    # Four patches of 32x32 for 60x60 pixels, each judged: dearer than the whole by a third.
    pixel, judge = 342 * 56 + 5184, 3_801_184 / 1024
    true = 4 * 32 * 32 * (pixel + judge) / (60 * 60 * pixel)
    assert found.true_percent == pytest.approx(100 * true)


def test_other_widths_are_counted_in_the_papers_way(network: ClassSR) -> None:
    pairs = [MadePair("gray", shades(1, 1, 128), np.zeros((128, 128, 3), np.uint8))]
    found = evaluate_paper(network, pairs, device="cpu")
    medium, hard = (2 * 1024 * (3987 * width + 5184) for width in (6, 8))
    judge = 2 * 3_801_184
    assert found.paper_flops == pytest.approx(medium + judge)
    assert found.paper_percent == pytest.approx(100 * (medium + judge) / hard)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_other_scales_and_networks_can_be_measured(scale: int) -> None:
    torch.manual_seed(0)
    network = ClassSR(ClassSRConfig(network="carn", widths=(4, 8), scale=scale))
    high = noise(36 * scale, 33 * scale)
    found = evaluate_paper(network, [MadePair("a", noise(36, 33), high)], device="cpu")
    assert sum(found.counts) == 1
    assert 0 < found.paper_percent <= 100
    assert network.training


def test_files_are_measured(network: ClassSR, tmp_path: Path) -> None:
    write_image(Picture(photo(140, 150)), tmp_path / "a.png")
    found = evaluate_paper(network, [Pair("a", 4, tmp_path / "a.png")], device="cpu")
    assert 20 < found.psnr < 60
    record = found.as_dict()
    assert record["per_image"] == [{"image": "a", "psnr": found.psnr}]
    assert record["protocol"]["color"] == "rgb"
    assert (record["protocol"]["patch"], record["protocol"]["step"]) == (32, 28)


def test_an_empty_set_is_refused(network: ClassSR) -> None:
    with pytest.raises(UsageError, match="no pictures"):
        evaluate_paper(network, [], device="cpu")


def test_values_that_are_not_finite_are_refused() -> None:
    network = ClassSR(ClassSRConfig(widths=(4, 8)))
    for branch in network.branches:
        branch.get_parameter("tail_conv.bias").data.fill_(float("nan"))
    pair = MadePair("a", noise(32, 32), noise(128, 128))
    with pytest.raises(InputError, match="NaN"):
        evaluate_paper(network, [pair], device="cpu")
