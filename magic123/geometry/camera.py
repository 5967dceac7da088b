"""Pinhole cameras that look at the origin.

World: right-handed, y up. Polar angle from +y, azimuth from +z towards +x (degrees), so a camera sits at
r (sin t sin p, cos t, sin t cos p). Camera-to-world matrices follow OpenGL: columns are right, up, backward; the camera
looks along its -z. right = normalize(up_world x backward): the basis has determinant +1 (Magic123's reference takes the
opposite sign, which mirrors its world). Image row 0 is the top; pixel centres sit at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magic123.device import to_device


@dataclass(frozen=True)
class Camera:
    """A batch of B cameras.

    polar, azimuth, radius, fov: [B], degrees (fov is vertical) and world units. height, width: pixels.
    """

    polar: Tensor
    azimuth: Tensor
    radius: Tensor
    fov: Tensor
    height: int
    width: int

    @classmethod
    def orbit(cls, polar, azimuth, radius, fov, size: int | tuple[int, int], device=None) -> Camera:
        """Broadcast numbers or sequences to a batch; `size` is one side or (height, width)."""
        values = [
            torch.atleast_1d(torch.as_tensor(v, dtype=torch.float32, device=device)) for v in (polar, azimuth, radius, fov)
        ]
        height, width = (size, size) if isinstance(size, int) else size
        return cls(*(v.clone() for v in torch.broadcast_tensors(*values)), height, width)

    def __len__(self) -> int:
        return len(self.polar)

    def __getitem__(self, index) -> Camera:
        """A sub-batch (an int keeps the batch dimension)."""
        pick = slice(index, index + 1 or None) if isinstance(index, int) else index
        return Camera(self.polar[pick], self.azimuth[pick], self.radius[pick], self.fov[pick], self.height, self.width)

    def resized(self, size: int | tuple[int, int]) -> Camera:
        height, width = (size, size) if isinstance(size, int) else size
        return replace(self, height=height, width=width)

    def to(self, device) -> Camera:
        return replace(self, **{k: to_device(getattr(self, k), device) for k in ("polar", "azimuth", "radius", "fov")})

    @property
    def position(self) -> Tensor:
        """Camera centres in the world: [B, 3]."""
        theta, phi = torch.deg2rad(self.polar), torch.deg2rad(self.azimuth)
        direction = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], -1)
        return self.radius[:, None] * direction

    @property
    def camera_to_world(self) -> Tensor:
        """OpenGL camera-to-world matrices: [B, 4, 4], rotation part with determinant +1.

        The right vector depends on the azimuth alone (it is normalize(y x backward) wherever that exists), so it stays
        defined when the camera looks straight down or up.
        """
        phi = torch.deg2rad(self.azimuth)
        backward = self.position / self.radius[:, None]
        right = torch.stack([phi.cos(), torch.zeros_like(phi), -phi.sin()], -1)
        up = torch.linalg.cross(backward, right)
        pose = torch.eye(4, device=phi.device).repeat(len(self), 1, 1)
        pose[:, :3, 0], pose[:, :3, 1], pose[:, :3, 2], pose[:, :3, 3] = right, up, backward, self.position
        return pose

    @property
    def focal(self) -> Tensor:
        """Focal length in pixels: [B]."""
        return self.height / (2 * torch.tan(torch.deg2rad(self.fov) / 2))

    def rays(self) -> tuple[Tensor, Tensor]:
        """Origins and unit directions through the pixel centres: two [B, H, W, 3]."""
        device = self.polar.device
        y, x = torch.meshgrid(
            torch.arange(self.height, device=device) + 0.5, torch.arange(self.width, device=device) + 0.5, indexing="ij"
        )
        focal = self.focal[:, None, None]
        local = torch.stack(
            torch.broadcast_tensors((x - self.width / 2) / focal, -(y - self.height / 2) / focal, -torch.ones_like(focal)), -1
        )
        pose = self.camera_to_world
        directions = torch.einsum("bij,bhwj->bhwi", pose[:, :3, :3], local)
        origins = pose[:, None, None, :3, 3].expand_as(directions)
        return origins, directions / directions.norm(dim=-1, keepdim=True)

    def clip_matrices(self, near: float = 0.1, far: float = 1000.0) -> Tensor:
        """World to clip space: [B, 4, 4], column vectors. OpenGL z, but y points down, so that row 0 is the top."""
        scale = 1 / torch.tan(torch.deg2rad(self.fov) / 2)
        projection = torch.zeros(len(self), 4, 4, device=self.polar.device)
        projection[:, 0, 0] = scale * self.height / self.width
        projection[:, 1, 1] = -scale
        projection[:, 2, 2] = -(far + near) / (far - near)
        projection[:, 2, 3] = -2 * far * near / (far - near)
        projection[:, 3, 2] = -1
        return projection @ torch.linalg.inv(self.camera_to_world)


def sample_novel(cameras, count: int, size: int, generator: torch.Generator) -> Camera:
    """Random training views (`cameras`: NovelCameras), a batch of `count` at `size` pixels.

    With probability `upper_hemisphere` the direction is a normalised (U[-1,1], U[0,1], U[-1,1]), as the reference does.
    """

    def uniform(bounds):
        return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=generator)

    polar, azimuth, radius, fov = (uniform(b) for b in (cameras.polar, cameras.azimuth, cameras.radius, cameras.fov))
    v = torch.rand(count, 3, generator=generator) * torch.tensor([2.0, 1.0, 2.0]) - torch.tensor([1.0, 0.0, 1.0])
    above = torch.rand(count, generator=generator) < cameras.upper_hemisphere
    norm = v.norm(dim=-1).clamp_min(1e-8)
    polar = torch.where(above, torch.rad2deg(torch.acos(v[:, 1] / norm)), polar)
    azimuth = torch.where(above, torch.rad2deg(torch.atan2(v[:, 0], v[:, 2])), azimuth)
    return Camera(polar, azimuth, radius, fov, size, size)


def angle_between(a: Camera, b: Camera) -> Tensor:
    """Angle in degrees between the viewing directions of two batches: [B]."""
    u, v = a.position / a.radius[:, None], b.position / b.radius[:, None]
    return torch.rad2deg(torch.atan2(torch.linalg.cross(u, v.expand_as(u)).norm(dim=-1), (u * v).sum(-1)))


def wrap_degrees(angle: Tensor) -> Tensor:
    """Angles into [-180, 180)."""
    return (angle + 180) % 360 - 180


def view_cameras(settings, reference=None) -> dict[str, Camera]:
    """All that `view` looks at (`settings`: ViewSettings), by name: `reference`, the view sets and `turntable`.

    reference: ReferenceCamera of the input picture, None for an example without one. The turntable is at its height.
    """
    cameras = {}
    if reference is not None:
        cameras["reference"] = Camera.orbit(reference.polar, reference.azimuth, reference.radius, reference.fov, settings.size)
    for name, ring in settings.sets.items():
        azimuths = [ring.first_azimuth + 360 * k / ring.count for k in range(ring.count)]
        cameras[name] = Camera.orbit(ring.polar, azimuths, settings.radius, settings.fov, settings.size)
    count = settings.turntable_frames
    polar, start = (90.0, 0.0) if reference is None else (reference.polar, reference.azimuth)
    circle = [start + 360 * k / count for k in range(count)]
    cameras["turntable"] = Camera.orbit(polar, circle, settings.radius, settings.fov, settings.size)
    return cameras
