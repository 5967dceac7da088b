"""PLY files: colours of 8 bits are read, others are refused."""

import pytest

from magic123.geometry.mesh_reader import read_parts
from magic123.records.errors import InputError


def test_colours_of_16_bits_are_refused(tmp_path):
    text = (
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nproperty ushort red\n"
        "property ushort green\nproperty ushort blue\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
        "0 0 0 65535 0 0\n1 0 0 0 0 0\n0 1 0 0 0 0\n3 0 1 2\n"
    )
    (tmp_path / "a.ply").write_text(text)
    with pytest.raises(InputError, match="colours of 16 bits"):
        read_parts(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_text(text.replace("ushort", "uchar").replace("65535", "255"))
    assert read_parts(tmp_path / "a.ply")[0].colours[0].tolist() == [1, 0, 0, 1]
