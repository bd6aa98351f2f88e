"""Picture in, picture out: the only place with pre- and post-processing around the networks."""

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args, overload

import numpy as np
import torch
from lowvis_shared.color import rgb_to_luma_full_range
from lowvis_shared.device import Precision, choose_device, choose_precision, exact_float32
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.images import Picture, quantize
from lowvis_shared.tiling import plan_tiles
from numpy.typing import NDArray
from torch import Tensor

from lowvis_csrnet.lut import MAX_STRENGTH, Lut3D, check_size
from lowvis_csrnet.model import SMALLEST_SIDE, CSRNet, CSRNetL, FoldedNetwork
from lowvis_csrnet.profile import SRGB, RgbProfile, read_profile, srgb_profile
from lowvis_csrnet.spaces import CONDITION_SIDE, InputSpace, expose, reduced, to_input_space
from lowvis_csrnet.weights import load

logger = logging.getLogger("lowvis")

Progress = Callable[[int, int], None]
"""Called with the pixels done and their total."""

ProfileChoice: TypeAlias = Literal["keep", "srgb", "ignore"]
"""What becomes of a picture's ICC profile.

``keep`` converts to sRGB for the network and back; ``srgb`` converts to sRGB and leaves it at that;
``ignore`` takes the codes as sRGB whatever the profile says.
"""

LUT_SIZE = 33
"""Nodes on an axis of the LUT that a look is baked to by default."""

_WIDE_LUT_SIZE = 65
"""Least nodes on an axis for a picture of another profile than sRGB."""

_MAX_STOPS = 5.0

_STEEP = 0.1
"""How far, in 0..1, the codes of a profile may be from those of sRGB for a LUT between them.

Powers of 1.8 to 2.4 stay below; linear codes, whose shadows would share a node or two, do not.
"""

_CHUNK = {"cpu": 2**13, "cuda": 2**22}
"""Pixels that the exact network works on at a time: they stay in a processor's cache."""

_STRIP = 2**18
"""Pixels of the rows that are converted at a time."""

_DISTINCT_FROM = 2**18
"""Pixels from which on it pays to run the network once for each color of an 8-bit picture."""

_LOCAL_PIXELS = {"cpu": 2**16, "cuda": 2**22}
"""Pixels of a tile of CSRNet-L."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a picture was retouched.

    Attributes:
        method: ``lut``, ``exact`` (also where a LUT would be too coarse for the picture's profile,
            such as a linear one), ``local``, or ``unchanged`` at strength 0.
        lut_size: Nodes on an axis of the LUT; None without one.
        input_space: What the network was shown.
        precision: What it computed in.
    """

    method: str
    lut_size: int | None
    input_space: str
    precision: str


@dataclass(frozen=True, slots=True)
class Look:
    """What CSRNet does to every pixel of one photograph: a function from colors to colors.

    Attributes:
        folded: The network with the photograph's condition folded in.
        input_space: What it is to be shown.
        exposure: Stops.
        strength: 0 changes nothing, 1 is the network's result.
        before: The profile that colors are of.
        after: The profile that the result is of.
    """

    folded: FoldedNetwork
    input_space: InputSpace
    exposure: float
    strength: float
    before: RgbProfile = SRGB
    after: RgbProfile = SRGB

    @torch.inference_mode()
    def __call__(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        """Run on colors (P, 3), nominally 0..1; the result is not clamped."""
        weight = self.folded.weights[0]
        srgb = torch.from_numpy(np.ascontiguousarray(self.before.to_srgb(codes).T))
        if weight.device.type == "cuda":  # other devices lack the float64 of the conversion
            srgb = srgb.to(weight.device)
        seen = to_input_space(srgb, self.input_space, exposure=self.exposure)
        with exact_float32():
            result = self.folded(seen.to(weight.device, weight.dtype))
        result = result.to(srgb.device, torch.float32)
        if self.input_space == "srgb":
            result = expose(result, self.exposure)
        if self.strength != 1:
            result = torch.lerp(srgb, result.double(), self.strength)
        values = result.T.cpu().numpy()
        return values if self.after.is_srgb else self.after.from_srgb(values)


class Retoucher:
    """Retouches photographs; opening one takes a moment, so keep it for many.

    Args:
        network: ``csrnet``, or ``csrnet-l`` for a local effect.
        weights: ``own`` (in the package), ``official``, or the path of a file.
        input_space: What the network expects to see, ``srgb`` or ``prophoto-1.8``; by default what
            is right for the weights.
        strength: 0 leaves the photograph as it is, 1 is the network's result, up to 1.5.
        exposure: Stops by which the result is brighter. The official weights are shown a picture
            that is developed brighter; with others the result is exposed, since a network that
            corrects exposure would take it back.
        lut_size: Nodes on an axis of the LUT that the look is baked to; None runs the network on
            every pixel, exactly. Pictures of another profile than sRGB get at least 65 nodes, those
            of a linear one the exact network. ``csrnet-l`` has no LUT.
        profile: What becomes of a picture's ICC profile; see `ProfileChoice`.
        condition_side: Long edge of the picture that the condition is taken from; None takes the
            whole picture as it is.
        device: ``auto``, ``cpu``, ``cuda`` …
        precision: Of the network where it runs on every pixel, without a LUT. ``auto`` is float32
            for ``csrnet``; for ``csrnet-l`` bf16 where the hardware has it and the picture 8 bits.
        accept_licence: Consent to fetching weights whose authors state no licence.
        offline: Use no network connection.

    Raises:
        UsageError: An option makes no sense.
        WeightsError: The weights are missing, damaged, or of another network.
        DeviceError: There is no such device, or it does not know the precision.
    """

    def __init__(
        self,
        network: str = "csrnet",
        *,
        weights: str | Path = "own",
        input_space: InputSpace | None = None,
        strength: float = 1.0,
        exposure: float = 0.0,
        lut_size: int | None = LUT_SIZE,
        profile: ProfileChoice = "keep",
        condition_side: int | None = CONDITION_SIDE,
        device: str = "auto",
        precision: Precision = "auto",
        accept_licence: bool = False,
        offline: bool = False,
    ) -> None:
        if not 0 <= strength <= MAX_STRENGTH:
            raise UsageError(f"the strength is 0 to {MAX_STRENGTH}, not {strength}")
        if not abs(exposure) <= _MAX_STOPS:
            raise UsageError(f"the exposure is -{_MAX_STOPS} to {_MAX_STOPS} stops, not {exposure}")
        if lut_size is not None:
            check_size(lut_size)
        check_profile(profile)
        if condition_side is not None and condition_side < SMALLEST_SIDE:
            raise UsageError(f"the condition needs {SMALLEST_SIDE} pixels, not {condition_side}")
        self.device = choose_device(device)
        self.precision: Precision = precision
        choose_precision(precision, self.device)  # what it does not know is said now
        self.weights = load(
            network,
            weights,
            input_space=input_space,
            accept_licence=accept_licence,
            offline=offline,
        )
        self.network = self.weights.network.to(self.device)
        self.input_space: InputSpace = self.weights.input_space
        self.strength, self.exposure = strength, exposure
        self.lut_size = None if isinstance(self.network, CSRNetL) else lut_size
        self.profile: ProfileChoice = profile
        self.condition_side = condition_side
        self._networks = {torch.float32: self.network}

    @overload
    def __call__(self, image: Picture, *, progress: Progress | None = None) -> Picture: ...
    @overload
    def __call__(
        self, image: NDArray[Any], *, progress: Progress | None = None
    ) -> NDArray[Any]: ...
    def __call__(
        self, image: Picture | NDArray[Any], *, progress: Progress | None = None
    ) -> Picture | NDArray[Any]:
        """Retouch a photograph.

        Args:
            image: A ``Picture``, or an RGB array (H, W, 3) of uint8, uint16, or float32 in 0..1.
            progress: Called as parts are done.

        Returns:
            The same kind and size; bit depth, alpha and metadata stay, gray stays gray.

        Raises:
            InputError: The picture is of another kind, its profile cannot be used, or the network
                gives values that are not finite.
        """
        if isinstance(image, Picture):
            return self.run(image, progress=progress)[0]
        if image.dtype.kind == "f" and not 0 <= image.min() <= image.max() <= 1:
            logger.warning("values outside 0..1 are clipped")  # files: said where they are read
        return self.run(Picture(image), progress=progress)[0].pixels

    def run(self, picture: Picture, *, progress: Progress | None = None) -> tuple[Picture, Report]:
        """Retouch a photograph as a call does, and return with it how."""
        before, after = self._profiles(picture)
        if self.strength == 0 and before is after:
            return picture, Report("unchanged", None, self.input_space, "float32")
        if isinstance(self.network, CSRNetL):
            dtype = choose_precision(self.precision, self.device, bit_depth=picture.bit_depth)
            pixels = self._run_local(picture, before, after, dtype, progress)
            report = Report("local", None, self.input_space, _name(dtype))
        elif self.lut_size is None or _is_too_steep(before):
            look = self._look(picture, before, after)
            pixels = _run_exact(look, picture.pixels, progress)
            report = Report("exact", None, self.input_space, _name(look.folded.weights[0].dtype))
        else:
            # Between the codes of another profile a look bends more.
            size = self.lut_size if before.is_srgb else max(self.lut_size, _WIDE_LUT_SIZE)
            lut = _bake(self._look(picture, before, after), size)
            pixels = self.apply(lut, picture.pixels)
            report = Report("lut", size, self.input_space, "float32")
        if picture.gray:
            pixels = _to_gray(pixels)
        return _with_profile(replace(picture, pixels=pixels), before, after), report

    @torch.inference_mode()
    def condition(self, picture: Picture) -> Tensor:
        """Return what the condition network sees in a photograph.

        It is taken from the photograph reduced to a long edge of 500 pixels, whatever its size.

        Returns:
            (1, 32); for ``csrnet-l`` its maps (1, 32, h, w).

        Raises:
            InputError: The picture's profile cannot be used.
        """
        return self._condition(picture, self._profiles(picture)[0])

    def look(self, picture: Picture) -> Look:
        """Return what the network does to every pixel of a photograph, from sRGB to sRGB.

        Raises:
            UsageError: The network is ``csrnet-l``, which looks around each pixel.
            InputError: The network gives no finite values for this photograph.
        """
        before, _ = self._profiles(picture)
        return replace(self._look(picture, before, before), before=SRGB, after=SRGB)

    def bake(self, picture: Picture, size: int | None = None) -> Lut3D:
        """Return a photograph's look as a LUT, sRGB to sRGB, not clamped.

        Args:
            picture: The photograph.
            size: Nodes on an axis; that of the retoucher, or 33, when left out.

        Raises:
            UsageError: There is no such size, or the network is ``csrnet-l``.
            InputError: As for `look`.
        """
        size = (self.lut_size or LUT_SIZE) if size is None else size
        return _bake(self.look(picture), size)

    def apply(self, lut: Lut3D, pixels: NDArray[Any]) -> NDArray[Any]:
        """Send pixels (H, W, 3) through a LUT, on the retoucher's device."""
        if self.device.type != "cuda":
            return lut.apply(pixels)
        moved = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        return lut.apply_tensor(moved).cpu().numpy()

    def _profiles(self, picture: Picture) -> tuple[RgbProfile, RgbProfile]:
        """Return the profiles of the picture and of the result."""
        return _profiles(picture, self.profile)

    def _condition(self, picture: Picture, profile: RgbProfile) -> Tensor:
        side = self.condition_side or max(picture.pixels.shape)
        codes = reduced(np.ascontiguousarray(picture.pixels), side)
        srgb = np.clip(profile.to_srgb(_to_unit(codes)), 0, 1)
        missing = [max(0, SMALLEST_SIDE - length) for length in srgb.shape[:2]]
        srgb = np.pad(srgb, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        planes = torch.from_numpy(np.ascontiguousarray(srgb.transpose(2, 0, 1)))
        seen = to_input_space(planes.flatten(1), self.input_space, exposure=self.exposure)
        with exact_float32():
            return self.network.condition(seen.view(1, *planes.shape).to(self.device))

    @torch.inference_mode()
    def _look(self, picture: Picture, before: RgbProfile, after: RgbProfile) -> Look:
        if not isinstance(self.network, CSRNet):
            raise UsageError(
                "csrnet-l looks around each pixel: it has no LUT", hint="take csrnet for one"
            )
        folded = self.network.fold(self._condition(picture, before))
        parts = (*folded.weights, *folded.biases)
        if not all(bool(part.isfinite().all()) for part in parts):
            raise InputError("the network gives values that are not finite for this picture")
        if self.lut_size is None and self.precision != "auto":
            folded = folded.to(choose_precision(self.precision, self.device))
        return Look(folded, self.input_space, self.exposure, self.strength, before, after)

    @torch.inference_mode()
    def _run_local(
        self,
        picture: Picture,
        before: RgbProfile,
        after: RgbProfile,
        dtype: torch.dtype,
        progress: Progress | None,
    ) -> NDArray[Any]:
        """Run CSRNet-L on tiles; only the base network is tiled, its condition is the whole's."""
        maps = self._condition(picture, before).to(dtype)
        if dtype not in self._networks:
            self._networks[dtype] = copy.deepcopy(self.network).to(dtype)
        network = cast("CSRNetL", self._networks[dtype])
        size = (picture.height, picture.width)
        output = np.empty_like(picture.pixels)
        budget = _LOCAL_PIXELS.get(self.device.type, _LOCAL_PIXELS["cpu"])
        done = 0
        for tile in plan_tiles(*size, halo=network.receptive_radius, max_pixels=budget):
            window = before.to_srgb(_to_unit(picture.pixels[tile.rows, tile.columns]))
            srgb = torch.from_numpy(window).permute(2, 0, 1)[None].float()
            with exact_float32():
                result = network(
                    srgb.to(self.device, dtype),
                    network.spread(maps, size, (tile.rows, tile.columns)),
                )
            result = expose(result.float().cpu(), self.exposure)
            mixed = torch.lerp(srgb, result, self.strength)[0].permute(1, 2, 0).numpy()
            inner = mixed[
                _within(tile.core_rows, tile.rows), _within(tile.core_columns, tile.columns)
            ]
            values = inner if after.is_srgb else after.from_srgb(inner)
            output[tile.core_rows, tile.core_columns] = _quantize(values, output.dtype)
            done += inner.shape[0] * inner.shape[1]
            if progress is not None:
                progress(done, size[0] * size[1])
        return output


def _bake(look: Look, size: int) -> Lut3D:
    # Baked including all conversions: a LUT in the network's own input space is 13 dB worse.
    nodes = Lut3D.identity(size).values
    values = look(nodes.reshape(-1, 3))
    _require_finite(values)
    return Lut3D(values.reshape(nodes.shape).astype(np.float32), "lowvis-csrnet")


def _run_exact(look: Look, pixels: NDArray[Any], progress: Progress | None) -> NDArray[Any]:
    if pixels.dtype == np.uint8 and pixels.size // 3 >= _DISTINCT_FROM:
        return _run_distinct(look, pixels, progress)
    return _run_chunks(look, pixels, progress)


def _run_chunks(look: Look, pixels: NDArray[Any], progress: Progress | None) -> NDArray[Any]:
    flat = pixels.reshape(-1, 3)
    output = np.empty_like(flat)
    chunk = _CHUNK.get(look.folded.weights[0].device.type, _CHUNK["cpu"])
    for start in range(0, len(flat), chunk):
        part = slice(start, start + chunk)
        output[part] = _quantize(look(_to_unit(flat[part])), pixels.dtype)
        if progress is not None:
            progress(min(start + chunk, len(flat)), len(flat))
    return output.reshape(pixels.shape)


def _run_distinct(look: Look, pixels: NDArray[Any], progress: Progress | None) -> NDArray[Any]:
    """Run the network once for each color that occurs: the same bits, several times faster."""
    occurs = np.zeros(2**24, np.bool_)
    for rows in _strips(pixels):
        occurs[_packed(pixels[rows])] = True
    colors = np.flatnonzero(occurs).astype(np.uint32)
    table = np.zeros(2**24, np.uint32)
    table[colors] = _packed(_run_chunks(look, _unpacked(colors), progress))
    output = np.empty_like(pixels)
    for rows in _strips(pixels):
        output[rows] = _unpacked(table[_packed(pixels[rows])]).reshape(output[rows].shape)
    return output


def _strips(pixels: NDArray[Any]) -> Iterator[slice]:
    """Yield the rows of a picture in parts whose conversion takes little memory."""
    height = max(1, _STRIP // pixels.shape[1])
    return (slice(row, row + height) for row in range(0, pixels.shape[0], height))


@overload
def retouch(
    image: Picture,
    *,
    network: str = "csrnet",
    weights: str | Path = "own",
    strength: float = 1.0,
    exposure: float = 0.0,
) -> Picture: ...
@overload
def retouch(
    image: NDArray[Any],
    *,
    network: str = "csrnet",
    weights: str | Path = "own",
    strength: float = 1.0,
    exposure: float = 0.0,
) -> NDArray[Any]: ...
def retouch(
    image: Picture | NDArray[Any],
    *,
    network: str = "csrnet",
    weights: str | Path = "own",
    strength: float = 1.0,
    exposure: float = 0.0,
) -> Picture | NDArray[Any]:
    """Retouch one photograph; for many, keep a ``Retoucher``, whose arguments and errors these are.

    Takes and returns a ``Picture``, or an RGB array (H, W, 3) of uint8, uint16 or float32 in 0..1.
    """
    retoucher = Retoucher(network, weights=weights, strength=strength, exposure=exposure)
    return retoucher(image)


def condition(image: Picture | NDArray[Any], *, weights: str | Path = "own") -> Tensor:
    """Return the condition vector (1, 32) of a photograph; see ``Retoucher.condition``."""
    return Retoucher(weights=weights).condition(_as_picture(image))


def bake(
    image: Picture | NDArray[Any], *, weights: str | Path = "own", size: int = LUT_SIZE
) -> Lut3D:
    """Return a photograph's look as a LUT, sRGB to sRGB; see ``Retoucher.bake``."""
    return Retoucher(weights=weights).bake(_as_picture(image), size)


def _as_picture(image: Picture | NDArray[Any]) -> Picture:
    return image if isinstance(image, Picture) else Picture(image)


def _packed(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the three bytes of each color (..., 3) in one number, (P,)."""
    red, green, blue = (colors[..., channel].astype(np.uint32).ravel() for channel in range(3))
    return np.asarray(red | green << 8 | blue << 16, np.uint32)


def _unpacked(colors: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return the three bytes of each number: (P, 3), the inverse of `_packed`."""
    return np.stack([(colors >> shift).astype(np.uint8) for shift in (0, 8, 16)], axis=-1)


def apply_look(picture: Picture, lut: Lut3D, *, profile: ProfileChoice = "keep") -> Picture:
    """Send a picture through a LUT that takes sRGB to sRGB, of whatever profile the picture is.

    Args:
        picture: The picture; depth, alpha and metadata stay.
        lut: From `Retoucher.bake`, or of another program.
        profile: What becomes of the picture's ICC profile. Colors outside sRGB, which the LUT does
            not know, are clipped.

    Raises:
        InputError: The picture's profile cannot be used.
    """
    before, after = _profiles(picture, profile)
    if before.is_srgb and after.is_srgb:
        pixels = lut.apply(picture.pixels)
    else:
        pixels = np.empty_like(picture.pixels)
        for rows in _strips(pixels):
            srgb = np.clip(before.to_srgb(_to_unit(picture.pixels[rows])), 0, 1)
            values = after.from_srgb(lut.sample(srgb.astype(np.float32)))
            pixels[rows] = _quantize(values, pixels.dtype)
    # A look may color a gray picture, which a profile of gray would not suit.
    icc = None if picture.gray else picture.icc_profile
    result = replace(picture, pixels=pixels, gray=False, icc_profile=icc)
    return _with_profile(result, before, after)


def check_profile(choice: str) -> None:
    """Refuse a choice that is no `ProfileChoice`; raises `UsageError`."""
    if choice not in get_args(ProfileChoice):
        choices = ", ".join(get_args(ProfileChoice))
        raise UsageError(f"profile '{choice}' is not one of {choices}")


def _profiles(picture: Picture, choice: ProfileChoice) -> tuple[RgbProfile, RgbProfile]:
    if choice == "ignore" or picture.gray:
        return SRGB, SRGB  # the profile of a gray picture is one of gray
    before = read_profile(picture.icc_profile)
    return before, SRGB if choice == "srgb" else before


def _with_profile(picture: Picture, before: RgbProfile, after: RgbProfile) -> Picture:
    changed = after.is_srgb and not before.is_srgb
    return replace(picture, icc_profile=srgb_profile()) if changed else picture


def _is_too_steep(profile: RgbProfile) -> bool:
    """Tell whether nodes, evenly spaced in a profile's codes, are too far apart in its shadows."""
    gray = np.repeat(np.linspace(0, 1, 65)[:, np.newaxis], 3, axis=1)
    return bool(np.abs(profile.to_srgb(gray) - gray).max() > _STEEP)


def _require_finite(values: NDArray[np.floating]) -> None:
    if not np.isfinite(values).all():
        raise InputError("the network gives values that are not finite for this picture")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _within(core: slice, window: slice) -> slice:
    return slice(core.start - window.start, core.stop - window.start)


def _to_unit(codes: NDArray[Any]) -> NDArray[np.float64]:
    if codes.dtype.kind == "f":
        return np.clip(codes, 0, 1).astype(np.float64)
    return codes.astype(np.float64) / np.iinfo(codes.dtype).max


def _quantize(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Bring values around 0..1 to the type of the picture, clipped; whole numbers are rounded."""
    _require_finite(values)
    return quantize(np.clip(values, 0, 1), dtype)


def _to_gray(pixels: NDArray[Any]) -> NDArray[Any]:
    gray = rgb_to_luma_full_range(pixels)
    gray = gray if pixels.dtype.kind == "f" else np.rint(gray)
    return np.repeat(gray.astype(pixels.dtype)[..., np.newaxis], 3, axis=2)
