"""Pinhole cameras that look at the origin.

The world is right-handed with y up. The polar angle is measured from +y and the azimuth from +z towards +x, both in
degrees, so a camera with polar angle t, azimuth p and radius r is at r (sin t sin p, cos t, sin t cos p). Camera-to-world
matrices follow OpenGL: their columns are right, up and backward, and the camera looks along its -z. right =
normalize(up_world x backward), so the basis has determinant +1 (Magic123's published code takes the opposite sign, which
mirrors its world). Row 0 of an image is the top; pixel centres are at +0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from magic123.device import to_device
from magic123.records.cameras import planned_poses, ring_azimuths
from magic123.settings.cameras import NovelCameras, PoseJitter, ReferenceCamera
from magic123.settings.view import ViewSettings

Numbers = float | int | Sequence[float | int] | np.ndarray | Tensor


@dataclass(frozen=True)
class Camera:
    """A batch of B cameras that share one image size.

    Attributes:
        polar: angle from +y in degrees.
        azimuth: angle from +z towards +x in degrees.
        radius: distance from the origin, in world units.
        fov: vertical field of view in degrees.
        height: height of the image in pixels.
        width: width of the image in pixels.
        pose: camera-to-world matrices, for cameras that are not on their orbit; None if they are on it and look at the origin.
        pixels: flat indices of the pixels for which `rays` returns rays; None for all pixels.
    """

    polar: Float[Tensor, " B"]
    azimuth: Float[Tensor, " B"]
    radius: Float[Tensor, " B"]
    fov: Float[Tensor, " B"]
    height: int
    width: int
    pose: Float[Tensor, "B 4 4"] | None = None
    pixels: Int[Tensor, " N"] | None = None

    @classmethod
    def orbit(
        cls,
        polar: Numbers,
        azimuth: Numbers,
        radius: Numbers,
        fov: Numbers,
        size: int | tuple[int, int],
        device: torch.device | str | None = None,
    ) -> Camera:
        """Return a batch of cameras that look at the origin, from numbers or sequences, which are broadcast.

        Args:
            polar: angle from +y in degrees.
            azimuth: angle from +z towards +x in degrees.
            radius: distance from the origin in world units.
            fov: vertical field of view in degrees.
            size: side of a square image, or (height, width), in pixels.
            device: the device to create the tensors on.
        """
        values = [
            torch.atleast_1d(torch.as_tensor(v, dtype=torch.float32, device=device)) for v in (polar, azimuth, radius, fov)
        ]
        height, width = (size, size) if isinstance(size, int) else size
        polars, azimuths, radii, fovs = (v.clone() for v in torch.broadcast_tensors(*values))
        return cls(polars, azimuths, radii, fovs, height, width)

    def __len__(self) -> int:
        return len(self.polar)

    def __getitem__(self, index: int | slice | Tensor) -> Camera:
        """Return a sub-batch; an int keeps the batch dimension."""
        pick = slice(index, index + 1 or None) if isinstance(index, int) else index
        pose = None if self.pose is None else self.pose[pick]
        angles = {name: getattr(self, name)[pick] for name in ("polar", "azimuth", "radius", "fov")}
        return replace(self, **angles, pose=pose)

    def resized(self, size: int | tuple[int, int]) -> Camera:
        """Return the same cameras with another image size: one side, or (height, width), in pixels."""
        height, width = (size, size) if isinstance(size, int) else size
        return replace(self, height=height, width=width)

    def to(self, device: torch.device | str | None) -> Camera:
        """Return the same cameras on a device."""
        polar, azimuth, radius, fov = (to_device(v, device) for v in (self.polar, self.azimuth, self.radius, self.fov))
        pose, pixels = (None if v is None else to_device(v, device) for v in (self.pose, self.pixels))
        return Camera(polar, azimuth, radius, fov, self.height, self.width, pose, pixels)

    @property
    def position(self) -> Float[Tensor, "B 3"]:
        """Camera centres in the world."""
        return self.on_orbit if self.pose is None else self.pose[:, :3, 3]

    @property
    def on_orbit(self) -> Float[Tensor, "B 3"]:
        """Positions on the orbit in world coordinates: the camera centres, unless `pose` gives others."""
        theta, phi = torch.deg2rad(self.polar), torch.deg2rad(self.azimuth)
        direction = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], -1)
        return self.radius[:, None] * direction

    @property
    def camera_to_world(self) -> Float[Tensor, "B 4 4"]:
        """OpenGL camera-to-world matrices, whose rotation part has determinant +1.

        The right vector is normalize(y x backward). It is computed from the azimuth alone, so that it is defined when the
        camera looks straight down or up too.
        """
        if self.pose is not None:
            return self.pose
        phi = torch.deg2rad(self.azimuth)
        backward = self.position / self.radius[:, None]
        right = torch.stack([phi.cos(), torch.zeros_like(phi), -phi.sin()], -1)
        up = torch.linalg.cross(backward, right)
        pose = torch.eye(4, device=phi.device).repeat(len(self), 1, 1)
        pose[:, :3, 0], pose[:, :3, 1], pose[:, :3, 2], pose[:, :3, 3] = right, up, backward, self.position
        return pose

    @property
    def focal(self) -> Float[Tensor, " B"]:
        """Focal lengths in pixels."""
        return self.height / (2 * torch.tan(torch.deg2rad(self.fov) / 2))

    def rays(self) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 3"]]:
        """Return the origins and unit directions of the rays through the pixel centres; [B, 1, N, 3] if `pixels` is set."""
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
        if self.pixels is not None:
            directions = directions.flatten(1, 2).index_select(1, self.pixels)[:, None]
        origins = pose[:, None, None, :3, 3].expand_as(directions)
        return origins, directions / directions.norm(dim=-1, keepdim=True)

    def clip_matrices(self, near: float = 0.1, far: float = 1000.0) -> Float[Tensor, "B 4 4"]:
        """Return the matrices from world to clip space, for column vectors.

        z follows OpenGL, but y points down, so that row 0 of the image is the top.

        Args:
            near: distance of the near plane, in world units.
            far: distance of the far plane, in world units.
        """
        scale = 1 / torch.tan(torch.deg2rad(self.fov) / 2)
        projection = torch.zeros(len(self), 4, 4, device=self.polar.device)
        projection[:, 0, 0] = scale * self.height / self.width
        projection[:, 1, 1] = -scale
        projection[:, 2, 2] = -(far + near) / (far - near)
        projection[:, 2, 3] = -2 * far * near / (far - near)
        projection[:, 3, 2] = -1
        # inv_ex, because a pose is never singular and the check of torch.linalg.inv synchronises with the device
        return projection @ torch.linalg.inv_ex(self.camera_to_world).inverse


def sample_novel(cameras: NovelCameras, count: int, size: int, generator: torch.Generator) -> Camera:
    """Sample cameras of training views.

    With probability `upper_hemisphere` the viewing direction is (U[-1,1], U[0,1], U[-1,1]) normalised, as in Magic123's
    published code; otherwise the angles are uniform in their ranges.

    Args:
        cameras: the distribution to sample from.
        count: number of views.
        size: side of the square image in pixels.
        generator: random state, advanced by this call.
    """

    def uniform(bounds: tuple[float, float]) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(count, generator=generator)

    polar, azimuth, radius, fov = (uniform(b) for b in (cameras.polar, cameras.azimuth, cameras.radius, cameras.fov))
    v = torch.rand(count, 3, generator=generator) * torch.tensor([2.0, 1.0, 2.0]) - torch.tensor([1.0, 0.0, 1.0])
    above = torch.rand(count, generator=generator) < cameras.upper_hemisphere
    norm = v.norm(dim=-1).clamp_min(1e-8)
    polar = torch.where(above, torch.rad2deg(torch.acos(v[:, 1] / norm)), polar)
    azimuth = torch.where(above, torch.rad2deg(torch.atan2(v[:, 0], v[:, 2])), azimuth)
    camera = Camera(polar, azimuth, radius, fov, size, size)
    return camera if cameras.jitter is None else jittered(camera, cameras.jitter, generator)


def jittered(camera: Camera, jitter: PoseJitter, generator: torch.Generator) -> Camera:
    """Return cameras with randomly perturbed poses, as `jitter_pose` of Magic123's published code.

    That code leaves the axes not orthogonal once the up vector is perturbed; here the right vector is made orthogonal to it.

    Args:
        camera: B cameras on their orbit. Their angles and radii, on which the priors are conditioned, are not changed.
        jitter: size of the perturbations.
        generator: random state, advanced by this call.
    """
    shape = (len(camera), 3)
    moved = camera.position + jitter.position * (torch.rand(shape, generator=generator) - 0.5)
    target = jitter.target * torch.randn(shape, generator=generator)
    tilt = jitter.up * torch.randn(shape, generator=generator)
    backward = normalize(moved - target, dim=-1)
    x, _, z = backward.unbind(-1)
    level = torch.stack([z, torch.zeros_like(x), -x], -1)  # y x backward
    vertical = level.norm(dim=-1, keepdim=True) < 1e-6  # the camera looks straight down or up
    level = torch.where(vertical, camera.camera_to_world[:, :3, 0], level)
    up = normalize(torch.linalg.cross(backward, normalize(level, dim=-1)), dim=-1) + tilt
    right = normalize(torch.linalg.cross(up, backward), dim=-1)
    pose = torch.eye(4).repeat(len(camera), 1, 1)
    pose[:, :3] = torch.stack([right, torch.linalg.cross(backward, right), backward, moved], -1)
    return replace(camera, pose=pose)


def angle_between(a: Camera, b: Camera) -> Float[Tensor, " B"]:
    """Return the angles in degrees between the orbit positions of two batches, as seen from the origin.

    Args:
        a: B cameras.
        b: B cameras, or one.
    """
    u, v = a.on_orbit / a.radius[:, None], b.on_orbit / b.radius[:, None]
    return torch.rad2deg(torch.atan2(torch.linalg.cross(u, v.expand_as(u)).norm(dim=-1), (u * v).sum(-1)))


def wrap_degrees(angle: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return angles wrapped into [-180, 180)."""
    return (angle + 180) % 360 - 180


def to_assumed_frame(camera: Camera, own: ReferenceCamera, assumed: ReferenceCamera) -> Camera:
    """Convert cameras to the frame of a scene that was optimised with an assumed camera of the reference view.

    Angles relative to the reference view are kept; the distance and the extent of the image plane are scaled.

    Args:
        camera: cameras in the frame in which the reference view has the camera `own`.
        own: the camera of the reference view.
        assumed: the camera that the scene assumes for the reference view.
    """
    ratio = math.tan(math.radians(assumed.fov) / 2) / math.tan(math.radians(own.fov) / 2)
    fov = 2 * torch.rad2deg(torch.atan(ratio * torch.tan(torch.deg2rad(camera.fov) / 2)))
    return replace(
        camera,
        polar=camera.polar + (assumed.polar - own.polar),
        azimuth=camera.azimuth + (assumed.azimuth - own.azimuth),
        radius=camera.radius * (assumed.radius / own.radius),
        fov=fov,
    )


def from_assumed_frame(own: ReferenceCamera, assumed: ReferenceCamera) -> Float[Tensor, "3 3"]:
    """Return the rotation about y times the scale that converts points from the frame of `to_assumed_frame`.

    Args:
        own: the camera of the reference view.
        assumed: the camera that the scene assumes for the reference view.

    Returns:
        A matrix such that the transformed scene looks from `own` as the scene does from `assumed`.
    """
    half_height = [c.radius * math.tan(math.radians(c.fov) / 2) for c in (own, assumed)]
    angle = math.radians(own.azimuth - assumed.azimuth)
    sine, cosine = math.sin(angle), math.cos(angle)
    turn = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    return turn * (half_height[0] / half_height[1])


def view_cameras(
    settings: ViewSettings,
    reference: ReferenceCamera | None = None,
    given: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
) -> dict[str, Camera]:
    """Return all cameras that `view` renders, by name: `reference`, the view sets and `turntable`.

    Args:
        settings: the view sets, the turntable, and the size of the images.
        reference: the camera of the input picture; None for an example without one. The turntable has its polar angle and
            starts at its azimuth.
        given: view sets that replace those of the settings: name -> {"polar", "azimuth", "radius", "fov"} of each camera, in
            degrees and world units.
    """
    own = settings if given is None else settings.model_copy(update={"sets": {}})
    planned = planned_poses(own.model_dump(), None if reference is None else reference.model_dump())
    for name, listed in (given or {}).items():
        planned[name] = [(one["polar"], one["azimuth"], one["radius"], one["fov"]) for one in listed]
    cameras = {}
    for name, poses in planned.items():
        polars, azimuths, radii, fovs = zip(*poses, strict=True)
        cameras[name] = Camera.orbit(polars, azimuths, radii, fovs, settings.size)
    polar, start = (90.0, 0.0) if reference is None else (reference.polar, reference.azimuth)
    circle = ring_azimuths(start, settings.turntable_frames)
    cameras["turntable"] = Camera.orbit(polar, circle, settings.radius, settings.fov, settings.size)
    return cameras
