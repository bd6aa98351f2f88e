"""Make the picture of the README of lowvis-srga: three networks over blur, noise and JPEG.

Published weights, 300 patches of the photographs of the reproduction, with confidence intervals.
"""

from functools import partial
from pathlib import Path

from lowvis_shared.reproduce import Context
from lowvis_srga import Settings, make_sets, open_tap, score
from lowvis_srga.conditions import SHORT
from lowvis_srga.degrade import parse_degradation
from lowvis_srga.report import as_svg
from lowvis_srga.reproduce import photographs

PICTURE = Path(__file__).parents[1] / "docs" / "srga.svg"
NETWORKS = ("pan-x4", "imdn-x4", "rfdn-x4")


def main() -> None:
    """Write ``docs/srga.svg``."""
    sources, _ = photographs(Context())
    sets = make_sets(sources, [parse_degradation(name) for name in SHORT], patches=300)
    networks = {name: partial(open_tap, name) for name in NETWORKS}
    PICTURE.write_text(as_svg(score(networks, sets, Settings())), encoding="utf-8")


if __name__ == "__main__":
    main()
