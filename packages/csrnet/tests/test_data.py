"""Batches are pure functions of seed, step and process; photographs find their partners."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_csrnet.data import (
    Batch,
    Batches,
    Photo,
    lesson,
    load_photos,
    network_input,
)
from lowvis_csrnet.simulate import OPERATIONS, Defects
from lowvis_csrnet.spaces import to_input_space
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.testing.pictures import photo
from torch import Tensor

PHOTOS = [Photo(f"{seed}", photo(40, 48 + 8 * seed, seed=seed)) for seed in range(3)]


def batches(learn: str = "contrast-1.5", **changes: Any) -> Batches:
    settings: dict[str, Any] = {
        "space": "srgb",
        "batch": 3,
        "pixels": 50,
        "crop": 16,
        "seed": 1,
    }
    return Batches(PHOTOS, lesson(learn), **(settings | changes))


def tensors(batch: Batch) -> list[Tensor]:
    return [batch.image, batch.target, *batch.references]


def same(first: Batch, second: Batch) -> bool:
    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(one.shape == two.shape and torch.equal(one, two) for one, two in pairs)


def save(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(Picture(pixels), path)
    return path


# --- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("learn", ["retouch", "contrast-1.5"])
@pytest.mark.parametrize("pixels", [50, 0], ids=["pixels", "crops"])
def test_a_batch_is_a_function_of_seed_step_and_rank(learn: str, pixels: int) -> None:
    one, two = (batches(learn, pixels=pixels) for _ in range(2))
    first = one[7]
    one[3]  # what was asked for in between does not matter
    assert same(first, two[7])
    assert same(first, one[7])
    assert not same(first, one[8])
    assert not same(first, batches(learn, pixels=pixels, seed=2)[7])
    assert not same(first, batches(learn, pixels=pixels, rank=1)[7])


def test_ranks_draw_other_pictures_in_most_steps() -> None:
    own, other = batches(pixels=4000), batches(pixels=4000, rank=1)
    means = [(float(own[step].image.mean()), float(other[step].image.mean())) for step in range(5)]
    assert all(abs(first - second) > 1e-4 for first, second in means)


def test_pixels_are_pairs_of_the_lesson() -> None:
    # A contrast depends on its picture: a color of one photograph beside a target of another, or
    # beside its neighbour's, would not be found.
    known = {}
    for index, each in enumerate(PHOTOS):
        before = each.pixels.astype(np.float32) / np.float32(255)
        rows = np.concatenate([before, OPERATIONS["contrast-1.5"](before)], axis=-1).reshape(-1, 6)
        known[index] = {row.tobytes() for row in rows}
    seen: set[int] = set()
    for step in range(6):
        batch = batches()[step]
        assert batch.image.shape == batch.target.shape == (3, 3, 50, 1)
        joined = torch.cat([batch.image, batch.target], dim=1)[..., 0].permute(0, 2, 1).numpy()
        for rows, reference in zip(joined, batch.references, strict=True):
            index = next(i for i, p in enumerate(PHOTOS) if p.pixels.shape[1] == reference.shape[3])
            assert all(np.ascontiguousarray(row).tobytes() in known[index] for row in rows)
            assert len({row.tobytes() for row in rows}) > 20
            seen.add(index)
    assert seen == {0, 1, 2}


def test_references_are_whole_pictures_in_either_direction() -> None:
    flips = set()
    for step in range(6):
        for reference in batches()[step].references:
            index = next(i for i, p in enumerate(PHOTOS) if p.pixels.shape[1] == reference.shape[3])
            whole = network_input(PHOTOS[index].pixels.astype(np.float32) / np.float32(255), "srgb")
            flipped = not torch.equal(reference, whole)
            assert torch.equal(reference.flip(3) if flipped else reference, whole)
            flips.add(flipped)
    assert flips == {True, False}


def test_crops_are_parts_of_the_lesson_and_their_own_reference() -> None:
    batch = batches("local-contrast", pixels=0, batch=2)[0]
    assert batch.image.shape == batch.target.shape == (2, 3, 16, 16)
    assert batch.references == []
    wholes = []
    for each in PHOTOS:
        before = each.pixels.astype(np.float32) / np.float32(255)
        pair = np.concatenate([before, OPERATIONS["local-contrast"](before)], axis=-1)
        wholes += [pair, pair[:, ::-1]]
    for crop in torch.cat([batch.image, batch.target], dim=1).permute(0, 2, 3, 1).numpy():
        found = sum(
            np.array_equal(whole[top : top + 16, left : left + 16], crop)
            for whole in wholes
            for top in range(whole.shape[0] - 15)
            for left in range(whole.shape[1] - 15)
            if np.array_equal(whole[top, left], crop[0, 0])
        )
        assert found == 1


def test_the_network_sees_its_input_space_and_the_target_is_srgb() -> None:
    plain, converted = batches()[0], batches(space="prophoto-1.8")[0]
    assert torch.equal(plain.target, converted.target)
    for before, after in zip(tensors(plain), tensors(converted), strict=True):
        assert after.dtype == torch.float32
        if before is not plain.target:
            for image, seen in zip(before, after, strict=True):
                expected = to_input_space(image.flatten(1), "prophoto-1.8").view(image.shape)
                torch.testing.assert_close(seen, expected)


def test_a_photograph_smaller_than_a_crop_is_refused() -> None:
    batches("local-contrast", pixels=0, crop=40)[0]
    with pytest.raises(InputError, match="0 is smaller"):
        batches("local-contrast", pixels=0, crop=41)
    batches(crop=41)[0]  # pixels need no crop


# --- lessons -----------------------------------------------------------------------------------


def test_retouching_takes_defects_away() -> None:
    before, after = lesson("retouch")(PHOTOS[0], np.random.default_rng(4))
    generator = np.random.default_rng(4)
    original = PHOTOS[0].pixels.astype(np.float32) / np.float32(255)
    severity = float(generator.uniform(0.2, 1.3))
    np.testing.assert_array_equal(after, original)
    np.testing.assert_array_equal(before, Defects.draw(generator, severity)(original))


def test_pairs_give_what_the_photograph_was_before() -> None:
    pixels, before = photo(8, 8, seed=1), photo(8, 8, seed=2)
    shown, target = lesson("pairs")(Photo("a", pixels, before), np.random.default_rng(0))
    np.testing.assert_allclose(shown * 255, before, atol=1e-4)
    np.testing.assert_allclose(target * 255, pixels, atol=1e-4)
    with pytest.raises(UsageError, match="before"):
        lesson("pairs")(PHOTOS[0], np.random.default_rng(0))


def test_an_unknown_lesson_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no lesson 'sharpen'") as caught:
        lesson("sharpen")
    assert caught.value.hint is not None
    assert {"retouch", "pairs", *OPERATIONS} <= set(caught.value.hint.replace(",", "").split())


# --- photographs -------------------------------------------------------------------------------


def test_photographs_are_reduced_and_small_ones_kept(tmp_path: Path) -> None:
    large = save(tmp_path, "large.png", photo(60, 90))
    small = save(tmp_path, "small.png", photo(20, 24))
    loaded = load_photos([large, small], side=30)
    assert [each.pixels.shape for each in loaded] == [(20, 30, 3), (20, 24, 3)]
    assert [each.name for each in loaded] == ["large.png", "small.png"]
    assert all(each.pixels.dtype == np.uint8 and each.before is None for each in loaded)
    np.testing.assert_array_equal(loaded[1].pixels, photo(20, 24))


@pytest.mark.parametrize(
    ("name", "partner"),
    [
        ("a.png", "a.png"),
        ("a.png", "a.tif"),
        ("[1].png", "[1].png"),
        ("what?.png", "what?.png"),
        ("*.png", "*.png"),
        ("a.b.png", "a.b.png"),
    ],
)
def test_partners_are_found_by_name(tmp_path: Path, name: str, partner: str) -> None:
    path = save(tmp_path / "after", name, photo(20, 24, seed=1))
    save(tmp_path / "before", partner, photo(20, 24, seed=2))
    save(tmp_path / "before", "1.png", photo(20, 24, seed=3))
    (found,) = load_photos([path], side=64, inputs=tmp_path / "before")
    assert found.before is not None
    np.testing.assert_array_equal(found.before, photo(20, 24, seed=2))


@pytest.mark.parametrize("beside", ["a.edited.png", "a.xmp"])
def test_other_files_are_no_partners(tmp_path: Path, beside: str) -> None:
    path = save(tmp_path / "after", "a.png", photo(20, 24, seed=1))
    partner = save(tmp_path / "before", "a.png", photo(20, 24, seed=2))
    (tmp_path / "before" / beside).write_bytes(partner.read_bytes())
    (found,) = load_photos([path], side=64, inputs=tmp_path / "before")
    assert found.before is not None


@pytest.mark.parametrize(
    ("partners", "message"),
    [
        ([], "not a folder"),
        ([("b.png", (20, 24))], "0 pictures"),
        ([("a.png", (20, 24)), ("a.tif", (20, 24))], "2 pictures"),
        ([("a.png", (24, 20))], "differ in size"),
    ],
    ids=str,
)
def test_photographs_without_a_fitting_partner_are_refused(
    tmp_path: Path, partners: list[tuple[str, tuple[int, int]]], message: str
) -> None:
    path = save(tmp_path / "after", "a.png", photo(20, 24))
    for name, size in partners:
        save(tmp_path / "before", name, photo(*size))
    with pytest.raises(InputError, match=message):
        load_photos([path], side=64, inputs=tmp_path / "before")


def test_photographs_that_cannot_be_used_fail_or_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, broken = save(tmp_path, "good.png", photo(12, 12)), tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        load_photos([broken, good], side=64)
    with caplog.at_level(logging.WARNING, logger="lowvis"):
        loaded = load_photos([broken, good], side=64, on_error="skip")
    assert [each.name for each in loaded] == ["good.png"]
    assert "broken.png" in caplog.text
    with pytest.raises(InputError, match="none of the 1"):
        load_photos([broken], side=64, on_error="skip")
