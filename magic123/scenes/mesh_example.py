"""A textured mesh as an example: its picture, depth and normals, its true views, and its surface."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from magic123.geometry.camera import Camera, view_cameras
from magic123.geometry.frames import placement, used_vertices
from magic123.geometry.mesh_parts import joined
from magic123.geometry.mesh_reader import read_parts
from magic123.records.cameras import POSE
from magic123.records.errors import InputError
from magic123.records.files import output_folder
from magic123.records.hashes import sha256_of
from magic123.records.mesh_files import files_of_mesh
from magic123.render.textured import MeshPicture, TexturedMesh, covered
from magic123.scenes.views import Say, to_bytes
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.frames import Frame, MeshExampleSettings
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings


def make_mesh_example(
    source: Path,
    frame: Frame,
    at: ReferenceCamera,
    settings: MeshExampleSettings,
    views: ViewSettings,
    out: Path,
    say: Say = lambda line: None,
) -> None:
    """Write the input picture, the truth and the surface of a textured mesh; the folder appears complete or not at all.

    Args:
        source: file of the mesh.
        frame: its orientation and scale.
        at: camera of the input picture.
        settings: size and light of the pictures.
        views: sets, radius, field of view and size of the true views.
        out: folder to write.
        say: called with lines of progress and warnings.

    Raises:
        InputError: the mesh cannot be read, or is not visible in the input picture.
    """
    from trimesh import Trimesh
    from trimesh.exchange.ply import export_ply

    parts = read_parts(source)
    matrix = placement(used_vertices(parts), frame)
    mesh = TexturedMesh([part.transformed(matrix) for part in parts])
    camera = Camera.orbit(at.polar, at.azimuth, at.radius, at.fov, settings.size)
    picture = mesh.render(camera, settings.samples, settings.lit)
    if not covered(picture).any():
        raise InputError(
            f"mesh {source} is not visible in the input picture: with up {frame.up}, front {frame.front} and scale "
            f"{frame.scale} it lies outside the camera's view or is too small; change these"
        )
    sets = view_cameras(views)
    del sets["turntable"]
    warnings = _visibility_warnings(
        mesh, {"the input picture": camera, **{f"the views {name}": cameras for name, cameras in sets.items()}}
    )
    vertices, faces = joined(mesh.parts)
    with output_folder(out, "object.json") as folder:
        _write_input(folder, picture, camera)
        _write_truth(folder / "truth", mesh, sets, settings)
        # the surface without colours
        (folder / "mesh.ply").write_bytes(export_ply(Trimesh(vertices, faces, process=False), vertex_normal=False))
        record = {
            "mesh": str(source),
            "sha256": {file.name: sha256_of(file) for file in files_of_mesh(source)},
            "frame": frame.model_dump(),
            "transform": matrix.tolist(),
            "camera": at.model_dump(),
            "settings": settings.model_dump(),
            "parts": len(parts),
            "faces": len(faces),
            "warnings": warnings,
            "version": VERSIONS["from-mesh"],
        }
        (folder / "object.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for warning in warnings:
        say(f"from-mesh: {warning}")
    say(f"from-mesh: {len(faces)} faces, {sum(map(len, sets.values()))} true views")


def _visibility_warnings(mesh: TexturedMesh, views: dict[str, Camera]) -> list[str]:
    """Return a sentence for each picture whose frame the mesh leaves."""
    found = []
    used = mesh.vertices[np.unique(mesh.faces)]
    for name, cameras in views.items():
        clip = np.einsum("bij,vj->bvi", cameras.clip_matrices().double().numpy()[:, :, :3], used)
        clip += cameras.clip_matrices().double().numpy()[:, None, :, 3]
        if (np.abs(clip[..., :2]).max(-1) > clip[..., 3]).any():
            found.append(f"the mesh leaves {name}, so its silhouette is cut there; a smaller scale shows all of it")
    return found


def _write_input(folder: Path, picture: MeshPicture, camera: Camera) -> None:
    """Write the input picture, its inverse depth and its normals in camera space (x right, y up, z towards the camera)."""
    Image.fromarray(to_bytes(picture.rgba)).save(folder / "rgba.png")
    inside = covered(picture)
    inverse = np.divide(1, picture.depth, out=np.zeros_like(picture.depth), where=inside)
    low, high = inverse[inside].min(), inverse.max()
    # starts at 1/16 of the range, because 0 is the background
    spread = 0.0625 + 0.9375 * (inverse - low) / max(high - low, 1e-9)
    Image.fromarray(np.rint(np.where(inside, spread, 0) * 65535).astype(np.uint16)).save(folder / "depth.png")
    normal = picture.normal @ camera.camera_to_world[0, :3, :3].double().numpy()
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 1e-6)
    Image.fromarray(to_bytes(np.where(inside[..., None], (normal + 1) / 2, 0))).save(folder / "normal.png")


def _write_truth(folder: Path, mesh: TexturedMesh, sets: dict[str, Camera], settings: MeshExampleSettings) -> None:
    """Write the true views of all sets with alpha and depth, and cameras.json."""
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
