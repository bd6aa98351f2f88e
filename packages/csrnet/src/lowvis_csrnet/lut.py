"""3D LUTs: a look as a table of colors, applied at full resolution and exchanged as files."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lowvis_shared.errors import DeviceError, InputError, OutputError, UsageError
from lowvis_shared.files import atomic_write, check_output
from lowvis_shared.images import write_image
from numpy.typing import NDArray
from torch import Tensor

from lowvis_csrnet._lut_files import LEVELS, SIZES, hald_picture, read_cube, read_hald, write_cube

HALD_SUFFIXES = (".png", ".tif", ".tiff")
"""The suffixes, in lower case, under which a LUT is a HaldCLUT picture."""

LUT_SUFFIXES = (".cube", *HALD_SUFFIXES)
"""The suffixes, in lower case, of files that hold a LUT."""

MAX_STRENGTH = 1.5
"""The largest strength of `Lut3D.with_strength`."""

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
_TORCH_DTYPES = (torch.uint8, torch.uint16, torch.float32)
_Color = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Lut3D:
    """A table of colors at the nodes of a regular grid over the RGB cube 0..1.

    Between nodes it is interpolated tetrahedrally: exact at nodes, continuous, and gray axes
    depend on the nodes of the diagonal alone.

    Attributes:
        values: (N, N, N, 3) float32, indexed [blue, green, red, channel], finite, N in 2..256.
            Nominally 0..1 and not clamped: what lies outside shapes the colors beside it.
        title: The name that a ``.cube`` file carries.

    Raises:
        InputError: The array has another shape or type, or a value is NaN or infinite.
    """

    values: NDArray[np.float32]
    title: str = ""

    def __post_init__(self) -> None:
        """Check the table and bring it to contiguous float32."""
        values = self.values
        size = values.shape[0] if values.ndim else 0
        if values.shape != (size, size, size, 3) or size not in SIZES:
            raise InputError(f"a LUT needs shape (N, N, N, 3), N in 2..256, not {values.shape}")
        if values.dtype.kind != "f":
            raise InputError(f"a LUT holds float values around 0..1, not {values.dtype}")
        if not np.isfinite(values).all():
            raise InputError("a LUT holds finite values, and some are NaN or infinite")
        object.__setattr__(self, "values", np.require(values, np.float32, ("C", "A")))

    @classmethod
    def identity(cls, size: int) -> "Lut3D":
        """The LUT that changes nothing, with ``size`` nodes on an axis.

        Raises:
            UsageError: The size is not in 2..256.
        """
        return cls(_grid(size), "identity")

    @property
    def size(self) -> int:
        """Nodes on an axis."""
        return self.values.shape[0]

    def apply(
        self, pixels: NDArray[Any], out: NDArray[Any] | None = None, *, threads: int | None = None
    ) -> NDArray[Any]:
        """Send a picture through the LUT.

        Args:
            pixels: RGB, (H, W, 3), uint8, uint16 or float32, in any memory layout. Float samples
                outside 0..1 are clipped before.
            out: Where the result goes, of the same shape and type; ``pixels`` itself is allowed.
                After an error its content is not defined.
            threads: How many threads work, by default as many as torch uses. The result does not
                depend on it.

        Returns:
            ``out``, or a new array of the same type: interpolated, then clipped to the range of
            the type (0..1 for float32) and rounded to the nearest whole number.

        Raises:
            InputError: The shape or type is another one, or a sample is NaN or infinite.
            UsageError: ``out`` does not fit, or ``threads`` is below 1.
        """
        _require_pixels(pixels.shape, pixels.dtype, _DTYPES)
        if out is not None and (out.shape != pixels.shape or out.dtype != pixels.dtype):
            raise UsageError(
                f"out of shape {out.shape} and type {out.dtype} does not fit pixels of shape "
                f"{pixels.shape} and type {pixels.dtype}"
            )
        if out is not None and not out.flags.writeable:
            raise UsageError("out is read-only")
        source = np.require(pixels, requirements=("C", "A"))
        direct = out is not None and out.flags.carray and not _overlaps_in_part(source, out)
        target = out if out is not None and direct else np.empty_like(source)
        self._interpolate(source, target, threads=threads, clip=True)
        if out is None or direct:
            return target
        np.copyto(out, target)
        return out

    def sample(self, colors: NDArray[np.float32], *, threads: int | None = None) -> NDArray[Any]:
        """Interpolate colors and leave the result as it is, outside 0..1 too.

        Args:
            colors: RGB, (..., 3) float32; clipped to 0..1 before.
            threads: As in `apply`.

        Returns:
            A new float32 array of the same shape.

        Raises:
            InputError: The shape or type is another one, or a sample is NaN or infinite.
            UsageError: ``threads`` is below 1.
        """
        if colors.dtype != np.float32 or colors.ndim == 0 or colors.shape[-1] != 3:
            raise InputError(
                f"colors are float32 of shape (..., 3), not {colors.dtype} of {colors.shape}"
            )
        source = np.require(colors, requirements=("C", "A"))
        target = np.empty_like(source)
        self._interpolate(source, target, threads=threads, clip=False)
        return target

    def apply_tensor(self, pixels: Tensor) -> Tensor:
        """Send a picture through the LUT where it is, on the CPU or on a CUDA GPU.

        Args:
            pixels: RGB, (H, W, 3), uint8, uint16 or float32.

        Returns:
            A new tensor, as `apply` gives it.

        Raises:
            InputError: The shape or type is another one, or a sample is NaN or infinite.
            DeviceError: The device is of another kind, or Triton is not installed.
        """
        if pixels.device.type == "cpu":
            return torch.from_numpy(self.apply(pixels.detach().numpy()))
        if pixels.device.type != "cuda":
            raise DeviceError(
                f"a LUT runs on cpu or cuda, not on {pixels.device.type}",
                hint="move the picture to the CPU first",
            )
        _require_pixels(tuple(pixels.shape), pixels.dtype, _TORCH_DTYPES)
        if pixels.is_floating_point() and not bool(torch.isfinite(pixels).all()):
            raise InputError("the picture holds NaN or infinite samples")
        try:
            from lowvis_csrnet._tetrahedral_triton import apply_triton
        except ImportError as error:
            raise DeviceError(
                "a LUT on a GPU needs Triton, which is not installed",
                hint="install triton, or move the picture to the CPU first",
            ) from error
        return apply_triton(pixels, torch.from_numpy(self.values).to(pixels.device))

    def with_strength(self, strength: float) -> "Lut3D":
        """Mix with the identity: 0 changes nothing, 1 is this LUT, more exaggerates it.

        Raises:
            UsageError: The strength is not in 0..1.5.
        """
        if not 0 <= strength <= MAX_STRENGTH:
            raise UsageError(f"the strength is 0 to {MAX_STRENGTH}, not {strength}")
        identity = _grid(self.size).astype(np.float64)
        return replace(self, values=(1 - strength) * identity + strength * self.values)

    @classmethod
    def blend(cls, luts: Sequence["Lut3D"], weights: Sequence[float]) -> "Lut3D":
        """Mix several looks; smaller LUTs are resampled to the size of the largest.

        Args:
            luts: At least one.
            weights: One for each; negative ones are allowed. They sum to 1; up to 0.02, which
                rounded decimals leave, is scaled away.

        Raises:
            UsageError: The numbers do not match, or the weights do not sum to 1.
        """
        if not luts or len(luts) != len(weights):
            raise UsageError(f"{len(luts)} LUTs and {len(weights)} weights do not make a blend")
        total = sum(weights)
        if not abs(total - 1) <= 0.02:
            raise UsageError(
                f"the weights of a blend sum to 1, not {total:g}",
                hint="use with_strength to make a look weaker or stronger",
            )
        size = max(lut.size for lut in luts)
        values = np.zeros((size, size, size, 3))
        titles = dict.fromkeys(lut.title for lut in luts if lut.title)
        for lut, weight in zip(luts, weights, strict=True):
            values += weight / total * lut.resized(size).values
        return cls(values.astype(np.float32), " + ".join(titles))

    def resized(self, size: int) -> "Lut3D":
        """The LUT on a grid of another size, interpolated tetrahedrally.

        Exact for more nodes when ``size - 1`` is a multiple of this size minus one.

        Raises:
            UsageError: The size is not in 2..256.
        """
        return self if size == self.size else replace(self, values=self.sample(_grid(size)))

    def clamped(self) -> "Lut3D":
        """The LUT with all values clipped to 0..1, for programs that do so anyway."""
        return replace(self, values=np.clip(self.values, 0, 1))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        clamp: bool = False,
        bit_depth: Literal[8, 16] = 16,
        level: int | None = None,
    ) -> None:
        """Write the LUT, whole or not at all, in the format that the suffix names.

        ``.cube`` is text with six decimals. ``.png``, ``.tif`` and ``.tiff`` are a HaldCLUT, whose
        grid has level^2 nodes on an axis, to which the LUT is resampled, and whose values are
        clamped.

        Args:
            path: The file; its folder is created when it is missing.
            overwrite: Replace an existing file.
            clamp: Clip the values of a ``.cube`` file to 0..1.
            bit_depth: Of a HaldCLUT.
            level: Of a HaldCLUT, 2 to 16; by default the first whose grid is no coarser.

        Raises:
            OutputError: The suffix is another one, the file exists, or it cannot be written.
            UsageError: The bit depth or level is not one of those named.
        """
        check_lut_writable(path, overwrite=overwrite)
        if _suffix(path) == ".cube":
            values = self.clamped().values if clamp else self.values
            atomic_write(
                path, lambda file: write_cube(file, values, self.title), overwrite=overwrite
            )
            return
        if bit_depth not in (8, 16):
            raise UsageError(f"a HaldCLUT has 8 or 16 bits, not {bit_depth}")
        level = math.isqrt(hald_size(self.size)) if level is None else level
        if level not in LEVELS:
            raise UsageError(f"the level of a HaldCLUT is 2 to 16, not {level}")
        picture = hald_picture(self.resized(level**2).values, bit_depth)
        write_image(picture, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Lut3D":
        """Read a ``.cube`` file with a 3D LUT, or a HaldCLUT picture (PNG or TIFF).

        A ``.cube`` file for another domain than 0..1 is resampled to 0..1, with nodes at least as
        close as its own up to 256 of them: what it says of colors outside is dropped, and colors
        outside its domain take the nearest inside. Values are taken as they are, whatever color
        profile a picture has.

        Raises:
            InputError: The file is missing, damaged, of another kind or size; the message says in
                which line.
        """
        suffix = _suffix(path)
        if suffix in HALD_SUFFIXES:
            return cls(read_hald(path), Path(path).stem)
        if suffix != ".cube":
            raise InputError(
                f"{path}: the suffix '{suffix}' is not that of a LUT",
                hint=f"one of {', '.join(LUT_SUFFIXES)} is wanted",
            )
        cube = read_cube(path)
        lut = cls(cube.values, cube.title)
        if (cube.low, cube.high) == ((0, 0, 0), (1, 1, 1)):
            return lut
        narrowest = min(last - first for first, last in zip(cube.low, cube.high, strict=True))
        size = min(SIZES[-1], max(lut.size, math.ceil((lut.size - 1) / narrowest) + 1))
        return replace(lut, values=lut.sample(_grid(size, cube.low, cube.high)))

    def _interpolate(
        self, source: NDArray[Any], target: NDArray[Any], *, threads: int | None, clip: bool
    ) -> None:
        threads = torch.get_num_threads() if threads is None else threads
        if threads < 1:
            raise UsageError(f"at least one thread is needed, not {threads}")
        from lowvis_csrnet._tetrahedral import interpolate

        bad = interpolate(source, self.values, target, threads=threads, clip=clip)
        if bad:
            raise InputError(f"{bad} of {source.size // 3} pixels hold NaN or infinite samples")


def hald_size(size: int) -> int:
    """Return the nodes on an axis of the first HaldCLUT that is no coarser: a square, 4 to 256."""
    check_size(size)
    return next(level**2 for level in LEVELS if level**2 >= size)


def check_size(size: int) -> None:
    """Refuse a number of nodes on an axis that there is not; raises `UsageError`."""
    if size not in SIZES:
        raise UsageError(f"a LUT has 2 to 256 nodes on an axis, not {size}")


def check_lut_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuse an output that `Lut3D.save` would refuse, before any work is done.

    Raises:
        OutputError: The suffix is not that of a LUT, or the file exists or cannot be written.
    """
    suffix = _suffix(path)
    if suffix not in LUT_SUFFIXES:
        named = f"the suffix '{suffix}' is not that of a LUT" if suffix else "no suffix"
        raise OutputError(f"{path}: {named}", hint=f"use one of {', '.join(LUT_SUFFIXES)}")
    check_output(path, overwrite=overwrite)


def _grid(
    size: int, low: _Color = (0.0, 0.0, 0.0), high: _Color = (1.0, 1.0, 1.0)
) -> NDArray[np.float32]:
    """The (N, N, N, 3) nodes of 0..1, as positions in the domain from ``low`` to ``high``."""
    check_size(size)
    axis = np.linspace(0, 1, size)
    red, green, blue = ((axis - a) / (b - a) for a, b in zip(low, high, strict=True))
    grid = np.empty((size, size, size, 3), np.float32)
    grid[..., 0] = red
    grid[..., 1] = green[:, None]
    grid[..., 2] = blue[:, None, None]
    return grid


def _require_pixels(shape: tuple[int, ...], dtype: object, dtypes: tuple[object, ...]) -> None:
    if len(shape) != 3 or shape[2] != 3:
        raise InputError(f"a picture needs shape (H, W, 3), not {shape}")
    if dtype not in dtypes:
        raise InputError(f"a picture holds uint8, uint16 or float32 samples, not {dtype}")


def _overlaps_in_part(source: NDArray[Any], out: NDArray[Any]) -> bool:
    """Whether two contiguous arrays of one size share memory without being the same memory."""
    return np.may_share_memory(source, out) and source.ctypes.data != out.ctypes.data


def _suffix(path: str | os.PathLike[str]) -> str:
    return Path(path).suffix.lower()
