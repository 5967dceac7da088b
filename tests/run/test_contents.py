"""What files hold, as parameters of jobs."""

import hashlib
import os
from pathlib import Path

import pytest

from magic123.run.contents import STAMP, Contents, Now


def write(file: Path, text: str, date: int = 1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (date, date))
    return file


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    return Contents(tmp_path / "cache.json")


def test_a_file_is_known_by_its_content(contents, tmp_path):
    file = write(tmp_path / "a", "one")
    assert contents.of(file) == hashlib.sha256(b"one").hexdigest()
    write(file, "two")  # of the same size and date
    assert contents.of(file) == hashlib.sha256(b"two").hexdigest()
    os.mkfifo(tmp_path / "pipe")
    assert contents.of(tmp_path / "pipe") == contents.of(tmp_path / "nothing") == "missing"


def test_a_folder_is_known_by_names_and_content(contents, tmp_path):
    folder = tmp_path / "folder"
    write(folder / "ring" / "000.png", "one"), write(folder / "ring" / "001.png", "two")
    before = contents.of(folder)
    write(folder / STAMP, "")
    assert contents.of(folder) == before
    (folder / "ring" / "001.png").rename(folder / "ring" / "002.png")
    renamed = contents.of(folder)
    (folder / "ring" / "002.png").unlink()
    assert len({before, renamed, contents.of(folder)}) == 3


def test_links_in_circles_are_followed_once(contents, tmp_path):
    """Two links to a folder around them are 2^40 paths to the same file."""
    folder = tmp_path / "truth"
    write(folder / "ring" / "000.png", "one")
    plain = contents.of(folder)
    for name in ("here", "again"):
        (folder / "ring" / name).symlink_to("..")
    assert contents.of(folder) == plain
    write(tmp_path / "elsewhere" / "001.png", "two")
    (folder / "near").symlink_to(tmp_path / "elsewhere")
    linked = contents.of(folder)
    write(tmp_path / "elsewhere" / "001.png", "three")
    assert len({plain, linked, contents.of(folder)}) == 3


def test_files_that_have_not_changed_are_not_read_again(contents, tmp_path, monkeypatch):
    file = write(tmp_path / "a", "one")
    monkeypatch.setattr("magic123.run.contents.SETTLED", -(10**12))  # as if all had been written long ago
    digest = contents.of(file)
    contents.save()
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert Contents(tmp_path / "cache.json").of(file) == digest
    (tmp_path / "cache.json").write_text("[1]")
    with pytest.raises(pytest.fail.Exception):
        Contents(tmp_path / "cache.json").of(file)


def test_files_that_have_just_changed_are_not_kept(contents, tmp_path):
    contents.of(write(tmp_path / "a", "one"))
    contents.save()
    assert not (tmp_path / "cache.json").exists()


def test_a_parameter_of_now_is_compared_by_what_the_files_hold_at_that_moment(contents, tmp_path):
    parameter = Now(contents, [tmp_path / "a"])
    before = repr(parameter)
    write(tmp_path / "a", "one")
    assert before == "['missing']" != repr(parameter) and isinstance(parameter, str)
