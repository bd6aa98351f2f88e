"""Inner products of features: exact from every source, at every width, and on the way to a file."""

import errno
import io
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_shared.errors import DeviceError, InputError, OutputError, UsageError
from lowvis_shared.testing import files_below, mirror_path
from lowvis_srga.bank import FeatureBank, FeatureStore
from numpy.typing import DTypeLike, NDArray
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA

BLOCK = 8192
WIDTHS = (1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3000)
WIDE = 2 * BLOCK + 3000
PATCHES = 24

Doubles = NDArray[np.float64]


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> list[io.FileIO]:
    """Stores take a temporary file. The list gets those that were opened."""
    monkeypatch.setattr("lowvis_srga.storage.available_memory", lambda: 0)
    opened: list[io.FileIO] = []
    original: Callable[..., io.FileIO] = tempfile.TemporaryFile

    def recording(*arguments: Any, **options: Any) -> io.FileIO:
        opened.append(original(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr("lowvis_srga.storage.tempfile.TemporaryFile", recording)
    return opened


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    return load_file(mirror_path("golden/srga/pca.safetensors"))


def random(
    width: int = WIDE, *, patches: int = PATCHES, seed: int = 0, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Features as networks have them: means far from 0, and variances of every size."""
    generator = np.random.default_rng(seed)
    spread = generator.gamma(0.5, 2, width)
    values = generator.normal(0, 1, (patches, width)) * spread + generator.normal(0, 5, width)
    return values.astype(dtype)


def gram_of(features: NDArray[Any]) -> Doubles:
    values = features.reshape(len(features), -1).astype(np.float64)
    values = values - values.mean(axis=0)
    return values @ values.T


def assert_close(ours: Doubles, expected: Doubles, tolerance: float) -> None:
    """Compare relative to the largest value."""
    assert ours.shape == expected.shape
    assert ours.dtype == np.float64
    assert np.abs(ours - expected).max() <= tolerance * np.abs(expected).max()


def assert_same(one: FeatureBank, other: FeatureBank, tolerance: float = 0.0) -> None:
    assert_close(one.gram, other.gram, tolerance)
    assert one.width == other.width
    assert np.array_equal(one.diverged, other.diverged)
    assert (one.cross is None) == (other.cross is None)
    if one.cross is not None and other.cross is not None:
        assert_close(one.cross, other.cross, tolerance)
    assert one.shift == pytest.approx(other.shift, rel=max(tolerance, 1e-12), abs=1e-6)


def filled(
    features: NDArray[Any], sizes: tuple[int, ...], reference: FeatureBank | None = None
) -> FeatureBank:
    """A bank of a store whose features come in batches."""
    with FeatureStore(len(features)) as store:
        for part in torch.from_numpy(features).split(list(sizes)):
            store.add(part)
        return store.bank(reference)


# --- products -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6), (np.float16, 2e-6)]
)
def test_products_are_those_of_the_centered_features(
    width: int, dtype: DTypeLike, tolerance: float
) -> None:
    features = random(width, dtype=dtype)
    bank = FeatureBank.from_features(features)
    assert (bank.patches, bank.width) == (PATCHES, width)
    assert not bank.diverged.any()
    assert_close(bank.gram, gram_of(features), tolerance)


@pytest.mark.parametrize("patches", [2, 3, 15, 16, 17, 67, 130])
def test_products_of_any_number_of_patches_are_whole(patches: int) -> None:
    first, second = (random(50, patches=patches, seed=seed) for seed in (0, 1))
    reference = FeatureBank.from_features(first)
    bank = FeatureBank.from_features(second, reference=reference)
    middle = first.mean(axis=0)
    assert bank.cross is not None
    assert_close(reference.gram, gram_of(first), 1e-12)
    assert_close(bank.gram, gram_of(second), 1e-12)
    assert_close(bank.cross, (second - middle) @ (first - middle).T, 1e-12)


def test_a_large_mean_costs_no_accuracy_in_float32() -> None:
    features = (random() + 1000).astype(np.float32)
    assert_close(FeatureBank.from_features(features).gram, gram_of(features), 1e-5)


def test_features_of_any_shape_number_and_layout_are_flattened() -> None:
    features = random(60).round()
    expected = FeatureBank.from_features(features)
    maps = features.reshape(PATCHES, 3, 4, 5)
    for same in (
        maps,
        np.asfortranarray(features),
        np.concatenate([features, features], axis=1)[:, :60],
        torch.from_numpy(maps).requires_grad_(),
        features.astype(np.int16),
        torch.from_numpy(features).bfloat16(),  # has all of these small numbers
    ):
        assert_same(FeatureBank.from_features(same), expected, 1e-6)


def test_features_are_not_changed() -> None:
    features = random()
    features[3, 5] = np.nan
    before = features.copy()
    reference = FeatureBank.from_features(features)
    FeatureBank.from_features(features, reference=reference)
    assert np.array_equal(features, before, equal_nan=True)


def test_products_with_the_reference_are_about_its_mean() -> None:
    first, second = random(), random(seed=1)
    reference = FeatureBank.from_features(first)
    bank = FeatureBank.from_features(second, reference=reference)
    middle = first.mean(axis=0)
    assert bank.cross is not None
    assert_close(bank.cross, (second - middle) @ (first - middle).T, 1e-12)
    distance = np.linalg.norm(second.mean(axis=0) - middle)
    assert bank.shift == pytest.approx(distance, rel=1e-12)
    assert bank.reference == reference.key
    assert_close(bank.gram, gram_of(second), 1e-12)
    assert reference.cross is None
    assert reference.reference == ""


def test_a_key_tells_sets_apart() -> None:
    bank = FeatureBank.from_features(random())
    assert bank.key == FeatureBank.from_features(random()).key
    assert bank.key != FeatureBank.from_features(random(seed=1)).key


@pytest.mark.parametrize("name", ["ref", "damped", "noisy"])
def test_products_and_scores_are_those_of_the_golden_run(
    golden: dict[str, NDArray[Any]], name: str
) -> None:
    reference = FeatureBank.from_features(golden["features.ref"].astype(np.float64))
    bank = FeatureBank.from_features(
        golden[f"features.{name}"].astype(np.float64), reference=reference
    )
    # Golden products are about 0; those about a mean follow from them.
    gram, cross, base = (golden[key] for key in (f"gram.{name}", f"cross_gram.{name}", "gram.ref"))
    rows = gram.mean(axis=0)
    assert_close(bank.gram, gram - rows - rows[:, None] + rows.mean(), 1e-9)
    assert bank.cross is not None
    expected = cross - cross.mean(axis=1, keepdims=True) - base.mean(axis=0) + base.mean()
    assert_close(bank.cross, expected, 1e-9)
    scores = golden[f"scores_full_svd.{name}"]
    assert_close(np.abs(bank.scores(16)), np.abs(scores), 1e-6)


# --- principal axes -------------------------------------------------------------------------------


def test_axes_are_orthonormal_and_fall_and_have_a_sign() -> None:
    bank = FeatureBank.from_features(random())
    values, vectors = bank.axes()
    assert values.shape == (PATCHES - 1,)  # the mean takes one
    assert vectors.shape == (PATCHES, PATCHES - 1)
    assert (np.diff(values) < 0).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(PATCHES - 1), rtol=0, atol=1e-12)
    assert_close((vectors * values) @ vectors.T, bank.gram, 1e-12)
    assert (vectors.max(axis=0) >= -vectors.min(axis=0)).all()


def test_axes_of_no_variance_have_scores_of_0() -> None:
    features = random(4)
    bank = FeatureBank.from_features(features)
    assert bank.axes()[0].shape == (4,)
    scores = bank.scores(10)
    assert scores.shape == (PATCHES, 10)
    assert (scores[:, 4:] == 0).all()
    assert_close(scores @ scores.T, gram_of(features), 1e-12)


def test_scores_are_those_of_scikit_learn_with_its_signs() -> None:
    features = random()
    bank = FeatureBank.from_features(features)
    expected = PCA(12, svd_solver="full").fit_transform(features)
    _, vectors = bank.axes()
    signs = bank.feature_signs(vectors[:, :12])
    assert set(signs) == {-1.0, 1.0}  # else a wrong sign would go unseen
    assert_close(bank.scores(12) * signs, expected, 1e-9)


def test_signs_of_some_patches_are_those_of_scikit_learn(no_memory: list[io.FileIO]) -> None:
    features = random(dtype=np.float32)
    features[4, 100] = np.nan
    keep = np.arange(PATCHES) % 5 != 4
    with FeatureStore(PATCHES) as store:
        store.add(torch.from_numpy(features))
        bank = store.bank()
        _, vectors = bank.axes(keep)
        signs = bank.feature_signs(vectors[:, :8], keep)
    expected = PCA(8, svd_solver="full").fit_transform(features[keep].astype(np.float64))
    assert_close(bank.scores(8, keep) * signs, expected, 1e-5)
    assert len(no_memory) == 1


def test_scores_of_some_patches_are_those_of_their_features_alone() -> None:
    features = random()
    bank = FeatureBank.from_features(features)
    keep = np.arange(PATCHES) % 3 != 1
    draw = np.random.default_rng(1).integers(0, PATCHES, PATCHES)
    for chosen in (keep, draw, np.arange(PATCHES)):
        alone = FeatureBank.from_features(features[chosen])
        assert_close(bank.centered(chosen), alone.gram, 1e-12)
        assert_close(np.abs(bank.scores(6, chosen)), np.abs(alone.scores(6)), 1e-9)


def test_explained_variance_is_the_part_of_the_leading_axes() -> None:
    centered = random(3) - random(3).mean(axis=0)
    vectors, _ = np.linalg.qr(centered)  # of mean 0 like what they span
    bank = FeatureBank.from_features(vectors * np.sqrt([0.5, 3, 1.5]) + 7)
    parts = [bank.explained_variance(dimensions) for dimensions in (1, 2, 3, 9)]
    np.testing.assert_allclose(parts, [0.6, 0.9, 1, 1], rtol=1e-9)


@pytest.mark.parametrize("dimensions", [0, PATCHES + 1])
def test_axes_that_patches_do_not_have_are_refused(dimensions: int) -> None:
    bank = FeatureBank.from_features(random(30))
    with pytest.raises(InputError, match=f"{PATCHES} patches have no {dimensions} principal"):
        bank.scores(dimensions)


# --- sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.dtype(">f4")])
@pytest.mark.parametrize("rows", [None, 10])
def test_a_feature_file_has_the_figures_of_its_array(
    tmp_path: Path, dtype: DTypeLike, rows: int | None
) -> None:
    features = random(dtype=dtype)
    path = tmp_path / "PIES-blur2_HR_term.npy"
    np.save(path, features.reshape(PATCHES, 4, -1))
    native = features.astype(np.dtype(dtype).newbyteorder("="))
    reference = FeatureBank.from_features(native[:rows] + 1)
    bank = FeatureBank.from_npy(path, rows=rows, reference=reference)
    assert bank.patches == (rows or PATCHES)
    assert_same(bank, FeatureBank.from_features(native[:rows], reference=reference))
    assert bank.name == "PIES-blur2_HR_term"
    assert FeatureBank.from_npy(path, name="blur2").name == "blur2"


def test_a_feature_file_can_be_the_reference(tmp_path: Path) -> None:
    np.save(tmp_path / "clean.npy", random())
    np.save(tmp_path / "blur2.npy", random(seed=1))
    reference = FeatureBank.from_npy(tmp_path / "clean.npy")
    bank = FeatureBank.from_npy(tmp_path / "blur2.npy", reference=reference)
    expected = FeatureBank.from_features(
        random(seed=1), reference=FeatureBank.from_features(random())
    )
    assert_same(bank, expected)


def test_a_feature_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    np.save(path, random(40 * BLOCK, patches=8, dtype=np.float32))
    tracemalloc.start()
    try:
        FeatureBank.from_npy(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 5


def text(path: Path) -> None:
    path.write_text("0.1 0.2\n0.3 0.4\n")


def truncated(path: Path) -> None:
    np.save(path, random(50))
    path.write_bytes(path.read_bytes()[:-1])


def half_a_header(path: Path) -> None:
    np.save(path, random(50))
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (text, "cannot be read as .npy"),
        (truncated, "ends too early"),
        (half_a_header, "cannot be read as .npy"),
        (lambda path: np.save(path, np.arange(40).reshape(20, 2)), "holds no floating-point array"),
        (lambda path: np.save(path, random(5).astype(complex)), "holds no floating-point array"),
        (lambda path: np.save(path, random(5).astype(object)), "holds no floating-point array"),
        (lambda path: np.save(path, np.arange(8.0)), "holds no floating-point array"),
        (lambda path: np.save(path, random(5, patches=1)), "holds 1 patches, 2 are wanted"),
        (lambda path: np.save(path, np.asfortranarray(random(5))), "is in Fortran order"),
        (lambda path: path.mkdir(), "cannot be read as .npy"),
        (lambda path: None, "cannot be read as .npy"),
    ],
)
def test_files_that_hold_no_features_are_refused_by_name(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "features.npy"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        FeatureBank.from_npy(path)
    assert str(path) in str(caught.value)


def test_a_file_of_fewer_patches_than_wanted_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", random(5))
    with pytest.raises(InputError, match=f"holds {PATCHES} patches, 800 are wanted"):
        FeatureBank.from_npy(tmp_path / "few.npy", rows=800)


@pytest.mark.parametrize("sizes", [(24,), (1, 7, 16), (8, 8, 8)])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_store_in_a_file_has_the_figures_of_memory(
    no_memory: list[io.FileIO], sizes: tuple[int, ...], width: int
) -> None:
    features = random(width, dtype=np.float32)
    bank = filled(features, sizes)
    assert len(no_memory) == 1
    assert_same(bank, FeatureBank.from_features(features))


def test_a_store_in_memory_has_the_figures_of_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowvis_srga.storage.available_memory", lambda: 2**33)
    monkeypatch.setattr("lowvis_srga.storage.tempfile.TemporaryFile", None)
    features = random(dtype=np.float32)
    assert_same(filled(features, (5, 10, 9)), FeatureBank.from_features(features))
    # It holds float32, whatever comes.
    assert_same(filled(features.astype(np.float64), (24,)), FeatureBank.from_features(features))


def test_a_reference_in_a_file_is_compared_with_like_one_in_memory(
    no_memory: list[io.FileIO],
) -> None:
    first, second = random(dtype=np.float32), random(seed=1, dtype=np.float32)
    with FeatureStore(PATCHES) as store:
        store.add(torch.from_numpy(first))
        bank = filled(second, (12, 12), store.bank())
    expected = FeatureBank.from_features(second, reference=FeatureBank.from_features(first))
    assert_same(bank, expected)
    assert len(no_memory) == 2


def test_the_temporary_file_is_gone_after_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_memory: list[io.FileIO]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    features = random(50, dtype=np.float32)
    with FeatureStore(PATCHES) as store:
        store.add(torch.from_numpy(features))
        bank = store.bank()
        assert not no_memory[0].closed
    assert no_memory[0].closed
    assert bank.scores(3).shape == (PATCHES, 3)  # needs no features
    with pytest.raises(InputError):
        filled(features, (4, PATCHES - 4), reference=FeatureBank.from_features(features[:, 1:]))
    assert no_memory[1].closed
    assert files_below(tmp_path) == []


def test_a_reference_whose_temporary_file_is_gone_is_refused(no_memory: list[io.FileIO]) -> None:
    features = random(50, dtype=np.float32)
    reference = filled(features, (PATCHES,))
    with pytest.raises(UsageError, match="the features are gone"):
        FeatureBank.from_features(features, reference=reference)
    with pytest.raises(UsageError, match="the features are gone"):
        reference.feature_signs(reference.axes()[1])
    assert len(no_memory) == 1


def test_a_full_disk_is_told_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_memory: list[io.FileIO]
) -> None:
    class Full(io.FileIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        "lowvis_srga.storage.tempfile.TemporaryFile", lambda buffering: Full(tmp_path / "x", "w+")
    )
    message = f"no room for the features in {tempfile.gettempdir()}: No space left"
    with pytest.raises(DeviceError, match=message) as caught, FeatureStore(4) as store:
        store.add(torch.ones(2, 10))
    assert "TMPDIR" in str(caught.value.hint)


def test_a_store_takes_as_many_patches_as_were_announced() -> None:
    with FeatureStore(4) as store:
        with pytest.raises(UsageError, match="0 of 4 patches are here"):
            store.bank()
        store.add(torch.rand(3, 5))
        with pytest.raises(UsageError, match="3 of 4 patches are here"):
            store.bank()
        with pytest.raises(UsageError, match="more than the 4 patches"):
            store.add(torch.rand(2, 5))
        with pytest.raises(InputError, match="7 features of a patch, and 5 before"):
            store.add(torch.rand(1, 7))
        store.add(torch.rand(1, 5))
        assert store.bank().patches == 4


def test_a_store_names_its_bank() -> None:
    names = tuple("abcd")
    with FeatureStore(4) as store:
        store.add(torch.rand(4, 5))
        bank = store.bank(ids=names, name="blur2", network="net", layer="output")
        assert (bank.ids, bank.name, bank.network, bank.layer) == (names, "blur2", "net", "output")
        with pytest.raises(UsageError, match="2 ids for 4 patches"):
            store.bank(ids=names[:2])


@pytest.mark.parametrize("shape", [(5,), (1, 5), (0, 5), (4, 0), ()])
def test_what_is_no_matrix_of_patches_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at least two patches"):
        FeatureBank.from_features(np.ones(shape))


def test_complex_features_are_refused() -> None:
    with pytest.raises(InputError, match="not complex"):
        FeatureBank.from_features(random(5).astype(complex))


def test_features_of_another_width_than_the_reference_are_refused() -> None:
    reference = FeatureBank.from_features(random(7))
    with pytest.raises(InputError, match="5 features of a patch, but 7 in the reference set"):
        FeatureBank.from_features(random(5), reference=reference)


def test_features_whose_products_overflow_are_refused() -> None:
    with pytest.raises(InputError, match="products overflow"):
        FeatureBank.from_features(random(50, dtype=np.float32) * np.float32(1e30))


# --- features without meaning ---------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, WIDE])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_features_are_refused(width: int, dtype: DTypeLike) -> None:
    same = np.repeat(random(width, patches=1), PATCHES, axis=0).astype(dtype)
    with pytest.raises(InputError, match="the same features for all patches of blur2"):
        FeatureBank.from_features(same, name="blur2")


def test_features_of_0_are_refused_when_they_are_to_tell_something() -> None:
    bank = FeatureBank.from_features(np.zeros((PATCHES, 30)), name="blur2")
    with pytest.raises(InputError, match="the same features for all patches of blur2"):
        bank.scores(1)


def test_features_that_hardly_vary_are_no_constant_ones() -> None:
    features = 1 + 1e-4 * random(30)
    assert_close(FeatureBank.from_features(features).gram, gram_of(features), 1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, BLOCK + 5, WIDE - 1])
def test_patches_with_infinite_features_are_flagged_and_harm_no_others(
    bad: float, column: int
) -> None:
    first, second = random(), random(seed=1)
    second[[4, 9], column] = bad
    keep = ~np.isin(np.arange(PATCHES), [4, 9])
    reference = FeatureBank.from_features(first)
    bank = FeatureBank.from_features(second, reference=reference, name="noise40")
    assert np.array_equal(bank.diverged, ~keep)
    assert bank.cross is not None
    assert (bank.gram[~keep] == 0).all()
    assert (bank.gram[:, ~keep] == 0).all()
    assert (bank.cross[~keep] == 0).all()
    # Nor does a diverged patch of the reference harm those that are compared with it.
    turned = FeatureBank.from_features(first, reference=bank)
    assert turned.cross is not None
    assert (turned.cross[:, ~keep] == 0).all()
    alone = FeatureBank.from_features(second[keep])
    assert_close(bank.centered(keep), alone.gram, 1e-9)
    assert_close(bank.scores(5, keep), alone.scores(5), 1e-6)
    beside = FeatureBank.from_features(second[keep], reference=reference)
    assert beside.cross is not None
    assert_close(bank.cross[keep], beside.cross, 1e-9)
    assert_close(
        turned.cross[:, keep], FeatureBank.from_features(first, reference=alone).cross, 1e-9
    )


def test_analysis_of_diverged_patches_is_refused_with_their_number() -> None:
    features = random(50)
    features[3:5] = np.inf
    bank = FeatureBank.from_features(features, name="noise40")
    message = f"the network diverges on 2 of {PATCHES} patches of noise40"
    for call in (bank.centered, bank.axes, lambda: bank.scores(3)):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "drop_diverged" in str(caught.value.hint)
    with pytest.raises(InputError, match="diverges on 1 of 4 patches"):
        bank.scores(2, np.array([0, 4, 7, 9]))


def test_a_set_of_diverged_patches_alone_is_a_bank_that_nothing_can_be_asked() -> None:
    bank = FeatureBank.from_features(np.full((4, 10), np.nan))
    assert bank.diverged.all()
    with pytest.raises(InputError, match="diverges on 4 of 4 patches"):
        bank.scores(1)


def test_patches_that_the_caller_marks_are_out_whatever_their_features() -> None:
    features = random(dtype=np.float32)
    features[7] *= 1e12  # enough to drown all others in float32
    marked = torch.zeros(PATCHES, dtype=torch.bool)
    marked[7] = True
    with FeatureStore(PATCHES) as store:
        for part in (slice(0, 10), slice(10, None)):
            store.add(torch.from_numpy(features[part]), marked[part])
        bank = store.bank()
    keep = ~marked.numpy()
    assert np.array_equal(bank.diverged, ~keep)
    assert_close(bank.centered(keep), gram_of(features[keep]), 2e-6)


# --- files of banks -------------------------------------------------------------------------------


def full_bank() -> FeatureBank:
    """A bank that has something in every attribute."""
    reference = FeatureBank.from_features(random(40))
    features = random(40, seed=1)
    features[2, 1] = np.nan
    with FeatureStore(PATCHES) as store:
        store.add(torch.from_numpy(features))
        return store.bank(
            reference,
            ids=[f"Bürg {number}\n" for number in range(PATCHES)],
            name="blur2+noise10",
            network="netz №1",
            layer="input of conv_last",
        )


def test_a_bank_comes_back_from_its_file(tmp_path: Path) -> None:
    bank = full_bank()
    path = tmp_path / "new folder" / "blur2.bank"
    bank.save(path)
    loaded = FeatureBank.load(path)
    assert np.array_equal(loaded.gram, bank.gram)
    assert np.array_equal(loaded.diverged, bank.diverged)
    assert loaded.diverged.dtype == np.bool_
    assert bank.cross is not None
    assert loaded.cross is not None
    assert np.array_equal(loaded.cross, bank.cross)
    for attribute in ("width", "shift", "reference", "ids", "name", "network", "layer", "key"):
        assert getattr(loaded, attribute) == getattr(bank, attribute), attribute
    assert loaded.columns is None
    keep = ~bank.diverged
    assert np.array_equal(loaded.scores(5, keep), bank.scores(5, keep))


def test_a_bank_without_reference_comes_back_without(tmp_path: Path) -> None:
    bank = FeatureBank.from_features(random(40))
    bank.save(tmp_path / "clean.bank")
    loaded = FeatureBank.load(tmp_path / "clean.bank")
    assert loaded.cross is None
    assert (loaded.reference, loaded.ids, loaded.shift) == ("", (), 0.0)
    loaded.save(tmp_path / "again.bank")
    assert FeatureBank.load(tmp_path / "again.bank").key == bank.key


def test_a_file_is_small_whatever_the_features_took(tmp_path: Path) -> None:
    FeatureBank.from_features(random(dtype=np.float32)).save(tmp_path / "bank")
    assert (tmp_path / "bank").stat().st_size < 8 * PATCHES**2 + 2000


def test_a_file_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "clean.bank"
    first, second = FeatureBank.from_features(random(40)), FeatureBank.from_features(random(50))
    first.save(path)
    with pytest.raises(OutputError, match="exists already"):
        second.save(path)
    assert FeatureBank.load(path).key == first.key
    second.save(path, overwrite=True)
    assert FeatureBank.load(path).key == second.key


@pytest.mark.parametrize("length", [0, 4, 8, 100, 1000, -1])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.bank"
    full_bank().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"cut\.bank: no feature bank, or damaged"):
        FeatureBank.load(path)


def weights(path: Path) -> None:
    save_file({"gram": np.eye(3)}, path)


def other_metadata(path: Path) -> None:
    save_file({"gram": np.eye(3)}, path, {"what": "weights"})


def without_gram(path: Path) -> None:
    full_bank().save(path)
    path.write_bytes(path.read_bytes().replace(b'"gram"', b'"gran"'))


def without_width(path: Path) -> None:
    full_bank().save(path)
    path.write_bytes(path.read_bytes().replace(b'\\"width\\"', b'\\"wirth\\"'))


@pytest.mark.parametrize(
    "write",
    [text, weights, other_metadata, without_gram, without_width, lambda path: np.save(path, 1)],
)
def test_other_files_are_no_banks(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "other.npy"
    write(path)
    with pytest.raises(InputError, match=r"other\.npy: no feature bank, or damaged"):
        FeatureBank.load(path)


def test_a_bank_of_another_version_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "new.bank"
    full_bank().save(path)
    path.write_bytes(path.read_bytes().replace(b"feature bank 1", b"feature bank 2"))
    with pytest.raises(InputError, match="a bank of another version"):
        FeatureBank.load(path)


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        FeatureBank.load(tmp_path / "missing.bank")
    with pytest.raises(InputError, match="a folder"):
        FeatureBank.load(tmp_path)


def test_a_bank_from_a_file_has_no_features_to_go_back_to(tmp_path: Path) -> None:
    FeatureBank.from_features(random(40)).save(tmp_path / "clean.bank")
    loaded = FeatureBank.load(tmp_path / "clean.bank")
    with pytest.raises(UsageError, match="no features left: it comes from a file"):
        FeatureBank.from_features(random(40), reference=loaded)
    with pytest.raises(UsageError, match="no features left: it comes from a file"):
        loaded.feature_signs(loaded.axes()[1])


@pytest.mark.parametrize("size", [1e4, 1e19, 1e30])
def test_a_patch_that_diverges_late_leaves_no_trace_in_the_others(size: float) -> None:
    features = random(20000, dtype=np.float32)
    spoilt = features.copy()
    spoilt[5, :100] = size  # large, but finite in the blocks before its first NaN
    spoilt[5, 15000] = np.nan
    reference = FeatureBank.from_features(features)
    keep = np.arange(len(features)) != 5
    bank = FeatureBank.from_features(spoilt, reference=reference)
    expected = FeatureBank.from_features(features[keep], reference=reference)
    largest = np.abs(expected.gram).max()
    assert np.abs(bank.centered(keep) - expected.gram).max() < 1e-5 * largest
    assert bank.shift == pytest.approx(expected.shift, rel=1e-4)


def test_arrays_of_any_layout_are_taken() -> None:
    features = random(50, dtype=np.float32)
    expected = FeatureBank.from_features(features).gram
    read_only = features.copy()
    read_only.flags.writeable = False
    for other in (read_only, features[::-1][::-1], features.astype(">f4")):
        assert np.array_equal(FeatureBank.from_features(other).gram, expected)


def test_a_name_that_is_no_text_is_kept(tmp_path: Path) -> None:
    FeatureBank.from_features(random(50), name="bl\udcffur").save(tmp_path / "bank")
    assert FeatureBank.load(tmp_path / "bank").name == "bl\udcffur"


def test_a_bank_is_written_the_same_each_time(tmp_path: Path) -> None:
    bank = full_bank()
    for number in range(4):
        bank.save(tmp_path / str(number))
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        {"gram": np.zeros((3, 4))},
        {"gram": np.full((PATCHES, PATCHES), np.nan)},
        {"diverged": np.zeros(3, np.bool_)},
        {"cross": np.zeros((2, 2))},
    ],
)
def test_figures_that_do_not_fit_together_are_refused(
    tmp_path: Path, spoilt: dict[str, NDArray[Any]]
) -> None:
    replace(full_bank(), **spoilt).save(tmp_path / "bank")
    with pytest.raises(InputError, match="do not fit together"):
        FeatureBank.load(tmp_path / "bank")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk"])
def test_empty_files_and_archives_are_no_features(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "features.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as .npy"):
        FeatureBank.from_npy(tmp_path / "features.npy")
