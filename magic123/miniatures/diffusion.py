"""The two miniature diffusion priors: a text-conditioned one (Stable Diffusion) and a view-conditioned one (Zero-1-to-3).

Each uses the latents of its own autoencoder, with Stable Diffusion's noise schedule and velocity prediction.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from magic123.device import to_device
from magic123.miniatures.autoencoder import LATENT_SIDE, nchw
from magic123.miniatures.clip import captions, normalised
from magic123.miniatures.pool import VIEWS, Pool
from magic123.miniatures.training import DEVICE, draw_batch, save_half, train, write_record
from magic123.miniatures.vocabulary import CONTEXT, encode, write_tokenizer

CROSS = 96
CHANNELS = (64, 128)
DROPOUT = 0.12
BATCH = 32
STABLE_DIFFUSION_STEPS, ZERO123_STEPS = 5200, 11500
STABLE_DIFFUSION_SEED, ZERO123_SEED = 3, 4
CONSTANT_UNTIL = 0.8  # fraction of the steps with a constant learning rate, before it decays


def build_unet(in_channels: int, out_channels: int):
    """Return the untrained UNet (diffusers' UNet2DConditionModel)."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=in_channels,
        out_channels=out_channels,
        layers_per_block=1,
        block_out_channels=CHANNELS,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        cross_attention_dim=CROSS,
        attention_head_dim=4,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    ).to(DEVICE, memory_format=torch.channels_last)


def build_scheduler():
    """Return the noise schedule of both priors, Stable Diffusion's, with velocity prediction."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def add_noise(z: torch.Tensor, alphas: torch.Tensor, generator: torch.Generator):
    """Add noise to latents z [B, C, h, w] at random timesteps.

    Returns:
        Noisy latents, timesteps [B], and the velocity target sqrt(a) eps - sqrt(1 - a) z (arXiv 2202.00512).
    """
    t = torch.randint(1000, (len(z),), generator=generator)
    noise = to_device(torch.randn(z.shape, generator=generator), DEVICE)
    a = to_device(alphas[t][:, None, None, None], DEVICE)
    noisy = (a.sqrt() * z + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    return noisy, to_device(t, DEVICE), a.sqrt() * noise - (1 - a).sqrt() * z


class Latents:
    """Latents of the pool's pictures on white, encoded on first use and cached in memory.

    Attributes:
        scale: scaling factor of the autoencoder.
        channels: number of channels of the latents.
    """

    def __init__(self, pool: Pool, autoencoder: Path):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        model = AutoencoderKL.from_pretrained(autoencoder, local_files_only=True).float().eval()
        self.model, self.pool = model.to(DEVICE, memory_format=torch.channels_last), pool
        self.scale, self.channels = model.config.scaling_factor, model.config.latent_channels
        self.values = np.empty((len(pool.images), VIEWS, self.channels, LATENT_SIDE, LATENT_SIDE), np.float16)
        self.known = np.zeros((len(pool.images), VIEWS), bool)

    @torch.no_grad()
    def get(self, objects: np.ndarray, views: np.ndarray) -> torch.Tensor:
        """Return the unscaled posterior means [B, C, LATENT_SIDE, LATENT_SIDE] on the training device."""
        new = ~self.known[objects, views]
        if new.any():
            o, v = objects[new], views[new]
            x = nchw(self.pool.rgb(o, v, size=self.model.config.sample_size))
            self.values[o, v] = self.model.encode(x).latent_dist.mean.cpu().numpy()
            self.known[o, v] = True
        return to_device(torch.from_numpy(self.values[objects, views].astype(np.float32)), DEVICE)


def make_stable_diffusion(
    pool_folder: Path,
    autoencoder: Path,
    out: Path,
    steps: int = STABLE_DIFFUSION_STEPS,
    seed: int = STABLE_DIFFUSION_SEED,
    inputs: dict | None = None,
) -> None:
    """Train text encoder and UNet jointly on pairs of captions with view names and latents; write a Stable Diffusion folder.

    Args:
        pool_folder: the folder that `make_pool` wrote.
        autoencoder: the folder that `make_autoencoder` wrote for pictures of DRAWN pixels.
        out: the folder to write.
        steps: number of training steps.
        seed: seed of the initial weights and of all random numbers.
        inputs: hashes of the files that it is trained from, see `train`.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    pool = Pool(pool_folder)
    latents = Latents(pool, autoencoder)
    tokenizer = write_tokenizer(out / "tokenizer")
    text_encoder: torch.nn.Module = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=CROSS,
            intermediate_size=4 * CROSS,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            projection_dim=CROSS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    text_encoder.to(DEVICE)
    unet, scheduler = build_unet(latents.channels, latents.channels), build_scheduler()
    prefixes = ("", "a photo of ", "a rendering of ", "a high-resolution dslr image of ")

    def text_of(objects, views, generator):
        texts = captions(pool, objects, pool.angles[objects, views, 1])
        choice = torch.randint(len(prefixes) + 1, (len(texts), 2), generator=generator)
        drop = torch.rand(len(texts), generator=generator) < DROPOUT
        named = [
            prefixes[p % len(prefixes)] + (x if q > 0 else x.split(",")[0])
            for x, (p, q) in zip(texts, choice.tolist(), strict=True)
        ]
        return to_device(encode(tokenizer, ["" if d else x for d, x in zip(drop.tolist(), named, strict=True)]), DEVICE)

    def loss(generator):
        objects, views = draw_batch(generator, pool.training, VIEWS, BATCH)
        noisy, t, target = add_noise(latents.get(objects, views) * latents.scale, scheduler.alphas_cumprod, generator)
        hidden = text_encoder(text_of(objects, views, generator)).last_hidden_state
        return F.mse_loss(unet(noisy, t, hidden).sample, target)

    def quality():
        return text_quality(unet, text_encoder, tokenizer, scheduler, pool, latents)

    record = train(
        [unet, text_encoder],
        loss,
        steps=steps,
        batch=BATCH,
        learning_rate=1e-3,
        name=out.name,
        seed=seed,
        inputs=inputs,
        checkpoint=out.parent / f"{out.name}.state",
        checkpoint_interval=500,
        constant_until=CONSTANT_UNTIL,
        on_checkpoint=lambda step: print(f"{out.name}: held out at step {step}, raw weights: {quality()}", flush=True),
    )
    for model, name in ((unet, "unet"), (text_encoder, "text_encoder")):
        save_half(model, out / name)
    scheduler.save_pretrained(out / "scheduler")
    shutil.copytree(autoencoder, out / "vae", dirs_exist_ok=True)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=1))
    measured = quality()
    write_record(out, record, measured)
    print(f"{out.name}:", measured)


@torch.no_grad()
def text_quality(unet, text_encoder, tokenizer, scheduler, pool: Pool, latents: Latents) -> dict:
    """Return the denoising loss on held-out objects with the object's own caption, another object's caption and none.

    The object's own caption should have the lowest loss.
    """
    generator = torch.Generator().manual_seed(7)
    held_out = np.arange(pool.training, len(pool.images))
    views = np.arange(len(held_out)) % VIEWS
    texts = captions(pool, held_out, pool.angles[held_out, views, 1])
    z = latents.get(held_out, views) * latents.scale
    result: dict[str, float] = {"objects": len(held_out)}
    for name, prompts in (("caption", texts), ("other_caption", texts[7:] + texts[:7]), ("no_caption", [""] * len(texts))):
        generator.manual_seed(7)
        hidden, total = text_encoder(encode(tokenizer, prompts).to(DEVICE)).last_hidden_state, []
        for _ in range(8):
            noisy, t, target = add_noise(z, scheduler.alphas_cumprod, generator)
            total.append(F.mse_loss(unet(noisy, t, hidden).sample, target).item())
        result[f"loss_{name}"] = float(np.mean(total))
    return result


def pose_vector(source: np.ndarray, target: np.ndarray) -> torch.Tensor:
    """Return [d_polar (radians), sin d_azimuth, cos d_azimuth, d_radius = 0] [B, 4] from (polar, azimuth) [B, 2] in degrees."""
    d = torch.from_numpy(np.radians(target - source)).float()
    return torch.stack([d[:, 0], d[:, 1].sin(), d[:, 1].cos(), torch.zeros(len(d))], -1)


def make_zero123(
    pool_folder: Path,
    autoencoder: Path,
    clip: Path,
    out: Path,
    steps: int = ZERO123_STEPS,
    seed: int = ZERO123_SEED,
    inputs: dict | None = None,
) -> None:
    """Train UNet and pose projection on pairs of views; write a Zero-1-to-3 folder in diffusers format.

    Args:
        pool_folder: the folder that `make_pool` wrote.
        autoencoder: the folder that `make_autoencoder` wrote for pictures of SIZE pixels.
        clip: the folder that `make_clip` wrote.
        out: the folder to write.
        steps: number of training steps.
        seed: seed of the initial weights and of all random numbers.
        inputs: hashes of the files that it is trained from, see `train`.
    """
    from transformers import CLIPVisionModelWithProjection

    from magic123.priors.cc_projection import CCProjection

    torch.manual_seed(seed)
    pool = Pool(pool_folder)
    latents = Latents(pool, autoencoder)
    image_encoder = CLIPVisionModelWithProjection.from_pretrained(clip / "image_encoder", local_files_only=True)
    image_encoder = image_encoder.float().eval().to(DEVICE)
    sources = embed_sources(image_encoder, pool)
    unet, scheduler = build_unet(2 * latents.channels, latents.channels), build_scheduler()
    projection = CCProjection(sources.shape[-1] + 4, CROSS).to(DEVICE)

    def condition(objects, source, target):
        pose = pose_vector(pool.angles[objects, source], pool.angles[objects, target])
        token = torch.cat([sources[objects, source], pose], -1)
        return latents.get(objects, source), projection(to_device(token, DEVICE))[:, None]

    def loss(generator):
        objects, target = draw_batch(generator, pool.training, VIEWS, BATCH, first_view=1)
        source = (torch.rand(BATCH, generator=generator) < 0.25).long().numpy()
        noisy, t, goal = add_noise(latents.get(objects, target) * latents.scale, scheduler.alphas_cumprod, generator)
        image, token = condition(objects, source, target)
        keep = to_device((torch.rand(BATCH, generator=generator) >= DROPOUT).float(), DEVICE)
        image, token = image * keep[:, None, None, None], token * keep[:, None, None]
        x = torch.cat([noisy, image], 1).contiguous(memory_format=torch.channels_last)
        return F.mse_loss(unet(x, t, token).sample, goal)

    def quality():
        return {"denoising_loss": view_loss(unet, condition, scheduler, pool, latents)}

    record = train(
        [unet, projection],
        loss,
        steps=steps,
        batch=BATCH,
        learning_rate=1e-3,
        name=out.name,
        seed=seed,
        inputs=inputs,
        checkpoint=out.parent / f"{out.name}.state",
        checkpoint_interval=500,
        constant_until=CONSTANT_UNTIL,
        on_checkpoint=lambda step: print(f"{out.name}: held out at step {step}, raw weights: {quality()}", flush=True),
    )
    save_half(unet, out / "unet")
    save_half(projection, out / "cc_projection")
    scheduler.save_pretrained(out / "scheduler")
    shutil.copytree(autoencoder, out / "vae", dirs_exist_ok=True)
    for part in ("image_encoder", "feature_extractor"):
        shutil.copytree(clip / part, out / part, dirs_exist_ok=True)
    index = {
        "_class_name": "Zero123",
        "_diffusers_version": "0.42.1",
        "cc_projection": ["magic123.priors.cc_projection", "CCProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=1))
    measured = quality()
    write_record(out, record, measured)
    print(f"{out.name}:", measured)


@torch.no_grad()
def embed_sources(image_encoder, pool: Pool) -> torch.Tensor:
    """Return the image embeddings [N, 2, D] of the two source views of each object."""
    count, out = len(pool.images), []
    for i in range(0, count, 128):
        objects = np.repeat(np.arange(i, min(i + 128, count)), 2)
        views = np.tile([0, 1], len(objects) // 2)
        out.append(image_encoder(normalised(pool.rgb(objects, views))).image_embeds.cpu())
    return torch.cat(out).reshape(count, 2, -1)


@torch.no_grad()
def view_loss(unet, condition, scheduler, pool: Pool, latents: Latents) -> float:
    """Return the mean denoising loss over held-out objects and target views, with the same noise at every call."""
    generator, total = torch.Generator().manual_seed(8), []
    objects = np.arange(pool.training, len(pool.images))
    for target in range(2, VIEWS, 2):
        views = np.full(len(objects), target)
        z = latents.get(objects, views) * latents.scale
        noisy, t, goal = add_noise(z, scheduler.alphas_cumprod, generator)
        image, token = condition(objects, np.zeros_like(views), views)
        total.append(F.mse_loss(unet(torch.cat([noisy, image], 1), t, token).sample, goal).item())
    return float(np.mean(total))
