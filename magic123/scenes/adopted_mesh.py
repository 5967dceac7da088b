"""Another system's mesh as a result: bring it into the project's frame, and write its views and its surface."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from magic123.example.example import Example
from magic123.geometry.camera import Camera, view_cameras
from magic123.geometry.export import write_parts
from magic123.geometry.frames import bounding_sphere, placement, used_vertices
from magic123.geometry.mesh import drop_unused, face_areas, mesh_problem
from magic123.geometry.mesh_parts import Part, coloured, joined
from magic123.geometry.mesh_reader import read_parts
from magic123.geometry.registration import Registration, onto_mesh, onto_silhouette
from magic123.records.cameras import ViewSets
from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.records.notes import Notes
from magic123.render.textured import TexturedMesh, covered
from magic123.scenes.views import Say, write_turntable, write_view_sets
from magic123.settings.frames import Placement
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings

SMALL = 64  # pixels; size at which rotations are compared with the picture
LONGEST = 1e4  # world units; a mesh that reaches farther is taken to be in another unit


def adopt_mesh(
    source: Path,
    example: Example,
    placement_settings: Placement,
    settings: ViewSettings,
    out: Path,
    mesh_out: Path,
    truth: Path | None = None,
    cameras: ViewSets | None = None,
    notes: Notes | None = None,
    say: Say = lambda line: None,
) -> None:
    """Write the views of another system's mesh and its surface, in the layout of `view`.

    Args:
        source: file of the mesh.
        example: gives the picture and its camera.
        placement_settings: how the mesh is brought into the project's frame.
        settings: sets, radius, field of view and size of the views.
        out: folder for the views.
        mesh_out: folder for the mesh.
        truth: file of the true mesh, or None.
        cameras: view sets that replace those of the settings, as `read_cameras` returns them.
        notes: notes of the program that made the mesh.
        say: called with a line of progress.

    Raises:
        InputError: a mesh cannot be read, or the mesh cannot be brought into the frame.
    """
    parts = read_parts(source)
    plain = not coloured(parts)
    if plain:
        notes = {**(notes or {}), "colours": "none in the file, so its pictures are white"}
    placed = _place(parts, placement_settings, truth, example, source)
    mesh = TexturedMesh([part.transformed(np.array(placed["transform"])) for part in parts])
    sets = view_cameras(settings, example.camera if example.pictured else None, cameras)
    circle, name = sets.pop("turntable"), "another system's mesh"
    result = {"example": example.name, "prompt": example.prompt, "scene": name}
    about = {"result": result, "version": VERSIONS["adopt-mesh"], **({} if notes is None else {"notes": notes})}
    kernels = {"mesh": "z-buffer, 4 x 4 points a pixel"}
    with output_folder(out, "cameras.json") as views, output_folder(mesh_out, "mesh.json") as folder:
        list(write_view_sets(views, sets, sets, partial(_shown, mesh), about, kernels, placed))
        words = [example.prompt, name, f"mesh of {len(mesh.faces):,} faces"]
        words += ["no colours: scored as white, drawn grey"] * plain
        write_turntable(circle, partial(_lit if plain else _shown, mesh, samples=2), example, words, views)
        _write_surface(*joined(mesh.parts), folder, placed)
        write_parts(folder / "mesh.glb", mesh.parts)
    say(f"adopt-mesh: {len(mesh.faces)} faces, {sum(map(len, sets.values()))} views; frame: {placed['method']}")


def _place(parts: list[Part], settings: Placement, truth: Path | None, example: Example, source: Path) -> dict[str, Any]:
    """Return how the mesh is brought into the project's frame, as JSON data for the records.

    Args:
        parts: the parts of the mesh, in its own frame.
        settings: the declared frame, and the registration to use.
        truth: file of the true mesh, or None.
        example: gives the picture and its camera.
        source: file of the mesh, for error messages.

    Returns:
        {"align", "method", "frame", "transform", "residual", "unit"}.

    Raises:
        InputError: the mesh has no surface, is far too large in this frame, or there is nothing to align it with.
    """
    own = used_vertices(parts)
    goal = None if truth is None else read_parts(truth)
    matrix = placement(own, settings.frame, None if goal is None else bounding_sphere(used_vertices(goal)))
    method = f"declared (up {settings.frame.up}, front {settings.frame.front}, scale {settings.frame.scale})"
    if settings.frame.scale == "fit":
        method += ", fitted into the sphere of the true mesh" if goal is not None else ", fitted into the sphere of diameter 1"
    found: dict[str, Any] = {"align": settings.align, "frame": settings.frame.model_dump(), "residual": None, "unit": ""}
    vertices, faces = joined([part.transformed(matrix) for part in parts])
    if not face_areas(vertices, faces).sum() > 1e-12 * max(1.0, float(np.ptp(own, axis=0).max()) ** 2) * abs(
        np.linalg.det(matrix[:3, :3])
    ):
        raise InputError(f"mesh {source} has no area; there is no surface to show")
    if settings.align != "none":
        result = _align(parts, matrix, vertices, faces, settings.align == "similarity", goal, example, source)
        matrix = result.matrix @ matrix
        method += f"; {settings.align}: {result.method}"
        found |= {"residual": round(result.residual, 9), "unit": result.unit}
    reach = float(np.abs(own @ matrix[:3, :3].T + matrix[:3, 3]).max())
    if reach > LONGEST:
        raise InputError(
            f"mesh {source} reaches {reach:.3g} world units from the middle, but objects lie in [-1, 1]^3; declare its frame "
            "(frame: {scale: ...}), or have it aligned (align: similarity)"
        )
    return {**found, "method": method, "transform": matrix.tolist()}


def _align(
    parts: list[Part], matrix: np.ndarray, vertices: np.ndarray, faces: np.ndarray, rotate: bool,
    goal: list[Part] | None, example: Example, source: Path,
) -> Registration:  # fmt: skip
    """Return the similarity transform that aligns the mesh to the true mesh, or without one to the picture's silhouette.

    Args:
        parts: the parts of the mesh, in its own frame.
        matrix: from the mesh's own frame to the declared position.
        vertices: vertices of all parts, in the declared position.
        faces: vertex numbers.
        rotate: whether the transform may rotate.
        goal: the true mesh, or None.
        example: gives the picture and its camera.
        source: file of the mesh, for error messages.

    Raises:
        InputError: there is neither a true mesh nor a picture.
    """
    vertices, faces = drop_unused(vertices, faces)
    at, small = example.camera, example.resized(SMALL) if example.pictured else None
    camera = Camera.orbit(at.polar, at.azimuth, at.radius, at.fov, SMALL)

    def seen(step: np.ndarray) -> Any:
        return TexturedMesh([part.transformed(step @ matrix) for part in parts]).render(camera, samples=1)

    def picture_error(step: np.ndarray) -> float:
        if small is None:
            return 0.0
        rgba = seen(step).rgba
        shown = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
        return float(((shown - small.require("rgb").numpy()) ** 2).mean())

    if goal is not None:
        return onto_mesh(vertices, faces, *drop_unused(*joined(goal)), rotate, picture_error)
    if small is None:
        raise InputError(
            f"mesh {source} cannot be aligned: the example has neither a true mesh nor a picture; declare its frame"
        )
    sphere, pose = bounding_sphere(vertices), camera.camera_to_world[0].double().numpy()
    silhouette = small.require("mask").numpy()[..., 0]
    return onto_silhouette(
        sphere.centre,
        sphere.radius,
        silhouette,
        lambda step: covered(seen(step)),
        pose,
        float(camera.focal[0]),
        rotate,
        picture_error,
    )


def _shown(mesh: TexturedMesh, camera: Camera, samples: int = 4) -> dict[str, np.ndarray]:
    """Return a view of a mesh as `views.look` does; see `TexturedMesh.render` for the arguments."""
    picture = mesh.render(camera, samples)
    # composited from 8-bit values, as the truth is, so that a perfect mesh has a perfect score
    rgba = np.rint(picture.rgba * 255) / 255
    alpha = rgba[..., 3:]
    return {
        "colour": rgba[..., :3] * alpha + 1 - alpha,
        "alpha": alpha[..., 0],
        "normal": (picture.normal + alpha) / 2 + 1 - alpha,
        "depth": picture.depth,
    }


def _lit(mesh: TexturedMesh, camera: Camera, samples: int) -> dict[str, np.ndarray]:
    """Return the same for a mesh without colours, which would be white on white: grey, lit from the camera."""
    shown = _shown(mesh, camera, samples)
    alpha = shown["alpha"][..., None]
    normal = 2 * (shown["normal"] - 1 + alpha) - alpha
    facing = (normal @ camera.camera_to_world[0, :3, 2].numpy()).clip(0)[..., None]
    return shown | {"colour": np.repeat(0.25 * alpha + 0.55 * facing + 1 - alpha, 3, axis=2)}


def _write_surface(vertices: np.ndarray, faces: np.ndarray, folder: Path, placed: dict[str, Any]) -> None:
    """Write mesh.obj without colours, and mesh.json with its problems."""
    vertices, faces = drop_unused(vertices, faces)
    with (folder / "mesh.obj").open("w") as file:
        file.write("# +y up, front +z, right-handed\n")
        np.savetxt(file, vertices, "v %.9g %.9g %.9g")
        np.savetxt(file, faces + 1, "f %d %d %d")
    content = {"exists": True, "problem": mesh_problem(vertices, faces), "faces": len(faces), "alignment": placed}
    (folder / "mesh.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
