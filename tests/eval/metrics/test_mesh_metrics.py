"""Chamfer distance, F-score and volume IoU of solids that have closed forms."""

import numpy as np
import pytest

from eval.metrics.image_metrics import unit_floats
from magic123.records.errors import InputError, MetricGap


def test_chamfer_and_f_score_of_concentric_spheres():
    import trimesh

    from eval.metrics.mesh_metrics import surface_distances

    inner, near, outer = (trimesh.creation.icosphere(subdivisions=4, radius=r) for r in (0.5, 0.53, 0.6))
    apart = surface_distances(inner, outer, samples=10_000)
    assert apart["chamfer"] == pytest.approx(0.1, abs=0.003) and apart["f-score"] == 0
    close = surface_distances(inner, near, samples=10_000)
    assert close["chamfer"] == pytest.approx(0.03, abs=0.003) and close["f-score"] == 1
    # the very triangles, rounded as files do, unwelded and in another order: no distance
    corners = inner.triangles[::-1].astype(np.float32).reshape(-1, 3)
    again = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    assert surface_distances(again, inner, samples=10_000) == {"chamfer": 0, "f-score": 1}
    assert surface_distances(trimesh.Trimesh(inner.vertices, inner.faces[1:]), inner, samples=10_000)["chamfer"] > 0
    # the same surface in other triangles: two samples are drawn, about half the spacing of the points apart
    turned = inner.copy().apply_transform(trimesh.transformations.rotation_matrix(0.3, [1, 2, 3]))
    assert surface_distances(turned, inner, samples=10_000)["chamfer"] == pytest.approx(0.5 * (np.pi / 10_000) ** 0.5, rel=0.1)


def test_meshes_are_not_aligned_and_extra_surface_costs_precision():
    import trimesh

    from eval.metrics.mesh_metrics import surface_distances

    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.3)
    moved = sphere.copy()
    moved.apply_translation([1.5, 0, 0])
    assert surface_distances(moved, sphere, samples=5_000)["chamfer"] > 1
    # twice the surface, half of it right: precision 1/2, recall 1
    both = trimesh.util.concatenate([sphere, moved])
    assert surface_distances(both, sphere, samples=5_000)["f-score"] == pytest.approx(2 / 3, abs=0.02)


def test_samples_are_spread_by_area():
    import trimesh

    from eval.metrics.mesh_metrics import sample_surface

    # one large and one tiny square of two triangles each
    large = trimesh.Trimesh([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]], [[0, 1, 2], [0, 2, 3]])
    small = trimesh.Trimesh([[9, 0, 0], [10, 0, 0], [10, 1, 0], [9, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    points = sample_surface(trimesh.util.concatenate([large, small]), 20_000)
    assert (points[:, 0] > 8).mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(sample_surface(large, 50), sample_surface(large, 50))


def test_bad_meshes_are_refused(tmp_path):
    from eval.pictures.meshes import load_mesh

    with pytest.raises(InputError, match="missing"):
        load_mesh(tmp_path / "none.ply")
    for name, text, sentence in (
        ("points.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "mesh|triangles"),
        ("nan.obj", "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "finite"),
        ("flat.obj", "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "area|triangles"),
        ("rubbish.ply", "not a mesh", "cannot be read"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=sentence):
            load_mesh(tmp_path / name)


def test_unit_floats_maps_bytes():
    assert unit_floats(np.array([[[0, 51, 255]]], dtype=np.uint8)).tolist() == [[[0.0, 0.2, 1.0]]]


def test_volume_iou_of_concentric_and_moved_solids():
    import trimesh

    from eval.metrics.mesh_metrics import solid_voxels, volume_iou

    inner, outer = (trimesh.creation.icosphere(subdivisions=3, radius=r) for r in (0.5, 0.6))
    assert volume_iou(inner, inner) == 1
    # cells that the surface touches count, so both are about half a cell larger all round
    half = 1 / 64
    assert volume_iou(inner, outer) == pytest.approx(((0.5 + half) / (0.6 + half)) ** 3, abs=0.01)
    cells = solid_voxels(inner)
    assert len(cells) * (2 / 64) ** 3 == pytest.approx(4 / 3 * np.pi * (0.5 + half) ** 3, rel=0.02)
    box = trimesh.creation.box((0.5, 0.5, 0.5))
    moved = box.copy()
    moved.apply_translation([0.25, 0, 0])
    assert volume_iou(box, moved) == pytest.approx(1 / 3, abs=0.04)
    apart = box.copy()
    apart.apply_translation([0, 0.9, 0])
    assert volume_iou(box, apart) == 0


def test_open_surfaces_enclose_no_volume():
    import trimesh

    from eval.metrics.mesh_metrics import volume_iou

    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    bowl = trimesh.Trimesh(sphere.vertices, sphere.faces[sphere.triangles_center[:, 1] < 0])
    with pytest.raises(MetricGap, match="encloses no volume"):
        volume_iou(sphere, bowl)
    # a hole narrower than a cell, and a texture's seams, leave a solid
    punched = trimesh.Trimesh(sphere.vertices, sphere.faces[1:], process=False)
    corners = sphere.vertices[sphere.faces].reshape(-1, 3)
    loose = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    assert not punched.is_watertight and volume_iou(sphere, loose) == 1
