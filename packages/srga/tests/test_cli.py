"""The command ``lowvis-srga``: what it prints and writes, and how it ends."""

import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_shared.images import Picture, write_image
from lowvis_shared.testing import check_one_line, command_runner, files_below
from lowvis_shared.testing.pictures import noise, photo
from lowvis_srga.bank import FeatureBank
from lowvis_srga.cli import main
from lowvis_srga.comparison import srga
from lowvis_srga.official import official_srga
from lowvis_srga.pies import read_pies
from numpy.typing import NDArray

Run = Callable[..., tuple[int, str, str]]

OWN = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, features=6, scale=4):
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.tail = nn.Conv2d(features, 3 * scale * scale, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, image):
        return self.shuffle(self.tail(torch.relu(self.head(image))))

def Wide():
    return Small(12)

def Same():
    return Small(scale=1)

class Broken(Small):
    def forward(self, image):
        raise ValueError("sizes have to be odd")

class Gray(Small):
    def forward(self, image):
        return super().forward(0 * image)

class FullRange(Small):
    def forward(self, image):
        return 255 * super().forward(image / 255)

class Loud(Small):
    def forward(self, image):
        print("what a picture!")
        return super().forward(image)

class Diverging(Small):
    def forward(self, image):
        rough = (image[..., 1:] - image[..., :-1]).abs().mean(dim=(1, 2, 3))
        return torch.where(rough[:, None, None, None] > 0.21, 1e20, super().forward(image))
"""

SMALL = ("--patches", "20", "--size", "32")
QUICK = (*SMALL, "--degradations", "blur1,noise10", "--bootstrap", "4", "--device", "cpu")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``lowvis-srga`` in this process, where ``net.py`` lies: exit code, output, errors."""
    (tmp_path / "net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return command_runner(main, capsys)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of 12 cells of 32 pixels each."""
    for seed in (1, 2):
        write_image(Picture(photo(96, 128, seed=seed)), tmp_path / "photos" / f"{seed}.png")
    return tmp_path / "photos"


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def small() -> Any:
    """The network of ``net.py:Small``, with the weights that it has there."""
    names: dict[str, Any] = {}
    exec(OWN, names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return names["Small"]().eval()


def indices(shown: str) -> list[dict[str, float]]:
    """The values of each network of a JSON."""
    networks = json.loads(shown)["networks"]
    return [{each["name"]: each["srga"] for each in network["sets"]} for network in networks]


# --- score ----------------------------------------------------------------------------------------


def test_score_prints_a_table_with_a_column_for_each_network(run: Run) -> None:
    code, shown, said = run("score", "net.py:Small", "net.py:Wide", *QUICK)
    assert code == 0, said
    heading, _, *rows = shown.splitlines()
    assert set(heading.strip("| ").split(" | ")) == {"net.py:Small", "net.py:Wide"}
    cells = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ")[1:] for row in rows[:5]}
    assert list(cells) == ["layer", "PSNR, dB, clean", "mean SRGA", "blur1", "noise10"]
    for name in ("mean SRGA", "blur1", "noise10"):
        assert all(re.fullmatch(r"\d\.\d\d ± \d\.\d\d\*?", cell) for cell in cells[name])
    assert "20 patches of 32x32 pixels, 8x8 for the network" in shown
    assert "8 principal axes" in shown
    assert "layers of different size" in shown
    assert "20 patches, of which the paper has 800" in said


def test_score_prints_one_json_object_in_order_of_the_means(run: Run) -> None:
    code, shown, said = run("score", "net.py:Small", "net.py:Wide", *QUICK, "--json")
    assert code == 0, said
    told = json.loads(shown)
    assert (told["reference"], told["patches"], told["dimensions"]) == ("clean", 20, 8)
    assert told["mean_over"] == ["blur1", "noise10"]
    assert {each["name"] for each in told["networks"]} == {"net.py:Small", "net.py:Wide"}
    means = [each["mean"] for each in told["networks"]]
    assert means == sorted(means)
    for network, found in zip(told["networks"], indices(shown), strict=True):
        assert network["mean"] == pytest.approx(np.mean(list(found.values())))
        assert all(each["interval"][0] < each["srga"] for each in network["sets"])
    assert run("score", "net.py:Small", "net.py:Wide", *QUICK, "--json")[1] == shown


def test_score_measures_the_pictures_given(run: Run, pictures: Path) -> None:
    line = ["score", "net.py:Small", *QUICK, "--json"]
    code, shown, said = run(*line, "--images", pictures)
    assert code == 0, said
    assert json.loads(shown)["source"] == str(pictures)
    by_chance = run(*line)[1]
    assert "made by chance" in json.loads(by_chance)["source"]
    assert indices(by_chance) != indices(shown)
    again = run(*line, "--images", pictures / "1.png", "--images", pictures / "2.png")[1]
    assert indices(again) == indices(shown)
    assert indices(run(*line, "--images", pictures, "--seed", "1")[1]) != indices(shown)


def test_score_in_a_terminal_is_a_table_with_names_as_they_are(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net[bold].py").write_text(OWN)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    code, shown, said = run("score", "net[bold].py:Small", *QUICK)
    assert code == 0, said
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "┃ net[bold].py:Small ┃" in plain
    assert re.search(r"│ mean SRGA +│ \d\.\d\d ± \d\.\d\d", plain)
    assert "SRGA against 'clean'" in plain


def test_a_network_of_an_installed_package_is_known_by_name(run: Run) -> None:
    line = ["score", "pan-x4@own", "--patches", "8", "--size", "32", "--degradations", "blur2"]
    code, shown, said = run(*line, "--bootstrap", "0", "--device", "cpu", "--offline", "--json")
    assert code == 0, said
    (network,) = json.loads(shown)["networks"]
    assert (network["name"], network["layer"]) == ("pan-x4 @own", "input of conv_last")
    assert network["features"] == 24 * 32 * 32
    assert network["psnr"] > 15
    assert network["sets"][0]["srga"] > 1
    assert network["interval"] is None


def test_a_file_of_torchscript_is_scored_as_the_network_in_it(run: Run, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's advice to write no such files
        traced = torch.jit.trace(small(), torch.rand(2, 3, 8, 8))
        torch.jit.save(traced, tmp_path / "small.pt")
    code, shown, said = run("score", "small.pt", *QUICK, "--json")
    assert code == 0, said
    (network,) = json.loads(shown)["networks"]
    assert (network["name"], network["layer"]) == ("small.pt", "input of tail")
    (expected,) = indices(run("score", "net.py:Small", *QUICK, "--json")[1])
    assert indices(shown)[0] == pytest.approx(expected, abs=1e-3)


def test_an_onnx_file_is_scored_as_the_network_in_it(run: Run, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    graph = make.make_graph(
        [
            make.make_node("Conv", ["x", "head.weight", "head.bias"], ["a"], "head", pads=[1] * 4),
            make.make_node("Relu", ["a"], ["b"], "relu"),
            make.make_node("Conv", ["b", "tail.weight", "tail.bias"], ["c"], "tail", pads=[1] * 4),
            make.make_node("DepthToSpace", ["c"], ["y"], "shuffle", blocksize=4, mode="CRD"),
        ],
        "network",
        [make.make_tensor_value_info("x", number, ["n", 3, "h", "w"])],
        [make.make_tensor_value_info("y", number, ["n", 3, "H", "W"])],
        [
            onnx.numpy_helper.from_array(value.numpy(), name)
            for name, value in small().state_dict().items()
        ],
    )
    opset = make.make_opsetid("", 17)
    onnx.save(make.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "small.onnx")
    code, shown, said = run("score", "small.onnx", "net.py:Small", *QUICK, "--json")
    assert code == 0, said
    networks = {each["name"]: each for each in json.loads(shown)["networks"]}
    assert networks["small.onnx"]["layer"] == "input of tail"
    one, other = indices(shown)
    assert one == pytest.approx(other, abs=1e-3)


def test_the_layer_can_be_chosen(run: Run) -> None:
    layers: dict[str, Any] = {}
    for layer in ("head", "tail", "auto", "output"):
        code, shown, said = run("score", "net.py:Small", *QUICK, "--json", "--layer", layer)
        assert code == 0, said
        layers[layer] = json.loads(shown)["networks"][0]
    assert layers["head"]["layer"] == "input of head"
    assert layers["head"]["features"] == 3 * 8 * 8
    assert layers["output"]["layer"] == "output"
    assert layers["output"]["features"] == 3 * 32 * 32
    assert layers["tail"] == layers["auto"]


def test_networks_that_keep_the_size_are_scored_with_scale_1(run: Run) -> None:
    options = ["--patches", "20", "--size", "8", "--scale", "1", "--degradations", "noise10"]
    code, shown, said = run("score", "net.py:Same", *options, "--bootstrap", "0", "--json")
    assert code == 0, said
    told = json.loads(shown)
    assert (told["scale"], told["side"]) == (1, 8)
    assert told["networks"][0]["features"] == 6 * 8 * 8


def test_what_a_network_prints_is_no_part_of_the_result(run: Run) -> None:
    code, shown, said = run("score", "net.py:Loud", *QUICK, "--json")
    assert code == 0, said
    assert len(json.loads(shown)["networks"]) == 1
    assert "what a picture!" in said


def test_reports_of_every_kind_hold_all_networks(run: Run, tmp_path: Path) -> None:
    kinds = ("html", "csv", "json", "md", "svg")
    paths = [tmp_path / "new" / f"report.{kind}" for kind in kinds]
    options = [text for path in paths for text in ("--report", path)]
    line = ["score", "net.py:Small", "net.py:Wide", *SMALL, "--degradations", "blur1,blur2,noise10"]
    code, shown, said = run(*line, "--bootstrap", "4", "--json", *options)
    assert code == 0, said
    for path in paths:
        assert "net.py:Small" in path.read_text()
        assert "net.py:Wide" in path.read_text()
    assert paths[0].read_text().startswith("<!doctype html>")
    assert [(row["network"], row["set"]) for row in read_csv(paths[1])] == [
        (each["name"], name)
        for each in json.loads(shown)["networks"]
        for name in ("blur1", "blur2", "noise10")
    ]
    assert paths[2].read_text() == shown
    assert paths[3].read_text().startswith("|  | net.py:")
    assert paths[4].read_text().startswith("<svg ")
    assert len(list((tmp_path / "new").iterdir())) == len(paths)


def test_curves_of_nothing_do_not_lose_the_work(run: Run, tmp_path: Path) -> None:
    reports = ["--report", "first.svg", "--report", "second.csv"]
    code, shown, said = run("score", "net.py:Small", *QUICK, *reports)
    assert code == 0, said
    assert "mean SRGA" in shown
    assert "no degradation has several degrees" in (tmp_path / "first.svg").read_text()
    assert len(read_csv(tmp_path / "second.csv")) == 2


def test_a_name_may_be_written_in_another_way(run: Run) -> None:
    line = ["score", "net.py:Small", *SMALL, "--degradations", "blur1.0,noise10", "--json"]
    code, shown, said = run(*line, "--bootstrap", "0", "--reference", "blur1.00")
    assert code == 0, said
    assert json.loads(shown)["reference"] == "blur1"
    assert [list(each) for each in indices(shown)] == [["noise10"]]


def test_a_report_is_replaced_only_when_asked(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "report.csv"
    target.write_text("mine")
    line = ["score", "net.py:Small", *QUICK, "--report", target]
    code, shown, said = run(*line)
    assert (code, shown) == (73, "")
    check_one_line(said)
    assert target.read_text() == "mine"
    assert run(*line, "--overwrite")[0] == 0
    assert "net.py:Small" in target.read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["net.py:Small", "--report", "report.pdf"], 2, ".html, .csv"),
        (["net.py:Small", "--report", "good.csv"], 2, "two reports would be written to one file"),
        (["net.py:Small", "--report", "./good.csv"], 2, "two reports"),
        (["net.py:Small", "net.py:Small"], 2, "a network is named twice"),
        (["net.py:Small", "nothing-x4"], 2, "there is no network 'nothing-x4'"),
        (["net.py:Small", "gone.pt"], 65, "gone.pt: no such file"),
        (["net.py:Small", "--bootstrap", "1"], 2, "1 draws have no spread"),
        (["net.py:Small", "--dimensions", "21"], 65, "20 patches have no 21 principal axes"),
        (["net.py:Small", "--basis", "mine"], 2, "--basis 'mine' is neither"),
        (["net.py:Small", "--degradations", "sharpen3"], 2, "'sharpen3' is not the name"),
        (["net.py:Small", "--degradations", "clean"], 2, "no set to compare with 'clean'"),
        (["net.py:Small", "--degradations", "no/such.txt"], 65, "no/such.txt: no such file"),
        (["net.py:Small", "--reference", "real"], 2, "'real' is not the name"),
        (["net.py:Small", "--images", "absent"], 65, "absent: no such file"),
        (["net.py:Small", "--size", "30"], 2, "do not divide by a scale of 4"),
        (["net.py:Small", "--images", "photos", "--size", "96"], 65, "but 20 are wanted"),
    ],
)
def test_bad_options_of_score_are_one_clear_line_and_write_nothing(
    run: Run, pictures: Path, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    before = files_below(tmp_path)
    ended, shown, said = run("score", *QUICK, "--report", "good.csv", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("option", ["--seed", "--patches", "--size", "--scale", "--bootstrap"])
def test_numbers_below_zero_are_refused_as_options_are(run: Run, option: str) -> None:
    code, shown, said = run("score", "net.py:Small", option, "-1")
    assert (code, shown) == (2, ""), said
    assert option in said


@pytest.mark.parametrize("kind", [[], ["--json"]])
def test_networks_that_fail_are_named_and_the_good_one_is_shown(
    run: Run, tmp_path: Path, kind: Sequence[str]
) -> None:
    models = ["net.py:Broken", "net.py:Small", "net.py:Gray", "absent.py:Net"]
    torch.save({"head.bias": torch.zeros(6)}, tmp_path / "other.pth")
    models.append("net.py:Small@other.pth")
    code, shown, said = run("score", *models, *QUICK, "--report", "report.csv", *kind)
    assert code == 1
    check_one_line(said)
    assert "4 of 5 failed" in said
    assert "net.py:Broken: ValueError: sizes have to be odd" in said
    assert "net.py:Gray has the same features for all patches of clean" in said
    assert "absent.py: no such file" in said
    assert "other.pth does not fit Small" in said
    assert all(name in shown for name in models)
    rows = read_csv(tmp_path / "report.csv")
    assert [row["network"] for row in rows[:2]] == ["net.py:Small"] * 2
    assert all(float(row["srga"]) > 0 for row in rows[:2])
    assert {row["network"] for row in rows[2:]} == set(models) - {"net.py:Small"}
    assert all(row["problem"] and not row["srga"] for row in rows[2:])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["net.py:Small", "--layer", "tial"], 2, "net.py:Small has no layer 'tial'"),
        (["net.py:Small", "--layer", "tial"], 2, "layers are tail, head, auto, output"),
        (["net.py:Small", "--scale", "2"], 65, "net.py:Small upscales by 4"),
        (["net.py:Small", "--white", "128"], 2, "white is 1 or 255"),
        (["net.py:Small", "--device", "cuda:99"], 69, "cuda:99"),
        (["net.py:Broken"], 65, "net.py:Broken: ValueError: sizes have to be odd"),
        (["net.py:Gray"], 65, "net.py:Gray has the same features for all patches of clean"),
        (["net.py:FullRange"], 65, "--white 255"),
        (["pan-x4@own", "--scale", "2", "--offline"], 65, "pan-x4 @own upscales by 4"),
        (["pan-x4@gone.pth"], 66, "gone.pth"),
        (["gone.pt"], 65, "gone.pt: no such file"),
        (["gone.onnx"], 65, "gone.onnx: no such file"),
    ],
)
def test_the_only_network_that_fails_is_one_clear_line(
    run: Run, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    if "gone.onnx" in options:
        pytest.importorskip("onnxruntime")
    ended, shown, said = run("score", *QUICK, "--report", "report.csv", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert not (tmp_path / "report.csv").exists()


def test_a_set_on_which_a_network_diverges_is_told_and_can_be_kept(run: Run) -> None:
    line = ["score", "net.py:Diverging", *SMALL, "--degradations", "blur1,noise40"]
    code, shown, said = run(*line, "--bootstrap", "0")
    assert code == 0, said
    count = re.search(r"\| noise40 \| diverges on (\d+) \|", shown)
    assert count is not None
    assert f"noise40: net.py:Diverging diverges on {count[1]} of 20 patches of noise40" in shown
    assert "The mean is over blur1." in shown
    code, shown, said = run(*line, "--bootstrap", "4", "--drop-diverged", "--json")
    assert code == 0, said
    told = json.loads(shown)
    assert (told["drop_diverged"], told["mean_over"]) == (True, ["blur1", "noise40"])
    noisy = told["networks"][0]["sets"][1]
    assert noisy["srga"] > 0
    assert noisy["diverged"] == noisy["comparison"]["dropped"] == int(count[1])


def test_the_axes_of_the_reference_are_no_srga(run: Run) -> None:
    code, shown, said = run("score", "net.py:Small", *QUICK, "--basis", "reference")
    assert code == 0, said
    assert "| mean SRGA-shared |" in shown
    assert "| mean SRGA |" not in shown


# --- pies -----------------------------------------------------------------------------------------


def test_pies_writes_sets_that_score_reads(run: Run, pictures: Path, tmp_path: Path) -> None:
    line = ["pies", "-o", "new/sets", "--images", pictures, "--degradations", "clean,blur1,noise10"]
    code, shown, said = run(*line, *SMALL)
    assert (code, said) == (0, ""), said
    assert "3 sets of 20 patches: clean, blur1, noise10" in shown
    sets = read_pies(tmp_path / "new" / "sets")
    assert [(each.name, each.low.shape) for each in sets] == [
        (name, (20, 8, 8, 3)) for name in ("clean", "blur1", "noise10")
    ]
    (direct,) = indices(run("score", "net.py:Small", *QUICK, "--images", pictures, "--json")[1])
    options = ["--degradations", "new/sets", "--bootstrap", "0", "--json"]
    code, shown, said = run("score", "net.py:Small", *options)
    assert code == 0, said
    assert indices(shown) == [pytest.approx(direct)]
    assert json.loads(shown)["source"] == "new/sets"
    fewer = json.loads(run("score", "net.py:Small", *options, "--patches", "10")[1])
    assert fewer["patches"] == 10
    code, _, said = run("score", "net.py:Small", *options, "--patches", "21")
    assert code == 65
    assert "holds 20 patches, 21 are wanted" in said
    code, _, said = run("score", "net.py:Small", *options, "--size", "64")
    assert code == 2
    assert "holds patches already" in said


def test_pies_prints_one_json_object(run: Run, pictures: Path) -> None:
    line = ["pies", "-o", "sets", "--images", pictures, "--degradations", "clean,blur1", *SMALL]
    code, shown, said = run(*line, "--json")
    assert code == 0, said
    assert json.loads(shown) == {"output": "sets", "patches": 20, "sets": ["clean", "blur1"]}


def test_pies_takes_real_pictures_too(run: Run, pictures: Path, tmp_path: Path) -> None:
    for seed in range(6):
        write_image(Picture(noise(8, 8, seed=seed)), tmp_path / "phone" / f"{seed}.png")
    (tmp_path / "list.txt").write_text("clean\nscans = phone\n")
    line = ["pies", "-o", "sets", "--images", pictures, "--degradations", "list.txt"]
    code, shown, said = run(*line, "--patches", "5", "--size", "32", "--real", "phone=phone")
    assert code == 0, said
    assert "clean, scans, phone" in shown
    clean, scans, phone = read_pies(tmp_path / "sets")
    assert (scans.family, phone.family) == ("real", "real")
    assert phone.high is None
    assert clean.high is not None
    assert np.array_equal(phone.low, [noise(8, 8, seed=seed) for seed in range(5)])


def test_pies_replaces_only_its_own_and_when_asked(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    line = ["pies", "-o", "sets", "--images", pictures, "--degradations", "clean,blur1", *SMALL]
    assert run(*line)[0] == 0
    code, _, said = run(*line)
    assert code == 73
    check_one_line(said)
    assert run(*line, "--overwrite", "--seed", "1")[0] == 0
    assert json.loads((tmp_path / "sets" / "manifest.json").read_text())["seed"] == 1
    line[2] = "photos"
    code, _, said = run(*line, "--overwrite")
    assert code == 73
    check_one_line(said)
    assert files_below(pictures) == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "which pictures?"),
        (["--images", "photos", "--patches", "25"], 65, "give 24 patches of 32 x 32 pixels"),
        (["--images", "absent"], 65, "absent: no such file"),
        (["--images", "photos", "--degradations", "sharpen3"], 2, "sharpen3"),
        (["--images", "photos", "--real", "phone"], 2, "'phone' is no new NAME=FOLDER"),
        (["--images", "photos", "--real", "a=photos", "--real", "a=photos"], 2, "no new NAME"),
        (["--images", "photos", "--real", "a=absent"], 65, "absent"),
        (["--images", "photos", "--real", "clean=photos"], 2, "same name: clean"),
        (["--images", "photos", "--real", "../a=photos"], 2, "'../a' cannot be the name"),
    ],
)
def test_bad_options_of_pies_are_one_clear_line_and_write_nothing(
    run: Run, pictures: Path, tmp_path: Path, options: Sequence[str], code: int, message: str
) -> None:
    before = files_below(tmp_path)
    line = ["pies", "-o", "sets", *SMALL, "--degradations", "clean,blur1"]
    ended, shown, said = run(*line, *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said
    assert files_below(tmp_path) == before


# --- sensitivity ----------------------------------------------------------------------------------

VARIED = ["--patches", "10,20", "--dimensions", "4,8", "--sizes", "32,16"]


def test_sensitivity_prints_a_block_for_each_choice(run: Run) -> None:
    line = ["sensitivity", "net.py:Small", *VARIED, "--degradations", "blur1,noise10"]
    code, shown, said = run(*line)
    assert (code, said) == (0, ""), said
    heading, _, *rows = shown.splitlines()
    assert heading == "| changed | to | patches | axes | blur1 | noise10 |"
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [each[:2] for each in cells] == [
        ["patches", "10"],
        ["patches", "20 *"],
        ["axes", "4"],
        ["axes", "8 *"],
        ["layer", "input of tail *"],
        ["layer", "output"],
        ["size", "32x32 *"],
        ["size", "16x16"],
    ]
    assert len({tuple(each[2:]) for each in cells if each[1].endswith("*")}) == 1


def test_sensitivity_prints_one_json_object(run: Run) -> None:
    line = ["sensitivity", "net.py:Small", *VARIED, "--degradations", "blur1", "--layers", "output"]
    code, shown, said = run(*line, "--json")
    assert code == 0, said
    told = json.loads(shown)
    assert (told["model"], told["sets"]) == ("net.py:Small", ["blur1"])
    assert [each["choice"] for each in told["lines"]] == [
        *(["patches"] * 2),
        *(["axes"] * 2),
        "layer",
        *(["size"] * 2),
    ]


def test_sensitivity_takes_a_folder_of_sets(run: Run, pictures: Path) -> None:
    made = ["pies", "-o", "sets", "--images", pictures, "--degradations", "clean,blur1", *SMALL]
    assert run(*made)[0] == 0
    line = ["sensitivity", "net.py:Small", "--patches", "10,20", "--dimensions", "4,8", "--json"]
    code, shown, said = run(*line, "--degradations", "sets", "--layers", "auto")
    assert code == 0, said
    lines = json.loads(shown)["lines"]
    assert [each["value"] for each in lines if each["choice"] == "size"] == ["32x32"]
    code, _, said = run(*line, "--degradations", "sets", "--sizes", "32,64")
    assert code == 65
    check_one_line(said)


def test_sensitivity_shows_where_a_network_diverges(run: Run) -> None:
    line = ["sensitivity", "net.py:Diverging", "--degradations", "noise40", "--layers", "auto"]
    options = ["--patches", "20", "--dimensions", "8", "--sizes", "32"]
    code, shown, said = run(*line, *options)
    assert code == 0, said
    assert shown.count("| diverges |") == 4
    assert "diverges" not in run(*line, *options, "--drop-diverged")[1]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--patches", "20,10"], 2, "rise"),
        (["--patches", "many"], 2, "--patches 'many' are no numbers"),
        (["--patches", "0,20"], 2, "--patches '0,20' are no numbers"),
        (["--dimensions", "4,21"], 65, "20 patches have no 21 principal axes"),
        (["--dimensions", ","], 2, "--dimensions ',' are no numbers"),
        (["--layers", ","], 2, "at least one"),
        (["--layers", "auto,tial"], 2, "no layer 'tial'"),
        (["--sizes", "32,30"], 2, "do not divide"),
        (["--scale", "2"], 65, "upscales by 4"),
        (["--images", "absent"], 65, "absent"),
    ],
)
def test_bad_options_of_sensitivity_are_one_clear_line(
    run: Run, options: Sequence[str], code: int, message: str
) -> None:
    ended, shown, said = run("sensitivity", "net.py:Small", *VARIED, *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said


# --- compare --------------------------------------------------------------------------------------

Files = dict[str, NDArray[np.float32]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Feature files: two sets beside a reference, and some that do not go with it."""
    chance = np.random.default_rng(0)
    reference = chance.normal(size=(40, 2, 30)).astype(np.float32)
    found = {
        "clean": reference,
        "blur": 0.5 * reference,
        "noise": reference + chance.normal(size=reference.shape).astype(np.float32),
        "narrow": reference[:, :, :20].copy(),
        "few": reference[:20],
        "nan": reference.copy(),
        "gray": np.ones_like(reference),
    }
    found["nan"][3:5, 0, 0] = np.nan
    for name, features in found.items():
        np.save(tmp_path / f"{name}.npy", features)
    return found


def test_compare_prints_the_index_of_two_files(run: Run, files: Files) -> None:
    code, shown, said = run("compare", "clean.npy", "blur.npy")
    assert (code, said) == (0, ""), said
    expected = srga(files["clean"], files["blur"])
    assert shown.startswith(f"blur.npy: SRGA {expected.value:.4f} (KL ")
    assert "; 40 patches, 15 axes)" in shown


def test_compare_takes_several_files_rows_and_dimensions(run: Run, files: Files) -> None:
    line = ["compare", "clean.npy", "blur.npy", "noise.npy", "--rows", "30", "--dimensions", "7"]
    code, shown, said = run(*line, "--json")
    assert code == 0, said
    told = json.loads(shown)
    assert told["reference"] == "clean.npy"
    assert list(told["tests"]) == ["blur.npy", "noise.npy"]
    for name in ("blur", "noise"):
        expected = srga(files["clean"][:30], files[name][:30], dimensions=7)
        found = told["tests"][f"{name}.npy"]
        assert found["value"] == pytest.approx(expected.value, abs=1e-4)
        assert (found["patches"], found["dimensions"]) == (30, 7)
    shown = run(*line)[1]
    assert [text.split(":")[0] for text in shown.splitlines()[:2]] == ["blur.npy", "noise.npy"]


def test_compare_on_the_axes_of_the_reference(run: Run, files: Files) -> None:
    code, shown, said = run("compare", "clean.npy", "noise.npy", "--basis", "reference")
    assert code == 0, said
    base = FeatureBank.from_features(files["clean"])
    test = FeatureBank.from_features(files["noise"], reference=base)
    expected = srga(base, test, basis="reference")
    assert shown.startswith(f"noise.npy: SRGA-shared {expected.value:.4f} ")


def test_compare_as_the_authors_script_does(run: Run, files: Files) -> None:
    pytest.importorskip("sklearn")
    line = ["compare", "clean.npy", "noise.npy", "--official", "--dimensions", "10", "--json"]
    code, shown, said = run(*line)
    assert code == 0, said
    expected = official_srga(files["clean"], files["noise"], dimensions=10)
    assert json.loads(shown)["tests"]["noise.npy"]["value"] == pytest.approx(expected.value)


def test_compare_without_diverged_patches(run: Run, files: Files) -> None:
    code, shown, said = run("compare", "clean.npy", "nan.npy", "--drop-diverged")
    assert code == 0, said
    assert "; 38 patches, 14 axes)" in shown
    assert "without 2 patches on which the network diverges" in shown


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["nan.npy"], 65, "diverges on 2 of 40 patches of nan"),
        (["narrow.npy"], 65, "40 features of a patch, but 60 in the reference set"),
        (["few.npy"], 65, "40 patches in the reference set, but 20 in the other"),
        (["gray.npy"], 65, "the same features for all patches of gray"),
        (["absent.npy"], 65, "absent.npy"),
        (["net.py"], 65, "net.py: cannot be read as .npy"),
        (["blur.npy", "--dimensions", "41"], 65, "40 patches have no 41 principal axes"),
        (["blur.npy", "--rows", "41"], 65, "holds 40 patches, 41 are wanted"),
        (["blur.npy", "--basis", "ours"], 2, "--basis 'ours'"),
        (["blur.npy", "--official", "--basis", "reference"], 2, "--official knows neither"),
        (["blur.npy", "--official", "--drop-diverged"], 2, "--official knows neither"),
        (["nan.npy", "--official", "--dimensions", "9"], 65, "2 of 40 patches of the test set"),
        (["narrow.npy", "--official", "--dimensions", "9"], 65, "differ in width: 60 and 40"),
        (["blur.npy", "--official"], 65, "have no 300 principal axes"),
    ],
)
def test_bad_options_of_compare_are_one_clear_line(
    run: Run, files: Files, options: Sequence[str], code: int, message: str
) -> None:
    if "--official" in options and code == 65:
        pytest.importorskip("sklearn")
    ended, shown, said = run("compare", "clean.npy", *options)
    assert (ended, shown) == (code, ""), said
    check_one_line(said)
    assert message in said


# --- reproduce ------------------------------------------------------------------------------------


def test_reproduce_measures_the_rows_asked_for(run: Run) -> None:
    code, shown, said = run("reproduce", "--only", "fig3/srresnet-clean/*/srga", "--offline")
    assert code == 0, said
    assert shown.count("| ✓ |") == 2


def test_sensitivity_without_diverged_patches_shows_where_none_are_left(run: Run) -> None:
    Path("net.py").write_text(OWN.replace("0.21", "0.17"))  # all of noise40, none of blur4
    line = ["sensitivity", "net.py:Diverging", "--degradations", "noise40,blur4"]
    options = ["--layers", "auto", "--patches", "20", "--dimensions", "8", "--sizes", "32"]
    code, shown, said = run(*line, *options, "--drop-diverged")
    assert code == 0, said
    assert "diverges" in shown


def test_names_are_whole_in_a_narrow_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    models = ["net.py:Small", "net.py:Wide", "net.py:Loud", "pan-x4@own"]
    assert "…" not in run("score", *models, *QUICK)[1]


def test_patches_too_small_for_a_figure_of_quality_have_an_index(run: Run) -> None:
    options = ["--patches", "20", "--size", "8", "--degradations", "blur2", "--bootstrap", "0"]
    code, _, said = run("score", "net.py:Small", *options)
    assert code == 0, said
