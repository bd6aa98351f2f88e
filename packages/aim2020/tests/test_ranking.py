"""Networks are measured, put in order and compared; those that fail are named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_aim2020.candidates import Candidate, all_names, find_candidate
from lowvis_aim2020.evaluate import challenge_protocol, evaluate, evaluate_network
from lowvis_aim2020.networks.rfdn import RFDN
from lowvis_aim2020.ranking import BASELINE_PSNR, MEASURES, Entry, Ranking, measure, rank
from lowvis_shared.errors import DeviceError, InputError, UsageError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.metrics import score, super_resolution_protocol
from lowvis_shared.pairs import Pair, load_pairs
from lowvis_shared.testing.pictures import photo
from torch import nn

OWN = """
import torch
import torch.nn.functional as F
from torch import nn

class Nearest(nn.Module):
    '''Each pixel 4x4 times, by a 1x1 convolution.'''
    def __init__(self, white=1.0, shade=0.0):
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 1, bias=False)
        self.shuffle = nn.PixelShuffle(4)
        self.white, self.shade = white, shade
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).repeat_interleave(16, dim=0)[:, :, None, None])

    def forward(self, image):
        return self.shuffle(self.conv(image)) + self.shade

class Wide(Nearest):
    '''The same picture, at twice the cost.'''
    def __init__(self):
        super().__init__()
        self.more = nn.Conv2d(3, 48, 1, bias=False)
        nn.init.zeros_(self.more.weight)

    def forward(self, image):
        return super().forward(image) + self.shuffle(self.more(image))

def Shaded():
    return Nearest(shade=0.1)

class FullRange(Nearest):
    '''Expects pictures in 0..255, and gives them.'''
    def forward(self, image):
        return super().forward((image - 128) * 0.9) + 128

class WrongSize(Nearest):
    def forward(self, image):
        return self.conv(image)[:, :3]

class Gray(Nearest):
    def forward(self, image):
        return super().forward(image)[:, :1]

class NotANumber(Nearest):
    def forward(self, image):
        return super().forward(image) * float("nan")

class Raises(Nearest):
    def forward(self, image):
        raise ArithmeticError("I only know even sizes")

class Pair(Nearest):
    def forward(self, image):
        return super().forward(image), image

class OnGPU(Nearest):
    def forward(self, image):
        return super().forward(image.cuda())

class OneSize(Nearest):
    '''Fails on the pictures of the test set only, which are 16x18.'''
    def forward(self, image):
        if image.shape[2:] == (16, 18):
            raise ArithmeticError("16x18 is not for me")
        return super().forward(image)

class Attention(Nearest):
    '''Multiplies by a function that the counter does not know.'''
    def forward(self, image):
        mixed = torch.eye(3, device=image.device) @ image.flatten(2)
        return super().forward(mixed.view_as(image))

class Broken:
    def __init__(self):
        raise LookupError("no such layer")

class Plain(nn.Module):
    '''Without any parameter.'''
    def forward(self, image):
        return F.interpolate(image, scale_factor=4, mode="nearest")

class OneInput(Nearest):
    '''Works on the picture that is tried first, and fails on the one that is timed.'''
    def forward(self, image):
        if image.shape[2:] == (16, 16):
            raise MemoryError("too large for me")
        return super().forward(image)

class Tires(Nearest):
    '''Works a few times only.'''
    def __init__(self):
        super().__init__()
        self.calls = 0
    def forward(self, image):
        self.calls += 1
        if self.calls > 4:
            raise RuntimeError("tired")
        return super().forward(image)

class NanOnInput(Nearest):
    '''No numbers on the picture that is timed.'''
    def forward(self, image):
        return super().forward(image) / (0.0 if image.shape[2:] == (16, 16) else 1.0)

def Double():
    return Nearest().double()

def SetsDefault():
    torch.set_default_dtype(torch.float64)
    return Nearest()
"""

QUICK = {"input_size": (16, 16), "repeats": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return the word that names a class of the user's file."""
    path = tmp_path_factory.mktemp("own") / "networks.py"
    path.write_text(OWN)
    return lambda name: f"{path}:{name}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Return two pictures of 64x72, and so of 16x18."""
    folder = tmp_path_factory.mktemp("set")
    for seed in (1, 2):
        write_image(Picture(photo(64, 72, seed=seed)), folder / f"{seed}.png")
    return load_pairs(folder, 4)


def names(ranking: Ranking) -> list[str]:
    return [entry.name.rpartition(":")[2] for entry in ranking.entries]


def entry_of(ranking: Ranking, name: str) -> Entry:
    (found,) = (entry for entry in ranking.entries if entry.name == name)
    return found


# --- order and gains ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sort", "descending"),
    [
        ("run_time", False),
        ("parameters", False),
        ("flops", False),
        ("memory", False),
        ("psnr", True),
        ("ssim_y", True),
    ],
)
def test_the_best_by_the_measure_comes_first(
    own: Callable[[str], str], pairs: list[Pair], sort: str, descending: bool
) -> None:
    models = [own("Shaded"), own("Wide"), own("Nearest")]
    ranking = rank(models, pairs=pairs, sort=sort, baseline=own("Wide"), **QUICK)
    values = [entry.value(sort) for entry in ranking.entries]
    assert values == sorted(values, reverse=descending)
    assert len(set(values)) > 1
    assert ranking.sort == sort


def test_the_baseline_takes_part_though_nobody_named_it(own: Callable[[str], str]) -> None:
    ranking = rank([own("Nearest")], **QUICK)
    assert ranking.baseline == "msrresnet-x4"
    assert set(names(ranking)) == {"Nearest", "msrresnet-x4"}
    assert names(rank([own("Wide"), own("Wide")], baseline=own("Wide"), **QUICK)) == ["Wide"]


def test_gains_are_positive_where_a_network_is_better(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    base, better, worse = own("Wide"), own("Nearest"), own("Shaded")
    ranking = rank([better, worse], pairs=pairs, baseline=base, **QUICK)
    small, dark, reference = (entry_of(ranking, name) for name in (better, worse, base))
    assert (small.value("parameters"), reference.value("parameters")) == (144, 288)
    for cost in ("parameters", "flops", "activations", "convolutions"):
        assert ranking.gain(small, cost) == pytest.approx(50)
        assert ranking.gain(reference, cost) == 0
    expected = dark.value("psnr") - reference.value("psnr")
    assert ranking.gain(dark, "psnr") == pytest.approx(expected)
    assert expected < -1  # decibels
    seconds = reference.value("run_time")
    assert ranking.gain(small, "run_time") == pytest.approx(
        100 * (seconds - small.value("run_time")) / seconds
    )


def test_without_a_test_set_there_is_no_quality_and_no_gain_in_it(
    own: Callable[[str], str],
) -> None:
    ranking = rank([own("Nearest")], baseline=own("Wide"), **QUICK)
    for entry in ranking.entries:
        assert entry.value("psnr") is None
        assert ranking.gain(entry, "psnr") is None
        assert ranking.meets(entry) is None
        assert entry.run_time is not None
        assert entry.run_time.repeats == 1


def test_costs_are_those_of_the_input_asked_for(own: Callable[[str], str]) -> None:
    ranking = rank([own("Nearest")], baseline=own("Nearest"), **{**QUICK, "input_size": (8, 10)})
    (entry,) = ranking.entries
    assert entry.value("flops") == 144 * 80
    assert entry.value("activations") == 48 * 80
    assert ranking.input_size == (8, 10)


@pytest.mark.slow
def test_every_network_of_the_installed_packages_is_ranked_when_none_is_named() -> None:
    ranking = rank(**QUICK)
    assert sorted(names(ranking)) == sorted(all_names(4))
    assert not ranking.failed


def test_progress_tells_what_is_done(own: Callable[[str], str], pairs: list[Pair]) -> None:
    seen: list[tuple[str, int, int]] = []
    rank(
        [own("Nearest")],
        pairs=pairs,
        baseline=own("Wide"),
        progress=lambda *said: seen.append(said),
        **QUICK,
    )
    assert ("networks", 0, 2) in seen
    assert (own("Wide"), 2, 2) in seen  # both pictures
    assert seen[-1] == ("run time", 3, 3)


def test_networks_are_also_given_as_candidates(pairs: list[Pair]) -> None:
    class Bilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.weight * nn.functional.interpolate(image, scale_factor=4, mode="bilinear")

    mine = Candidate(
        name="mine",
        title="My network",
        scale=4,
        weights="ours",
        make=Bilinear,
        receptive_radius=None,
    )
    ranking = rank([mine], pairs=pairs, baseline="mine", **QUICK)
    (entry,) = ranking.entries
    assert (entry.name, entry.title, entry.problem) == ("mine", "My network", "")
    assert entry.value("parameters") == 1
    assert entry.value("psnr") > 20


def test_measure_is_the_challenges_counter() -> None:
    assert measure(RFDN()).parameters == 433_448
    assert measure(RFDN(), (64, 64)).flops == pytest.approx(27.1026e9 / 16, rel=0.01)


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WrongSize", r"a picture of 37x53 comes out as \(1, 3, 37, 53\), not \(1, 3, 148, 212\)"),
        ("Gray", r"comes out as \(1, 1, 148, 212\)"),
        ("NotANumber", "not finite"),
        ("Raises", "ArithmeticError: I only know even sizes"),
        ("Pair", "it returns no tensor but a tuple"),
        ("OnGPU", "Error: "),
        ("Broken", "LookupError: no such layer"),
        ("Missing", "AttributeError: .*Missing"),
    ],
)
def test_a_network_that_fails_is_named_and_the_others_are_ranked(
    own: Callable[[str], str], name: str, said: str
) -> None:
    ranking = rank([own(name), own("Nearest")], baseline=own("Wide"), **QUICK)
    (failed,) = ranking.failed
    assert failed is ranking.entries[-1]
    assert failed.name == own(name)
    assert failed.run_time is None
    assert "\n" not in failed.problem
    with pytest.raises(InputError, match=said):
        raise InputError(failed.problem)
    assert all(entry.value("run_time") for entry in ranking.entries[:-1])
    assert set(names(ranking)[:-1]) == {"Nearest", "Wide"}


def test_a_module_that_does_not_exist_is_named_with_the_others_ranked(
    own: Callable[[str], str],
) -> None:
    ranking = rank(["no_such_module:Net", own("Nearest")], baseline=own("Wide"), **QUICK)
    (failed,) = ranking.failed
    assert "ModuleNotFoundError" in failed.problem
    assert "no_such_module" in failed.problem


def test_a_network_of_another_scale_is_out(own: Callable[[str], str]) -> None:
    ranking = rank(["imdn-x2", own("Nearest")], baseline=own("Wide"), **QUICK)
    (failed,) = ranking.failed
    assert failed.problem == "it upscales by 2; this ranking is of x4"


def test_a_network_that_fails_on_a_picture_of_the_set_is_out(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    ranking = rank([own("OneSize"), own("Nearest")], pairs=pairs, baseline=own("Wide"), **QUICK)
    (failed,) = ranking.failed
    assert failed.problem == "ArithmeticError: 16x18 is not for me"
    assert failed.run_time is None
    assert rank([own("OneSize")], baseline=own("Wide"), **QUICK).failed == ()


def test_a_baseline_that_fails_takes_nobody_with_it(own: Callable[[str], str]) -> None:
    ranking = rank([own("Nearest")], baseline=own("Raises"), **QUICK)
    assert ranking.baseline == ""
    assert names(ranking) == ["Nearest", "Raises"]
    assert ranking.gain(ranking.entries[0], "parameters") is None


def test_what_the_counter_does_not_see_is_timed_and_noted(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    ranking = rank(
        [own("Attention"), own("Nearest")],
        pairs=pairs,
        baseline=own("Wide"),
        sort="parameters",
        **QUICK,
    )
    entry = entry_of(ranking, own("Attention"))
    assert entry.problem == ""
    assert entry.cost is None
    assert entry.value("run_time") > 0
    assert entry.value("psnr") == pytest.approx(entry_of(ranking, own("Nearest")).value("psnr"))
    assert any("not counted: " in note and "outside Conv2d" in note for note in entry.notes)
    assert entry is ranking.entries[-1]  # nothing is known to sort it by


def test_a_network_that_fails_on_the_timed_picture_is_out(own: Callable[[str], str]) -> None:
    ranking = rank([own("OneInput"), own("Nearest")], baseline=own("Wide"), **QUICK)
    assert [entry.name for entry in ranking.failed] == [own("OneInput")]


@pytest.mark.parametrize("name", ["Tires", "NanOnInput"])
def test_a_network_that_fails_while_it_is_measured_is_out(
    name: str, own: Callable[[str], str]
) -> None:
    ranking = rank([own(name), own("Nearest")], baseline=own("Wide"), **QUICK | {"repeats": 4})
    assert [entry.name for entry in ranking.failed] == [own(name)]
    assert [entry.run_time is None for entry in ranking.entries] == [False, False, True]


def test_a_default_type_of_one_network_is_not_that_of_the_next(own: Callable[[str], str]) -> None:
    rank([own("SetsDefault")], baseline=own("Wide"), **QUICK)
    assert torch.get_default_dtype() == torch.float32


def test_an_input_that_does_not_fit_into_memory_is_refused_before_it_is_tried(
    own: Callable[[str], str],
) -> None:
    ranking = rank([own("Nearest")], baseline="", **QUICK | {"input_size": (10**6, 10**6)})
    (entry,) = ranking.failed
    assert "GiB" in entry.problem


def test_modules_are_ranked_as_they_are() -> None:
    one, two = (nn.Sequential(nn.Conv2d(3, 48, size), nn.PixelShuffle(4)) for size in (1, 1))
    ranking = rank([one, two], baseline="", **QUICK)
    assert [entry.name for entry in ranking.entries if entry.problem] == []
    assert {entry.name for entry in ranking.entries} == {"1: Sequential", "2: Sequential"}
    assert [entry.name for entry in rank("folded-x4", baseline="", **QUICK).entries] == [
        "folded-x4"
    ]


def test_a_file_that_exits_takes_nobody_with_it(own: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nsys.exit(2)\n")  # as argparse does
    models = [f"{tmp_path}/script.py:Net", own("Nearest")]
    assert len(rank(models, baseline=own("Wide"), **QUICK).failed) == 1


def test_a_network_of_another_precision_is_timed_in_it(own: Callable[[str], str]) -> None:
    ranking = rank([own("Double"), own("Nearest")], baseline=own("Wide"), **QUICK)
    assert ranking.failed == ()


def test_a_network_without_parameters_has_its_quality(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    ranking = rank([own("Plain")], pairs=pairs, baseline=own("Nearest"), **QUICK)
    assert entry_of(ranking, own("Plain")).value("psnr") == pytest.approx(
        entry_of(ranking, own("Nearest")).value("psnr")
    )


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"sort": "beauty"}, UsageError, "there is no measure 'beauty'"),
        ({"input_size": (0, 16)}, UsageError, "1x1"),
        ({"repeats": 0}, UsageError, "at least once"),
        ({"device": "cuda:99"}, DeviceError, "cuda:99"),
        ({"baseline": "nothing"}, UsageError, "there is no network 'nothing'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_work(
    own: Callable[[str], str], options: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        rank([own("Nearest")], **{**QUICK, **options})


# --- the PSNR to keep -----------------------------------------------------------------------------


def test_a_baseline_with_weights_sets_the_psnr_to_keep(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    ranking = rank([own("Nearest"), own("Shaded")], pairs=pairs, baseline=own("Wide"), **QUICK)
    assert ranking.required_psnr == entry_of(ranking, own("Wide")).value("psnr")
    assert ranking.meets(entry_of(ranking, own("Nearest"))) is True
    assert ranking.meets(entry_of(ranking, own("Shaded"))) is False


def test_the_psnr_asked_for_comes_before_all_others(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    ranking = rank(
        [own("Nearest")],
        pairs=pairs,
        dataset="div2k",
        baseline=own("Wide"),
        required_psnr=99.0,
        **QUICK,
    )
    assert ranking.required_psnr == 99
    assert ranking.meets(entry_of(ranking, own("Nearest"))) is False


@pytest.mark.parametrize(
    ("dataset", "required"), [("DIV2K", BASELINE_PSNR["div2k"]), ("set14", None)]
)
def test_the_reports_figure_stands_in_on_its_own_set_only(
    own: Callable[[str], str], pairs: list[Pair], dataset: str, required: float | None
) -> None:
    ranking = rank([own("Nearest")], pairs=pairs, dataset=dataset, **QUICK)
    assert ranking.required_psnr == required
    baseline = entry_of(ranking, "msrresnet-x4")
    assert baseline.quality is None
    assert any("msrresnet-x4@FILE" in note for note in baseline.notes)
    assert ranking.meets(baseline) is None
    assert (ranking.meets(entry_of(ranking, own("Nearest"))) is None) == (required is None)


@pytest.mark.parametrize(("above", "kept"), [(-1.0, True), (0.004, True), (0.006, False)])
def test_half_a_hundredth_of_a_decibel_is_forgiven(
    own: Callable[[str], str], pairs: list[Pair], above: float, kept: bool
) -> None:
    network = find_candidate(own("Nearest")).make()
    psnr = evaluate_network(network, pairs, 4).rgb.psnr
    ranking = rank(
        [own("Nearest")],
        pairs=pairs,
        baseline=own("Nearest"),
        required_psnr=psnr + above,
        **QUICK,
    )
    assert ranking.meets(ranking.entries[0]) is kept


def test_a_network_of_0_to_255_is_suspected_by_its_psnr(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    options = {"pairs": pairs, "baseline": own("FullRange"), **QUICK}
    (entry,) = rank([own("FullRange")], **options).entries
    assert entry.value("psnr") < 10
    assert any("--white 255" in note for note in entry.notes)
    right = find_candidate(own("FullRange"), white=255)
    (entry,) = rank([right], **options).entries
    assert entry.value("psnr") > 20
    assert entry.notes == ()


def test_a_ranking_is_json(own: Callable[[str], str], pairs: list[Pair]) -> None:
    ranking = rank(
        [own("Nearest"), own("Raises"), own("Attention")],
        pairs=pairs,
        dataset="two pictures",
        baseline=own("Wide"),
        **QUICK,
    )
    read = json.loads(json.dumps(ranking.as_dict(), allow_nan=False))
    assert (read["dataset"], read["input_size"]) == ("two pictures", [16, 16])
    assert read["required_psnr"] == ranking.required_psnr
    assert [each["name"] for each in read["entries"]] == [each.name for each in ranking.entries]
    for each, entry in zip(read["entries"], ranking.entries, strict=True):
        assert {name: each[name] for name in MEASURES} == {
            name: entry.value(name) for name in MEASURES
        }
        assert each["gain"] == {name: ranking.gain(entry, name) for name in MEASURES}
    nearest = next(each for each in read["entries"] if each["name"] == own("Nearest"))
    assert [each["image"] for each in nearest["quality"]["per_image"]] == ["1", "2"]
    assert nearest["meets"] is True


def test_a_picture_that_comes_out_exactly_is_json_too(
    own: Callable[[str], str], tmp_path: Path
) -> None:
    write_image(Picture(np.full((64, 64, 3), 85, np.uint8)), tmp_path / "even.png")
    ranking = rank(
        [own("Nearest")], pairs=load_pairs(tmp_path, 4), baseline=own("Nearest"), **QUICK
    )
    assert ranking.entries[0].value("psnr") == float("inf")
    json.dumps(ranking.as_dict(), allow_nan=False)


# --- quality --------------------------------------------------------------------------------------


class HandMade:
    """A pair that lies in memory."""

    name = "hand-made"

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        return photo(12, 14, seed=3), photo(48, 56, seed=4)


def test_rgb_and_y_are_those_of_the_metrics(own: Callable[[str], str]) -> None:
    low, high = HandMade().read()
    network = find_candidate(own("Nearest")).make()
    quality = evaluate_network(network, [HandMade()], 4)
    output = low.repeat(4, axis=0).repeat(4, axis=1)
    rgb = score(output, high, challenge_protocol(4))
    y = score(output, high, super_resolution_protocol(4))
    assert (quality.rgb, quality.y) == (rgb, y)
    assert quality.per_image == (("hand-made", rgb, y),)
    assert (rgb.protocol.color, rgb.protocol.border) == ("rgb", 4)
    assert abs(rgb.psnr - y.psnr) > 0.1


def test_the_mean_weighs_every_picture_alike(own: Callable[[str], str], pairs: list[Pair]) -> None:
    quality = evaluate_network(find_candidate(own("Nearest")).make(), pairs, 4)
    each = [rgb.psnr for _, rgb, _ in quality.per_image]
    assert quality.rgb.psnr == pytest.approx(sum(each) / 2)
    assert quality.as_dict()["per_image"][1]["rgb"]["psnr"] == each[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_no_black_picture(value: float) -> None:
    def upscale(low: np.ndarray) -> np.ndarray:
        return np.full((48, 56, 3), value, np.float32)

    with pytest.raises(InputError, match="hand-made holds values that are not finite"):
        evaluate(upscale, [HandMade()], 4)


def test_an_output_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="different shapes"):
        evaluate(lambda low: low, [HandMade()], 4)
