"""The view command: complete folders, declared conventions, and agreement with the scene it shows."""

import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from magic123.commands import view as command
from magic123.commands.options import settings_type
from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.records.cameras import read_cameras
from magic123.records.errors import InputError
from magic123.render.rendering import RenderOptions
from magic123.scenes import views
from magic123.scenes.dmtet import DMTet
from magic123.scenes.nerf import NeRF
from magic123.scenes.picture import Picture
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.scenes import DMTetSettings, FieldSettings, HashGridSettings, NeRFSettings
from magic123.settings.stage import stage_settings
from magic123.settings.view import ViewSet, ViewSettings

FIELD = FieldSettings(
    grid=HashGridSettings(levels=2, log2_entries=8, base_resolution=4, finest_resolution=8), hidden=8, layers=1
)
SIZE = 32
SETTINGS = ViewSettings(
    size=SIZE,
    sets={"ring": ViewSet(first_azimuth=15.0, count=3), "elevated": ViewSet(polar=60.0, count=2)},
    shaded_ambient=0.25,
    turntable_frames=8,
    mesh_resolution=32,
    max_faces=600,
    texture_size=64,
)
EXPECTED = [("reference", 0, 80.0, 10.0), ("ring", 1, 90.0, 135.0), ("elevated", 1, 60.0, 180.0)]


def make_example() -> Example:
    alpha = torch.zeros(64, 64, 1)
    alpha[8:40, 12:37] = 1
    rgb = torch.tensor([0.9, 0.3, 0.2]) * alpha + (1 - alpha)
    camera = ReferenceCamera(polar=80.0, azimuth=10.0)
    return Example("toy", rgb, alpha, alpha > 0.5, None, None, camera, "a red toy")


@pytest.fixture(scope="module")
def scene():
    torch.manual_seed(0)
    scene = DMTet(FIELD, DMTetSettings(grid_resolution=24))
    with torch.no_grad():  # off centre, so that every view differs
        scene.sdf.copy_(0.4 - ((scene.lattice - torch.tensor([0.1, 0.05, 0.15])) / torch.tensor([1.0, 0.8, 1.2])).norm(dim=-1))
    return scene


@pytest.fixture(scope="module")
def shown(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    about = {"example": "toy", "prompt": "a red toy", "scene": "dmtet", "steps": 0}
    views.view(scene, make_example(), SETTINGS, folder / "views", folder / "mesh", about)
    return folder


def test_all_documented_files_are_written(shown):
    views = shown / "views"
    files = {str(p.relative_to(views)) for p in views.rglob("*") if p.is_file()}
    pictures = {"reference": 1, "ring": 3, "elevated": 2}
    expected = {
        f"{kind}{name}/{i:03d}.png"
        for kind in ("", "alpha/", "normal/", "depth/", "shaded/")
        for name, n in pictures.items()
        for i in range(n)
    }
    assert files == expected | {"cameras.json", "turntable.mp4", "contact.png"}
    assert {p.name for p in (shown / "mesh").iterdir()} == {
        "mesh.obj", "mesh.mtl", "texture.png", "mesh.glb", "mesh.ply", "mesh.json",
    }  # fmt: skip
    assert {p.name for p in shown.iterdir()} == {"views", "mesh"}  # nothing unfinished is left
    record = json.loads((shown / "mesh" / "mesh.json").read_text())
    assert record["exists"] and record["problem"] is None and 0 < record["faces"] <= 600


@pytest.mark.parametrize(("name", "index", "polar", "azimuth"), EXPECTED)
@torch.no_grad()
def test_pictures_are_the_scene_in_the_declared_conventions(shown, scene, name, index, polar, azimuth):
    views = shown / "views"
    content = json.loads((views / "cameras.json").read_text())
    entry = content["sets"][name][index]
    assert entry["file"] == f"{name}/{index:03d}.png"
    assert (entry["polar"], entry["azimuth"], entry["radius"], entry["fov"]) == (polar, azimuth, 1.8, 40.0)
    camera = Camera.orbit(polar, azimuth, 1.8, 40.0, SIZE)
    assert np.allclose(entry["camera_to_world"], camera.camera_to_world[0], atol=1e-6)
    seen = scene.render(camera, RenderOptions(mode="normal", background=torch.ones(3)))
    colour = scene.render(camera, RenderOptions(mode="albedo", background=torch.ones(3))).rgb[0].numpy()

    def read(kind):
        return np.asarray(Image.open(views / kind / entry["file"])).astype(np.float64)

    assert np.abs(read("") / 255 - colour).max() < 0.003
    assert np.abs(read("alpha") / 255 - seen.opacity[0, ..., 0].numpy()).max() < 0.003
    solid = (seen.opacity[0, ..., 0] == 1).numpy()
    normal = read("normal") / 255 * 2 - 1
    assert np.abs(normal - seen.normal[0].numpy())[solid].max() < 0.01
    assert (read("normal")[(seen.opacity[0, ..., 0] == 0).numpy()] == 255).all()
    depth = read("depth") / content["depth_scale"]
    assert np.abs(depth - seen.depth[0, ..., 0].numpy())[solid].max() < 1e-4
    assert (depth[(seen.opacity[0, ..., 0] == 0).numpy()] == 0).all()
    # the depth map, lifted by the declared camera, lies on the surface
    row, column = np.argwhere(solid)[::17].T
    focal = SIZE / 2 / np.tan(np.radians(entry["fov"] / 2))
    local = np.stack([(column + 0.5 - SIZE / 2) / focal, -(row + 0.5 - SIZE / 2) / focal, -np.ones(len(row))], -1)
    world = np.asarray(entry["camera_to_world"])
    points = (local * depth[row, column][:, None]) @ world[:3, :3].T + world[:3, 3]
    distance = np.linalg.norm((points - [0.1, 0.05, 0.15]) / [1.0, 0.8, 1.2], axis=1)
    assert np.abs(distance - 0.4).max() < 0.02


@torch.no_grad()
def test_shaded_views_are_the_albedo_in_a_light_at_the_camera(shown):
    for name, index, *_ in EXPECTED:
        file = f"{name}/{index:03d}.png"
        colour, shaded, alpha, normal = (
            np.asarray(Image.open(shown / "views" / kind / file), np.float32) / 255
            for kind in ("", "shaded", "alpha", "normal")
        )
        camera = Camera.orbit(*EXPECTED[[e[0] for e in EXPECTED].index(name)][2:], 1.8, 40.0, SIZE)
        light = torch.nn.functional.normalize(camera.position, dim=-1)[0].numpy()
        inside = alpha == 1
        lit = 0.25 + 0.75 * ((2 * normal - 1) @ light).clip(0)
        assert inside.sum() > 50
        assert np.abs(shaded - colour * lit[..., None])[inside].max() < 0.02
        assert (shaded[alpha == 0] == 1).all()


def test_video_and_contact_sheet(shown):
    import imageio.v2 as imageio

    with imageio.get_reader(shown / "views" / "turntable.mp4") as reader:
        about = reader.get_meta_data()
        frames = [frame for frame in reader]
    assert about["fps"] == 24 and about["size"] == (2 * SIZE, SIZE) and len(frames) == 8
    first = np.asarray(Image.open(shown / "views" / "reference" / "000.png")).astype(float)
    assert np.abs(frames[0][:, :SIZE] - first).mean() < 12  # it starts at the reference view (and is lossy)
    with Image.open(shown / "views" / "contact.png") as sheet:
        assert sheet.width > 1600 and sheet.height > 400


def test_cameras_of_a_truth_take_the_place_of_the_sets(scene, tmp_path):
    poses = [(75.0, 30.0, 1.7, 35.0), (110.0, -120.0, 2.0, 40.0)]
    keys = ("polar", "azimuth", "radius", "fov")
    listed = [dict(zip(keys, pose, strict=True), file=f"test/{i:03d}.png", frame="r_1") for i, pose in enumerate(poses)]
    (tmp_path / "cameras.json").write_text(json.dumps({"sets": {"test": listed}}))
    cameras = read_cameras(tmp_path / "cameras.json")
    about = {"example": "toy", "prompt": "a red toy", "scene": "dmtet", "steps": 0}
    views.view(scene, make_example(), SETTINGS, tmp_path / "views", tmp_path / "mesh", about, cameras)
    written = json.loads((tmp_path / "views/cameras.json").read_text())["sets"]
    assert set(written) == {"reference", "test"}
    assert [tuple(one[key] for key in keys) for one in written["test"]] == poses
    with torch.no_grad():
        expected = views.look(scene, Camera.orbit(110.0, -120.0, 2.0, 40.0, SIZE))["colour"]
    shown = np.asarray(Image.open(tmp_path / "views/test/001.png"))
    assert np.abs(shown - views.to_bytes(expected).astype(int)).max() <= 1
    for name, spoiled in (
        ("test", [{**listed[0], "file": "test/007.png"}]),
        ("test", [{"file": "test/000.png", "polar": 90}]),
        ("test", []),
        ("test", [{**listed[0], "azimuth": math.nan}]),
        ("test", [{**listed[0], "fov": 180}]),
        ("../elsewhere", [{**listed[0], "file": "../elsewhere/000.png"}]),
    ):
        (tmp_path / "cameras.json").write_text(json.dumps({"sets": {name: spoiled}}))
        with pytest.raises(InputError, match=r"cameras\.json"):
            read_cameras(tmp_path / "cameras.json")


def test_a_second_run_replaces_the_first_and_changes_nothing(shown, scene):
    before = {p: p.read_bytes() for p in shown.rglob("*") if p.is_file()}
    about = {"example": "toy", "prompt": "a red toy", "scene": "dmtet", "steps": 0}
    views.view(scene, make_example(), SETTINGS, shown / "views", shown / "mesh", about)
    after = {p: p.read_bytes() for p in shown.rglob("*") if p.is_file()}
    assert before.keys() == after.keys()
    assert [p.name for p in before if before[p] != after[p]] == []


def test_nothing_is_left_when_it_fails(scene, tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError("no space left")

    monkeypatch.setattr(views, "write_showcase", full_disk)
    with pytest.raises(OSError, match="no space"):
        views.view(scene, make_example(), SETTINGS, tmp_path / "views", tmp_path / "mesh", {"scene": "dmtet"})
    assert list(tmp_path.iterdir()) == []


def test_a_picture_has_no_mesh_and_says_so(tmp_path):
    example = make_example()
    scene = Picture(example.rgb, example.alpha)
    views.view(scene, example, SETTINGS, tmp_path / "views", tmp_path / "mesh", {"scene": "picture"})
    assert {p.name for p in (tmp_path / "mesh").iterdir()} == {"none.json", "mesh.json"}
    assert "no surface" in json.loads((tmp_path / "mesh" / "none.json").read_text())["reason"]
    shown = np.asarray(Image.open(tmp_path / "views" / "ring" / "002.png")) / 255
    assert np.abs(shown - example.resized(SIZE).rgb.numpy()).max() < 0.01


def test_a_nerf_is_shown_with_normals_and_marching_cubes(tmp_path):
    torch.manual_seed(0)
    nerf = NeRF(FIELD, NeRFSettings(occupancy_resolution=16, max_samples=96))
    nerf.occupancy.update(nerf.field.density)
    small = SETTINGS.model_copy(update={"sets": {}, "turntable_frames": 2})
    views.view(nerf, make_example(), small, tmp_path / "views", tmp_path / "mesh", {"scene": "nerf"})
    normal = np.asarray(Image.open(tmp_path / "views" / "normal" / "reference" / "000.png")) / 127.5 - 1
    toward = Camera.orbit(80.0, 10.0, 1.8, 40.0, 1).position[0].numpy() / 1.8
    assert normal[SIZE // 2, SIZE // 2] @ toward > 0.9
    assert json.loads((tmp_path / "mesh" / "mesh.json").read_text())["exists"]

    # a scene without anything in it still has pictures, and says why it has no mesh
    nerf.field.blob = lambda x: torch.full((len(x),), -50.0)
    nerf.occupancy.density.fill_(1.0)
    views.view(nerf, make_example(), small, tmp_path / "views", tmp_path / "mesh", {"scene": "nerf"})
    assert "empty" in json.loads((tmp_path / "mesh" / "none.json").read_text())["reason"]
    assert not (tmp_path / "mesh" / "mesh.obj").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"size": 0}', "size"),
        ('{"colour": 1}', "colour"),
        ("{", "not readable as JSON"),
        ("missing.json", "not readable as JSON"),
        ('{"sets": {"depth": {}}}', "'depth'"),
        ('{"sets": {"../up": {}}}', r"\.\./up"),
    ],
)
def test_bad_settings_are_one_sentence(text, reason):
    with pytest.raises(InputError, match=reason):
        settings_type("--settings", ViewSettings)(text)


def test_the_command_line(scene, tmp_path, monkeypatch):
    """From a checkpoint folder and an example folder, as a person types it (both loaders stubbed, they have tests)."""
    import magic123.example.example

    stage = stage_settings(scene="dmtet", init="coarse", steps=3, field=FIELD, dmtet=DMTetSettings(grid_resolution=24))
    checkpoint = types.ModuleType("magic123.scenes.checkpoint")
    checkpoint.load_scene = lambda folder, weights: (scene, stage)
    monkeypatch.setitem(sys.modules, "magic123.scenes.checkpoint", checkpoint)
    monkeypatch.setattr(magic123.example.example, "load_example", lambda folder: make_example())
    small = SETTINGS.model_copy(update={"sets": {}, "turntable_frames": 1})
    folders = ["--checkpoint", "c", "--example", "e", "--out", str(tmp_path / "views"), "--mesh", str(tmp_path / "mesh")]
    command.main([*folders, "--device", "cpu", "--settings", small.model_dump_json()])
    content = json.loads((tmp_path / "views" / "cameras.json").read_text())
    assert content["result"] == {"example": "toy", "prompt": "a red toy", "scene": "dmtet", "steps": 3, "weights": "raw"}
    assert list(content["sets"]) == ["reference"] and content["kernels"]["rasterizer"] == "numba"
    with pytest.raises(InputError, match="name two folders"):
        command.main(["--checkpoint", "c", "--example", "e", "--out", str(tmp_path), "--mesh", str(Path(tmp_path) / ".")])
