"""The command: pictures and their maps, figures at budgets, and one clear line otherwise."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_classsr.cli import main
from lowvis_classsr.model import ClassSRConfig
from lowvis_classsr.predict import Upscaler
from lowvis_classsr.routing_map import class_colors, draw_routes
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing import asset_path, check_one_line, command_runner, files_below
from lowvis_shared.testing.faults import BAD_FILES, ODD_FILES, BadFile, OddFile, mixed_folder
from lowvis_shared.testing.pictures import photo

Run = Callable[..., tuple[int, str, str]]

ODD_KINDS = {
    "gray-alpha",
    "palette",
    "cmyk-jpeg",
    "16-bit-rgba",
    "float-tiff",
    "size-1x1",
    "newline",
}
"""One of each way that a picture can be odd; how files are read is tested in the shared part."""

BAD_KINDS = {"missing", "truncated-jpeg", "png-header-bomb", "nan", "html-named-jpg"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``lowvis-classsr`` in this process: exit code, standard output, standard error."""
    return command_runner(main, capsys)


@pytest.fixture
def upscale(run: Run, weights: Path) -> Run:
    """Run ``lowvis-classsr upscale`` with the test's weights, routed."""

    def call(*arguments: object) -> tuple[int, str, str]:
        return run("upscale", "--weights", weights, "--path", "routed", *arguments)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two pictures, one in a folder below."""
    write_image(Picture(photo(20, 24)), tmp_path / "in" / "a.png")
    write_image(Picture(photo(40, 64, seed=1)), tmp_path / "in" / "deeper" / "b.jpg")
    return tmp_path / "in"


# --- upscale: what is written ---------------------------------------------------------------------


def test_a_file_becomes_a_file_and_says_how(upscale: Run, weights: Path, tmp_path: Path) -> None:
    write_image(Picture(photo(20, 24)), tmp_path / "a.png")
    options = ["--precision", "fp32", "--device", "cpu"]
    code, shown, said = upscale(tmp_path / "a.png", "-o", tmp_path / "big.png", *options)
    assert (code, shown) == (0, ""), said
    assert "a.png: " in said
    for word in ("simple", "GMAC", "% of the original network's"):
        assert word in said
    upscaler = Upscaler(weights=weights, path="routed", precision="fp32", device="cpu")
    assert np.array_equal(read_image(tmp_path / "big.png").pixels, upscaler(photo(20, 24)))


def test_a_folder_becomes_a_folder(upscale: Run, folder: Path, tmp_path: Path) -> None:
    code, _, said = upscale(folder, "-o", tmp_path / "out")
    assert code == 0, said
    assert files_below(tmp_path / "out") == ["a.png", "deeper/b.jpg"]
    assert read_image(tmp_path / "out" / "deeper" / "b.jpg").pixels.shape == (160, 256, 3)


def test_figures_are_one_object_on_standard_output(
    upscale: Run, weights: Path, folder: Path, tmp_path: Path
) -> None:
    code, shown, said = upscale(folder, "-o", tmp_path / "out", "--json", "--map", tmp_path / "map")
    assert code == 0, said
    first, second = json.loads(shown)["files"]
    assert (first["width"], first["height"]) == (96, 80)
    assert first["map"] == str(tmp_path / "map" / "a.png")
    _, report = Upscaler(weights=weights, path="routed").run(Picture(photo(20, 24)))
    for name in ("path", "precision", "macs", "full_macs", "paper_share", "share"):
        assert first[name] == getattr(report, name), name
    assert tuple(first["shares"]) == report.shares
    assert first["seconds"] > 0
    assert "routes" not in first
    assert second["output"] == str(tmp_path / "out" / "deeper" / "b.jpg")
    assert sum(second["shares"]) == pytest.approx(1)


def test_a_budget_is_kept(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(64, 96)), tmp_path / "a.png")
    shares: list[float] = []
    for budget in ("0.7", "0.9", "1"):
        target = tmp_path / f"{budget}.png"
        code, shown, said = upscale(tmp_path / "a.png", "-o", target, "--budget", budget, "--json")
        assert code == 0, said
        (entry,) = json.loads(shown)["files"]
        shares.append(entry["share"])
        assert entry["share"] <= float(budget)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    code, _, said = upscale(tmp_path / "a.png", "-o", tmp_path / "0.png", "--budget", "0.2")
    assert code == 0
    assert "warning: the simplest branch everywhere costs" in said


@pytest.mark.parametrize("odd", [each for each in ODD_FILES if each.name in ODD_KINDS], ids=str)
def test_an_odd_picture_is_upscaled_and_mapped(upscale: Run, odd: OddFile, tmp_path: Path) -> None:
    path = odd.create(tmp_path)
    options = ["-o", tmp_path / "out", "--map", tmp_path / "map"]
    code, _, said = upscale(*options, "--", path)
    assert code == 0, said
    (name,) = files_below(tmp_path / "out")
    result = read_image(tmp_path / "out" / name)
    assert (result.height, result.width) == (odd.size[0] * 4, odd.size[1] * 4)
    assert (result.alpha is not None) == odd.alpha
    if not name.lower().endswith((".webp", ".jpg")):  # these hold 8 bits, and WebP no gray
        assert result.bit_depth == odd.bit_depth
        assert result.gray == odd.gray
    drawn = read_image(tmp_path / "map" / name)
    assert (drawn.height, drawn.width) == odd.size
    assert (drawn.bit_depth, drawn.gray, drawn.alpha) == (8, False, None)


# --- upscale: maps --------------------------------------------------------------------------------


def test_a_map_shows_each_class_in_its_color(upscale: Run, weights: Path, tmp_path: Path) -> None:
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 32:64], pixels[:, 64:] = 128, 255
    write_image(Picture(pixels), tmp_path / "a.png")
    options = ["--map", tmp_path / "map.png", "--tile", "16"]
    code, _, said = upscale(tmp_path / "a.png", "-o", tmp_path / "big.png", *options)
    assert code == 0, said
    assert f"wrote {tmp_path / 'map.png'}" in said
    drawn = read_image(tmp_path / "map.png").pixels.astype(int)
    for column, index in ((5, 0), (37, 1), (69, 2)):
        color = class_colors(3)[index] * 255
        gray = pixels[5, column].astype(float)
        assert np.abs(drawn[5, column] - (0.55 * gray + 0.45 * color)).max() < 1
        assert np.abs(drawn[16, column] - 0.6 * color).max() < 1  # the line of the tile below
    red, green = drawn[5, 69], drawn[5, 5]
    assert red[0] > red[1]
    assert green[1] > green[0]


def test_a_map_of_many_is_a_folder(upscale: Run, folder: Path, tmp_path: Path) -> None:
    code, _, said = upscale(folder, "-o", tmp_path / "out", "--map", tmp_path / "map")
    assert code == 0, said
    assert files_below(tmp_path / "map") == ["a.png", "deeper/b.jpg"]
    assert read_image(tmp_path / "map" / "deeper" / "b.jpg").pixels.shape == (40, 64, 3)


def test_where_the_original_upscaled_all_the_map_is_hard(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    write_image(Picture(np.zeros((16, 16, 3), np.uint8)), tmp_path / "a.png")
    code, _, said = run(
        *("upscale", "--weights", weights, "--path", "whole", tmp_path / "a.png"),
        *("-o", tmp_path / "big.png", "--map", tmp_path / "map.png"),
    )
    assert code == 0, said
    assert "the whole picture by the original network" in said
    drawn = read_image(tmp_path / "map.png").pixels
    assert np.abs(drawn - class_colors(3)[2] * 255 * 0.45).max() < 1


def test_a_map_never_takes_the_place_of_a_result_or_a_picture(
    upscale: Run, folder: Path, tmp_path: Path
) -> None:
    picture = folder / "a.png"
    before = picture.read_bytes()
    for arguments in (
        (picture, "-o", tmp_path / "b.png", "--map", tmp_path / "b.png"),
        (folder, "-o", tmp_path / "out", "--map", tmp_path / "out"),
        (folder, "-o", tmp_path / "out", "--map", tmp_path / "map.png"),
        (picture, "-o", tmp_path / "b.png", "--map", picture, "--overwrite"),
    ):
        code, shown, said = upscale(*arguments)
        assert (code, shown) == (2, ""), said
        check_one_line(said)
    assert picture.read_bytes() == before
    assert files_below(tmp_path) == ["in/a.png", "in/deeper/b.jpg"]


def test_a_map_that_exists_is_replaced_only_when_asked(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    (tmp_path / "map.png").write_text("mine")
    line = [tmp_path / "a.png", "-o", tmp_path / "big.png", "--map", tmp_path / "map.png"]
    code, _, said = upscale(*line)
    assert code == 73
    check_one_line(said)
    assert not (tmp_path / "big.png").exists()
    assert (tmp_path / "map.png").read_text() == "mine"
    assert upscale(*line, "--overwrite")[0] == 0
    assert read_image(tmp_path / "map.png").width == 8


def test_colors_lead_from_green_over_yellow_to_red() -> None:
    green, yellow, red = class_colors(3)
    np.testing.assert_allclose(class_colors(2), [green, red])
    np.testing.assert_allclose(class_colors(5)[[0, 2, 4]], [green, yellow, red])
    np.testing.assert_allclose(class_colors(5)[1], (green + yellow) / 2, atol=1e-6)


def test_a_map_of_a_gray_picture_is_colored() -> None:
    """And without the profile of a gray one, which colors do not have."""
    gray = Picture(np.full((8, 8, 3), 90, np.uint8), gray=True, icc_profile=b"gray profile")
    drawn = draw_routes(gray, [], 3)
    assert not drawn.gray
    assert drawn.icc_profile is None
    color = Picture(np.full((8, 8, 3), 90, np.uint8), icc_profile=b"profile")
    assert draw_routes(color, [], 3).icc_profile == b"profile"


# --- upscale: bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [each for each in BAD_FILES if each.name in BAD_KINDS], ids=str)
def test_a_bad_picture_is_one_clear_line(upscale: Run, fault: BadFile, tmp_path: Path) -> None:
    path = fault.create(tmp_path)
    code, shown, said = upscale(path, "-o", tmp_path / "out", "--map", tmp_path / "map")
    assert code == fault.exit_code, said
    assert shown == ""
    check_one_line(said)
    for written in ("out", "map"):
        assert not (tmp_path / written).exists() or files_below(tmp_path / written) == []


def test_the_other_pictures_of_a_folder_are_done(upscale: Run, tmp_path: Path) -> None:
    folder, good, bad = mixed_folder(tmp_path / "in")
    code, shown, said = upscale(folder, "-o", tmp_path / "out", "--json")
    assert code == 1
    assert files_below(tmp_path / "out") == sorted(path.name for path in good)
    assert all(str(path) in said for path in bad)
    report = json.loads(shown)
    assert (report["done"], report["failed"]) == (len(good), len(bad))
    assert "Traceback" not in said


def test_nothing_is_replaced_unless_asked(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    target = tmp_path / "out.png"
    target.write_text("mine")
    code, _, said = upscale(tmp_path / "a.png", "-o", target)
    assert code == 73
    check_one_line(said)
    assert target.read_text() == "mine"
    assert upscale(tmp_path / "a.png", "-o", target, "--overwrite")[0] == 0
    assert read_image(target).width == 32


def test_alpha_into_jpeg_is_refused_before_work(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(8, 8), np.zeros((8, 8), np.uint8)), tmp_path / "a.png")
    code, _, said = upscale(tmp_path / "a.png", "-o", tmp_path / "a.jpg")
    assert code == 73
    assert "alpha" in said
    check_one_line(said)


def test_truncated_and_large_pictures_are_read_when_asked(upscale: Run, tmp_path: Path) -> None:
    (fault,) = (fault for fault in BAD_FILES if fault.name == "truncated-jpeg")
    path = fault.create(tmp_path)
    code, _, said = upscale(path, "-o", tmp_path / "out", "--allow-truncated")
    assert code == 0, said
    assert "truncated" in said
    write_image(Picture(photo(20, 24)), tmp_path / "a.png")
    code, _, said = upscale(tmp_path / "a.png", "-o", tmp_path / "out", "--max-pixels", 100)
    assert code == 65
    check_one_line(said)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--tile", "0"], 2, "--path whole"),
        (["--tile", "3"], 2, "--tile 8 or more"),
        (["--tile", "many"], 2, "many"),
        (["--budget", "2"], 2, "between 0 and 1"),
        (["--budget", "-0.5"], 2, "between 0 and 1"),
        (["--budget", "half"], 2, "--budget"),
        (["--budget", "0.5", "--path", "whole"], 2, "budget"),
        (["--router", "psychic"], 2, "classifier, edges"),
        (["--path", "scenic"], 2, "auto, routed, whole"),
        (["--precision", "fp8"], 2, "fp8"),
        (["--precision", "fp16", "--device", "cpu"], 69, "fp16"),
        (["--device", "cuda:9"], 69, "cuda:9"),
        (["--network", "edsr"], 2, "fsrcnn, carn, srresnet, rcan"),
        (["--weights", "missing.pth"], 66, "missing.pth"),
        (["--weights", "own", "--network", "rcan"], 66, "no weights of ClassSR-RCAN"),
        (["--weights", "official", "--network", "carn"], 66, "ClassSR_CARN.pth"),
        (["--weights", "official"], 66, "https://github.com/XPixelGroup/ClassSR"),
    ],
)
def test_bad_options_are_one_clear_line(
    upscale: Run, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    ended, shown, said = upscale(tmp_path / "a.png", "-o", tmp_path / "out", *options)
    assert (ended, shown) == (code, ""), said
    if not said.startswith("Usage"):
        check_one_line(said)
    assert message in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["web page", "empty", "truncated", "one branch"])
def test_bad_weights_are_one_clear_line(run: Run, weights: Path, tmp_path: Path, kind: str) -> None:
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    bad = tmp_path / "bad.pth"
    if kind == "one branch":
        torch.save({"head_conv.0.weight": torch.zeros(16, 3, 5, 5)}, bad)
    else:
        data = weights.read_bytes()
        bad.write_bytes(
            {"web page": b"<html>404</html>", "empty": b""}.get(kind, data[: len(data) // 2])
        )
    code, _, said = run("upscale", tmp_path / "a.png", "-o", tmp_path / "out", "--weights", bad)
    assert code == 66, said
    check_one_line(said)
    assert "bad.pth" in said
    assert not (tmp_path / "out").exists()


# --- evaluate -------------------------------------------------------------------------------------


@pytest.fixture
def sharp(tmp_path: Path) -> Path:
    """Return a folder of two sharp pictures, larger than a patch when reduced by four."""
    for seed in (1, 2):
        write_image(Picture(photo(152, 200, seed=seed)), tmp_path / "sharp" / f"{seed}.png")
    return tmp_path / "sharp"


def test_evaluate_prints_a_row_for_each_budget(run: Run, weights: Path, sharp: Path) -> None:
    line = ["evaluate", "--dataset", sharp, "--weights", weights, "--budget", "0.75,0.9,1,none"]
    code, shown, said = run(*line)
    assert code == 0, said
    head, *rows = shown.splitlines()
    assert head.split()[:2] == ["budget", "PSNR,"]
    assert [row.split()[0] for row in rows] == ["0.75", "0.9", "1", "none"]
    for row in rows[:3]:
        budget, psnr, cost = row.split()[:3]
        assert 10 < float(psnr) < 60
        assert float(cost.rstrip("%")) <= 100 * float(budget) + 0.05
    assert "100.0%" in rows[2]

    code, shown, said = run(*line, "--json")
    assert code == 0, said
    report = json.loads(shown)
    assert report["dataset"] == str(sharp)
    assert report["network"] == "fsrcnn"
    assert len(report["weights"]["sha256"]) == 64
    assert list(report["budgets"]) == ["0.75", "0.9", "1", "none"]
    for row in report["budgets"].values():
        assert [each["image"] for each in row["per_image"]] == ["1", "2"]
        assert row["psnr"] == pytest.approx(np.mean([each["psnr"] for each in row["per_image"]]))
        assert sum(row["shares"]) == pytest.approx(1)
        assert "routes" not in row["per_image"][0]
    assert report["budgets"]["1"]["share"] == 1


def test_evaluate_by_the_papers_protocol(run: Run, weights: Path, sharp: Path) -> None:
    line = ["evaluate", "--dataset", sharp, "--weights", weights, "--protocol", "paper"]
    code, shown, said = run(*line)
    assert code == 0, said
    names, values = zip(*(row.split()[:2] for row in shown.splitlines()[:3]), strict=True)
    assert names == ("1", "2", "mean")
    first, second, mean = map(float, values)
    assert mean == pytest.approx((first + second) / 2, abs=1e-4)
    assert "MFLOPs per patch as the paper counts" in shown
    code, shown, _ = run(*line, "--json")
    assert code == 0
    report = json.loads(shown)
    assert report["protocol"]["patch"] == 32
    assert [each["image"] for each in report["per_image"]] == ["1", "2"]
    assert sum(report["counts"]) == 2 * 1 * 1  # of 38x50 pixels; the next one would begin at 28


def test_evaluate_names_the_network_that_the_file_is_of(
    run: Run, make_weights: Callable[..., Path], sharp: Path
) -> None:
    weights = make_weights(ClassSRConfig(network="carn", widths=(4, 8, 12)))
    code, shown, said = run("evaluate", "--dataset", sharp, "--weights", weights, "--json")
    assert code == 0, said
    assert json.loads(shown)["network"] == "carn"


def test_evaluate_measures_a_public_set(run: Run, weights: Path) -> None:
    asset_path("set5/HR/baby.png")
    code, shown, said = run("evaluate", "--dataset", "set5", "--weights", weights, "--json")
    assert code == 0, said
    names = [each["image"] for each in json.loads(shown)["budgets"]["none"]["per_image"]]
    assert names == ["baby", "bird", "butterfly", "head", "woman"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--protocol", "strict"], 2, "whole, paper"),
        (["--budget", "half"], 2, "'half'"),
        (["--budget", "0.5,2"], 2, "between 0 and 1"),
        (["--budget", "0.5,,0.6"], 2, "--budget"),
        (["--protocol", "paper", "--budget", "0.5"], 2, "budget"),
        (["--tile", "0"], 2, "--path whole"),
        (["--network", "edsr"], 2, "edsr"),
        (["--weights", "official"], 66, "ClassSR_FSRCNN.pth"),
        (["--dataset", "urban100"], 65, "--data-dir"),
    ],
)
def test_bad_options_of_evaluate_are_one_clear_line_before_any_work(
    run: Run,
    weights: Path,
    sharp: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    message: str,
) -> None:
    for work in ("measure", "evaluate_paper"):
        monkeypatch.setattr(f"lowvis_classsr.cli.{work}", None)
    line = ["evaluate", "--dataset", sharp, "--weights", weights]
    ended, shown, said = run(*line, *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said


def test_the_command_is_installed() -> None:
    command = shutil.which("lowvis-classsr", path=str(Path(sys.executable).parent))
    assert command is not None
    ran = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("lowvis-classsr ")
