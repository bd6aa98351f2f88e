"""How SRGA moves with patches, axes, layer and size of patches, for one network on photographs.

    python benchmarks/srga_sensitivity.py [--model rfdn-x4@official] [--device cuda]

Writes benchmarks/results/bench/srga-sensitivity.json, whose table
``python -m lowvis_shared.reproduce update`` brings into the README. ``lowvis-srga sensitivity``
does the same for any network and pictures; here they are those of the reproduction.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from lowvis_shared.device import environment
from lowvis_shared.reproduce import Context, markdown_table
from lowvis_srga import open_tap
from lowvis_srga.degrade import parse_degradation
from lowvis_srga.patches import make_sets
from lowvis_srga.reproduce import photographs
from lowvis_srga.sensitivity import Variations, measure

RESULT = Path(__file__).parent / "results" / "bench" / "srga-sensitivity.json"
VARIATIONS = Variations(
    patches=(50, 100, 200),
    dimensions=(25, 75, 150, 199),
    layers=("auto", "output"),
    sizes=(128, 256),
)
SETS = ("clean", "blur2", "noise10", "jpeg50")


def main() -> None:
    """Measure, print the table and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="rfdn-x4@official")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    sources, assets = photographs(Context())
    degradations = [parse_degradation(name) for name in SETS]
    table = measure(
        partial(open_tap, arguments.model, device=arguments.device),
        lambda count, size: make_sets(sources, degradations, patches=count, size=size),
        VARIATIONS,
        progress=lambda done, of: print(f"run {done} of {of}", file=sys.stderr),
    )
    columns, rows = table.as_rows()
    print(markdown_table(columns, rows))
    result = {
        "command": " ".join(["benchmarks/srga_sensitivity.py", *sys.argv[1:]]),
        "environment": environment(),
        "assets": assets,
        **table.as_dict(),
        "table": {"columns": columns, "rows": rows},
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
