"""NeRF-synthetic test views in the frame of the reference camera: where points land says whether cameras and pictures agree."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from eval.__main__ import main
from eval.pictures.nerf_synthetic import read_hashes, turned_camera, unroll
from eval.pictures.pictures import read_picture
from magic123.geometry.camera import Camera
from magic123.records.cameras import read_poses

SIZE, FOV, DISTANCE = 160, 40.0, 4.03
HASHES = Path(__file__).resolve().parents[3] / "datasets" / "nerf-synthetic.sha256"
# three coloured balls in Blender's world (z up), none of them on an axis
BALLS = {(220, 30, 30): (0.7, 0.2, 0.1), (30, 200, 30): (-0.2, 0.8, 0.3), (30, 30, 220): (0.1, -0.3, 0.9)}


def blender_pose(azimuth: float, elevation: float) -> np.ndarray:
    """Camera to world, z up, looking at the origin, upright in that world."""
    a, e = np.radians([azimuth, elevation])
    backward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.cross([0, 0, 1.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(backward, right), backward], axis=1)
    pose[:3, 3] = DISTANCE * backward
    return pose


def project(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Pixels [N, 2] (x, y; centres at +0.5) of world points [N, 3]."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    focal = SIZE / (2 * np.tan(np.radians(FOV) / 2))
    return SIZE / 2 + focal * np.stack([local[:, 0], -local[:, 1]], axis=1) / -local[:, 2:]


@pytest.fixture
def scene(tmp_path):
    """Six frames round a world of three balls, seen from 30 degrees up and down."""
    folder, frames = tmp_path / "chair", []
    (folder / "test").mkdir(parents=True)
    for number, azimuth in enumerate((20, 80, 140, 200, 260, 320)):
        pose = blender_pose(azimuth, 30 if number % 2 == 0 else -20)
        picture = np.zeros((SIZE, SIZE, 4), np.uint8)
        for colour, place in zip(BALLS, project(np.array(list(BALLS.values())), pose), strict=True):
            centre = tuple(round(16 * (value - 0.5)) for value in place)
            cv2.circle(picture, centre, 16 * 5, (*colour[::-1], 255), -1, shift=4)
        cv2.imwrite(str(folder / f"test/r_{number}.png"), picture)
        frames.append({"file_path": f"./test/r_{number}", "rotation": 0.03, "transform_matrix": pose.tolist()})
    (folder / "transforms_test.json").write_text(json.dumps({"camera_angle_x": np.radians(FOV), "frames": frames}))
    return folder


def convert(scene, *options) -> int:
    words = ["nerf-synthetic", "--scene", scene, "--out", scene.parent / "truth", "--every", 1, *options]
    return main([str(word) for word in words])


@pytest.mark.parametrize("polar", [90.0, 60.0])
def test_points_land_where_our_cameras_see_them(scene, polar):
    """The world turned so that the reference camera is the assumed one, looked at through the cameras that render our views."""
    assert convert(scene, "--polar", polar) == 0
    reference = blender_pose(20, 30)
    camera = Camera.orbit(polar, 0, 1.8, FOV, SIZE)
    turn = camera.camera_to_world[0, :3, :3].double().numpy() @ reference[:3, :3].T
    points = 1.8 / DISTANCE * np.array(list(BALLS.values())) @ turn.T
    poses, seen = read_poses(scene.parent / "truth"), 0
    assert sorted(poses) == [f"test/{i:03d}" for i in range(5)]
    for name, (own_polar, azimuth, radius, fov) in poses.items():
        one = Camera.orbit(own_polar, azimuth, radius, fov, SIZE)
        clip = torch.tensor(np.c_[points, np.ones(3)], dtype=torch.float32) @ one.clip_matrices()[0].T
        pixels = ((clip[:, :2] / clip[:, 3:] + 1) / 2 * SIZE).numpy()
        picture = read_picture(scene.parent / "truth" / f"{name}.png", 4)
        for colour, place in zip(BALLS, pixels, strict=True):
            mine = (np.abs(picture[..., :3].astype(int) - colour).max(2) < 40) & (picture[..., 3] > 200)
            if mine.sum() < 60:
                continue  # another ball is in front of it
            centre = np.argwhere(mine).mean(0)[::-1] + 0.5
            assert np.abs(centre - place).max() < 0.8, (name, colour)
            seen += 1
    assert seen >= 10


def test_rolled_pictures_are_rotated_and_upright_ones_are_not(scene):
    assert convert(scene, "--polar", 60) == 0  # the true elevation: up stays up
    cameras = json.loads((scene.parent / "truth/cameras.json").read_text())["sets"]["test"]
    assert max(abs(camera["roll"]) for camera in cameras) < 1e-3
    same = read_picture(scene.parent / "truth/test/000.png", 4)
    assert np.array_equal(same, read_picture(scene / "test/r_1.png", 4))
    assert convert(scene) == 0
    cameras = json.loads((scene.parent / "truth/cameras.json").read_text())["sets"]["test"]
    assert max(abs(camera["roll"]) for camera in cameras) > 20


def test_the_reference_itself_is_at_the_assumed_place():
    pose = blender_pose(123, 40)
    place, roll = turned_camera(pose, pose, 90.0, 1.8)
    assert (place["polar"], place["azimuth"] % 360, place["radius"]) == pytest.approx((90, 0, 1.8)) and abs(roll) < 1e-9
    picture = np.random.default_rng(0).integers(0, 255, (9, 9, 4)).astype(np.uint8)
    picture[..., 3] = 255
    assert np.array_equal(unroll(picture, np.pi / 2), np.rot90(picture, 1))  # a camera leaning left sees the world lean right


def test_files_are_verified_by_their_hashes(scene, tmp_path, capsys):
    files = ["transforms_test.json", *(f"test/r_{i}.png" for i in range(6))]
    lines = [f"{hashlib.sha256((scene / file).read_bytes()).hexdigest()}  chair/{file}\n" for file in files]
    (tmp_path / "hashes").write_text("# a remark\n" + "".join(lines))
    assert convert(scene, "--hashes", tmp_path / "hashes") == 0
    spoiled = read_picture(scene / "test/r_3.png", 4)
    spoiled[0, 0] = 9
    cv2.imwrite(str(scene / "test/r_3.png"), spoiled)
    assert convert(scene, "--hashes", tmp_path / "hashes") == 1
    assert "r_3.png has another SHA-256" in capsys.readouterr().err
    scene.rename(scene.parent / "stool")
    assert convert(scene.parent / "stool", "--hashes", tmp_path / "hashes") == 1
    assert "has no hash for stool/transforms_test.json" in capsys.readouterr().err


def rename_reference(file: Path) -> None:
    file.write_text(file.read_text().replace("r_0", "r_9"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda at: (at / "test/r_2.png").unlink(), "r_2.png is missing; get the NeRF-synthetic"),
        (lambda at: (at / "transforms_test.json").unlink(), "transforms_test.json is missing"),
        (lambda at: (at / "transforms_test.json").write_text("{}"), "does not list frames"),
        (lambda at: rename_reference(at / "transforms_test.json"), "has no frame test/r_0"),
    ],
    ids=["picture", "transforms", "frames", "reference"],
)  # fmt: skip
def test_what_is_not_there_is_named(scene, capsys, damage, sentence):
    damage(scene)
    assert convert(scene) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (scene.parent / "truth").exists()


def test_shipped_hashes_are_those_of_the_published_pictures():
    """NeRF4's pictures are the first test views of their scenes: the two manifests agree."""
    import csv

    hashes = read_hashes(HASHES)
    with open(HASHES.with_name("nerf4.csv"), newline="") as file:
        rows = {row["name"]: row["sha256"] for row in csv.DictReader(file)}
    assert {name: hashes[f"{name}/test/r_0.png"] for name in rows} == rows
    assert len(hashes) == 4 * 201
