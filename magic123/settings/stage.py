"""Settings of stages: one class for each kind of scene."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from magic123.settings.cameras import FrontSteps, NovelCameras, ReferenceCamera
from magic123.settings.common import OMITTED, KindSettings, Range, Settings, is_strict
from magic123.settings.locations import locate
from magic123.settings.losses import DMTetLosses, Losses, NeRFLosses, PointsLosses
from magic123.settings.priors import AnyPrior, DenoisedClipSettings, StableDiffusionSettings, Zero123Settings
from magic123.settings.scenes import (
    BackgroundSettings,
    DMTetSettings,
    FieldSettings,
    LearningRates,
    NeRFSettings,
    PointsSettings,
    Sampling,
)


class Shading(KindSettings):
    """Shares of the kinds of shading at novel views."""

    recorded: ClassVar[dict[str, Any]] = {"latent_until": OMITTED}

    normal_until: float = Field(0.2, ge=0, le=1)  # share of the stage shown as normal maps
    # share of the stage whose normal maps and opacity stand in for the latents of the priors, as Stable-DreamFusion's
    # latent_iter_ratio; at most normal_until
    latent_until: float = Field(0.0, ge=0, le=1)
    albedo_until: float = Field(0.0, ge=0, le=1)  # share of the stage, normal maps included, before there is any light
    textureless: float = Field(0.2, ge=0, le=1)
    albedo: float = Field(0.0, ge=0, le=1)  # colours alone, without light
    ambient: Range = (0.1, 1.0)

    @model_validator(mode="after")
    def _shares(self) -> Shading:
        if self.textureless + self.albedo > 1:
            raise ValueError("textureless and albedo are shares of the same views: their sum must be at most 1")
        if self.latent_until > self.normal_until:
            raise ValueError("latent_until is about normal maps, which are shown until normal_until: make it no larger")
        return self


class Watch(Settings):
    """What a stage writes into its folder for people to watch it. None of it changes the result."""

    guidance_every: int = Field(0, ge=0)  # n: a picture of what the priors denoised, at the first novel view of n steps; 0: no
    evaluate_every: int = Field(0, ge=0)  # n: every n steps, views of the scene and scores of the reference view; 0: never
    tensorboard: bool = False  # event files of everything in losses.csv


class StageSettings(KindSettings):
    """Settings that the stages of all scenes have in common."""

    recorded: ClassVar[dict[str, Any]] = {
        "scene": ...,
        "init": None,
        "steps": ...,
        "resolution": 128,
        "reference_scale": 1.5,
        "reference_warmup": 100,
        "reference_interval": 4,
        "reference_beside_novel": OMITTED,
        "reference_camera": OMITTED,
        "ray_noise": 1e-3,
        "ray_noise_fades": OMITTED,
        "reference_pixels": OMITTED,
        "soft_mask": OMITTED,
        "rgb_error": OMITTED,
        "reference_reduction": OMITTED,
        "gradient_clip_value": OMITTED,
        "front_steps": OMITTED,
        "cameras": NovelCameras().model_dump(),
        "field": FieldSettings().model_dump(),
        "nerf": NeRFSettings().model_dump(),
        "dmtet": DMTetSettings().model_dump(),
        "points": OMITTED,
        "background": OMITTED,
        "watch": OMITTED,
        "sampling": Sampling().model_dump(),
        "shading": Shading().model_dump(),
        "random_background": 1.0,
        "priors": {},
        "loss_scale": 1.0,
        "loss_scale_doubling": 0,
        "losses": Losses().model_dump(),
        "learning_rates": LearningRates().model_dump(),
        "erode_edges": False,
        "ema_decay": 0.95,
        "ema_interval": 100,
        "dtype": "float32",
        "float32_retries": 100,
        "ladder": (),
    }
    has_mesh: ClassVar[bool] = False  # whether there is a surface to export and to score
    also_starts_from: ClassVar[tuple[str, ...]] = ()  # scenes, beside its own, that it can start from

    scene: Literal["nerf", "dmtet", "points", "picture", "samples", "renders"]


class OptimisedStage(StageSettings):
    """One optimisation of a 3D scene: settings that all kinds of scene have in common."""

    init: str | None = None  # a stage of this method ("coarse") or of another ("magic123/coarse")
    steps: int = Field(5000, ge=0)
    resolution: PositiveInt = 128
    reference_scale: PositiveFloat = 1.5  # the reference view is rendered at resolution * this
    reference_warmup: int = Field(100, ge=0)  # the first steps all see the reference view
    reference_interval: int = Field(4, ge=0)  # afterwards every n-th; 0, with a warm-up of 0: none, a stage from text alone
    # steps that show the reference view also render a novel one, and apply the regularisers to that one alone
    reference_beside_novel: bool = False
    # this stage's camera for the reference picture, instead of the example's; views rendered of the result keep their angles
    # to the reference view, and take the radius and field of view of this camera
    reference_camera: ReferenceCamera | None = None
    ray_noise: NonNegativeFloat = 1e-3  # of the reference view, standard deviation
    ray_noise_fades: bool = False  # in proportion to the remaining steps
    front_steps: FrontSteps = FrontSteps()
    cameras: NovelCameras = NovelCameras()
    shading: Shading = Shading()
    # of the reference view. random: one colour per step, behind the picture too; learned: the background network (RealFusion)
    reference_background: Literal["white", "random", "learned"] = "white"
    priors_from: int = Field(0, ge=0)  # the first step with priors; before it, novel views only have regularisers
    random_background: float = Field(1.0, ge=0, le=1)  # share of novel views with one random colour behind; the others: white
    priors: dict[str, AnyPrior] = {}
    # Magic123's code divides its score-distillation gradients by the AMP loss scale (65536 at first). This constant
    # applies that factor explicitly; 1 leaves the gradients alone.
    loss_scale: PositiveFloat = 1.0
    # AMP doubles its scale after every 2000 steps whose gradients fit into float16. This is the number of steps per doubling,
    # as if all of them fitted; 0 keeps the scale constant. Each stage starts from loss_scale.
    loss_scale_doubling: int = Field(0, ge=0)
    losses: Losses = Losses()
    learning_rates: LearningRates = LearningRates()
    # pixels whose colours the loss `rgb` compares. object: both sides are multiplied by the mask, and the mean is over all
    # pixels, as released; picture: all pixels, including the white background
    rgb_region: Literal["object", "picture"] = "object"
    # squared: the mean squared error of these colours; absolute: the mean absolute one, as Make-it-3D
    rgb_error: Literal["squared", "absolute"] = "squared"
    # how the prepared picture is reduced to training size. area: by averaging premultiplied colours; bilinear: from the four
    # nearest pixels, colours and alpha separately, as RealFusion. Networks of priors see the prepared picture itself
    reference_reduction: Literal["area", "bilinear"] = "area"
    # the mask of the losses `rgb` (over the object) and `mask` is the picture's alpha, not alpha > 0.5: as RealFusion
    soft_mask: bool = False
    optimizer: Literal["adam", "adan"] = "adam"  # Adan (arXiv 2208.06677) is what Stable-DreamFusion and Make-it-3D train with
    gradient_clip: NonNegativeFloat = 0.0  # maximum norm of all gradients together, which are scaled down to it; 0: no limit
    gradient_clip_value: NonNegativeFloat = 0.0  # largest magnitude of a gradient element, clipped before the norm; 0: no limit
    erode_edges: bool = False  # leave the pixels along the mask's edge out of the loss `rgb`
    ema_decay: float = Field(0.95, ge=0, lt=1)
    ema_interval: PositiveInt = 100
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    # steps that may be repeated with the priors in float32, after half precision gave values that are not finite
    float32_retries: int = Field(100, ge=0)
    watch: Watch = Watch()
    # overrides of these settings, tried one after the other when memory runs out: [{resolution: 96}, {resolution: 64}]
    ladder: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _reference_is_seen_or_unused(self, info: ValidationInfo) -> Self:
        if self.reference_interval:
            return self
        if self.reference_warmup:
            raise ValueError("reference_interval 0 never shows the reference view, so reference_warmup must be 0 too")
        for name in ("rgb", "mask", "depth", "normal"):
            if is_strict(info) and name in self.losses.model_fields_set and getattr(self.losses, name):
                raise ValueError(
                    f"losses.{name} is about the reference view, which reference_interval 0 never shows; set it to 0"
                )
        return self

    @model_validator(mode="after")
    def _latents_are_there(self) -> Self:
        without = [prior.kind for prior in self.priors.values() if not prior.has_latents] if self.shading.latent_until else []
        if without:
            raise ValueError(f"a prior of the kind {without[0]} has no latents to replace: set shading.latent_until to 0")
        return self

    @model_validator(mode="after")
    def _background_is_there(self) -> Self:
        if self.reference_background == "learned" and getattr(self, "background", None) is None:
            raise ValueError("reference_background is learned, but there is no background network: give `background: {}`")
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
                raise ValueError(f"two clip priors have the denoiser {denoiser!r}: only one can replace it")
        return priors

    @field_validator("ladder")
    @classmethod
    def _rungs_fit(cls, ladder: tuple, info: ValidationInfo) -> tuple:
        for number, changes in enumerate(ladder, 1):
            if fixed := {"scene", "init", "ladder"} & changes.keys():
                raise ValueError(f"rung {number} changes {fixed.pop()}, which a rung may not change")
            try:
                cls(**lay_over(_plain(info.data), changes))
            except ValidationError as error:
                first = error.errors()[0]
                path = ".".join(map(str, locate(cls, first["loc"]).path))
                raise ValueError(f"rung {number}: {path}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
        return ladder

    @property
    def sees_reference(self) -> bool:
        """Whether any step trains towards the reference view."""
        return self.reference_interval > 0 and self.steps > 0

    @property
    def needs_picture(self) -> bool:
        """Whether it needs an example with a picture, and not just a caption."""
        return self.sees_reference or any(prior.needs_picture or prior.uses_token for prior in self.priors.values())

    def rungs(self) -> list[Self]:
        """Return the stage itself, then with each rung of the ladder applied to it; rungs do not accumulate."""
        plain = self.model_dump() | {"ladder": ()}
        return [self, *(type(self)(**lay_over(plain, changes)) for changes in self.ladder)]


class NeRFStage(OptimisedStage):
    """A density and colour field, rendered as a volume."""

    has_mesh: ClassVar[bool] = True

    scene: Literal["nerf"]
    field: FieldSettings = FieldSettings()
    nerf: NeRFSettings = NeRFSettings()
    background: BackgroundSettings | None = None  # learned; none: colours alone
    # number of random pixels of the reference view that a step renders and compares, drawn with replacement; 0: all of them
    reference_pixels: int = Field(0, ge=0)
    losses: NeRFLosses = NeRFLosses()

    @model_validator(mode="after")
    def _pixels_have_no_neighbours(self) -> Self:
        if self.reference_pixels and not self.reference_beside_novel:
            raise ValueError(
                "reference_pixels picks single pixels, on which image regularisers cannot be computed: "
                "set reference_beside_novel to true, which regularises the novel view alone"
            )
        return self


class DMTetStage(OptimisedStage):
    """A surface in a tetrahedral grid, taken from the field of a nerf stage."""

    has_mesh: ClassVar[bool] = True
    also_starts_from: ClassVar[tuple[str, ...]] = ("nerf",)

    scene: Literal["dmtet"]
    init: str = Field(description="a dmtet scene starts from a nerf stage; name it")
    field: FieldSettings = FieldSettings()
    dmtet: DMTetSettings = DMTetSettings()
    background: BackgroundSettings | None = None  # the nerf stage's, trained further
    losses: DMTetLosses = DMTetLosses()


class PointsStage(OptimisedStage):
    """A point cloud, lifted from the depth of the nerf or dmtet stage that it starts from."""

    also_starts_from: ClassVar[tuple[str, ...]] = ("nerf", "dmtet")

    scene: Literal["points"]
    init: str = Field(description="points are lifted from a nerf or dmtet stage; name it")
    points: PointsSettings = PointsSettings()
    losses: PointsLosses = PointsLosses()

    @property
    def needs_picture(self) -> bool:
        """Whether it needs an example with a picture: the points take their colours from it."""
        return True


class FixedStage(StageSettings):
    """Pictures instead of a scene: nothing is optimised."""

    init: ClassVar[None] = None
    dtype: ClassVar[Literal["float32"]] = "float32"

    steps: Literal[0] = Field(description="nothing is optimised; write steps: 0")

    @property
    def needs_picture(self) -> bool:
        """Whether it needs an example with a picture, and not just a caption."""
        return True

    def rungs(self) -> list[Self]:
        """Return the stage alone: there is no ladder."""
        return [self]


class PictureStage(FixedStage):
    """The input picture at every view, as a control."""

    priors: ClassVar[dict[str, AnyPrior]] = {}

    scene: Literal["picture"]


class SamplesStage(FixedStage):
    """Novel views drawn from one zero123 prior, without 3D."""

    scene: Literal["samples"]
    sampling: Sampling = Sampling()
    priors: dict[str, Zero123Settings] = Field(
        min_length=1, max_length=1, description="views are drawn from one prior of the kind zero123; name it"
    )


class RendersStage(FixedStage):
    """Pictures or meshes of another system, see Method.renders and Method.meshes."""

    priors: ClassVar[dict[str, AnyPrior]] = {}
    has_mesh: ClassVar[bool] = True

    scene: Literal["renders"]

    @property
    def needs_picture(self) -> bool:
        """Whether it needs an example with a picture, and not just a caption."""
        return False


Stage = Annotated[
    NeRFStage | DMTetStage | PointsStage | PictureStage | SamplesStage | RendersStage, Field(discriminator="scene")
]


def stage_settings(**values: Any) -> Stage:
    """Return the settings of a stage, in the class of its scene.

    Raises:
        pydantic.ValidationError: `values` have no known scene, or do not fit it.
    """
    return TypeAdapter(Stage).validate_python(values)


def _plain(value: Any) -> Any:
    """Return validated settings as plain data."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def lay_over(values: dict, changes: dict) -> dict:
    """Return `values` with `changes` laid over them as Snakemake merges configurations.

    Mappings are merged key by key, everything else is replaced.
    """
    result = dict(values)
    for key, new in changes.items():
        old = values.get(key)
        result[key] = lay_over(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
    return result
