"""Input spaces are the specification's, and pictures are reduced without changing the look."""

from typing import Any

import numpy as np
import pytest
import torch
from lowvis_csrnet.model import CSRNet
from lowvis_csrnet.spaces import (
    CONDITION_SIDE,
    check_input_space,
    expose,
    from_linear,
    reduced,
    to_input_space,
    to_linear,
)
from lowvis_shared.errors import UsageError
from lowvis_shared.reproduce import recipe_weights
from lowvis_shared.testing.pictures import noise, photo
from numpy.typing import NDArray

# The product M of section 3.2 of the specification, as printed there.
SRGB_TO_PROPHOTO = torch.tensor(
    [
        [0.52934582, 0.33007279, 0.14058125],
        [0.09837436, 0.87346104, 0.02816469],
        [0.01688319, 0.11767247, 0.86544430],
    ],
    dtype=torch.float64,
)


def colors(count: int = 500) -> torch.Tensor:
    return torch.rand(3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_srgb_curve_has_an_inverse() -> None:
    codes = torch.linspace(-0.5, 1.5, 2001, dtype=torch.float64)
    torch.testing.assert_close(from_linear(to_linear(codes)), codes, rtol=0, atol=1e-7)
    light = to_linear(torch.tensor([0.0, 0.04045, 0.5, 1.0, -0.5], dtype=torch.float64))
    expected = [0.0, 0.04045 / 12.92, 0.21404114, 1.0, -0.21404114]
    assert light.tolist() == pytest.approx(expected, abs=1e-8)


def test_conversion_is_the_specifications() -> None:
    codes = colors()
    light = SRGB_TO_PROPHOTO @ to_linear(codes)
    expected = (0.35 * light).clamp(0, 1) ** (1 / 1.8)
    seen = to_input_space(codes, "prophoto-1.8")
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen.double(), expected, rtol=0, atol=1e-7)


def test_largest_network_input_is_that_of_white() -> None:
    white = to_input_space(torch.ones(3, 1), "prophoto-1.8")
    assert white.flatten().tolist() == pytest.approx([0.5581] * 3, abs=5e-5)
    assert float(to_input_space(colors(), "prophoto-1.8").max()) <= float(white.max())


@pytest.mark.parametrize("stops", [-2.0, -0.5, 1.0])
def test_exposure_multiplies_the_light_the_network_sees(stops: float) -> None:
    plain = to_input_space(colors(), "prophoto-1.8").double() ** 1.8
    shifted = to_input_space(colors(), "prophoto-1.8", exposure=stops).double() ** 1.8
    torch.testing.assert_close(shifted, plain * 2**stops, rtol=0, atol=1e-6)


def test_srgb_passes_through_and_ignores_exposure() -> None:
    codes = colors().float()
    assert torch.equal(to_input_space(codes, "srgb", exposure=2.0), codes)
    assert to_input_space(codes.double(), "srgb").dtype == torch.float32


def test_expose_works_on_light() -> None:
    codes = colors()
    assert expose(codes, 0.0) is codes
    torch.testing.assert_close(to_linear(expose(codes, 1.0)), to_linear(codes) * 2)
    torch.testing.assert_close(expose(expose(codes, 1.5), -1.5), codes, rtol=0, atol=1e-6)


def test_unknown_input_space_is_refused() -> None:
    assert check_input_space("prophoto-1.8") == "prophoto-1.8"
    with pytest.raises(UsageError, match=r"raw.*srgb, prophoto-1\.8"):
        check_input_space("raw")


# --- reduction ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (60, 80), (500, 333), (20, 500)])
def test_reduced_never_enlarges(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    assert reduced(pixels) is pixels


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((300, 200), 100, (100, 67)),
        ((200, 300), 100, (67, 100)),
        ((101, 100), 100, (100, 99)),
        ((1, 900), 90, (1, 90)),
        ((1200, 2), CONDITION_SIDE, (500, 1)),
    ],
    ids=str,
)
def test_reduced_keeps_the_aspect(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    assert reduced(noise(*size), side).shape == (*expected, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_reduced_averages_at_any_depth(dtype: Any) -> None:
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    pixels: NDArray[Any] = (photo(120, 180).astype(np.float64) / 255 * full).astype(dtype)
    small = reduced(pixels, 60)
    assert small.dtype == dtype
    assert small.shape == (40, 60, 3)
    blocks = pixels.astype(np.float64).reshape(40, 3, 60, 3, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).max() <= (1e-6 if dtype == np.float32 else 0.51)
    odd = reduced(pixels, 77)
    np.testing.assert_allclose(odd.mean((0, 1)), pixels.mean((0, 1)), atol=0.003 * full)


@torch.inference_mode()
def test_a_photograph_of_any_size_gives_nearly_the_same_condition() -> None:
    network = CSRNet()
    network.load_state_dict(recipe_weights(network))

    def condition(pixels: NDArray[np.uint8], side: int) -> torch.Tensor:
        small = reduced(pixels, side).astype(np.float32) / 255
        return network.condition(torch.from_numpy(small).permute(2, 0, 1)[None])

    large = photo(1200, 1600)
    sizes = [large, reduced(large, 1000), reduced(large, 640), reduced(large, 500)]
    through = [condition(pixels, CONDITION_SIDE) for pixels in sizes]
    as_they_are = [condition(pixels, 1600) for pixels in sizes]
    spread = max(float((each - through[-1]).abs().max()) for each in through)
    unreduced = max(float((each - as_they_are[-1]).abs().max()) for each in as_they_are)
    assert spread < 0.02 * float(through[-1].abs().max())
    assert unreduced > 3 * spread
