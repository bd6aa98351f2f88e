"""A scaffolded package is a package from its first minute: only its network is missing."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from lowvis_shared.checkpoint import CheckpointFolder
from lowvis_shared.images import Picture, write_image
from lowvis_shared.testing.pictures import photo

ROOT = Path(__file__).parents[1]
NEEDS_THE_NETWORK = {
    "test_network_runs_on_a_tiny_picture_of_odd_sides",
    "test_receptive_radius_is_true",
    "test_state_dict_round_trips",
    "test_tiles_equal_the_whole",
}


def scaffold(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, ROOT / "scripts" / "new_package.py", "toy", "--title", "A Toy Network",
            "--url", "https://example.org/toy", "--citation", "Nobody, ECCV 2020",
            "--root", root, *options,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def empty_checkout(root: Path) -> Path:
    """A copy of what scaffolding touches."""
    (root / "packages").mkdir(parents=True)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the scaffolded package ``toy``."""
    root = empty_checkout(tmp_path_factory.mktemp("training") / "checkout")
    made = scaffold(root)
    assert made.returncode == 0, made.stderr
    return root


@pytest.fixture(scope="module")
def checkout_without_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the scaffolded package ``toy``, whose paper trains nothing."""
    root = empty_checkout(tmp_path_factory.mktemp("no-training") / "checkout")
    made = scaffold(root, "--no-trains", "--verb", "rank")
    assert made.returncode == 0, made.stderr
    return root


def install(project: Path, site: Path) -> None:
    """What an installer records of a project: its name, version and entry points."""
    content = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    folder = site / f"{content['name'].replace('-', '_')}-{content['version']}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {content['name']}\nVersion: {content['version']}\n"
    )
    groups = {"console_scripts": content["scripts"], **content["entry-points"]}
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("name", ["checkout", "checkout_without_training"])
def test_only_what_needs_the_network_fails(name: str, request: pytest.FixtureRequest):
    root: Path = request.getfixturevalue(name)
    project, site = root / "packages" / "toy", root / "site"
    install(project, site)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "tests"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{project / 'src'}"},
    )
    ended = re.findall(r"^(PASSED|FAILED) \S+::(\w+)", ran.stdout, re.MULTILINE)
    failed = {test for outcome, test in ended if outcome == "FAILED"}
    assert failed == NEEDS_THE_NETWORK, ran.stdout + ran.stderr
    assert len(ended) - len(failed) >= 10, ran.stdout
    assert "the network of lowvis-toy is to be written in model.py" in ran.stdout


@pytest.mark.parametrize("name", ["checkout", "checkout_without_training"])
def test_the_scaffold_is_clean(name: str, request: pytest.FixtureRequest):
    root: Path = request.getfixturevalue(name)
    project = root / "packages" / "toy"
    ruff = Path(sys.executable).parent / "ruff"
    for check in (["check"], ["format", "--check"]):
        line = [ruff, *check, "--config", root / "pyproject.toml", "packages"]
        lint = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
        assert lint.returncode == 0, lint.stdout
    for path in project.rglob("*.*"):
        if path.is_file():
            assert not re.search(r"WORD|training>|\{(word|title|url)\}", path.read_text()), path
    trains = name == "checkout"
    assert (project / "src" / "lowvis_toy" / "train.py").exists() == trains
    assert ("hydra" in (project / "pyproject.toml").read_text()) == trains


def test_the_documented_command_runs_as_written(tmp_path: Path):
    page = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(r"^uv run (scripts/new_package\.py (?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert found
    script, *arguments = shlex.split(found[1].replace("\\\n", " ").replace("WORD", "toy"))
    root = empty_checkout(tmp_path / "checkout")
    made = subprocess.run(
        [sys.executable, ROOT / script, *arguments, "--root", root],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert (root / "packages" / "toy" / "README.md").is_file()


NETWORK = """
from torch import nn


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))


def load(weights: str) -> nn.Module:
    raise NotImplementedError
"""


def test_training_that_was_stopped_ends_where_it_would_have(tmp_path: Path):
    root = empty_checkout(tmp_path / "checkout")
    assert scaffold(root).returncode == 0
    project, site = root / "packages" / "toy", root / "site"
    install(project, site)
    (project / "src" / "lowvis_toy" / "model.py").write_text(NETWORK)
    for seed in (1, 2):
        write_image(Picture(photo(40, 48, seed=seed)), tmp_path / "photos" / f"{seed}.png")

    def train(output: str, *settings: str) -> subprocess.CompletedProcess[str]:
        line = ["photos=photos", f"output={output}", "crop=16", "batch=2", "device=cpu", *settings]
        return subprocess.run(
            [sys.executable, "-m", "lowvis_toy.train", *line],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{project / 'src'}"},
        )  # fmt: skip

    for output, *settings in (("whole", "steps=4"), ("parts", "steps=2"), ("parts", "steps=4")):
        trained = train(output, *settings)
        assert trained.returncode == 0, trained.stderr
    whole, parts = (
        CheckpointFolder(tmp_path / output / "checkpoints").latest()
        for output in ("whole", "parts")
    )
    assert whole
    assert parts
    assert whole[0] == parts[0] == 4
    for name, tensor in whole[1]["network"].items():
        assert torch.equal(tensor, parts[1]["network"][name]), name
    refused = train("whole", "stesp=8")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr
    assert train("whole", "steps=8", "seed=3").returncode == 2  # not the run that is there


def test_the_workspace_names_the_package_and_keeps_the_rest(checkout: Path):
    before = tomllib.loads((ROOT / "pyproject.toml").read_text())
    after = tomllib.loads((checkout / "pyproject.toml").read_text())
    assert after["tool"]["uv"]["sources"].pop("lowvis-toy") == {"workspace": True}
    assert after == before


def test_a_package_that_exists_is_left_alone(tmp_path: Path):
    root = empty_checkout(tmp_path / "checkout")
    (root / "packages" / "toy").mkdir()
    made = scaffold(root)
    assert made.returncode == 73
    assert "toy exists" in made.stderr
    assert not list((root / "packages" / "toy").iterdir())
