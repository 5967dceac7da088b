"""A textured mesh becomes an example: what `from-mesh` writes is what `prepare` and `score` read, in one frame."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image
from textured_objects import write_glb, write_ply

from eval.pictures.pictures import read_picture
from magic123.__main__ import main
from magic123.example.companion import read_depth
from magic123.example.depth import normalized
from magic123.geometry.camera import Camera
from magic123.geometry.frames import bounding_sphere
from magic123.records.cameras import read_poses

VIEWS = {"size": 48, "sets": {"ring": {"polar": 80, "first_azimuth": 10, "count": 3}}}
FRAME = {"up": "z", "front": "-y", "scale": "unit-sphere"}


def make(mesh, out, *words: str, frame: dict = FRAME, **settings) -> int:
    options = ["--frame", json.dumps(frame), "--settings", json.dumps({"size": 96} | settings)]
    return main(["from-mesh", "--mesh", str(mesh), "--out", str(out), "--views", json.dumps(VIEWS), *options, *words])


def test_an_example_of_a_mesh(tmp_path):
    mesh = write_glb(tmp_path / "a.glb")
    assert make(mesh, tmp_path / "object", "--camera", '{"polar": 70, "azimuth": 20}') == 0
    folder = tmp_path / "object"
    rgba = read_picture(folder / "rgba.png", 4)
    inside = rgba[..., 3] > 127
    surface = trimesh.load(folder / "mesh.ply", process=False)
    ball = bounding_sphere(np.asarray(surface.vertices))
    assert np.allclose(ball.centre, 0, atol=1e-6) and ball.radius == pytest.approx(0.5, abs=1e-6)

    # the silhouette and the normals of the true mesh, by ray casting from the declared camera
    camera = Camera.orbit(70, 20, 1.8, 40, 96)
    origins, directions = (part[0].reshape(-1, 3).double().numpy() for part in camera.rays())
    face = surface.ray.intersects_first(origins, directions).reshape(96, 96)
    assert (inside ^ (face >= 0)).sum() < 0.02 * inside.sum()
    normal = np.asarray(Image.open(folder / "normal.png")) / 127.5 - 1
    in_camera = surface.face_normals[face[48, 48]] @ camera.camera_to_world[0, :3, :3].double().numpy()
    assert normal[48, 48] @ in_camera > 0.97 and normal[inside][:, 2].min() > -0.1

    # near is large; its ratio is that of the distances
    values = read_depth(folder / "depth.png", 10**6).values
    depth = normalized(values, inside, "depth")
    assert depth[inside].max() == 1 and (values[~inside] == 0).all() and values[inside].min() > 0.05
    hit = np.flatnonzero(face.reshape(-1) >= 0)
    points, ray, _ = surface.ray.intersects_location(origins[hit], directions[hit], multiple_hits=False)
    backward = camera.camera_to_world[0, :3, 2].double().numpy()
    inverse = np.zeros(96 * 96)
    inverse[hit[ray]] = 1 / ((origins[hit[ray]] - points) @ backward)
    clear = inside & (inverse.reshape(96, 96) > 0) & (rgba[..., 3] == 255)
    assert np.corrcoef(values[clear], inverse.reshape(96, 96)[clear])[0, 1] > 0.99

    record = json.loads((folder / "object.json").read_text())
    assert (
        record["frame"] == FRAME and record["parts"] == 2 and record["warnings"] == [] and list(record["sha256"]) == ["a.glb"]
    )
    poses = read_poses(folder / "truth")
    assert list(poses) == ["ring/000", "ring/001", "ring/002"] and poses["ring/001"] == (80, 130, 1.8, 40)
    assert read_picture(folder / "truth/ring/001.png", 4).shape == (48, 48, 4)
    assert np.asarray(Image.open(folder / "truth/depth/ring/001.png")).max() > 10_000


def test_light_and_warnings(tmp_path):
    mesh = write_ply(tmp_path / "a.ply")
    assert make(mesh, tmp_path / "dark", lit=True) == 0 and make(mesh, tmp_path / "flat") == 0
    dark, flat = (read_picture(tmp_path / name / "rgba.png", 3).astype(int) for name in ("dark", "flat"))
    assert dark.sum() < flat.sum() and (dark <= flat + 1).all()
    assert make(mesh, tmp_path / "large", frame={"scale": 2.0}) == 0
    warnings = json.loads((tmp_path / "large/object.json").read_text())["warnings"]
    assert len(warnings) == 2 and "leaves the input picture" in warnings[0] and "leaves the views ring" in warnings[1]


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        ({"scale": 1e-6}, "is not visible in the input picture"),
        ({"up": "x", "front": "-x"}, "lie on one axis"),
        ({"scale": -1}, "--frame: scale"),
    ],
)
def test_frames_that_show_nothing_are_refused(tmp_path, capsys, frame, sentence):
    assert make(write_ply(tmp_path / "a.ply"), tmp_path / "object", frame=frame) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert not (tmp_path / "object").exists()
