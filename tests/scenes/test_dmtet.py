"""The DMTet scene: hand-over from a coarse scene, rendering, regularizers, training, and the chain NeRF -> DMTet -> GLB."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from magic123.fields.field import Field
from magic123.geometry.camera import Camera
from magic123.geometry.edges import find_edges
from magic123.records.errors import InputError
from magic123.render.rendering import PLAIN, Rendering, RenderOptions
from magic123.render.shading import light_direction
from magic123.scenes.dmtet import DMTet
from magic123.scenes.nerf import NeRF
from magic123.settings.losses import Losses
from magic123.settings.scenes import DMTetSettings, FieldSettings, HashGridSettings, LearningRates, NeRFSettings
from magic123.settings.stage import stage_settings

FIELD = FieldSettings(
    grid=HashGridSettings(levels=4, log2_entries=10, base_resolution=4, finest_resolution=32),
    hidden=16,
    layers=1,
    coarse_to_fine=0,
)
STAGE = stage_settings(scene="dmtet", init="coarse", field=FIELD, dmtet=DMTetSettings(grid_resolution=24))
CAMERAS = Camera.orbit([80.0, 60.0], [0.0, 120.0], 1.8, 40.0, 32)
NO_LOSSES = dict.fromkeys(Losses.model_fields, 0.0)


@pytest.fixture
def scene():
    torch.manual_seed(0)
    return DMTet(FIELD, STAGE.dmtet)


class Coarse(NeRF):
    """A coarse scene with a density of our choice; its silhouettes are those of a ball of radius 0.4."""

    def __init__(self, density, threshold=10.0, radius=0.4):
        nn.Module.__init__(self)
        self.field = Field(FIELD)
        self.field.density = density
        self.occupancy = SimpleNamespace(threshold_value=lambda: threshold)
        self.radius = radius

    def render(self, camera, options=PLAIN):
        origins, directions = camera.rays()
        nearest = torch.linalg.cross(origins, directions).norm(dim=-1, keepdim=True)
        opacity = (nearest < self.radius).float()
        return Rendering(opacity.expand(*opacity.shape[:3], 3), opacity, opacity)


def smooth_ball(x, radius=0.4, height=1000.0):
    return height * torch.sigmoid((radius - x.norm(dim=-1)) * 40)


def crumbs(x, spacing=0.5, radius=0.15, height=12.0):
    """Separate small balls of low density around a ball of high density."""
    distance = ((x / spacing) - (x / spacing).round()).norm(dim=-1) * spacing
    around = (x.abs().amax(-1) < 0.8).float() * (x.norm(dim=-1) > 0.45)
    return smooth_ball(x, 0.3) + height * around * (distance < radius)


# ---------------------------------------------------------------------------------------------------------- hand-over
def test_untrained_nerf_hands_over_its_blob():
    """Density exp(10 exp(-r^2 / 0.08)) equals 10 at r = 0.343; on a lattice shrunk around that the ball is found."""
    nerf = NeRF(FIELD, NeRFSettings(occupancy_resolution=32, max_samples=128))
    nerf.occupancy.update(nerf.field.density)
    scene = DMTet.from_nerf(nerf, STAGE)
    record = scene.handover
    assert record["rule"] == "published" and record["level"] == record["published_level"] == 10.0
    assert float(scene.scale.min()) > 0.36 and float(scene.scale.max()) < 0.56
    vertices, _ = scene.mesh()
    # distances are clamped to +-1, far steeper than the lattice is fine: vertices may sit anywhere on their lattice edge
    error = (vertices.norm(dim=-1) - 0.343).abs()
    assert float(error.max()) < 0.04 and float(error.mean()) < 0.02
    assert 0.85 < record["silhouette_iou"] <= 1
    for name, value in nerf.field.state_dict().items():
        assert torch.equal(scene.field.state_dict()[name], value)
    assert float(scene.sdf.detach().abs().max()) == 1 and not scene.deform.detach().any()


def test_lattice_shrinks_along_each_axis():
    def flat(x):
        return smooth_ball(x / torch.tensor([1.0, 0.3, 1.6]), 0.4)

    scene = DMTet.from_nerf(Coarse(flat), STAGE)
    assert scene.scale.tolist() == pytest.approx([0.7, 0.3, 0.9], abs=0.1)
    assert scene.handover["rule"] == "published"
    vertices, _ = scene.mesh()
    assert (vertices.abs().amax(0) < scene.scale).all()


def test_hand_over_searches_where_the_published_level_shatters():
    scene = DMTet.from_nerf(Coarse(crumbs, radius=0.3), STAGE)
    record = scene.handover
    assert record["rule"] == "best silhouette" and "shattered" in record["why"] and "10" in record["why"]
    assert record["published_level"] == 10.0 and 12 < record["level"] < 1000
    usable = [t["silhouette_iou"] for t in record["tried"] if t["problem"] is None]
    assert record["silhouette_iou"] == max(usable) > 0.85 and len(record["tried"]) == 21
    vertices, _ = scene.mesh()
    assert 0.2 < float(vertices.norm(dim=-1).max()) < 0.4


@pytest.mark.parametrize(
    ("density", "reason"),
    [
        (lambda x: torch.zeros(len(x)), "empty"),
        (lambda x: torch.full((len(x),), 50.0), "empty|touches"),  # where the lattice ends at the cube
        (lambda x: torch.full((len(x),), torch.nan), "empty"),
    ],
    ids=["nothing", "a full cube", "not numbers"],
)
def test_hand_over_without_any_surface_is_refused(density, reason):
    within = STAGE.model_copy(update={"dmtet": STAGE.dmtet.model_copy(update={"within_cube": True})})
    with pytest.raises(InputError, match="no surface to start dmtet from") as error:
        DMTet.from_nerf(Coarse(density), within)
    assert any(word in str(error.value) for word in reason.split("|"))


def test_a_lattice_may_reach_beyond_the_cube_where_nothing_is():
    """An object that fills the cube gets a closed surface at its sides, on a lattice larger by the margin."""
    scene = DMTet.from_nerf(Coarse(lambda x: torch.full((len(x),), 50.0)), STAGE)
    assert torch.allclose(scene.scale, torch.tensor(1 + 5 / 24))
    vertices, faces = scene.mesh()
    assert 0.95 < float(vertices.abs().max()) < 1.15 and bool(find_edges(faces).inner.all())


# ---------------------------------------------------------------------------------------------------------- rendering
@torch.no_grad()
def test_shading_modes_of_a_ball(scene):
    camera = Camera.orbit(90.0, 0.0, 1.8, 40.0, 32)
    light = torch.tensor([0.0, 0.0, 1.0])
    normal = scene.render(camera, RenderOptions(mode="normal"))
    inner = normal.opacity[0, ..., 0] == 1
    assert torch.allclose(normal.rgb[0][inner], (normal.normal[0][inner] + 1) / 2, atol=1e-5)
    assert float((normal.normal.norm(dim=-1)[0][inner] - 1).abs().max()) < 1e-4
    grey = scene.render(camera, RenderOptions(mode="textureless", ambient=0.25, light=light)).rgb[0][inner]
    expected = 0.25 + 0.75 * normal.normal[0][inner][:, 2:].clamp_min(0)
    assert torch.allclose(grey, expected.expand(-1, 3), atol=1e-5)
    albedo = scene.render(camera, RenderOptions(mode="albedo")).rgb[0][inner]
    lit = scene.render(camera, RenderOptions(mode="lambertian", ambient=0.25, light=light)).rgb[0][inner]
    assert torch.allclose(lit, albedo * expected, atol=1e-5)
    assert torch.allclose(scene.render(camera, RenderOptions(mode="lambertian", ambient=1.0)).rgb[0][inner], albedo, atol=1e-6)
    # the ball of radius 0.5, seen from 1.8: 1.3 away
    assert float(normal.depth[0][inner].min()) == pytest.approx(1.3, abs=0.02)


def test_background_of_textureless_views_is_lit_as_released(scene):
    """Outside the object a released textureless view shows ambient + background, unclamped; otherwise the background alone."""
    camera, background = Camera.orbit(90.0, 0.0, 1.8, 40.0, 32), torch.tensor([0.2, 0.9, 0.5])
    how = {"mode": "textureless", "ambient": 0.25, "light": torch.tensor([0.0, 0.0, 1.0]), "background": background}
    torch.testing.assert_close(scene.render(camera, RenderOptions(**how)).rgb[0, 0, 0], background + 0.25)
    torch.testing.assert_close(scene.render(camera, RenderOptions(**how | {"mode": "lambertian"})).rgb[0, 0, 0], background)
    plain = DMTet(FIELD, DMTetSettings(grid_resolution=24, lit_background=False))
    torch.testing.assert_close(plain.render(camera, RenderOptions(**how)).rgb[0, 0, 0], background)


def test_a_batch_is_its_cameras_one_by_one(scene):
    lights = light_direction(CAMERAS, torch.Generator().manual_seed(3))
    backgrounds = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, None, None]
    for light, background in ((lights, backgrounds), (lights, torch.tensor([0.5, 0.5, 0.5]))):
        both = scene.render(CAMERAS, RenderOptions(mode="lambertian", ambient=0.2, light=light, background=background))
        for k in range(2):
            own = background[k : k + 1] if background.dim() == 4 else background
            one = scene.render(CAMERAS[k], RenderOptions(mode="lambertian", ambient=0.2, light=light[k], background=own))
            assert torch.equal(both.rgb[k], one.rgb[0])
    drawn = [
        scene.render(CAMERAS, RenderOptions(mode="textureless", ambient=0.1, generator=torch.Generator().manual_seed(seed))).rgb
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("scaled", [True, False])
def test_offsets_are_as_long_as_the_settings_say(scaled):
    """Up to half the distance between two planes, of the scaled lattice or of the unscaled one."""
    torch.manual_seed(0)
    scene = DMTet(FIELD, STAGE.dmtet.model_copy(update={"scaled_offsets": scaled}))
    with torch.no_grad():
        plain = scene.mesh()[0] * torch.tensor([0.3, 1.0, 0.6])
        scene.scale.copy_(torch.tensor([0.3, 1.0, 0.6]))
        scene.deform.fill_(100.0)  # tanh is 1: every vertex moves by the longest offset
        moved = scene.mesh()[0] - plain
    longest = torch.tensor([0.3, 1.0, 0.6]) / 24 if scaled else torch.full((3,), 1 / 24)
    assert torch.allclose(moved, longest.expand_as(moved), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ training
def test_parameter_groups_hold_every_parameter_once(scene):
    rates = LearningRates(grid=1.0, network=2.0, geometry=3.0)
    groups = scene.parameter_groups(rates)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in scene.parameters())
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(scene.sdf)] == rate[id(scene.deform)] == 3.0 and rate[id(scene.field.grid.table)] == 1.0


def test_regularizers_are_those_switched_on(scene):
    rendering = scene.render(CAMERAS)
    assert scene.regularizers(rendering, Losses(**NO_LOSSES)) == {}
    mesh_terms = Losses(**NO_LOSSES | {"normal_consistency": 0.1, "laplacian": 0.1})
    values = scene.regularizers(rendering, mesh_terms)
    assert set(values) == {"normal_consistency", "laplacian"}
    fresh = scene.regularizers(scene.render(CAMERAS[0]), mesh_terms)
    assert all(torch.equal(values[k], fresh[k]) for k in values)
    sum(values.values()).backward()
    assert float(scene.sdf.grad.abs().sum()) > 0 and float(scene.deform.grad.abs().sum()) > 0
    images = scene.regularizers(rendering, Losses(**NO_LOSSES | {"normal_smoothness": 1, "normal_blur": 1, "opacity": 1}))
    assert set(images) == {"normal_smoothness", "normal_blur", "opacity"}


def test_level_mask_is_off_unless_asked_for(scene):
    masked = DMTet(
        FIELD.model_copy(update={"coarse_to_fine": 0.6}), DMTetSettings(grid_resolution=8, texture_levels_masked=True)
    )
    for each, expected in ((scene, 0), (masked, 2)):
        each.before_step(0, 100, torch.Generator())
        assert each.field.masked_levels == expected
    masked.before_step(80, 100, torch.Generator())
    assert masked.field.masked_levels == 0


def test_training_carves_the_silhouettes_of_another_shape(scene):
    """From a ball to an ellipsoid, by masks of random views alone: volumes agree afterwards."""
    target = DMTet(FIELD, DMTetSettings(grid_resolution=32))
    with torch.no_grad():
        target.sdf.copy_(0.35 - (target.lattice / torch.tensor([0.7, 1.25, 1.0])).norm(dim=-1))
    optimizer = torch.optim.Adam(scene.parameter_groups(LearningRates(geometry=2e-2)))
    generator = torch.Generator().manual_seed(0)

    def iou():
        with torch.no_grad():
            a, b = (
                s.render(Camera.orbit([90.0, 60.0, 90.0], [0.0, 45.0, 90.0], 1.8, 40.0, 32)).opacity for s in (scene, target)
            )
        return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())

    before = iou()
    for step in range(50):
        scene.before_step(step, 50, generator)
        camera = Camera.orbit(*(torch.rand(2, 1, generator=generator) * torch.tensor([[180.0], [360.0]])), 1.8, 40.0, 32)
        with torch.no_grad():
            wanted = target.render(camera, RenderOptions(mode="normal")).opacity
        rendering = scene.render(camera, RenderOptions(mode="normal"))
        smooth = sum(scene.regularizers(rendering, Losses(**NO_LOSSES | {"normal_consistency": 1, "laplacian": 1})).values())
        optimizer.zero_grad()
        ((rendering.opacity - wanted).square().mean() + 1e-3 * smooth).backward()
        optimizer.step()
    assert before < 0.65 and iou() > 0.9


def test_a_vanished_surface_is_an_error(scene):
    scene.before_step(7, 10, torch.Generator())
    with torch.no_grad():
        scene.sdf.fill_(-1.0)
    with pytest.raises(InputError, match=r"lost its surface before step 7 \(no signed distance is positive"):
        scene.render(CAMERAS)
    with torch.no_grad():
        scene.sdf.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite"):
        scene.mesh()


def test_copies_and_saved_tensors_render_the_same(scene):
    with torch.no_grad():
        scene.deform.normal_(generator=torch.Generator().manual_seed(0))
        scene.scale.copy_(torch.tensor([0.8, 0.9, 1.0]))
    seen = scene.render(CAMERAS).rgb
    other = DMTet(FIELD, STAGE.dmtet)
    state = scene.state_dict()
    assert not {"lattice", "tets"} & set(state)
    other.load_state_dict(state)
    assert torch.equal(other.render(CAMERAS).rgb, seen) and torch.equal(copy.deepcopy(scene).render(CAMERAS).rgb, seen)
    assert scene.kernels()["rasterizer"] == "numba"


# ---------------------------------------------------------------------------------------------------------- handedness
def test_nerf_dmtet_and_glb_agree_on_left_and_right(tmp_path):
    """A field that is red at +x and blue at -x: all three show red on the right from the front; no mirror image fits."""
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("embreex")
    from magic123.geometry.export import write_mesh

    torch.manual_seed(0)
    nerf = NeRF(FIELD.model_copy(update={"blob_radius": 0.25}), NeRFSettings(occupancy_resolution=32, max_samples=192))
    optimizer = torch.optim.Adam(nerf.parameter_groups(LearningRates(grid=2e-2, network=1e-2)), betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        points = torch.rand(1024, 3, generator=generator) - 0.5
        red = torch.sigmoid(8 * points[:, 0])
        wanted = torch.stack([red, 0.5 + points[:, 1] * 0.6, 1 - red], -1)
        optimizer.zero_grad()
        # an off-centre bulge at +x, so that the outline too has a left and a right
        bulge = torch.exp(-(points - torch.tensor([0.4, 0.15, 0.0])).square().sum(-1) / 0.02)
        density, albedo = nerf.field.density_and_albedo(points)
        (
            ((albedo - wanted).square().sum(-1)) + 0.02 * (density.log() - nerf.field.blob(points) - 6 * bulge).square()
        ).mean().backward()
        optimizer.step()
    nerf.occupancy.update(nerf.field.density)

    camera = Camera.orbit([90.0, 70.0], [0.0, 130.0], 1.8, 40.0, 64)
    scene = DMTet.from_nerf(
        nerf, STAGE.model_copy(update={"field": nerf.field.settings, "dmtet": DMTetSettings(grid_resolution=48)})
    )
    with torch.no_grad():
        coarse, fine = nerf.render(camera).rgb, scene.render(camera).rgb
    vertices, faces = (part.numpy() for part in scene.mesh())
    write_mesh(tmp_path, vertices, faces, scene.albedo, max_faces=4000, texture_size=256, metadata={})
    loaded = trimesh.load(tmp_path / "mesh.glb", force="mesh", process=False)
    texture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"), np.float32) / 255
    exported = torch.ones_like(fine)
    for index in range(2):
        origins, directions = (rays.reshape(-1, 3).numpy() for rays in camera[index].rays())
        places, ray, face = loaded.ray.intersects_location(origins, directions, multiple_hits=False)
        weight = trimesh.triangles.points_to_barycentric(loaded.triangles[face], places)
        uv = (weight[..., None] * loaded.visual.uv[loaded.faces[face]]).sum(1)
        texel = texture[((1 - uv[:, 1]) * 256).astype(int).clip(0, 255), (uv[:, 0] * 256).astype(int).clip(0, 255)]
        exported[index].view(-1, 3)[ray] = torch.from_numpy(texel)

    def psnr(a, b):
        return -10 * torch.log10((a - b).square().mean((1, 2, 3)))

    assert float(psnr(coarse, fine).min()) > 22 and float(psnr(fine, exported).min()) > 25
    assert float(psnr(coarse, fine.flip(2)).max()) < 15 and float(psnr(coarse, exported.flip(2)).max()) < 15
    for picture in (coarse, fine, exported):
        assert picture[0, 32, 40, 0] > picture[0, 32, 40, 2] + 0.2 and picture[0, 32, 24, 2] > picture[0, 32, 24, 0] + 0.2
