"""Losses as pure functions of a rendering, the reference view or the scene, and the table LOSSES that lists them.

Their definitions follow Magic123's published code. In the table they have the names of their weights in the settings class
`Losses`. A new loss needs a function and a row in LOSSES here, a weight in the settings, and a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.mesh import laplacian, normal_consistency
from magic123.render.rendering import Rendering, Samples
from magic123.render.samples import Density
from magic123.render.target import Target
from magic123.settings.losses import Losses

REFERENCE_WEIGHT = 100.0  # in Make-it-3D's published code colours from the reference view have the weight 1e5, all others 1e3
WEIGHT_MARGIN = 1e-5  # sample weights are clamped to [this, 1 - this] before their entropy is computed
ENTROPY_OF_NOTHING = -WEIGHT_MARGIN * math.log2(WEIGHT_MARGIN) - (1 - WEIGHT_MARGIN) * math.log2(1 - WEIGHT_MARGIN)
BLUR_SIZE, BLUR_SIGMA = 9, 1.7  # pixels; sigma is 0.15 * size + 0.35, the default of OpenCV and torchvision for this size

# key of NEEDS -> function that returns the arguments of a loss, or None if the rendering does not have them
LossInputs = dict[str, Callable[[], tuple[Any, ...] | None]]


# ----------------------------------------------------------------------------------------------- the reference view
def reference_losses(rendering: Rendering, target: Target, weights: Losses) -> dict[str, Tensor]:
    """Return the losses of the reference view whose weight is not 0, before they are multiplied by the weight.

    Args:
        rendering: one image (B = 1) on white, from the reference camera.
        target: the reference view, at the same size.
        weights: the loss weights of the stage.

    Returns:
        Name of the loss -> scalar.

    Raises:
        ValueError: the sizes differ.
    """
    if rendering.rgb.shape != (1, *target.rgb.shape):
        raise ValueError(
            f"the rendering has the shape {list(rendering.rgb.shape)}, but the reference view is {list(target.rgb.shape)}"
        )
    return compute(weights, {"view": lambda: (rendering, target), "view_normals": lambda: _view_normals(rendering, target)})


def reference_rgb(rendering: Rendering, target: Target) -> Float[Tensor, ""]:
    """Return the mean squared error of the colours over `target.pixels`, or over all pixels if that is None.

    With `target.absolute` it is the mean absolute error, as in Make-it-3D. With `target.over_all` it is MSE(pred * M, target *
    M) of Magic123's published code (nerf/utils.py:686), a mean over all pixels. If M is alpha, target * M is the premultiplied
    colour of the picture: its colour on white minus 1 - alpha.
    """
    if target.soft and target.over_all:
        assert target.alpha is not None
        error = rendering.rgb[0] * target.alpha - (target.rgb - (1 - target.alpha))
    else:
        error = rendering.rgb[0] - target.rgb
    error = error.abs() if target.absolute else error**2
    if target.pixels is None:
        return error.mean()
    if target.over_all:
        return (error * target.pixels[..., None]).mean()
    return error.reshape(-1, 3).index_select(0, target.compared).mean()


def reference_mask(rendering: Rendering, target: Target) -> Float[Tensor, ""]:
    """Return the mean squared difference between opacity and mask, or alpha if the mask is soft."""
    if target.soft:
        assert target.alpha is not None
        return F.mse_loss(rendering.opacity[0], target.alpha)
    return F.mse_loss(rendering.opacity[0, ..., 0], target.mask.float())


def reference_depth(rendering: Rendering, target: Target) -> Float[Tensor, ""]:
    """Return the `depth_disagreement` of rendered and target depth inside the mask."""
    assert target.depth is not None  # a depth weight makes `reference_target` compute it
    depths = rendering.depth[0, ..., 0], target.depth
    return depth_disagreement(*(depth.reshape(-1).index_select(0, target.inside) for depth in depths))


def normal_disagreement(normal: Float[Tensor, "N 3"], target: Float[Tensor, "N 3"]) -> Float[Tensor, ""]:
    """Return the mean of (1 - cosine) / 2 between normals and target normals, in [0, 1]."""
    return (1 - F.cosine_similarity(normal, target, dim=-1)).mean() / 2


def _view_normals(rendering: Rendering, target: Target) -> tuple[Tensor, Tensor] | None:
    """Return the rendered and the target normals inside the mask, [N, 3] each; None if no normals were rendered."""
    if rendering.normal is None:
        return None
    assert target.normal is not None  # a normal weight makes `reference_target` compute it
    rendered, wanted = (normal.reshape(-1, 3).index_select(0, target.inside) for normal in (rendering.normal[0], target.normal))
    return rendered, wanted


def depth_disagreement(depth: Float[Tensor, " N"], target: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Return (1 - Pearson correlation) / 2, in [0, 1].

    It is invariant to scale (> 0) and shift, and 1/2 if either is constant.
    """
    a, b = depth - depth.mean(), target - target.mean()
    spread = (a.square().sum() * b.square().sum()).clamp_min(1e-20).sqrt()
    return (1 - (a * b).sum() / spread) / 2


# ------------------------------------------------------------------------------------------------------ regularizers
def entropy(weights: Float[Tensor, " M"], count: int | None = None) -> Float[Tensor, ""]:
    """Return the mean binary entropy of sample weights in bits, which drives weights towards 0 or 1 (nerf/utils.py:796).

    Args:
        weights: weights of the samples; they are clamped to [1e-5, 1 - 1e-5].
        count: number of samples that the mean is over, M by default; samples beyond the M given have the weight 0.
    """
    w = weights.clamp(WEIGHT_MARGIN, 1 - WEIGHT_MARGIN)
    count = len(weights) if count is None else count
    total = (-w * w.log2() - (1 - w) * (1 - w).log2()).sum() + (count - len(weights)) * ENTROPY_OF_NOTHING
    return total / max(count, 1)


def orientation(
    weights: Float[Tensor, " M"], normals: Float[Tensor, "M 3"], directions: Float[Tensor, "M 3"], count: int | None = None
) -> Float[Tensor, ""]:
    """Return mean(w max(0, n.d)^2), which penalises visible surfaces that face away (Ref-NeRF, arXiv 2112.03907).

    Args:
        weights: weights w of the samples; they get no gradient.
        normals: unit normals n.
        directions: unit viewing directions d.
        count: number of samples that the mean is over, M by default; samples beyond the M given have the weight 0.
    """
    away = (normals * directions).sum(-1).clamp_min(0)
    return (weights.detach() * away.square()).sum() / max(len(weights) if count is None else count, 1)


def orientation_by_density(
    densities: Float[Tensor, " K"], normals: Float[Tensor, "K 3"], directions: Float[Tensor, "K 3"]
) -> Float[Tensor, ""]:
    """Return mean((1 - exp(-density)) max(0, n.d)^2) over all marched samples, including those behind surfaces (RealFusion).

    The weights are the opacities of a step of length 1 and not contributions to a pixel, so samples inside an object count
    fully.
    """
    return orientation(-torch.expm1(-densities), normals, directions)


def normal_difference(normals: Float[Tensor, "K 3"], others: Float[Tensor, "K 3"]) -> Float[Tensor, ""]:
    """Return the mean absolute difference between the components of two sets of normals; 0 if they are empty."""
    return (normals - others).abs().sum() / max(normals.numel(), 1)


def opacity(value: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean squared opacity, which favours empty space."""
    return value.square().mean()


def normal_image(rendering: Rendering) -> Float[Tensor, "B H W 3"]:
    """Return normals as colours on black, opacity * (n + 1) / 2.

    The opacity gets no gradient, so that losses of this image do not blur silhouettes.
    """
    assert rendering.normal is not None
    return (rendering.normal + rendering.opacity.detach()) / 2


def smoothness(image: Float[Tensor, "B H W C"]) -> Float[Tensor, ""]:
    """Return the sum of the mean squared differences between neighbouring rows and between neighbouring columns."""
    down, across = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
    return down.square().mean() + across.square().mean()


def gaussian_blur(image: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
    """Return images of at least 5 x 5 pixels blurred by a 9 x 9 Gaussian of sigma 1.7 pixels, with mirrored borders."""
    place = torch.arange(BLUR_SIZE, device=image.device, dtype=image.dtype) - BLUR_SIZE // 2
    kernel = torch.exp(-0.5 * (place / BLUR_SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).expand(image.shape[-1], 1, 1, BLUR_SIZE)
    x = F.pad(image.permute(0, 3, 1, 2), (BLUR_SIZE // 2,) * 4, mode="reflect")
    x = F.conv2d(x, kernel, groups=image.shape[-1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=image.shape[-1]).permute(0, 2, 3, 1)


def blur_difference(image: Float[Tensor, "B H W C"]) -> Float[Tensor, ""]:
    """Return the mean squared difference between images and their `gaussian_blur`.

    Both get gradients, as in Magic123's published code.
    """
    return F.mse_loss(image, gaussian_blur(image))


def blur_difference_detached(image: Float[Tensor, "B H W C"]) -> Float[Tensor, ""]:
    """Return the mean squared difference between images and their `gaussian_blur`, which gets no gradient.

    RealFusion computes it from normals, in [-1, 1]; Magic123's `blur_difference` is computed from `normal_image`.
    """
    return F.mse_loss(image, gaussian_blur(image).detach())


def total_variation(
    density: Density,
    *,
    generator: torch.Generator | None = None,
    resolution: int = 24,
    device: torch.device | str | None = None,
) -> Float[Tensor, ""]:
    """Return the mean absolute difference of opacity between neighbours in a grid over [-1, 1]^3, summed over the axes.

    The opacity is that of one grid spacing h, 1 - exp(-sigma h); it is used because densities span many orders of magnitude.

    Args:
        density: function from points to density sigma per world unit.
        generator: random state for the shift of the grid, which is less than h; None shifts it by h/2.
        resolution: number of points along an axis.
        device: device on which the points are created.
    """
    shift = torch.full((3,), 0.5) if generator is None else torch.rand(3, generator=generator, device=generator.device)
    h = 2 / resolution
    axes = [(torch.arange(resolution, device=device) + s) * h - 1 for s in to_device(shift, device)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    opacities = -torch.expm1(-density(points) * h).reshape((resolution,) * 3)
    x, y, z = (opacities.diff(dim=axis).abs().mean() for axis in range(3))
    return x + y + z


def lifted_colours(
    colours: Float[Tensor, "N 3"], lifted: Float[Tensor, "N 3"], from_reference: Bool[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Return the mean squared difference between learned colours of points and their initial colours, as Make-it-3D does.

    Args:
        colours: the learned colours.
        lifted: the initial colours, from the pictures that the points were lifted from.
        from_reference: the points whose colours come from the reference picture; their mean has REFERENCE_WEIGHT.
    """
    moved = (colours - lifted).square().mean(-1)
    reference = from_reference.to(moved)
    means = [(moved * part).sum() / part.sum().clamp_min(1) for part in (reference, 1 - reference)]
    return REFERENCE_WEIGHT * means[0] + means[1]


# --------------------------------------------------------------------------------------------------------- the table
@dataclass(frozen=True)
class Loss:
    """A row of the LOSSES table.

    Attributes:
        function: computes the loss, a scalar tensor, from the arguments that `needs` describes.
        needs: a key of NEEDS. The loss is not computed if the scene or the rendering does not have these arguments.
        ramp: the weight is multiplied by min(1, ramp * progress), where `progress` in [0, 1] is the fraction of the stage's
            steps that is done; None for a constant weight.
        on_normals: whether the loss can be computed only if normals are rendered.
    """

    function: Callable[..., Tensor]
    needs: str
    ramp: float | None = None
    on_normals: bool = False

    def ramp_factor(self, progress: float) -> float:
        """Return the factor of the weight after the fraction `progress`, in [0, 1], of the stage's steps."""
        return 1.0 if self.ramp is None else min(1.0, self.ramp * progress)


# what losses are computed from -> the arguments of their functions
NEEDS = {
    "view": "the rendering of the reference view and its Target",
    "view_normals": "rendered and target normals inside the mask of the reference view, [N, 3] each",
    "weights": "weights of the samples along rays [M], and the number of samples that the mean is over",
    "sample_normals": "weights of the samples [M], their unit normals and viewing directions [M, 3], and that number",
    "marched_normals": "densities [K] of all marched samples, their unit normals and viewing directions [K, 3]",
    "nearby_normals": "unit normals [K, 3] of all marched samples, and those a random step of about 0.01 away [K, 3]",
    "mesh": "vertices [V, 3], faces [F, 3] and Edges of the rendered surface",
    "opacity": "opacity [B, H, W, 1]",
    "normal_image": "normals as colours [B, H, W, 3]",
    "normals": "normals times opacity [B, H, W, 3]",
    "density": "the density function [K, 3] -> [K], a generator (or None) and the device of the points",
    "colours": "learned and initial colours of points [N, 3], and which of them are from the reference picture [N] bool",
}

# The losses are summed in this order. The ramps are those of Magic123's published code.
LOSSES: dict[str, Loss] = {
    "rgb": Loss(reference_rgb, "view"),
    "mask": Loss(reference_mask, "view"),
    "depth": Loss(reference_depth, "view"),
    "normal": Loss(normal_disagreement, "view_normals", ramp=1.0, on_normals=True),
    "entropy": Loss(entropy, "weights", ramp=2.0),
    "orientation": Loss(orientation, "sample_normals", on_normals=True),
    "orientation_by_density": Loss(orientation_by_density, "marched_normals", on_normals=True),
    "normal_nearby": Loss(normal_difference, "nearby_normals", on_normals=True),
    "normal_consistency": Loss(normal_consistency, "mesh"),
    "laplacian": Loss(lambda vertices, faces, edges: laplacian(vertices, edges), "mesh"),
    "opacity": Loss(opacity, "opacity"),
    "opacity_entropy": Loss(lambda opacity: entropy(opacity.flatten()), "opacity"),
    "normal_smoothness": Loss(smoothness, "normal_image", on_normals=True),
    "normal_blur": Loss(blur_difference, "normal_image", on_normals=True),
    "normal_blur_detached": Loss(blur_difference_detached, "normals", on_normals=True),
    "total_variation": Loss(
        lambda density, generator, device: total_variation(density, generator=generator, device=device), "density"
    ),
    "point_colour": Loss(lifted_colours, "colours"),
}


def compute(weights: Losses, inputs: LossInputs) -> dict[str, Tensor]:
    """Compute the losses whose weight is not 0 and whose inputs are available.

    Args:
        weights: the loss weights of the stage.
        inputs: functions that return the arguments of losses; they are called only for losses that are computed.

    Returns:
        Name of the loss -> scalar, before it is multiplied by the weight.
    """
    values = {}
    for name, row in LOSSES.items():
        if row.needs in inputs and getattr(weights, name) and (arguments := inputs[row.needs]()) is not None:
            values[name] = row.function(*arguments)
    return values


def rendering_inputs(rendering: Rendering) -> LossInputs:
    """Return the inputs for `compute` that every rendering has."""
    return {
        "opacity": lambda: (rendering.opacity,),
        "normal_image": lambda: None if rendering.normal is None else (normal_image(rendering),),
        "normals": lambda: None if rendering.normal is None else (rendering.normal,),
    }


def sample_inputs(
    samples: Samples | None, regularized: str = "marched", generator: torch.Generator | None = None
) -> LossInputs:
    """Return the inputs for `compute` that the samples of a volume rendering have.

    Args:
        samples: the samples; None if there are none.
        regularized: the samples that means are over, "marched" or "visible" (see `NeRFSettings.regularized`).
        generator: random state for the steps of `Samples.nearby_normals`.
    """
    if samples is None:
        return {}
    count = samples.marched if regularized == "marched" else len(samples.weights)
    return {
        "weights": lambda: (samples.weights, count),
        "sample_normals": lambda: (
            None if samples.normals is None else (samples.weights, samples.normals, samples.directions, count)
        ),
        "marched_normals": lambda: None if samples.marched_normals is None else samples.marched_normals(),
        "nearby_normals": lambda: (
            None
            if samples.marched_normals is None or samples.nearby_normals is None
            else (samples.marched_normals()[1], samples.nearby_normals(generator))
        ),
    }
