"""What a user of ``lowvis-csrnet`` relies on: what is written, what is said, how it ends."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from lowvis_csrnet.cli import main
from lowvis_csrnet.lut import Lut3D
from lowvis_csrnet.predict import Retoucher
from lowvis_csrnet.weights import OFFICIAL, own_file
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing import asset_path, check_one_line, command_runner, files_below
from lowvis_shared.testing.faults import (
    BAD_FILES,
    ODD_FILES,
    BadFile,
    OddFile,
    folder_with_name_collision,
    folder_without_pictures,
    mixed_folder,
)
from lowvis_shared.testing.pictures import photo
from numpy.typing import NDArray

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``lowvis-csrnet`` in this process: exit code, standard output, standard error."""
    return command_runner(main, capsys)


@pytest.fixture
def retouch(run: Run, weights: Path) -> Run:
    """Run ``lowvis-csrnet retouch`` with the test's weights."""

    def call(*arguments: object) -> tuple[int, str, str]:
        return run("retouch", "--weights", weights, *arguments)

    return call


@pytest.fixture
def lut(run: Run, weights: Path) -> Run:
    """Run ``lowvis-csrnet lut`` with the test's weights."""

    def call(*arguments: object) -> tuple[int, str, str]:
        return run("lut", "--weights", weights, *arguments)

    return call


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return a photograph."""
    return write(tmp_path / "in" / "a.png", photo(30, 40))


def write(
    path: Path, pixels: NDArray[np.generic], alpha: NDArray[np.generic] | None = None
) -> Path:
    write_image(Picture(pixels, alpha), path)
    return path


# --- retouch: bad and odd pictures ----------------------------------------------------------------


@pytest.mark.parametrize("fault", BAD_FILES, ids=str)
def test_a_bad_picture_is_one_clear_line(retouch: Run, fault: BadFile, tmp_path: Path) -> None:
    path = fault.create(tmp_path)
    code, shown, said = retouch(path, "-o", tmp_path / "out")
    assert code == fault.exit_code, said
    assert shown == ""
    check_one_line(said)
    assert not (tmp_path / "out").exists() or files_below(tmp_path / "out") == []


@pytest.mark.parametrize("odd", ODD_FILES, ids=str)
def test_an_odd_picture_is_retouched_as_it_is(retouch: Run, odd: OddFile, tmp_path: Path) -> None:
    path = odd.create(tmp_path)
    code, _, said = retouch("-o", tmp_path / "out", "--", path)
    assert code == 0, said
    (name,) = files_below(tmp_path / "out")
    result = read_image(tmp_path / "out" / name)
    assert (result.height, result.width) == odd.size
    assert (result.alpha is not None) == odd.alpha
    if not name.lower().endswith((".webp", ".jpg")):  # these hold 8 bits, and WebP no gray
        assert result.bit_depth == odd.bit_depth
        assert result.gray == odd.gray


def test_the_other_pictures_of_a_folder_are_done(retouch: Run, tmp_path: Path) -> None:
    folder, good, bad = mixed_folder(tmp_path / "in")
    code, shown, said = retouch(folder, "-o", tmp_path / "out", "--json")
    assert code == 1
    assert files_below(tmp_path / "out") == sorted(path.name for path in good)
    assert all(str(path) in said for path in bad)
    report = json.loads(shown)
    assert (report["done"], report["failed"]) == (len(good), len(bad))
    assert {entry["exit_code"] for entry in report["files"] if "error" in entry} == {65}
    assert "Traceback" not in said


def test_folders_without_pictures_and_name_collisions(retouch: Run, tmp_path: Path) -> None:
    code, _, said = retouch(folder_without_pictures(tmp_path / "none"), "-o", tmp_path / "out")
    assert code == 65
    check_one_line(said)
    code, _, said = retouch(
        folder_with_name_collision(tmp_path / "two"), "-o", tmp_path / "out", "--compare"
    )
    assert code == 2
    check_one_line(said)
    assert not (tmp_path / "out").exists()


def test_a_damaged_profile_names_the_file_and_the_way_out(
    retouch: Run, profiles: dict[str, bytes], tmp_path: Path
) -> None:
    damaged = Picture(photo(8, 8), icc_profile=profiles["Display P3"][:200])
    write_image(damaged, tmp_path / "photo.tif")
    code, _, said = retouch(tmp_path / "photo.tif", "-o", tmp_path / "out")
    assert code == 65
    check_one_line(said)
    assert "--profile ignore" in said
    assert "photo.tif" in said
    line = [tmp_path / "photo.tif", "-o", tmp_path / "out", "--profile", "ignore"]
    assert retouch(*line)[0] == 0


# --- retouch: what is written ---------------------------------------------------------------------


def test_the_file_holds_what_python_gives(
    retouch: Run, weights: Path, picture: Path, tmp_path: Path
) -> None:
    options = ["--strength", "0.7", "--exposure", "-0.3", "--lut-size", "17"]
    code, shown, said = retouch(picture, "-o", tmp_path / "out.png", *options)
    assert (code, shown) == (0, "")
    assert said == f"note: wrote {tmp_path / 'out.png'}\n"
    retoucher = Retoucher(weights=weights, strength=0.7, exposure=-0.3, lut_size=17)
    expected = retoucher(read_image(picture)).pixels
    assert np.array_equal(read_image(tmp_path / "out.png").pixels, expected)
    assert not np.array_equal(expected, photo(30, 40))


def test_lut_size_off_is_the_network_itself(
    retouch: Run, weights: Path, picture: Path, tmp_path: Path
) -> None:
    code, shown, _ = retouch(picture, "-o", tmp_path / "out.png", "--lut-size", "off", "--json")
    assert code == 0
    (entry,) = json.loads(shown)["files"]
    assert (entry["method"], entry["lut_size"]) == ("exact", None)
    expected = Retoucher(weights=weights, lut_size=None)(photo(30, 40))
    assert np.array_equal(read_image(tmp_path / "out.png").pixels, expected)


def test_a_folder_keeps_its_sub_folders_and_a_glob_takes_what_it_names(
    retouch: Run, tmp_path: Path
) -> None:
    for name in ("a.png", "sub/b.jpg", "sub/c.tif"):
        write(tmp_path / "in" / name, photo(12, 16))
    assert retouch(tmp_path / "in", "-o", tmp_path / "1")[0] == 0
    assert files_below(tmp_path / "1") == ["a.png", "sub/b.jpg", "sub/c.tif"]
    assert retouch(tmp_path / "in" / "sub" / "*", "-o", tmp_path / "2")[0] == 0
    assert files_below(tmp_path / "2") == ["b.jpg", "c.tif"]


def test_json_is_one_object_on_standard_output(retouch: Run, picture: Path, tmp_path: Path) -> None:
    code, shown, _ = retouch(picture, "-o", tmp_path / "out", "--json", "--compare")
    assert code == 0
    (entry,) = json.loads(shown)["files"]
    assert (entry["width"], entry["height"]) == (40, 30)
    assert (entry["method"], entry["lut_size"]) == ("lut", 33)
    assert (entry["input_space"], entry["precision"]) == ("srgb", "float32")
    assert entry["comparison"] == str(tmp_path / "out" / "a_compare.png")


def test_sixteen_bits_and_alpha_come_through(retouch: Run, tmp_path: Path) -> None:
    alpha = np.linspace(0, 65535, 480).reshape(20, 24).astype(np.uint16)
    write(tmp_path / "deep.png", photo(20, 24).astype(np.uint16) * 257, alpha)
    code, _, said = retouch(tmp_path / "deep.png", "-o", tmp_path / "out.png")
    assert code == 0, said
    result = read_image(tmp_path / "out.png")
    assert result.bit_depth == 16
    assert np.array_equal(result.alpha, alpha)


def test_compare_writes_both_side_by_side(retouch: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", photo(20, 24))
    code, _, said = retouch(tmp_path / "a.jpg", "-o", tmp_path / "out", "--compare")
    assert code == 0, said
    assert files_below(tmp_path / "out") == ["a.jpg", "a_compare.png"]
    sides = read_image(tmp_path / "out" / "a_compare.png").pixels
    assert sides.shape == (20, 24 * 2 + 2, 3)
    assert np.array_equal(sides[:, :24], read_image(tmp_path / "a.jpg").pixels)


def test_a_comparison_that_exists_is_kept(retouch: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_compare.png").write_text("mine")
    code, _, said = retouch(picture, "-o", tmp_path / "out", "--compare")
    assert code == 73
    check_one_line(said)
    assert files_below(tmp_path / "out") == ["a_compare.png"]
    assert retouch(picture, "-o", tmp_path / "out", "--compare", "--overwrite")[0] == 0
    assert read_image(tmp_path / "out" / "a_compare.png").width == 82


def test_nothing_is_replaced_unless_asked(retouch: Run, picture: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    target.write_text("mine")
    code, _, said = retouch(picture, "-o", target)
    assert code == 73
    check_one_line(said)
    assert target.read_text() == "mine"
    assert retouch(picture, "-o", target, "--overwrite")[0] == 0
    assert read_image(target).width == 40
    original = picture.read_bytes()
    assert retouch(picture, "-o", picture, "--overwrite")[0] == 2
    assert picture.read_bytes() == original


def test_alpha_into_jpeg_is_refused(retouch: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.png", photo(8, 8), np.zeros((8, 8), np.uint8))
    code, _, said = retouch(tmp_path / "a.png", "-o", tmp_path / "a.jpg")
    assert code == 73
    assert "alpha" in said
    check_one_line(said)


def test_truncated_and_large_pictures_are_the_users_choice(retouch: Run, tmp_path: Path) -> None:
    (fault,) = (fault for fault in BAD_FILES if fault.name == "truncated-jpeg")
    path = fault.create(tmp_path)
    code, _, said = retouch(path, "-o", tmp_path / "out", "--allow-truncated")
    assert code == 0, said
    assert "truncated" in said
    write(tmp_path / "a.png", photo(20, 24))
    code, _, said = retouch(tmp_path / "a.png", "-o", tmp_path / "out", "--max-pixels", 100)
    assert code == 65
    assert "--max-pixels" in said or "max_pixels" in said


@pytest.mark.parametrize("profile", ["keep", "srgb", "ignore"])
def test_profile_is_what_was_chosen(
    retouch: Run, profiles: dict[str, bytes], tmp_path: Path, profile: str
) -> None:
    source = Picture(photo(12, 16), icc_profile=profiles["Adobe RGB"])
    write_image(source, tmp_path / "a.png")
    code, _, said = retouch(tmp_path / "a.png", "-o", tmp_path / "out.png", "--profile", profile)
    assert code == 0, said
    found = read_image(tmp_path / "out.png").icc_profile
    assert found == profiles["sRGB" if profile == "srgb" else "Adobe RGB"]


# --- retouch: csrnet-l ----------------------------------------------------------------------------


def test_csrnet_l_takes_a_folder(run: Run, local_weights: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name, photo(24, 32))
    line = ["retouch", tmp_path / "in", "-o", tmp_path / "out", "--network", "csrnet-l", "--json"]
    code, shown, said = run(*line, "--weights", local_weights)
    assert code == 0, said
    assert [entry["method"] for entry in json.loads(shown)["files"]] == ["local", "local"]


def test_csrnet_l_has_no_lut(run: Run, local_weights: Path, picture: Path, tmp_path: Path) -> None:
    line = ["retouch", picture, "-o", tmp_path / "out", "--network", "csrnet-l"]
    code, _, said = run(*line, "--weights", local_weights, "--lut-size", "33")
    assert code == 2
    assert "--lut-size off" in said
    check_one_line(said)
    assert run(*line, "--weights", local_weights, "--lut-size", "off")[0] == 0


# --- retouch: videos ------------------------------------------------------------------------------


def make_clip(path: Path, count: int = 4) -> Path:
    av = pytest.importorskip("av", reason="PyAV is the extra 'video'")
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(photo(32, 48)).reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def test_photographs_and_videos_go_in_one_run(retouch: Run, picture: Path, tmp_path: Path) -> None:
    make_clip(picture.parent / "clips" / "b.MP4")
    code, shown, said = retouch(picture.parent, "-o", tmp_path / "out", "--json")
    assert code == 0, said
    assert files_below(tmp_path / "out") == ["a.png", "clips/b.MP4"]
    photograph, video = json.loads(shown)["files"]
    assert photograph["method"] == "lut"
    assert (video["frames"], video["scenes"]) == (4, 1)


def test_a_video_of_a_kind_that_is_not_written_becomes_one_that_is(
    retouch: Run, tmp_path: Path
) -> None:
    make_clip(tmp_path / "in" / "b.avi")
    code, _, said = retouch(tmp_path / "in" / "b.avi", "-o", tmp_path / "named.mp4")
    assert code == 0, said
    code, _, said = retouch(tmp_path / "in", "-o", tmp_path / "out")
    assert code == 0, said
    assert files_below(tmp_path / "out") == ["b.mp4"]


def test_a_live_photograph_is_compared_and_its_video_is_not(retouch: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "IMG_1.jpg", photo(16, 16))
    make_clip(tmp_path / "in" / "IMG_1.mov")
    code, _, said = retouch(tmp_path / "in", "-o", tmp_path / "out", "--compare")
    assert code == 0, said
    assert files_below(tmp_path / "out") == ["IMG_1.jpg", "IMG_1.mov", "IMG_1_compare.png"]


@pytest.mark.parametrize(
    ("options", "target", "code"),
    [
        (["--lut-size", "off"], "out.mp4", 2),
        (["--smoothing", "-1"], "out.mp4", 2),
        ([], "out.png", 73),
    ],
)
def test_a_video_that_cannot_be_retouched_so(
    retouch: Run, tmp_path: Path, options: Sequence[str], target: str, code: int
) -> None:
    clip = make_clip(tmp_path / "in" / "b.mp4")
    ended, _, said = retouch(clip, "-o", tmp_path / target, *options)
    assert ended == code, said
    check_one_line(said)
    assert not (tmp_path / target).exists()


def test_a_damaged_video_does_not_stop_the_others(
    retouch: Run, picture: Path, tmp_path: Path
) -> None:
    (picture.parent / "b.mp4").write_bytes(b"no video at all")
    code, _, said = retouch(picture.parent, "-o", tmp_path / "out")
    assert code == 1, said
    assert files_below(tmp_path / "out") == ["a.png"]
    assert str(picture.parent / "b.mp4") in said


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--strength", "2"], 2, "strength"),
        (["--strength", "nan"], 2, "strength"),
        (["--exposure", "nan"], 2, "exposure"),
        (["--lut-size", "1"], 2, "2 to 256"),
        (["--lut-size", "-3"], 2, "--lut-size"),
        (["--lut-size", "big"], 2, "--lut-size"),
        (["--profile", "x"], 2, "keep, srgb, ignore"),
        (["--input-space", "x"], 2, "srgb, prophoto-1.8"),
        (["--network", "csrnet-xl"], 2, "csrnet-xl"),
        (["--precision", "fp8"], 2, "fp8"),
        (["--precision", "fp16", "--device", "cpu"], 69, "fp16"),
        (["--device", "cuda:9"], 69, "cuda:9"),
        (["--weights", "missing.pth"], 66, "missing.pth"),
        (["--network", "csrnet-l", "--weights", "official"], 66, "csrnet-l"),
    ],
)
def test_bad_options_are_one_clear_line(
    retouch: Run, picture: Path, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    ended, shown, said = retouch(picture, "-o", tmp_path / "out", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert not (tmp_path / "out").exists()


def test_weights_of_the_other_network_are_named(
    retouch: Run, weights: Path, picture: Path, tmp_path: Path
) -> None:
    code, _, said = retouch(picture, "-o", tmp_path / "out", "--network", "csrnet-l")
    assert code == 66
    assert "this looks like csrnet; csrnet-l was asked for" in said
    check_one_line(said)


def test_official_weights_need_consent(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.delenv("LOWVIS_ACCEPT_LICENCES", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    code, _, said = run("weights", "fetch")
    assert code == 66
    assert "--accept-licence" in said
    code, _, said = run("weights", "fetch", "--accept-licence", "--offline")
    assert code == 66
    assert "network" in said


# --- lut ------------------------------------------------------------------------------------------


def test_a_look_becomes_a_cube_file(lut: Run, weights: Path, picture: Path, tmp_path: Path) -> None:
    code, shown, said = lut(picture, "-o", tmp_path / "look.cube", "--size", "17")
    assert code == 0, said
    assert shown == f"{tmp_path / 'look.cube'}: 17 nodes on an axis\n"
    expected = Retoucher(weights=weights).bake(read_image(picture), 17)
    saved = Lut3D.load(tmp_path / "look.cube")
    np.testing.assert_allclose(saved.values, expected.values, rtol=0, atol=6e-7)
    assert saved.values.max() > 1 or saved.values.min() < 0  # what lies outside is kept


def test_a_look_becomes_a_hald_picture(
    lut: Run, weights: Path, picture: Path, tmp_path: Path
) -> None:
    for name, depth in (("16.png", 16), ("8.tif", 8)):
        line = [picture, "-o", tmp_path / name, "--size", "16", "--bit-depth", depth]
        code, _, said = lut(*line)
        assert code == 0, said
        hald = read_image(tmp_path / name)
        assert (hald.width, hald.height, hald.bit_depth) == (64, 64, depth)
        expected = Retoucher(weights=weights).bake(read_image(picture), 16).clamped()
        error = np.abs(Lut3D.load(tmp_path / name).values - expected.values).max()
        assert error <= 0.51 / (2**depth - 1)


def test_clamp_clips_a_cube_file(lut: Run, picture: Path, tmp_path: Path) -> None:
    assert lut(picture, "-o", tmp_path / "open.cube")[0] == 0
    assert lut(picture, "-o", tmp_path / "clipped.cube", "--clamp")[0] == 0
    plain, clipped = (Lut3D.load(tmp_path / f"{name}.cube") for name in ("open", "clipped"))
    assert np.array_equal(clipped.values, plain.values.clip(0, 1))


def test_looks_are_blended_by_their_shares(lut: Run, picture: Path, tmp_path: Path) -> None:
    warm = Lut3D((Lut3D.identity(9).values * np.float32([1, 0.9, 0.8])).astype(np.float32))
    warm.save(tmp_path / "warm.cube")
    Lut3D.identity(5).save(tmp_path / "none.cube")
    assert lut(picture, "-o", tmp_path / "own.cube")[0] == 0
    blend = ["--blend", f"{tmp_path / 'warm.cube'}:0.3", "--blend", f"{tmp_path / 'none.cube'}:0.2"]
    code, _, said = lut(picture, "-o", tmp_path / "mixed.cube", *blend)
    assert code == 0, said
    own, mixed = (Lut3D.load(tmp_path / f"{name}.cube") for name in ("own", "mixed"))
    identity = Lut3D.identity(33).values
    expected = 0.5 * own.values + 0.3 * identity * np.float32([1, 0.9, 0.8]) + 0.2 * identity
    np.testing.assert_allclose(mixed.values, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shares", [("nowhere.cube",), ("{}:x",), ("{}:-0.1",), ("{}:1.1",),
                                    ("{}:nan",), (":0.5",), ("{}:0.7", "{}:0.7")])  # fmt: skip
def test_shares_that_make_no_blend_are_one_clear_line(
    lut: Run, picture: Path, tmp_path: Path, shares: Sequence[str]
) -> None:
    Lut3D.identity(5).save(tmp_path / "none.cube")
    blend = [part for share in shares for part in ("--blend", share.format(tmp_path / "none.cube"))]
    code, _, said = lut(picture, "-o", tmp_path / "look.cube", *blend)
    assert code == 2, said
    check_one_line(said)
    assert not (tmp_path / "look.cube").exists()


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("look.txt", [], 73, ".cube"),
        ("look", [], 73, ".cube"),
        ("look.cube", ["--size", "1"], 2, "2 to 256"),
        ("look.png", ["--bit-depth", "12"], 2, "8 or 16"),
        ("look.cube", ["--strength", "2"], 2, "strength"),
        ("look.cube", ["--blend", "absent.cube:0.5"], 65, "absent.cube"),
    ],
)
def test_a_lut_that_cannot_be_written_so(
    lut: Run, picture: Path, tmp_path: Path, name: str, options: Sequence[str], code: int,
    message: str,
) -> None:  # fmt: skip
    ended, shown, said = lut(picture, "-o", tmp_path / name, *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert not (tmp_path / name).exists()


def test_a_lut_is_kept_unless_asked_and_told_as_json(
    lut: Run, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "look.cube").write_text("mine")
    assert lut(picture, "-o", tmp_path / "look.cube")[0] == 73
    assert (tmp_path / "look.cube").read_text() == "mine"
    code, shown, _ = lut(picture, "-o", tmp_path / "look.cube", "--overwrite", "--json")
    assert code == 0
    assert json.loads(shown) == {
        "output": str(tmp_path / "look.cube"),
        "size": 33,
        "input": str(picture),
    }


# --- apply ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["look.cube", "look.png"])
def test_applying_a_look_equals_retouching(
    run: Run, lut: Run, retouch: Run, picture: Path, tmp_path: Path, name: str
) -> None:
    assert lut(picture, "-o", tmp_path / name, "--size", "36")[0] == 0
    assert retouch(picture, "-o", tmp_path / "1.png", "--lut-size", "36")[0] == 0
    code, shown, said = run("apply", tmp_path / name, picture, "-o", tmp_path / "2.png", "--json")
    assert code == 0, said
    assert json.loads(shown)["files"][0]["width"] == 40
    first, second = (read_image(tmp_path / f"{n}.png").pixels.astype(int) for n in (1, 2))
    if name.endswith(".cube"):
        assert np.abs(first - second).max() <= 1
        assert (first != second).mean() < 0.001
    else:  # clamped at the nodes
        inside = (first > 20) & (first < 235)
        assert np.abs(first - second)[inside].max() <= 1


def test_apply_keeps_what_a_picture_has_and_takes_a_strength(run: Run, tmp_path: Path) -> None:
    dark = Lut3D((Lut3D.identity(9).values / 2).astype(np.float32))
    dark.save(tmp_path / "dark.cube")
    alpha = np.arange(64, dtype=np.uint16).reshape(8, 8)
    write(tmp_path / "in" / "a.png", np.full((8, 8, 3), 40000, np.uint16), alpha)
    line = ["apply", tmp_path / "dark.cube", tmp_path / "in", "-o"]
    assert run(*line, tmp_path / "whole")[0] == 0
    assert run(*line, tmp_path / "half", "--strength", "0.5")[0] == 0
    whole, half = (read_image(tmp_path / name / "a.png") for name in ("whole", "half"))
    assert np.abs(whole.pixels.astype(int) - 20000).max() <= 1
    assert np.abs(half.pixels.astype(int) - 30000).max() <= 1
    assert np.array_equal(whole.alpha, alpha)


@pytest.mark.parametrize(
    ("content", "options", "code"),
    [(None, [], 65), ("LUT_3D_SIZE 99999\n", [], 65), ("<html>", [], 65), ("", [], 65)],
)
def test_a_bad_look_is_one_clear_line(
    run: Run, picture: Path, tmp_path: Path, content: str | None, options: Sequence[str], code: int
) -> None:
    if content is not None:
        (tmp_path / "bad.cube").write_text(content)
    ended, _, said = run("apply", tmp_path / "bad.cube", picture, "-o", tmp_path / "out", *options)
    assert ended == code, said
    check_one_line(said)
    assert "bad.cube" in said
    assert not (tmp_path / "out").exists()


def test_apply_refuses_a_strength_that_there_is_not(
    run: Run, picture: Path, tmp_path: Path
) -> None:
    Lut3D.identity(5).save(tmp_path / "none.cube")
    line = ["apply", tmp_path / "none.cube", picture, "-o", tmp_path / "out"]
    code, _, said = run(*line, "--strength", "2")
    assert code == 2
    check_one_line(said)


# --- evaluate -------------------------------------------------------------------------------------


def test_evaluate_prints_one_json_object(run: Run, weights: Path, tmp_path: Path) -> None:
    retoucher = Retoucher(weights=weights, lut_size=None, condition_side=None)
    for seed in (1, 2):
        before = write(tmp_path / "in" / f"{seed}.png", photo(24, 32, seed=seed))
        write(tmp_path / "out" / f"{seed}.png", retoucher(read_image(before)).pixels)
    line = ["evaluate", "--inputs", tmp_path / "in", "--targets", tmp_path / "out"]
    code, shown, said = run(*line, "--weights", weights, "--json")
    assert code == 0, said
    report = json.loads(shown)
    assert report["mean"]["delta_e_76"] == 0
    assert report["mean"]["psnr"] is None  # infinite
    assert list(report["per_image"]) == ["1", "2"]
    assert report["weights"]["name"] == str(weights)
    assert len(report["weights"]["sha256"]) == 64
    code, shown, said = run(*line, "--weights", "none", "--json")
    assert code == 0, said
    report = json.loads(shown)
    assert report["weights"] == {"name": "none"}
    assert 10 < report["mean"]["psnr"] < 40
    code, shown, _ = run(*line, "--weights", "none")
    assert code == 0
    assert re.search(r"^mean .* dB .*CIE76 .*CIEDE2000 ", shown, re.MULTILINE)


def test_evaluate_official_on_the_public_pairs(run: Run) -> None:
    asset_path("csrnet/csrnet/official")
    asset_path("fivek/input/a0212.png")
    code, shown, said = run("evaluate", "--weights", "official", "--json")
    assert code == 0, said
    report = json.loads(shown)
    assert len(report["per_image"]) == 9
    assert report["weights"]["input_space"] == "prophoto-1.8"
    assert report["per_image"]["a0212"]["psnr"] == pytest.approx(22.8866, abs=0.01)


def test_evaluate_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    code, _, said = run("evaluate", "--inputs", tmp_path)
    assert code == 2
    assert "--targets" in said
    code, _, said = run("evaluate", "--weights", "none", "--data-dir", tmp_path)
    assert code == 65
    assert "FiveK" in said
    check_one_line(said)


@pytest.mark.parametrize("command", [["reproduce"], ["evaluate"]])
def test_a_mistyped_data_folder_is_refused_before_any_work(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    code, shown, said = run(*command, "--data-dir", tmp_path / "mistyped")
    assert code == 2
    assert shown == ""
    assert "--data-dir" in said


# --- weights and help -----------------------------------------------------------------------------


def test_weights_are_listed(run: Run) -> None:
    code, shown, _ = run("weights", "list", "--json")
    assert code == 0
    rows = json.loads(shown)["weights"]
    (official,) = (row for row in rows if row["weights"] == "official")
    assert (official["network"], official["sha256"]) == ("csrnet", OFFICIAL.sha256)
    own = [row["network"] for row in rows if row["weights"] == "own"]
    assert own == [name for name in ("csrnet", "csrnet-l") if own_file(name).is_file()]
    code, shown, _ = run("weights", "list")
    assert code == 0
    assert OFFICIAL.url in shown


def test_weights_are_fetched(run: Run) -> None:
    path = asset_path("csrnet/csrnet/official")
    code, shown, said = run("weights", "fetch", "--json", "--offline")
    assert code == 0, said
    assert json.loads(shown) == {"csrnet": str(path)}


@pytest.mark.parametrize("command", ["retouch", "lut", "apply", "evaluate"])
def test_help_explains_each_option_in_words(run: Run, command: str) -> None:
    code, shown, _ = run(command, "--help")
    assert code == 0
    assert "--strength" in shown or command == "evaluate"
    assert "TODO" not in shown


def test_train_without_its_extra_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    monkeypatch.delitem(sys.modules, "lowvis_csrnet.train", raising=False)
    code, _, said = run("train", "photos=nowhere")
    assert code == 69
    assert "lowvis-csrnet[train]" in said
    check_one_line(said)


def test_reproduce_measures_the_rows_asked_for(run: Run, tmp_path: Path) -> None:
    code, shown, said = run("reproduce", "--only", "*parameters*")
    assert code == 0, said
    assert "✓" in shown


def test_the_command_is_installed() -> None:
    command = shutil.which("lowvis-csrnet", path=str(Path(sys.executable).parent))
    assert command is not None
    ran = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("lowvis-csrnet ")
