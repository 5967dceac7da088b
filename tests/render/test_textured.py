"""Textured meshes of others: what files say is what is seen, measured against ray casting by an independent library."""

import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image
from textured_objects import WRITERS, egg, pattern, write_glb, write_obj, write_ply

from magic123.geometry.camera import Camera
from magic123.geometry.textured import Part, joined, read_parts
from magic123.records.colour import decoded, encoded
from magic123.records.errors import InputError
from magic123.render.textured import TexturedMesh, covered

QUAD = np.array([[-0.4, -0.4, 0], [0.4, -0.4, 0], [0.4, 0.4, 0], [-0.4, 0.4, 0]], float)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
UV = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)


def front(size: int = 32) -> Camera:
    return Camera.orbit(90, 0, 1.8, 40, size)


def seen(part: Part, camera: Camera | None = None, **how) -> np.ndarray:
    return TexturedMesh([part]).render(camera or front(), **how).rgba


def test_srgb_and_linear_light_are_inverse():
    stored = np.arange(256) / 255
    assert np.allclose(encoded(decoded(stored)), stored, atol=1e-12)
    assert decoded(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)


def test_one_colour_is_seen_as_it_is_stored():
    """A texture of one colour as its bytes; a factor, which is linear, encoded; both multiplied as light."""
    texture = np.full((4, 4, 4), (200, 100, 50, 255), np.uint8)
    middle = seen(Part(QUAD, FACES, uv=UV, texture=texture))[16, 16]
    assert np.allclose(middle, [200 / 255, 100 / 255, 50 / 255, 1], atol=1e-6)
    assert np.allclose(seen(Part(QUAD, FACES, factor=(0.5, 0.2, 0.0, 1.0)))[16, 16, :3], encoded(np.array([0.5, 0.2, 0])))
    both = seen(Part(QUAD, FACES, uv=UV, texture=texture, factor=(0.5, 0.5, 0.5, 1.0)))[16, 16, :3]
    assert np.allclose(both, encoded(decoded(np.array([200, 100, 50]) / 255) / 2), atol=1e-6)


def test_vertex_colours_are_interpolated_in_perspective():
    """A ramp of light along a quad that runs away from the camera: each pixel has the ramp's value at its own ray."""
    ramp = np.repeat(np.array([[0.0], [1], [1], [0]]), 4, axis=1)
    camera = Camera.orbit(90, 60, 1.8, 40, 64)
    picture = TexturedMesh([Part(QUAD, FACES, colours=ramp)]).render(camera, samples=8)
    origins, directions = (part[0].numpy() for part in camera.rays())
    x = (origins - directions * (origins[..., 2:] / directions[..., 2:]))[..., 0]
    inside = picture.rgba[..., 3] > 0.999
    assert inside.sum() > 200
    assert np.abs(decoded(picture.rgba[..., 0]) - (x + 0.4) / 0.8)[inside].max() < 2e-3


def test_depth_and_normals_of_a_quad():
    picture = TexturedMesh([Part(QUAD, FACES)]).render(front())
    inside = covered(picture)
    assert np.allclose(picture.depth[inside], 1.8) and not picture.depth[~inside].any()
    full = picture.rgba[..., 3] > 0.999
    assert np.allclose(picture.normal[full], [0, 0, 1])
    half = 0.4 / 1.8 / np.tan(np.radians(20)) * 16
    assert picture.rgba[..., 3].sum() == pytest.approx((2 * half) ** 2, rel=0.02)


def test_textures_stand_upright_and_repeat_as_the_sampler_says():
    texture = np.zeros((2, 2, 4), np.uint8)
    texture[..., 3] = 255
    texture[0, 0, :3], texture[0, 1, 1], texture[1, 0, 2] = 255, 255, 255  # white, green / blue, black
    shown = seen(Part(QUAD, FACES, uv=UV, texture=texture, wrap=("clamp", "clamp")), front(64))[..., :3]
    corners = {(12, 12): (1, 1, 1), (12, 51): (0, 1, 0), (51, 12): (0, 0, 1), (51, 51): (0, 0, 0)}
    for (row, column), colour in corners.items():
        assert np.allclose(shown[row, column], colour, atol=1e-6), (row, column)
    twice = {how: seen(Part(QUAD, FACES, uv=2 * UV, texture=np.kron(texture, np.ones((16, 16, 1), np.uint8)), wrap=(how, how)),
                       front(64)) for how in ("repeat", "mirror", "clamp")}  # fmt: skip
    # the upper right quarter: the picture again; turned round in both directions; its last texel
    assert np.allclose(twice["repeat"][16, 48, :3], twice["repeat"][16 + 18, 48 - 19, :3], atol=0.2)
    assert np.allclose(twice["mirror"][12, 36, :3], (0, 0, 0), atol=1e-3) and np.allclose(
        twice["repeat"][28, 36, :3], (0, 0, 1), atol=1e-3
    )
    assert np.allclose(twice["clamp"][12, 51, :3], (0, 1, 0), atol=1e-3)


def test_fine_textures_are_averaged_as_light():
    """A checkerboard far finer than a pixel is seen as half the light everywhere, not as noise."""
    board = np.zeros((512, 512, 4), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    board[..., 3] = 255
    shown = seen(Part(QUAD, FACES, uv=UV, texture=board), front(16), samples=2)
    inside = shown[..., 3] > 0.999
    assert np.abs(shown[inside][:, :3] - encoded(np.array(0.5))).max() < 0.01


def test_backs_are_seen_of_double_sided_materials_alone():
    behind = Camera.orbit(90, 180, 1.8, 40, 32)
    assert seen(Part(QUAD, FACES, double_sided=False))[16, 16, 3] == 1
    assert not seen(Part(QUAD, FACES, double_sided=False), behind).any()
    assert seen(Part(QUAD, FACES, double_sided=True), behind)[16, 16, 3] == 1
    mirrored = Part(QUAD, FACES, double_sided=False).moved(np.diag([-1.0, 1, 1, 1]))
    assert seen(mirrored)[16, 16, 3] == 1  # a mirroring node transform does not turn it inside out


def test_what_lets_light_through_shows_what_is_behind():
    back = Part(QUAD - [0, 0, 0.3], FACES, factor=(0.0, 0.0, 1.0, 1.0))
    pane = {"factor": (1.0, 0.0, 0.0, 0.25)}
    blend = TexturedMesh([Part(QUAD, FACES, transparency="blend", **pane), back]).render(front()).rgba[16, 16]
    assert np.allclose(blend, [*encoded(np.array([0.25, 0, 0.75])), 1], atol=1e-6)
    alone = seen(Part(QUAD, FACES, transparency="blend", **pane))[16, 16]
    assert np.allclose(alone, [1, 0, 0, 0.25], atol=1e-6)
    masked = TexturedMesh([Part(QUAD, FACES, transparency="mask", cutoff=0.5, **pane), back]).render(front()).rgba[16, 16]
    assert np.allclose(masked, [0, 0, 1, 1], atol=1e-6)
    opaque = TexturedMesh([Part(QUAD, FACES, **pane), back]).render(front()).rgba[16, 16]
    assert np.allclose(opaque, [1, 0, 0, 1], atol=1e-6)


def test_light_is_an_option_and_fixed_in_the_world():
    part = Part(QUAD, FACES, factor=(0.5, 0.5, 0.5, 1.0))
    lit = decoded(seen(part, lit=True)[16, 16])[0]
    assert lit == pytest.approx(0.5 * (0.4 + 0.6 * 0.48 / np.linalg.norm([0.45, 0.75, 0.48])), abs=1e-4)
    assert np.allclose(seen(part)[16, 16, :3], encoded(np.array(0.5)), atol=1e-6)


# ------------------------------------------------------------------------------------------------------- another renderer
def ray_cast(file, camera: Camera, samples: int) -> np.ndarray:
    """What trimesh and Embree see of a file: nearest hits, bilinear lookups, the mean of many rays through each pixel."""
    pytest.importorskip("embreex")
    fine = camera.resized(camera.height * samples)
    origins, directions = (part[0].reshape(-1, 3).numpy().astype(np.float64) for part in fine.rays())
    nearest, linear = np.full(len(origins), np.inf), np.zeros((len(origins), 4))
    scene = trimesh.load_scene(file, process=False)
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        mesh = scene.geometry[name].copy()
        visual, colours = mesh.visual, None
        mesh.apply_transform(matrix)
        points, ray, face = trimesh.ray.ray_pyembree.RayMeshIntersector(mesh).intersects_location(origins, directions, False)
        weight = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
        if visual.kind == "vertex":
            vertex = decoded(visual.vertex_colors[mesh.faces[face]][..., :3] / 255)
            colours = (weight[..., None] * vertex).sum(1)
        elif (
            image := getattr(visual.material, "image", None) or getattr(visual.material, "baseColorTexture", None)
        ) is not None:
            from scipy.ndimage import map_coordinates

            texels = decoded(np.asarray(image.convert("RGB")) / 255)
            uv = (weight[..., None] * visual.uv[mesh.faces[face]]).sum(1)
            place = [(1 - uv[:, 1]) * len(texels) - 0.5, uv[:, 0] * texels.shape[1] - 0.5]
            colours = np.stack([map_coordinates(texels[..., k], place, order=1, mode="grid-wrap") for k in range(3)], -1)
        else:
            gltf = hasattr(visual.material, "baseColorFactor")
            flat = np.asarray(visual.material.baseColorFactor if gltf else visual.material.diffuse)[:3] / 255
            colours = np.broadcast_to(flat if gltf else decoded(flat), (len(ray), 3))
        distance = np.linalg.norm(points - origins[ray], axis=1)
        closer = distance < nearest[ray]
        nearest[ray[closer]] = distance[closer]
        linear[ray[closer]] = np.hstack([colours[closer], np.ones((closer.sum(), 1))])
    mean = linear.reshape(camera.height, samples, camera.width, samples, 4).mean((1, 3))
    return np.concatenate([encoded(mean[..., :3] / mean[..., 3:].clip(1e-9)), mean[..., 3:]], -1)


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_agree_with_ray_casting(tmp_path, name):
    """Albedo within 2/255 inside the mask, on average, and silhouettes within a pixel, from above, below and behind."""
    from scipy.ndimage import binary_dilation, binary_erosion

    file = WRITERS[name](tmp_path / name)
    mesh = TexturedMesh(read_parts(file))
    for pose in ((70, 30), (110, 200), (90, 300)):
        camera = Camera.orbit(*pose, 1.8, 40, 96)
        ours, theirs = mesh.render(camera).rgba, ray_cast(file, camera, 4)
        mask, other = ours[..., 3] > 0.5, theirs[..., 3] > 0.5
        assert 255 * np.abs(ours - theirs)[mask & other][:, :3].mean() < 0.5
        assert not (mask & ~binary_dilation(other)).any() and not (binary_erosion(other) & ~mask).any()
        assert np.abs(ours[..., 3] - theirs[..., 3]).mean() < 1e-3


# ---------------------------------------------------------------------------------------------------------------- reading
def test_parts_keep_their_materials_and_transforms(tmp_path):
    part, body = read_parts(write_glb(tmp_path / "a.glb"))
    assert body.texture is not None and body.double_sided and not part.double_sided
    assert np.allclose(part.factor, (0.8, 0.2, 26 / 255, 1)) and part.texture is None
    vertices, faces = joined([part, body])
    given = trimesh.load_scene(tmp_path / "a.glb").to_mesh()
    assert np.allclose(np.sort(vertices, 0), np.sort(given.vertices, 0), atol=1e-6) and len(faces) == len(given.faces)
    box, body = sorted(read_parts(write_obj(tmp_path / "b.obj")), key=lambda part: len(part.faces))
    assert np.allclose(box.factor[:3], decoded(np.array([0.8, 0.2, 0.1]))) and body.texture is not None
    (ply,) = read_parts(write_ply(tmp_path / "c.ply"))
    assert ply.colours is not None and ply.colours.shape == (len(ply.vertices), 4)


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


def material_of(header: dict, **values) -> None:
    for material in header["materials"]:
        material.update(values)


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


def with_accessor(header: dict, number: int, values: np.ndarray, **more) -> bytes:
    """Point an accessor at other numbers, which are to be appended to the binary part."""
    header["bufferViews"].append({"buffer": 0, "byteOffset": header["buffers"][0]["byteLength"], "byteLength": values.nbytes})
    header["buffers"][0]["byteLength"] += values.nbytes
    header["accessors"][number] = {
        "bufferView": len(header["bufferViews"]) - 1, "count": len(values), "type": f"VEC{values.shape[1]}", **more
    }  # fmt: skip
    return values.tobytes()


def test_integers_stand_for_what_they_say(tmp_path):
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


@pytest.mark.parametrize("mode", ["I;16", "L", "LA", "P", "CMYK", "1"])
def test_textures_of_every_kind_of_pixel(tmp_path, mode):
    """Sixteen bits of grey are not cut off at 255; the others are as Pillow shows them."""
    grey = np.asarray(pattern().convert("L"))
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else pattern().convert(mode)
    file = write_obj(tmp_path / "a.obj")
    picture.save(tmp_path / "pattern.png", "TIFF" if mode == "CMYK" else "PNG")
    texture = next(part.texture for part in read_parts(file) if part.texture is not None)
    expected = np.repeat(grey[..., None], 3, 2) if mode in ("I;16", "L", "LA") else np.asarray(picture.convert("RGB"))
    assert np.array_equal(texture[..., :3], expected) and (texture[..., 3] == 255).all()


def lost_image(header: dict) -> None:
    header["images"][0] = {"uri": "lost.png"}


def textures_of(header: dict) -> list[dict]:
    surfaces = [material["pbrMetallicRoughness"] for material in header["materials"]]
    return [surface["baseColorTexture"] for surface in surfaces if "baseColorTexture" in surface]


def attributes_of(header: dict) -> list[dict]:
    return [primitive["attributes"] for mesh in header["meshes"] for primitive in mesh["primitives"]]


def second_coordinates(header: dict) -> None:
    for texture in textures_of(header):
        texture.update(texCoord=1)


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
def test_what_would_be_left_out_of_a_glb_is_refused(tmp_path, sentence):
    glb_with(tmp_path / "a.glb", REFUSED[sentence])
    with pytest.raises(InputError, match=sentence):
        read_parts(tmp_path / "a.glb")


def test_what_would_be_left_out_of_an_obj_is_refused(tmp_path):
    (tmp_path / "objects").mkdir()
    file = write_obj(tmp_path / "objects/a.obj")
    for name, text, sentence in (
        ("two.mtl", "newmtl body\nmap_Kd pattern.png\n", "material 'part', which no MTL"),
        ("two.mtl", "newmtl body\nmap_Kd lost.png\nnewmtl part\n", "'lost.png', which is not in its folder"),
        ("two.mtl", "newmtl body\nmap_Kd ../secret.png\nnewmtl part\n", "outside its folder"),
        ("pattern.png", "no picture", "texture"),
        ("two.mtl", "newmtl body\nmap_Kd -s 2 2 1 pattern.png\nnewmtl part\n", "'body' has options before"),
        ("two.mtl", "newmtl body\nmap_d pattern.png\nnewmtl part\n", "'body' has its opacity in a picture"),
        ("two.mtl", "newmtl body\nKd 0 0 0\nmap_Kd pattern.png\nnewmtl part\n", "multiplies its texture by Kd 0 0 0"),
    ):
        write_obj(file)
        pattern().save(tmp_path / "secret.png")
        (file.parent / name).write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_parts(file)
    (file.parent / "two.mtl").unlink()
    with pytest.raises(InputError, match=r"'two.mtl', which is not in its folder"):
        read_parts(file)


def test_materials_without_an_mtl_file_are_white(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl lost\nf 1/1 2/1 3/1\n")
    (part,) = read_parts(tmp_path / "a.obj")
    assert part.texture is None and part.factor == (1, 1, 1, 1)


CORNERS = [(-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (0, -0.2), (-0.4, 0.4)]  # an M, whose fan from its first corner leaves it


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("kind", ["obj", "obj, counted backwards", "ply"])
def test_polygons_are_filled_or_refused(tmp_path, kind, first):
    """The picture has the polygon's area, whichever corner comes first, or there is one sentence."""
    order = [*range(first, 5), *range(first)]
    corners = [CORNERS[number] for number in order]
    file = tmp_path / f"a.{kind[:3]}"
    if kind == "ply":
        properties = "".join(f"property float {axis}\n" for axis in "xyz")
        lines = [f"ply\nformat ascii 1.0\nelement vertex 5\n{properties}element face 1"]
        lines += ["property list uchar int vertex_indices\nend_header", *(f"{x} {y} 0" for x, y in corners), "5 0 1 2 3 4"]
    else:
        lines = [f"v {x} {y} 0" for x, y in corners]
        lines.append("f -5 -4 \\\n -3 -2 -1" if "," in kind else "f 1 2 3 4 5")
    file.write_text("\n".join(lines) + "\n")
    if order[0] == 3:  # from the corner that points inwards, the fan fills it
        (part,) = read_parts(file)
        across = np.cross(*(part.vertices[part.faces[:, k]] - part.vertices[part.faces[:, 0]] for k in (1, 2)))
        assert (across[:, 2] > 0).all() and across[:, 2].sum() / 2 == pytest.approx(0.64 - 0.24)
    else:
        with pytest.raises(InputError, match="has faces of 5 corners that are not convex"):
            read_parts(file)


def test_colours_of_16_bits_are_refused(tmp_path):
    text = (
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nproperty ushort red\n"
        "property ushort green\nproperty ushort blue\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"
        "0 0 0 65535 0 0\n1 0 0 0 0 0\n0 1 0 0 0 0\n3 0 1 2\n"
    )
    (tmp_path / "a.ply").write_text(text)
    with pytest.raises(InputError, match="colours of 16 bits"):
        read_parts(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_text(text.replace("ushort", "uchar").replace("65535", "255"))
    assert read_parts(tmp_path / "a.ply")[0].colours[0].tolist() == [1, 0, 0, 1]


def test_large_textures_and_files_are_refused_before_they_are_decoded(tmp_path):
    file = write_obj(tmp_path / "a.obj")
    Image.new("1", (9000, 9000)).save(tmp_path / "pattern.png")
    with pytest.raises(InputError, match="9000 x 9000 pixels"):
        read_parts(file)
    with file.open("r+b") as stream:
        stream.truncate(2**30 + 1)
    with pytest.raises(InputError, match=r"has 1.0 GiB, and at most 1 GiB"):
        read_parts(file)


def test_a_million_faces_take_little_memory(tmp_path):
    """The surface is what it is with few faces, and no array grows with faces times pixels."""
    side = 708
    y, x = np.mgrid[:side, :side] / (side - 1) - 0.5
    number = np.arange(side * side).reshape(side, side)
    a, b, c, d = (number[i : side - 1 + i, j : side - 1 + j].reshape(-1) for i, j in ((0, 0), (0, 1), (1, 1), (1, 0)))
    many = Part(
        np.stack([0.8 * x, 0.8 * y, 0 * x], -1).reshape(-1, 3),
        np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]),
        factor=(0.5, 0.2, 0.1, 1.0),
    )
    assert len(many.faces) > 999_000 - 2000
    few = TexturedMesh([Part(QUAD, FACES, factor=(0.5, 0.2, 0.1, 1.0))]).render(front(64))
    picture = TexturedMesh([many]).render(front(64))
    assert np.allclose(picture.rgba, few.rgba, atol=1e-5) and np.allclose(picture.depth, few.depth, atol=1e-5)
