"""OBJ and MTL files: what would be left out is refused."""

import pytest
from textured_objects import pattern, write_obj

from magic123.geometry.mesh_reader import read_parts
from magic123.records.errors import InputError


def test_what_would_be_left_out_of_an_obj_is_refused(tmp_path):
    (tmp_path / "objects").mkdir()
    file = write_obj(tmp_path / "objects/a.obj")
    for name, text, sentence in (
        ("two.mtl", "newmtl body\nmap_Kd pattern.png\n", "material 'part', which no MTL"),
        ("two.mtl", "newmtl body\nmap_Kd lost.png\nnewmtl part\n", "'lost.png', which is not in its folder"),
        ("two.mtl", "newmtl body\nmap_Kd ../secret.png\nnewmtl part\n", "outside its folder"),
        ("pattern.png", "no picture", "texture"),
        ("two.mtl", "newmtl body\nmap_Kd -s 2 2 1 pattern.png\nnewmtl part\n", "'body' has options before"),
        ("two.mtl", "newmtl body\nmap_d pattern.png\nnewmtl part\n", "'body' has its opacity in a picture"),
        ("two.mtl", "newmtl body\nKd 0 0 0\nmap_Kd pattern.png\nnewmtl part\n", "multiplies its texture by Kd 0 0 0"),
    ):
        write_obj(file)
        pattern().save(tmp_path / "secret.png")
        (file.parent / name).write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_parts(file)
    (file.parent / "two.mtl").unlink()
    with pytest.raises(InputError, match=r"'two.mtl', which is not in its folder"):
        read_parts(file)


def test_materials_without_an_mtl_file_are_white(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl lost\nf 1/1 2/1 3/1\n")
    (part,) = read_parts(tmp_path / "a.obj")
    assert part.texture is None and part.factor == (1, 1, 1, 1)
