"""All networks of lowvis-aim2020 and PAN in one run: as they stand, and in a faster form.

    python benchmarks/aim2020_speed.py [--device cuda] [--repeats 7] [--accept-licence]

Writes two files into benchmarks/results/bench: the ranking (``aim2020-MACHINE.json`` and the plot
docs/aim2020.svg), with PSNR on Set14 where the pictures are at hand, and the comparison of forms
(``aim2020-forms-MACHINE.json``). Afterwards ``python -m lowvis_shared.reproduce update`` brings the
tables into the READMEs.

The plain form is the module as its authors run it: eager, float32, contiguous. The form for
inference is channels last, in bfloat16 where the processor has it; PAN runs in its own engine.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lowvis_aim2020.candidates import all_names, find_candidate
from lowvis_aim2020.ranking import rank
from lowvis_aim2020.report import COLUMNS, as_rows, plot
from lowvis_pan.fast import open_engine
from lowvis_pan.model import PAN
from lowvis_shared.device import (
    choose_device,
    choose_precision,
    environment,
    exact_float32,
    time_in_turn,
)
from lowvis_shared.errors import InputError, WeightsError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.pairs import load_pairs
from lowvis_shared.reproduce import markdown_table
from lowvis_shared.testing.pictures import photo
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench"
SIZE = (256, 256)

Run = Callable[[Tensor], Tensor]


def plain_form(network: nn.Module) -> Run:
    """The module as it is, in eager float32."""

    def run(image: Tensor) -> Tensor:
        return network(image)

    return run


def inference_form(network: nn.Module, device: torch.device) -> tuple[Run, str]:
    """The fastest form in which a network runs here without another library, and its name."""
    dtype = choose_precision("auto", device)
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    if isinstance(network, PAN):
        engine = open_engine(network, backend="torch", device=device, dtype=dtype)
        return lambda image: engine(image)[0], f"own engine, {name}"
    fast = copy.deepcopy(network).to(dtype=dtype).to(memory_format=torch.channels_last)

    def run(image: Tensor) -> Tensor:
        return fast(image.to(dtype=dtype, memory_format=torch.channels_last)).float()

    return run, f"channels last, {name}"


def forms(device: torch.device, repeats: int, options: dict[str, bool]) -> dict[str, Any]:
    """Time both forms of every x4 network in turn."""
    image = to_tensor(Picture(photo(*SIZE))).to(device)
    runs: dict[str, Run] = {}
    described: dict[str, tuple[str, str]] = {}
    for name in all_names():
        candidate = find_candidate(name, **options)
        try:
            network = candidate.make().to(device)
        except WeightsError as error:  # time does not depend on them
            print(f"{name}: random weights: {error}", file=sys.stderr)
            candidate = find_candidate(name, weights=False)
            network = candidate.make().to(device)
        fast, form = inference_form(network, device)
        runs[f"{name} plain"], runs[f"{name} fast"] = plain_form(network), fast
        described[name] = (candidate.title, form)
    with torch.inference_mode(), exact_float32():
        outputs = {name: run(image).float().cpu() for name, run in runs.items()}
        timings = time_in_turn(
            {name: partial(run, image) for name, run in runs.items()},
            device=device,
            repeats=repeats,
            progress=lambda done, of: print(f"forms: round {done} of {of}", file=sys.stderr),
        )
    networks: dict[str, Any] = {}
    for name, (title, form) in described.items():
        plain, fast = timings[f"{name} plain"], timings[f"{name} fast"]
        difference = (outputs[f"{name} plain"] - outputs[f"{name} fast"]).abs().max()
        networks[name] = {
            "title": title,
            "form": form,
            "plain": asdict(plain),
            "fast": asdict(fast),
            "ratio": plain.median_s / fast.median_s,
            "max_difference": float(difference),
        }
    columns = ["network", "plain, ms", "form for inference", "ms", "ratio", "max difference"]
    rows = [
        [
            entry["title"],
            f"{entry['plain']['median_s'] * 1e3:.1f}",
            entry["form"],
            f"{entry['fast']['median_s'] * 1e3:.1f}",
            f"{entry['ratio']:.2f}",
            f"{entry['max_difference']:.1e}",
        ]
        for entry in sorted(networks.values(), key=lambda entry: entry["fast"]["median_s"])
    ]
    return {"networks": networks, "table": {"columns": columns, "rows": rows}}


def main() -> None:
    """Measure, print tables, write the JSON files and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--accept-licence", action="store_true")
    parser.add_argument("--offline", action="store_true")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    options = {"accept_licence": arguments.accept_licence, "offline": arguments.offline}
    try:
        pairs = load_pairs("set14", 4, **options)
    except (InputError, WeightsError) as error:
        print(f"PSNR: not measured: {error}", file=sys.stderr)
        pairs = None
    ranking = rank(
        find=partial(find_candidate, weights=pairs is not None, **options),
        pairs=pairs,
        dataset="" if pairs is None else "Set14",
        input_size=SIZE,
        device=arguments.device,
        repeats=arguments.repeats,
        progress=lambda what, done, of: print(f"{what}: {done} of {of}", file=sys.stderr),
    )
    columns, rows = as_rows(ranking)
    head = {
        "command": " ".join(["benchmarks/aim2020_speed.py", *sys.argv[1:]]),
        "environment": environment(),
    }
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    machine = machine.lower().replace(" ", "-")
    write(
        f"aim2020-{machine}",
        {**head, "ranking": ranking.as_dict(), "table": {"columns": columns, "rows": rows}},
    )
    by_measure = {column.measure: column for column in COLUMNS}
    vertical = by_measure["parameters" if pairs is None else "psnr"]
    picture = plot(ranking, by_measure["run_time"], vertical)
    if device.type == "cpu":  # which the README's picture is of
        (ROOT / "docs" / "aim2020.svg").write_text(picture + "\n", encoding="utf-8")
    write(f"aim2020-forms-{machine}", {**head, **forms(device, arguments.repeats, options)})


def write(name: str, content: dict[str, Any]) -> None:
    """Write one JSON file and print its table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(markdown_table(content["table"]["columns"], content["table"]["rows"]))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
