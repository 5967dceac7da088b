"""The 3D prior: Zero-1-to-3 (arXiv 2303.11328), how an object looks from elsewhere, given one picture and a relative pose."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic123.geometry.camera import Camera, angle_between
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import (
    DTYPES,
    Schedule,
    dtype_of,
    load_autoencoder_and_unet,
    load_component,
    posterior,
    read_json,
)
from magic123.priors.prior import Prior
from magic123.priors.sds import guided_noise
from magic123.records.errors import InputError

CONDITIONINGS = ("distance", "elevation")


def pose_vector(camera: Camera, reference: Camera, conditioning: str = "distance") -> Tensor:
    """What a model is told of the novel view relative to the reference view (one camera): [B, 4].

    [d_polar (radians), sin d_azimuth, cos d_azimuth, last], novel minus reference, for a right-handed world with azimuth from
    +z towards +x and y up, which is how Zero-1-to-3 was trained. (Magic123's code negates the azimuth because its world is
    mirrored.) `last` is d_radius for "distance" (Zero-1-to-3 and Zero123-XL), and the reference view's own polar angle in
    radians, whatever the distances, for "elevation" (Stable Zero123).
    """
    polar, azimuth = torch.deg2rad(camera.polar - reference.polar), torch.deg2rad(camera.azimuth - reference.azimuth)
    last = {
        "distance": lambda: camera.radius - reference.radius,
        "elevation": lambda: torch.deg2rad(reference.polar).expand_as(polar),
    }[conditioning]()
    return torch.stack([polar, azimuth.sin(), azimuth.cos(), last], -1)


def closeness(camera: Camera, references: Camera) -> Tensor:
    """Shares of K reference views in what is said of B novel ones: [B, K], rows sum to 1.

    180 degrees minus the angle between the viewing directions, in proportion: a view opposite has no say.
    """
    angles = torch.stack([angle_between(camera, references[k]) for k in range(len(references))], -1)
    near = (180 - angles).clamp_min(1e-3)
    return near / near.sum(-1, keepdim=True)


def clip_pixels(rgb: Tensor, processor: dict) -> Tensor:
    """[B, H, W, 3] in [0, 1], square -> [B, 3, S, S] as CLIPImageProcessor would by `processor`, its configuration.

    With align_corners in it, as Zero-1-to-3's own code does: bicubic without antialiasing, nothing clamped.
    """
    size = processor.get("crop_size") or processor.get("size")
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    pixels = rgb.permute(0, 3, 1, 2)
    if processor.get("align_corners"):
        pixels = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=True)
    else:
        pixels = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    mean, std = (pixels.new_tensor(processor[key])[:, None, None] for key in ("image_mean", "image_std"))
    return (pixels - mean) / std


def conditioning_of(folder: Path) -> str:
    """The conditioning that a folder's model_index.json names. InputError for an unknown one."""
    named = read_json(folder, "model_index.json").get("conditioning", "distance")
    if named not in CONDITIONINGS:
        raise InputError(f"model_index.json in {folder} names the conditioning {named!r}; known: {', '.join(CONDITIONINGS)}")
    return named


class Zero123(Prior):
    """Prior of a view-conditioned model, bound to one or more reference pictures. `record` tells how it was made."""

    name = "zero123"
    reference_camera: Camera

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
        conditioning: str = "distance",
    ):
        """For K references: image_embedding [K, D] of CLIP, not normalised; reference_latents [K, 4, h, w]: the VAE's mode,
        not scaled; reference_camera: K cameras. conditioning: see pose_vector."""
        self.vae, self.unet, self.cc_projection, self.schedule = vae, unet, cc_projection, schedule
        self.image_embedding, self.reference_latents, self.reference_camera = (
            image_embedding,
            reference_latents,
            reference_camera,
        )
        self.resolution, self.conditioning = resolution, conditioning
        self.alphas_cumprod = schedule.alphas_cumprod
        self.record: dict = {}

    @classmethod
    def load(cls, folder: Path, reference_rgb, reference_camera, *, dtype: str = "float32", device="cpu") -> Zero123:
        """From a diffusers folder (vae, 8-channel unet, image_encoder, cc_projection, scheduler, feature_extractor).

        reference_rgb [H, W, 3] in [0, 1], square, composited on white; reference_camera: one Camera or ReferenceCamera.
        Both may be lists of one length: several pictures of the object, each with its camera in the same world.
        model_index.json names the conditioning; one that names none (the original's format) means "distance".
        The image encoder is freed again when its embeddings are there. Raises InputError.
        """
        latent_diffusion.offline()
        from transformers import CLIPVisionModelWithProjection

        from magic123.priors.cc_projection import CCProjection

        pictures = [reference_rgb] if isinstance(reference_rgb, Tensor) else list(reference_rgb)
        known = [reference_camera] if isinstance(reference_rgb, Tensor) else list(reference_camera)
        if len(pictures) != len(known) or not pictures:
            raise InputError(f"zero123 was given {len(pictures)} pictures and {len(known)} cameras: give one camera a picture")
        for rgb in pictures:
            if rgb.shape[0] != rgb.shape[1]:
                raise InputError(f"the reference picture is {tuple(rgb.shape[:2])} pixels: zero123 needs a square one")
        vae, unet, resolution = load_autoencoder_and_unet(folder, 8, DTYPES[dtype], device)
        conditioning = conditioning_of(folder)
        schedule = Schedule.load(folder, device)
        cc_projection = latent_diffusion.freeze(load_component(CCProjection, folder, "cc_projection"), torch.float32, device)
        encoder = load_component(CLIPVisionModelWithProjection, folder, "image_encoder").eval().requires_grad_(False).to(device)
        processor = read_json(folder, "feature_extractor/preprocessor_config.json")
        if cc_projection.config.in_channel != encoder.config.projection_dim + 4:
            raise InputError(
                f"cc_projection/ in {folder} takes {cc_projection.config.in_channel} numbers, but image_encoder/ and a pose "
                f"give {encoder.config.projection_dim + 4}: the parts do not belong together"
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
        angles = ([float(getattr(one, name)) for one in known] for name in ("polar", "azimuth", "radius", "fov"))
        cameras = Camera.orbit(*angles, resolution, device=device)
        parts = (vae, unet, cc_projection, schedule, torch.cat(embeddings), torch.cat(latents), cameras, resolution)
        prior = cls(*parts, conditioning)
        prior.record = {
            "prediction_type": schedule.prediction_type,
            "resolution": resolution,
            "dtype": dtype,
            "conditioning": conditioning,
            "device": str(device),
        }
        return prior

    def encode(self, rgb: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return latent_diffusion.encode(self.vae, rgb, self.resolution, generator)

    def condition(self, camera: Camera, index: int = 0) -> Tensor:
        """Context tokens [B, 1, D] of one of the reference pictures seen from these views."""
        camera = camera.to(self.image_embedding.device)
        pose = pose_vector(camera, self.reference_camera[index], self.conditioning)
        return self.cc_projection(torch.cat([self.image_embedding[index].expand(len(pose), -1), pose], -1))[:, None]

    @torch.no_grad()
    def noise(self, latents: Tensor, t: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
        """As Prior. With several references the conditional noise is their mean, weighted by `closeness`."""
        count = len(self.reference_latents)
        tokens = [self.condition(camera, index) for index in range(count)]
        known = [latent.expand(len(latents), -1, -1, -1) for latent in self.reference_latents]
        context = torch.cat([torch.zeros_like(tokens[0]), *tokens])
        copies, t = torch.cat([latents] * (count + 1)), t.repeat(count + 1)
        inputs = torch.cat([copies, torch.cat([torch.zeros_like(known[0]), *known])], 1)
        output = self.unet(inputs.to(dtype_of(self.unet)), t, encoder_hidden_states=context.to(dtype_of(self.unet))).sample
        unconditional, *conditional = self.schedule.epsilon(output, copies, t).chunk(count + 1)
        if count == 1:
            return unconditional, conditional[0]
        shares = closeness(camera.to(latents.device), self.reference_camera)
        return unconditional, torch.einsum("bk,kbchw->bchw", shares, torch.stack(conditional))

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
        return latent_diffusion.decode(self.vae, latents)
