"""SRGA of two sets: the authors' figures, end to end, and what users of the index rely on."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_srga.bank import FeatureBank
from lowvis_srga.comparison import (
    Comparison,
    Pair,
    Signs,
    default_dimensions,
    indices,
    resampled_fits,
    srga,
)
from lowvis_srga.features import open_tap
from lowvis_srga.statistics import fit_ggd, kld_ggd, srga_index
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.decomposition import PCA

SETS = ("ref", "damped", "noisy", "shifted", "scaled")
PATCHES, WIDTH = 40, 300

Doubles = NDArray[np.float64]


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    return load_file(mirror_path("golden/srga/pca.safetensors"))


@pytest.fixture(scope="module")
def golden_sets(golden: dict[str, NDArray[Any]]) -> dict[str, Doubles]:
    sets = {name: golden[f"features.{name}"].astype(np.float64) for name in SETS[:3]}
    sets["shifted"] = sets["ref"] + golden["shift_row"].astype(np.float64)
    sets["scaled"] = 1.5 * sets["ref"]
    return sets


def clean(seed: int = 0, *, patches: int = PATCHES, width: int = WIDTH) -> Doubles:
    """Features with a few strong directions and a mean, as networks have them."""
    generator = np.random.default_rng(seed)
    strength = 3 / np.arange(1, 16)
    common = generator.normal(0, 1, (patches, 15)) * strength @ generator.normal(0, 1, (15, width))
    return common + 0.1 * generator.standard_t(4, (patches, width)) + generator.normal(0, 2, width)


def degraded(features: Doubles, amount: float = 1.0, seed: int = 1) -> Doubles:
    """The same scenes with less contrast, noise and another mean."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 0.3 * amount, features.shape)
    return features / (1 + 0.2 * amount) + noise + generator.normal(0, amount, features.shape[1])


def banks(first: Doubles, second: Doubles, **names: str) -> tuple[FeatureBank, FeatureBank]:
    """Two banks that were made together."""
    reference = FeatureBank.from_features(first)
    return reference, FeatureBank.from_features(second, reference=reference, **names)


def assert_same(one: Comparison, other: Comparison, tolerance: float = 1e-9) -> None:
    """Compare all that follows from the features of the patches compared."""
    assert one.value == pytest.approx(other.value, abs=1e-6)
    for ours, theirs in ((one.reference, other.reference), (one.test, other.test)):
        assert ours.sigma == pytest.approx(theirs.sigma, rel=tolerance)
        assert ours.alpha == theirs.alpha
        assert (ours.count, ours.clipped) == (theirs.count, theirs.clipped)
    assert one.outside == pytest.approx(other.outside, abs=tolerance)
    assert (one.dimensions, one.patches) == (other.dimensions, other.patches)


# --- golden figures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 1e-4)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("place", range(5), ids=SETS)
def test_feature_sets_have_the_figures_of_the_authors_script(
    golden: dict[str, NDArray[Any]],
    golden_sets: dict[str, Doubles],
    place: int,
    dtype: type[np.floating[Any]],
    tolerance: float,
) -> None:
    features = golden_sets[SETS[place]].astype(dtype)
    reference = golden_sets["ref"].astype(dtype)
    found = srga(reference, features, dimensions=16, signs="features")
    expected = {
        quantity: float(golden[f"official_full_svd.{quantity}"][place])
        for quantity in ("sigma", "alpha", "clipped", "kld", "srga")
    }
    assert found.test.sigma == pytest.approx(expected["sigma"], rel=tolerance)
    assert found.test.clipped == expected["clipped"]
    assert found.test.alpha == pytest.approx(expected["alpha"], abs=1e-9)
    assert found.divergence == pytest.approx(expected["kld"], rel=1e-4, abs=1e-9)
    assert found.value == pytest.approx(expected["srga"], abs=1e-4)
    assert (found.dimensions, found.patches, found.dropped) == (16, 64, 0)


@pytest.mark.parametrize("place", range(5), ids=SETS)
def test_other_signs_of_the_axes_change_little(
    golden: dict[str, NDArray[Any]], golden_sets: dict[str, Doubles], place: int
) -> None:
    found = srga(golden_sets["ref"], golden_sets[SETS[place]], dimensions=16)
    expected = {
        quantity: float(golden[f"official_full_svd.{quantity}"][place])
        for quantity in ("sigma", "alpha", "clipped", "srga")
    }
    assert found.test.sigma == pytest.approx(expected["sigma"], rel=1e-6)
    assert found.test.clipped == expected["clipped"]
    assert found.test.alpha == pytest.approx(expected["alpha"], abs=0.005 + 1e-9)
    assert found.value == pytest.approx(expected["srga"], abs=0.05)


@pytest.mark.parametrize("signs", ["patches", "features"])
@pytest.mark.parametrize("place", range(5), ids=SETS)
def test_about_zero_the_signs_of_the_axes_do_not_count(
    golden: dict[str, NDArray[Any]], golden_sets: dict[str, Doubles], place: int, signs: Signs
) -> None:
    found = srga(
        golden_sets["ref"], golden_sets[SETS[place]], dimensions=16, center="zero", signs=signs
    )
    expected = {
        quantity: float(golden[f"signfree.{quantity}"][place])
        for quantity in ("sigma", "alpha", "srga")
    }
    assert found.test.sigma == pytest.approx(expected["sigma"], rel=1e-6)
    assert found.test.alpha == pytest.approx(expected["alpha"], abs=1e-9)
    assert found.value == pytest.approx(expected["srga"], abs=1e-6)


@pytest.mark.parametrize("place", range(5), ids=SETS)
def test_the_axes_of_the_reference_give_the_golden_figures(
    golden: dict[str, NDArray[Any]], golden_sets: dict[str, Doubles], place: int
) -> None:
    found = srga(golden_sets["ref"], golden_sets[SETS[place]], dimensions=16, basis="reference")
    expected = {
        quantity: float(golden[f"shared_basis.{quantity}"][place])
        for quantity in ("sigma", "alpha", "clipped", "srga", "mean_shift_full")
    }
    assert found.basis == "reference"
    assert found.test.sigma == pytest.approx(expected["sigma"], rel=1e-6)
    assert found.test.clipped == expected["clipped"]
    # The shape of "shifted" lies between two values of the grid, and 1 in 1000 moves its index.
    assert found.test.alpha == pytest.approx(expected["alpha"], abs=0.001 + 1e-9)
    assert found.value == pytest.approx(expected["srga"], abs=0.03)
    assert found.mean_shift == pytest.approx(expected["mean_shift_full"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("network", "layer", "white"),
    [
        ("pan", "input of conv_last", 1),
        ("imdn", "input of upsampler.0", 1),
        # The golden run gave pictures in 0..1 to weights that take 0..255. Our tap scales pictures
        # to what the weights take, so that it gets them 255 times darker for the same features.
        ("rfdn", "input of upsampler.0", 255),
    ],
)
def test_published_networks_have_the_figures_of_the_golden_run(
    network: str, layer: str, white: int
) -> None:
    figures = load_file(mirror_path("golden/srga/networks.safetensors"))
    asset_path("pan/x4/official" if network == "pan" else f"aim2020/{network}-x4/official")
    kind = network.upper()
    tap = open_tap(f"{network}-x4@official", device="cpu", offline=True, accept_licence=True)
    assert tap.layer == layer
    base = None
    for place, name in enumerate(("clean", "blur2", "noise10")):
        low = torch.from_numpy(figures[f"lr.{name}"]).permute(0, 3, 1, 2).float() / 255 / white
        features = torch.cat([tap(batch)[0] for batch in low.split(16)])
        head = features[:4, :: features.shape[1] // 512][:, :512].numpy()
        expected = figures[f"{kind}.feature_head.{name}"]
        assert np.abs(head - expected).max() <= 1e-5 * np.abs(expected).max()

        bank = FeatureBank.from_features(features, reference=base)
        base = base or bank
        gram = figures[f"{kind}.gram.{name}"]  # about 0
        rows = gram.mean(axis=0)
        gram = gram - rows - rows[:, None] + rows.mean()
        assert np.abs(bank.gram - gram).max() <= 1e-5 * np.abs(gram).max()

        assert default_dimensions(64) == 24
        # Signs that are not the script's move the shape by up to 0.007 here (IMDN, noise10).
        for signs, shape, index in (("features", 0.001, 0.005), ("patches", 0.008, 0.05)):
            found = srga(base, bank, signs=signs)
            assert found.dimensions == 24
            assert_golden(found, figures, f"{kind}.official_full_svd", place, shape, index)
        found = srga(base, bank, center="zero")
        assert_golden(found, figures, f"{kind}.signfree", place, 0.001, 0.005)
        assert found.notes == ()


def assert_golden(
    found: Comparison,
    figures: dict[str, NDArray[Any]],
    key: str,
    place: int,
    shape: float,
    index: float,
) -> None:
    sigma, alpha, clipped, value = (
        float(figures[f"{key}.{quantity}"][place])
        for quantity in ("sigma", "alpha", "clipped", "srga")
    )
    assert found.test.sigma == pytest.approx(sigma, rel=1e-4)
    assert found.test.clipped == clipped
    assert found.test.alpha == pytest.approx(alpha, abs=shape + 1e-9)
    assert found.value == pytest.approx(value, abs=index)


# --- the index ------------------------------------------------------------------------------------


def test_a_comparison_is_what_the_specification_says_step_by_step() -> None:
    first, second = clean(), degraded(clean())
    found = srga(first, second, dimensions=12, center="zero")
    fits = []
    for features in (first, second):
        centered = features - features.mean(axis=0)
        left, values, _ = np.linalg.svd(centered, full_matrices=False)
        fits.append(fit_ggd(left[:, :12] * values[:12], center="zero"))
    assert found.reference.sigma == pytest.approx(fits[0].sigma, rel=1e-9)
    assert found.test.sigma == pytest.approx(fits[1].sigma, rel=1e-9)
    assert (found.reference.alpha, found.test.alpha) == (fits[0].alpha, fits[1].alpha)
    assert found.divergence == pytest.approx(kld_ggd(fits[0], fits[1]), rel=1e-6)
    assert found.value == srga_index(found.divergence)
    assert found.value > 2


@pytest.mark.parametrize("basis", ["own", "reference"])
@pytest.mark.parametrize("signs", ["patches", "features"])
def test_a_set_compared_with_itself_has_an_index_of_0(basis: Any, signs: Signs) -> None:
    found = srga(clean(), clean(), basis=basis, signs=signs)
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.mean_shift == 0
    assert found.notes == ()


def test_the_index_grows_with_the_degradation() -> None:
    features = clean()
    values = [srga(features, degraded(features, amount)).value for amount in (0.2, 1, 3)]
    assert values == sorted(values)
    assert values[0] > 0.1


@pytest.mark.parametrize("basis", ["own", "reference"])
@pytest.mark.parametrize("factor", [1 / 255, 64])
def test_the_index_ignores_a_common_scale(basis: Any, factor: float) -> None:
    first, second = clean(), degraded(clean())
    found = srga(first, second, basis=basis)
    scaled = srga(factor * first, factor * second, basis=basis)
    assert scaled.value == pytest.approx(found.value, abs=1e-6)
    assert scaled.test.sigma == pytest.approx(factor * found.test.sigma, rel=1e-9)
    assert scaled.mean_shift == pytest.approx(found.mean_shift, rel=1e-9)
    assert srga(first, factor * first).value > 3


def test_the_index_is_blind_to_the_mean_and_to_the_axes_but_what_is_beside_it_is_not() -> None:
    features = clean()
    row = np.random.default_rng(5).normal(0, 2, WIDTH)
    found = srga(features, features + row)
    assert found.value == pytest.approx(0, abs=1e-6)
    rms = math.sqrt(np.square(features - features.mean(axis=0)).sum() / PATCHES)
    assert found.mean_shift == pytest.approx(np.linalg.norm(row) / rms, rel=1e-9)
    rotated = srga(features, np.roll(features, 7, axis=1))
    assert rotated.value == pytest.approx(0, abs=1e-6)
    assert rotated.outside is not None
    assert rotated.outside > 0.5


def test_coinciding_distributions_of_different_features_are_noted() -> None:
    # A rotation keeps the spectrum, and moving features to other places is one.
    features = clean()
    rotated = np.roll(features, 7, axis=1)
    shared = srga(features, rotated, basis="reference").value
    assert shared > 2
    note = f"the distributions coincide although the features differ ({shared:.2f} on the axes of "
    assert any(each.startswith(note) for each in srga(features, rotated).notes)
    # Not where they do not coincide, where features do not differ, or where that is not known.
    assert srga(features, 1.2 * rotated).notes == ()
    assert srga(features, features).notes == ()
    alone = FeatureBank.from_features(rotated)
    assert srga(FeatureBank.from_features(features), alone).notes == ()


def test_banks_and_arrays_and_tensors_are_the_same() -> None:
    first, second = clean(), degraded(clean())
    reference, test = banks(first, second)
    found = srga(first, second)
    for one, other in (
        (reference, test),
        (reference, second),
        (torch.from_numpy(first), torch.from_numpy(second)),
        (first.reshape(PATCHES, 3, 10, 10), second.reshape(PATCHES, 3, 10, 10)),
    ):
        assert srga(one, other) == found
    # A bank that was not made with this reference has the index, and not what is beside it.
    apart = srga(first, test)
    assert apart.value == found.value
    assert srga(reference, FeatureBank.from_features(second)) == replace(
        found, mean_shift=None, outside=None
    )


def test_banks_from_files_compare_like_new_ones(tmp_path: Path) -> None:
    pair = banks(clean(), degraded(clean()))
    loaded = []
    for number, bank in enumerate(pair):
        bank.save(tmp_path / str(number))
        loaded.append(FeatureBank.load(tmp_path / str(number)))
    assert srga(*loaded) == srga(*pair)
    assert srga(*loaded, basis="reference") == srga(*pair, basis="reference")
    with pytest.raises(UsageError, match="no features left"):
        srga(*loaded, signs="features")


@pytest.mark.parametrize(
    ("patches", "dimensions"),
    [(800, 300), (2000, 300), (300, 112), (160, 60), (64, 24), (2, 1), (1, 1)],
)
def test_the_default_number_of_axes(patches: int, dimensions: int) -> None:
    assert default_dimensions(patches) == dimensions


def test_any_number_of_axes_comes_from_one_analysis() -> None:
    reference, test = banks(clean(), degraded(clean()))
    pair = Pair(reference, test)
    assert pair.compare() == srga(reference, test)
    assert pair.compare().dimensions == 15
    for dimensions in (1, 10, PATCHES):
        found = pair.compare(dimensions)
        assert found == srga(reference, test, dimensions=dimensions)
        assert found.dimensions == dimensions
        assert found.test.count + found.test.clipped == PATCHES * dimensions


def test_arguments_reach_the_fit() -> None:
    reference, test = banks(clean(), degraded(clean()))
    scores = reference.scores(15), test.scores(15)
    for trim in (2.0, 5.0, None):
        found = srga(reference, test, trim=trim)
        assert (found.reference, found.test) == tuple(fit_ggd(each, trim=trim) for each in scores)
    assert srga(reference, test, center="mean") == srga(reference, test)
    found = srga(reference, test, center="zero", trim=2)
    assert found.test == fit_ggd(scores[1], center="zero", trim=2)
    with pytest.raises(UsageError, match="leaves nothing"):
        srga(reference, test, trim=0)


def test_a_result_can_be_written_as_json() -> None:
    found = srga(clean(), degraded(clean()))
    said = json.loads(json.dumps(found.as_dict()))
    assert said["value"] == found.value
    assert said["test"]["alpha"] == found.test.alpha
    assert said["basis"] == "own"


# --- the axes of the reference --------------------------------------------------------------------


@pytest.mark.parametrize("some", [False, True])
def test_scores_on_the_axes_of_the_reference_are_projections(some: bool) -> None:
    first, second = clean(), degraded(clean())
    keep = np.arange(PATCHES) % 3 != 1 if some else np.ones(PATCHES, np.bool_)
    ours, theirs = Pair(*banks(first, second), subset=keep).scores(10, "reference")
    middle = first[keep].mean(axis=0)
    _, _, axes = np.linalg.svd(first[keep] - middle, full_matrices=False)
    expected = [(each[keep] - middle) @ axes[:10].T for each in (first, second)]
    turn = np.sign((ours * expected[0]).sum(axis=0))
    np.testing.assert_allclose(ours * turn, expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(theirs * turn, expected[1], rtol=0, atol=1e-9)


def test_the_axes_of_the_reference_are_about_zero_unless_asked() -> None:
    reference, test = banks(clean(), degraded(clean()))
    found = srga(reference, test, basis="reference")
    assert found == srga(reference, test, basis="reference", center="zero")
    assert found.test.alpha != srga(reference, test, basis="reference", center="mean").test.alpha


def test_signs_by_features_are_those_of_scikit_learn_on_either_axes() -> None:
    first, second = clean(), degraded(clean())
    analysis = PCA(12, svd_solver="full").fit(first)
    shared = analysis.transform(second)
    own = PCA(12, svd_solver="full").fit_transform(second)
    for basis, scores in (("own", own), ("reference", shared)):
        found = srga(first, second, dimensions=12, signs="features", basis=basis, center="mean")
        for ours, theirs in ((found.reference, analysis.transform(first)), (found.test, scores)):
            expected = fit_ggd(theirs)
            assert ours.sigma == pytest.approx(expected.sigma, rel=1e-9)
            assert (ours.alpha, ours.clipped) == (expected.alpha, expected.clipped)


def test_the_axes_of_the_reference_need_banks_that_were_made_together() -> None:
    reference, test = banks(clean(), degraded(clean()))
    other = FeatureBank.from_features(clean(seed=9))
    for first, second in ((other, test), (reference, FeatureBank.from_features(clean()))):
        with pytest.raises(UsageError, match="has not seen this reference set") as caught:
            srga(first, second, basis="reference")
        assert "reference=" in str(caught.value.hint)
        assert srga(first, second).mean_shift is None
        assert srga(first, second).outside is None


def test_what_lies_outside_the_axes_of_the_reference() -> None:
    features = clean()
    reference = FeatureBank.from_features(features)
    part = srga(features, features, dimensions=5).outside
    assert part == pytest.approx(1 - reference.explained_variance(5), abs=1e-9)
    assert srga(features, features, dimensions=PATCHES - 1).outside == pytest.approx(0, abs=1e-9)
    wide = np.concatenate([features, np.zeros_like(features)], axis=1)
    assert srga(wide, np.roll(wide, WIDTH, axis=1)).outside == pytest.approx(1, abs=1e-9)


# --- patches that are left out --------------------------------------------------------------------


def test_diverged_patches_are_left_out_of_both_sets() -> None:
    first, second = clean(), degraded(clean())
    keep = ~np.isin(np.arange(PATCHES), [3, 7, 20])
    expected = srga(first[keep], second[keep])
    first[3], second[7], second[20, 5] = np.inf, np.nan, np.inf
    for basis in ("own", "reference"):
        expected = srga(clean()[keep], degraded(clean())[keep], basis=basis)
        found = srga(first, second, basis=basis, drop_diverged=True)
        assert_same(found, expected)
        assert (found.patches, found.dropped) == (PATCHES - 3, 3)
        assert found.notes == ("without 3 patches on which the network diverges",)
    assert found.reference.count == (PATCHES - 3) * found.dimensions - found.reference.clipped


def test_diverged_patches_are_refused_unless_asked() -> None:
    first, second = clean(), degraded(clean())
    second[[7, 9]] = np.nan
    reference, test = banks(first, second, name="noise40")
    message = f"diverges on 2 of {PATCHES} patches of noise40"
    with pytest.raises(InputError, match=message) as caught:
        srga(reference, test)
    assert "drop_diverged" in str(caught.value.hint)
    with pytest.raises(InputError, match=f"diverges on 2 of {PATCHES} patches"):
        srga(second, first)


def test_a_set_that_diverges_everywhere_is_told() -> None:
    reference, test = banks(clean(), np.full((PATCHES, WIDTH), np.nan), name="noise40")
    message = f"0 of {PATCHES} patches are left to be compared of noise40"
    with pytest.raises(InputError, match=message):
        srga(reference, test, drop_diverged=True)


def test_dropping_changes_nothing_where_no_patch_diverges() -> None:
    reference, test = banks(clean(), degraded(clean()))
    assert srga(reference, test, drop_diverged=True) == srga(reference, test)


@pytest.mark.parametrize("basis", ["own", "reference"])
def test_some_patches_are_compared_like_sets_of_them_alone(basis: Any) -> None:
    first, second = clean(), degraded(clean())
    keep = np.arange(PATCHES) % 4 != 2
    before = keep.copy()
    expected = Pair(*banks(first[keep], second[keep])).compare(12, basis=basis)
    found = Pair(*banks(first, second), subset=keep).compare(12, basis=basis)
    assert_same(found, expected)
    assert found.dropped == 0
    assert found.notes == ()
    signed = Pair(*banks(first, second), subset=keep).compare(12, basis=basis, signs="features")
    expected = srga(first[keep], second[keep], dimensions=12, basis=basis, signs="features")
    assert_same(signed, expected)
    second[5] = np.nan
    dropped = Pair(*banks(first, second), subset=keep, drop_diverged=True)
    assert (dropped.patches, dropped.dropped) == (29, 1)
    assert np.array_equal(keep, before)  # it is the caller's


# --- what cannot be compared, and notes -----------------------------------------------------------


def test_more_axes_than_patches_are_refused() -> None:
    with pytest.raises(InputError, match=f"{PATCHES} patches have no 41 principal") as caught:
        srga(clean(), degraded(clean()), dimensions=41)
    assert caught.value.hint == "take more patches, or fewer dimensions"
    with pytest.raises(InputError, match="have no 0 principal axes"):
        srga(clean(), degraded(clean()), dimensions=0)


def test_different_numbers_of_patches_are_refused() -> None:
    with pytest.raises(InputError, match="40 patches in the reference set, but 39") as caught:
        srga(clean(), degraded(clean())[:39])
    assert "compare equally many" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"network": "rfdn-x4"}, "differ in network: pan-x4 and rfdn-x4"),
        ({"layer": "output"}, "differ in layer: input of conv_last and output"),
        ({"width": 7}, f"differ in width: {WIDTH} and 7"),
    ],
)
def test_sets_of_another_network_or_layer_are_refused(names: Any, message: str) -> None:
    reference, test = (
        replace(bank, network="pan-x4", layer="input of conv_last")
        for bank in banks(clean(), degraded(clean()))
    )
    assert srga(reference, test).value > 0
    with pytest.raises(InputError, match=message):
        srga(reference, replace(test, **names))
    # Files of features do not say what network they are of.
    unnamed = replace(test, network="", layer="")
    assert srga(reference, unnamed).value == srga(reference, test).value


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=f"30 features of a patch, but {WIDTH} in the reference"):
        srga(clean(), clean(width=30))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_features_are_refused(value: float) -> None:
    constant = np.full((PATCHES, WIDTH), value)
    for first, second in ((clean(), constant), (constant, clean())):
        with pytest.raises(InputError, match="the same features for all patches"):
            srga(first, second)


def test_sets_of_different_scenes_are_noted() -> None:
    names = [f"scene {number}" for number in range(PATCHES)]
    reference = FeatureBank.from_features(clean(), ids=names)
    same = FeatureBank.from_features(degraded(clean()), ids=names)
    other = FeatureBank.from_features(degraded(clean()), ids=names[::-1])
    assert srga(reference, same).notes == ()
    notes = srga(reference, other).notes
    assert notes == ("the sets show different scenes: SRGA below about 2.5 says nothing",)


def test_shapes_at_an_end_of_the_grid_are_noted() -> None:
    row = np.random.default_rng(2).normal(0, 1, WIDTH)
    two_kinds = np.where(np.arange(PATCHES) % 2, 1.0, -1.0)[:, None] * row
    spike = np.zeros(PATCHES)
    spike[0] = 1.0
    one_of_many = spike[:, None] * row
    expected = "the shape of the {} set lies at an end of the grid ({})"
    notes = srga(clean(), two_kinds, dimensions=1).notes
    assert len(notes) == 1
    assert notes[0].startswith(expected.format("test", "9.999"))
    notes = srga(one_of_many, clean(), trim=None).notes
    assert len(notes) == 1
    assert notes[0].startswith(expected.format("reference", "0.200"))


def test_a_divergence_beyond_all_numbers_is_noted() -> None:
    row = np.random.default_rng(2).normal(0, 1, WIDTH)
    two_kinds = np.where(np.arange(PATCHES) % 2, 1.0, -1.0)[:, None] * row
    reference = FeatureBank.from_features(1e100 * clean())
    found = srga(reference, FeatureBank.from_features(1e-100 * two_kinds), dimensions=1)
    assert found.value == math.inf
    assert "the divergence exceeds what numbers can hold" in found.notes


# --- draws of patches -----------------------------------------------------------------------------


def test_draws_are_fitted_like_sets_of_the_patches_drawn() -> None:
    reference, test = banks(clean(), degraded(clean()))
    generator = np.random.default_rng(3)
    drawn = generator.integers(0, PATCHES, PATCHES)
    draws = [np.arange(PATCHES), drawn]
    ours, theirs = (resampled_fits(bank, draws, 12) for bank in (reference, test))
    assert ours[0] == fit_ggd(reference.scores(12))
    assert theirs[0] == fit_ggd(test.scores(12))
    alone = fit_ggd(FeatureBank.from_features(clean()[drawn]).scores(12))
    assert ours[1].sigma == pytest.approx(alone.sigma, rel=1e-9)
    values = indices(ours, theirs)
    assert values.shape == (2,)
    assert values[0] == srga(reference, test, dimensions=12).value
    assert values[1] == srga_index(kld_ggd(ours[1], theirs[1]))
    assert values[0] != values[1]


def test_draws_that_do_not_belong_together_are_refused() -> None:
    fits = resampled_fits(FeatureBank.from_features(clean()), [np.arange(PATCHES)] * 2, 5)
    with pytest.raises(ValueError, match="shorter"):
        indices(fits, fits[:1])


def test_the_index_is_there_where_nothing_lies_on_the_axes_of_the_reference() -> None:
    half = np.random.default_rng(0).integers(-5, 6, (16, 40)).astype(float)
    half[8:] = -half[:8]
    nothing = np.zeros_like(half)
    result = srga(np.hstack([half, nothing]), np.hstack([nothing, half]))
    assert result.value < 1e-6
    assert "coincide although the features differ" in result.notes[0]


def test_the_shift_of_the_mean_is_not_guessed_where_patches_were_left_out() -> None:
    features = np.random.default_rng(0).standard_normal((20, 50))
    spoilt = features + 1
    assert srga(features, spoilt).mean_shift == pytest.approx(1, abs=0.1)
    spoilt[3] = np.nan
    assert srga(features, spoilt, drop_diverged=True).mean_shift is None
