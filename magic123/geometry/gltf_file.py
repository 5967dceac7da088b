"""Read glTF 2.0 files (.gltf and .glb): the base colours of their materials, with node transforms applied.

Lights, metalness, roughness and normal maps are ignored. Files are refused if they use features that trimesh would ignore
silently: unknown extensions, skins, morph targets, triangle fans, sparse accessors.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from magic123.geometry.mesh_file import MeshFile, without_material
from magic123.geometry.mesh_parts import Part, Transparency, Wrap
from magic123.records.errors import InputError

# extensions that files may use: those of materials do not change the albedo, the others are supported
KNOWN_EXTENSIONS = re.compile(
    r"KHR_materials_|KHR_lights_|KHR_xmp|KHR_mesh_quantization$|KHR_texture_transform$|EXT_texture_webp$"
)
# constants of the specification
TRANSPARENCIES: dict[str, Transparency] = {"OPAQUE": "opaque", "MASK": "mask", "BLEND": "blend"}
REPEAT = 10497
WRAPS: dict[int, Wrap] = {REPEAT: "repeat", 33071: "clamp", 33648: "mirror"}
UNSIGNED = {5121: 255, 5123: 65535}  # unsigned component type -> its largest value
LARGEST = {5120: 127, 5122: 32767} | UNSIGNED  # component type -> the value that means 1 if the accessor is normalized
TRIANGLES, TRIANGLE_FAN = 4, 6
JSON_CHUNK = 0x4E4F534A


@dataclass(frozen=True)
class _Primitive:
    """A primitive of the JSON header: triangles with one material.

    Attributes:
        attributes: names such as POSITION -> numbers of accessors.
        material: the material as in the header; {} if there is none.
        base_colour: baseColorFactor and baseColorTexture, if the material has them.
    """

    attributes: dict[str, int]
    material: dict[str, Any]
    base_colour: dict[str, Any]


def read_gltf(file: MeshFile) -> list[Part]:
    """Return the parts of a glTF file.

    trimesh decodes the geometry and the images. It rounds factors to 8 bits, drops samplers, does not normalise integers, and
    always uses the first texture coordinates. So each primitive is given a material of its own, named by its number, and these
    properties are read from the header.

    Raises:
        InputError: the file is damaged, or uses a feature that affects its appearance and is not supported.
    """
    binary = file.path.suffix.lower() == ".glb"
    header, rest = _split_glb(file) if binary else (json.loads(file.content), b"")
    _check_header(header, file)
    for node in header.get("nodes", []):
        node.pop("camera", None)  # trimesh omits the mesh of a node that has a camera
    primitives = _primitives(header, file)
    header["materials"] = [
        _material_for_trimesh(str(number), primitive.base_colour) for number, primitive in enumerate(primitives)
    ]
    text = json.dumps(header).encode()
    return [
        _part(mesh, primitives[int(mesh.visual.material.name)], header, file).transformed(matrix)
        for mesh, matrix in file.meshes(_joined_glb(text, rest) if binary else text)
        if len(mesh.faces)
    ]


def _check_header(header: Any, file: MeshFile) -> None:
    """Raise InputError if the header uses a feature that is not supported."""
    if not isinstance(header, dict):
        raise InputError(f"mesh {file.path} has no glTF header; export it again")
    used = [*header.get("extensionsUsed", []), *header.get("extensionsRequired", [])]
    if unknown := [name for name in used if not KNOWN_EXTENSIONS.match(str(name))]:
        raise InputError(f"mesh {file.path} uses the glTF extension {unknown[0]!r}, which is not read; export it without")
    if sum(int(accessor.get("count", 0)) for accessor in header.get("accessors", [])) > 3 * len(file.content) + 2**20:
        raise InputError(f"mesh {file.path} declares more numbers than it holds; export it again")
    if any("mesh" in node and "skin" in node for node in header.get("nodes", [])):
        raise InputError(f"mesh {file.path} is posed by a skeleton, which is not read; apply its pose and export it without")
    if any(any(thing.get("weights") or ()) for thing in [*header.get("nodes", []), *header.get("meshes", [])]):
        raise InputError(f"mesh {file.path} is changed by morph targets, which are not read; apply them and export it without")


def _primitives(header: dict, file: MeshFile) -> list[_Primitive]:
    """Return all primitives, and prepare the header for trimesh, in place.

    The texture coordinates of each primitive become TEXCOORD_0, and its material becomes its number in the result.
    """
    materials = header.get("materials", [])
    primitives: list[_Primitive] = []
    for mesh in header.get("meshes", []):
        for stored in mesh["primitives"]:
            mode = stored.get("mode", TRIANGLES)
            if mode == TRIANGLE_FAN:
                raise InputError(f"mesh {file.path} has triangle fans, which are not read; export it as triangles")
            has_material = mode >= TRIANGLES and "material" in stored  # lower modes are points and lines
            material = materials[stored["material"]] if has_material else {}
            primitive = _Primitive(stored["attributes"], material, _base_colour(material))
            if (texture := primitive.base_colour.get("baseColorTexture")) is not None:
                coordinates = f"TEXCOORD_{_transform(texture).get('texCoord', texture.get('texCoord', 0))}"
                if coordinates not in primitive.attributes:
                    raise InputError(f"mesh {file.path} has a texture and no {coordinates} for it; export it again")
                primitive.attributes["TEXCOORD_0"] = primitive.attributes[coordinates]
            accessors = [*primitive.attributes.values(), *([stored["indices"]] if "indices" in stored else [])]
            if any("sparse" in header["accessors"][number] for number in accessors):
                raise InputError(f"mesh {file.path} has sparse accessors, which are not read; export it without")
            stored["material"] = len(primitives)
            primitives.append(primitive)
    return primitives


def _base_colour(material: dict) -> dict:
    """Return base colour factor and texture of a material of either workflow, metallic-roughness or specular-glossiness."""
    glossiness = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
    if glossiness is None:
        return material.get("pbrMetallicRoughness", {})
    named = {"baseColorFactor": glossiness.get("diffuseFactor"), "baseColorTexture": glossiness.get("diffuseTexture")}
    return {name: value for name, value in named.items() if value is not None}


def _transform(texture: dict) -> dict:
    return texture.get("extensions", {}).get("KHR_texture_transform", {})


def _material_for_trimesh(name: str, base_colour: dict) -> dict:
    """Return the material that trimesh reads in place of the original: a name, and the texture if there is one."""
    if (texture := base_colour.get("baseColorTexture")) is None:
        return {"name": name}
    return {"name": name, "pbrMetallicRoughness": {"baseColorTexture": {"index": texture["index"]}}}


def _part(mesh: Any, primitive: _Primitive, header: dict, file: MeshFile) -> Part:
    """Return the part of a primitive that trimesh has decoded as `mesh`."""
    material, texture_info = primitive.material, primitive.base_colour.get("baseColorTexture")
    texture, uv = None, None
    sampler: dict[str, int] = {}
    if texture_info is not None:
        image = mesh.visual.material.baseColorTexture
        if image is None:
            raise InputError(
                f"mesh {file.path}: the texture of material {material.get('name', '')!r} cannot be read; export it again"
            )
        texture = file.texels(image)
        number = header["textures"][texture_info["index"]].get("sampler")
        sampler = {} if number is None else header["samplers"][number]
        uv = _coordinates(mesh, header["accessors"][primitive.attributes["TEXCOORD_0"]], _transform(texture_info))
    red, green, blue, alpha = (float(value) for value in primitive.base_colour.get("baseColorFactor", (1, 1, 1, 1)))
    bare = without_material(mesh)
    return replace(
        bare,
        vertices=_value_of_one(header["accessors"][primitive.attributes["POSITION"]]) * bare.vertices,
        uv=uv,
        texture=texture,
        factor=(red, green, blue, alpha),
        colours=_colours(mesh),
        double_sided=bool(material.get("doubleSided", False)),
        transparency=TRANSPARENCIES[material.get("alphaMode", "OPAQUE")],
        cutoff=float(material.get("alphaCutoff", 0.5)),
        wrap=(WRAPS[sampler.get("wrapS", REPEAT)], WRAPS[sampler.get("wrapT", REPEAT)]),
    )


def _coordinates(mesh: Any, accessor: dict, transform: dict) -> Float[np.ndarray, "V 2"]:
    """Return the texture coordinates of a mesh after the KHR_texture_transform.

    The origin is the upper left corner of the texture in glTF, and the lower left one in `Part`.
    """
    u, v = (np.array(mesh.visual.uv, np.float64) * [1, -1] + [0, 1]).T  # undo the flip of v by trimesh
    if (stored := accessor["componentType"]) in UNSIGNED:
        v = v % (UNSIGNED[stored] + 1)  # unsigned integers have wrapped around in the flip
    (right, down), (wide, high) = transform.get("offset", (0, 0)), transform.get("scale", (1, 1))
    turn = transform.get("rotation", 0)
    u, v = wide * _value_of_one(accessor) * u, high * _value_of_one(accessor) * v
    u, v = right + np.cos(turn) * u + np.sin(turn) * v, down + np.cos(turn) * v - np.sin(turn) * u
    return np.stack([u, 1 - v], -1)


def _value_of_one(accessor: dict) -> float:
    """Return the value that the stored number 1 of an accessor represents."""
    normalized = accessor.get("normalized") and accessor["componentType"] in LARGEST
    return 1 / LARGEST[accessor["componentType"]] if normalized else 1.0


def _colours(mesh: Any) -> Float[np.ndarray, "V 4"] | None:
    """Return the vertex colours of a mesh, which are linear in glTF; None if there are none."""
    colours = mesh.visual.vertex_attributes.get("color")
    if colours is None:
        return None
    colours = np.asarray(colours)
    largest = np.iinfo(colours.dtype).max if colours.dtype.kind == "u" else 1
    colours = colours.reshape(len(mesh.vertices), -1) / np.float64(largest)
    return np.hstack([colours, np.ones((len(colours), 4 - colours.shape[1]))])


def _split_glb(file: MeshFile) -> tuple[Any, bytes]:
    """Return the JSON header of a GLB file and the bytes after it."""
    content = file.content
    if content[:4] != b"glTF" or len(content) < 20:
        raise InputError(f"mesh {file.path} is not a GLB file; export it again")
    version, _, length, kind = struct.unpack_from("<IIII", content, 4)
    if version != 2 or kind != JSON_CHUNK or 20 + length > len(content):
        raise InputError(f"mesh {file.path} is a damaged GLB file, or not of glTF 2.0; export it again")
    return json.loads(content[20 : 20 + length]), content[20 + length :]


def _joined_glb(header: bytes, rest: bytes) -> bytes:
    header += b" " * (-len(header) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(header) + len(rest), len(header), JSON_CHUNK) + header + rest
