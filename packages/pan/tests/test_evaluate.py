import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_pan.evaluate import evaluate_network
from lowvis_pan.model import PAN, PANConfig
from lowvis_shared.images import Picture, write_image
from lowvis_shared.metrics import Protocol
from lowvis_shared.pairs import load_pairs
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_shared.testing.pictures import photo


def published(scale: int, dataset: str) -> list[tuple[str, float, float, float, float]]:
    """Return the authors' logged figures: name, PSNR and SSIM of RGB, PSNR and SSIM of Y."""
    logs = json.loads(mirror_path("golden/pan/official_logs.json").read_text())
    return logs["results"][f"x{scale}"][dataset]["per_image"]


@pytest.mark.parametrize(
    ("dataset", "scale"),
    [
        ("Set5", 2),
        ("Set5", 3),
        ("Set5", 4),
        pytest.param("Set14", 2, marks=pytest.mark.slow),
        pytest.param("Set14", 3, marks=pytest.mark.slow),
        pytest.param("Set14", 4, marks=pytest.mark.slow),
    ],
)
def test_official_weights_give_the_published_figures_of_each_picture(
    dataset: str, scale: int
) -> None:
    asset_path(f"pan/x{scale}/official")
    network = PAN.from_pretrained(f"x{scale}", weights="official")
    logged = published(scale, dataset)
    pairs = load_pairs(dataset, scale)
    evaluation = evaluate_network(network, pairs, scale)
    assert [name for name, _ in evaluation.per_image] == [row[0] for row in logged]
    for (name, score), row in zip(evaluation.per_image, logged, strict=True):
        assert score.psnr == pytest.approx(row[3], abs=1e-3), name
        assert score.ssim == pytest.approx(row[4], abs=1e-5), name
    assert evaluation.psnr == pytest.approx(np.mean([row[3] for row in logged]), abs=1e-3)


def test_official_weights_give_the_published_rgb_figures() -> None:
    asset_path("pan/x4/official")
    network = PAN.from_pretrained("x4", weights="official")
    protocol = Protocol(color="rgb", border=4)
    evaluation = evaluate_network(network, load_pairs("set5", 4), 4, protocol=protocol)
    for (name, score), row in zip(evaluation.per_image, published(4, "Set5"), strict=True):
        assert score.psnr == pytest.approx(row[1], abs=1e-3), name


@pytest.mark.parametrize(("attention", "whole"), [("channel", True), ("spatial", False)])
def test_only_channel_attention_needs_the_whole_picture(
    attention: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(Picture(photo(96, 80)), tmp_path / "a.png")
    monkeypatch.setattr("lowvis_shared.pairs._LARGEST_WHOLE", 1500)
    shape = {"channels": 4, "reconstruction_channels": 4, "blocks": 1}
    network = PAN(PANConfig(scale=2, trunk_attention=attention, **shape))
    seen: set[torch.Size] = set()
    network.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape))
    evaluate_network(network, load_pairs(tmp_path, 2), 2)
    assert (seen == {torch.Size((1, 3, 48, 40))}) == whole
