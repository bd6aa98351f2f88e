"""Training: four stages that build on one another, learn, freeze, resume, and say what is wrong."""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from lowvis_classsr.data import JudgedPatches
from lowvis_classsr.model import ClassSRConfig
from lowvis_classsr.train import CollapseWatch, TrainConfig, main, stage_weights, train
from lowvis_classsr.weights import open_weights
from lowvis_shared.checkpoint import load_weights_file, save_weights_file
from lowvis_shared.errors import InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.testing.pictures import photo
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor


def names(group: str) -> list[str]:
    folder = files("lowvis_classsr") / "conf" / group
    return sorted(Path(each.name).stem for each in folder.iterdir() if "_" not in each.name)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(5):
        write_image(Picture(photo(96, 112, seed=seed)), folder / f"{seed}.png")
    return folder


def tiny(photos: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: narrow branches, small patches, and every event within a few steps."""
    config = TrainConfig(
        photos=str(photos),
        output=str(output),
        widths=[4, 6, 8],
        held_out=2,
        patch=8,
        patch_step=4,
        batch=2,
        routed_batch=4,
        steps=6,
        classifier_steps=6,
        joint_steps=6,
        warmup=2,
        log_every=2,
        checkpoint_every=2,
        validate_every=6,
        average=0.5,
        hardest_alone=True,
        precision="fp32",
        device="cpu",
    )
    return replace(config, **changes)


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def without_seconds(output: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(output)]


def tensors(path: Path) -> dict[str, Tensor]:
    return load_weights_file(path)[0]


def part(path: Path, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors(path).items() if k.startswith(prefix)}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


STAGES = ("original", "branch1", "branch2", "branch3", "classifier", "joint")


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The settings of a run of all stages that has ended."""
    config = tiny(photos, tmp_path_factory.mktemp("finished"))
    assert train(config) == stage_weights(config, "joint")
    return config


# --- the stages ----------------------------------------------------------------------------------


def test_all_stages_write_weights_checkpoints_and_figures(finished: TrainConfig) -> None:
    for stage in STAGES:
        path = stage_weights(finished, stage)
        folder = path.parent
        assert path.is_file(), stage
        assert list((folder / "checkpoints").glob("step-0000000006-*.pt")), stage
        written = lines(folder)
        assert [line["step"] for line in written if "loss" in line] == [2, 4, 6], stage
        last = written[-1]
        assert last["step"] == 6
        assert 5 < last["psnr"] < 60, stage
        notes = load_weights_file(path)[1]
        assert float(notes["held_out_psnr"]) == pytest.approx(last["psnr"], abs=1e-4)
        assert "photos" not in notes


def test_each_branch_has_its_width(finished: TrainConfig) -> None:
    for stage, width in zip(STAGES[:4], (8, 4, 6, 8), strict=True):
        assert len(tensors(stage_weights(finished, stage))["head_conv.0.weight"]) == width


def test_the_last_weights_open_by_themselves(finished: TrainConfig) -> None:
    loaded = open_weights(stage_weights(finished, "joint"))
    assert loaded.network.config == ClassSRConfig(widths=(4, 6, 8))
    low, high = loaded.edge_thresholds
    assert 0 < low < high
    simple, hard = (float(each) for each in loaded.metadata["psnr_thresholds"].split())
    assert 10 < simple < hard < 60


def test_routed_stages_tell_shares_and_cost(finished: TrainConfig) -> None:
    for stage in ("classifier", "joint"):
        last = lines(stage_weights(finished, stage).parent)[-1]
        shares = [last[f"share{index}"] for index in (1, 2, 3)]
        assert sum(shares) == pytest.approx(1)
        costs = [342 * width + 5184 for width in (4, 6, 8)]
        cost = sum(share * each for share, each in zip(shares, costs, strict=True)) / costs[-1]
        assert last["macs"] == pytest.approx(cost)


def test_the_classifier_stage_leaves_the_branches_as_they_are(finished: TrainConfig) -> None:
    path = stage_weights(finished, "classifier")
    for index in (1, 2, 3):
        branch = tensors(stage_weights(finished, f"branch{index}"))
        assert equal(part(path, f"net{index}."), branch)


def trained_of(first: Path, second: Path) -> list[str]:
    """Parts of a network in which two files differ."""
    parts = ("classifier.", "net1.", "net2.", "net3.")
    return [each for each in parts if not equal(part(first, each), part(second, each))]


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, ["net1.", "net2.", "net3."]),
        ({"hardest_alone": False}, ["net1.", "net2."]),
        ({"classifier_loss": "paper"}, ["classifier.", "net1.", "net2.", "net3."]),
    ],
    ids=str,
)
def test_what_the_joint_stage_trains(
    finished: TrainConfig, tmp_path: Path, changes: dict[str, Any], trained: list[str]
) -> None:
    config = replace(finished, output=str(tmp_path), stage="joint", **changes)
    source = stage_weights(config, "classifier")
    shutil.copytree(stage_weights(finished, "classifier").parent, source.parent)
    assert trained_of(train(config), source) == trained


@pytest.mark.parametrize("stage", ["classifier", "joint"])
def test_a_whole_network_takes_the_place_of_earlier_stages(
    photos: Path, tmp_path: Path, finished: TrainConfig, stage: str
) -> None:
    source = stage_weights(finished, "joint")
    steps = {"classifier_steps": 2, "joint_steps": 2, "validate_every": 2}
    config = tiny(photos, tmp_path, stage=stage, initial=str(source), **steps)
    trained = {"classifier": ["classifier."], "joint": ["net1.", "net2.", "net3."]}
    assert trained_of(train(config), source) == trained[stage]


def test_the_joint_stage_makes_branches_better_on_their_patches(
    photos: Path, tmp_path: Path, finished: TrainConfig
) -> None:
    seldom = {"log_every": 10, "checkpoint_every": 100, "validate_every": 100, "joint_steps": 100}
    config = tiny(photos, tmp_path, stage="joint", **seldom, joint_rate=1e-3, average=0.9)
    source = stage_weights(config, "classifier")
    shutil.copytree(stage_weights(finished, "classifier").parent, source.parent)
    before = lines(source.parent)[-1]
    train(config)
    after = lines(tmp_path / "joint")[-1]
    assert after["psnr"] > before["psnr"] + 0.1
    assert after["share1"] == before["share1"], "the Class-Module stays"


def test_frozen_branches_keep_their_statistics(photos: Path, tmp_path: Path) -> None:
    config = tiny(photos, tmp_path, network="carn", widths=[4, 8], steps=2, classifier_steps=2)
    config = replace(config, joint_steps=2, validate_every=2, batch_statistics=True)
    for stage in ("branches", "classifier", "joint"):
        train(replace(config, stage=stage))
    classifier, joint = (stage_weights(config, stage) for stage in ("classifier", "joint"))
    for index in (1, 2):
        branch = tensors(stage_weights(config, f"branch{index}"))
        assert int(branch["c1.1.num_batches_tracked"]) == 2, "training has statistics of its own"
        assert equal(part(classifier, f"net{index}."), branch)
        own = part(joint, f"net{index}.")
        assert not torch.equal(own["entry.weight"], branch["entry.weight"])
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(own[f"b1.c1.1.{name}"], branch[f"b1.c1.1.{name}"])


def test_batch_statistics_are_left_alone_unless_asked_for(photos: Path, tmp_path: Path) -> None:
    config = tiny(photos, tmp_path, network="carn", widths=[4, 8], steps=2, validate_every=2)
    branch = tensors(train(replace(config, stage="original")))
    assert int(branch["c1.1.num_batches_tracked"]) == 0
    assert torch.equal(branch["c1.1.running_var"], torch.ones(8))


def test_branches_learn_from_different_patches(photos: Path, tmp_path: Path) -> None:
    """With one width and one seed only the patches differ, and the hardest are dearest."""
    config = tiny(photos, tmp_path, stage="branches", from_original=False, steps=8)
    train(replace(config, batch=8, learning_rate=1e-9, floor=0.0, validate_every=8))
    psnr = [lines(tmp_path / f"branch{index}")[-1]["psnr"] for index in (1, 2, 3)]
    assert psnr == sorted(psnr, reverse=True)


def test_branches_go_on_from_the_original(photos: Path, tmp_path: Path) -> None:
    config = tiny(photos, tmp_path, steps=2, validate_every=2, learning_rate=1e-3)
    train(replace(config, stage="original"))
    still = replace(config, stage="branches", learning_rate=0.0, floor=0.0)
    train(still)
    original = tensors(stage_weights(config, "original"))
    assert equal(tensors(stage_weights(config, "branch3")), original)
    narrow = tensors(stage_weights(config, "branch1"))
    assert torch.equal(narrow["tail_conv.weight"], original["tail_conv.weight"][:4])
    other = replace(still, output=str(tmp_path / "other"), from_original=False)
    shutil.copytree(tmp_path / "original", tmp_path / "other" / "original")
    train(other)
    assert not equal(tensors(stage_weights(other, "branch3")), original)
    assert not torch.equal(
        tensors(stage_weights(other, "branch1"))["tail_conv.weight"], narrow["tail_conv.weight"]
    )


def test_the_hardest_branch_is_the_original_unless_asked_otherwise(
    photos: Path, tmp_path: Path
) -> None:
    settings = {"steps": 2, "validate_every": 2, "classifier_steps": 2, "hardest_alone": False}
    config = tiny(photos, tmp_path, **settings)
    for stage in ("original", "branches", "classifier"):
        path = train(replace(config, stage=stage))
    assert not stage_weights(config, "branch3").exists()
    assert equal(part(path, "net3."), tensors(stage_weights(config, "original")))
    assert equal(part(path, "net1."), tensors(stage_weights(config, "branch1")))


def test_given_weights_are_a_start(photos: Path, tmp_path: Path, finished: TrainConfig) -> None:
    source = stage_weights(finished, "original")
    settings = {"stage": "original", "initial": str(source), "steps": 2, "validate_every": 2}
    config = tiny(photos, tmp_path, learning_rate=0.0, floor=0.0, **settings)
    assert equal(tensors(train(config)), tensors(source))
    foreign = replace(config, network="carn", widths=[4, 8], output=str(tmp_path / "carn"))
    with pytest.raises(WeightsError, match="no layer of this network"):
        train(foreign)


# --- learning ------------------------------------------------------------------------------------


def test_a_branch_learns(photos: Path, tmp_path: Path) -> None:
    seldom = {"log_every": 10, "checkpoint_every": 150, "validate_every": 150}
    config = tiny(photos, tmp_path, stage="original", steps=150, batch=8, **seldom)
    train(replace(config, learning_rate=3e-3, average=0.9, patch=12))
    losses = [line["loss"] for line in lines(tmp_path / "original") if "loss" in line]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]


@pytest.mark.parametrize("loss", ["regret", "paper"])
def test_the_classifier_learns_which_branch_suits_a_patch(tmp_path: Path, loss: str) -> None:
    """One branch paints everything dark and the other bright: whoever looks knows whom to ask."""
    for seed in range(4):
        noise = np.random.default_rng(seed).integers(-20, 20, (96, 128, 3))
        shades = np.where(np.arange(128)[:, None] < 64, 51, 204)
        picture = Picture((shades + noise).astype(np.uint8))
        write_image(picture, tmp_path / "photos" / f"{seed}.png")
    seldom = {"log_every": 10, "checkpoint_every": 100, "validate_every": 100}
    config = tiny(tmp_path / "photos", tmp_path, widths=[4, 6], classifier_steps=100, **seldom)
    for index, shade in ((1, 0.2), (2, 0.8)):
        branch = config.shape.build_branch(index - 1)
        weights = {key: torch.zeros_like(each) for key, each in branch.state_dict().items()}
        weights["tail_conv.bias"].fill_(shade)
        save_weights_file(stage_weights(config, f"branch{index}"), weights, {})
    config = replace(config, stage="classifier", patch_step=8, routed_batch=16, average=0.9)
    path = train(
        replace(config, classifier_rate=3e-3, image_weight=100.0, classifier_loss=loss, dimmed=0.0)
    )

    losses = [line["loss"] for line in lines(tmp_path / "classifier") if "loss" in line]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    last = lines(tmp_path / "classifier")[-1]
    assert last["psnr"] > 20, "a wrong branch alone gives 7 dB"
    assert last["share1"] == pytest.approx(0.5, abs=0.1)
    judge = open_weights(path).network.classifier
    probabilities = judge(torch.tensor([0.2, 0.8])[:, None, None, None].expand(2, 3, 8, 8))
    assert probabilities.softmax(1).diagonal().min() > 0.9

    shutil.rmtree(path.parent)
    train(replace(config, classifier_rate=3e-3, classifier_loss="regret", price=1000.0))
    assert lines(tmp_path / "classifier")[-1]["share1"] == 1, "what is wrong is cheap by far"


def test_a_hopeless_branch_counts_as_wrong_and_no_more(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tens of decibels on a few patches would drown what tells the others apart."""
    config = tiny(photos, tmp_path, widths=[4, 6], stage="classifier", classifier_steps=1)
    for index, shade in ((1, 9.0), (2, 0.5)):
        branch = config.shape.build_branch(index - 1)
        weights = {key: torch.zeros_like(each) for key, each in branch.state_dict().items()}
        weights["tail_conv.bias"].fill_(shade)
        save_weights_file(stage_weights(config, f"branch{index}"), weights, {})
    seen: list[NDArray[np.float32]] = []

    def watch(low: NDArray[np.uint8], regrets: NDArray[np.float32], **rest: Any) -> JudgedPatches:
        seen.append(regrets)
        return JudgedPatches(low, regrets, **rest)

    monkeypatch.setattr("lowvis_classsr.train.JudgedPatches", watch)
    train(config)
    (found,) = seen
    assert found.shape[1] == 2
    assert found.min() == 0
    assert found.max() == 3


# --- collapse ------------------------------------------------------------------------------------


def test_collapse_is_told_and_nothing_else_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "lowvis")
    watch = CollapseWatch(3)
    assert not watch.tell(0)
    watch.see(torch.eye(3)[[1, 1, 1, 1]])
    assert watch.tell(7)
    assert "step 7" in caplog.text
    assert "class 2" in caplog.text
    assert "average_weight" in caplog.text
    caplog.clear()
    watch.see(torch.eye(3)[[1, 1, 0, 1]])
    assert not watch.tell(8)
    assert not caplog.text


def test_collapse_is_told_by_the_last_steps() -> None:
    watch = CollapseWatch(2)
    watch.see(torch.eye(2)[[0, 1]])
    for _ in range(200):
        watch.see(torch.eye(2)[[0, 0]])
    assert watch.tell(201)


def test_a_run_that_collapses_warns(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lowvis")
    config = tiny(photos, tmp_path, steps=2, validate_every=2, classifier_steps=2)
    train(replace(config, stage="branches"))
    assert "collapsed" not in caplog.text
    # A classifier that has not learnt anything yet sends all patches to one class.
    train(replace(config, stage="classifier", classifier_rate=0.0))
    assert "step 2: the classifier has collapsed" in caplog.text


# --- stopping and going on -----------------------------------------------------------------------


def test_every_stage_goes_on_bit_by_bit(finished: TrainConfig, tmp_path: Path) -> None:
    """What a kill between two checkpoints leaves of each stage ends as if nothing had happened."""
    resumed = replace(finished, output=str(tmp_path / "run"))
    shutil.copytree(finished.output, resumed.output)
    for stage in STAGES:
        path = stage_weights(resumed, stage)
        (newest,) = (path.parent / "checkpoints").glob("step-0000000006-*.pt")
        newest.unlink()
        path.unlink()
        if stage != "original":  # of which not even the first steps shall be done again
            assert list((path.parent / "checkpoints").glob("step-0000000004-*.pt"))
    train(resumed)
    for stage in STAGES:
        path, expected = stage_weights(resumed, stage), stage_weights(finished, stage)
        assert equal(tensors(path), tensors(expected)), stage
        assert without_seconds(path.parent) == without_seconds(expected.parent), stage


def test_a_preempted_run_equals_an_uninterrupted_one(
    photos: Path, tmp_path: Path, finished: TrainConfig
) -> None:
    config = tiny(photos, tmp_path)
    values = {name: value for name, value in vars(config).items() if value is not None}
    arguments = [f"{name}={value}" for name, value in values.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "lowvis_classsr.train", *arguments],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "branch1" / "checkpoints").glob("step-*.pt")):
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not stage_weights(config, "joint").exists(), "stopped too late to prove anything"
    train(config)
    for stage in STAGES:
        path, expected = stage_weights(config, stage), stage_weights(finished, stage)
        assert equal(tensors(path), tensors(expected)), stage


def test_a_finished_run_is_left_alone(finished: TrainConfig) -> None:
    joint = stage_weights(finished, "joint")
    before = joint.stat().st_mtime_ns, lines(joint.parent)
    train(finished)
    assert (joint.stat().st_mtime_ns, lines(joint.parent)) == before


# --- settings ------------------------------------------------------------------------------------


def test_a_missing_stage_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"branch1.*an earlier stage") as caught:
        train(tiny(photos, tmp_path, stage="classifier"))
    assert "original, branches, classifier, joint" in (caught.value.hint or "")
    with pytest.raises(WeightsError, match=r"classifier.*an earlier stage"):
        train(tiny(photos, tmp_path, stage="joint"))


def test_another_run_is_not_overwritten(finished: TrainConfig) -> None:
    with pytest.raises(UsageError, match="batch=2, not 3"):
        train(replace(finished, batch=3, steps=9))
    with pytest.raises(UsageError, match="widths="):
        train(replace(finished, widths=[4, 7, 8], steps=9, stage="branches"))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"stage": "first"}, UsageError),
        ({"network": "edsr"}, UsageError),
        ({"widths": [8, 4]}, UsageError),
        ({"widths": [8]}, UsageError),
        ({"widths": [2, 8]}, UsageError),
        ({"network": "carn", "widths": [4, 6]}, UsageError),
        ({"scale": 5}, UsageError),
        ({"scale": 1}, UsageError),
        ({"noise": 25.0}, UsageError),
        ({"noise": -1.0, "scale": 1}, UsageError),
        ({"patch": 10}, UsageError),
        ({"patch": 0}, UsageError),
        ({"patch_step": 0}, UsageError),
        ({"joint_steps": 0}, UsageError),
        ({"class_weight": -1.0}, UsageError),
        ({"dimmed": 1.5}, UsageError),
        ({"shares": [0.5, 0.5]}, UsageError),
        ({"shares": [0.0, 0.0, 0.0]}, UsageError),
        ({"scorer": "nobody-x4"}, UsageError),
        ({"photos": "nowhere"}, InputError),
        ({"patch": 64}, InputError),
        ({"held_out": 5}, InputError),
        ({"initial": "nowhere.pth"}, WeightsError),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(
    photos: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(replace(tiny(photos, tmp_path), **changes))
    assert not stage_weights(tiny(photos, tmp_path), "original").exists()


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_module("lowvis_classsr.conf", version_base="1.3"):
        settings = compose("train", overrides=["photos=x", *overrides])
        OmegaConf.resolve(settings)
        config = OmegaConf.to_object(settings)
    assert isinstance(config, TrainConfig)
    config.check()
    return config


@pytest.mark.parametrize(
    ("ablation", "changed"),
    [
        ("none", {}),
        ("classes-2", {"widths": [16, 56]}),
        ("classes-4", {"widths": [16, 29, 43, 56]}),
        ("classes-5", {"widths": [16, 26, 36, 46, 56]}),
        ("patch-16", {"patch": 16}),
        ("patch-48", {"patch": 48}),
        ("patch-64", {"patch": 64}),
        ("paper-losses", {"classifier_loss": "paper"}),
        ("no-class-loss", {"class_weight": 0.0, "classifier_loss": "paper"}),
        ("no-average-loss", {"average_weight": 0.0, "classifier_loss": "paper"}),
    ],
)
def test_ablations_change_what_their_names_say(ablation: str, changed: dict[str, Any]) -> None:
    assert composed(f"ablation={ablation}") == replace(composed(), **changed)


def test_all_ablations_are_tested() -> None:
    assert len(names("ablation")) == 10


@pytest.mark.parametrize("recipe", names("recipe"))
@pytest.mark.parametrize("task", names("task"))
@pytest.mark.parametrize("network", names("network"))
def test_all_settings_go_together(network: str, task: str, recipe: str) -> None:
    config = composed(f"network={network}", f"task={task}", f"recipe={recipe}")
    assert config.network == network
    assert config.output == f"runs/classsr-{network}"
    assert (config.scale == 1) == (task == "denoise") == (config.dimmed == 0)
    assert (config.schedule == "restarts") == (recipe == "paper")


def test_denoising_is_learnt_by_command(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    config = tiny(photos, tmp_path / "run", patch=16, patch_step=16)
    chosen = ("photos", "output", "widths", "held_out", "patch", "patch_step", "batch")
    chosen += ("routed_batch", "steps", "classifier_steps", "joint_steps", "warmup")
    arguments = [f"{name}={getattr(config, name)}" for name in chosen]
    main(["task=denoise", "device=cpu", "precision=fp32", *arguments])
    loaded = open_weights(stage_weights(config, "joint"))
    assert loaded.network.config == ClassSRConfig(widths=(4, 6, 8), scale=1)
    assert loaded.metadata["noise"] == "25.0"
    assert loaded.network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("arguments", [["fotos=x"], ["scale=four"], ["ablation=all"], []], ids=str)
def test_hydra_errors_are_usage_errors(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    with pytest.raises(UsageError):
        main(arguments)


def test_another_network_can_judge_the_patches(photos: Path, tmp_path: Path) -> None:
    config = tiny(photos, tmp_path, stage="original", steps=2, validate_every=2)
    train(config)
    train(replace(config, output=str(tmp_path / "other"), scorer="pan-x4"))
    scores = [
        np.load(path)["psnr"]
        for folder in (tmp_path, tmp_path / "other")
        for path in sorted((folder / "photos").glob("patches-*.npz"))
    ]
    assert len(scores) == 4
