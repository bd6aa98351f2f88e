"""Figures are what their names say, and pairs are those that belong together."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lowvis_csrnet.evaluate import (
    Figures,
    Pair,
    compare,
    evaluate,
    folder_pairs,
    load_fivek,
    mean_of,
)
from lowvis_csrnet.predict import Retoucher
from lowvis_shared.errors import InputError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_shared.testing.pictures import constant, photo
from numpy.typing import NDArray
from skimage import color, metrics

FIVEK = ("a0212", "a0481", "a0535", "a1305", "a2995", "a3203", "a3451", "a3552", "a4963")


def unchanged(picture: Picture) -> Picture:
    return picture


def write(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    write_image(Picture(pixels, **options), path)
    return path


def write_pair(folder: Path, name: str, before: NDArray[Any], after: NDArray[Any]) -> Pair:
    source, target = write(folder / "in" / name, before), write(folder / "out" / name, after)
    return Pair(source.stem, source, target)


# --- figures --------------------------------------------------------------------------------------


def test_equal_pictures_are_equal() -> None:
    pixels = photo(40, 50)
    figures = compare(pixels, pixels)
    assert asdict(figures) == {
        "psnr": float("inf"),
        "ssim": pytest.approx(1),
        "delta_e_76": 0,
        "delta_e_2000": 0,
        "lab_wrapped": 0,
    }


def test_figures_of_a_pair_made_by_hand() -> None:
    figures = compare(constant(20, 20, value=100), constant(20, 20, value=110))
    assert figures.psnr == pytest.approx(20 * np.log10(255 / 10))
    lightness = [color.rgb2lab(np.full((1, 1, 3), code / 255))[0, 0, 0] for code in (100, 110)]
    assert figures.delta_e_76 == pytest.approx(lightness[1] - lightness[0], abs=1e-3)
    assert figures.delta_e_2000 < figures.delta_e_76  # it weighs lightness less, off the middle


def test_figures_are_those_of_scikit_image() -> None:
    first, second = photo(60, 70), photo(60, 70, seed=1)
    figures = compare(first, second)
    assert figures.psnr == pytest.approx(metrics.peak_signal_noise_ratio(first, second), abs=1e-6)
    labs = [color.rgb2lab(pixels) for pixels in (first, second)]
    assert figures.delta_e_76 == pytest.approx(color.deltaE_cie76(*labs).mean(), abs=0.01)
    assert figures.delta_e_2000 == pytest.approx(color.deltaE_ciede2000(*labs).mean(), abs=0.01)


def test_the_authors_figure_wraps_around_and_the_true_one_does_not() -> None:
    first, second = constant(20, 20, value=0), constant(20, 20, value=251)
    codes = [
        cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[0, 0].astype(int) for pixels in (first, second)
    ]
    squares = ((codes[0] - codes[1]) % 256) ** 2 % 256
    figures = compare(first, second)
    assert figures.lab_wrapped == pytest.approx(np.sqrt(squares.sum()))
    assert figures.lab_wrapped < 16 < 95 < figures.delta_e_76


def test_floats_count_as_the_codes_they_are_rounded_to() -> None:
    first, second = photo(30, 40), photo(30, 40, seed=2)
    floats = [((pixels + 0.3) / 255).clip(0, 1).astype(np.float32) for pixels in (first, second)]
    assert compare(*floats) == compare(first, second)
    assert compare(floats[0], second) == compare(first, second)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (photo(20, 20), photo(20, 21), "shape"),
        (photo(10, 20), photo(10, 20), "11"),
        (np.full((20, 20, 3), np.nan), photo(20, 20), "finite"),
        (photo(20, 20)[..., 0], photo(20, 20)[..., 0], "RGB"),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused(
    first: NDArray[Any], second: NDArray[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compare(first, second)


def test_mean_of_takes_each_figure_for_itself() -> None:
    rows = [Figures(20, 0.9, 5, 4, 10), Figures(30, 0.7, 1, 2, 12)]
    assert mean_of(rows) == Figures(25, pytest.approx(0.8), 3, 3, 11)
    assert mean_of([rows[0], replace(rows[1], psnr=float("inf"))]).psnr == float("inf")


# --- the public pairs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, Any]]:
    """Return the measured figures of the public pairs, by name."""
    text = mirror_path("golden/csrnet/fivek_reference.json").read_text()
    return {pair["id"]: pair for pair in json.loads(text)["pairs"]}


@pytest.mark.parametrize("kind", ["input", "prophoto"])
def test_all_figures_of_public_pairs_are_the_measured_ones(
    reference: dict[str, dict[str, Any]], kind: str
) -> None:
    for name in FIVEK:
        asset_path(f"fivek/label/{name}.png")
    retouch: Callable[[Picture], Picture] = unchanged
    if kind == "prophoto":
        asset_path("csrnet/csrnet/official")
        retouch = Retoucher(weights="official", lut_size=None, condition_side=None, offline=True)
    evaluation = evaluate(retouch, load_fivek(offline=True))
    assert tuple(name for name, _ in evaluation.per_image) == FIVEK
    for name, figures in evaluation.per_image:
        measured = reference[name]
        assert figures.psnr == pytest.approx(measured[f"psnr_{kind}"], abs=0.01), name
        assert figures.ssim == pytest.approx(measured[f"ssim_{kind}"], abs=1e-4), name
        assert figures.delta_e_76 == pytest.approx(measured[f"deltae76_{kind}"], abs=0.05), name
        wrapped = measured[f"lab_wrapped_{kind}"]
        assert figures.lab_wrapped == pytest.approx(wrapped, abs=0.005), name


# --- sets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [("input", "label"), ("raw_input_test", "expert_C_test")])
def test_a_full_fivek_is_found_by_the_names_of_its_folders(
    tmp_path: Path, folders: tuple[str, str]
) -> None:
    inputs, targets = (tmp_path / "FiveK" / folder for folder in folders)
    for name in ("b", "a"):
        write(inputs / f"{name}.png", photo(16, 16))
        write(targets / f"{name}.tif", photo(16, 16))
    assert load_fivek(tmp_path) == [
        Pair(name, inputs / f"{name}.png", targets / f"{name}.tif") for name in ("a", "b")
    ]


def test_folders_of_fivek_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"FiveK/input or FiveK/raw_input_test"):
        load_fivek(tmp_path)
    write(tmp_path / "FiveK" / "input" / "a.png", photo(16, 16))
    with pytest.raises(InputError, match="label"):
        load_fivek(tmp_path)


def test_a_picture_without_a_partner_is_named(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", photo(16, 16))
    write(tmp_path / "in" / "lonely.png", photo(16, 16))
    write(tmp_path / "out" / "a.jpg", photo(16, 16))
    with pytest.raises(InputError, match="lonely"):
        folder_pairs(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="absent"):
        folder_pairs(tmp_path / "in", tmp_path / "absent")


def test_sub_folders_are_never_mixed_up(tmp_path: Path) -> None:
    for folder, value in (("x", 10), ("y", 200)):
        for part in ("in", "out"):
            write(tmp_path / part / folder / "a.png", constant(16, 16, value=value))
    try:
        pairs = folder_pairs(tmp_path / "in", tmp_path / "out")
    except InputError:
        return  # to refuse them is as good
    assert all(pair.source.parent.name == pair.target.parent.name for pair in pairs)


def test_two_partners_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", photo(16, 16))
    for name in ("a.png", "a.jpg"):
        write(tmp_path / "out" / name, photo(16, 16))
    with pytest.raises(InputError, match=r"a\.(png|jpg)"):
        folder_pairs(tmp_path / "in", tmp_path / "out")


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluate_retouches_and_compares_each(tmp_path: Path) -> None:
    pairs = [
        write_pair(tmp_path, f"{value}.png", constant(16, 16, value=value), constant(16, 16))
        for value in (118, 123)
    ]

    def brighten(picture: Picture) -> Picture:
        return replace(picture, pixels=picture.pixels + np.uint8(5))

    done: list[tuple[int, int]] = []
    evaluation = evaluate(brighten, pairs, progress=lambda n, of: done.append((n, of)))
    assert [name for name, _ in evaluation.per_image] == ["118", "123"]
    psnrs = [figures.psnr for _, figures in evaluation.per_image]
    assert psnrs == [pytest.approx(20 * np.log10(255 / 5)), float("inf")]
    assert done == [(1, 2), (2, 2)]
    report = evaluation.as_dict()
    assert report["mean"]["delta_e_76"] == pytest.approx(
        np.mean([row["delta_e_76"] for row in report["per_image"].values()])
    )
    assert set(report["protocol"]) >= {"color", "border"}


def test_alpha_and_depth_of_a_pair_do_not_count(tmp_path: Path) -> None:
    pixels, alpha = photo(20, 24), np.zeros((20, 24), np.uint8)
    source = write(tmp_path / "in.png", pixels, alpha=alpha)
    target = write(tmp_path / "out.png", pixels.astype(np.uint16) * 257)
    evaluation = evaluate(unchanged, [Pair("a", source, target)])
    assert evaluation.mean.psnr == float("inf")


def test_retouching_brings_a_picture_to_its_own_result(weights: Path, tmp_path: Path) -> None:
    retoucher = Retoucher(weights=weights, lut_size=None)
    pair = write_pair(tmp_path, "a.png", photo(30, 40), retoucher(photo(30, 40)))
    assert evaluate(retoucher, [pair]).mean.psnr == float("inf")
    assert evaluate(unchanged, [pair]).mean.psnr < 40


def test_pairs_that_cannot_be_evaluated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs"):
        evaluate(unchanged, [])
    pair = write_pair(tmp_path, "a.png", photo(20, 20), photo(20, 24))
    with pytest.raises(InputError, match="differ in size") as caught:
        evaluate(unchanged, [pair])
    assert str(pair.source) in str(caught.value)
    with pytest.raises(InputError, match=r"tiny\.png"):
        evaluate(unchanged, [write_pair(tmp_path, "tiny.png", photo(8, 8), photo(8, 8))])
