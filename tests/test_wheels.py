"""Each wheel works alone: with its declared dependencies, without extras, without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing.pictures import photo
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
WORDS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheels")]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = os.environ.get("UV") or shutil.which("uv")
    command = [uv] if uv else [sys.executable, "-m", "uv"]
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [*command, "build", "--all-packages", "--wheel", "--quiet", "--out-dir", str(folder)],
        cwd=ROOT,
        check=True,
    )
    return folder


def required(name: str, found: dict[str, Distribution]) -> None:
    """Collect what a distribution declares, and what that declares, without extras of its own."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        wanted = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if wanted not in found and not wanted.startswith("lowvis-"):
            found[wanted] = distribution(wanted)
            required(wanted, found)


@pytest.fixture(scope="session")
def clean(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make an environment with one package's wheel and links to its declared dependencies only."""

    @cache
    def make(word: str) -> Path:
        environment = tmp_path_factory.mktemp(f"clean-{word}")
        _fill(environment, word, wheels)
        return environment

    return make


def _fill(environment: Path, word: str, wheels: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = next(environment.glob("lib/python*/site-packages"))
    names = ["lowvis-shared"] if word == "shared" else ["lowvis-shared", f"lowvis-{word}"]
    found: dict[str, Distribution] = {}
    for name in names:
        required(name, found)
        (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    for dependency in found.values():
        for file in dependency.files or []:
            top = file.parts[0]
            source = Path(str(dependency.locate_file(top)))
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(source)


def run(
    environment: Path,
    code: str,
    *arguments: str,
    cwd: Path | None = None,
    flags: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LOWVIS_", "PYTHON"))
    }
    # No proxy answers at this address: whatever tried to reach a network would fail.
    variables |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    variables |= {"LOWVIS_HOME": str(environment / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [environment / "bin" / "python", *flags, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=variables,
        timeout=300,
        check=False,
    )


def command(word: str) -> str:
    return f"from lowvis_{word}.cli import main; main()"


@pytest.mark.parametrize("word", ["shared", *WORDS])
def test_every_module_of_the_wheel_imports_without_extras(
    clean: Callable[[str], Path], word: str
) -> None:
    environment = clean(word)
    module = f"lowvis_{word}"
    extras = {
        "hydra",
        "omegaconf",
        "lightning_fabric",
        "wandb",
        "openvino",
        "onnx",
        "onnxruntime",
        "sklearn",
        "spandrel",
        "av",
    }
    code = f"""
import importlib, importlib.util, pkgutil, {module}
present = [name for name in {sorted(extras)} if importlib.util.find_spec(name)]
assert not present, present
for found in pkgutil.walk_packages({module}.__path__, "{module}."):
    if found.name in ("lowvis_{word}.train", "lowvis_{word}.spandrel_bridge"): continue
    if found.name.endswith("__main__"): continue
    importlib.import_module(found.name)
print("imported from", {module}.__file__)
"""
    result = run(environment, code)
    assert result.returncode == 0, result.stderr
    assert str(environment) in result.stdout


def test_wheel_holds_what_it_must(wheels: Path) -> None:
    for wheel in wheels.glob("*.whl"):
        names = zipfile.ZipFile(wheel).namelist()
        assert any(name.endswith("/py.typed") for name in names), wheel
        assert any(re.search(r"licenses?/LICENSE$", name) for name in names), wheel
        assert wheel.stat().st_size < 8 * 2**20, wheel


def test_pan_upscales_offline_from_its_wheel(clean: Callable[[str], Path], tmp_path: Path) -> None:
    environment = clean("pan")
    write_image(Picture(photo(24, 32)), tmp_path / "photo.png")
    for scale in (2, 3, 4):
        out = f"x{scale}"
        arguments = ["upscale", "photo.png", "-o", out, "--scale", str(scale), "--compare"]
        # Nothing may hang on assertions, and nothing may warn.
        flags = ("-O", "-W", "error")
        result = run(environment, command("pan"), *arguments, cwd=tmp_path, flags=flags)
        assert result.returncode == 0, result.stderr
        assert {path.name for path in (tmp_path / out).iterdir()} == {
            "photo.png",
            "photo_compare.png",
        }


def test_aim2020_ranks_and_upscales_offline_from_its_wheel(
    clean: Callable[[str], Path], tmp_path: Path
) -> None:
    environment = clean("aim2020")
    write_image(Picture(photo(24, 32)), tmp_path / "photo.png")
    flags = ("-O", "-W", "error")
    rank = ["rank", "--input", "24x24", "--repeats", "1", "--json", "--report", "ranking.html"]
    result = run(environment, command("aim2020"), *rank, cwd=tmp_path, flags=flags)
    assert result.returncode == 0, result.stderr
    entries = json.loads(result.stdout)["entries"]
    names = {entry["name"] for entry in entries}
    assert {"msrresnet-x4", "rfdn-x4", "folded-x4"} <= names
    assert not any(name.startswith("pan") for name in names)  # that package is not there
    assert all(entry["run_time"] > 0 and entry["flops"] > 0 for entry in entries)
    assert (tmp_path / "ranking.html").stat().st_size > 1000
    upscale = ["upscale", "photo.png", "-o", "large.png"]
    result = run(environment, command("aim2020"), *upscale, cwd=tmp_path, flags=flags)
    assert result.returncode == 0, result.stderr
    assert read_image(tmp_path / "large.png").pixels.shape == (96, 128, 3)


def test_csrnet_retouches_and_writes_a_lut_offline_from_its_wheel(
    clean: Callable[[str], Path], tmp_path: Path
) -> None:
    environment = clean("csrnet")
    write_image(Picture(photo(24, 32)), tmp_path / "photo.png")
    flags = ("-O", "-W", "error")
    for arguments in (
        ["retouch", "photo.png", "-o", "retouched", "--compare"],
        ["retouch", "photo.png", "-o", "crisp.png", "--network", "csrnet-l"],
        ["lut", "photo.png", "-o", "look.cube"],
        ["apply", "look.cube", "photo.png", "-o", "applied.png"],
    ):
        result = run(environment, command("csrnet"), *arguments, cwd=tmp_path, flags=flags)
        assert result.returncode == 0, result.stderr
    retouched = read_image(tmp_path / "retouched" / "photo.png").pixels
    assert abs(read_image(tmp_path / "applied.png").pixels - retouched.astype(int)).max() <= 1


def test_srga_scores_a_network_of_the_user_offline_from_its_wheel(
    clean: Callable[[str], Path], tmp_path: Path
) -> None:
    environment = clean("srga")
    (tmp_path / "network.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(\n"
        "        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),\n"
        "        nn.Conv2d(8, 48, 3, padding=1), nn.PixelShuffle(4),\n"
        "    )\n"
    )
    shape = ("--patches", "16", "--size", "32", "--degradations", "blur2,blur4,noise10")
    arguments = ["score", "network.py:make", *shape, "--bootstrap", "4", "--report", "report.html"]
    flags = ("-O", "-W", "error")
    result = run(environment, command("srga"), *arguments, cwd=tmp_path, flags=flags)
    assert result.returncode == 0, result.stderr
    assert "| blur2 |" in result.stdout
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    write_image(Picture(photo(64, 64)), tmp_path / "photo.png")
    arguments = ["pies", "--images", "photo.png", "-o", "sets", "--patches", "4", "--size", "32"]
    result = run(environment, command("srga"), *arguments, cwd=tmp_path, flags=flags)
    assert result.returncode == 0, result.stderr
    assert read_image(tmp_path / "sets" / "blur2" / "0001.png").pixels.shape == (8, 8, 3)


def test_classsr_upscales_offline_from_its_wheel(
    clean: Callable[[str], Path], tmp_path: Path
) -> None:
    environment = clean("classsr")
    write_image(Picture(photo(70, 90)), tmp_path / "photo.png")
    flags = ("-O", "-W", "error")
    for network in ("fsrcnn", "carn", "srresnet"):
        files = ["upscale", "photo.png", "-o", f"{network}.png", "--map", f"{network}-map.png"]
        arguments = [*files, "--network", network, "--path", "routed"]
        result = run(environment, command("classsr"), *arguments, cwd=tmp_path, flags=flags)
        assert result.returncode == 0, result.stderr
        assert read_image(tmp_path / f"{network}.png").pixels.shape == (280, 360, 3)
        assert read_image(tmp_path / f"{network}-map.png").pixels.shape == (70, 90, 3)


def test_missing_extra_is_named(clean: Callable[[str], Path], tmp_path: Path) -> None:
    environment = clean("pan")
    write_image(Picture(photo(24, 32)), tmp_path / "photo.png")
    trained = run(clean("aim2020"), command("aim2020"), "train", "photos=.", cwd=tmp_path)
    assert trained.returncode == 69
    assert "pip install 'lowvis-aim2020[train]'" in trained.stderr
    trained = run(clean("classsr"), command("classsr"), "train", "photos=.", cwd=tmp_path)
    assert trained.returncode == 69
    assert "pip install 'lowvis-classsr[train]'" in trained.stderr
    np.save(tmp_path / "features.npy", np.eye(4, dtype=np.float32))
    compare = ["compare", "features.npy", "features.npy", "--dimensions", "2", "--official"]
    compared = run(clean("srga"), command("srga"), *compare, cwd=tmp_path)
    assert compared.returncode == 69, compared.stderr
    assert "pip install 'lowvis-srga[official]'" in compared.stderr
    (tmp_path / "clip.mp4").write_bytes(b"not looked at")
    for arguments, extra in (
        (["train", "photos=."], "train"),
        (["retouch", "clip.mp4", "-o", "out.mp4"], "video"),
    ):
        result = run(clean("csrnet"), command("csrnet"), *arguments, cwd=tmp_path)
        assert result.returncode == 69, (arguments, result.stderr)
        assert f"pip install 'lowvis-csrnet[{extra}]'" in result.stderr
    for arguments, extra in [
        (["train", "photos=."], "train"),
        (["upscale", "photo.png", "-o", "out", "--backend", "openvino"], "openvino"),
        (["upscale", "photo.png", "-o", "out", "--backend", "onnx"], "onnx"),
        (["export", "--format", "onnx", "-o", "pan.onnx"], "onnx"),
    ]:
        result = run(environment, command("pan"), *arguments, cwd=tmp_path)
        assert result.returncode == 69, (arguments, result.stderr)
        assert f"pip install 'lowvis-pan[{extra}]'" in result.stderr
        assert "Traceback" not in result.stderr
