"""Videos: every frame through a LUT that follows the clip slowly, so that nothing flickers."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.images import MAX_PIXELS, Picture
from lowvis_shared.video import Frame, VideoReport, probe_video, transform_video
from numpy.typing import NDArray

from lowvis_csrnet.lut import Lut3D
from lowvis_csrnet.predict import Retoucher
from lowvis_csrnet.spaces import reduced

logger = logging.getLogger("lowvis")

SMOOTHING = 1.0
"""Seconds after which a LUT has followed a change by 63 percent."""

_THUMBNAIL = 48

_CUT = 0.35
"""Change between two frames that do not belong together, as `_change` measures it.

On clips with hard cuts these are at 0.43 and above, moving cameras at 0.31 and below.
"""

_TOLERANCE = 0.15
"""Change against the average frame up to which the look follows at its slow pace.

Beyond it follows faster: in a fade, the look of black frames would shine for seconds over what
comes after them. Grain and flickering lamps stay below.
"""

_HURRY = 0.3
"""Change beyond the tolerance at which 63 percent of a look is forgotten in one frame."""

_HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics (H.273) of videos whose codes are no sRGB."""

_SDR_PRIMARIES = (1, 2, 4, 5, 6, 7)
"""Color primaries (H.273) close to those of sRGB, or not specified."""


@dataclass(frozen=True, slots=True)
class ClipReport:
    """How a clip was retouched.

    Attributes:
        video: What was written.
        scenes: Scenes found; each starts with a look of its own.
    """

    video: VideoReport
    scenes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name, for JSON."""
        return {"scenes": self.scenes, "frames": self.video.frames, "codec": self.video.codec}


class SmoothLook:
    """Gives each frame its LUT: an exponential average, begun anew at each cut.

    It forgets with time, and faster where the picture has become another one, as in a fade.

    Args:
        retoucher: Whose look each frame has by itself.
        smoothing: Seconds after which 63 percent of a change is followed; 0 for none.

    Raises:
        UsageError: The retoucher makes no LUTs, or the seconds are negative.
    """

    def __init__(self, retoucher: Retoucher, smoothing: float = SMOOTHING) -> None:
        if retoucher.lut_size is None:
            raise UsageError("a video is retouched by LUTs", hint="csrnet with a LUT of 33 nodes")
        if not 0 <= smoothing < math.inf:
            raise UsageError(f"smoothing takes seconds, 0 or more, not {smoothing}")
        self.retoucher, self.smoothing = retoucher, smoothing
        self.scenes = 0
        self._lut: Lut3D | None = None
        self._last: NDArray[np.float64] | None = None
        self._average: NDArray[np.float64] | None = None
        self._time = 0.0

    def lut(self, pixels: NDArray[Any], time: float) -> Lut3D:
        """Return the LUT of the next frame.

        Args:
            pixels: The frame, (H, W, 3) of uint8 or uint16.
            time: When it is shown, in seconds.
        """
        new = self.retoucher.bake(Picture(pixels))
        thumbnail = reduced(pixels, _THUMBNAIL) / np.iinfo(pixels.dtype).max
        if self._lut is None or self._average is None or _change(self._last, thumbnail) > _CUT:
            self.scenes += 1
            self._lut, self._average = new, thumbnail
        else:
            share = self._share(_change(self._average, thumbnail), time)
            self._lut = Lut3D.blend([self._lut, new], [1 - share, share])
            self._average = (1 - share) * self._average + share * thumbnail
        self._last, self._time = thumbnail, time
        return self._lut

    def _share(self, change: float, time: float) -> float:
        """Return the share of a frame in the average."""
        if self.smoothing == 0:
            return 1.0
        passed = max(0.0, time - self._time) / self.smoothing
        return -math.expm1(-passed - max(0.0, change - _TOLERANCE) / _HURRY)


def _change(before: NDArray[np.float64] | None, after: NDArray[np.float64]) -> float:
    """Return the mean difference of two thumbnails, relative to the brighter one's mean."""
    if before is None or before.shape != after.shape:
        return math.inf
    level = max(float(before.mean()), float(after.mean()), 0.02)
    return float(np.abs(after - before).mean()) / level


def retouch_clip(
    retoucher: Retoucher,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    smoothing: float = SMOOTHING,
    overwrite: bool = False,
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> ClipReport:
    """Retouch a video, whole or not at all; audio, subtitles and time stamps stay.

    Args:
        retoucher: Takes the look of each frame; it makes LUTs.
        source: The video to read.
        target: The file to write.
        smoothing: Seconds after which the look has followed a change by 63 percent; 0 for none.
        overwrite: Replace an existing file.
        allow_truncated: Use what can be read of a file that was cut off.
        max_pixels: Frames of more pixels are refused.
        progress: Called with the frames done and how many there probably are.

    Raises:
        UsageError: The retoucher makes no LUTs, or the seconds are negative.
        InputError: The video cannot be used, or is HDR, whose codes are no sRGB.
        OutputError: The file cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    look = SmoothLook(retoucher, smoothing)
    info = probe_video(source, allow_truncated=allow_truncated, distribution="lowvis-csrnet")
    if info.width * info.height > max_pixels:
        raise InputError(
            f"{source}: frames of {info.width}x{info.height} pixels are more than {max_pixels:,}",
            hint="--max-pixels takes more",
        )
    if info.color.transfer in _HDR:
        raise InputError(
            f"{source}: an HDR video ({_HDR[info.color.transfer]}), whose codes are no sRGB",
            hint="convert it to SDR (BT.709) first",
        )
    if info.color.primaries not in _SDR_PRIMARIES:
        logger.warning("%s: its primaries are not those of sRGB; they are taken as such", source)

    def work(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        for frame in frames:
            yield retoucher.apply(look.lut(frame.pixels, frame.time), frame.pixels)

    report = transform_video(
        source,
        target,
        work,
        overwrite=overwrite,
        allow_truncated=allow_truncated,
        progress=progress,
        distribution="lowvis-csrnet",
    )
    return ClipReport(report, look.scenes)
