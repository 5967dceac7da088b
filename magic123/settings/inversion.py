"""Settings of textual inversion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from magic123.settings.common import Range, Settings

# CLIP's short list of ImageNet prompts, which diffusers' textual inversion uses for objects
IMAGENET_TEMPLATES = (
    *(f"a {kind} of a {{}}" for kind in ("photo", "rendering", "cropped photo", "close-up photo", "rendition", "good photo")),
    *(f"a {kind} photo of the {{}}" for kind in ("cropped", "dark", "bright", "close-up", "good")),
    *(f"a photo of a {look} {{}}" for look in ("clean", "dirty", "nice", "cool", "small")),
    *(f"a photo of the {look} {{}}" for look in ("cool", "clean", "nice", "small", "weird", "large")),
    "a photo of the {}", "the photo of a {}", "a photo of my {}", "a photo of one {}", "a rendition of the {}",
)  # fmt: skip


class InversionSettings(Settings):
    """Learning a token for one object (textual inversion, arXiv 2208.01618). Defaults are the published run on SD 1.5."""

    steps: PositiveInt = 3000
    batch: PositiveInt = 16
    chunk: PositiveInt | None = None  # pictures per forward pass (gradients accumulate over the batch); none: all
    learning_rate: PositiveFloat = 1e-4
    betas: Range = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-2
    epsilon: PositiveFloat = 1e-8
    token: str = Field("<object>", min_length=1)
    # the word whose embedding is the start; none: the example's init_word, else its prompt's last word (token.json says which)
    init_word: str | None = None
    resolution: PositiveInt | None = None  # none: the model's own
    augment: bool = True
    # imagenet: the 27 photo templates of CLIP; else templates with one {} each
    templates: Literal["imagenet"] | tuple[str, ...] = "imagenet"
    cached_latents: int = Field(0, ge=0)  # n > 0: n augmented pictures are encoded once; 0: new ones at every step
    evaluation_samples: PositiveInt = 64  # for the comparison with the initial token and with the plain caption
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    float32_retries: int = Field(100, ge=0)  # steps that may be repeated in float32, as in a stage


def initial_word(init_word: str | None, prompt: str) -> str:
    """Return the word for an example's kind of object, from which its token is learned; empty if there is none.

    Args:
        init_word: the example's own, if it has one.
        prompt: its caption, whose last word is used otherwise.
    """
    return init_word or next((word for text in reversed(prompt.split()) if (word := text.strip(",.;:!"))), "")


def fill_names(text: str, name: str, init_word: str | None, prompt: str) -> str:
    """Return a prompt with {name} and {word} replaced by the name of an example and its `initial_word`.

    Args:
        text: the prompt; its other placeholders are kept.
        name: the name of the example.
        init_word: see `initial_word`.
        prompt: see `initial_word`.
    """
    return text.replace("{name}", name).replace("{word}", initial_word(init_word, prompt))
