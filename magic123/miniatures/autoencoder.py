"""The miniature autoencoders: an AutoencoderKL for each of the two latent diffusion priors.

That of the 2D prior encodes pictures of 64 pixels to 16 x 8 x 8 latents, that of the 3D prior pictures of 32 pixels to
8 x 8 x 8: as for the real priors, the 2D prior has twice as many pixels a side. They have more channels than Stable Diffusion's
4, because a UNet that can be trained on a CPU does not allow more than 8 x 8 latent pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from magic123.device import to_device
from magic123.miniatures.pool import DRAWN, SIZE, VIEWS, Pool
from magic123.miniatures.training import DEVICE, draw_batch, save_half, train, write_record

BATCH, LATENT_SIDE, SEED = 4, 8, 1
STEPS = {SIZE: 20000, DRAWN: 9000}
CHANNELS = {SIZE: (24, 48, 64), DRAWN: (16, 32, 64, 96)}
LATENT_CHANNELS = {SIZE: 8, DRAWN: 16}
NOISE = 0.05  # standard deviation of the posterior, which is constant, because training is then much faster


def build(size: int):
    """Return the untrained autoencoder (diffusers' AutoencoderKL) for pictures of SIZE or DRAWN pixels a side."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    channels = CHANNELS[size]
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS[size],
        sample_size=size,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
    )
    initialise_nearly_linear(model)
    return model


def initialise_nearly_linear(model: torch.nn.Module) -> None:
    """Initialise an autoencoder as a nearly linear map: residual branches are zero, other convolutions orthogonal.

    With PyTorch's default initialisation it takes about 5,000 steps until it is as good as a linear code of the same size.
    """
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind == "ResnetBlock2D":
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
        elif kind == "Attention":
            torch.nn.init.zeros_(module.to_out[0].weight)
            torch.nn.init.zeros_(module.to_out[0].bias)
        elif isinstance(module, torch.nn.Conv2d) and not name.endswith(("conv1", "conv2")):
            torch.nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


def backgrounds(generator: torch.Generator, count: int) -> np.ndarray:
    """Return background colours [B, 1, 1, 3]: white for 60 % of the pictures, otherwise random."""
    colour = torch.rand(count, 1, 1, 3, generator=generator)
    white = torch.rand(count, 1, 1, 1, generator=generator) < 0.6
    return torch.where(white, torch.ones(()), colour).numpy()


def nchw(rgb: np.ndarray) -> torch.Tensor:
    """Convert pictures [B, S, S, 3] in [0, 1] to the networks' input [B, 3, S, S] in [-1, 1], on the training device."""
    x = to_device(torch.from_numpy(rgb), DEVICE).permute(0, 3, 1, 2) * 2 - 1
    return x.contiguous(memory_format=torch.channels_last)


def pictures(pool: Pool, generator: torch.Generator, count: int, size: int) -> torch.Tensor:
    """Return training pictures [count, 3, size, size] in [-1, 1].

    A quarter of them are blurred, so that they look like renderings at half the size that were enlarged.
    """
    objects, views = draw_batch(generator, pool.training, VIEWS, count)
    x = nchw(pool.rgb(objects, views, backgrounds(generator, count), size))
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear", align_corners=False)
    blurred = to_device(torch.rand(count, 1, 1, 1, generator=generator) < 0.25, DEVICE)
    return torch.where(blurred, soft, x).contiguous(memory_format=torch.channels_last)


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the PSNR [B] of pictures in [-1, 1], in dB."""
    return -10 * torch.log10((((a - b) / 2) ** 2).flatten(1).mean(1).clamp_min(1e-10))


def make_autoencoder(
    pool_folder: Path, out: Path, size: int, steps: int | None = None, seed: int = SEED, inputs: dict | None = None
) -> None:
    """Train an autoencoder and write it in diffusers format, with a scaling factor that gives latents unit standard deviation.

    Args:
        pool_folder: the folder that `make_pool` wrote.
        out: the folder to write.
        size: side of the pictures in pixels, SIZE or DRAWN.
        steps: number of training steps; None for STEPS[size].
        seed: seed of the initial weights and of all random numbers.
        inputs: hashes of the files that it is trained from, see `train`.
    """
    torch.manual_seed(seed)
    pool, model = Pool(pool_folder), build(size).to(DEVICE, memory_format=torch.channels_last)

    def loss(generator):
        x = pictures(pool, generator, BATCH, size)
        posterior = model.encode(x).latent_dist
        noise = to_device(torch.randn(posterior.mean.shape, generator=generator), DEVICE)
        y = model.decode(posterior.mean + NOISE * noise).sample
        spread = 1e-3 * (posterior.logvar - 2 * np.log(NOISE)).square().mean() + 1e-4 * posterior.mean.square().mean()
        return F.mse_loss(y, x) + 0.05 * F.l1_loss(y, x) + spread

    @torch.no_grad()
    def quality():
        held_out = np.arange(pool.training, len(pool.images))
        x = nchw(pool.rgb(held_out, np.zeros(len(held_out), int), size=size))
        y = torch.cat([model.decode(model.encode(part).latent_dist.mean).sample.clamp(-1, 1) for part in x.split(20)])
        return {"psnr": psnr(y, x).mean().item(), "pictures": len(held_out)}

    record = train(
        [model],
        loss,
        steps=steps or STEPS[size],
        batch=BATCH,
        learning_rate=1e-3,
        name=out.name,
        ema_decay=0.995,
        seed=seed,
        inputs=inputs,
        checkpoint=out.parent / f"{out.name}.state",
        checkpoint_interval=1000,
        on_checkpoint=lambda step: print(f"{out.name}: held out at step {step}, raw weights: {quality()}", flush=True),
    )
    model.eval()
    with torch.no_grad():
        train_x = pictures(pool, torch.Generator().manual_seed(9), 256, size)
        std = torch.cat([model.encode(part).latent_dist.mean for part in train_x.split(64)]).std().item()
    model.register_to_config(scaling_factor=1 / std)
    save_half(model, out)
    measured = quality()
    write_record(out, record, measured)
    print(f"{out.name}:", measured, "scaling factor", 1 / std)
