"""Videos read and written without losing time stamps, audio, depth or color tags.

::

    def retouch(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        for frame in frames:
            yield brighten(frame.pixels)

    transform_video("clip.mov", "retouched.mp4", retouch)

What is done with what is in a file:

========================  ==========================================================
in the file               in the result
========================  ==========================================================
time stamps               kept one by one, also at a variable frame rate; MKV and WebM
                          round them to their milliseconds
frames                    as many as there were, or an error
8 bits; more              8 bits; 10 bits
4:2:0, 4:2:2, 4:4:4       kept; an odd side in H.264 makes it 4:4:4, which alone has odd sides
color tags                kept; RGB and gray become BT.709 (HD) or BT.601, limited range
rotation, mirroring       applied and reset
audio, subtitles          copied, or left out where the container cannot hold them (logged)
metadata, chapters        kept
several video streams     the first one (logged); cover pictures and data are left out (logged)
========================  ==========================================================

PyAV is needed only once a video is opened: the extra ``video``.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lowvis_shared._video_color import ColorTags
from lowvis_shared._video_sink import H264, VP9, VideoSink
from lowvis_shared._video_source import Frame, VideoInfo, VideoSource, require_av
from lowvis_shared.errors import OutputError
from lowvis_shared.files import atomic_write, check_output

__all__ = [
    "VIDEO_OUTPUT_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ColorTags",
    "Frame",
    "VideoFunction",
    "VideoInfo",
    "VideoReport",
    "check_video_writable",
    "probe_video",
    "read_frames",
    "transform_video",
]

_FORMATS = {
    ".m4v": ("mp4", H264),
    ".mkv": ("matroska", H264),
    ".mov": ("mov", H264),
    ".mp4": ("mp4", H264),
    ".webm": ("webm", VP9),
}

VIDEO_OUTPUT_SUFFIXES: frozenset[str] = frozenset(_FORMATS)
"""The suffixes, in lower case, that ``transform_video`` writes."""

VIDEO_SUFFIXES: frozenset[str] = VIDEO_OUTPUT_SUFFIXES | frozenset(
    [".3gp", ".avi", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".wmv"]
)
"""The suffixes, in lower case, by which videos are found in a folder."""

VideoFunction = Callable[[Iterator[Frame]], Iterator[NDArray[Any]]]
"""Takes the frames of a video in order and yields one picture for each, in the same order."""


@dataclass(frozen=True, slots=True)
class VideoReport:
    """What ``transform_video`` wrote."""

    source: VideoInfo
    frames: int
    width: int
    height: int
    codec: str
    pixel_format: str
    copied: tuple[str, ...]
    """The streams that were copied, such as ``"audio stream 1 (aac)"``."""
    left_out: tuple[str, ...]
    """The streams that were not."""


def probe_video(
    path: str | os.PathLike[str],
    *,
    allow_truncated: bool = False,
    distribution: str = "lowvis-shared",
) -> VideoInfo:
    """Describe a video from its header and its first frame, whatever its name.

    Raises:
        InputError: As ``read_frames``.
        MissingExtraError: PyAV is not installed.
    """
    with VideoSource(path, distribution=distribution, allow_truncated=allow_truncated) as video:
        return video.info


def read_frames(
    path: str | os.PathLike[str],
    *,
    allow_truncated: bool = False,
    distribution: str = "lowvis-shared",
) -> Generator[Frame]:
    """Yield the frames of a video in order, upright, as RGB by the matrix and range it names.

    The file is opened for the first frame and closed behind the last, or with the generator.

    Args:
        path: The file.
        allow_truncated: Use what can be read of a file that was cut off or is damaged, with a
            logged warning.
        distribution: The package whose extra ``video`` is named where PyAV is missing.

    Raises:
        InputError: The file is missing, empty, no video, without a frame, truncated or damaged.
        MissingExtraError: PyAV is not installed.
    """
    with VideoSource(path, distribution=distribution, allow_truncated=allow_truncated) as video:
        for frame, _ in video.frames():
            yield frame


def check_video_writable(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    source: str | os.PathLike[str] | None = None,
    distribution: str = "lowvis-shared",
) -> None:
    """Refuse an output that ``transform_video`` would refuse, before any work is done.

    Raises:
        OutputError: The suffix is none that can be written, this PyAV lacks the encoder, the
            output is the input, exists without ``overwrite``, or its folder cannot be written to.
        MissingExtraError: PyAV is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        named = f"the suffix '{suffix}' is not one that can be written" if suffix else "no suffix"
        raise OutputError(f"{path}: {named}", hint=f"use one of {', '.join(sorted(_FORMATS))}")
    if source is not None and not overwrite:
        with suppress(OSError, ValueError):
            if Path(path).samefile(source):
                raise OutputError(
                    f"{path}: the output is the input itself",
                    hint="choose another name, or pass --overwrite to replace it",
                )
    check_output(path, overwrite=overwrite)
    require_av(distribution)
    _FORMATS[suffix][1].pixel_formats(path)


def transform_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    function: VideoFunction,
    *,
    overwrite: bool = False,
    crf: int | None = None,
    allow_truncated: bool = False,
    progress: Callable[[int, int], None] | None = None,
    distribution: str = "lowvis-shared",
) -> VideoReport:
    """Write a video, whole or not at all, whose pictures a function makes of another one's frames.

    The function may look ahead: frames are decoded when it asks for them, and memory grows only
    with those it has taken and not yet answered. The table at the top of this module says what
    becomes of everything else in the file.

    Args:
        source: The video to read.
        target: The file to write, H.264 or (``.webm``) VP9; its folder is created when missing.
        function: Yields as many pictures as there are frames: RGB, (H, W, 3), uint8 or uint16 of
            the full range, all of one size, which need not be that of the frames.
        overwrite: Replace an existing file.
        crf: The constant rate factor of the encoder: less is better and larger, 0 is lossless
            but for the rounding of colors; by default one at which no loss is seen.
        allow_truncated: As in ``read_frames``.
        progress: Called with the frames done and how many there probably are.
        distribution: As in ``read_frames``.

    Raises:
        InputError: As ``read_frames``, or a picture is of another kind or size than it must be.
        OutputError: As ``check_video_writable``, the container or encoder cannot hold the video,
            or the disk is full.
        UsageError: The function yields more or fewer pictures than there are frames.
        MissingExtraError: PyAV is not installed.
    """
    check_video_writable(target, overwrite=overwrite, source=source, distribution=distribution)
    container_format, encoder = _FORMATS[Path(target).suffix.lower()]
    with VideoSource(
        source, distribution=distribution, allow_truncated=allow_truncated, copy=True
    ) as video:
        sink = VideoSink(video, target, container_format, encoder, crf)
        # By its name and not through Python: at the end, the index is moved to the front.
        atomic_write(
            target,
            lambda file: sink.write(Path(file.name), function, progress),
            overwrite=overwrite,
        )
        return VideoReport(
            source=video.info,
            frames=sink.frames,
            width=sink.size[1],
            height=sink.size[0],
            codec=encoder.codec,
            pixel_format=sink.pixel_format,
            copied=tuple(sink.copied),
            left_out=tuple(sink.left_out),
        )
