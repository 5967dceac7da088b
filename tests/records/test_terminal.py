"""Numbers with their nouns."""

from magic123.records.terminal import counted


def test_counted():
    assert [counted(n, "picture") for n in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
    assert [counted(n, "mesh", "meshes") for n in (1, 2)] == ["1 mesh", "2 meshes"]
