"""Asymmetric textured objects for tests, so that no two rotations look alike."""

import zipfile
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from magic123.records.colour import encoded


def pattern(size: int = 256) -> Image.Image:
    """A smooth picture without symmetry, in 8 bits."""
    v, u = np.mgrid[:size, :size] / size
    red = 0.5 + 0.4 * np.sin(2 * np.pi * (u + 0.3 * np.sin(2 * np.pi * v)))
    green = 0.5 + 0.4 * np.cos(2 * np.pi * (2 * v + 0.2 * u))
    blue = 0.2 + 0.6 * v
    return Image.fromarray(np.rint(np.stack([red, green, blue], -1) * 255).astype(np.uint8))


def egg(count: int = 40) -> trimesh.Trimesh:
    """A lopsided body with texture coordinates round its axis."""
    v, u = np.meshgrid(np.linspace(0.02, 0.98, count), np.linspace(0, 1, 2 * count), indexing="ij")
    theta, phi = np.pi * v, 2 * np.pi * u
    x, y, z = np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)
    points = np.stack([0.3 * x + 0.1 * np.maximum(y, 0) ** 2, 0.45 * y, 0.22 * z + 0.1 * np.maximum(z, 0) * x], -1)
    number = np.arange(count * 2 * count).reshape(count, 2 * count)
    a, b, c, d = (number[i : count - 1 + i, j : 2 * count - 1 + j].reshape(-1) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    mesh = trimesh.Trimesh(points.reshape(-1, 3), faces, process=False)
    mesh.visual = trimesh.visual.TextureVisuals(uv=np.stack([2 * u.reshape(-1), 1 - v.reshape(-1)], -1))
    return mesh


def box(centre: tuple[float, float, float], size: tuple[float, float, float]) -> trimesh.Trimesh:
    mesh = trimesh.creation.box(size)
    return trimesh.Trimesh(mesh.vertices + centre, mesh.faces, process=False)


def write_glb(file: Path) -> Path:
    """A textured body under a node transform, beside a box of one colour that has a material of its own."""
    material = trimesh.visual.material.PBRMaterial
    body, part = egg(), box((0.28, -0.2, 0.15), (0.15, 0.2, 0.1))
    body.visual.material = material(baseColorTexture=pattern(), metallicFactor=0.0, doubleSided=True)
    part.visual = trimesh.visual.TextureVisuals(material=material(baseColorFactor=[204, 51, 26, 255], metallicFactor=0.0))
    scene = trimesh.Scene()
    turn = trimesh.transformations.rotation_matrix(0.4, [0, 1, 0])
    turn[:3, 3] = 0.02, -0.03, 0.01
    scene.add_geometry(body, transform=turn)
    scene.add_geometry(part)
    file.write_bytes(scene.export(file_type="glb"))
    return file


def write_obj(file: Path) -> Path:
    """The same shapes as OBJ with two materials, one of them textured."""
    pattern().save(file.parent / "pattern.png")
    (file.parent / "two.mtl").write_text("newmtl body\nKd 1 1 1\nmap_Kd pattern.png\nnewmtl part\nKd 0.8 0.2 0.1\n")
    lines, start = ["mtllib two.mtl"], 1
    for mesh, name in ((egg(), "body"), (box((0.28, -0.2, 0.15), (0.15, 0.2, 0.1)), "part")):
        lines += ["v {:.9g} {:.9g} {:.9g}".format(*vertex) for vertex in mesh.vertices]
        textured = name == "body"
        lines += ["vt {:.9g} {:.9g}".format(*uv) for uv in mesh.visual.uv] if textured else []
        lines.append(f"usemtl {name}")
        corner = "{0}/{0}" if textured else "{0}"
        lines += ["f " + " ".join(corner.format(number + start) for number in face) for face in mesh.faces]
        start += len(mesh.vertices)
    file.write_text("\n".join(lines) + "\n")
    return file


def write_ply(file: Path) -> Path:
    """The body with colours at its vertices."""
    mesh = egg(60)
    position = (mesh.vertices - mesh.vertices.min(0)) / np.ptp(mesh.vertices, axis=0)
    colours = np.rint(255 * encoded(position)).astype(np.uint8)
    mesh.visual = trimesh.visual.ColorVisuals(vertex_colors=np.hstack([colours, np.full((len(colours), 1), 255, np.uint8)]))
    file.write_bytes(mesh.export(file_type="ply"))
    return file


WRITERS = {"object.glb": write_glb, "object.obj": write_obj, "object.ply": write_ply}


def scanned(folder: Path, without: str = "") -> dict[str, bytes]:
    """Files in the layout of Google Scanned Objects: the texture lies in materials/textures, and not beside the mesh."""
    folder.mkdir(parents=True)
    write_obj(folder / "model.obj")
    files = {
        "meshes/model.obj": folder / "model.obj",
        "meshes/two.mtl": folder / "two.mtl",
        "materials/textures/pattern.png": folder / "pattern.png",
    }
    content = {name: file.read_bytes() for name, file in files.items() if name != without}
    return content | {"metadata.pbtxt": b'name: "EGG"\n', "model.sdf": b"<sdf/>", "thumbnails/0.jpg": b"\xff\xd8\xff"}


def pack(file: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file
