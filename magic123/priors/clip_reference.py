"""Make-it-3D's image consistency (arXiv 2303.14184): novel views should have the CLIP embedding of the input picture.

`clip_consistency` compares the rendered view itself. `denoised_consistency` compares, as in the paper, the view that a
diffusion prior has denoised, and only at small diffusion steps, where that is a picture; at large steps score distillation is
used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from magic123.geometry.camera import Camera, wrap_degrees
from magic123.priors.latent_diffusion import Network
from magic123.priors.prior import FrozenModel, Prior
from magic123.priors.sds import NoisePrediction, timestep_bounds
from magic123.records.errors import InputError
from magic123.settings.priors import ClipSettings, DenoisedClipSettings

FILES = ("open_clip_config.json", "open_clip_model.safetensors")


class ClipReference(FrozenModel):
    """CLIP's image encoder, and its embedding of the reference picture."""

    name = "clip"

    def __init__(
        self,
        network: Network,
        reference: Float[Tensor, "1 D"],
        size: int,
        mean: Float[Tensor, 3],
        deviation: Float[Tensor, 3],
    ):
        """Create the model from a loaded network.

        Args:
            network: open_clip's model.
            reference: unit embedding of the reference picture.
            size: side in pixels of the pictures that the network reads.
            mean: of its pixels, per channel.
            deviation: standard deviation of its pixels, per channel.
        """
        self.network, self.reference, self.size = network, reference, size
        self.mean, self.deviation = mean[:, None, None], deviation[:, None, None]
        self.record: dict[str, Any] = {}

    @classmethod
    def load(
        cls, folder: Path, rgb: Float[Tensor, "H W 3"], *, dtype: str = "float32", device: torch.device | str = "cpu"
    ) -> ClipReference:
        """Load the model from a folder in open_clip's format, and embed the reference picture.

        Args:
            folder: with the FILES.
            rgb: the reference picture in [0, 1], on white.
            dtype: "float32"; nothing else is supported.
            device: of the network.

        Raises:
            InputError: a file is missing or damaged, or the dtype is another one.
        """
        folder = Path(folder)
        for file in FILES:
            if not (folder / file).is_file():
                raise InputError(f"the weights folder {folder} has no {file}: it must be in open_clip's folder format")
        if dtype != "float32":
            raise InputError(f"the prior clip runs in float32 only, but its dtype is {dtype}: remove the key")
        import open_clip

        try:
            # without require_pretrained, missing weights are initialised randomly with only a warning in the log
            network = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, device="cpu")
        except Exception as error:  # open_clip and the readers that it calls raise many types
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

    def embed(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Return the unit embeddings of pictures in [0, 1]; differentiable."""
        pixels = rgb.permute(0, 3, 1, 2).float().to(self.mean.device)
        pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False)
        return F.normalize(self.network.encode_image((pixels - self.mean) / self.deviation).float(), dim=-1)


def clip_consistency(
    prior: ClipReference, rgb: Float[Tensor, "B H W 3"], *, settings: ClipSettings
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the distance of rendered pictures from the reference picture, as a loss.

    `loss_scale`, which is about score distillation, does not affect it.

    Args:
        prior: CLIP with its reference picture.
        rgb: pictures in [0, 1].
        settings: the prior's.

    Returns:
        weight * (1 - cosine), summed over the batch, and what to log: "distance", the mean of 1 - cosine.
    """
    distance = 1 - (prior.embed(rgb) * prior.reference).sum(-1)
    return settings.weight * distance.sum().to(rgb.device), {"distance": distance.mean().detach()}


def replaces_distillation(
    prediction: NoisePrediction,
    camera: Camera,
    *,
    settings: DenoisedClipSettings,
    reference_azimuth: float,
    steps: int,
) -> bool:
    """Return whether a clip prior with a denoiser replaces the denoiser's score distillation for this prediction.

    It does where all diffusion steps of the batch are in `t_range` and all views within `azimuth_within` of the reference.

    Args:
        prediction: the denoiser's.
        camera: the B cameras of the pictures.
        settings: the clip prior's.
        reference_azimuth: degrees.
        steps: number of diffusion steps of the denoiser, of which `t_range` holds shares.
    """
    first, last = timestep_bounds(settings.t_range, steps)
    near = wrap_degrees(camera.azimuth - reference_azimuth).abs() <= settings.azimuth_within
    return bool(((prediction.t >= first) & (prediction.t <= last)).all()) and bool(near.all())


def denoised_consistency(
    prior: ClipReference, denoiser: Prior, prediction: NoisePrediction, *, settings: DenoisedClipSettings
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the distance of denoised pictures from the reference picture, as a loss, see `clip_consistency`.

    The gradient passes through the decoder and the encoder to the rendered pictures; the U-Net's prediction is taken as
    constant.

    Args:
        prior: CLIP with its reference picture.
        denoiser: the latent diffusion model that made the prediction.
        prediction: for the rendered pictures.
        settings: the clip prior's.
    """
    distance = 1 - (prior.embed(denoiser.decode(prediction.denoised())) * prior.reference).sum(-1)
    return settings.weight * distance.sum(), {"distance": distance.mean().detach()}
