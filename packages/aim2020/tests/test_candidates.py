"""What the words of the challenge name: its networks by their titles, others beside them."""

from pathlib import Path

import pytest
import torch
from lowvis_aim2020.candidates import all_names, find_candidate
from lowvis_aim2020.model import NETWORKS
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.testing import asset_path


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_found_by_its_name(name: str) -> None:
    candidate = find_candidate(name, weights=False)
    assert (candidate.name, candidate.weights) == (name, "")
    assert (candidate.title, candidate.scale) == (NETWORKS[name].title, NETWORKS[name].scale)
    assert candidate.receptive_radius == NETWORKS[name].receptive_radius


def test_official_weights_are_the_authors() -> None:
    state_dict, _ = load_weights_file(asset_path("aim2020/rfdn-x4/official"))
    candidate = find_candidate("rfdn-x4@official", offline=True)
    assert candidate.weights == "official"
    loaded = candidate.make().state_dict()
    assert loaded.keys() == state_dict.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state_dict.items())


@pytest.mark.parametrize(
    ("name", "weights"), [("rfdn-x4", "official"), ("folded-x4", "own"), ("msrresnet-x4", "")]
)
def test_the_best_weights_there_are_stand_for_a_name(name: str, weights: str) -> None:
    assert find_candidate(name).weights == weights


def test_networks_of_other_packages_take_part() -> None:
    pytest.importorskip("lowvis_pan")
    candidate = find_candidate("pan-x4@own")
    assert (candidate.scale, candidate.weights) == (4, "own")
    assert candidate.receptive_radius is not None
    assert "pan-x4" in all_names(4)
    assert "pan-x2" in all_names(2)


def test_networks_of_other_packages_keep_off_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lowvis_pan")
    monkeypatch.delenv("LOWVIS_MIRROR", raising=False)
    monkeypatch.delenv("LOWVIS_ACCEPT_LICENCES", raising=False)  # else it would be fetched
    monkeypatch.setenv("LOWVIS_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="the network may not be used"):
        find_candidate("pan-x4@official", offline=True).make()


def test_all_names_are_of_one_scale_and_start_with_the_baseline() -> None:
    names = all_names(4)
    assert names[0] == "msrresnet-x4"
    assert {"rfdn-x4", "folded-x4", "carn-m-x4"} <= set(names)
    assert all(find_candidate(name, weights=False).scale == 4 for name in names)
    assert "imdn-x3" in all_names(3)
    assert "imdn-x3" not in names


@pytest.mark.parametrize("text", ["rfdm-x4", "rfdn", "", "own.py"])
def test_a_name_of_nothing_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        find_candidate(text)
    assert f"one of {next(iter(NETWORKS))}, " in (refusal.value.hint or "")  # ours come first
    assert "rfdn-x4" in (refusal.value.hint or "")


def test_networks_of_ours_have_the_title_of_the_report_and_tell_their_weights() -> None:
    title = NETWORKS["folded-x4"].title
    assert find_candidate("folded-x4@own").title == f"{title} @own"
    assert find_candidate("folded-x4@runs/best.pth").title == f"{title} @best.pth"
    assert find_candidate("own.py:Net@best.pth").title == "own.py:Net@best.pth"


def test_misspelt_weights_are_refused_with_those_there_are() -> None:
    with pytest.raises(WeightsError, match="offical") as refusal:
        find_candidate("rfdn-x4@offical").make()
    assert "official" in (refusal.value.hint or "")


def test_weights_that_were_never_published_are_refused() -> None:
    with pytest.raises(WeightsError, match="msrresnet-x4 has no official weights"):
        find_candidate("msrresnet-x4@official").make()
