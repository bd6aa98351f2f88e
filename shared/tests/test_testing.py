"""The tools for tests: a missing file skips or fails with its reason; conformance finds faults."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from lowvis_shared import plugins
from lowvis_shared.plugins import ModelEntry, PackageInfo
from lowvis_shared.testing import PackageConformance, asset_path, conformance, mirror_path
from torch import Tensor, nn


def test_a_missing_asset_skips_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path))
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.delenv("LOWVIS_REQUIRE_ASSETS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="pan/x4/official is neither in"):
        asset_path("pan/x4/official")
    with pytest.raises(pytest.skip.Exception, match="LOWVIS_MIRROR is not set"):
        mirror_path("golden/pan")
    monkeypatch.setenv("LOWVIS_MIRROR", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="holds no golden/pan"):
        mirror_path("golden/pan")


def test_a_missing_asset_fails_where_assets_are_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path))
    monkeypatch.setenv("LOWVIS_MIRROR", str(tmp_path))
    monkeypatch.setenv("LOWVIS_REQUIRE_ASSETS", "1")
    with pytest.raises(pytest.fail.Exception, match="holds no golden/pan"):
        mirror_path("golden/pan")
    with pytest.raises(pytest.fail.Exception, match="pan/x4/official"):
        asset_path("pan/x4/official")


def test_a_folder_of_the_mirror_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "golden" / "pan").mkdir(parents=True)
    monkeypatch.setenv("LOWVIS_MIRROR", str(tmp_path))
    assert mirror_path("golden/pan") == tmp_path / "golden" / "pan"


class Blur(nn.Module):
    """Doubles the size with a true radius of 1; with `wide`, a dilation makes it 4."""

    def __init__(self, *, wide: bool = False, size_error: bool = False) -> None:
        super().__init__()
        dilation = 4 if wide else 1
        self.convolution = nn.Conv2d(3, 12, 3, padding=dilation, dilation=dilation)
        self.size_error = size_error

    def forward(self, image: Tensor) -> Tensor:
        output = nn.functional.pixel_shuffle(self.convolution(image), 2)
        return output[..., 1:] if self.size_error else output


def conformance_of(network: type[nn.Module] | object, monkeypatch: pytest.MonkeyPatch):
    """The conformance of a package whose one network declares a radius of 1."""
    entry = ModelEntry("toy-x2", 2, network, lambda name: None, 1, "local", "none", ())  # type: ignore[arg-type]
    package = PackageInfo("toy", "Toy", "Nobody", "", "play", (entry,), Path("paper.toml"))
    monkeypatch.setattr(conformance, "load_package", lambda word: package)

    class Toy(PackageConformance):
        word = "toy"

    return Toy()


def test_conformance_passes_a_true_network(monkeypatch: pytest.MonkeyPatch):
    tests = conformance_of(Blur, monkeypatch)
    tests.test_network_runs_on_a_tiny_picture_of_odd_sides("toy-x2")
    tests.test_state_dict_round_trips("toy-x2")
    tests.test_receptive_radius_is_true("toy-x2")
    tests.test_tiles_equal_the_whole("toy-x2")


def test_conformance_finds_a_radius_that_is_too_small(monkeypatch: pytest.MonkeyPatch):
    tests = conformance_of(lambda: Blur(wide=True), monkeypatch)
    with pytest.raises(AssertionError, match="radius 1 is too small: 4 pixels away matter"):
        tests.test_receptive_radius_is_true("toy-x2")
    with pytest.raises(AssertionError, match="not close"):
        tests.test_tiles_equal_the_whole("toy-x2")


def test_conformance_finds_a_wrong_size_and_values_that_are_not_finite(
    monkeypatch: pytest.MonkeyPatch,
):
    tests = conformance_of(lambda: Blur(size_error=True), monkeypatch)
    with pytest.raises(AssertionError):
        tests.test_network_runs_on_a_tiny_picture_of_odd_sides("toy-x2")

    def broken() -> nn.Module:
        network = Blur()
        nn.init.constant_(network.convolution.weight, torch.inf)
        return network

    tests = conformance_of(broken, monkeypatch)
    with pytest.raises(AssertionError):
        tests.test_network_runs_on_a_tiny_picture_of_odd_sides("toy-x2")


def test_conformance_finds_state_that_is_not_in_the_state_dict(monkeypatch: pytest.MonkeyPatch):
    class Forgetful(Blur):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.rand(()), persistent=False)

        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) + self.shift

    tests = conformance_of(Forgetful, monkeypatch)
    with pytest.raises(AssertionError):
        tests.test_state_dict_round_trips("toy-x2")


def without_networks(word: str) -> PackageInfo:
    return PackageInfo(word, "Toy", "Nobody", "", "play", (), Path("paper.toml"), trains=False)


def test_a_package_without_networks_needs_no_files_and_no_command_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    app = typer.Typer()
    for name in ("play", "reproduce"):
        app.command(name, help="Do it.")(lambda: None)
    toy = SimpleNamespace(app=app, __file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(conformance, "import_module", lambda name: toy)
    for name in ("__init__.py", "cli.py", "paper.toml", "py.typed", "reproduce.py"):
        (tmp_path / name).touch()
    tests = conformance_of(Blur, monkeypatch)
    with pytest.raises(AssertionError, match=r"model\.py"):
        tests.test_files_are_where_every_package_has_them()
    with pytest.raises(AssertionError, match="evaluate"):
        tests.test_every_command_has_help()
    monkeypatch.setattr(conformance, "load_package", without_networks)
    tests.test_files_are_where_every_package_has_them()
    tests.test_every_command_has_help()


def test_a_package_that_is_not_installed_fails_conformance(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])

    class Absent(PackageConformance):
        word = "absent"

    with pytest.raises(AssertionError):
        Absent().test_it_is_found_by_its_word()
