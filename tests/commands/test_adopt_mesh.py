"""A mesh of another system as a result: in its declared frame or after registration, the true mesh gets perfect scores."""

import json

import imageio.v2 as imageio
import numpy as np
import pytest
import trimesh
from PIL import Image
from textured_objects import WRITERS

from magic123.__main__ import main
from magic123.records.cards import read_scores
from magic123.settings.method import Method
from magic123.settings.settings_file import validate

VIEWS = json.dumps({"size": 64, "turntable_frames": 4, "sets": {"ring": {"polar": 80, "first_azimuth": 15, "count": 3}}})
TURN = trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0])  # y up becomes z up, and z front -y


def run(*words: object) -> int:
    return main([str(word) for word in words])


def move(mesh, file, turn) -> None:
    """Write a copy of a mesh that is rotated, in centimetres and translated."""
    matrix = turn.copy()
    matrix[:3] *= 100
    matrix[:3, 3] = 30, -50, 20
    file.parent.mkdir()
    if mesh.suffix == ".obj":
        for beside in ("two.mtl", "pattern.png"):
            (file.parent / beside).write_bytes((mesh.parent / beside).read_bytes())
        lines = [
            "v {:.9g} {:.9g} {:.9g}\n".format(*(matrix[:3, :3] @ np.array(line.split()[1:], float) + matrix[:3, 3]))
            if line.startswith("v ")
            else line
            for line in mesh.read_text().splitlines(keepends=True)
        ]
        file.write_text("".join(lines))
    else:
        scene = trimesh.load_scene(mesh, process=False)
        scene.apply_transform(matrix)
        file.write_bytes((scene.to_mesh() if mesh.suffix == ".ply" else scene).export(file_type=mesh.suffix[1:]))


@pytest.fixture
def truth(tmp_path, request):
    """A mesh, the example that `from-mesh` and `prepare` make of it, and the mesh rotated, translated and in centimetres."""
    name = getattr(request, "param", "object.ply")
    mesh = WRITERS[name](tmp_path / name)
    frame = json.dumps({"scale": "unit-sphere"})
    assert run("from-mesh", "--mesh", mesh, "--frame", frame, "--views", VIEWS, "--out", tmp_path / "object") == 0
    prepared = '{"resolution": 128, "depth": "none"}'
    words = ("--name", "x", "--prompt", "a thing", "--settings", prepared, "--out", tmp_path / "example")
    assert run("prepare", "--image", tmp_path / "object/rgba.png", *words) == 0
    move(mesh, tmp_path / "moved" / name, TURN)
    return tmp_path


def adopt(root, mesh, settings: dict, *words: object) -> int:
    given = ("--settings", json.dumps(settings), "--example", root / "example", "--views", VIEWS)
    return run("adopt-mesh", "--mesh", mesh, *given, *words, "--out", root / "views", "--mesh-out", root / "mesh")


def scores(root):
    words = ("--views", root / "views", "--truth", root / "object/truth", "--reference", root / "example")
    meshes = ("--mesh", root / "mesh/mesh.obj", "--truth-mesh", root / "object/mesh.ply")
    assert run("score", *words, *meshes, "--out", root / "scores.json") == 0
    return read_scores(root / "scores.json")


@pytest.mark.parametrize("truth", WRITERS, indirect=True)
def test_the_truth_in_its_declared_frame_is_perfect(truth):
    name = next(name for name in WRITERS if (truth / name).is_file())
    frame = {"up": "z", "front": "-y", "scale": "fit"}
    assert adopt(truth, truth / "moved" / name, {"frame": frame}, "--truth-mesh", truth / "object/mesh.ply") == 0
    found = scores(truth)
    values = {(value.metric, value.view_set): value for value in found.values}
    assert min(values["psnr", "novel"].images.values()) > 80 and values["psnr", "reference"].value > 40
    assert values["f-score", "novel"].value == 1 and values["volume-iou", "novel"].value > 0.99
    assert values["chamfer", "novel"].value == 0
    assert not [flag.name for flag in found.flags if flag.state == "raised"]
    with imageio.get_reader(truth / "views/turntable.mp4") as film, Image.open(truth / "views/contact.png") as sheet:
        assert film.count_frames() == 4 and film.get_data(0).shape == (64, 128, 3) and sheet.width > 600
    shown = trimesh.load_mesh(truth / "mesh/mesh.glb")
    assert len(shown.faces) == len(trimesh.load_mesh(truth / "mesh/mesh.obj").faces) and shown.visual.kind is not None
    alignment = values["psnr", "novel"].card.alignment
    assert alignment["align"] == "none" and alignment["frame"] == frame and "sphere of the true mesh" in alignment["method"]
    assert "unaligned" in values["chamfer", "novel"].card.full_name


@pytest.mark.nightly
@pytest.mark.parametrize("truth", WRITERS, indirect=True)
def test_turned_about_each_axis_and_declared_or_found(truth):
    """With its frame declared or found by registration the true mesh is perfect; with neither it is flagged."""
    name = next(name for name in WRITERS if (truth / name).is_file())
    frames = {"x": {"up": "z", "front": "-y"}, "y": {"up": "y", "front": "x"}, "z": {"up": "-x", "front": "z"}}
    for number, (axis, frame) in enumerate(frames.items()):
        mesh = truth / axis / name
        move(truth / name, mesh, trimesh.transformations.rotation_matrix(np.pi / 2, np.eye(3)[number]))
        for how in ({"frame": frame | {"scale": "fit"}}, {"align": "similarity"}, {}):
            assert adopt(truth, mesh, how, "--truth-mesh", truth / "object/mesh.ply") == 0
            found = scores(truth)
            values = {(value.metric, value.view_set): value for value in found.values}
            raised = [flag.name for flag in found.flags if flag.state == "raised"]
            lowest = min(values["psnr", "novel"].images.values())
            print(
                f"{name} about {axis}, {', '.join(how) or 'nothing'}: Chamfer {values['chamfer', 'novel'].value:.5f}, "
                f"F-score {values['f-score', 'novel'].value:.3f}, lowest PSNR {lowest:.1f} dB, flags {raised}"
            )
            if how:
                assert (
                    lowest > 80
                    and values["f-score", "novel"].value == 1
                    and values["chamfer", "novel"].value == 0
                    and not raised
                )
            else:
                assert "misplaced" in raised


def test_nothing_declared_is_found_and_recorded(truth):
    moved, goal = truth / "moved/object.ply", ("--truth-mesh", truth / "object/mesh.ply")
    assert adopt(truth, moved, {"align": "similarity"}, *goal) == 0
    values = {(value.metric, value.view_set): value for value in scores(truth).values}
    assert min(values["psnr", "novel"].images.values()) > 80 and values["f-score", "novel"].value == 1
    assert values["chamfer", "novel"].value == 0
    card = values["chamfer", "novel"].card
    assert "aligned-similarity" in card.full_name and "unaligned" not in card.full_name
    assert "aligned-similarity" in values["psnr", "novel"].card.full_name
    assert "vertices of the true mesh" in card.alignment["method"] and np.shape(card.alignment["transform"]) == (4, 4)

    frame = {"up": "z", "front": "-y"}
    assert adopt(truth, moved, {"frame": frame, "align": "scale"}) == 0  # onto the picture's silhouette
    found = scores(truth)
    assert next(value for value in found.values if value.metric == "psnr" and value.view_set == "novel").value > 15
    assert "silhouette" in found.values[0].card.alignment["method"] and found.values[0].card.alignment["residual"] < 0.1


def test_a_mesh_in_another_frame_is_flagged_and_takes_little_memory(truth, capsys):
    assert adopt(truth, truth / "moved/object.ply", {}) == 0  # 100 world units large
    found = scores(truth)
    assert "misplaced" in [flag.name for flag in found.flags if flag.state == "raised"]
    (gap,) = [gap for gap in found.gaps if gap.metric == "volume-iou"]
    assert "world units from the middle" in gap.reason
    assert adopt(truth, truth / "moved/object.ply", {"frame": {"scale": 1000}}) == 1
    assert "declare its frame" in capsys.readouterr().err


def test_a_mesh_without_colours_is_white_and_says_so(truth):
    (truth / "made").mkdir()
    trimesh.creation.box((0.6, 0.6, 0.6)).export(truth / "made/box.obj")
    (truth / "made/notes.json").write_text('{"seconds on their GPU": 0.5}')
    assert adopt(truth, truth / "made/box.obj", {}, "--made", truth / "made") == 0
    assert scores(truth).notes == {"seconds on their GPU": 0.5, "colours": "none in the file, so its pictures are white"}
    assert np.asarray(Image.open(truth / "views/ring/000.png")).min() == 255
    with imageio.get_reader(truth / "views/turntable.mp4") as film:
        colour = film.get_data(1)[:, :64].astype(int)  # drawn grey, to be seen
    assert 30 < colour.min() < 150 and np.ptp(colour, axis=-1).max() < 20
    assert trimesh.load_mesh(truth / "mesh/mesh.glb").visual.kind is None


def test_meshes_without_a_surface_are_refused(truth, capsys):
    for text, sentence in (("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "has no area"), ("v 0 0 0\n", "no triangles")):
        (truth / "flat.obj").write_text(text)
        assert adopt(truth, truth / "flat.obj", {}) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and sentence in error, error
    assert not (truth / "views").exists() and not (truth / "mesh").exists()


def test_a_row_of_meshes():
    row = {
        "label": "Theirs",
        "meshes": "foreign/theirs/{dataset}/{example}.glb",
        "frame": {"up": "z", "front": "-y", "scale": "fit"},
    }
    method = validate(Method, row, "methods.yaml")
    assert method.made_elsewhere == row["meshes"] and method.stages["meshes"].has_mesh and method.align == "none"
    for change, sentence in (
        ({"renders": "a/{dataset}/{example}"}, "renders and meshes: name one"),
        ({"meshes": "foreign/{example}.glb"}, "meshes must hold {dataset} and {example}"),
        ({"meshes": None}, "frame belongs to meshes"),
        ({"meshes": None, "renders": "a/{dataset}/{example}"}, "frame belongs to meshes; renders"),
        ({"frame": {"up": "z"}}, "lie on one axis"),
        ({"align": "rotate"}, "align"),
    ):
        with pytest.raises(Exception, match=sentence.replace("{", r"\{")):
            validate(Method, row | change, "methods.yaml")
