"""Where features lie while they are read: in memory, in a temporary file, or in a file of the user.

All of them give their features in blocks of columns, so that nobody needs all of them at once.
"""

import math
import tempfile
import tokenize
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import torch
from lowvis_shared.device import available_memory
from lowvis_shared.errors import DeviceError, InputError, UsageError
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 8192
"""Columns of a block: little memory for 800 patches, enough to multiply at full speed."""

_SHARE = 6
"""A store in memory takes one part in so many of what is free; two are needed at a time."""

_SHARE_OF_GPU = 2.5
"""The same for the memory of a GPU, which has less of it and little else in it."""


class Columns(Protocol):
    """Features (n, p), float32 or float64, that are read in blocks of columns."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def block(self, number: int) -> Tensor:
        """Return the columns from ``number * BLOCK``, (n, at most BLOCK); not to be written to."""
        ...


class Storage(Columns, Protocol):
    """Columns that are filled row by row."""

    def put(self, row: int, features: Tensor) -> None:
        """Write the features (b, p) of the patches from ``row`` on."""
        ...

    def close(self) -> None:
        """Give its room back."""
        ...


def open_storage(count: int, width: int, device: torch.device) -> Storage:
    """Find room for features (count, width) in float32 that come from a device.

    Raises:
        DeviceError: There is too little room in memory and on the disk.
    """
    need = count * width * 4
    if device.type == "cuda" and need * _SHARE_OF_GPU < _free_on_gpu(device):
        return InMemory(torch.empty((count, width), device=device))
    if need * _SHARE < (available_memory() or 0):
        return InMemory(torch.empty((count, width)))
    return _Spool(count, width)


def _free_on_gpu(device: torch.device) -> int:
    """Bytes that are free, with those that torch keeps for itself and does not use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def as_tensor(features: NDArray[Any]) -> Tensor:
    """An array of any layout as a tensor, which has fewer types and may be written to."""
    if features.dtype.kind not in "biuf":
        raise InputError(f"features are real numbers, not {features.dtype}")
    long = features.dtype.kind == "f" and features.dtype.itemsize >= 8
    return torch.from_numpy(np.require(features, np.float64 if long else np.float32, ["C", "W"]))


def blocks(width: int) -> int:
    """Number of blocks of so many columns."""
    return -(-width // BLOCK)


class InMemory:
    """Features in memory, the CPU's or a GPU's."""

    def __init__(self, values: Tensor) -> None:
        self.shape = (values.shape[0], values.shape[1])
        self.values = values

    def close(self) -> None:
        self.values = torch.empty(0)

    def block(self, number: int) -> Tensor:
        _require_open(len(self.values) > 0)
        return self.values[:, number * BLOCK : (number + 1) * BLOCK]

    def put(self, row: int, features: Tensor) -> None:
        self.values[row : row + len(features)] = features


class _Spool:
    """A temporary file of float32, block after block, so that a block is one piece of it."""

    def __init__(self, count: int, width: int) -> None:
        self.shape = (count, width)
        with _room_on_disk():
            # The store closes it.
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def close(self) -> None:
        self.file.close()

    def put(self, row: int, features: Tensor) -> None:
        array = features.cpu().numpy()
        with _room_on_disk():
            for number in range(blocks(self.shape[1])):
                part = array[:, number * BLOCK : (number + 1) * BLOCK]
                self.file.seek(4 * (self.shape[0] * BLOCK * number + row * part.shape[1]))
                _write_all(self.file, np.ascontiguousarray(part))

    def block(self, number: int) -> Tensor:
        _require_open(not self.file.closed)
        count, width = self.shape
        values = np.empty((count, min(BLOCK, width - number * BLOCK)), np.float32)
        self.file.seek(4 * count * BLOCK * number)
        _read_all(self.file, values)
        return torch.from_numpy(values)


def read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order, type and the place of the first value of a ``.npy`` file."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            return *read(file), file.tell()
    except (LookupError, OSError, SyntaxError, ValueError, tokenize.TokenError) as error:
        raise InputError(f"{path}: cannot be read as .npy: {error}") from error


class NpyFile:
    """A feature file, of which one block of columns at a time is read."""

    def __init__(self, path: Path, rows: int | None) -> None:
        shape, in_fortran_order, dtype, offset = read_header(path)
        if dtype.kind != "f" or len(shape) < 2 or math.prod(shape) == 0:
            raise InputError(f"{path}: holds no floating-point array of (patches, features)")
        if in_fortran_order:
            raise InputError(
                f"{path}: is in Fortran order",
                hint="numpy.save(path, numpy.ascontiguousarray(features)) writes it as needed",
            )
        count = shape[0] if rows is None else rows
        if count > shape[0] or count < 2:
            raise InputError(f"{path}: holds {shape[0]} patches, {max(count, 2)} are wanted")
        if path.stat().st_size < offset + math.prod(shape) * dtype.itemsize:
            raise InputError(f"{path}: ends too early")
        self._path = path
        self._offset = offset
        self._dtype = dtype
        self.shape = (count, math.prod(shape[1:]))

    def block(self, number: int) -> Tensor:
        # Reads, as pages of a mapped file would count as memory of this process.
        count, width = self.shape
        start = number * BLOCK
        values = np.empty((count, min(BLOCK, width - start)), self._dtype)
        with self._path.open("rb", buffering=0) as file:
            for row in range(count):
                file.seek(self._offset + self._dtype.itemsize * (row * width + start))
                _read_all(file, values[row])
        wide = np.float64 if self._dtype.itemsize >= 8 else np.float32
        return torch.from_numpy(values.astype(wide, copy=False))


def _require_open(is_open: bool) -> None:
    if not is_open:
        raise UsageError("the features are gone: the block of their FeatureStore has ended")


def _write_all(file: BinaryIO, values: NDArray[Any]) -> None:
    left = memoryview(cast("Any", values)).cast("B")
    while left:
        left = left[file.write(left) :]


def _read_all(file: BinaryIO, values: NDArray[Any]) -> None:
    left = memoryview(cast("Any", values)).cast("B")
    while left:
        count: int = cast("Any", file).readinto(left)
        if not count:
            raise InputError(f"{file.name}: ends too early")
        left = left[count:]


@contextmanager
def _room_on_disk() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"no room for the features in {tempfile.gettempdir()}: {error.strerror}",
            hint="TMPDIR names another folder; fewer patches take less",
        ) from error
