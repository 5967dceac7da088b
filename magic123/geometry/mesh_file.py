"""Code shared by the readers of glTF, OBJ and PLY: access to the files that a mesh refers to, vertex colours, polygons.

trimesh decodes the formats. It silently omits what it does not find or support; the readers refuse such files.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float, UInt8

from magic123.geometry.mesh_parts import Part
from magic123.records.colour import decoded
from magic123.records.errors import InputError

MOST_BYTES = 2**30  # largest size of a file
MOST_TEXELS = 2**26  # largest number of pixels of all textures of a mesh
LARGEST_OUTSIDE = 0.05  # fraction of a polygon's area that its triangle fan may cover outside the polygon


class MeshFile:
    """A mesh file, and the resolver with which trimesh reads the files that it refers to.

    Attributes:
        path: path of the mesh file.
        content: its bytes.
        problems: the files that trimesh requested and that could not be read, each with the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.content = path, path.read_bytes()
        self.problems: list[str] = []
        self._textures: dict[int, UInt8[np.ndarray, "H W 4"]] = {}  # by the id of Pillow's image

    def get(self, name: str) -> bytes:
        """Return the content of a file that the mesh refers to, for trimesh.

        Args:
            name: path relative to the folder of the mesh file.

        Raises:
            FileNotFoundError: the file cannot be read; the reason is added to `problems`.
        """
        name = str(name).strip().replace("\\", "/")
        folder = self.path.parent
        file = (folder / name).resolve()
        if not file.is_file():  # glTF stores names as URIs, such as a%20name.png
            file = (folder / unquote(name)).resolve()
        if not file.is_relative_to(folder.resolve()):
            self.problems.append(f"{name!r}, which lies outside its folder")
        elif not file.is_file():
            self.problems.append(f"{name!r}, which is not in its folder")
        elif file.stat().st_size > MOST_BYTES:
            self.problems.append(f"{name!r}, which has more than {MOST_BYTES / 2**30:.0f} GiB")
        else:
            return file.read_bytes()
        raise FileNotFoundError(name)

    __getitem__ = get

    def raise_problems(self) -> None:
        """Raise InputError if a file that the mesh refers to could not be read; trimesh would continue without it."""
        if self.problems:
            raise InputError(f"mesh {self.path} needs {self.problems[0]}; put it beside the mesh")

    def meshes(self, content: bytes | None = None) -> list[tuple[Any, Float[np.ndarray, "4 4"]]]:
        """Return the meshes that trimesh reads, each with its transform; points and lines are omitted.

        Args:
            content: bytes to read instead of those of the file.
        """
        import trimesh

        stream, kind = io.BytesIO(self.content if content is None else content), self.path.suffix[1:].lower()
        scene = trimesh.load_scene(stream, file_type=kind, resolver=cast("Any", self), process=False)
        placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
        return [
            (scene.geometry[name], np.asarray(matrix, np.float64))
            for matrix, name in placed
            if isinstance(scene.geometry[name], trimesh.Trimesh) and np.isfinite(matrix).all()
        ]

    def texels(self, image: Any) -> UInt8[np.ndarray, "H W 4"]:
        """Return a Pillow image as an RGBA array, which is cached, because several parts may share an image.

        Raises:
            InputError: the image has more pixels than MOST_TEXELS, or holds floating point numbers.
        """
        if id(image) not in self._textures:
            self._textures[id(image)] = self._decoded(image)
        return self._textures[id(image)]

    def _decoded(self, image: Any) -> np.ndarray:
        from PIL import Image

        what = f"mesh {self.path}: a texture"
        if not 0 < image.width * image.height <= MOST_TEXELS:
            raise InputError(
                f"{what} has {image.width} x {image.height} pixels, and at most {MOST_TEXELS:,} are read; reduce it"
            )
        if image.mode.startswith("I"):  # 16-bit grey, which Pillow's conversion would clip at 255
            image = Image.fromarray(np.clip(np.asarray(image) // 257, 0, 255).astype(np.uint8))
        elif image.mode == "F":
            raise InputError(f"{what} holds floating point numbers; export it with 8 bits")
        return np.asarray(image.convert("RGBA"))


def without_material(mesh: Any) -> Part:
    """Return the triangles of a trimesh mesh, with its normals if the file has any, and without its material."""
    # normals that are not in the cache are not from the file: trimesh would compute them
    normals = np.array(mesh.vertex_normals, np.float64) if "vertex_normals" in mesh._cache else None
    return Part(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64), normals)


def with_colours(part: Part, mesh: Any) -> Part:
    """Return the part with the vertex or face colours of a trimesh mesh, converted from sRGB, if it has any."""
    if mesh.visual.kind == "vertex":
        colours = np.asarray(mesh.visual.vertex_colors) / 255
    elif mesh.visual.kind == "face":  # each face gets vertices of its own
        colours = np.repeat(np.asarray(mesh.visual.face_colors) / 255, 3, axis=0)
        corners = part.faces.reshape(-1)
        normals = None if part.normals is None else part.normals[corners]
        part = replace(part, vertices=part.vertices[corners], faces=np.arange(len(corners)).reshape(-1, 3), normals=normals)
    else:
        return part
    return replace(part, colours=np.hstack([decoded(colours[:, :3]), np.ones((len(colours), 1))]))


def check_convex(vertices: Float[np.ndarray, "V 3"], polygons: list[list[int]] | np.ndarray, path: Path) -> None:
    """Refuse polygons that are not convex, because trimesh divides polygons into a triangle fan from the first corner.

    Args:
        vertices: positions.
        polygons: vertex numbers of each polygon.
        path: path of the mesh, for the error message.

    Raises:
        InputError: a polygon is not convex.
    """
    by_length: dict[int, list] = {}
    for polygon in polygons:
        by_length.setdefault(len(polygon), []).append(polygon)
    for length, numbers in by_length.items():
        if length > 3:
            corners = vertices[np.array(numbers)] - vertices[np.array(numbers)[:, :1]]
            fan = np.cross(corners[:, 1:-1], corners[:, 2:])
            across = fan.sum(1, keepdims=True)
            outside = np.minimum((fan * across).sum(-1), 0).sum(1) / np.maximum((across**2).sum((1, 2)), 1e-60)
            if outside.min() < -LARGEST_OUTSIDE:
                raise InputError(f"mesh {path} has faces of {length} corners that are not convex; export it as triangles")
