"""Read textured meshes from other programs: glTF, GLB, OBJ with MTL and textures, PLY, or one of them in a zip archive.

The result is a list of parts with one material each, in the frame of the file, with node transforms applied.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from magic123.geometry.gltf_file import read_gltf
from magic123.geometry.mesh_file import MOST_BYTES, MOST_TEXELS, MeshFile
from magic123.geometry.mesh_parts import Part
from magic123.geometry.obj_file import read_obj
from magic123.geometry.ply_file import read_ply
from magic123.records.archives import read_archive
from magic123.records.errors import InputError, first_line
from magic123.records.files import need_file, scratch_folder
from magic123.records.mesh_files import SUFFIXES

MOST_FACES = 2**24
READERS = {".glb": read_gltf, ".gltf": read_gltf, ".obj": read_obj, ".ply": read_ply}  # for each of SUFFIXES
# files of a zip archive that a mesh may refer to
COMPANION_SUFFIXES = (".mtl", ".bin", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".tif", ".tiff")


def read_parts(path: Path) -> list[Part]:
    """Return the parts of a mesh file (.glb, .gltf, .obj or .ply, or a .zip that holds one of them with its files).

    Raises:
        InputError: the file is missing, damaged or too large; it has no triangles; or it needs a texture, a material or an
            extension that cannot be read.
    """
    need_file(path, "mesh")
    kind = path.suffix.lower()
    if kind == ".zip":
        with scratch_folder() as folder:
            try:
                return read_parts(_unpacked(path, folder))
            except InputError as error:
                raise InputError(str(error).replace(str(folder), str(path))) from error
    if kind not in READERS:
        raise InputError(f"mesh {path} is not one of {', '.join(SUFFIXES)}, .zip; convert it")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"mesh {path} has {size / 2**30:.1f} GiB, and at most {MOST_BYTES // 2**30} GiB are read; simplify it")
    file = MeshFile(path)
    try:
        parts = [_checked(part, path) for part in READERS[kind](file) if len(part.faces)]
    except Exception as error:  # each format raises exceptions of its own, and MemoryError
        file.raise_problems()
        if isinstance(error, InputError):
            raise
        raise InputError(f"mesh {path} cannot be read ({first_line(error)}); export it again") from error
    file.raise_problems()
    _check_size(parts, path)
    return parts


def _unpacked(archive: Path, folder: Path) -> Path:
    """Unpack the mesh of a zip archive with its materials and textures, and return the path of the mesh.

    Gazebo's models have their textures in materials/textures, where OBJ readers do not look for them; they are copied to the
    folder of the mesh.

    Args:
        archive: the zip archive.
        folder: an empty folder.

    Raises:
        InputError: the archive is damaged or unsafe, or does not hold exactly one mesh.
    """

    def wanted(name: str) -> bool:
        return name.lower().endswith((*SUFFIXES, *COMPANION_SUFFIXES)) and not name.startswith("__MACOSX/")

    files = read_archive(archive, "a zip archive of a mesh", "download it again", MOST_BYTES, wanted)
    meshes = sorted(name for name in files if name.lower().endswith(SUFFIXES))
    if len(meshes) != 1:
        found = f"several meshes ({', '.join(meshes[:3])})" if meshes else f"none of {', '.join(SUFFIXES)}"
        raise InputError(f"mesh {archive} holds {found}; it must hold one")
    mesh = PurePosixPath(meshes[0])
    beside = {
        str(mesh.parent / PurePosixPath(name).name): content
        for name, content in files.items()
        if PurePosixPath(name).parts[-3:-1] == ("materials", "textures")
    }
    for name, content in (beside | files).items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except (OSError, ValueError) as error:  # a file where a folder should be, a name that is too long
            raise InputError(f"{archive} holds {name!r}, which cannot be unpacked ({first_line(error)})") from error
    return folder / mesh


def _checked(part: Part, path: Path) -> Part:
    """Check the arrays of a part, and return it without normals that cannot be used. Raises InputError if they are invalid."""
    if part.vertices.ndim != 2 or part.vertices.shape[1] != 3 or part.faces.ndim != 2 or part.faces.shape[1] != 3:
        raise InputError(f"mesh {path} has positions or faces of another shape; export it again as triangles")
    if not 0 <= part.faces.min() <= part.faces.max() < len(part.vertices):
        raise InputError(f"mesh {path} has triangles with vertices that do not exist; export it again")
    if not np.isfinite(part.vertices).all() or np.abs(part.vertices).max() > 1e12:
        raise InputError(f"mesh {path} has vertices that are not finite, or beyond 1e12; export it again")
    count = len(part.vertices)
    for what, values, width in (("texture coordinates", part.uv, 2), ("vertex colours", part.colours, 4)):
        if values is not None and (values.shape != (count, width) or not np.isfinite(values).all()):
            raise InputError(f"mesh {path} has {what} that are not finite, or not one for each vertex; export it again")
    if not np.isfinite(part.factor).all():
        raise InputError(f"mesh {path} has a base colour that is not finite; export it again")
    if part.texture is not None and part.uv is None:
        raise InputError(f"mesh {path} has a texture and no texture coordinates; export it again")
    normals = part.normals
    if normals is not None and (normals.shape != part.vertices.shape or not np.isfinite(normals).all()):
        normals = None  # they are computed instead
    return replace(part, normals=normals)


def _check_size(parts: list[Part], path: Path) -> None:
    """Raise InputError if a mesh has no triangles, or more triangles or texels than are allowed."""
    if not parts:
        raise InputError(f"mesh {path} has no triangles; there is no surface to show")
    if (count := sum(len(part.faces) for part in parts)) > MOST_FACES:
        raise InputError(f"mesh {path} has {count:,} triangles, and at most {MOST_FACES:,} are read; simplify it")
    texels = sum({id(part.texture): part.texture.size // 4 for part in parts if part.texture is not None}.values())
    if texels > MOST_TEXELS:
        raise InputError(f"mesh {path} has textures of {texels:,} pixels, and at most {MOST_TEXELS:,} are read; reduce them")
