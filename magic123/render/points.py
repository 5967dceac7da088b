"""Splatting of a point cloud, on any device: which points each pixel shows, and with which weights.

A point is a disc that faces the camera, opaque at its centre and transparent at its rim: alpha = 1 - (d / radius)^2. The
`per_pixel` nearest points of a pixel are composited front to back. Points too far behind the first one to belong to its surface
are removed, and their weight is given to the others. Positions get no gradient; an image is linear in the values of the points,
and differentiable with respect to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic123.geometry.camera import Camera

NEAREST = 0.1  # points nearer than this along the optical axis are not rendered (as in volume.march)
SMALLEST, LARGEST = 0.75, 32.0  # limits of the radius in pixels; a disc of less than 0.71 can miss all pixel centres
OPAQUE = 1 - 1e-3  # largest alpha of a point
# Largest distance, in radii, behind the first point of a pixel for points of the same surface: neighbours on a surface whose
# normal is at up to 76 degrees to the viewing direction are no farther apart in depth.
BEHIND = 4.0


@dataclass(frozen=True)
class Splats:
    """M pairs of a pixel and a point that it shows, ordered by pixel (row-major) and front to back.

    Attributes:
        pixel: flat index of the pixel, int64.
        point: number of the point, int64.
        weight: weight of the point in the pixel; the sum over a pixel is its coverage, below 1.
        distance: distances of all N points along the optical axis, in world units.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """

    pixel: Int[Tensor, " M"]
    point: Int[Tensor, " M"]
    weight: Float[Tensor, " M"]
    distance: Float[Tensor, " N"]
    height: int
    width: int

    def picture(self, values: Float[Tensor, "N C"]) -> Float[Tensor, "H W C"]:
        """Return the image of points with given values, premultiplied by coverage."""
        weighted = self.weight[:, None].to(values) * values.index_select(0, self.point)
        flat = torch.zeros(self.height * self.width, values.shape[1], dtype=values.dtype, device=values.device)
        return flat.index_add(0, self.pixel, weighted).reshape(self.height, self.width, -1)


@torch.no_grad()
def splat(positions: Float[Tensor, "N 3"], sizes: Float[Tensor, " N"], camera: Camera, per_pixel: int) -> Splats:
    """Return the splats of a point cloud in the image of one camera.

    Args:
        positions: world coordinates.
        sizes: radii of the points, in world units.
        camera: one camera (B = 1).
        per_pixel: largest number of points of a pixel.
    """
    camera = camera.to(positions.device)
    x, y, distance = project(positions, camera)
    radius = (camera.focal * sizes / distance.clamp_min(NEAREST)).clamp(SMALLEST, LARGEST)
    height, width = camera.height, camera.width
    shown = (distance > NEAREST) & (x > -radius) & (x < width + radius) & (y > -radius) & (y < height + radius)
    rank = torch.empty_like(shown, dtype=torch.int64)
    rank[distance.argsort(stable=True)] = torch.arange(len(rank), device=rank.device)

    pixels, points, alphas = [], [], []
    reach = radius.ceil().long()
    for r in torch.unique(reach[shown]).tolist():  # points of the same size together, because the window depends on it
        point = torch.nonzero(shown & (reach == r))[:, 0]
        window = torch.arange(-r, r + 1, device=positions.device)
        column = x[point].floor().long()[:, None, None] + window
        row = y[point].floor().long()[:, None, None] + window[:, None]
        squared = (column + 0.5 - x[point][:, None, None]) ** 2 + (row + 0.5 - y[point][:, None, None]) ** 2
        alpha = 1 - squared / radius[point][:, None, None] ** 2
        inside = (alpha > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels.append((row * width + column)[inside])
        points.append(point[:, None, None].expand_as(alpha)[inside])
        alphas.append(alpha[inside].clamp_max(OPAQUE))
    if not pixels:
        none = torch.zeros(0, dtype=torch.int64, device=positions.device)
        return Splats(none, none, distance.new_zeros(0), distance, height, width)
    pixel, point, alpha = torch.cat(pixels), torch.cat(points), torch.cat(alphas)

    order = (pixel * len(positions) + rank[point]).argsort()  # need not be stable, because no two keys are the same
    pixel, point, alpha = pixel[order], point[order], alpha[order]
    _, place, count = torch.unique_consecutive(pixel, return_inverse=True, return_counts=True)
    slot = torch.arange(len(pixel), device=pixel.device) - (count.cumsum(0) - count)[place]  # number of points in front
    kept = slot < per_pixel
    pixel, point, alpha, place, slot = (v[kept] for v in (pixel, point, alpha, place, slot))
    clear = torch.ones(len(count), per_pixel + 1, dtype=alpha.dtype, device=alpha.device)
    clear[place, slot + 1] = 1 - alpha
    weight = alpha * clear.cumprod(1)[place, slot]
    # remove points that are visible only through gaps between the points of a surface
    first = point[slot == 0][place]
    front = distance[point] <= distance[first] + BEHIND * sizes[first]
    zeros = weight.new_zeros(len(count))
    before, after = zeros.index_add(0, place, weight), zeros.index_add(0, place[front], weight[front])
    weight = (weight * (before / after)[place])[front]
    return Splats(pixel[front], point[front], weight, distance, height, width)


def project(
    positions: Float[Tensor, "N 3"], camera: Camera
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Project points onto the screen of one camera.

    Returns:
        Column and row in pixels, and the distance along the optical axis in world units. Points nearer than NEAREST, or
        behind the camera, are projected as if they were at NEAREST.
    """
    pose = camera.camera_to_world[0].to(positions)
    right, up, backward = ((positions - pose[:3, 3]) @ pose[:3, :3]).unbind(-1)
    scale = camera.focal[0].to(positions) / (-backward).clamp_min(NEAREST)
    return camera.width / 2 + scale * right, camera.height / 2 - scale * up, -backward
