"""Patches: where they lie, how hard they are, classes of a size, and batches that can be redone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_classsr.data import (
    JudgedPatches,
    PatchBatches,
    Patches,
    Pixels,
    degrade,
    edge_map,
    find_patches,
    plain,
    read_patch,
    starts,
)
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.pairs import bicubic
from lowvis_shared.photos import PackedPhotos
from lowvis_shared.testing.pictures import constant, noise, photo


def upscale(low: Pixels) -> Pixels:
    return bicubic(low, 4)


def find(packed: PackedPhotos, **changes: Any) -> Patches:
    values: dict[str, Any] = {
        "side": 8,
        "step": 4,
        "upscale": upscale,
        "scorer": "plain",
    }
    return find_patches(packed, **(values | changes))


def refuse(low: Pixels) -> Pixels:
    raise AssertionError("scored again")


@pytest.fixture(scope="module")
def patches(packed: PackedPhotos) -> Patches:
    return find(packed)


# --- where they lie ------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 200), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_windows_cover_what_they_can_and_stay_inside(side: int, more: int, step: int) -> None:
    extent = side + more
    found = starts(extent, side, step)
    assert found[0] == 0
    assert found[-1] == extent - side
    gaps = np.diff(found)
    assert (gaps > 0).all()
    assert (gaps <= step).all()
    assert (found[:-1] % step == 0).all()


def test_patches_of_all_photographs_are_found(packed: PackedPhotos, patches: Patches) -> None:
    # 24x28 pixels: rows 0, 4 .. 16 and columns 0, 4 .. 20.
    assert len(patches) == 3 * 5 * 6
    places = set(zip(patches.photo, patches.top, patches.left, strict=True))
    assert places == {(n, t, c) for n in range(3) for t in range(0, 17, 4) for c in range(0, 21, 4)}


# --- how hard they are ---------------------------------------------------------------------------


def test_scores_are_those_of_a_loop_over_patches(packed: PackedPhotos, patches: Patches) -> None:
    for row in range(len(patches)):
        low, high = read_patch(packed, patches, row)
        number, top, left = (int(each[row]) for each in (patches.photo, patches.top, patches.left))
        whole_low = packed.pair(number)[1]
        upscaled = bicubic(whole_low, 4)[4 * top : 4 * top + 32, 4 * left : 4 * left + 32]
        error = np.mean((high.astype(np.float64) - upscaled) ** 2)
        assert patches.psnr[row] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)
        edges = edge_map(whole_low / np.float32(255))[top : top + 8, left : left + 8]
        assert patches.edges[row] == pytest.approx(float(edges.mean()), rel=1e-4)
        np.testing.assert_array_equal(low, whole_low[top : top + 8, left : left + 8])


def test_a_patch_without_error_has_a_score(packed: PackedPhotos) -> None:
    truth = {packed.pair(n)[1].tobytes(): packed.pair(n)[0] for n in range(3)}

    def tell(low: Pixels) -> Pixels:
        return truth[low.tobytes()]

    found = find(packed, upscale=tell, scorer="truth")
    assert np.isfinite(found.psnr).all()
    assert float(found.psnr.min()) > 70


def test_scores_are_kept_until_something_else_is_asked(
    packed: PackedPhotos, patches: Patches
) -> None:
    again = find(packed, upscale=refuse)
    for name in ("photo", "top", "left", "psnr", "edges"):
        np.testing.assert_array_equal(getattr(again, name), getattr(patches, name))
        assert getattr(again, name).dtype == getattr(patches, name).dtype
    for changes in ({"scorer": "other"}, {"step": 8}, {"side": 12}, {"noise": 5.0}):
        with pytest.raises(AssertionError, match="scored again"):
            find(packed, upscale=refuse, **changes)


def test_edges_are_flat_on_flat_pictures_and_grow_with_contrast() -> None:
    assert float(edge_map(constant(16, 16) / 255).max()) == pytest.approx(0, abs=1e-6)
    picture = photo(32, 32) / 255
    assert edge_map(picture).shape == (32, 32)
    np.testing.assert_allclose(edge_map(picture / 2), edge_map(picture) / 2, atol=1e-6)


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_classes_are_of_a_size_and_hard_ones_come_last(patches: Patches, classes: int) -> None:
    thresholds = patches.thresholds(classes)
    assert thresholds == sorted(thresholds)
    assert len(thresholds) == classes - 1
    found = patches.classes(thresholds)
    sizes = np.bincount(found, minlength=classes)
    assert sizes.max() - sizes.min() <= 1
    for simple in range(classes - 1):
        assert patches.psnr[found == simple].min() >= patches.psnr[found == simple + 1].max()
    edges = patches.edge_thresholds(classes)
    sizes = np.bincount(np.searchsorted(np.array(edges), patches.edges), minlength=classes)
    assert sizes.max() - sizes.min() <= 1


def test_a_patch_on_a_threshold_is_of_the_simpler_class(patches: Patches) -> None:
    """The authors: hard < 27.16882 <= medium < 35.149761 <= simple."""
    psnr = np.array([27.0, 27.25, 30.0, 35.0, 36.0], np.float32)
    scored = replace(patches, psnr=psnr)
    assert scored.classes([27.25, 35.0]).tolist() == [2, 1, 1, 0, 0]


# --- what is done to pictures --------------------------------------------------------------------


def test_noise_has_its_strength_and_can_be_made_again() -> None:
    low = constant(100, 100, value=128)
    noisy = degrade(low, 25, np.random.default_rng(7))
    assert noisy.dtype == np.uint8
    assert float((noisy - 128.0).std()) == pytest.approx(25, rel=0.03)
    assert abs(float((noisy - 128.0).mean())) < 0.5
    np.testing.assert_array_equal(noisy, degrade(low, 25, np.random.default_rng(7)))
    assert (noisy != degrade(low, 25, np.random.default_rng(8))).any()
    assert degrade(low, 0, np.random.default_rng(7)) is low
    assert degrade(constant(8, 8, value=255), 25, np.random.default_rng(0)).max() == 255


def test_plain_is_bicubic_or_a_blur() -> None:
    low = noise(12, 16)
    np.testing.assert_array_equal(plain(low, 4), bicubic(low, 4))
    assert plain(low, 1).shape == low.shape
    assert float(plain(low, 1).std()) < 0.6 * float(low.std())


# --- batches -------------------------------------------------------------------------------------


@pytest.fixture
def batches(packed: PackedPhotos, patches: Patches) -> Callable[..., PatchBatches]:
    def make(**changes: Any) -> PatchBatches:
        values: dict[str, Any] = {"batch": 4, "noise": 0.0, "seed": 3}
        chosen = changes.pop("chosen", np.arange(len(patches)))
        return PatchBatches(packed, patches, chosen, **(values | changes))

    return make


def test_a_batch_is_a_function_of_seed_step_and_rank(
    batches: Callable[..., PatchBatches],
) -> None:
    low, high = batches()[5]
    assert low.shape == (4, 3, 8, 8)
    assert high.shape == (4, 3, 32, 32)
    assert 0 <= float(low.min()) <= float(low.max()) <= 1
    used = batches()
    for step in (9, 0, 5):  # the order in which steps are read changes nothing
        again = used[step]
    assert torch.equal(again[0], low)
    assert torch.equal(again[1], high)
    for other in (batches()[6], batches(seed=4)[5], batches(rank=1)[5]):
        assert not torch.equal(other[1], high)


def test_both_pictures_are_turned_alike_in_all_eight_ways(
    packed: PackedPhotos, patches: Patches, batches: Callable[..., PatchBatches]
) -> None:
    low, high = read_patch(packed, patches, 33)
    expected = {
        np.rot90(each, turns).tobytes(): np.rot90(other, turns).tobytes()
        for each, other in ((low, high), (low[:, ::-1], high[:, ::-1]))
        for turns in range(4)
    }
    found: dict[bytes, bytes] = {}
    for step in range(12):
        for pair in zip(*batches(chosen=np.array([33]))[step], strict=True):
            small, large = (
                (255 * each.permute(1, 2, 0)).round().byte().numpy().tobytes() for each in pair
            )
            found[small] = large
    assert found == expected


def test_judged_patches_keep_their_regrets_and_are_turned() -> None:
    low = np.stack([noise(8, 8, seed=seed) for seed in range(5)])
    regrets = np.arange(15, dtype=np.float32).reshape(5, 3)
    batches = JudgedPatches(low, regrets, batch=6, dimmed=0.0, seed=3)
    patches, found = batches[4]
    assert torch.equal(batches[4][0], patches)
    other = JudgedPatches(low, regrets, batch=6, dimmed=0.0, seed=3, rank=1)
    assert not torch.equal(other[4][0], patches)
    ways: set[tuple[int, bytes]] = set()
    for step in range(60):
        for patch, row in zip(*batches[step], strict=True):
            index = int(row[0]) // 3
            assert row.tolist() == regrets[index].tolist()
            pixels = (255 * patch.permute(1, 2, 0)).round().byte().numpy()
            assert sorted(pixels.ravel()) == sorted(low[index].ravel())
            ways.add((index, pixels.tobytes()))
    assert len(ways) == 5 * 8
    assert found.shape == (6, 3)


def test_judged_patches_are_darkened_as_often_as_asked() -> None:
    low = np.full((1, 8, 8, 3), 200, np.uint8)
    values = {
        share: torch.cat(
            [
                JudgedPatches(low, np.zeros((1, 3), np.float32), batch=50, dimmed=share, seed=0)[
                    step
                ][0].amax((1, 2, 3))
                for step in range(8)
            ]
        )
        for share in (0.25, 1.0)
    }
    same = torch.isclose(values[0.25], torch.tensor(200 / 255)).float().mean()
    assert float(same) == pytest.approx(0.75, abs=0.06)
    # Exposures are spread evenly over three.
    assert values[1.0].min() >= 25 / 255
    assert values[1.0].min() < 28 / 255
    assert float((values[1.0] < 200 / 255 / 2**1.5).float().mean()) == pytest.approx(0.5, abs=0.08)


def test_patches_come_from_those_chosen_alone(
    packed: PackedPhotos, patches: Patches, batches: Callable[..., PatchBatches]
) -> None:
    hard = np.flatnonzero(patches.classes(patches.thresholds(3)) == 2)
    sums = {int(read_patch(packed, patches, int(row))[1].sum()) for row in hard}
    for step in range(10):
        _, highs = batches(chosen=hard)[step]
        assert all(int((255 * high).round().sum()) in sums for high in highs)


def test_noise_is_another_in_each_step_and_on_the_input_alone(
    packed: PackedPhotos, patches: Patches, batches: Callable[..., PatchBatches]
) -> None:
    clean = int(read_patch(packed, patches, 40)[1].sum())
    noisy = batches(chosen=np.array([40]), noise=25.0)
    pairs = [noisy[step] for step in range(3)]
    assert len({float(low.std()) for low, _ in pairs}) == 3
    for low, high in pairs:
        assert len({int(each.mul(255).round().sum()) for each in low}) > 1
        assert {int(each.mul(255).round().sum()) for each in high} == {clean}
    assert torch.equal(noisy[1][0], pairs[1][0])


def test_nothing_to_draw_from_is_an_error(batches: Callable[..., PatchBatches]) -> None:
    with pytest.raises(InputError, match="no patches"):
        batches(chosen=np.array([], np.int64))


def test_patches_of_other_photographs_are_refused(packed: PackedPhotos, patches: Patches) -> None:
    with pytest.raises(UsageError, match="other photographs"):
        read_patch(packed, replace(patches, top=patches.top + 20), 0)


def test_scores_lie_beside_the_photographs(packed: PackedPhotos, patches: Patches) -> None:
    assert list(Path(packed.path).parent.glob("patches-*.npz"))
