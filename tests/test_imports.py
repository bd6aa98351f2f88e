"""Arrows run one way: packages use the shared core, never each other; inference stays light."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT / "shared" / "src" / "lowvis_shared"
PACKAGES = sorted((ROOT / "packages").glob("*/src/lowvis_*"))
TRAINING = {"hydra", "lightning", "lightning_fabric", "omegaconf", "wandb"}
OPTIONAL = TRAINING | {"av", "huggingface_hub", "onnx", "onnxruntime", "openvino", "spandrel"}


def imports(node: ast.AST, *, deferred: bool) -> Iterator[str]:
    """Modules that code imports; with `deferred` also those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            module = str(child.module)
            yield module
            yield from (f"{module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            if deferred:
                yield from imports(child, deferred=True)
        elif not _is_for_types_only(child):
            yield from imports(child, deferred=deferred)


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def read(file: Path, *, deferred: bool) -> set[str]:
    return set(imports(ast.parse(file.read_text(encoding="utf-8")), deferred=deferred))


def files_of(module: str, folder: Path) -> Iterator[Path]:
    """The files that importing a module of a package runs: its own and those above it."""
    path = folder
    yield path / "__init__.py"
    for part in module.split(".")[1:]:
        path /= part
        yield from (file for file in (path / "__init__.py", path.with_suffix(".py")))


def imported_with(file: Path, folder: Path) -> dict[str, Path]:
    """Every module that importing a file imports, followed within its package: name and place."""
    found: dict[str, Path] = {}
    seen: set[Path] = set()
    waiting = [file, folder / "__init__.py"]
    while waiting:
        here = waiting.pop()
        if here in seen or not here.is_file():
            continue
        seen.add(here)
        for module in read(here, deferred=False):
            found.setdefault(module, here)
            if module.split(".")[0] == folder.name:
                waiting += files_of(module, folder)
    return found


def test_the_shared_core_imports_no_package_and_no_training_library():
    for file in SHARED.rglob("*.py"):
        tops = {module.split(".")[0] for module in read(file, deferred=True)}
        strangers = {top for top in tops if top.startswith("lowvis_")} - {"lowvis_shared"}
        assert not strangers, f"{file}: {strangers}"
        assert not tops & TRAINING, f"{file}: {tops & TRAINING}"


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_imports_no_other_package(folder: Path):
    for file in [*folder.rglob("*.py"), *(folder.parents[1] / "tests").rglob("*.py")]:
        tops = {module.split(".")[0] for module in read(file, deferred=True)}
        others = {top for top in tops if top.startswith("lowvis_")} - {"lowvis_shared", folder.name}
        assert not others, f"{file}: {others}"


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_inference_imports_no_optional_library(folder: Path):
    for name in ("__init__.py", "cli.py", "predict.py", "evaluate.py", "reproduce.py"):
        for module, place in imported_with(folder / name, folder).items():
            assert module.split(".")[0] not in OPTIONAL, f"{name} imports {module} in {place}"


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_tools_for_tests_stay_in_tests(folder: Path):
    for file in folder.rglob("*.py"):
        wrong = [m for m in read(file, deferred=True) if m.startswith("lowvis_shared.testing")]
        assert not wrong, f"{file}: {wrong}"
