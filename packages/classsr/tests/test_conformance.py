"""What holds for every lowvis package."""

from lowvis_shared.testing import PackageConformance


class TestConformance(PackageConformance):
    word = "classsr"
