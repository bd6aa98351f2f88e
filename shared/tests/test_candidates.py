"""What the words on a command line name: networks with their weights, and errors that help."""

import builtins
from pathlib import Path

import pytest
import torch
from lowvis_shared import candidates
from lowvis_shared.candidates import (
    Candidate,
    all_names,
    find_candidate,
    foreign_code,
    installed_networks,
    reason,
)
from lowvis_shared.checkpoint import load_state_dict_strict, load_weights_file, save_weights_file
from lowvis_shared.errors import DeviceError, InputError, UsageError, WeightsError
from lowvis_shared.plugins import ModelEntry, PackageInfo
from torch import Tensor, nn

OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, channels=3):
        super().__init__(nn.Conv2d(channels, 48, 3, padding=1), nn.PixelShuffle(4))

class Holder:
    class Inner(Net):
        pass

    number = 4

def make():
    return Net()

def words():
    return "no network"

def broken():
    raise FloatingPointError("my own mistake")

def leaving():
    raise SystemExit("my own mistake")
"""


class Toy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))


def load(weights: str, *, accept_licence: bool = False, offline: bool = False) -> nn.Module:
    network = Toy().eval()
    if weights in ("own", "official"):
        nn.init.constant_(network[0].weight, 0.5 if accept_licence else 0.25)
        return network
    load_state_dict_strict(network, load_weights_file(weights)[0], source=weights)
    return network


def package(word: str, *entries: ModelEntry) -> PackageInfo:
    return PackageInfo(word, word, "Nobody", "", "play", entries, Path("paper.toml"))


def entry(name: str, **options: object) -> ModelEntry:
    fields = {
        "scale": 4,
        "build": Toy,
        "load": load,
        "receptive_radius": 1,
        "tiling": "local",
        "task": "super-resolution",
        "weights": (),
        **options,
    }
    return ModelEntry(name, **fields)  # type: ignore[arg-type]


PACKAGES = {
    "early": package(
        "early",
        entry("toy-x4", weights=("own", "official")),
        entry("toy-x2", scale=2, weights=("own",)),
        entry("shared-x4", receptive_radius=10),
    ),
    "empty": package("empty"),
    "late": package(
        "late",
        entry("shared-x4", receptive_radius=20),
        entry("whole-x4", tiling="global"),
        entry("retouch", scale=1, task="retouching"),
    ),
}


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install three packages, whatever is installed here."""
    monkeypatch.setattr(candidates, "discover", lambda: PACKAGES)
    monkeypatch.setattr(candidates, "load_package", PACKAGES.__getitem__)


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Return the path of a Python file with networks of a user."""
    path = tmp_path / "own_network.py"
    path.write_text(OWN)
    return str(path)


def picture(height: int = 8, width: int = 9) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def output(candidate: Candidate) -> Tensor:
    return candidate.make()(picture())


# --- networks of the installed packages -----------------------------------------------------------


def test_a_network_of_a_package_is_found_by_its_name() -> None:
    candidate = find_candidate("toy-x4@own", scale=2, white=255)  # both are of the user's networks
    assert (candidate.name, candidate.title) == ("toy-x4@own", "toy-x4 @own")
    assert (candidate.scale, candidate.weights, candidate.own) == (4, "own", False)
    assert candidate.receptive_radius == 1
    assert output(candidate).shape == (1, 3, 32, 36)


def test_a_network_of_the_whole_picture_has_no_receptive_radius() -> None:
    assert find_candidate("whole-x4").receptive_radius is None


def test_the_best_weights_there_are_stand_for_a_name() -> None:
    assert find_candidate("toy-x4").weights == "official"
    assert find_candidate("toy-x2").weights == "own"
    assert find_candidate("whole-x4").weights == ""
    assert find_candidate("toy-x4", weights=False).weights == ""


def test_consent_reaches_the_package() -> None:
    network = find_candidate("toy-x4", accept_licence=True).make()
    assert bool((network.get_parameter("0.weight") == 0.5).all())


def test_what_has_no_weights_is_not_opened() -> None:
    with pytest.raises(UsageError, match="no weights of whole-x4 are at hand") as refusal:
        find_candidate("whole-x4").open()
    assert refusal.value.hint == "whole-x4@FILE gives it yours"


def test_one_package_may_come_first() -> None:
    assert find_candidate("shared-x4").receptive_radius == 10
    assert find_candidate("shared-x4", first="late").receptive_radius == 20
    assert all_names(4) == ["toy-x4", "shared-x4", "whole-x4"]
    assert all_names(4, first="late") == ["shared-x4", "whole-x4", "toy-x4"]
    assert all_names(2) == ["toy-x2"]


def test_only_networks_of_the_task_are_there() -> None:
    with pytest.raises(UsageError, match="no network 'retouch'"):
        find_candidate("retouch")
    assert find_candidate("retouch", task=None).scale == 1
    assert find_candidate("retouch", task="retouching").scale == 1
    assert list(installed_networks(task="retouching")) == ["retouch"]
    assert all_names(1, task=None) == ["retouch"]


def test_random_weights_are_the_same_twice_and_leave_other_randomness_alone() -> None:
    candidate = find_candidate("toy-x4", weights=False)
    torch.manual_seed(5)
    first = output(candidate)
    drawn = torch.rand(3)
    assert torch.equal(first, output(candidate))
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert not candidate.make().training


def test_a_file_of_weights_is_loaded_into_a_network_of_a_package(tmp_path: Path) -> None:
    network = Toy().eval()
    path = tmp_path / "toy.safetensors"
    save_weights_file(path, network.state_dict(), {})
    candidate = find_candidate(f"toy-x4@{path}")
    assert candidate.weights == str(path)
    with torch.inference_mode():
        assert torch.equal(output(candidate), network(picture()))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(nn.Conv2d(3, 3, 1).state_dict(), path)
    with pytest.raises(WeightsError, match=r"other\.pth does not fit Toy"):
        find_candidate(f"toy-x4@{path}").make()


# --- the user's own networks ----------------------------------------------------------------------


def test_a_class_in_a_file_is_a_network(own: str) -> None:
    candidate = find_candidate(f"{own}:Net", scale=4)
    assert (candidate.scale, candidate.weights, candidate.receptive_radius) == (4, "", None)
    assert candidate.title == candidate.name == f"{own}:Net"
    assert output(candidate).shape == (1, 3, 32, 36)
    assert torch.equal(output(candidate), output(candidate))
    assert not candidate.make().training


@pytest.mark.parametrize("attribute", ["make", "Holder.Inner"])
def test_functions_and_nested_classes_are_factories(own: str, attribute: str) -> None:
    assert output(find_candidate(f"{own}:{attribute}")).shape == (1, 3, 32, 36)


def test_a_module_of_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "candidate_here").mkdir()
    (tmp_path / "candidate_here" / "__init__.py").write_text("")
    (tmp_path / "candidate_here" / "network.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert output(find_candidate("candidate_here.network:Net")).shape == (1, 3, 32, 36)


def test_a_file_may_import_its_neighbor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / "candidate_sibling.py").write_text(OWN)
    (tmp_path / "entry" / "net.py").write_text("from candidate_sibling import Net\n")
    monkeypatch.chdir(tmp_path)
    assert output(find_candidate("entry/net.py:Net")).shape == (1, 3, 32, 36)


def test_entries_in_two_folders_have_their_own_neighbors(tmp_path: Path) -> None:
    for folder, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "candidate_blocks.py").write_text(f"VALUE = {value}\n")
        (tmp_path / folder / "net.py").write_text(
            "import torch\nfrom torch import nn\nfrom candidate_blocks import VALUE\n"
            "class Net(nn.Module):\n"
            "    def forward(self, image):\n"
            "        return torch.full((1, 3, 4 * image.shape[2], 4 * image.shape[3]), VALUE)\n"
        )
    first, second = (output(find_candidate(f"{tmp_path}/{name}/net.py:Net")) for name in "ab")
    assert (float(first.mean()), float(second.mean())) == (1.0, 2.0)


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "me@home").mkdir()
    (tmp_path / "me@home" / "net.py").write_text(OWN)
    assert output(find_candidate(f"{tmp_path}/me@home/net.py:Net")).shape == (1, 3, 32, 36)


def test_a_file_with_dataclasses_can_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "with_config.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        f"{OWN}\n@dataclass\nclass Config:\n    channels: int = 3\n"
        "def configured():\n    return Net(Config().channels)\n"
    )
    assert output(find_candidate(f"{path}:configured")).shape == (1, 3, 32, 36)


def test_a_checkpoint_of_the_users_network_is_loaded(own: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "best.pth")
    candidate = find_candidate(f"{own}:Net@{tmp_path / 'best.pth'}")
    assert candidate.weights == str(tmp_path / "best.pth")
    with torch.inference_mode():
        assert torch.equal(output(candidate), network(picture()))


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_keys(own: str, tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(48, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"part\.pth does not fit Net: 1 tensors missing"):
        find_candidate(f"{own}:Net@{tmp_path / 'part.pth'}").make()


def test_a_missing_checkpoint_is_named(own: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth"):
        find_candidate(f"{own}:Net@{tmp_path / 'none.pth'}").make()


@torch.inference_mode()
def test_white_255_is_the_same_as_scaling_by_hand(own: str) -> None:
    plain = find_candidate(f"{own}:Net").make()
    bright = find_candidate(f"{own}:Net", white=255).make()
    assert torch.equal(bright(picture()), plain(255 * picture()) / 255)
    assert not torch.equal(bright(picture()), plain(picture()))  # its biases are not scaled


def test_white_255_takes_the_same_checkpoint(own: str, tmp_path: Path) -> None:
    state_dict = find_candidate(f"{own}:Net").make().state_dict()
    torch.save(state_dict, tmp_path / "best.pth")
    bright = find_candidate(f"{own}:Net@{tmp_path / 'best.pth'}", white=255)
    assert torch.equal(output(bright), output(find_candidate(f"{own}:Net", white=255)))


def test_another_white_is_refused(own: str) -> None:
    with pytest.raises(UsageError, match=r"1 or 255.*not 128"):
        find_candidate(f"{own}:Net", white=128)


# --- what is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("toi-x4", "toy-x4"),
        ("toy", "module:factory"),
        ("net.py", "file.py:factory"),
        ("", "whole-x4"),
        (":Net", "file.py:factory"),
        ("net.py:", "file.py:factory"),
    ],
)
def test_a_name_of_nothing_is_refused_with_what_there_is(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as refusal:
        find_candidate(text)
    assert hint in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("words", "returns no torch.nn.Module but a str"),
        ("Holder.number", "is no class or function"),
    ],
)
def test_what_makes_no_network_is_named(own: str, attribute: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_candidate(f"{own}:{attribute}").make()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.py: no such file"):
        find_candidate(f"{tmp_path}/absent.py:Net").make()


def test_nothing_of_the_user_runs_before_it_is_built(own: str) -> None:
    candidate = find_candidate(f"{own}:broken")
    with pytest.raises(FloatingPointError, match="my own mistake"):
        candidate.make()


@pytest.mark.parametrize("attribute", ["broken", "leaving"])
def test_what_the_users_code_raises_names_the_network(own: str, attribute: str) -> None:
    with pytest.raises(InputError, match=rf"own_network\.py:{attribute}: .*my own mistake"):
        find_candidate(f"{own}:{attribute}").open()


def test_lack_of_memory_is_no_fault_of_the_network() -> None:
    with pytest.raises(DeviceError, match="net: out of memory"), foreign_code("net"):
        raise MemoryError


def test_errors_of_ours_pass_as_they_are() -> None:
    with pytest.raises(WeightsError, match=r"^lost$"), foreign_code("net"):
        raise WeightsError("lost")


def test_reasons_are_one_line_and_name_the_kind_of_a_foreign_error() -> None:
    assert reason(ValueError("two\n  lines")) == "ValueError: two lines"
    assert reason(InputError("a\nb")) == "a b"


def test_libraries_below_the_folder_of_a_network_are_imported_once(tmp_path: Path) -> None:
    library = tmp_path / ".venv" / "lib" / "site-packages"
    library.mkdir(parents=True)
    (library / "registers_once.py").write_text("import builtins\nbuiltins.lowvis_seen += 1\n")
    (tmp_path / "late_neighbor.py").write_text("SCALE = 4\n")
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(library)!r})\nimport registers_once\n"
        "import torch.nn as nn\nclass Net(nn.Module):\n"
        "    def forward(self, image):\n"
        "        from late_neighbor import SCALE\n"
        "        return nn.functional.interpolate(image, scale_factor=SCALE)\n"
        "class Other(Net): pass\n"
    )
    builtins.lowvis_seen = 0  # type: ignore[attr-defined]
    for name in ("Net", "Other"):
        network = find_candidate(f"{tmp_path}/net.py:{name}").make()
        assert network(torch.rand(1, 3, 2, 2)).shape == (1, 3, 8, 8)
    assert builtins.lowvis_seen == 1  # type: ignore[attr-defined]
