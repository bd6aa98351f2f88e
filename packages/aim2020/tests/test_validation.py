"""What the organisers would ask of a network before they measure it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lowvis_aim2020.candidates import find_candidate
from lowvis_aim2020.evaluate import evaluate_network
from lowvis_aim2020.validation import SIZES, Check, validate
from lowvis_shared.images import Picture, write_image
from lowvis_shared.pairs import Pair, load_pairs
from lowvis_shared.testing.pictures import photo

OWN = """
import torch
from torch import nn

class Nearest(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 48, 1, bias=False)
        self.shuffle = nn.PixelShuffle(4)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).repeat_interleave(16, dim=0)[:, :, None, None])

    def forward(self, image):
        return self.shuffle(self.conv(image))

class EvenOnly(Nearest):
    def forward(self, image):
        if image.shape[2] % 2 or image.shape[3] % 2:
            raise ValueError("sizes have to be even")
        return super().forward(image)

class NoRows(Nearest):
    def forward(self, image):
        if min(image.shape[2:]) == 1:
            raise ValueError("a single row is too little")
        return super().forward(image)

class Random(Nearest):
    def forward(self, image):
        return super().forward(image) + 0.01 * torch.rand(1, device=image.device)

class Never(Nearest):
    def forward(self, image):
        return self.conv(image)

class Attention(Nearest):
    def forward(self, image):
        return super().forward((torch.eye(3) @ image.flatten(2)).view_as(image))

class Dark(Nearest):
    def forward(self, image):
        return super().forward(image) * 0.1

class Tires(Nearest):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        if self.calls > 4:
            raise ValueError("enough")
        return super().forward(image)

class OneSize(Nearest):
    def forward(self, image):
        if image.shape[2:] == (16, 18):
            raise ArithmeticError("16x18 is not for me")
        return super().forward(image)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return the word that names a class of the user's file."""
    path = tmp_path_factory.mktemp("own") / "networks.py"
    path.write_text(OWN)
    return lambda name: f"{path}:{name}"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("set")
    write_image(Picture(photo(64, 72)), folder / "one.png")
    return load_pairs(folder, 4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, own: Callable[[str], str]) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    torch.save(find_candidate(own("Nearest")).make().state_dict(), path)
    return path


def asked(name: str, **options: object) -> dict[str, Check]:
    return {check.name: check for check in validate(find_candidate(name), device="cpu", **options)}


def failed(checks: dict[str, Check]) -> list[str]:
    return [check.name for check in checks.values() if check.verdict == "no"]


def test_a_good_network_with_a_checkpoint_passes_all(
    own: Callable[[str], str], pairs: list[Pair], checkpoint: Path
) -> None:
    checks = asked(f"{own('Nearest')}@{checkpoint}", pairs=pairs, required_psnr=15.0)
    assert {check.verdict for check in checks.values()} == {"yes"}
    assert list(checks) == [
        "loads strictly",
        *(f"upscales {height}x{width}" for height, width in SIZES),
        "gives the same twice",
        "can be counted",
        "keeps the baseline's PSNR",
    ]
    assert str(checkpoint) in checks["loads strictly"].detail
    assert checks["upscales 37x53"].detail == "to 148x212"
    assert checks["gives the same twice"].detail == "bit by bit"


def test_what_is_missing_is_unknown_and_no_failure(own: Callable[[str], str]) -> None:
    checks = asked(own("Nearest"))
    assert failed(checks) == []
    assert [check.name for check in checks.values() if check.verdict == "unknown"] == [
        "loads strictly",
        "keeps the baseline's PSNR",
    ]
    assert "--dataset" in checks["keeps the baseline's PSNR"].detail


@pytest.mark.parametrize("kind", ["fits not", "missing", "raises"])
def test_a_network_that_cannot_be_loaded_is_asked_nothing_else(
    own: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    torch.save({"conv.bias": torch.zeros(48)}, tmp_path / "other.pth")
    name, said = {
        "fits not": (f"{own('Nearest')}@{tmp_path / 'other.pth'}", "does not fit Nearest"),
        "missing": (f"{own('Nearest')}@{tmp_path / 'none.pth'}", "none.pth"),
        "raises": (own("Missing"), "AttributeError"),
    }[kind]
    (check,) = validate(find_candidate(name), device="cpu")
    assert (check.name, check.verdict, check.needed) == ("loads strictly", "no", True)
    assert said in check.detail
    assert "\n" not in check.detail


def test_a_network_of_even_sizes_only_may_not_enter(own: Callable[[str], str]) -> None:
    checks = asked(own("EvenOnly"))
    odd = checks["upscales 37x53"]
    assert (odd.verdict, odd.needed) == ("no", True)
    assert odd.detail == "ValueError: sizes have to be even"
    assert checks["upscales 64x64"].verdict == "yes"
    assert checks["can be counted"].verdict == "yes"  # the other questions are asked all the same


def test_single_rows_are_asked_but_not_needed(own: Callable[[str], str]) -> None:
    checks = asked(own("NoRows"))
    assert failed(checks) == ["upscales 1x64", "upscales 17x1"]
    assert not any(checks[name].needed for name in failed(checks))


def test_a_network_of_another_size_is_asked_nothing_else_but_sizes(
    own: Callable[[str], str],
) -> None:
    checks = asked(own("Never"))
    assert failed(checks) == [f"upscales {height}x{width}" for height, width in SIZES]
    assert "not (1, 3, 256, 256)" in checks["upscales 64x64"].detail
    assert len(checks) == 1 + len(SIZES)


def test_a_network_that_throws_dice_is_not_repeatable(own: Callable[[str], str]) -> None:
    checks = asked(own("Random"))
    assert failed(checks) == ["gives the same twice"]
    assert checks["gives the same twice"].needed
    assert checks["gives the same twice"].detail.startswith("differs by ")


def test_a_network_that_fails_on_a_later_call_is_not_repeatable(own: Callable[[str], str]) -> None:
    assert failed(asked(own("Tires")))[0] == "gives the same twice"


def test_a_network_that_cannot_be_counted_may_enter(own: Callable[[str], str]) -> None:
    checks = asked(own("Attention"))
    assert failed(checks) == ["can be counted"]
    assert not checks["can be counted"].needed


@pytest.mark.parametrize(
    ("above", "verdict"), [(-0.5, "yes"), (0.004, "yes"), (0.006, "no"), (2.0, "no")]
)
def test_the_psnr_has_to_be_kept(
    own: Callable[[str], str], pairs: list[Pair], above: float, verdict: str
) -> None:
    psnr = evaluate_network(find_candidate(own("Nearest")).make(), pairs, 4).rgb.psnr
    check = asked(own("Nearest"), pairs=pairs, required_psnr=psnr + above)[
        "keeps the baseline's PSNR"
    ]
    assert (check.verdict, check.needed) == (verdict, True)
    assert f"{psnr:.4f} dB RGB" in check.detail


def test_a_psnr_without_a_limit_is_told_and_unknown(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    check = asked(own("Dark"), pairs=pairs)["keeps the baseline's PSNR"]
    assert check.verdict == "unknown"
    assert "--white 255" in check.detail  # what a low PSNR mostly comes from
    assert "--psnr or --baseline gives it" in check.detail


def test_a_network_that_fails_on_the_set_does_not_keep_its_psnr(
    own: Callable[[str], str], pairs: list[Pair]
) -> None:
    check = asked(own("OneSize"), pairs=pairs, required_psnr=10.0)["keeps the baseline's PSNR"]
    assert check.verdict == "no"
    assert "16x18 is not for me" in check.detail


def test_progress_counts_the_pictures(own: Callable[[str], str], pairs: list[Pair]) -> None:
    seen: list[tuple[int, int]] = []
    asked(own("Nearest"), pairs=pairs, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 1)]
