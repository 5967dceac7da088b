"""Textures and mesh files: what is written, read back by other code, looks like what was rendered."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from magic123.geometry.camera import Camera
from magic123.geometry.export import colours_of, write_mesh, write_parts
from magic123.geometry.lattice import build_lattice
from magic123.geometry.marching_tets import marching_tets
from magic123.geometry.mesh import mesh_problem
from magic123.geometry.mesh_parts import Part
from magic123.geometry.mesh_reader import read_parts
from magic123.geometry.texture import bake, unwrap
from magic123.records.colour import encoded
from magic123.render.raster import render_mesh

SIZE = 64
CAMERAS = Camera.orbit([90.0, 60.0, 100.0, 75.0], [0.0, 60.0, 180.0, -75.0], 1.8, 40.0, SIZE)


def left_and_right(points):
    """Red at +x, blue at -x, brighter upwards: no two views of it are alike."""
    red = torch.sigmoid(6 * points[:, 0])
    return torch.stack([red, 0.25 + 0.5 * points[:, 1].clamp(-0.5, 0.5), 1 - red], -1)


def lopsided():
    """A ball with a bump at +x and a longer one at +z."""
    lattice = build_lattice(40)
    blobs = [((0.0, 0, 0), 0.35), ((0.32, 0.1, 0), 0.18), ((0, 0, 0.35), 0.14)]
    parts = [radius - (lattice.vertices - torch.tensor(centre)).norm(dim=-1) for centre, radius in blobs]
    return marching_tets(lattice.vertices, torch.stack(parts).amax(0), lattice.tets)


def shaded(points, normals):
    return left_and_right(points)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    vertices, faces = (part.numpy() for part in lopsided())
    figures = write_mesh(folder, vertices, faces, left_and_right, max_faces=1200, texture_size=256, metadata={"from": "a test"})
    return folder, figures


def photograph(mesh, camera: Camera, texture: np.ndarray) -> np.ndarray:
    """An independent renderer: embree ray casting of a loaded mesh and bilinear texture look-up, 3 x 3 rays a pixel."""
    factor = 3
    origins, directions = camera.resized(camera.height * factor).rays()
    picture = np.ones((camera.height * factor, camera.width * factor, 3), np.float32)
    rays = origins.reshape(-1, 3).numpy(), directions.reshape(-1, 3).numpy()
    places, ray, face = mesh.ray.intersects_location(*rays, multiple_hits=False)
    import trimesh

    weight = trimesh.triangles.points_to_barycentric(mesh.triangles[face], places)
    uv = (weight[..., None] * mesh.visual.uv[mesh.faces[face]]).sum(1)
    grid = torch.tensor(np.stack([uv[:, 0] * 2 - 1, 1 - uv[:, 1] * 2], -1), dtype=torch.float32)[None, None]
    image = torch.tensor(texture, dtype=torch.float32).permute(2, 0, 1)[None] / 255
    colour = F.grid_sample(image, grid, align_corners=False, padding_mode="border")[0, :, 0].T
    picture.reshape(-1, 3)[ray] = colour.numpy()
    return F.avg_pool2d(torch.tensor(picture).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()


def psnr(a, b):
    return -10 * np.log10(np.square(a - b).mean())


@pytest.mark.parametrize("name", ["mesh.glb", "mesh.obj"])
def test_file_seen_by_another_renderer_looks_like_the_rasterised_original(written, name):
    """Handedness, row order, texture orientation and baking in one: a mirrored or turned file would fall below 20 dB."""
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("embreex")
    mesh = trimesh.load(written[0] / name, force="mesh", process=False)
    material = mesh.visual.material
    texture = np.asarray((material.baseColorTexture if name.endswith("glb") else material.image).convert("RGB"))
    own = render_mesh(*lopsided(), CAMERAS, shade=shaded, background=torch.ones(3)).rgb.numpy()
    for index in range(len(CAMERAS)):
        assert psnr(photograph(mesh, CAMERAS[index], texture), own[index]) > 30
    mirrored = mesh.copy()
    mirrored.vertices = mirrored.vertices * [-1, 1, 1]
    assert psnr(photograph(mirrored, CAMERAS[0], texture), own[0]) < 20


def test_all_files_are_there_and_say_the_same(written):
    trimesh = pytest.importorskip("trimesh")
    folder, figures = written
    assert {p.name for p in folder.iterdir()} == {"mesh.obj", "mesh.mtl", "texture.png", "mesh.glb", "mesh.ply"}
    assert figures["faces"] <= 1200 < figures["faces_clean"] <= figures["faces_given"]
    with Image.open(folder / "texture.png") as image:
        assert image.size == (256, 256) and image.mode == "RGB"
    glb, obj, ply = (trimesh.load(folder / f"mesh.{kind}", force="mesh", process=False) for kind in ("glb", "obj", "ply"))
    assert len(glb.faces) == len(obj.faces) == figures["faces"] and len(ply.faces) == figures["faces_clean"]
    assert np.allclose(glb.triangles, obj.triangles, atol=1e-5)
    assert ply.is_watertight and ply.volume > 0
    assert ply.volume == pytest.approx(trimesh.Trimesh(*(p.numpy() for p in lopsided())).volume, rel=1e-3)
    # positions stay shared across seams
    text = (folder / "mesh.obj").read_text()
    assert text.count("\nv ") == figures["vertices"] < text.count("\nvt ")
    assert "mtllib mesh.mtl" in text and "map_Kd texture.png" in (folder / "mesh.mtl").read_text()


def test_glb_material_and_metadata(written):
    content = (written[0] / "mesh.glb").read_bytes()
    length = struct.unpack("<I", content[12:16])[0]
    tree = json.loads(content[20 : 20 + length])
    assert tree["asset"]["extras"] == {"from": "a test"}
    surface = tree["materials"][0]["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0 and surface["roughnessFactor"] == 1 and "baseColorTexture" in surface
    assert "NORMAL" in tree["meshes"][0]["primitives"][0]["attributes"]


def test_bake_hits_the_surface_and_pads_its_charts():
    vertices, faces = (part.numpy() for part in lopsided())
    faces = faces[: len(faces) // 2]
    seen = []

    def albedo(points):
        seen.append(points)
        return torch.zeros(len(points), 3) + torch.tensor([1.0, 0.5, 0.25])

    atlas = unwrap(vertices, faces, 256)
    assert atlas.uv.min() >= 0 and atlas.uv.max() <= 1 and len(atlas.faces) == len(faces)
    assert np.array_equal(atlas.vertex[atlas.faces], faces)
    texture = bake(vertices, atlas, albedo, 256)
    assert (texture == [255, 128, 64]).all()  # one colour everywhere: also where nothing was baked
    points = torch.cat(seen)
    surface = torch.stack([points - torch.tensor(c) for c in ((0.0, 0, 0), (0.32, 0.1, 0), (0, 0, 0.35))]).norm(dim=-1)
    assert float((surface - torch.tensor([0.35, 0.18, 0.14])[:, None]).amin(0).abs().max()) < 0.03

    # a chart's border repeats its own colour `padding` texels outwards, not its neighbour's
    by_place = bake(vertices, atlas, left_and_right, 256, padding=3).astype(int)
    bare = bake(vertices, atlas, left_and_right, 256, padding=0).astype(int)
    mean = bare[0, 0] if (bare[0, 0] == bare[-1, -1]).all() else None
    grown = (by_place != bare).any(-1)
    assert mean is not None and grown.sum() > 200 and (bare[grown] == mean).all()


def test_a_flat_sheet_bakes_exactly():
    """Every texel inside the chart carries the colour of its place: rows and columns are not swapped or shifted."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0.5, 0], [0, 0.5, 0]])
    atlas = unwrap(vertices, np.array([[0, 1, 2], [0, 2, 3]]), 128)
    texture = bake(vertices, atlas, lambda p: torch.cat([p[:, :2], p[:, :1] * 0], -1), 128) / 255
    centre = (np.arange(128) + 0.5) / 128
    uv = np.stack(np.broadcast_arrays(centre[None, :], 1 - centre[:, None]), -1).reshape(-1, 2)
    place = np.linalg.lstsq(np.c_[atlas.uv, np.ones(len(atlas.uv))], vertices[atlas.vertex][:, :2], rcond=None)[0]
    expected = (np.c_[uv, np.ones(len(uv))] @ place).reshape(128, 128, 2)
    inside = ((expected > 0.01) & (expected < [0.99, 0.49])).all(-1)
    assert inside.mean() > 0.3
    assert np.abs(texture[inside][:, :2] - expected[inside]).max() < 0.006


def test_mirrored_pictures_differ():
    """The rasteriser itself: +x is on the right of the front view, and the view from behind swaps it."""
    camera = Camera.orbit(90.0, [0.0, 180.0], 1.8, 40.0, 32)
    vertices, faces = lopsided()
    assert mesh_problem(vertices.numpy(), faces.numpy()) is None
    front, behind = render_mesh(vertices, faces, camera, shade=shaded, background=torch.ones(3)).rgb
    row = 16
    assert front[row, 22, 0] > 0.7 > 0.3 > front[row, 10, 0] and front[row, 10, 2] > 0.7
    assert behind[row, 10, 0] > 0.7 and behind[row, 22, 2] > 0.7


def test_write_mesh_is_reproducible(written, tmp_path):
    vertices, faces = (part.numpy() for part in lopsided())
    write_mesh(tmp_path, vertices, faces, left_and_right, max_faces=1200, texture_size=256, metadata={"from": "a test"})
    for file in written[0].iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_parts_of_others_keep_their_colours(tmp_path):
    """One texture stays one, times its factor; several parts have a colour for each vertex; none stays none."""
    import trimesh

    red, green, blue, white = np.uint8([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [255, 255, 255, 255]])
    corners, faces = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]])
    uv = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [1.25, -0.25]])  # the last one repeats the upper left texel
    part = Part(corners, faces, uv=uv, texture=np.stack([[red, green], [blue, white]]))
    file = tmp_path / "mesh.glb"
    write_parts(file, [part])
    (again,) = read_parts(file)
    assert np.array_equal(again.texture, part.texture) and np.allclose(again.uv, uv) and np.array_equal(again.faces, faces)
    assert np.array_equal(colours_of(part), [blue, white, green, red])

    half = replace(part, factor=(0.5, 0.5, 0.5, 1.0))
    grey = round(float(encoded(np.array(0.5))) * 255)
    write_parts(file, [half])
    assert np.array_equal(read_parts(file)[0].texture[1, 1], [grey, grey, grey, 255])
    write_parts(file, [part, replace(half, texture=None, uv=None)])
    colours = trimesh.load_mesh(file, process=False).visual.vertex_colors
    assert np.array_equal(colours, [blue, white, green, red, *[[grey, grey, grey, 255]] * 4])
    write_parts(file, [Part(corners, faces)])
    assert trimesh.load_mesh(file, process=False).visual.kind is None
