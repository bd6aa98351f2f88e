"""For tests of lowvis packages: conformance, published files, small pictures and bad files.

pytest is imported only where a test calls for it, so `pictures` works without it.
"""

# ruff: noqa: S101 - these serve tests

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lowvis_shared.assets import (
    assets_available,
    fetch,
    find_asset,
    mirror_folder,
    require_assets,
)
from lowvis_shared.testing.conformance import PackageConformance

if TYPE_CHECKING:
    import pytest

__all__ = [
    "PackageConformance",
    "asset_path",
    "check_one_line",
    "command_runner",
    "files_below",
    "heed_interrupts",
    "mirror_path",
]


def asset_path(name: str) -> Path:
    """The published file of that name, verified; never fetched from the network.

    Where it is not on this machine the test is skipped with the reason, or fails when
    ``LOWVIS_REQUIRE_ASSETS=1``.
    """
    if not assets_available([name]):
        _unavailable(f"{name} is neither in $LOWVIS_MIRROR nor in the cache")
    return fetch(find_asset(name), offline=True)


def mirror_path(relative: str) -> Path:
    """A file or folder of the mirror, such as ``"golden/pan"``; skips or fails as `asset_path`."""
    folder = mirror_folder()
    if folder is None:
        _unavailable(f"$LOWVIS_MIRROR is not set: no {relative}")
    if not (folder / relative).exists():
        _unavailable(f"{folder} holds no {relative}")
    return folder / relative


def command_runner(
    main: Callable[[Sequence[str]], NoReturn], capsys: "pytest.CaptureFixture[str]"
) -> Callable[..., tuple[int, str, str]]:
    """Something to call with the arguments of a package's command, which then runs in this process.

    It returns the exit code, standard output and standard error.
    """

    def run(*arguments: object) -> tuple[int, str, str]:
        import pytest

        with pytest.raises(SystemExit) as ending:
            main([str(argument) for argument in arguments])
        code = ending.value.code
        assert isinstance(code, int), "the command did not end through lowvis_shared.cli.run"
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def check_one_line(said: str) -> None:
    """Assert that standard error tells of one error, in a line and as no defect of lowvis."""
    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1, said
    assert "Traceback" not in said
    assert "defect" not in said


def files_below(folder: Path) -> list[str]:
    """The files in a folder and below, as sorted paths within it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def heed_interrupts() -> None:
    """For ``preexec_fn`` of a process that a test interrupts: let Ctrl-C reach it.

    A shell makes what it starts in the background ignore Ctrl-C, and so all that this starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _unavailable(reason: str) -> NoReturn:
    import pytest

    if require_assets():
        pytest.fail(f"LOWVIS_REQUIRE_ASSETS=1, but {reason}")
    pytest.skip(reason)
