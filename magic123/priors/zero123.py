"""The 3D prior: Zero-1-to-3 (arXiv 2303.11328), conditioned on a picture of the object and a relative camera pose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from magic123.device import to_device
from magic123.geometry.camera import Camera, angle_between
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import (
    DTYPES,
    LatentPrior,
    Network,
    Schedule,
    dtype_of,
    load_autoencoder_and_unet,
    load_component,
    posterior,
    read_json,
)
from magic123.priors.sds import guided_noise
from magic123.records.errors import InputError
from magic123.settings.cameras import ReferenceCamera

CONDITIONINGS = ("distance", "elevation")


def pose_vector(camera: Camera, reference: Camera, conditioning: str = "distance") -> Float[Tensor, "B 4"]:
    """Return the pose condition of novel views relative to a reference view.

    It is [d_polar (radians), sin d_azimuth, cos d_azimuth, last], where d is novel minus reference, in a right-handed world
    with y up and azimuth measured from +z towards +x, as in Zero-1-to-3's training. (Magic123's code negates the azimuth
    because its world is mirrored.)

    Args:
        camera: the B novel views.
        reference: one camera.
        conditioning: what `last` is: "distance" for d_radius (Zero-1-to-3 and Zero123-XL), "elevation" for the reference
            view's own polar angle in radians, whatever the distances (Stable Zero123).
    """
    polar, azimuth = torch.deg2rad(camera.polar - reference.polar), torch.deg2rad(camera.azimuth - reference.azimuth)
    last = {
        "distance": lambda: camera.radius - reference.radius,
        "elevation": lambda: torch.deg2rad(reference.polar).expand_as(polar),
    }[conditioning]()
    return torch.stack([polar, azimuth.sin(), azimuth.cos(), last], -1)


def reference_weights(camera: Camera, references: Camera) -> Float[Tensor, "B K"]:
    """Return the weights with which K reference views count at B novel views; each row sums to 1.

    They are proportional to 180 degrees minus the angle between the viewing directions, so an opposite view has weight 0.
    """
    angles = torch.stack([angle_between(camera, references[k]) for k in range(len(references))], -1)
    near = (180 - angles).clamp_min(1e-3)
    return near / near.sum(-1, keepdim=True)


def clip_pixels(rgb: Float[Tensor, "B H H 3"], processor: dict[str, Any]) -> Float[Tensor, "B 3 S S"]:
    """Return square pictures as CLIP reads them: resized and normalised.

    Args:
        rgb: pictures in [0, 1].
        processor: configuration of a CLIPImageProcessor; the result equals that class's up to rounding. If it sets
            align_corners, pictures are resized as in Zero-1-to-3's own code: bicubic without antialiasing, and not clamped.
    """
    size = processor.get("crop_size") or processor["size"]
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    pixels = rgb.permute(0, 3, 1, 2)
    if processor.get("align_corners"):
        pixels = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=True)
    else:
        pixels = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    mean, std = (pixels.new_tensor(processor[key])[:, None, None] for key in ("image_mean", "image_std"))
    return (pixels - mean) / std


def conditioning_of(folder: Path) -> str:
    """Return the conditioning named in model_index.json of a weights folder, or "distance" if none is named.

    Raises:
        InputError: the file cannot be read, or the conditioning is unknown.
    """
    named = read_json(folder, "model_index.json").get("conditioning", "distance")
    if named not in CONDITIONINGS:
        raise InputError(f"model_index.json in {folder} names the conditioning {named!r} (known: {', '.join(CONDITIONINGS)})")
    return named


class Zero123(LatentPrior):
    """A view-conditioned model as a prior, conditioned on one or more reference pictures."""

    name = "zero123"
    reference_camera: Camera

    def __init__(
        self,
        vae: Network,
        unet: Network,
        cc_projection: Network,
        schedule: Schedule,
        image_embedding: Float[Tensor, "K D"],
        reference_latents: Float[Tensor, "K C h w"],
        reference_camera: Camera,
        resolution: int,
        conditioning: str = "distance",
        autocast: bool = False,
    ):
        """Create a prior from loaded networks and K reference pictures.

        Args:
            vae: diffusers' AutoencoderKL.
            unet: diffusers' UNet2DConditionModel with 8 input channels.
            cc_projection: `CCProjection`, which projects an image embedding and a pose to a context token.
            schedule: the UNet's noise schedule.
            image_embedding: CLIP's embeddings of the reference pictures, not normalised.
            reference_latents: for each reference picture the mode of the autoencoder's posterior, without the scaling factor.
            reference_camera: the K cameras that the pictures were taken from; on the CPU, where novel cameras are drawn too.
            resolution: side in pixels of the pictures that the UNet was trained on.
            conditioning: last element of the pose condition, "distance" or "elevation", see `pose_vector`.
            autocast: whether the networks compute in float16 with float32 weights, as Magic123's code runs them.
        """
        self.vae, self.unet, self.cc_projection, self.schedule = vae, unet, cc_projection, schedule
        self.image_embedding, self.reference_latents = image_embedding, reference_latents
        self.reference_camera = reference_camera
        self.resolution, self.conditioning, self.autocast = resolution, conditioning, autocast
        self.alphas_cumprod = schedule.alphas_cumprod
        self.record: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        reference_rgb: Float[Tensor, "H W 3"] | Sequence[Float[Tensor, "_ _ 3"]],
        reference_camera: Camera | ReferenceCamera | Sequence[Camera | ReferenceCamera],
        *,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> Zero123:
        """Load a prior from a folder in diffusers' format.

        It holds vae, unet (8 channels), image_encoder, cc_projection, scheduler and feature_extractor. The image encoder is
        freed once it has embedded the reference pictures.

        Args:
            folder: the diffusers folder; nothing is downloaded. Its model_index.json names the conditioning, see `pose_vector`;
                without a name, as in the original's format, it is "distance".
            reference_rgb: the reference picture, square, in [0, 1], composited on white; or several of the same object.
            reference_camera: its camera; or a sequence of cameras, one for each picture, in the same world.
            dtype: precision of the networks, a key of DTYPES.
            device: the device to put the networks on.

        Raises:
            InputError: weights are missing or do not fit each other, a picture is not square, or there are not as many cameras
                as pictures.
        """
        latent_diffusion.offline()
        from transformers import CLIPVisionModelWithProjection

        from magic123.priors.cc_projection import CCProjection

        pictures = [reference_rgb] if isinstance(reference_rgb, Tensor) else list(reference_rgb)
        views = [reference_camera] if isinstance(reference_camera, Camera | ReferenceCamera) else list(reference_camera)
        if len(pictures) != len(views) or not pictures:
            raise InputError(f"zero123 got {len(pictures)} pictures and {len(views)} cameras: give one camera for each picture")
        for rgb in pictures:
            if rgb.shape[0] != rgb.shape[1]:
                raise InputError(
                    f"the reference picture has {rgb.shape[0]} x {rgb.shape[1]} pixels: zero123 needs a square one"
                )
        vae, unet, resolution = load_autoencoder_and_unet(folder, 2, DTYPES[dtype], device)
        conditioning = conditioning_of(folder)
        schedule = Schedule.load(folder, device)
        cc_projection = latent_diffusion.freeze(load_component(CCProjection, folder, "cc_projection"), torch.float32, device)
        encoder = load_component(CLIPVisionModelWithProjection, folder, "image_encoder").eval().requires_grad_(False).to(device)
        processor = read_json(folder, "feature_extractor/preprocessor_config.json")
        if cc_projection.config.in_channel != encoder.config.projection_dim + 4:
            raise InputError(
                f"cc_projection/ in {folder} takes {cc_projection.config.in_channel} numbers, but image_encoder/ and a pose "
                f"give {encoder.config.projection_dim + 4}: the components do not belong to the same model"
            )
        embeddings, latents = [], []
        for rgb in pictures:
            picture = rgb[None].to(device).float().permute(0, 3, 1, 2)
            if picture.shape[-1] != resolution:
                picture = F.interpolate(picture, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True)
            picture = picture.permute(0, 2, 3, 1)
            with torch.no_grad():
                embeddings.append(encoder(clip_pixels(picture, processor)).image_embeds)
                latents.append(posterior(vae, picture, resolution).mode().float())
        polar, azimuth, radius, fov = (
            [float(getattr(view, name)) for view in views] for name in ("polar", "azimuth", "radius", "fov")
        )
        cameras = Camera.orbit(polar, azimuth, radius, fov, resolution)
        parts = (vae, unet, cc_projection, schedule, torch.cat(embeddings), torch.cat(latents), cameras, resolution)
        prior = cls(*parts, conditioning, autocast=dtype == "autocast")
        prior.record = {
            "prediction_type": schedule.prediction_type,
            "resolution": resolution,
            "dtype": dtype,
            "conditioning": conditioning,
            "device": str(device),
        }
        return prior

    def encode(self, rgb: Float[Tensor, "B H W 3"], generator: torch.Generator | None = None) -> Float[Tensor, "B C h w"]:
        """Return scaled latents of pictures, see `Prior.encode`."""
        with latent_diffusion.autocast(self.reference_latents.device, self.autocast):
            return latent_diffusion.encode(self.vae, rgb, self.resolution, generator)

    def condition(self, camera: Camera, index: int = 0) -> Float[Tensor, "B 1 D"]:
        """Return the context tokens for B views, conditioned on the reference picture `index`."""
        pose = pose_vector(camera.to("cpu"), self.reference_camera[index], self.conditioning)
        pose = to_device(pose, self.image_embedding.device)
        return self.cc_projection(torch.cat([self.image_embedding[index].expand(len(pose), -1), pose], -1))[:, None]

    @torch.no_grad()
    def noise(
        self, latents: Float[Tensor, "B C h w"], t: Int[Tensor, " B"], camera: Camera
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """Predict the noise in noisy latents, see `Prior.noise`.

        With several references the conditional prediction is the mean of their predictions, weighted by `reference_weights`.
        """
        with latent_diffusion.autocast(self.reference_latents.device, self.autocast):
            return self._noise(latents, t, camera)

    def _noise(self, latents: Tensor, t: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        count = len(self.reference_latents)
        tokens = [self.condition(camera, index) for index in range(count)]
        references = [latent.expand(len(latents), -1, -1, -1) for latent in self.reference_latents]
        context = torch.cat([torch.zeros_like(tokens[0]), *tokens])
        copies, t = torch.cat([latents] * (count + 1)), t.repeat(count + 1)
        inputs = torch.cat([copies, torch.cat([torch.zeros_like(references[0]), *references])], 1)
        output = self.unet(inputs.to(dtype_of(self.unet)), t, encoder_hidden_states=context.to(dtype_of(self.unet))).sample
        unconditional, *conditional = self.schedule.epsilon(output, copies, t).chunk(count + 1)
        if count == 1:
            return unconditional, conditional[0]
        weights = to_device(reference_weights(camera.to("cpu"), self.reference_camera), latents.device)
        return unconditional, torch.einsum("bk,kbchw->bchw", weights, torch.stack(conditional))

    @torch.no_grad()
    def sample(
        self, cameras: Camera, steps: int, guidance: float, generator: torch.Generator, eta: float = 1.0
    ) -> Float[Tensor, "B R R 3"]:
        """Sample novel views with DDIM (arXiv 2010.02502, eq. 12).

        Args:
            cameras: the B novel views.
            steps: number of denoising steps.
            guidance: scale of the classifier-free guidance.
            generator: random state from which the noise is drawn.
            eta: how much noise each step adds, from 0 (deterministic DDIM) to 1 (as DDPM, the default of Zero-1-to-3's code).

        Returns:
            Pictures in [0, 1].

        Raises:
            InputError: `steps` is out of range.
        """
        count, device = len(cameras), self.reference_latents.device

        def gaussian() -> Tensor:
            shape = (count, *self.reference_latents.shape[1:])
            return torch.randn(shape, generator=generator, device=generator.device).to(device)

        total = len(self.alphas_cumprod)
        if not 1 <= steps < total:
            raise InputError(f"sampling steps is {steps}: it must be between 1 and {total - 1}")
        # from the last diffusion step, because sampling starts from pure noise, down to step 1
        times = torch.linspace(total - 1, 1, steps).round().long().tolist()
        latents = gaussian()
        for t, previous in zip(times, [*times[1:], 0], strict=True):
            alpha, alpha_previous = self.alphas_cumprod[t], self.alphas_cumprod[previous]
            estimate = guided_noise(*self.noise(latents, torch.full((count,), t, device=device), cameras), guidance)
            clean = (latents - (1 - alpha).sqrt() * estimate) / alpha.sqrt()
            sigma = eta * ((1 - alpha_previous) / (1 - alpha) * (1 - alpha / alpha_previous)).clamp_min(0).sqrt()
            direction = (1 - alpha_previous - sigma**2).clamp_min(0).sqrt()
            latents = alpha_previous.sqrt() * clean + direction * estimate + sigma * gaussian()
        with latent_diffusion.autocast(device, self.autocast):
            return latent_diffusion.decode(self.vae, latents)
