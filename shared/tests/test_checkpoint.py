import logging
import os
import pickle
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_shared.checkpoint import (
    CheckpointFolder,
    capture_random_state,
    load_state_dict_strict,
    load_weights_file,
    restore_random_state,
)
from lowvis_shared.errors import OutputError, UsageError, WeightsError
from safetensors.torch import save_file
from torch import nn

# --- training state -------------------------------------------------------------------------------


def training_state(step: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(step)
    return {"position": step, "weights": torch.rand(1000, generator=generator)}


def assert_is_state(state: dict[str, object], step: int) -> None:
    expected = training_state(step)
    assert state["position"] == expected["position"]
    assert torch.equal(state["weights"], expected["weights"])


def test_the_newest_state_comes_back_and_only_the_newest_files_stay(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints", keep=2)
    assert folder.latest() is None
    written = [folder.save(step, training_state(step)) for step in (5, 10, 15)]
    found = CheckpointFolder(tmp_path / "run" / "checkpoints").latest()
    assert found is not None
    assert found[0] == 15
    assert_is_state(found[1], 15)
    assert sorted(folder.path.iterdir()) == written[1:]


def test_saving_a_step_again_replaces_it_in_what_is_found(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(3, {"x": 1})
    folder.save(3, {"x": 2})
    assert folder.latest() == (3, {"x": 2})
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(1, training_state(1))
    newest = folder.save(2, training_state(2))
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes(
        content if damage == "flipped" else content[: len(content) // 2 * (damage == "truncated")]
    )
    with caplog.at_level(logging.WARNING, logger="lowvis"):
        found = folder.latest()
    assert found is not None
    assert found[0] == 1
    assert_is_state(found[1], 1)
    assert newest.name in caplog.text


def test_a_damaged_file_of_a_later_step_never_pushes_out_a_valid_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(100, training_state(100)).write_bytes(b"damaged")
    folder.save(50, training_state(50))
    found = folder.latest()
    assert found is not None
    assert found[0] == 50
    folder.save(100, training_state(100))
    found = folder.latest()
    assert found is not None
    assert_is_state(found[1], 100)


# It forks, because a fresh interpreter would spend its time on importing torch.
KILL_LOOP = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from lowvis_shared.checkpoint import CheckpointFolder

torch.set_num_threads(1)
folder = CheckpointFolder(sys.argv[1])
chance = random.Random(0)

def state(step):
    return {"weights": torch.rand(200_000, generator=torch.Generator().manual_seed(step))}

killed_while_writing = 0
for round_number in range(25):
    found = folder.latest()
    start = found[0] if found else 0
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for step in range(start + 1, 10**6):
            folder.save(step, state(step))
            os.write(writer, step.to_bytes(8, "little"))
    os.close(writer)
    time.sleep(chance.uniform(0.01, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reader, "rb") as pipe:
        done = pipe.read()
    acknowledged = int.from_bytes(done[-8:], "little") if done else start
    killed_while_writing += any(folder.path.glob(".*.tmp")) if folder.path.exists() else 0
    found = folder.latest()
    reached = found[0] if found else 0
    if reached not in (acknowledged, acknowledged + 1):
        sys.exit(f"saved step {acknowledged}, found {reached}")
    if found and not torch.equal(found[1]["weights"], state(reached)["weights"]):
        sys.exit(f"the state of step {reached} is not what was saved")
folder.save(10**6, state(0))
left = [path.name for path in folder.path.iterdir() if not path.name.startswith("step-")]
if left:
    sys.exit(f"left behind: {left}")
print(reached, killed_while_writing)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_kill_9_at_any_moment_loses_no_step_that_was_saved(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILL_LOOP, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[0]) > 0


def test_a_full_disk_is_an_output_error_and_keeps_what_was_saved(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, training_state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OutputError, match="full"):
            folder.save(2, training_state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = folder.latest()
    assert found is not None
    assert_is_state(found[1], 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_state_that_could_not_be_read_back_is_refused_before_it_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(TypeError, match="numpy"):
        CheckpointFolder(tmp_path).save(1, {"loss": np.float64(0.5)})
    assert not list(tmp_path.iterdir())


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        CheckpointFolder(tmp_path, keep=0)
    with pytest.raises(UsageError):
        CheckpointFolder(tmp_path).save(-1, {})


def test_random_state_survives_a_checkpoint_and_gives_the_same_numbers(tmp_path: Path) -> None:
    def draw() -> tuple[float, ...]:
        return (
            random.random(),
            random.gauss(),
            float(np.random.rand()),  # noqa: NPY002
            float(np.random.randn()),  # noqa: NPY002
            float(torch.rand(())),
            float(torch.randn(())),
        )

    draw()  # leaves half of a pair of normal numbers behind in each generator
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {"random": capture_random_state()})
    expected = [draw() for _ in range(3)]
    found = folder.latest()
    assert found is not None
    restore_random_state(found[1]["random"])
    assert [draw() for _ in range(3)] == expected


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def train(parts: tuple[nn.Module, torch.optim.Optimizer, object], steps: int) -> None:
        model, optimizer, schedule = parts
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.rand(16, 4) + random.random()).square().mean().backward()
            optimizer.step()
            schedule.step()

    torch.manual_seed(0)
    parts = make()
    train(parts, 5)
    folder = CheckpointFolder(tmp_path)
    names = ("model", "optimizer", "schedule")
    state = {name: part.state_dict() for name, part in zip(names, parts, strict=True)}
    folder.save(5, {**state, "random": capture_random_state()})
    train(parts, 5)

    torch.manual_seed(123)
    random.seed(123)
    resumed = make()
    found = folder.latest()
    assert found is not None
    for name, part in zip(names, resumed, strict=True):
        part.load_state_dict(found[1][name])
    restore_random_state(found[1]["random"])
    train(resumed, 5)
    for uninterrupted, again in zip(parts[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(uninterrupted, again)


# --- weights --------------------------------------------------------------------------------------


@pytest.fixture
def state_dict() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"conv.weight": torch.randn(2, 3, 3, 3), "conv.bias": torch.randn(2)}


class Network(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"params": weights},
        lambda weights: {"params": {}, "params_ema": weights},
        lambda weights: {"state_dict": {f"module.{name}": t for name, t in weights.items()}},
        lambda weights: {"epoch": 3, "model": {"state_dict": weights}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_found_in_the_usual_wrappings(
    tmp_path: Path, state_dict: dict[str, torch.Tensor], wrap, zipped: bool
) -> None:
    torch.save(wrap(state_dict), tmp_path / "w", _use_new_zipfile_serialization=zipped)
    loaded, metadata = load_weights_file(tmp_path / "w")
    assert metadata == {}
    assert loaded.keys() == state_dict.keys()
    assert all(torch.equal(loaded[name], state_dict[name]) for name in state_dict)


def test_safetensors_give_tensors_and_metadata_whatever_the_name(
    tmp_path: Path, state_dict: dict[str, torch.Tensor]
) -> None:
    save_file(state_dict, tmp_path / "weights.pth", metadata={"scale": "4"})
    loaded, metadata = load_weights_file(tmp_path / "weights.pth")
    assert metadata == {"scale": "4"}
    assert all(torch.equal(loaded[name], state_dict[name]) for name in state_dict)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n <!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"hello, world", "not a file of weights|not a whole file"),
        (b"PK\x03\x04 but no more", "not a whole file"),
        (b"\x10\0\0\0\0\0\0\0{ no header }", "safetensors"),
    ],
)
def test_a_file_that_is_not_weights_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "no state dict"), ([1, 2], "list"), ({"step": 3}, "'step' is a int")],
)
def test_a_file_without_a_state_dict_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_weights_file(tmp_path / "w.pth")


def test_missing_weights_are_a_weights_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        load_weights_file(tmp_path / "none.pth")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("protocol", "message"), [(None, "system"), (2, "system"), (4, "not a file of weights")]
)
def test_program_code_is_never_run_and_nobody_is_told_how_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if protocol is None:
        torch.save({"a": Malicious()}, "w.pth")
    else:
        Path("w.pth").write_bytes(pickle.dumps({"a": Malicious()}, protocol=protocol))
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights_file("w.pth")
    assert not Path("executed").exists()
    assert "weights_only" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_no_mutation_of_a_file_escapes_as_another_error(
    tmp_path: Path, state_dict: dict[str, torch.Tensor], kind: str
) -> None:
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file(state_dict, path)
    else:
        torch.save(state_dict, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    chance = random.Random(0)
    refused = 0
    for turn in range(150):
        mutated = bytearray(content)
        if turn % 2:
            del mutated[chance.randrange(len(mutated)) :]
        else:
            mutated[chance.randrange(len(mutated))] ^= 1 << chance.randrange(8)
        path.write_bytes(mutated)
        try:
            load_weights_file(path)
        except WeightsError:
            refused += 1
    assert refused >= 75  # every truncation


def test_fitting_weights_are_loaded(state_dict: dict[str, torch.Tensor]) -> None:
    network = Network()
    load_state_dict_strict(network, state_dict, source="w.pth")
    assert torch.equal(network.conv.weight, state_dict["conv.weight"])


def test_weights_of_another_network_give_a_short_readable_table(
    state_dict: dict[str, torch.Tensor],
) -> None:
    network = Network(width=5)
    before = network.conv.weight.clone()
    del state_dict["conv.bias"]
    state_dict.update({f"extra.{index}": torch.zeros(1) for index in range(300)})
    with pytest.raises(WeightsError) as caught:
        load_state_dict_strict(network, state_dict, source="w.pth", hint="this looks like PAN x2")
    message = str(caught.value)
    first, *table = message.splitlines()
    assert first == (
        "w.pth does not fit Network: 1 tensors missing, 300 unexpected, 1 of another shape"
    )
    assert "missing     conv.bias" in message
    assert "conv.weight: file (2, 3, 3, 3), network (5, 3, 3, 3)" in message
    assert "... and 295 more" in message
    assert len(table) == 8
    assert caught.value.hint == "this looks like PAN x2"
    assert torch.equal(network.conv.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    state_dict: dict[str, torch.Tensor], value: float
) -> None:
    state_dict["conv.weight"][1, 2, 0, 0] = value
    network = Network()
    with pytest.raises(WeightsError, match=r"NaN or Inf in the tensor conv\.weight"):
        load_state_dict_strict(network, state_dict, source="w.pth")
    assert bool(torch.isfinite(network.conv.weight).all())
