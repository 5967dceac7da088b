"""The miniature latent space: an AutoencoderKL that takes 32-pixel pictures to 4 x 8 x 8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from magic123.miniatures.pool import VIEWS, Pool
from magic123.miniatures.training import draw_batch, save_half, train, write_record

STEPS, BATCH = 5000, 16
CHROMA = 2.0  # weight of colour differences: without them red against green is learned last, if at all
NOISE = 0.05  # the posterior's standard deviation: held constant, it trains much faster than a learned one


def build():
    """Return the untrained autoencoder (diffusers' AutoencoderKL)."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=32,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(24, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def backgrounds(generator: torch.Generator, count: int) -> np.ndarray:
    """Return backgrounds: white for 60 % of the pictures, else one random colour: [B, 1, 1, 3]."""
    colour = torch.rand(count, 1, 1, 3, generator=generator)
    white = torch.rand(count, 1, 1, 1, generator=generator) < 0.6
    return torch.where(white, torch.ones(()), colour).numpy()


def pictures(pool: Pool, generator: torch.Generator, count: int) -> torch.Tensor:
    """Return training pictures NCHW in [-1, 1], a quarter of them as blurred as an upscaled 16-pixel render."""
    objects, views = draw_batch(generator, pool.training, VIEWS, count)
    x = torch.from_numpy(pool.rgb(objects, views, backgrounds(generator, count))).permute(0, 3, 1, 2).contiguous() * 2 - 1
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.25, soft, x).contiguous(
        memory_format=torch.channels_last
    )


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the PSNR of pictures in [-1, 1]: [B] dB."""
    return -10 * torch.log10((((a - b) / 2) ** 2).flatten(1).mean(1).clamp_min(1e-10))


def chroma(x: torch.Tensor) -> torch.Tensor:
    """Return red against green, and blue against both: NCHW with 3 channels -> NCHW with 2."""
    red, green, blue = x.unbind(1)
    return torch.stack([red - green, blue - (red + green) / 2], 1)


def make_autoencoder(pool_folder: Path, out: Path, steps: int = STEPS) -> None:
    """Train and write the autoencoder in diffusers format, its scaling factor set so that latents have unit deviation."""
    torch.manual_seed(1)
    pool, model = Pool(pool_folder), build().to(memory_format=torch.channels_last)

    def loss(generator):
        x = pictures(pool, generator, BATCH)
        posterior = model.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        y = model.decode(posterior.mean + NOISE * noise).sample
        spread = 1e-3 * (posterior.logvar - 2 * np.log(NOISE)).square().mean() + 1e-4 * posterior.mean.square().mean()
        colour = CHROMA * F.mse_loss(chroma(y), chroma(x))
        return F.mse_loss(y, x) + colour + 0.05 * F.l1_loss(y, x) + spread

    record = train(
        [model],
        loss,
        steps=steps,
        learning_rate=2e-3,
        name="autoencoder",
        ema_decay=0.995,
        seed=1,
        checkpoint=out.parent / "autoencoder.state",
        checkpoint_interval=500,
    )
    model.eval()
    with torch.no_grad():
        held_out = np.arange(pool.training, len(pool.images))
        x = torch.from_numpy(pool.rgb(held_out, np.zeros(len(held_out), int))).permute(0, 3, 1, 2) * 2 - 1
        z = model.encode(x).latent_dist.mean
        quality = {"psnr": psnr(model.decode(z).sample.clamp(-1, 1), x).mean().item(), "pictures": len(held_out)}
        train_x = pictures(pool, torch.Generator().manual_seed(9), 256)
        deviation = torch.cat([model.encode(part).latent_dist.mean for part in train_x.split(64)]).std().item()
    model.register_to_config(scaling_factor=1 / deviation)
    save_half(model, out)
    write_record(out, record | {"batch": BATCH}, quality)
    print("autoencoder:", quality, "scaling factor", 1 / deviation)


def encode_pool(pool_folder: Path, autoencoder: Path, out: Path) -> None:
    """Write the posterior means of all pool pictures on white, unscaled: float16 [N, VIEWS, 4, 8, 8]."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    pool = Pool(pool_folder)
    model = (
        AutoencoderKL.from_pretrained(autoencoder, local_files_only=True).float().eval().to(memory_format=torch.channels_last)
    )
    latents = np.lib.format.open_memmap(out, "w+", np.float16, (len(pool.images), VIEWS, 4, 8, 8))
    with torch.no_grad():
        for i in range(0, len(latents), 8):
            n = min(8, len(latents) - i)
            objects, views = np.repeat(np.arange(i, i + n), VIEWS), np.tile(np.arange(VIEWS), n)
            x = (
                torch.from_numpy(pool.rgb(objects, views)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) * 2
                - 1
            )
            latents[i : i + n] = model.encode(x).latent_dist.mean.reshape(n, VIEWS, 4, 8, 8).numpy()
            if i % 800 == 0:
                print(f"latents: {i}/{len(latents)}", flush=True)
