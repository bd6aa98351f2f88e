"""The commands and programs in the READMEs work as they stand, in a folder of photographs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import av
import pytest
from lowvis_shared.images import Picture, write_image
from lowvis_shared.testing.pictures import photo

ROOT = Path(__file__).parents[1]
PACKAGES = [
    ROOT / "shared",
    *sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml")),
]

# What needs a network, a training set, or much time has tests of its own.
ELSEWHERE = re.compile(
    r"pip install|torchrun|srun|^lowvis-\w+ (train|reproduce)|--weights official|weights fetch"
    r"|^lowvis-aim2020 rank$"
)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image(Picture(photo(48, 64)), tmp_path / "photo.jpg")
    (tmp_path / "holiday").mkdir()
    for index in range(2):
        write_image(Picture(photo(48, 60, seed=index)), tmp_path / "holiday" / f"{index}.png")
    write_clip(tmp_path / "clip.mp4")
    return tmp_path


def write_clip(path: Path) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(photo(48, 64, seed=index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def blocks(folder: Path, language: str) -> list[str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_python_blocks_run(package: Path, folder: Path) -> None:
    programs = blocks(package, "python")
    assert programs
    for program in programs:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", PACKAGES[1:], ids=lambda path: path.name)
def test_commands_run(package: Path, folder: Path) -> None:
    lines = [line for block in blocks(package, "bash") for line in block.splitlines()]
    commands = [line for line in lines if not ELSEWHERE.search(line)]
    assert len(commands) >= 3
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"]}
    for command in commands:
        result = subprocess.run(
            shlex.split(command),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stderr}"


def test_two_commands_of_the_root_readme_are_targets() -> None:
    commands = [line for block in blocks(ROOT, "bash") for line in block.splitlines()]
    assert commands[:2] == ["make demo", "make test"]
    for command in commands:
        result = subprocess.run(
            ["env", *shlex.split(command), "--dry-run"],  # env takes settings before the command
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("shared/*.md"), *ROOT.glob("packages/*/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
