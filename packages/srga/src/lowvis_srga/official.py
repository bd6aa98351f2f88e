"""SRGA by the principal component analysis of the authors' script, to check values of old against.

`lowvis_srga.comparison.srga` has exact axes and reads features block by block. The script calls
scikit-learn, which from some size on finds the last axes only approximately: about 0.001 of the
index in the paper's setting, some thousandths for few patches and axes.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from lowvis_shared.errors import InputError, MissingExtraError, UsageError
from numpy.typing import NDArray

from lowvis_srga.comparison import DIMENSIONS, PATCHES, Comparison, saturation_notes
from lowvis_srga.statistics import fit_ggd, kld_ggd, srga_index
from lowvis_srga.storage import read_header

Features = NDArray[Any] | str | os.PathLike[str]
"""Features (n, p), further axes are flattened; or the path of a file ``*.npy`` that holds them."""


def official_srga(
    reference: Features, test: Features, *, dimensions: int = DIMENSIONS, rows: int = PATCHES
) -> Comparison:
    """Return the index as the authors' script computes it, with scikit-learn, for values of old.

    float64 features give the script's figures to the last digit, with the same scikit-learn. For
    float32 the axes are the script's too, but not the rounding of its sums: 1e-6 in sigma.

    The features of one set and copies of them have to fit into memory: for 800 patches of a million
    float32 features 3.4 GB, and about three times that while the axes are found. For new values
    `lowvis_srga.comparison.srga` is exact, faster and takes little memory.

    Args:
        reference: Features of the reference set. float32 is computed in float32, all else in
            float64.
        test: Features of the test set.
        dimensions: Principal axes.
        rows: Patches that are taken from the start of each set; all where there are fewer.

    Raises:
        InputError: A file cannot be read, there are fewer patches or features than axes, constant
            features, features that are not finite, or sets of different size.
        MissingExtraError: scikit-learn is not installed.
        UsageError: ``rows`` is not positive.
    """
    if rows < 1:
        raise UsageError(f"{rows} rows are no patches")
    ours, theirs = _open(reference, rows), _open(test, rows)
    if len(ours) != len(theirs):
        raise InputError(
            f"{len(ours)} patches in the reference set, but {len(theirs)} in the other",
            hint="SRGA grows with the number of patches: compare equally many",
        )
    if ours.shape != theirs.shape:
        raise InputError(f"the sets differ in width: {ours.shape[1]} and {theirs.shape[1]}")
    if not 1 <= dimensions <= min(ours.shape):
        raise InputError(
            f"{ours.shape[0]} patches of {ours.shape[1]} features have no {dimensions} principal "
            "axes",
            hint="take more patches, or fewer dimensions",
        )
    # One after the other: the scores are all that stays of a set.
    fits = [
        fit_ggd(_scores(features, dimensions, which))
        for features, which in ((ours, "reference"), (theirs, "test"))
    ]
    divergence = kld_ggd(*fits)
    return Comparison(
        value=srga_index(divergence),
        divergence=divergence,
        reference=fits[0],
        test=fits[1],
        dimensions=dimensions,
        patches=len(ours),
        dropped=0,
        basis="own",
        mean_shift=None,
        outside=None,
        notes=tuple(saturation_notes(*fits)),
    )


def _open(features: Features, rows: int) -> NDArray[Any]:
    """Return the first rows, (n, p); those of a file are mapped, not read."""
    where = ""
    if not isinstance(features, np.ndarray):
        path = Path(features)
        where = f"{path}: "
        read_header(path)
        try:
            features = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as .npy: {error}") from error
    if features.dtype.kind not in "fiu" or features.ndim < 2 or features.size == 0:
        raise InputError(
            f"{where}features are real numbers (patches, features), not {features.dtype} "
            f"{features.shape}"
        )
    return features[:rows].reshape(min(rows, len(features)), -1)


def _scores(features: NDArray[Any], dimensions: int, which: str) -> NDArray[Any]:
    """Return the scores (n, d) that scikit-learn gives."""
    try:
        from sklearn.decomposition import PCA
    except ModuleNotFoundError as error:
        raise MissingExtraError("lowvis-srga", "official") from error
    if bad := sum(not np.isfinite(row).all() for row in features):
        raise InputError(
            f"{bad} of {len(features)} patches of the {which} set have features that are not finite"
        )
    if all(np.array_equal(row, features[0]) for row in features):
        raise InputError(f"the {which} set has the same features for all patches")
    analysis = PCA(n_components=dimensions, random_state=0)
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return analysis.fit_transform(features)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise InputError(f"the {which} set has no principal axes: {error}") from error
