"""Every output of the guard is finite and bounded, and natural pictures are left alone."""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from lowvis_pan.fast import Engine, bilinear_skip, open_engine
from lowvis_pan.guard import OUTPUT_RANGE, Guard, calibrate_limit
from lowvis_pan.model import PAN, SCALES, PANConfig
from lowvis_pan.weights import DEFAULT_FEATURE_LIMIT, load_weights
from lowvis_shared.images import Picture, read_image, to_tensor
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_shared.testing.pictures import photo, stress_patterns
from torch import Tensor, nn

CPU = torch.device("cpu")


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return to_tensor(Picture(photo(height, width, seed=seed)))


def patterns(height: int, width: int) -> Iterator[tuple[str, Tensor]]:
    """The patterns that make networks diverge, and lone points, noise on photographs, colors."""
    for name, pixels in stress_patterns(height, width).items():
        yield name, to_tensor(Picture(pixels))
    generator = torch.Generator().manual_seed(height)
    point = torch.zeros(1, 3, height, width)
    point[..., height // 2, width // 2] = 1
    yield "white point", point
    yield "black point", 1 - point
    flat = torch.rand(1, 3, height, width, generator=generator)
    yield "color dither", (flat > 0.5).float()
    yield "sparse dither", (flat[:, :1] > 0.9).float().expand(1, 3, height, width)
    rows = torch.arange(height).view(-1, 1) + torch.arange(width)
    yield "red checkerboard", (rows % 2).float() * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    for sigma in (50, 75):
        noise = torch.randn(1, 3, height, width, generator=generator) * sigma / 255
        yield f"photograph, sigma {sigma}", (picture(height, width) + noise).clamp(0, 1)


@cache
def official_engine(scale: int) -> Engine:
    network = PAN(PANConfig(scale=scale)).eval().requires_grad_(False)
    network.load_state_dict(torch.load(asset_path(f"pan/x{scale}/official"), weights_only=True))
    return open_engine(network, backend="torch", device=CPU)


def random_engine(gain: float, scale: int = 2) -> Engine:
    """A network whose trunk multiplies its features by something in the order of the gain."""
    torch.manual_seed(0)
    network = PAN(PANConfig(scale=scale, blocks=3)).eval().requires_grad_(False)
    for module in network.SCPA_trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(gain)
    return open_engine(network, backend="torch", device=CPU)


def assert_bounded(output: Tensor, image: Tensor, scale: int) -> None:
    assert output.shape == (1, 3, image.shape[2] * scale, image.shape[3] * scale)
    assert bool(torch.isfinite(output).all())
    assert OUTPUT_RANGE[0] <= float(output.min()) <= float(output.max()) <= OUTPUT_RANGE[1]


@pytest.mark.parametrize("size", [(5, 7), (33, 48)])
@pytest.mark.parametrize("scale", SCALES)
def test_official_weights_are_bounded_on_every_pattern(scale: int, size: tuple[int, int]) -> None:
    guard = Guard(official_engine(scale), DEFAULT_FEATURE_LIMIT)
    acted = {}
    for name, image in patterns(*size):
        output, acted[name] = guard(image)
        assert_bounded(output, image, scale)
    assert sum(acted.values()) == guard.attenuated.total()
    if size == (33, 48):
        assert acted["checkerboard"]
        assert acted["horizontal-stripes"]
        assert not acted["black"]
        assert not acted["white"]


@pytest.mark.parametrize("gain", [1.0, 30.0, 1e4, 1e25])
@pytest.mark.parametrize("scale", SCALES)
def test_any_weights_are_bounded_on_every_pattern(scale: int, gain: float) -> None:
    guard = Guard(random_engine(gain, scale), DEFAULT_FEATURE_LIMIT)
    for _, image in patterns(17, 20):
        assert_bounded(guard(image)[0], image, scale)


def test_overflow_to_nan_falls_back_to_the_bilinear_skip() -> None:
    engine = random_engine(1e25)
    image = picture(16, 16)
    assert not math.isfinite(engine(image)[1])
    guard = Guard(engine, DEFAULT_FEATURE_LIMIT)
    output, acted = guard(image)
    assert acted
    assert torch.equal(output, bilinear_skip(image, 2))
    assert dict(guard.attenuated) == {0.0: 1}


def test_reduced_contrast_is_tried_before_the_bilinear_skip() -> None:
    engine = random_engine(6.0)
    image = to_tensor(Picture(stress_patterns(24, 24)["dither"]))
    magnitude = engine(image)[1]
    calmer, calmer_magnitude = engine(0.5 + 0.35 * (image - 0.5))
    guard = Guard(engine, (magnitude + calmer_magnitude) / 2)
    output, acted = guard(image)
    assert acted
    assert dict(guard.attenuated) == {0.35: 1}
    torch.testing.assert_close(output, 0.5 + (calmer - 0.5) / 0.35)


def test_a_quiet_network_is_returned_bit_by_bit() -> None:
    engine = random_engine(1.0)
    guard = Guard(engine, DEFAULT_FEATURE_LIMIT)
    image = picture(30, 40)
    output, acted = guard(image)
    assert not acted
    assert torch.equal(output, engine(image)[0])


def test_an_infinite_limit_turns_the_guard_off() -> None:
    engine = random_engine(30.0)
    image = picture(16, 16)
    output, acted = Guard(engine, math.inf)(image)
    assert not acted
    assert torch.equal(output, engine(image)[0])
    assert Guard(engine, DEFAULT_FEATURE_LIMIT)(image)[1]


def natural_pictures(scale: int) -> Iterator[Tensor]:
    folders = [mirror_path(f"data/Set5/LR_bicubic/X{scale}")]
    if scale == 4:  # the larger ones of x2 and x3 take a minute
        folders.append(mirror_path("data/Set14/LR_bicubic/X4"))
    for folder in folders:
        for path in sorted(folder.glob("*.png")):
            yield to_tensor(read_image(path))


@pytest.mark.parametrize("scale", SCALES)
def test_official_weights_are_untouched_on_natural_pictures(scale: int) -> None:
    engine = official_engine(scale)
    guard = Guard(engine, DEFAULT_FEATURE_LIMIT)
    for image in natural_pictures(scale):
        output, acted = guard(image)
        assert not acted
        assert torch.equal(output, engine(image)[0])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_official_weights_are_untouched_on_photographs(scale: int, name: str) -> None:
    data = pytest.importorskip("skimage.data")
    pixels = np.ascontiguousarray(getattr(data, name)()[100:220, 100:260])
    guard = Guard(official_engine(scale), DEFAULT_FEATURE_LIMIT)
    assert not guard(to_tensor(Picture(pixels)))[1]


@pytest.mark.parametrize("scale", SCALES)
def test_own_weights_are_bounded_on_patterns_and_untouched_on_photographs(scale: int) -> None:
    network = PAN(PANConfig(scale=scale)).eval()
    limit = load_weights(network, "own").feature_limit
    guard = Guard(open_engine(network, backend="torch", device=CPU), limit)
    for _, image in patterns(33, 48):
        assert_bounded(guard(image)[0], image, scale)
    data = pytest.importorskip("skimage.data")
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        pixels = np.ascontiguousarray(getattr(data, name)()[100:220, 100:260])
        assert not guard(to_tensor(Picture(pixels)))[1], name


def test_the_calibrated_limit_leaves_natural_pictures_alone() -> None:
    torch.manual_seed(0)
    network = PAN(PANConfig(scale=2, blocks=2)).eval()
    images = [picture(32, 40, seed=seed) for seed in range(4)]
    limit = calibrate_limit(network, images)
    engine = open_engine(network, backend="torch", device=CPU)
    magnitudes = [engine(image)[1] for image in images]
    assert limit == pytest.approx(4 * max(magnitudes), rel=1e-5)
    guard = Guard(engine, limit)
    assert not any(guard(image)[1] for image in images)


def test_a_limit_is_calibrated_on_the_middle_of_large_pictures() -> None:
    torch.manual_seed(0)
    network = PAN(PANConfig(scale=2, blocks=1)).eval()
    middle = picture(300, 500)
    framed = torch.nn.functional.pad(middle, (100, 100, 60, 60), value=1e6)
    limits = [calibrate_limit(network, (each for each in [image])) for image in (middle, framed)]
    assert limits[1] == pytest.approx(limits[0], rel=1e-5)
