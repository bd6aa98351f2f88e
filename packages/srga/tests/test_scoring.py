"""Networks on sets of patches: the index of each, its interval, its trends, and what fails."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_shared.errors import InputError, UsageError, WeightsError
from lowvis_shared.metrics import Protocol, psnr
from lowvis_srga.bank import FeatureBank
from lowvis_srga.comparison import Comparison, srga
from lowvis_srga.conditions import open_sets
from lowvis_srga.features import Tap, plain_picture, tap_module
from lowvis_srga.patches import Family, PatchSet
from lowvis_srga.scoring import NetworkScore, Scoring, SetScore, Settings, find_trends, score
from lowvis_srga.statistics import GeneralizedGaussian
from torch import Tensor, nn
from torch.nn import functional as F

CPU = torch.device("cpu")
COUNT, SIZE, SCALE = 24, 32, 4
SIDE = SIZE // SCALE
AXES = 9  # those of 24 patches, in proportion to 300 of 800
NAMES = "clean,blur1,blur2,noise10,noise20,blur1+noise10"
QUICK = Settings(bootstrap=0)

Change = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Small(nn.Module):
    """Reads three channels, upscales by 4 with two convolutions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = nn.Conv2d(3, 6, 3, padding=1)
            self.tail = nn.Conv2d(6, 3 * SCALE**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(F.relu(self.head(image))), SCALE)


@dataclass
class Nearest:
    """A tap of one's own: repeats pixels; its features are all differences to the right."""

    name: str
    change: Change | None = None
    layer: str = "differences"

    def __call__(self, low: Tensor) -> tuple[Tensor, Tensor]:
        features = (low[..., 1:] - low[..., :-1]).flatten(1)
        output = low.repeat_interleave(SCALE, dim=2).repeat_interleave(SCALE, dim=3)
        return (features, output) if self.change is None else self.change(low, features, output)


def small(seed: int, layer: str = "auto") -> Tap:
    network = Small(seed)
    return tap_module(
        network,
        name=f"small {seed}",
        layer=layer,
        scale=SCALE,
        device=CPU,
        example=plain_picture(SIDE),
    )


def rough(low: Tensor) -> Tensor:
    """How much pixels differ from their neighbors, (B,): more under noise, less under blur."""
    return (low[..., 1:] - low[..., :-1]).abs().mean(dim=(1, 2, 3))


def spoiling(bound: float, value: float, *, features_too: bool = True) -> Change:
    """Give patches rougher than the bound a value that no picture has."""

    def change(low: Tensor, features: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        bad = rough(low) > bound
        output[bad] = value
        if features_too:
            features[bad] = value
        return features, output

    return change


def as_batch(patches: PatchSet) -> Tensor:
    return torch.from_numpy(patches.low).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def sets() -> Sequence[PatchSet]:
    return open_sets(NAMES, patches=COUNT, size=SIZE, scale=SCALE, seed=1)[0]


@pytest.fixture(scope="module")
def bounds(sets: Sequence[PatchSet]) -> Mapping[str, Sequence[float]]:
    """The roughness of the patches of each set, the roughest first."""
    found = {each.name: rough(as_batch(each)).tolist() for each in sets}
    return {name: sorted(values, reverse=True) for name, values in found.items()}


@pytest.fixture(scope="module")
def scoring(sets: Sequence[PatchSet]) -> Scoring:
    """Three networks with intervals."""
    openers = {f"network {seed}": partial(small, seed) for seed in (1, 2, 3)}
    return score(openers, sets, Settings(bootstrap=20), source="leaves")


def alone(tap: Tap, sets: Sequence[PatchSet], settings: Settings = QUICK) -> NetworkScore:
    """Score one network and nothing else."""
    (found,) = score({"mine": lambda: tap}, sets, settings).networks
    return found


def values(network: NetworkScore) -> dict[str, float | None]:
    return {each.name: each.value for each in network.sets}


# --- figures --------------------------------------------------------------------------------------


def test_every_set_but_the_reference_has_an_index(
    scoring: Scoring, sets: Sequence[PatchSet]
) -> None:
    others = [each for each in sets if each.name != "clean"]
    assert len(scoring.networks) == 3
    for network in scoring.networks:
        assert [each.name for each in network.sets] == [each.name for each in others]
        assert [each.degree for each in network.sets] == [each.degree for each in others]
        assert [each.family for each in network.sets] == [each.family for each in others]
        assert all(0 < (each.value or 0) < 7 for each in network.sets)
    assert (scoring.patches, scoring.dimensions, scoring.side) == (COUNT, AXES, SIDE)
    assert (scoring.scale, scoring.source) == (SCALE, "leaves")


def test_the_index_is_that_of_all_features_at_once(
    scoring: Scoring, sets: Sequence[PatchSet]
) -> None:
    network = next(each for each in scoring.networks if each.name == "small 2")
    model = Small(2)
    with torch.inference_mode():
        features = {
            each.name: F.relu(model.head(as_batch(each))).flatten(1).numpy() for each in sets
        }
    reference = FeatureBank.from_features(features["clean"], name="clean")
    assert network.features == features["clean"].shape[1]
    assert network.layer == "input of tail"
    for each in network.sets:
        test = FeatureBank.from_features(features[each.name], reference=reference)
        expected = srga(reference, test, dimensions=AXES)
        made = each.comparison
        assert made is not None
        assert made.value == pytest.approx(expected.value, abs=2e-4)
        assert made.test.sigma == pytest.approx(expected.test.sigma, rel=1e-5)
        assert made.reference.sigma == pytest.approx(expected.reference.sigma, rel=1e-5)
        assert made.mean_shift == pytest.approx(expected.mean_shift, rel=1e-4)
        assert made.outside == pytest.approx(expected.outside, abs=1e-4)
        (point,) = each.curve  # there are no 50 patches for further numbers of axes
        shared = srga(reference, test, dimensions=AXES, basis="reference")
        assert (point.dimensions, point.own) == (AXES, made.value)
        assert point.shared == pytest.approx(shared.value, abs=2e-4)


def test_the_axes_of_the_reference_on_request(scoring: Scoring, sets: Sequence[PatchSet]) -> None:
    found = alone(small(2), sets, Settings(basis="reference", bootstrap=20))
    own = next(each for each in scoring.networks if each.name == "small 2")
    for each, other in zip(found.sets, own.sets, strict=True):
        assert each.comparison is not None
        assert each.comparison.basis == "reference"
        assert each.value == pytest.approx(other.curve[0].shared)
        assert each.interval is None  # the draws are of axes of their own
        assert each.own == pytest.approx(other.value)
        assert each.shared == each.value


def test_the_same_pictures_have_an_index_of_0(sets: Sequence[PatchSet]) -> None:
    copy = replace(sets[0], name="copy")
    network = alone(small(1), [sets[0], copy], Settings(bootstrap=4))
    assert values(network) == {"copy": 0.0}
    assert network.sets[0].interval == (0.0, pytest.approx(0.0, abs=1e-6))
    assert network.mean == 0.0


def test_the_curve_runs_over_numbers_of_axes() -> None:
    sets, _ = open_sets("clean,blur2", patches=60, size=SIZE, scale=SCALE)
    found = alone(Nearest("n"), sets, replace(QUICK, dimensions=30))
    assert [point.dimensions for point in found.sets[0].curve] == [30, 50]
    assert found.sets[0].curve[0].own == found.sets[0].value


def test_any_reference_and_the_other_direction(sets: Sequence[PatchSet]) -> None:
    forward = alone(Nearest("n"), sets[:2])
    backward = alone(Nearest("n"), sets[:2], replace(QUICK, reference="blur1"))
    assert list(values(backward)) == ["clean"]
    one, other = forward.sets[0].comparison, backward.sets[0].comparison
    assert one is not None
    assert other is not None
    assert (one.reference, one.test) == (other.test, other.reference)
    assert one.value != other.value  # the divergence is not symmetric


def test_psnr_is_that_of_the_pictures_against_the_high_resolution_patches(
    sets: Sequence[PatchSet],
) -> None:
    protocol = Protocol(color="rgb", border=SCALE)

    def expected(patches: PatchSet) -> float:
        assert patches.high is not None
        shown = patches.low.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
        each = [psnr(one, high, protocol) for one, high in zip(shown, patches.high, strict=True)]
        return float(np.mean(each))

    real = replace(sets[1], name="real", family="real", degree=None, high=None)
    network = alone(Nearest("n"), [*sets[:3], real])
    assert network.psnr == pytest.approx(expected(sets[0]))
    assert [each.psnr for each in network.sets] == [
        pytest.approx(expected(sets[1])),
        pytest.approx(expected(sets[2])),
        None,
    ]


def test_networks_that_keep_the_size_are_scored_too() -> None:
    sets, _ = open_sets("clean,noise20", patches=16, size=8, scale=1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1))
    tap = tap_module(network, name="n", scale=1, device=CPU, example=plain_picture(8))
    found = alone(tap, sets)
    assert found.problem == ""
    assert found.psnr is not None
    assert (found.features, found.layer) == (4 * 8 * 8, "input of 1")


def test_all_of_it_is_json(scoring: Scoring) -> None:
    told = json.loads(json.dumps(scoring.as_dict()))
    assert (told["reference"], told["patches"], told["dimensions"]) == ("clean", COUNT, AXES)
    assert [each["name"] for each in told["networks"]] == [each.name for each in scoring.networks]
    for network, each in zip(scoring.networks, told["networks"], strict=True):
        assert {one["name"]: one["srga"] for one in each["sets"]} == values(network)
        assert each["sets"][0]["comparison"]["value"] == each["sets"][0]["srga"]


def test_progress_goes_over_all_patches_of_all_sets(sets: Sequence[PatchSet]) -> None:
    seen: list[tuple[str, int, int]] = []
    score({"n": lambda: Nearest("n")}, sets[:2], QUICK, progress=lambda *at: seen.append(at))
    for name in ("clean", "blur1"):
        done = [done for what, done, of in seen if (what, of) == (name, COUNT)]
        assert done == sorted(set(done))
        assert done[-1] == COUNT
    assert {what for what, _, _ in seen} == {"clean", "blur1"}


# --- intervals ------------------------------------------------------------------------------------


def test_an_interval_lies_around_the_value(scoring: Scoring) -> None:
    for network in scoring.networks:
        assert network.mean is not None
        for each in (network, *network.sets):
            assert each.interval is not None
            low, high = each.interval
            value = each.mean if isinstance(each, NetworkScore) else each.value
            assert value is not None
            assert 0 <= low < value < high < math.inf
            assert low == 0 or value - low == pytest.approx(high - value)


def test_intervals_are_repeatable_and_their_seed_counts(
    scoring: Scoring, sets: Sequence[PatchSet]
) -> None:
    own = next(each for each in scoring.networks if each.name == "small 1")
    again = alone(small(1), sets, Settings(bootstrap=20))
    assert [each.interval for each in again.sets] == [each.interval for each in own.sets]
    assert again.interval == own.interval
    other = alone(small(1), sets, Settings(bootstrap=20, seed=1))
    assert values(other) == values(own)
    assert [each.interval for each in other.sets] != [each.interval for each in own.sets]


def test_no_draws_no_interval(sets: Sequence[PatchSet]) -> None:
    network = alone(small(1), sets)
    assert network.mean is not None
    assert network.interval is None
    assert all(each.interval is None for each in network.sets)


def test_the_interval_is_as_wide_as_values_of_other_patches_spread() -> None:
    widths: list[float] = []
    found: list[float] = []
    for seed in range(12):
        made, _ = open_sets("clean,noise40", patches=COUNT, size=SIZE, scale=SCALE, seed=seed)
        (each,) = alone(small(1), made, Settings(bootstrap=20)).sets
        assert each.value is not None
        assert each.interval is not None
        found.append(each.value)
        widths.append(each.interval[1] - each.value)
    # Of so few patches it is no better known than that.
    assert 0.4 < np.mean(widths) / (1.96 * np.std(found, ddof=1)) < 2.5


# --- several networks -----------------------------------------------------------------------------


def test_the_smallest_mean_comes_first(scoring: Scoring) -> None:
    means = [each.mean for each in scoring.networks]
    assert means == sorted(means, key=lambda mean: mean or 0)
    assert len(set(means)) == 3
    for network in scoring.networks:
        assert network.mean == pytest.approx(np.mean([each.value for each in network.sets]))
    assert scoring.common == tuple(each.name for each in scoring.networks[0].sets)
    assert scoring.failed == ()


def test_a_network_that_fails_does_not_stop_the_others(
    sets: Sequence[PatchSet], bounds: Mapping[str, Sequence[float]]
) -> None:
    def raising(error: BaseException) -> Callable[[], Tap]:
        def opener() -> Tap:
            raise error

        return opener

    def late(low: Tensor, features: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        if rough(low).max() > bounds["clean"][0]:  # not before the noisy set
            raise ArithmeticError("too rough for me")
        return features, output

    found = score(
        {
            "missing": raising(InputError("no such file")),
            "foreign": raising(ValueError("got [1, 3]\n and 4")),
            "leaving": raising(SystemExit("enough")),
            "late": lambda: Nearest("late", late),
            "good": lambda: Nearest("good"),
        },
        [*sets[:2], sets[4]],
        QUICK,
    )
    assert found.networks[0].name == "good"
    assert {each.name: each.problem for each in found.failed} == {
        "missing": "no such file",
        "foreign": "ValueError: got [1, 3] and 4",
        "leaving": "SystemExit: enough",
        "late": "ArithmeticError: too rough for me",
    }
    assert found.networks[0].mean is not None
    assert found.common == ("blur1", "noise20")
    assert all(each.sets == () and each.mean is None for each in found.failed)


def test_the_error_of_the_only_network_is_raised_unless_it_is_of_foreign_code(
    sets: Sequence[PatchSet],
) -> None:
    def missing() -> Tap:
        raise WeightsError("no such weights", hint="fetch them")

    def foreign() -> Tap:
        raise ValueError("no such day")

    with pytest.raises(WeightsError, match="no such weights") as caught:
        score({"mine": missing}, sets, QUICK)
    assert caught.value.hint == "fetch them"
    (found,) = score({"mine": foreign}, sets, QUICK).networks
    assert (found.name, found.problem) == ("mine", "ValueError: no such day")


def test_the_mean_is_over_the_sets_that_all_networks_have(
    sets: Sequence[PatchSet], bounds: Mapping[str, Sequence[float]]
) -> None:
    above = max(values[0] for name, values in bounds.items() if name != "noise20")
    assert bounds["noise20"][0] > above
    found = score(
        {
            "good": lambda: Nearest("good"),
            "bad": lambda: Nearest("bad", spoiling(above, math.nan)),
            "failed": lambda: Nearest("failed", spoiling(-1, math.nan)),
        },
        sets,
        Settings(bootstrap=4),
    )
    assert [each.name for each in found.networks if not each.problem] == ["bad", "good"]
    assert found.common == ("blur1", "blur2", "noise10", "blur1+noise10")
    for network in found.networks[:2]:
        have = values(network)
        assert network.mean == pytest.approx(np.mean([have[name] for name in found.common]))
        assert network.interval is not None
    good = found.networks[1]
    assert values(good)["noise20"] is not None  # shown, but not averaged


# --- networks that diverge ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e20, -1e20, math.nan, math.inf])
def test_a_network_that_diverges_on_some_patches_has_no_index_there(
    value: float, sets: Sequence[PatchSet], bounds: Mapping[str, Sequence[float]]
) -> None:
    three = bounds["noise20"][3]
    assert three > bounds["clean"][0]
    network = alone(Nearest("n", spoiling(three, value)), sets)
    assert network.problem == ""
    found = {each.name: each for each in network.sets}
    assert found["noise20"].value is None
    assert found["noise20"].diverged == 3
    assert "diverges on 3 of 24 patches of noise20" in found["noise20"].problem
    assert found["noise20"].interval is None
    assert found["noise20"].curve == ()
    assert found["blur1"].value is not None
    assert (found["blur1"].diverged, found["blur1"].problem) == (0, "")
    # The pictures of the other patches still have a quality.
    assert found["noise20"].psnr is not None
    assert math.isfinite(found["noise20"].psnr)


def test_finite_pictures_far_out_of_range_are_diverged_though_the_features_are_fine(
    sets: Sequence[PatchSet], bounds: Mapping[str, Sequence[float]]
) -> None:
    change = spoiling(bounds["noise20"][1], 11.0, features_too=False)
    assert alone(Nearest("n", change), sets).sets[3].diverged == 1
    change = spoiling(bounds["noise20"][1], 9.0, features_too=False)
    assert alone(Nearest("n", change), sets).sets[3].diverged == 0


def test_diverged_patches_are_left_out_of_both_sets_on_request(
    sets: Sequence[PatchSet], bounds: Mapping[str, Sequence[float]]
) -> None:
    change = spoiling(bounds["noise20"][3], 1e20)
    settings = Settings(drop_diverged=True, bootstrap=6)
    network = alone(Nearest("n", change), sets, settings)
    noisy = next(each for each in network.sets if each.name == "noise20")
    assert noisy.comparison is not None
    assert (noisy.diverged, noisy.comparison.dropped, noisy.comparison.patches) == (3, 3, 21)
    assert "without 3 patches" in noisy.comparison.notes[0]
    assert noisy.interval is not None

    clean, noise20 = sets[0], next(each for each in sets if each.name == "noise20")
    keep = rough(as_batch(noise20)).numpy() <= bounds["noise20"][3]
    kept = [
        replace(
            each,
            low=each.low[keep],
            high=each.high[keep] if each.high is not None else None,
            ids=tuple(np.array(each.ids)[keep]),
        )
        for each in (clean, noise20)
    ]
    expected = alone(Nearest("n"), kept, replace(QUICK, dimensions=AXES))
    assert noisy.value == pytest.approx(expected.sets[0].value, abs=1e-4)


def test_axes_are_as_many_as_the_patches_that_are_left(
    sets: Sequence[PatchSet], bounds: Mapping[str, Sequence[float]]
) -> None:
    change = spoiling(bounds["noise20"][6], math.nan)
    settings = replace(QUICK, dimensions=20, drop_diverged=True)
    network = alone(Nearest("n", change), sets, settings)
    made = {each.name: each.comparison for each in network.sets}
    assert made["noise20"] is not None
    assert made["blur1"] is not None
    assert (made["noise20"].patches, made["noise20"].dimensions) == (18, 18)
    assert (made["blur1"].patches, made["blur1"].dimensions) == (24, 20)


@pytest.mark.parametrize("left", [2, 3, 5])
def test_few_patches_that_are_left_do_not_fail_for_the_interval(left: int) -> None:
    noisy = open_sets("clean,blur1,noise100", patches=COUNT, size=SIZE, scale=SCALE, seed=1)[0]
    values = torch.sort(rough(as_batch(noisy[2]))).values
    assert values[left - 1] > rough(as_batch(noisy[0])).max()
    tap = Nearest("n", spoiling(float(values[left - 1]), math.nan))
    network = alone(tap, noisy, Settings(drop_diverged=True, bootstrap=50))
    assert network.problem == ""
    made = network.sets[1].comparison
    assert made is not None
    assert (made.patches, made.dropped) == (left, COUNT - left)
    assert network.sets[0].interval is not None


def test_a_network_that_diverges_on_the_reference_cannot_be_scored(
    bounds: Mapping[str, Sequence[float]],
) -> None:
    smooth = open_sets("clean,blur2,blur4", patches=COUNT, size=SIZE, scale=SCALE, seed=1)[0]
    bad = Nearest("bad", spoiling(bounds["clean"][2], math.nan))
    found = score({"bad": lambda: bad, "good": lambda: Nearest("good")}, smooth, QUICK)
    assert [each.name for each in found.networks] == ["good", "bad"]
    assert "diverges on 2 of 24 patches of clean" in found.networks[1].problem
    assert found.networks[1].sets == ()
    with pytest.raises(InputError, match="diverges on 2 of 24 patches of clean") as caught:
        alone(bad, smooth)
    assert "--drop-diverged" in str(caught.value.hint)
    dropped = alone(bad, smooth, Settings(drop_diverged=True, bootstrap=4))
    assert [each.diverged for each in dropped.sets] == [0, 0]
    for each in dropped.sets:
        assert each.comparison is not None
        assert each.comparison.dropped == 2
        assert each.interval is not None


def test_a_set_on_which_all_patches_diverge_leaves_the_others_their_index(
    sets: Sequence[PatchSet],
) -> None:
    noisy = open_sets("clean,blur1,noise100", patches=COUNT, size=SIZE, scale=SCALE, seed=1)[0]
    least = float(rough(as_batch(noisy[2])).min())
    assert least > float(rough(as_batch(noisy[0])).max())
    network = alone(
        Nearest("n", spoiling(least - 1e-6, math.nan)), noisy, replace(QUICK, drop_diverged=True)
    )
    assert network.problem == ""
    assert network.sets[0].value is not None
    assert network.sets[1].value is None
    assert network.sets[1].psnr is None
    assert "0 of 24 patches are left" in network.sets[1].problem
    assert "noise100" in network.sets[1].problem


# --- trends ---------------------------------------------------------------------------------------


def scored(name: str, family: Family, degree: float | None, value: float | None) -> SetScore:
    gaussian = GeneralizedGaussian(1.0, 2.0)
    comparison = None
    if value is not None:
        comparison = Comparison(
            value, 0.1, gaussian, gaussian, AXES, COUNT, 0, "own", None, None, ()
        )
    return SetScore(name, family, degree, comparison, None, (), None, 0)


def family_of(name: Family, **degrees: float | None) -> list[SetScore]:
    return [
        scored(f"{name}{degree[1:]}", name, float(degree[1:]), value)
        for degree, value in degrees.items()
    ]


def test_an_index_that_grows_is_told_from_end_to_end() -> None:
    (trend,) = find_trends(family_of("blur", _4=3.0, _1=1.0, _2=2.0))
    assert (trend.family, trend.falls, trend.holds) == ("blur", 0, True)
    assert trend.text == "grows from blur1 to blur4"


def test_every_step_at_which_it_does_not_grow_is_named() -> None:
    (trend,) = find_trends(family_of("noise", _5=2.32, _10=2.12, _20=3.97, _40=3.97))
    assert (trend.falls, trend.holds) == (2, False)
    assert "falls from noise5 (2.32) to noise10 (2.12)" in trend.text
    assert "from noise20 (3.97) to noise40 (3.97)" in trend.text


def test_jpeg_grows_towards_falling_quality() -> None:
    (trend,) = find_trends(family_of("jpeg", _20=3.0, _90=1.0, _50=2.0))
    assert (trend.holds, trend.text) == (True, "grows from jpeg90 to jpeg20")
    (trend,) = find_trends(family_of("jpeg", _20=1.0, _90=3.0))
    assert (trend.falls, trend.holds) == (1, False)
    assert "from jpeg90 (3.00) to jpeg20 (1.00)" in trend.text


def test_what_is_missing_is_named_and_no_fall() -> None:
    (trend,) = find_trends(family_of("noise", _5=1.0, _10=None, _20=3.0, _40=None))
    assert (trend.falls, trend.holds) == (0, False)
    assert trend.text == "has no value at noise10, noise40"
    # Across a gap it may fall nevertheless.
    (trend,) = find_trends(family_of("noise", _5=3.0, _10=None, _20=2.0))
    assert trend.falls == 1
    assert "falls from noise5 (3.00) to noise20 (2.00)" in trend.text
    assert "no value at noise10" in trend.text


def test_sets_of_one_degree_are_no_step() -> None:
    sets = [
        scored("blur21-6", "blur", 6.0, 4.5),
        *family_of("blur", _4=4.0, _6=4.6, _8=5.0),
    ]
    (trend,) = find_trends(sets)
    assert (trend.holds, trend.text) == (True, "grows from blur4 to blur8")


def test_one_degree_and_mixtures_have_no_trend() -> None:
    mixture = [
        scored(f"blur{degree}+noise10", "mixture", None, 4.0 - degree) for degree in range(3)
    ]
    assert find_trends([*family_of("blur", _1=1.0), *mixture]) == ()
    both = find_trends(
        [*family_of("noise", _5=1.0, _10=2.0), *mixture, *family_of("blur", _1=1.0, _2=0.5)]
    )
    assert [(each.family, each.holds) for each in both] == [("blur", False), ("noise", True)]


def test_a_scoring_tells_the_trends_of_its_own_values(scoring: Scoring) -> None:
    for network in scoring.networks:
        assert network.trends == find_trends(network.sets)
        assert [each.family for each in network.trends] == ["blur", "noise"]


def test_there_is_no_trend_away_from_anything_but_clean(sets: Sequence[PatchSet]) -> None:
    network = alone(Nearest("n"), sets, replace(QUICK, reference="blur1"))
    assert network.trends == ()


# --- what is refused ------------------------------------------------------------------------------


def refused(sets: Sequence[PatchSet], settings: Settings = QUICK, **options: Any) -> Exception:
    opened: list[str] = []

    def opener() -> Tap:
        opened.append("n")
        return Nearest("n")

    with pytest.raises((InputError, UsageError)) as caught:
        score(options.pop("networks", {"n": opener}), sets, settings, **options)
    assert opened == []  # before the work
    return caught.value


def test_sets_that_do_not_go_together_are_refused(sets: Sequence[PatchSet]) -> None:
    error = refused(sets, replace(QUICK, reference="cleen"))
    assert "no reference set 'cleen'" in str(error)
    assert "clean, blur1" in str(error.hint)
    assert "two sets have the same name" in str(refused([*sets, sets[1]]))
    assert "no set to compare with 'clean'" in str(refused(sets[:1]))
    assert "no network" in str(refused(sets, networks={}))
    error = refused([sets[0], sets[1].first(20)])
    assert "blur1 holds patches of shape (20, 8, 8, 3), clean of (24, 8, 8, 3)" in str(error)
    other, _ = open_sets("blur4", patches=COUNT, size=16, scale=SCALE)
    assert "equally many of equal size" in str(refused([sets[0], other[1]]))


@pytest.mark.parametrize("draws", [1, -1])
def test_draws_that_have_no_spread_are_refused(draws: int) -> None:
    with pytest.raises(UsageError, match=f"{draws} draws"):
        Settings(bootstrap=draws)


@pytest.mark.parametrize("dimensions", [COUNT + 1, 300])
def test_more_axes_than_patches_are_refused(sets: Sequence[PatchSet], dimensions: int) -> None:
    error = refused(sets, replace(QUICK, dimensions=dimensions))
    assert f"24 patches have no {dimensions} principal axes" in str(error)
    assert "take more patches, or fewer dimensions" in str(error.hint)


def test_features_that_are_the_same_for_all_patches_are_a_clear_problem(
    sets: Sequence[PatchSet],
) -> None:
    def constant(low: Tensor, features: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(features, 0.3), output

    gray = Nearest("gray", constant)
    found = score({"gray": lambda: gray, "good": lambda: Nearest("good")}, sets, QUICK)
    assert found.networks[1].problem == "gray has the same features for all patches of clean"
    assert found.networks[1].mean is None
    with pytest.raises(InputError, match="gray has the same features for all patches of clean"):
        alone(gray, sets)


def noisy() -> list[PatchSet]:
    return open_sets("clean,blur1,noise100", patches=COUNT, size=SIZE, scale=SCALE, seed=1)[0]


@pytest.mark.parametrize("drop", [False, True])
def test_one_patch_that_is_left_of_a_set_leaves_the_others_their_index(drop: bool) -> None:
    sets = noisy()
    least = float(rough(as_batch(sets[2])).min())
    network = alone(
        Nearest("n", spoiling(least, math.nan)), sets, replace(QUICK, drop_diverged=drop)
    )
    assert network.sets[0].value is not None
    assert network.sets[1].diverged == COUNT - 1
    assert ("1 of 24" if drop else "diverges on 23") in network.sets[1].problem


def test_a_set_of_constant_features_leaves_the_others_their_index() -> None:
    sets = noisy()
    least = float(rough(as_batch(sets[2])).min())

    def change(low: Tensor, features: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        features[rough(low) >= least - 1e-6] = 0.3
        return features, output

    network = alone(Nearest("n", change), sets)
    assert network.sets[0].value is not None
    assert "same features" in network.sets[1].problem


def test_no_axes_are_refused() -> None:
    with pytest.raises(InputError, match="no 0 principal axes"):
        score({"n": lambda: Nearest("n")}, noisy(), replace(QUICK, dimensions=0))


def test_networks_of_one_title_stay_apart() -> None:
    networks = {"a/x.pt": lambda: Nearest("x.pt"), "b/x.pt": lambda: Nearest("x.pt")}
    found = score(networks, noisy(), QUICK)
    assert {each.name for each in found.networks} == set(networks)
