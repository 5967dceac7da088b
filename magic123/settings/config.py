"""Everything a user can set, as typed data. No torch here: the Snakefile imports this module.

A *method* is a mapping of named stages; `extends` inherits another method, keys override one by one, `null` removes.
Angles are degrees, lengths are world units (the object lives in the cube [-1, 1]^3), weights multiply summed gradients
(priors) or mean losses. Defaults are Magic123's published code (coarse stage) unless a comment says otherwise.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

Range = tuple[float, float]

# One number per command: raise it when the command's results change for the same settings. Snakemake cannot see the
# code of an imported package, so this number is what makes it run the command again.
VERSIONS = {"convert": 1, "prepare": 1, "invert": 1, "reconstruct": 1, "view": 1, "score": 2, "table": 2, "report": 1}


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------------------------------------------------- cameras
class ReferenceCamera(Settings):
    """Where the input picture is taken from."""

    polar: float = 90.0
    azimuth: float = 0.0
    radius: PositiveFloat = 1.8
    fov: PositiveFloat = 40.0


class NovelCameras(Settings):
    """Distribution of training views. With probability `upper_hemisphere` a direction is uniform on y >= 0 instead."""

    radius: Range = (1.8, 1.8)
    polar: Range = (45.0, 135.0)
    azimuth: Range = (-180.0, 180.0)
    fov: Range = (40.0, 40.0)
    upper_hemisphere: float = Field(0.5, ge=0, le=1)


# ----------------------------------------------------------------------------------------------------------- scenes
class HashGridSettings(Settings):
    levels: PositiveInt = 16
    features: PositiveInt = 2
    log2_entries: PositiveInt = 19
    base_resolution: PositiveInt = 16
    finest_resolution: PositiveInt = 2048
    backend: Literal["auto", "torch", "numba", "triton", "tinycudann"] = "auto"


class FieldSettings(Settings):
    grid: HashGridSettings = HashGridSettings()
    hidden: PositiveInt = 64
    layers: PositiveInt = 2  # hidden layers of the MLP
    blob_density: float = 10.0
    blob_radius: PositiveFloat = 0.2
    # the finest half of the levels is zero until this share of the stage (0: never masked)
    coarse_to_fine: float = Field(0.6, ge=0, le=1)
    normal_epsilon: PositiveFloat = 1e-2


class NeRFSettings(Settings):
    occupancy_resolution: PositiveInt = 128
    occupancy_interval: PositiveInt = 16
    occupancy_decay: float = 0.95
    occupancy_threshold: PositiveFloat = 10.0  # threshold = min(mean density, this)
    max_samples: PositiveInt = 1024  # per ray across the cube's diagonal
    # auto: Triton on CUDA where it runs, else torch: the same samples, and sums that differ in their last digits
    ray_marching: Literal["auto", "torch", "triton"] = "auto"


class DMTetSettings(Settings):
    grid_resolution: PositiveInt = 256
    rasterizer: Literal["auto", "numba", "nvdiffrast"] = "auto"
    texture_levels_masked: bool = False


class PointsSettings(Settings):
    """A point cloud with learned features and a network that makes pictures of them: Make-it-3D's second stage.

    Points are lifted from the depth that the stage before shows at the known view's size: first at the known view, then at
    `azimuths` views on a circle at each of `polars`, nearest to the known view first.
    """

    polars: tuple[float, ...] = Field((90.0, 60.0, 120.0, 30.0), min_length=1)
    azimuths: PositiveInt = 16
    tolerance: PositiveFloat = 0.04  # world units: a point this near to one that is there already is not new
    features: PositiveInt = 16  # learned channels beside the three of the colour
    radius: PositiveFloat = 1.2  # of a point, in spacings of the picture that it comes from
    per_pixel: PositiveInt = 8  # nearest points that a pixel is composited from
    scales: int = Field(3, ge=1, le=6)  # pictures for the network, each half the size of the one before
    width: PositiveInt = 16  # the network's channels at the finest scale; twice as many at each coarser one
    # the network corrects the composited colours, and starts by leaving them; false: it makes all of the picture, as published
    residual: bool = True


# ----------------------------------------------------------------------------------------------------------- priors
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


class Losses(Settings):
    """Weights of the losses; 0 switches one off (it is then not computed)."""

    rgb: NonNegativeFloat = 5.0
    mask: NonNegativeFloat = 0.5
    depth: NonNegativeFloat = 0.01
    normal: NonNegativeFloat = 0.0
    entropy: NonNegativeFloat = 1e-3
    orientation: NonNegativeFloat = 1e-2
    opacity: NonNegativeFloat = 0.0
    normal_smoothness: NonNegativeFloat = 0.5
    normal_blur: NonNegativeFloat = 0.5
    total_variation: NonNegativeFloat = 0.0  # of density on a jittered grid; ours, for the reconstruction-only row
    normal_consistency: NonNegativeFloat = 0.0
    laplacian: NonNegativeFloat = 0.0
    # of points: colours should stay as they were lifted, those of the known view a hundred times as much
    point_colour: NonNegativeFloat = Field(0.0, exclude_if=lambda value: value == 0)


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


class Sampling(Settings):
    """How a `samples` scene draws its pictures from its prior: DDIM (arXiv 2010.02502)."""

    steps: PositiveInt = 75
    eta: float = Field(1.0, ge=0, le=1)  # 0: no chance after the first noise


class LearningRates(Settings):
    grid: PositiveFloat = 1e-2
    network: PositiveFloat = 1e-3
    geometry: PositiveFloat = 1e-3  # DMTet: signed distances and offsets
    points: PositiveFloat = Field(1e-3, exclude_if=lambda value: value == 1e-3)  # colours and features of points


# ------------------------------------------------------------------------------------------------------------ views
class ViewSet(Settings):
    """`count` cameras on one circle, evenly spaced in azimuth from `first_azimuth` on."""

    polar: float = 90.0
    first_azimuth: float = 0.0
    count: PositiveInt = 12


class ViewSettings(Settings):
    """What `view` renders of a finished stage, next to the reference view (set `reference`), and how it exports the mesh."""

    size: PositiveInt = 128
    radius: PositiveFloat = 1.8
    fov: PositiveFloat = 40.0
    sets: dict[str, ViewSet] = {"ring": ViewSet(first_azimuth=15.0), "elevated": ViewSet(polar=60.0)}
    # views are also rendered lit from the camera, with this ambient share; none: in albedo alone
    shaded_ambient: float | None = Field(None, ge=0, le=1)
    turntable_frames: PositiveInt = 48
    mesh_resolution: PositiveInt = 96  # marching cubes of a NeRF's density; a DMTet has its own lattice
    max_faces: PositiveInt = 20000
    texture_size: PositiveInt = 512

    @field_validator("sets", mode="before")
    @classmethod
    def _without_removed(cls, value: object) -> object:
        """`null` removes a set that another configuration file has."""
        return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value


# ----------------------------------------------------------------------------------------------------------- stages
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
    priors: dict[str, PriorSettings] = {}
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
    def _denoisers_are_there(cls, priors: dict[str, PriorSettings]) -> dict[str, PriorSettings]:
        judged = {name: prior.denoiser for name, prior in priors.items() if prior.denoiser is not None and prior.weight}
        for name, denoiser in judged.items():
            other = priors.get(denoiser)
            if other is None or other.kind != "stable-diffusion" or not other.weight:
                raise ValueError(
                    f"{name}.denoiser is {denoiser!r}: it must name a prior of this stage of the kind stable-diffusion, "
                    "with a weight above 0"
                )
            if list(judged.values()).count(denoiser) > 1:
                raise ValueError(f"two clip priors have the denoiser {denoiser!r}: one alone can stand in for it")
        return priors

    @property
    def sees_reference(self) -> bool:
        """Whether any step trains towards the known view."""
        return self.reference_interval > 0 and self.steps > 0

    @property
    def pictured(self) -> bool:
        """Whether it needs an example with a picture; the others make do with a caption."""
        made_of_it = self.scene in ("picture", "points")
        return self.sees_reference or made_of_it or any(prior.pictured for prior in self.priors.values())

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


# ---------------------------------------------------------------------------------------------------------- prepare
class QualityLimits(Settings):
    """When a mask is refused (`refuse_*`) or remarked upon (`warn_*`). Shares of the picture unless said otherwise."""

    refuse_area_below: float = Field(1e-3, ge=0, le=1)
    refuse_area_above: float = Field(0.98, ge=0, le=1)
    # inverted: at least this share of the border is object, and less than this share of the middle is
    refuse_inverted_border: float = Field(0.8, ge=0, le=1)
    refuse_inverted_middle: float = Field(0.5, ge=0, le=1)
    warn_area_below: float = Field(0.03, ge=0, le=1)
    warn_area_above: float = Field(0.8, ge=0, le=1)
    warn_border_contact: float = Field(0.001, ge=0, le=1)  # share of the border's pixels that are object
    warn_main_component_below: float = Field(0.9, ge=0, le=1)  # the largest component's share of the mask
    warn_soft_edge_above: float = Field(0.35, ge=0, le=1)  # half-transparent pixels per mask pixel
    warn_pixels_below: int = Field(128, ge=0)  # the longer side of the object's box, in pixels


class PrepareSettings(Settings):
    """How a picture becomes an example. Nothing here is chosen silently: what is asked for runs, or the command fails."""

    resolution: PositiveInt = 1024  # the prepared square's side at most; pictures are never enlarged
    aspect: Literal["pad", "squash"] = "pad"  # squash: distorts to a square, as the published code does
    # the longer side of the object's box takes this share of the square; none keeps the picture's own framing
    object_share: float | None = Field(None, gt=0, le=1)
    # how colours are stored under a soft alpha; detect looks at the soft pixels
    alpha: Literal["detect", "straight", "premultiplied"] = "detect"
    # detect: premultiplied when at least this share of the soft pixels has max(R, G, B) <= alpha
    premultiplied_share: float = Field(0.99, gt=0, le=1)
    mask: Literal["alpha", "file", "grabcut", "rembg"] = "alpha"
    grabcut_margin: float = Field(0.03, gt=0, lt=0.5)  # this share of each side is surely background
    grabcut_iterations: PositiveInt = 5
    rembg_model: Literal["u2net", "u2netp", "silueta", "isnet-general-use"] = "u2net"
    depth: Literal["file", "dpt", "none"] = "dpt"
    # what a depth file holds: near is large, known up to scale and shift; or distances (near is small)
    depth_values: Literal["inverse", "distance"] = "inverse"
    max_pixels: int = Field(64_000_000, ge=1, le=150_000_000)
    quality: QualityLimits = QualityLimits()


# ----------------------------------------------------------------------------------------------------------- invert
class InversionSettings(Settings):
    """Learning a token for one object (textual inversion, arXiv 2208.01618). Defaults are the published run on SD 1.5."""

    steps: PositiveInt = 3000
    batch: PositiveInt = 16
    chunk: PositiveInt | None = None  # pictures through the network at once (gradients add up to the batch); none: all
    learning_rate: PositiveFloat = 1e-4
    betas: Range = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-2
    epsilon: PositiveFloat = 1e-8
    token: str = Field("<object>", min_length=1)
    # where the embedding starts; none: the example's init_word, else the last word of its prompt (token.json says which)
    init_word: str | None = None
    resolution: PositiveInt | None = None  # none: the model's own
    augment: bool = True
    # imagenet: the 27 photo templates of CLIP; else templates with one {} each
    templates: Literal["imagenet"] | tuple[str, ...] = "imagenet"
    cached_latents: int = Field(0, ge=0)  # n > 0: n augmented pictures are encoded once; 0: fresh ones at every step
    evaluation_samples: PositiveInt = 64  # of the comparison with the initial token and with the plain caption
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    float32_retries: int = Field(100, ge=0)  # steps that may be done again in float32, as in a stage
