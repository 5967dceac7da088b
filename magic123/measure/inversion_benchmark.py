"""Measure the speed of the steps of textual inversion on this machine, and the time of each part, with random weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from magic123.device import to_device
from magic123.measure.benchmark import Clock, Timed, ball, machine, peak_memory, reset_process
from magic123.measure.random_weights import Size, random_text_to_image
from magic123.optimise.textual_inversion import TextToImage, differentiate, encode_variants, splice_row
from magic123.priors.speed import apply_speed, compile_problems
from magic123.settings.inversion import InversionSettings
from magic123.settings.priors import Speed


def measure_inversion(
    settings: InversionSettings, size: Size, device: str, *, steps: int, warmup: int, speed: Speed, seed: int = 0
) -> dict[str, Any]:
    """Run `warmup` + 2 `steps` steps and measure them; see `benchmark.measure` for the arguments and the result."""
    where = torch.device(device)
    reset_process(where)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = random_text_to_image(size, dtype=settings.dtype, device=where, seed=seed)
    applied = apply_speed([model], speed, where)
    if size == "small":
        settings = settings.model_copy(update={"batch": 2, "chunk": None, "resolution": None})
    table = cast(Any, model.text_encoder).get_input_embeddings().weight
    row = nn.Parameter(table[0].detach().float().clone())
    handle = splice_row(model.text_encoder, len(table) - 1, row)
    ids = torch.randint(len(table), (27, 77), generator=generator).to(where)
    ids[:, 5] = len(table) - 1
    optimizer = torch.optim.AdamW([row], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    picture = to_device(ball(model.resolution).require("rgb"), where)
    count = settings.cached_latents
    cached = encode_variants(model, picture, count, settings, generator) if count else None
    clock, chunk = Clock(where), min(settings.chunk or settings.batch, settings.batch)

    def run_step(timed: TextToImage | Timed) -> None:
        with clock.part("other"):
            if cached is None:
                with clock.part("augmentations and VAE"):
                    latents = encode_variants(model, picture, settings.batch, settings, generator)
            else:
                latents = cached[to_device(torch.randint(len(cached), (settings.batch,), generator=generator), where)]
            noise = to_device(torch.randn(latents.shape, generator=generator), where)
            t = to_device(torch.randint(len(model.schedule.alphas_cumprod), (settings.batch,), generator=generator), where)
            which = to_device(torch.randint(len(ids), (settings.batch,), generator=generator), where)
            with clock.part("backward"):
                differentiate(cast(TextToImage, timed), latents, noise, t, ids[which], row, chunk)
            with clock.part("optimiser"):
                optimizer.step()

    began = clock.now()
    for _ in range(warmup):
        run_step(model)
    warming = clock.now() - began
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    began = clock.now()
    for _ in range(steps):
        run_step(model)
    whole = clock.now() - began
    peak = peak_memory(where)
    clock.seconds.clear()
    for _ in range(steps):
        run_step(Timed(model, clock, {"denoising_loss": "text encoder and UNet"}))
    handle.remove()
    total = sum(clock.seconds.values())
    return {
        "size": size,
        "scene": "textual inversion",
        "resolution": settings.resolution or model.resolution,
        "batch": settings.batch,
        "cached_latents": settings.cached_latents,
        "stage_steps": settings.steps,
        "measured_steps": steps,
        "warmup_seconds": warming,
        "steps_per_second": steps / whole,
        "seconds_per_step": {"step": total / steps},
        "shares": {"step": {name: spent / total for name, spent in clock.seconds.items()}},
        "stage_minutes": settings.steps * whole / steps / 60,
        "peak_memory_bytes": peak,
        "memory_of": "the card (reserved)" if where.type == "cuda" else "the process",
        "kernels": {},
        "speed": applied,
        "compile_problems": compile_problems([model]),
        "precision": {"stable_diffusion": settings.dtype},
        **machine(where),
        "tflop_of_a_novel_view": {},
    }
