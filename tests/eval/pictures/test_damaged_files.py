"""Files that cannot be read are refused with what to do about them."""

import json

import numpy as np
import pytest
from PIL import Image

from eval.pictures.meshes import load_mesh
from eval.pictures.nerf_synthetic import read_frames
from eval.pictures.pictures import decode, open_picture
from magic123.records.errors import InputError


@pytest.mark.parametrize("read", [open_picture, decode])
@pytest.mark.parametrize("spoil", [lambda content: b"no picture", lambda content: content[:-30]], ids=["other", "cut"])
def test_pictures(tmp_path, read, spoil):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "000.png")
    (tmp_path / "000.png").write_bytes(spoil((tmp_path / "000.png").read_bytes()))
    with pytest.raises(InputError, match=r"000\.png .*; regenerate it, or download it again$"):
        read(tmp_path / "000.png")


def test_pictures_of_too_many_pixels(tmp_path):
    Image.new("1", (5000, 5000)).save(tmp_path / "000.png")
    with pytest.raises(InputError, match=r"000\.png declares 5000 x 5000 pixels, and at most \d+ are read; reduce it$"):
        open_picture(tmp_path / "000.png")


@pytest.mark.parametrize("content", ["no mesh", "ply\nformat ascii 1.0\nelement vertex 3\n"])
def test_meshes(tmp_path, content):
    (tmp_path / "mesh.ply").write_text(content)
    with pytest.raises(
        InputError, match=r"mesh\.ply cannot be read as a mesh \(\w+: .*\); regenerate it, or download it again$"
    ):
        load_mesh(tmp_path / "mesh.ply")


def test_cameras_of_nerf_synthetic(tmp_path):
    (tmp_path / "transforms_test.json").write_text(json.dumps({"frames": [{}]}))
    with pytest.raises(InputError, match=r"transforms_test\.json does not list frames .*; download it again$"):
        read_frames(tmp_path)
