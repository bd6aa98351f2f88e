"""The ablations of ClassSR and its second task, trained for minutes from our own weights.

    python benchmarks/classsr_ablation.py PHOTOS [--output runs/ablation]

Afterwards ``python -m lowvis_shared.reproduce update`` brings the table into the README.

Every row but the last has the widest branch of the embedded ClassSR-FSRCNN and is measured on the
2K stand-ins. In the first rows the narrow branches are the embedded ones too, and the Class-Module
alone is trained, by ``lowvis-classsr train ablation=NAME``. Numbers of classes are compared among
themselves, with narrow branches that are all trained as shortly. The last row trains all of
``task=denoise``. Compare rows, not papers. After each row the result is written as
benchmarks/results/bench/classsr-ablation.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from lowvis_classsr.evaluate import ReducedPair, measure, stand_ins
from lowvis_classsr.model import PATCH
from lowvis_classsr.predict import Upscaler
from lowvis_classsr.train import TrainConfig, stage_weights, train
from lowvis_classsr.weights import open_weights
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.device import environment
from lowvis_shared.reproduce import markdown_table
from omegaconf import OmegaConf

RESULT = Path(__file__).parent / "results" / "bench" / "classsr-ablation.json"

ROUTING = (
    *("none", "paper-losses", "no-class-loss", "no-average-loss"),
    *("patch-16", "patch-48", "patch-64"),
)
"""Ablations of how patches are judged, with the branches as they are."""

CLASSES = ("classes-2", "none", "classes-4", "classes-5")
"""Numbers of classes, ours among them."""

BLENDED = ("paper-losses", "no-class-loss", "no-average-loss")
"""Those that train the Class-Module by the paper's losses, on blended pictures."""

SHORT = {
    "network": "fsrcnn",
    "steps": 3000,
    "classifier_steps": 1000,
    "classifier_rate": 1e-3,
    "warmup": 50,
    "judged": 2000,
    "validate_every": 3000,
    "checkpoint_every": 1000,
    "precision": "fp32",
}

PATCHES = 4
"""Patches of 32 in a step of a branch; of other sizes as many as have their pixels."""

BLENDED_STEPS = 300
"""Steps of the Class-Module by the paper's losses, each of which takes eight times as long."""

DENOISED = 512
"""Long side of the pictures of the second task, which stay their size."""


def configured(photos: Path, output: Path, *overrides: str, **changes: Any) -> TrainConfig:
    """Return the settings of a row."""
    with initialize_config_module("lowvis_classsr.conf", version_base="1.3"):
        settings = compose("train", [f"photos={photos}", f"output={output}", *overrides])
        config = cast("TrainConfig", OmegaConf.to_object(settings))
    batch = max(1, PATCHES * PATCH**2 // config.patch**2)
    return replace(config, batch=batch, **(SHORT | changes))


def run_stages(config: TrainConfig, *stages: str) -> Path:
    """Train stages one after the other and return the last one's weights."""
    path = Path()
    for stage in stages:
        path = train(replace(config, stage=stage))
    return path


def ablate(name: str, photos: Path, folder: Path, *, branches: bool) -> Path:
    """Train one ablation, with branches of its own or without, and return its weights."""
    changes: dict[str, Any] = {}
    if name in BLENDED:
        changes = {"classifier_steps": BLENDED_STEPS}
    config = configured(photos, folder, f"ablation={name}", **changes)
    embedded = open_weights("own", "fsrcnn").network.branches
    for stage, branch in zip(("original", "branch2", "branch1"), embedded[::-1], strict=True):
        if stage == "original" or not branches:
            path = stage_weights(config, stage)
            save_weights_file(path, branch.state_dict(), {}, overwrite=True)
    return run_stages(config, *(["branches"] if branches else []), "classifier")


def row(name: str, branches: str, path: Path, pairs: list[ReducedPair]) -> dict[str, Any]:
    """Measure weights by their routes, and by their widest branch alone."""
    routed = measure(Upscaler(weights=path, path="routed", precision="fp32", device="cpu"), pairs)
    whole = measure(Upscaler(weights=path, path="whole", precision="fp32", device="cpu"), pairs)
    return {
        "name": name,
        "branches": branches,
        "psnr": routed.psnr,
        "whole_psnr": whole.psnr,
        "share": routed.share,
        "shares": routed.shares,
    }


COLUMNS = (
    *("ablation", "narrow branches", "PSNR, dB", "lost, dB", "multiplications"),
    "classes, simple to hard, %",
)


def table_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the table as text."""
    return [
        [
            str(each["name"]),
            str(each["branches"]),
            f"{each['psnr']:.2f}",
            f"{each['whole_psnr'] - each['psnr']:.2f}",
            f"{each['share']:.0%}",
            " / ".join(f"{100 * share:.0f}" for share in each["shares"]),
        ]
        for each in rows
    ]


def write(rows: list[dict[str, Any]]) -> None:
    """Print the last row and write all."""
    print(markdown_table(COLUMNS, table_rows(rows[-1:])), flush=True)
    content = {
        "command": "benchmarks/classsr_ablation.py PHOTOS",
        "settings": SHORT,
        "environment": environment(),
        "table": {"columns": COLUMNS, "rows": table_rows(rows)},
        "rows": rows,
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path, help="folder of photographs to train on")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    pictures = stand_ins("2k")
    trained = f"{SHORT['steps']} steps"
    for name in ROUTING:
        path = ablate(name, options.photos, options.output / name, branches=False)
        rows.append(row(name, "embedded", path, pictures))
        write(rows)
    for name in CLASSES:
        path = ablate(name, options.photos, options.output / f"{name}-trained", branches=True)
        rows.append(row(name, trained, path, pictures))
        write(rows)
    config = configured(options.photos, options.output / "denoise", "task=denoise")
    path = run_stages(config, "original", "branches", "classifier")
    pairs = [
        replace(each, side=DENOISED, scale=config.scale, noise=config.noise) for each in pictures
    ]
    rows.append(row("task=denoise", trained, path, pairs))
    write(rows)


if __name__ == "__main__":
    main()
