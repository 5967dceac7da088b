"""The views, the mesh, the turntable and the contact sheet of a scene, as `magic123 view` writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from magic123.example.example import Example
from magic123.geometry.camera import Camera, from_assumed_frame, to_assumed_frame, view_cameras
from magic123.geometry.export import write_mesh, write_points
from magic123.geometry.mesh import mesh_problem, surface_missing
from magic123.records.cameras import POSE, ViewSets
from magic123.records.files import output_folder
from magic123.render.rendering import RenderOptions
from magic123.render.showcase import Frame, contact_sheet, write_video
from magic123.scenes.scene import Scene
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings

Say = Callable[[str], None]
CONVENTIONS = {
    "world": "right-handed, +y up, the front towards +z; the object lies in [-1, 1]^3",
    "polar": "degrees from +y",
    "azimuth": "degrees from +z towards +x",
    "fov": "vertical, degrees",
    "seen_from": "the camera in the scene's own world, where that has another reference camera than the example",
    "camera_to_world": "OpenGL: columns are right, up, backward and position; the camera looks along its -z at the origin",
    "pixels": "row 0 is the top, pixel centres at +0.5",
    "{set}": "albedo on white, 8 bit sRGB as stored",
    "alpha/{set}": "opacity, 8 bit",
    "shaded/{set}": "the same, lambertian, lit from the camera; where the settings ask for it",
    "normal/{set}": "world normals as (n + 1) / 2, on white, 8 bit",
    "depth/{set}": "distance along the optical axis times depth_scale, 16 bit; 0 where opacity is below one half",
}


def view(
    scene: Scene,
    example: Example,
    settings: ViewSettings,
    out: Path,
    mesh_out: Path,
    about: dict[str, Any],
    cameras: ViewSets | None = None,
    assumed: ReferenceCamera | None = None,
    say: Say = lambda line: None,
) -> None:
    """Render a scene and extract its mesh; both folders appear complete or not at all.

    Args:
        scene: the optimised scene, on the device that renders it.
        example: the example that it was optimised for.
        settings: view sets, sizes and limits of the mesh.
        out: folder for the views.
        mesh_out: folder for the mesh.
        about: JSON data that names the result, for cameras.json and the mesh's metadata.
        cameras: view sets that replace those of the settings, as `read_cameras` returns them.
        assumed: camera of the reference view in the scene's own world, if it is not the example's camera. Views keep the
            names and numbers that they have relative to the example's, and the mesh is rotated and scaled accordingly.
        say: called with a line of progress.
    """
    with torch.no_grad(), output_folder(out, "cameras.json") as views, output_folder(mesh_out, "mesh.json") as mesh:
        turn = None if assumed is None else from_assumed_frame(example.camera, assumed)
        figures = write_mesh_folder(scene, settings, mesh, about, turn, say)
        write_views(scene, example, settings, views, about, cameras, assumed, say)
        write_showcase(scene, example, settings, views, about, figures, assumed, say)


def write_views(
    scene: Scene,
    example: Example,
    settings: ViewSettings,
    folder: Path,
    about: dict[str, Any],
    given: ViewSets | None,
    assumed: ReferenceCamera | None,
    say: Say,
) -> None:
    """Write the pictures of all view sets and cameras.json; see `view` for the arguments."""
    cameras = view_cameras(settings, example.camera if example.pictured else None, given)
    del cameras["turntable"]
    rendered = {n: c if assumed is None else to_assumed_frame(c, example.camera, assumed) for n, c in cameras.items()}

    def shown(camera: Camera) -> dict[str, np.ndarray]:
        picture = look(scene, camera)
        if settings.shaded_ambient is not None:
            lit = scene.render(camera, RenderOptions(mode="lambertian", ambient=settings.shaded_ambient))
            picture["shaded"] = lit.rgb[0].float().cpu().numpy()
        return picture

    about = {"result": about, "version": VERSIONS["view"]}
    for name in write_view_sets(folder, cameras, rendered, shown, about, scene.kernels()):
        say(f"view: {name}, {len(cameras[name])} pictures of {settings.size} x {settings.size}")


def write_view_sets(
    folder: Path,
    cameras: dict[str, Camera],
    rendered: dict[str, Camera],
    shown: Callable[[Camera], dict[str, np.ndarray]],
    about: dict[str, Any],
    kernels: dict[str, str],
    alignment: dict[str, Any] | None = None,
) -> Iterator[str]:
    """Write the pictures of all view sets, and cameras.json.

    Args:
        folder: the folder to write them to.
        cameras: the cameras of each set, as cameras.json lists them.
        rendered: the same cameras in the scene's own world; if they differ, both are listed.
        shown: returns a view as `look` does, perhaps with further pictures in [0, 1] by the names of their folders.
        about: JSON data that names the result.
        kernels: the kernels that render.
        alignment: the transform of another system's mesh to the project's frame, as recorded.

    Yields:
        The name of each set once it is written.
    """
    farthest = max(float(camera.radius.max()) for camera in rendered.values()) + math.sqrt(3)
    depth_scale = math.floor(65535 / farthest)
    listed: dict[str, list[dict]] = {}
    for name, camera in cameras.items():
        listed[name] = []
        for index in range(len(camera)):
            single, file = rendered[name][index], f"{name}/{index:03d}.png"
            picture = shown(single)
            depth = np.where(picture["alpha"] >= 0.5, picture.pop("depth") * depth_scale, 0)
            pictures = {kind: to_bytes(values) for kind, values in picture.items()}
            pictures["depth"] = np.rint(depth.clip(0, 65535)).astype(np.uint16)
            for kind, values in pictures.items():
                path = folder / ("" if kind == "colour" else kind) / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
            seen_from = {} if rendered[name] is camera else {"seen_from": describe(single)}
            listed[name].append({"file": file, **describe(camera[index]), **seen_from})
        yield name
    content = {
        **about,
        "conventions": CONVENTIONS,
        "kernels": kernels,
        "background": [1, 1, 1],
        "depth_scale": depth_scale,
        **({} if alignment is None else {"alignment": alignment}),
        "sets": listed,
    }
    (folder / "cameras.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def describe(camera: Camera) -> dict[str, Any]:
    """Return a camera (a batch of one) as JSON data."""
    numbers = {name: round(float(getattr(camera, name)[0]), 6) for name in POSE}
    pose = [[round(value, 7) for value in row] for row in camera.camera_to_world[0].tolist()]
    return {**numbers, "height": camera.height, "width": camera.width, "camera_to_world": pose}


def look(scene: Scene, camera: Camera) -> dict[str, np.ndarray]:
    """Render the view of one camera (a batch of one).

    Returns:
        float32 arrays: `colour` [H, W, 3] and `normal` [H, W, 3] (as (n + 1) / 2) on white, `alpha` [H, W], `depth` [H, W].
    """
    # lambertian under full ambient light is albedo; unlike the mode "albedo" it gives normals with every scene
    rendering = scene.render(camera, RenderOptions(mode="lambertian", ambient=1.0))
    assert rendering.normal is not None
    opacity = rendering.opacity[0]
    parts = {
        "colour": rendering.rgb[0],
        "alpha": opacity[..., 0],
        "depth": (rendering.depth[0] / opacity.clamp_min(1e-6))[..., 0],
        "normal": (rendering.normal[0] + opacity) / 2 + (1 - opacity),
    }
    return {name: value.float().cpu().numpy() for name, value in parts.items()}


def write_showcase(
    scene: Scene,
    example: Example,
    settings: ViewSettings,
    folder: Path,
    about: dict[str, Any],
    figures: dict[str, Any],
    assumed: ReferenceCamera | None,
    say: Say,
) -> None:
    """Render a full turn around the object at the reference picture's height, for turntable.mp4 and contact.png.

    Args:
        scene: the scene to render.
        example: gives the reference camera and picture.
        settings: size and number of frames.
        folder: the folder to write both files to.
        about: JSON data that names the result.
        figures: the content of mesh.json.
        assumed: see `view`.
        say: see `view`.
    """
    circle = view_cameras(settings, example.camera if example.pictured else None)["turntable"]
    if assumed is not None:
        circle = to_assumed_frame(circle, example.camera, assumed)
    surface = f"mesh of {figures['faces']:,} faces" if "faces" in figures else f"no mesh: {figures['reason']}"
    words = [about[key] for key in ("prompt", "label", "scene") if about.get(key)] + [surface]
    write_turntable(circle, lambda camera: look(scene, camera), example, words, folder)
    say(f"view: turntable of {len(circle)} frames, contact sheet")


def write_turntable(
    circle: Camera, shown: Callable[[Camera], dict[str, np.ndarray]], example: Example, words: list[str], folder: Path
) -> None:
    """Write turntable.mp4 and contact.png.

    Args:
        circle: cameras once around the object.
        shown: returns `colour` and `normal` as `look` does, for one camera.
        example: gives the name and the picture.
        words: parts of the sheet's second line.
        folder: the folder to write both files to.
    """
    frames = []
    for index in range(len(circle)):
        picture = shown(circle[index])
        frames.append(Frame(float(circle.azimuth[index]), to_bytes(picture["colour"]), to_bytes(picture["normal"])))
    write_video(folder / "turntable.mp4", frames)
    reference = None if example.rgb is None else to_bytes(example.rgb.cpu().numpy())
    contact_sheet(example.name, "  ·  ".join(words), reference, frames).save(folder / "contact.png", optimize=True)


def write_mesh_folder(
    scene: Scene, settings: ViewSettings, folder: Path, about: dict[str, Any], turn: Tensor | None, say: Say
) -> dict[str, Any]:
    """Write the mesh, or none.json if there is none, and mesh.json; return the content of mesh.json.

    `turn` [3, 3] rotates and scales the surface, see `geometry.camera.from_assumed_frame`.
    """
    reason: str | None = None
    problem: str | None = None
    albedo: Callable[[Tensor], Tensor] = scene.albedo
    if turn is not None:
        back = turn.inverse().T.to(scene.device)
        albedo = lambda points: scene.albedo(points @ back)  # noqa: E731
    surface, cloud = scene.mesh(settings.mesh_resolution), scene.cloud()
    if cloud is not None:
        parts = [part.cpu().numpy() for part in cloud]
        if turn is not None:
            parts[0] = parts[0] @ turn.numpy().T
        write_points(folder / "points.ply", *parts)
        reason = "points have no surface (they are in points.ply)"
    elif surface is None:
        reason = "this scene has no surface"
    else:
        vertices, faces = (part.detach().cpu().numpy() for part in surface)
        reason, problem = surface_missing(vertices, faces), mesh_problem(vertices, faces)
        if turn is not None:
            vertices = vertices @ turn.numpy().T
    if reason is not None:
        content = {"result": about, "exists": False, "reason": reason}
        (folder / "none.json").write_text(json.dumps({"reason": reason}) + "\n")
    else:
        figures = write_mesh(
            folder, vertices, faces, albedo, max_faces=settings.max_faces, texture_size=settings.texture_size,
            metadata={"result": about, "conventions": {"world": CONVENTIONS["world"]}}, device=scene.device,
        )  # fmt: skip
        content = {"result": about, "exists": True, "problem": problem, **figures}
    (folder / "mesh.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    say("view: " + (f"no mesh ({reason})" if reason else f"mesh of {content['faces']} faces"))
    if content.get("problem"):
        say(f"view: the surface is questionable: {content['problem']}")
    return content


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Return values in [0, 1] as 8 bit, rounded; values beyond are clipped."""
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
