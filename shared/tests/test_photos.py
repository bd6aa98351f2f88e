"""Training photographs: what is packed is true, and a batch depends on nothing but its step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_shared.errors import InputError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.photos import (
    CropBatches,
    PackedPair,
    PackedPhotos,
    Teacher,
    list_photos,
    pack_photos,
    split_photos,
)
from lowvis_shared.resize import imresize, modcrop
from numpy.typing import NDArray
from torch.utils.data import DataLoader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for index, (height, width) in enumerate([(67, 90), (80, 61), (120, 100)]):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        name = "more/c.png" if index == 2 else f"{'ab'[index]}.png"
        write_image(Picture(pixels), tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_pairs_are_the_photographs_and_their_bicubic_versions(folder: Path, tmp_path: Path) -> None:
    packed = pack_photos(list_photos(folder), scale=4, minimum=12, folder=tmp_path / "pack")
    assert [photo.name for photo in packed.photos] == ["a.png", "b.png", "c.png"]
    high, low = packed.pair(0)
    assert high.shape == (64, 88, 3)
    np.testing.assert_array_equal(low, imresize(modcrop(high, 4), scale=1 / 4))


def test_a_pack_is_reused_until_a_photograph_changes(folder: Path, tmp_path: Path) -> None:
    def pack() -> Path:
        photos = list_photos(folder)
        return pack_photos(photos, scale=2, minimum=8, folder=tmp_path / "pack").path

    first = pack()
    written = first.stat().st_mtime_ns
    assert pack() == first
    assert first.stat().st_mtime_ns == written
    write_image(Picture(np.zeros((70, 70, 3), np.uint8)), folder / "a.png", overwrite=True)
    assert pack() != first


def test_broken_photograph_fails_or_is_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"")
    photos = list_photos(folder)
    with pytest.raises(InputError, match=r"broken\.jpg"):
        pack_photos(photos, scale=4, minimum=8, folder=tmp_path / "pack")
    assert list((tmp_path / "pack").glob("*.bin")) == []
    packed = pack_photos(photos, scale=4, minimum=8, folder=tmp_path / "pack", on_error="skip")
    assert len(packed.photos) == 3


def test_photographs_smaller_than_a_crop_are_left_out(folder: Path, tmp_path: Path) -> None:
    packed = pack_photos(list_photos(folder), scale=4, minimum=16, folder=tmp_path / "pack")
    assert [photo.name for photo in packed.photos] == ["a.png", "c.png"]
    with pytest.raises(InputError, match="none of the 3"):
        pack_photos(list_photos(folder), scale=4, minimum=99, folder=tmp_path / "pack")


def test_low_crop_is_the_place_of_the_high_crop(tmp_path: Path) -> None:
    # A smooth picture: the low-resolution crop is nearly the mean of each block of the high one.
    y, x = np.mgrid[0:160, 0:200] / 200
    pixels = np.rint(255 * np.stack([y, x, (x + y) / 2], 2)).astype(np.uint8)
    write_image(Picture(pixels), tmp_path / "smooth.png")
    packed = pack_photos([tmp_path / "smooth.png"], scale=4, minimum=8, folder=tmp_path)
    batches = CropBatches(packed, crop=16, batch=16, seed=1)
    low, high = batches[0]
    assert low.shape == (16, 3, 16, 16)
    assert high.shape == (16, 3, 64, 64)
    means = torch.nn.functional.avg_pool2d(high, 4)
    assert float((means - low)[..., 2:-2, 2:-2].abs().max()) < 0.01
    # All eight orientations occur: the direction of growth of the first channel tells.
    directions = {
        (round(float(d), 2), round(float(r), 2))
        for d, r in zip(
            (low[:, 0, -1] - low[:, 0, 0]).mean(1).sign(),
            (low[:, 0, :, -1] - low[:, 0, :, 0]).mean(1).sign(),
            strict=True,
        )
    }
    assert len(directions) >= 3


def test_batch_depends_on_seed_step_and_rank_only(folder: Path, tmp_path: Path) -> None:
    packed = pack_photos(list_photos(folder), scale=2, minimum=8, folder=tmp_path / "pack")

    def batches(seed: int = 5, rank: int = 0) -> CropBatches:
        return CropBatches(packed, crop=8, batch=3, seed=seed, rank=rank)

    straight = [batches()[step] for step in range(4)]
    loaded = list(
        DataLoader(batches(), batch_size=None, sampler=range(4), num_workers=2)  # type: ignore[arg-type]
    )
    for (low, high), (low_loaded, high_loaded) in zip(straight, loaded, strict=True):
        assert torch.equal(low, low_loaded)
        assert torch.equal(high, high_loaded)
    assert not torch.equal(straight[0][0], straight[1][0])
    assert not torch.equal(straight[0][0], batches(seed=6)[0][0])
    assert not torch.equal(straight[0][0], batches(rank=1)[0][0])


def test_held_out_photographs_are_spread_and_not_trained_on(tmp_path: Path) -> None:
    photos = [Path(f"{index:03d}.png") for index in range(100)]
    training, held_out = split_photos(photos, 4)
    assert len(training) == 96
    assert set(training).isdisjoint(held_out)
    assert [int(photo.stem) for photo in held_out] == [12, 38, 62, 88]
    with pytest.raises(InputError):
        split_photos(photos, 100)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError, match="no picture"):
        list_photos(tmp_path)


def test_a_teachers_picture_lies_behind_the_photographs(folder: Path, tmp_path: Path) -> None:
    def pack(teacher: Teacher | None) -> PackedPhotos:
        return pack_photos(
            list_photos(folder), scale=2, minimum=8, folder=tmp_path / "pack", teacher=teacher
        )

    def negative(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.kron(255 - low, np.ones((2, 2, 1), np.uint8))

    alone, taught = pack(None), pack(Teacher("negative", negative))
    assert taught.path != alone.path != pack(Teacher("another", negative)).path
    high, low = taught.pair(1)
    np.testing.assert_array_equal(high[..., :3], alone.pair(1)[0])
    np.testing.assert_array_equal(high[..., 3:], negative(low))
    np.testing.assert_array_equal(PackedPair(taught, 1).read()[1], alone.pair(1)[0])

    # A crop is cut and turned alike for both.
    (low_crop, high_crop) = CropBatches(taught, crop=8, batch=4, seed=3)[0]
    assert high_crop.shape == (4, 6, 16, 16)
    torch.testing.assert_close(high_crop[:, 3:, ::2, ::2], 1 - low_crop)
    (_, alone_crop) = CropBatches(alone, crop=8, batch=4, seed=3)[0]
    assert torch.equal(high_crop[:, :3], alone_crop)
