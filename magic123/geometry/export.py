"""A textured mesh as files that other programs open: OBJ + MTL + PNG, GLB, and plain PLY.

World axes are kept: +y up, the front towards +z, right-handed, as glTF has them. Colours are albedo, sRGB as stored.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from magic123.geometry.mesh import clean, decimate, face_areas, vertex_normals
from magic123.geometry.texture import PADDING, Albedo, Atlas, bake, unwrap


def write_mesh(
    folder: Path,
    vertices: np.ndarray,
    faces: np.ndarray,
    albedo: Albedo,
    *,
    max_faces: int,
    texture_size: int,
    metadata: dict,
    padding: int = PADDING,
    device="cpu",
) -> dict:
    """Clean, decimate to about `max_faces`, unwrap, bake the albedo and write; returns figures about the result.

    Writes into an existing folder: mesh.obj, mesh.mtl, texture.png, mesh.glb (with `metadata`, JSON data, in
    asset.extras), and mesh.ply, the clean surface before decimation, without colours. Raises InputError if nothing is
    left after cleaning.
    """
    import trimesh

    given = len(faces)
    vertices, faces = clean(vertices, faces)
    trimesh.Trimesh(vertices, faces, process=False).export(folder / "mesh.ply", vertex_normal=False)
    figures = {"faces_given": given, "faces_clean": len(faces)}
    # decimation can pinch off and fold: what it leaves is cleaned too
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


def write_points(file: Path, positions: np.ndarray, colours: np.ndarray) -> None:
    """A point cloud as PLY: positions and colours in [0, 1], [N, 3] each (colours as 8 bit)."""
    import trimesh

    trimesh.PointCloud(positions, colors=np.rint(colours.clip(0, 1) * 255).astype(np.uint8)).export(file)


def _write_obj(folder: Path, vertices: np.ndarray, normals: np.ndarray, atlas: Atlas) -> None:
    """Positions and normals once per vertex, uv once per copy: the file stays a closed surface across seams."""
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
    file: Path, vertices: np.ndarray, normals: np.ndarray, atlas: Atlas, texture: Image.Image, metadata: dict
) -> None:
    import trimesh
    from trimesh.exchange.gltf import export_glb

    # no metal, fully rough: under even light a viewer shows the albedo
    material = trimesh.visual.material.PBRMaterial(
        name="surface", baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True
    )
    mesh = trimesh.Trimesh(
        vertices[atlas.vertex],
        atlas.faces,
        vertex_normals=normals[atlas.vertex],
        visual=trimesh.visual.TextureVisuals(uv=atlas.uv, material=material),
        process=False,
    )

    def describe(tree: dict) -> None:
        tree["asset"]["extras"] = json.loads(json.dumps(metadata, allow_nan=False))

    file.write_bytes(export_glb(trimesh.Scene({"object": mesh}), include_normals=True, tree_postprocessor=describe))
