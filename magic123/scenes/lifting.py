"""Lifts a point cloud from renderings of another scene: the reference view first, then other views in turn.

Points that the reference view sees are coloured by the input picture, the others by the scene. A later view adds only points
that the cloud lacks, and none in front of the reference view's points or beside the object there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from magic123.example.example import Example
from magic123.geometry.camera import Camera, angle_between
from magic123.records.errors import InputError
from magic123.render.points import project, splat
from magic123.render.rendering import Rendering, RenderOptions
from magic123.settings.scenes import PointsSettings

SEEN = 0.5  # opacity from which a pixel shows something
COVERED = 0.97  # coverage from which points leave no gap


@runtime_checkable
class Renderable(Protocol):
    """What points can be lifted from: every scene, and whatever else renders."""

    def render(self, camera: Camera, options: RenderOptions) -> Rendering:
        """Render one camera as `Scene.render` does."""
        ...


@dataclass(frozen=True)
class Cloud:
    """N points in the world."""

    positions: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]  # unit
    colours: Float[Tensor, "N 3"]  # in [0, 1]
    sizes: Float[Tensor, " N"]  # spacing of the picture that they come from, at their distance
    known: Bool[Tensor, " N"]  # coloured by the input picture

    def plus(self, other: Cloud) -> Cloud:
        """Return the points of both clouds."""
        return Cloud(*(torch.cat([getattr(cloud, name) for cloud in (self, other)]) for name in vars(self)))


@torch.no_grad()
def lift(
    scene: Renderable, example: Example, settings: PointsSettings, size: int, device: torch.device | str
) -> tuple[Cloud, dict]:
    """Lift a point cloud from a scene.

    Args:
        scene: a trained scene.
        example: the example, with a picture.
        settings: of the points.
        size: side of the renderings in pixels.
        device: where the cloud is made.

    Returns:
        The cloud, and figures about it as JSON data: points of the reference view, of each other view, and in all.

    Raises:
        InputError: the example has no picture, or the scene shows nothing of the object at the reference view.
    """
    c = example.camera
    reference = Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, size, device=device)
    small = example.resized(size)
    if small.rgb is None or small.alpha is None or small.mask is None:
        raise InputError(f"points are lifted with the picture of an example, and {example.name} is a caption alone")
    mask, rgb = small.mask[..., 0].to(device), small.rgb.to(device)
    shown = look(scene, reference)
    if not (shown.solid & mask).any():
        raise InputError(
            f"the scene that the points come from shows nothing of {example.name} at the reference view: look at that stage's "
            "views, train it longer or raise its rgb and mask weights"
        )
    depth = filled(shown.depth, shown.solid & mask)
    normal = nearest(shown.normal, shown.solid & mask)
    alpha = small.alpha.to(device)
    straight = ((rgb - (1 - alpha)) / alpha.clamp_min(SEEN)).clamp(0, 1)  # on white -> as it is
    cloud = unproject(reference, depth, mask, normal, straight, True)
    count = len(cloud.positions)
    views: list[list[float]] = []
    far = torch.where(mask, depth, torch.full_like(depth, torch.inf))  # beside the object nothing is behind it
    for view in other_views(reference, settings):
        new = unseen(look(scene, view), cloud, view, settings)
        x, y, distance = project(new.positions, reference)
        column, row = x.floor().long().clamp(0, size - 1), y.floor().long().clamp(0, size - 1)
        behind = distance > far[row, column] + settings.tolerance
        new = Cloud(*(value[behind] for value in vars(new).values()))
        views.append([float(view.polar), float(view.azimuth), len(new.positions)])
        cloud = cloud.plus(new)
    return cloud, {"known": count, "views": views, "size": size, "points": len(cloud.positions)}


def other_views(reference: Camera, settings: PointsSettings) -> list[Camera]:
    """Return the cameras of the circles, at the distance and field of view of `reference`, in order of their angle to it."""
    turns = [float(reference.azimuth) + 360 * k / settings.azimuths for k in range(settings.azimuths)]
    places = [(polar, turn) for polar in settings.polars for turn in turns]
    polar, azimuth = zip(*places, strict=True)
    views = Camera.orbit(
        polar, azimuth, float(reference.radius), float(reference.fov), reference.height, device=reference.polar.device
    )
    order = angle_between(views, reference).argsort(stable=True).tolist()
    return [views[index] for index in order]


@dataclass(frozen=True)
class Look:
    """A scene at one view, H x W pixels."""

    depth: Float[Tensor, "H W"]  # where solid
    normal: Float[Tensor, "H W 3"]  # unit, where solid
    colour: Float[Tensor, "H W 3"]  # without the background
    solid: Bool[Tensor, "H W"]


def look(scene: Renderable, view: Camera) -> Look:
    """Render a scene at one view."""
    # lambertian under full ambient light is albedo, and unlike the mode "albedo" has normals with every scene
    seen = scene.render(view, RenderOptions(mode="lambertian", ambient=1.0))
    opacity = seen.opacity[0].clamp_min(1e-6)
    colour = ((seen.rgb[0] - (1 - opacity)) / opacity).clamp(0, 1)
    assert seen.normal is not None  # "lambertian" renders normals
    normal = F.normalize(seen.normal[0], dim=-1)
    return Look((seen.depth[0] / opacity)[..., 0], normal, colour, seen.opacity[0, ..., 0] > SEEN)


def unseen(seen: Look, cloud: Cloud, view: Camera, settings: PointsSettings) -> Cloud:
    """Return the points of a view that the cloud lacks: solid, off the outline, and not near one of the cloud's."""
    depth = filled(seen.depth, seen.solid)  # the median is on a surface also where a ray's mean is between two
    inner = -F.max_pool2d(-seen.solid.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
    splats = splat(cloud.positions, settings.radius * cloud.sizes, view, settings.per_pixel)
    carried = splats.picture(torch.stack([splats.distance, torch.ones_like(splats.distance)], -1))
    covered = carried[..., 1] > COVERED
    there = carried[..., 0] / carried[..., 1].clamp_min(1e-6)
    new = ~covered | (there > depth + settings.tolerance)
    return unproject(view, depth, seen.solid & inner & new, seen.normal, seen.colour, False)


def unproject(
    view: Camera,
    depth: Float[Tensor, "H W"],
    chosen: Bool[Tensor, "H W"],
    normal: Float[Tensor, "H W 3"],
    colour: Float[Tensor, "H W 3"],
    from_picture: bool,
) -> Cloud:
    """Return points at the centres of chosen pixels.

    Args:
        view: one camera.
        depth: [H, W] along the optical axis.
        chosen: [H, W] bool.
        normal: [H, W, 3], unit.
        colour: [H, W, 3] in [0, 1].
        from_picture: whether the colours are those of the input picture.
    """
    origins, directions = view.rays()
    forward = -view.camera_to_world[0, :3, 2]
    along = depth[chosen][:, None]
    direction = directions[0][chosen]
    positions = origins[0][chosen] + direction * along / (direction @ forward)[:, None]
    sizes = along[:, 0] / view.focal[0]
    flags = torch.full_like(sizes, from_picture, dtype=torch.bool)
    return Cloud(positions, normal[chosen], colour[chosen], sizes, flags)


def nearest(values: Shaped[Tensor, "H W *C"], valid: Bool[Tensor, "H W"]) -> Shaped[Tensor, "H W *C"]:
    """Return values [H, W, ...] in which invalid pixels have the value of the nearest valid one; unchanged if none is."""
    from scipy.ndimage import distance_transform_edt

    if not valid.any():
        return values
    row, column = distance_transform_edt(~valid.cpu().numpy(), return_distances=False, return_indices=True)
    return values[torch.from_numpy(row).long().to(values.device), torch.from_numpy(column).long().to(values.device)]


def filled(depth: Float[Tensor, "H W"], valid: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Return depth [H, W] as the median of 3 x 3 neighbours, where invalid pixels count as the nearest valid one."""
    from scipy.ndimage import median_filter

    whole = nearest(depth, valid).cpu().numpy()
    return torch.from_numpy(np.ascontiguousarray(median_filter(whole, size=3, mode="nearest"))).to(depth.device)
