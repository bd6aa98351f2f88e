import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lowvis_shared.errors import InputError, OutputError
from lowvis_shared.files import atomic_write, check_output, read_bytes, sha256_file

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX file permissions and signals")


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    atomic_write(path, lambda file: file.write(text.encode()), overwrite=overwrite)


@contextmanager
def no_permissions() -> Iterator[None]:
    """Drop the rights of root, under which every folder is writable."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_content_arrives_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "folder" / "file.txt", "whole")
    assert (tmp_path / "new" / "folder" / "file.txt").read_text() == "whole"
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["file.txt"]


def test_an_existing_file_is_kept_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match="exists already") as caught:
        write_text(path, "new")
    assert caught.value.hint is not None
    assert "--overwrite" in caught.value.hint
    assert path.read_text() == "old"
    write_text(path, "new", overwrite=True)
    assert path.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"

    def write_while_another_program_is_faster(file: object) -> None:
        path.write_text("theirs")

    with pytest.raises(OutputError, match="exists already"):
        atomic_write(path, write_while_another_program_is_faster, overwrite=False)
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError("half-way"), KeyboardInterrupt()], ids=repr)
def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, failure: BaseException
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(file: object) -> None:
        raise failure

    with pytest.raises(type(failure)):
        atomic_write(path, fail, overwrite=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@posix_only
def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    program = (
        "import os, signal, sys\n"
        "from lowvis_shared.files import atomic_write\n"
        "def write(file):\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "atomic_write(sys.argv[1], write, overwrite=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@posix_only
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from lowvis_shared.errors import OutputError\n"
        "from lowvis_shared.files import atomic_write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    atomic_write(sys.argv[1], lambda file: file.write(bytes(99999)), overwrite=False)\n"
        "except OutputError as error:\n"
        "    sys.stdout.write(str(error)); sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "big")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 73, done.stderr
    assert "disk is full" in done.stdout
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_a_read_only_folder_is_named_before_and_during_the_work(tmp_path: Path) -> None:
    for parent in tmp_path.parents:  # pytest's own folders are closed to other users
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)
    tmp_path.chmod(0o555)
    try:
        with no_permissions():
            with pytest.raises(OutputError, match="read-only"):
                check_output(tmp_path / "file.txt", overwrite=False)
            with pytest.raises(OutputError, match="read-only"):
                write_text(tmp_path / "new" / "file.txt", "text")
    finally:
        tmp_path.chmod(0o755)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_as_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        write_text(tmp_path, "text", overwrite=True)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file, not a folder"):
        write_text(tmp_path / "file" / "deeper" / "file.txt", "text")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no device files")
def test_a_device_is_never_replaced() -> None:
    with pytest.raises(OutputError, match="device"):
        write_text(Path("/dev/null"), "text", overwrite=True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_name_that_no_file_system_takes_is_an_output_error(tmp_path: Path) -> None:
    for name in ("x" * 300, "nul\0byte"):
        with pytest.raises(OutputError):
            write_text(tmp_path / name, "text")


@posix_only
def test_the_longest_name_allowed_works(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


@posix_only
def test_permissions_follow_the_umask_and_the_replaced_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    old = os.umask(0o027)
    try:
        write_text(path, "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    write_text(path, "more", overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix_only
def test_a_symbolic_link_is_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with pytest.raises(OutputError, match="exists already"):
        write_text(link, "new")
    write_text(link, "new", overwrite=True)
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert read_bytes(tmp_path / "file") == b"content"
    for path, message in (
        (tmp_path / "absent", "no such file"),
        (tmp_path, "a folder, not a file"),
        ("/dev/null", "a device, not a file"),
        ("nul\0byte", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            read_bytes(path)
