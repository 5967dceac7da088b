"""Textual inversion (arXiv 2208.01618): one new word's embedding, learned by denoising pictures of one object.

Nothing but that row is a parameter: it is spliced into the output of the frozen embedding table, so the table, the text
encoder and the UNet cannot move.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from magic123.optimise.augmentation import augment, centre_square
from magic123.optimise.resume import Unfinished, loop_state, restore_loop
from magic123.priors import latent_diffusion
from magic123.priors.latent_diffusion import DTYPES, Schedule, dtype_of, load_autoencoder_and_unet, load_component
from magic123.priors.precision import in_float32
from magic123.priors.sds import NonFiniteGradient
from magic123.priors.tokens import add_token, prompt_ids, word_ids
from magic123.records.errors import InputError
from magic123.settings.inversion import InversionSettings

EVALUATION_SEED = 1234  # of the comparison, whatever the run's seed: figures of two seeds can be compared

# CLIP's short list of ImageNet prompts, which diffusers' textual inversion uses for objects
IMAGENET_TEMPLATES = (
    *(f"a {kind} of a {{}}" for kind in ("photo", "rendering", "cropped photo", "close-up photo", "rendition", "good photo")),
    *(f"a {kind} photo of the {{}}" for kind in ("cropped", "dark", "bright", "close-up", "good")),
    *(f"a photo of a {look} {{}}" for look in ("clean", "dirty", "nice", "cool", "small")),
    *(f"a photo of the {look} {{}}" for look in ("cool", "clean", "nice", "small", "weird", "large")),
    "a photo of the {}", "the photo of a {}", "a photo of my {}", "a photo of one {}", "a rendition of the {}",
)  # fmt: skip


@dataclass
class TextToImage:
    """The frozen parts that textual inversion looks through."""

    vae: nn.Module
    unet: nn.Module
    schedule: Schedule
    tokenizer: object
    text_encoder: nn.Module
    resolution: int

    @classmethod
    def load(cls, folder, dtype: str = "float32", device="cpu") -> TextToImage:
        """From a diffusers folder of Stable Diffusion, local files only. Raises InputError."""
        latent_diffusion.offline()
        from transformers import CLIPTextModel, CLIPTokenizer

        vae, unet, resolution = load_autoencoder_and_unet(folder, 4, DTYPES[dtype], device)
        tokenizer = load_component(CLIPTokenizer, folder, "tokenizer")
        text_encoder = load_component(CLIPTextModel, folder, "text_encoder").eval().requires_grad_(False).to(device)
        return cls(vae, unet, Schedule.load(folder, device), tokenizer, text_encoder, resolution)

    def denoising_loss(self, latents: Tensor, noise: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Mean squared error of the network's answer: [B]. latents, noise [B, 4, h, w], t [B], token ids [B, L]."""
        context = self.text_encoder(ids).last_hidden_state
        noisy = self.schedule.add_noise(latents, noise, t).to(dtype_of(self.unet))
        answer = self.unet(noisy, t, encoder_hidden_states=context.to(dtype_of(self.unet))).sample.float()
        if dtype_of(self.unet) == torch.float16 and context.requires_grad:
            latent_diffusion.carry_gradient_through_half(context, answer)
        return (answer - self.schedule.target(latents, noise, t)).square().mean((1, 2, 3))


def fill_template(template: str, subject: str) -> str:
    """The template with `subject` in it; a subject's own leading article goes where the template brings a determiner."""
    before = template.split("{}")[0].rsplit(" of ", 1)[-1]
    article, _, rest = subject.partition(" ")
    if before.strip() and article.lower() in ("a", "an", "the") and rest:
        subject = rest
    return template.replace("{}", subject)


def checked_templates(settings: InversionSettings) -> tuple[str, ...]:
    """The templates in use. Raises InputError."""
    if settings.templates == "imagenet":
        return IMAGENET_TEMPLATES
    wrong = [template for template in settings.templates if template.count("{}") != 1]
    if wrong or not settings.templates:
        raise InputError(
            f"templates must each hold one {{}}: {wrong[0]!r} does not" if wrong else "templates is empty: give one"
        )
    return settings.templates


def splice_row(text_encoder: nn.Module, index: int, row: Tensor):
    """From now on token `index` is embedded as `row` [dim], whose gradient flows; returns the hook's handle."""

    def replace(_module, inputs, output):
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
    unfinished: Unfinished | None = None,
) -> tuple[Tensor, dict]:
    """Embedding [dim] of a new token for `picture` [H, W, 3] in [0, 1] on white, and what happened (for token.json).

    `caption` describes the picture in plain words: it takes part in the closing comparison only. Pictures are scaled
    to [-1, 1] (Magic123's own augmented run feeds [0, 1], by accident). Goes on from what `unfinished` holds.
    Raises InputError, NonFiniteGradient, and Stopped when a signal asks to leave.
    """
    templates = checked_templates(settings)
    device = next(model.unet.parameters()).device
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
    interval, losses = max(1, settings.steps // 20), [] if unfinished is None else unfinished.rows
    live = {"row": row.detach(), "retries": torch.zeros((), dtype=torch.int64)}
    if unfinished is not None:
        restore_loop(unfinished.load(), live, optimizer, generator)
    for step in range(len(losses), settings.steps):
        if cached is None:
            latents = encode_variants(model, picture, settings.batch, settings, generator)
        else:
            latents = cached[torch.randint(len(cached), (settings.batch,), generator=generator).to(device)]
        noise = torch.randn(latents.shape, generator=generator).to(device)
        t = torch.randint(len(model.schedule.alphas_cumprod), (settings.batch,), generator=generator).to(device)
        which = torch.randint(len(templates), (settings.batch,), generator=generator).to(device)
        value = differentiate(model, latents, noise, t, ids[which], row, chunk)
        if value is None and settings.dtype != "float32" and live["retries"] < settings.float32_retries:
            live["retries"] += 1
            with in_float32([model]):
                value = differentiate(model, latents, noise, t, ids[which], row, chunk)
        if value is None:
            raise NonFiniteGradient(f"textual inversion gave a non-finite gradient at step {step} (dtype {settings.dtype})")
        optimizer.step()
        losses.append(value)
        if (step + 1) % interval == 0:
            progress(f"invert: step {step + 1} of {settings.steps}, loss {sum(losses[-interval:]) / interval:.4f}")
        if unfinished is not None:
            unfinished.after_step(lambda: loop_state(live, optimizer, generator))
    if unfinished is not None:
        unfinished.after_loop(lambda: loop_state(live, optimizer, generator))
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
    """Gives `row` [dim] the gradient of the batch's mean loss, `chunk` pictures at a time; the loss, None if not finite."""
    row.grad, value = None, 0.0
    for p in (slice(first, first + chunk) for first in range(0, len(latents), chunk)):
        loss = model.denoising_loss(latents[p], noise[p], t[p], ids[p]).sum() / len(latents)
        loss.backward()
        value += loss.item()
    return value if math.isfinite(value) and torch.isfinite(row.grad).all() else None


@torch.no_grad()
def evaluate(model: TextToImage, picture: Tensor, settings: InversionSettings, chunk: int, row: Tensor, wordings: dict) -> dict:
    """Denoising losses [N] of each wording, {name: (prompt ids [templates, L], embedding for the spliced row)}.

    The same pictures, noise and steps (spread evenly over all) for every wording; drawn apart from the training's.
    """
    device, generator = row.device, torch.Generator().manual_seed(EVALUATION_SEED)
    count, total = settings.evaluation_samples, len(model.schedule.alphas_cumprod)
    latents = encode_variants(model, picture, count, settings, generator)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    t = ((torch.arange(count) + 0.5) * total / count).long().to(device)
    scores = {}
    for name, (ids, embedding) in wordings.items():
        row.copy_(embedding)
        ids = ids[torch.arange(count, device=device) % len(ids)]
        parts = (slice(first, first + chunk) for first in range(0, count, chunk))
        scores[name] = torch.cat([model.denoising_loss(latents[p], noise[p], t[p], ids[p]).double().cpu() for p in parts])
    return scores


def initial_row(model: TextToImage, word: str) -> tuple[Tensor, dict]:
    """Embedding of a word, or the mean over the pieces that the tokenizer breaks it into; and which it was."""
    pieces = word_ids(model.tokenizer, word)
    if not pieces:
        raise InputError(f"the init word {word!r} holds no token: name a word such as object")
    rows = model.text_encoder.get_input_embeddings().weight[torch.tensor(pieces, device=model.text_encoder.device)]
    rule = "the word's own embedding" if len(pieces) == 1 else "mean of its pieces' embeddings"
    return rows.detach().float().mean(0), {"ids": pieces, "pieces": model.tokenizer.convert_ids_to_tokens(pieces), "rule": rule}


@torch.no_grad()
def encode_variants(model: TextToImage, picture: Tensor, count: int, settings: InversionSettings, generator) -> Tensor:
    """Latents [count, 4, h, w] of augmented variants of the picture (of the picture itself if augmentation is off)."""
    device, resolution = next(model.unet.parameters()).device, settings.resolution or model.resolution
    parts = []
    for first in range(0, count, 32):
        size = min(32, count - first)
        if settings.augment:
            images = augment(picture, size, resolution, generator)
        else:
            images = centre_square(picture, resolution).permute(1, 2, 0).expand(size, -1, -1, -1)
        parts.append(latent_diffusion.encode(model.vae, images.to(device), resolution, generator))
    return torch.cat(parts)


def summarise(losses: list[float], points: int = 50) -> dict:
    """First and last tenth's mean, and a curve of at most `points` [step, mean loss since the last point]."""
    tenth, width = max(1, len(losses) // 10), math.ceil(len(losses) / points)
    ends = range(width, len(losses) + 1, width)
    curve = [[end, round(sum(losses[end - width : end]) / width, 6)] for end in ends]
    return {"first_tenth": sum(losses[:tenth]) / tenth, "last_tenth": sum(losses[-tenth:]) / tenth, "curve": curve}


def compare(scores: dict[str, Tensor]) -> dict:
    """Mean losses, and the paired differences learned - other with their standard errors (negative: learned is better)."""
    result: dict = {"samples": len(scores["learned"]), **{name: float(values.mean()) for name, values in scores.items()}}
    for other in ("initial", "caption"):
        difference = scores["learned"] - scores[other]
        error = float(difference.std() / math.sqrt(len(difference))) if len(difference) > 1 else None
        result[f"learned_minus_{other}"] = {"mean": float(difference.mean()), "standard_error": error}
    return result
