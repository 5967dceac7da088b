"""Rendering of textured meshes, against closed forms and against ray casting by an independent library."""

import numpy as np
import pytest
import trimesh
from textured_objects import WRITERS

from magic123.geometry.camera import Camera
from magic123.geometry.mesh_parts import Part
from magic123.geometry.mesh_reader import read_parts
from magic123.records.colour import decoded, encoded
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


def test_only_double_sided_materials_are_visible_from_behind():
    behind = Camera.orbit(90, 180, 1.8, 40, 32)
    assert seen(Part(QUAD, FACES, double_sided=False))[16, 16, 3] == 1
    assert not seen(Part(QUAD, FACES, double_sided=False), behind).any()
    assert seen(Part(QUAD, FACES, double_sided=True), behind)[16, 16, 3] == 1
    mirrored = Part(QUAD, FACES, double_sided=False).transformed(np.diag([-1.0, 1, 1, 1]))
    assert seen(mirrored)[16, 16, 3] == 1  # a mirroring node transform does not turn it inside out


def test_translucent_surfaces_show_what_is_behind():
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
