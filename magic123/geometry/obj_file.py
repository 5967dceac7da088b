"""Read OBJ files with the materials of their MTL files, or with vertex colours.

Colours (`Kd` and vertex colours) are interpreted as sRGB, as most programs do; the format does not specify it. Vertex colours
are ignored if the material has a texture. If it has none, they are refused, because the format does not say which of the two is
meant (Blender shows the material, and keeps the colours as an attribute of the mesh).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from magic123.geometry.mesh_file import MeshFile, check_convex, with_colours, without_material
from magic123.geometry.mesh_parts import Part
from magic123.records.colour import decoded
from magic123.records.errors import InputError
from magic123.records.mesh_files import LIBRARY

# lines of a material that affect its appearance and are not supported
UNREAD = {
    rb"^[ \t]*map_Kd[ \t]+-": "has options before the name of its texture, which are not read; write the name alone",
    rb"^[ \t]*map_d[ \t]": "has its opacity in a picture (map_d), which is not read; export it as glTF, or remove that line",
}

# a line of a vertex with a colour: v x y z red green blue
COLOURED = re.compile(rb"^(v(?:[ \t]+\S+){3})[ \t]+([-+.\d]\S*)[ \t]+([-+.\d]\S*)[ \t]+([-+.\d]\S*)", re.MULTILINE)
ROUNDED = 1.001  # colours up to this are in [0, 1] up to rounding


def read_obj(file: MeshFile) -> list[Part]:
    """Return the parts of an OBJ file, one for each material.

    Raises:
        InputError: a material is not defined or not fully supported, a polygon is not convex, or vertex colours would be
            ignored, or are neither in [0, 1] nor whole numbers up to 255.
    """
    materials = _materials(file)
    check_convex(*_polygons(file.content), file.path)
    meshes = file.meshes()
    _check_colours([mesh for mesh, _ in meshes], file, materials)
    if any(mesh.visual.kind == "vertex" for mesh, _ in meshes) and _beyond_one(file.content):
        meshes = file.meshes(_with_unit_colours(file))
    return [_part(mesh, file, materials) for mesh, _ in meshes]


def _materials(file: MeshFile) -> dict[str, bool]:
    """Return the names of the materials of its MTL files, each with whether it has a texture.

    Raises:
        InputError: a material that is used is not defined in any MTL file, or has lines that are not supported.
    """
    used = {_name(name) for name in re.findall(rb"^[ \t]*usemtl[ \t]+(.+?)[ \t\r]*$", file.content, re.MULTILINE)}
    textured: dict[str, bool] = {}
    for library in dict.fromkeys(LIBRARY.findall(file.content)):
        text = file.get(library.decode("utf-8", "replace"))
        for block in re.split(rb"^[ \t]*newmtl[ \t]+", text, flags=re.MULTILINE)[1:]:
            name = _name(block.splitlines()[0])
            textured[name] = re.search(rb"^[ \t]*map_Kd[ \t]+\S", block, re.MULTILINE | re.IGNORECASE) is not None
            for pattern, reason in UNREAD.items():
                if name in used and re.search(pattern, block, re.MULTILINE | re.IGNORECASE):
                    raise InputError(f"mesh {file.path}: the material {name!r} {reason}")
    if textured and (unknown := sorted(used - set(textured))):
        raise InputError(f"mesh {file.path} uses the material {unknown[0]!r}, which no MTL file of it defines; export it again")
    return textured


def _check_colours(meshes: list[Any], file: MeshFile, materials: dict[str, bool]) -> None:
    """Raise InputError if trimesh leaves out vertex colours that one of its meshes may be meant to show."""
    names = [str(mesh.visual.material.name) if mesh.visual.kind == "texture" else None for mesh in meshes]
    without = [
        name
        for name, mesh in zip(names, meshes, strict=True)
        if mesh.visual.kind != "vertex" and not (name and materials.get(name))
    ]
    if not without or not _coloured(file.content):
        return
    if without[0] is None:  # trimesh reads as many numbers of each vertex as all of them have
        raise InputError(f"mesh {file.path} has colours at some of its vertices only; export it with colours at all of them")
    named = without[0] in materials
    beside = f"the material {without[0]!r}, which has no texture" if named else "texture coordinates without a texture"
    raise InputError(f"mesh {file.path} has vertex colours beside {beside}; export it with one of the two")


def _name(words: bytes) -> str:
    """Normalise the name of a material as trimesh does: its words, separated by single spaces."""
    return " ".join(words.decode("utf-8", "replace").split())


def _polygons(content: bytes) -> tuple[np.ndarray, list[list[int]]]:
    """Return the vertices [V, 3], and the vertex numbers of the faces with more than three corners."""
    vertices: list[list[bytes]] = []
    polygons = []
    content = content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    if re.search(rb"^[ \t]*f(?:[ \t]+\S+){4}", content, re.MULTILINE):
        for line in content.splitlines():
            words = line.split()
            if words[:1] == [b"v"]:
                vertices.append(words[1:4])
            elif words[:1] == [b"f"] and len(words) > 4:
                numbers = [int(word.split(b"/")[0]) for word in words[1:]]
                polygons.append([number - 1 if number > 0 else len(vertices) + number for number in numbers])
    return np.array(vertices, np.float64).reshape(-1, 3), polygons


def _colour(line: re.Match[bytes]) -> list[float]:
    return [float(word) for word in line.groups()[1:]]


def _coloured(content: bytes) -> bool:
    """Return whether any vertex has a colour other than white."""
    colours = {tuple(_colour(line)) for line in COLOURED.finditer(content)}
    return not colours <= {(1.0, 1.0, 1.0)} and not colours <= {(255.0, 255.0, 255.0)}


def _beyond_one(content: bytes) -> bool:
    """Return whether vertex colours exceed 1: some programs write them from 0 to 255, and trimesh would clip them."""
    return any(max(_colour(line)) > ROUNDED for line in COLOURED.finditer(content))


def _with_unit_colours(file: MeshFile) -> bytes:
    """Return the content of a file with its vertex colours divided by 255. Raises InputError if they are not bytes."""

    def divided(line: re.Match[bytes]) -> bytes:
        colour = _colour(line)
        if not all(0 <= value <= 255 and value.is_integer() for value in colour):
            raise InputError(
                f"mesh {file.path} has vertex colours that are neither from 0 to 1 nor whole numbers up to 255; export it again"
            )
        return line[1] + b" %.9f %.9f %.9f" % tuple(value / 255 for value in colour)

    return COLOURED.sub(divided, file.content)


def _part(mesh: Any, file: MeshFile, materials: dict[str, bool]) -> Part:
    part = without_material(mesh)
    if mesh.visual.kind != "texture":
        return with_colours(part, mesh)
    material, uv = mesh.visual.material, mesh.visual.uv
    lines = getattr(material, "kwargs", {})
    opacity = _opacity(lines, f"mesh {file.path}: the material {material.name!r}")
    kd = np.atleast_1d(lines.get("kd", 1.0)).astype(np.float64)
    red, green, blue = (float(value) for value in decoded(kd if len(kd) == 3 else kd[:1].repeat(3)))
    image = None
    if materials.get(str(material.name)):  # trimesh creates a grey texture for materials that are not defined
        image = getattr(material, "image", None)
        if image is None:
            raise InputError(f"mesh {file.path}: the texture of material {material.name!r} cannot be read; export it again")
        if not max(red, green, blue):
            raise InputError(
                f"mesh {file.path}: the material {material.name!r} multiplies its texture by Kd 0 0 0; write Kd 1 1 1"
            )
    return replace(
        part,
        uv=None if uv is None else np.array(uv, np.float64),
        texture=None if image is None else file.texels(image),
        factor=(red, green, blue, opacity),
        transparency="opaque" if opacity >= 1 else "blend",
    )


def _opacity(lines: dict[str, Any], what: str) -> float:
    """Return a material's opacity: `d`, or 1 - `Tr` if there is no `d`.

    Args:
        lines: lines of the material, by their first words in lower case.
        what: name of the material for the error message.

    Raises:
        InputError: `Tr` makes the material invisible; some programs write it with the meaning of `d`.
    """
    if "d" in lines:
        return float(lines["d"][-1])
    opacity = 1 - float(lines["tr"][-1]) if "tr" in lines else 1.0
    if opacity <= 0:
        raise InputError(f"{what} has no d, and by its Tr it is invisible; write d 1 if it is opaque")
    return opacity
