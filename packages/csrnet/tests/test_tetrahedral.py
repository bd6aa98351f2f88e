"""The interpolation itself: exact, the same on any number of threads, with or without a cache."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_csrnet.lut import Lut3D
from lowvis_shared.testing import mirror_path
from numpy.typing import NDArray
from safetensors.numpy import load_file

DTYPES = (np.uint8, np.uint16, np.float32)
FULL = {np.uint8: 255, np.uint16: 65535, np.float32: 1}


def reference(values: NDArray[Any], colors: NDArray[Any]) -> NDArray[np.float64]:
    """The definition, word by word, in float64: (..., 3) colors in 0..1."""
    size = values.shape[0]
    position = colors.reshape(-1, 3).astype(np.float64) * (size - 1)
    cell = np.minimum(np.floor(position), size - 2).astype(int)
    fraction = position - cell
    order = np.argsort(-fraction, axis=1, kind="stable")
    falling = np.take_along_axis(fraction, order, axis=1)
    weights = -np.diff(falling, axis=1, prepend=1, append=0)
    corner, result = cell.copy(), np.zeros_like(position)
    for step in range(4):
        red, green, blue = corner.T
        result += weights[:, step : step + 1] * values[blue, green, red].astype(np.float64)
        if step < 3:
            corner[np.arange(len(corner)), order[:, step]] += 1
    return result.reshape(colors.shape)


def random_lut(size: int, seed: int = 0) -> Lut3D:
    """A LUT without any smoothness, and a fifth of it outside 0..1."""
    random = np.random.default_rng(seed)
    return Lut3D(random.uniform(-0.1, 1.1, (size, size, size, 3)).astype(np.float32))


def random_pixels(height: int, width: int, dtype: Any, seed: int = 0) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    if dtype == np.float32:
        return random.random((height, width, 3), np.float32)
    return random.integers(0, FULL[dtype] + 1, (height, width, 3)).astype(dtype)


def test_the_golden_picture() -> None:
    golden = load_file(mirror_path("golden/csrnet/csrnet_prophoto_protocol.safetensors"))
    lut = Lut3D(golden["lut17"])
    sampled = lut.sample(golden["srgb"])
    np.testing.assert_allclose(sampled, golden["lut17_tetrahedral"], rtol=0, atol=1e-6)
    codes = np.rint(golden["srgb"] * 255).astype(np.uint8)
    exact = np.clip(golden["lut17_tetrahedral"].astype(np.float64), 0, 1) * 255
    assert np.abs(lut.apply(codes) - exact).max() < 0.5001


@pytest.mark.parametrize("size", [2, 3, 17, 33, 36])
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_numbers_are_the_float64_reference_rounded(size: int, dtype: Any) -> None:
    lut, pixels = random_lut(size), random_pixels(64, 1024, dtype)
    full = FULL[dtype]
    exact = np.clip(reference(lut.values, pixels / np.float64(full)), 0, 1) * full
    got = lut.apply(pixels)
    assert got.dtype == dtype
    if dtype == np.float32:
        # The position itself has float32 precision, times the steepest slope of this LUT.
        np.testing.assert_allclose(got, exact, rtol=0, atol=4e-7 * size)
    else:
        unlike = got != np.rint(exact)
        tie = np.abs(exact % 1 - 0.5)
        assert not (unlike & (tie > 1e-4 * full / 255)).any()


def test_all_grays_and_all_edges_of_the_cube() -> None:
    codes = np.arange(256, dtype=np.uint8)
    gray = np.repeat(codes, 3).reshape(1, 256, 3)
    edges = np.zeros((9, 256, 3), np.uint8)
    for row, (axis, others) in enumerate((a, o) for a in range(3) for o in (0, 128, 255)):
        edges[row] = others
        edges[row, :, axis] = codes
    for size in (2, 16, 18, 33, 52, 86, 256):
        lut = random_lut(size)
        for pixels in (gray, edges):
            exact = np.clip(reference(lut.values, pixels / 255.0), 0, 1) * 255
            assert np.abs(lut.apply(pixels) - exact).max() < 0.5001


@pytest.mark.parametrize("size", [2, 17, 33, 64, 256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_identity_changes_nothing(size: int, dtype: Any) -> None:
    pixels = random_pixels(64, 1024, dtype)
    if dtype != np.float32:
        pixels[0, :256] = np.arange(256)[:, None] * (FULL[dtype] // 255)
    got = Lut3D.identity(size).apply(pixels)
    if dtype == np.float32:
        np.testing.assert_allclose(got, pixels, rtol=0, atol=2e-7)
    else:
        np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("size", [2, 17, 33, 65])
def test_nodes_give_their_own_values(size: int) -> None:
    lut = random_lut(size)
    nodes = Lut3D.identity(size).values
    np.testing.assert_array_equal(lut.sample(nodes), lut.values)


def test_grays_use_the_diagonal_alone() -> None:
    size = 17
    values = np.full((size, size, size, 3), 1e6, np.float32)
    diagonal = np.random.default_rng(1).random((size, 3)).astype(np.float32)
    values[np.arange(size), np.arange(size), np.arange(size)] = diagonal
    x = np.linspace(0, 1, 1001, dtype=np.float32)
    got = Lut3D(values).sample(np.stack([x, x, x], axis=-1))
    for channel in range(3):
        expected = np.interp(x, np.linspace(0, 1, size), diagonal[:, channel])
        np.testing.assert_allclose(got[:, channel], expected, rtol=0, atol=2e-6)


def test_a_smooth_16_bit_gradient_shows_no_bands() -> None:
    grid = Lut3D.identity(33).values.astype(np.float64)
    lut = Lut3D((0.05 + 0.5 * grid + 0.4 * grid**1.5).astype(np.float32))
    ramp = np.arange(65536, dtype=np.int64)
    # A line through the cube on which the three axes cross their cells at different places.
    line = np.stack([ramp, 65535 - ramp, np.minimum(ramp + 700, 65535)], axis=-1)
    steps = np.diff(lut.apply(line.astype(np.uint16)[None])[0].astype(int), axis=0)
    slopes = np.diff(lut.values[0, 0, :, 0].astype(np.float64)) * 32
    assert slopes.min() > 0.5
    for rising in (steps[:, 0], -steps[:, 1], steps[: 65535 - 700, 2]):
        assert rising.min() >= 0
        assert rising.max() <= np.ceil(slopes.max())
        # Nor does it stand still: two codes further it is brighter, whatever the rounding.
        assert (rising[1:] + rising[:-1]).min() >= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_continuous_where_the_order_of_the_fractions_changes(dtype: Any) -> None:
    lut = random_lut(9)
    random = np.random.default_rng(3)
    colors = random.random((4096, 3), np.float32)
    colors[:, 1] = colors[:, 0]  # On the face between two tetrahedra.
    near = colors.copy()
    near[:, 1] = np.clip(near[:, 1] + random.choice([-1e-5, 1e-5], 4096), 0, 1)
    steepest = 8 * np.sqrt(3) * 1.2
    assert np.abs(lut.sample(near) - lut.sample(colors)).max() <= 1e-5 * steepest + 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(dtype: Any) -> None:
    pixels, lut = random_pixels(701, 803, dtype), random_lut(33)
    one = lut.apply(pixels, threads=1)
    for threads in (2, 3, 8):
        np.testing.assert_array_equal(lut.apply(pixels, threads=threads), one)
    # Nor does the place of a pixel in the picture.
    np.testing.assert_array_equal(lut.apply(pixels[400:]), one[400:])
    np.testing.assert_array_equal(lut.apply(pixels[:, ::-1])[:, ::-1], one)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(2, 20),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["plain", "transposed", "mirrored", "planes", "strided", "fortran"]),
)
def test_any_size_and_memory_layout(
    height: int, width: int, size: int, dtype: Any, layout: str
) -> None:
    plain = random_pixels(height, width, dtype, seed=height * 41 + width)
    pixels = {
        "plain": lambda: plain,
        "transposed": lambda: np.ascontiguousarray(plain.swapaxes(0, 1)).swapaxes(0, 1),
        "mirrored": lambda: np.ascontiguousarray(plain[::-1, :, ::-1])[::-1, :, ::-1],
        "planes": lambda: np.ascontiguousarray(plain.transpose(2, 0, 1)).transpose(1, 2, 0),
        "strided": lambda: np.repeat(np.repeat(plain, 2, 0), 3, 1)[::2, ::3],
        "fortran": lambda: np.asfortranarray(plain),
    }[layout]()
    lut = random_lut(size, seed=size)
    expected = lut.apply(plain)
    before = pixels.copy()
    np.testing.assert_array_equal(lut.apply(pixels), expected)
    np.testing.assert_array_equal(pixels, before)
    # The result may go anywhere, into the picture itself too.
    assert lut.apply(pixels, out=pixels) is pixels
    np.testing.assert_array_equal(pixels, expected)


PICTURE = """
import logging, sys
import numpy as np
from lowvis_csrnet.lut import Lut3D
assert "numba" not in sys.modules, "numba is imported before it is needed"
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
logging.getLogger("numba").setLevel(logging.WARNING)
{before}
pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
assert (Lut3D.identity(17).apply(pixels) == pixels).all()
"""


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_works_where_no_folder_for_compiled_code_is_writable() -> None:
    done = run_python(
        PICTURE.format(before=""),
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
        NUMBA_CACHE_DIR="",
    )
    assert done.returncode == 0, done.stderr
    assert "compiled code is not kept" in done.stderr


def test_it_works_where_the_disk_for_compiled_code_is_full(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits on file size are a Unix thing")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    done = run_python(PICTURE.format(before=limit), NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "compiled code could not be kept" in done.stderr


TRITON = """
import numpy as np, torch
from lowvis_csrnet._tetrahedral_triton import apply_triton
from lowvis_csrnet.lut import Lut3D
random = np.random.default_rng(0)
for size in (2, 17, 33):
    lut = Lut3D(random.uniform(-0.1, 1.1, (size, size, size, 3)).astype(np.float32))
    for dtype, full in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        pixels = (random.uniform(-0.1, 1.1, (37, 53, 3)).clip(0, 1) * full).astype(dtype)
        if full == 1:
            pixels[0, 0] = (-0.5, 0.5, 1.5)
        # A transposed picture, so that a layout other than the plain one is seen.
        tensor = torch.from_numpy(pixels.swapaxes(0, 1).copy()).transpose(0, 1)
        got = apply_triton(tensor, torch.from_numpy(lut.values)).numpy()
        expected = lut.apply(pixels)
        assert got.dtype == dtype
        difference = np.abs(got.astype(np.float64) - expected)
        if full == 1:
            assert difference.max() < 2e-5, difference.max()
        else:
            # Rounding may differ where a result lies between two codes.
            assert difference.max() <= 1, difference.max()
            assert (difference > 0).mean() < 0.01, (difference > 0).mean()
assert apply_triton(torch.empty(0, 4, 3), torch.from_numpy(lut.values)).shape == (0, 4, 3)
"""


def test_the_kernel_for_gpus_gives_the_same_under_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    done = run_python(TRITON, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
