"""Read textured meshes that others made: glTF (GLB), OBJ with MTL and textures, PLY with vertex colours, or one in a zip.

A file becomes parts, each with one material, in the frame of the file with node transforms applied. Colours are albedo: base
colour texture times base colour factor times vertex colours; light, metalness, roughness and normal maps are not read.
trimesh decodes the formats; this module hands it the files, and refuses what it would leave out without a word: textures that
are missing, materials that are not defined, extensions that it does not know, skeletons, polygons that a fan does not fill.

Textures are sRGB. Factors and vertex colours are linear in glTF, as its specification says, and sRGB in OBJ and PLY, which
say nothing: that is what programs show.
"""

from __future__ import annotations

import io
import json
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float, Int, UInt8

from magic123.records.archives import read_archive
from magic123.records.colour import decoded
from magic123.records.errors import InputError, first_line
from magic123.records.files import need_file, scratch_folder
from magic123.records.mesh_files import LIBRARY, SUFFIXES

Wrap = Literal["repeat", "clamp", "mirror"]
Transparency = Literal["opaque", "mask", "blend"]

MOST_BYTES = 2**30  # of a file
MOST_FACES = 2**24
MOST_TEXELS = 2**26  # of all textures of a file
BESIDE = (".mtl", ".bin", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".tif", ".tiff")  # what meshes in a zip may need
TRANSPARENCIES: dict[str, Transparency] = {"OPAQUE": "opaque", "MASK": "mask", "BLEND": "blend"}
WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}  # the sampler's numbers in glTF
# what glTF files may use: materials beyond the base colour change no albedo, and the rest is read
KNOWN_EXTENSIONS = re.compile(
    r"KHR_materials_|KHR_lights_|KHR_xmp|KHR_mesh_quantization$|KHR_texture_transform$|EXT_texture_webp$"
)
LARGEST = {5120: 127, 5121: 255, 5122: 32767, 5123: 65535}  # of glTF's integers, which stand for 1 where they are normalized
TRIANGLE_FAN = 6
LARGEST_OUTSIDE = 0.05  # of a polygon's area, that triangles from its first corner may cover outside it


@dataclass(frozen=True)
class Part:
    """Triangles with one material.

    Attributes:
        vertices: positions.
        faces: vertex numbers, counter-clockwise seen from outside.
        normals: of the vertices, as the file has them; None: computed where they are needed.
        uv: texture coordinates, (0, 0) at the lower left corner of the texture; None without any.
        texture: RGBA as stored (sRGB, straight alpha); None without any.
        factor: linear RGBA that multiplies the texture.
        colours: linear RGBA of the vertices, a further factor; None without any.
        double_sided: whether the back of a face is seen.
        transparency: opaque: alpha is ignored; mask: seen where alpha reaches `cutoff`; blend: alpha is opacity.
        cutoff: of `mask`.
        wrap: how coordinates beyond 0..1 are read, along u and v.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    normals: Float[np.ndarray, "V 3"] | None = None
    uv: Float[np.ndarray, "V 2"] | None = None
    texture: UInt8[np.ndarray, "H W 4"] | None = None
    factor: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    colours: Float[np.ndarray, "V 4"] | None = None
    double_sided: bool = True
    transparency: Transparency = "opaque"
    cutoff: float = 0.5
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")

    def moved(self, matrix: Float[np.ndarray, "4 4"]) -> Part:
        """Return the part with its positions and normals transformed; a mirroring turns the faces round as well."""
        linear = matrix[:3, :3]
        normals = self.normals
        if normals is not None:
            normals = normals @ np.linalg.inv(linear)
            normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        faces = self.faces[:, ::-1] if np.linalg.det(linear) < 0 else self.faces
        return replace(
            self, vertices=self.vertices @ linear.T + matrix[:3, 3], faces=np.ascontiguousarray(faces), normals=normals
        )


def joined(parts: list[Part]) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """Return the vertices and faces of all parts as one surface, without colours."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + start for part, start in zip(parts, starts, strict=False)]
    return np.concatenate([part.vertices for part in parts]), np.concatenate(faces)


def coloured(parts: list[Part]) -> bool:
    """Return whether a mesh has any colours; without them it is white."""
    return any(part.texture is not None or part.colours is not None or part.factor[:3] != (1, 1, 1) for part in parts)


def read_parts(path: Path) -> list[Part]:
    """Return the parts of a mesh file (.glb, .gltf, .obj or .ply, or a .zip that holds one of them with its files).

    Raises:
        InputError: the file is missing, damaged or too large; it has no surface; or a texture, a material or an extension
            that decides how it looks cannot be read.
    """
    need_file(path, "mesh")
    kind = path.suffix.lower()
    if kind == ".zip":
        with scratch_folder() as folder:
            try:
                return read_parts(unpacked(path, folder))
            except InputError as error:
                raise InputError(str(error).replace(str(folder), str(path))) from error
    if kind not in SUFFIXES:
        raise InputError(f"mesh {path} is not one of {', '.join(SUFFIXES)}, .zip; convert it")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"mesh {path} has {size / 2**30:.1f} GiB, and at most {MOST_BYTES // 2**30} GiB are read; simplify it")
    content = path.read_bytes()
    resolver = _folder_of(path)
    try:
        parts = {".glb": _gltf, ".gltf": _gltf, ".obj": _obj, ".ply": _ply}[kind](content, path, resolver)
        parts = [_checked(part, path) for part in parts if len(part.faces)]
    except Exception as error:  # every format raises its own; MemoryError is one of them
        if resolver.problems:
            raise InputError(f"mesh {path} needs {resolver.problems[0]}; put it beside the mesh") from error
        if isinstance(error, InputError):
            raise
        raise InputError(f"mesh {path} cannot be read ({first_line(error)}); export it again") from error
    if resolver.problems:  # trimesh goes on without a texture
        raise InputError(f"mesh {path} needs {resolver.problems[0]}; put it beside the mesh")
    if not parts:
        raise InputError(f"mesh {path} has no triangles; there is no surface to show")
    if (count := sum(len(part.faces) for part in parts)) > MOST_FACES:
        raise InputError(f"mesh {path} has {count:,} triangles, and at most {MOST_FACES:,} are read; simplify it")
    textures = {id(part.texture): part.texture.size // 4 for part in parts if part.texture is not None}
    if sum(textures.values()) > MOST_TEXELS:
        raise InputError(
            f"mesh {path} has textures of {sum(textures.values()):,} pixels, and at most {MOST_TEXELS:,} are read; reduce them"
        )
    return parts


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack the one mesh of a zip archive, its materials and textures, and return where it is.

    Textures that Gazebo's models keep in materials/textures, where OBJ readers do not look, are put beside the mesh.

    Args:
        archive: the zip archive.
        folder: an empty folder.

    Raises:
        InputError: the archive is damaged or unsafe, or holds no mesh or several.
    """

    def wanted(name: str) -> bool:
        return name.lower().endswith((*SUFFIXES, *BESIDE)) and not name.startswith("__MACOSX/")

    files = read_archive(archive, "a zip archive of a mesh", "get it again", MOST_BYTES, wanted)
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
    """Return the part after a check of its numbers. Raises InputError where they are no surface."""
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
        normals = None  # they are computed
    return replace(part, normals=normals)


# -------------------------------------------------------------------------------------------------------- files beside it
def _folder_of(path: Path) -> Any:
    """Return what trimesh asks for files beside a mesh; it notes what is missing, and refuses paths that leave the folder."""
    from trimesh.resolvers import Resolver

    class Folder(Resolver):
        def __init__(self) -> None:
            self.problems: list[str] = []

        def get(self, name: str) -> bytes:
            name = str(name).strip().replace("\\", "/")
            file = (path.parent / name).resolve()
            if not file.is_file():  # an address as glTF writes it: a%20name.png
                file = (path.parent / unquote(name)).resolve()
            if not file.is_relative_to(path.parent.resolve()):
                self.problems.append(f"{name!r}, which lies outside its folder")
            elif not file.is_file():
                self.problems.append(f"{name!r}, which is not in its folder")
            elif file.stat().st_size > MOST_BYTES:
                self.problems.append(f"{name!r}, which has more than {MOST_BYTES / 2**30:.0f} GiB")
            else:
                return file.read_bytes()
            raise FileNotFoundError(name)

        def keys(self) -> list[str]:
            return []

        def write(self, name: str, data: object) -> None:
            raise NotImplementedError

        def namespaced(self, namespace: str) -> Any:
            raise NotImplementedError

    return Folder()


def _load(content: bytes, kind: str, resolver: Any) -> list[tuple[Any, np.ndarray]]:
    """Return trimesh's meshes of a file, each with its transform; points and lines are left out."""
    import trimesh

    scene = trimesh.load_scene(io.BytesIO(content), file_type=kind, resolver=resolver, process=False)
    placed = [scene.graph[node] for node in scene.graph.nodes_geometry]
    return [
        (scene.geometry[name], np.asarray(matrix, np.float64))
        for matrix, name in placed
        if isinstance(scene.geometry[name], trimesh.Trimesh) and np.isfinite(matrix).all()
    ]


def _texels(image: Any, what: str, seen: dict[int, np.ndarray]) -> np.ndarray:
    """Return a picture as RGBA bytes, decoded once however many parts share it.

    Raises:
        InputError: it has more than MOST_TEXELS, or is damaged.
    """
    from PIL import Image

    if id(image) not in seen:
        if not 0 < image.width * image.height <= MOST_TEXELS:
            raise InputError(
                f"{what} has {image.width} x {image.height} pixels, and at most {MOST_TEXELS:,} are read; reduce it"
            )
        if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
            image = Image.fromarray(np.clip(np.asarray(image) // 257, 0, 255).astype(np.uint8))
        elif image.mode == "F":
            raise InputError(f"{what} holds floating point numbers; export it with 8 bits")
        seen[id(image)] = np.asarray(image.convert("RGBA"))
    return seen[id(image)]


def _own_normals(mesh: Any) -> np.ndarray | None:
    """Return the vertex normals that a file has; None where trimesh would compute them."""
    return np.array(mesh.vertex_normals, np.float64) if "vertex_normals" in mesh._cache else None


# ------------------------------------------------------------------------------------------------------------------ glTF
def _gltf(content: bytes, path: Path, resolver: Any) -> list[Part]:
    """Return the parts of a glTF file.

    trimesh rounds factors to 8 bits, drops samplers, takes integers as they are stored and the first texture coordinates
    whatever a material asks for. So each primitive gets a material of its own, named by its number, and the rest is read from
    the header.
    """
    binary = path.suffix.lower() == ".glb"
    header, rest = _split_glb(content, path) if binary else (json.loads(content), b"")
    if not isinstance(header, dict):
        raise InputError(f"mesh {path} has no glTF header; export it again")
    used = [*header.get("extensionsUsed", []), *header.get("extensionsRequired", [])]
    if unknown := [name for name in used if not KNOWN_EXTENSIONS.match(str(name))]:
        raise InputError(f"mesh {path} uses the glTF extension {unknown[0]!r}, which is not read; export it without")
    if sum(int(accessor.get("count", 0)) for accessor in header.get("accessors", [])) > 3 * len(content) + 2**20:
        raise InputError(f"mesh {path} declares more numbers than it holds; export it again")
    if any("mesh" in node and "skin" in node for node in header.get("nodes", [])):
        raise InputError(f"mesh {path} is posed by a skeleton, which is not read; apply its pose and export it without")
    if any(any(thing.get("weights") or ()) for thing in [*header.get("nodes", []), *header.get("meshes", [])]):
        raise InputError(f"mesh {path} is changed by morph targets, which are not read; apply them and export it without")
    for node in header.get("nodes", []):
        node.pop("camera", None)  # trimesh leaves out the mesh of such a node
    materials = header.get("materials", [])
    primitives: list[tuple[dict, dict]] = []  # attributes and material of each
    for mesh in header.get("meshes", []):
        for primitive in mesh["primitives"]:
            if primitive.get("mode") == TRIANGLE_FAN:
                raise InputError(f"mesh {path} has triangle fans, which are not read; export it as triangles")
            surface = primitive.get("mode", 4) >= 4  # not points or lines
            material = materials[primitive["material"]] if surface and "material" in primitive else {}
            attributes, asked = primitive["attributes"], _surface(material).get("baseColorTexture")
            if asked is not None:
                coordinates = f"TEXCOORD_{_transform(asked).get('texCoord', asked.get('texCoord', 0))}"
                if coordinates not in attributes:
                    raise InputError(f"mesh {path} has a texture and no {coordinates} for it; export it again")
                attributes["TEXCOORD_0"] = attributes[coordinates]
            stored = [*attributes.values(), *([primitive["indices"]] if "indices" in primitive else [])]
            if any("sparse" in header["accessors"][number] for number in stored):
                raise InputError(f"mesh {path} has sparse accessors, which are not read; export it without")
            primitive["material"] = len(primitives)
            primitives.append((attributes, material))
    header["materials"] = [
        {"name": str(number), "pbrMetallicRoughness": {"baseColorTexture": {"index": asked["index"]}}}
        if (asked := _surface(material).get("baseColorTexture")) is not None
        else {"name": str(number)}
        for number, (_, material) in enumerate(primitives)
    ]
    seen: dict[int, np.ndarray] = {}
    text = json.dumps(header).encode()
    return [
        _gltf_part(mesh, *primitives[int(mesh.visual.material.name)], header, path, seen).moved(matrix)
        for mesh, matrix in _load(_joined_glb(text, rest) if binary else text, path.suffix[1:].lower(), resolver)
        if len(mesh.faces)
    ]


def _surface(material: dict) -> dict:
    """Return base colour factor and texture of a material of either workflow."""
    other = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    if other is None:
        return material.get("pbrMetallicRoughness", {})
    named = {"baseColorFactor": other.get("diffuseFactor"), "baseColorTexture": other.get("diffuseTexture")}
    return {name: value for name, value in named.items() if value is not None}


def _transform(texture: dict) -> dict:
    return texture.get("extensions", {}).get("KHR_texture_transform", {})


def _unit(header: dict, accessor: int) -> float:
    """Return what the number 1 of an accessor stands for."""
    about = header["accessors"][accessor]
    return 1 / LARGEST[about["componentType"]] if about.get("normalized") and about["componentType"] in LARGEST else 1.0


def _gltf_part(mesh: Any, attributes: dict, material: dict, header: dict, path: Path, seen: dict[int, np.ndarray]) -> Part:
    surface = _surface(material)
    asked, texture, uv = surface.get("baseColorTexture"), None, None
    sampler: dict[str, int] = {}
    if asked is not None:
        image = mesh.visual.material.baseColorTexture
        if image is None:
            raise InputError(
                f"mesh {path}: the texture of material {material.get('name', '')!r} cannot be read; export it again"
            )
        texture = _texels(image, f"mesh {path}: a texture", seen)
        number = header["textures"][asked["index"]].get("sampler")
        sampler = {} if number is None else header["samplers"][number]
        # glTF's coordinates start at the upper left corner; trimesh has turned them over, and unsigned integers round
        u, v = (np.array(mesh.visual.uv, np.float64) * [1, -1] + [0, 1]).T
        stored = header["accessors"][attributes["TEXCOORD_0"]]["componentType"]
        v = v % (LARGEST[stored] + 1) if stored in (5121, 5123) else v
        unit = _unit(header, attributes["TEXCOORD_0"])
        how = _transform(asked)
        (right, down), (wide, high), turn = how.get("offset", (0, 0)), how.get("scale", (1, 1)), how.get("rotation", 0)
        u, v = wide * unit * u, high * unit * v
        u, v = right + np.cos(turn) * u + np.sin(turn) * v, down + np.cos(turn) * v - np.sin(turn) * u
        uv = np.stack([u, 1 - v], -1)
    colours = mesh.visual.vertex_attributes.get("color")
    if colours is not None:
        colours = np.asarray(colours)
        scale = np.iinfo(colours.dtype).max if colours.dtype.kind == "u" else 1
        colours = colours.reshape(len(mesh.vertices), -1) / np.float64(scale)
        colours = np.hstack([colours, np.ones((len(colours), 4 - colours.shape[1]))])
    red, green, blue, alpha = (float(value) for value in surface.get("baseColorFactor", (1, 1, 1, 1)))
    return Part(
        _unit(header, attributes["POSITION"]) * np.array(mesh.vertices, np.float64),
        np.array(mesh.faces, np.int64),
        _own_normals(mesh),
        uv,
        texture,
        (red, green, blue, alpha),
        colours,
        bool(material.get("doubleSided", False)),
        TRANSPARENCIES[material.get("alphaMode", "OPAQUE")],
        float(material.get("alphaCutoff", 0.5)),
        (WRAPS[sampler.get("wrapS", 10497)], WRAPS[sampler.get("wrapT", 10497)]),
    )


def _split_glb(content: bytes, path: Path) -> tuple[Any, bytes]:
    """Return the header of a GLB and the bytes after it."""
    if content[:4] != b"glTF" or len(content) < 20:
        raise InputError(f"mesh {path} is not a GLB file; export it again")
    version, _, length, kind = struct.unpack_from("<IIII", content, 4)
    if version != 2 or kind != 0x4E4F534A or 20 + length > len(content):
        raise InputError(f"mesh {path} is a damaged GLB file, or not of glTF 2.0; export it again")
    return json.loads(content[20 : 20 + length]), content[20 + length :]


def _joined_glb(header: bytes, rest: bytes) -> bytes:
    header += b" " * (-len(header) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(header) + len(rest), len(header), 0x4E4F534A) + header + rest


# -------------------------------------------------------------------------------------------------------------------- OBJ
# lines of a material that decide how it looks, and are not read
UNREAD = {
    rb"^[ \t]*map_Kd[ \t]+-": "has options before the name of its texture, which are not read; write the name alone",
    rb"^[ \t]*map_d[ \t]": "has its opacity in a picture (map_d), which is not read; export it as glTF, or remove that line",
}


def _obj(content: bytes, path: Path, resolver: Any) -> list[Part]:
    textured: dict[str, bool] = {}  # material -> whether it has a texture
    used = {
        " ".join(name.decode("utf-8", "replace").split())
        for name in re.findall(rb"^[ \t]*usemtl[ \t]+(.+?)[ \t\r]*$", content, re.MULTILINE)
    }
    for library in dict.fromkeys(LIBRARY.findall(content)):
        text = resolver.get(library.decode("utf-8", "replace"))
        for block in re.split(rb"^[ \t]*newmtl[ \t]+", text, flags=re.MULTILINE)[1:]:
            name = " ".join(block.splitlines()[0].decode("utf-8", "replace").split())
            textured[name] = re.search(rb"^[ \t]*map_Kd[ \t]+\S", block, re.MULTILINE | re.IGNORECASE) is not None
            for pattern, reason in UNREAD.items():
                if name in used and re.search(pattern, block, re.MULTILINE | re.IGNORECASE):
                    raise InputError(f"mesh {path}: the material {name!r} {reason}")
    if textured and (unknown := sorted(used - set(textured))):
        raise InputError(f"mesh {path} uses the material {unknown[0]!r}, which no MTL file of it defines; export it again")
    _check_fans(*_obj_polygons(content), path)
    seen: dict[int, np.ndarray] = {}
    return [_obj_part(mesh, path, textured, seen) for mesh, _ in _load(content, "obj", resolver)]


def _obj_polygons(content: bytes) -> tuple[np.ndarray, list[list[int]]]:
    """Return the vertices of an OBJ file, and the vertex numbers of its faces of more than three corners."""
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


def _check_fans(vertices: np.ndarray, polygons: Any, path: Path) -> None:
    """Refuse polygons that the triangles from their first corner do not fill, which is how trimesh divides them.

    Raises:
        InputError: a polygon is not convex there.
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


def _obj_part(mesh: Any, path: Path, textured: dict[str, bool], seen: dict[int, np.ndarray]) -> Part:
    part = Part(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64), _own_normals(mesh))
    if mesh.visual.kind != "texture":
        return _with_colours(part, mesh)
    material, uv = mesh.visual.material, mesh.visual.uv
    own = getattr(material, "kwargs", {})
    opacity = float(np.atleast_1d(own.get("d", 1.0))[-1])  # Tr means its opposite in some programs, and is not read
    red, green, blue = decoded(np.array(_floats(own.get("kd"), (1.0, 1.0, 1.0))))
    # trimesh gives a grey texture to materials that no file defines
    image = getattr(material, "image", None) if textured.get(str(material.name)) else None
    if image is None and textured.get(str(material.name)):
        raise InputError(f"mesh {path}: the texture of material {material.name!r} cannot be read; export it again")
    if image is not None and not max(red, green, blue):
        raise InputError(f"mesh {path}: the material {material.name!r} multiplies its texture by Kd 0 0 0; write Kd 1 1 1")
    return replace(
        part,
        uv=None if uv is None else np.array(uv, np.float64),
        texture=None if image is None else _texels(image, f"mesh {path}: a texture", seen),
        factor=(float(red), float(green), float(blue), opacity),
        transparency="opaque" if opacity >= 1 else "blend",
    )


def _floats(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    values = default if value is None else tuple(float(each) for each in np.atleast_1d(value))
    return values if len(values) == len(default) else values[:1] * len(default)


# -------------------------------------------------------------------------------------------------------------------- PLY
def _ply(content: bytes, path: Path, resolver: Any) -> list[Part]:
    parts = []
    for mesh, _ in _load(content, "ply", resolver):
        stored = mesh.metadata["_ply_raw"]
        if any(stored[element]["properties"].get("red", "")[1:] == "u2" for element in ("vertex", "face")):
            raise InputError(f"mesh {path} has colours of 16 bits; export it with 8")
        for name in {"vertex_index", "vertex_indices"} & set(stored["face"]["properties"]):
            corners = stored["face"]["data"][name]
            corners = corners if corners.dtype.names is None else corners["f1"]
            if corners.ndim == 1 or corners.shape[1] > 3:
                _check_fans(np.array(mesh.vertices, np.float64), corners, path)
        part = Part(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64), _own_normals(mesh))
        if mesh.visual.kind == "texture":
            image = (
                mesh.visual.material.image if hasattr(mesh.visual.material, "image") else mesh.visual.material.baseColorTexture
            )
            texture = None if image is None else _texels(image, f"mesh {path}: a texture", {})
            parts.append(replace(part, uv=np.array(mesh.visual.uv, np.float64), texture=texture))
        else:
            parts.append(_with_colours(part, mesh))
    return parts


def _with_colours(part: Part, mesh: Any) -> Part:
    """Return the part with the colours of its vertices or faces, where the file has any."""
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
