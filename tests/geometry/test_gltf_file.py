"""glTF files: materials, samplers and number formats of the header are read, and unsupported features are refused."""

import json
import struct

import numpy as np
import pytest
from textured_objects import egg, pattern, write_glb

from magic123.geometry.mesh_reader import read_parts
from magic123.records.errors import InputError


def attributes_of(header: dict) -> list[dict]:
    return [primitive["attributes"] for mesh in header["meshes"] for primitive in mesh["primitives"]]


def textures_of(header: dict) -> list[dict]:
    surfaces = [material["pbrMetallicRoughness"] for material in header["materials"]]
    return [surface["baseColorTexture"] for surface in surfaces if "baseColorTexture" in surface]


def material_of(header: dict, **values) -> None:
    for material in header["materials"]:
        material.update(values)


def glb_with(file, change, appended: list[bytes] | tuple = ()) -> None:
    """A GLB whose header was changed by `change`, and whose binary part goes on with what it appended."""
    content = write_glb(file).read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    header = json.loads(content[20 : 20 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    rest = content[20 + length :] + b"".join(appended)
    rest = struct.pack("<I", len(rest) - 8) + rest[4:]
    file.write_bytes(struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest)


def with_accessor(header: dict, number: int, values: np.ndarray, **more) -> bytes:
    """Point an accessor at other numbers, which are to be appended to the binary part."""
    header["bufferViews"].append({"buffer": 0, "byteOffset": header["buffers"][0]["byteLength"], "byteLength": values.nbytes})
    header["buffers"][0]["byteLength"] += values.nbytes
    header["accessors"][number] = {
        "bufferView": len(header["bufferViews"]) - 1, "count": len(values), "type": f"VEC{values.shape[1]}", **more
    }  # fmt: skip
    return values.tobytes()


def second_coordinates(header: dict) -> None:
    for texture in textures_of(header):
        texture.update(texCoord=1)


def lost_image(header: dict) -> None:
    header["images"][0] = {"uri": "lost.png"}


def test_factors_and_samplers_are_read_exactly(tmp_path):
    def change(header: dict) -> None:
        header["samplers"] = [{"wrapS": 33071, "wrapT": 33648}]
        header["textures"][0]["sampler"] = 0
        material_of(header, alphaMode="MASK", alphaCutoff=0.3)
        for material in header["materials"]:
            material["pbrMetallicRoughness"]["baseColorFactor"] = [0.0123, 0.5, 1, 1]

    glb_with(tmp_path / "a.glb", change)
    part, body = read_parts(tmp_path / "a.glb")
    assert part.factor == body.factor == (0.0123, 0.5, 1.0, 1.0)
    assert body.wrap == ("clamp", "mirror") and (body.transparency, body.cutoff) == ("mask", 0.3)


def test_normalized_integers_are_scaled(tmp_path):
    """Positions and coordinates as normalized 16 bits, in a node that scales them back, as programs that shrink files write."""
    _, plain = read_parts(write_glb(tmp_path / "plain.glb"))
    appended = []

    def change(header: dict) -> None:
        (attributes,) = (each for each in attributes_of(header) if "TEXCOORD_0" in each)
        node = next(node for node in header["nodes"] if "matrix" in node)
        node["matrix"] = (np.array(node["matrix"]).reshape(4, 4).T @ np.diag([0.5, 0.5, 0.5, 1])).T.reshape(-1).tolist()
        body = egg()
        positions = np.zeros((len(body.vertices), 4), np.int16)  # each in 8 bytes
        positions[:, :3] = np.rint(body.vertices / 0.5 * 32767)
        coordinates = np.rint(np.asarray(body.visual.uv) / 2 * [1, -2] * 65535 + [0, 65535]).astype(np.uint16)
        appended.append(with_accessor(header, attributes["POSITION"], positions, componentType=5122, normalized=True))
        header["accessors"][attributes["POSITION"]]["type"] = "VEC3"
        header["bufferViews"][-1]["byteStride"] = 8
        appended.append(with_accessor(header, attributes["TEXCOORD_0"], coordinates, componentType=5123, normalized=True))
        for texture in textures_of(header):
            texture["extensions"] = {"KHR_texture_transform": {"scale": [2, 1]}}
        header["extensionsUsed"] = ["KHR_mesh_quantization", "KHR_texture_transform"]

    glb_with(tmp_path / "a.glb", change, appended)
    _, body = read_parts(tmp_path / "a.glb")
    assert np.allclose(body.vertices, plain.vertices, atol=2e-5) and np.allclose(body.uv, plain.uv, atol=4e-5)


def test_a_node_with_a_camera_shows_its_mesh_too(tmp_path):
    def change(header: dict) -> None:
        header["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}]
        for node in header["nodes"]:
            if "mesh" in node:
                node["camera"] = 0

    glb_with(tmp_path / "a.glb", change)
    assert len(read_parts(tmp_path / "a.glb")) == 2


def test_textures_are_moved_turned_and_scaled(tmp_path):
    """(0.2, 0.1) + R(-90 degrees) diag(2, 3) (u, v), from the upper left corner."""

    def change(header: dict) -> None:
        for texture in textures_of(header):
            transform = {"offset": [0.2, 0.1], "scale": [2, 3], "rotation": np.pi / 2}
            texture["extensions"] = {"KHR_texture_transform": transform}
        header["extensionsUsed"] = ["KHR_texture_transform"]

    _, plain = read_parts(write_glb(tmp_path / "plain.glb"))
    glb_with(tmp_path / "a.glb", change)
    _, body = read_parts(tmp_path / "a.glb")
    u, v = plain.uv[:, 0], 1 - plain.uv[:, 1]
    assert np.allclose(body.uv, np.stack([0.2 + 3 * v, 1 - (0.1 - 2 * u)], -1), atol=1e-6)


def test_the_coordinates_that_a_texture_asks_for(tmp_path):
    def change(header: dict) -> None:
        (attributes,) = (each for each in attributes_of(header) if "TEXCOORD_0" in each)
        attributes["TEXCOORD_1"] = attributes.pop("TEXCOORD_0")
        second_coordinates(header)

    _, plain = read_parts(write_glb(tmp_path / "plain.glb"))
    glb_with(tmp_path / "a.glb", change)
    _, body = read_parts(tmp_path / "a.glb")
    assert np.array_equal(body.uv, plain.uv)


def test_diffuse_colours_of_the_other_workflow(tmp_path):
    def change(header: dict) -> None:
        for material in header["materials"]:
            surface = material.pop("pbrMetallicRoughness")
            named = {"diffuseTexture": surface.get("baseColorTexture"), "diffuseFactor": surface.get("baseColorFactor")}
            named = {name: value for name, value in named.items() if value is not None}
            material["extensions"] = {"KHR_materials_pbrSpecularGlossiness": named}
        header["extensionsUsed"] = ["KHR_materials_pbrSpecularGlossiness"]

    glb_with(tmp_path / "a.glb", change)
    part, body = read_parts(tmp_path / "a.glb")
    assert np.array_equal(body.texture[..., :3], np.asarray(pattern())) and np.allclose(part.factor, (0.8, 0.2, 26 / 255, 1))


def test_addresses_of_files_are_decoded(tmp_path):
    def change(header: dict) -> None:
        header["images"][0] = {"uri": "a%20folder/caf%C3%A9.png"}

    glb_with(tmp_path / "a.glb", change)
    with pytest.raises(InputError, match="not in its folder"):
        read_parts(tmp_path / "a.glb")
    (tmp_path / "a folder").mkdir()
    pattern().save(tmp_path / "a folder/café.png")
    _, body = read_parts(tmp_path / "a.glb")
    assert np.array_equal(body.texture[..., :3], np.asarray(pattern()))
    glb_with(
        tmp_path / "a.glb",
        lambda header: header["images"][0].update(uri="%2e%2e/secret.png") or header["images"][0].pop("bufferView"),
    )
    with pytest.raises(InputError, match="outside its folder"):
        read_parts(tmp_path / "a.glb")


REFUSED = {
    "needs 'lost.png', which is not in its folder": lost_image,
    "extension 'KHR_draco_mesh_compression'": lambda header: header.update(extensionsUsed=["KHR_draco_mesh_compression"]),
    "posed by a skeleton": lambda header: [node.update(skin=0) for node in header["nodes"]],
    "changed by morph targets": lambda header: header["meshes"][0].update(weights=[0, 0.5]),
    "has triangle fans": lambda header: header["meshes"][0]["primitives"][0].update(mode=6),
    "has sparse accessors": lambda header: header["accessors"][attributes_of(header)[0]["POSITION"]].update(sparse={}),
    "declares more numbers": lambda header: header["accessors"][0].update(count=2**31),
    "has a texture and no TEXCOORD_1": second_coordinates,
    "cannot be read": lambda header: material_of(header, alphaMode="GLOW"),
    "has no triangles": lambda header: [p.update(mode=0) for m in header["meshes"] for p in m["primitives"]],
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_unsupported_features_of_a_glb_are_refused(tmp_path, sentence):
    glb_with(tmp_path / "a.glb", REFUSED[sentence])
    with pytest.raises(InputError, match=sentence):
        read_parts(tmp_path / "a.glb")
