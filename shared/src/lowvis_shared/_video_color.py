"""The colors of video: planes of Y, Cb and Cr to RGB and back. Used by `video` alone.

FFmpeg resamples the chroma and changes the depth; the matrix is applied here. Its own conversion
puts 16-bit white at 65280 and shifts full-range chroma by half a code.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lowvis_shared.errors import InputError

if TYPE_CHECKING:
    import av

LIMITED, FULL = 1, 2
UNSPECIFIED = 2
BT709 = 1

# Kr and Kb of ITU-T H.273, table 4
_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
_RGB = 0
# how PyAV's reformatter calls the matrices
_REFORMATTER_CODES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}


@dataclass(frozen=True, slots=True)
class ColorTags:
    """The color tags of a video, in the codes of ITU-T H.273 (2: unspecified)."""

    range: int
    """1: limited, 2: full, 0: unspecified."""
    matrix: int
    """1: BT.709, 5 and 6: BT.601, 9: BT.2020, 0: RGB."""
    primaries: int
    transfer: int


def usual_matrix(width: int, height: int) -> int:
    """The matrix that players assume where none is named: BT.709 from HD on, BT.601 below."""
    return BT709 if width >= 1280 or height > 576 else 6


class PlanarVideo:
    """Reads the frames of one video as RGB, and puts pictures back into frames.

    Args:
        first: The first frame, as decoded.
        tags: The color tags of the video.
        name: The file, for messages.

    Raises:
        InputError: The matrix is none that is known (YCgCo, ICtCp …).
    """

    def __init__(self, first: "av.VideoFrame", tags: ColorTags, name: str) -> None:
        self.layout = layout = first.format
        self.alpha = any(each.is_alpha for each in layout.components)
        self.gray = len(layout.components) - self.alpha == 1 and not layout.has_palette
        self.rgb = layout.is_rgb or layout.has_palette
        self.depth = max(each.bits for each in layout.components)
        self.matrix = tags.matrix
        if self.rgb or self.matrix in {UNSPECIFIED, _RGB}:
            self.matrix = usual_matrix(first.width, first.height)
        if self.matrix not in _WEIGHTS:
            raise InputError(
                f"{name}: its color matrix (code {self.matrix} of H.273) is not supported",
                hint="convert it to BT.709 with another program first",
            )
        implied_full = self.gray or layout.name.startswith("yuvj")
        self.full = tags.range == FULL or (tags.range not in {LIMITED, FULL} and implied_full)
        wide = self.depth > 8
        if self.rgb:
            self._format = "rgb48le" if wide else "rgb24"
        elif self.gray:
            self._format = "gray16le" if wide else "gray"
        elif layout.name.startswith("yuvj"):
            self._format = "yuvj444p"
        else:
            self._format = "yuv444p16le" if wide else "yuv444p"
        self._from_planes = np.linalg.inv(_to_planes(self.matrix, self.full, self.depth))
        self._reader, self._sizer, self._writer = (_Resampler(self.matrix) for _ in range(3))

    def read(self, picture: "av.VideoFrame") -> tuple["av.VideoFrame", NDArray[Any]]:
        """Return a decoded frame with all planes at full size, and its pixels as RGB."""
        planar = self._reader(picture, self._format)
        planes = _planes(planar)
        if self.rgb:
            return planar, planes[0].reshape(planar.height, planar.width, 3).copy()
        if self.gray:
            middle = np.full_like(planes[0], 1 << (8 * planes[0].itemsize - 1))
            planes = [planes[0], middle, middle]
        codes = cv2.merge(planes).astype(np.float32)
        rgb = cv2.transform(codes, self._from_planes[:3].astype(np.float32))
        return planar, _quantize(rgb, planes[0].dtype)

    def write(
        self,
        pixels: NDArray[Any],
        planar: "av.VideoFrame",
        pixel_format: str,
        *,
        matrix: int,
        full: bool,
        depth: int,
    ) -> "av.VideoFrame":
        """Return RGB pixels as a frame to encode, with the time and all else that `planar` has."""
        height, width = pixels.shape[:2]
        wide = depth > 8
        # Only what comes with the frame is wanted of this: where its chroma lies, its captions.
        carrier = self._sizer(planar, "yuv444p16le" if wide else "yuv444p", width, height)
        carrier.make_writable()
        scale = np.iinfo(np.uint16 if wide else np.uint8).max / np.iinfo(pixels.dtype).max
        to_planes = _to_planes(matrix, full, depth)[:3]
        to_planes[:, :3] *= scale
        step = 1 << (16 - depth) if wide else 1
        codes = cv2.transform(pixels.astype(np.float32), (to_planes / step).astype(np.float32))
        dtype = np.dtype(np.uint16 if wide else np.uint8)
        codes = _quantize(codes, dtype, limit=(1 << depth) - 1)
        for index, plane in enumerate(_planes(carrier)):
            np.multiply(codes[..., index], step, out=plane, casting="unsafe")
        frame = self._writer(carrier, pixel_format)
        frame.pts, frame.time_base = planar.pts, planar.time_base
        frame.duration = planar.duration
        frame.pict_type = 0  # the encoder decides anew which frames are key frames
        return frame


class _Resampler:
    """Changes the layout of planes, and nothing about the colors in them."""

    def __init__(self, matrix: int) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._reformatter = VideoReformatter()
        self._matrix = _REFORMATTER_CODES[matrix]
        # Of all filters, this one changes the chroma of an untouched video least.
        self._interpolation = (
            Interpolation.LANCZOS
            | Interpolation.ACCURATE_RND
            | Interpolation.FULL_CHR_H_INT
            | Interpolation.FULL_CHR_H_INP
        )

    def __call__(
        self,
        frame: "av.VideoFrame",
        pixel_format: str,
        width: int | None = None,
        height: int | None = None,
    ) -> "av.VideoFrame":
        # The same range on both sides: a change of depth is then a shift of bits.
        color_range = FULL if pixel_format.startswith("yuvj") else LIMITED
        return self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=pixel_format,
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            src_color_range=color_range,
            dst_color_range=color_range,
            interpolation=self._interpolation,
        )


def _to_planes(matrix: int, full: bool, depth: int) -> NDArray[np.float64]:
    """The affine map, (4, 4), from RGB of the full range to codes of Y, Cb and Cr.

    Both have 8 bits, or 16 where `depth` is more than 8; H.273, equations 20 to 27 and 38 to 40.
    """
    red, blue = _WEIGHTS[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    rows = np.stack(
        [
            luma,
            (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)),
            (np.array([1, 0, 0]) - luma) / (2 * (1 - red)),
        ]
    )
    bits = 16 if depth > 8 else 8
    unit = 1 << (bits - 8)
    span = ((1 << depth) - 1) << (bits - depth)
    scales = np.array([span] * 3) if full else np.array([219, 224, 224]) * unit
    result = np.eye(4)
    result[:3, :3] = rows * scales[:, None] / ((1 << bits) - 1)
    result[:3, 3] = np.array([0 if full else 16, 128, 128]) * unit
    return result


def _quantize(values: NDArray[Any], dtype: np.dtype[Any], limit: int | None = None) -> NDArray[Any]:
    np.rint(values, out=values)
    np.clip(values, 0, np.iinfo(dtype).max if limit is None else limit, out=values)
    return values.astype(dtype)


def _planes(frame: "av.VideoFrame") -> list[NDArray[Any]]:
    """The planes of a frame as arrays that share its memory, without the padding of rows."""
    dtype = np.dtype("<u2" if frame.format.name.endswith("le") else np.uint8)
    samples = 3 if frame.format.is_rgb else 1
    return [
        np.frombuffer(memoryview(plane), dtype).reshape(
            frame.height, plane.line_size // dtype.itemsize
        )[:, : frame.width * samples]
        for plane in frame.planes
    ]
