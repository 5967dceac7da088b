"""adopt-mesh: another system's mesh -> its views and its surface in the project's frame, in the layout of `view`.

Reads   --mesh (GLB, glTF, OBJ with MTL and textures, PLY), --example (its picture and its camera), --truth-mesh if there is
        one, notes.json in --made (what the program that made the mesh wrote) if there is one
Writes  --out:      {set}/NNN.png on white; alpha/, normal/, depth/{set}/NNN.png; cameras.json, which also says how the mesh
                    came into the project's frame; turntable.mp4; contact.png
        --mesh-out: mesh.obj (the surface in the project's frame, without colours), mesh.glb (with colours), mesh.json
Both folders appear complete or not at all. Colours are albedo.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magic123.commands.options import add_settings, command_parser, say
from magic123.records.cameras import read_cameras
from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.records.notes import Notes, read_notes
from magic123.settings.frames import Placement
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings

if TYPE_CHECKING:
    from magic123.example.example import Example
    from magic123.geometry import registration
    from magic123.geometry.camera import Camera
    from magic123.geometry.textured import Part
    from magic123.render.textured import MeshPicture, TexturedMesh

SMALL = 64  # pixels of a side at which turns are compared with the picture
LONGEST = 1e4  # world units; a mesh that reaches farther is in another unit


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and render the mesh. Raises InputError for bad input."""
    parser = command_parser("adopt-mesh", "Views and surface of another system's mesh.")
    parser.add_argument("--mesh", type=Path, required=True, help=".glb, .gltf, .obj, .ply, or a .zip with one")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    add_settings(parser, Placement, about="how the mesh comes into the project's frame")
    add_settings(parser, ViewSettings, "--views", "whose sets, radius, fov and size the views have")
    parser.add_argument("--cameras", type=Path, help="cameras.json of true views: its sets in place of the settings' own")
    parser.add_argument("--truth-mesh", type=Path, help="the true mesh, which `fit` and `align` refer to")
    parser.add_argument("--made", type=Path, help="what the command of the row made, for its notes.json")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the views into")
    parser.add_argument("--mesh-out", type=Path, required=True, help="folder to write the mesh into")
    options = parser.parse_args(argv)
    given = read_cameras(options.cameras) if options.cameras else None
    notes = read_notes(options.made) if options.made else None

    from magic123.example.example import load_example
    from magic123.geometry.camera import view_cameras
    from magic123.geometry.export import write_parts
    from magic123.geometry.textured import coloured, joined, read_parts
    from magic123.render.textured import TexturedMesh

    example, parts = load_example(options.example), read_parts(options.mesh)
    if not coloured(parts):
        notes = {**(notes or {}), "colours": "none in the file, so its pictures are white"}
    placed = place(parts, options.settings, options.truth_mesh, example, options.mesh)
    mesh = TexturedMesh([part.moved(np.array(placed["transform"])) for part in parts])
    cameras = view_cameras(options.views, example.camera if example.pictured else None, given)
    circle = cameras.pop("turntable")
    with output_folder(options.out, "cameras.json") as views, output_folder(options.mesh_out, "mesh.json") as folder:
        write_views(mesh, cameras, views, example, placed, notes)
        write_turntable(mesh, circle, views, example)
        write_surface(*joined(mesh.parts), folder, placed)
        write_parts(folder / "mesh.glb", mesh.parts)
    say(f"adopt-mesh: {len(mesh.faces)} faces, {sum(map(len, cameras.values()))} views; frame: {placed['method']}")


def place(parts: list[Part], settings: Placement, truth: Path | None, example: Example, source: Path) -> dict[str, Any]:
    """Return how the mesh comes into the project's frame, as JSON data for the records.

    Args:
        parts: of the mesh, in its own frame.
        settings: what is declared and what is to be found.
        truth: file of the true mesh, or None.
        example: gives the picture and its camera.
        source: file of the mesh, for error messages.

    Returns:
        {"align", "method", "frame", "transform", "residual", "unit"}.

    Raises:
        InputError: the mesh has no surface, is beyond any object's size in this frame, or there is nothing to align it with.
    """
    from magic123.geometry.frames import ball_of, placement, used_vertices
    from magic123.geometry.mesh import face_areas
    from magic123.geometry.textured import joined, read_parts

    own = used_vertices(parts)
    goal = None if truth is None else read_parts(truth)
    matrix = placement(own, settings.frame, None if goal is None else ball_of(used_vertices(goal)))
    method = f"declared (up {settings.frame.up}, front {settings.frame.front}, scale {settings.frame.scale})"
    if settings.frame.scale == "fit":
        method += ", fitted into the sphere of the true mesh" if goal is not None else ", fitted into the sphere of diameter 1"
    found: dict[str, Any] = {"align": settings.align, "frame": settings.frame.model_dump(), "residual": None, "unit": ""}
    vertices, faces = joined([part.moved(matrix) for part in parts])
    if not face_areas(vertices, faces).sum() > 1e-12 * max(1.0, float(np.ptp(own, axis=0).max()) ** 2) * abs(
        np.linalg.det(matrix[:3, :3])
    ):
        raise InputError(f"mesh {source} has no area; there is no surface to show")
    if settings.align != "none":
        result = align(parts, matrix, vertices, faces, settings.align == "similarity", goal, example, source)
        matrix = result.matrix @ matrix
        method += f"; {settings.align}: {result.method}"
        found |= {"residual": round(result.residual, 9), "unit": result.unit}
    reach = float(np.abs(own @ matrix[:3, :3].T + matrix[:3, 3]).max())
    if reach > LONGEST:
        raise InputError(
            f"mesh {source} reaches {reach:.3g} world units from the middle, and objects lie in [-1, 1]^3; declare its frame "
            "(frame: {scale: ...}), or let it be found (align: similarity)"
        )
    return {**found, "method": method, "transform": matrix.tolist()}


def align(
    parts: list[Part], matrix: np.ndarray, vertices: np.ndarray, faces: np.ndarray, turn: bool,
    goal: list[Part] | None, example: Example, source: Path,
) -> registration.Registration:  # fmt: skip
    """Return the similarity that lays the mesh onto the true mesh, or onto the picture's silhouette without one.

    Args:
        parts: of the mesh, in its own frame.
        matrix: from there to where it is declared to be.
        vertices: of all parts, where they are declared to be.
        faces: vertex numbers.
        turn: whether it may rotate.
        goal: the true mesh, or None.
        example: gives the picture and its camera.
        source: file of the mesh, for error messages.

    Raises:
        InputError: there is neither a true mesh nor a picture.
    """
    from magic123.geometry.camera import Camera
    from magic123.geometry.frames import ball_of
    from magic123.geometry.mesh import drop_unused
    from magic123.geometry.registration import onto_mesh, onto_silhouette
    from magic123.geometry.textured import joined
    from magic123.render.textured import TexturedMesh, covered

    vertices, faces = drop_unused(vertices, faces)
    at, small = example.camera, example.resized(SMALL) if example.pictured else None
    camera = Camera.orbit(at.polar, at.azimuth, at.radius, at.fov, SMALL)

    def seen(step: np.ndarray) -> Any:
        return TexturedMesh([part.moved(step @ matrix) for part in parts]).render(camera, samples=1)

    def judge(step: np.ndarray) -> float:
        if small is None:
            return 0.0
        rgba = seen(step).rgba
        shown = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
        return float(((shown - small.require("rgb").numpy()) ** 2).mean())

    if goal is not None:
        return onto_mesh(vertices, faces, *drop_unused(*joined(goal)), turn, judge)
    if small is None:
        raise InputError(
            f"mesh {source} cannot be aligned: the example has neither a true mesh nor a picture; declare its frame"
        )
    ball, pose = ball_of(vertices), camera.camera_to_world[0].double().numpy()
    silhouette = small.require("mask").numpy()[..., 0]
    return onto_silhouette(
        ball.centre, ball.radius, silhouette, lambda step: covered(seen(step)), pose, float(camera.focal[0]), turn, judge
    )


def write_views(
    mesh: TexturedMesh,
    cameras: dict[str, Camera],
    folder: Path,
    example: Example,
    placed: dict[str, Any],
    notes: Notes | None,
) -> None:
    """Write the pictures of all view sets, and cameras.json."""
    from magic123.scenes.views import write_view_sets

    def shown(camera: Camera) -> dict[str, np.ndarray]:
        picture = mesh.render(camera)
        colour, normal, alpha = on_white(picture)
        return {"colour": colour, "alpha": alpha, "normal": normal, "depth": picture.depth}

    result = {"example": example.name, "prompt": example.prompt, "scene": "another system's mesh"}
    about = {"result": result, "version": VERSIONS["adopt-mesh"], **({} if notes is None else {"notes": notes})}
    list(write_view_sets(folder, cameras, cameras, shown, about, {"mesh": "z-buffer, 4 x 4 points a pixel"}, placed))


def on_white(picture: MeshPicture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return colours [H, W, 3] and normals [H, W, 3] (as (n + 1) / 2) on white, and alpha [H, W]."""
    # blended as the truth is, from bytes, so that a perfect mesh has a perfect score
    rgba = np.rint(picture.rgba * 255) / 255
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + 1 - alpha, (picture.normal + alpha) / 2 + 1 - alpha, alpha[..., 0]


def write_turntable(mesh: TexturedMesh, circle: Camera, folder: Path, example: Example) -> None:
    """Write turntable.mp4 and contact.png: once around the object at the reference picture's height, as of our own rows.

    A mesh without colours, which would be white on white, is drawn grey under a light at the camera.
    """
    from magic123.geometry.textured import coloured
    from magic123.render.showcase import Frame
    from magic123.scenes.views import to_bytes, write_frames

    frames, plain = [], not coloured(mesh.parts)
    for index in range(len(circle)):
        picture = mesh.render(circle[index], samples=2)
        colour, normal, alpha = on_white(picture)
        if plain:
            facing = (picture.normal @ circle[index].camera_to_world[0, :3, 2].numpy()).clip(0)
            colour = np.repeat((0.25 * alpha + 0.55 * facing + 1 - alpha)[..., None], 3, axis=2)
        frames.append(Frame(float(circle.azimuth[index]), to_bytes(colour), to_bytes(normal)))
    words = [example.prompt, "another system's mesh", f"mesh of {len(mesh.faces):,} faces"]
    write_frames(frames, example, words + ["no colours: scored as white, drawn grey"] * plain, folder)


def write_surface(vertices: np.ndarray, faces: np.ndarray, folder: Path, placed: dict[str, Any]) -> None:
    """Write mesh.obj without colours, and mesh.json with what is questionable about it."""
    from magic123.geometry.mesh import drop_unused, mesh_problem

    vertices, faces = drop_unused(vertices, faces)
    with (folder / "mesh.obj").open("w") as file:
        file.write("# +y up, front +z, right-handed\n")
        np.savetxt(file, vertices, "v %.9g %.9g %.9g")
        np.savetxt(file, faces + 1, "f %d %d %d")
    content = {"exists": True, "problem": mesh_problem(vertices, faces), "faces": len(faces), "alignment": placed}
    (folder / "mesh.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
