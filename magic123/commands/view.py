"""view: one optimised stage -> its pictures from fixed cameras, a turntable video, a contact sheet and a textured mesh.

Reads   --checkpoint (a stage folder written by reconstruct), --example, --settings (ViewSettings)
Writes  --out:  {set}/NNN.png on white; alpha/, normal/, depth/ and, where asked for, shaded/{set}/NNN.png; cameras.json;
                turntable.mp4; contact.png. The set `reference` is the input picture's own view;
                an example without a picture has none.
        --mesh: mesh.obj, mesh.mtl, texture.png, mesh.glb, mesh.ply and mesh.json (figures and what is wrong with it); a
                result without a usable surface has none.json in their place, which says why, and one of points points.ply.
Both folders appear complete or not at all. Colours are albedo.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from magic123.commands.options import add_device, add_settings, command_parser, device_or_default, say
from magic123.records.cameras import POSE, RESERVED, SET_NAME
from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.render.rendering import RenderOptions
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from magic123.example.example import Example
    from magic123.geometry.camera import Camera
    from magic123.render.showcase import Frame
    from magic123.scenes.scene import Scene
    from magic123.settings.cameras import ReferenceCamera

ViewSets = dict[str, list[dict[str, float]]]  # name -> cameras
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


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the views. Raises InputError for bad input."""
    parser = command_parser("view", "Pictures and mesh of an optimised stage.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="stage folder written by reconstruct")
    parser.add_argument("--example", type=Path, required=True, help="example folder written by prepare")
    add_settings(parser, ViewSettings)
    parser.add_argument("--cameras", type=Path, help="cameras.json of true views: its sets in place of the settings' own")
    add_device(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the views into")
    parser.add_argument("--mesh", type=Path, required=True, help="folder to write the mesh into")
    options = parser.parse_args(argv)
    cameras = read_cameras(options.cameras) if options.cameras else None
    if options.out.resolve() == options.mesh.resolve():
        raise InputError(f"--out and --mesh are both {options.out}; name two folders")

    from magic123.example.example import load_example
    from magic123.optimise.resume import forget
    from magic123.scenes.checkpoint import load_scene

    scene, stage = load_scene(options.checkpoint, options.settings.weights)
    forget(options.checkpoint)
    example = load_example(options.example)
    about = {"example": example.name, "prompt": example.prompt, "scene": stage.scene, "steps": stage.steps}
    about["weights"] = options.settings.weights
    assumed = getattr(stage, "reference_camera", None)
    scene = scene.to(device_or_default(options.device))
    view(scene, example, options.settings, options.out, options.mesh, about, cameras, assumed)


def read_cameras(file: Path) -> dict[str, list[dict]]:
    """Read the cameras.json beside true views.

    Returns:
        Name of a view set -> its cameras in order, each {"polar", "azimuth", "radius", "fov"} in degrees and world units.

    Raises:
        InputError: the file does not give a complete camera for every view, or a set has a reserved name.
    """
    try:
        sets = json.loads(file.read_text(encoding="utf-8"))["sets"]
        cameras = {
            name: [{key: float(camera[key]) for key in POSE} for camera in listed]
            for name, listed in sets.items()
            if name != "reference"
        }
        for one in (camera for listed in cameras.values() for camera in listed):
            if not (0 <= one["polar"] <= 180 and 0 < one["fov"] < 180 and 0 < one["radius"] + 0 * one["azimuth"] < math.inf):
                raise ValueError(f"no camera is at {one}")
        in_order = all(camera["file"] == f"{name}/{i:03d}.png" for name in cameras for i, camera in enumerate(sets[name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file}: gives no polar, azimuth, radius and fov of every view ({error!r}); make it again") from error
    unusable = [name for name in cameras if name in RESERVED or not SET_NAME.fullmatch(name)]
    if not in_order or not cameras or not all(cameras.values()) or unusable:
        taken = ", ".join(sorted(RESERVED))
        raise InputError(
            f"{file}: must list SET/000.png, SET/001.png, ... in their order, in sets whose names are plain and none of {taken}"
        )
    return cameras


def view(
    scene: Scene,
    example: Example,
    settings: ViewSettings,
    out: Path,
    mesh_out: Path,
    about: dict[str, Any],
    cameras: ViewSets | None = None,
    assumed: ReferenceCamera | None = None,
) -> None:
    """Render a scene and extract its mesh; both folders appear complete or not at all.

    Args:
        scene: the optimised scene, on the device that renders it.
        example: what it was optimised for.
        settings: view sets, sizes and limits of the mesh.
        out: folder for the views.
        mesh_out: folder for the mesh.
        about: JSON data that names the result, for cameras.json and the mesh's metadata.
        cameras: view sets to render in place of those of the settings, as `read_cameras` returns them.
        assumed: where the scene takes its reference view from, if not from the example's camera. Views keep the names and the
            numbers that they have relative to that one, and the mesh gets its size.
    """
    import torch

    from magic123.geometry.camera import to_own

    with torch.no_grad(), output_folder(out, "cameras.json") as views, output_folder(mesh_out, "mesh.json") as mesh:
        figures = write_mesh_folder(scene, settings, mesh, about, None if assumed is None else to_own(example.camera, assumed))
        write_views(scene, example, settings, views, about, cameras, assumed)
        write_showcase(scene, example, settings, views, about, figures, assumed)


def write_views(
    scene: Scene,
    example: Example,
    settings: ViewSettings,
    folder: Path,
    about: dict[str, Any],
    given: ViewSets | None = None,
    assumed: ReferenceCamera | None = None,
) -> None:
    """Write the pictures of all view sets and cameras.json; see `view` for the arguments."""
    from magic123.geometry.camera import as_assumed, view_cameras

    cameras = view_cameras(settings, example.camera if example.pictured else None, given)
    del cameras["turntable"]
    rendered = {n: c if assumed is None else as_assumed(c, example.camera, assumed) for n, c in cameras.items()}
    farthest = max(float(camera.radius.max()) for camera in rendered.values()) + math.sqrt(3)
    depth_scale = math.floor(65535 / farthest)
    listed: dict[str, list[dict]] = {}
    for name, camera in cameras.items():
        for kind in ("", "alpha", "normal", "depth", *(["shaded"] if settings.shaded_ambient is not None else [])):
            (folder / kind / name).mkdir(parents=True)
        listed[name] = []
        for index in range(len(camera)):
            single, file = rendered[name][index], f"{name}/{index:03d}.png"
            picture = look(scene, single)
            depth = np.where(picture["alpha"] >= 0.5, picture["depth"] * depth_scale, 0)
            Image.fromarray(to_bytes(picture["colour"])).save(folder / file)
            if settings.shaded_ambient is not None:
                lit = scene.render(single, RenderOptions(mode="lambertian", ambient=settings.shaded_ambient))
                Image.fromarray(to_bytes(lit.rgb[0].float().cpu().numpy())).save(folder / "shaded" / file)
            Image.fromarray(to_bytes(picture["alpha"])).save(folder / "alpha" / file)
            Image.fromarray(to_bytes(picture["normal"])).save(folder / "normal" / file)
            Image.fromarray(np.rint(depth.clip(0, 65535)).astype(np.uint16)).save(folder / "depth" / file)
            seen_from = {} if assumed is None else {"seen_from": describe(single)}
            listed[name].append({"file": file, **describe(camera[index]), **seen_from})
        say(f"view: {name}, {len(camera)} pictures of {settings.size} x {settings.size}")
    content = {
        "result": about,
        "version": VERSIONS["view"],
        "conventions": CONVENTIONS,
        "kernels": scene.kernels(),
        "background": [1, 1, 1],
        "depth_scale": depth_scale,
        "sets": listed,
    }
    (folder / "cameras.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def describe(camera: Camera) -> dict[str, Any]:
    """Return a camera (a batch of one) as JSON data."""
    numbers = {name: round(float(getattr(camera, name)[0]), 6) for name in POSE}
    pose = [[round(value, 7) for value in row] for row in camera.camera_to_world[0].tolist()]
    return {**numbers, "height": camera.height, "width": camera.width, "camera_to_world": pose}


def look(scene: Scene, camera: Camera) -> dict[str, np.ndarray]:
    """Render a camera (a batch of one).

    Returns:
        float32 arrays: `colour` [H, W, 3] and `normal` [H, W, 3] (as (n + 1) / 2) on white, `alpha` [H, W], `depth` [H, W].
    """
    # lambertian under full ambient light is albedo, and unlike the mode "albedo" has normals with every scene
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
    assumed: ReferenceCamera | None = None,
) -> None:
    """Render once around the object at the reference picture's height, for turntable.mp4 and contact.png.

    Args:
        scene: what is rendered.
        example: gives the reference camera and picture.
        settings: size and number of frames.
        folder: where both files are written.
        about: JSON data that names the result.
        figures: the content of mesh.json.
        assumed: as in `view`.
    """
    from magic123.geometry.camera import as_assumed, view_cameras
    from magic123.render.showcase import Frame

    circle = view_cameras(settings, example.camera if example.pictured else None)["turntable"]
    if assumed is not None:
        circle = as_assumed(circle, example.camera, assumed)
    count, frames = len(circle), []
    for index in range(count):
        picture = look(scene, circle[index])
        frames.append(Frame(float(circle.azimuth[index]), to_bytes(picture["colour"]), to_bytes(picture["normal"])))
    surface = f"mesh of {figures['faces']:,} faces" if "faces" in figures else f"no mesh: {figures['reason']}"
    write_frames(frames, example, [about[key] for key in ("prompt", "label", "scene") if about.get(key)] + [surface], folder)
    say(f"view: turntable of {count} frames, contact sheet")


def write_frames(frames: list[Frame], example: Example, words: list[str], folder: Path) -> None:
    """Write turntable.mp4 and contact.png.

    Args:
        frames: once around the object.
        example: gives the name and the picture.
        words: parts of the sheet's second line.
        folder: where both files are written.
    """
    from magic123.render.showcase import contact_sheet, write_film

    write_film(folder / "turntable.mp4", frames)
    reference = None if example.rgb is None else to_bytes(example.rgb.cpu().numpy())
    contact_sheet(example.name, "  ·  ".join(words), reference, frames).save(folder / "contact.png", optimize=True)


def write_mesh_folder(
    scene: Scene, settings: ViewSettings, folder: Path, about: dict[str, Any], to_own: Tensor | None = None
) -> dict[str, Any]:
    """Write the mesh, or none.json where there is none, and mesh.json; return the content of mesh.json.

    `to_own` [3, 3] turns and scales the surface, see `geometry.camera.to_own`.
    """
    from magic123.geometry.export import write_mesh, write_points
    from magic123.geometry.mesh import mesh_problem, surface_missing

    reason: str | None = None
    problem: str | None = None
    albedo: Callable[[Tensor], Tensor] = scene.albedo
    if to_own is not None:
        back = to_own.inverse().T.to(scene.device)
        albedo = lambda points: scene.albedo(points @ back)  # noqa: E731
    surface, cloud = scene.mesh(settings.mesh_resolution), scene.cloud()
    if cloud is not None:
        parts = [part.cpu().numpy() for part in cloud]
        if to_own is not None:
            parts[0] = parts[0] @ to_own.numpy().T
        write_points(folder / "points.ply", *parts)
        reason = "points have no surface (they are in points.ply)"
    elif surface is None:
        reason = "this scene has no surface"
    else:
        vertices, faces = (part.detach().cpu().numpy() for part in surface)
        reason, problem = surface_missing(vertices, faces), mesh_problem(vertices, faces)
        if to_own is not None:
            vertices = vertices @ to_own.numpy().T
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
