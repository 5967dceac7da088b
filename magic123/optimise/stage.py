"""The optimisation of one scene for one example: the same flat loop for the coarse and the fine stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from magic123.example.example import Example
from magic123.geometry.camera import Camera, sample_novel
from magic123.optimise.resume import Unfinished, loop_state, restore_loop
from magic123.priors.clip_reference import clip_consistency, denoised_consistency, looks_at
from magic123.priors.precision import in_float32
from magic123.priors.prior import Prior
from magic123.priors.sds import Answer, ask, distil, gradient_trouble
from magic123.priors.speed import on_streams
from magic123.records.errors import NonFinite
from magic123.render.losses import LOSSES, Target, reference_losses, reference_target
from magic123.settings.priors import ClipSettings, DenoisedClipSettings
from magic123.settings.stage import Stage


@dataclass(frozen=True)
class ReferenceView:
    """The reference view at training size."""

    camera: Camera
    target: Target


@dataclass(frozen=True)
class StepLosses:
    """What one step computed, still on its device: nothing here waited for the device to finish."""

    total: Tensor  # weighted sum, the one to differentiate
    terms: dict[str, Tensor]  # unweighted losses
    norms: dict[str, Tensor]  # of each prior's gradient at the latents
    drawn: dict[str, Tensor]  # the diffusion steps that each prior was asked at
    distances: dict[str, Tensor]  # of what a clip prior sees from the reference picture


def loss_scale_at(stage: Stage, step: int) -> float:
    """What score-distillation gradients are divided by at a step: `loss_scale`, doubled every `loss_scale_doubling` steps.

    As torch.amp.GradScaler without an overflow: its n-th doubling comes after n * growth_interval steps.
    """
    return stage.loss_scale * 2.0 ** (step // stage.loss_scale_doubling if stage.loss_scale_doubling else 0)


def reference_view(example: Example, stage: Stage, device="cpu") -> ReferenceView | None:
    """The target on `device`; the camera stays on the CPU, where the novel ones are drawn.

    None for a stage that never sees the picture, which its example need not have then.
    """
    if not stage.sees_reference:
        return None
    size = round(stage.resolution * stage.reference_scale)
    c = example.camera
    target = reference_target(example.resized(size), stage.losses, erode_edges=stage.erode_edges, device=device)
    return ReferenceView(Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, size), target)


def novel_shading(stage: Stage, progress: float, generator: torch.Generator) -> tuple[str, float]:
    """(mode, ambient) of one novel view: normal maps first, then textureless, albedo and lambertian in their shares."""
    if progress < stage.shading.normal_until:
        return "normal", 1.0
    pick, low_to_high = torch.rand(2, generator=generator).tolist()
    low, high = stage.shading.ambient
    ambient = low + (high - low) * low_to_high
    if pick < stage.shading.textureless:
        return "textureless", ambient
    if pick < stage.shading.textureless + stage.shading.albedo:
        return "lambertian", 1.0
    return "lambertian", ambient


def plain_if_possible(mode: str, ambient: float, stage: Stage) -> str:
    """Lambertian with ambient 1 is albedo; without losses on normals the cheaper name saves computing them."""
    if (
        mode == "lambertian"
        and ambient == 1.0
        and not any(row.on_normals and getattr(stage.losses, name) for name, row in LOSSES.items())
    ):
        return "albedo"
    return mode


def reference_step(scene, reference: ReferenceView, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
    """Unweighted losses at the reference view; rays are shifted together a little, against grid artefacts."""
    offsets = stage.ray_noise * torch.randn(2, 3, generator=generator)
    rendering = scene.render(
        reference.camera,
        mode=plain_if_possible("lambertian", 1.0, stage),
        ambient=1.0,
        background=torch.ones(3),
        generator=generator,
        origins_offset=offsets[0],
        directions_offset=offsets[1],
    )
    return reference_losses(rendering, reference.target, stage.losses) | scene.regularizers(rendering, stage.losses)


def guide(
    name: str,
    rgb: Tensor,
    camera: Camera,
    priors: dict[str, Prior],
    reference: ReferenceView | None,
    stage: Stage,
    step: int,
    generator,
) -> tuple[Tensor | None, str, dict[str, Tensor]]:
    """Return the guidance of a prior at a view: (weighted loss or None, the prior that it counts for, figures to log)."""
    prior, settings = priors[name], stage.priors[name]
    if isinstance(settings, DenoisedClipSettings):  # applied where its denoiser guides
        return None, name, {}
    if isinstance(settings, ClipSettings):
        loss, figures = clip_consistency(prior, rgb, camera, settings=settings)
        return loss, name, figures
    answer = ask(prior, rgb, camera, settings=settings, generator=generator)
    if judge := replacing_prior(name, answer, camera, priors, reference, stage):
        loss, figures = denoised_consistency(priors[judge], prior, answer, settings=stage.priors[judge])
        return loss.to(rgb.device), judge, figures
    seen, scale = reference.camera if reference else None, loss_scale_at(stage, step)
    loss, figures = distil(prior, answer, camera, settings=settings, reference_camera=seen, loss_scale=scale)
    return loss.to(rgb.device), name, figures


def novel_step(
    scene, priors: dict[str, Prior], reference: ReferenceView | None, stage: Stage, step: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """At one random view: (unweighted regularizers, weighted losses of the priors, the figures to log of those)."""
    camera = sample_novel(stage.cameras, 1, stage.resolution, generator)
    mode, ambient = novel_shading(stage, step / stage.steps, generator)
    colour, share = torch.rand(3, generator=generator), torch.rand((), generator=generator)
    background = colour if share < stage.random_background else torch.ones(3)
    rendering = scene.render(
        camera, mode=plain_if_possible(mode, ambient, stage), ambient=ambient, background=background, generator=generator
    )
    guidance, logged = {}, {}
    with on_streams(priors.values(), rendering.rgb) as place:
        for name, prior in priors.items():
            with place(prior):
                loss, counted_for, figures = guide(name, rendering.rgb, camera, priors, reference, stage, step, generator)
            if loss is not None:
                guidance[counted_for], logged[counted_for] = loss, figures
    return scene.regularizers(rendering, stage.losses), guidance, logged


def replacing_prior(
    name: str, answer: Answer, camera: Camera, priors: dict[str, Prior], reference: ReferenceView | None, stage: Stage
) -> str | None:
    """The clip prior that takes the place of score distillation for this answer of the diffusion prior `name`, if any."""
    for judge, settings in stage.priors.items():
        if isinstance(settings, DenoisedClipSettings) and settings.denoiser == name and judge in priors:
            azimuth = float(reference.camera.azimuth[0]) if reference else 0.0
            how = {"settings": settings, "reference_azimuth": azimuth, "steps": len(priors[name].alphas_cumprod)}
            return judge if looks_at(answer, camera, **how) else None
    return None


def sees_reference(step: int, stage: Stage) -> bool:
    """Every step of the warm-up, then every n-th; an interval of 0: none."""
    return step < stage.reference_warmup or (stage.reference_interval > 0 and step % stage.reference_interval == 0)


def step_losses(
    scene, reference: ReferenceView | None, priors: dict[str, Prior], stage: Stage, step: int, generator: torch.Generator
) -> StepLosses:
    """All losses of a step."""
    guidance, figures = {}, {}
    if sees_reference(step, stage):
        terms = reference_step(scene, reference, stage, generator)
    else:
        terms, guidance, figures = novel_step(scene, priors, reference, stage, step, generator)
    weighted = [getattr(stage.losses, name) * LOSSES[name].share(step / stage.steps) * value for name, value in terms.items()]
    total = sum([*weighted, *guidance.values()], start=torch.zeros(()))
    keys = ("gradient_norm", "t", "distance")
    return StepLosses(total, terms, *({name: one[key] for name, one in figures.items() if key in one} for key in keys))


def backward(total: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Compute the gradients of the optimiser's parameters; return whether all are finite, a scalar not read yet."""
    if not total.requires_grad:  # an empty picture without regularizers has no gradient
        return torch.ones((), dtype=torch.bool)
    total.backward()
    norms = torch._foreach_norm([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
    return torch.isfinite(torch.stack(norms)).all()


def read(losses: StepLosses, finite: Tensor, priors: dict[str, Prior], stage: Stage, step: int) -> dict[str, float]:
    """Return what to log of a step, brought to the CPU in one transfer: the only place where the loop waits for values.

    Raises NonFinite.
    """
    values = losses.terms | {f"{name}_gradient": norm for name, norm in losses.norms.items()}
    values |= {f"{name}_distance": distance for name, distance in losses.distances.items()}
    # float64 holds every float32 exactly; on the device of the total, where nearly all of them are
    numbers = [value.detach().to(losses.total.device, torch.float64) for value in [*values.values(), finite]]
    *numbers, finite = torch.stack(numbers).tolist()
    values = dict(zip(values, numbers, strict=True))
    for name, drawn in losses.drawn.items():
        if not math.isfinite(values[f"{name}_gradient"]):
            raise NonFinite(f"step {step}: {gradient_trouble(priors[name], stage.priors[name], drawn)}")
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise NonFinite(f"step {step}: {broken[0]} is no longer finite; lower its weight or the learning rates")
    if not finite:
        raise NonFinite(f"step {step}: a gradient is no longer finite; lower the learning rates")
    return values


def differentiate(scene, reference, priors, stage: Stage, step: int, generator, optimizer) -> dict[str, float]:
    """Compute the gradients of one step and return what to log of it. Raises NonFinite."""
    optimizer.zero_grad(set_to_none=True)
    losses = step_losses(scene, reference, priors, stage, step, generator)
    return read(losses, backward(losses.total, optimizer), priors, stage, step)


def differentiate_again(
    error: NonFinite,
    random_state: Tensor,
    retries: Tensor,
    scene,
    reference,
    priors,
    stage: Stage,
    step: int,
    generator,
    optimizer,
) -> dict[str, float]:
    """Repeat a step from the same `random_state` with priors in float32, and count it in `retries`.

    Raises `error` where no prior is in half precision, NonFinite where the stage allows no more repetitions.
    """
    if all(settings.dtype == "float32" for settings in stage.priors.values()):
        raise error
    retries += 1
    if retries > stage.float32_retries:
        raise NonFinite(
            f"{error}; {stage.float32_retries} steps were done again in float32, and float32_retries allows no more"
        )
    generator.set_state(random_state)
    with in_float32(priors.values()):
        return differentiate(scene, reference, priors, stage, step, generator, optimizer)


def optimise(
    scene: nn.Module,
    example: Example,
    priors: dict[str, Prior],
    stage: Stage,
    generator: torch.Generator,
    log: Callable[[int, dict[str, float]], None],
    unfinished: Unfinished,
) -> int:
    """Run `stage.steps` steps; afterwards the scene holds the EMA of its weights. `log(step, values)` is called at each.

    Adam with betas (0.9, 0.99) and eps 1e-15, no schedule. Resumes from what `unfinished` holds; `log` adds to its rows.
    Returns how many steps were done again in float32. Raises NonFinite, and Stopped when a signal asks to leave.
    """
    groups = scene.parameter_groups(stage.learning_rates)
    if not groups or not stage.steps:
        return 0
    parameters = [p for group in groups for p in group["params"]]
    reference = reference_view(example, stage, parameters[0].device)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    average = [p.detach().clone() for p in parameters]
    retries = torch.zeros((), dtype=torch.int64)

    def tensors() -> dict[str, Tensor]:
        return {**scene.state_dict(), **{f"average.{i}": a for i, a in enumerate(average)}, "retries": retries}

    restore_loop(unfinished.load(), tensors(), optimizer, generator)
    for step in range(len(unfinished.rows), stage.steps):
        scene.before_step(step, stage.steps, generator)
        random_state = generator.get_state()
        try:
            values = differentiate(scene, reference, priors, stage, step, generator, optimizer)
        except NonFinite as error:
            again = (error, random_state, retries)
            values = differentiate_again(*again, scene, reference, priors, stage, step, generator, optimizer)
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
