"""What holds for every lowvis package."""

from pathlib import Path
from typing import ClassVar

from lowvis_shared.testing import PackageConformance


class TestConformance(PackageConformance):
    word = "aim2020"
    modules: ClassVar[tuple[str, ...]] = (
        *PackageConformance.modules,
        "candidates.py",
        "ranking.py",
        "report.py",
        "validation.py",
    )

    def failing_arguments(self, folder: Path) -> list[str]:
        return ["folded-x4", "--dataset", str(folder / "absent"), "--report", str(folder / "r.csv")]
