"""Predict noise with a prior and compute its score-distillation loss in one call, as the loop does for a prior."""

from magic123.priors.sds import distil, predict_noise

# The loss scale by which Magic123's published code divides its score-distillation gradients at first.
MAGIC123_LOSS_SCALE = 65536.0


def score_distillation(prior, rgb, camera, *, settings, generator, reference_camera=None, loss_scale=1.0):
    """Return the loss and the figures of `distil` for pictures [B, H, W, 3] in [0, 1] rendered from `camera`."""
    answer = predict_noise(prior, rgb, camera, settings=settings, generator=generator)
    loss, figures = distil(prior, answer, camera, settings=settings, reference_camera=reference_camera, loss_scale=loss_scale)
    return loss.to(rgb.device), figures
