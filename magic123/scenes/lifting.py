"""Lift a point cloud from renderings of another scene: the reference view first, then other views in turn.

Points seen from the reference view take their colours from the input picture, the others from the scene. Later views only add
points that the cloud lacks, and none that the reference view would see in front of its points or beside the object.
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

SEEN = 0.5  # pixels with at least this opacity show something
COVERED = 0.97  # points with at least this coverage leave no gap


@runtime_checkable
class Renderable(Protocol):
    """Anything that points can be lifted from: scenes, and other objects with this method."""

    def render(self, camera: Camera, options: RenderOptions) -> Rendering:
        """Render one camera as `Scene.render` does."""
        ...


@dataclass(frozen=True)
class Cloud:
    """N points in the world."""

    positions: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]  # unit
    colours: Float[Tensor, "N 3"]  # in [0, 1]
    sizes: Float[Tensor, " N"]  # pixel spacing at their distance, in the picture that they come from
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
        settings: settings of the points.
        size: side of the renderings in pixels.
        device: device of the cloud.

    Returns:
        The cloud, and its numbers of points as JSON data: from the reference view, from each other view, and in total.

    Raises:
        InputError: the example has no picture, or the scene shows nothing of the object at the reference view.
    """
    c = example.camera
    reference = Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, size, device=device)
    small = example.resized(size)
    if small.rgb is None or small.alpha is None or small.mask is None:
        raise InputError(f"points are lifted with the picture of an example, but {example.name} has only a caption")
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
    straight = ((rgb - (1 - alpha)) / alpha.clamp_min(SEEN)).clamp(0, 1)  # remove the white background
    cloud = unproject(reference, depth, mask, normal, straight, True)
    count = len(cloud.positions)
    views: list[list[float]] = []
    far = torch.where(mask, depth, torch.full_like(depth, torch.inf))  # inf: beside the object, no point counts as behind it
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
    """A scene as one view sees it, H x W pixels."""

    depth: Float[Tensor, "H W"]  # where solid
    normal: Float[Tensor, "H W 3"]  # unit, where solid
    colour: Float[Tensor, "H W 3"]  # without the background
    solid: Bool[Tensor, "H W"]


def look(scene: Renderable, view: Camera) -> Look:
    """Render a scene at one view."""
    # lambertian under full ambient light is albedo; unlike the mode "albedo" it gives normals with every scene
    seen = scene.render(view, RenderOptions(mode="lambertian", ambient=1.0))
    opacity = seen.opacity[0].clamp_min(1e-6)
    colour = ((seen.rgb[0] - (1 - opacity)) / opacity).clamp(0, 1)
    assert seen.normal is not None  # "lambertian" renders normals
    normal = F.normalize(seen.normal[0], dim=-1)
    return Look((seen.depth[0] / opacity)[..., 0], normal, colour, seen.opacity[0, ..., 0] > SEEN)


def unseen(seen: Look, cloud: Cloud, view: Camera, settings: PointsSettings) -> Cloud:
    """Return the points of a view that the cloud lacks: solid, off the outline, and not near a point of the cloud."""
    depth = filled(seen.depth, seen.solid)  # the median lies on a surface even where the mean along a ray lies between two
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
    """Return points at the centres of the chosen pixels.

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
    """Return values [H, W, ...] with invalid pixels replaced by the nearest valid one; unchanged if no pixel is valid."""
    from scipy.ndimage import distance_transform_edt

    if not valid.any():
        return values
    row, column = distance_transform_edt(~valid.cpu().numpy(), return_distances=False, return_indices=True)
    return values[torch.from_numpy(row).long().to(values.device), torch.from_numpy(column).long().to(values.device)]


def filled(depth: Float[Tensor, "H W"], valid: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Return the 3 x 3 median of depth [H, W], with invalid pixels replaced by the nearest valid one."""
    from scipy.ndimage import median_filter

    whole = nearest(depth, valid).cpu().numpy()
    return torch.from_numpy(np.ascontiguousarray(median_filter(whole, size=3, mode="nearest"))).to(depth.device)
