"""The 3D prior: Zero-1-to-3 (arXiv 2303.11328), how an object looks from elsewhere, given one picture and a relative pose."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic123.camera import Camera
from magic123.errors import InputError
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Schedule, load_autoencoder_and_unet, load_component, posterior, read_json
from magic123.priors.sds import guided_noise


def pose_vector(camera: Camera, reference: Camera) -> Tensor:
    """[d_polar (radians), sin d_azimuth, cos d_azimuth, d_radius], novel minus reference view: [B, 4].

    For a right-handed world with azimuth from +z towards +x and y up, which is how Zero-1-to-3 was trained. (Magic123's
    code negates the azimuth because its world is mirrored.)
    """
    polar, azimuth = torch.deg2rad(camera.polar - reference.polar), torch.deg2rad(camera.azimuth - reference.azimuth)
    return torch.stack([polar, azimuth.sin(), azimuth.cos(), camera.radius - reference.radius], -1)


def clip_pixels(rgb: Tensor, processor: dict) -> Tensor:
    """[B, H, W, 3] in [0, 1], square -> [B, 3, S, S] as CLIPImageProcessor would by `processor`, its configuration."""
    size = processor.get("crop_size") or processor.get("size")
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    pixels = F.interpolate(rgb.permute(0, 3, 1, 2), (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(
        0, 1
    )
    mean, std = (pixels.new_tensor(processor[key])[:, None, None] for key in ("image_mean", "image_std"))
    return (pixels - mean) / std


class Zero123:
    """sds.Prior of a view-conditioned model, bound to one reference picture. `record` tells how it was made."""

    name = "zero123"

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        cc_projection: nn.Module,
        schedule: Schedule,
        image_embedding: Tensor,
        reference_latents: Tensor,
        reference_camera: Camera,
        resolution: int,
    ):
        """image_embedding [1, D] of CLIP, not normalised; reference_latents [1, 4, h, w]: the VAE's mode, not scaled."""
        self.vae, self.unet, self.cc_projection, self.schedule = vae, unet, cc_projection, schedule
        self.image_embedding, self.reference_latents, self.reference_camera = (
            image_embedding,
            reference_latents,
            reference_camera,
        )
        self.resolution = resolution
        self.alphas_cumprod = schedule.alphas_cumprod
        self.record: dict = {}

    @classmethod
    def load(cls, folder: Path, reference_rgb: Tensor, reference_camera, *, dtype: str = "float32", device="cpu") -> Zero123:
        """From a diffusers folder (vae, 8-channel unet, image_encoder, cc_projection, scheduler, feature_extractor).

        reference_rgb [H, W, 3] in [0, 1], square, composited on white; reference_camera: one Camera or config.ReferenceCamera.
        The image encoder is freed again when its embedding is there. Raises InputError.
        """
        latent_diffusion.offline()
        from transformers import CLIPVisionModelWithProjection

        from magic123.priors.cc_projection import CCProjection

        if reference_rgb.shape[0] != reference_rgb.shape[1]:
            raise InputError(f"the reference picture is {tuple(reference_rgb.shape[:2])} pixels: zero123 needs a square one")
        vae, unet, resolution = load_autoencoder_and_unet(folder, 8, DTYPES[dtype], device)
        schedule = Schedule.load(folder, device)
        cc_projection = latent_diffusion.freeze(load_component(CCProjection, folder, "cc_projection"), torch.float32, device)
        encoder = load_component(CLIPVisionModelWithProjection, folder, "image_encoder").eval().requires_grad_(False).to(device)
        processor = read_json(folder, "feature_extractor/preprocessor_config.json")
        if cc_projection.config.in_channel != encoder.config.projection_dim + 4:
            raise InputError(
                f"cc_projection/ in {folder} takes {cc_projection.config.in_channel} numbers, but image_encoder/ and a pose "
                f"give {encoder.config.projection_dim + 4}: the parts do not belong together"
            )
        picture = reference_rgb[None].to(device).float().permute(0, 3, 1, 2)
        if picture.shape[-1] != resolution:
            picture = F.interpolate(picture, (resolution, resolution), mode="bilinear", align_corners=False, antialias=True)
        picture = picture.permute(0, 2, 3, 1)
        with torch.no_grad():
            embedding = encoder(clip_pixels(picture, processor)).image_embeds
            latents = posterior(vae, picture, resolution).mode().float()
        known = reference_camera
        camera = Camera.orbit(known.polar, known.azimuth, known.radius, known.fov, resolution, device=device)
        prior = cls(vae, unet, cc_projection, schedule, embedding, latents, camera, resolution)
        prior.record = {"prediction_type": schedule.prediction_type, "resolution": resolution, "dtype": dtype}
        return prior

    def encode(self, rgb: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latent_diffusion.encode(self.vae, rgb, self.resolution, generator)

    def condition(self, camera: Camera) -> Tensor:
        """Context tokens [B, 1, D] of the reference picture seen from these views."""
        pose = pose_vector(camera.to(self.image_embedding.device), self.reference_camera)
        return self.cc_projection(torch.cat([self.image_embedding.expand(len(pose), -1), pose], -1))[:, None]

    @torch.no_grad()
    def noise(self, latents: Tensor, t: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        token = self.condition(camera)
        context = torch.cat([torch.zeros_like(token), token])
        known = self.reference_latents.expand(len(latents), -1, -1, -1)
        twice, t = torch.cat([latents, latents]), t.repeat(2)
        inputs = torch.cat([twice, torch.cat([torch.zeros_like(known), known])], 1)
        output = self.unet(inputs.to(self.unet.dtype), t, encoder_hidden_states=context.to(self.unet.dtype)).sample
        return self.schedule.epsilon(output, twice, t).chunk(2)

    @torch.no_grad()
    def sample(self, cameras: Camera, steps: int, guidance: float, generator: torch.Generator, eta: float = 1.0) -> Tensor:
        """Novel views by DDIM (arXiv 2010.02502, eq. 12): rgb [B, R, R, 3] in [0, 1]. eta 1 as Zero-1-to-3."""
        count, device = len(cameras), self.reference_latents.device

        def gaussian() -> Tensor:
            shape = (count, *self.reference_latents.shape[1:])
            return torch.randn(shape, generator=generator, device=generator.device).to(device)

        total = len(self.alphas_cumprod)
        if not 1 <= steps < total:
            raise InputError(f"{steps} sampling steps were asked for: between 1 and {total - 1} are possible")
        # from the noisiest step of all, since pure noise is where sampling starts, down to the first
        times = torch.linspace(total - 1, 1, steps).round().long().tolist()
        latents = gaussian()
        for t, previous in zip(times, [*times[1:], 0], strict=True):
            alpha, alpha_previous = self.alphas_cumprod[t], self.alphas_cumprod[previous]
            estimate = guided_noise(*self.noise(latents, torch.full((count,), t, device=device), cameras), guidance)
            clean = (latents - (1 - alpha).sqrt() * estimate) / alpha.sqrt()
            spread = eta * ((1 - alpha_previous) / (1 - alpha) * (1 - alpha / alpha_previous)).clamp_min(0).sqrt()
            direction = (1 - alpha_previous - spread**2).clamp_min(0).sqrt()
            latents = alpha_previous.sqrt() * clean + direction * estimate + spread * gaussian()
        pixels = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()
        return ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
