"""SyncDreamer's metrics against numbers of its own definitions, and its protocol on a scan that is adopted as a result."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from textured_objects import egg, pack, scanned

from eval.metrics import syncdreamer
from eval.tables.plan import parse_column
from eval.tables.reported import Reported, is_comparable
from magic123.__main__ import main
from magic123.records.cards import read_scores
from magic123.records.errors import MetricGap


def changed(scale=(1.0, 1.0, 1.0), by=(0.0, 0.0, 0.0)) -> trimesh.Trimesh:
    mesh = egg()
    return trimesh.Trimesh(mesh.vertices * scale + by, mesh.faces, process=False)


# made once with Open3D 0.20 (rays, voxel_down_sample) and mesh2sdf 1.1.0 as eval_mesh.py uses them, on these meshes
@pytest.mark.parametrize(
    ("mesh", "chamfer", "iou"),
    [
        (changed(scale=(1.1, 0.95, 1.0)), 0.011958363328418847, 0.9038238702201622),
        (changed(by=(0.03, -0.02, 0.01)), 0.019359359724675694, 0.8376347598823913),
    ],
)
def test_the_numbers_are_those_of_the_public_code(mesh: trimesh.Trimesh, chamfer: float, iou: float) -> None:
    assert syncdreamer.seen_chamfer(mesh, changed()) == pytest.approx(chamfer, abs=3e-5)
    assert syncdreamer.parity_iou(mesh, changed()) == iou


def test_a_mesh_is_itself_wherever_the_truth_lies_and_whatever_its_size() -> None:
    here, there = changed(), changed(scale=(3, 3, 3), by=(5, -2, 1))
    assert syncdreamer.seen_chamfer(here, here) == 0 and syncdreamer.parity_iou(here, here) == 1
    moved = changed(scale=(3.3, 2.85, 3.0), by=(5, -2, 1))
    near = changed(scale=(1.1, 0.95, 1.0))
    assert syncdreamer.seen_chamfer(moved, there) == pytest.approx(syncdreamer.seen_chamfer(near, here), abs=1e-4)


def test_the_inside_of_a_cube_by_counting() -> None:
    """A cube of side 1: 32 of the grid points -1, -1 + 1/32, ... along each side; those on its surface count on one of two."""
    cube = trimesh.creation.box((1, 1, 1))
    assert syncdreamer.inside(np.asarray(cube.vertices), np.asarray(cube.faces)).sum() == 32**3


def test_what_no_camera_sees_or_no_point_lies_in_is_a_gap() -> None:
    away, sheet = changed(by=(0, 90, 0)), trimesh.Trimesh([[0, 0, 0], [0, 0, 1], [0, 1, 0]], [[0, 1, 2]], process=False)
    with pytest.raises(MetricGap, match="none of the 16 cameras"):
        syncdreamer.seen_chamfer(away, changed())
    with pytest.raises(MetricGap, match="neither surface encloses"):
        syncdreamer.parity_iou(away, sheet)


def test_published_numbers_stand_below_ours_for_meshes_alone() -> None:
    def number(metric: str) -> Reported:
        return Reported("Wonder3D", "GSO", "gso30", "Magic123", metric, "syncdreamer", 0.0516, "T", "", "0.0516")

    for metric, views, comparable in (("chamfer", "novel", True), ("volume-iou", "novel", True), ("psnr", "all", False)):
        column = parse_column(f"{metric}:syncdreamer")
        assert column.view_set == views
        assert is_comparable(number(metric), column.metric, column.view_set, column.protocol) is comparable
        assert not is_comparable(number(metric), metric, "novel", "corrected")


def test_a_scan_adopted_as_a_result_scores_perfectly_and_all_sixteen_views_count(tmp_path: Path) -> None:
    """The path of a line of gso30.csv: its zip file is rendered, prepared, adopted as a mesh of another system, and scored."""
    scan = pack(tmp_path / "EGG.zip", scanned(tmp_path / "apart"))
    frame = {"up": "z", "front": "-x", "scale": "unit-cube"}
    camera = {"polar": 60.0, "azimuth": 45.0, "radius": 1.5, "fov": 49.1343}
    views = {"size": 48, "radius": 1.5, "fov": 49.1343, "sets": {"orbit": {"polar": 60, "first_azimuth": 0, "count": 16}}}

    def run(command: str, **options: object) -> None:
        words = [
            (f"--{name.replace('_', '-')}", json.dumps(v) if isinstance(v, dict) else str(v)) for name, v in options.items()
        ]
        assert main([command, *(word for pair in words for word in pair)]) == 0, command

    thing, example, made, mesh = (tmp_path / name for name in ("object", "example", "views", "mesh"))
    run("from-mesh", mesh=scan, frame=frame, camera=camera, views=views, out=thing)
    prepared = {"resolution": 128, "depth": "none"}
    run("prepare", image=thing / "rgba.png", name="egg", prompt="an egg", camera=camera, settings=prepared, out=example)
    run("adopt-mesh", mesh=scan, settings={"frame": frame}, example=example, views=views, out=made, mesh_out=mesh)
    words = ["--views", made, "--truth", thing / "truth", "--reference", example, "--mesh", mesh / "mesh.obj"]
    words += ["--truth-mesh", thing / "mesh.ply", "--protocol", "corrected", "syncdreamer", "--out", tmp_path / "scores.json"]
    assert main(["score", *map(str, words)]) == 0
    scores = read_scores(tmp_path / "scores.json")
    found = {value.metric: value for value in scores.values if value.protocol == "syncdreamer"}
    assert found.keys() == {"psnr", "ssim", "chamfer", "volume-iou"}
    assert found["psnr"].view_set == "all" and len(found["psnr"].images) == 16 and found["psnr"].value > 60
    assert found["ssim"].value > 0.9999 and found["volume-iou"].value > 0.999 and found["chamfer"].value < 1e-6
    assert found["chamfer"].card.full_name == "chamfer.unaligned.seen-by-16-cameras.syncdreamer.v1"
    # the view of the input is the third of the sixteen, and counts as novel nowhere else
    corrected = next(v for v in scores.values if (v.metric, v.view_set, v.protocol) == ("psnr", "novel", "corrected"))
    assert len(corrected.images) == 15 and scores.left_out == ["orbit/002"]
