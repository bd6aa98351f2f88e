import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_pan.cli import main
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing import (
    asset_path,
    check_one_line,
    command_runner,
    files_below,
    heed_interrupts,
)
from lowvis_shared.testing.faults import (
    BAD_FILES,
    ODD_FILES,
    BadFile,
    OddFile,
    folder_with_name_collision,
    folder_without_pictures,
    mixed_folder,
)
from lowvis_shared.testing.pictures import noise, photo

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``lowvis-pan`` in this process: exit code, standard output, standard error."""
    return command_runner(main, capsys)


@pytest.fixture
def upscale(run: Run, weights: str) -> Run:
    """Run ``lowvis-pan upscale`` with the test's weights on the fastest-starting backend."""

    def call(*arguments: object) -> tuple[int, str, str]:
        return run("upscale", "--weights", weights, "--backend", "torch", *arguments)

    return call


# --- upscale: bad and odd pictures ----------------------------------------------------------------


@pytest.mark.parametrize("fault", BAD_FILES, ids=str)
def test_a_bad_picture_is_one_clear_line(upscale: Run, fault: BadFile, tmp_path: Path) -> None:
    path = fault.create(tmp_path)
    code, shown, said = upscale(path, "-o", tmp_path / "out")
    assert code == fault.exit_code, said
    assert shown == ""
    check_one_line(said)
    assert not (tmp_path / "out").exists() or files_below(tmp_path / "out") == []


@pytest.mark.parametrize("odd", ODD_FILES, ids=str)
def test_an_odd_picture_is_upscaled_as_it_is(upscale: Run, odd: OddFile, tmp_path: Path) -> None:
    path = odd.create(tmp_path)
    code, _, said = upscale("-o", tmp_path / "out", "--", path)
    assert code == 0, said
    (name,) = files_below(tmp_path / "out")
    result = read_image(tmp_path / "out" / name)
    assert (result.height, result.width) == (odd.size[0] * 4, odd.size[1] * 4)
    assert (result.alpha is not None) == odd.alpha
    if not name.lower().endswith((".webp", ".jpg")):  # these hold 8 bits, and WebP no gray
        assert result.bit_depth == odd.bit_depth
        assert result.gray == odd.gray


def test_the_other_pictures_of_a_folder_are_done(upscale: Run, tmp_path: Path) -> None:
    folder, good, bad = mixed_folder(tmp_path / "in")
    code, shown, said = upscale(folder, "-o", tmp_path / "out", "--json")
    assert code == 1
    assert files_below(tmp_path / "out") == sorted(path.name for path in good)
    assert all(str(path) in said for path in bad)
    report = json.loads(shown)
    assert (report["done"], report["failed"]) == (len(good), len(bad))
    assert {entry["exit_code"] for entry in report["files"] if "error" in entry} == {65}
    assert "Traceback" not in said


def test_folders_without_pictures_and_name_collisions(upscale: Run, tmp_path: Path) -> None:
    code, _, said = upscale(folder_without_pictures(tmp_path / "none"), "-o", tmp_path / "out")
    assert code == 65
    check_one_line(said)
    code, _, said = upscale(
        folder_with_name_collision(tmp_path / "two"), "-o", tmp_path / "out", "--compare"
    )
    assert code == 2
    check_one_line(said)
    assert not (tmp_path / "out").exists()


# --- upscale: what is written ---------------------------------------------------------------------


def test_sixteen_bits_alpha_and_profile_come_through(upscale: Run, tmp_path: Path) -> None:
    pixels = photo(20, 24).astype(np.uint16) * 257
    alpha = np.linspace(0, 65535, 480).reshape(20, 24).astype(np.uint16)
    write_image(Picture(pixels, alpha), tmp_path / "deep.png")
    code, shown, said = upscale(tmp_path / "deep.png", "-o", tmp_path / "big.png")
    assert (code, shown) == (0, ""), said
    result = read_image(tmp_path / "big.png")
    assert result.bit_depth == 16
    assert result.pixels.shape == (80, 96, 3)
    assert result.alpha is not None


def test_json_is_one_object_on_standard_output(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(20, 24)), tmp_path / "a.png")
    _, shown, _ = upscale(tmp_path / "a.png", "-o", tmp_path / "out", "--json")
    (entry,) = json.loads(shown)["files"]
    assert (entry["width"], entry["height"]) == (96, 80)
    assert entry["engine"].startswith("torch ")
    assert (entry["tiles"], entry["attenuated"]) == (1, 0)


def test_compare_writes_both_side_by_side(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(20, 24)), tmp_path / "a.jpg")
    code, _, said = upscale(tmp_path / "a.jpg", "-o", tmp_path / "out", "--compare")
    assert code == 0, said
    assert files_below(tmp_path / "out") == ["a.jpg", "a_compare.png"]
    assert read_image(tmp_path / "out" / "a_compare.png").pixels.shape == (80, 96 * 2 + 2, 3)


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
    original = (tmp_path / "a.png").read_bytes()
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "a.png", "--overwrite")[0] == 2
    assert (tmp_path / "a.png").read_bytes() == original


def test_alpha_into_jpeg_is_refused_before_work(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(8, 8), np.zeros((8, 8), np.uint8)), tmp_path / "a.png")
    code, _, said = upscale(tmp_path / "a.png", "-o", tmp_path / "a.jpg")
    assert code == 73
    assert "alpha" in said
    check_one_line(said)


def test_truncated_pictures_are_read_when_asked(upscale: Run, tmp_path: Path) -> None:
    (fault,) = (fault for fault in BAD_FILES if fault.name == "truncated-jpeg")
    path = fault.create(tmp_path)
    code, _, said = upscale(path, "-o", tmp_path / "out", "--allow-truncated")
    assert code == 0, said
    assert "truncated" in said


def test_max_pixels_is_obeyed(upscale: Run, tmp_path: Path) -> None:
    write_image(Picture(photo(20, 24)), tmp_path / "a.png")
    code, _, said = upscale(tmp_path / "a.png", "-o", tmp_path / "out", "--max-pixels", 100)
    assert code == 65
    assert "--max-pixels" in said or "max_pixels" in said


def test_noise_is_upscaled_with_a_warning(run: Run, tmp_path: Path) -> None:
    asset_path("pan/x4/official")
    write_image(Picture(noise(24, 24)), tmp_path / "noise.png")
    line = ["upscale", "--weights", "official", "--backend", "torch", tmp_path / "noise.png", "-o"]
    code, _, said = run(*line, tmp_path / "guarded.png")
    assert code == 0
    assert "warning: the network is unstable on 1 of 1 tiles" in said
    code, _, said = run(*line, tmp_path / "unguarded.png", "--no-guard")
    assert code == 0
    assert "unstable" not in said


def full_disk_command(weights: str, *arguments: object) -> list[str]:
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "from lowvis_pan.cli import main; main()\n"
    )
    line = ["upscale", "--weights", weights, "--backend", "torch", *map(str, arguments)]
    return [sys.executable, "-c", limited, *line]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are those of POSIX")
def test_a_full_disk_leaves_nothing_half_written(weights: str, tmp_path: Path) -> None:
    write_image(Picture(noise(40, 40)), tmp_path / "a.png")
    ran = subprocess.run(
        full_disk_command(weights, tmp_path / "a.png", "-o", tmp_path / "out" / "big.png"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 73, ran.stderr
    check_one_line(ran.stderr)
    assert files_below(tmp_path / "out") == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_whole_files_only(
    weights: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    for index in range(40):
        write_image(Picture(photo(96, 96, seed=index)), tmp_path / "in" / f"{index:02}.png")
    line = ["upscale", "--weights", weights, "--backend", "torch", tmp_path / "in"]
    line += ["-o", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from lowvis_pan.cli import main; main()", *map(str, line)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "interrupted" in said
    assert "Traceback" not in said
    written = files_below(tmp_path / "out")
    assert 0 < len(written) < 40
    for name in written:
        assert read_image(tmp_path / "out" / name).width == 384


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--scale", "5"], 2, "2, 3 and 4"),
        (["--tile", "3"], 2, "--tile"),
        (["--tile", "-3"], 2, "--tile"),
        (["--backend", "tensorflow"], 2, "tensorflow"),
        (["--precision", "fp8"], 2, "fp8"),
        (["--precision", "fp16", "--device", "cpu"], 69, "fp16"),
        (["--device", "cuda:9"], 69, "cuda:9"),
        (["--weights", "missing.pth"], 66, "missing.pth"),
    ],
)
def test_bad_options_are_one_clear_line(
    upscale: Run, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    ended, shown, said = upscale(tmp_path / "a.png", "-o", tmp_path / "out", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert not (tmp_path / "out").exists()


def bad_weights(kind: str, path: Path, weights: str) -> None:
    state_dict, _ = load_weights_file(weights)
    data = Path(weights).read_bytes()
    if kind == "web page":
        path.write_text("<html>404</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "program code":
        path.write_bytes(pickle.dumps(print))
    elif kind == "NaN":
        state_dict["conv_last.bias"][0] = float("nan")
        torch.save(state_dict, path)
    elif kind == "missing":
        del state_dict["trunk_conv.bias"]
        torch.save(state_dict, path)
    elif kind == "PAN":
        torch.save({"layer.weight": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    "kind", ["web page", "empty", "truncated", "program code", "NaN", "missing", "PAN"]
)
def test_bad_weights_are_one_clear_line(run: Run, weights: str, tmp_path: Path, kind: str) -> None:
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    bad_weights(kind, tmp_path / "bad.pth", weights)
    code, _, said = run(
        "upscale", tmp_path / "a.png", "-o", tmp_path / "out", "--weights", tmp_path / "bad.pth"
    )
    assert code == 66, said
    check_one_line(said)
    assert "bad.pth" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("scale", "asked"), [(2, 3), (3, 2), (2, 4), (4, 2)])
def test_weights_of_another_scale_are_named(
    run: Run, tmp_path: Path, scale: int, asked: int
) -> None:
    path = asset_path(f"pan/x{scale}/official")
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    line = ["upscale", tmp_path / "a.png", "-o", tmp_path / "out", "--weights", path]
    code, _, said = run(*line, "--scale", asked)
    assert code == 66
    assert f"PAN x{scale}" in said
    check_one_line(said)


def test_official_weights_need_consent(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.delenv("LOWVIS_ACCEPT_LICENCES", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    code, _, said = run("weights", "fetch", "--scale", "4")
    assert code == 66
    assert "--accept-licence" in said
    code, _, said = run("weights", "fetch", "--scale", "4", "--accept-licence", "--offline")
    assert code == 66
    assert "network" in said


# --- the other commands ---------------------------------------------------------------------------


def test_evaluate_prints_one_json_object(run: Run, weights: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_image(Picture(photo(64, 72, seed=seed)), tmp_path / f"{seed}.png")
    line = ["evaluate", "--dataset", tmp_path, "--scale", "4", "--backend", "torch"]
    code, shown, said = run(*line, "--weights", weights, "--json")
    assert code == 0, said
    report = json.loads(shown)
    assert {"psnr", "ssim", "protocol", "per_image"} <= set(report)
    assert [each["image"] for each in report["per_image"]] == ["1", "2"]
    assert report["psnr"] == pytest.approx(np.mean([e["psnr"] for e in report["per_image"]]))
    assert report["protocol"]["border"] == 4
    code, shown, _ = run(*line, "--weights", "bicubic")
    assert code == 0
    assert "mean" in shown
    assert "Y of limited-range BT.601" in shown


def test_evaluate_official_on_set5_as_the_readme_says(run: Run) -> None:
    asset_path("pan/x4/official")
    line = ["evaluate", "--dataset", "set5", "--scale", "4", "--weights", "official", "--json"]
    code, shown, said = run(*line, "--backend", "torch")
    assert code == 0, said
    assert json.loads(shown)["psnr"] == pytest.approx(32.1311, abs=1e-3)


def test_own_weights_beat_bicubic_by_far(run: Run) -> None:
    asset_path("set5/HR/baby.png")
    code, shown, said = run("evaluate", "--dataset", "set5", "--json", "--backend", "torch")
    assert code == 0, said
    assert json.loads(shown)["psnr"] > 30.9


def test_evaluate_says_where_sets_come_from(run: Run) -> None:
    code, _, said = run("evaluate", "--dataset", "urban100")
    assert code == 65
    assert "--data-dir" in said
    check_one_line(said)


@pytest.mark.parametrize("export_format", ["torchscript", "safetensors"])
def test_export_writes_and_says_how_close(
    run: Run, weights: str, tmp_path: Path, export_format: str
) -> None:
    line = ["export", "--format", export_format, "-o", tmp_path, "--weights", weights, "--json"]
    code, shown, said = run(*line)
    assert code == 0, said
    report = json.loads(shown)
    assert Path(report["output"]).is_file()
    assert report["max_difference"] < 1e-4
    assert len(report["sizes"]) == 3
    assert run(*line)[0] == 73  # it exists
    assert run("export", "--format", "caffe", "-o", tmp_path, "--weights", weights)[0] == 2


@pytest.mark.parametrize("name", ["new/", "new/deeper/"])
def test_export_into_a_folder_that_is_to_be_made(
    run: Run, weights: str, tmp_path: Path, name: str
) -> None:
    line = ["export", "--format", "safetensors", "-o", f"{tmp_path}/{name}", "--weights", weights]
    code, _, said = run(*line)
    assert code == 0, said
    assert (tmp_path / name / "pan_x4.safetensors").is_file()


@pytest.mark.parametrize("command", [["reproduce"], ["evaluate", "--dataset", "b100"]])
def test_a_mistyped_data_folder_is_refused_before_any_work(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    code, shown, said = run(*command, "--data-dir", tmp_path / "mistyped")
    assert code == 2
    assert shown == ""
    assert "--data-dir" in said


def test_weights_convert_list_and_use(upscale: Run, run: Run, weights: str, tmp_path: Path) -> None:
    converted = tmp_path / "pan.pth"
    code, shown, said = run("weights", "convert", weights, "-o", converted)
    assert code == 0, said
    assert "PAN x4" in shown
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "1.png")[0] == 0
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "2.png", "--weights", converted)[0] == 0
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    code, shown, _ = run("weights", "list", "--json")
    assert code == 0
    official = [row for row in json.loads(shown)["weights"] if row["weights"] == "official"]
    assert [row["scale"] for row in official] == [2, 3, 4]


def test_train_without_its_extra_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    monkeypatch.delitem(sys.modules, "lowvis_pan.train", raising=False)
    code, _, said = run("train", "photos=nowhere")
    assert code == 69
    assert "lowvis-pan[train]" in said
    check_one_line(said)


def test_train_takes_hydra_settings(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lowvis-pan"])  # Hydra reads it, and it is set by train
    code, shown, _ = run("train", "--help")
    assert code == 0
    assert "learning_rate" in shown
    code, _, said = run("train", "photos=nowhere")
    assert code == 65, said
    assert "nowhere" in said
    check_one_line(said)


def test_reproduce_measures_the_rows_asked_for(run: Run) -> None:
    code, shown, said = run("reproduce", "--only", "x4/parameters")
    assert code == 0, said
    assert "x4/parameters" in shown
    assert "✓" in shown


def test_the_command_is_installed() -> None:
    command = shutil.which("lowvis-pan", path=str(Path(sys.executable).parent))
    assert command is not None
    ran = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("lowvis-pan ")
