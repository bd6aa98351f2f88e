import dataclasses
import hashlib
import http.server
import logging
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lowvis_shared.assets import (
    Asset,
    accepted,
    assets_available,
    cache_folder,
    dataset_files,
    fetch,
    find_asset,
    mirror_folder,
    registry,
    require_assets,
)
from lowvis_shared.errors import OutputError, UsageError, WeightsError

CONTENT = bytes(range(256)) * 400
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in the ways that servers do, and those in which they fail."""

    requests: list[str]

    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/missing":
            self.send_error(404)
            return
        body = PAGE if self.path == "/page" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # An interrupted download: the connection ends before all that was announced is sent.
        self.wfile.write(body[:5000] if self.path == "/interrupted" else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty mirror, an empty cache, and no consent."""
    monkeypatch.setenv("LOWVIS_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LOWVIS_ACCEPT_LICENCES", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def make_asset(url: str = "http://127.0.0.1:9/file", *, accept: bool = False) -> Asset:
    return Asset(
        name="test/weights",
        path="weights/test/file.pth",
        url=url,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        licence="not stated" if accept else "CC0",
        description="weights",
        accept=accept,
    )


def address(server: http.server.ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def put(folder: Path | None, content: bytes = CONTENT) -> Path:
    assert folder is not None
    path = folder / "weights/test/file.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def cached_files() -> list[Path]:
    return [path for path in cache_folder().rglob("*") if path.is_file()]


# --- where a file is found ------------------------------------------------------------------------


def test_the_mirror_comes_first_then_the_cache(server: http.server.ThreadingHTTPServer) -> None:
    asset = make_asset(address(server, "file"), accept=True)
    in_cache = put(cache_folder())
    assert fetch(asset) == in_cache
    in_mirror = put(mirror_folder())
    assert fetch(asset) == in_mirror
    assert server.requests == []  # type: ignore[attr-defined]


def test_a_file_that_is_nowhere_comes_from_the_network_once(
    server: http.server.ThreadingHTTPServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    asset = make_asset(address(server, "file"))
    with caplog.at_level(logging.INFO, logger="lowvis"):
        path = fetch(asset)
    assert path == cache_folder() / asset.path
    assert path.read_bytes() == CONTENT
    assert fetch(asset) == path
    assert server.requests == ["/file"]  # type: ignore[attr-defined]
    assert cached_files() == [path]
    assert asset.url in caplog.text
    assert capfd.readouterr() == ("", "")  # no chatter of the library below


def test_without_a_mirror_the_cache_and_the_network_serve(
    server: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWVIS_MIRROR")
    assert mirror_folder() is None
    assert fetch(make_asset(address(server, "file"))).read_bytes() == CONTENT


def test_two_at_once_both_get_the_whole_file(server: http.server.ThreadingHTTPServer) -> None:
    asset = make_asset(address(server, "file"))
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(asset), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert cached_files() == paths[:1]


def test_the_cache_is_in_the_folder_of_the_user_unless_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOWVIS_HOME")
    assert cache_folder().is_absolute()
    assert "lowvis" in cache_folder().parts


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [mirror_folder, cache_folder])
def test_a_wrong_file_is_refused_with_both_sums_and_never_replaced(
    place, server: http.server.ThreadingHTTPServer
) -> None:
    wrong = CONTENT[:-1] + b"\0"  # of the right size
    path = put(place(), wrong)
    asset = make_asset(address(server, "file"))
    with pytest.raises(WeightsError) as caught:
        fetch(asset)
    message = str(caught.value)
    assert str(path) in message
    assert asset.sha256 in message
    assert hashlib.sha256(wrong).hexdigest() in message
    assert caught.value.hint is not None
    assert "delete" in caught.value.hint
    assert path.read_bytes() == wrong
    assert server.requests == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("interrupted", "could not be fetched"),
        ("missing", "404"),
        ("page", hashlib.sha256(PAGE).hexdigest()),
    ],
)
def test_a_bad_download_is_a_weights_error_and_leaves_nothing(
    server: http.server.ThreadingHTTPServer, path: str, message: str
) -> None:
    asset = make_asset(address(server, path))
    with pytest.raises(WeightsError, match=message) as caught:
        fetch(asset)
    assert asset.url in str(caught.value)
    assert cached_files() == []
    # The way out works: the next try, from a server that is well again, succeeds.
    well = dataclasses.replace(asset, url=address(server, "file"))
    assert fetch(well).read_bytes() == CONTENT


def test_a_refused_connection_is_a_weights_error_that_says_where_to_put_the_file() -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        asset = make_asset(f"http://127.0.0.1:{taken.getsockname()[1]}/file")
        with pytest.raises(WeightsError, match="could not be fetched") as caught:
            fetch(asset)
    assert caught.value.exit_code == 66
    assert caught.value.hint is not None
    assert str(cache_folder() / asset.path) in caught.value.hint


def test_offline_never_uses_the_network(server: http.server.ThreadingHTTPServer) -> None:
    asset = make_asset(address(server, "file"))
    with pytest.raises(WeightsError, match="network may not be used"):
        fetch(asset, offline=True)
    assert server.requests == []  # type: ignore[attr-defined]
    put(cache_folder())
    assert fetch(asset, offline=True).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_an_output_error(
    server: http.server.ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="cannot write") as caught:
        fetch(make_asset(address(server, "file")))
    assert caught.value.hint is not None
    assert "LOWVIS_HOME" in caught.value.hint


# --- consent --------------------------------------------------------------------------------------


def test_a_file_without_a_licence_is_fetched_only_with_consent(
    server: http.server.ThreadingHTTPServer,
) -> None:
    asset = make_asset(address(server, "file"), accept=True)
    with pytest.raises(WeightsError, match="no stated licence") as caught:
        fetch(asset)
    assert caught.value.hint is not None
    assert "--accept-licence" in caught.value.hint
    assert server.requests == []  # type: ignore[attr-defined]
    assert fetch(asset, accept_licence=True).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("value", "consent"),
    [("all", True), ("test/weights", True), ("other, test/weights", True), ("other", False)],
)
def test_consent_can_stand_in_the_environment(
    value: str, consent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWVIS_ACCEPT_LICENCES", value)
    assert accepted(make_asset(accept=True)) is consent


# --- the registry ---------------------------------------------------------------------------------


def test_every_entry_of_the_registry_is_complete() -> None:
    assert len(registry()) == 8 + 4 + 20 + 56 + 18 + 6 + 2
    for asset in registry().values():
        assert asset.url.startswith("https://")
        assert len(bytes.fromhex(asset.sha256)) == 32
        assert asset.size > 0
        assert asset.licence
        assert asset.accept == (asset.licence == "not stated")
        assert not Path(asset.path).is_absolute()
    assert len({asset.path for asset in registry().values()}) == len(registry())


def test_weights_and_data_sets_are_found_by_name() -> None:
    assert find_asset("pan/x4/official").path == "weights/pan/PANx4_DF2K.pth"
    for name, pictures in (("set5", 5), ("set14", 14)):
        paths = [Path(asset.path) for asset in dataset_files(name)]
        folder = Path("data") / name.capitalize()
        assert {path.parent for path in paths} == {
            folder / "HR",
            *(folder / "LR_bicubic" / f"X{scale}" for scale in (2, 3, 4)),
        }
        assert len(paths) == 4 * pictures


def test_an_unknown_name_is_a_usage_error_that_helps() -> None:
    with pytest.raises(UsageError, match="pan/x5/official") as caught:
        find_asset("pan/x5/official")
    assert caught.value.hint is not None
    assert "pan/x4/official" in caught.value.hint
    with pytest.raises(UsageError, match="set6") as caught:
        dataset_files("set6")
    assert caught.value.hint is not None
    assert "set5" in caught.value.hint


def test_what_tests_may_rely_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not assets_available(["pan/x2/official"])
    path = cache_folder() / find_asset("pan/x2/official").path
    path.parent.mkdir(parents=True)
    path.touch()
    assert assets_available(["pan/x2/official"])
    assert not assets_available(["pan/x2/official", "pan/x3/official"])
    monkeypatch.setenv("LOWVIS_REQUIRE_ASSETS", "1")
    assert require_assets()
    monkeypatch.setenv("LOWVIS_REQUIRE_ASSETS", "0")
    assert not require_assets()


REAL_MIRROR = os.environ.get("LOWVIS_MIRROR")


@pytest.mark.skipif(
    not REAL_MIRROR and os.environ.get("LOWVIS_REQUIRE_ASSETS") != "1",
    reason="needs a mirror of the published files: set LOWVIS_MIRROR",
)
def test_the_registry_is_true_of_the_published_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWVIS_MIRROR", str(REAL_MIRROR))
    for asset in registry().values():
        assert fetch(asset, offline=True).stat().st_size == asset.size
