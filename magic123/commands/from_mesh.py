"""from-mesh: a textured mesh -> the picture, depth, normals, true views and true mesh of an example.

Reads   --mesh (GLB, glTF, OBJ with MTL and textures, PLY), --frame (which way it stands and its size), --views (ViewSettings)
Writes  --out: rgba.png (the input picture, straight alpha), depth.png (inverse depth, 16 bit), normal.png (in camera space);
        truth/{set}/NNN.png (RGBA), truth/depth/{set}/NNN.png, truth/cameras.json; mesh.ply (the surface in the project's
        frame); object.json (frame, transform, light, and what is remarkable). The folder appears complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from magic123.commands.options import add_settings, command_parser, say
from magic123.records.cameras import POSE
from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.records.mesh_files import files_of_mesh
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.frames import Frame, MeshExampleSettings
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings

if TYPE_CHECKING:
    from magic123.geometry.camera import Camera
    from magic123.render.textured import MeshPicture, TexturedMesh


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and render the mesh. Raises InputError for bad input."""
    parser = command_parser("from-mesh", "Picture, depth, normals, true views and true mesh of a textured mesh.")
    parser.add_argument("--mesh", type=Path, required=True, help=".glb, .gltf, .obj, .ply, or a .zip with one")
    add_settings(parser, Frame, "--frame", "which way the mesh stands, and its size")
    add_settings(parser, ReferenceCamera, "--camera", "of the input picture")
    add_settings(parser, MeshExampleSettings)
    add_settings(parser, ViewSettings, "--views", "whose sets, radius, fov and size the true views have")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)

    from magic123.geometry.camera import Camera, view_cameras
    from magic123.geometry.frames import placement, used_vertices
    from magic123.geometry.textured import joined, read_parts
    from magic123.render.textured import TexturedMesh, covered

    parts, settings = read_parts(options.mesh), options.settings
    matrix = placement(used_vertices(parts), options.frame)
    mesh = TexturedMesh([part.moved(matrix) for part in parts])
    at = options.camera
    camera = Camera.orbit(at.polar, at.azimuth, at.radius, at.fov, settings.size)
    picture = mesh.render(camera, settings.samples, settings.lit)
    if not covered(picture).any():
        raise InputError(
            f"nothing of mesh {options.mesh} is seen in the input picture: with up {options.frame.up}, front "
            f"{options.frame.front} and scale {options.frame.scale} it lies beside the camera or is too small; change these"
        )
    sets = view_cameras(options.views, None)
    del sets["turntable"]
    warnings = remarks(mesh, {"the input picture": camera, **{f"the views {name}": cameras for name, cameras in sets.items()}})
    with output_folder(options.out, "object.json") as folder:
        write_input(folder, picture, camera)
        write_truth(folder / "truth", mesh, sets, settings)
        surface = joined(mesh.parts)
        write_surface(folder / "mesh.ply", *surface)
        record = {
            "mesh": str(options.mesh),
            "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files_of_mesh(options.mesh)},
            "frame": options.frame.model_dump(),
            "transform": matrix.tolist(),
            "camera": at.model_dump(),
            "settings": settings.model_dump(),
            "parts": len(parts),
            "faces": len(surface[1]),
            "warnings": warnings,
            "version": VERSIONS["from-mesh"],
        }
        (folder / "object.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for warning in warnings:
        say(f"from-mesh: {warning}")
    say(f"from-mesh: {len(surface[1])} faces, {sum(map(len, sets.values()))} true views")


def remarks(mesh: TexturedMesh, views: dict[str, Camera]) -> list[str]:
    """Return which pictures the mesh leaves, each as a sentence."""
    found = []
    used = mesh.vertices[np.unique(mesh.faces)]
    for name, cameras in views.items():
        clip = np.einsum("bij,vj->bvi", cameras.clip_matrices().double().numpy()[:, :, :3], used)
        clip += cameras.clip_matrices().double().numpy()[:, None, :, 3]
        if (np.abs(clip[..., :2]).max(-1) > clip[..., 3]).any():
            found.append(f"the mesh leaves {name}, so its silhouette is cut there; a smaller scale shows all of it")
    return found


def write_input(folder: Path, picture: MeshPicture, camera: Camera) -> None:
    """Write the input picture, its inverse depth and its normals in camera space (x right, y up, z towards the camera)."""
    from magic123.render.textured import covered
    from magic123.scenes.views import to_bytes

    Image.fromarray(to_bytes(picture.rgba)).save(folder / "rgba.png")
    inside = covered(picture)
    inverse = np.divide(1, picture.depth, out=np.zeros_like(picture.depth), where=inside)
    low, high = inverse[inside].min(), inverse.max()
    # from 1/16 of the range on, because 0 is the background
    spread = 0.0625 + 0.9375 * (inverse - low) / max(high - low, 1e-9)
    Image.fromarray(np.rint(np.where(inside, spread, 0) * 65535).astype(np.uint16)).save(folder / "depth.png")
    normal = picture.normal @ camera.camera_to_world[0, :3, :3].double().numpy()
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 1e-6)
    Image.fromarray(to_bytes(np.where(inside[..., None], (normal + 1) / 2, 0))).save(folder / "normal.png")


def write_truth(folder: Path, mesh: TexturedMesh, sets: dict[str, Camera], settings: MeshExampleSettings) -> None:
    """Write the true views of all sets with alpha and depth, and cameras.json."""
    from magic123.scenes.views import to_bytes

    farthest = max(float(cameras.radius.max()) for cameras in sets.values()) + float(
        np.linalg.norm(mesh.vertices, axis=1).max()
    )
    depth_scale = max(1, math.floor(65535 / farthest))
    listed: dict[str, list[dict]] = {}
    for name, cameras in sets.items():
        listed[name] = []
        for kind in ("", "depth"):
            (folder / kind / name).mkdir(parents=True)
        for index in range(len(cameras)):
            single, file = cameras[index], f"{name}/{index:03d}.png"
            picture = mesh.render(single, settings.samples, settings.lit)
            Image.fromarray(to_bytes(picture.rgba)).save(folder / file)
            depth = np.where(picture.rgba[..., 3] >= 0.5, picture.depth * depth_scale, 0)
            Image.fromarray(np.rint(depth.clip(0, 65535)).astype(np.uint16)).save(folder / "depth" / file)
            pose = {key: round(float(getattr(single, key)[0]), 6) for key in POSE}
            listed[name].append({"file": file, **pose})
    content = {"depth_scale": depth_scale, "depth": "along the optical axis; 0 is background", "sets": listed}
    (folder / "cameras.json").write_text(json.dumps(content, indent=1) + "\n")


def write_surface(file: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Write a surface without colours as PLY."""
    import trimesh
    from trimesh.exchange.ply import export_ply

    file.write_bytes(export_ply(trimesh.Trimesh(vertices, faces, process=False), vertex_normal=False))
