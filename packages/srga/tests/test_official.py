import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowvis_shared.errors import InputError, MissingExtraError, UsageError
from lowvis_shared.testing import mirror_path
from lowvis_srga.comparison import srga
from lowvis_srga.official import official_srga
from numpy.typing import NDArray
from safetensors.numpy import load_file

SETS = ("ref", "damped", "noisy", "shifted", "scaled")
DIMENSIONS = 16


def features(count: int = 12, width: int = 40, *, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).laplace(size=(count, width))


# --- the authors' figures -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    return load_file(mirror_path("golden/srga/pca.safetensors"))


def golden_set(golden: dict[str, NDArray[Any]], name: str, number: type) -> NDArray[Any]:
    if name == "shifted":
        return golden["features.ref"].astype(number) + golden["shift_row"].astype(number)
    if name == "scaled":
        return golden["features.ref"].astype(number) * number(1.5)
    return golden[f"features.{name}"].astype(number)


@pytest.mark.parametrize("index", range(len(SETS)), ids=SETS)
# The script adds float32 scores up in float32.
@pytest.mark.parametrize(
    ("key", "number", "tolerance"),
    [("official", np.float64, 1e-12), ("official_float32", np.float32, 1e-5)],
)
def test_figures_of_the_authors_script(
    golden: dict[str, NDArray[Any]], key: str, number: type, tolerance: float, index: int
):
    pytest.importorskip("sklearn")
    reference, test = (golden_set(golden, name, number) for name in ("ref", SETS[index]))
    result = official_srga(reference, test, dimensions=DIMENSIONS)
    assert result.test.sigma == pytest.approx(golden[f"{key}.sigma"][index], rel=tolerance)
    assert result.test.alpha == golden[f"{key}.alpha"][index]
    assert result.test.clipped == golden[f"{key}.clipped"][index]
    assert result.test.count == 64 * DIMENSIONS - result.test.clipped
    assert result.divergence == pytest.approx(golden[f"{key}.kld"][index], rel=tolerance, abs=1e-12)
    assert result.value == pytest.approx(golden[f"{key}.srga"][index], rel=tolerance, abs=1e-8)
    assert result.reference.sigma == pytest.approx(golden[f"{key}.sigma"][0], rel=tolerance)


def test_the_solver_of_the_script_is_not_the_exact_one(golden: dict[str, NDArray[Any]]):
    pytest.importorskip("sklearn")
    reference, test = (golden_set(golden, name, np.float64) for name in ("ref", "noisy"))
    official = official_srga(reference, test, dimensions=DIMENSIONS)
    exact = srga(reference, test, dimensions=DIMENSIONS, signs="features")
    assert exact.value == pytest.approx(golden["official_full_svd.srga"][2], abs=1e-6)
    assert 0.002 < official.value - exact.value < 0.003


# --- what goes in and comes out -------------------------------------------------------------------


def test_files_and_arrays_give_the_same(tmp_path: Path):
    pytest.importorskip("sklearn")
    reference, test = features().reshape(12, 4, 5, 2), features(seed=1)
    np.save(tmp_path / "reference.npy", reference)
    np.save(tmp_path / "test.npy", np.asfortranarray(test))
    before = test.copy()
    result = official_srga(reference, test, dimensions=5)
    files = official_srga(tmp_path / "reference.npy", str(tmp_path / "test.npy"), dimensions=5)
    assert files.value == pytest.approx(result.value, rel=1e-9)
    np.testing.assert_array_equal(test, before)


def test_a_comparison_as_of_srga():
    pytest.importorskip("sklearn")
    reference, test = features(), features(seed=1)
    # So few patches are analysed exactly.
    exact = srga(reference, test, dimensions=5, signs="features")
    result = official_srga(reference, test, dimensions=5)
    assert result.reference.sigma == pytest.approx(exact.reference.sigma, rel=1e-9)
    assert result.test.alpha == exact.test.alpha
    assert result.value == pytest.approx(exact.value, rel=1e-9)
    assert (result.dimensions, result.patches, result.dropped) == (5, 12, 0)
    assert (result.basis, result.mean_shift, result.outside) == ("own", None, None)
    assert result.notes == ()


def test_rows_are_taken_from_the_start():
    pytest.importorskip("sklearn")
    reference, test = features(), features(seed=1)
    expected = official_srga(reference[:8], test[:8], dimensions=5)
    assert official_srga(reference, test[:10], dimensions=5, rows=8) == expected
    assert expected.patches == 8


def test_a_shape_at_the_end_of_the_grid_is_noted():
    pytest.importorskip("sklearn")
    # One axis of which all scores but two are the same.
    peaked = np.zeros((40, 8), np.float64)
    peaked[0, 0], peaked[1, 0] = 1, -1
    result = official_srga(peaked, features(40, 8), dimensions=1, rows=40)
    assert result.notes == (
        "the shape of the reference set lies at an end of the grid (0.200): its scores are not "
        "distributed so",
    )


# --- errors ---------------------------------------------------------------------------------------


def with_value(value: float) -> NDArray[np.float64]:
    values = features()
    values[3, 7] = value
    return values


@pytest.mark.parametrize(
    ("reference", "test", "message"),
    [
        (features(), features(11), "12 patches in the reference set, but 11 in the other"),
        (features(), features(12, 39), "differ in width: 40 and 39"),
        (features(4), features(4), "4 patches of 40 features have no 5 principal axes"),
        (features(12, 4), features(12, 4), "12 patches of 4 features have no 5 principal axes"),
        (features(), with_value(np.nan), "1 of 12 patches of the test set have features that are"),
        (with_value(np.inf), features(), "1 of 12 patches of the reference set have features"),
        (features(), np.full((12, 40), 0.1), "the test set has the same features for all patches"),
        (features()[0], features(), r"real numbers \(patches, features\), not float64 \(40,\)"),
        (features() * 1j, features(), "real numbers .* not complex128"),
        (features()[:0], features(), r"not float64 \(0, 40\)"),
    ],
)
def test_features_that_cannot_be_compared(
    reference: NDArray[Any], test: NDArray[Any], message: str
):
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match=message):
        official_srga(reference, test, dimensions=5)


def test_features_out_of_range():
    pytest.importorskip("sklearn")
    huge = np.sign(features()) * 1e308  # which add up to more than there is
    with pytest.raises(InputError, match="the reference set has no principal axes"):
        official_srga(huge, huge, dimensions=5)


@pytest.mark.parametrize("dimensions", [0, -1])
def test_no_axes(dimensions: int):
    with pytest.raises(InputError, match=f"no {dimensions} principal axes"):
        official_srga(features(), features(), dimensions=dimensions)


def test_no_rows():
    with pytest.raises(UsageError, match="0 rows"):
        official_srga(features(), features(), dimensions=5, rows=0)


def missing(_path: Path) -> None:
    pass


def empty(path: Path) -> None:
    path.touch()


def archive(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and no more")


def objects(path: Path) -> None:
    np.save(path, np.array([[{}]], dtype=object))


def cut(path: Path) -> None:
    np.save(path, features())
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("write", [missing, empty, archive, objects, cut, Path.mkdir])
def test_files_that_cannot_be_read(tmp_path: Path, write: Callable[[Path], None]):
    path = tmp_path / "features.npy"
    write(path)
    with pytest.raises(InputError, match=r"features\.npy: cannot be read as \.npy"):
        official_srga(features(), path, dimensions=5)


def test_a_file_of_something_else(tmp_path: Path):
    np.save(tmp_path / "features.npy", np.array(["a", "b"]))
    with pytest.raises(InputError, match=r"features\.npy: features are real numbers"):
        official_srga(tmp_path / "features.npy", features(), dimensions=5)


def test_scikit_learn_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    for name in ("sklearn", "sklearn.decomposition"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="'official' extra of lowvis-srga"):
        official_srga(features(), features(), dimensions=5)
