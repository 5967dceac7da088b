"""Splatting a point cloud, on any device: which points a pixel sees, and how much of each.

A point is a disc that faces the camera, opaque in its middle and clear at its rim: alpha = 1 - (d / radius)^2. A pixel's
points are composited near to far, the `per_pixel` nearest of them alone; those that are too far behind the first to be of its
surface leave their share to the others. Places are given; a picture is linear, and differentiable, in what the points carry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from magic123.geometry.camera import Camera

NEAREST = 0.1  # points nearer than this along the optical axis are not seen (as volume.march)
SMALLEST, LARGEST = 0.75, 32.0  # pixels: a radius below 0.71 can miss every pixel's centre
OPAQUE = 1 - 1e-3  # the most that a point hides
BEHIND = 4.0  # radii: neighbours on a surface seen at up to 76 degrees are no farther behind one another


@dataclass(frozen=True)
class Splats:
    """M pairs of a pixel and a point that it sees, pixel by pixel (row-major), near to far."""

    pixel: Tensor  # [M] int64
    point: Tensor  # [M] int64
    weight: Tensor  # [M] the share of the pixel that shows the point; the sum over a pixel is its coverage, below 1
    distance: Tensor  # [N] of all points, along the optical axis
    height: int
    width: int

    def picture(self, values: Tensor) -> Tensor:
        """What points that carry values [N, C] look like, premultiplied by coverage: [H, W, C]."""
        seen = self.weight[:, None].to(values) * values.index_select(0, self.point)
        flat = torch.zeros(self.height * self.width, values.shape[1], dtype=values.dtype, device=values.device)
        return flat.index_add(0, self.pixel, seen).reshape(self.height, self.width, -1)


@torch.no_grad()
def splat(positions: Tensor, sizes: Tensor, camera: Camera, per_pixel: int) -> Splats:
    """The splats of points [N, 3] with radii `sizes` [N], both in world units, in the picture of one camera."""
    camera = camera.to(positions.device)
    x, y, distance = project(positions, camera)
    radius = (camera.focal * sizes / distance.clamp_min(NEAREST)).clamp(SMALLEST, LARGEST)
    height, width = camera.height, camera.width
    shown = (distance > NEAREST) & (x > -radius) & (x < width + radius) & (y > -radius) & (y < height + radius)
    rank = torch.empty_like(shown, dtype=torch.int64)
    rank[distance.argsort(stable=True)] = torch.arange(len(rank), device=rank.device)

    pixels, points, alphas = [], [], []
    reach = radius.ceil().long()
    for r in torch.unique(reach[shown]).tolist():  # points of like size together: each needs a window of its own
        point = torch.nonzero(shown & (reach == r))[:, 0]
        window = torch.arange(-r, r + 1, device=positions.device)
        column = x[point].floor().long()[:, None, None] + window
        row = y[point].floor().long()[:, None, None] + window[:, None]
        off = (column + 0.5 - x[point][:, None, None]) ** 2 + (row + 0.5 - y[point][:, None, None]) ** 2
        alpha = 1 - off / radius[point][:, None, None] ** 2
        inside = (alpha > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixels.append((row * width + column)[inside])
        points.append(point[:, None, None].expand_as(alpha)[inside])
        alphas.append(alpha[inside].clamp_max(OPAQUE))
    if not pixels:
        none = torch.zeros(0, dtype=torch.int64, device=positions.device)
        return Splats(none, none, distance.new_zeros(0), distance, height, width)
    pixel, point, alpha = torch.cat(pixels), torch.cat(points), torch.cat(alphas)

    order = (pixel * len(positions) + rank[point]).argsort()  # no two keys are the same
    pixel, point, alpha = pixel[order], point[order], alpha[order]
    _, place, count = torch.unique_consecutive(pixel, return_inverse=True, return_counts=True)
    slot = torch.arange(len(pixel), device=pixel.device) - (count.cumsum(0) - count)[place]  # how many lie before it
    kept = slot < per_pixel
    pixel, point, alpha, place, slot = (v[kept] for v in (pixel, point, alpha, place, slot))
    clear = torch.ones(len(count), per_pixel + 1, dtype=alpha.dtype, device=alpha.device)
    clear[place, slot + 1] = 1 - alpha
    weight = alpha * clear.cumprod(1)[place, slot]
    # what shines through between the points of one surface is not another surface behind it
    first = point[slot == 0][place]
    front = distance[point] <= distance[first] + BEHIND * sizes[first]
    none = weight.new_zeros(len(count))
    whole, shown = none.index_add(0, place, weight), none.index_add(0, place[front], weight[front])
    weight = (weight * (whole / shown)[place])[front]
    return Splats(pixel[front], point[front], weight, distance, height, width)


def project(positions: Tensor, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Where points [N, 3] are on one camera's screen, in pixels (column, row), and how far along its optical axis: [N] each.

    On the screen a point at the camera's own plane or behind it is as one at NEAREST.
    """
    pose = camera.camera_to_world[0].to(positions)
    right, up, backward = ((positions - pose[:3, 3]) @ pose[:3, :3]).unbind(-1)
    scale = camera.focal[0].to(positions) / (-backward).clamp_min(NEAREST)
    return camera.width / 2 + scale * right, camera.height / 2 - scale * up, -backward
