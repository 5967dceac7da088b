"""The scenes NeRF and Picture: renderings, state, and handover to the next stage."""

import math

import pytest
import torch

from magic123.geometry.camera import Camera
from magic123.records.errors import InputError
from magic123.render.rendering import RenderOptions
from magic123.render.samples import box_span
from magic123.scenes.nerf import NeRF
from magic123.scenes.picture import Picture
from magic123.settings.losses import Losses
from magic123.settings.scenes import FieldSettings, HashGridSettings, LearningRates, NeRFSettings

GRID = HashGridSettings(levels=4, log2_entries=12, base_resolution=4, finest_resolution=32)
REFERENCE = Camera.orbit(90, 0, 1.8, 40, 24)
SIDE = Camera.orbit([70, 90], [35, -100], 1.8, 40, (16, 20))
EVERY_LOSS = Losses(opacity=1, total_variation=1)


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_nerf(seed=0, **changes) -> NeRF:
    torch.manual_seed(seed)
    return NeRF(
        FieldSettings(grid=GRID, hidden=16, layers=1, blob_radius=0.25),
        NeRFSettings(**{"occupancy_resolution": 24, "max_samples": 64, "occupancy_interval": 4} | changes),
    )


def with_exponent(nerf: NeRF, exponent) -> NeRF:
    """Put a closed form in place of the blob; the network adds nothing."""
    nerf.field.blob = exponent
    torch.nn.init.zeros_(nerf.field.head.weight)
    torch.nn.init.zeros_(nerf.field.head.bias)
    nerf.update_occupancy()
    return nerf


def ball(nerf: NeRF, radius=0.5) -> NeRF:
    return with_exponent(nerf, lambda x: 6 - 60 * (x.norm(dim=-1) - radius).clamp(-0.2, 0.4))


def disc(size=24) -> tuple[torch.Tensor, torch.Tensor]:
    """A red disc on white and its mask: [size, size, 3] and [size, size, 1]."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    mask = (axis[:, None] ** 2 + axis**2 < 0.3).float()[..., None]
    return mask * torch.tensor([0.9, 0.1, 0.2]) + 1 - mask, mask


def misfit(rendering) -> torch.Tensor:
    rgb, mask = disc()
    return (rendering.rgb - rgb).square().mean() + (rendering.opacity - mask).square().mean()


def train(nerf: NeRF, steps=60) -> NeRF:
    random = generator()
    optimizer = torch.optim.Adam(nerf.parameter_groups(LearningRates()), betas=(0.9, 0.99), eps=1e-15)
    for step in range(steps):
        nerf.before_step(step, steps, random)
        rendering = nerf.render(REFERENCE, RenderOptions(mode="lambertian", ambient=0.5, generator=random))
        loss = 5 * misfit(rendering) + 1e-3 * sum(nerf.regularizers(rendering, EVERY_LOSS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return nerf


@pytest.fixture(scope="module")
def trained() -> NeRF:
    return train(small_nerf())


def test_shapes_and_ranges(trained):
    for mode in ("albedo", "lambertian", "textureless", "normal"):
        seen = trained.render(SIDE, RenderOptions(mode=mode, ambient=0.1, generator=generator()))
        assert seen.rgb.shape == (2, 16, 20, 3) and seen.opacity.shape == seen.depth.shape == (2, 16, 20, 1)
        assert (seen.normal is None) == (mode == "albedo") == (seen.samples.normals is None)
        for picture in (seen.rgb, seen.opacity):
            assert picture.min() >= -1e-6 and picture.max() <= 1 + 1e-5
        assert seen.normal is None or (seen.normal.norm(dim=-1, keepdim=True) <= seen.opacity + 1e-5).all()


def test_ambient_light_alone_is_albedo(trained):
    plain = trained.render(SIDE, RenderOptions(mode="albedo"))
    lit = trained.render(SIDE, RenderOptions(mode="lambertian", ambient=1.0))
    assert torch.allclose(plain.rgb, lit.rgb, atol=1e-6) and lit.normal is not None


def test_depth_runs_along_the_optical_axis_and_normals_are_in_the_world():
    """A wall z < 0 seen at a slant: depth of a plane, the same normal everywhere; half the picture's rays are oblique."""
    nerf = with_exponent(small_nerf(max_samples=512), lambda x: 8 - 100 * x[:, 2].clamp(-0.1, 0.3))
    camera = Camera.orbit(80, 20, 1.8, 40, 15)
    seen = nerf.render(camera, RenderOptions(mode="normal"))
    origins, directions = camera.rays()
    distance = -(origins[..., 2] - 0.08) / directions[..., 2]  # where density exp(8 - 100 z) is 1
    points = origins + distance[..., None] * directions
    forward = -camera.camera_to_world[0, :3, 2]
    expected = ((points - camera.position) * forward).sum(-1)
    inside = (points.abs() < 0.9).all(-1)
    assert inside.sum() > 100
    assert (seen.depth[..., 0] - expected)[inside].abs().max() < 0.055
    assert ((seen.depth[..., 0] - expected)[inside].std()) < 0.01
    assert torch.allclose(seen.normal[inside], torch.tensor([0.0, 0, 1]).expand(int(inside.sum()), 3), atol=1e-3)


def test_equal_steps_of_depth_make_the_corners_of_a_picture_more_transparent():
    """Uniform density 0.4 in the cube: opacity 1 - exp(-0.4 depth), and by steps of equal distance 1 - exp(-0.4 distance)."""
    camera = Camera.orbit(90, 0, 1.8, 60, 9)
    origins, directions = camera.rays()
    near, far = box_span(origins.reshape(-1, 3), directions.reshape(-1, 3), -1.0, 1.0, 0.1)
    length = (far - near).clamp_min(0).reshape(1, 9, 9)
    shares = {"distance": torch.ones(1, 9, 9), "depth": -directions[..., 2]}
    for spacing, share in shares.items():
        nerf = with_exponent(small_nerf(max_samples=2048, spacing=spacing), lambda x: torch.full((len(x),), math.log(0.4)))
        seen = nerf.render(camera, RenderOptions(mode="normal"))
        assert torch.allclose(seen.opacity[..., 0], 1 - torch.exp(-0.4 * length * share), atol=1e-3), spacing
        assert torch.allclose(seen.samples.directions.norm(dim=-1), torch.ones(()), atol=1e-6)


def test_a_smaller_cube_holds_the_same_ball_and_nothing_beyond():
    shapes = []
    for bound in (1.0, 0.6):
        settings = FieldSettings(grid=GRID, hidden=16, layers=1, bound=bound)
        nerf = ball(NeRF(settings, NeRFSettings(occupancy_resolution=24, max_samples=256)), radius=0.4)
        with torch.no_grad():
            seen = nerf.render(REFERENCE, RenderOptions(mode="normal"))
        vertices, _ = nerf.mesh(48)
        shapes.append((seen.opacity, seen.depth, vertices.norm(dim=-1).mean()))
    for whole, small in zip(shapes[0][:2], shapes[1][:2], strict=True):
        middle = slice(9, 15)  # the ball's soft edge depends on the size of the occupancy grid's cells
        assert torch.allclose(whole[:, middle, middle], small[:, middle, middle], atol=0.03)
    assert float(shapes[0][2]) == pytest.approx(float(shapes[1][2]), abs=0.01)
    assert float(nerf.mesh(16)[0].abs().max()) <= 0.6
    wide = Camera.orbit(90, 0, 1.8, 80, 24)  # the cube's near side covers 0.6 / 1.2 / tan(40 degrees) of the picture: 14 pixels
    with torch.no_grad():
        filled = with_exponent(nerf, lambda x: torch.full((len(x),), 5.0)).render(wide).opacity[0, 12, :, 0]
    assert bool((filled[6:18] > 0.9).all()) and float(filled[:3].max()) == float(filled[-3:].max()) == 0


def test_background():
    nerf = ball(small_nerf())
    corner = (0, 0, 0)
    assert torch.allclose(nerf.render(REFERENCE).rgb[corner], torch.ones(3))
    colour = torch.tensor([0.1, 0.2, 0.3])
    assert torch.allclose(nerf.render(REFERENCE, RenderOptions(background=colour)).rgb[corner], colour)
    each = torch.rand(2, 1, 1, 3)
    assert torch.allclose(nerf.render(SIDE, RenderOptions(background=each)).rgb[:, 0, 0], each[:, 0, 0])


def test_light_comes_from_the_given_direction():
    nerf = ball(small_nerf())
    above = nerf.render(REFERENCE, RenderOptions(mode="textureless", ambient=0.0, light=torch.tensor([0.0, 1, 0])))
    rows = (above.rgb[0, ..., 0] * above.opacity[0, ..., 0]).sum(1)
    assert rows[6:10].sum() > 10 * rows[14:18].sum()
    both = nerf.render(SIDE, RenderOptions(mode="textureless", ambient=0.0, light=SIDE.position / SIDE.radius[:, None]))
    assert torch.allclose(both.rgb, nerf.render(SIDE, RenderOptions(mode="textureless", ambient=0.0)).rgb)
    assert both.rgb[:, 8, 10].min() > 0.85


def test_offsets_move_all_rays():
    nerf = ball(small_nerf())
    plain = nerf.render(REFERENCE)
    moved = nerf.render(REFERENCE, RenderOptions(origins_offset=torch.tensor([0.3, 0.0, 0.0])))
    columns = torch.arange(24.0)

    def centre(seen):
        return (seen.opacity[0, ..., 0].sum(0) * columns).sum() / seen.opacity.sum()

    assert centre(moved) < centre(plain) - 2  # the eye goes right, the ball goes left
    turned = nerf.render(REFERENCE, RenderOptions(directions_offset=torch.tensor([0.0, 0.2, 0.0])))
    assert (turned.rgb - plain.rgb).abs().max() > 0.3
    still = nerf.render(REFERENCE, RenderOptions(origins_offset=torch.zeros(3), directions_offset=torch.zeros(3)))
    assert torch.allclose(still.rgb, plain.rgb, atol=1e-5)


def test_pieces_give_the_same_picture(trained):
    with torch.no_grad():
        whole = trained.render(SIDE, RenderOptions(mode="lambertian", ambient=0.3))
        trained.ray_chunk, before = 77, trained.ray_chunk
        pieces = trained.render(SIDE, RenderOptions(mode="lambertian", ambient=0.3))
        trained.ray_chunk = before
    with_gradients = trained.render(SIDE, RenderOptions(mode="lambertian", ambient=0.3))
    assert pieces.samples is None and with_gradients.samples is not None
    for name in ("rgb", "opacity", "depth", "normal"):
        assert torch.allclose(getattr(whole, name), getattr(pieces, name), atol=1e-5)
        assert torch.allclose(getattr(whole, name), getattr(with_gradients, name), atol=1e-5)


def test_rendering_without_a_generator_is_deterministic(trained):
    assert torch.equal(*(trained.render(SIDE, RenderOptions(mode="lambertian")).rgb for _ in range(2)))


def test_training_gives_the_same_bytes_twice():
    once, again = (train(small_nerf(), steps=10).state_dict() for _ in range(2))
    for (name, a), (_, b) in zip(once.items(), again.items(), strict=True):
        assert torch.equal(a, b), name


def test_training_lowers_the_loss_and_keeps_everything_finite(trained):
    fresh = small_nerf()
    fresh.before_step(0, 60, generator())
    before, after = (misfit(scene.render(REFERENCE)).item() for scene in (fresh, trained))
    assert after < 0.8 * before
    assert all(v.isfinite().all() for v in trained.state_dict().values())


def test_state_is_complete(trained):
    other = small_nerf(seed=7)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(trained.render(SIDE).rgb, other.render(SIDE).rgb)
    assert {"occupancy.density", "occupancy.cells", "occupancy.box", "occupancy.updates"} <= set(trained.state_dict())


def test_before_step_updates_on_its_interval_and_unmasks():
    nerf = small_nerf()
    updates, masked = [], []
    for step in range(10):
        nerf.before_step(step, 10, generator())
        updates.append(int(nerf.occupancy.updates))
        masked.append(nerf.field.masked_levels)
    assert updates == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert masked == [2] * 6 + [0] * 4


def test_regularizers_follow_their_weights(trained):
    shaded = trained.render(REFERENCE, RenderOptions(mode="normal"))
    names = {"entropy", "orientation", "opacity", "normal_smoothness", "normal_blur", "total_variation"}
    values = trained.regularizers(shaded, EVERY_LOSS)
    assert set(values) == names and all(v.ndim == 0 and v.isfinite() and v >= 0 for v in values.values())
    assert set(trained.regularizers(trained.render(REFERENCE), EVERY_LOSS)) == {"entropy", "opacity", "total_variation"}
    off = Losses(**{name: 0.0 for name in names})
    assert trained.regularizers(shaded, off) == {}


def test_parameter_groups_hold_every_parameter_once():
    nerf = small_nerf()
    groups = nerf.parameter_groups(LearningRates(grid=0.3, network=0.2))
    assert [g["lr"] for g in groups] == [0.3, 0.2]
    assert groups[0]["params"][0] is nerf.field.grid.table
    listed = [id(p) for g in groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in nerf.parameters()) and len(set(listed)) == len(listed)


def test_kernels_are_named(trained):
    assert trained.kernels() == {"hash_grid": "numba", "ray_marching": "torch"}
    with pytest.raises(InputError, match=r"nerf\.ray_marching.*cpu"):
        small_nerf(ray_marching="triton").render(REFERENCE)


# ------------------------------------------------------------------------------------------------------------- mesh
def volume_of(vertices, faces) -> float:
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def edges_are_shared_once_each_way(faces) -> bool:
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forth = {tuple(e) for e in edges.tolist()}
    return len(forth) == len(edges) and forth == {(b, a) for a, b in forth}


def test_mesh_of_a_ball_is_closed_and_outward():
    nerf = with_exponent(small_nerf(), lambda x: 2 - 20 * (x - torch.tensor([0.3, 0, -0.1])).norm(dim=-1).clamp(0.2, 0.7))
    vertices, faces = nerf.mesh(resolution=64)
    # exp(2 - 20 r) equals the threshold
    radius = (2 - torch.tensor(nerf.occupancy.threshold_value()).log()) / 20
    assert 0.2 < radius < 0.7
    distance = (vertices - torch.tensor([0.3, 0, -0.1])).norm(dim=-1)
    assert (distance - radius).abs().max() < 1e-3
    assert volume_of(vertices, faces) == pytest.approx(4.18879 * float(radius) ** 3, rel=0.02)
    assert edges_are_shared_once_each_way(faces)


def test_mesh_is_capped_at_the_cube():
    nerf = with_exponent(small_nerf(), lambda x: 4 - 30 * x[:, 1].clamp(-0.2, 0.4))
    vertices, faces = nerf.mesh(resolution=32)
    level = (4 - torch.tensor(nerf.occupancy.threshold_value()).log()) / 30
    assert volume_of(vertices, faces) == pytest.approx(4 * (1 + float(level)), rel=0.02)
    assert edges_are_shared_once_each_way(faces) and vertices.abs().max() <= 1


def test_no_surface_is_an_empty_mesh():
    nerf = ball(small_nerf())
    nerf.field.blob = lambda x: torch.full((len(x),), -50.0)
    vertices, faces = nerf.mesh(resolution=16)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


# ---------------------------------------------------------------------------------------------------------- picture
def striped(size=32) -> tuple[torch.Tensor, torch.Tensor]:
    alpha = torch.zeros(size, size, 1)
    alpha[8:24, 8:24] = 1
    alpha[24, 8:24] = 0.5
    rgb = torch.zeros(size, size, 3)
    rgb[:, :16, 0] = 1
    return rgb * alpha + 1 - alpha, alpha


def test_picture_is_the_same_for_every_camera():
    rgb, alpha = striped()
    scene = Picture(rgb, alpha)
    cameras = Camera.orbit([90, 30], [0, 150], [1.8, 2.5], 40, 32)
    for mode in ("albedo", "lambertian"):
        seen = scene.render(cameras, RenderOptions(mode=mode))
        assert torch.allclose(seen.rgb[0], rgb, atol=1e-6) and torch.equal(seen.rgb[0], seen.rgb[1])
        assert torch.equal(seen.opacity[1], alpha)
    assert torch.allclose(seen.depth[1], 2.5 * alpha)
    assert torch.allclose(seen.normal[1], alpha * cameras.position[1] / 2.5, atol=1e-6)


def test_picture_takes_background_and_size():
    rgb, alpha = striped()
    scene = Picture(rgb, alpha)
    black = scene.render(REFERENCE.resized(32), RenderOptions(background=torch.zeros(3)))
    assert torch.allclose(black.rgb[0, 24, 10], torch.tensor([0.5, 0, 0])) and (black.rgb[0, 0] == 0).all()
    small = scene.render(REFERENCE.resized(8))
    assert torch.allclose(small.rgb[0], rgb.reshape(8, 4, 8, 4, 3).mean((1, 3)), atol=1e-6)
    normals = scene.render(REFERENCE.resized(32), RenderOptions(mode="normal", background=torch.zeros(3)))
    assert torch.allclose(normals.rgb[0, 12, 12], torch.tensor([0.5, 0.5, 1.0])) and (normals.rgb[0, 0] == 0).all()


def test_picture_has_nothing_to_train():
    scene = Picture(*striped())
    assert scene.parameter_groups(LearningRates()) == [] and scene.mesh() is None
    assert scene.regularizers(scene.render(REFERENCE), EVERY_LOSS) == {} and scene.kernels() == {}
    scene.before_step(0, 1, generator())
    with pytest.raises(ValueError, match="rgb"):
        Picture(torch.zeros(4, 4, 3), torch.zeros(4, 4))
