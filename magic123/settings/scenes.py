"""Settings of scenes: fields, NeRF, DMTet, point clouds, sampled pictures, and their learning rates."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from magic123.settings.common import OMITTED, Growth, KindSettings, Settings


class HashGridSettings(KindSettings):
    """A multi-resolution hash grid (arXiv 2201.05989)."""

    recorded: ClassVar[dict[str, Any]] = {"nodes": OMITTED, "interpolation": OMITTED}

    levels: PositiveInt = 16
    features: PositiveInt = 2
    log2_entries: PositiveInt = 19
    base_resolution: PositiveInt = 16
    finest_resolution: PositiveInt = 2048
    # how nodes share the rows of a level with more nodes than rows. tiled: in turn, as RealFusion, so that a level with more
    # nodes in a plane than rows does not vary along z. tiled and linear run in plain torch only
    nodes: Literal["hashed", "tiled"] = "hashed"
    interpolation: Literal["smoothstep", "linear"] = "smoothstep"
    backend: Literal["auto", "torch", "numba", "triton", "tinycudann"] = "auto"


class GrowingLevels(Growth):
    """Share of the grid's levels in use, coarsest first; at least one level is.

    The defaults are those of `progressive_level` in Magic123's published code: 0.25 + 2 progress, rounded up.
    """

    start: float = Field(0.25, ge=0, le=1)
    until: float = Field(0.375, gt=0, le=1)


class FieldSettings(KindSettings):
    """A field of density and colour: a hash grid and a small MLP."""

    recorded: ClassVar[dict[str, Any]] = {"progressive_levels": OMITTED}

    grid: HashGridSettings = HashGridSettings()
    hidden: PositiveInt = 64
    layers: PositiveInt = 2  # hidden layers of the MLP
    blob_density: float = 10.0
    blob_radius: PositiveFloat = 0.2
    # the finest half of the levels is zero until this share of the stage (0: never masked)
    coarse_to_fine: float = Field(0.6, ge=0, le=1)
    progressive_levels: GrowingLevels | None = None  # enable levels one by one; none: all that coarse_to_fine leaves
    normal_epsilon: PositiveFloat = 1e-2
    bound: float = Field(1.0, gt=0, le=1)  # half the side of the cube that the field fills, in world units


class BackgroundSettings(Settings):
    """A network that colours the background of novel views by ray direction, as `bg_net` of Magic123's published code."""

    frequencies: int = Field(6, ge=0)  # octaves of sines and cosines of a direction
    hidden: PositiveInt = 32
    layers: int = Field(1, ge=0)  # hidden layers of the MLP
    share: float = Field(0.5, ge=0, le=1)  # of the novel views with this background; the others have a single colour


class NeRFSettings(KindSettings):
    """Volume rendering of a field, with an occupancy grid."""

    recorded: ClassVar[dict[str, Any]] = {"normals_move_density": OMITTED}

    occupancy_resolution: PositiveInt = 128
    occupancy_interval: PositiveInt = 16
    occupancy_decay: float = 0.95
    occupancy_threshold: PositiveFloat = 10.0  # threshold = min(mean density, this)
    # cells whose density an update evaluates; the first update evaluates all. all: as released; quarter: a random quarter of
    # all cells, and as many occupied ones
    occupancy_cells: Literal["all", "quarter"] = "all"
    max_samples: PositiveInt = 1024  # per ray across the cube's diagonal
    # unit of the equal steps along a ray. depth: depth along the optical axis, which also weighs densities, so that the corners
    # of a picture are slightly more transparent, as released; distance: distance along the ray, the last step ending at the
    # cube; whole-distance: the same with a full last step, and noise on rays also changes the length of their directions (the
    # unit of distance) and where they meet a background network, as RealFusion and Make-it-3D
    spacing: Literal["depth", "distance", "whole-distance"] = "depth"
    nearest: PositiveFloat = 0.2  # smallest depth or distance of a sample from the camera, world units
    # samples that the losses `entropy` and `orientation` average over. marched: all in occupied cells, with weight 0 behind an
    # opaque surface, as released; visible: those that a ray reaches
    regularized: Literal["marched", "visible"] = "marched"
    # losses on rendered normals also have a gradient through the rendering weights of the samples, as RealFusion; otherwise
    # through their normals alone, as Magic123
    normals_move_density: bool = False
    # auto: Triton on CUDA where it runs, else torch. Both take the same samples; sums differ in their last digits
    ray_marching: Literal["auto", "torch", "triton"] = "auto"


class DMTetSettings(Settings):
    """A deformable tetrahedral grid (arXiv 2111.04276) and how its surface is rasterized."""

    grid_resolution: PositiveInt = 256
    # a15: the tetrahedra of the released data files, 46 per cell of four planes; bcc: the best-shaped ones, 12 per two planes,
    # with edges four fifths as long
    lattice: Literal["a15", "bcc"] = "a15"
    within_cube: bool = False  # the lattice, which is scaled to the object and a margin, never exceeds the cube
    scaled_offsets: bool = False  # offsets scale with the lattice, so that no tetrahedron can invert
    # auto: numba on the CPU; on CUDA Triton where it runs (the same pictures), else nvdiffrast if it is installed (different at
    # silhouettes), else numba, for which the mesh is copied to the CPU
    rasterizer: Literal["auto", "numba", "triton", "nvdiffrast"] = "auto"
    texture_levels_masked: bool = False
    # textureless views: the uncovered pixels show the ambient light plus the background's colour, as released
    lit_background: bool = True


class PointsSettings(Settings):
    """A point cloud with learned features, and a network that renders them: Make-it-3D's second stage.

    Points are lifted from depth maps of the previous stage at the known view's size: first at the known view, then at
    `azimuths` views on a circle at each of `polars`, nearest to the known view first.
    """

    polars: tuple[float, ...] = Field((90.0, 60.0, 120.0, 30.0), min_length=1)
    azimuths: PositiveInt = 16
    tolerance: PositiveFloat = 0.04  # world units: a point this close to an existing one is not added
    features: PositiveInt = 16  # learned channels beside the three of the colour
    radius: PositiveFloat = 1.2  # of a point, in pixel spacings of the picture that it was lifted from
    per_pixel: PositiveInt = 8  # nearest points that a pixel is composited from
    scales: int = Field(3, ge=1, le=6)  # pictures that the network takes, each half the size of the previous one
    width: PositiveInt = 16  # the network's channels at the finest scale; twice as many at each coarser one
    # the network predicts a correction of the composited colours, initially zero; false: the whole picture, as published
    residual: bool = True


class Sampling(Settings):
    """Sampling of the pictures of a `samples` scene from its prior: DDIM (arXiv 2010.02502)."""

    steps: PositiveInt = 75
    eta: float = Field(1.0, ge=0, le=1)  # 0: deterministic after the first noise


class LearningRates(KindSettings):
    """Learning rates of the optimizer, by group of parameters."""

    recorded: ClassVar[dict[str, Any]] = {"points": OMITTED}

    grid: PositiveFloat = 1e-2
    network: PositiveFloat = 1e-3
    geometry: PositiveFloat = 1e-3  # DMTet: signed distances and offsets
    points: PositiveFloat = 1e-3  # colours and features of points
