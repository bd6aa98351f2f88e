"""Files written whole or not at all, and the sums that prove what a file holds."""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lowvis_shared.errors import InputError, OutputError

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return what a file of the user holds.

    Raises:
        InputError: The file is missing, a folder or a device, or cannot be read.
    """
    try:
        if stat.S_ISCHR(Path(path).stat().st_mode):
            raise InputError(f"{path}: a device, not a file")
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, not a file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Refuse an output path that ``atomic_write`` would refuse, before any work is done.

    Nothing is created. Symbolic links are followed, so that a write goes where the link points.

    Returns:
        The path of the file that will be written.

    Raises:
        OutputError: The path is a folder or a device, exists without ``overwrite``, or its folder
            cannot be written to.
    """
    try:
        final = Path(os.path.realpath(path))
        if final.is_dir():
            raise OutputError(
                f"{path}: the output is a folder", hint="name a file in it, with its suffix"
            )
        # A link that points to itself has no target: lexists sees it, exists does not.
        if os.path.lexists(final):
            if not overwrite:
                raise OutputError(
                    f"{path}: the output exists already",
                    hint="choose another name, or pass --overwrite to replace it",
                )
            if not final.is_file() and not final.is_symlink():
                raise OutputError(f"{path}: the output is a device, not a regular file")
        folder = final.parent
        while not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            raise OutputError(f"{path}: {folder} is a file, not a folder")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be used as an output: {error}") from error
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise OutputError(
            f"{path}: the folder {folder} is read-only", hint="choose a folder you can write to"
        )
    return final


def atomic_write(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, overwrite: bool
) -> None:
    """Write a file so that its final name only ever holds the complete content.

    The content goes to a temporary file in the same folder (created when missing), is flushed to
    the disk and renamed. Whatever fails, nothing partial is left behind. Without ``overwrite`` a
    file that another process creates meanwhile is not replaced either.

    Args:
        path: The file to write.
        write: Receives the open temporary file, seekable, and writes the content.
        overwrite: Replace an existing file; its permissions are kept.

    Raises:
        OutputError: The file exists, the folder cannot be written to, or the disk is full.
    """
    final = check_output(path, overwrite=overwrite)
    # The name does not grow with the final name, which may already have the 255 bytes allowed.
    temporary = final.with_name(f".lowvis-{secrets.token_hex(8)}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                if final.is_file():
                    shutil.copymode(final, temporary)
                temporary.replace(final)
            else:
                _rename_new(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(final.parent)
    except FileExistsError as error:
        raise OutputError(
            f"{path}: the output exists already", hint="another program wrote it meanwhile"
        ) from error
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"{path}: the disk is full or a limit on file size is reached",
                hint="free some space or write to another disk",
            ) from error
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _rename_new(temporary: Path, final: Path) -> None:
    """Give a file its final name, raising FileExistsError when the name is taken."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: reserve the name, then replace the reservation.
        final.open("xb").close()
        temporary.replace(final)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    # Some network file systems refuse to sync a folder; the file itself is safe by then.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)
