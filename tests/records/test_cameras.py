"""Cameras of views from files that others wrote."""

import json

import pytest

from magic123.records.cameras import read_poses
from magic123.records.errors import InputError

CAMERA = {"polar": 90, "azimuth": 0, "radius": 1.8, "fov": 40}


@pytest.mark.parametrize(
    ("name", "file"),
    [("ring", "ring/../../elsewhere/000.png"), ("../elsewhere", "../elsewhere/000.png"), ("ring", "/etc/000.png"), ("ring", 7)],
)
def test_views_lie_in_the_folder_of_their_set(name, file, tmp_path):
    (tmp_path / "cameras.json").write_text(json.dumps({"sets": {name: [CAMERA | {"file": file}]}}))
    with pytest.raises(InputError, match="does not give file"):
        read_poses(tmp_path)


def test_views_without_a_file_are_numbered(tmp_path):
    (tmp_path / "cameras.json").write_text(json.dumps({"radius": 1.8, "fov": 40, "ring": [{"polar": 90, "azimuth": 10}]}))
    assert read_poses(tmp_path) == {"ring/000": (90, 10, 1.8, 40)}
