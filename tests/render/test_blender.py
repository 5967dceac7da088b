"""Pictures of textured meshes against those of Blender, which has its own readers, filtering and ray tracing.

uv pip install --target FOLDER bpy        (5.0.1 needs Python 3.11)
BPY=FOLDER python -m pytest -s tests/render/test_blender.py
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from repository_paths import REPOSITORY
from textured_objects import WRITERS

from magic123.geometry.camera import Camera
from magic123.geometry.mesh_reader import read_parts
from magic123.records.colour import encoded
from magic123.render.textured import TexturedMesh

POSES, SIZE = ((70, 30), (110, 200), (90, 300)), 256


@pytest.mark.skipif(not os.environ.get("BPY"), reason="BPY names no folder that holds bpy")
@pytest.mark.parametrize("name", WRITERS)
def test_pictures_agree_with_blender(tmp_path, name):
    """Albedo within 2/255 inside the mask, on average, and silhouettes within a pixel."""
    from scipy.ndimage import binary_dilation

    file = WRITERS[name](tmp_path / name)
    cameras = [Camera.orbit(*pose, 1.8, 40, SIZE) for pose in POSES]
    poses = [camera.camera_to_world[0].tolist() for camera in cameras]
    (tmp_path / "poses.json").write_text(json.dumps({"size": SIZE, "fov": 40, "samples": 64, "poses": poses}))
    words = [sys.executable, REPOSITORY / "tests/blender_render.py", file, tmp_path / "poses.json", tmp_path / "theirs.npy"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": os.environ["BPY"]}, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    mesh = TexturedMesh(read_parts(file))
    for pose, camera, theirs in zip(POSES, cameras, np.load(tmp_path / "theirs.npy"), strict=True):
        ours = mesh.render(camera).rgba
        mask, other = ours[..., 3] > 0.5, theirs[..., 3] > 0.5
        colour = encoded(np.clip(theirs[..., :3] / theirs[..., 3:].clip(1e-9), 0, 1))
        difference = 255 * np.abs(ours[..., :3] - colour)[mask & other]
        print(
            f"{name} at {pose}: albedo {difference.mean():.3f}/255 on average, {(mask ^ other).sum()} of {mask.sum()} pixels "
            f"of the mask differ, opacity {np.abs(ours[..., 3] - theirs[..., 3]).mean():.5f}"
        )
        assert difference.mean() < 2
        assert not (mask & ~binary_dilation(other)).any() and not (other & ~binary_dilation(mask)).any()
