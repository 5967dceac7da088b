"""The optimisation of one scene for one example: the same flat loop for the coarse and the fine stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from magic123.camera import Camera, sample_novel
from magic123.config import PriorSettings, Stage
from magic123.errors import NonFinite
from magic123.example import Example
from magic123.losses import Target, ramp, reference_losses, reference_target
from magic123.priors.precision import in_float32
from magic123.priors.sds import NonFiniteGradient, Prior, score_distillation
from magic123.resume import Unfinished, loop_state, restore_loop

RAMPS = {"entropy": 2.0, "normal": 1.0}  # these losses gain their weight over the stage, see losses.ramp
NORMALS = ("normal", "orientation", "normal_smoothness", "normal_blur")


@dataclass(frozen=True)
class Known:
    """The reference view at training size."""

    camera: Camera
    target: Target


def known_view(example: Example, stage: Stage, device="cpu") -> Known:
    size = round(stage.resolution * stage.reference_scale)
    c = example.camera
    target = reference_target(example.resized(size), stage.losses, erode_edges=stage.erode_edges, device=device)
    return Known(Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, size), target)


def novel_shading(stage: Stage, progress: float, generator: torch.Generator) -> tuple[str, float]:
    """(mode, ambient) of one novel view: normal maps first, then textureless and lambertian in their shares."""
    if progress < stage.shading.normal_until:
        return "normal", 1.0
    pick, low_to_high = torch.rand(2, generator=generator).tolist()
    low, high = stage.shading.ambient
    ambient = low + (high - low) * low_to_high
    if pick < stage.shading.textureless:
        return "textureless", ambient
    return "lambertian", ambient


def plain_if_possible(mode: str, ambient: float, stage: Stage) -> str:
    """Lambertian with ambient 1 is albedo; without losses on normals the cheaper name saves computing them."""
    if mode == "lambertian" and ambient == 1.0 and not any(getattr(stage.losses, name) for name in NORMALS):
        return "albedo"
    return mode


def reference_step(scene, known: Known, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
    """Unweighted losses at the reference view; rays are shifted together a little, against grid artefacts."""
    offsets = stage.ray_noise * torch.randn(2, 3, generator=generator)
    rendering = scene.render(
        known.camera,
        mode=plain_if_possible("lambertian", 1.0, stage),
        ambient=1.0,
        background=torch.ones(3),
        generator=generator,
        origins_offset=offsets[0],
        directions_offset=offsets[1],
    )
    return reference_losses(rendering, known.target, stage.losses) | scene.regularizers(rendering, stage.losses)


def novel_step(
    scene, priors: dict[str, Prior], known: Known, stage: Stage, progress: float, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """At one random view: (unweighted regularizers, weighted score distillation losses, their gradient norms)."""
    camera = sample_novel(stage.cameras, 1, stage.resolution, generator)
    mode, ambient = novel_shading(stage, progress, generator)
    colour, share = torch.rand(3, generator=generator), torch.rand((), generator=generator)
    background = colour if share < stage.random_background else torch.ones(3)
    rendering = scene.render(
        camera, mode=plain_if_possible(mode, ambient, stage), ambient=ambient, background=background, generator=generator
    )
    guidance, norms = {}, {}
    for name, prior in priors.items():
        settings: PriorSettings = stage.priors[name]
        guidance[name], info = score_distillation(
            prior,
            rendering.rgb,
            camera,
            settings=settings,
            generator=generator,
            reference_camera=known.camera,
            loss_scale=stage.loss_scale,
        )
        norms[name] = info["gradient_norm"]
    return scene.regularizers(rendering, stage.losses), guidance, norms


def sees_reference(step: int, stage: Stage) -> bool:
    return step < stage.reference_warmup or step % stage.reference_interval == 0


def step_losses(
    scene, known: Known, priors: dict[str, Prior], stage: Stage, step: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """(weighted sum of a step's losses, what to log of them). Raises NonFinite."""
    progress, guidance, norms = step / stage.steps, {}, {}
    if sees_reference(step, stage):
        terms = reference_step(scene, known, stage, generator)
    else:
        try:
            terms, guidance, norms = novel_step(scene, priors, known, stage, progress, generator)
        except NonFiniteGradient as error:
            raise NonFinite(f"step {step}: {error}") from error
    shares = {name: ramp(progress, RAMPS[name]) if name in RAMPS else 1.0 for name in terms}
    weighted = [getattr(stage.losses, name) * shares[name] * value for name, value in terms.items()]
    total = sum([*weighted, *guidance.values()], start=torch.zeros(()))
    values = {name: value.item() for name, value in terms.items()} | {f"{name}_gradient": norm for name, norm in norms.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise NonFinite(f"step {step}: {broken[0]} is no longer finite; lower its weight or the learning rates")
    return total, values


def differentiate(scene, known, priors, stage: Stage, step: int, generator, optimizer) -> dict[str, float]:
    """Gives the optimiser's parameters a step's gradients; what to log of it. Raises NonFinite."""
    optimizer.zero_grad(set_to_none=True)
    total, values = step_losses(scene, known, priors, stage, step, generator)
    if total.requires_grad:  # an empty picture without regularizers has nothing to say
        total.backward()
        norms = torch._foreach_norm([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
        if not torch.isfinite(torch.stack(norms)).all():
            raise NonFinite(f"step {step}: a gradient is no longer finite; lower the learning rates")
    return values


def differentiate_again(
    error: NonFinite, chance: Tensor, retries: Tensor, scene, known, priors, stage: Stage, step: int, generator, optimizer
) -> dict[str, float]:
    """The same step, from the same `chance`, with priors in float32. `retries` counts. Raises `error` where that is no help."""
    if all(settings.dtype == "float32" for settings in stage.priors.values()):
        raise error
    retries += 1
    if retries > stage.float32_retries:
        raise NonFinite(
            f"{error}; {stage.float32_retries} steps were done again in float32, and float32_retries allows no more"
        )
    generator.set_state(chance)
    with in_float32(priors.values()):
        return differentiate(scene, known, priors, stage, step, generator, optimizer)


def optimise(
    scene: nn.Module,
    example: Example,
    priors: dict[str, Prior],
    stage: Stage,
    generator: torch.Generator,
    log: Callable[[int, dict[str, float]], None],
    unfinished: Unfinished,
) -> int:
    """Runs `stage.steps` steps; afterwards the scene holds the EMA of its weights. `log(step, values)` is called at each.

    Adam with betas (0.9, 0.99) and eps 1e-15, no schedule. Goes on from what `unfinished` holds; `log` adds to its rows.
    Returns how many steps were done again in float32. Raises NonFinite, and Stopped when a signal asks to leave.
    """
    known = known_view(example, stage)
    groups = scene.parameter_groups(stage.learning_rates)
    if not groups or not stage.steps:
        return 0
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    average = [p.detach().clone() for p in parameters]
    retries = torch.zeros((), dtype=torch.int64)

    def tensors() -> dict[str, Tensor]:
        return {**scene.state_dict(), **{f"average.{i}": a for i, a in enumerate(average)}, "retries": retries}

    restore_loop(unfinished.load(), tensors(), optimizer, generator)
    for step in range(len(unfinished.rows), stage.steps):
        scene.before_step(step, stage.steps, generator)
        chance = generator.get_state()
        try:
            values = differentiate(scene, known, priors, stage, step, generator, optimizer)
        except NonFinite as error:
            again = (error, chance, retries)
            values = differentiate_again(*again, scene, known, priors, stage, step, generator, optimizer)
        optimizer.step()
        if (step + 1) % stage.ema_interval == 0:
            updates = (step + 1) // stage.ema_interval
            decay = min(stage.ema_decay, (1 + updates) / (10 + updates))  # a young average forgets faster
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        log(step, values)
        unfinished.after_step(lambda: loop_state(tensors(), optimizer, generator))
    unfinished.after_loop(lambda: loop_state(tensors(), optimizer, generator))
    if stage.ema_decay and stage.steps >= stage.ema_interval:
        with torch.no_grad():
            for p, a in zip(parameters, average, strict=True):
                p.copy_(a)
    return int(retries)
