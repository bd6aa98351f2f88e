"""Training: networks learn, freeze what is to stay, go on bit by bit, and say what is wrong."""

import json
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
from lowvis_csrnet.simulate import OPERATIONS, brightness
from lowvis_csrnet.train import TrainConfig, main, train
from lowvis_csrnet.weights import load
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import photo
from omegaconf import OmegaConf
from torch import Tensor

RECIPES = sorted(
    Path(each.name).stem for each in (files("lowvis_csrnet") / "conf" / "recipe").iterdir()
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(5):
        write_image(Picture(photo(32, 24 + 4 * seed, seed=seed)), folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def dark_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the photographs were before somebody made them brighter."""
    folder = tmp_path_factory.mktemp("dark")
    for path in photos.iterdir():
        picture = read_image(path)
        write_image(picture.with_pixels(brightness(picture.to_float(), 0.5)), folder / path.name)
    return folder


def tiny(photos: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: small photographs, and every event within a few steps."""
    config = TrainConfig(
        photos=str(photos),
        output=str(output),
        held_out=1,
        side=32,
        crop=12,
        batch=2,
        pixels=64,
        steps=10,
        warmup=2,
        log_every=2,
        checkpoint_every=5,
        validate_every=5,
        average=0.5,
        precision="fp32",
        device="cpu",
    )
    return replace(config, **changes)


def learning(photos: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run that is long enough to learn something."""
    seldom = {"log_every": 10, "checkpoint_every": 120, "validate_every": 120}
    given = {"steps": 120, "learning_rate": 5e-3, "average": 0.9, "decay": 0.8, **seldom}
    return tiny(photos, output, **(given | changes))


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def without_seconds(output: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(output)]


def tensors(path: Path) -> dict[str, Tensor]:
    return load_weights_file(path)[0]


def assert_equal(first: Path, second: Path) -> None:
    expected, actual = tensors(first), tensors(second)
    assert list(expected) == list(actual)
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


# --- it learns ---------------------------------------------------------------------------------


def test_contrast_needs_the_condition(tmp_path: Path) -> None:
    for seed in range(12):  # of different brightness, which is what the condition has to tell
        pixels = photo(32, 40, seed=seed) / 255 * (0.4 + 0.05 * seed)
        picture = Picture(np.rint(pixels * 255).astype(np.uint8))
        write_image(picture, tmp_path / "photos" / f"{seed:02}.png")
    found = {}
    for condition in ("none", "network"):
        output = tmp_path / condition
        settings = {"steps": 400, "validate_every": 400, "checkpoint_every": 400, "batch": 4}
        config = learning(tmp_path / "photos", output, learn="contrast-1.5", **settings)
        train(replace(config, condition=condition, held_out=3))
        found[condition] = lines(output)[-1]["psnr"]
    assert found["network"] > found["none"] + 3


def test_a_local_effect_needs_csrnet_l(photos: Path, tmp_path: Path) -> None:
    found = {}
    for network in ("csrnet", "csrnet-l"):
        output = tmp_path / network
        settings = {"steps": 600, "validate_every": 600, "checkpoint_every": 600, "crop": 24}
        config = learning(photos, output, learn="local-contrast", network=network, **settings)
        train(replace(config, batch=4, learning_rate=2e-3))
        found[network] = lines(output)[-1]["psnr"]
    assert found["csrnet-l"] > found["csrnet"] + 2


def test_training_imitates_an_operation_better_than_the_input(photos: Path, tmp_path: Path) -> None:
    train(learning(photos, tmp_path, learn="brightness-0.5"))
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert np.mean(losses[-3:]) < 0.2 * losses[0]
    last = lines(tmp_path)[-1]
    assert last["psnr"] > last["psnr_input"] + 10
    assert last["ssim"] > 0.95


def test_pairs_are_learnt(photos: Path, dark_photos: Path, tmp_path: Path) -> None:
    path = train(learning(photos, tmp_path, learn="pairs", inputs=str(dark_photos)))
    last = lines(tmp_path)[-1]
    assert last["psnr"] > last["psnr_input"] + 10
    assert load_weights_file(path)[1]["learn"] == "pairs"


def test_csrnet_l_trains_on_crops(photos: Path, tmp_path: Path) -> None:
    changes = {"network": "csrnet-l", "learn": "brightness-0.5"}
    path = train(learning(photos, tmp_path, **changes))
    assert path.name == "csrnet_l.safetensors"
    last = lines(tmp_path)[-1]
    assert last["psnr"] > last["psnr_input"] + 3
    assert load("csrnet-l", path).input_space == "srgb"


@pytest.mark.parametrize(
    ("condition", "keys", "parameters"),
    [("none", 6, 4_611), ("mean+brightness", 18, 5_921), ("histogram", 18, 206_089)],
)
def test_other_conditions_train(
    photos: Path, tmp_path: Path, condition: str, keys: int, parameters: int
) -> None:
    path = train(tiny(photos, tmp_path, condition=condition, learn="contrast-1.5"))
    written, notes = load_weights_file(path)
    assert len(written) == keys
    assert sum(tensor.numel() for tensor in written.values()) == parameters
    assert notes["condition"] == condition


# --- what a run writes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    train(tiny(photos, output))
    return output


def test_run_writes_metrics_pictures_and_weights(photos: Path, uninterrupted: Path) -> None:
    written = lines(uninterrupted)
    assert [line["step"] for line in written if "loss" in line] == [2, 4, 6, 8, 10]
    assert [line["step"] for line in written if "psnr" in line] == [5, 10]
    pictures = sorted((uninterrupted / "pictures").glob("*.png"))
    assert [path.name for path in pictures] == ["0000005.png", "0000010.png"]
    before_and_after = read_image(pictures[-1])
    assert before_and_after.width > before_and_after.height


def test_weights_say_what_they_are_and_load(photos: Path, uninterrupted: Path) -> None:
    path = uninterrupted / "csrnet.safetensors"
    _, notes = load_weights_file(path)
    expected = {
        "network": "csrnet",
        "condition": "network",
        "learn": "retouch",
        "input_space": "srgb",
        "train_only": "all",
        "side": "32",
        "steps": "10",
        "step": "10",
        "seed": "10",
    }
    assert {name: notes[name] for name in expected} == expected
    psnr = [line["psnr"] for line in lines(uninterrupted) if "psnr" in line][-1]
    assert float(notes["held_out_psnr"]) == pytest.approx(psnr, abs=1e-4)
    assert not any(str(photos) in value for value in notes.values())
    loaded = load("csrnet", path)
    assert loaded.input_space == "srgb"
    assert not loaded.network.training


def test_weights_carry_the_input_space_they_were_trained_in(photos: Path, tmp_path: Path) -> None:
    path = train(tiny(photos, tmp_path, steps=5, input_space="prophoto-1.8"))
    assert load("csrnet", path).input_space == "prophoto-1.8"


# --- going on ----------------------------------------------------------------------------------


def test_a_killed_run_goes_on_bit_by_bit(photos: Path, tmp_path: Path) -> None:
    # Far too long to end before it is killed; its learning rate does not depend on its length.
    config = tiny(photos, tmp_path / "killed", steps=10**6, schedule="halving")
    given = [f"{name}={value}" for name, value in vars(config).items() if value is not None]
    process = subprocess.Popen(
        [sys.executable, "-m", "lowvis_csrnet.train", *given],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-*.pt")):
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    reached = max(int(path.name[5:15]) for path in checkpoints.glob("step-*.pt"))
    config.steps = reached + 7
    resumed = train(config)
    assert_equal(resumed, train(replace(config, output=str(tmp_path / "straight"))))
    assert without_seconds(tmp_path / "killed") == without_seconds(tmp_path / "straight")


@pytest.mark.parametrize(
    "changes",
    [{}, {"train_only": "condition"}, {"network": "csrnet-l", "learn": "local-contrast"}],
    ids=str,
)
def test_five_steps_and_five_more_are_ten(
    photos: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    constant = {"schedule": "halving", "warmup": 0} | changes  # a rate of the step alone
    straight = train(tiny(photos, tmp_path / "straight", **constant))
    for steps in (5, 10):
        resumed = train(tiny(photos, tmp_path / "resumed", steps=steps, **constant))
    assert_equal(resumed, straight)
    assert without_seconds(tmp_path / "resumed")[-1] == without_seconds(tmp_path / "straight")[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"learn": "contrast-1.5"},
        {"condition": "mean"},
        {"network": "csrnet-l"},
        {"input_space": "prophoto-1.8"},
        {"train_only": "condition"},
        {"side": 24},
        {"pixels": 32},
        {"batch": 1},
        {"seed": 11},
    ],
    ids=str,
)
def test_another_run_does_not_go_on_in_its_folder(
    photos: Path, uninterrupted: Path, changes: dict[str, Any]
) -> None:
    before = (uninterrupted / "metrics.jsonl").read_text()
    with pytest.raises(UsageError, match=f"has {next(iter(changes))}="):
        train(tiny(photos, uninterrupted, steps=12, **changes))
    assert (uninterrupted / "metrics.jsonl").read_text() == before


# --- starting from weights ---------------------------------------------------------------------


def test_transfer_leaves_the_base_network_as_it_is(
    photos: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    start = uninterrupted / "csrnet.safetensors"
    given = {"initial": str(start), "train_only": "condition", "learn": "brightness-0.5"}
    before, after = tensors(start), tensors(train(tiny(photos, tmp_path, **given)))
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == name.startswith("conv"), name


def test_training_starts_from_the_weights_given(
    photos: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    start = uninterrupted / "csrnet.safetensors"
    still = {"learning_rate": 0.0, "floor": 0.0, "steps": 5}
    assert_equal(train(tiny(photos, tmp_path / "a", initial=str(start), **still)), start)
    base = train(tiny(photos, tmp_path / "b", initial=str(start), condition="none", **still))
    assert all(torch.equal(tensor, tensors(start)[name]) for name, tensor in tensors(base).items())
    with pytest.raises(WeightsError, match="holds no layer"):
        train(tiny(photos, tmp_path / "c", initial=str(start), network="csrnet-l"))


def test_official_weights_go_on_in_their_input_space(photos: Path, tmp_path: Path) -> None:
    official = asset_path("csrnet/csrnet/official")
    still = {"learning_rate": 0.0, "floor": 0.0, "steps": 5, "initial": str(official)}
    path = train(tiny(photos, tmp_path, input_space="prophoto-1.8", **still))
    loaded, theirs = load("csrnet", path), load("csrnet", official)
    assert loaded.input_space == theirs.input_space == "prophoto-1.8"
    for name, tensor in theirs.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "csrnet-xl"}, "network=csrnet-xl"),
        ({"condition": "entropy"}, "entropy"),
        ({"condition": "mean+mean"}, "mean"),
        ({"condition": ""}, "condition"),
        ({"learn": "sharpen"}, "no lesson 'sharpen'"),
        ({"input_space": "raw"}, "raw"),
        ({"train_only": "base"}, "train_only=base"),
        ({"learn": "pairs"}, "belong together"),
        ({"inputs": "somewhere"}, "belong together"),
        ({"side": 0}, "side=0"),
        ({"pixels": 0}, "pixels=0"),
        ({"crop": 0}, "crop=0"),
        ({"schedule": "cosine"}, "schedule=cosine"),
        ({"average": 1.0}, "average"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(
    photos: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tiny(photos, tmp_path).check()
    with pytest.raises(UsageError, match=message):
        tiny(photos, tmp_path, **changes).check()
    with pytest.raises(UsageError, match=message):
        train(tiny(photos, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"photos": "nowhere"}, InputError),
        ({"held_out": 5}, InputError),
        ({"network": "csrnet-l", "crop": 99}, InputError),
        ({"network": "csrnet-l", "condition": "mean"}, UsageError),
        ({"learn": "pairs", "inputs": "nowhere"}, InputError),
        ({"initial": "nowhere.pth"}, WeightsError),
        ({"initial": "official", "network": "csrnet-l"}, WeightsError),
    ],
    ids=str,
)
def test_runs_that_cannot_be_are_refused(
    photos: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(replace(tiny(photos, tmp_path), **changes))


def test_a_base_network_alone_has_no_condition_to_train(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        train(tiny(photos, tmp_path, condition="none", train_only="condition"))


def test_another_crop_is_another_run(photos: Path, tmp_path: Path) -> None:
    local = {"network": "csrnet-l", "learn": "local-contrast"}
    train(tiny(photos, tmp_path, steps=2, **local))
    with pytest.raises(UsageError, match="has crop=12"):
        train(tiny(photos, tmp_path, steps=4, crop=8, **local))


def test_weights_do_not_tell_where_the_inputs_lay(
    photos: Path, dark_photos: Path, tmp_path: Path
) -> None:
    path = train(tiny(photos, tmp_path, steps=2, learn="pairs", inputs=str(dark_photos)))
    assert not any(str(dark_photos) in note for note in load_weights_file(path)[1].values())


def test_photographs_too_narrow_for_a_condition_are_left_out(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for seed in range(3):
        write_image(Picture(photo(30, 32, seed=seed)), folder / f"{seed}.png")
        write_image(Picture(photo(30, 300, seed=seed)), folder / f"{seed}-strip.png")
    assert train(tiny(folder, tmp_path / "run", on_error="skip")).is_file()
    with pytest.raises(InputError, match=r"strip\.png"):
        train(tiny(folder, tmp_path / "other"))


def test_broken_photographs_are_left_out(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "0_broken.png").write_bytes(b"no picture")
    assert train(tiny(folder, tmp_path / "run", steps=2, on_error="skip")).is_file()
    with pytest.raises(InputError, match="broken"):
        train(tiny(folder, tmp_path / "other", steps=2))


# --- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["fotos=x"], ["side=wide"], ["recipe=none"], []], ids=str)
def test_hydra_errors_are_usage_errors(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    with pytest.raises(UsageError):
        main(arguments)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_compose_and_make_sense(recipe: str) -> None:
    given = [f"recipe={recipe}", "photos=x"]
    if recipe == "transfer":
        given += ["initial=own", "learn=pairs", "inputs=y"]
    with initialize_config_module("lowvis_csrnet.conf", version_base="1.3"):
        config = OmegaConf.to_object(compose("train", given))
    assert isinstance(config, TrainConfig)
    config.check()
    assert config.output == ("runs/csrnet-l" if recipe == "local" else "runs/csrnet")
    assert config.train_only == ("condition" if recipe == "transfer" else "all")
    if recipe == "paper":
        assert (config.batch, config.steps, config.learning_rate) == (1, 600_000, 1e-4)
    if recipe == "local":
        assert config.learn in OPERATIONS


def test_the_command_trains(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    config = tiny(photos, tmp_path, steps=2, learn="brightness-0.5")
    main([f"{name}={value}" for name, value in vars(config).items() if value is not None])
    assert load_weights_file(tmp_path / "csrnet.safetensors")[1]["learn"] == "brightness-0.5"
    assert (tmp_path / "hydra" / "overrides.yaml").is_file()
