"""Cameras: right-handed, y up, azimuth from +z towards +x; rays, clip matrices and pictures must agree."""

import math
from dataclasses import replace

import pytest
import torch

from magic123.geometry.camera import (
    Camera,
    angle_between,
    from_assumed_frame,
    jittered,
    sample_novel,
    to_assumed_frame,
    wrap_degrees,
)
from magic123.render.volume import render_volume
from magic123.settings.cameras import NovelCameras, PoseJitter, ReferenceCamera


def some_cameras(size=(24, 32)) -> Camera:
    return Camera.orbit([0, 20, 90, 135, 180], [0, 30, 90, -120, 250], [1.8, 2, 2.5, 1.8, 3], [40, 20, 60, 40, 70], size)


def picture(camera: Camera, balls: list[tuple[tuple, tuple]]) -> torch.Tensor:
    """The first camera's picture [H, W, 3] of opaque balls of radius 0.2: (centre, colour)."""
    centres, colours = (torch.tensor(v, dtype=torch.float32) for v in zip(*balls, strict=True))

    def density_and_albedo(x):
        distance = torch.cdist(x, centres)
        nearest = distance.argmin(-1)
        return (distance.amin(-1) < 0.2) * 1e3, colours[nearest]

    origins, directions = (v[0].reshape(-1, 3) for v in camera.rays())
    seen = render_volume(density_and_albedo, origins, directions, occupied=None, max_samples=128, background=torch.zeros(3))
    return seen.rgb.reshape(camera.height, camera.width, 3)


def centroid(image: torch.Tensor, channel: int) -> tuple[float, float]:
    """(row, column) of a colour channel, in [0, 1]."""
    weight = image[..., channel] / image[..., channel].sum()
    rows = (torch.arange(image.shape[0]) + 0.5) / image.shape[0]
    columns = (torch.arange(image.shape[1]) + 0.5) / image.shape[1]
    return float((weight.sum(1) * rows).sum()), float((weight.sum(0) * columns).sum())


def test_a_scene_with_another_reference_camera_is_shown_and_sized_by_the_own_one():
    """A point at the picture's edge stays there, and a scene turned and scaled to the own camera looks the same size."""
    own, assumed = ReferenceCamera(azimuth=10.0), ReferenceCamera(polar=75.0, azimuth=40.0, radius=2.0, fov=55.0)
    seen = to_assumed_frame(Camera.orbit([90.0, 60.0], [10.0, 100.0], [1.8, 3.6], [40.0, 20.0], 8), own, assumed)
    assert seen.polar.tolist() == [75.0, 45.0] and seen.azimuth.tolist() == [40.0, 130.0]
    assert seen.radius.tolist() == pytest.approx([2.0, 4.0]) and float(seen.fov[0]) == pytest.approx(55.0, rel=1e-5)
    turn = from_assumed_frame(own, assumed)
    height = [c.radius * math.tan(math.radians(c.fov) / 2) for c in (own, assumed)]
    edge = torch.tensor([0.0, height[1], 0.0])
    assert (turn @ edge).tolist() == pytest.approx([0.0, height[0], 0.0], abs=1e-6)
    facing = Camera.orbit(90.0, 40.0, 1.0, 55.0, 8).position[0]
    azimuth = torch.rad2deg(torch.atan2((turn @ facing)[0], (turn @ facing)[2]))
    assert float(azimuth) == pytest.approx(10.0, abs=1e-4)


def test_poses_are_rotations_without_mirroring():
    rotation = some_cameras().camera_to_world[:, :3, :3]
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(5), atol=1e-5)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)


@pytest.mark.parametrize(
    "polar, azimuth, position",
    [(90, 0, (0, 0, 2)), (90, 90, (2, 0, 0)), (90, 180, (0, 0, -2)), (90, -90, (-2, 0, 0)), (0, 0, (0, 2, 0))],
)
def test_positions(polar, azimuth, position):
    camera = Camera.orbit(polar, azimuth, 2, 40, 8)
    assert torch.allclose(camera.position[0], torch.tensor(position, dtype=torch.float32), atol=1e-6)


def test_cameras_look_at_the_origin_with_up_upwards():
    camera = some_cameras((25, 33))  # odd: a pixel lies on the axis
    origins, directions = camera.rays()
    centre = directions[:, 12, 16]
    assert torch.allclose(centre, -camera.position / camera.radius[:, None], atol=1e-5)
    assert torch.allclose(origins[:, 0, 0], camera.position)
    assert (camera.camera_to_world[:, 1, 1] > -1e-6).all()


def test_rays_agree_with_clip_matrices():
    camera = some_cameras()
    origins, directions = camera.rays()
    points = origins + 1.7 * directions
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    clip = torch.einsum("bij,bhwj->bhwi", camera.clip_matrices(), homogeneous)
    ndc = clip[..., :3] / clip[..., 3:]
    column, row = (ndc[..., 0] + 1) / 2 * camera.width, (ndc[..., 1] + 1) / 2 * camera.height
    assert torch.allclose(column, (torch.arange(32) + 0.5).expand_as(column), atol=2e-3)
    assert torch.allclose(row, (torch.arange(24) + 0.5)[:, None].expand_as(row), atol=2e-3)
    # w is the distance along the optical axis
    forward = -camera.camera_to_world[:, None, None, :3, 2]
    assert torch.allclose(clip[..., 3], 1.7 * (directions * forward).sum(-1), atol=1e-4)


def test_near_and_far_are_the_ends_of_the_depth_range():
    camera = Camera.orbit(90, 0, 2, 40, 8)
    ends = torch.tensor([[0, 0, 2 - 0.1, 1], [0, 0, 2 - 1000.0, 1]])
    clip = ends @ camera.clip_matrices()[0].T
    assert torch.allclose(clip[:, 2] / clip[:, 3], torch.tensor([-1.0, 1.0]), atol=1e-3)


def test_field_of_view_is_vertical():
    camera = Camera.orbit(90, 0, 2, 40, (100, 50))
    _, directions = camera.rays()
    d = directions[0, :, 25]
    top = math.degrees(math.atan2(float(d[0, 1]), -float(d[0, 2])))
    assert top == pytest.approx(20, abs=0.3)  # half a pixel inside the edge
    assert top < 20


def test_reference_picture_is_not_mirrored():
    """A red ball at +x is on the right, a green one at +y at the top, and blue, at +z, hides nothing of them."""
    image = picture(
        Camera.orbit(90, 0, 3, 40, 32), [((0.6, 0, 0), (1, 0, 0)), ((0, 0.6, 0), (0, 1, 0)), ((0, 0, 0.6), (0, 0, 1))]
    )
    assert centroid(image, 0)[1] > 0.7 and centroid(image, 0)[0] == pytest.approx(0.5, abs=0.01)
    assert centroid(image, 1)[0] < 0.3 and centroid(image, 1)[1] == pytest.approx(0.5, abs=0.01)
    assert centroid(image, 2) == pytest.approx((0.5, 0.5), abs=0.01)


def test_picked_pixels_have_the_rays_of_the_picture():
    camera, picked = Camera.orbit([80, 60], [10, 200], 1.8, 40, (4, 5)), torch.tensor([7, 0, 19, 7])
    some = replace(camera, pixels=picked)
    for whole, few in zip(camera.rays(), some.to("cpu")[:2].rays(), strict=True):
        torch.testing.assert_close(few, whole.flatten(1, 2)[:, None, picked])


def test_azimuth_ninety_looks_from_plus_x():
    """From +x the red ball at +x is in front, and what faced the reference camera (+z) is on the left."""
    image = picture(
        Camera.orbit(90, 90, 3, 40, 32), [((0.6, 0, 0), (1, 0, 0)), ((-0.6, 0, 0), (0, 1, 0)), ((0, 0, 0.6), (0, 0, 1))]
    )
    assert centroid(image, 0) == pytest.approx((0.5, 0.5), abs=0.01)
    assert image[..., 1].max() < 1e-3  # hidden behind the red one
    assert centroid(image, 2)[1] < 0.3


def test_small_polar_angles_look_from_above():
    image = picture(
        Camera.orbit(5, 0, 3, 40, 32), [((0, 0.6, 0), (1, 0, 0)), ((0, -0.6, 0), (0, 1, 0)), ((0, 0, 0.6), (0, 0, 1))]
    )
    assert image[..., 0].sum() > 10 * image[..., 1].sum()
    assert centroid(image, 2)[0] > 0.65  # the front (+z) is at the bottom of the picture


def test_novel_cameras_keep_their_ranges():
    settings = NovelCameras(radius=(1.0, 1.5), polar=(45, 105), azimuth=(-30, 60), fov=(40, 70), upper_hemisphere=0.0)
    camera = sample_novel(settings, 2000, 16, torch.Generator().manual_seed(0))
    for value, (low, high) in zip(
        (camera.radius, camera.polar, camera.azimuth, camera.fov), ((1, 1.5), (45, 105), (-30, 60), (40, 70)), strict=True
    ):
        assert low <= value.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < value.max() <= high


def test_upper_hemisphere_cameras_are_above_and_all_around():
    camera = sample_novel(NovelCameras(upper_hemisphere=1.0), 4000, 16, torch.Generator().manual_seed(0))
    assert (camera.position[:, 1] >= -1e-5).all()
    assert camera.polar.min() < 15
    counts = torch.histc(camera.azimuth, 4, -180, 180)
    assert (counts > 800).all()


def test_novel_cameras_follow_the_generator():
    a, b, c = (sample_novel(NovelCameras(), 8, 16, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(a.azimuth, b.azimuth) and torch.equal(a.polar, b.polar)
    assert not torch.equal(a.azimuth, c.azimuth)


def test_progressive_ranges_are_those_of_the_published_code():
    """Its shares are min(1, 0.2 + step / (0.5 * steps)): of 5000 steps, 0.2, 0.6 and 1 at steps 0, 1000 and 2000."""
    cameras = NovelCameras(radius=(1.0, 2.0), polar=(45, 135), fov=(20, 40), upper_hemisphere=0, progressive={})
    reference = ReferenceCamera(polar=80, azimuth=10)
    ranges = [cameras.at(step / 5000, reference) for step in (0, 1000, 2000, 4999)]
    for found, (polar, azimuth, radius, fov) in zip(
        ranges,
        [
            ((73, 91), (-28, 44), (1.64, 1.84), (36, 40)),
            ((59, 113), (-104, 112), (1.32, 1.92), (28, 40)),
            *[((45, 135), (-180, 180), (1, 2), (20, 40))] * 2,
        ],
        strict=True,
    ):
        assert found.polar == pytest.approx(polar) and found.azimuth == pytest.approx(azimuth)
        assert found.radius == pytest.approx(radius) and found.fov == pytest.approx(fov)
    steady = NovelCameras()
    assert steady.at(0.0, reference) is steady


@pytest.mark.parametrize("polar", [0.0, 60.0, 180.0])
def test_jitter_moves_turns_and_rolls_cameras_by_what_is_asked(polar):
    camera, identity = Camera.orbit([polar] * 4000, 30.0, 1.8, 40.0, 8), torch.eye(3).expand(4000, 3, 3)

    def jitter(**amounts):
        none = {"position": 0, "target": 0, "up": 0}
        changed = jittered(camera, PoseJitter(**none | amounts), torch.Generator().manual_seed(0))
        rotation = changed.camera_to_world[:, :3, :3]
        torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(4000), atol=1e-5, rtol=0)
        assert torch.equal(changed.polar, camera.polar) and torch.equal(changed.on_orbit, camera.position)
        return changed

    torch.testing.assert_close(jitter().camera_to_world, camera.camera_to_world, atol=1e-5, rtol=0)
    moved = jitter(position=0.2)
    shift = moved.position - camera.position
    assert 0.099 < shift.abs().max() <= 0.1 + 1e-6 and shift.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.03)
    backward = moved.camera_to_world[:, :3, 2]
    torch.testing.assert_close(moved.position / moved.position.norm(dim=-1, keepdim=True), backward, atol=1e-5, rtol=0)
    turned = jitter(target=0.01)
    assert torch.equal(turned.position, camera.position)
    across = torch.linalg.cross(turned.camera_to_world[:, :3, 2], camera.camera_to_world[:, :3, 2])
    assert (across**2).sum(-1).mean() == pytest.approx(2 * (0.01 / 1.8) ** 2, rel=0.05)
    rolled = jitter(up=0.02)
    torch.testing.assert_close(rolled.camera_to_world[:, :, 2:], camera.camera_to_world[:, :, 2:], atol=1e-5, rtol=0)
    roll = (rolled.camera_to_world[:, :3, 1] * camera.camera_to_world[:, :3, 0]).sum(-1)
    assert roll.std() == pytest.approx(0.02, rel=0.05)


def test_jittered_cameras_stay_so_in_sub_batches_sizes_and_on_devices():
    camera = sample_novel(NovelCameras(jitter={}), 3, 8, torch.Generator().manual_seed(0))
    plain = sample_novel(NovelCameras(), 3, 8, torch.Generator().manual_seed(0))
    assert torch.equal(camera.polar, plain.polar) and not torch.allclose(camera.position, plain.position, atol=1e-3)
    for other in (camera.to("cpu"), camera.resized(16), camera[0:3]):
        assert torch.equal(other.camera_to_world, camera.camera_to_world)
    assert angle_between(camera, plain).max() < 1e-3  # degrees: the priors are told the view without the change
    assert camera.to("meta").camera_to_world.device.type == "meta"


def test_angles():
    reference = Camera.orbit(90, 0, 1.8, 40, 8)
    others = Camera.orbit([90, 90, 0, 90], [0, 90, 0, 180], 1.0, 40, 8)
    assert torch.allclose(angle_between(others, reference), torch.tensor([0.0, 90, 90, 180]), atol=1e-3)
    assert wrap_degrees(torch.tensor([190.0, -190.0, 180.0, 0.0])).tolist() == [-170, 170, -180, 0]


def test_sub_batches_and_sizes():
    camera = some_cameras()
    assert len(camera[2]) == 1 and camera[2].azimuth.item() == 90
    assert len(camera[-1]) == 1 and camera[-1].azimuth.item() == 250
    assert camera.resized(7).rays()[0].shape == (5, 7, 7, 3)
