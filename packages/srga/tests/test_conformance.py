"""What holds for every lowvis package."""

from pathlib import Path
from typing import ClassVar

from lowvis_shared.testing import PackageConformance


class TestConformance(PackageConformance):
    word = "srga"
    modules: ClassVar[tuple[str, ...]] = (
        *PackageConformance.modules,  # without networks of its own it needs not all of them
        "bank.py",
        "comparison.py",
        "conditions.py",
        "degrade.py",
        "features.py",
        "leaves.py",
        "official.py",
        "onnx_model.py",
        "patches.py",
        "pies.py",
        "report.py",
        "scoring.py",
        "sensitivity.py",
        "statistics.py",
        "storage.py",
    )

    def failing_arguments(self, folder: Path) -> list[str]:
        absent, report = str(folder / "absent"), str(folder / "report.csv")
        return ["pan-x4@own", "--images", absent, "--report", report]
