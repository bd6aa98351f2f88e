"""CSRNet on a photograph of 12 megapixels in one run: the plain module, the exact path, the LUT.

    python benchmarks/csrnet_speed.py [--device cuda] [--repeats 5] [--size 4000x3000]

Writes benchmarks/results/bench/csrnet-MACHINE.json, whose table
``python -m lowvis_shared.reproduce update`` brings into the README.

Every path takes the 8-bit picture and gives an 8-bit picture, one takes and gives 16 bits; with our
own weights. The plain module is what the authors run: eager, float32, the whole picture at once,
its condition of the whole picture. Other paths compute their condition and, where they have one,
bake their LUT anew in every round. Peers for the interpolation alone get the same table: Pillow's
and torch's are trilinear. Threads are those of torch; Pillow has one.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lowvis_csrnet import CSRNet, Lut3D, Retoucher
from lowvis_shared.assets import fetch, find_asset
from lowvis_shared.device import (
    choose_device,
    environment,
    exact_float32,
    matrix_peak,
    peak_memory,
    time_in_turn,
)
from lowvis_shared.errors import WeightsError
from lowvis_shared.images import Picture, read_image
from lowvis_shared.metrics import Protocol, psnr
from lowvis_shared.reproduce import markdown_table
from lowvis_shared.testing.pictures import photo
from numpy.typing import NDArray
from PIL import Image, ImageFilter

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench"
PLAIN, EXACT, LUT = "plain module", "exact", "LUT, 33 nodes"
EXACT_16 = f"{EXACT}, 16 bits"

Pixels = NDArray[Any]
Run = Callable[[Pixels], NDArray[Any]]


def load_photo(width: int, height: int) -> tuple[Pixels, str]:
    """A photograph of that size, cut from an open one; a procedural one where it is not at hand."""
    asset = find_asset("large/tony-webster-97532.jpg")
    try:
        pixels = read_image(fetch(asset)).pixels
    except WeightsError as error:
        print(f"procedural picture: {error}", file=sys.stderr)
        return photo(height, width), "procedural"
    if pixels.shape[1] < width:
        pixels = np.rot90(pixels)
    if pixels.shape[0] < height or pixels.shape[1] < width:
        raise SystemExit(f"the photograph is smaller than {width}x{height}")
    return np.ascontiguousarray(pixels[:height, :width]), asset.name


def plain(network: CSRNet, device: torch.device) -> Run:
    """The module as its authors run it."""

    def run(pixels: Pixels) -> NDArray[Any]:
        image = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None].float() / 255
        output = network(image).clamp(0, 1).mul(255).round().to(torch.uint8)
        return output[0].permute(1, 2, 0).cpu().numpy()

    return run


def retoucher_run(retoucher: Retoucher) -> Run:
    """The package's own path."""
    return lambda pixels: retoucher(pixels)


def pillow_run(lut: Lut3D) -> Run:
    """The same table in Pillow's trilinear interpolation."""
    table = ImageFilter.Color3DLUT(lut.size, lut.values.reshape(-1).tolist())
    return lambda pixels: np.asarray(Image.fromarray(pixels).filter(table))


def grid_sample_run(lut: Lut3D, device: torch.device) -> Run:
    """The same table in torch's trilinear interpolation."""
    volume = torch.from_numpy(lut.values).permute(3, 0, 1, 2)[None].to(device)

    def run(pixels: Pixels) -> NDArray[Any]:
        grid = torch.from_numpy(pixels).to(device).float().mul(2 / 255).sub(1)[None, None]
        output = F.grid_sample(volume, grid, padding_mode="border", align_corners=True)
        codes = output[0, :, 0].clamp(0, 1).mul(255).round().to(torch.uint8)
        return codes.permute(1, 2, 0).cpu().numpy()

    return run


def to_8_bit(pixels: Pixels) -> Pixels:
    """Round 16 bits to 8."""
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8)


def main() -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", default="4000x3000")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    width, height = (int(side) for side in arguments.size.split("x"))
    pixels, source = load_photo(width, height)
    retouchers = {
        EXACT: Retoucher(lut_size=None, device=arguments.device),
        **{
            f"LUT, {size} nodes": Retoucher(lut_size=size, device=arguments.device)
            for size in (17, 33, 65)
        },
    }
    network = retouchers[EXACT].network
    if not isinstance(network, CSRNet):
        raise TypeError("the benchmark is of csrnet")
    lut = retouchers[LUT].bake(Picture(pixels))
    runs: dict[str, Run] = {
        PLAIN: plain(network, device),
        EXACT: retoucher_run(retouchers[EXACT]),
        EXACT_16: retoucher_run(retouchers[EXACT]),
        **{name: retoucher_run(each) for name, each in retouchers.items() if name != EXACT},
        "interpolation alone, 33 nodes": lambda pixels: lut.apply(pixels),
        "the same in Pillow": pillow_run(lut),
        "the same in torch": grid_sample_run(lut, device),
    }
    pixels_16 = pixels.astype(np.uint16) * 257
    inputs = {name: pixels_16 if name == EXACT_16 else pixels for name in runs}
    peaks: dict[str, int] = {}
    outputs: dict[str, NDArray[Any]] = {}
    with torch.inference_mode(), exact_float32():
        for name, run in runs.items():
            run(inputs[name][:256, :256])  # libraries load and compile
            with peak_memory(device) as before:
                pass
            with peak_memory(device) as peak:
                outputs[name] = run(inputs[name])
            peaks[name] = peak.bytes - before.bytes
            print(f"{name}: {peaks[name] / 1e6:.0f} MB", file=sys.stderr)
        timings = time_in_turn(
            {name: partial(run, inputs[name]) for name, run in runs.items()},
            device=device,
            warmup=1,
            repeats=arguments.repeats,
            progress=lambda done, of: print(f"round {done} of {of}", file=sys.stderr),
        )
    paths: dict[str, Any] = {}
    for name, timing in timings.items():
        paths[name] = {
            **asdict(timing),
            "ratio": timings[PLAIN].median_s / timing.median_s,
            "peak_bytes": peaks[name],
            "psnr": psnr(to_8_bit(outputs[name]), outputs[EXACT], Protocol(color="rgb")),
        }
    columns = ["path", "seconds", "spread", "times as fast", "extra memory", "PSNR to exact"]
    rows = [
        [
            name,
            f"{entry['median_s']:.3f}",
            f"{entry['spread_s']:.3f}",
            f"{entry['ratio']:.1f}",
            f"{entry['peak_bytes'] / 1e6:,.0f} MB",
            "equal" if entry["psnr"] == float("inf") else f"{entry['psnr']:.1f} dB",
        ]
        for name, entry in paths.items()
    ]
    for entry in paths.values():
        entry["psnr"] = None if entry["psnr"] == float("inf") else entry["psnr"]
    pixel_count = width * height
    content = {
        "command": " ".join(["benchmarks/csrnet_speed.py", *sys.argv[1:]]),
        "environment": environment(),
        "photo": {"source": source, "width": width, "height": height},
        "distinct_colors": len(
            np.unique(pixels.reshape(-1, 3).astype(np.uint32) @ (1, 256, 65536))
        ),
        "limits": {
            "matrix_peak_flops": matrix_peak(torch.float32, device),
            "plain_flops": 2 * 4480 * pixel_count + 2 * 22.7e9 * pixel_count / 12e6,
        },
        "paths": paths,
        "table": {"columns": columns, "rows": rows},
    }
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"csrnet-{machine.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(markdown_table(columns, rows))
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
