import logging
import re
from pathlib import Path

import pytest
from lowvis_shared.errors import InputError
from lowvis_shared.images import read_image, write_image
from lowvis_shared.testing.faults import (
    BAD_FILES,
    ODD_FILES,
    BadFile,
    OddFile,
    folder_with_name_collision,
    folder_without_pictures,
    mixed_folder,
)


@pytest.mark.parametrize("fault", BAD_FILES, ids=str)
def test_a_bad_file_is_refused_in_one_line_that_names_it(
    fault: BadFile, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = fault.create(tmp_path)
    with pytest.raises(InputError, match=fault.message) as caught:
        read_image(path)
    message = str(caught.value)
    assert caught.value.exit_code == fault.exit_code
    assert str(path) in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")  # the decoding libraries like to talk to stderr


@pytest.mark.parametrize("fault", ODD_FILES, ids=str)
def test_an_odd_file_is_read_for_what_it_is(
    fault: OddFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lowvis"):
        picture = read_image(fault.create(tmp_path))
    assert (picture.height, picture.width) == fault.size
    assert picture.bit_depth == fault.bit_depth
    assert picture.gray == fault.gray
    assert (picture.alpha is not None) == fault.alpha
    if fault.log is None:
        assert caplog.messages == []
    else:
        assert any(re.search(fault.log, message) for message in caplog.messages)


@pytest.mark.parametrize("fault", ODD_FILES, ids=str)
def test_an_odd_file_written_as_tiff_keeps_every_sample(fault: OddFile, tmp_path: Path) -> None:
    picture = read_image(fault.create(tmp_path))
    write_image(picture, tmp_path / "copy.tiff")
    copy = read_image(tmp_path / "copy.tiff")
    assert copy.pixels.dtype == picture.pixels.dtype
    assert (copy.pixels == picture.pixels).all()
    assert (copy.alpha is None) == (picture.alpha is None)
    assert copy.alpha is None or (copy.alpha == picture.alpha).all()


def test_the_folders_hold_what_they_promise(tmp_path: Path) -> None:
    assert all(path.suffix != ".png" for path in folder_without_pictures(tmp_path / "a").iterdir())
    collision = folder_with_name_collision(tmp_path / "b")
    assert len({path.stem for path in collision.iterdir()}) == 1
    folder, good, bad = mixed_folder(tmp_path / "c")
    assert sorted(folder.iterdir()) == sorted(good + bad)
    for path in good:
        read_image(path)
    for path in bad:
        with pytest.raises(InputError):
            read_image(path)
