"""Make-it-3D's image consistency (arXiv 2303.14184): novel views should have the CLIP embedding of the input picture.

`clip_consistency` compares the rendered view itself. `denoised_consistency` compares, as in the paper, the view that a
diffusion prior has denoised, and only at small diffusion steps, where the denoised view looks like a picture; at large steps
score distillation is used.
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
        std: Float[Tensor, 3],
    ):
        """Create the model from a loaded network.

        Args:
            network: a CLIP model of open_clip.
            reference: embedding of the reference picture, of unit length.
            size: side in pixels of the pictures that the network takes.
            mean: subtracted from each channel of the pictures, which are in [0, 1].
            std: divides each channel after that.
        """
        self.network, self.reference, self.size = network, reference, size
        self.mean, self.std = mean[:, None, None], std[:, None, None]
        self.record: dict[str, Any] = {}

    @classmethod
    def load(
        cls, folder: Path, rgb: Float[Tensor, "H W 3"], *, dtype: str = "float32", device: torch.device | str = "cpu"
    ) -> ClipReference:
        """Load the model from a folder in open_clip's format, and embed the reference picture.

        Args:
            folder: a folder that holds FILES.
            rgb: the reference picture in [0, 1], composited on white.
            dtype: "float32"; nothing else is supported.
            device: the device to put the network on.

        Raises:
            InputError: a file is missing or damaged, or the dtype is not "float32".
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
        mean, std = (torch.tensor(pixels[key], device=device) for key in ("mean", "std"))
        network = network.eval().requires_grad_(False).to(device)
        prior = cls(network, torch.zeros(1, 1), size if isinstance(size, int) else size[0], mean, std)
        with torch.no_grad():
            prior.reference = prior.embed(rgb[None])
        prior.record = {"resolution": prior.size, "dtype": dtype, "device": str(device)}
        return prior

    def embed(self, rgb: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """Return the embeddings of pictures in [0, 1], normalised to unit length; differentiable."""
        pixels = rgb.permute(0, 3, 1, 2).float().to(self.mean.device)
        pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False)
        return F.normalize(self.network.encode_image((pixels - self.mean) / self.std).float(), dim=-1)


def clip_consistency(
    prior: ClipReference, rgb: Float[Tensor, "B H W 3"], *, settings: ClipSettings
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the distance between the CLIP embeddings of rendered pictures and of the reference picture, as a loss.

    The stage's `loss_scale`, which divides the gradient of score distillation, does not affect it.

    Args:
        prior: CLIP with the embedding of the reference picture.
        rgb: rendered pictures in [0, 1].
        settings: the settings of the clip prior.

    Returns:
        weight * (1 - cosine similarity), summed over the batch; and what to log: "distance", the mean of 1 - cosine similarity.
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
    """Return whether the loss of a clip prior replaces the score distillation of its denoiser for this prediction.

    It does if all diffusion steps of the batch are in `t_range` and all views within `azimuth_within` of the reference.

    Args:
        prediction: the denoiser's prediction for B pictures.
        camera: the B cameras of the pictures.
        settings: the settings of the clip prior.
        reference_azimuth: azimuth of the reference view in degrees.
        steps: number of diffusion steps of the denoiser; `t_range` is given in fractions of it.
    """
    first, last = timestep_bounds(settings.t_range, steps)
    near = wrap_degrees(camera.azimuth - reference_azimuth).abs() <= settings.azimuth_within
    return bool(((prediction.t >= first) & (prediction.t <= last)).all()) and bool(near.all())


def denoised_consistency(
    prior: ClipReference, denoiser: Prior, prediction: NoisePrediction, *, settings: DenoisedClipSettings
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the distance between the CLIP embeddings of denoised pictures and of the reference picture, as a loss.

    The gradient passes through the decoder and the encoder to the rendered pictures; the UNet's prediction is treated as a
    constant.

    Args:
        prior: CLIP with the embedding of the reference picture.
        denoiser: the latent diffusion model that made the prediction.
        prediction: the denoiser's prediction for the rendered pictures.
        settings: the settings of the clip prior.

    Returns:
        The loss and what to log, as `clip_consistency` returns them.
    """
    distance = 1 - (prior.embed(denoiser.decode(prediction.denoised())) * prior.reference).sum(-1)
    return settings.weight * distance.sum(), {"distance": distance.mean().detach()}
