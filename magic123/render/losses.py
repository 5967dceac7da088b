"""Losses as pure functions of a rendering, the reference view or the scene, and the LOSSES table of all of them.

Magic123's published code is followed in value; names are those of the weights in the settings' `Losses`. A new loss is its
function and its row in LOSSES here, its weight in the settings, and its test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from magic123.device import to_device
from magic123.example.example import Example, rgb_pixels, target_depth
from magic123.geometry.camera import Camera
from magic123.geometry.mesh import laplacian, normal_consistency
from magic123.records.errors import InputError
from magic123.render.rendering import Rendering, Samples
from magic123.settings.losses import Losses

REFERENCE_HOLDS = 100.0  # the released code holds the reference view's colours with 1e5, the others with 1e3
BLUR_SIZE, BLUR_SIGMA = 9, 1.7  # 0.15 * size + 0.35, the usual sigma of a Gaussian kernel whose size alone is given


# ----------------------------------------------------------------------------------------------- the reference view
@dataclass(frozen=True)
class Target:
    """What the reference view should look like, H x W pixels; made once per stage."""

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
    """Return the unweighted losses of the reference view that have a weight.

    Args:
        rendering: one picture (B = 1) on white, from the reference camera.
        target: the picture that should be seen there, of the same size.
        weights: the stage's weights.

    Raises:
        ValueError: the sizes differ.
    """
    if rendering.rgb.shape != (1, *target.rgb.shape):
        raise ValueError(f"rendered {list(rendering.rgb.shape)}, but the reference view is {list(target.rgb.shape)}")
    return compute(weights, {"view": lambda: (rendering, target), "view_normals": lambda: _view_normals(rendering, target)})


def reference_rgb(rendering: Rendering, target: Target) -> Tensor:
    """Return the mean squared error of the colours, over `target.pixels` where given."""
    error = (rendering.rgb[0] - target.rgb) ** 2
    return (error if target.pixels is None else error[target.pixels]).mean()


def reference_mask(rendering: Rendering, target: Target) -> Tensor:
    """Return the mean squared difference of opacity and mask."""
    return F.mse_loss(rendering.opacity[0, ..., 0], target.mask.float())


def reference_depth(rendering: Rendering, target: Target) -> Tensor:
    """Return the disagreement of the depths inside the mask."""
    return depth_disagreement(rendering.depth[0, ..., 0][target.mask], target.depth[target.mask])


def normal_disagreement(normal: Tensor, target: Tensor) -> Tensor:
    """Return the mean of (1 - cosine) / 2 of normals [N, 3] and target normals [N, 3], in [0, 1]."""
    return (1 - F.cosine_similarity(normal, target, dim=-1)).mean() / 2


def _view_normals(rendering: Rendering, target: Target) -> tuple[Tensor, Tensor] | None:
    """Return the normals inside the mask, rendered and wanted, [N, 3] each; None where none were rendered."""
    return None if rendering.normal is None else (rendering.normal[0][target.mask], target.normal[target.mask])


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
    """Return the mean squared opacity: prefers emptiness."""
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
    axes = [(torch.arange(resolution, device=device) + s) * h - 1 for s in to_device(shift, device)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    filled = -torch.expm1(-density(points) * h).reshape((resolution,) * 3)
    return sum(filled.diff(dim=axis).abs().mean() for axis in range(3))


def _mean(values: Tensor) -> Tensor:
    """Mean, 0 for nothing (a picture may see no sample)."""
    return values.sum() / max(len(values), 1)


def lifted_colours(colours: Tensor, lifted: Tensor, from_reference: Tensor) -> Tensor:
    """Return how far the colours of points are from those that were lifted: mean squares, the reference view's held harder.

    Args:
        colours: [N, 3] as learned.
        lifted: [N, 3] as lifted.
        from_reference: [N] bool, the points that the reference picture coloured; their mean counts REFERENCE_HOLDS times.
    """
    moved = (colours - lifted).square().mean(-1)
    held = from_reference.to(moved)
    means = [(moved * share).sum() / share.sum().clamp_min(1) for share in (held, 1 - held)]
    return REFERENCE_HOLDS * means[0] + means[1]


# --------------------------------------------------------------------------------------------------------- the table
@dataclass(frozen=True)
class Loss:
    """A row of the LOSSES table.

    Attributes:
        function: scalar tensor from the arguments that `needs` names.
        needs: one of NEEDS. The loss is not computed where a scene or a rendering does not have it.
        ramp: the loss has the share min(1, ramp * progress) of its weight at `progress` in [0, 1] of a stage; None: always all.
        on_normals: whether it can only be computed where normals are rendered.
    """

    function: Callable[..., Tensor]
    needs: str
    ramp: float | None = None
    on_normals: bool = False

    def share(self, progress: float) -> float:
        """Return the share of its weight that the loss has at `progress` in [0, 1] of a stage."""
        return 1.0 if self.ramp is None else min(1.0, self.ramp * progress)


NEEDS = {  # what losses are computed from -> the arguments that a function gets
    "view": "the rendering of the reference view and its Target",
    "view_normals": "normals inside the mask of the reference view, rendered and wanted, [N, 3] each",
    "weights": "weights of the samples along rays [M]",
    "sample_normals": "weights of the samples [M], their unit normals and viewing directions [M, 3]",
    "mesh": "vertices [V, 3], faces [F, 3] and Edges of the surface that is seen",
    "opacity": "opacity [B, H, W, 1]",
    "normal_image": "normals as colours [B, H, W, 3]",
    "density": "density [K, 3] -> [K], a generator (or None) and the device of the points",
    "colours": "colours of points as learned and as lifted [N, 3], and which the reference picture coloured [N]",
}

# Terms are added in this order. The reference code ramps the entropy at rate 2 and the normals of the reference view at rate 1.
LOSSES = {
    "rgb": Loss(reference_rgb, "view"),
    "mask": Loss(reference_mask, "view"),
    "depth": Loss(reference_depth, "view"),
    "normal": Loss(normal_disagreement, "view_normals", ramp=1.0, on_normals=True),
    "entropy": Loss(entropy, "weights", ramp=2.0),
    "orientation": Loss(orientation, "sample_normals", on_normals=True),
    "normal_consistency": Loss(normal_consistency, "mesh"),
    "laplacian": Loss(lambda vertices, faces, edges: laplacian(vertices, edges), "mesh"),
    "opacity": Loss(opacity, "opacity"),
    "normal_smoothness": Loss(smoothness, "normal_image", on_normals=True),
    "normal_blur": Loss(blur_difference, "normal_image", on_normals=True),
    "total_variation": Loss(
        lambda density, generator, device: total_variation(density, generator=generator, device=device), "density"
    ),
    "point_colour": Loss(lifted_colours, "colours"),
}


def compute(weights: Losses, given: dict[str, Callable[[], tuple | None]]) -> dict[str, Tensor]:
    """Return the unweighted losses that have a weight and whose needs are given.

    Args:
        weights: the stage's weights.
        given: what there is to compute losses from, by the names of NEEDS: functions that return the arguments, or None where
            this rendering does not have them. Only what a loss needs is asked for.
    """
    values = {}
    for name, row in LOSSES.items():
        if getattr(weights, name) and row.needs in given and (arguments := given[row.needs]()) is not None:
            values[name] = row.function(*arguments)
    return values


def rendering_inputs(rendering: Rendering) -> dict[str, Callable[[], tuple | None]]:
    """Return what every rendering gives to losses, for `compute`."""
    return {
        "opacity": lambda: (rendering.opacity,),
        "normal_image": lambda: None if rendering.normal is None else (normal_image(rendering),),
    }


def sample_inputs(samples: Samples | None) -> dict[str, Callable[[], tuple | None]]:
    """Return what the samples of a volume rendering give to losses, for `compute`."""
    if samples is None:
        return {}
    return {
        "weights": lambda: (samples.weights,),
        "sample_normals": lambda: None if samples.normals is None else (samples.weights, samples.normals, samples.directions),
    }
