"""Settings of priors and of how their frozen networks run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, model_validator

from magic123.settings.common import Range, Settings


class PriorSettings(Settings):
    """One diffusion prior inside a stage. `weight` multiplies w(t)(eps_hat - eps) at the latents (a sum, not a mean).

    The kind `clip` is no diffusion model: `weight` times 1 - cosine between a novel view and the reference picture. With a
    `denoiser`, another prior of the stage, it looks at the view as that one denoises it, in place of that one's score
    distillation, wherever the step that was drawn there is in this prior's t_range.
    """

    kind: Literal["stable-diffusion", "stable-diffusion-xl", "deepfloyd-if", "zero123", "clip"]
    weights: str  # an entry of config/weights.yaml
    weight: NonNegativeFloat
    guidance_scale: float | None = None  # every kind but clip must give one
    t_range: Range = (0.2, 0.6)
    # stable-diffusion, and but for the token stable-diffusion-xl and deepfloyd-if
    prompt: str = "A high-resolution DSLR image of {subject}"  # {subject}: the token or the caption; {name}: the example's
    use_token: bool = True
    view_prompts: bool = True
    # eps_text + s (eps_text - eps_uncond) as the reference code does (an effective scale of s + 1), or the usual formula
    guidance_formula: Literal["usual", "as-published"] = "usual"
    # zero123
    angle_weight: bool = True  # times (angle between novel and reference direction) / 180
    # next-example: the wrong-reference control; a list: this example (own) and others of its dataset that show the same object
    reference: Literal["own", "next-example"] | tuple[str, ...] = "own"
    # clip. What is as by default is left out of what is written: settings of other priors read as they did before
    denoiser: str | None = Field(None, exclude_if=lambda value: value is None)
    # degrees of azimuth from the reference beyond which the denoiser's score distillation stands at every step
    azimuth_within: float = Field(180.0, ge=0, le=180, exclude_if=lambda value: value == 180)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _guided(self) -> PriorSettings:
        if (self.guidance_scale is None) != (self.kind == "clip"):
            raise ValueError(f"{self.kind} " + ("takes no guidance_scale" if self.kind == "clip" else "needs a guidance_scale"))
        if self.kind != "clip" and (self.denoiser is not None or self.azimuth_within != 180):
            raise ValueError(f"{self.kind} takes neither denoiser nor azimuth_within")
        return self

    @property
    def tokened(self) -> bool:
        """Whether it reads the learned token."""
        return self.kind == "stable-diffusion" and self.use_token

    @property
    def pictured(self) -> bool:
        """Whether it needs the example's picture, or what is made of it."""
        return self.tokened or self.kind in ("zero123", "clip")


_EVERY_PRIOR = {"kind", "weights", "weight", "dtype"}

_GUIDED = _EVERY_PRIOR | {"guidance_scale", "t_range", "guidance_formula"}

_PROMPTED = _GUIDED | {"prompt", "view_prompts"}

PRIOR_KEYS = {  # what each kind of prior knows; files that give it more are refused
    "stable-diffusion": _PROMPTED | {"use_token"},
    "stable-diffusion-xl": _PROMPTED,
    "deepfloyd-if": _PROMPTED,
    "zero123": _GUIDED | {"angle_weight", "reference"},
    "clip": _EVERY_PRIOR | {"denoiser"},
}

DENOISED_KEYS = {"t_range", "azimuth_within"}  # of the kind clip, with a denoiser


class Speed(Settings):
    """How frozen networks are run on a device. Nothing here changes the method: results differ by rounding, if at all.

    none leaves the choice to the device; `stage.json` says what it came to.
    """

    # their weights and pictures with channels last in memory; none: yes
    channels_last: bool | None = None
    # torch.compile of UNets and of the autoencoders' encoders, in one of its modes; none: off. The two modes that record CUDA
    # graphs do so for the UNets alone, through which no gradient passes; the encoders are then compiled without
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] | None = None
    # each prior on a CUDA stream of its own; none: on cards of 32 GB or more, because memory is then not shared among them.
    # Not with CUDA graphs
    streams: bool | None = None
    # products of float32 matrices and convolutions in TensorFloat-32, the scene's small network included; none: no
    tf32: bool | None = None

    @model_validator(mode="after")
    def _graphs_on_one_stream(self) -> Speed:
        if self.streams and self.graphs:
            raise ValueError(f"compile {self.compile} records CUDA graphs, which cannot share streams: set streams to false")
        return self

    @property
    def graphs(self) -> bool:
        return self.compile in ("reduce-overhead", "max-autotune")
