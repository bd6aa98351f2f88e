"""Training: it learns, survives every way of being stopped, and says what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowvis_pan.evaluate import evaluate_network
from lowvis_pan.model import PAN
from lowvis_pan.train import TrainConfig, main, train
from lowvis_pan.weights import load_weights
from lowvis_shared.checkpoint import load_weights_file
from lowvis_shared.errors import InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.pairs import Pair, bicubic, evaluate
from lowvis_shared.testing.pictures import photo


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        write_image(Picture(photo(96, 112, seed=seed)), folder / f"{seed}.png")
    return folder


def settings(photos: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of seconds: tiny crops, and every event within a few steps."""
    values: dict[str, Any] = {
        "held_out": 1,
        "crop": 12,
        "batch": 1,
        "steps": 12,
        "warmup": 2,
        "log_every": 2,
        "checkpoint_every": 4,
        "validate_every": 6,
        "average": 0.5,
        "precision": "fp32",
        "device": "cpu",
    }
    return TrainConfig(photos=str(photos), output=str(output), **(values | changes))


def command(config: TrainConfig) -> list[str]:
    values = {name: value for name, value in vars(config).items() if value is not None}
    return [sys.executable, "-m", "lowvis_pan.train"] + [f"{k}={v}" for k, v in values.items()]


def lines(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def without_seconds(output: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(output)]


def wait_for(path: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list(path.glob(pattern)):
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    train(settings(photos, output))
    return output


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)], ids=["kill", "preempted"]
)
def test_resumed_run_equals_an_uninterrupted_one_bit_by_bit(
    photos: Path, tmp_path: Path, uninterrupted: Path, number: signal.Signals, code: int
) -> None:
    config = settings(photos, tmp_path)
    process = subprocess.Popen(
        command(config), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    wait_for(tmp_path / "checkpoints", "step-*.pt", process)
    process.send_signal(number)
    assert process.wait(60) == code
    reached = max(int(path.name[5:15]) for path in (tmp_path / "checkpoints").glob("step-*.pt"))
    assert 0 < reached < config.steps, "stopped too late to prove anything"

    train(config)
    expected, _ = load_weights_file(uninterrupted / "pan_x4.safetensors")
    resumed, _ = load_weights_file(tmp_path / "pan_x4.safetensors")
    for name, tensor in expected.items():
        np.testing.assert_array_equal(resumed[name].numpy(), tensor.numpy(), err_msg=name)
    assert without_seconds(tmp_path) == without_seconds(uninterrupted)


def test_run_writes_metrics_pictures_and_weights(uninterrupted: Path) -> None:
    written = lines(uninterrupted)
    assert [line["step"] for line in written if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in written if "psnr" in line] == [6, 12]
    assert len(list((uninterrupted / "pictures").glob("*.png"))) == 2
    network = PAN()
    loaded = load_weights(network, uninterrupted / "pan_x4.safetensors")
    assert loaded.metadata["step"] == "12"
    assert 0 < loaded.feature_limit < 100
    psnr = [line["psnr"] for line in written if "psnr" in line][-1]
    assert float(loaded.metadata["held_out_psnr"]) == pytest.approx(psnr, abs=1e-4)


def test_finished_run_is_left_alone_and_can_be_lengthened(photos: Path, tmp_path: Path) -> None:
    train(settings(photos, tmp_path, steps=4))
    before = (tmp_path / "metrics.jsonl").read_text()
    train(settings(photos, tmp_path, steps=4))
    assert (tmp_path / "metrics.jsonl").read_text() == before
    train(settings(photos, tmp_path, steps=6))
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [2, 4, 6]


@pytest.mark.slow
def test_training_beats_bicubic_on_photographs_it_never_saw(photos: Path, tmp_path: Path) -> None:
    config = settings(
        photos,
        tmp_path,
        scale=2,
        crop=16,
        batch=4,
        steps=240,
        warmup=10,
        log_every=20,
        checkpoint_every=240,
        validate_every=240,
        average=0.9,
        learning_rate=2e-3,
    )
    path = train(config)
    network = PAN.from_pretrained("x2", weights=path)
    unseen = tmp_path / "unseen.png"
    write_image(Picture(photo(96, 112, seed=99)), unseen)
    pairs = [Pair("unseen", 2, unseen)]
    trained = evaluate_network(network, pairs, 2).psnr
    baseline = evaluate(lambda low: bicubic(low, 2), pairs, 2).psnr
    assert trained > baseline + 0.3
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]


@pytest.mark.slow
def test_two_processes_train_together(photos: Path, tmp_path: Path) -> None:
    config = settings(photos, tmp_path, steps=6)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *command(config)[1:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # One process writes; two saw different crops, so the result is not that of a single one.
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [2, 4, 6]
    together, _ = load_weights_file(tmp_path / "pan_x4.safetensors")
    train(settings(photos, tmp_path / "alone", steps=6))
    alone, _ = load_weights_file(tmp_path / "alone" / "pan_x4.safetensors")
    assert any(not np.array_equal(together[name], alone[name]) for name in alone)


def test_broken_photographs_are_left_out_wherever_they_fall(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for index in range(2):  # both are among the three of six that are held out
        (folder / f"{index}_broken.png").write_bytes(b"no picture")
    config = settings(folder, tmp_path / "run", held_out=3, on_error="skip", steps=4)
    assert train(config).is_file()
    with pytest.raises(InputError, match="broken"):
        train(settings(folder, tmp_path / "other", held_out=3, steps=4))


def test_weights_of_another_scale_are_a_start(photos: Path, tmp_path: Path) -> None:
    source = train(settings(photos, tmp_path / "x4", steps=4))
    changes = {"scale": 3, "initial": str(source), "steps": 4, "learning_rate": 0.0, "floor": 0.0}
    target = train(settings(photos, tmp_path / "x3", **changes))
    before, _ = load_weights_file(source)
    after, _ = load_weights_file(target)
    np.testing.assert_allclose(after["trunk_conv.weight"], before["trunk_conv.weight"])
    np.testing.assert_allclose(after["upconv1.weight"], before["upconv1.weight"])
    assert "upconv2.weight" not in after


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"crop": 0}, UsageError),
        ({"schedule": "cosine"}, UsageError),
        ({"decay": 2.0}, UsageError),
        ({"photos": "nowhere"}, InputError),
        ({"held_out": 4}, InputError),
        ({"crop": 99}, InputError),
        ({"initial": "nowhere.pth"}, WeightsError),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(
    photos: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    config = settings(photos, tmp_path)
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(error):
        train(config)


def test_another_run_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    train(settings(photos, tmp_path, steps=4))
    with pytest.raises(UsageError, match="batch=1, not 2"):
        train(settings(photos, tmp_path, steps=8, batch=2))


def test_tasks_of_slurm_that_would_train_alone_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with pytest.raises(UsageError, match="8 tasks"):
        train(settings(photos, tmp_path))


def test_divergence_ends_the_run_with_a_word(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="diverged"):
        train(settings(photos, tmp_path, steps=40, learning_rate=1e12, warmup=0))


@pytest.mark.parametrize("arguments", [["fotos=x"], ["scale=four"], []], ids=str)
def test_hydra_errors_are_usage_errors(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    with pytest.raises(UsageError):
        main(arguments)


def test_wandb_can_be_used_offline(photos: Path, tmp_path: Path) -> None:
    config = settings(photos, tmp_path, steps=4, wandb="offline")
    subprocess.run(command(config), check=True, capture_output=True, timeout=120)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_command_reports_a_missing_folder(tmp_path: Path) -> None:
    arguments = ["photos=nowhere", f"output={tmp_path / 'run'}"]
    result = subprocess.run(
        [sys.executable, "-m", "lowvis_pan.train", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 65
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr
