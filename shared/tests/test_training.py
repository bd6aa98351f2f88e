"""The loop that packages share, with a tiny network; whole runs are tested by the packages."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lowvis_shared.errors import UsageError, WeightsError
from lowvis_shared.training import (
    MetricsLog,
    SuperResolutionConfig,
    Training,
    TrainingConfig,
    fabric_options,
    learning_rate,
    take_fitting,
    train_network,
)
from torch import Tensor, nn
from torch.utils.data import Dataset


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


# --- the loop for any network ------------------------------------------------------------------


@dataclass
class LineConfig(TrainingConfig):
    """A setting of the network's own, which a run must keep."""

    slope: float = 3.0


class Points(Dataset[tuple[Tensor, list[Tensor]]]):
    """Points of a line, batch by batch: a tensor and a list, as a network may want them."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __getitem__(self, step: int) -> tuple[Tensor, list[Tensor]]:
        x = torch.rand(16, 2, generator=torch.Generator().manual_seed(step))
        return x, [self.slope * x[:, :1] - x[:, 1:]]


class Run:
    """What `train_network` is to train, and what it was seen to do."""

    def __init__(self, config: LineConfig, *, frozen: bool = False) -> None:
        self.config, self.frozen = config, frozen
        self.network: nn.Module | None = None
        self.validated: list[int] = []
        self.weights: Mapping[str, Tensor] = {}
        self.logged: list[int] = []

    def start(self) -> "Run":
        train_network(self.config, Fabric(**fabric_options(self.config)), self.prepare)
        return self

    def build(self) -> nn.Module:
        self.network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        self.network[0].requires_grad_(not self.frozen)
        self.first = {name: each.clone() for name, each in self.network.state_dict().items()}
        return self.network

    def prepare(self, fabric: Fabric) -> Training:
        assert fabric.is_global_zero

        def loss(network: nn.Module, batch: tuple[Tensor, list[Tensor]]) -> Tensor:
            return (network(batch[0]) - batch[1][0]).square().mean()

        def validate(network: nn.Module, step: int) -> Mapping[str, float]:
            self.validated.append(step)
            self.weights = {name: each.clone() for name, each in network.state_dict().items()}
            return {"error": float(loss(network, Points(self.config.slope)[10_000]).detach())}

        return Training(
            build=self.build,
            batches=Points(self.config.slope),
            loss=loss,
            validate=validate,
            same=("slope",),
            open_log=lambda: lambda _, step: self.logged.append(step),
        )


def line(output: Path, **changes: Any) -> LineConfig:
    config = LineConfig(
        output=str(output),
        steps=60,
        warmup=0,
        learning_rate=0.02,
        schedule="halving",
        average=0.5,
        log_every=10,
        checkpoint_every=20,
        validate_every=30,
        precision="fp32",
        device="cpu",
    )
    return replace(config, **changes)


def errors(output: Path) -> list[float]:
    lines = [json.loads(each) for each in (output / "metrics.jsonl").read_text().splitlines()]
    return [each["error"] for each in lines if "error" in each]


def test_any_network_learns(tmp_path: Path) -> None:
    run = Run(line(tmp_path, steps=200, validate_every=100)).start()
    assert run.validated == [100, 200]
    assert run.logged == sorted([*range(10, 201, 10), 100, 200])
    untrained = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    untrained.load_state_dict(run.first)
    x, (y,) = Points(3.0)[10_000]
    assert errors(tmp_path)[-1] < 0.1 * float((untrained(x) - y).detach().square().mean())


@pytest.mark.parametrize("frozen", [False, True], ids=["whole", "frozen"])
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path, frozen: bool) -> None:
    whole = Run(line(tmp_path / "whole"), frozen=frozen).start()
    Run(line(tmp_path / "parts", steps=27), frozen=frozen).start()
    parts = Run(line(tmp_path / "parts"), frozen=frozen).start()
    assert parts.validated == [30, 60]
    for name, tensor in whole.weights.items():
        assert torch.equal(parts.weights[name], tensor), name
    assert errors(tmp_path / "parts")[-1] == errors(tmp_path / "whole")[-1]


def test_what_takes_no_gradient_stays_bit_by_bit(tmp_path: Path) -> None:
    run = Run(line(tmp_path), frozen=True).start()
    for name, tensor in run.first.items():
        assert torch.equal(run.weights[name], tensor) == name.startswith("0."), name


@pytest.mark.parametrize("changes", [{"slope": 2.0}, {"seed": 11}, {"batch": 4}], ids=str)
def test_settings_that_must_stay_the_same_are_refused_on_going_on(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    Run(line(tmp_path, steps=20)).start()
    before = (tmp_path / "metrics.jsonl").read_text()
    ((name, _),) = changes.items()
    with pytest.raises(UsageError, match=f"has {name}="):
        Run(line(tmp_path, **changes)).start()
    assert (tmp_path / "metrics.jsonl").read_text() == before
    longer = Run(line(tmp_path, learning_rate=0.01)).start()  # what need not stay may change
    assert longer.validated == [30, 60]


def test_divergence_ends_the_run_with_a_word(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="diverged before step"):
        Run(line(tmp_path, learning_rate=1e30)).start()
