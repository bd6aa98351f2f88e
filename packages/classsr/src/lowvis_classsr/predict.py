"""Picture in, picture out: the only place with pre- and post-processing around the network."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from lowvis_shared.canvas import Canvas
from lowvis_shared.device import (
    PRECISION_NAMES,
    Precision,
    choose_device,
    choose_precision,
    exact_float32,
)
from lowvis_shared.errors import DeviceError, InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, to_tensor
from lowvis_shared.tiling import Tile, plan_tiles, stream_tiled, within_memory
from numpy.typing import NDArray
from torch import Tensor

from lowvis_classsr.branches import NO_MARGINS, Margins
from lowvis_classsr.cost import branch_costs, classifier_cost, window_costs
from lowvis_classsr.fast import FastBranch
from lowvis_classsr.model import BLOCK, PATCH
from lowvis_classsr.router import (
    Layout,
    Logits,
    Route,
    check_largest,
    classifier_logits,
    edge_logits,
    plan_routes,
)
from lowvis_classsr.weights import Loaded, open_weights

logger = logging.getLogger("lowvis")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Progress = Callable[[int, int], None]
"""Called with the input pixels done and their total."""

Router = Literal["classifier", "edges"]
"""Who judges the cells: the Class-Module, or the strength of edges (a baseline)."""

Way = Literal["auto", "routed", "whole"]
"""Cell by cell, or the original network everywhere; ``auto`` is what is measured to be faster."""

HALO = 4
"""Pixels of true context around a routed tile, of which layers near the output compute less.

The networks look further (7, 21, 35 pixels and, in RCAN, everywhere), but hardly weigh what is
there: with 4 pixels a tenth of a percent of the values moves by more than a step of 8 bits.
"""

_EVERY = 2
"""Of so many blocks of 4x4 pixels, in each direction, one votes on the class of a cell.

The Class-Module has 15 % of the multiplications of FSRCNN, with a quarter of the blocks 4 %.
"""

_WHOLE_HALO = 12
"""Most pixels of context around a tile of a picture that the original network upscales alone.

What is further away moves no value by a hundredth of a step of 8 bits.
"""

_LARGEST = {"cpu": 128, "cuda": 256}
"""Largest side of a routed tile in pixels, when nothing else is asked for: see `_BATCH_PIXELS`."""

_BATCH_PIXELS = {"cpu": 8_192, "cuda": 262_144}
"""Input pixels of one call of a branch: what fits into a processor's cache, or fills a GPU."""

_WHOLE_PIXELS = 131_072
"""Input pixels of one tile when the original network upscales the whole picture."""

_WORTH_MEASURING = 20_000
"""Input pixels from which on it is measured whether routing or half precision gains time."""

_WORTH_ROUTING = 0.85
"""Most of the original network's time that routing, which costs quality, may take."""

_PROBE = 72
"""Side of the windows on which that is measured."""


@dataclass(frozen=True, slots=True)
class Report:
    """What happened while a picture was upscaled.

    Attributes:
        path: ``routed``, or ``whole``: the original network everywhere.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        shares: Share of the picture that each branch upscaled, simple to hard.
        macs: Multiply-accumulates, context and judging included.
        full_macs: Those of the original network on the whole picture.
        branch_share: The mean cost of a pixel in its branch over that in the widest, context and
            judging left out.
        paper_share: The same as the paper counts transposed convolutions: its figure.
        seconds: Time of it all.
        routes: Which branch upscaled what; empty for ``whole``.
    """

    path: str
    precision: str
    shares: tuple[float, ...]
    macs: float
    full_macs: float
    branch_share: float
    paper_share: float
    seconds: float
    routes: tuple[Route, ...] = ()

    @property
    def share(self) -> float:
        """Multiply-accumulates as a share of the original network's."""
        return self.macs / self.full_macs

    def describe(self) -> str:
        """Say it in a line."""
        names = _class_names(len(self.shares))
        parts = ", ".join(
            f"{share:.0%} {name}" for share, name in zip(self.shares, names, strict=True)
        )
        how = "the whole picture by the original network" if self.path == "whole" else parts
        return (
            f"{how}; {self.macs / 1e9:.1f} GMAC, {self.share:.0%} of the original network's "
            f"(as the paper counts: {self.paper_share:.0%}); {self.seconds:.2f} s in "
            f"{self.precision}"
        )


def _patch_side(weights: Loaded) -> int:
    """Return the side of the patches that the Class-Module was trained on."""
    stated = weights.metadata.get("patch", str(PATCH))
    if not stated.isdecimal() or not int(stated) or int(stated) % BLOCK:
        raise WeightsError(f"{weights.path} tells of patches of '{stated}' pixels")
    return int(stated)


def _class_names(classes: int) -> Sequence[str]:
    if classes == 3:
        return "simple", "medium", "hard"
    return [f"class {index + 1}" for index in range(classes)]


class Upscaler:
    """Upscales pictures with ClassSR; opening one takes a moment, so keep it for many pictures.

    Args:
        network: ``fsrcnn``, of which there are weights in the package. With a file of weights it is
            the file that says what network it is.
        weights: ``own``, or the path of a file.
        budget: Share of the original network's multiply-accumulates that a picture may take,
            context and judging included. Left out, every cell gets the branch of its class.
        router: ``classifier``, or ``edges``.
        path: ``routed``, ``whole`` (the original network everywhere), or ``auto``: what is measured
            to be faster on this machine; with a budget always routed.
        tile: Largest side of a tile in input pixels, or ``auto``.
        device: Name of the device, as ``choose_device`` takes it.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: what is measured to be faster, but
            float32 for pictures of more than 8 bits.

    Raises:
        UsageError: An option makes no sense.
        WeightsError: The weights are missing, damaged, or of another network.
        DeviceError: There is no such device, or it does not know the precision.
    """

    def __init__(
        self,
        network: str = "fsrcnn",
        *,
        weights: str | Path = "own",
        budget: float | None = None,
        router: Router = "classifier",
        path: Way = "auto",
        tile: int | Literal["auto"] = "auto",
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        for name, value, known in (
            ("router", router, ("classifier", "edges")),
            ("path", path, ("auto", "routed", "whole")),
        ):
            if value not in known:
                raise UsageError(f"there is no {name} '{value}'", hint=", ".join(known))
        if budget is not None and not 0 <= budget <= 1:
            raise UsageError(f"the budget is {budget}; it is a share between 0 and 1")
        if budget is not None and path == "whole":
            raise UsageError("the whole picture by the original network has no budget")
        self.weights = open_weights(weights, network)
        self.network = self.weights.network
        thresholds = self.network.config.classes - 1
        if router == "edges" and len(self.weights.edge_thresholds) != thresholds:
            raise UsageError(
                f"{self.weights.path} says nothing of edges", hint="--router classifier"
            )
        self.scale = self.network.config.scale
        self.cell = _patch_side(self.weights)
        self._every = _EVERY if self.cell % PATCH == 0 else 1  # smaller cells need all their votes
        self.device = choose_device(device)
        kind = "cpu" if self.device.type == "cpu" else "cuda"
        self._batch_pixels = _BATCH_PIXELS[kind]
        largest = max(_LARGEST[kind], self.cell) if tile == "auto" else tile
        self.largest = check_largest(largest, self.cell)
        self.budget, self.router = budget, router
        # A budget of all there is buys the best there is.
        self.path: Way = "whole" if budget == 1 else path
        self.precision: Precision = precision
        choose_precision(precision, self.device)  # what is impossible is said now
        self._costs = [each.macs for each in branch_costs(self.network.config)]
        self._classifier = self.network.classifier.to(self.device)
        self._branches: dict[torch.dtype, list[FastBranch]] = {}
        self._rates: dict[torch.dtype, _Rates] = {}

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
            progress: Called after each piece.

        Returns:
            The same kind, (H*scale, W*scale): bit depth, color profile and metadata stay, gray
            stays gray, and alpha is upscaled apart by bicubic interpolation.

        Raises:
            InputError: The picture is of another kind, the result would not fit into memory, or
                the network gives values that are not finite.
            DeviceError: Not even the smallest piece fits into memory.
        """
        if isinstance(image, Picture):
            return self.run(image, progress=progress)[0]
        if image.dtype.kind == "f" and not 0 <= image.min() <= image.max() <= 1:
            logger.warning("values outside 0..1 are clipped")  # files: said where they are read
        return self.run(Picture(image), progress=progress)[0].pixels

    @torch.inference_mode()
    @exact_float32()
    def run(self, picture: Picture, *, progress: Progress | None = None) -> tuple[Picture, Report]:
        """Upscale a picture as a call does, and return with it what happened."""
        start = time.perf_counter()
        canvas = Canvas(picture, self.scale)  # first: it refuses what is too large
        image = to_tensor(picture)
        height, width = picture.height, picture.width
        routes, macs = self.plan(image)
        dtype = self._choose_dtype(picture)
        whole = self._whole_is_better(routes, image, dtype)
        costs = branch_costs(self.network.config)
        full = costs[-1].macs * height * width
        if whole:
            areas = np.eye(len(costs))[-1]
            self._run_whole(image, canvas, dtype, progress)
            macs = self._costs[-1] * _computed(height, width, self._whole_halo())
        else:
            areas = np.zeros(len(costs))
            for route in routes:
                areas[route.index] += np.prod(route.tile.core_size)
            areas = areas / areas.sum()
            self._run_routes(image, routes, canvas, dtype, progress)
        if self.path != "whole":
            macs += self._judging_macs(image)
        paper = np.array([each.paper_macs for each in costs])
        report = Report(
            path="whole" if whole else "routed",
            precision=PRECISION_NAMES[dtype],
            shares=tuple(float(each) for each in areas),
            macs=macs,
            full_macs=full,
            branch_share=float(areas @ self._costs / self._costs[-1]),
            paper_share=float(areas @ paper / paper[-1]),
            seconds=time.perf_counter() - start,
            routes=() if whole else tuple(routes),
        )
        return canvas.picture(), report

    def plan(self, image: Tensor) -> tuple[list[Route], float]:
        """Judge a picture (1, 3, H, W) and plan its routes; returns them and their MACs."""
        height, width = image.shape[2:]
        if self.path == "whole":
            return [], 0.0
        layout = Layout(height=height, width=width, cell=self.cell, largest=self.largest, halo=HALO)
        full, judging = self._costs[-1] * height * width, self._judging_macs(image)
        logits = self._judge(image)
        most = None if self.budget is None else self.budget * full - judging
        costs = window_costs(self.network.config, HALO)
        routes, macs = plan_routes(logits, layout, costs, most)
        if most is not None and macs > most:
            logger.warning(
                "the simplest branch everywhere costs %.0f %% of the original network, more than "
                "the budget",
                100 * (macs + judging) / full,
            )
        return routes, macs

    def _judging_macs(self, image: Tensor) -> float:
        """Multiply-accumulates of judging a picture; edges take none."""
        if self.router == "edges":
            return 0.0
        pixels = image.shape[2] * image.shape[3]
        return classifier_cost(len(self._costs)) * pixels / self._every**2

    def _judge(self, image: Tensor) -> Logits:
        if self.router == "edges":
            return edge_logits(image, self.weights.edge_thresholds, self.cell)
        with exact_float32():
            return classifier_logits(
                self._classifier, image.to(self.device), self.cell, every=self._every
            )

    def _whole_halo(self) -> int:
        radius = self.network.branches[-1].receptive_radius
        return _WHOLE_HALO if radius is None else min(radius, _WHOLE_HALO)

    def _run_whole(
        self, image: Tensor, canvas: Canvas, dtype: torch.dtype, progress: Progress | None
    ) -> None:
        branch = self._fast(dtype)[-1]
        stream_tiled(
            lambda window: self._run_branch(branch, window),
            image,
            canvas.write,
            scale=self.scale,
            tile=None,
            halo=self._whole_halo(),
            max_pixels=_WHOLE_PIXELS,
            progress=progress,
        )

    def _run_routes(
        self,
        image: Tensor,
        routes: Sequence[Route],
        canvas: Canvas,
        dtype: torch.dtype,
        progress: Progress | None,
    ) -> None:
        """Run the windows of one branch and size together, as many as a call is to have."""
        done, total = 0, image.shape[2] * image.shape[3]
        work = partial(self._run_tiles, image, self._fast(dtype))
        threads = self._threads() if len(routes) > 1 else 1
        for tiles, outputs in _in_threads(work, self._batches(routes), threads):
            for tile, output in zip(tiles, outputs.split(1), strict=True):
                canvas.write(*tile.core_at(self.scale), output)
                done += int(np.prod(tile.core_size))
            if progress is not None:
                progress(done, total)

    def _batches(self, routes: Sequence[Route]) -> Iterator[tuple[int, list[Tile]]]:
        """Yield the class of a batch, and its tiles: of one size, with windows of one size."""
        groups: dict[tuple[int, tuple[int, int], Margins], list[Tile]] = defaultdict(list)
        for route in routes:
            tile = route.tile
            groups[route.index, tile.core_size, _margins_of(tile)].append(tile)
        for (index, _, _), tiles in groups.items():
            pixels = tiles[0].pixels
            while tiles:
                count = max(1, self._batch_pixels // pixels)
                yield index, tiles[:count]
                del tiles[:count]

    def _run_tiles(
        self, image: Tensor, branches: Sequence[FastBranch], batch: tuple[int, list[Tile]]
    ) -> tuple[list[Tile], Tensor]:
        """Run a batch, and return its tiles with their outputs."""
        index, tiles = batch
        windows = torch.cat([image[:, :, each.rows, each.columns] for each in tiles])
        margins = _margins_of(tiles[0])
        outputs = within_memory(partial(self._run_branch, branches[index], windows, margins))
        if isinstance(outputs, Tensor):
            return tiles, outputs
        if len(tiles) == 1:
            raise DeviceError(
                f"out of memory for the {tiles[0]}: {outputs}",
                hint=f"a --tile below {self.largest}, or another --device",
            )
        half = -(-len(tiles) // 2)
        self._batch_pixels = half * windows.shape[2] * windows.shape[3]
        logger.warning("out of memory; going on with %d tiles at once", half)
        parts = [
            self._run_tiles(image, branches, (index, part))[1]
            for part in (tiles[:half], tiles[half:])
        ]
        return tiles, torch.cat(parts)

    def _run_apart(self, branch: FastBranch, windows: Sequence[Tensor]) -> None:
        for _ in _in_threads(partial(self._run_branch, branch), windows, self._threads()):
            pass

    def _threads(self) -> int:
        """Windows computed at a time: each by one core of a processor, or all of a GPU."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    @torch.inference_mode()
    def _run_branch(
        self, branch: FastBranch, windows: Tensor, margins: Margins = NO_MARGINS
    ) -> Tensor:
        output = branch(windows.to(self.device), margins).cpu()
        if not bool(torch.isfinite(output).all()):
            raise InputError("the network gives values that are not finite: check the weights")
        return output

    def _fast(self, dtype: torch.dtype) -> list[FastBranch]:
        """Return the branches of a precision, rewritten when they are first needed."""
        if dtype not in self._branches:
            self._branches[dtype] = [
                FastBranch(branch, self.scale, dtype).to(self.device)
                for branch in self.network.branches
            ]
        return self._branches[dtype]

    def _choose_dtype(self, picture: Picture) -> torch.dtype:
        """Return the precision asked for; for ``auto`` the faster one, measured."""
        reduced = choose_precision(self.precision, self.device, bit_depth=picture.bit_depth)
        if self.precision != "auto" or reduced == torch.float32:
            return reduced
        if picture.height * picture.width < _WORTH_MEASURING:
            return torch.float32
        full = self._rate(torch.float32).branches[-1]
        return reduced if self._rate(reduced).branches[-1] < full else torch.float32

    def _whole_is_better(self, routes: Sequence[Route], image: Tensor, dtype: torch.dtype) -> bool:
        """Predict the time of both paths from the rates measured on this machine."""
        if self.path != "auto":
            return self.path == "whole"
        if self.budget is not None:
            return False
        height, width = image.shape[2:]
        macs = np.zeros(len(self._costs))
        for route in routes:
            macs[route.index] += route.macs
        pixels = macs / self._costs  # that take as long without context
        whole = _computed(height, width, self._whole_halo())
        if height * width < _WORTH_MEASURING:
            return float(macs.sum()) > _WORTH_ROUTING * self._costs[-1] * whole
        rates = self._rate(dtype)
        return float(pixels @ rates.branches) > _WORTH_ROUTING * rates.whole * whole

    def _rate(self, dtype: torch.dtype) -> "_Rates":
        """Measure once how long a pixel takes in each branch, and in the original as a whole."""
        if dtype not in self._rates:
            branches, threads = self._fast(dtype), self._threads()
            windows = [torch.rand(1, 3, _PROBE, _PROBE)] * threads
            seconds = [_timed(partial(self._run_apart, branch, windows)) for branch in branches]
            large = torch.rand(1, 3, 2 * _PROBE, 2 * _PROBE)
            whole = _timed(lambda: self._run_branch(branches[-1], large))
            pixels = threads * _PROBE**2
            self._rates[dtype] = _Rates(np.array(seconds) / pixels, whole / (2 * _PROBE) ** 2)
        return self._rates[dtype]


@dataclass(frozen=True, slots=True)
class _Rates:
    """Seconds for a pixel: of each branch on tiles, and of the original on a large window."""

    branches: NDArray[np.float64]
    whole: float


def _margins_of(tile: Tile) -> Margins:
    """Return the context that the window of a tile has around it."""
    return Margins(
        top=tile.core_rows.start - tile.rows.start,
        bottom=tile.rows.stop - tile.core_rows.stop,
        left=tile.core_columns.start - tile.columns.start,
        right=tile.columns.stop - tile.core_columns.stop,
    )


def _computed(height: int, width: int, halo: int) -> int:
    """Pixels of all windows of a picture upscaled by the original network."""
    tiles = plan_tiles(height, width, halo=halo, max_pixels=_WHOLE_PIXELS)
    return sum(each.pixels for each in tiles)


def _timed(work: Callable[[], object]) -> float:
    """Return how long some work takes the second time: the first allocates and prepares weights."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _in_threads(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """Yield the results of some work on items, in their order, a few items ahead.

    A window for each core is up to a fifth faster than one after the other on all cores, which wait
    for each other after every layer.
    """
    if threads == 1:
        yield from map(work, items)
        return
    pending: deque[Future[_Result]] = deque()
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for item in items:
                    pending.append(pool.submit(work, item))
                    if len(pending) > threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for each in pending:
                    each.cancel()
    finally:
        torch.set_num_threads(before)  # what threads begin with that are made from now on
