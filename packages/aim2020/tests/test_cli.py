"""The command ``lowvis-aim2020``: what it prints and writes, and how it ends."""

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_aim2020.cli import main
from lowvis_aim2020.model import NETWORKS
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing import asset_path, check_one_line, command_runner
from lowvis_shared.testing.faults import mixed_folder
from lowvis_shared.testing.pictures import photo

Run = Callable[..., tuple[int, str, str]]

OWN = """
import torch
from torch import nn

class Nearest(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 1, bias=False)
        self.shuffle = nn.PixelShuffle(4)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).repeat_interleave(16, dim=0)[:, :, None, None])

    def forward(self, image):
        return self.shuffle(self.conv(image))

class Wide(Nearest):
    def __init__(self):
        super().__init__()
        self.more = nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return super().forward(image + 0 * self.more(image))

class FullRange(Nearest):
    def forward(self, image):
        return super().forward((image - 128) * 0.9) + 128

class NotANumber(Nearest):
    def forward(self, image):
        return super().forward(image) * float("nan")

class EvenOnly(Nearest):
    def forward(self, image):
        if image.shape[2] % 2 or image.shape[3] % 2:
            raise ValueError("sizes have to be even")
        return super().forward(image)
"""

QUICK = ("--input", "16x16", "--repeats", "1", "--device", "cpu")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``lowvis-aim2020`` in this process, where ``net.py`` lies: exit code, output, errors."""
    (tmp_path / "net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return command_runner(main, capsys)


@pytest.fixture
def rank(run: Run) -> Run:
    """Run ``rank`` beside a baseline of the user, on small pictures."""
    return lambda *arguments: run("rank", "--baseline", "net.py:Wide", *QUICK, *arguments)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for seed in (1, 2):
        write_image(Picture(photo(64, 72, seed=seed)), tmp_path / "set" / f"{seed}.png")
    return tmp_path / "set"


@pytest.fixture
def folded(tmp_path: Path) -> str:
    """Name our entry with a file of random weights."""
    path = tmp_path / "folded.safetensors"
    save_weights_file(path, NETWORKS["folded-x4"].build().state_dict(), {})
    return f"folded-x4@{path}"


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


# --- rank -----------------------------------------------------------------------------------------


def test_rank_prints_a_table_of_all_networks(rank: Run) -> None:
    code, shown, said = rank("net.py:Nearest")
    assert (code, said) == (0, ""), said
    lines = shown.splitlines()
    assert lines[0].startswith("| network | run time, ms | spread, ms | parameters, M |")
    assert sum(line.startswith("| net.py:") for line in lines) == 2
    assert "16x16" in shown
    assert "gain over net.py:Wide" in shown


def test_rank_prints_one_json_object(rank: Run, pictures: Path) -> None:
    code, shown, said = rank("net.py:Nearest", "--dataset", pictures, "--sort", "psnr", "--json")
    assert (code, said) == (0, ""), said
    report = json.loads(shown)
    assert (report["baseline"], report["sort"]) == ("net.py:Wide", "psnr")
    assert report["dataset"] == str(pictures)
    assert report["required_psnr"] == pytest.approx(report["entries"][0]["psnr"])
    assert {each["name"] for each in report["entries"]} == {"net.py:Nearest", "net.py:Wide"}
    assert all(each["meets"] and each["psnr"] > 15 for each in report["entries"])


def test_rank_needs_no_weights_where_there_is_no_test_set(
    rank: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    code, shown, said = rank("folded-x4", "carn-m-x4", "--offline", "--json")
    assert code == 0, said
    assert {each["weights"] for each in json.loads(shown)["entries"]} == {""}


def test_rank_beside_the_challenges_own_baseline_and_psnr(run: Run, pictures: Path) -> None:
    line = ["rank", "net.py:Nearest", *QUICK, "--dataset", pictures, "--psnr", "90"]
    code, shown, said = run(*line)
    assert code == 0, said
    assert "| MSRResNet (baseline) |" in shown
    assert "below the PSNR" in shown
    assert "The PSNR to keep is 90.00 dB." in shown


def test_reports_of_every_kind_hold_all_networks(rank: Run, tmp_path: Path) -> None:
    paths = [tmp_path / "new" / f"ranking.{kind}" for kind in ("html", "csv", "json", "md")]
    options = [text for path in paths for text in ("--report", path)]
    code, _, said = rank("net.py:Nearest", *options)
    assert code == 0, said
    for path in paths:
        assert "net.py:Nearest" in path.read_text()
        assert "net.py:Wide" in path.read_text()
    assert paths[0].read_text().startswith("<!doctype html>")
    rows = read_csv(paths[1])
    report = json.loads(paths[2].read_text())
    assert [row["name"] for row in rows] == [each["name"] for each in report["entries"]]
    assert [float(row["run_time"]) for row in rows] == [
        each["run_time"] for each in report["entries"]
    ]


def test_a_report_is_replaced_only_when_asked(rank: Run, tmp_path: Path) -> None:
    target = tmp_path / "ranking.csv"
    target.write_text("mine")
    code, shown, said = rank("net.py:Nearest", "--report", target)
    assert (code, shown) == (73, "")
    check_one_line(said)
    assert target.read_text() == "mine"
    assert rank("net.py:Nearest", "--report", target, "--overwrite")[0] == 0
    assert "net.py:Nearest" in target.read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["net.py:Nearest", "--input", "16"], 2, "HEIGHTxWIDTH"),
        (["net.py:Nearest", "--input", "0x16"], 2, "0x16"),
        (["net.py:Nearest", "--input", "axb"], 2, "axb"),
        (["net.py:Nearest", "--sort", "beauty"], 2, "run_time"),
        (["net.py:Nearest", "--report", "ranking.pdf"], 2, ".html"),
        (["net.py:Nearest", "--white", "128"], 2, "255"),
        (["net.py:Nearest", "--device", "cuda:99"], 69, "cuda:99"),
        (["net.py:Nearest", "--baseline", "nothing"], 2, "nothing"),
        (["nothing-x4"], 2, "rfdn-x4"),
        (["net.py"], 2, "file.py:factory"),
        (["net.py:Nearest", "--dataset", "absent"], 65, "absent"),
        (["net.py:Nearest", "--dataset", "urban100"], 65, "--data-dir"),
    ],
)
def test_bad_options_of_rank_are_one_clear_line(
    rank: Run, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    before = sorted(tmp_path.iterdir())
    ended, shown, said = rank("--report", "good.csv", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", [[], ["--json"]])
def test_a_network_that_fails_is_named_and_the_others_are_in_the_table(
    rank: Run, tmp_path: Path, kind: Sequence[str]
) -> None:
    torch.save({"conv.bias": torch.zeros(48)}, tmp_path / "other.pth")
    models = ["net.py:NotANumber", "net.py:Nearest", "net.py:Nearest@other.pth", "absent.py:Net"]
    code, shown, said = rank(*models, "--report", "ranking.csv", *kind)
    assert code == 1
    check_one_line(said)
    assert "3 of 5 failed" in said
    assert "net.py:NotANumber: its output holds values that are not finite" in said
    assert "other.pth does not fit Nearest" in said
    assert "absent.py: no such file" in said
    assert all(name in shown for name in [*models, "net.py:Wide"])
    rows = {row["name"]: row for row in read_csv(tmp_path / "ranking.csv")}
    assert float(rows["net.py:Nearest"]["run_time"]) > 0
    assert rows["net.py:NotANumber"]["run_time"] == ""
    assert "not finite" in rows["net.py:NotANumber"]["problem"]


def test_rank_tells_what_is_wrong_with_a_network_of_0_to_255(rank: Run, pictures: Path) -> None:
    line = ["net.py:FullRange", "--dataset", pictures]
    _, shown, _ = rank(*line)
    assert "--white 255" in shown
    _, shown, _ = rank(*line, "--white", "255", "--json")
    psnr = {each["name"]: each["psnr"] for each in json.loads(shown)["entries"]}
    assert psnr["net.py:FullRange"] > 20


def test_rank_of_another_scale_says_so(run: Run, pictures: Path, tmp_path: Path) -> None:
    text = OWN.replace("PixelShuffle(4)", "PixelShuffle(2)").replace("48", "12").replace("16", "4")
    (tmp_path / "two.py").write_text(text)
    line = ["rank", "two.py:Nearest", "--baseline", "two.py:Wide", "--scale", "2", *QUICK]
    code, shown, said = run(*line, "--dataset", pictures)
    assert code == 0, said
    assert "x2" in shown
    assert "x4" not in shown


# --- validate -------------------------------------------------------------------------------------


def test_validate_ends_well_for_a_good_network(run: Run, pictures: Path) -> None:
    line = ["validate", "net.py:Nearest", "--dataset", pictures, "--device", "cpu"]
    code, shown, said = run(*line, "--psnr", "15")
    assert (code, said) == (0, ""), said
    assert "✗" not in shown
    assert shown.count("✓") == 7
    assert "? loads strictly" in shown
    code, shown, _ = run(*line, "--psnr", "15", "--json")
    report = json.loads(shown)
    assert (code, report["model"], report["valid"]) == (0, "net.py:Nearest", True)
    assert {check["verdict"] for check in report["checks"]} == {"yes", "unknown"}


@pytest.mark.parametrize(
    ("options", "question"),
    [
        (["net.py:EvenOnly"], "upscales 37x53"),
        (["net.py:Nearest@other.pth"], "loads strictly"),
        (["net.py:Nearest", "--dataset", "set", "--psnr", "90"], "keeps the baseline's PSNR"),
    ],
)
def test_validate_ends_with_1_and_the_question_that_was_failed(
    run: Run, pictures: Path, tmp_path: Path, options: Sequence[str], question: str
) -> None:
    torch.save({"conv.bias": torch.zeros(48)}, tmp_path / "other.pth")
    code, shown, said = run("validate", *options, "--device", "cpu")
    assert code == 1
    assert f"✗ {question}" in shown
    check_one_line(said)
    assert question in said
    code, shown, _ = run("validate", *options, "--device", "cpu", "--json")
    report = json.loads(shown)
    assert (code, report["valid"]) == (1, False)
    assert question in [each["name"] for each in report["checks"] if each["verdict"] == "no"]


def test_validate_takes_the_psnr_of_a_baseline_with_weights(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    torch.save({"conv.weight": torch.zeros(48, 3, 1, 1)}, tmp_path / "black.pth")
    line = ["validate", "net.py:Nearest@black.pth", "--dataset", pictures, "--device", "cpu"]
    assert run(*line)[0] == 0  # nothing is known to keep
    torch.save({"conv.weight": torch.ones(48, 3, 1, 1) / 3}, tmp_path / "gray.pth")
    code, _, said = run(*line, "--baseline", "net.py:Nearest@gray.pth")
    assert code == 1
    assert "keeps the baseline's PSNR" in said


def test_validate_refuses_what_is_not_there(run: Run) -> None:
    assert run("validate", "nothing-x4")[0] == 2
    code, _, said = run("validate", "net.py:Nearest", "--dataset", "absent")
    assert code == 65
    check_one_line(said)


# --- evaluate -------------------------------------------------------------------------------------


def test_evaluate_prints_both_protocols(run: Run, pictures: Path) -> None:
    line = ["evaluate", "net.py:Nearest", "--dataset", pictures, "--device", "cpu"]
    code, shown, said = run(*line)
    assert (code, said) == (0, ""), said
    assert [text.split()[0] for text in shown.splitlines()[1:4]] == ["1", "2", "mean"]
    assert "RGB: on RGB, border of 4 cropped, rounded to 8 bits" in shown
    assert "Y: on Y of limited-range BT.601" in shown
    code, shown, _ = run(*line, "--json")
    report = json.loads(shown)
    assert (code, report["scale"], report["model"]) == (0, 4, "net.py:Nearest")
    each = [image["rgb"]["psnr"] for image in report["per_image"]]
    assert report["rgb"]["psnr"] == pytest.approx(np.mean(each))
    assert report["y"]["protocol"]["color"] == "y-bt601"


def test_bicubic_is_better_than_repeating_pixels(run: Run, pictures: Path) -> None:
    line = ["--dataset", pictures, "--json", "--device", "cpu"]
    psnr = {
        model: json.loads(run("evaluate", model, *line)[1])["rgb"]["psnr"]
        for model in ("bicubic", "net.py:Nearest")
    }
    assert psnr["bicubic"] > psnr["net.py:Nearest"] + 0.5
    code, shown, _ = run("evaluate", "bicubic", "--dataset", pictures, "--scale", "2", "--json")
    assert (code, json.loads(shown)["scale"]) == (0, 2)


def test_evaluate_knows_the_scale_of_a_network_of_ours(run: Run, pictures: Path) -> None:
    path = asset_path("aim2020/carn-m/official")
    code, shown, said = run("evaluate", f"carn-m-x2@{path}", "--dataset", pictures, "--json")
    assert code == 0, said
    assert json.loads(shown)["scale"] == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["net.py:Nearest", "--dataset", "absent"], 65, "absent"),
        (["net.py:NotANumber", "--dataset", "set"], 65, "not finite"),
        (["nothing-x4", "--dataset", "set"], 2, "nothing-x4"),
        (["rfdn-x4@none.pth", "--dataset", "set"], 66, "none.pth"),
    ],
)
def test_bad_options_of_evaluate_are_one_clear_line(
    run: Run, pictures: Path, options: Sequence[str], code: int, message: str
) -> None:
    ended, shown, said = run("evaluate", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said


@pytest.mark.parametrize("command", ["evaluate", "upscale"])
@pytest.mark.parametrize("model", ["net.py:Neerest", "no_such_module:Net"])
def test_a_misspelt_network_of_the_user_is_no_defect_of_lowvis(
    run: Run, pictures: Path, command: str, model: str
) -> None:
    line = {
        "evaluate": ["evaluate", model, "--dataset", pictures],
        "upscale": ["upscale", pictures, "-o", "out", "--model", model],
    }[command]
    code, _, said = run(*line)
    assert code != 70
    assert "defect of lowvis" not in said


# --- upscale --------------------------------------------------------------------------------------


def test_upscale_keeps_sixteen_bits_and_alpha(run: Run, folded: str, tmp_path: Path) -> None:
    pixels = photo(10, 12).astype(np.uint16) * 257
    alpha = np.linspace(0, 65535, 120).reshape(10, 12).astype(np.uint16)
    write_image(Picture(pixels, alpha), tmp_path / "deep.png")
    code, shown, said = run("upscale", "deep.png", "-o", "big.png", "--model", folded)
    assert (code, shown) == (0, ""), said
    result = read_image(tmp_path / "big.png")
    assert result.bit_depth == 16
    assert result.pixels.shape == (40, 48, 3)
    assert result.alpha is not None


def test_upscale_does_the_good_pictures_of_a_folder(run: Run, tmp_path: Path) -> None:
    folder, good, bad = mixed_folder(tmp_path / "in")
    line = ["upscale", folder, "-o", "out", "--model", "net.py:Nearest", "--json"]
    code, shown, said = run(*line)
    assert code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in good
    )
    assert all(str(path) in said for path in bad)
    report = json.loads(shown)
    assert (report["done"], report["failed"]) == (len(good), len(bad))
    (done,) = (each for each in report["files"] if each["input"].endswith("first.png"))
    original = read_image(good[0])
    assert (done["width"], done["height"]) == (original.width * 4, original.height * 4)
    pixels = original.pixels.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(read_image(tmp_path / "out" / "first.png").pixels, pixels)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["a.png", "-o", "taken.png"], 73, "--overwrite"),
        (["absent.png", "-o", "out"], 65, "absent.png"),
        (["a.png", "-o", "out", "--model", "nothing-x4"], 2, "nothing-x4"),
        (["a.png", "-o", "out", "--model", "rfdn-x4@none.pth"], 66, "none.pth"),
        (["a.png", "-o", "out", "--model", "net.py:NotANumber"], 65, "not finite"),
        (["a.png", "-o", "out", "--device", "cuda:99"], 69, "cuda:99"),
        (["a.png", "-o", "out", "--max-pixels", "10"], 65, "--max-pixels"),
    ],
)
def test_bad_options_of_upscale_are_one_clear_line(
    run: Run, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    write_image(Picture(photo(8, 8)), tmp_path / "a.png")
    (tmp_path / "taken.png").write_text("mine")
    ended, shown, said = run("upscale", "--model", "net.py:Nearest", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert (tmp_path / "taken.png").read_text() == "mine"
    assert not (tmp_path / "out").exists()


# --- the other commands ---------------------------------------------------------------------------


def test_weights_are_listed_with_source_licence_and_checksum(run: Run) -> None:
    code, shown, said = run("weights", "list", "--json")
    assert code == 0, said
    rows = json.loads(shown)["weights"]
    assert {(row["model"], row["weights"]) for row in rows} == {
        (network.name, weights) for network in NETWORKS.values() for weights in network.weights
    }
    assert ("folded-x4", "own") in {(row["model"], row["weights"]) for row in rows}
    assert all(len(row["sha256"]) == 64 and row["licence"] and row["bytes"] for row in rows)
    code, shown, _ = run("weights", "list")
    assert code == 0
    assert all(row["source"] in shown for row in rows)


def test_official_weights_come_from_the_mirror_offline(run: Run) -> None:
    path = asset_path("aim2020/rfdn-x4/official")
    code, shown, said = run("weights", "fetch", "rfdn-x4", "--offline", "--json")
    assert code == 0, said
    assert json.loads(shown) == {"rfdn-x4": str(path)}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["rfdn-x4", "--offline"], 66, "network"),
        (["--offline"], 66, "network"),
        (["imdn-x4"], 66, "--accept-licence"),
        (["msrresnet-x4"], 66, "no official weights"),
        (["nothing-x4"], 2, "rfdn-x4"),
    ],
)
def test_weights_that_cannot_be_fetched_are_one_clear_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Sequence[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.delenv("LOWVIS_ACCEPT_LICENCES", raising=False)
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    ended, shown, said = run("weights", "fetch", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said


def test_train_without_its_extra_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    monkeypatch.delitem(sys.modules, "lowvis_aim2020.train", raising=False)
    code, _, said = run("train", "photos=nowhere")
    assert code == 69
    assert "lowvis-aim2020[train]" in said
    check_one_line(said)


def test_reproduce_measures_the_rows_asked_for(run: Run) -> None:
    code, shown, said = run("reproduce", "--only", "structure/rfdn-x4/parameters")
    assert code == 0, said
    assert "structure/rfdn-x4/parameters" in shown
    assert "✓" in shown


def test_the_command_is_installed() -> None:
    command = shutil.which("lowvis-aim2020", path=str(Path(sys.executable).parent))
    assert command is not None
    ran = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("lowvis-aim2020 ")
