"""Write a textured mesh for other programs: OBJ + MTL + PNG, GLB, and plain PLY.

The world axes are kept: right-handed, +y up, the front towards +z, as in glTF. Colours are albedo, stored as sRGB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image

from magic123.geometry.mesh import clean, decimate, face_areas, vertex_normals
from magic123.geometry.mesh_parts import Part, coloured, joined
from magic123.geometry.texture import PADDING, Albedo, Atlas, bake, unwrap
from magic123.records.colour import decoded, encoded


def write_mesh(
    folder: Path,
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    albedo: Albedo,
    *,
    max_faces: int,
    texture_size: int,
    metadata: dict[str, Any],
    padding: int = PADDING,
    device: torch.device | str = "cpu",
) -> dict[str, int | float]:
    """Clean, decimate, unwrap and bake a mesh, and write it into a folder.

    Writes mesh.obj, mesh.mtl, texture.png, mesh.glb, and mesh.ply: the clean surface before decimation, without colours.

    Args:
        folder: an existing folder.
        vertices: world coordinates.
        faces: vertex numbers, counter-clockwise seen from outside.
        albedo: colours in [0, 1] of points on the surface; called with tensors on `device`.
        max_faces: largest number of faces of the textured mesh, approximately.
        texture_size: side of the texture in texels.
        metadata: JSON data for `asset.extras` of the GLB.
        padding: texels around each chart of the texture.
        device: the device to evaluate `albedo` on.

    Returns:
        Numbers of faces and vertices, the area in squared world units, and the size and padding of the texture in texels.

    Raises:
        InputError: nothing is left of the mesh after cleaning.
    """
    import trimesh

    given = len(faces)
    vertices, faces = clean(vertices, faces)
    trimesh.Trimesh(vertices, faces, process=False).export(folder / "mesh.ply", vertex_normal=False)
    figures = {"faces_given": given, "faces_clean": len(faces)}
    # decimation can fold faces and pinch pieces off, so its result is cleaned as well
    vertices, faces = clean(*decimate(vertices, faces, max_faces))
    atlas = unwrap(vertices, faces, texture_size, padding)
    texture = Image.fromarray(bake(vertices, atlas, albedo, texture_size, padding, device))
    normals = vertex_normals(torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces)).numpy()
    texture.save(folder / "texture.png")
    _write_obj(folder, vertices, normals, atlas)
    _write_glb(folder / "mesh.glb", vertices, normals, atlas, texture, metadata)
    return figures | {
        "faces": len(faces),
        "vertices": len(vertices),
        "area": float(face_areas(vertices, faces).sum()),
        "texture_size": texture_size,
        "texture_padding": padding,
    }


def write_parts(file: Path, parts: list[Part]) -> None:
    """Write a mesh from another program as GLB: a single part with its texture, several parts with vertex colours.

    A mesh without colours is written without colours. Vertex colours are stored as sRGB, as trimesh reads and writes them.

    Args:
        file: the file to write, mesh.glb.
        parts: the parts of the mesh.
    """
    import trimesh

    material, (first, *others) = None, parts
    if first.texture is not None and first.uv is not None and not others:
        stored = encoded(decoded(first.texture[..., :3] / 255) * first.factor[:3])
        picture = Image.fromarray(np.rint(stored.clip(0, 1) * 255).astype(np.uint8))
        material = _albedo_material(picture)
    mesh = trimesh.Trimesh(*joined(parts), process=False)
    if material is not None:
        mesh.visual = trimesh.visual.TextureVisuals(uv=first.uv, material=material)
    elif coloured(parts):
        mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.concatenate([colours_of(part) for part in parts]))
    file.write_bytes(trimesh.Scene([mesh]).export(file_type="glb"))


def colours_of(part: Part) -> UInt8[np.ndarray, "V 4"]:
    """Return the opaque sRGB colour of each vertex: vertex colour times base colour factor times the nearest texel."""
    linear = np.tile(np.array(part.factor[:3]), (len(part.vertices), 1))
    if part.colours is not None:
        linear = linear * part.colours[:, :3]
    if part.texture is not None and part.uv is not None:
        height, width = part.texture.shape[:2]
        across, down = np.floor(part.uv * (width, -height)).astype(int).T % ((width,), (height,))
        linear = linear * decoded(part.texture[down, across, :3] / 255)
    rgb = np.rint(encoded(linear).clip(0, 1) * 255).astype(np.uint8)
    return np.hstack([rgb, np.full((len(rgb), 1), 255, np.uint8)])


def write_points(file: Path, positions: Float[np.ndarray, "N 3"], colours: Float[np.ndarray, "N 3"]) -> None:
    """Write a point cloud as PLY, with colours in [0, 1] rounded to 8 bits."""
    import trimesh

    trimesh.PointCloud(positions, colors=np.rint(colours.clip(0, 1) * 255).astype(np.uint8)).export(file)


def _albedo_material(texture: Image.Image) -> Any:
    """Return a material with metallic factor 0 and roughness 1, which shows the albedo under uniform light."""
    from trimesh.visual.material import PBRMaterial

    return PBRMaterial(name="surface", baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True)


def _write_obj(folder: Path, vertices: np.ndarray, normals: np.ndarray, atlas: Atlas) -> None:
    """Write OBJ and MTL, with one position and normal per vertex, so that the surface is closed across seams of the texture."""
    corners = np.stack([atlas.vertex[atlas.faces] + 1, atlas.faces + 1, atlas.vertex[atlas.faces] + 1], -1).reshape(-1, 9)
    with (folder / "mesh.obj").open("w") as file:
        file.write("# +y up, front +z, right-handed\nmtllib mesh.mtl\no object\n")
        np.savetxt(file, vertices, "v %.7g %.7g %.7g")
        np.savetxt(file, atlas.uv, "vt %.7g %.7g")
        np.savetxt(file, normals, "vn %.5g %.5g %.5g")
        file.write("usemtl surface\ns 1\n")
        np.savetxt(file, corners, "f %d/%d/%d %d/%d/%d %d/%d/%d")
    (folder / "mesh.mtl").write_text("newmtl surface\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd texture.png\n")


def _write_glb(
    file: Path, vertices: np.ndarray, normals: np.ndarray, atlas: Atlas, texture: Image.Image, metadata: dict[str, Any]
) -> None:
    import trimesh
    from trimesh.exchange.gltf import export_glb

    mesh = trimesh.Trimesh(
        vertices[atlas.vertex],
        atlas.faces,
        vertex_normals=normals[atlas.vertex],
        visual=trimesh.visual.TextureVisuals(uv=atlas.uv, material=_albedo_material(texture)),
        process=False,
    )

    def add_metadata(tree: dict[str, Any]) -> None:
        tree["asset"]["extras"] = json.loads(json.dumps(metadata, allow_nan=False))

    scene = trimesh.Scene()
    scene.add_geometry(mesh, geom_name="object")
    file.write_bytes(export_glb(scene, include_normals=True, tree_postprocessor=add_metadata))
