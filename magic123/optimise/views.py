"""The views of a step: which ones it renders, and their cameras, shading and background."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.render.losses import LOSSES
from magic123.render.target import Target, reference_target
from magic123.settings.stage import DMTetStage, NeRFStage, OptimisedStage


@dataclass(frozen=True)
class ReferenceView:
    """The reference view at training size.

    Attributes:
        camera: on the CPU, where novel cameras are drawn too.
        target: what the view should look like, on the scene's device.
    """

    camera: Camera
    target: Target


def reference_view(example: Example, stage: OptimisedStage, device: torch.device | str = "cpu") -> ReferenceView | None:
    """Return the reference view of an example; None for a stage that never renders it, whose example may have no picture.

    Args:
        example: the example.
        stage: the settings, which set the view's size.
        device: device of the target.
    """
    if not stage.sees_reference:
        return None
    size = round(stage.resolution * stage.reference_scale)
    c = example.camera
    target = reference_target(
        example.resized(size, stage.reference_reduction),
        stage.losses,
        rgb_region=stage.rgb_region,
        soft_mask=stage.soft_mask,
        rgb_error=stage.rgb_error,
        erode_edges=stage.erode_edges,
        device=device,
    )
    return ReferenceView(Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, size), target)


def sees_reference(step: int, stage: OptimisedStage) -> bool:
    """Return whether a step renders the reference view: during the warm-up all do, then every `reference_interval`-th."""
    return step < stage.reference_warmup or (stage.reference_interval > 0 and step % stage.reference_interval == 0)


def has_novel_view(step: int, stage: OptimisedStage) -> bool:
    """Return whether a step renders a novel view: either all do, or those that do not show the reference view."""
    return stage.reference_beside_novel or not sees_reference(step, stage)


def is_front_step(step: int, stage: OptimisedStage) -> bool:
    """Return whether a step's prompts say "front view": all except every `front_steps.except_every`-th, counted from 1."""
    return (step + 1) % stage.front_steps.except_every != 0


def novel_shading(stage: OptimisedStage, progress: float, generator: torch.Generator) -> tuple[str, float]:
    """Draw the shading of a novel view: normal maps first, then textureless, albedo and Lambertian in their shares.

    Args:
        stage: the settings.
        progress: share of the stage's steps that have been run.
        generator: draws two numbers, except while normal maps are shown.

    Returns:
        The shading mode and the share of ambient light.
    """
    if progress < stage.shading.normal_until:
        return "normal", 1.0
    if progress < stage.shading.albedo_until:
        return "lambertian", 1.0
    pick, low_to_high = torch.rand(2, generator=generator).tolist()
    low, high = stage.shading.ambient
    ambient = low + (high - low) * low_to_high
    if pick < stage.shading.textureless:
        return "textureless", ambient
    if pick < stage.shading.textureless + stage.shading.albedo:
        return "lambertian", 1.0
    return "lambertian", ambient


def plain_if_possible(mode: str, ambient: float, stage: OptimisedStage) -> str:
    """Return the cheapest mode that renders the same colours.

    Lambertian shading with ambient 1 equals "albedo", which computes no normals; it is used if no loss needs them.
    """
    if (
        mode == "lambertian"
        and ambient == 1.0
        and not any(row.on_normals and getattr(stage.losses, name) for name, row in LOSSES.items())
    ):
        return "albedo"
    return mode


def shows_latents(stage: OptimisedStage, step: int) -> bool:
    """Return whether the normal map of a step stands in for the priors' latents."""
    return step < stage.shading.latent_until * stage.steps


def novel_background(stage: OptimisedStage, step: int, generator: torch.Generator) -> Tensor | None:
    """Draw the background of novel views: a random colour, white, or the scene's background network, in their shares.

    Behind normal maps that stand in for latents it is the network, or white without one, as released.

    Args:
        stage: the settings.
        step: number of the step.
        generator: draws four numbers, and one more if there is a background network.

    Returns:
        One colour [3]; None for the network.
    """
    colour, share = torch.rand(3, generator=generator), torch.rand((), generator=generator)
    network = stage.background if isinstance(stage, NeRFStage | DMTetStage) else None
    latent = shows_latents(stage, step)
    if network is not None and torch.rand((), generator=generator) < (1 if latent else network.share):
        return None
    return colour if share < stage.random_background and not latent else torch.ones(3)
