"""Settings of priors, one class per kind, and of how their frozen networks run.

A new kind of prior adds its class and its name in `PriorKind` here, and its loader in `magic123.priors.loading.PRIORS`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, NonNegativeFloat, Tag, TypeAdapter, model_validator

from magic123.settings.common import OMITTED, KindSettings, Range, Settings

PriorKind = Literal["stable-diffusion", "stable-diffusion-xl", "deepfloyd-if", "zero123", "clip"]


class PriorSettings(KindSettings):
    """Settings that all priors of a stage have in common."""

    recorded: ClassVar[dict[str, Any]] = {
        "kind": ...,
        "weights": ...,
        "weight": ...,
        "guidance_scale": None,
        "t_range": (0.2, 0.6),
        "prompt": "A high-resolution DSLR image of {subject}",
        "use_token": True,
        "view_prompts": True,
        "negative_prompt": OMITTED,
        "negative_views": OMITTED,
        "hard_views": OMITTED,
        "guidance_formula": "usual",
        "angle_weight": True,
        "reference": "own",
        "denoiser": OMITTED,
        "azimuth_within": OMITTED,
        "from_step": OMITTED,
        "offload": OMITTED,
        "dtype": ...,
    }
    needs_picture: ClassVar[bool] = False  # whether it needs the example's picture even without a token
    has_latents: ClassVar[bool] = False  # whether it has an autoencoder with latents of four channels (`LatentPrior`)

    kind: PriorKind
    weights: str  # an entry of config/weights.yaml
    weight: NonNegativeFloat
    from_step: int = Field(0, ge=0)  # first step of the stage that uses this prior
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # networks stay in host memory and are moved to the device only while in use: less device memory, slower steps
    offload: bool = False

    @property
    def uses_token(self) -> bool:
        """Whether it reads the learned token, which is made from the example's picture."""
        return False


class DiffusionSettings(PriorSettings):
    """A diffusion model that guides by score distillation.

    `weight` multiplies w(t) (eps_hat - eps) at the latents: a sum over their elements, not a mean.
    """

    guidance_scale: float
    t_range: Range = (0.2, 0.6)
    # eps_text + s (eps_text - eps_uncond) as the reference code does (an effective scale of s + 1), or the usual formula
    guidance_formula: Literal["usual", "as-published"] = "usual"


class PromptedSettings(DiffusionSettings):
    """A diffusion model conditioned on text."""

    # {subject}: the token or the caption; {name}: the example's name; {word}: its init_word, else its caption's last word
    prompt: str = "A high-resolution DSLR image of {subject}"
    view_prompts: bool = True
    negative_prompt: str = ""  # of the unconditional prediction, instead of the empty prompt; takes the same placeholders
    # append the names of the other views to it ("side view, back view" at the front), mixed as the prompts are. As released
    # with `dir_texts_neg`, except that the released code has no comma between a negative prompt and these names
    negative_views: bool = False
    # use the prompt of one of six regions (front, side, back, side, overhead, bottom) instead of mixed ones, as RealFusion
    hard_views: bool = False


class StableDiffusionSettings(PromptedSettings):
    """Stable Diffusion 1.x or 2.x, with or without a learned token."""

    has_latents: ClassVar[bool] = True

    kind: Literal["stable-diffusion"]
    use_token: bool = True

    @property
    def uses_token(self) -> bool:
        """Whether it reads the learned token, which is made from the example's picture."""
        return self.use_token


class StableDiffusionXLSettings(PromptedSettings):
    """Stable Diffusion XL."""

    has_latents: ClassVar[bool] = True

    kind: Literal["stable-diffusion-xl"]


class DeepFloydIFSettings(PromptedSettings):
    """The first stage of DeepFloyd IF, which works on pixels."""

    kind: Literal["deepfloyd-if"]


class Zero123Settings(DiffusionSettings):
    """Zero-1-to-3, conditioned on reference views and the relative camera pose."""

    needs_picture: ClassVar[bool] = True
    has_latents: ClassVar[bool] = True

    kind: Literal["zero123"]
    # autocast: weights in float32, convolutions and products in float16, as Magic123's code runs it
    dtype: Literal["float32", "float16", "bfloat16", "autocast"] = "float32"  # type: ignore[assignment]  # one more choice
    angle_weight: bool = True  # multiply by (angle between novel and reference direction) / 180
    # next-example: the wrong-reference control; a list: this example (own) and others of its dataset that show the same object
    reference: Literal["own", "next-example"] | tuple[str, ...] = "own"


class ClipSettings(PriorSettings):
    """CLIP: `weight` times 1 - cosine between a novel view and the reference picture. No diffusion model."""

    needs_picture: ClassVar[bool] = True

    kind: Literal["clip"]
    denoiser: None = None  # the name of another prior of the stage, see DenoisedClipSettings


class DenoisedClipSettings(PriorSettings):
    """CLIP on novel views that another prior of the stage, the denoiser, has denoised.

    It replaces the denoiser's score distillation whenever the drawn timestep is in this prior's `t_range`.
    """

    needs_picture: ClassVar[bool] = True

    kind: Literal["clip"]
    denoiser: str
    t_range: Range = (0.2, 0.6)
    # degrees of azimuth from the reference beyond which the denoiser's score distillation is always kept
    azimuth_within: float = Field(180.0, ge=0, le=180)


def _clip_variant(values: Any) -> str:
    """Return the tag of the class that settings of the kind `clip` belong to."""
    denoiser = values.get("denoiser") if isinstance(values, dict) else getattr(values, "denoiser", None)
    return "without a denoiser" if denoiser is None else "with a denoiser"


AnyPrior = Annotated[
    StableDiffusionSettings
    | StableDiffusionXLSettings
    | DeepFloydIFSettings
    | Zero123Settings
    | Annotated[
        Annotated[ClipSettings, Tag("without a denoiser")] | Annotated[DenoisedClipSettings, Tag("with a denoiser")],
        Discriminator(_clip_variant),
    ],
    Field(discriminator="kind"),
]


def prior_settings(**values: Any) -> AnyPrior:
    """Return the settings of a prior, in the class of its kind.

    Raises:
        pydantic.ValidationError: `values` have no known kind, or do not fit it.
    """
    return TypeAdapter(AnyPrior).validate_python(values)


class Speed(Settings):
    """How frozen networks run on a device. None of this changes the method: results differ by rounding, if at all.

    None leaves the choice to the device; `stage.json` records what was chosen.
    """

    # keep weights and pictures in the channels_last memory format; none: yes
    channels_last: bool | None = None
    # torch.compile mode of UNets and of the autoencoders' encoders; none: off, because tracing them adds half a minute to each
    # stage (`benchmark --all` measures both). A network that fails when compiled runs uncompiled. The two modes that record
    # CUDA graphs do so for the UNets alone, through which no gradient passes; the encoders are then compiled without graphs
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] | None = None
    # run each prior on a CUDA stream of its own; none: on cards of 32 GB or more, because priors then do not share memory.
    # Not possible with CUDA graphs
    streams: bool | None = None
    # use TensorFloat-32 for float32 matrix products and convolutions, the scene's small network included; none: no
    tf32: bool | None = None

    @model_validator(mode="after")
    def _graphs_on_one_stream(self) -> Speed:
        if self.streams and self.graphs:
            raise ValueError(f"compile {self.compile} records CUDA graphs, which cannot share streams: set streams to false")
        return self

    @property
    def graphs(self) -> bool:
        """Whether the compile mode records CUDA graphs."""
        return self.compile in ("reduce-overhead", "max-autotune")
