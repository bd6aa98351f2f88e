import logging
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from lowvis_shared.errors import InputError, MissingExtraError, OutputError, UsageError
from lowvis_shared.testing import asset_path
from lowvis_shared.video import (
    VIDEO_OUTPUT_SUFFIXES,
    VIDEO_SUFFIXES,
    ColorTags,
    Frame,
    probe_video,
    read_frames,
    transform_video,
)
from numpy.typing import NDArray

WIDTH, HEIGHT, COUNT = 48, 32, 8
UNTAGGED = ColorTags(range=0, matrix=2, primaries=2, transfer=2)


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Smooth colors that move, no two sides alike."""
    y, x = np.mgrid[:height, :width].astype(float)
    red = 128 + 80 * np.sin(x / 9 + index / 3)
    green = 40 + 150 * y / height + index
    blue = 128 + 60 * np.cos((x + y) / 11 - index / 4)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def make_clip(
    path: Path,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    tags: ColorTags = UNTAGGED,
    planes: list[NDArray[Any]] | None = None,
    aspect: Fraction | None = None,
    rotation: tuple[int, bool] | None = None,
    audio: str | None = None,
    subtitles: bool = False,
    second: bool = False,
    cover: bool = False,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a small clip; lossless where the codec can be."""
    height, width = size
    pts = list(range(COUNT)) if pts is None else pts
    lossless = {"libx264": {"qp": "0"}, "libvpx-vp9": {"lossless": "1"}}.get(codec, {})
    with av.open(str(path), "w", container_options=container or {}) as output:
        output.metadata.update(metadata or {})
        streams = []
        for _ in range(2 if second else 1):
            stream = output.add_stream(
                codec, rate=25, width=width, height=height, time_base=time_base,
                options=options or lossless,
            )  # fmt: skip
            context = stream.codec_context
            context.pix_fmt = pixel_format
            context.color_range, context.colorspace = tags.range, tags.matrix
            context.color_primaries, context.color_trc = tags.primaries, tags.transfer
            if aspect is not None:
                context.sample_aspect_ratio = aspect
            if rotation is not None:
                stream.set_display_rotation(rotation[0], hflip=rotation[1])
            streams.append(stream)
        sound = None if audio is None else output.add_stream(audio, rate=48000)
        if cover:
            image = output.add_stream("png", rate=1, width=8, height=8)
            image.codec_context.pix_fmt = "rgb24"
            image.disposition = 0x400  # attached picture
        for stream in streams:
            for index, time in enumerate(pts):
                frame = as_frame(index, size, pixel_format, planes, full=tags.range == 2)
                frame.pts, frame.time_base = time, time_base
                if index + 1 < len(pts):
                    frame.duration = pts[index + 1] - time
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
        if sound is not None:
            for block in range(14):
                samples = np.sin(np.arange(1024) * 0.05 + block).astype(np.float32)
                tone = av.AudioFrame.from_ndarray(np.stack([samples, samples]), "fltp", "stereo")
                tone.sample_rate, tone.pts = 48000, block * 1024
                tone.time_base = Fraction(1, 48000)
                output.mux(sound.encode(tone))
            output.mux(sound.encode())
        if cover:
            still = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8))
            output.mux(image.encode(still) + image.encode())
    return path


def as_frame(
    index: int,
    size: tuple[int, int],
    pixel_format: str,
    planes: list[NDArray[Any]] | None,
    *,
    full: bool,
) -> av.VideoFrame:
    if planes is None:
        made = av.VideoFrame.from_ndarray(picture(index, *size)).reformat(
            format=pixel_format, dst_color_range=2 if full else 1
        )
        made.pict_type = 0
        return made
    frame = av.VideoFrame(size[1], size[0], pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        stored = np.frombuffer(memoryview(plane), values.dtype).reshape(plane.height, -1)
        stored[:, : plane.width] = values
    return frame


def stored_planes(path: Path) -> list[list[NDArray[np.int64]]]:
    """The codes of each frame as they are stored, before any conversion."""
    result = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
            result.append(
                [
                    np.frombuffer(plane, kind)
                    .reshape(plane.height, -1)[:, : plane.width]
                    .astype(int)
                    for plane in frame.planes
                ]
            )
    return result


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(**{kind: 0})
            if packet.size
        ]


def untouched(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
    return (frame.pixels for frame in frames)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- The extra ------------------------------------------------------------------------------------


def test_the_import_alone_needs_no_av() -> None:
    code = "import sys, lowvis_shared.video; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_av_the_error_names_the_package_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (
        lambda: probe_video(clip, distribution="lowvis-csrnet"),
        lambda: next(read_frames(clip, distribution="lowvis-csrnet")),
        lambda: transform_video(
            clip, tmp_path / "new.mp4", untouched, distribution="lowvis-csrnet"
        ),
    ):
        with pytest.raises(MissingExtraError) as caught:
            call()
        assert caught.value.hint == "pip install 'lowvis-csrnet[video]'"


# --- Reading --------------------------------------------------------------------------------------


def test_a_probe_tells_what_is_there(tmp_path: Path) -> None:
    tags = ColorTags(range=1, matrix=1, primaries=1, transfer=1)
    clip = make_clip(tmp_path / "clip.mp4", audio="aac", tags=tags, aspect=Fraction(4, 3))
    info = probe_video(clip)
    assert (info.width, info.height, info.frames, info.rotation) == (WIDTH, HEIGHT, COUNT, 0)
    assert info.frame_rate == 25
    assert info.duration == pytest.approx(COUNT / 25)
    assert (info.codec, info.pixel_format, info.bit_depth) == ("h264", "yuv420p", 8)
    assert info.color == tags
    assert info.sample_aspect_ratio == Fraction(4, 3)
    assert (info.audio_streams, info.subtitle_streams) == (1, 0)


def test_a_container_that_does_not_count_frames_is_read_all_the_same(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv")
    info = probe_video(clip)
    assert info.frames is None
    assert info.duration == pytest.approx(COUNT / 25)
    assert len(list(read_frames(clip))) == COUNT


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", pts=[0, 1, 5, 6])
    frames = list(read_frames(clip))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 0.2, 0.24])
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        frame.pixels[:] = frame.pixels  # they may be written to
        assert np.abs(frame.pixels.astype(int) - picture(frame.index)).mean() < 2


def test_reading_can_stop_anywhere(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with closing(read_frames(clip)) as frames:
        assert next(frames).index == 0
    clip.unlink()


# Codes of saturated colors, from the equations of each standard, in 8 bits.
COLORS = [
    (ColorTags(1, 1, 1, 1), (63, 102, 240), (255, 0, 0)),
    (ColorTags(1, 6, 6, 6), (81, 90, 240), (255, 0, 0)),
    (ColorTags(1, 9, 9, 1), (74, 97, 240), (255, 0, 0)),
    (ColorTags(2, 1, 1, 1), (54, 99, 255), (255, 0, 0)),
    (ColorTags(2, 6, 6, 6), (29, 255, 107), (0, 0, 255)),
    (ColorTags(1, 1, 1, 1), (235, 128, 128), (255, 255, 255)),
    (ColorTags(1, 1, 1, 1), (16, 128, 128), (0, 0, 0)),
    (ColorTags(0, 2, 2, 2), (81, 90, 240), (255, 0, 0)),  # not named: BT.601 in a small picture
]


@pytest.mark.parametrize(("tags", "codes", "color"), COLORS)
@pytest.mark.parametrize("bits", [8, 10])
def test_colors_follow_the_matrix_and_range_of_the_stream(
    tags: ColorTags, codes: tuple[int, ...], color: tuple[int, ...], bits: int, tmp_path: Path
) -> None:
    scale = 4 if tags.range != 2 or bits == 8 else 1023 / 255
    kind: Any = np.uint8 if bits == 8 else np.uint16
    values = [code if bits == 8 else round(code * scale) for code in codes]
    clip = make_clip(
        tmp_path / "clip.mkv",
        pixel_format="yuv444p" if bits == 8 else "yuv444p10le",
        planes=[np.full((HEIGHT, WIDTH), value, kind) for value in values],
        tags=tags,
        pts=[0],
    )
    (frame,) = read_frames(clip)
    most = np.iinfo(frame.pixels.dtype).max
    assert most == (255 if bits == 8 else 65535)
    assert np.abs(frame.pixels / most - np.array(color) / 255).max() < 2.6 / 255


def test_ten_bit_white_is_exactly_white(tmp_path: Path) -> None:
    planes = [np.full((HEIGHT, WIDTH), code, np.uint16) for code in (940, 512, 512)]
    clip = make_clip(tmp_path / "a.mkv", pixel_format="yuv444p10le", planes=planes, pts=[0])
    (frame,) = read_frames(clip)
    assert frame.pixels.dtype == np.uint16
    assert (frame.pixels == 65535).all()


@pytest.mark.parametrize(
    ("pixel_format", "dtype"),
    [("gray", np.uint8), ("gray10le", np.uint16), ("bgr0", np.uint8), ("gbrp10le", np.uint16)],
)
def test_gray_and_rgb_video_is_read_as_it_is(pixel_format: str, dtype: Any, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", pixel_format=pixel_format)
    frames = list(read_frames(clip))
    expected = picture(0).astype(float)
    if "gray" in pixel_format:
        expected = np.repeat(expected @ [[0.299], [0.587], [0.114]], 3, axis=2)
    scale = np.iinfo(dtype).max / 255
    assert frames[0].pixels.dtype == dtype
    assert np.abs(frames[0].pixels / scale - expected).max() < 3
    report = transform_video(clip, tmp_path / "new.mp4", untouched, crf=0)
    assert report.pixel_format.startswith("yuv420p" if "gray" in pixel_format else "yuv444p")
    again = list(read_frames(tmp_path / "new.mp4"))
    assert np.abs(again[0].pixels / scale - frames[0].pixels / scale).max() < 4
    assert probe_video(tmp_path / "new.mp4").color.range == 1


# --- Rotation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_and_mirroring_are_applied_and_reset(
    degrees: int, mirrored: bool, tmp_path: Path
) -> None:
    # PyAV turns against the clock, and mirrors the turned picture.
    clip = make_clip(
        tmp_path / "clip.mp4",
        pixel_format="yuv444p",
        rotation=(degrees, mirrored),
        aspect=Fraction(4, 3),
    )
    stored = make_clip(tmp_path / "stored.mp4", pixel_format="yuv444p")
    upright = [np.rot90(frame.pixels, degrees // 90) for frame in read_frames(stored)]
    if mirrored:
        upright = [pixels[:, ::-1] for pixels in upright]
    info = probe_video(clip)
    assert (info.height, info.width) == upright[0].shape[:2]
    assert info.sample_aspect_ratio == (Fraction(4, 3) if degrees % 180 == 0 else Fraction(3, 4))
    if not mirrored:
        assert info.rotation == -degrees % 360
    for frame, expected in zip(read_frames(clip), upright, strict=True):
        assert (frame.pixels == expected).all()

    transform_video(clip, tmp_path / "new.mp4", untouched, crf=0)
    new = probe_video(tmp_path / "new.mp4")
    assert (new.rotation, new.width, new.height) == (0, info.width, info.height)
    assert new.sample_aspect_ratio == info.sample_aspect_ratio
    with av.open(str(tmp_path / "new.mp4")) as container:
        assert Type.DISPLAYMATRIX not in next(container.decode(video=0)).side_data
    for frame, expected in zip(read_frames(tmp_path / "new.mp4"), upright, strict=True):
        assert np.abs(frame.pixels.astype(int) - expected).max() <= 3


# --- Writing: neutral -----------------------------------------------------------------------------

TAGS = [
    ColorTags(1, 1, 1, 1),
    ColorTags(2, 1, 1, 1),
    ColorTags(1, 6, 6, 6),
    ColorTags(2, 5, 5, 6),
    ColorTags(1, 9, 9, 16),
    ColorTags(0, 2, 2, 2),
]


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
)
def test_an_untouched_clip_comes_out_as_it_went_in(
    tags: ColorTags, pixel_format: str, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", pixel_format=pixel_format, tags=tags)
    report = transform_video(clip, tmp_path / "new.mp4", untouched, crf=0)
    assert report.pixel_format == pixel_format
    info = probe_video(tmp_path / "new.mp4")
    assert info.color == probe_video(clip).color
    assert info.bit_depth == report.source.bit_depth == (10 if "10" in pixel_format else 8)
    subsampled = "444" not in pixel_format
    for old, new in zip(stored_planes(clip), stored_planes(tmp_path / "new.mp4"), strict=True):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            difference = after - before
            unit = 4 if "10" in pixel_format else 1
            if index and subsampled:  # up and down again, which is felt most at the border
                assert np.quantile(np.abs(difference), 0.99) <= 2 * unit
                assert np.abs(difference).max() <= 4 * unit
            else:
                assert np.abs(difference).max() <= 1
            assert abs(difference.mean()) < 0.15  # no drift, whatever is done again and again


def test_chroma_does_not_wander(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(104, 104 + WIDTH, 2), (HEIGHT // 2, 1)).astype(np.uint8)
    planes = [np.full((HEIGHT, WIDTH), 128, np.uint8), ramp, ramp]
    clip = make_clip(tmp_path / "0.mp4", planes=planes)
    for turn in range(4):
        transform_video(tmp_path / f"{turn}.mp4", tmp_path / f"{turn + 1}.mp4", untouched, crf=0)
    before, after = stored_planes(clip)[0], stored_planes(tmp_path / "4.mp4")[0]
    inner = np.s_[:, 4:-4]
    assert (
        abs((after[1] - before[1])[inner].mean()) < 0.3
    )  # half a pixel each turn would be 2 codes


def test_the_default_quality_is_visually_lossless(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    for name in ("new.mp4", "new.webm"):
        transform_video(clip, tmp_path / name, untouched)
        pairs = zip(read_frames(clip), read_frames(tmp_path / name), strict=True)
        errors = [((a.pixels.astype(float) - b.pixels) ** 2).mean() for a, b in pairs]
        assert 10 * np.log10(255**2 / np.mean(errors)) > 38


@pytest.mark.parametrize("suffix", sorted(VIDEO_OUTPUT_SUFFIXES))
def test_every_suffix_is_written_and_read_again(suffix: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    target = tmp_path / "new folder" / f"new{suffix.upper()}"
    report = transform_video(clip, target, untouched, crf=0)
    assert report.frames == COUNT
    info = probe_video(target)
    assert info.codec == report.codec == ("vp9" if suffix == ".webm" else "h264")
    for old, new in zip(stored_planes(clip), stored_planes(target), strict=True):
        assert all(np.abs(a - b).max() <= 2 for a, b in zip(old, new, strict=True))
    assert names(target.parent) == {target.name}
    assert suffix in VIDEO_SUFFIXES


# --- Writing: time --------------------------------------------------------------------------------

VARIABLE = [0, 40, 41, 120, 300, 301, 302, 900]


@pytest.mark.parametrize("start", [0, 77])
@pytest.mark.parametrize(
    ("suffix", "time_base"),
    [(".mp4", Fraction(1, 90000)), (".mov", Fraction(1, 600)), (".mkv", Fraction(1, 1000))],
)
def test_a_variable_frame_rate_stays_as_it_is(
    suffix: str, time_base: Fraction, start: int, tmp_path: Path
) -> None:
    pts = [start + each for each in VARIABLE]
    clip = make_clip(
        tmp_path / f"clip{suffix}",
        pts=pts,
        time_base=time_base,
        container={} if suffix == ".mkv" else {"movie_timescale": "90000"},
    )
    assert times(clip) == [each * time_base for each in pts]
    transform_video(clip, tmp_path / f"new{suffix}", untouched)
    assert times(tmp_path / f"new{suffix}") == times(clip)
    old, new = probe_video(clip), probe_video(tmp_path / f"new{suffix}")
    assert new.duration == pytest.approx(old.duration, abs=0.002)


@pytest.mark.parametrize("suffix", [".avi", ".ts", ".mkv"])
def test_other_containers_keep_their_times_in_mp4(suffix: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / f"clip{suffix}")
    transform_video(clip, tmp_path / "new.mp4", untouched)
    assert times(tmp_path / "new.mp4") == times(clip)
    assert probe_video(tmp_path / "new.mp4").frames == COUNT


# --- Writing: what is beside the pictures ---------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "target", "codec"),
    [
        (".mp4", ".mp4", "aac"),
        (".mp4", ".mov", "aac"),
        (".mp4", ".mkv", "aac"),
        (".mkv", ".mp4", "aac"),
        (".mkv", ".webm", "libopus"),
    ],
)
def test_audio_is_copied_byte_by_byte_and_stays_in_step(
    suffix: str, target: str, codec: str, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / f"clip{suffix}", audio=codec)
    new = tmp_path / f"new{target}"
    report = transform_video(clip, new, untouched)
    assert report.copied == (f"audio stream 1 ({codec.removeprefix('lib')})",)
    assert report.left_out == ()
    before, after = packets(clip, "audio"), packets(new, "audio")
    assert [data for _, data in after] == [data for _, data in before]
    ahead = [audio[0][0] - packets(path, "video")[0][0] for path, audio in
             ((clip, before), (new, after))]  # fmt: skip
    assert float(ahead[1]) == pytest.approx(float(ahead[0]), abs=0.0011)


def test_audio_is_complete_however_far_the_function_looks_ahead(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", audio="aac")

    def look_ahead(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        every = list(frames)
        for frame in every:
            yield frame.pixels // 2 + every[-1].pixels // 2

    transform_video(clip, tmp_path / "new.mp4", look_ahead)
    assert packets(tmp_path / "new.mp4", "audio") == packets(clip, "audio")
    assert times(tmp_path / "new.mp4") == times(clip)


def test_what_the_container_cannot_hold_is_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", audio="aac")
    with caplog.at_level(logging.WARNING, "lowvis"):
        report = transform_video(clip, tmp_path / "new.webm", untouched)
    assert report.left_out == ("audio stream 1 (aac)",)
    assert "audio stream 1 (aac)" in caplog.text
    assert ".webm files cannot hold it" in caplog.text
    assert probe_video(tmp_path / "new.webm").audio_streams == 0


def add_subtitles(clip: Path, target: Path) -> list[tuple[Fraction, bytes]]:
    """Copy a clip and put a track of SubRip beside it."""
    text = target.with_suffix(".srt")
    text.write_text(
        "1\n00:00:00,040 --> 00:00:00,120\nOne\n\n2\n00:00:00,160 --> 00:00:00,280\nTwo\n\n"
    )
    with av.open(str(clip)) as video, av.open(str(text)) as words, av.open(str(target), "w") as out:
        pairs = [
            (source, out.add_stream_from_template(source, opaque=True))
            for source in (video.streams.video[0], words.streams.subtitles[0])
        ]
        pairs[1][1].metadata["language"] = "eng"
        for source, copy in pairs:
            for packet in source.container.demux(source):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    return packets(target, "subtitles")


def test_subtitles_are_copied_or_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = tmp_path / "clip.mkv"
    expected = add_subtitles(make_clip(tmp_path / "plain.mkv"), clip)
    assert len(expected) == 2
    report = transform_video(clip, tmp_path / "new.mkv", untouched)
    assert report.copied == ("subtitle stream 1 (subrip)",)
    assert packets(tmp_path / "new.mkv", "subtitles") == expected
    with av.open(str(tmp_path / "new.mkv")) as container:
        assert container.streams.subtitles[0].language == "eng"
    with caplog.at_level(logging.WARNING, "lowvis"):
        report = transform_video(clip, tmp_path / "new.mp4", untouched)
    assert report.left_out == ("subtitle stream 1 (subrip)",)
    assert "subtitle stream 1 (subrip)" in caplog.text


def test_metadata_and_chapters_are_kept(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "plain.mkv")
    clip = tmp_path / "clip.mkv"
    with av.open(str(plain)) as source, av.open(str(clip), "w") as output:
        output.metadata.update({"title": "Cliffs", "artist": "Somebody"})
        output.set_chapters(
            [
                {"id": 1, "start": 0, "end": 160, "time_base": Fraction(1, 1000),
                 "metadata": {"title": "First"}}
            ]
        )  # fmt: skip
        copy = output.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                output.mux(packet)
    for name in ("new.mkv", "new.mp4", "again.mp4"):
        report = transform_video(clip, tmp_path / name, untouched)
        assert report.left_out == ()  # nor is the track that holds the chapters of an MP4
        clip = tmp_path / name
        with av.open(str(tmp_path / name)) as container:
            kept = {key.lower(): value for key, value in container.metadata.items()}
            assert (kept["title"], kept["artist"]) == ("Cliffs", "Somebody")
            (chapter,) = container.chapters()
            assert chapter["metadata"]["title"] == "First"
            assert chapter["end"] * chapter["time_base"] == Fraction(160, 1000)


@pytest.mark.parametrize("suffix", sorted(VIDEO_OUTPUT_SUFFIXES))
def test_the_shape_of_pixels_is_kept_or_its_loss_told(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", aspect=Fraction(16, 11))
    with caplog.at_level(logging.WARNING, "lowvis"):
        transform_video(clip, tmp_path / f"new{suffix}", untouched)
    kept = probe_video(tmp_path / f"new{suffix}").sample_aspect_ratio == Fraction(16, 11)
    assert kept == ("no squares" not in caplog.text)
    assert kept or suffix == ".webm"


def test_an_alpha_channel_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", pixel_format="yuva420p")
    with caplog.at_level(logging.WARNING, "lowvis"):
        report = transform_video(clip, tmp_path / "new.mp4", untouched)
    assert report.pixel_format == "yuv420p"
    assert "the alpha channel is left out" in caplog.text


# --- Writing: the pictures ------------------------------------------------------------------------


def test_pictures_may_have_another_size(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")

    def enlarge(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        return (frame.pixels.repeat(2, axis=0).repeat(2, axis=1) for frame in frames)

    report = transform_video(clip, tmp_path / "new.mp4", enlarge, crf=0)
    assert (report.width, report.height) == (2 * WIDTH, 2 * HEIGHT)
    for old, new in zip(read_frames(clip), read_frames(tmp_path / "new.mp4"), strict=True):
        assert new.pixels.shape == (2 * HEIGHT, 2 * WIDTH, 3)
        small = new.pixels.reshape(HEIGHT, 2, WIDTH, 2, 3).mean((1, 3))
        assert np.abs(small - old.pixels).mean() < 1


def test_a_matrix_that_players_would_guess_wrongly_is_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", pts=[0])

    def enlarge(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        return (np.full((720, 1280, 3), (200, 40, 90), np.uint8) for _ in frames)

    transform_video(clip, tmp_path / "new.mp4", enlarge)
    assert probe_video(clip).color.matrix == 2
    assert probe_video(tmp_path / "new.mp4").color.matrix == 6
    (frame,) = read_frames(tmp_path / "new.mp4")
    assert np.abs(frame.pixels.mean((0, 1)) - (200, 40, 90)).max() < 2


def test_sixteen_bits_reach_a_ten_bit_video_and_are_rounded_for_eight(tmp_path: Path) -> None:
    for pixel_format in ("yuv444p", "yuv444p10le"):
        clip = make_clip(tmp_path / f"{pixel_format}.mp4", pixel_format=pixel_format, pts=[0])
        wide = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16)
        gray = np.repeat(wide.reshape(HEIGHT, WIDTH, 1), 3, axis=2)
        target = tmp_path / f"new-{pixel_format}.mp4"
        transform_video(clip, target, lambda frames, gray=gray: (gray for _ in frames), crf=0)
        (frame,) = read_frames(target)
        codes = 876 if "10" in pixel_format else 219
        most = np.iinfo(frame.pixels.dtype).max
        assert np.abs(frame.pixels / most - gray / 65535).max() <= 0.51 / codes + 0.51 / most


@pytest.mark.parametrize("size", [(33, 49), (32, 49), (33, 48), (1, 1)])
def test_odd_sides_are_kept(
    size: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec="ffv1", size=size)
    with caplog.at_level(logging.WARNING, "lowvis"):
        report = transform_video(clip, tmp_path / "new.mp4", untouched, crf=0)
    assert report.pixel_format == "yuv444p"
    assert "4:4:4" in caplog.text
    assert transform_video(clip, tmp_path / "new.webm", untouched).pixel_format == "yuv420p"
    for old, new in zip(read_frames(clip), read_frames(tmp_path / "new.mp4"), strict=True):
        assert np.abs(old.pixels.astype(int) - new.pixels).max() <= 3
    info = probe_video(tmp_path / "new.webm")
    assert (info.height, info.width) == size


def test_frames_are_taken_only_when_asked_for_and_progress_is_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    events: list[tuple[str, int]] = []

    def work(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        for frame in frames:
            events.append(("taken", frame.index))
            yield frame.pixels

    transform_video(
        clip, tmp_path / "new.mp4", work, progress=lambda done, of: events.append(("done", done))
    )
    expected = [(what, index + (what == "done")) for index in range(COUNT) for what in
                ("taken", "done")]  # fmt: skip
    assert events == expected


@pytest.mark.parametrize(
    ("count", "message"),
    [(COUNT - 3, "5 pictures were made of 8 frames"), (COUNT + 1, "more pictures"), (0, "0 pict")],
)
def test_as_many_pictures_as_frames_or_an_error(count: int, message: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")

    def work(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        every = [frame.pixels for frame in frames]
        yield from (every + every)[:count]

    with pytest.raises(UsageError, match=message):
        transform_video(clip, tmp_path / "new.mp4", work)
    assert names(tmp_path) == {"clip.mp4"}


def test_a_function_that_leaves_frames_alone_is_an_error(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(UsageError, match="1 pictures were made of 8 frames"):
        transform_video(clip, tmp_path / "new.mp4", lambda frames: iter([next(frames).pixels]))
    assert names(tmp_path) == {"clip.mp4"}


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT + 2, WIDTH, 3), np.uint8),
    ],
)
def test_a_picture_of_another_kind_is_an_error(wrong: NDArray[Any], tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")

    def work(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        return (frame.pixels if frame.index < 2 else wrong for frame in frames)

    with pytest.raises(InputError, match="picture 2 has"):
        transform_video(clip, tmp_path / "new.mp4", work)
    assert names(tmp_path) == {"clip.mp4"}


# --- Outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory"), SystemExit])
@pytest.mark.parametrize("when", [0, 5])
def test_whatever_interrupts_leaves_nothing_behind(error: Any, when: int, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", audio="aac")
    (tmp_path / "old.mp4").write_bytes(b"old")

    def work(frames: Iterator[Frame]) -> Iterator[NDArray[Any]]:
        for frame in frames:
            if frame.index == when:
                raise error
            yield frame.pixels

    with pytest.raises((KeyboardInterrupt, RuntimeError, SystemExit)):
        transform_video(clip, tmp_path / "old.mp4", work, overwrite=True)
    assert (tmp_path / "old.mp4").read_bytes() == b"old"
    assert names(tmp_path) == {"clip.mp4", "old.mp4"}


def test_outputs_that_cannot_be_are_refused_before_the_work(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "there.mp4").touch()
    for name, message in (
        ("there.mp4", "exists already"),
        ("clip.mp4", "the input itself"),
        ("new.gif", "'.gif' is not one that can be written"),
        ("new.avi", "'.avi' is not one that can be written"),
        ("new", "no suffix"),
        ("there.mp4/new.mp4", "is a file, not a folder"),
    ):
        with pytest.raises(OutputError, match=message) as caught:
            transform_video(clip, tmp_path / name, pytest.fail)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(UsageError, match="0 to 51"):
        transform_video(clip, tmp_path / "new.mp4", untouched, crf=52)
    assert names(tmp_path) == {"clip.mp4", "there.mp4"}


def test_an_output_is_replaced_when_wanted_even_the_input(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    before = stored_planes(clip)
    transform_video(clip, clip, untouched, overwrite=True, crf=0)
    assert len(stored_planes(clip)) == len(before)
    assert names(tmp_path) == {"clip.mp4"}


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OutputError, match="disk is full or a limit on file size"):
            transform_video(
                clip, tmp_path / "new.mp4", lambda frames: (noise for _ in frames), crf=0
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == {"clip.mp4"}


def test_what_the_encoder_cannot_do_is_an_output_error(tmp_path: Path) -> None:
    if "yuv420p10le" in {each.name for each in av.Codec("libvpx-vp9", "w").video_formats}:
        pytest.skip("this PyAV writes VP9 of 10 bits")
    clip = make_clip(tmp_path / "clip.mp4", pixel_format="yuv420p10le")
    with pytest.raises(OutputError, match="10 bits") as caught:
        transform_video(clip, tmp_path / "new.webm", untouched)
    assert caught.value.hint == "write an .mp4, .mov or .mkv instead"
    assert names(tmp_path) == {"clip.mp4"}


# --- Inputs that are not what they should be ------------------------------------------------------


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame) + stream.encode())


def no_frames(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as output:
        stream = output.add_stream("libx264", rate=25, width=48, height=32)
        stream.codec_context.pix_fmt = "yuv420p"
        output.start_encoding()


def playlist(path: Path) -> None:
    clip = make_clip(path.with_name("other.ts"))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip.name}\n#EXT-X-ENDLIST\n")


FAULTS = {
    "empty": (lambda path: path.touch(), "empty"),
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "png": (lambda path: av.VideoFrame(8, 8, "rgb24").to_image().save(path, "png"), "not a video"),
    "html": (lambda path: path.write_text("<!DOCTYPE html><html>Log in</html>"), "not a video"),
    "text": (lambda path: path.write_bytes(bytes(range(256)) * 40), "not a video"),
    "playlist": (playlist, "not a video"),
    "audio only": (audio_only, "no video stream"),
    "no frames": (no_frames, "ends before its first frame"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_input_is_refused_in_one_line_that_names_it(
    fault: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    create, message = FAULTS[fault]
    path = tmp_path / "bad.mp4"
    create(path)
    before = names(tmp_path)
    for call in (
        lambda: probe_video(path),
        lambda: next(read_frames(path)),
        lambda: transform_video(path, tmp_path / "new.mp4", untouched),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("suffix", "codec", "container"),
    [
        (".mp4", "libx264", {"movflags": "+faststart"}),
        (".mp4", "libx264", {"movflags": "+frag_keyframe+empty_moov"}),
        (".mkv", "libx264", {}),
        (".webm", "libvpx-vp9", {}),
        (".avi", "mpeg4", {}),
    ],
)
@pytest.mark.parametrize("part", [0.6, 0.99])
def test_a_video_that_was_cut_off_is_noticed(
    suffix: str,
    codec: str,
    container: dict[str, str],
    part: float,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # key frames only, so that what is there can be read
    options = {"qp": "0", "g": "1"} if codec == "libx264" else {"g": "1"}
    clip = make_clip(
        tmp_path / f"clip{suffix}", codec=codec, container=container, options=options,
        size=(128, 192), pts=list(range(30)),
    )  # fmt: skip
    cut = tmp_path / f"cut{suffix}"
    data = clip.read_bytes()
    cut.write_bytes(data[: round(len(data) * part)])
    for call in (
        lambda: probe_video(cut),
        lambda: list(read_frames(cut)),
        lambda: transform_video(cut, tmp_path / "new.mp4", untouched),
    ):
        with pytest.raises(InputError, match="truncated") as caught:
            call()
        assert caught.value.hint is not None
        assert "--allow-truncated" in caught.value.hint
    assert names(tmp_path) == {clip.name, cut.name}
    with caplog.at_level(logging.WARNING, "lowvis"):
        report = transform_video(cut, tmp_path / "new.mp4", untouched, allow_truncated=True)
    assert "truncated" in caplog.text
    assert report.frames >= (28 if part > 0.9 else 10)
    assert times(tmp_path / "new.mp4") == times(clip)[: report.frames]


def test_a_video_whose_index_was_cut_off_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    clip.write_bytes(clip.read_bytes()[:-200])
    for allow in (False, True):
        with pytest.raises(InputError, match="truncated"):
            probe_video(clip, allow_truncated=allow)


def test_a_video_of_which_no_frame_is_left_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", container={"movflags": "+faststart"})
    data = clip.read_bytes()
    clip.write_bytes(data[: data.index(b"mdat") + 8])
    with pytest.raises(InputError, match="holds no frames"):
        probe_video(clip, allow_truncated=True)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
def test_a_damaged_frame_is_noticed(
    codec: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mkv", codec=codec, size=(128, 192))
    data = bytearray(clip.read_bytes())
    place = data.find(packets(clip, "video")[4][1])
    data[place + 8 : place + 60] = bytes(range(200, 252))
    clip.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged or truncated at frame \d"):
        list(read_frames(clip))
    with caplog.at_level(logging.WARNING, "lowvis"):
        frames = list(read_frames(clip, allow_truncated=True))
    assert COUNT - 3 <= len(frames) <= COUNT
    assert "damaged" in caplog.text


def test_bytes_behind_the_video_are_no_fault(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".avi"):
        clip = make_clip(tmp_path / f"clip{suffix}")
        clip.write_bytes(clip.read_bytes() + bytes(1000))
        assert len(list(read_frames(clip))) == COUNT


def test_the_first_of_two_video_streams_is_used_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "clip.mkv", second=True)
    with caplog.at_level(logging.WARNING, "lowvis"):
        report = transform_video(clip, tmp_path / "new.mkv", untouched)
    assert "2 video streams, the first one is used" in caplog.text
    assert report.frames == COUNT
    assert report.left_out == ("video stream 1 (h264)",)


def test_a_cover_picture_is_no_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = make_clip(tmp_path / "clip.mp4", cover=True)
    with caplog.at_level(logging.WARNING, "lowvis"):
        report = transform_video(clip, tmp_path / "new.mp4", untouched)
    assert "2 video streams" not in caplog.text
    assert report.left_out == ("video stream 1 (png)",)
    assert (report.frames, report.width) == (COUNT, WIDTH)


def test_a_name_like_an_address_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(Path("clip.mp4")).rename("http:clip -i %d.mp4")
    transform_video("http:clip -i %d.mp4", "pipe:new %d.mp4", untouched)
    assert probe_video("pipe:new %d.mp4").frames == COUNT


# --- Published clips ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clips/brink_30_320x180.mp4", "clips/palmtrees_loop_256.mp4"])
def test_a_published_clip_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    clip = asset_path(name)
    report = transform_video(clip, tmp_path / "new.mp4", untouched, crf=0)
    assert report.frames == report.source.frames
    assert times(tmp_path / "new.mp4") == times(clip)
    before, after = stored_planes(clip), stored_planes(tmp_path / "new.mp4")
    for plane in range(3):
        difference = np.stack([a[plane] - b[plane] for a, b in zip(after, before, strict=True)])
        assert np.abs(difference).mean() < 0.4
        assert np.quantile(np.abs(difference), 0.999) <= 3
        assert abs(difference.mean()) < 0.05
