"""Stages and methods.

A method is a mapping of named stages; `extends` inherits another method, keys override one by one, `null` removes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from magic123.settings.cameras import NovelCameras
from magic123.settings.common import Range, Settings
from magic123.settings.losses import Losses
from magic123.settings.priors import AnyPrior, DenoisedClipSettings, StableDiffusionSettings
from magic123.settings.scenes import DMTetSettings, FieldSettings, LearningRates, NeRFSettings, PointsSettings, Sampling


class Shading(Settings):
    """Shares of the shadings at novel views."""

    normal_until: float = Field(0.2, ge=0, le=1)  # share of the stage shown as normal maps
    textureless: float = Field(0.2, ge=0, le=1)
    albedo: float = Field(0.0, ge=0, le=1)  # colours alone, without light
    ambient: Range = (0.1, 1.0)

    @model_validator(mode="after")
    def _shares(self) -> Shading:
        if self.textureless + self.albedo > 1:
            raise ValueError("textureless and albedo are shares of one whole: together at most 1")
        return self


class Stage(Settings):
    """One optimisation of one scene."""

    # points: a cloud lifted from the stage that it starts from; picture: the input picture at every view (a control);
    # samples: novel views drawn from a zero123 prior, no 3D; renders: of another system, see Method.renders
    scene: Literal["nerf", "dmtet", "points", "picture", "samples", "renders"]
    init: str | None = None  # a stage of this method ("coarse") or of another ("magic123/coarse")
    steps: int = Field(5000, ge=0)
    resolution: PositiveInt = 128
    reference_scale: PositiveFloat = 1.5  # the known view is rendered at resolution * this
    reference_warmup: int = Field(100, ge=0)  # the first steps all see the known view
    reference_interval: int = Field(4, ge=0)  # afterwards every n-th; 0, with a warm-up of 0: none, a stage from text alone
    ray_noise: NonNegativeFloat = 1e-3
    cameras: NovelCameras = NovelCameras()
    field: FieldSettings = FieldSettings()
    nerf: NeRFSettings = NeRFSettings()
    dmtet: DMTetSettings = DMTetSettings()
    points: PointsSettings = Field(PointsSettings(), exclude_if=lambda value: value == PointsSettings())
    sampling: Sampling = Sampling()
    shading: Shading = Shading()
    random_background: float = Field(1.0, ge=0, le=1)  # share of novel views over one random colour; the others are white
    priors: dict[str, AnyPrior] = {}
    # Magic123's code divides its score-distillation gradients by the AMP loss scale (65536 at first). This constant
    # puts that factor in explicitly; 1 leaves the gradients alone.
    loss_scale: PositiveFloat = 1.0
    # that scale doubles by itself after every 2000 steps whose gradients fit into float16: the steps to a doubling here,
    # as if all fitted; 0 leaves the scale constant. Each stage begins at loss_scale again.
    loss_scale_doubling: int = Field(0, ge=0)
    losses: Losses = Losses()
    learning_rates: LearningRates = LearningRates()
    erode_edges: bool = False
    ema_decay: float = Field(0.95, ge=0, lt=1)
    ema_interval: PositiveInt = 100
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # steps that may be done again with the priors in float32, because half precision gave numbers that are not finite
    float32_retries: int = Field(100, ge=0)
    # settings to lay over these when memory runs out, one rung after the other: [{resolution: 96}, {resolution: 64}]
    ladder: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _sees_the_picture_or_not(self) -> Stage:
        if self.reference_warmup and not self.reference_interval:
            raise ValueError("reference_interval 0 never shows the known view, so reference_warmup must be 0 too")
        return self

    @field_validator("priors")
    @classmethod
    def _denoisers_exist(cls, priors: dict[str, AnyPrior]) -> dict[str, AnyPrior]:
        denoisers = {
            name: prior.denoiser for name, prior in priors.items() if isinstance(prior, DenoisedClipSettings) and prior.weight
        }
        for name, denoiser in denoisers.items():
            other = priors.get(denoiser)
            if not isinstance(other, StableDiffusionSettings) or not other.weight:
                raise ValueError(
                    f"{name}.denoiser is {denoiser!r}: it must name a prior of this stage of the kind stable-diffusion, "
                    "with a weight above 0"
                )
            if list(denoisers.values()).count(denoiser) > 1:
                raise ValueError(f"two clip priors have the denoiser {denoiser!r}: one alone can stand in for it")
        return priors

    @property
    def sees_reference(self) -> bool:
        """Whether any step trains towards the known view."""
        return self.reference_interval > 0 and self.steps > 0

    @property
    def needs_picture(self) -> bool:
        """Whether it needs an example with a picture; the others make do with a caption."""
        made_of_it = self.scene in ("picture", "points")
        return (
            self.sees_reference or made_of_it or any(prior.needs_picture or prior.uses_token for prior in self.priors.values())
        )

    @field_validator("ladder")
    @classmethod
    def _rungs_are_settings(cls, ladder: tuple, info: ValidationInfo) -> tuple:
        for number, changes in enumerate(ladder, 1):
            if fixed := {"scene", "init", "ladder"} & changes.keys():
                raise ValueError(f"rung {number} changes {fixed.pop()}, which no rung may")
            try:
                cls(**lay_over(_plain(info.data), changes))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"rung {number}: {where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
        return ladder

    def rungs(self) -> list[Stage]:
        """The stage as it is, then as each rung of the ladder changes it: rungs do not add up."""
        plain = self.model_dump() | {"ladder": ()}
        return [self, *(Stage(**lay_over(plain, changes)) for changes in self.ladder)]


# blocks and losses that a scene knows nothing of; files that give it any are refused (a loss of 0 says nothing)
SCENE_LACKS = {
    "nerf": {"dmtet", "points", "sampling", "losses.normal_consistency", "losses.laplacian", "losses.point_colour"},
    "dmtet": {"nerf", "points", "sampling"}
    | {f"losses.{name}" for name in ("entropy", "orientation", "total_variation", "point_colour")},
    # the places of points are fixed: no loss moves them
    "points": {"nerf", "dmtet", "field", "sampling"}
    | {f"losses.{name}" for name in Losses.model_fields.keys() - {"rgb", "point_colour"}},
    "picture": set(Stage.model_fields) - {"scene", "steps"},
    "renders": set(),
    "samples": set(Stage.model_fields) - {"scene", "steps", "priors", "sampling"},
}


def _plain(value: Any) -> Any:
    """Validated settings as the data that they were made of."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def lay_over(values: dict, changes: dict) -> dict:
    """`values` with `changes` as Snakemake merges configurations: mappings key by key, everything else replaced."""
    result = dict(values)
    for key, new in changes.items():
        old = values.get(key)
        result[key] = lay_over(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return result


class Method(Settings):
    label: str  # as a table prints it; never inherited, the method's name where not given
    about: str = ""  # one sentence: what this row asks; never inherited either
    stages: dict[str, Stage] = Field(min_length=1)
    # another system's pictures instead of stages: a folder below the datasets folder with {dataset} and {example} in it, and
    # {seed} where it holds several runs; without {seed} the first seed of the run stands for them
    renders: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _renders_are_one_stage(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("renders") is None:
            return data
        if data.get("stages"):
            raise ValueError("a method has either stages or renders")
        try:
            paths = {str(data["renders"]).format(dataset=d, example=e, seed=0) for d in "ab" for e in "ab"}
        except (KeyError, IndexError, ValueError):
            paths = set()
        if len(paths) < 4:
            raise ValueError("renders must hold {dataset} and {example}, may hold {seed}, and nothing else in braces")
        return data | {"stages": {"renders": {"scene": "renders", "steps": 0}}}
