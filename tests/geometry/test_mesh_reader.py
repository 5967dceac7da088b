"""Meshes of every format, and in zip archives as Google Scanned Objects and other collections provide them."""

import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from textured_objects import pack, scanned, write_glb, write_obj, write_ply

from magic123.geometry.mesh_parts import joined
from magic123.geometry.mesh_reader import read_parts
from magic123.records.colour import decoded
from magic123.records.errors import InputError


def test_parts_keep_their_materials_and_transforms(tmp_path):
    part, body = read_parts(write_glb(tmp_path / "a.glb"))
    assert body.texture is not None and body.double_sided and not part.double_sided
    assert np.allclose(part.factor, (0.8, 0.2, 26 / 255, 1)) and part.texture is None
    vertices, faces = joined([part, body])
    given = trimesh.load_scene(tmp_path / "a.glb").to_mesh()
    assert np.allclose(np.sort(vertices, 0), np.sort(given.vertices, 0), atol=1e-6) and len(faces) == len(given.faces)
    box, body = sorted(read_parts(write_obj(tmp_path / "b.obj")), key=lambda part: len(part.faces))
    assert np.allclose(box.factor[:3], decoded(np.array([0.8, 0.2, 0.1]))) and body.texture is not None
    (ply,) = read_parts(write_ply(tmp_path / "c.ply"))
    assert ply.colours is not None and ply.colours.shape == (len(ply.vertices), 4)


def test_large_textures_and_files_are_refused_before_they_are_decoded(tmp_path):
    file = write_obj(tmp_path / "a.obj")
    Image.new("1", (9000, 9000)).save(tmp_path / "pattern.png")
    with pytest.raises(InputError, match="9000 x 9000 pixels"):
        read_parts(file)
    with file.open("r+b") as stream:
        stream.truncate(2**30 + 1)
    with pytest.raises(InputError, match=r"has 1.0 GiB, and at most 1 GiB"):
        read_parts(file)


def test_a_scanned_object_reads_as_its_files_do(tmp_path: Path) -> None:
    file = pack(tmp_path / "EGG.zip", scanned(tmp_path / "apart"))
    packed, plain = read_parts(file), read_parts(tmp_path / "apart/model.obj")
    assert len(packed) == len(plain) == 2
    for ours, theirs in zip(packed, plain, strict=True):
        assert np.array_equal(ours.vertices, theirs.vertices) and np.array_equal(ours.faces, theirs.faces)
        assert (ours.texture is None) == (theirs.texture is None)
        assert ours.texture is None or np.array_equal(ours.texture, theirs.texture)


def test_a_texture_beside_the_mesh_comes_before_one_of_that_name_elsewhere(tmp_path: Path) -> None:
    content = scanned(tmp_path / "apart")
    content["meshes/pattern.png"], content["materials/textures/pattern.png"] = content["materials/textures/pattern.png"], b"x"
    assert any(part.texture is not None for part in read_parts(pack(tmp_path / "EGG.zip", content)))


def test_a_glb_in_a_zip_and_what_apple_adds(tmp_path: Path) -> None:
    content = {"egg.glb": write_glb(tmp_path / "egg.glb").read_bytes(), "__MACOSX/._egg.glb": b"fork", "empty/": b""}
    assert len(read_parts(pack(tmp_path / "egg.zip", content))) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"../outside.obj": b"v"}, "would leave the folder"),
        ({"meshes/../../outside.png": b"v"}, "would leave the folder"),
        ({"/etc/model.mtl": b"v"}, "would leave the folder"),
        ({"C:\\model.png": b"v"}, "would leave the folder"),
        ({"other.ply": b"ply"}, r"several meshes \(meshes/model.obj, other.ply\); it must hold one"),
        ({"meshes": b"a file where a folder is"}, None),
        ({"meshes/two.mtl/deep.png": b"v"}, "cannot be unpacked"),
        ({"x" * 300 + ".png": b"v"}, "cannot be unpacked"),
        ({"meshes/model.obj": b"v 0 0 0\n"}, "has no triangles"),
    ],
)
def test_hostile_and_strange_members(tmp_path: Path, change: dict[str, bytes], said: str | None) -> None:
    before = set(tmp_path.iterdir())
    file = pack(tmp_path / "EGG.zip", scanned(tmp_path / "apart") | change)
    if said is None:  # a name without a suffix that meshes need is never written
        assert read_parts(file)
    else:
        with pytest.raises(InputError, match=said) as caught:
            read_parts(file)
        assert "/tmp" not in str(caught.value).replace(str(tmp_path), "") and "EGG.zip" in str(caught.value)
    assert set(tmp_path.iterdir()) - before == {file, tmp_path / "apart"}


def test_a_missing_texture_is_named_with_its_archive(tmp_path: Path) -> None:
    file = pack(tmp_path / "EGG.zip", scanned(tmp_path / "apart", without="materials/textures/pattern.png"))
    with pytest.raises(InputError, match=r"EGG.zip/meshes/model.obj needs 'pattern.png', which is not in its folder"):
        read_parts(file)


def test_archives_without_a_mesh_links_bombs_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = scanned(tmp_path / "apart", without="meshes/model.obj")
    with pytest.raises(InputError, match="holds none of"):
        read_parts(pack(tmp_path / "none.zip", content))

    link = zipfile.ZipInfo("meshes/model.obj")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="would leave the folder"):
        read_parts(tmp_path / "link.zip")

    whole = pack(tmp_path / "whole.zip", scanned(tmp_path / "more")).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.zip is not a zip archive of a mesh .*; download it again$"):
        read_parts(tmp_path / "cut.zip")
    (tmp_path / "bad.zip").write_bytes(whole[:200] + bytes(byte ^ 255 for byte in whole[200:250]) + whole[250:])
    with pytest.raises(InputError, match=r"bad\.zip is damaged .*; download it again$"):
        read_parts(tmp_path / "bad.zip")

    monkeypatch.setattr("magic123.geometry.mesh_reader.MOST_BYTES", 2**20)
    bomb = io.BytesIO(bytes(2**21))
    with pytest.raises(InputError, match="holds more than"):
        read_parts(pack(tmp_path / "bomb.zip", {"meshes/model.obj": bomb.read()}))
