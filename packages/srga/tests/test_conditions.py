"""The sets that a user asks for: names, files of names, pictures, chance, and folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lowvis_shared.errors import InputError, UsageError
from lowvis_shared.images import Picture, write_image
from lowvis_shared.testing.pictures import noise, photo
from lowvis_srga.conditions import PIES, SHORT, open_sets, parse_conditions
from lowvis_srga.degrade import parse_degradation
from lowvis_srga.patches import PatchSet
from lowvis_srga.pies import describe_sources, write_pies

SMALL = {"patches": 6, "size": 16, "scale": 4}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of 3 x 4 cells of 16 pixels each."""
    for seed in (1, 2):
        write_image(Picture(photo(48, 64, seed=seed)), tmp_path / "pictures" / f"{seed}.png")
    return tmp_path / "pictures"


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """Eight pictures of 4 x 4 pixels."""
    for seed in range(8):
        write_image(Picture(noise(4, 4, seed=seed)), tmp_path / "real" / f"{seed}.png")
    return tmp_path / "real"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder of three sets of six patches, scale 4."""
    sets, _ = open_sets("clean,blur1,noise10", **SMALL)
    write_pies(tmp_path / "sets", sets, manifest=describe_sources([], seed=0))
    return tmp_path / "sets"


def names(sets: Sequence[PatchSet]) -> list[str]:
    return [each.name for each in sets]


def equal(some: Sequence[PatchSet], others: Sequence[PatchSet]) -> bool:
    return all(
        one.name == other.name and one.ids == other.ids and np.array_equal(one.low, other.low)
        for one, other in zip(some, others, strict=True)
    )


# --- parse_conditions -----------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "expected"), [("short", SHORT), ("pies", PIES)])
def test_a_word_stands_for_a_list(word: str, expected: Sequence[str]) -> None:
    wanted = parse_conditions(word)
    assert [each.name for each in wanted] == list(expected)
    assert [each.degradation for each in wanted] == [parse_degradation(name) for name in expected]
    assert all(each.folder is None for each in wanted)


def test_names_are_separated_by_commas_and_written_in_one_way() -> None:
    wanted = parse_conditions(" blur2.0, noise10+jpeg50 ,,clean,")
    assert [each.name for each in wanted] == ["blur2", "noise10+jpeg50", "clean"]
    assert [str(each.degradation and each.degradation.name) for each in wanted] == [
        "blur2",
        "noise10+jpeg50",
        "clean",
    ]


def test_a_file_holds_one_name_or_folder_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "lists" / "mine.txt"
    path.parent.mkdir()
    path.write_text(
        f"# what our customers send\nclean\n\n  blur2\nphone = ../real\nscans=scans 2024\n"
        f"camera = {tmp_path / 'camera'}\n  # the end\n"
    )
    wanted = parse_conditions(str(path))
    assert [each.name for each in wanted] == ["clean", "blur2", "phone", "scans", "camera"]
    assert [each.degradation is None for each in wanted] == [False, False, True, True, True]
    # Folders are as seen from the file, wherever the command runs.
    assert [each.folder and each.folder.resolve() for each in wanted[2:]] == [
        tmp_path / "real",
        tmp_path / "lists" / "scans 2024",
        tmp_path / "camera",
    ]


@pytest.mark.parametrize("text", ["blur2,clean,blur2", "noise10,noise10.0", "clean, clean"])
def test_what_is_given_twice_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is given twice"):
        parse_conditions(text)
    path = tmp_path / "list"
    path.write_text("phone = a\nclean\nphone = b\n")
    with pytest.raises(UsageError, match="'phone' is given twice"):
        parse_conditions(str(path))


@pytest.mark.parametrize("text", ["sharpen3", "clean,sharpen3", "sharpen0.5"])
def test_what_is_no_degradation_is_named_with_those_that_are(text: str) -> None:
    with pytest.raises(UsageError, match="'sharpen") as caught:
        parse_conditions(text)
    assert "jpeg50 (quality)" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", " , ", ","])
def test_no_name_at_all_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no degradation"):
        parse_conditions(text)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for missing in (str(tmp_path / "none.txt"), "none.txt"):
        with pytest.raises(InputError, match=r"none\.txt: no such file"):
            parse_conditions(missing)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"clean\n\xff\xfe")
    with pytest.raises(InputError, match=r"binary\.txt: no text file"):
        parse_conditions(str(binary))
    remarks = tmp_path / "remarks.txt"
    remarks.write_text("# clean\n\n")
    with pytest.raises(UsageError, match=r"remarks\.txt' names no degradation"):
        parse_conditions(str(remarks))
    nonsense = tmp_path / "nonsense.txt"
    nonsense.write_text("clean\nsharpen3\n")
    with pytest.raises(UsageError, match="'sharpen3'"):
        parse_conditions(str(nonsense))


# --- open_sets ------------------------------------------------------------------------------------


def test_without_pictures_chance_makes_the_same_ones_each_time() -> None:
    sets, source = open_sets("clean,noise10", **SMALL, seed=3)
    again, _ = open_sets("clean,noise10", **SMALL, seed=3)
    other, _ = open_sets("clean,noise10", **SMALL, seed=4)
    assert equal(sets, again)
    assert not np.array_equal(sets[0].low, other[0].low)
    assert "made by chance" in source
    assert "seed 3" in source
    assert sets[0].low.shape == (6, 4, 4, 3)
    assert sets[0].high is not None
    assert sets[0].high.shape == (6, 16, 16, 3)
    assert all(each.ids == sets[0].ids for each in sets)
    assert len(set(sets[0].ids)) == 6


def test_chance_makes_as_many_pictures_as_the_patches_need() -> None:
    few, _ = open_sets("clean", patches=2, size=64, scale=4)
    assert {patch_id.partition("@")[0] for patch_id in few[0].ids} == {"leaves-0"}
    large, _ = open_sets("clean", patches=2, size=600, scale=4)
    assert {patch_id.partition("@")[0] for patch_id in large[0].ids} == {"leaves-0", "leaves-1"}
    for sets in (few, large):
        assert not np.array_equal(sets[0].low[0], sets[0].low[1])
    # Another seed makes other pictures: of one patch there is no other choice.
    (one,), (other,) = (open_sets("clean", patches=1, size=64, seed=seed)[0] for seed in (0, 1))
    assert one.ids == other.ids
    assert not np.array_equal(one.low, other.low)


def test_a_set_has_800_patches_unless_told_otherwise() -> None:
    sets, _ = open_sets("clean,blur1", size=4, scale=1)
    assert [len(each.low) for each in sets] == [800, 800]


def test_patches_are_cut_from_the_pictures_given(pictures: Path) -> None:
    paths = [pictures / "1.png", pictures / "2.png"]
    seen: list[tuple[int, int]] = []
    sets, source = open_sets(
        "clean,blur1", [str(path) for path in paths], **SMALL, progress=lambda *at: seen.append(at)
    )
    assert source == f"{paths[0]}, {paths[1]}"
    assert seen == [(1, 2), (2, 2)]
    assert sets[0].high is not None
    for patch, patch_id in zip(sets[0].high, sets[0].ids, strict=True):
        name, _, cell = patch_id.partition("@")
        top, left = map(int, cell.split(","))
        whole = photo(48, 64, seed=int(name[0]))
        assert np.array_equal(patch, whole[top : top + 16, left : left + 16])
    folder, _ = open_sets("clean,blur1", [str(pictures)], **SMALL)
    assert equal(sets, folder)
    assert names(folder) == ["clean", "blur1"]


def test_pictures_that_are_missing_or_too_few_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        open_sets("clean,blur1", [str(tmp_path / "absent")], **SMALL)
    with pytest.raises(InputError, match="give 24 patches of 16 x 16 pixels, but 25") as caught:
        open_sets("clean,blur1", [str(pictures)], patches=25, size=16, scale=4)
    assert "at most 24" in str(caught.value.hint)
    with pytest.raises(UsageError, match="do not divide"):
        open_sets("clean,blur1", patches=4, size=30, scale=4)


def test_real_pictures_stand_beside_made_ones(phone: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("blur1\nphone = real\nclean\n")
    sets, _ = open_sets(str(path), **SMALL)
    assert names(sets) == ["blur1", "phone", "clean"]
    assert (sets[1].family, sets[1].high) == ("real", None)
    assert np.array_equal(sets[1].low, [noise(4, 4, seed=seed) for seed in range(6)])
    path.write_text("phone = missing\n")
    with pytest.raises(InputError, match="missing"):
        open_sets(str(path), **SMALL)


def test_all_sets_may_be_real_the_reference_too(phone: Path, tmp_path: Path) -> None:
    for seed in range(6):
        write_image(Picture(noise(4, 4, seed=seed + 9)), tmp_path / "studio" / f"{seed}.png")
    path = tmp_path / "list.txt"
    path.write_text("clean = studio\nphone = real\n")
    sets, _ = open_sets(str(path), **SMALL)
    assert [(each.name, each.family) for each in sets] == [("clean", "real"), ("phone", "real")]
    assert np.array_equal(sets[0].low, [noise(4, 4, seed=seed + 9) for seed in range(6)])


def test_the_reference_is_made_too_where_it_is_not_named() -> None:
    assert names(open_sets("blur1,noise10", **SMALL)[0]) == ["clean", "blur1", "noise10"]
    assert names(open_sets("blur1,clean", **SMALL)[0]) == ["blur1", "clean"]
    sets, _ = open_sets("clean,blur2", **SMALL, reference="blur1")
    assert names(sets) == ["blur1", "clean", "blur2"]
    with pytest.raises(UsageError, match="'phone' is not the name of a degradation"):
        open_sets("clean,blur2", **SMALL, reference="phone")


def test_a_folder_of_sets_is_read_with_as_many_patches_as_asked_for(written: Path) -> None:
    made, _ = open_sets("clean,blur1,noise10", **SMALL)
    sets, source = open_sets(str(written), scale=4)
    assert source == str(written)
    assert equal(sets, made)
    fewer, _ = open_sets(str(written), patches=4, scale=4)
    assert equal(fewer, [each.first(4) for each in made])
    assert fewer[0].high is not None
    assert len(fewer[0].high) == 4
    with pytest.raises(InputError, match="holds 6 patches, 7 are wanted"):
        open_sets(str(written), patches=7, scale=4)


def test_a_folder_of_another_scale_or_with_pictures_or_a_size_is_refused(
    written: Path, pictures: Path
) -> None:
    with pytest.raises(InputError, match="clean is of scale 4, not 2") as caught:
        open_sets(str(written), scale=2)
    assert "--scale 4" in str(caught.value.hint)
    with pytest.raises(UsageError, match="holds patches already"):
        open_sets(str(written), [str(pictures)], scale=4)
    with pytest.raises(UsageError, match="holds patches already"):
        open_sets(str(written), size=16, scale=4)


def test_a_folder_that_is_called_like_a_list_does_not_hide_it(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written.rename(tmp_path / "short")
    monkeypatch.chdir(tmp_path)
    assert names(open_sets("short", **SMALL)[0]) == list(SHORT)
    assert names(open_sets("./short", scale=4)[0]) == ["clean", "blur1", "noise10"]


def test_a_list_of_names_may_be_long() -> None:
    assert len(parse_conditions(",".join(PIES))) == len(PIES)


def test_nonsense_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "nonsense.txt").write_text("clean\nsharpen3\n")
    with pytest.raises(UsageError, match=r"nonsense\.txt.*'sharpen3'"):
        parse_conditions(str(tmp_path / "nonsense.txt"))
