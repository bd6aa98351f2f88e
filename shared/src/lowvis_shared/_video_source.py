"""A video file opened, its faults found, its frames decoded in order. Used by `video` alone."""

import importlib
import logging
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from lowvis_shared._video_color import ColorTags, PlanarVideo
from lowvis_shared.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

_LOGGER = logging.getLogger("lowvis")

# Playlists, subtitles and picture sequences open other files, even on the network: a video from a
# stranger must not. What is not named here is not read.
_DEMUXERS = (
    "3g2,3gp,asf,avi,dv,flv,h264,hevc,ivf,m4a,m4v,matroska,mj2,mov,mp4,mpeg,mpegts,mpegvideo,mxf,"
    "nut,ogg,webm,yuv4mpegpipe"
)


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file holds, as told by its header and its first frame."""

    width: int
    """Of the upright frame, as `height`: after the rotation."""
    height: int
    frame_rate: Fraction | None
    """Frames a second, on average."""
    frames: int | None
    """``None`` where the container does not count them, as in MKV and WebM."""
    duration: float | None
    """Seconds."""
    rotation: int
    """Degrees clockwise by which stored frames are turned to stand upright: 0, 90, 180 or 270."""
    bit_depth: int
    codec: str
    pixel_format: str
    """How FFmpeg calls it, such as ``yuv420p``."""
    color: ColorTags
    sample_aspect_ratio: Fraction
    """Width of an upright pixel by its height."""
    audio_streams: int
    subtitle_streams: int


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One upright frame of a video.

    `pixels` are RGB, (H, W, 3), and the reader's own: uint8, or uint16 with the full range
    0..65535 where the video has more than 8 bits.
    """

    pixels: NDArray[Any]
    index: int
    pts: int
    """When it is shown, counted in `time_base`."""
    time_base: Fraction

    @property
    def time(self) -> float:
        """When it is shown, in seconds."""
        return float(self.pts * self.time_base)


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored frame is turned to stand upright: one of the eight that a matrix can say."""

    degrees: int = 0
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Turn an (H, W, 3) array upright."""
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        pixels = pixels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return np.ascontiguousarray(pixels)


class VideoSource:
    """An open video file: `info`, and its frames once, in order.

    Args:
        path: The file.
        distribution: The package whose extra ``video`` is named where PyAV is missing.
        allow_truncated: Use what is there of a file that was cut off or is damaged.
        copy: Keep the packets of audio and subtitles in `packets` as they come by.

    Raises:
        InputError: The file is missing, empty, no video, without a frame, truncated or damaged.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        distribution: str,
        allow_truncated: bool = False,
        copy: bool = False,
    ) -> None:
        require_av(distribution)
        self.path = path
        self.packets: deque[av.Packet[Stream]] = deque()
        self.streams: list[Stream] = []
        self.left_out: list[Stream] = []
        self._allow_truncated = allow_truncated
        _check_file(path, allow_truncated=allow_truncated)
        self.container = _open_container(path)
        try:
            self.stream = self._choose_streams(copy=copy)
            self.time_base = self.stream.time_base or Fraction(1, 90_000)
            self._decoded = self._decode()
            self.first = first = self._decode_first()
            self.orientation = _orientation(first, path)
            self.interlaced = first.interlaced_frame
            self.info = self._describe(first)
            self.planar = PlanarVideo(first, self.info.color, str(path))
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.container.close()

    def frames(self) -> Iterator[tuple[Frame, "av.VideoFrame"]]:
        """Each frame with the planar one that it was made from, which keeps all else it carries.

        Time stamps increase strictly; one that is missing or goes back is mended (logged once).
        """
        time_base = self.time_base
        rate = self.info.frame_rate
        step = max(1, round(1 / (rate * time_base))) if rate else 1
        last: int | None = None
        mended = False
        picture: av.VideoFrame | None = self.first
        index = 0
        while picture is not None:
            pts = picture.pts
            if pts is None or (last is not None and pts <= last):
                pts = 0 if last is None else last + (step if pts is None else 1)
                if not mended and last is not None:
                    _LOGGER.warning("%s: time stamps are missing or go back: mended", self.path)
                mended = True
            last = pts
            planar, pixels = self.planar.read(picture)
            planar.pts, planar.time_base, planar.duration = pts, time_base, picture.duration or step
            yield Frame(self.orientation.apply(pixels), index, pts, time_base), planar
            index += 1
            picture = next(self._decoded, None)

    def _choose_streams(self, *, copy: bool) -> "VideoStream":
        from av.codec.context import ThreadType
        from av.stream import Discard, Disposition

        def is_picture(stream: "Stream") -> bool:
            return bool(stream.disposition & (Disposition.attached_pic | Disposition.still_image))

        videos = [each for each in self.container.streams.video if not is_picture(each)]
        if not videos:
            kinds = sorted({each.type for each in self.container.streams})
            raise InputError(
                f"{self.path}: no video stream in it ({', '.join(kinds) or 'nothing'})"
            )
        chosen = videos[0]
        if len(videos) > 1:
            _LOGGER.warning("%s: %d video streams, the first one is used", self.path, len(videos))
        # PyAV's types leave out that a stream without a decoder has no codec context.
        context: Any = chosen.codec_context
        if context is None:
            raise InputError(f"{self.path}: this PyAV has no decoder for its video stream")
        # Decoding several frames at once loses good ones when a damaged one is among them, and
        # several slices at once does not tell which frames are damaged.
        chosen.thread_type = ThreadType.NONE if self._allow_truncated else ThreadType.AUTO
        if copy:
            kept = {"audio", "subtitle", "attachment"}
            # FFmpeg discards what it has understood by itself: the chapters of an MP4.
            others = [
                each
                for each in self.container.streams
                if each is not chosen and each.discard != Discard.all
            ]
            self.streams = [each for each in others if each.type in kept]
            self.left_out = [each for each in others if each.type not in kept]
        return chosen

    def _decode_first(self) -> "av.VideoFrame":
        first = next(self._decoded, None)
        if first is None:
            raise InputError(f"{self.path}: the video stream holds no frames")
        return first

    def _decode(self) -> Iterator["av.VideoFrame"]:
        """Decode the video; what belongs to other streams goes to `packets` meanwhile."""
        from av.error import FFmpegError

        wanted = [each for each in (self.stream, *self.streams) if each.type != "attachment"]
        packets = self.container.demux(*wanted)
        count = 0
        ended = False
        while not ended:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self._report_damage(count, error)
                packet = None
            ended = packet is None
            if packet is not None and packet.is_corrupt:
                self._report_damage(count)
            if packet is not None and packet.stream.index != self.stream.index:
                if packet.size and not packet.is_corrupt:  # an empty one marks the end of a stream
                    self.packets.append(packet)
                continue
            try:
                # after the last packet nothing is left in the decoder, unless reading failed
                pictures = self.stream.decode(packet)
            except EOFError:
                pictures = []
            except FFmpegError as error:
                self._report_damage(count, error)
                pictures = []
            for picture in pictures:
                if picture.is_corrupt:
                    self._report_damage(count)
                yield picture
                count += 1

    def _report_damage(self, frame: int, error: Exception | None = None) -> None:
        reason = getattr(error, "strerror", None)
        message = f"{self.path}: damaged or truncated at frame {frame}"
        message += f" ({reason})" if reason else ""
        if not self._allow_truncated:
            raise InputError(message, hint=_TRUNCATED_HINT) from error
        _LOGGER.warning("%s, going on with what can be read", message)

    def _describe(self, first: "av.VideoFrame") -> VideoInfo:
        stream, context = self.stream, self.stream.codec_context
        width, height = first.width, first.height
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if self.orientation.transpose:
            width, height, aspect = height, width, 1 / aspect
        duration = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif self.container.duration is not None:
            duration = self.container.duration / 1e6
        return VideoInfo(
            width=width,
            height=height,
            frame_rate=stream.average_rate or stream.guessed_rate,
            frames=stream.frames or None,
            duration=duration,
            rotation=self.orientation.degrees,
            bit_depth=max(each.bits for each in first.format.components),
            codec=context.codec.canonical_name,
            pixel_format=first.format.name,
            color=ColorTags(
                range=first.color_range or context.color_range,
                matrix=first.colorspace,
                primaries=context.color_primaries,
                transfer=context.color_trc,
            ),
            sample_aspect_ratio=aspect,
            audio_streams=len(self.container.streams.audio),
            subtitle_streams=len(self.container.streams.subtitles),
        )


def require_av(distribution: str) -> None:
    """Refuse to go on without PyAV, naming the package whose extra ``video`` has it."""
    try:
        importlib.import_module("av")
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise MissingExtraError(distribution, "video") from error


def _open_container(path: str | os.PathLike[str]) -> "InputContainer":
    import av
    from av.error import FFmpegError

    try:
        # "file:" keeps a name such as "a:b.mp4" from being taken for a protocol.
        return av.open(
            f"file:{os.fspath(path)}",
            container_options={"protocol_whitelist": "file", "format_whitelist": _DEMUXERS},
            metadata_errors="replace",
        )
    except FFmpegError as error:
        with Path(path).open("rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp":
            raise InputError(
                f"{path}: truncated or damaged: the index that tells where frames lie is missing",
                hint="copy or record it again",
            ) from error
        if isinstance(error, EOFError):
            raise InputError(f"{path}: the file ends before its first frame") from error
        raise InputError(
            f"{path}: not a video, or of a kind that is not supported ({error.strerror})"
        ) from error


# --- Faults that show before decoding ------------------------------------------------------------

_TRUNCATED_HINT = "copy it again, or pass --allow-truncated to use what is there"


def _check_file(path: str | os.PathLike[str], *, allow_truncated: bool) -> None:
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: a device, not a file")
        if status.st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes)")
        with Path(path).open("rb") as file:
            declared = _declared_size(file, status.st_size)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from error
    if declared > status.st_size:
        message = f"{path}: truncated: {status.st_size:,} of {declared:,} bytes are there"
        if not allow_truncated:
            raise InputError(message, hint=_TRUNCATED_HINT)
        _LOGGER.warning("%s, used as far as they go", message)


def _declared_size(file: BinaryIO, size: int) -> int:
    """How long a video file says it is; its real size where it does not say.

    FFmpeg reads a file that was cut off up to its end without a word, so its own count of bytes is
    the only witness.
    """
    head = file.read(12)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_size(file, size)
    if head[:4] == b"RIFF":
        return _chunks_size(file, size, big_endian=False)
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}:
        return _chunks_size(file, size, big_endian=True)
    return size


def _chunks_size(file: BinaryIO, size: int, *, big_endian: bool) -> int:
    """The end of the boxes of MP4 and MOV, or of the chunks of AVI, which follow each other."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(16)
        kind = head[4:8] if big_endian else head[:4]
        if len(head) < 8 or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind):
            return size  # something else behind the video, such as padding
        if big_endian:
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:  # 0: up to the end of the file
                return size
        else:
            length = int.from_bytes(head[4:8], "little")
            length += 8 + length % 2
        end += length
    return end


def _matroska_size(file: BinaryIO, size: int) -> int:
    """The end of the segment, which holds all of an MKV or WebM file behind a short header."""
    position, end = 4, size
    for _ in range(2):
        file.seek(position)
        first = file.read(1)
        if not first or first[0] == 0:
            return size
        more = 8 - first[0].bit_length()  # leading zero bits tell how many bytes follow
        value = int.from_bytes(first + file.read(more), "big") & ((1 << (7 * (more + 1))) - 1)
        if value == (1 << (7 * (more + 1))) - 1:  # unknown: written to a pipe
            return size
        end = position + 1 + more + value
        position = end + 4  # behind the identifier of the next element
    return end


def _orientation(frame: "av.VideoFrame", path: str | os.PathLike[str]) -> Orientation:
    """Read the display matrix: x' = a x + c y, y' = b x + d y."""
    from av.sidedata.sidedata import Type

    try:
        # PyAV's types know one kind of side data only.
        data: Any = frame.side_data[Type.DISPLAYMATRIX]  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType, reportCallIssue]
    except KeyError:
        return Orientation()
    matrix = np.frombuffer(bytes(data), np.int32)[:6] / 65536
    a, b, c, d = (round(float(matrix[i])) for i in (0, 1, 3, 4))
    if not np.allclose(matrix[[0, 1, 3, 4]], (a, b, c, d), atol=1e-3) or abs(a * d - b * c) != 1:
        _LOGGER.warning("%s: its rotation is no multiple of 90 degrees and not applied", path)
        return Orientation()
    degrees = -frame.rotation % 360
    if a == 0:
        return Orientation(degrees, transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(degrees, flip_rows=d < 0, flip_columns=a < 0)
