import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_shared.errors import InputError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.pairs import bicubic, evaluate, evaluate_network, load_pairs
from lowvis_shared.resize import imresize
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import photo
from torch import nn


def save(path: Path, *, height: int = 48, width: int = 40, **picture: object) -> np.ndarray:
    pixels = photo(height, width, seed=len(path.name))
    write_image(Picture(pixels, **picture), path)
    return pixels


def test_bicubic_baseline_of_set5() -> None:
    asset_path("set5/HR/baby.png")
    evaluation = evaluate(lambda low: bicubic(low, 4), load_pairs("set5", 4), 4)
    assert evaluation.psnr == pytest.approx(28.43, abs=0.01)


def test_low_resolution_is_made_as_matlab_makes_it_where_no_file_lies_there(
    tmp_path: Path,
) -> None:
    pixels = save(tmp_path / "B100/HR/a.png", height=50, width=43)
    (pair,) = load_pairs("b100", 4, data_dir=tmp_path)
    low, high = pair.read()
    assert np.array_equal(high, pixels[:48, :40])  # cropped to a multiple of the scale
    assert np.array_equal(low, imresize(pixels[:48, :40], scale=1 / 4))


@pytest.mark.parametrize("layout", ["LR_bicubic/X4", "LRbicx4"])
def test_low_resolution_files_are_used_where_they_lie(tmp_path: Path, layout: str) -> None:
    save(tmp_path / "Manga109/HR/ARMS.png")
    low = save(tmp_path / "Manga109" / layout / "ARMSx4.png", height=12, width=10)
    (pair,) = load_pairs("manga109", 4, data_dir=tmp_path)
    assert pair.name == "ARMS"
    assert np.array_equal(pair.read()[0], low)


@pytest.mark.parametrize("folder", ["urban100", "Urban100/HR", "Urban100/image_SRF_4"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_layouts_of_urban100(tmp_path: Path, folder: str, scale: int) -> None:
    for number in (2, 1):
        for kind in ("HR", "LR"):
            name = f"img_{number:03}_SRF_4_{kind}.png"
            save(tmp_path / folder / name, height=24, width=1024)
    pairs = load_pairs("urban100", scale, data_dir=tmp_path)
    assert [pair.name for pair in pairs] == ["img_001", "img_002"]
    assert all(pair.high.name.endswith("_HR.png") for pair in pairs)


def test_other_sets_take_the_pictures_of_their_scale(tmp_path: Path) -> None:
    for scale in (2, 4):
        save(tmp_path / f"B100/image_SRF_{scale}/1_SRF_{scale}_HR.png")
    taken = {s: load_pairs("b100", s, data_dir=tmp_path)[0].high.parent.name for s in (2, 3, 4)}
    assert taken == {2: "image_SRF_2", 3: "image_SRF_4", 4: "image_SRF_4"}


def test_urban100_at_half_size_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "Urban100/image_SRF_2/img_001_SRF_2_HR.png", height=24, width=512)
    with pytest.raises(InputError, match="half size"):
        load_pairs("urban100", 2, data_dir=tmp_path)


def test_gray_pictures_are_compared_as_rgb(tmp_path: Path) -> None:
    pixels = np.repeat(photo(48, 40)[..., :1], 3, axis=2)
    write_image(Picture(pixels, gray=True), tmp_path / "gray.png")
    evaluation = evaluate(lambda low: bicubic(low, 2), load_pairs(tmp_path, 2), 2)
    assert evaluation.psnr > 20


def test_bad_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="come from you"):
        load_pairs("urban100", 4)
    with pytest.raises(InputError, match="are not in"):
        load_pairs("urban100", 4, data_dir=tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_pairs("urban100", 4, data_dir=tmp_path / "missing")
    with pytest.raises(InputError, match="neither a folder nor the name"):
        load_pairs("set6", 4)
    with pytest.raises(InputError, match="holds no pictures"):
        load_pairs(tmp_path, 4)


def test_pairs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "HR/a.png")
    save(tmp_path / "LRbicx4/a.png", height=13, width=10)
    with pytest.raises(InputError, match="is not 40x48"):
        load_pairs(tmp_path, 4)[0].read()
    deep = tmp_path / "deep"
    write_image(Picture(photo(48, 40).astype(np.uint16)), deep / "a.png")
    with pytest.raises(InputError, match="holds 16 bits"):
        load_pairs(deep, 4)[0].read()


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))


def test_evaluation_leaves_the_network_as_it_was(network: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluation = evaluate_network(network, load_pairs(tmp_path, 2), 2, receptive_radius=1)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    report = evaluation.as_dict()
    assert report["protocol"] == {
        "color": "y-bt601",
        "border": 2,
        "quantize": True,
        "reduction": "mean",
    }
    assert report["per_image"][0]["image"] == "a"
    assert json.loads(json.dumps(report)) == report


def test_a_large_picture_runs_in_tiles_only_where_the_network_is_local(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png", height=96, width=80)
    pairs = load_pairs(tmp_path, 2)
    monkeypatch.setattr("lowvis_shared.pairs._LARGEST_WHOLE", 600)
    seen: list[tuple[int, ...]] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    whole = evaluate_network(network, pairs, 2, receptive_radius=None)
    assert seen == [(1, 3, 48, 40)]
    tiled = evaluate_network(network, pairs, 2, receptive_radius=1)
    assert len(seen) > 2
    assert tiled.psnr == pytest.approx(whole.psnr, abs=1e-6)


def test_validation_set_of_div2k_is_found_as_it_is_published(tmp_path: Path) -> None:
    save(tmp_path / "DIV2K/DIV2K_valid_HR/0801.png")
    low = save(tmp_path / "DIV2K/DIV2K_valid_LR_bicubic/X4/0801x4.png", height=12, width=10)
    (pair,) = load_pairs("div2k", 4, data_dir=tmp_path)
    assert pair.name == "0801"
    assert np.array_equal(pair.read()[0], low)
