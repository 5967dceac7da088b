"""Make-it-3D's image consistency (arXiv 2303.14184): novel views should mean what the input picture means.

Plainly, `clip_consistency`, of the rendered view itself. As the paper has it, `denoised_consistency`, of what a diffusion prior
makes of the view, and only at the small steps, where that is a picture; score distillation has the large ones.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic123.geometry.camera import Camera, wrap_degrees
from magic123.priors.prior import FrozenModel, Prior
from magic123.priors.sds import Answer, timestep_bounds
from magic123.records.errors import InputError
from magic123.settings.priors import ClipSettings, DenoisedClipSettings

FILES = ("open_clip_config.json", "open_clip_model.safetensors")


class ClipReference(FrozenModel):
    """The image tower of a CLIP and what it says of one picture. `record` tells how it was made."""

    name = "clip"

    def __init__(self, network: nn.Module, reference: Tensor, size: int, mean: Tensor, deviation: Tensor):
        """reference [1, D]: unit embedding of the picture; size: pixels a side; mean and deviation [3] of its pixels."""
        self.network, self.reference, self.size = network, reference, size
        self.mean, self.deviation = mean[:, None, None], deviation[:, None, None]
        self.record: dict = {}

    @classmethod
    def load(cls, folder: Path, rgb: Tensor, *, dtype: str = "float32", device="cpu") -> ClipReference:
        """From a folder in open_clip's format; rgb [H, W, 3] in [0, 1], the reference on white. Raises InputError."""
        folder = Path(folder)
        for file in FILES:
            if not (folder / file).is_file():
                raise InputError(f"the weights folder {folder} has no {file}: it must be in open_clip's folder format")
        if dtype != "float32":
            raise InputError(f"the prior clip runs in float32 alone, and its dtype is {dtype}: leave it out")
        import open_clip

        try:
            # without require_pretrained weights that are not found leave random ones and only a line in a log
            network = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, device="cpu")
        except Exception as error:  # a damaged file raises whatever its reader raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"the weights folder {folder} holds no readable CLIP model: {reason[:300]}") from error
        visual = network.visual
        size, pixels = visual.image_size, visual.preprocess_cfg
        mean, deviation = (torch.tensor(pixels[key], device=device) for key in ("mean", "std"))
        network = network.eval().requires_grad_(False).to(device)
        prior = cls(network, torch.zeros(1, 1), size if isinstance(size, int) else size[0], mean, deviation)
        with torch.no_grad():
            prior.reference = prior.embed(rgb[None])
        prior.record = {"resolution": prior.size, "dtype": dtype, "device": str(device)}
        return prior

    def embed(self, rgb: Tensor) -> Tensor:
        """[B, H, W, 3] in [0, 1] -> unit embeddings [B, D]; differentiable."""
        pixels = rgb.permute(0, 3, 1, 2).float().to(self.mean.device)
        pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False)
        return F.normalize(self.network.encode_image((pixels - self.mean) / self.deviation).float(), dim=-1)


def clip_consistency(
    prior: ClipReference, rgb: Tensor, camera: Camera, *, settings: ClipSettings, **unused
) -> tuple[Tensor, dict[str, Tensor]]:
    """weight * (1 - cosine), summed over the batch, and {"distance"}: its mean.

    An ordinary loss: `loss_scale`, which is about score distillation, does not touch it.
    """
    distance = 1 - (prior.embed(rgb) * prior.reference).sum(-1)
    return settings.weight * distance.sum().to(rgb.device), {"distance": distance.mean().detach()}


def looks_at(answer: Answer, camera: Camera, *, settings: DenoisedClipSettings, reference_azimuth: float, steps: int) -> bool:
    """Return whether a clip prior with a denoiser replaces score distillation at this answer.

    It does where all steps of the batch are in `t_range` (of `steps`) and all views within `azimuth_within` degrees of the
    reference.
    """
    first, last = timestep_bounds(settings.t_range, steps)
    near = wrap_degrees(camera.azimuth - reference_azimuth).abs() <= settings.azimuth_within
    return bool(((answer.t >= first) & (answer.t <= last)).all()) and bool(near.all())


def denoised_consistency(
    prior: ClipReference, denoiser: Prior, answer: Answer, *, settings: DenoisedClipSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `clip_consistency`, of the pictures that a latent diffusion prior sees in its `answer`.

    The gradient takes the decoder and then the encoder back to the rendered view; the U-Net counts as given.
    """
    distance = 1 - (prior.embed(denoiser.decode(answer.denoised())) * prior.reference).sum(-1)
    return settings.weight * distance.sum(), {"distance": distance.mean().detach()}
