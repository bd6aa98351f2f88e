"""The features of a network on one set of patches, as the small matrix of their inner products.

All that SRGA needs of n patches with p features each is how they lie to one another: the Gram
matrix F F^T, n x n, from whose eigenvectors come the scores that a principal component analysis of
the n x p features gives. The features themselves are read once, in blocks of columns.
"""

import hashlib
import json
import math
import os
import tempfile
import tokenize
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, TypeAlias, cast

import numpy as np
import torch
from lowvis_shared.device import available_memory, exact_float32
from lowvis_shared.errors import DeviceError, InputError, UsageError
from lowvis_shared.files import atomic_write, read_bytes
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

_BLOCK = 8192
"""Columns of a block: little memory for 800 patches, enough to multiply at full speed."""

_STRIPS = 4
"""Parts of a symmetric product; many of them do little beyond the half, but slowly."""

_SHARE = 6
"""A store in memory takes one part in so many of what is free; two are needed at a time."""

_NEGLIGIBLE = 1e-12
"""Variance of an axis, relative to the first one's, below which it is rounding."""

_CONSTANT = 1e-12
"""Part of the features' energy that varies from patch to patch, below which it is rounding."""

_FORMAT = "lowvis-srga feature bank 1"


Selection: TypeAlias = NDArray[np.bool_] | NDArray[np.int64]
"""Some of n patches: a mask (n,), or their numbers, which may repeat."""


class Columns(Protocol):
    """Features (n, p), float32 or float64, that are read in blocks of columns."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def block(self, number: int) -> Tensor:
        """Return the columns from ``number * 8192``, (n, at most 8192); not to be written to."""
        ...


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """How the features of n patches lie to one another.

    Attributes:
        gram: Inner products of the patches' features about their mean, (n, n) float64. Rows and
            columns of diverged patches are 0, and the mean is without them.
        width: Number p of features of a patch.
        diverged: Which patches have features that mean nothing, (n,).
        cross: Inner products of these patches (rows) with those of the reference set (columns),
            both about the mean of the reference; None where there was no reference.
        shift: Distance between the means of this and of the reference set.
        reference: `key` of the reference set.
        ids: Names of the patches, by which those of other sets are the same scene; or none.
        name: What the set is called.
        network: Which network the features are of.
        layer: Where in the network.
        columns: The features themselves, for the banks that this one is the reference of; None in
            a bank from a file.
    """

    gram: NDArray[np.float64]
    width: int
    diverged: NDArray[np.bool_]
    cross: NDArray[np.float64] | None = None
    shift: float = 0.0
    reference: str = ""
    ids: tuple[str, ...] = ()
    name: str = ""
    network: str = ""
    layer: str = ""
    columns: Columns | None = field(default=None, repr=False)

    @property
    def patches(self) -> int:
        """Number n of patches."""
        return len(self.gram)

    @cached_property
    def key(self) -> str:
        """A name of the figures in `gram`, by which a cross matrix knows its reference."""
        return hashlib.sha256(self.gram.tobytes()).hexdigest()

    @classmethod
    def from_features(
        cls,
        features: NDArray[Any] | Tensor,
        *,
        reference: Self | None = None,
        ids: Sequence[str] = (),
        name: str = "",
    ) -> Self:
        """Make a bank of features in memory.

        Args:
            features: (n, p), n at least 2; further axes are flattened. float64 is computed in
                float64, all else in float32 products that are summed in float64.
            reference: The bank of the reference set, to see the shift of the mean and to compare
                on the axes of the reference.
            ids: Names of the patches.
            name: What the set is called.

        Raises:
            InputError: The features are no such matrix, or have another width than the reference.
            UsageError: The reference has no features left.
        """
        if not isinstance(features, Tensor):
            features = _as_tensor(features)
        if features.ndim < 2 or features.shape[0] < 2 or features.numel() == 0:
            raise InputError(
                "features are (patches, features), at least two patches, not "
                f"{tuple(features.shape)}"
            )
        if features.is_complex():
            raise InputError("features are real numbers, not complex ones")
        wide = features if features.dtype == torch.float64 else features.float()
        columns = _InMemory(wide.detach().reshape(features.shape[0], -1))
        return cls._of(columns, reference, ids=ids, name=name)

    @classmethod
    def from_npy(
        cls,
        path: str | os.PathLike[str],
        *,
        rows: int | None = None,
        reference: Self | None = None,
        name: str = "",
    ) -> Self:
        """Make a bank of a feature file ``*.npy``, as the authors' script takes them.

        The file is never held in memory: it may be of any size.

        Args:
            path: float16, float32 or float64; the first axis is the patch.
            rows: Take so many patches from the start; all when None. The script takes 800.
            reference: As for `from_features`.
            name: What the set is called; the name of the file when empty.

        Raises:
            InputError: There is no such file, or it holds something else or fewer patches.
        """
        path = Path(path)
        columns = _NpyFile(path, rows)
        return cls._of(columns, reference, name=name or path.stem)

    @classmethod
    def _of(
        cls,
        columns: Columns,
        reference: Self | None,
        *,
        diverged: NDArray[np.bool_] | None = None,
        ids: Sequence[str] = (),
        name: str = "",
        network: str = "",
        layer: str = "",
    ) -> Self:
        count, width = columns.shape
        if ids and len(ids) != count:
            raise UsageError(f"{len(ids)} ids for {count} patches")
        if diverged is None:
            diverged = np.zeros(count, np.bool_)
        products = _multiply(columns, diverged, reference)
        if products.energy > 0 and np.trace(products.gram) <= _CONSTANT * products.energy:
            raise InputError(
                f"{network or 'the network'} has the same features for all patches"
                f"{f' of {name}' if name else ''}"
            )
        return cls(
            gram=products.gram,
            width=width,
            diverged=products.diverged,
            cross=products.cross,
            shift=products.shift,
            reference="" if reference is None else reference.key,
            ids=tuple(ids),
            name=name,
            network=network,
            layer=layer,
            columns=columns,
        )

    def centered(self, keep: Selection | None = None) -> NDArray[np.float64]:
        """Return the Gram matrix of some patches about their own mean.

        Args:
            keep: Which patches; all when None.

        Raises:
            InputError: One of them diverged.
        """
        chosen = np.arange(self.patches)[slice(None) if keep is None else keep]
        if bad := int(self.diverged[chosen].sum()):
            raise InputError(
                f"{self.network or 'the network'} diverges on {bad} of {len(chosen)} patches"
                f"{f' of {self.name}' if self.name else ''}: its features are not finite or its "
                "picture is far out of range",
                hint="--drop-diverged (drop_diverged=True) leaves them out of all sets",
            )
        gram = self.gram[np.ix_(chosen, chosen)]
        rows = gram.mean(axis=1)
        return gram - rows - rows[:, np.newaxis] + rows.mean()

    def axes(
        self, keep: Selection | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the principal axes by falling variance, those of no variance left out.

        Returns:
            Sums of squares along each axis (a,), and unit vectors of the scores (k, a) for the k
            patches kept. The entry of largest magnitude of each vector is positive, as the sign of
            an axis is arbitrary.

        Raises:
            InputError: A patch diverged, or all features are constant.
        """
        values, vectors = np.linalg.eigh(self.centered(keep))
        values, vectors = values[::-1], vectors[:, ::-1]
        count = int((values > _NEGLIGIBLE * values[0]).sum()) if values[0] > 0 else 0
        if count == 0:
            raise InputError(
                f"{self.network or 'the network'} has the same features for all patches"
                f"{f' of {self.name}' if self.name else ''}"
            )
        values, vectors = values[:count], vectors[:, :count]
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(count)]
        return values, vectors * np.sign(largest)

    def feature_signs(
        self, vectors: NDArray[np.float64], keep: Selection | None = None
    ) -> NDArray[np.float64]:
        """Return the signs that scikit-learn gives the axes, from one more reading of the features.

        There the entry of largest magnitude of an axis among the *features* is positive.

        Args:
            vectors: Unit vectors (k, a) as `axes` returns them for the same patches.
            keep: Which patches; all when None.

        Returns:
            1 or -1 for each axis, (a,).

        Raises:
            UsageError: The features are gone.
        """
        if self.columns is None:
            raise UsageError("the bank has no features left: it comes from a file")
        kept = torch.from_numpy(np.arange(self.patches)[slice(None) if keep is None else keep])
        largest = np.zeros(vectors.shape[1])
        for number in range(_blocks(self.width)):
            block = self.columns.block(number)[kept].double().cpu().numpy()
            loadings = block.T @ vectors  # vectors sum to 0, so that the mean takes no part
            place = np.abs(loadings).argmax(axis=0), np.arange(len(largest))
            greater = np.abs(loadings[place]) > np.abs(largest)
            largest[greater] = loadings[place][greater]
        return np.sign(largest)

    def scores(self, dimensions: int, keep: Selection | None = None) -> NDArray[np.float64]:
        """Return the scores of the patches on the leading principal axes of their features.

        Equal to ``PCA(dimensions, svd_solver="full").fit_transform(features)`` up to signs.

        Args:
            dimensions: How many axes d; axes of no variance have scores of 0.
            keep: Which patches to analyse; all when None.

        Returns:
            (k, d) for the k patches kept.

        Raises:
            InputError: As for `axes`; or fewer patches than axes.
        """
        return as_scores(*self.axes(keep), dimensions)

    def explained_variance(self, dimensions: int) -> float:
        """Return the part of the variance, 0 to 1, that the leading axes have."""
        values, _ = self.axes()
        return float(values[:dimensions].sum() / values.sum())

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the bank as a safetensors file: some megabytes, whatever the features took.

        Raises:
            OutputError: The file exists or cannot be written.
        """
        tensors: dict[str, NDArray[Any]] = {
            "gram": self.gram,
            "diverged": self.diverged.astype(np.uint8),
        }
        if self.cross is not None:
            tensors["cross"] = np.ascontiguousarray(self.cross)
        about = {
            "format": _FORMAT,
            "width": self.width,
            "shift": self.shift,
            "reference": self.reference,
            "ids": self.ids,
            "name": self.name,
            "network": self.network,
            "layer": self.layer,
        }
        # One entry, as several are written in any order.
        content = save_tensors(tensors, {"lowvis": json.dumps(about)})
        atomic_write(path, lambda file: file.write(content), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: The file is missing, damaged or no bank.
        """
        content = read_bytes(path)
        try:
            length = int.from_bytes(content[:8], "little")
            about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["lowvis"])
            if about["format"] != _FORMAT:
                raise InputError(f"{path}: a bank of another version")
            tensors = load_tensors(content)
            bank = cls(
                gram=tensors["gram"],
                width=int(about["width"]),
                diverged=tensors["diverged"].astype(np.bool_),
                cross=tensors.get("cross"),
                shift=float(about["shift"]),
                reference=str(about["reference"]),
                ids=tuple(str(each) for each in about["ids"]),
                name=str(about["name"]),
                network=str(about["network"]),
                layer=str(about["layer"]),
            )
        except (LookupError, SafetensorError, TypeError, ValueError) as error:
            raise InputError(f"{path}: no feature bank, or damaged") from error
        count = len(bank.gram)
        whole = (
            bank.gram.shape == (count, count)
            and bank.diverged.shape == (count,)
            and len(bank.ids) in (0, count)
            and (bank.cross is None or (bank.cross.ndim == 2 and len(bank.cross) == count))
            and all(np.isfinite(each).all() for each in (bank.gram, bank.cross) if each is not None)
        )
        if not whole:
            raise InputError(f"{path}: its figures do not fit together")
        return bank


def _as_tensor(features: NDArray[Any]) -> Tensor:
    """An array of any layout as a tensor, which has fewer types and may be written to."""
    if features.dtype.kind not in "biuf":
        raise InputError(f"features are real numbers, not {features.dtype}")
    long = features.dtype.kind == "f" and features.dtype.itemsize >= 8
    return torch.from_numpy(np.require(features, np.float64 if long else np.float32, ["C", "W"]))


class FeatureStore:
    """Features of n patches on their way into a bank.

    They stay on the GPU that they come from if there is room, else go into memory, else into a
    temporary file. Use as a context manager; the end of the block frees all of it.

    Args:
        count: How many patches will come.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._filled = 0
        self._diverged = np.zeros(count, np.bool_)
        self._target: _InMemory | _Spool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._target is not None:
            self._target.close()  # banks hold on to it, who may live longer

    def add(self, features: Tensor, diverged: Tensor | None = None) -> None:
        """Append the features (b, p) of the next patches; ``diverged`` (b,) marks meaningless ones.

        Raises:
            InputError: They have another width than those before.
            UsageError: More patches come than were announced.
            DeviceError: There is too little room for them in memory and on the disk.
        """
        count, width = features.shape
        if self._filled + count > self._count:
            raise UsageError(f"more than the {self._count} patches that were announced")
        if self._target is None:
            self._target = self._open(width, features.device)
        if self._target.shape[1] != width:
            raise InputError(f"{width} features of a patch, and {self._target.shape[1]} before")
        self._target.put(self._filled, features.float())
        if diverged is not None:
            self._diverged[self._filled : self._filled + count] = diverged.cpu().numpy()
        self._filled += count

    def bank(
        self,
        reference: FeatureBank | None = None,
        *,
        ids: Sequence[str] = (),
        name: str = "",
        network: str = "",
        layer: str = "",
    ) -> FeatureBank:
        """Make the bank; arguments as for `FeatureBank`.

        Raises:
            UsageError: Fewer patches came than were announced.
        """
        if self._target is None or self._filled < self._count:
            raise UsageError(f"{self._filled} of {self._count} patches are here")
        return FeatureBank._of(  # pyright: ignore[reportPrivateUsage] - the bank's other half
            self._target,
            reference,
            diverged=self._diverged,
            ids=ids,
            name=name,
            network=network,
            layer=layer,
        )

    def _open(self, width: int, device: torch.device) -> "_InMemory | _Spool":
        need = self._count * width * 4 * _SHARE
        if device.type == "cuda" and need < torch.cuda.mem_get_info(device)[0]:
            return _InMemory(torch.empty((self._count, width), device=device))
        if need < (available_memory() or 0):
            return _InMemory(torch.empty((self._count, width)))
        return _Spool(self._count, width)


def as_scores(
    values: NDArray[np.float64], vectors: NDArray[np.float64], dimensions: int
) -> NDArray[np.float64]:
    """Return scores (k, d) from what `FeatureBank.axes` returns, 0 on axes of no variance.

    Raises:
        InputError: Fewer patches than axes.
    """
    if not 1 <= dimensions <= len(vectors):
        raise InputError(
            f"{len(vectors)} patches have no {dimensions} principal axes",
            hint="take more patches, or fewer dimensions",
        )
    scores = np.zeros((len(vectors), dimensions))
    count = min(dimensions, len(values))
    scores[:, :count] = vectors[:, :count] * np.sqrt(values[:count])
    return scores


# --- where features lie ---------------------------------------------------------------------------


def _blocks(width: int) -> int:
    """Number of blocks of so many columns."""
    return -(-width // _BLOCK)


class _InMemory:
    def __init__(self, values: Tensor) -> None:
        self.shape = (values.shape[0], values.shape[1])
        self.values = values

    def close(self) -> None:
        self.values = torch.empty(0)

    def block(self, number: int) -> Tensor:
        _require_open(len(self.values) > 0)
        return self.values[:, number * _BLOCK : (number + 1) * _BLOCK]

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
            for number in range(_blocks(self.shape[1])):
                part = array[:, number * _BLOCK : (number + 1) * _BLOCK]
                self.file.seek(4 * (self.shape[0] * _BLOCK * number + row * part.shape[1]))
                _write_all(self.file, np.ascontiguousarray(part))

    def block(self, number: int) -> Tensor:
        _require_open(not self.file.closed)
        count, width = self.shape
        values = np.empty((count, min(_BLOCK, width - number * _BLOCK)), np.float32)
        self.file.seek(4 * count * _BLOCK * number)
        _read_all(self.file, values)
        return torch.from_numpy(values)


def _read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
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


class _NpyFile:
    """A feature file, of which one block of columns at a time is read."""

    def __init__(self, path: Path, rows: int | None) -> None:
        shape, in_fortran_order, dtype, offset = _read_header(path)
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
        start = number * _BLOCK
        values = np.empty((count, min(_BLOCK, width - start)), self._dtype)
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


# --- products -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Products:
    gram: NDArray[np.float64]
    cross: NDArray[np.float64] | None
    shift: float
    energy: float  # sum of the squares of all features
    diverged: NDArray[np.bool_]


def _multiply(
    mine: Columns, diverged: NDArray[np.bool_], reference: FeatureBank | None
) -> _Products:
    """Read features once, those of the reference beside them, and sum up all products."""
    count, width = mine.shape
    theirs = None if reference is None else reference.columns
    if reference is not None and theirs is None:
        raise UsageError(
            "the reference bank has no features left: it comes from a file",
            hint="make it anew from the features",
        )
    if theirs is not None and theirs.shape[1] != width:
        raise InputError(
            f"{width} features of a patch, but {theirs.shape[1]} in the reference set",
            hint="one network, one layer and one size of patches",
        )
    bad = diverged.copy()
    gram = np.zeros((count, count))
    cross = None if theirs is None else np.zeros((count, theirs.shape[0]))
    energy = squared_shift = 0.0
    for number in range(_blocks(width)):
        before = bad.copy()
        block, mean = _clean(mine.block(number), bad)
        if number and (bad != before).any():
            # It took part in the means of the blocks so far: begin again without it.
            return _multiply(mine, bad, reference)
        energy += float(torch.linalg.vector_norm(block)) ** 2
        # About the mean, so that products in float32 lose nothing of what varies.
        own = block - mean
        gram += _product(own, own)
        if reference is not None and theirs is not None and cross is not None:
            other, middle = _clean(theirs.block(number), reference.diverged.copy())
            middle = middle.to(block.device)
            cross += _product(block - middle, other.to(block.device) - middle)
            squared_shift += float(torch.linalg.vector_norm(mean - middle)) ** 2
    gram[bad] = gram[:, bad] = 0
    if cross is not None and reference is not None:
        cross[bad] = 0
        cross[:, reference.diverged] = 0
    if not np.isfinite(gram).all() or not (cross is None or np.isfinite(cross).all()):
        raise InputError("the features are so large that their products overflow")
    return _Products(gram, cross, math.sqrt(squared_shift), energy, bad)


def _clean(block: Tensor, bad: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Set the rows of diverged patches to 0 and note further ones; return the mean of the rest."""
    if not bad.any():
        mean = block.mean(dim=0)
        if mean.isfinite().all():  # then every feature is
            return block, mean
    bad |= ~block.isfinite().all(dim=1).cpu().numpy()
    block = block.clone()
    block[torch.from_numpy(bad).to(block.device)] = 0
    return block, block.sum(dim=0) / max(1, int((~bad).sum()))


def _product(one: Tensor, other: Tensor) -> NDArray[np.float64]:
    """Return ``one @ other.T`` in the precision of the features, as float64."""
    # All by torch: threads of two libraries on the same cores wait for each other.
    with exact_float32():
        if one is not other or len(one) < 2 * _STRIPS:
            return (one @ other.T).double().cpu().numpy()
        product = one.new_zeros((len(one), len(one)))
        step = -(-len(one) // _STRIPS)
        for start in range(0, len(one), step):
            # It is symmetric: what lies above the diagonal need not be computed.
            stop = start + step
            product[start:, start:stop] = one[start:] @ one[start:stop].T
            product[start:stop, stop:] = product[stop:, start:stop].T
        return product.double().cpu().numpy()
