"""The features of a network on one set of patches, as the small matrix of their inner products.

All that SRGA needs of n patches with p features each is how they lie to one another: the Gram
matrix F F^T, n x n, from whose eigenvectors come the scores that a principal component analysis of
the n x p features gives. The features themselves are read once, in blocks of columns.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from lowvis_shared.device import exact_float32
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.files import atomic_write, read_bytes
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from lowvis_srga.storage import (
    Columns,
    InMemory,
    NpyFile,
    Storage,
    as_tensor,
    blocks,
    open_storage,
)

_STRIPS = 4
"""Parts of a symmetric product; many of them do little beyond the half, but slowly."""

_NEGLIGIBLE = 1e-12
"""Variance of an axis, relative to the first one's, below which it is rounding."""

_CONSTANT = 1e-12
"""Part of the features' energy that varies from patch to patch, below which it is rounding."""

_CHANGED = 1e-3
"""Difference of a reference's spread, in parts of it, that rounding does not make."""

_FORMAT = "lowvis-srga feature bank 1"


Chosen: TypeAlias = NDArray[np.bool_] | NDArray[np.int64]
"""Some of n patches: a mask (n,), or their numbers, which may repeat."""


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """How the features of n patches lie to one another.

    Attributes:
        gram: Inner products of the patches' features about their mean, (n, n) float64. Rows and
            columns of diverged patches are 0, and the mean is without them.
        width: Number p of features of a patch.
        energy: Sum of the squares of all features.
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
    energy: float
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
                float64, all else in float32 products that are summed in float64. It is not copied
                if it need not be: leave it as it is while the bank is a reference of others.
            reference: The bank of the reference set, to see the shift of the mean and to compare
                on the axes of the reference.
            ids: Names of the patches.
            name: What the set is called.

        Raises:
            InputError: The features are no such matrix, or have another width than the reference.
            UsageError: The reference has no features left.
        """
        if not isinstance(features, Tensor):
            features = as_tensor(features)
        if features.ndim < 2 or features.shape[0] < 2 or features.numel() == 0:
            raise InputError(
                "features are (patches, features), at least two patches, not "
                f"{tuple(features.shape)}"
            )
        if features.is_complex():
            raise InputError("features are real numbers, not complex ones")
        wide = features if features.dtype == torch.float64 else features.float()
        columns = InMemory(wide.detach().reshape(features.shape[0], -1))
        bank = cls._of(columns, reference, ids=ids, name=name)
        if bank.energy:
            bank.require_variation(bank.gram)
        return bank

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
        columns = NpyFile(path, rows)
        bank = cls._of(columns, reference, name=name or path.stem)
        if bank.energy:
            bank.require_variation(bank.gram)
        return bank

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
        return cls(
            gram=products.gram,
            width=width,
            energy=products.energy,
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

    def _numbers(self, keep: Chosen | None) -> NDArray[np.int64]:
        """The numbers of the patches chosen."""
        return np.arange(self.patches)[slice(None) if keep is None else keep]

    def centered(self, keep: Chosen | None = None) -> NDArray[np.float64]:
        """Return the Gram matrix of some patches about their own mean.

        Args:
            keep: Which patches; all when None.

        Raises:
            InputError: One of them diverged.
        """
        chosen = self._numbers(keep)
        if bad := int(self.diverged[chosen].sum()):
            raise InputError(
                f"{self.network or 'the network'} diverges on {bad} of {len(chosen)} patches"
                f"{f' of {self.name}' if self.name else ''}: its features are not finite or its "
                "picture is far out of range",
                hint="--drop-diverged (drop_diverged=True) leaves them out of both sets",
            )
        gram = self.gram[np.ix_(chosen, chosen)]
        rows = gram.mean(axis=1)
        return gram - rows - rows[:, np.newaxis] + rows.mean()

    def require_variation(self, gram: NDArray[np.float64]) -> None:
        """Refuse patches that have the same features.

        Args:
            gram: Their inner products about their mean.

        Raises:
            InputError: They have.
        """
        if np.trace(gram) <= _CONSTANT * self.energy:
            raise InputError(
                f"{self.network or 'the network'} has the same features for all patches"
                f"{f' of {self.name}' if self.name else ''}"
            )

    def axes(self, keep: Chosen | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the principal axes by falling variance, those of no variance left out.

        Returns:
            Sums of squares along each axis (a,), and unit vectors of the scores (k, a) for the k
            patches kept. The entry of largest magnitude of each vector is positive, as the sign of
            an axis is arbitrary.

        Raises:
            InputError: A patch diverged, or all features are constant.
        """
        return self._axes_of_all if keep is None else self._find_axes(keep)

    @cached_property
    def _axes_of_all(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Found once: a reference is compared with many sets, and a set at many numbers of axes."""
        return self._find_axes(None)

    def _find_axes(self, keep: Chosen | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gram = self.centered(keep)
        self.require_variation(gram)
        values, vectors = np.linalg.eigh(gram)
        values, vectors = values[::-1], vectors[:, ::-1]
        count = int((values > _NEGLIGIBLE * values[0]).sum())
        values, vectors = values[:count], vectors[:, :count]
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(count)]
        return values, vectors * np.sign(largest)

    def feature_signs(
        self, vectors: NDArray[np.float64], keep: Chosen | None = None
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
        kept = torch.from_numpy(self._numbers(keep))
        largest = np.zeros(vectors.shape[1])
        for number in range(blocks(self.width)):
            block = self.columns.block(number)[kept].cpu().double().numpy()
            loadings = block.T @ vectors  # vectors sum to 0, so that the mean takes no part
            place = np.abs(loadings).argmax(axis=0), np.arange(len(largest))
            greater = np.abs(loadings[place]) > np.abs(largest)
            largest[greater] = loadings[place][greater]
        return np.sign(largest)

    def scores(self, dimensions: int, keep: Chosen | None = None) -> NDArray[np.float64]:
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
            "energy": self.energy,
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
                energy=float(about["energy"]),
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
        self._target: Storage | None = None

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
            self._target = open_storage(self._count, width, features.device)
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
    energy = squared_shift = spread = 0.0
    for number in range(blocks(width)):
        before = bad.copy()
        block, mean = _clean(mine.block(number), bad)
        if number and (bad != before).any():
            # It took part in the means of the blocks so far: begin again without it.
            return _multiply(mine, bad, reference)
        energy += _square(block)
        if reference is not None and theirs is not None and cross is not None:
            other, middle = _clean(theirs.block(number), reference.diverged.copy())
            # On the GPU if either is there, and in the precision of the better one.
            place = block.device if block.device.type != "cpu" else other.device
            wide = torch.promote_types(block.dtype, other.dtype)
            block, mean, other, middle = (
                each.to(place, wide) for each in (block, mean, other, middle)
            )
            about = other - middle
            cross += _product(block - middle, about)
            squared_shift += _square(mean - middle)
            spread += _square(about, ~reference.diverged)
        # About the mean, so that products in float32 lose nothing of what varies.
        own = block - mean
        gram += _product(own, own)
    gram[bad] = gram[:, bad] = 0
    if cross is not None and reference is not None:
        cross[bad] = 0
        cross[:, reference.diverged] = 0
    if not np.isfinite(gram).all() or not (cross is None or np.isfinite(cross).all()):
        raise InputError("the features are so large that their products overflow")
    if reference is not None and abs(spread - np.trace(reference.gram)) > _CHANGED * spread:
        raise UsageError(
            "the features of the reference have changed since its bank was made",
            hint="give from_features a copy, or leave the array as it is",
        )
    return _Products(gram, cross, math.sqrt(squared_shift), energy, bad)


def _square(values: Tensor, rows: NDArray[np.bool_] | None = None) -> float:
    """The sum of the squares, which may exceed float32, of all rows or of some."""
    if rows is not None and not rows.all():
        values = values[torch.from_numpy(rows).to(values.device)]
    return float(torch.linalg.vector_norm(values, dim=-1).cpu().double().square().sum())


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
            return (one @ other.T).cpu().double().numpy()
        product = one.new_zeros((len(one), len(one)))
        step = -(-len(one) // _STRIPS)
        for start in range(0, len(one), step):
            # It is symmetric: what lies above the diagonal need not be computed.
            stop = start + step
            product[start:, start:stop] = one[start:] @ one[start:stop].T
            product[start:stop, stop:] = product[stop:, start:stop].T
        return product.cpu().double().numpy()
