"""Published weights and data sets by name: found in a mirror, a cache or on the network, verified.

The registry ``assets.tsv`` beside this module lists every file with its address, size, sha256 and
licence. A file is looked for in the folder ``$LOWVIS_MIRROR``, then in the cache (``$LOWVIS_HOME``,
by default the user's cache folder), then fetched into the cache. Whatever is found is hashed, each
time: a wrong file is refused, never replaced in silence.
"""

import csv
import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pooch

from lowvis_shared.errors import OutputError, UsageError, WeightsError
from lowvis_shared.files import sha256_file

if TYPE_CHECKING:
    from requests import Response

logger = logging.getLogger("lowvis")

_TIMEOUT_S = (10.0, 30.0)  # to connect, and between two pieces of an answer
_NO_LICENCE = "not stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One published file.

    Attributes:
        name: What users call it, such as ``pan/x4/official``.
        path: Where it lies below a mirror or the cache, with forward slashes.
        url: Where its authors publish it.
        sha256: Sum of the published file, 64 hexadecimal digits.
        size: Bytes of the published file.
        licence: Name of its licence, or ``not stated``.
        description: What kind of file it is.
        accept: Fetching it needs the user's consent, since no licence is stated.
    """

    name: str
    path: str
    url: str
    sha256: str
    size: int
    licence: str
    description: str
    accept: bool


@cache
def registry() -> Mapping[str, Asset]:
    """Return every published file that lowvis knows, by name."""
    lines = (files("lowvis_shared") / "assets.tsv").read_text(encoding="utf-8").splitlines()
    assets = [
        Asset(
            name=row["name"],
            path=row["path"],
            url=row["url"],
            sha256=row["sha256"],
            size=int(row["bytes"]),
            licence=row["licence"],
            description=row["kind"],
            accept=row["licence"] == _NO_LICENCE,
        )
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    ]
    return MappingProxyType({asset.name: asset for asset in assets})


def find_asset(name: str) -> Asset:
    """Return the published file of a name.

    Raises:
        UsageError: No file has that name; the hint gives similar names.
    """
    asset = registry().get(name)
    if asset is None:
        similar = difflib.get_close_matches(name, registry())
        raise UsageError(
            f"no published file is called '{name}'",
            hint=f"did you mean {' or '.join(similar)}?" if similar else None,
        )
    return asset


def dataset_files(name: str) -> tuple[Asset, ...]:
    """Return the files of a data set: ``set5`` or ``set14``, HR and bicubic LR (X2, X3, X4).

    Raises:
        UsageError: The registry holds no such data set.
    """
    pictures = [asset for asset in registry().values() if asset.description == "test picture"]
    found = tuple(asset for asset in pictures if asset.name.startswith(f"{name}/"))
    if not found:
        known = sorted({asset.name.partition("/")[0] for asset in pictures})
        raise UsageError(
            f"no published data set is called '{name}'", hint=f"there are: {', '.join(known)}"
        )
    return found


def mirror_folder() -> Path | None:
    """Return the folder ``$LOWVIS_MIRROR``, or None when it is not set."""
    value = os.environ.get("LOWVIS_MIRROR")
    return Path(value).expanduser() if value else None


def cache_folder() -> Path:
    """Return where fetched files are kept: ``$LOWVIS_HOME``, else the user's cache folder."""
    value = os.environ.get("LOWVIS_HOME")
    return Path(value).expanduser() if value else Path(pooch.os_cache("lowvis"))


def accepted(asset: Asset) -> bool:
    """Tell whether ``$LOWVIS_ACCEPT_LICENCES`` (``all``, or names with commas) covers a file."""
    names = {name.strip() for name in os.environ.get("LOWVIS_ACCEPT_LICENCES", "").split(",")}
    return "all" in names or asset.name in names


def require_assets() -> bool:
    """Tell whether tests must fail, not skip, without their files: ``LOWVIS_REQUIRE_ASSETS=1``."""
    return os.environ.get("LOWVIS_REQUIRE_ASSETS") == "1"


def assets_available(names: Iterable[str]) -> bool:
    """Tell whether all files of these names lie in the mirror or the cache."""
    return all(_local_path(find_asset(name)) is not None for name in names)


def _local_path(asset: Asset) -> Path | None:
    folders = [folder for folder in (mirror_folder(), cache_folder()) if folder is not None]
    return next((folder / asset.path for folder in folders if (folder / asset.path).exists()), None)


def fetch(asset: Asset, *, accept_licence: bool = False, offline: bool = False) -> Path:
    """Return the path of a published file, downloading it into the cache when it is nowhere else.

    A download goes to a temporary name, is hashed, and only then renamed. So two processes may
    fetch the same file at once: both renames put the same content in place, and no lock is needed.

    Args:
        asset: The file; see `find_asset` and `dataset_files`.
        accept_licence: The user consents to fetching a file whose authors state no licence; also
            given by ``$LOWVIS_ACCEPT_LICENCES``. Not asked for files that are already here.
        offline: Never use the network.

    Raises:
        WeightsError: The file here or the one sent is not the published one, the network does not
            deliver it, it may not be used, or consent is missing.
        OutputError: The cache cannot be written.
    """
    path = _local_path(asset)
    if path is not None:
        _verify(asset, path)
        return path
    path = cache_folder() / asset.path
    if offline:
        raise WeightsError(
            f"{asset.name} is not on this machine, and the network may not be used",
            hint=f"fetch {asset.url} elsewhere and put it at {path}",
        )
    if asset.accept and not accept_licence and not accepted(asset):
        raise WeightsError(
            f"{asset.name} has no stated licence: whether you may use it is for you to judge",
            hint=f"see {asset.url}; to fetch it pass --accept-licence, "
            f"or set LOWVIS_ACCEPT_LICENCES={asset.name}",
        )
    _download(asset, path)
    return path


def _verify(asset: Asset, path: Path) -> None:
    try:
        actual = sha256_file(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if actual != asset.sha256:
        raise WeightsError(
            f"{path} is not the published {asset.name}: "
            f"its sha256 is {actual}, expected {asset.sha256}",
            hint="delete the file and run again to fetch it anew",
        )


def _download(asset: Asset, path: Path) -> None:
    logger.info("fetching %s (%d bytes) from %s", asset.name, asset.size, asset.url)
    pooch.get_logger().setLevel(logging.WARNING)  # it would repeat the line above on stderr
    with ExitStack() as responses:

        def close_at_end(response: "Response", *_: object, **__: object) -> None:
            responses.callback(response.close)  # pooch leaves the connection open when it fails

        downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_S, hooks={"response": close_at_end})
        _retrieve(asset, path, downloader)


def _retrieve(asset: Asset, path: Path, downloader: pooch.HTTPDownloader) -> None:
    from requests import RequestException  # slow to import; what pooch's downloader raises

    hint = f"try again, or fetch {asset.url} by other means and put it at {path}"
    try:
        pooch.retrieve(
            asset.url,
            known_hash=f"sha256:{asset.sha256}",
            fname=path.name,
            path=path.parent,
            # pooch's own downloader does not match the type that pooch declares for one
            downloader=cast("Any", downloader),
        )
    except RequestException as error:
        raise WeightsError(
            f"{asset.name} could not be fetched from {asset.url}: {error}", hint=hint
        ) from error
    except ValueError as error:  # pooch's word for another sum, which names both
        raise WeightsError(
            f"{asset.url} did not send the published {asset.name}: {error}", hint=hint
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}",
            hint="set LOWVIS_HOME to a folder that can be written",
        ) from error
