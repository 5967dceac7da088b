"""The guidance of a stage's priors at novel views."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera
from magic123.optimise.inputs import StepInputs
from magic123.optimise.views import has_novel_view, is_front_step
from magic123.priors.clip_reference import ClipReference, clip_consistency, denoised_consistency, replaces_distillation
from magic123.priors.latent_diffusion import LatentPrior
from magic123.priors.sds import NoisePrediction, distil, predict_noise
from magic123.settings.priors import ClipSettings, DenoisedClipSettings, DiffusionSettings, PromptedSettings
from magic123.settings.stage import OptimisedStage


def loss_scale_at(stage: OptimisedStage, step: int) -> float:
    """Return the divisor of score-distillation gradients at a step: `loss_scale`, doubled every `loss_scale_doubling` steps.

    This is torch.amp.GradScaler's scale if nothing overflows: its n-th doubling comes after n * growth_interval steps.
    """
    return stage.loss_scale * 2.0 ** (step // stage.loss_scale_doubling if stage.loss_scale_doubling else 0)


def shows_guidance(step: int, stage: OptimisedStage) -> bool:
    """Return whether the guidance of a step is shown: it is at the first novel view in every `watch.guidance_every` steps."""
    every = stage.watch.guidance_every
    if not every or not has_novel_view(step, stage):
        return False
    return not any(has_novel_view(earlier, stage) for earlier in range(step // every * every, step))


def guide(name: str, rgb: Tensor, camera: Camera, inputs: StepInputs) -> tuple[Tensor | None, str, dict[str, Tensor]]:
    """Return the guidance of one prior at novel views.

    Args:
        name: name of the prior in the stage.
        rgb: rendered pictures [B, H, W, 3] in [0, 1]; with opacity as a fourth channel, all four stand in for latents.
        camera: the B cameras that they were rendered from.
        inputs: inputs of the step.

    Returns:
        The weighted loss (None if this prior has none of its own), the name of the prior that it is logged for, and the values
        to log, see `sds.distil` and `clip_reference.clip_consistency`.
    """
    stage, step, reference = inputs.stage, inputs.step, inputs.reference
    prior, settings = inputs.priors[name], stage.priors[name]
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
    latents = None
    if rgb.shape[-1] == 4:
        assert isinstance(prior, LatentPrior)  # the settings refuse others
        latents, rgb = prior.as_latents(to_device(rgb, prior.alphas_cumprod.device)), rgb[..., :3]
    prediction = predict_noise(prior, rgb, shown, settings=settings, generator=inputs.generator, latents=latents)
    if inputs.watch is not None and shows_guidance(step, stage):
        inputs.watch.guidance(name, rgb, prior, prediction)
    if replacing := replacing_prior(name, prediction, camera, inputs):
        clip, clip_settings = inputs.priors[replacing], stage.priors[replacing]
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


def replacements(name: str, stage: OptimisedStage) -> dict[str, DenoisedClipSettings]:
    """Return the clip priors of a stage that can replace the score distillation of the diffusion prior `name`."""
    return {
        clip: settings
        for clip, settings in stage.priors.items()
        if isinstance(settings, DenoisedClipSettings) and settings.denoiser == name
    }


def replacing_prior(name: str, prediction: NoisePrediction, camera: Camera, inputs: StepInputs) -> str | None:
    """Return the clip prior that replaces the score distillation of a prediction, if any.

    Args:
        name: name of the diffusion prior that made the prediction.
        prediction: its prediction at novel views.
        camera: cameras of the B novel views; azimuths are measured from the reference view's, or from 0 without one.
        inputs: inputs of the step.
    """
    priors, reference = inputs.priors, inputs.reference
    for clip, settings in replacements(name, inputs.stage).items():
        if clip in priors:
            denoiser = priors[name]
            assert not isinstance(denoiser, ClipReference)
            azimuth, steps = float(reference.camera.azimuth[0]) if reference else 0.0, len(denoiser.alphas_cumprod)
            replaced = replaces_distillation(prediction, camera, settings=settings, reference_azimuth=azimuth, steps=steps)
            return clip if replaced else None
    return None
