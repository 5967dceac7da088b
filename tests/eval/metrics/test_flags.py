"""Quality flags: on the true objects of the demo, for which none may be raised, and on damaged copies."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from repository_paths import DEMO

from eval.metrics.flags import RULES, Result, bulge, in_small_pieces, largest_part, measure_flags, repetition
from eval.pictures.inputs import NO_MESH_MADE, Reference
from eval.pictures.pictures import View, read_picture, read_views
from eval.pictures.protocols import blend_on_white, to_bytes
from magic123.records.cameras import read_poses
from magic123.records.cards import Flag

OBJECTS = sorted(path.name for path in DEMO.iterdir() if path.is_dir())


def true_result(name: str, folder: Path) -> Result:
    """The true object as a flawless result: its views, alpha, cameras and mesh; the first of the ring as the reference."""
    truth = DEMO / name / "truth"
    cameras = json.loads((truth / "cameras.json").read_text())
    listed, views = {}, []
    for kind in ("reference", "ring", "elevated"):
        listed[kind] = []
        for index, camera in enumerate(cameras["ring"][:1] if kind == "reference" else cameras[kind]):
            source = "ring" if kind == "reference" else kind
            rgba = read_picture(truth / source / f"{index:03d}.png", 4)
            views.append(View(kind, f"{index:03d}", to_bytes(blend_on_white(rgba, "straight"))))
            (folder / "alpha" / kind).mkdir(parents=True, exist_ok=True)
            (folder / "depth" / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / "alpha" / kind / f"{index:03d}.png"), rgba[..., 3])
            depth = cv2.imread(str(truth / "depth" / source / f"{index:03d}.png"), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(folder / "depth" / kind / f"{index:03d}.png"), depth)
            place = {"file": f"{kind}/{index:03d}.png", **camera, "radius": cameras["radius"], "fov": cameras["fov"]}
            listed[kind].append(place if kind != "reference" else place | {"azimuth": 0.0})
    (folder / "cameras.json").write_text(json.dumps({"sets": listed, "depth_scale": cameras["depth_scale"]}))
    reference = Reference(read_picture(DEMO / name / "rgba.png", 4), "straight")
    return Result(folder, views, read_poses(folder), reference, truth / "mesh.ply", "")


@pytest.fixture
def truck(tmp_path) -> Result:
    return true_result("green_truck", tmp_path)


def flags_of(result: Result) -> dict[str, Flag]:
    return {flag.name: flag for flag in measure_flags(result)}


@pytest.mark.parametrize("name", OBJECTS)
def test_no_flag_is_raised_for_true_objects(name, tmp_path):
    found = flags_of(true_result(name, tmp_path))
    assert {flag.name: flag.number for flag in found.values() if flag.state != "clear"} == {}
    assert set(found) == set(RULES)


def change(result: Result, picture) -> Result:
    """The same result with `picture(view, opaque)` in place of its novel renders."""
    novel = [replace(view, render=picture(view, result.opaque(view))) for view in result.novel]
    return replace(result, views=[*(view for view in result.views if view.set == "reference"), *novel])


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("fronts", [2, 3])
def test_several_fronts_are_raised(name, fronts, tmp_path):
    """The first half (third) of the ring repeated, each time with its own noise."""
    result, random = true_result(name, tmp_path), np.random.default_rng(0)
    renders = {view.name: view.render for view in result.views}

    def folded(view: View, _) -> np.ndarray:
        first = renders[f"{view.set}/{int(view.index) % (12 // fronts):03d}"]
        return np.clip(first + random.normal(0, 12, first.shape), 0, 255).astype(np.uint8)

    flag = flags_of(change(result, folded))["several-fronts"]
    assert flag.state == "raised" and flag.number < 0.25


def test_an_object_alike_from_all_sides_has_no_several_fronts():
    vase = np.full((64, 64, 3), 255, np.uint8)
    vase[10:50, 20:44] = (200, 30, 30)
    assert repetition([vase] * 12) == 1.0


def test_concave_front_is_raised(tmp_path):
    for name in OBJECTS:
        result = true_result(name, tmp_path / name)
        file = tmp_path / name / "depth/reference/000.png"
        depth = cv2.imread(str(file), cv2.IMREAD_UNCHANGED).astype(int)
        inside = depth > 0
        depth[inside] = depth[inside].max() + depth[inside].min() - depth[inside]  # the front turned inside out
        cv2.imwrite(str(file), depth.astype(np.uint16))
        assert flags_of(result)["concave-front"].state == "raised", name


def test_bulge_of_a_sphere_and_of_a_bowl():
    y, x = (np.mgrid[:64, :64] - 31.5) / 28
    inside = x**2 + y**2 < 1
    height = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    assert bulge(2 - height, inside) < -0.3 and bulge(2 + height, inside) > 0.3
    assert bulge(np.full((64, 64), 2.0), inside) == 0


def test_white_back_is_raised(truck):
    azimuth = {name: truck.poses[name][1] for name in truck.poses}

    def whitened(view: View, opaque: np.ndarray) -> np.ndarray:
        render = view.render.copy()
        if 100 < azimuth[view.name] % 360 < 260:
            render[opaque] = 250
        return render

    flag = flags_of(change(truck, whitened))["white-back"]
    assert flag.state == "raised" and flag.number > 0.9
    # a white object has a white back by right
    white = truck.reference.rgba.copy()
    white[..., :3] = 252
    assert flags_of(change(replace(truck, reference=Reference(white, "straight")), whitened))["white-back"].state == "clear"


def test_floaters_are_raised(truck):
    for view in truck.novel:
        file = truck.folder / "alpha" / f"{view.name}.png"
        alpha = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        for dust in range(2, 122, 6):  # above the truck
            alpha[2:20:6, dust : dust + 4] = alpha[3:21:6, dust : dust + 4] = 255
        cv2.imwrite(str(file), alpha)
    assert flags_of(truck)["floaters"].state == "raised"


def test_small_pieces_are_those_below_a_tenth():
    mask = np.zeros((40, 40), bool)
    assert in_small_pieces(mask) == 0
    mask[:20, :20] = True
    mask[30:, 30:] = True  # 100 of 500 pixels: a part, no floater
    assert in_small_pieces(mask) == 0
    mask[30, 0:5] = True
    assert in_small_pieces(mask) == pytest.approx(5 / 505)


def test_saturation_is_raised(truck):
    def garish(view: View, opaque: np.ndarray) -> np.ndarray:
        render = view.render.astype(float)
        mean = render.mean(2, keepdims=True)
        return np.where(opaque[..., None], np.clip(mean + 3.5 * (render - mean) + 20, 0, 255), 255).astype(np.uint8)

    flag = flags_of(change(truck, garish))["saturation"]
    assert flag.state == "raised" and flag.number > RULES["saturation"].threshold


def test_shattered_and_empty_meshes_are_raised(truck, tmp_path):
    import trimesh

    pieces = [trimesh.creation.icosphere(subdivisions=1, radius=0.1) for _ in range(6)]
    for place, piece in enumerate(pieces):
        piece.apply_translation([0.3 * place, 0, 0])
    trimesh.util.concatenate(pieces).export(tmp_path / "shattered.obj")
    flag = flags_of(replace(truck, mesh=tmp_path / "shattered.obj"))["shattered-mesh"]
    assert flag.state == "raised" and flag.number == pytest.approx(1 / 6, abs=1e-5)
    flag = flags_of(replace(truck, mesh=None, no_mesh="it is empty"))["shattered-mesh"]
    assert (flag.state, flag.number) == ("raised", 0.0)
    assert flags_of(replace(truck, mesh=None, no_mesh=NO_MESH_MADE))["shattered-mesh"].state == "not measured"
    # a sphere cut along its seams, as a textured mesh is, is whole
    sphere = trimesh.creation.icosphere(subdivisions=2)
    corners = sphere.vertices[sphere.faces].reshape(-1, 3)
    loose = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
    loose.export(tmp_path / "loose.obj")
    assert largest_part(tmp_path / "loose.obj", "") == pytest.approx(1)


def test_what_cannot_be_measured_says_why(truck, tmp_path):
    """Pictures alone, as another system leaves them: no alpha, no depth, no cameras."""
    for view in truck.views:
        path = tmp_path / "bare" / view.set / f"{view.index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), view.render[..., ::-1])
    bare = Result(tmp_path / "bare", read_views(tmp_path / "bare", None), {}, truck.reference, None, NO_MESH_MADE)
    found = flags_of(bare)
    assert found["several-fronts"].state == "clear"  # colours and their order are enough
    unknown = {name: flag.reason for name, flag in found.items() if flag.state == "not measured"}
    assert set(unknown) == set(RULES) - {"several-fronts"} and all(unknown.values())
    assert "alpha map" in unknown["floaters"] and "depth map" in unknown["concave-front"]


def test_a_flag_without_number_or_reason_does_not_fit_the_schema():
    about = {"name": "floaters", "threshold": 0.1, "meaning": "m"}
    for state, number, reason in (("clear", None, ""), ("not measured", 0.1, "r"), ("not measured", None, "")):
        with pytest.raises(ValueError, match="a number, or a reason"):
            Flag(**about, state=state, number=number, reason=reason)
