"""OBJ and MTL files: opacity and vertex colours as programs write them; unsupported features are refused."""

import numpy as np
import pytest
from textured_objects import pattern, write_obj

from magic123.geometry.mesh_reader import read_parts
from magic123.records.colour import decoded
from magic123.records.errors import InputError


def test_unsupported_features_of_an_obj_are_refused(tmp_path):
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


OPACITIES = {"Tr 0.25": 0.75, "Tr 0": 1, "d 0.5\nTr 0.25": 0.5, "d 1\nTr 1": 1, "d -halo 0.5": 0.5, "": 1}


@pytest.mark.parametrize(("lines", "opacity"), OPACITIES.items())
def test_opacity_is_d_or_what_transparency_leaves(tmp_path, lines, opacity):
    file = write_obj(tmp_path / "a.obj")
    (tmp_path / "two.mtl").write_text(f"newmtl body\nmap_Kd pattern.png\n{lines}\nnewmtl part\nKd 1 0 0\n")
    body = next(part for part in read_parts(file) if part.texture is not None)
    assert body.factor == (1, 1, 1, opacity) and body.transparency == ("opaque" if opacity == 1 else "blend")


def test_a_material_that_is_invisible_by_its_transparency_is_refused(tmp_path):
    file = write_obj(tmp_path / "a.obj")
    (tmp_path / "two.mtl").write_text("newmtl body\nmap_Kd pattern.png\nTr 1\nnewmtl part\nKd 1 0 0\n")
    with pytest.raises(InputError, match="the material 'body' has no d, and by its Tr it is invisible"):
        read_parts(file)


def coloured(file, colours: list[str], more: str = ""):
    """A triangle with these colours at its corners."""
    vertices = [f"v {place} {colour}\n" for place, colour in zip(("0 0 0", "1 0 0", "0 1 0"), colours, strict=True)]
    file.write_text(more + "".join(vertices) + "f 1 2 3\n")
    return file


def test_vertex_colours_from_0_to_1_and_to_255(tmp_path):
    expected = decoded(np.array([[255, 0, 0], [0, 128, 0], [51, 102, 2]]) / 255)
    for name, colours in (
        ("unit", ["1.0 0 0", "0 0.50196 0", "0.2 0.4 0.00784"]),
        ("rounded", ["1.0000001 0 0", "0 0.50196 0", "0.2 0.4 0.00784"]),
        ("bytes", ["255 0 0", "0 128 0", "51 102 2"]),
        ("floats", ["255.0 0.0 0.0", "0 128.000 0", "51.0 102.0 2.0"]),
        ("alpha", ["255 0 0 255", "0 128 0 255", "51 102 2 255"]),
    ):
        (part,) = read_parts(coloured(tmp_path / f"{name}.obj", colours))
        assert np.allclose(part.colours, np.hstack([expected, np.ones((3, 1))]), atol=1e-6), name
        assert np.array_equal(part.vertices, [[0, 0, 0], [1, 0, 0], [0, 1, 0]])


def test_vertex_colours_of_another_range_are_refused_where_they_are_seen(tmp_path):
    for colours in (["2.5 0 0", "0 1 0", "0 0 1"], ["256 0 0", "0 1 0", "0 0 1"], ["255 -1 0", "0 1 0", "0 0 1"]):
        with pytest.raises(InputError, match="neither from 0 to 1 nor whole numbers up to 255"):
            read_parts(coloured(tmp_path / "a.obj", colours))


MIXED = ["", "0 1 0", "0 0 1"]
WHITE = {"unit": ["1 1 1"] * 3, "bytes": ["255 255 255"] * 3, "some": ["", "1 1 1", "1 1 1"]}


def test_vertex_colours_that_would_be_left_out_are_refused(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    file, red = tmp_path / "a.obj", "mtllib a.mtl\nusemtl red\n"
    for colours in (
        ["1 0 0", "0 1 0", "0 0 1"],
        ["0.5 0.5 0.5"] * 3,
        ["255 0 0", "0 255 0", "0 0 255"],
        ["2.5 0 0", "0 1 0", "0 0 1"],
        MIXED,
    ):
        with pytest.raises(InputError, match="colours beside the material 'red', which has no texture; export it with one"):
            read_parts(coloured(file, colours, red))
    with pytest.raises(InputError, match="colours at some of its vertices only; export it with colours at all of them"):
        read_parts(coloured(file, MIXED))
    coloured(file, ["1 0 0", "0 1 0", "0 0 1"], "vt 0 0\nvt 1 0\nvt 0 1\n")
    file.write_text(file.read_text().replace("f 1 2 3", "f 1/1 2/2 3/3"))
    with pytest.raises(InputError, match="colours beside texture coordinates without a texture; export it with one"):
        read_parts(file)


@pytest.mark.parametrize("colours", WHITE.values(), ids=WHITE)
def test_white_vertex_colours_change_nothing(tmp_path, colours):
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    (part,) = read_parts(coloured(tmp_path / "a.obj", colours, "mtllib a.mtl\nusemtl red\n"))
    assert part.colours is None and part.factor == (1, 0, 0, 1)
    (part,) = read_parts(coloured(tmp_path / "b.obj", colours))
    assert part.colours is None or (part.colours == 1).all()


def test_a_texture_is_shown_without_the_vertex_colours_beside_it(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl body\nmap_Kd pattern.png\n")
    pattern().save(tmp_path / "pattern.png")
    file = coloured(tmp_path / "a.obj", ["1 0 0", "0 1 0", "0 0 1"], "mtllib a.mtl\nusemtl body\nvt 0 0\nvt 1 0\nvt 0 1\n")
    file.write_text(file.read_text().replace("f 1 2 3", "f 1/1 2/2 3/3"))
    (part,) = read_parts(file)
    assert part.colours is None and part.texture is not None
