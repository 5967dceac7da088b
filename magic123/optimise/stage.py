"""The optimisation of one scene for one example: one loop, the same for the coarse and the fine stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from magic123.device import to_device
from magic123.example.example import Example
from magic123.geometry.camera import Camera, sample_novel
from magic123.optimise.resume import LoopCheckpoints, loop_state, restore_loop
from magic123.optimise.watch import StageWatch
from magic123.priors.clip_reference import ClipReference, clip_consistency, denoised_consistency, replaces_distillation
from magic123.priors.offload import visit, without_networks
from magic123.priors.precision import priors_in_float32
from magic123.priors.prior import Prior
from magic123.priors.sds import NoisePrediction, distil, gradient_trouble, predict_noise
from magic123.priors.speed import on_streams
from magic123.records.errors import NonFinite
from magic123.render.losses import LOSSES, Target, reference_losses, reference_target
from magic123.scenes.scene import Scene
from magic123.settings.priors import ClipSettings, DenoisedClipSettings, DiffusionSettings, PromptedSettings
from magic123.settings.stage import DMTetStage, NeRFStage, OptimisedStage, Stage

Priors = Mapping[str, Prior | ClipReference]  # by their names in the stage


@dataclass(frozen=True)
class ReferenceView:
    """The reference view at training size.

    Attributes:
        camera: on the CPU, where the novel ones are drawn.
        target: what it should look like, on the scene's device.
    """

    camera: Camera
    target: Target


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step, on their devices: nothing has waited for a device to finish.

    Attributes:
        total: weighted sum, the scalar to differentiate.
        terms: unweighted losses by name, scalars.
        norms: of each prior's gradient at the latents, float64 scalars.
        diffusion_steps: that each prior was evaluated at, [B].
        distances: from the reference picture, of each clip prior.
    """

    total: Tensor
    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    diffusion_steps: dict[str, Tensor]
    distances: dict[str, Tensor]


def loss_scale_at(stage: OptimisedStage, step: int) -> float:
    """Return the divisor of score-distillation gradients at a step: `loss_scale`, doubled every `loss_scale_doubling` steps.

    This is torch.amp.GradScaler's scale if nothing overflows: its n-th doubling comes after n * growth_interval steps.
    """
    return stage.loss_scale * 2.0 ** (step // stage.loss_scale_doubling if stage.loss_scale_doubling else 0)


def reference_view(example: Example, stage: OptimisedStage, device: torch.device | str = "cpu") -> ReferenceView | None:
    """Return the reference view of an example; None for a stage that never renders it, whose example may have no picture.

    Args:
        example: the example.
        stage: the settings, which set the view's size.
        device: of the target.
    """
    if not stage.sees_reference:
        return None
    size = round(stage.resolution * stage.reference_scale)
    c = example.camera
    target = reference_target(
        example.resized(size),
        stage.losses,
        rgb_region=stage.rgb_region,
        soft_mask=stage.soft_mask,
        erode_edges=stage.erode_edges,
        device=device,
    )
    return ReferenceView(Camera.orbit(c.polar, c.azimuth, c.radius, c.fov, size), target)


def novel_shading(stage: OptimisedStage, progress: float, generator: torch.Generator) -> tuple[str, float]:
    """Draw the shading of a novel view: normal maps first, then textureless, albedo and Lambertian in their shares.

    Args:
        stage: the settings.
        progress: share of the stage's steps that are done.
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
    """Return the mode that renders the same colours with the least work.

    Lambertian shading with ambient 1 equals "albedo", which computes no normals; it is used if no loss needs them.
    """
    if (
        mode == "lambertian"
        and ambient == 1.0
        and not any(row.on_normals and getattr(stage.losses, name) for name, row in LOSSES.items())
    ):
        return "albedo"
    return mode


def reference_step(
    scene: Scene, reference: ReferenceView, stage: OptimisedStage, step: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the unweighted losses at the reference view, scalars by name.

    All rays are shifted by the same small random offsets, against artefacts of the hash grid.
    """
    offsets = stage.ray_noise * torch.randn(2, 3, generator=generator)
    if stage.ray_noise_fades:
        offsets = offsets * (1 - step / stage.steps)
    camera, target = reference.camera, reference.target
    if isinstance(stage, NeRFStage) and stage.reference_pixels:
        drawn = torch.randint(camera.height * camera.width, (stage.reference_pixels,), generator=generator)
        camera, target = replace(camera, pixels=drawn), target.at(to_device(drawn, target.rgb.device))
    random = stage.reference_background == "random"
    background: Tensor | None = torch.rand(3, generator=generator) if random else torch.ones(3)
    if stage.reference_background == "learned":
        background = scene.learned_background(camera)
    rendering = scene.render(
        camera,
        mode=plain_if_possible("lambertian", 1.0, stage),
        ambient=1.0,
        background=background,
        generator=generator,
        origins_offset=offsets[0],
        directions_offset=offsets[1],
    )
    if background is not None and random and not (target.soft and target.over_all):  # such a loss leaves the background out
        target = target.over(background)
    compared = reference_losses(rendering, target, stage.losses)
    return compared if stage.reference_beside_novel else compared | scene.regularizers(rendering, stage.losses)


def novel_background(scene: Scene, camera: Camera, stage: OptimisedStage, generator: torch.Generator) -> Tensor:
    """Draw the background of novel views: a random colour, white, or the scene's background network, in their shares.

    Args:
        scene: the scene.
        camera: the B novel views.
        stage: the settings.
        generator: draws four numbers, and one more if there is a background network.

    Returns:
        One colour [3], or one for each pixel [B, H, W, 3].
    """
    colour, share = torch.rand(3, generator=generator), torch.rand((), generator=generator)
    network = stage.background if isinstance(stage, NeRFStage | DMTetStage) else None
    if network is not None and torch.rand((), generator=generator) < network.share:
        learned = scene.learned_background(camera)
        assert learned is not None  # the scene is built by the same settings
        return learned
    return colour if share < stage.random_background else torch.ones(3)


def guide(
    name: str,
    rgb: Tensor,
    camera: Camera,
    priors: Priors,
    reference: ReferenceView | None,
    stage: OptimisedStage,
    step: int,
    generator: torch.Generator,
    watch: StageWatch | None = None,
) -> tuple[Tensor | None, str, dict[str, Tensor]]:
    """Return the guidance of one prior at novel views.

    Args:
        name: of the prior in the stage.
        rgb: rendered pictures [B, H, W, 3] in [0, 1].
        camera: the B cameras that they were rendered from.
        priors: all priors of the stage.
        reference: the reference view, if the stage renders it.
        stage: the settings.
        step: of the stage.
        generator: draws diffusion steps and noise.
        watch: is shown what a diffusion prior answered, where the step's guidance is shown.

    Returns:
        The weighted loss (None if this prior has none of its own), the name of the prior that it is logged for, and what to
        log, see `sds.distil` and `clip_reference.clip_consistency`.
    """
    prior, settings = priors[name], stage.priors[name]
    if isinstance(settings, DenoisedClipSettings):  # applied where its denoiser guides
        return None, name, {}
    if isinstance(prior, ClipReference):
        assert isinstance(settings, ClipSettings)
        loss, figures = clip_consistency(prior, rgb, settings=settings)
        return loss, name, figures
    assert isinstance(settings, DiffusionSettings)
    shown = camera
    if reference and is_front_step(step, stage) and isinstance(settings, PromptedSettings):
        angles = {name: getattr(reference.camera, name).expand_as(camera.azimuth) for name in ("polar", "azimuth")}
        shown = replace(camera, **angles)
    prediction = predict_noise(prior, rgb, shown, settings=settings, generator=generator)
    if watch is not None and shows_guidance(step, stage):
        watch.guidance(name, rgb, prior, prediction)
    if replacing := replacing_prior(name, prediction, camera, priors, reference, stage):
        clip, clip_settings = priors[replacing], stage.priors[replacing]
        assert isinstance(clip, ClipReference) and isinstance(clip_settings, DenoisedClipSettings)
        loss, figures = denoised_consistency(clip, prior, prediction, settings=clip_settings)
        return loss.to(rgb.device), replacing, figures
    loss, figures = distil(
        prior,
        prediction,
        camera,
        settings=settings,
        reference_camera=reference.camera if reference else None,
        loss_scale=loss_scale_at(stage, step),
    )
    return loss.to(rgb.device), name, figures


def novel_step(
    scene: Scene,
    priors: Priors,
    reference: ReferenceView | None,
    stage: OptimisedStage,
    step: int,
    generator: torch.Generator,
    watch: StageWatch | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Render one random view, and return its losses; the arguments are those of `step_losses`.

    Returns:
        The unweighted regularizers by name, and the weighted loss and what to log by prior, see `guide`.
    """
    camera = sample_novel(stage.cameras, 1, stage.resolution, generator)
    mode, ambient = novel_shading(stage, step / stage.steps, generator)
    background = novel_background(scene, camera, stage, generator)
    offsets: dict[str, Tensor] = {}
    if stage.front_steps.ray_noise and is_front_step(step, stage):
        noise = stage.front_steps.ray_noise * torch.randn(2, 3, generator=generator)
        offsets = {"origins_offset": noise[0], "directions_offset": noise[1]}
    rendering = scene.render(
        camera,
        mode=plain_if_possible(mode, ambient, stage),
        ambient=ambient,
        background=background,
        generator=generator,
        **offsets,
    )
    guidance: dict[str, Tensor] = {}
    logged: dict[str, dict[str, Tensor]] = {}
    with on_streams(priors.values(), rendering.rgb) as stream_of:
        for name, prior in priors.items():
            asked = [prior, *(priors[clip] for clip in replacements(name, stage) if clip in priors)]
            apart = any(model.offloaded is not None for model in asked)
            rgb = rendering.rgb.detach().requires_grad_() if apart else rendering.rgb
            with stream_of(prior), visit(*(model.offloaded for model in asked)):
                loss, logged_for, figures = guide(name, rgb, camera, priors, reference, stage, step, generator, watch)
                if apart and loss is not None:
                    loss = without_networks(loss, rgb, rendering.rgb)
            if loss is not None:
                guidance[logged_for], logged[logged_for] = loss, figures
    return scene.regularizers(rendering, stage.losses), guidance, logged


def replacements(name: str, stage: OptimisedStage) -> dict[str, DenoisedClipSettings]:
    """Return the clip priors of a stage that can replace the score distillation of the diffusion prior `name`."""
    return {
        clip: settings
        for clip, settings in stage.priors.items()
        if isinstance(settings, DenoisedClipSettings) and settings.denoiser == name
    }


def replacing_prior(
    name: str,
    prediction: NoisePrediction,
    camera: Camera,
    priors: Priors,
    reference: ReferenceView | None,
    stage: OptimisedStage,
) -> str | None:
    """Return the clip prior that replaces the score distillation of a prediction, if any.

    Args:
        name: of the diffusion prior that made the prediction.
        prediction: at novel views.
        camera: of the B novel views.
        priors: all priors of the stage that are loaded.
        reference: the reference view; azimuths are measured from 0 without one.
        stage: the settings.
    """
    for clip, settings in replacements(name, stage).items():
        if clip in priors:
            denoiser = priors[name]
            assert not isinstance(denoiser, ClipReference)
            azimuth, steps = float(reference.camera.azimuth[0]) if reference else 0.0, len(denoiser.alphas_cumprod)
            replaced = replaces_distillation(prediction, camera, settings=settings, reference_azimuth=azimuth, steps=steps)
            return clip if replaced else None
    return None


def sees_reference(step: int, stage: OptimisedStage) -> bool:
    """Return whether a step renders the reference view: each of the warm-up does, then every `reference_interval`-th."""
    return step < stage.reference_warmup or (stage.reference_interval > 0 and step % stage.reference_interval == 0)


def is_front_step(step: int, stage: OptimisedStage) -> bool:
    """Return whether the prompts of a step say front view: all but every `front_steps.except_every`-th, counted from 1."""
    return (step + 1) % stage.front_steps.except_every != 0


def shows_guidance(step: int, stage: OptimisedStage) -> bool:
    """Return whether the guidance of a step is shown: of the first novel view in every `watch.guidance_every` steps."""
    every = stage.watch.guidance_every
    if not every or not has_novel_view(step, stage):
        return False
    return not any(has_novel_view(earlier, stage) for earlier in range(step // every * every, step))


def has_novel_view(step: int, stage: OptimisedStage) -> bool:
    """Return whether a step renders a novel view: each that does not show the reference view, or all of them."""
    return stage.reference_beside_novel or not sees_reference(step, stage)


def step_losses(
    scene: Scene,
    reference: ReferenceView | None,
    priors: Priors,
    stage: OptimisedStage,
    step: int,
    generator: torch.Generator,
    watch: StageWatch | None = None,
) -> StepLosses:
    """Return all losses of a step, at the reference view or at a novel one, or at both where the stage says so.

    Args:
        scene: the scene.
        reference: of `reference_view` for this stage.
        priors: all priors of the stage that are loaded.
        stage: the settings.
        step: of the stage.
        generator: draws what is random.
        watch: is shown the guidance of the steps that the stage's settings name.
    """
    guidance: dict[str, Tensor] = {}
    logged: dict[str, dict[str, Tensor]] = {}
    terms: dict[str, Tensor] = {}
    if sees_reference(step, stage):
        assert reference is not None
        terms = reference_step(scene, reference, stage, step, generator)
    if has_novel_view(step, stage):
        given = priors if step >= stage.priors_from else {}
        regularizers, guidance, logged = novel_step(scene, given, reference, stage, step, generator, watch)
        terms |= regularizers
    weighted = [getattr(stage.losses, name) * LOSSES[name].share(step / stage.steps) * value for name, value in terms.items()]
    total = sum([*weighted, *guidance.values()], start=torch.zeros(()))
    norms, diffusion_steps, distances = (
        {name: figures[key] for name, figures in logged.items() if key in figures} for key in ("gradient_norm", "t", "distance")
    )
    return StepLosses(total, terms, norms, diffusion_steps, distances)


def make_optimizer(groups: list[dict], stage: OptimisedStage) -> torch.optim.Optimizer:
    """Return the stage's optimiser of parameter groups, with the constants of the released codes that use it."""
    if stage.optimizer == "adam":
        fused = True if groups[0]["params"][0].is_cuda else None  # one kernel for all parameters of a dtype
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=fused)
    from timm.optim.adan import Adan

    return Adan(groups, eps=1e-8, weight_decay=2e-5, foreach=False)


def backward(total: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Compute the gradients of the optimiser's parameters.

    Args:
        total: the scalar to differentiate.
        optimizer: whose parameters get gradients.

    Returns:
        Whether all gradients are finite, as a tensor: nothing waits for the device.
    """
    if not total.requires_grad:  # an empty rendering without regularizers has no gradient
        return torch.ones((), dtype=torch.bool)
    total.backward()
    norms = torch._foreach_norm([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
    return torch.isfinite(torch.stack(norms)).all()


def read(losses: StepLosses, finite: Tensor, priors: Priors, stage: OptimisedStage, step: int) -> dict[str, float]:
    """Return what to log of a step, by name, copied to the CPU at once: the only place where the loop waits for a device.

    Args:
        losses: of `step_losses`.
        finite: of `backward`.
        priors: all priors of the stage that are loaded.
        stage: the settings.
        step: of the stage.

    Raises:
        NonFinite: a loss or a gradient is not finite.
    """
    tensors = losses.terms | {f"{name}_gradient": norm for name, norm in losses.norms.items()}
    tensors |= {f"{name}_distance": distance for name, distance in losses.distances.items()}
    # float64 holds every float32 exactly; on the device of the total, where nearly all of them are
    scalars = [value.detach().to(losses.total.device, torch.float64) for value in [*tensors.values(), finite]]
    *numbers, gradients_finite = torch.stack(scalars).tolist()
    values: dict[str, float] = dict(zip(tensors, numbers, strict=True))
    failing = tuple(name for name in losses.diffusion_steps if not math.isfinite(values[f"{name}_gradient"]))
    if failing:
        name = failing[0]
        trouble = gradient_trouble(priors[name], stage.priors[name], losses.diffusion_steps[name])
        raise NonFinite(f"step {step}: {trouble}", failing)
    non_finite = [name for name, value in values.items() if not math.isfinite(value)]
    if non_finite:
        raise NonFinite(f"step {step}: {non_finite[0]} is no longer finite; lower its weight or the learning rates")
    if not gradients_finite:
        raise NonFinite(f"step {step}: a gradient is no longer finite; lower the learning rates")
    return values


def differentiate(
    scene: Scene,
    reference: ReferenceView | None,
    priors: Priors,
    stage: OptimisedStage,
    step: int,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer,
    watch: StageWatch | None = None,
) -> dict[str, float]:
    """Compute the gradients of one step, and return what to log of it, see `step_losses` and `read`.

    Raises:
        NonFinite: a loss or a gradient is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = step_losses(scene, reference, priors, stage, step, generator, watch)
    return read(losses, backward(losses.total, optimizer), priors, stage, step)


def differentiate_again(
    attempt: Callable[[], dict[str, float]],
    error: NonFinite,
    random_state: Tensor,
    retries: Tensor,
    priors: Priors,
    stage: OptimisedStage,
    generator: torch.Generator,
) -> dict[str, float]:
    """Repeat a step that was not finite with the priors that failed in float32, or all of them where that is not known.

    Args:
        attempt: computes the gradients of the step and returns what to log of it.
        error: of the first attempt.
        random_state: the generator's before the first attempt.
        retries: counts the repeated steps, in place.
        priors: all priors of the stage that are loaded.
        stage: the settings.
        generator: its state is set to `random_state`.

    Raises:
        NonFinite: `error` itself if none of these priors is in half precision; otherwise if the stage allows no more
            repetitions, or the step is not finite again.
    """
    suspects = [name for name in error.priors or priors if stage.priors[name].dtype != "float32"]
    if not suspects:
        raise error
    retries += 1
    if retries > stage.float32_retries:
        raise NonFinite(f"{error}; {stage.float32_retries} steps were repeated in float32, and float32_retries allows no more")
    generator.set_state(random_state)
    with priors_in_float32(priors[name] for name in suspects):
        return attempt()


def optimise(
    scene: Scene,
    example: Example,
    priors: Priors,
    stage: Stage,
    generator: torch.Generator,
    log: Callable[[int, dict[str, float]], None],
    checkpoints: LoopCheckpoints,
    watch: StageWatch | None = None,
) -> tuple[int, dict[str, Tensor]]:
    """Run all steps of a stage, or those after the last checkpoint, at constant learning rates.

    Args:
        scene: optimised in place, on its device; afterwards it holds the weights of the last step.
        example: the example.
        priors: all priors of the stage that are loaded.
        stage: the settings.
        generator: draws everything random; on the CPU.
        log: called with the step and its values after each step; appends one row to those of `checkpoints`.
        checkpoints: saves the state of the loop and resumes from it.
        watch: is shown the guidance of the steps that the settings name.

    Returns:
        How many steps were repeated in float32, and the moving average of the trained tensors by their names in the
        scene's state dict; empty where the stage keeps none.

    Raises:
        NonFinite: a loss or a gradient is not finite.
        Stopped: a signal asked the process to stop, and the state is saved.
    """
    if not isinstance(stage, OptimisedStage) or not stage.steps:
        return 0, {}
    groups = scene.parameter_groups(stage.learning_rates)
    parameters = [p for group in groups for p in group["params"]]
    reference = reference_view(example, stage, parameters[0].device)
    optimizer = make_optimizer(groups, stage)
    average = [p.detach().clone() for p in parameters]
    retries = torch.zeros((), dtype=torch.int64)

    def tensors() -> dict[str, Tensor]:
        """Return the tensors of the loop that its steps change, the optimiser's aside."""
        return {**scene.state_dict(), **{f"average.{i}": a for i, a in enumerate(average)}, "retries": retries}

    restore_loop(checkpoints.load(), tensors(), optimizer, generator)
    for step in range(len(checkpoints.rows), stage.steps):
        scene.before_step(step, stage.steps, generator)
        random_state = generator.get_state()
        cameras = stage.cameras.at(step / stage.steps, example.camera)
        now = stage if cameras is stage.cameras else stage.model_copy(update={"cameras": cameras})
        attempt = partial(differentiate, scene, reference, priors, now, step, generator, optimizer, watch)
        try:
            values = attempt()
        except NonFinite as error:
            values = differentiate_again(attempt, error, random_state, retries, priors, stage, generator)
        if stage.gradient_clip_value:
            torch.nn.utils.clip_grad_value_(parameters, stage.gradient_clip_value)
        if stage.gradient_clip:
            torch.nn.utils.clip_grad_norm_(parameters, stage.gradient_clip)
        optimizer.step()
        if (step + 1) % stage.ema_interval == 0:
            updates = (step + 1) // stage.ema_interval
            decay = min(stage.ema_decay, (1 + updates) / (10 + updates))  # as torch_ema
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        log(step, values)
        checkpoints.after_step(lambda: loop_state(tensors(), optimizer, generator))
    checkpoints.after_loop(lambda: loop_state(tensors(), optimizer, generator))
    if not stage.ema_decay or stage.steps < stage.ema_interval:
        return int(retries), {}
    names = {id(p): name for name, p in scene.named_parameters()}
    return int(retries), {names[id(p)]: a for p, a in zip(parameters, average, strict=True)}
