"""Training: networks learn, recipes run, and a run that was stopped is the run that was not."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_aim2020.model import NETWORKS
from lowvis_aim2020.train import TrainConfig, main, train
from lowvis_aim2020.weights import load_network
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.pairs import Pair, bicubic, evaluate, evaluate_network
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import photo


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        write_image(Picture(photo(96, 112, seed=seed)), folder / f"{seed}.png")
    return folder


def tiny(photos: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: tiny crops, and every event within a few steps."""
    config = TrainConfig(
        photos=str(photos),
        output=str(output),
        held_out=1,
        crop=12,
        batch=1,
        steps=4,
        warmup=2,
        log_every=2,
        checkpoint_every=4,
        validate_every=4,
        average=0.5,
        precision="fp32",
        device="cpu",
    )
    return replace(config, **changes)


@pytest.mark.slow
def test_our_entry_beats_bicubic_on_a_photograph_it_never_saw(photos: Path, tmp_path: Path) -> None:
    config = tiny(
        photos,
        tmp_path,
        crop=16,
        batch=4,
        steps=480,
        warmup=20,
        learning_rate=2e-3,
        log_every=20,
        checkpoint_every=480,
        validate_every=480,
        average=0.9,
    )
    path = train(config)
    assert path.name == "folded_x4.safetensors"
    network = load_network(NETWORKS["folded-x4"], str(path))  # the form that runs
    write_image(Picture(photo(96, 112, seed=99)), tmp_path / "unseen.png")
    pairs = [Pair("unseen", 4, tmp_path / "unseen.png")]
    trained = evaluate_network(network, pairs, 4, receptive_radius=12).psnr
    assert trained > evaluate(lambda low: bicubic(low, 4), pairs, 4).psnr + 0.2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "network"),
    [("baseline", "msrresnet-x4"), ("winner", "rfdn-x4"), ("winner_finetune", "rfdn-x4")],
)
def test_recipes_of_the_challenge_run(
    recipe: str, network: str, photos: Path, tmp_path: Path
) -> None:
    changes = [
        "crop=12",
        "batch=1",
        "steps=4",
        "held_out=1",
        "log_every=2",
        "validate_every=4",
        "device=cpu",
    ]
    command = [sys.executable, "-m", "lowvis_aim2020.train", f"recipe={recipe}"]
    subprocess.run(
        [
            *command,
            f"network={network}",
            f"photos={photos}",
            f"output={tmp_path}",
            *changes,
        ],
        check=True,
        capture_output=True,
        timeout=240,
    )
    path = tmp_path / f"{network.replace('-', '_')}.safetensors"
    _, notes = load_weights_file(path)
    assert notes["architecture"] == network
    assert notes["loss"] == ("l2" if recipe == "winner_finetune" else "l1")
    assert notes["schedule"] == ("restarts" if recipe == "baseline" else "halving")
    picture = torch.rand(1, 3, 20, 20)
    with torch.inference_mode():
        assert bool(load_network(NETWORKS[network], str(path))(picture).isfinite().all())


def test_a_longer_run_is_the_same_run(photos: Path, tmp_path: Path) -> None:
    constant = {"schedule": "halving", "warmup": 0}
    for steps in (4, 8):
        resumed = train(tiny(photos, tmp_path / "resumed", steps=steps, **constant))
    straight = train(tiny(photos, tmp_path / "straight", steps=8, **constant))
    expected, _ = load_weights_file(straight)
    actual, _ = load_weights_file(resumed)
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def test_a_teacher_changes_what_is_learnt(photos: Path, tmp_path: Path) -> None:
    asset_path("aim2020/rfdn-x4/official")
    weights = {
        teacher: load_weights_file(train(tiny(photos, tmp_path / str(teacher), teacher=teacher)))
        for teacher in (None, "rfdn-x4")
    }
    (alone, _), (taught, notes) = weights.values()
    assert notes["teacher"] == "rfdn-x4"
    assert any(not torch.equal(alone[name], taught[name]) for name in alone)
    packs = (tmp_path / "rfdn-x4" / "photos").glob("*.json")
    assert sorted(json.loads(pack.read_text())["channels"] for pack in packs) == [3, 6]


def test_training_goes_on_from_weights_of_the_same_network(photos: Path, tmp_path: Path) -> None:
    first = train(tiny(photos, tmp_path / "first", network="rlfn-x4"))
    frozen = {"learning_rate": 0.0, "floor": 0.0, "network": "rlfn-x4", "initial": str(first)}
    second = train(tiny(photos, tmp_path / "second", **frozen))
    for name, tensor in load_weights_file(first)[0].items():
        torch.testing.assert_close(load_weights_file(second)[0][name], tensor)
    with pytest.raises(WeightsError, match="holds no layer"):
        train(tiny(photos, tmp_path / "third", network="msrresnet-x4", initial=str(first)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "rfdn"}, "no network"),
        ({"loss": "l3"}, "loss=l3"),
        ({"distillation": 2.0}, "distillation"),
        ({"teacher": "imdn-x2"}, "scales differ"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(
    photos: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(tiny(photos, tmp_path, **changes))


def test_another_network_does_not_go_on_in_its_folder(photos: Path, tmp_path: Path) -> None:
    train(tiny(photos, tmp_path, network="rlfn-x4"))
    with pytest.raises(UsageError, match="network=rlfn-x4"):
        train(tiny(photos, tmp_path, steps=8))


@pytest.mark.parametrize("arguments", [["fotos=x"], ["batch=four"], []], ids=str)
def test_hydra_errors_are_usage_errors(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    with pytest.raises(UsageError):
        main(arguments)
