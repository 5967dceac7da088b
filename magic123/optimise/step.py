"""One step of a stage: its losses at the reference view and at novel ones, and their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import sample_novel
from magic123.optimise.guidance import guide, replacements
from magic123.optimise.inputs import StepInputs
from magic123.optimise.views import (
    has_novel_view,
    is_front_step,
    novel_background,
    novel_shading,
    plain_if_possible,
    sees_reference,
    shows_latents,
)
from magic123.priors.offload import on_device, without_networks
from magic123.priors.precision import priors_in_float32
from magic123.priors.sds import non_finite_message
from magic123.priors.speed import on_streams
from magic123.records.errors import NonFinite
from magic123.render.losses import LOSSES, reference_losses
from magic123.render.rendering import RenderOptions
from magic123.settings.stage import NeRFStage


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, on their devices: computing them does not wait for a device.

    Attributes:
        total: weighted sum, the scalar to differentiate.
        terms: unweighted losses by name, scalars.
        norms: norm of each prior's gradient at the latents, float64 scalars.
        diffusion_steps: diffusion steps at which each prior was evaluated, [B].
        distances: distance of each clip prior from the reference picture.
    """

    total: Tensor
    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    diffusion_steps: dict[str, Tensor]
    distances: dict[str, Tensor]


def reference_step(inputs: StepInputs) -> dict[str, Tensor]:
    """Return the unweighted losses at the reference view, scalars by name.

    All rays are shifted by the same small random offsets, which reduces artefacts of the hash grid.
    """
    scene, reference, stage, generator = inputs.scene, inputs.reference, inputs.stage, inputs.generator
    assert reference is not None
    offsets = stage.ray_noise * torch.randn(2, 3, generator=generator)
    if stage.ray_noise_fades:
        offsets = offsets * (1 - inputs.step / stage.steps)
    camera, target = reference.camera, reference.target
    if isinstance(stage, NeRFStage) and stage.reference_pixels:
        drawn = torch.randint(camera.height * camera.width, (stage.reference_pixels,), generator=generator)
        camera, target = replace(camera, pixels=drawn), target.at(to_device(drawn, target.rgb.device))
    random = stage.reference_background == "random"
    background: Tensor | None = torch.rand(3, generator=generator) if random else torch.ones(3)
    if stage.reference_background == "learned":
        background = scene.learned_background(camera, offsets[1])
    rendering = scene.render(
        camera,
        RenderOptions(
            mode=plain_if_possible("lambertian", 1.0, stage),
            ambient=1.0,
            background=background,
            generator=generator,
            origins_offset=offsets[0],
            directions_offset=offsets[1],
        ),
    )
    if background is not None and random and not (target.soft and target.over_all):  # otherwise the loss ignores the background
        target = target.over(background)
    compared = reference_losses(rendering, target, stage.losses)
    return compared if stage.reference_beside_novel else compared | scene.regularizers(rendering, stage.losses)


def novel_step(inputs: StepInputs) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Render one random view, and return its losses.

    Returns:
        The unweighted regularizers by name, and the weighted losses and the values to log by prior, see `guide`.
    """
    scene, priors, stage, step, generator = inputs.scene, inputs.priors, inputs.stage, inputs.step, inputs.generator
    camera = sample_novel(stage.cameras, 1, stage.resolution, generator)
    mode, ambient = novel_shading(stage, step / stage.steps, generator)
    background = novel_background(stage, step, generator)
    offsets: dict[str, Tensor] = {}
    if stage.front_steps.ray_noise and is_front_step(step, stage):
        noise = stage.front_steps.ray_noise * torch.randn(2, 3, generator=generator)
        offsets = {"origins_offset": noise[0], "directions_offset": noise[1]}
    if background is None:
        background = scene.learned_background(camera, offsets.get("directions_offset"))
    rendering = scene.render(
        camera,
        RenderOptions(
            mode=plain_if_possible(mode, ambient, stage), ambient=ambient, background=background, generator=generator, **offsets
        ),
    )
    guidance: dict[str, Tensor] = {}
    logged: dict[str, dict[str, Tensor]] = {}
    shown = torch.cat([rendering.rgb, rendering.opacity], -1) if shows_latents(stage, step) else rendering.rgb
    with on_streams(priors.values(), shown) as stream_of:
        for name, prior in priors.items():
            asked = [prior, *(priors[clip] for clip in replacements(name, stage) if clip in priors)]
            apart = any(model.offloaded is not None for model in asked)
            rgb = shown.detach().requires_grad_() if apart else shown
            with stream_of(prior), on_device(*(model.offloaded for model in asked)):
                loss, logged_for, figures = guide(name, rgb, camera, inputs)
                if apart and loss is not None:
                    loss = without_networks(loss, rgb, shown)
            if loss is not None:
                guidance[logged_for], logged[logged_for] = loss, figures
    return scene.regularizers(rendering, stage.losses), guidance, logged


def step_losses(inputs: StepInputs) -> StepLosses:
    """Return all losses of a step, at the reference view, at a novel one, or at both if the stage says so."""
    priors, stage, step = inputs.priors, inputs.stage, inputs.step
    guidance: dict[str, Tensor] = {}
    logged: dict[str, dict[str, Tensor]] = {}
    terms: dict[str, Tensor] = {}
    if sees_reference(step, stage):
        terms = reference_step(inputs)
    if has_novel_view(step, stage):
        ready = (name for name in priors if step >= max(stage.priors_from, stage.priors[name].from_step))
        regularizers, guidance, logged = novel_step(replace(inputs, priors={name: priors[name] for name in ready}))
        terms |= regularizers
    weighted = [
        getattr(stage.losses, name) * LOSSES[name].ramp_factor(step / stage.steps) * value for name, value in terms.items()
    ]
    total = sum([*weighted, *guidance.values()], start=torch.zeros(()))
    norms, diffusion_steps, distances = (
        {name: figures[key] for name, figures in logged.items() if key in figures} for key in ("gradient_norm", "t", "distance")
    )
    return StepLosses(total, terms, norms, diffusion_steps, distances)


def backward(total: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Compute the gradients of the optimiser's parameters.

    Args:
        total: the scalar to differentiate.
        optimizer: the optimiser whose parameters get gradients.

    Returns:
        Whether all gradients are finite, as a tensor, so that this does not synchronise with the device.
    """
    if not total.requires_grad:  # an empty rendering without regularizers has no gradient
        return torch.ones((), dtype=torch.bool)
    total.backward()
    norms = torch._foreach_norm([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
    return torch.isfinite(torch.stack(norms)).all()


def read(losses: StepLosses, finite: Tensor, inputs: StepInputs) -> dict[str, float]:
    """Return the values to log of a step, by name, in one copy to the CPU: the only place where the loop waits for a device.

    Args:
        losses: the result of `step_losses`.
        finite: the result of `backward`.
        inputs: inputs of the step.

    Raises:
        NonFinite: a loss or a gradient is not finite.
    """
    tensors = losses.terms | {f"{name}_gradient": norm for name, norm in losses.norms.items()}
    tensors |= {f"{name}_distance": distance for name, distance in losses.distances.items()}
    # float64 represents every float32 exactly; nearly all values are on the device of the total
    scalars = [value.detach().to(losses.total.device, torch.float64) for value in [*tensors.values(), finite]]
    *numbers, gradients_finite = torch.stack(scalars).tolist()
    values: dict[str, float] = dict(zip(tensors, numbers, strict=True))
    failing = tuple(name for name in losses.diffusion_steps if not math.isfinite(values[f"{name}_gradient"]))
    if failing:
        name = failing[0]
        message = non_finite_message(inputs.priors[name], inputs.stage.priors[name], losses.diffusion_steps[name])
        raise NonFinite(f"step {inputs.step}: {message}", failing)
    non_finite = [name for name, value in values.items() if not math.isfinite(value)]
    if non_finite:
        raise NonFinite(f"step {inputs.step}: {non_finite[0]} is no longer finite; lower its weight or the learning rates")
    if not gradients_finite:
        raise NonFinite(f"step {inputs.step}: a gradient is no longer finite; lower the learning rates")
    return values


def differentiate(inputs: StepInputs, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Compute the gradients of one step, and return the values to log, see `step_losses` and `read`.

    Raises:
        NonFinite: a loss or a gradient is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = step_losses(inputs)
    return read(losses, backward(losses.total, optimizer), inputs)


def differentiate_again(
    inputs: StepInputs, optimizer: torch.optim.Optimizer, error: NonFinite, random_state: Tensor, retries: Tensor
) -> dict[str, float]:
    """Repeat a non-finite step with the priors that failed in float32, or with all of them if that is unknown.

    Args:
        inputs: inputs of the step; the generator's state is set to `random_state`.
        optimizer: the optimiser whose parameters get gradients.
        error: the error of the first attempt.
        random_state: the generator's state before the first attempt.
        retries: number of repeated steps; incremented in place.

    Raises:
        NonFinite: `error` itself if none of these priors is in half precision; otherwise if the stage allows no more
            repetitions, or the repeated step is not finite either.
    """
    priors, stage = inputs.priors, inputs.stage
    suspects = [name for name in error.priors or priors if stage.priors[name].dtype != "float32"]
    if not suspects:
        raise error
    retries += 1
    if retries > stage.float32_retries:
        raise NonFinite(
            f"{error}; {stage.float32_retries} steps were repeated in float32, which is all that float32_retries allows"
        )
    inputs.generator.set_state(random_state)
    with priors_in_float32(priors[name] for name in suspects):
        return differentiate(inputs, optimizer)
