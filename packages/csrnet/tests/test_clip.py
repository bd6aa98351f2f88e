"""Videos: one slowly changing look for each scene, and a file that is whole or not there."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowvis_csrnet.clip import SMOOTHING, SmoothLook, retouch_clip
from lowvis_csrnet.predict import Retoucher
from lowvis_shared.errors import InputError, OutputError, UsageError
from lowvis_shared.images import Picture
from lowvis_shared.testing import asset_path
from lowvis_shared.testing.pictures import gradient, photo
from numpy.typing import NDArray

RATE = 25
HEIGHT, WIDTH, COUNT = 48, 64, 10


@pytest.fixture(scope="module")
def retoucher(weights: Path) -> Retoucher:
    return Retoucher(weights=weights, lut_size=17)


def grainy(scene: NDArray[np.uint8], index: int, grain: float = 3.0) -> NDArray[np.uint8]:
    """A frame of a scene in which nothing moves, with the grain of a camera."""
    random = np.random.default_rng(index)
    noisy = scene + random.normal(0, grain, scene.shape)
    return np.rint(noisy.clip(0, 255)).astype(np.uint8)


def brighter(scene: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    return np.rint(scene * factor).clip(0, 255).astype(np.uint8)


def seen_through(
    look: SmoothLook, frames: list[NDArray[np.uint8]], still: NDArray[np.uint8]
) -> list[NDArray[np.float64]]:
    """One picture through the LUT of each frame: what changes is the look alone."""
    luts = [look.lut(frame, index / RATE) for index, frame in enumerate(frames)]
    return [lut.sample((still / 255).astype(np.float32)).astype(np.float64) * 255 for lut in luts]


def changes(pictures: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean change from each picture to the next, in codes of 8 bits."""
    return np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2, 3))


# --- the look over time ---------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["own", "official"])
def test_a_still_clip_does_not_flicker(retoucher: Retoucher, which: str) -> None:
    if which == "official":
        asset_path("csrnet/csrnet/official")
        retoucher = Retoucher(weights="official", offline=True)
    scene = photo(120, 160)
    look = SmoothLook(retoucher)
    frames = [grainy(scene, index) for index in range(12)]
    assert changes(seen_through(look, frames, scene)).max() < 0.5
    assert look.scenes == 1


def test_smoothing_is_what_keeps_it_still(retoucher: Retoucher) -> None:
    scene = photo(60, 80)
    frames = [brighter(scene, 1 + 0.08 * (index % 2)) for index in range(12)]  # a flickering lamp
    slow, fast = (
        changes(seen_through(SmoothLook(retoucher, seconds), frames, scene)).max()
        for seconds in (SMOOTHING, 0)
    )
    assert slow < fast / 5


def test_a_cut_starts_the_look_of_the_new_scene(retoucher: Retoucher) -> None:
    look = SmoothLook(retoucher)
    first, second = photo(60, 80), 255 - photo(60, 80)
    for index in range(3):
        look.lut(first, index / RATE)
    after = look.lut(second, 3 / RATE)
    assert look.scenes == 2
    assert np.array_equal(after.values, retoucher.bake(Picture(second)).values)
    assert np.abs(after.values - retoucher.bake(Picture(first)).values).max() > 0.02


def test_a_fade_from_black_is_followed_within_a_moment(retoucher: Retoucher) -> None:
    scene = photo(60, 80)
    look = SmoothLook(retoucher)
    black = look.lut(brighter(scene, 0), 0.0)
    for index in range(1, RATE + 1):
        frame = brighter(scene, index / RATE)
        values = look.lut(frame, index / RATE).values
    own = retoucher.bake(Picture(scene)).values
    assert np.abs(values - own).mean() < 0.25 * np.abs(black.values - own).mean()


def test_a_cut_between_dark_scenes_is_a_cut(retoucher: Retoucher) -> None:
    look = SmoothLook(retoucher)
    look.lut(brighter(photo(60, 80), 0.15), 0.0)
    look.lut(brighter(255 - photo(60, 80), 0.15), 1 / RATE)
    assert look.scenes == 2


def test_motion_is_no_cut(retoucher: Retoucher) -> None:
    look, scene = SmoothLook(retoucher), photo(60, 160)
    for index in range(8):
        look.lut(scene[:, 4 * index : 4 * index + 80], index / RATE)
    assert look.scenes == 1


def test_without_smoothing_each_frame_has_its_own_look(retoucher: Retoucher) -> None:
    look = SmoothLook(retoucher, 0)
    for index in range(3):
        frame = brighter(photo(60, 80), 1 - 0.05 * index)
        own = retoucher.bake(Picture(frame))
        assert np.array_equal(look.lut(frame, index / RATE).values, own.values)
    assert look.scenes == 1


def test_a_change_of_light_is_followed_slowly(retoucher: Retoucher) -> None:
    scene = photo(60, 80)
    dark = brighter(scene, 0.85)  # at once, but no cut
    start, end = (retoucher.bake(Picture(frame)).values for frame in (scene, dark))
    look = SmoothLook(retoucher, 1.0)
    look.lut(scene, 0.0)
    distances = []
    for index in range(1, 4 * RATE):
        values = look.lut(dark, index / RATE).values
        distances.append(float(np.abs(values - end).mean() / np.abs(start - end).mean()))
    assert look.scenes == 1
    assert all(later < earlier for earlier, later in pairwise(distances))
    assert distances[0] > 0.9
    assert distances[RATE - 1] == pytest.approx(np.exp(-1), abs=0.01)  # after a second
    assert distances[-1] < 0.03


def test_smoothing_counts_seconds_and_not_frames(retoucher: Retoucher) -> None:
    scene, dark = photo(60, 80), brighter(photo(60, 80), 0.88)
    results = []
    for rate in (5, 50):
        look = SmoothLook(retoucher, 0.5)
        look.lut(scene, 0.0)
        for index in range(1, rate + 1):
            last = look.lut(dark, index / rate)
        results.append(last.values)
    np.testing.assert_allclose(*results, rtol=0, atol=1e-5)


def test_time_stamps_that_stand_still_or_run_back_do_no_harm(retoucher: Retoucher) -> None:
    look, scene = SmoothLook(retoucher), photo(60, 80)
    first = look.lut(scene, 1.0)
    for time in (1.0, 0.5):
        values = look.lut(brighter(scene, 0.9), time).values
        np.testing.assert_allclose(values, first.values, rtol=0, atol=1e-6)


def test_a_long_clip_takes_no_more_memory_with_each_frame(retoucher: Retoucher) -> None:
    look, scene = SmoothLook(retoucher), photo(24, 32)
    titles = [look.lut(scene, index / RATE).title for index in range(10)]
    assert len(titles[-1]) == len(titles[0])


def test_deep_frames_have_the_look_of_shallow_ones(retoucher: Retoucher) -> None:
    scene = photo(60, 80)
    shallow = SmoothLook(retoucher).lut(scene, 0.0)
    deep = SmoothLook(retoucher).lut(scene.astype(np.uint16) * 257, 0.0)
    np.testing.assert_allclose(deep.values, shallow.values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_seconds_that_are_none_are_refused(retoucher: Retoucher, seconds: float) -> None:
    with pytest.raises(UsageError, match="smoothing"):
        SmoothLook(retoucher, seconds)


# --- whole files ----------------------------------------------------------------------------------

av = pytest.importorskip("av", reason="PyAV is the extra 'video'")

Scene = Callable[[int], NDArray[np.uint8]]


def make_clip(
    path: Path, scene: Scene, *, count: int = COUNT, audio: bool = True, transfer: int = 2
) -> Path:
    """Write a small clip, lossless, with a tone."""
    with av.open(str(path), "w") as output:
        height, width = scene(0).shape[:2]
        stream = output.add_stream("libx264", rate=RATE, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.color_trc = transfer
        sound = output.add_stream("aac", rate=48000) if audio else None
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(scene(index)).reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            frame.color_trc = transfer
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None:
            for block in range(count * 48000 // RATE // 1024 + 1):
                tone = np.sin(np.arange(1024) * 0.05).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
                samples.sample_rate, samples.pts = 48000, block * 1024
                output.mux(sound.encode(samples))
            output.mux(sound.encode())
    return path


def video_frames(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(retoucher: Retoucher, tmp_path: Path, transfer: int, name: str) -> None:
    clip = make_clip(
        tmp_path / "hdr.mp4", lambda _: photo(HEIGHT, WIDTH), audio=False, transfer=transfer
    )
    with pytest.raises(InputError, match=rf"hdr\.mp4: an HDR video \({name}\)"):
        retouch_clip(retoucher, clip, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_frames_of_too_many_pixels_are_refused(retoucher: Retoucher, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", lambda _: photo(HEIGHT, WIDTH), audio=False)
    with pytest.raises(InputError, match="more than 1,000"):
        retouch_clip(retoucher, clip, tmp_path / "out.mp4", max_pixels=1000)


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def cut_between(first: int, second: int) -> Scene:
    scenes = [photo(HEIGHT, WIDTH, seed=first), 255 - photo(HEIGHT, WIDTH, seed=second)]
    return lambda index: scenes[index >= COUNT // 2]


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (34, 50)])
def test_a_clip_keeps_its_frames_its_size_and_its_sound(
    retoucher: Retoucher, tmp_path: Path, size: tuple[int, int]
) -> None:
    source = make_clip(tmp_path / "in.mp4", lambda index: grainy(photo(*size), index))
    done: list[tuple[int, int]] = []
    report = retouch_clip(
        retoucher,
        source,
        tmp_path / "out.mp4",
        progress=lambda frames, of: done.append((frames, of)),
    )
    before, after = video_frames(source), video_frames(tmp_path / "out.mp4")
    assert len(after) == len(before) == COUNT == report.video.frames
    assert {frame.shape for frame in after} == {(*size, 3)}
    assert audio_packets(tmp_path / "out.mp4") == audio_packets(source)
    assert report.as_dict()["scenes"] == 1
    assert report.as_dict()["frames"] == COUNT
    assert done[-1] == (COUNT, COUNT)
    look = retoucher.bake(Picture(before[0]))
    assert np.abs(look.apply(before[0]) - after[0].astype(float)).mean() < 4
    assert np.abs(before[0] - after[0].astype(float)).mean() > 6


def test_a_whole_still_clip_does_not_flicker(retoucher: Retoucher, tmp_path: Path) -> None:
    scene = photo(HEIGHT, WIDTH)
    source = make_clip(tmp_path / "in.mp4", lambda _: scene, audio=False)
    retouch_clip(retoucher, source, tmp_path / "out.mp4")
    frames = [frame.astype(np.float64) for frame in video_frames(tmp_path / "out.mp4")]
    assert changes(frames).max() < 0.5


def test_each_scene_of_a_clip_has_its_own_look(retoucher: Retoucher, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", cut_between(0, 0))
    report = retouch_clip(retoucher, source, tmp_path / "out.mp4")
    assert report.scenes == 2
    before, after = video_frames(source), video_frames(tmp_path / "out.mp4")
    look = retoucher.bake(Picture(before[-1]))
    assert np.abs(look.apply(before[-1]) - after[-1].astype(float)).mean() < 4


def test_strength_0_leaves_a_clip_as_it_looks(weights: Path, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", lambda _: gradient(HEIGHT, WIDTH))
    retouch_clip(Retoucher(weights=weights, strength=0), source, tmp_path / "out.mp4")
    pairs = zip(video_frames(source), video_frames(tmp_path / "out.mp4"), strict=True)
    assert max(np.abs(a - b.astype(float)).mean() for a, b in pairs) < 1.5


def test_an_error_leaves_no_file(
    retoucher: Retoucher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip(tmp_path / "in.mp4", lambda _: photo(HEIGHT, WIDTH))
    calls: Iterator[int] = iter(range(1000))

    def bake(picture: Picture, size: int | None = None) -> Any:
        if next(calls) == COUNT // 2:
            raise InputError("the network gives values that are not finite")
        return Retoucher.bake(retoucher, picture, size)

    monkeypatch.setattr(retoucher, "bake", bake)
    with pytest.raises(InputError, match="not finite"):
        retouch_clip(retoucher, source, tmp_path / "out" / "out.mp4")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_truncated_clip_leaves_no_file(retoucher: Retoucher, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", lambda index: grainy(photo(HEIGHT, WIDTH), index))
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        retouch_clip(retoucher, source, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_an_existing_file_is_kept_unless_asked(retoucher: Retoucher, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", lambda _: photo(HEIGHT, WIDTH), count=3)
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        retouch_clip(retoucher, source, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_text() == "mine"
    retouch_clip(retoucher, source, tmp_path / "out.mp4", overwrite=True)
    assert len(video_frames(tmp_path / "out.mp4")) == 3


@pytest.mark.parametrize(("network", "size"), [("csrnet", None), ("csrnet-l", 33)])
def test_what_has_no_lut_is_refused_before_the_video_is_opened(
    weights: Path, local_weights: Path, tmp_path: Path, network: str, size: int | None
) -> None:
    file = weights if network == "csrnet" else local_weights
    retoucher = Retoucher(network, weights=file, lut_size=size)
    with pytest.raises(UsageError, match="LUT"):
        retouch_clip(retoucher, tmp_path / "absent.mp4", tmp_path / "out.mp4")
