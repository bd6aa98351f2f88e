"""Pictures in, pictures out: the ladder from the network to the LUT, and all that must survive."""

import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lowvis_csrnet import predict
from lowvis_csrnet.evaluate import load_fivek
from lowvis_csrnet.lut import Lut3D
from lowvis_csrnet.model import CSRNet
from lowvis_csrnet.predict import LUT_SIZE, Retoucher, apply_look, bake, condition, retouch
from lowvis_csrnet.profile import read_profile, srgb_profile
from lowvis_csrnet.spaces import reduced, to_input_space
from lowvis_csrnet.weights import load
from lowvis_shared.checkpoint import save_weights_file
from lowvis_shared.device import peak_memory
from lowvis_shared.errors import DeviceError, InputError, UsageError, WeightsError
from lowvis_shared.images import Picture, read_image, write_image
from lowvis_shared.testing import asset_path, mirror_path
from lowvis_shared.testing.faults import exif_block
from lowvis_shared.testing.pictures import gradient, make_picture, noise, photo
from numpy.typing import NDArray
from PIL import Image, ImageCms

FULL_RANGE = {np.uint8: 255, np.uint16: 65535, np.float32: 1}
METHODS = (33, None)
"""A LUT, and the network on every pixel."""

FIVEK = ("a0212", "a0481", "a0535", "a1305", "a2995", "a3203", "a3451", "a3552", "a4963")


def deep(pixels: NDArray[Any], dtype: type) -> NDArray[Any]:
    """Bring 8-bit pixels to another type by the range of both."""
    return (pixels / 255 * FULL_RANGE[dtype]).astype(dtype)


def psnr(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Decibels between two pictures of one type."""
    error = np.square(first.astype(np.float64) - second).mean()
    return float(10 * np.log10(FULL_RANGE[first.dtype.type] ** 2 / max(error, 1e-12)))


def official(**options: Any) -> Retoucher:
    asset_path("csrnet/csrnet/official")
    return Retoucher(weights="official", offline=True, **options)


def fivek(name: str, part: str = "input") -> Picture:
    return read_image(asset_path(f"fivek/{part}/{name}.png"))


@pytest.fixture(scope="module")
def exact(weights: Path) -> Retoucher:
    return Retoucher(weights=weights, lut_size=None)


@pytest.fixture(scope="module")
def baked(weights: Path) -> Retoucher:
    return Retoucher(weights=weights)


@pytest.fixture(scope="module")
def local(local_weights: Path) -> Retoucher:
    return Retoucher("csrnet-l", weights=local_weights, precision="fp32")


# --- the authors' protocol ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, Any]]:
    """Return the measured figures of the public pairs, by name."""
    text = mirror_path("golden/csrnet/fivek_reference.json").read_text()
    return {pair["id"]: pair for pair in json.loads(text)["pairs"]}


@pytest.mark.parametrize(
    ("figure", "options"),
    [
        ("psnr_prophoto", {}),
        ("psnr_srgb", {"input_space": "srgb"}),
        ("psnr_prophoto_k040", {"exposure": np.log2(0.40 / 0.35)}),
    ],
)
def test_official_weights_give_the_measured_figure_of_each_pair(
    reference: dict[str, dict[str, Any]], figure: str, options: dict[str, Any]
) -> None:
    retoucher = official(lut_size=None, condition_side=None, **options)
    for name in FIVEK:
        result = retoucher(Picture(fivek(name).pixels)).pixels
        measured = psnr(result, fivek(name, "label").pixels)
        assert measured == pytest.approx(reference[name][figure], abs=0.01), name


def test_the_condition_is_the_measured_one(reference: dict[str, dict[str, Any]]) -> None:
    retoucher = official(condition_side=None)
    for name in FIVEK[:3]:
        found = retoucher.condition(fivek(name))
        assert found.shape == (1, 32)
        expected = torch.tensor(reference[name]["condition"])
        torch.testing.assert_close(found[0], expected, rtol=0, atol=1.1e-5)


def test_the_exact_path_is_the_network_clamped_and_rounded() -> None:
    retoucher, pixels = official(lut_size=None, condition_side=None), fivek("a0481").pixels
    network = load("csrnet", "official", offline=True).network
    planes = torch.from_numpy(pixels.transpose(2, 0, 1) / 255)
    with torch.inference_mode():
        seen = to_input_space(planes.flatten(1), "prophoto-1.8").view(1, *planes.shape)
        output = network(seen)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    assert np.abs(retoucher(pixels) - output).max() < 0.501  # rounding, and that of float32


# --- one ladder -----------------------------------------------------------------------------------


def test_luts_of_more_nodes_come_closer_to_the_network() -> None:
    photos = [Picture(pixels) for pixels in (fivek(name).pixels for name in FIVEK)]
    network = official(lut_size=None)
    expected = [network(each).pixels for each in photos]
    means: list[float] = []
    for size in (17, 33, 65):
        retoucher = official(lut_size=size)
        pairs = zip(photos, expected, strict=True)
        means.append(np.mean([psnr(retoucher(each).pixels, result) for each, result in pairs]))
    assert means[0] < means[1] < means[2]
    assert means[1] >= 55


@pytest.mark.parametrize("make", [photo, noise, lambda height, width: photo(1, 1)])
def test_each_color_once_gives_the_same_bits_as_each_pixel(
    exact: Retoucher, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    pixels = make(301, 203)
    results = []
    for least in (1, 10**9):
        monkeypatch.setattr(predict, "_DISTINCT_FROM", least)
        results.append(exact(pixels))
    assert np.array_equal(*results)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 10**9])
def test_the_size_of_chunks_changes_nothing(
    exact: Retoucher, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    pixels = photo(33, 41)
    expected = exact(pixels)
    monkeypatch.setitem(predict._CHUNK, "cpu", chunk)
    assert np.array_equal(exact(pixels), expected)


@pytest.mark.parametrize("size", METHODS)
def test_two_runs_give_the_same_bits(weights: Path, size: int | None) -> None:
    picture = make_picture(40, 50, dtype=np.uint16)
    first, second = (Retoucher(weights=weights, lut_size=size)(picture).pixels for _ in range(2))
    assert np.array_equal(first, second)


def test_a_report_says_how(weights: Path, exact: Retoucher, local: Retoucher) -> None:
    picture = Picture(photo(24, 32))
    lut = Retoucher(weights=weights, lut_size=17, input_space="prophoto-1.8")
    reports = [each.run(picture)[1] for each in (lut, exact, local)]
    assert [each.method for each in reports] == ["lut", "exact", "local"]
    assert [each.lut_size for each in reports] == [17, None, None]
    assert [each.input_space for each in reports] == ["prophoto-1.8", "srgb", "srgb"]
    assert {each.precision for each in reports} == {"float32"}


@pytest.mark.parametrize("distinct", [1, 10**9])
def test_progress_of_the_exact_path_ends_at_the_whole(
    exact: Retoucher, monkeypatch: pytest.MonkeyPatch, distinct: int
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(predict, "_DISTINCT_FROM", distinct)
    exact.run(Picture(noise(200, 300)), progress=lambda done, of: seen.append((done, of)))
    assert len(seen) > 1
    assert all(before[0] < after[0] for before, after in pairwise(seen))
    assert seen[-1][0] == seen[-1][1]


def test_bf16_comes_close_on_the_exact_path(weights: Path, exact: Retoucher) -> None:
    pixels = photo(64, 80)
    fast, report = Retoucher(weights=weights, lut_size=None, precision="bf16").run(Picture(pixels))
    assert report.precision == "bfloat16"
    assert 40 < psnr(fast.pixels, exact(pixels)) < 100


# --- strength and exposure ------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [None, "Display P3", "Adobe RGB"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strength_0_leaves_every_bit(
    weights: Path, profiles: dict[str, bytes], dtype: Any, profile: str | None
) -> None:
    icc = None if profile is None else profiles[profile]
    picture = replace(make_picture(64, 64, dtype=dtype, alpha=True), icc_profile=icc)
    result = Retoucher(weights=weights, strength=0, lut_size=None)(picture)
    assert np.array_equal(result.pixels, picture.pixels)
    assert np.array_equal(result.alpha, picture.alpha)


def test_strength_0_of_a_lut_leaves_every_code_of_8_bits(weights: Path) -> None:
    every = np.arange(2**24, dtype=np.uint32)[::97]
    pixels = np.stack([every >> shift for shift in (0, 8, 16)], axis=-1).astype(np.uint8)[None]
    assert np.array_equal(Retoucher(weights=weights, strength=0)(pixels), pixels)


@pytest.mark.parametrize("network", ["csrnet", "csrnet-l"])
def test_strength_lies_between_the_photograph_and_the_result(
    weights: Path, local_weights: Path, network: str
) -> None:
    file = weights if network == "csrnet" else local_weights
    pixels = deep(photo(48, 64), np.float32) * 0.5 + 0.25
    none, half, whole = (
        Retoucher(network, weights=file, strength=strength, lut_size=None)(pixels)
        for strength in (0, 0.5, 1)
    )
    assert np.abs(none - pixels).max() < 1e-6
    inside = (whole > 0) & (whole < 1)  # elsewhere the result is clipped
    assert inside.mean() > 0.5
    assert np.abs(half - (pixels + whole) / 2)[inside].max() < 1e-5
    assert np.abs(whole - pixels).mean() > 0.01


def test_strength_above_1_goes_beyond(weights: Path) -> None:
    pixels = np.full((16, 16, 3), 0.5, np.float32)
    once, more = (Retoucher(weights=weights, strength=s, lut_size=None)(pixels) for s in (1, 1.5))
    assert np.abs((more - pixels) - 1.5 * (once - pixels)).max() < 1e-5


@pytest.mark.parametrize("network", ["csrnet", "csrnet-l"])
def test_exposure_multiplies_the_light_of_the_result(
    weights: Path, local_weights: Path, network: str
) -> None:
    file = weights if network == "csrnet" else local_weights
    pixels = deep(photo(32, 32), np.float32)
    plain, darker = (
        Retoucher(network, weights=file, exposure=stops, lut_size=None)(pixels) for stops in (0, -1)
    )
    inside = (plain > 0.05) & (plain < 1)
    light = [
        np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92) for x in (plain, darker)
    ]
    assert (light[1] / light[0].clip(1e-6))[inside] == pytest.approx(0.5, abs=1e-4)


def test_official_weights_are_shown_a_brighter_development() -> None:
    pixels = photo(64, 64)
    means = [official(exposure=stops)(pixels).mean() for stops in (-1, 0, 1)]
    assert means[0] < means[1] < means[2]


# --- the same look at any size --------------------------------------------------------------------


def test_a_photograph_has_one_look_at_12_and_at_1_megapixels() -> None:
    large = reduced(read_image(asset_path("large/jake-hills-36605.jpg")).pixels, 3000)
    small = reduced(large, 1000)
    retoucher = official()
    assert psnr(reduced(retoucher(large), 1000), retoucher(small)) > 40
    # The rule is what does it: a condition taken from all pixels gives them two looks.
    whole = official(condition_side=None)
    looks = [whole.bake(Picture(pixels)).apply(small) for pixels in (large, small)]
    assert psnr(*looks) < 40


def test_the_condition_does_not_depend_on_the_resolution(weights: Path) -> None:
    retoucher = Retoucher(weights=weights)
    small = photo(375, 500)
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    found = [retoucher.condition(Picture(pixels)) for pixels in (small, large)]
    assert [each.shape for each in found] == [(1, 32), (1, 32)]
    assert torch.equal(*found)


def test_the_condition_of_csrnet_l_keeps_its_maps(local: Retoucher) -> None:
    assert local.condition(Picture(photo(96, 128))).shape == (1, 32, 12, 16)


# --- no banding -----------------------------------------------------------------------------------

RAMPS = {
    "gray": (1, 1, 1),
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "brown": (1, 0.5, 0.25),
    "sky": (0.3, 0.6, 1),
    "skin": (0.9, 0.75, 0.6),
}


@pytest.mark.parametrize("color", RAMPS.values(), ids=RAMPS)
def test_a_smooth_gradient_stays_smooth(color: tuple[float, float, float]) -> None:
    retoucher, scene = official(), Picture(photo(300, 400))
    ramp = np.rint(np.linspace(0, 65535, 8192)[:, None] * color).astype(np.uint16)
    through_lut = retoucher.bake(scene).apply(ramp[None])[0]
    network = np.rint(retoucher.look(scene)(ramp / 65535).clip(0, 1) * 65535)
    steps, own = np.diff(through_lut.astype(int), axis=0), np.diff(network, axis=0)
    assert (np.abs(steps).max(axis=0) <= np.abs(own).max(axis=0) + 1).all()
    for channel in range(3):
        if (own[:, channel] >= 0).all():
            assert (steps[:, channel] >= 0).all()
    assert (own >= 0).all(axis=0).sum() >= 2  # so that something was tested


@pytest.mark.parametrize("size", METHODS)
def test_sixteen_bits_are_sixteen_bits(weights: Path, size: int | None) -> None:
    ramp = np.repeat(np.linspace(0, 65535, 4096).astype(np.uint16)[None, :, None], 3, axis=2)
    result = Retoucher(weights=weights, lut_size=size)(ramp)
    assert result.dtype == np.uint16
    assert min(len(np.unique(result[..., channel])) for channel in range(3)) > 2000


@pytest.mark.parametrize("size", METHODS)
def test_dark_sixteen_bits_are_scaled_by_their_type(weights: Path, size: int | None) -> None:
    dark = deep(photo(32, 32), np.uint16) // 300  # all below 256
    retoucher = Retoucher(weights=weights, lut_size=size)
    expected = retoucher(dark.astype(np.float32) / 65535) * 65535
    assert np.abs(retoucher(dark) - expected).max() < 1


# --- what a picture carries -----------------------------------------------------------------------


@pytest.mark.parametrize("size", METHODS)
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("dtype", FULL_RANGE)
def test_depth_gray_alpha_and_metadata_stay(
    weights: Path, dtype: Any, gray: bool, alpha: bool, size: int | None
) -> None:
    made = make_picture(9, 12, dtype=dtype, gray=gray, alpha=alpha)
    picture = replace(made, icc_profile=srgb_profile(), exif=b"Exif", format="WebP")
    result = Retoucher(weights=weights, lut_size=size)(picture)
    assert (result.pixels.shape, result.pixels.dtype) == ((9, 12, 3), dtype)
    assert (result.gray, result.format, result.exif) == (gray, "WebP", b"Exif")
    assert result.icc_profile == srgb_profile()
    assert not np.array_equal(result.pixels, picture.pixels)
    if gray:
        assert (result.pixels == result.pixels[..., :1]).all()
    if alpha:
        assert np.array_equal(result.alpha, made.alpha)
    else:
        assert result.alpha is None


@pytest.mark.parametrize(
    ("dtype", "suffix"), [(np.uint16, ".png"), (np.uint16, ".tif"), (np.float32, ".tif")]
)
def test_a_deep_file_keeps_all_it_has(
    baked: Retoucher, profiles: dict[str, bytes], tmp_path: Path, dtype: Any, suffix: str
) -> None:
    made = make_picture(20, 30, dtype=dtype, alpha=True)
    picture = replace(made, icc_profile=profiles["Display P3"], exif=exif_block())
    write_image(picture, tmp_path / f"in{suffix}")
    result = baked(read_image(tmp_path / f"in{suffix}"))
    write_image(result, tmp_path / f"out{suffix}")
    back = read_image(tmp_path / f"out{suffix}")
    assert back.pixels.dtype == dtype
    assert np.array_equal(back.pixels, result.pixels)
    assert np.array_equal(back.alpha, made.alpha)
    assert back.icc_profile == profiles["Display P3"]
    assert back.exif is not None
    assert b"lowvis camera" in back.exif


@pytest.mark.parametrize("size", METHODS)
@pytest.mark.parametrize("dtype", FULL_RANGE)
def test_an_array_gives_an_array_of_its_type(weights: Path, dtype: Any, size: int | None) -> None:
    retoucher, pixels = Retoucher(weights=weights, lut_size=size), deep(photo(9, 12), dtype)
    before = pixels.copy()
    result = retoucher(pixels)
    assert isinstance(result, np.ndarray)
    assert result.dtype == dtype
    assert np.array_equal(result, retoucher(Picture(pixels)).pixels)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("size", METHODS)
def test_any_memory_layout_gives_the_same(weights: Path, size: int | None) -> None:
    retoucher, pixels = Retoucher(weights=weights, lut_size=size), photo(30, 20)
    expected = retoucher(pixels)
    upside_down, bgr = pixels[::-1].copy(), pixels[..., ::-1].copy()
    for view in (np.asfortranarray(pixels), upside_down[::-1], bgr[..., ::-1]):
        assert np.array_equal(retoucher(view), expected)


@pytest.mark.parametrize("network", ["csrnet", "csrnet-l"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (41, 1), (4, 4), (3, 2000)])
def test_pictures_smaller_than_the_condition_network_needs(
    weights: Path, local_weights: Path, network: str, shape: tuple[int, int]
) -> None:
    file = weights if network == "csrnet" else local_weights
    for size in METHODS:
        retoucher = Retoucher(network, weights=file, lut_size=size)
        # A flat picture has the look of a flat picture, whatever its size.
        result = retoucher(np.full((*shape, 3), 0.5, np.float32))
        assert result.shape == (*shape, 3)
        assert np.isfinite(result).all()


# --- profiles -------------------------------------------------------------------------------------


def converted(picture: Picture) -> NDArray[np.uint8]:
    """The 8-bit sRGB codes of a picture, by LittleCMS."""
    if picture.icc_profile is None:
        return picture.pixels
    image = ImageCms.profileToProfile(
        Image.fromarray(picture.pixels),
        ImageCms.ImageCmsProfile(io.BytesIO(picture.icc_profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    return np.asarray(image)


@pytest.mark.parametrize("size", METHODS)
@pytest.mark.parametrize("choice", ["keep", "srgb"])
@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB"])
def test_a_picture_of_another_profile_gets_the_colors_of_its_srgb_twin(
    weights: Path, profiles: dict[str, bytes], name: str, choice: Any, size: int | None
) -> None:
    twin = np.clip(photo(60, 80), 60, 200)  # stays within sRGB after retouching
    codes = read_profile(profiles[name]).from_srgb(twin / 255)
    picture = Picture(np.rint(codes * 255).astype(np.uint8), icc_profile=profiles[name])
    assert np.abs(picture.pixels.astype(int) - twin).max() > 3
    retoucher = Retoucher(weights=weights, lut_size=size, profile=choice)
    result, expected = retoucher(picture), retoucher(converted(picture))
    assert result.icc_profile == (profiles[name] if choice == "keep" else srgb_profile())
    shown = converted(result) if choice == "keep" else result.pixels
    inside = (expected > 5) & (expected < 250)
    assert inside.mean() > 0.8
    assert np.abs(shown.astype(int) - expected)[inside].max() <= 3
    assert np.abs(shown.astype(int) - expected)[inside].mean() < 0.7


def test_a_profile_is_ignored_when_asked(weights: Path, profiles: dict[str, bytes]) -> None:
    retoucher = Retoucher(weights=weights, profile="ignore")
    plain = Picture(photo(20, 30))
    result = retoucher(replace(plain, icc_profile=profiles["Adobe RGB"]))
    assert np.array_equal(result.pixels, retoucher(plain).pixels)
    assert result.icc_profile == profiles["Adobe RGB"]
    damaged = retoucher(replace(plain, icc_profile=b"damaged"))
    assert (damaged.icc_profile, np.array_equal(damaged.pixels, result.pixels)) == (
        b"damaged",
        True,
    )


def test_a_damaged_profile_is_an_error_that_says_what_to_do(
    baked: Retoucher, profiles: dict[str, bytes]
) -> None:
    for icc in (b"damaged", profiles["Display P3"][:200]):
        with pytest.raises(InputError, match="ICC profile") as caught:
            baked(Picture(photo(8, 8), icc_profile=icc))
        assert "--profile ignore" in caught.value.hint


def test_shadows_of_a_linear_picture_are_no_coarser_than_others(
    profiles: dict[str, bytes],
) -> None:
    profile = read_profile(profiles["linear P3"])
    ramp = np.repeat(np.linspace(0, 0.3, 400)[None, :, None], 3, axis=2)
    scene = np.concatenate([photo(64, 400) / 255, ramp.repeat(32, axis=0)])
    codes = np.rint(profile.from_srgb(scene).clip(0, 1) * 65535).astype(np.uint16)
    picture = Picture(codes, icc_profile=profiles["linear P3"])
    through_lut, network = (
        profile.to_srgb(official(lut_size=size)(picture).pixels[64:] / 65535) for size in METHODS
    )
    assert np.abs(through_lut - network).max() * 255 < 4  # codes of 8 bits


def test_a_look_is_applied_by_the_profile_of_the_picture(profiles: dict[str, bytes]) -> None:
    scene = photo(48, 64) / 255 * 0.6 + 0.2
    lut = Lut3D.blend([Lut3D.identity(17), Lut3D.identity(17).with_strength(0.5)], [0.5, 0.5])
    lut = Lut3D(lut.values**0.8)
    expected = lut.sample(scene.astype(np.float32))
    for name in ("Display P3", "linear P3"):
        profile = read_profile(profiles[name])
        codes = np.rint(profile.from_srgb(scene).clip(0, 1) * 65535).astype(np.uint16)
        picture = Picture(codes, icc_profile=profiles[name])
        result = apply_look(picture, lut)
        assert result.icc_profile == profiles[name]
        assert np.abs(profile.to_srgb(result.pixels / 65535) - expected).max() < 1e-3
        assert (
            np.abs(apply_look(picture, lut, profile="srgb").pixels / 65535 - expected).max() < 1e-3
        )
        assert np.array_equal(apply_look(picture, lut, profile="ignore").pixels, lut.apply(codes))


# --- csrnet-l -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FULL_RANGE)
def test_tiles_of_csrnet_l_equal_the_whole(
    local: Retoucher, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    pixels = deep(photo(70, 90), dtype)
    whole = local(pixels)
    seen: list[tuple[int, int]] = []
    monkeypatch.setitem(predict._LOCAL_PIXELS, "cpu", 900)
    tiled, _ = local.run(Picture(pixels), progress=lambda done, of: seen.append((done, of)))
    assert len(seen) > 4
    assert seen[-1] == (6300, 6300)
    assert np.abs(tiled.pixels - whole.astype(np.float64)).max() <= FULL_RANGE[dtype] * 1e-5 + (
        dtype != np.float32
    )
    assert psnr(tiled.pixels, whole) > 90


def test_csrnet_l_looks_around_each_pixel(local: Retoucher) -> None:
    flat = np.full((32, 32, 3), 0.5, np.float32)
    dot = flat.copy()
    dot[16, 16] = 0.9
    changed = np.abs(local(dot) - local(flat)).max(axis=2) > 1e-3
    assert changed[16, 13:20].sum() > 1


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_csrnet_l_takes_picture_after_picture_of_any_depth(
    local_weights: Path, precision: Any
) -> None:
    retoucher = Retoucher("csrnet-l", weights=local_weights, precision=precision)
    first, fine = photo(24, 32), deep(photo(24, 32), np.float32)
    alone = retoucher(fine)
    shallow = retoucher(first)
    assert np.array_equal(retoucher(first), shallow)
    assert np.array_equal(retoucher(fine), alone)


def test_csrnet_l_has_no_lut(local: Retoucher) -> None:
    for method in (local.bake, local.look):
        with pytest.raises(UsageError, match="no LUT"):
            method(Picture(photo(16, 16)))


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", METHODS)
def test_twelve_megapixels_take_less_than_300_mb(weights: Path, size: int | None) -> None:
    # Few colors keep the exact path short; its memory depends on the picture's size.
    pixels = np.tile(photo(100, 100), (30, 40, 1))
    retoucher = Retoucher(weights=weights, lut_size=size)
    retoucher(photo(600, 600))  # compiles
    cpu = torch.device("cpu")
    with peak_memory(cpu) as before:
        pass
    with peak_memory(cpu) as during:
        retoucher(pixels)
    assert during.bytes - before.bytes < 300e6


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": 2}, UsageError, "strength"),
        ({"strength": -0.1}, UsageError, "strength"),
        ({"strength": float("nan")}, UsageError, "strength"),
        ({"exposure": float("nan")}, UsageError, "exposure"),
        ({"exposure": 6}, UsageError, "exposure"),
        ({"lut_size": 1}, UsageError, "2 to 256"),
        ({"lut_size": 257}, UsageError, "2 to 256"),
        ({"profile": "x"}, UsageError, "'x' is not one of keep, srgb, ignore"),
        ({"input_space": "x"}, UsageError, "'x' is not one of srgb, prophoto-1.8"),
        ({"condition_side": 4}, UsageError, "5 pixels"),
        ({"precision": "fp8"}, UsageError, "fp8"),
        ({"precision": "fp16", "device": "cpu"}, DeviceError, "fp16"),
        ({"device": "cuda:9"}, DeviceError, "cuda:9"),
        ({"network": "csrnet-xl"}, UsageError, "csrnet-xl"),
        ({"network": "csrnet-l"}, WeightsError, "9 of another shape"),
        ({"weights": "missing.pth"}, WeightsError, "missing.pth"),
        ({"weights": "official", "network": "csrnet-l"}, WeightsError, "no weights of csrnet-l"),
    ],
)
def test_bad_options_are_refused_when_it_is_opened(
    weights: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Retoucher(**{"weights": weights, **options})


def test_a_lut_of_no_size_is_refused(baked: Retoucher) -> None:
    picture = Picture(photo(16, 16))
    assert (baked.bake(picture).size, baked.bake(picture, 9).size) == (LUT_SIZE, 9)
    for size in (0, 1, 257):
        with pytest.raises(UsageError, match="2 to 256"):
            baked.bake(picture, size)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((8, 8, 3), np.nan, np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.int32),
    ],
)
def test_arrays_that_are_no_picture_are_refused(baked: Retoucher, pixels: NDArray[Any]) -> None:
    with pytest.raises(InputError):
        baked(pixels)


def spoiled(path: Path, layer: str, value: float) -> Path:
    """Write weights of which one layer is spoiled."""
    with torch.random.fork_rng(devices=[]):
        network = CSRNet()
    with torch.no_grad():
        network.get_parameter(layer).fill_(value)
    save_weights_file(path, network.state_dict(), {"input_space": "srgb"})
    return path


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"conv3\.bias"):
        Retoucher(weights=spoiled(tmp_path / "nan.safetensors", "conv3.bias", float("nan")))


@pytest.mark.parametrize("size", METHODS)
@pytest.mark.parametrize("layer", ["conv1.weight", "conv3.weight", "cond_net.conv1.weight"])
def test_values_that_are_not_finite_are_an_error_and_no_black_picture(
    tmp_path: Path, layer: str, size: int | None
) -> None:
    path = spoiled(tmp_path / "huge.safetensors", layer, 3e38)
    with pytest.raises(InputError, match="finite"):
        Retoucher(weights=path, lut_size=size)(photo(16, 16))


# --- in one call ----------------------------------------------------------------------------------


def test_retouch_condition_and_bake_are_one_call_each(weights: Path, baked: Retoucher) -> None:
    picture = Picture(photo(30, 40))
    result = retouch(picture, weights=weights)
    assert np.array_equal(result.pixels, baked(picture).pixels)
    assert np.array_equal(retouch(picture.pixels, weights=weights), result.pixels)
    assert torch.equal(condition(picture, weights=weights), baked.condition(picture))
    look = bake(picture, weights=weights)
    assert isinstance(look, Lut3D)
    assert np.array_equal(look.apply(picture.pixels), result.pixels)
    assert bake(picture, weights=weights, size=17).size == 17


def test_a_look_goes_over_to_another_picture(baked: Retoucher) -> None:
    look = baked.bake(Picture(photo(30, 40)))
    other = gradient(50, 60)
    assert not np.array_equal(baked.apply(look, other), baked(other))
    assert np.array_equal(baked.apply(look, other), look.apply(other))


def test_nine_public_pairs_are_what_fivek_means() -> None:
    for name in FIVEK:
        asset_path(f"fivek/label/{name}.png")
        asset_path(f"fivek/input/{name}.png")
    assert tuple(pair.name for pair in load_fivek(offline=True)) == FIVEK
