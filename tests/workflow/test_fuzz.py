"""A small share of tests/fuzz.py, whose whole is run by hand: reports/survival.md."""

import random
import zlib

import pytest
from fuzz import attack, mend_checksums, mutate, png, readers

READERS = readers()


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_is_sound_and_nothing_else_escapes(name, tmp_path):
    reader = READERS[name]
    for file, content in reader.sound.items():
        (tmp_path / file).write_bytes(content)
    reader.read(tmp_path)
    (tmp_path / "changed").mkdir()
    ends, findings = attack(reader, 60, random.Random(f"suite {name}"), tmp_path / "changed")
    assert not findings, findings[0]
    assert ends["refused"] > 0


def test_the_harness_finds_what_escapes(tmp_path):
    """A reader that lets a foreign error out, and one that leaves a file behind."""
    reader = READERS["mask"]
    for read in (lambda place: 1 / 0, lambda place: (place / "left").touch()):
        _, findings = attack(type(reader)(reader.sound, reader.target, read), 3, random.Random(0), tmp_path)
        assert len(findings) == 3


def test_mended_checksums_are_right():
    whole = png("RGBA")
    data = bytearray(whole)
    data[20] ^= 4  # the width
    mend_checksums(data)
    assert data[29:33] == zlib.crc32(data[12:29]).to_bytes(4, "big") and data != whole
    assert len({mutate(whole, random.Random(n)) for n in range(50)}) > 40
