"""SRGA of two feature files of the paper's size in one run: the authors' way and ours.

    python benchmarks/srga_speed.py [--folder /tmp] [--patches 800] [--features 1048576]

Writes benchmarks/results/bench/srga-cpu.json, whose table
``python -m lowvis_shared.reproduce update`` brings into the README. Other sizes than the paper's
print their table and write nothing.

Both files hold features of one factor model with the mean of each feature, heavy-tailed weights of
the patches and a spectrum that falls with a power of the factor's number, which falls faster in the
test set; and a little noise. They are made anew, and deleted at the end: 6.7 GB.

The authors' way, in our words: load a file, take scikit-learn's principal component analysis of all
of it, turn the pooled scores into a list, and for each score beyond five standard deviations of the
mean search the list for it, remove it and compute mean and deviation of what is left again. (The
bounds stay those of the whole list; otherwise its result would be another.) The fit to what is left
is ours, in all ways. A second baseline is the same without the list: all scores are trimmed at once
as we do it, which leaves the analysis alone to compare with.

Each way runs in a process of its own, after its libraries are imported and with the files dropped
from the system's cache. Memory is the peak of that process; that of one which only imports the same
is taken off.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# What is large is imported in the process that needs it, as the peak that the system reports of a
# process is never below that of the one which started it.

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench"
PATCHES, FEATURES, DIMENSIONS = 800, 1_048_576, 300
AUTHORS, TRIMMED, OURS = "authors' way", "authors' way, trimmed at once", "ours"
SHIFT = "ours, with the mean shift"
WAYS = (AUTHORS, TRIMMED, OURS, SHIFT)
COLUMNS = 16384
"""Columns that are made at a time."""


# --- the processes --------------------------------------------------------------------------------


def make(reference: Path, test: Path, patches: int, features: int) -> dict[str, Any]:
    """Write both files, some columns at a time."""
    import numpy as np

    generator = np.random.default_rng(0)
    rank = patches * 9 // 8
    number = np.arange(1, rank + 1)
    weights = generator.lognormal(0, 0.7, (patches, 1))
    spectrum = number**-0.6
    # About as large as the features of PAN.
    factors = 0.25 * weights * spectrum * generator.standard_normal((patches, rank))
    damped = factors * np.exp(-number / rank)
    sets = [
        (np.lib.format.open_memmap(path, "w+", np.float32, (patches, features)), factor)
        for path, factor in ((reference, factors), (test, damped))
    ]
    for start in range(0, features, COLUMNS):
        count = min(COLUMNS, features - start)
        loadings = generator.standard_normal((rank, count), np.float32)
        mean = 0.2 * generator.standard_normal(count, np.float32)
        for array, factor in sets:
            noise = generator.standard_normal((patches, count), np.float32)
            array[:, start : start + count] = (
                factor.astype(np.float32) @ loadings + mean + np.float32(2e-3) * noise
            )
    for array, _ in sets:
        array.flush()
    return {}


def authors(
    reference: Path, test: Path, dimensions: int, *, listed: bool, work: bool
) -> dict[str, Any]:
    """Run the authors' way, with its list or all at once."""
    import numpy as np
    from lowvis_srga.statistics import TRIM, fit_ggd, kld_ggd, srga_index
    from sklearn.decomposition import PCA

    if not work:
        return {}
    seconds = {"load": 0.0, "axes": 0.0, "trim and fit": 0.0}
    fits: list[Any] = []
    for path in (reference, test):
        start = time.perf_counter()
        features = np.load(path)
        loaded = time.perf_counter()
        scores = PCA(n_components=dimensions, random_state=0).fit_transform(features)
        analysed = time.perf_counter()
        if listed:
            left: list[float] = scores.reshape(-1).tolist()
            mean, bound = np.mean(left), TRIM * np.std(left)
            for score in list(left):
                if not mean - bound < score < mean + bound:
                    left.remove(score)
                    np.mean(left)  # as the loop does; nothing comes of them
                    np.std(left)
            fits.append(fit_ggd(np.array(left), trim=None))
        else:
            fits.append(fit_ggd(scores))
        seconds["load"] += loaded - start
        seconds["axes"] += analysed - loaded
        seconds["trim and fit"] += time.perf_counter() - analysed
    return {
        "srga": srga_index(kld_ggd(*fits)),
        "counts": [fitted.count for fitted in fits],
        "stages_s": seconds,
    }


def ours(
    reference: Path, test: Path, dimensions: int, *, shift: bool, work: bool
) -> dict[str, Any]:
    """Run our way, the index alone or with what the sets have in common."""
    from lowvis_srga.bank import FeatureBank
    from lowvis_srga.comparison import srga

    if not work:
        return {}
    start = time.perf_counter()
    first = FeatureBank.from_npy(reference)
    second = FeatureBank.from_npy(test, reference=first if shift else None)
    banked = time.perf_counter()
    result = srga(first, second, dimensions=dimensions)
    return {
        "srga": result.value,
        "counts": [result.reference.count, result.test.count],
        "stages_s": {"banks": banked - start, "compare": time.perf_counter() - banked},
    }


def run_process(arguments: argparse.Namespace) -> None:
    """Do what a process was started for and print what it found."""
    files = arguments.folder / "reference.npy", arguments.folder / "test.npy"
    way, work = arguments.process, not arguments.imports
    if way == "make":
        found = make(*files, arguments.patches, arguments.features)
    elif way in (AUTHORS, TRIMMED):
        found = authors(*files, arguments.dimensions, listed=way == AUTHORS, work=work)
    else:
        found = ours(*files, arguments.dimensions, shift=way == SHIFT, work=work)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found["peak_bytes"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found["processor_s"] = usage.ru_utime + usage.ru_stime
    print(json.dumps(found))


# --- the process that starts them -----------------------------------------------------------------


def start_process(
    way: str, folder: Path, arguments: argparse.Namespace, *options: str
) -> dict[str, Any]:
    """Run one process and return what it found."""
    print(f"{way} {' '.join(options)}", file=sys.stderr)
    command = [sys.executable, __file__, "--process", way, "--folder", str(folder), *options]
    for name in ("patches", "features", "dimensions"):
        command += [f"--{name}", str(getattr(arguments, name))]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def drop_from_cache(folder: Path) -> None:
    """Make the system forget what it holds of the files in memory, where it can."""
    if hasattr(os, "posix_fadvise"):
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Make the files and run every way."""
    need = 2 * 4 * arguments.patches * arguments.features
    ways: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < need * 1.1:
            raise SystemExit(f"{folder} has no room for {need / 1e9:.1f} GB")
        start_process("make", folder, arguments)
        for way in WAYS:
            libraries = start_process(way, folder, arguments, "--imports")
            drop_from_cache(folder)
            load = os.getloadavg()[0]
            found = start_process(way, folder, arguments)
            ways[way] = {
                **found,
                "seconds": sum(found["stages_s"].values()),
                "libraries_bytes": libraries["peak_bytes"],
                "added_bytes": found["peak_bytes"] - libraries["peak_bytes"],
                "processor_s": found["processor_s"] - libraries["processor_s"],
                "load_before": load,
            }
            print(json.dumps(ways[way]), file=sys.stderr)
    best = ways[OURS]
    for entry in ways.values():
        entry["time_ratio"] = entry["seconds"] / best["seconds"]
        entry["memory_ratio"] = entry["added_bytes"] / best["added_bytes"]
        entry["difference"] = entry["srga"] - best["srga"]
    return ways


def main() -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--patches", type=int, default=PATCHES)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS)
    parser.add_argument("--process", choices=("make", *WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--imports", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        run_process(arguments)
        return
    ways = measure(arguments)

    from importlib.metadata import version

    from lowvis_shared.device import environment
    from lowvis_shared.reproduce import markdown_table

    columns = ["way", "seconds", "times ours", "memory above libraries", "times ours", "SRGA"]
    rows = [
        [
            way,
            f"{entry['seconds']:,.1f}",
            f"{entry['time_ratio']:.1f}",
            f"{entry['added_bytes'] / 1e6:,.0f} MB",
            f"{entry['memory_ratio']:.1f}",
            f"{entry['srga']:.4f}",
        ]
        for way, entry in ways.items()
    ]
    size = {name: getattr(arguments, name) for name in ("patches", "features", "dimensions")}
    content = {
        "command": " ".join(["benchmarks/srga_speed.py", *sys.argv[1:]]),
        "environment": {**environment(), "scikit-learn": version("scikit-learn")},
        **size,
        "ways": ways,
        "table": {"columns": columns, "rows": rows},
    }
    print(markdown_table(columns, rows))
    if tuple(size.values()) != (PATCHES, FEATURES, DIMENSIONS):
        print("\nnot the paper's size: nothing is written")
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "srga-cpu.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
