"""Packages are found by their word, lazily, and a missing one is named."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from lowvis_shared import plugins
from lowvis_shared.errors import UsageError
from lowvis_shared.plugins import ModelEntry, PackageInfo, discover, load_package


def test_discovering_imports_no_package():
    code = (
        "import sys; from lowvis_shared.plugins import discover; found = discover();"
        "assert all(point.value == f'lowvis_{word}:PACKAGE' for word, point in found.items());"
        "assert not [name for name in sys.modules if name.startswith('lowvis_')"
        " and not name.startswith('lowvis_shared')];"
        "assert 'torch' not in sys.modules; print(*found)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == sorted(discover())


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it():
    with pytest.raises(UsageError, match="lowvis-absent is not installed") as caught:
        load_package("absent")
    assert caught.value.hint == "pip install lowvis-absent"


def test_an_entry_point_that_names_something_else_is_refused(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("odd", "lowvis_shared.plugins:GROUP", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    with pytest.raises(UsageError, match="names no PackageInfo of odd"):
        load_package("odd")


def test_an_unknown_model_is_answered_with_the_names_that_exist():
    entry = ModelEntry("toy-x2", 2, lambda: None, lambda name: None, 3, "local", "none", ())
    package = PackageInfo("toy", "Toy", "Nobody", "", "play", (entry,), Path("paper.toml"))
    assert package.model("toy-x2") is entry
    with pytest.raises(UsageError, match="no model 'toy-x3'") as caught:
        package.model("toy-x3")
    assert caught.value.hint == "it has: toy-x2"
