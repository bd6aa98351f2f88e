"""Speed of ClassSR against the authors' way and against the original network, in one run.

    python benchmarks/classsr_speed.py [--cases fsrcnn/2k fsrcnn/4k ...] [--weights FILE]

Afterwards ``python -m lowvis_shared.reproduce update`` brings the table into the README.

Six public photographs, reduced to long sides of 2048 and 4096 pixels and once more by four, are
upscaled in turn by

- the authors' way: patches of 32 with steps of 28, one by one, each rounded to 8 bits;
- the original network (the widest branch) on the whole picture, as a plain module and as one that
  is laid out channels last;
- ours: ``Upscaler`` as the command has it, what it makes of the original network alone, and
  routed in any case.

All of them see a picture before the next picture comes, so that a change in the load of the machine
meets all alike. The result is written as benchmarks/results/bench/classsr-MACHINE.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lowvis_classsr.branches import BRANCHES
from lowvis_classsr.evaluate import SIDES, ReducedPair, stand_ins
from lowvis_classsr.model import PATCH, ClassSR
from lowvis_classsr.predict import Upscaler
from lowvis_classsr.protocol import PAPER_PROTOCOL, STEP, combine, crop_tiles
from lowvis_classsr.weights import open_weights
from lowvis_shared.device import choose_device, environment, exact_float32, peak_memory
from lowvis_shared.images import Picture, to_array, to_tensor
from lowvis_shared.metrics import Protocol, psnr
from lowvis_shared.pairs import Pixels
from lowvis_shared.reproduce import markdown_table
from numpy.typing import NDArray
from torch import nn

CASES = ("fsrcnn/2k", "fsrcnn/4k", "carn/2k", "srresnet/2k")
"""The larger networks take minutes on the smaller pictures already."""

RESULTS = Path(__file__).parent / "results" / "bench"

AUTHORS = "authors' way: patches one by one"
PLAIN = "original network, whole picture"
FAIR = "the same, channels last"
OURS_WHOLE = "lowvis, original network alone"
OURS = "lowvis"
OURS_ROUTED = "lowvis, --path routed"

Way = Callable[[Pixels], NDArray[Any]]


def authors_way(network: ClassSR, device: torch.device) -> Way:
    """Patch by patch, as the official test does: classify, run one branch, round, combine."""

    @torch.inference_mode()
    def run(low: Pixels) -> NDArray[Any]:
        tiles, grid = crop_tiles(low)
        results: list[Pixels] = []
        for tile in tiles:
            output = network(to_tensor(Picture(tile)).to(device))
            values = output[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy()
            results.append((values * 255).round().astype(np.uint8))
        return combine(np.stack(results), grid, PATCH, STEP, network.config.scale)

    return run


def whole(branch: nn.Module, device: torch.device, layout: torch.memory_format) -> Way:
    """The original network on the whole picture at once."""
    branch = branch.to(device).to(memory_format=layout)

    @torch.inference_mode()
    def run(low: Pixels) -> NDArray[Any]:
        image = to_tensor(Picture(low)).to(device).contiguous(memory_format=layout)
        with exact_float32():
            return to_array(branch(image).clamp(0, 1).cpu())

    return run


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture upscaled one way: seconds, decibels, and bytes above what was there before."""

    seconds: float
    psnr: float
    memory: int
    share: float | None


def measure(
    ways: dict[str, Way | Upscaler], pair: ReducedPair, device: torch.device, repeats: int
) -> dict[str, Sample]:
    """Run every way on one picture, in turn, and keep each one's median time."""
    low, high = pair.read()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    samples: dict[str, Sample] = {}
    for repeat in range(repeats):
        for name, way in ways.items():
            before = _resident(device)
            with peak_memory(device) as peak:
                start = time.perf_counter()
                if isinstance(way, Upscaler):
                    output, report = way.run(Picture(low))
                    pixels, share = output.pixels, report.share
                else:
                    pixels, share = way(low), None
                seconds[name].append(time.perf_counter() - start)
            if repeat == 0:
                protocol = Protocol(color="rgb", border=4)
                target = high
                if name == AUTHORS:  # which drops what is left at the right and bottom
                    protocol, target = PAPER_PROTOCOL, high[: pixels.shape[0], : pixels.shape[1]]
                value = psnr(pixels / 255 if name == AUTHORS else pixels, target, protocol)
                samples[name] = Sample(0.0, value, peak.bytes - before, share)
    return {
        name: Sample(statistics.median(seconds[name]), each.psnr, each.memory, each.share)
        for name, each in samples.items()
    }


def _resident(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with peak_memory(device) as peak:
        pass
    return peak.bytes


def compare(
    network: str, weights: str, name: str, device: torch.device, repeats: int, only: int | None
) -> list[dict[str, Any]]:
    """Return one row for each way on one set of pictures."""
    loaded = open_weights(weights, network)
    branch = loaded.network.branches[-1]
    upscalers = {
        OURS_WHOLE: Upscaler(
            network, weights=weights, path="whole", device=device.type, precision="fp32"
        ),
        OURS_ROUTED: Upscaler(
            network, weights=weights, path="routed", device=device.type, precision="fp32"
        ),
        OURS: Upscaler(network, weights=weights, device=device.type, precision="fp32"),
    }
    ways: dict[str, Way | Upscaler] = {
        AUTHORS: authors_way(loaded.network.to(device), device),
        PLAIN: whole(_copy(branch, loaded.network, -1), device, torch.contiguous_format),
        FAIR: whole(_copy(branch, loaded.network, -1), device, torch.channels_last),
        **upscalers,
    }
    pairs = stand_ins(name, loaded.network.config.scale)[:only]
    warm = Picture(pairs[0].read()[0][:256, :256])
    for upscaler in upscalers.values():
        upscaler.run(warm)  # measures the machine, once for all pictures
    samples = [measure(ways, pair, device, repeats) for pair in pairs]
    rows: list[dict[str, Any]] = []
    for way in ways:
        each = [sample[way] for sample in samples]
        shares = [one.share for one in each if one.share is not None]
        rows.append(
            {
                "network": network,
                "set": name,
                "way": way,
                "pictures": len(pairs),
                "seconds": sum(one.seconds for one in each),
                "psnr": statistics.fmean(one.psnr for one in each),
                "memory_bytes": max(one.memory for one in each),
                "share": statistics.fmean(shares) if shares else None,
                "weights_sha256": loaded.sha256,
                "per_image": {
                    pair.name: {"seconds": one.seconds, "psnr": one.psnr}
                    for pair, one in zip(pairs, each, strict=True)
                },
            }
        )
    return rows


def _copy(branch: nn.Module, network: ClassSR, index: int) -> nn.Module:
    twin = network.config.build_branch(index).eval()
    twin.load_state_dict(branch.state_dict())
    return twin


COLUMNS = (
    *("network", "pictures", "way", "seconds", "times (a)", "times (b)", "PSNR, dB"),
    *("memory, MB", "multiplications"),
)


def table_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the table: ratios are to the authors' way (a) and to the whole picture (b)."""
    found: list[list[str]] = []
    for row in rows:
        alike = {
            other["way"]: other["seconds"]
            for other in rows
            if (other["network"], other["set"]) == (row["network"], row["set"])
        }
        share = row["share"]
        found.append(
            [
                BRANCHES[row["network"]].title,
                row["set"],
                row["way"],
                f"{row['seconds']:.2f}",
                f"{alike[AUTHORS] / row['seconds']:.2f}x",
                f"{alike[PLAIN] / row['seconds']:.2f}x",
                f"{row['psnr']:.3f}",
                f"{row['memory_bytes'] / 2**20:.0f}",
                "" if share is None else f"{share:.0%}",
            ]
        )
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    known = [f"{network}/{name}" for network in BRANCHES for name in SIDES]
    parser.add_argument("--cases", nargs="+", default=CASES, choices=known, metavar="NETWORK/SET")
    parser.add_argument("--weights", default="own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=None, help="only so many of each set")
    parser.add_argument("--output", type=Path, default=None, help="another file for the result")
    options = parser.parse_args()
    device = choose_device(options.device)
    rows: list[dict[str, Any]] = []
    for case in options.cases:
        network, name = case.split("/")
        rows += compare(network, options.weights, name, device, options.repeats, options.pictures)
        print(markdown_table(COLUMNS, table_rows(rows)), flush=True)
    path = options.output or RESULTS / f"classsr-{device.type}.json"
    content = {
        "command": " ".join(["benchmarks/classsr_speed.py", *sys.argv[1:]]),
        "environment": environment(),
        "table": {"columns": COLUMNS, "rows": table_rows(rows)},
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
