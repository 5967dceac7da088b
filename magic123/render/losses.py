"""Losses as pure functions: a Rendering (and the known view) -> unweighted scalars. Weights and ramps are the caller's.

Magic123's published code is followed in value; names are those of config.Losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from magic123.device import sent
from magic123.example.example import Example, rgb_pixels, target_depth
from magic123.geometry.camera import Camera
from magic123.records.errors import InputError
from magic123.render.rendering import Rendering
from magic123.settings.config import Losses

BLUR_SIZE, BLUR_SIGMA = 9, 1.7  # 0.15 * size + 0.35, the usual sigma of a Gaussian kernel whose size alone is given


def ramp(progress: float, rate: float = 2.0) -> float:
    """min(1, rate * progress): the share of its weight that a loss has at `progress` in [0, 1] of a stage.

    The reference ramps the entropy at rate 2 and the normals of the known view at rate 1.
    """
    return min(1.0, rate * progress)


# --------------------------------------------------------------------------------------------------- the known view
@dataclass(frozen=True)
class Target:
    """What the known view should look like, H x W pixels; made once per stage."""

    rgb: Tensor  # [H, W, 3] on white
    pixels: Tensor | None  # [H, W] bool: those whose colour counts; None: all
    mask: Tensor  # [H, W] bool
    depth: Tensor | None  # [H, W], far is large, up to scale and shift
    normal: Tensor | None  # [H, W, 3] unit, world


def reference_target(example: Example, weights: Losses, *, erode_edges: bool = False, device=None) -> Target:
    """The tensors that the losses with a positive weight need, from an example at the size that will be rendered.

    Raises InputError where the example lacks the depth or normal map that a weight asks for.
    """
    normal = None
    if weights.normal:
        if example.normal is None:
            raise InputError(
                f"example {example.name} has no normal map, but losses.normal is {weights.normal:g}; "
                "prepare it with a normal map or set losses.normal to 0"
            )
        c = example.camera
        pose = Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, 1).camera_to_world[0, :3, :3]
        normal = F.normalize(example.normal.cpu() * 2 - 1, dim=-1) @ pose.T  # x right, y up, z to the camera -> world
    target = Target(
        rgb=example.rgb,
        pixels=rgb_pixels(example)[..., 0] if erode_edges else None,
        mask=example.mask[..., 0],
        depth=target_depth(example)[..., 0] if weights.depth else None,
        normal=normal,
    )
    return Target(**{k: v if v is None else v.to(device) for k, v in vars(target).items()})


def reference_losses(rendering: Rendering, target: Target, weights: Losses) -> dict[str, Tensor]:
    """rgb, mask, depth and normal of one rendering (B = 1, on white) of the known view; only those with a positive weight."""
    if rendering.rgb.shape != (1, *target.rgb.shape):
        raise ValueError(f"rendered {list(rendering.rgb.shape)}, but the known view is {list(target.rgb.shape)}")
    values = {}
    if weights.rgb:
        error = (rendering.rgb[0] - target.rgb) ** 2
        values["rgb"] = (error if target.pixels is None else error[target.pixels]).mean()
    if weights.mask:
        values["mask"] = F.mse_loss(rendering.opacity[0, ..., 0], target.mask.float())
    if weights.depth:
        values["depth"] = depth_disagreement(rendering.depth[0, ..., 0][target.mask], target.depth[target.mask])
    if weights.normal and rendering.normal is not None:
        cosine = F.cosine_similarity(rendering.normal[0][target.mask], target.normal[target.mask], dim=-1)
        values["normal"] = (1 - cosine).mean() / 2
    return values


def depth_disagreement(depth: Tensor, target: Tensor) -> Tensor:
    """(1 - Pearson correlation) / 2 of two [N], in [0, 1]: blind to scale (> 0) and shift. 1/2 where either is constant."""
    a, b = depth - depth.mean(), target - target.mean()
    spread = (a.square().sum() * b.square().sum()).clamp_min(1e-20).sqrt()
    return (1 - (a * b).sum() / spread) / 2


# ------------------------------------------------------------------------------------------------------ regularizers
def entropy(weights: Tensor) -> Tensor:
    """Mean binary entropy in bits of sample weights [M], clamped to [1e-5, 1 - 1e-5]: weights should be 0 or 1."""
    w = weights.clamp(1e-5, 1 - 1e-5)
    return _mean(-w * w.log2() - (1 - w) * (1 - w).log2())


def orientation(weights: Tensor, normals: Tensor, directions: Tensor) -> Tensor:
    """mean(w max(0, n.d)^2), w without gradient: what is visible must not face away (Ref-NeRF, arXiv 2112.03907)."""
    away = (normals * directions).sum(-1).clamp_min(0)
    return _mean(weights.detach() * away.square())


def opacity(value: Tensor) -> Tensor:
    """Mean squared opacity: prefers emptiness."""
    return value.square().mean()


def normal_image(rendering: Rendering) -> Tensor:
    """Normals as colours on black, opacity * (n + 1) / 2: [B, H, W, 3]. Opacity without gradient: silhouettes may be sharp."""
    return (rendering.normal + rendering.opacity.detach()) / 2


def smoothness(image: Tensor) -> Tensor:
    """Sum of the mean squared differences along the two axes of [B, H, W, C]."""
    down, across = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
    return down.square().mean() + across.square().mean()


def gaussian_blur(image: Tensor) -> Tensor:
    """9 x 9 Gaussian, sigma 1.7 pixels, borders mirrored: [B, H, W, C] of at least 5 x 5 pixels."""
    place = torch.arange(BLUR_SIZE, device=image.device, dtype=image.dtype) - BLUR_SIZE // 2
    kernel = torch.exp(-0.5 * (place / BLUR_SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).expand(image.shape[-1], 1, 1, BLUR_SIZE)
    x = F.pad(image.permute(0, 3, 1, 2), (BLUR_SIZE // 2,) * 4, mode="reflect")
    x = F.conv2d(x, kernel, groups=image.shape[-1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=image.shape[-1]).permute(0, 2, 3, 1)


def blur_difference(image: Tensor) -> Tensor:
    """Mean squared difference of [B, H, W, C] from its own blur; both sides have gradients, as in the published code."""
    return F.mse_loss(image, gaussian_blur(image))


def total_variation(
    density: Callable[[Tensor], Tensor], *, generator: torch.Generator | None = None, resolution: int = 24, device=None
) -> Tensor:
    """Mean absolute difference between neighbours of a resolution^3 grid over [-1, 1]^3, summed over the axes.

    The grid is shifted at random by less than its spacing h (by h/2 without a generator). What is compared is the opacity
    of one spacing, 1 - exp(-sigma h): densities themselves span many orders of magnitude.
    """
    shift = torch.full((3,), 0.5) if generator is None else torch.rand(3, generator=generator, device=generator.device)
    h = 2 / resolution
    axes = [(torch.arange(resolution, device=device) + s) * h - 1 for s in sent(shift, device)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    filled = -torch.expm1(-density(points) * h).reshape((resolution,) * 3)
    return sum(filled.diff(dim=axis).abs().mean() for axis in range(3))


def _mean(values: Tensor) -> Tensor:
    """Mean, 0 for nothing (a picture may see no sample)."""
    return values.sum() / max(len(values), 1)
