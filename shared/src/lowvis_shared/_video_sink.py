"""A video written beside what is copied from another one. Used by `video` alone."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowvis_shared._video_color import BT709, FULL, LIMITED, UNSPECIFIED, usual_matrix
from lowvis_shared._video_source import Frame, VideoSource
from lowvis_shared.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.stream import Stream
    from av.video.format import VideoFormat
    from av.video.stream import VideoStream

_LOGGER = logging.getLogger("lowvis")


@dataclass(frozen=True, slots=True)
class Encoder:
    """How FFmpeg's encoder of one codec is used."""

    name: Literal["libx264", "libvpx-vp9"]
    codec: str
    crf: int
    """The constant rate factor at which no loss is seen."""
    largest_crf: int
    options: dict[str, str]
    lossless: dict[str, str]
    odd_chroma: bool
    """Whether sides may be odd where chroma is subsampled."""

    def pixel_formats(self, path: str | os.PathLike[str]) -> set[str]:
        """What it can encode; an OutputError that names the file where this PyAV lacks it."""
        from av.codec.codec import Codec, UnknownCodecError

        try:
            return {each.name for each in Codec(self.name, "w").video_formats or []}
        except UnknownCodecError as error:
            raise OutputError(
                f"{path}: this build of PyAV has no encoder {self.name}",
                hint="the wheels of PyAV have it: pip install --force-reinstall av",
            ) from error


H264 = Encoder("libx264", "h264", 16, 51, {"preset": "medium"}, {"qp": "0"}, odd_chroma=False)
VP9 = Encoder(
    "libvpx-vp9",
    "vp9",
    16,
    63,
    {"deadline": "good", "cpu-used": "2", "row-mt": "1"},
    {"lossless": "1"},
    odd_chroma=True,
)

# What describes the file that was read, and not the video in it.
_OWN_METADATA = {
    "compatible_brands",
    "duration",
    "encoder",
    "major_brand",
    "minor_version",
    "number_of_bytes",
    "number_of_frames",
    "rotate",
    "bps",
}


@dataclass(slots=True)
class VideoSink:
    """One run of ``transform_video``: what it writes, and what it tells at the end."""

    video: VideoSource
    target: str | os.PathLike[str]
    container_format: str
    encoder: Encoder
    crf: int | None
    frames: int = 0
    size: tuple[int, int] = (0, 0)
    pixel_format: str = ""
    copied: list[str] = field(default_factory=list[str])
    left_out: list[str] = field(default_factory=list[str])
    _full: bool = False
    _matrix: int = BT709
    _stream: "VideoStream | None" = None
    _copies: "dict[int, Stream]" = field(default_factory=dict[int, "Stream"])

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= self.encoder.largest_crf:
            raise UsageError(
                f"the constant rate factor of {self.encoder.name} is 0 to "
                f"{self.encoder.largest_crf}, not {self.crf}"
            )

    def write(
        self,
        path: Path,
        function: Callable[[Iterator[Frame]], Iterator[NDArray[Any]]],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Write the whole file.

        Raises:
            OutputError: The container or the encoder refuses something.
            OSError: The file cannot be written to.
        """
        import av
        from av.error import FFmpegError

        try:
            output = av.open(
                str(path),
                "w",
                format=self.container_format,
                container_options=self._container_options(),
            )
            try:
                self._transform(output, function, progress)
                output.close()
            except BaseException:
                with suppress(FFmpegError):
                    output.close()
                raise
        except FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise OutputError(f"{self.target}: cannot be written: {error}") from error

    def _container_options(self) -> dict[str, str]:
        if self.container_format not in {"mp4", "mov"}:
            return {}
        # The start of a stream is kept in this clock, which has milliseconds by default. The clock
        # of the stream itself is made finer than 10000 in the same way.
        clock = self.video.time_base.denominator
        while clock < 10_000:
            clock *= 2
        # With the index in front, a player starts before it has all of the file.
        return {"movflags": "+faststart", "movie_timescale": str(clock)}

    def _transform(
        self,
        output: "OutputContainer",
        function: Callable[[Iterator[Frame]], Iterator[NDArray[Any]]],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        waiting: deque[av.VideoFrame] = deque()  # taken by the function and not yet answered

        def take() -> Iterator[Frame]:
            for frame, planar in self.video.frames():
                waiting.append(planar)
                yield frame

        frames = take()
        first_dts: int | None = None
        begin = end = 0
        expected = self._expected_frames()
        for picture in function(frames):
            if not waiting:
                raise UsageError(
                    f"{self.video.path}: more pictures were made than the {self.frames} frames "
                    "that were taken"
                )
            planar = waiting.popleft()
            self._check(picture)
            stream = self._stream or self._start(output, picture)
            frame = self.video.planar.write(
                picture,
                planar,
                self.pixel_format,
                matrix=self._matrix,
                full=self._full,
                depth=self._depth,
            )
            packets = stream.encode(frame)
            begin = begin if self.frames else planar.pts or 0
            end = (planar.pts or 0) + planar.duration
            first_dts = packets[0].dts if first_dts is None and packets else first_dts
            output.mux(packets)
            self._copy_packets(output)
            self.frames += 1
            if progress is not None:
                progress(self.frames, max(self.frames, expected))
        missing = len(waiting) + sum(1 for _ in frames)
        if missing or self._stream is None:
            raise UsageError(
                f"{self.video.path}: {self.frames} pictures were made of {self.frames + missing} "
                "frames"
            )
        packets = self._stream.encode(None)
        if packets and packets[-1].dts is not None and self.container_format in {"mp4", "mov"}:
            # The length of a track is counted in decoding order there, whose last frame is often
            # not the last one shown.
            first_dts = packets[0].dts if first_dts is None else first_dts
            packets[-1].duration = (end - begin) - (packets[-1].dts - (first_dts or 0))
        output.mux(packets)
        self._copy_packets(output)

    @property
    def _depth(self) -> int:
        return 10 if self.video.info.bit_depth > 8 else 8

    def _expected_frames(self) -> int:
        info = self.video.info
        if info.frames is not None:
            return info.frames
        return round((info.duration or 0) * (info.frame_rate or 0))

    def _check(self, picture: NDArray[Any]) -> None:
        if (
            picture.ndim != 3
            or picture.shape[2] != 3
            or picture.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}
        ):
            raise InputError(
                f"{self.video.path}: picture {self.frames} has shape {picture.shape} and type "
                f"{picture.dtype}; (H, W, 3) of uint8 or uint16 is wanted"
            )
        if self._stream is not None and picture.shape[:2] != self.size:
            raise InputError(
                f"{self.video.path}: picture {self.frames} has {picture.shape[1]} x "
                f"{picture.shape[0]} pixels and the first one {self.size[1]} x {self.size[0]}"
            )

    # --- The header ------------------------------------------------------------------------------

    def _start(self, output: "OutputContainer", picture: NDArray[Any]) -> "VideoStream":
        """Create all streams, in the order of the source; the first packet writes the header."""
        height, width = picture.shape[:2]
        self.size = height, width
        self.pixel_format = self._choose_pixel_format()
        self._warn_of_losses()
        video = self.video.stream
        before = [each for each in self.video.streams if each.index < video.index]
        for source in before:
            self._add_copy(output, source)
        self._stream = self._add_video(output, width, height)
        for source in self.video.streams[len(before) :]:
            self._add_copy(output, source)
        for source in self.video.left_out:
            self._leave_out(source, "it is not copied")
        output.metadata.update(_kept_metadata(self.video.container.metadata))
        output.set_chapters(self.video.container.chapters())
        return self._stream

    def _add_video(self, output: "OutputContainer", width: int, height: int) -> "VideoStream":
        info, planar = self.video.info, self.video.planar
        lossless = self.crf == 0
        stream = output.add_stream(
            self.encoder.name,
            rate=info.frame_rate or Fraction(25),
            width=width,
            height=height,
            time_base=self.video.time_base,
            options=self.encoder.options
            | (self.encoder.lossless if lossless else {"crf": str(self.crf or self.encoder.crf)}),
        )
        context = stream.codec_context
        context.pix_fmt = self.pixel_format
        if info.sample_aspect_ratio != 1:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        changed = planar.rgb or planar.gray  # into what players know: BT.709 or BT.601, limited
        self._matrix = usual_matrix(width, height) if changed else planar.matrix
        self._full = planar.full and not changed
        # A matrix that is not named is guessed from the size, so it is named if the guess changes.
        unnamed = info.color.matrix == UNSPECIFIED and not changed
        guessed = unnamed and usual_matrix(width, height) == self._matrix
        context.colorspace = UNSPECIFIED if guessed else self._matrix
        unnamed_range = info.color.range not in {LIMITED, FULL} and not self._full and not changed
        context.color_range = 0 if unnamed_range else (FULL if self._full else LIMITED)
        context.color_primaries = info.color.primaries
        context.color_trc = info.color.transfer
        _carry(self.video.stream, stream)
        return stream

    def _add_copy(self, output: "OutputContainer", source: "Stream") -> None:
        copy = None
        if source.type != "attachment" or self.container_format == "matroska":
            with suppress(ValueError):  # the container does not know the codec
                copy = output.add_stream_from_template(source)
        if copy is None:
            self._leave_out(source, f"{Path(self.target).suffix} files cannot hold it")
            return
        _carry(source, copy)
        self._copies[source.index] = copy
        self.copied.append(_describe(source))

    def _leave_out(self, source: "Stream", reason: str) -> None:
        name = _describe(source)
        self.left_out.append(name)
        _LOGGER.warning("%s: %s of %s is left out: %s", self.target, name, self.video.path, reason)

    def _copy_packets(self, output: "OutputContainer") -> None:
        while self.video.packets:
            packet = self.video.packets.popleft()
            copy = self._copies.get(packet.stream.index)
            if copy is not None:
                packet.stream = copy
                output.mux(packet)

    def _choose_pixel_format(self) -> str:
        layout: VideoFormat = self.video.planar.layout
        height, width = self.size
        half_width = layout.chroma_width(64) < 64 or self.video.planar.gray
        half_height = layout.chroma_height(64) < 64 or self.video.planar.gray
        if self.video.planar.rgb or not half_width:
            chroma = "444"
        else:
            chroma = "420" if half_height else "422"
        odd = (chroma != "444" and width % 2) or (chroma == "420" and height % 2)
        if odd and not self.encoder.odd_chroma:
            # Padding would change the size, cropping would lose a line. 4:4:4 does neither.
            chroma = "444"
            _LOGGER.warning(
                "%s: %d x %d pixels have an odd side, so it is written in 4:4:4, which not every "
                "player shows",
                self.target,
                width,
                height,
            )
        name = f"yuv{chroma}p" + ("10le" if self._depth == 10 else "")
        if name not in self.encoder.pixel_formats(self.target):
            raise OutputError(
                f"{self.target}: {self.encoder.name} of this PyAV cannot write {self._depth} bits "
                f"in 4:{chroma[1]}:{chroma[2]}",
                hint="write an .mp4, .mov or .mkv instead",
            )
        return name

    def _warn_of_losses(self) -> None:
        if self.video.info.bit_depth > 10:
            _LOGGER.warning(
                "%s: its %d bits are rounded to 10", self.target, self.video.info.bit_depth
            )
        if self.video.planar.alpha:
            _LOGGER.warning("%s: the alpha channel is left out", self.target)
        if self.encoder is VP9 and self.video.info.sample_aspect_ratio != 1:
            # VP9 has no place for it, and PyAV does not write that of the container.
            _LOGGER.warning("%s: its pixels are no squares, which is not kept", self.target)
        if self.video.interlaced:
            _LOGGER.warning("%s: its fields are written as whole frames", self.target)


def _carry(source: "Stream", made: "Stream") -> None:
    """Give a stream the language, title and purpose of the one that it comes from."""
    made.disposition = source.disposition
    made.metadata.update(_kept_metadata(source.metadata))


def _kept_metadata(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower().partition("-")[0] not in _OWN_METADATA and not key.startswith("_STATISTICS")
    }


def _describe(stream: "Stream") -> str:
    # PyAV's types leave out that a stream without a decoder has no codec context.
    context: Any = stream.codec_context
    codec = stream.name if context is None else context.codec.canonical_name
    return f"{stream.type} stream {stream.index}" + (f" ({codec})" if codec else "")
