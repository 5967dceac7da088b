"""Textual inversion (arXiv 2208.01618): the embedding of one new token, learned by denoising pictures of one object.

That embedding is the only parameter: it replaces a row in the output of the frozen embedding table, so the table, the text
encoder and the UNet do not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from magic123.device import to_device
from magic123.optimise.augmentation import augment, centre_square
from magic123.optimise.resume import LoopCheckpoints, loop_state, restore_loop
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Network, Schedule, dtype_of, load_autoencoder_and_unet, load_component
from magic123.priors.precision import in_float32
from magic123.priors.sds import NonFiniteGradient
from magic123.priors.tokens import add_token, prompt_ids, word_ids
from magic123.records.collector import collect_as_usual
from magic123.records.errors import InputError
from magic123.settings.inversion import IMAGENET_TEMPLATES, InversionSettings

RETRY_CHUNKS = 4  # a chunk is split into so many when a step is repeated in float32
EVALUATION_SEED = 1234  # of the final comparison, independent of the run's seed, so that runs of two seeds can be compared


@dataclass
class TextToImage:
    """The frozen components of a text-to-image model.

    Attributes:
        vae: diffusers' AutoencoderKL.
        unet: diffusers' UNet2DConditionModel.
        schedule: its noise schedule.
        tokenizer: transformers' CLIPTokenizer.
        text_encoder: transformers' CLIPTextModel.
        resolution: side of its pictures in pixels.
    """

    vae: Network
    unet: Network
    schedule: Schedule
    tokenizer: Any
    text_encoder: Network
    resolution: int

    @classmethod
    def load(cls, folder: Path, dtype: str = "float32", device: torch.device | str = "cpu") -> TextToImage:
        """Load the components from a diffusers folder of Stable Diffusion; nothing is downloaded.

        Args:
            folder: the diffusers folder.
            dtype: dtype of the autoencoder and the UNet, a key of DTYPES.
            device: device of the networks.

        Raises:
            InputError: weights are missing or damaged.
        """
        latent_diffusion.offline()
        from transformers import CLIPTextModel, CLIPTokenizer

        vae, unet, resolution = load_autoencoder_and_unet(folder, 1, DTYPES[dtype], device)
        tokenizer = load_component(CLIPTokenizer, folder, "tokenizer")
        text_encoder = load_component(CLIPTextModel, folder, "text_encoder").eval().requires_grad_(False).to(device)
        return cls(vae, unet, Schedule.load(folder, device), tokenizer, text_encoder, resolution)

    def denoising_loss(self, latents: Tensor, noise: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Return the mean squared error of the UNet's prediction for each picture: [B].

        Args:
            latents: [B, C, h, w], scaled.
            noise: [B, C, h, w], added to them.
            t: [B], diffusion steps.
            ids: [B, L], token ids of the prompts.
        """
        context = self.text_encoder(ids).last_hidden_state
        noisy = self.schedule.add_noise(latents, noise, t).to(dtype_of(self.unet))
        output = self.unet(noisy, t, encoder_hidden_states=context.to(dtype_of(self.unet))).sample.float()
        if dtype_of(self.unet) == torch.float16 and context.requires_grad:
            latent_diffusion.prevent_gradient_underflow(context, output)
        return (output - self.schedule.target(latents, noise, t)).square().mean((1, 2, 3))


def fill_template(template: str, subject: str) -> str:
    """Return the template filled with `subject`, without the subject's article if the template has a determiner."""
    before = template.split("{}")[0].rsplit(" of ", 1)[-1]
    article, _, rest = subject.partition(" ")
    if before.strip() and article.lower() in ("a", "an", "the") and rest:
        subject = rest
    return template.replace("{}", subject)


def checked_templates(settings: InversionSettings) -> tuple[str, ...]:
    """Return the templates of the settings.

    Raises:
        InputError: there is none, or one does not contain {} exactly once.
    """
    if settings.templates == "imagenet":
        return IMAGENET_TEMPLATES
    wrong = [template for template in settings.templates if template.count("{}") != 1]
    if wrong or not settings.templates:
        raise InputError(
            f"templates must each contain one {{}}: {wrong[0]!r} does not" if wrong else "templates is empty: give at least one"
        )
    return settings.templates


def splice_row(text_encoder: Network, index: int, row: Tensor) -> RemovableHandle:
    """Make a text encoder embed token `index` as `row` [dim], which gets gradients.

    Returns:
        The handle of the hook; its `remove` undoes this.
    """

    def replace(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == index)[..., None], row.to(output.dtype), output)

    return text_encoder.get_input_embeddings().register_forward_hook(replace)


def learn_token(
    model: TextToImage,
    picture: Tensor,
    *,
    caption: str,
    init_word: str,
    settings: InversionSettings,
    seed: int,
    progress: Callable[[str], None] = lambda line: None,
    checkpoints: LoopCheckpoints | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Learn the embedding of a new token for a picture.

    Pictures are scaled to [-1, 1] for the autoencoder (Magic123's own augmented run gives it [0, 1], by mistake).

    Args:
        model: a new token is added to its tokenizer and its text encoder.
        picture: [H, W, 3] in [0, 1] on white.
        caption: describes the picture; used only in the final comparison.
        init_word: the word whose embedding is the initial value.
        settings: settings of the inversion.
        seed: seed of all random numbers.
        progress: called with lines of progress.
        checkpoints: saves the state of the loop and resumes from it; its rows are the losses.

    Returns:
        The embedding [dim], on the CPU, and the record for token.json.

    Raises:
        InputError: the token, the initial word or a template cannot be used.
        NonFiniteGradient: a gradient is not finite.
        Stopped: a signal asked the process to stop, and the state is saved.
    """
    templates = checked_templates(settings)
    device = next(model.unet.parameters()).device
    picture = to_device(picture, device)
    initial, start = initial_row(model, init_word)
    row = nn.Parameter(initial.clone())
    handle = splice_row(model.text_encoder, add_token(model.tokenizer, model.text_encoder, settings.token), row)
    ids = prompt_ids(model.tokenizer, model.text_encoder, [fill_template(template, settings.token) for template in templates])
    plain = prompt_ids(model.tokenizer, model.text_encoder, [fill_template(template, caption) for template in templates])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        [row], lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay
    )
    cached = encode_variants(model, picture, settings.cached_latents, settings, generator) if settings.cached_latents else None
    chunk = min(settings.chunk or settings.batch, settings.batch)
    interval = max(1, settings.steps // 20)
    losses: list[float] = [] if checkpoints is None else checkpoints.rows
    live = {"row": row.detach(), "retries": torch.zeros((), dtype=torch.int64)}
    if checkpoints is not None:
        restore_loop(checkpoints.load(), live, optimizer, generator)
    collect_as_usual()
    for step in range(len(losses), settings.steps):
        if cached is None:
            latents = encode_variants(model, picture, settings.batch, settings, generator)
        else:
            latents = cached[to_device(torch.randint(len(cached), (settings.batch,), generator=generator), device)]
        noise = to_device(torch.randn(latents.shape, generator=generator), device)
        t = to_device(torch.randint(len(model.schedule.alphas_cumprod), (settings.batch,), generator=generator), device)
        which = to_device(torch.randint(len(templates), (settings.batch,), generator=generator), device)
        value = differentiate(model, latents, noise, t, ids[which], row, chunk)
        if value is None and settings.dtype != "float32" and live["retries"] < settings.float32_retries:
            live["retries"] += 1
            with in_float32([model.unet]):  # float32 takes twice the memory per picture, so fewer at a time
                value = differentiate(model, latents, noise, t, ids[which], row, max(1, chunk // RETRY_CHUNKS))
        if value is None:
            raise NonFiniteGradient(f"textual inversion gave a non-finite gradient at step {step} (dtype {settings.dtype})")
        optimizer.step()
        losses.append(value)
        if (step + 1) % interval == 0:
            progress(f"invert: step {step + 1} of {settings.steps}, loss {sum(losses[-interval:]) / interval:.4f}")
        if checkpoints is not None:
            checkpoints.after_step(lambda: loop_state(live, optimizer, generator))
    if checkpoints is not None:
        checkpoints.after_loop(lambda: loop_state(live, optimizer, generator))
    learned = row.detach().clone()
    scores = evaluate(
        model,
        picture,
        settings,
        chunk,
        row,
        {"learned": (ids, learned), "initial": (ids, initial), "caption": (plain, initial)},
    )
    handle.remove()
    return learned.cpu(), {
        "init": {"word": init_word, **start},
        "caption": caption,
        "templates": list(templates),
        "resolution": settings.resolution or model.resolution,
        "prediction_type": model.schedule.prediction_type,
        "loss": summarise(losses),
        "evaluation": compare(scores),
        "moved": float((learned - initial).norm()),
        "initial_norm": float(initial.norm()),
        "float32_retries": int(live["retries"]),
    }


def differentiate(
    model: TextToImage, latents: Tensor, noise: Tensor, t: Tensor, ids: Tensor, row: Tensor, chunk: int
) -> float | None:
    """Compute the gradient of the batch's mean denoising loss at `row`.

    Args:
        model: the model; its text encoder embeds the new token as `row`.
        latents: [B, C, h, w], scaled.
        noise: [B, C, h, w].
        t: [B], diffusion steps.
        ids: [B, L], token ids.
        row: [dim]; its `grad` is replaced.
        chunk: how many pictures are processed at a time.

    Returns:
        The loss; None if it or the gradient is not finite.
    """
    row.grad = None
    value = torch.zeros((), dtype=torch.float64, device=row.device)
    for p in (slice(first, first + chunk) for first in range(0, len(latents), chunk)):
        loss = model.denoising_loss(latents[p], noise[p], t[p], ids[p]).sum() / len(latents)
        loss.backward()
        value += loss.detach()
    assert row.grad is not None
    finite = torch.isfinite(row.grad).all() & torch.isfinite(value)
    total, is_finite = torch.stack([value, finite.double()]).tolist()  # the only synchronisation with the device in a step
    return total if is_finite else None


@torch.no_grad()
def evaluate(
    model: TextToImage,
    picture: Tensor,
    settings: InversionSettings,
    chunk: int,
    row: Tensor,
    wordings: dict[str, tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """Compare wordings by their denoising losses.

    All wordings get the same pictures, noise and diffusion steps (evenly spaced), which are not those used in training.

    Args:
        model: the model; its text encoder embeds the new token as `row`.
        picture: [H, W, 3] in [0, 1] on white.
        settings: settings of the inversion.
        chunk: how many pictures are processed at a time.
        row: [dim]; overwritten.
        wordings: name -> token ids of the prompts [templates, L], and the embedding [dim] of the new token.

    Returns:
        Name -> losses [N], float64 on the CPU.
    """
    device, generator = row.device, torch.Generator().manual_seed(EVALUATION_SEED)
    count, total = settings.evaluation_samples, len(model.schedule.alphas_cumprod)
    latents = encode_variants(model, picture, count, settings, generator)
    noise = to_device(torch.randn(latents.shape, generator=generator), device)
    t = ((torch.arange(count) + 0.5) * total / count).long().to(device)
    scores = {}
    for name, (ids, embedding) in wordings.items():
        row.copy_(embedding)
        ids = ids[torch.arange(count, device=device) % len(ids)]
        parts = (slice(first, first + chunk) for first in range(0, count, chunk))
        scores[name] = torch.cat([model.denoising_loss(latents[p], noise[p], t[p], ids[p]).double().cpu() for p in parts])
    return scores


def initial_row(model: TextToImage, word: str) -> tuple[Tensor, dict[str, Any]]:
    """Return the embedding [dim] of a word, averaged over the pieces that the tokenizer splits it into, and their record.

    Raises:
        InputError: the word has no token.
    """
    pieces = word_ids(model.tokenizer, word)
    if not pieces:
        raise InputError(f"the initial word {word!r} has no token: give a word such as object")
    rows = model.text_encoder.get_input_embeddings().weight[torch.tensor(pieces, device=model.text_encoder.device)]
    rule = "the word's own embedding" if len(pieces) == 1 else "mean of its pieces' embeddings"
    return rows.detach().float().mean(0), {"ids": pieces, "pieces": model.tokenizer.convert_ids_to_tokens(pieces), "rule": rule}


@torch.no_grad()
def encode_variants(
    model: TextToImage, picture: Tensor, count: int, settings: InversionSettings, generator: torch.Generator
) -> Tensor:
    """Return latents [count, C, h, w] of random variants of a picture, or of the picture itself if augmentation is off.

    Args:
        model: the model with the autoencoder.
        picture: [H, W, 3] in [0, 1] on white; the variants are computed on its device.
        count: number of variants.
        settings: settings of the inversion.
        generator: draws the variants and the latents; on the CPU.
    """
    resolution = settings.resolution or model.resolution
    parts = []
    for first in range(0, count, 32):
        size = min(32, count - first)
        if settings.augment:
            images = augment(picture, size, resolution, generator)
        else:
            images = centre_square(picture, resolution).permute(1, 2, 0).expand(size, -1, -1, -1)
        parts.append(latent_diffusion.encode(model.vae, images, resolution, generator))
    return torch.cat(parts)


def summarise(losses: list[float], points: int = 50) -> dict[str, Any]:
    """Return the mean loss of the first and of the last tenth of the steps, and a curve.

    Args:
        losses: losses of all steps.
        points: largest number of points [step, mean loss since the previous point] of the curve.
    """
    tenth, width = max(1, len(losses) // 10), math.ceil(len(losses) / points)
    ends = range(width, len(losses) + 1, width)
    curve = [[end, round(sum(losses[end - width : end]) / width, 6)] for end in ends]
    return {"first_tenth": sum(losses[:tenth]) / tenth, "last_tenth": sum(losses[-tenth:]) / tenth, "curve": curve}


def compare(scores: dict[str, Tensor]) -> dict[str, Any]:
    """Return the mean losses, and the mean paired differences (learned - other) with their standard errors.

    A negative difference means that the learned token is better.

    Args:
        scores: the result of `evaluate` for "learned", "initial" and "caption".
    """
    result: dict[str, Any] = {
        "samples": len(scores["learned"]),
        **{name: float(values.mean()) for name, values in scores.items()},
    }
    for other in ("initial", "caption"):
        difference = scores["learned"] - scores[other]
        error = float(difference.std() / math.sqrt(len(difference))) if len(difference) > 1 else None
        result[f"learned_minus_{other}"] = {"mean": float(difference.mean()), "standard_error": error}
    return result
