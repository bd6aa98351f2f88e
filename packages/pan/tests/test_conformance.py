from lowvis_shared.testing import PackageConformance


class TestConformance(PackageConformance):
    word = "pan"
