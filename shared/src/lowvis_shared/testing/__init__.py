"""For tests of lowvis packages: conformance, published files, small pictures and bad files.

pytest is imported only where a test calls for it, so `pictures` works without it.
"""

import signal
from pathlib import Path
from typing import NoReturn

from lowvis_shared.assets import (
    assets_available,
    fetch,
    find_asset,
    mirror_folder,
    require_assets,
)
from lowvis_shared.testing.conformance import PackageConformance

__all__ = ["PackageConformance", "asset_path", "heed_interrupts", "mirror_path"]


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
