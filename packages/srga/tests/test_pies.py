"""Patch sets: which cells they hold, how they are made, written and read, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowvis_shared.errors import InputError, OutputError, UsageError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.resize import modcrop
from lowvis_shared.testing.pictures import make_picture, noise, photo
from lowvis_srga.conditions import PIES, SHORT
from lowvis_srga.degrade import finish, parse_degradation, reduce_picture
from lowvis_srga.patches import PatchSet, cut_cells, make_sets, read_patches
from lowvis_srga.pies import describe_sources, read_pies, write_pies
from numpy.typing import NDArray
from PIL import Image

NAMES = ("clean", "blur2", "noise10", "noise10+jpeg50")
DEGRADATIONS = [parse_degradation(name) for name in NAMES]


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three pictures of 2 x 3, 1 x 2 and 3 x 2 cells of 32 pixels."""
    sizes = [(67, 99), (35, 70), (96, 64)]
    return [
        save(tmp_path / "photos" / f"{index}.png", photo(*size, seed=index))
        for index, size in enumerate(sizes)
    ]


@pytest.fixture
def sets(photos: list[Path]) -> list[PatchSet]:
    return make_sets(photos, DEGRADATIONS, patches=9, size=32, seed=4)


@pytest.fixture
def written(tmp_path: Path, photos: list[Path], sets: list[PatchSet]) -> Path:
    folder = tmp_path / "sets"
    write_pies(folder, sets, manifest=describe_sources(photos, seed=4))
    return folder


def assert_equal(found: Sequence[PatchSet], expected: Sequence[PatchSet]) -> None:
    assert [each.name for each in found] == [each.name for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.family, one.degree, one.ids) == (other.family, other.degree, other.ids)
        assert np.array_equal(one.low, other.low)
        assert (one.high is None) == (other.high is None)
        assert one.high is None or np.array_equal(one.high, other.high)


def test_the_lists_hold_names_that_can_be_made() -> None:
    for names in (PIES, SHORT):
        assert [parse_degradation(name).name for name in names] == list(names)
        assert len(set(names)) == len(names)
    assert PIES[:17] == ("clean", *(f"blur{half / 2:g}" for half in range(1, 17)))


def test_cells_are_those_of_the_check_figures() -> None:
    # 100 pictures as large as Urban100's and 100 as BSD100's.
    chance = np.random.default_rng(9)
    sizes = [(int(h), int(w)) for h, w in chance.integers(384, 1100, (100, 2))]
    sizes += [(320, 480), (480, 320)] * 50

    # Section 6.1, items 2 and 3, word for word.
    rng = np.random.default_rng(0)
    patches: list[tuple[int, int, int]] = []
    for index, (height, width) in enumerate(sizes):
        cells = [(r * 128, c * 128) for r in range(height // 128) for c in range(width // 128)]
        p = rng.permutation(len(cells))
        patches += [(index, *cells[p[k]]) for k in range(4)]
    order = rng.permutation(800)
    expected = [patches[k] for k in order]

    selection = cut_cells(sizes, 800, size=128, seed=0)
    drawn = [(index, *cell) for index, cells in enumerate(selection.cells) for cell in cells]
    assert [drawn[k] for k in selection.order] == expected


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=12),
    data=st.data(),
)
def test_any_pictures_give_cells_evenly_and_none_twice(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    available = [(height // 16) * (width // 16) for height, width in sizes]
    patches = data.draw(st.integers(1, max(1, sum(available))))
    if sum(available) < patches:
        with pytest.raises(InputError, match="give 0 patches"):
            cut_cells(sizes, patches, size=16, seed=1)
        return
    selection = cut_cells(sizes, patches, size=16, seed=1)
    counts = [len(cells) for cells in selection.cells]
    assert sum(counts) == patches
    assert sorted(selection.order.tolist()) == list(range(patches))
    assert selection.skipped == available.count(0)
    for (height, width), cells in zip(sizes, selection.cells, strict=True):
        assert len(set(cells)) == len(cells)
        for top, left in cells:
            assert top % 16 == left % 16 == 0
            assert top + 16 <= height
            assert left + 16 <= width
    # Who gives less than another by more than one has given all.
    for count, limit in zip(counts, available, strict=True):
        assert count == limit or count >= max(counts) - 1


def test_what_small_pictures_lack_comes_from_the_first_that_have_more() -> None:
    selection = cut_cells([(32, 64), (16, 16), (64, 64), (32, 48)], 10, size=16, seed=0)
    assert [len(cells) for cells in selection.cells] == [3, 1, 3, 3]
    selection = cut_cells([(32, 64), (16, 16), (64, 64), (32, 48)], 12, size=16, seed=0)
    assert [len(cells) for cells in selection.cells] == [4, 1, 4, 3]


def test_too_few_cells_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"give 5 patches of 32 x 32 pixels, but 6 are") as caught:
        cut_cells([(64, 64), (31, 400), (40, 40)], 6, size=32, seed=0)
    assert "at most 5" in str(caught.value.hint)
    cut_cells([(64, 64), (31, 400), (40, 40)], 5, size=32, seed=0)
    assert "1 of 3 pictures are smaller" in caplog.text


def test_each_patch_is_what_its_id_says(photos: list[Path], sets: list[PatchSet]) -> None:
    pictures = {path.name: modcrop(np.asarray(Image.open(path)), 4) for path in photos}
    clean, blur = (
        {
            name: finish(
                reduce_picture(picture / 255.0, degradation.blur, 4),
                degradation,
                np.random.default_rng(),
            )
            for name, picture in pictures.items()
        }
        for degradation in DEGRADATIONS[:2]
    )
    assert [each.name for each in sets] == list(NAMES)
    for index, patch_id in enumerate(sets[0].ids):
        name, _, cell = patch_id.partition("@")
        top, left = map(int, cell.split(","))
        high = pictures[name][top : top + 32, left : left + 32]
        for each in sets:
            assert each.ids == sets[0].ids
            assert each.high is not None
            assert np.array_equal(each.high[index], high)
        row, column = top // 4, left // 4
        assert np.array_equal(sets[0].low[index], clean[name][row : row + 8, column : column + 8])
        assert np.array_equal(sets[1].low[index], blur[name][row : row + 8, column : column + 8])
    assert len(set(sets[0].ids)) == 9
    assert sets[0].scale == 4


def test_noise_follows_the_order_of_the_pictures_not_of_the_patches() -> None:
    # A picture without structure: what differs from it is the noise alone.
    gray = np.full((64, 96, 3), 128, np.uint8)
    chosen = cut_cells([gray.shape[:2]], 6, size=16, seed=2)
    (each,) = make_sets(
        [("gray", gray)], [parse_degradation("noise10")], patches=6, size=16, scale=1, seed=2
    )
    generator = np.random.default_rng(123)
    drawn = [
        np.rint((128 / 255 + generator.normal(0, 10 / 255, (16, 16, 3))) * 255) for _ in range(6)
    ]
    assert chosen.order.tolist() != list(range(6))
    assert np.array_equal(each.low, np.stack([drawn[k] for k in chosen.order]))


def test_a_set_does_not_depend_on_the_others(photos: list[Path], sets: list[PatchSet]) -> None:
    alone = [make_sets(photos, [each], patches=9, size=32, seed=4)[0] for each in DEGRADATIONS]
    assert_equal(alone, sets)


def test_files_and_arrays_give_the_same_and_progress_is_told(
    photos: list[Path], sets: list[PatchSet]
) -> None:
    arrays = [(path.name, np.asarray(Image.open(path))) for path in photos]
    told: list[tuple[int, int]] = []
    again = make_sets(
        arrays,
        DEGRADATIONS,
        patches=9,
        size=32,
        seed=4,
        progress=lambda done, of: told.append((done, of)),
    )
    assert_equal(again, sets)
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("kind", ["gray", "16 bits", "opaque alpha", "turned"])
def test_unusual_pictures_are_brought_to_8_bit_rgb(tmp_path: Path, kind: str) -> None:
    path, expected = tmp_path / "picture.png", photo(32, 48)
    if kind == "gray":
        expected = np.repeat(expected[..., :1], 3, axis=2)
        Image.fromarray(expected[..., 0]).save(path)
    elif kind == "16 bits":
        write_image(Picture(pixels=expected.astype(np.uint16) * 257), path)
    elif kind == "opaque alpha":
        write_image(Picture(pixels=expected, alpha=np.full((32, 48), 255, np.uint8)), path)
    else:  # stored lying down, to be shown upright
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(np.rot90(expected)).save(path, exif=exif)
    (clean,) = make_sets([path], DEGRADATIONS[:1], patches=6, size=16, scale=1)
    for patch, patch_id in zip(clean.low, clean.ids, strict=True):
        top, left = map(int, patch_id.partition("@")[2].split(","))
        assert np.array_equal(patch, expected[top : top + 16, left : left + 16])


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path, photos: list[Path]) -> None:
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(photos[0].read_bytes()[:2000])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    glass = tmp_path / "glass.png"
    write_image(make_picture(64, 64, alpha=True), glass)
    for path in (truncated, text, glass, tmp_path / "missing.png"):
        with pytest.raises(InputError, match=path.name):
            make_sets([photos[0], path], DEGRADATIONS, patches=4, size=32)
    with pytest.raises(InputError, match=r"deep: .*float64"):
        make_sets([("deep", photo() / 255.0)], DEGRADATIONS, patches=4, size=32)
    with pytest.raises(InputError, match="given twice"):
        make_sets([photos[0], photos[0]], DEGRADATIONS, patches=4, size=32)


def test_pictures_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    paths = [save(tmp_path / each / "1.png", noise(32, 32)) for each in ("a", "b")]
    (clean,) = make_sets(paths, DEGRADATIONS[:1], patches=2, size=32)
    assert sorted(clean.ids) == [f"{path.as_posix()}@0,0" for path in paths]


def test_arguments_that_do_not_fit_are_refused(photos: list[Path]) -> None:
    with pytest.raises(UsageError, match="do not divide"):
        make_sets(photos, DEGRADATIONS, patches=4, size=30)
    with pytest.raises(UsageError, match="given once"):
        make_sets(photos, [*DEGRADATIONS, parse_degradation("blur2.0")], patches=4, size=32)
    with pytest.raises(UsageError, match="at least one"):
        make_sets(photos, [], patches=4, size=32)
    with pytest.raises(UsageError, match="at least 1"):
        make_sets(photos, DEGRADATIONS, patches=0, size=32)


def test_real_pictures_of_the_size_come_first_and_larger_ones_are_cut(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    exact = {name: photo(16, 16, seed=k) for k, name in enumerate(["b.png", "c.png", "sub/a.png"])}
    for name, pixels in exact.items():
        save(folder / name, pixels)
    large = photo(40, 50, seed=9)
    save(folder / "a-large.png", large)
    save(folder / "z-small.png", photo(15, 90))

    few = read_patches(folder, name="phone", side=16, patches=2, seed=0)
    assert (few.ids, few.family, few.degree) == (("b.png", "c.png"), "real", None)
    assert few.high is None
    assert few.scale is None
    assert np.array_equal(few.low, [exact["b.png"], exact["c.png"]])

    every = read_patches(folder, name="phone", side=16, patches=9, seed=0)
    assert every.ids[:3] == ("b.png", "c.png", "sub/a.png")
    assert len(set(every.ids)) == 9
    for patch, patch_id in zip(every.low[3:], every.ids[3:], strict=True):
        name, _, cell = patch_id.partition("@")
        top, left = map(int, cell.split(","))
        assert name == "a-large.png"
        assert np.array_equal(patch, large[top : top + 16, left : left + 16])
    with pytest.raises(InputError, match="give 9 patches of 16 x 16 pixels, but 10"):
        read_patches(folder, name="phone", side=16, patches=10, seed=0)


def test_what_is_written_is_read_again(
    tmp_path: Path, photos: list[Path], sets: list[PatchSet]
) -> None:
    for index in range(9):
        save(tmp_path / "real" / f"{index}.png", noise(8, 8, seed=index))
    real = read_patches(tmp_path / "real", name="phone", side=8, patches=9, seed=0)
    folder = tmp_path / "new" / "sets"
    write_pies(folder, [*sets, real], manifest=describe_sources(photos, seed=4))
    assert_equal(read_pies(folder), [*sets, real])
    assert np.array_equal(np.asarray(Image.open(folder / "blur2" / "0003.png")), sets[1].low[2])
    assert sets[0].high is not None
    assert np.array_equal(np.asarray(Image.open(folder / "HR" / "0009.png")), sets[0].high[8])
    assert [path.name for path in folder.parent.iterdir()] == ["sets"]

    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["seed"], manifest["noise_seed"], manifest["scale"]) == (4, 123, 4)
    assert [each["name"] for each in manifest["sources"]] == [path.name for path in photos]
    assert manifest["patches"] == list(sets[0].ids)
    mixture = manifest["sets"][3]
    assert (mixture["family"], mixture["steps"]) == ("mixture", ["noise10", "jpeg50"])


def test_equal_arguments_write_equal_manifests(
    tmp_path: Path, photos: list[Path], written: Path
) -> None:
    again = make_sets(photos, DEGRADATIONS, patches=9, size=32, seed=4)
    write_pies(tmp_path / "again", again, manifest=describe_sources(photos, seed=4))
    manifest = (written / "manifest.json").read_bytes()
    assert (tmp_path / "again" / "manifest.json").read_bytes() == manifest


def test_changed_pictures_are_found(written: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(written, folder)
        return folder

    changed = broken("changed")
    save(changed / "blur2" / "0004.png", noise(8, 8))
    with pytest.raises(InputError, match=r"changed.blur2: a picture has been changed"):
        read_pies(changed)
    missing = broken("missing")
    (missing / "HR" / "0002.png").unlink()
    with pytest.raises(InputError, match=r"HR.0002\.png: no such file"):
        read_pies(missing)
    larger = broken("larger")
    save(larger / "clean" / "0002.png", noise(9, 8))
    with pytest.raises(InputError, match=r"clean.0002\.png: has 8 x 9 pixels"):
        read_pies(larger)


def test_damaged_manifests_are_named(written: Path) -> None:
    path = written / "manifest.json"
    manifest = json.loads(path.read_text())
    broken: list[str] = ["", "{", "[]", "{}", path.read_text()[:-9]]
    broken += [json.dumps({**manifest, key: None}) for key in ("schema", "count", "sets")]
    broken += [json.dumps({k: v for k, v in manifest.items() if k != "schema"})]
    broken += [json.dumps({**manifest, "count": 0}), json.dumps({**manifest, "schema": 2})]
    escape = {**manifest["sets"][0], "name": "../photos"}
    broken += [json.dumps({**manifest, "sets": [escape]})]
    family = {**manifest["sets"][0], "family": "sharp"}
    broken += [json.dumps({**manifest, "sets": [family]})]
    for text in broken:
        path.write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json"):
            read_pies(written)


def test_only_sets_of_ours_are_replaced(
    written: Path, tmp_path: Path, sets: list[PatchSet]
) -> None:
    with pytest.raises(OutputError, match="exists already"):
        write_pies(written, sets, manifest={})
    write_pies(written, sets[:2], manifest={}, overwrite=True)
    assert_equal(read_pies(written), sets[:2])
    assert not (written / "noise10").exists()

    (written / "blur2" / "my notes.txt").write_text("of value")
    with pytest.raises(OutputError, match=r"my notes\.txt was not written"):
        write_pies(written, sets, manifest={}, overwrite=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("of value")
    with pytest.raises(OutputError, match="not replaced"):
        write_pies(foreign, sets, manifest={}, overwrite=True)
    with pytest.raises(OutputError, match="not replaced"):
        write_pies(foreign / "thesis.txt", sets, manifest={}, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "of value"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_writing_that_fails_leaves_what_was_there(
    written: Path,
    tmp_path: Path,
    sets: list[PatchSet],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    before = sorted(tmp_path.rglob("*"))

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Path, "write_text", fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    for folder, overwrite in ((written, True), (tmp_path / "new", False)):
        with pytest.raises(expected):
            write_pies(folder, sets[:1], manifest={}, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before
    assert_equal(read_pies(written), sets)


def test_sets_that_do_not_belong_together_are_not_written(
    tmp_path: Path, sets: list[PatchSet]
) -> None:
    folder = tmp_path / "sets"
    clean, blur, *_ = sets
    assert clean.high is not None
    fewer = replace(blur, low=blur.low[:8], high=clean.high[:8], ids=blur.ids[:8])
    with pytest.raises(InputError, match="equally many"):
        write_pies(folder, [clean, fewer], manifest={})
    with pytest.raises(InputError, match="same patches"):
        write_pies(folder, [clean, replace(blur, high=255 - clean.high)], manifest={})
    with pytest.raises(InputError, match="same patches"):
        write_pies(folder, [clean, replace(blur, ids=blur.ids[::-1])], manifest={})
    for name in ("../outside", "a/b", "", "HR", ".hidden", "Clean"):
        with pytest.raises(UsageError, match="name"):
            write_pies(folder, [clean, replace(blur, name=name)], manifest={})
    with pytest.raises(UsageError, match="count"):
        write_pies(folder, sets, manifest={"count": 3})
    assert not folder.exists()


def test_a_downloaded_folder_is_read_by_its_names(tmp_path: Path, sets: list[PatchSet]) -> None:
    folder = tmp_path / "PIES"
    for name, each in zip(("clean", "blur10", "blur0.5", "real-world"), sets, strict=True):
        for index, patch in enumerate(each.low):
            save(folder / f"PIES-{name}" / f"{index:03d}.png", patch)
    (folder / "__MACOSX").mkdir()
    (folder / "readme.txt").write_text("from the authors")
    found = read_pies(folder)
    assert [(each.name, each.family, each.degree) for each in found] == [
        ("clean", "clean", 0.0),
        ("blur0.5", "blur", 0.5),
        ("blur10", "blur", 10.0),
        ("real-world", "other", None),
    ]
    assert np.array_equal(found[0].low, sets[0].low)
    assert np.array_equal(found[1].low, sets[2].low)
    assert {each.ids for each in found} == {tuple(f"{index:03d}.png" for index in range(9))}
    assert found[0].high is None


@pytest.mark.parametrize("beside", [True, False])
def test_high_resolution_pictures_are_found_in_a_set_or_beside_all(
    tmp_path: Path, sets: list[PatchSet], beside: bool
) -> None:
    folder = tmp_path / "PIES"
    for each in sets[:2]:
        assert each.high is not None
        place = folder / f"PIES-{each.name}"
        for index, (low, high) in enumerate(zip(each.low, each.high, strict=True)):
            save(place / f"{index}.png" if beside else place / "LR" / f"{index}.png", low)
            save((folder if beside else place) / "HR" / f"{index}.png", high)
    for found, each in zip(read_pies(folder), sets, strict=False):
        assert found.name == each.name
        assert found.scale == 4
        assert np.array_equal(found.low, each.low)
        assert found.high is not None
        assert np.array_equal(found.high, each.high)


def test_downloads_that_are_not_whole_are_explained(tmp_path: Path) -> None:
    def download(name: str, counts: dict[str, int], side: int = 8) -> Path:
        for each, count in counts.items():
            (tmp_path / name / each).mkdir(parents=True)
            for index in range(count):
                save(tmp_path / name / each / f"{index}.png", noise(side, 8))
        return tmp_path / name

    cases = {
        download("few", {"PIES-clean": 3, "PIES-blur1": 2}): "clean holds 3 .* blur1 2",
        download("empty", {"PIES-clean": 3, "PIES-blur1": 0}): "PIES-blur1: holds no pictures",
        download("none", {"HR": 2}): "holds no sets",
        download("high", {"PIES-clean": 3, "HR": 2}): "HR: holds 2 pictures, but .*clean 3",
        download("flat", {}): "no such folder",
    }
    save(cases_size := tmp_path / "size" / "PIES-blur1" / "0.png", noise(9, 8))
    download("size", {"PIES-clean": 1})
    cases[cases_size.parent.parent] = "clean holds 1 pictures of 8 x 8 .* blur1 1 pictures of 8 x 9"
    for folder, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            read_pies(folder)
        assert caught.value.hint or message == "no such folder"
