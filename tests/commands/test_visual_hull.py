"""The visual-hull baseline, on views of a ball that have a closed form."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from repository_paths import REPOSITORY

from magic123.records.notes import read_notes

SCRIPT = REPOSITORY / "config/baselines/visual_hull.py"
RADIUS, SIDE, DISTANCE = 0.4, 96, 1.8


def write_views(folder: Path, with_alpha: bool, places: list[tuple[float, float]]) -> Path:
    """A ball in the middle, red in views from the front half and blue in the others."""
    focal = 0.5 * SIDE / np.tan(np.radians(20))
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / focal
    # a ray passes a ball at distance d where the sine of its angle to the middle is at most radius / d
    inside = (x**2 + y**2) / (1 + x**2 + y**2) <= (RADIUS / DISTANCE) ** 2
    listed = []
    for index, (polar, azimuth) in enumerate(places):
        name = f"ring/{index:03d}.png"
        colour = (200, 30, 30) if abs(azimuth) < 90 else (30, 30, 200)
        picture = np.where(inside[..., None], np.uint8(colour), np.uint8(255))
        for file, content in ((name, picture), (f"alpha/{name}", np.uint8(255 * inside)))[: 1 + with_alpha]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / file)
        listed.append({"file": name, "polar": polar, "azimuth": azimuth, "radius": DISTANCE, "fov": 40.0})
    (folder / "cameras.json").write_text(json.dumps({"sets": {"ring": listed}}))
    return folder


def carve(views: Path, monkeypatch: pytest.MonkeyPatch) -> trimesh.Trimesh:
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--views", str(views), "--out", str(views)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return trimesh.load(views / "mesh.ply", process=False)


@pytest.mark.parametrize("with_alpha", [True, False])
def test_the_hull_of_a_ball_is_about_the_ball(tmp_path: Path, monkeypatch, with_alpha: bool) -> None:
    places = [(polar, azimuth) for polar in (30.0, 60.0, 90.0, 120.0) for azimuth in np.arange(-165.0, 180, 30)]
    mesh = carve(write_views(tmp_path / "views", with_alpha, places), monkeypatch)
    distance = np.linalg.norm(mesh.vertices, axis=1)
    assert mesh.is_watertight and distance.min() > RADIUS - 0.01 and distance.max() < RADIUS + 0.06
    assert 0.97 < mesh.volume / (4 / 3 * np.pi * RADIUS**3) < 1.06
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3].astype(int)
    front, back = colours[mesh.vertices[:, 2] > 0.35], colours[mesh.vertices[:, 2] < -0.35]
    assert (front[:, 0] > front[:, 2] + 100).all() and (back[:, 2] > back[:, 0] + 100).all()


def test_one_view_gives_the_cone_of_its_mask_and_an_empty_intersection_is_reported(tmp_path: Path, monkeypatch) -> None:
    cone = carve(write_views(tmp_path / "one", True, [(90.0, 0.0)]), monkeypatch)
    assert (notes := read_notes(tmp_path / "one")) is not None and notes["views carved"] == 1 and "cone" in notes["needs"]
    assert np.ptp(cone.vertices[:, 2]) > 1.5 and np.ptp(cone.vertices[:, 0]) == pytest.approx(2 * RADIUS * 2.6 / 1.75, abs=0.1)
    views = write_views(tmp_path / "two", True, [(90.0, 0.0), (90.0, 90.0)])
    Image.new("L", (SIDE, SIDE)).save(views / "alpha/ring/001.png")
    with pytest.raises(SystemExit, match="no point in common"):
        carve(views, monkeypatch)
