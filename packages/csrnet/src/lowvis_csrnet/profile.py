"""ICC profiles of RGB pictures as exact functions between their codes and sRGB, at any depth.

Photographs carry matrix profiles: a tone curve for each channel, and three primaries (ICC.1:2022,
annex F.3). These are computed here in float64, relative colorimetric and without clamping, so that
a 16-bit or float picture survives the way to sRGB and back; Pillow's ``ImageCms`` has 8 bits only.
Profiles made of look-up tables have no exact inverse and are refused.
"""

import logging
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from lowvis_shared.color import (
    SRGB_TO_XYZ,
    delta_e_76,
    linear_to_srgb,
    rgb_to_lab,
    srgb_to_linear,
)
from lowvis_shared.errors import InputError
from numpy.typing import NDArray
from PIL import ImageCms

_LOGGER = logging.getLogger("lowvis")
_HINT = "convert the picture to sRGB first, or pass --profile ignore"

# CIE 1976; seen at 1. Profiles of sRGB lie at up to 0.035: their makers rounded in many ways.
_SRGB_TOLERANCE = 0.1

_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of every profile (ICC.1:2022, 7.2.16)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65_TO_D50 = np.linalg.solve(
    _BRADFORD, np.diag(_BRADFORD @ _D50 / (_BRADFORD @ SRGB_TO_XYZ.sum(axis=1))) @ _BRADFORD
)
_XYZ_D50_TO_LINEAR_SRGB = np.linalg.inv(_D65_TO_D50 @ SRGB_TO_XYZ)

_LOOK_UP_TABLES = {b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1", b"D2B2", b"D2B3"}
_PARAMETERS = (1, 3, 4, 5, 7)  # of parametricCurveType 0 to 4 (ICC.1:2022, table 68)


# --- tone curves -------------------------------------------------------------------------------


class ToneCurve(ABC):
    """The light of codes, rising from code 0 without end and mirrored about it below.

    Attributes:
        black: The light of code 0.
    """

    black: float

    @abstractmethod
    def _light(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the light of codes of at least 0."""

    @abstractmethod
    def _codes(self, light: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the codes of light of at least ``black``."""

    def decode(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the light of codes of any shape; 0..1 stands for 0..1."""
        return self.black + np.copysign(self._light(np.abs(codes)) - self.black, codes)

    def encode(self, light: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the codes of light, the inverse of ``decode``."""
        rise = light - self.black
        return np.copysign(self._codes(self.black + np.abs(rise)), rise)


class _ParametricCurve(ToneCurve):
    """``(a x + b) ** gamma + e`` from code d on, ``c x + f`` below (parametricCurveType 4)."""

    def __init__(
        self,
        gamma: float,
        a: float = 1.0,
        b: float = 0.0,
        c: float = 0.0,
        d: float = 0.0,
        e: float = 0.0,
        f: float = 0.0,
    ) -> None:
        knee = max(d, 0.0)
        if not 0.1 <= gamma <= 10.0 or a <= 0.0 or a * knee + b < 0.0:
            raise ValueError(f"no rising power: ({a:g} x + {b:g}) ** {gamma:g}")
        self._gamma, self._a, self._b, self._e = gamma, a, b, e
        self._knee, self._knee_light = knee, (a * knee + b) ** gamma + e
        # The straight piece is led to the power, which numbers of 16 bits miss by a millionth:
        # codes at an overlap would not come back.
        self.black = f if knee > 0.0 else self._knee_light
        self._slope = (self._knee_light - f) / knee if knee > 0.0 else 1.0
        if knee > 0.0 and abs(c * knee + f - self._knee_light) > 1e-3:
            raise ValueError(f"its two pieces do not meet at {knee:g}")
        if self._slope <= 0.0:
            raise ValueError(f"it does not rise from black to {knee:g}")

    def _light(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        power = np.maximum(self._a * codes + self._b, 0.0) ** self._gamma + self._e
        return np.where(codes >= self._knee, power, self.black + self._slope * codes)

    def _codes(self, light: NDArray[np.float64]) -> NDArray[np.float64]:
        root = np.maximum(light - self._e, 0.0) ** (1.0 / self._gamma)
        straight = (light - self.black) / self._slope
        return np.where(light >= self._knee_light, (root - self._b) / self._a, straight)


class _TableCurve(ToneCurve):
    """Straight lines between equally spaced entries; the last one goes on above white."""

    def __init__(self, entries: NDArray[np.float64]) -> None:
        rises = np.diff(entries) > 0.0
        if (np.diff(entries) < 0.0).any() or not rises.any():
            raise ValueError("its table falls or is flat")
        # Of equal entries, which are common near black, the first is kept, and at white the last.
        # The line to the next one differs by less than a step of the table, and has an inverse.
        kept = np.concatenate([[True], rises])
        kept[np.flatnonzero(kept)[-1]] = False
        kept[-1] = True
        self._x, self._y = np.linspace(0.0, 1.0, len(entries))[kept], entries[kept]
        self._slope = (self._y[-1] - self._y[-2]) / (self._x[-1] - self._x[-2])
        self.black = float(self._y[0])

    def _light(self, codes: NDArray[np.float64]) -> NDArray[np.float64]:
        beyond = np.maximum(codes - 1.0, 0.0)
        return np.interp(codes, self._x, self._y) + beyond * self._slope

    def _codes(self, light: NDArray[np.float64]) -> NDArray[np.float64]:
        beyond = np.maximum(light - self._y[-1], 0.0)
        return np.interp(light, self._y, self._x) + beyond / self._slope


# --- profiles ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class RgbProfile:
    """The codes of an RGB profile to extended sRGB and back, each the other's inverse.

    Nothing is clamped: colors outside sRGB come out below 0 or above 1 and survive the way back.

    Attributes:
        curves: The tone curves of red, green and blue.
        matrix: (3, 3), linear RGB of the profile to linear sRGB.
        is_srgb: The profile differs from sRGB by less than can be seen; values pass unchanged.
    """

    curves: tuple[ToneCurve, ToneCurve, ToneCurve]
    matrix: NDArray[np.float64]
    is_srgb: bool = False

    def to_srgb(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return extended sRGB codes of profile codes.

        Args:
            values: (..., 3), nominally 0..1; float64 is returned as it is when ``is_srgb``.

        Returns:
            (..., 3), 0..1 inside the gamut of sRGB.

        Raises:
            InputError: The last axis does not hold three channels.
        """
        codes = _float_triples(values)
        if self.is_srgb:
            return codes
        light = [curve.decode(codes[..., i]) for i, curve in enumerate(self.curves)]
        return linear_to_srgb(np.stack(light, axis=-1) @ self.matrix.T)

    def from_srgb(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return profile codes of extended sRGB codes, the inverse of ``to_srgb`` within 1e-6.

        Args:
            values: (..., 3), nominally 0..1; float64 is returned as it is when ``is_srgb``.

        Returns:
            (..., 3), 0..1 inside the gamut of the profile: clip what is to be stored as integers.

        Raises:
            InputError: The last axis does not hold three channels.
        """
        codes = _float_triples(values)
        if self.is_srgb:
            return codes
        light = srgb_to_linear(codes) @ np.linalg.inv(self.matrix).T
        encoded = [curve.encode(light[..., i]) for i, curve in enumerate(self.curves)]
        return np.stack(encoded, axis=-1)


_SRGB_CURVE = _ParametricCurve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
SRGB = RgbProfile((_SRGB_CURVE, _SRGB_CURVE, _SRGB_CURVE), np.eye(3), is_srgb=True)
"""What a picture without a profile is taken for."""


def read_profile(icc: bytes | None) -> RgbProfile:
    """Read the ICC profile of a picture; without one it is sRGB.

    A profile of gray or CMYK is not applied but logged, and the picture taken as sRGB: reading has
    brought it to RGB before, and no format would store the profile beside RGB.

    Args:
        icc: The profile as stored in the file (``Picture.icc_profile``).

    Raises:
        InputError: The profile is damaged, made of look-up tables, or has no inverse.
    """
    if icc is None:
        return SRGB
    tags = _read_tags(icc)
    space = icc[16:20]
    if space != b"RGB ":
        _LOGGER.warning("the ICC profile is of %s, not of RGB; sRGB is assumed", _name(space))
        return SRGB
    if icc[20:24] != b"XYZ " or not _LOOK_UP_TABLES.isdisjoint(tags):
        raise _unusable("it is made of look-up tables, which have no exact inverse")

    primaries = np.stack([_primary(tags, tag) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
    if not np.linalg.cond(primaries) < 1e4:
        raise _unusable("its three primaries do not span a space of colors")
    red, green, blue = (_tone_curve(tags, tag) for tag in (b"rTRC", b"gTRC", b"bTRC"))
    profile = RgbProfile((red, green, blue), _XYZ_D50_TO_LINEAR_SRGB @ primaries)
    grid = np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 17)] * 3), axis=-1)
    difference = delta_e_76(rgb_to_lab(profile.to_srgb(grid)), rgb_to_lab(grid))
    return SRGB if difference.max() <= _SRGB_TOLERANCE else profile


@cache
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB to embed in pictures, the same bytes on every day."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # created now, by the library
    profile[40:44] = bytes(4)  # the platform, by the library
    return bytes(profile)


def _read_tags(icc: bytes) -> dict[bytes, bytes]:
    """Check the header and return the content of each tag (ICC.1:2022, 7.2 and 7.3)."""
    if len(icc) < 132:
        raise _unusable(f"{len(icc)} bytes are too few")
    size, count = int.from_bytes(icc[:4]), int.from_bytes(icc[128:132])
    if icc[36:40] != b"acsp":
        raise _unusable("its header lacks the signature 'acsp'")
    if not 132 + 12 * count <= size <= len(icc):
        raise _unusable(f"{size:,} bytes and {count} tags announced in {len(icc):,} bytes")
    tags: dict[bytes, bytes] = {}
    for tag, start, length in struct.iter_unpack(">4sII", icc[132 : 132 + 12 * count]):
        if start + length > size:
            raise _unusable(f"its tag {_name(tag)} lies outside of it")
        tags[tag] = icc[start : start + length]
    return tags


def _primary(tags: dict[bytes, bytes], tag: bytes) -> NDArray[np.float64]:
    data = _typed(tags, tag, (b"XYZ ",), 20)
    return np.frombuffer(data[8:20], ">i4") / 65536.0


def _tone_curve(tags: dict[bytes, bytes], tag: bytes) -> ToneCurve:
    data = _typed(tags, tag, (b"curv", b"para"), 12)
    try:
        curve = _sampled(data) if data.startswith(b"curv") else _parametric(data)
    except ValueError as error:
        raise _unusable(f"its {_name(tag)} is no tone curve: {error}") from error
    white = float(curve.decode(np.ones(1))[0])
    if abs(curve.black) > 0.25 or abs(white - 1.0) > 0.5:
        raise _unusable(
            f"its {_name(tag)} leads from {curve.black:.3g} to {white:.3g}, not from 0 to 1"
        )
    return curve


def _sampled(data: bytes) -> ToneCurve:
    count = int.from_bytes(data[8:12])
    if 12 + 2 * count > len(data):
        raise ValueError(f"truncated, {count} entries announced")
    entries = np.frombuffer(data[12 : 12 + 2 * count], ">u2")
    if count < 2:
        return _ParametricCurve(float(entries[0]) / 256.0 if count else 1.0)
    return _TableCurve(entries / 65535.0)


def _parametric(data: bytes) -> ToneCurve:
    kind = int.from_bytes(data[8:10])
    if kind >= len(_PARAMETERS) or 12 + 4 * _PARAMETERS[kind] > len(data):
        raise ValueError(f"truncated, or of the unknown kind {kind}")
    numbers = np.frombuffer(data[12 : 12 + 4 * _PARAMETERS[kind]], ">i4") / 65536.0
    if kind not in {1, 2}:
        return _ParametricCurve(*numbers.tolist())
    gamma, a, b, offset = [*numbers.tolist(), 0.0][:4]
    return _ParametricCurve(gamma, a, b, e=offset)  # with b < 0 it would be flat near black


def _typed(tags: dict[bytes, bytes], tag: bytes, kinds: tuple[bytes, ...], least: int) -> bytes:
    data = tags.get(tag)
    if data is None:
        raise _unusable(f"it has no {_name(tag)}")
    if not data.startswith(kinds) or len(data) < least:
        raise _unusable(f"its {_name(tag)} is truncated or of another type")
    return data


def _name(tag: bytes) -> str:
    return repr(tag.strip())[2:-1]  # with control characters of damaged files escaped


def _unusable(reason: str) -> InputError:
    return InputError(f"the ICC profile cannot be used: {reason}", hint=_HINT)


def _float_triples(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.ndim < 1 or values.shape[-1] != 3:
        raise InputError(f"colors need three channels on the last axis, got shape {values.shape}")
    return values.astype(np.float64, copy=False)
