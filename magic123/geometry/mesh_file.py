"""What the readers of glTF, OBJ and PLY files share: the file with what lies beside it, colours of vertices, polygons.

trimesh decodes the formats, and leaves out without a word what it does not find or know. The readers refuse such files.
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

MOST_BYTES = 2**30  # of a file
MOST_TEXELS = 2**26  # of all textures of a file
LARGEST_OUTSIDE = 0.05  # of a polygon's area, that triangles from its first corner may cover outside it


class MeshFile:
    """A mesh file and the files beside it, for which trimesh asks by name.

    Attributes:
        path: of the file.
        content: its bytes.
        problems: what trimesh asked for and did not get, each with the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.content = path, path.read_bytes()
        self.problems: list[str] = []
        self._textures: dict[int, UInt8[np.ndarray, "H W 4"]] = {}  # by the id of Pillow's image

    def get(self, name: str) -> bytes:
        """Return the content of a file beside it. Raises FileNotFoundError, and notes the problem, where it cannot be read."""
        name = str(name).strip().replace("\\", "/")
        folder = self.path.parent
        file = (folder / name).resolve()
        if not file.is_file():  # an address as glTF writes it: a%20name.png
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

    def check_beside(self) -> None:
        """Raise InputError if a file beside it was not read: trimesh goes on without a texture."""
        if self.problems:
            raise InputError(f"mesh {self.path} needs {self.problems[0]}; put it beside the mesh")

    def meshes(self, content: bytes | None = None) -> list[tuple[Any, Float[np.ndarray, "4 4"]]]:
        """Return trimesh's meshes, each with its transform; points and lines are left out.

        Args:
            content: in place of the file's own.
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
        """Return one of Pillow's images as RGBA, decoded once however many parts share it.

        Raises:
            InputError: it has more than MOST_TEXELS, or floating point numbers.
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
        if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
            image = Image.fromarray(np.clip(np.asarray(image) // 257, 0, 255).astype(np.uint8))
        elif image.mode == "F":
            raise InputError(f"{what} holds floating point numbers; export it with 8 bits")
        return np.asarray(image.convert("RGBA"))


def without_material(mesh: Any) -> Part:
    """Return the triangles of one of trimesh's meshes, with the normals that the file has."""
    # trimesh computes normals that are not in its cache
    normals = np.array(mesh.vertex_normals, np.float64) if "vertex_normals" in mesh._cache else None
    return Part(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64), normals)


def with_colours(part: Part, mesh: Any) -> Part:
    """Return the part with the colours of its vertices or faces, sRGB in the file, where it has any."""
    if mesh.visual.kind == "vertex":
        colours = np.asarray(mesh.visual.vertex_colors) / 255
    elif mesh.visual.kind == "face":  # each face gets corners of its own
        colours = np.repeat(np.asarray(mesh.visual.face_colors) / 255, 3, axis=0)
        corners = part.faces.reshape(-1)
        normals = None if part.normals is None else part.normals[corners]
        part = replace(part, vertices=part.vertices[corners], faces=np.arange(len(corners)).reshape(-1, 3), normals=normals)
    else:
        return part
    return replace(part, colours=np.hstack([decoded(colours[:, :3]), np.ones((len(colours), 1))]))


def check_fans(vertices: Float[np.ndarray, "V 3"], polygons: list[list[int]] | np.ndarray, path: Path) -> None:
    """Refuse polygons that the triangles from their first corner do not fill, which is how trimesh divides them.

    Args:
        vertices: positions.
        polygons: vertex numbers of each.
        path: of the mesh.

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
