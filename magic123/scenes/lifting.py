"""A point cloud from what another scene shows: the known view first, then what it does not show, view by view.

The input picture colours what the known view sees; everything else has the other scene's own colours. A later view adds the
points that none before it has, and none that would stand in front of the known view's or beside the object there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from magic123.example.example import Example
from magic123.geometry.camera import Camera, angle_between
from magic123.records.errors import InputError
from magic123.render.points import project, splat
from magic123.settings.scenes import PointsSettings

SEEN = 0.5  # opacity from which a pixel shows something
COVERED = 0.97  # coverage from which points leave no gap


@dataclass(frozen=True)
class Cloud:
    """N points in the world."""

    positions: Tensor  # [N, 3]
    normals: Tensor  # [N, 3] unit
    colours: Tensor  # [N, 3] in [0, 1]
    sizes: Tensor  # [N] spacing of the picture that they come from, at their distance
    known: Tensor  # [N] bool: coloured by the input picture

    def plus(self, other: Cloud) -> Cloud:
        return Cloud(*(torch.cat([getattr(one, name) for one in (self, other)]) for name in vars(self)))


@torch.no_grad()
def lift(scene, example: Example, settings: PointsSettings, size: int, device) -> tuple[Cloud, dict]:
    """The cloud of what `scene` (anything with `render`) shows at `size` pixels a side, and figures about it, plain data.

    Raises InputError where the scene shows nothing of the object at the known view.
    """
    c = example.camera
    known = Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, size, device=device)
    small = example.resized(size)
    mask, rgb = small.mask[..., 0].to(device), small.rgb.to(device)
    shown = look(scene, known)
    if not (shown.solid & mask).any():
        raise InputError(
            f"the scene that the points come from shows nothing of {example.name} at the known view: look at that stage's "
            "views, train it longer or raise its rgb and mask weights"
        )
    depth = filled(shown.depth, shown.solid & mask)
    normal = nearest(shown.normal, shown.solid & mask)
    alpha = small.alpha.to(device)
    straight = ((rgb - (1 - alpha)) / alpha.clamp_min(SEEN)).clamp(0, 1)  # on white -> as it is
    cloud = unproject(known, depth, mask, normal, straight, True)
    figures = {"known": len(cloud.positions), "views": [], "size": size}
    far = torch.where(mask, depth, torch.full_like(depth, torch.inf))  # beside the object nothing is behind it
    for view in other_views(known, settings):
        new = unseen(look(scene, view), cloud, view, settings)
        x, y, distance = project(new.positions, known)
        column, row = x.floor().long().clamp(0, size - 1), y.floor().long().clamp(0, size - 1)
        behind = distance > far[row, column] + settings.tolerance
        new = Cloud(*(value[behind] for value in vars(new).values()))
        figures["views"].append([float(view.polar), float(view.azimuth), len(new.positions)])
        cloud = cloud.plus(new)
    figures["points"] = len(cloud.positions)
    return cloud, figures


def other_views(known: Camera, settings: PointsSettings) -> list[Camera]:
    """The circles' cameras at the known one's distance and field of view, in order of their angle to it."""
    turns = [float(known.azimuth) + 360 * k / settings.azimuths for k in range(settings.azimuths)]
    places = [(polar, turn) for polar in settings.polars for turn in turns]
    polar, azimuth = zip(*places, strict=True)
    views = Camera.orbit(polar, azimuth, float(known.radius), float(known.fov), known.height, device=known.polar.device)
    order = angle_between(views, known).argsort(stable=True).tolist()
    return [views[index] for index in order]


@dataclass(frozen=True)
class Look:
    """What a scene shows of itself at one view, H x W pixels."""

    depth: Tensor  # [H, W], where solid
    normal: Tensor  # [H, W, 3] unit, where solid
    colour: Tensor  # [H, W, 3], without the background
    solid: Tensor  # [H, W] bool


def look(scene, view: Camera) -> Look:
    # lambertian under full ambient light is albedo, and unlike the mode "albedo" has normals with every scene
    seen = scene.render(view, mode="lambertian", ambient=1.0)
    opacity = seen.opacity[0].clamp_min(1e-6)
    colour = ((seen.rgb[0] - (1 - opacity)) / opacity).clamp(0, 1)
    normal = F.normalize(seen.normal[0], dim=-1)
    return Look((seen.depth[0] / opacity)[..., 0], normal, colour, seen.opacity[0, ..., 0] > SEEN)


def unseen(seen: Look, cloud: Cloud, view: Camera, settings: PointsSettings) -> Cloud:
    """The points of a view that the cloud lacks: solid, off the outline, and not near one of the cloud's."""
    depth = filled(seen.depth, seen.solid)  # the median is on a surface also where a ray's mean is between two
    inner = -F.max_pool2d(-seen.solid.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
    splats = splat(cloud.positions, settings.radius * cloud.sizes, view, settings.per_pixel)
    carried = splats.picture(torch.stack([splats.distance, torch.ones_like(splats.distance)], -1))
    covered = carried[..., 1] > COVERED
    there = carried[..., 0] / carried[..., 1].clamp_min(1e-6)
    new = ~covered | (there > depth + settings.tolerance)
    return unproject(view, depth, seen.solid & inner & new, seen.normal, seen.colour, False)


def unproject(view: Camera, depth: Tensor, chosen: Tensor, normal: Tensor, colour: Tensor, known: bool) -> Cloud:
    """Points at the centres of the chosen pixels [H, W]. depth [H, W] along the optical axis; normal and colour [H, W, 3]."""
    origins, directions = view.rays()
    forward = -view.camera_to_world[0, :3, 2]
    along = depth[chosen][:, None]
    direction = directions[0][chosen]
    positions = origins[0][chosen] + direction * along / (direction @ forward)[:, None]
    sizes = along[:, 0] / view.focal[0]
    flags = torch.full_like(sizes, known, dtype=torch.bool)
    return Cloud(positions, normal[chosen], colour[chosen], sizes, flags)


def nearest(values: Tensor, valid: Tensor) -> Tensor:
    """values [H, W, ...] with those of the nearest valid pixel wherever it is not valid itself; unchanged if none is."""
    from scipy.ndimage import distance_transform_edt

    if not valid.any():
        return values
    row, column = distance_transform_edt(~valid.cpu().numpy(), return_distances=False, return_indices=True)
    return values[torch.from_numpy(row).long().to(values.device), torch.from_numpy(column).long().to(values.device)]


def filled(depth: Tensor, valid: Tensor) -> Tensor:
    """Depth [H, W] as the median of 3 x 3 neighbours, invalid pixels taken from the nearest valid one."""
    from scipy.ndimage import median_filter

    whole = nearest(depth, valid).cpu().numpy()
    return torch.from_numpy(np.ascontiguousarray(median_filter(whole, size=3, mode="nearest"))).to(depth.device)
