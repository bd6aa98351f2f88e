"""Picture in, picture out: the only place with pre- and post-processing around the network."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from lowvis_shared.canvas import Canvas
from lowvis_shared.device import Precision, choose_device, choose_precision
from lowvis_shared.errors import InputError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.resize import imresize_tensor
from lowvis_shared.tiling import plan_tiles, stream_tiled
from numpy.typing import NDArray
from torch import Tensor

from lowvis_pan.fast import Backend, open_engine
from lowvis_pan.guard import Guard
from lowvis_pan.model import PAN, PANConfig
from lowvis_pan.weights import load_weights

logger = logging.getLogger("lowvis")

Progress = Callable[[int, int], None]
"""Called after each tile with the input pixels done and their total."""

_CPU_BUDGET = 2**30
"""Bytes that the network may take for one tile on a CPU."""

_GPU_SHARE = 0.5
"""Share of a GPU's free memory that the network may take for one tile."""

_BYTES_PER_PIXEL = {2: 2200, 3: 3600, 4: 6400}
"""Bytes that one input pixel takes at each scale in float32, measured.

In 16 bits it takes half of it; ONNX Runtime, which is slower to let go, takes twice.
"""

_LARGEST_MAP = 2**31 - 1
"""Most elements of a feature map on a GPU, whose kernels count in 32 bits."""


_BACK_PROJECTION_REACH = 5
"""Input pixels on each side that a back-projection step looks at: two bicubic kernels."""


@dataclass(frozen=True, slots=True)
class Report:
    """What happened while a picture was upscaled.

    Attributes:
        engine: What computed it, such as ``openvino bf16``.
        tiles: Number of tiles.
        attenuated: Tiles on which the guard stepped in.
    """

    engine: str
    tiles: int
    attenuated: int


class Upscaler:
    """Upscales pictures with PAN; opening one takes a moment, so keep it for many pictures.

    Args:
        scale: 2, 3 or 4.
        weights: ``own``, ``official`` or the path of a file.
        backend: What computes: ``torch``, ``openvino``, ``onnx``, or the best one installed.
        device: Name of the device, as ``choose_device`` takes it.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: what the hardware gains by, but
            float32 for pictures of more than 8 bits.
        tile: Largest side of a tile in input pixels, 0 for the whole picture at once, or ``auto``:
            from the memory at hand. Tiles give what the whole picture gives.
        guard: Rerun tiles on which the network becomes unstable (noise, dither, patterns of one
            pixel) with the contrast reduced. Natural pictures are not touched.
        self_ensemble: Average the results of all eight flips and rotations: eight times slower and
            slightly better.
        back_projection: Correct the result once so that, brought down, it is closer to the input.

    Raises:
        UsageError: There is no such scale, or the tile is too small.
        WeightsError: The weights are missing, damaged, or of another network.
        DeviceError: There is no such device, or it does not know the precision.
        MissingExtraError: The backend is not installed.
    """

    def __init__(
        self,
        scale: int = 4,
        *,
        weights: str | Path = "own",
        backend: Backend = "auto",
        device: str = "auto",
        precision: Precision = "auto",
        tile: int | Literal["auto"] = "auto",
        guard: bool = True,
        self_ensemble: bool = False,
        back_projection: bool = False,
    ) -> None:
        self.network = PAN(PANConfig(scale=scale))
        self.scale = scale
        self.tile = None if tile == "auto" else tile
        self.halo = self.network.receptive_radius
        if back_projection:
            self.halo += _BACK_PROJECTION_REACH
        if self.tile is not None:
            plan_tiles(1, 1, halo=self.halo, tile=self.tile)  # refuses a tile that is too small
        self.device = choose_device(device)
        self.precision: Precision = precision
        self.backend: Backend = backend
        self.guard = guard
        self.self_ensemble = self_ensemble
        self.back_projection = back_projection
        self.weights = load_weights(self.network, weights)
        self.network.eval()
        self._guards: dict[torch.dtype, Guard] = {}
        self._engine(self._choose_dtype())  # what is missing is said now

    @overload
    def __call__(self, image: Picture, *, progress: Progress | None = None) -> Picture: ...
    @overload
    def __call__(
        self, image: NDArray[Any], *, progress: Progress | None = None
    ) -> NDArray[Any]: ...
    def __call__(
        self, image: Picture | NDArray[Any], *, progress: Progress | None = None
    ) -> Picture | NDArray[Any]:
        """Upscale a picture.

        Args:
            image: A ``Picture``, or an RGB array (H, W, 3) of uint8, uint16, or float32 in 0..1.
                Float values outside 0..1 are clipped: the network was never shown any, and loses
                decibels on them.
            progress: Called after each tile.

        Returns:
            The same kind, (H*scale, W*scale): bit depth, color profile and metadata stay, gray
            stays gray, and alpha is upscaled apart by bicubic interpolation.

        Raises:
            InputError: The picture is of another kind, the result would not fit into memory, or
                the network gives values that are not finite.
            DeviceError: Not even the smallest tile fits into memory.
        """
        if isinstance(image, Picture):
            return self.run(image, progress=progress)[0]
        if image.dtype.kind == "f" and not 0 <= image.min() <= image.max() <= 1:
            logger.warning("values outside 0..1 are clipped")  # files: said where they are read
        return self.run(Picture(image), progress=progress)[0].pixels

    def run(self, picture: Picture, *, progress: Progress | None = None) -> tuple[Picture, Report]:
        """Upscale a picture as a call does, and return with it what happened."""
        canvas = Canvas(picture, self.scale)
        dtype = self._choose_dtype(picture.bit_depth)
        counts = {"tiles": 0, "attenuated": 0}

        def run_tile(window: Tensor) -> Tensor:
            result, attenuated = self._run_tile(window, dtype)
            counts["tiles"] += 1
            counts["attenuated"] += attenuated
            return result

        stream_tiled(
            run_tile,
            to_tensor(picture),
            canvas.write,
            scale=self.scale,
            tile=self.tile,
            halo=self.halo,
            max_pixels=self._tile_pixels(dtype) if self.tile is None else None,
            progress=progress,
        )
        if counts["attenuated"]:
            logger.warning(
                "the network is unstable on %d of %d tiles (noise, dither or patterns of one "
                "pixel); they were upscaled with reduced contrast",
                counts["attenuated"],
                counts["tiles"],
            )
        report = Report(self._engine(dtype).engine.name, counts["tiles"], counts["attenuated"])
        return canvas.picture(), report

    def _run_tile(self, window: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
        """Return the result (1, 3, H*scale, W*scale) and whether the guard stepped in."""
        total: Tensor | None = None
        attenuated = False
        turns = 8 if self.self_ensemble else 1
        for turn in range(turns):
            result, acted = self._run_network(_turned(window, turn), dtype)
            attenuated = attenuated or acted
            result = _turned_back(result, turn)
            total = result if total is None else total + result
        if total is None:  # there is at least one turn
            raise RuntimeError("no turn was run")
        output = total / turns if turns > 1 else total
        if self.back_projection:
            window = window.to(output.device)
            missing = window - imresize_tensor(output, scale=1 / self.scale)
            output = output + imresize_tensor(missing, scale=self.scale)
        return output, attenuated

    def _run_network(self, window: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
        result, acted = self._engine(dtype)(window)
        if not bool(torch.isfinite(result).all()) and dtype != torch.float32:
            logger.info("values that are not finite in %s; this tile is run in float32", dtype)
            result, acted = self._engine(torch.float32)(window)
        if not bool(torch.isfinite(result).all()):
            raise InputError(
                "the network gives values that are not finite on this picture",
                hint="leave the guard on, or check the weights" if not self.guard else None,
            )
        return result, acted

    def _choose_dtype(self, bit_depth: int = 8) -> torch.dtype:
        if self.backend == "onnx" and self.precision == "auto":
            return torch.float32  # the only one it has
        return choose_precision(self.precision, self.device, bit_depth=bit_depth)

    def _engine(self, dtype: torch.dtype) -> Guard:
        """Return the engine of a precision, opened when it is first needed."""
        if dtype not in self._guards:
            engine = open_engine(
                self.network, backend=self.backend, device=self.device, dtype=dtype
            )
            limit = self.weights.feature_limit if self.guard else float("inf")
            self._guards[dtype] = Guard(engine, limit)
        return self._guards[dtype]

    def _tile_pixels(self, dtype: torch.dtype) -> int:
        """Return how many input pixels of one tile fit into the memory at hand."""
        each = _BYTES_PER_PIXEL[self.scale] * dtype.itemsize // 4
        if self._engine(dtype).engine.name.startswith("onnx"):
            each = 2 * _BYTES_PER_PIXEL[self.scale]
        budget = _CPU_BUDGET
        if self.device.type == "cuda":
            # What torch keeps of memory that is freed is not free to the driver, but to torch.
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(
                self.device
            )
            free = torch.cuda.mem_get_info(self.device)[0] + kept
            channels = self.network.config.reconstruction_channels
            largest = _LARGEST_MAP // (channels * self.scale**2)
            budget = min(int(free * _GPU_SHARE), largest * each)
        return max(budget // each, (4 * self.halo) ** 2)


def upscale(
    image: Picture | NDArray[Any],
    *,
    scale: int = 4,
    weights: str | Path = "own",
    device: str = "auto",
) -> Picture | NDArray[Any]:
    """Upscale one picture; for many, keep an ``Upscaler``, whose arguments and errors these are."""
    return Upscaler(scale, weights=weights, device=device)(image)


def _turned(image: Tensor, turn: int) -> Tensor:
    """Return one of the eight flips and rotations of a square: bit 2 mirrors, bits 0, 1 rotate."""
    if turn & 4:
        image = image.flip(3)
    return torch.rot90(image, turn & 3, (2, 3)).contiguous()


def _turned_back(image: Tensor, turn: int) -> Tensor:
    image = torch.rot90(image, -(turn & 3), (2, 3))
    return image.flip(3) if turn & 4 else image
