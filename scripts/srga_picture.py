"""Make the picture of the README of lowvis-srga: networks over the width of a blur.

It draws the figures of the newest reproduction, so that picture and tables agree.
"""

import json
import re
from pathlib import Path

from lowvis_shared.plot import Axis, Series, lines

ROOT = Path(__file__).parents[1]
NETWORKS = ("pan-x4", "imdn-x4", "rfdn-x4", "carn-m-x4")
ROW = re.compile(r"photographs/([\w-]+)/blur([\d.]+)")


def main() -> None:
    """Write ``docs/srga.svg``: the index over the width of the blur."""
    evidence = max((ROOT / "benchmarks" / "results" / "srga").glob("*.json"))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in NETWORKS}
    for row in json.loads(evidence.read_text(encoding="utf-8"))["rows"]:
        match = ROW.fullmatch(row["id"])
        if match and match[1] in found:
            found[match[1]].append((float(match[2]), row["measurement"]["value"]))
    series = [Series(name, sorted(points)) for name, points in found.items()]
    plot = lines(series, Axis("blur: standard deviation, pixels"), Axis("SRGA"))
    (ROOT / "docs" / "srga.svg").write_text(plot + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
