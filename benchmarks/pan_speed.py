"""Speed of PAN's engines against the straightforward module in eager float32, in one run.

    python benchmarks/pan_speed.py [--device cuda] [--weights own|official|FILE] [--repeats 7]

Afterwards ``python -m lowvis_shared.reproduce update`` brings the table into the README.

Every engine upscales the same picture (180x320 -> x4), in turn, so that a change in the load of the
machine meets all alike. Ratios are between medians. The result is written as
benchmarks/results/bench/pan-MACHINE.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lowvis_pan.fast import Backend, Engine, InferenceForm, open_engine
from lowvis_pan.model import PAN, PANConfig
from lowvis_pan.weights import load_weights
from lowvis_shared.cost import measure_cost
from lowvis_shared.device import choose_device, environment, matrix_peak
from lowvis_shared.errors import InputError, MissingExtraError, WeightsError
from lowvis_shared.images import Picture, to_array, to_tensor
from lowvis_shared.pairs import evaluate, load_pairs
from lowvis_shared.reproduce import markdown_table
from lowvis_shared.testing.pictures import photo
from torch import Tensor

SCALE, HEIGHT, WIDTH = 4, 180, 320
RESULTS = Path(__file__).parent / "results" / "bench"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Run = Callable[[Tensor], Tensor]


def runners(network: PAN, device: torch.device) -> dict[str, tuple[Run, torch.dtype]]:
    """Everything to be timed by name, the straightforward module first."""
    reference = PAN(network.config).eval()
    reference.load_state_dict(network.state_dict())
    reference = reference.to(device)

    def eager(image: Tensor) -> Tensor:
        with torch.no_grad():
            return reference(image.to(device))

    found: dict[str, tuple[Run, torch.dtype]] = {"eager fp32": (eager, torch.float32)}
    precisions = ("fp32", "bf16") if device.type == "cpu" else ("fp32", "bf16", "fp16")
    backends: tuple[Backend, ...] = ("torch", "onnx", "openvino")
    for backend in backends if device.type == "cpu" else backends[:1]:
        for precision in precisions if backend != "onnx" else precisions[:1]:
            dtype = DTYPES[precision]
            try:
                engine = open_engine(network, backend=backend, device=device, dtype=dtype)
            except MissingExtraError as error:
                print(f"{backend}: not measured: {error} ({error.hint})")
                continue
            found[engine.name] = (_output_of(engine), dtype)
    if device.type == "cuda":
        for precision in precisions:
            form = InferenceForm(network, DTYPES[precision]).to(device)
            compiled = cast("InferenceForm", torch.compile(form, mode="reduce-overhead"))

            def run(image: Tensor, form: InferenceForm = compiled) -> Tensor:
                with torch.no_grad():
                    return form(image.to(device))[0].clone()

            found[f"torch compiled {precision}"] = (run, DTYPES[precision])
    return found


def _output_of(engine: Engine) -> Run:
    return lambda image: engine(image)[0]


def measure(found: dict[str, tuple[Run, torch.dtype]], image: Tensor, repeats: int) -> Any:
    """Time all in turn, `repeats` times after four rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    busy: dict[str, list[float]] = {name: [] for name in found}
    outputs: dict[str, Tensor] = {}
    cuda = image.device.type == "cuda"
    for repeat in range(4 + repeats):
        for name, (run, _) in found.items():
            if cuda:
                torch.cuda.synchronize()
            start, start_busy = time.perf_counter(), time.process_time()
            output = run(image)
            if cuda:
                torch.cuda.synchronize()
            if repeat >= 4:
                seconds[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - start_busy)
            outputs[name] = output.float().cpu()
    macs = measure_cost(PAN(PANConfig(scale=SCALE)), (3, HEIGHT, WIDTH)).macs
    peaks = {
        dtype: matrix_peak(dtype, image.device) for dtype in {each for _, each in found.values()}
    }
    rows: dict[str, Any] = {}
    for name, (_, dtype) in found.items():
        minimum = min(seconds[name])
        rows[name] = {
            "median_s": statistics.median(seconds[name]),
            "minimum_s": minimum,
            "processor_median_s": statistics.median(busy[name]),
            "ratio": statistics.median(seconds["eager fp32"]) / statistics.median(seconds[name]),
            "processor_ratio": statistics.median(busy["eager fp32"])
            / statistics.median(busy[name]),
            "fraction_of_peak": 2 * macs / minimum / peaks[dtype],
            "peak_flops": peaks[dtype],
            "max_difference": float((outputs[name] - outputs["eager fp32"]).abs().max()),
        }
    return rows


def fidelity(found: dict[str, tuple[Run, torch.dtype]], device: torch.device) -> dict[str, float]:
    """PSNR of each on Set14 by the paper's protocol; empty where the set is not at hand."""
    try:
        pairs = load_pairs("set14", SCALE, offline=True)
    except (InputError, WeightsError) as error:
        print(f"PSNR: not measured: {error}")
        return {}
    figures: dict[str, float] = {}
    for name, (run, _) in found.items():
        if "compiled" in name:
            continue  # compiles anew for each size

        def upscale(low: Any, run: Run = run) -> Any:
            return to_array(run(to_tensor(Picture(low)).to(device)).float().cpu())

        figures[name] = evaluate(upscale, pairs, SCALE).psnr
    return figures


COLUMNS = (
    "engine",
    "threads",
    "median ms",
    "ratio",
    "of peak",
    "max difference",
    "cost on Set14, dB",
)


def table_rows(rows: dict[str, Any], threads: int) -> list[list[str]]:
    """One row of texts for each engine."""
    return [
        [
            name,
            str(threads),
            f"{row['median_s'] * 1e3:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['fraction_of_peak']:.0%}",
            f"{row['max_difference']:.1e}",
            f"{row['psnr_cost']:.4f}" if "psnr_cost" in row else "–",  # noqa: RUF001
        ]
        for name, row in rows.items()
    ]


def main() -> None:
    """Measure, print tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", default="own")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--skip-psnr", action="store_true")
    options = parser.parse_args()
    device = choose_device(options.device)
    # TF32 is part of what eager float32 does by default for convolutions; both sides have it off.
    torch.backends.cudnn.allow_tf32 = False
    network = PAN(PANConfig(scale=SCALE)).eval()
    load_weights(network, options.weights)
    image = to_tensor(Picture(photo(HEIGHT, WIDTH))).to(device)
    all_threads = torch.get_num_threads()
    result: dict[str, Any] = {
        "input": [1, 3, HEIGHT, WIDTH],
        "scale": SCALE,
        "command": " ".join(["benchmarks/pan_speed.py", *sys.argv[1:]]),
        "weights": str(options.weights),
        "environment": environment(),
        "runs": [],
    }
    shown: list[list[str]] = []
    threads = (1, all_threads) if device.type == "cpu" and all_threads > 1 else (all_threads,)
    for count in threads:
        torch.set_num_threads(count)
        found = runners(network, device)
        rows = measure(found, image, options.repeats)
        if count == threads[-1] and not options.skip_psnr:
            figures = fidelity(found, device)
            for name, figure in figures.items():
                rows[name]["psnr"] = figure
                rows[name]["psnr_cost"] = figures["eager fp32"] - figure
        shown += table_rows(rows, count)
        result["runs"].append({"device": str(device), "threads": count, "engines": rows})
    result["table"] = {"columns": COLUMNS, "rows": shown}
    print(markdown_table(COLUMNS, shown))
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"pan-{machine.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(result, indent=1, default=_plain) + "\n", encoding="utf-8")
    print(f"\nwritten: {path}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)


if __name__ == "__main__":
    main()
