"""The loop that super-resolution packages share; whole runs are tested by the packages."""

import json
from pathlib import Path

import pytest
import torch
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.training import (
    MetricsLog,
    SuperResolutionConfig,
    fabric_options,
    learning_rate,
    take_fitting,
)
from torch import nn


def test_learning_rate_follows_its_schedule() -> None:
    trapezoid = SuperResolutionConfig(steps=100, warmup=10, decay=0.4, learning_rate=1.0, floor=0.0)
    assert learning_rate(trapezoid, 0) == pytest.approx(0.1)
    assert learning_rate(trapezoid, 10) == learning_rate(trapezoid, 60) == 1.0
    assert learning_rate(trapezoid, 80) == pytest.approx(0.5)
    assert learning_rate(trapezoid, 99) == pytest.approx(1 / 40)
    restarts = SuperResolutionConfig(
        schedule="restarts", warmup=0, period=100, learning_rate=1.0, floor=0.0
    )
    assert learning_rate(restarts, 0) == learning_rate(restarts, 100) == 1.0
    assert learning_rate(restarts, 50) == pytest.approx(0.5)
    assert learning_rate(restarts, 99) < 0.001
    halving = SuperResolutionConfig(
        schedule="halving", warmup=0, period=100, learning_rate=1.0, floor=0.2
    )
    assert [learning_rate(halving, step) for step in (0, 99, 100, 250, 300)] == [
        1.0,
        1.0,
        0.5,
        0.25,
        0.2,
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": 0},
        {"validate_every": 0},
        {"checkpoint_every": 0},
        {"warmup": -1},
        {"learning_rate": float("nan")},
        {"device": "cuda:1"},
        {"period": 0},
        {"decay": 1.5},
        {"average": 1.0},
        {"schedule": "cosine"},
        {"precision": "fp16"},
        {"wandb": "on"},
        {"on_error": "ignore"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    SuperResolutionConfig().check()
    with pytest.raises(UsageError, match=next(iter(changes))):
        SuperResolutionConfig(**changes).check()


def test_processes_are_those_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SuperResolutionConfig(device="cpu", precision="fp32")
    alone = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true"}
    assert fabric_options(config) == alone
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # as torchrun sets it
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert fabric_options(config) == alone | {"devices": 4, "num_nodes": 2}
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "3")
    with pytest.raises(UsageError, match="3 tasks"):
        fabric_options(config)


def test_log_forgets_what_comes_after_the_step_it_goes_on_from(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.training(step, 1 / step, 1e-3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # what a kill leaves
    seen: list[tuple[dict[str, float], int]] = []
    log = MetricsLog(tmp_path, 20, lambda figures, step: seen.append((figures, step)))
    log.training(25, 0.5, 1e-3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 25]
    assert seen == [({"loss": 0.5, "learning_rate": 1e-3}, 25)]


def test_weights_that_fit_are_taken_over_and_the_others_left() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    before = network[1].weight.clone()
    take_fitting(network, other.state_dict(), needed="0.weight", source="other")
    assert torch.equal(network[0].weight, other[0].weight)
    assert torch.equal(network[1].weight, before)
    with pytest.raises(WeightsError, match="other holds no layer"):
        take_fitting(network, other.state_dict(), needed="1.weight", source="other")
