"""The fine scene: a surface, the zero level of signed distances on a deformable tetrahedral lattice (DMTet).

Signed distances are positive inside. Colours come from the same kind of field as the coarse scene's, on the surface only.
`DMTet.from_nerf` takes over a trained coarse scene: its field, and its density as the initial signed distances.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from magic123.device import Capacities
from magic123.example.example import Example
from magic123.fields.background import Background
from magic123.fields.field import Field
from magic123.geometry.camera import Camera
from magic123.geometry.edges import Edges
from magic123.geometry.lattice import build_lattice
from magic123.geometry.marching_tets import marching_tets
from magic123.geometry.mesh import mesh_problem
from magic123.geometry.surface import Surface, extract_surface
from magic123.records.errors import InputError
from magic123.render import losses
from magic123.render.raster import QueuedVisibility, choose_rasterizer, queue_visibility, recorded_rasterizer, render_mesh
from magic123.render.rendering import PLAIN, Rendering, RenderOptions
from magic123.render.shading import shade_colors
from magic123.scenes.nerf import NeRF
from magic123.scenes.scene import Scene
from magic123.settings.losses import Losses
from magic123.settings.scenes import BackgroundSettings, DMTetSettings, FieldSettings, LearningRates
from magic123.settings.stage import DMTetStage

LEVELS_TRIED = 20  # iso levels tried if the published one gives no usable surface
EMPTY = 1e-3  # mean opacity below which a coarse scene shows nothing
MARGIN = 0.1  # around the occupied extent, world units; coarse lattices use 5 / resolution, which exceeds their spacing


class DMTet(Scene[DMTetStage]):
    """Magic123's fine scene. Without a hand-over it starts as a ball of radius 0.5 and an untrained field.

    Args:
        field: settings of the field.
        dmtet: settings of the lattice and of the rasteriser.
        background: settings of a background network; None: no network.
    """

    lattice: Tensor  # [V, 3] vertices of the undeformed lattice in [-1, 1]^3
    tets: Tensor  # [T, 4] its tetrahedra
    scale: Tensor  # [3] of the lattice along each axis

    def __init__(self, field: FieldSettings, dmtet: DMTetSettings, background: BackgroundSettings | None = None):
        super().__init__()
        self.settings = dmtet
        lattice = build_lattice(dmtet.grid_resolution, dmtet.lattice)
        self.field = Field(field)
        self.background = None if background is None else Background(background)
        self.register_buffer("lattice", lattice.vertices, persistent=False)
        self.register_buffer("tets", lattice.tets, persistent=False)
        self.register_buffer("scale", torch.ones(3))  # of the lattice along each axis
        self.sdf = nn.Parameter(0.5 - lattice.vertices.norm(dim=-1))
        self.deform = nn.Parameter(torch.zeros_like(lattice.vertices))
        self._step = 0
        # (weak reference to a rendering, the mesh that it shows)
        self._last: tuple[weakref.ref[Rendering], Surface] | None = None
        self._capacities = Capacities()

    @classmethod
    def build(cls, stage: DMTetStage, given: dict[str, Tensor]) -> DMTet:
        """Return the untrained scene of a stage, a ball."""
        return cls(stage.field, stage.dmtet, stage.background)

    @classmethod
    def hand_over(cls, before: Scene, example: Example, stage: DMTetStage) -> Scene:
        """Return the scene of a stage that starts from a coarse scene, or from another fine one."""
        return cls.from_nerf(before, stage) if isinstance(before, NeRF) else super().hand_over(before, example, stage)

    def __getstate__(self) -> dict:
        """Return the state to copy or pickle, without the mesh of the last rendering."""
        return {**self.__dict__, "_last": None}

    def _surface(self) -> Surface:
        return self._seen_surface([])[0]

    def _seen_surface(self, views: Sequence[Camera]) -> tuple[Surface, list[QueuedVisibility | None]]:
        """Return the surface and, if the Triton kernels rasterise, what each of the cameras sees of it."""
        # tanh keeps an offset within half the distance between two planes of the unscaled lattice
        offset = torch.tanh(self.deform) / self.settings.grid_resolution
        scaled = self.settings.scaled_offsets
        places = self.scale * (self.lattice + offset) if scaled else self.scale * self.lattice + offset
        rasterizer = choose_rasterizer(self.settings.rasterizer, self.sdf.device)
        queued: list[QueuedVisibility] = []

        def look(*mesh: Tensor) -> Tensor:
            queued[:] = [queue_visibility(view, *mesh) for view in views]
            return torch.cat([one.counts for one in queued])

        looks = look if rasterizer == "triton" and views else None
        surface = extract_surface(places, self.sdf, self.tets, self._capacities, rasterizer == "numba", looks)
        if not len(surface.faces):
            finite = bool(torch.isfinite(self.sdf).all())
            cause = "no signed distance is positive next to a negative one" if finite else "its signed distances are not finite"
            raise InputError(
                f"The dmtet scene has lost its surface before step {self._step} ({cause}): lower learning_rates.geometry "
                "or the weights of the priors and of laplacian."
            )
        if looks is None:
            return surface, [None] * len(views)
        return surface, [one._replace(numbers=surface.numbers[3 * i : 3 * i + 3]) for i, one in enumerate(queued)]

    def render(self, camera: Camera, options: RenderOptions = PLAIN) -> Rendering:
        """Render the surface as `Scene.render` describes. Every mode has normals; the offsets are ignored.

        Raises:
            InputError: the surface has vanished, or the rasteriser that the settings ask for cannot run.
        """
        mode, ambient = options.mode, options.ambient
        background, light = options.background_on(self.sdf.device), options.lights(camera, self.sdf.device)
        views = [camera[index] for index in range(len(camera))]  # one by one: each has its own light
        surface, queued = self._seen_surface(views)
        uncovered = {"textureless": ambient, "normal": 0.5}.get(mode, 0.0) if self.settings.lit_background else 0.0
        pictures = []
        for index, view in enumerate(views):

            def shade(points: Tensor, normals: Tensor, index: int = index) -> Tensor:
                albedo = self.field.albedo(points) if mode in ("albedo", "lambertian") else torch.ones_like(points)
                return shade_colors(albedo, normals, None if light is None else light[index], ambient, mode)

            pictures.append(
                render_mesh(
                    surface.vertices,
                    surface.faces,
                    view,
                    shade=shade,
                    background=background[index : index + 1] if background.dim() == 4 else background,
                    rasterizer=self.settings.rasterizer,
                    edges=surface.edges,
                    host=surface.host,
                    queued=queued[index],
                    uncovered=uncovered,
                )
            )
        parts = (torch.cat([getattr(p, name) for p in pictures]) for name in ("rgb", "opacity", "depth", "normal"))
        rgb, opacity, depth, normal = parts
        rendering = Rendering(rgb, opacity, depth, normal)
        self._last = (weakref.ref(rendering), surface)
        return rendering

    def learned_background(self, camera: Camera, offset: Float[Tensor, " 3"] | None = None) -> Float[Tensor, "B H W 3"] | None:
        """Return the background network's colours behind the pixels of B cameras; None without one."""
        return None if self.background is None else self.background(camera.to(self.device).rays()[1])

    def parameter_groups(self, rates: LearningRates) -> list[dict]:
        """Return the groups of the hash grid, of the networks and of the geometry."""
        grid = self.field.grid.table
        network = [p for p in self.field.parameters() if p is not grid]
        groups = [
            {"params": [grid], "lr": rates.grid},
            {"params": network, "lr": rates.network},
            {"params": [self.sdf, self.deform], "lr": rates.geometry},
        ]
        if self.background is not None:
            groups.append({"params": list(self.background.parameters()), "lr": rates.network})
        return groups

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        """Set the level mask of the field: off, unless the settings have `texture_levels_masked`."""
        self._step = step
        self.field.set_progress(step / max(steps, 1) if self.settings.texture_levels_masked else 1.0)

    def regularizers(self, rendering: Rendering, weights: Losses) -> dict[str, Tensor]:
        """Return the unweighted losses of the LOSSES table that exist for a surface (there are no samples along rays)."""

        @cache
        def surface() -> tuple[Tensor, Tensor, Edges]:
            if self._last is not None and self._last[0]() is rendering:
                return self._last[1][:3]
            return self._surface()[:3]

        return losses.compute(weights, losses.rendering_inputs(rendering) | {"mesh": surface})

    @torch.no_grad()
    def mesh(self, resolution: int = 256) -> tuple[Float[Tensor, "V 3"], Int64[Tensor, "F 3"]]:
        """Return vertices [V, 3] and faces [F, 3] int64.

        Raises:
            InputError: the surface has vanished.
        """
        return self._surface()[:2]

    def albedo(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return colours [N, 3] in [0, 1] at points [N, 3] in [-1, 1]."""
        return self.field.albedo(points)

    def kernels(self) -> dict[str, str]:
        """Return the implementations of the rasteriser, the hash grid and marching tetrahedra."""
        rasterizer = recorded_rasterizer(self.settings.rasterizer, self.sdf.device)
        return {"rasterizer": rasterizer, "hash_grid": self.field.grid.backend_used, "marching_tets": "torch"}

    @classmethod
    @torch.no_grad()
    def from_nerf(cls, nerf: NeRF, stage: DMTetStage) -> DMTet:
        """Return the fine scene of `stage` that starts from a trained coarse scene, on its device.

        Published rule: sdf = clamp(density - level, -1, 1) with the occupancy grid's threshold as level, on a lattice
        scaled per axis to the occupied extent plus 0.1 (more below resolution 50); the density outside the cube is 0. If
        that gives no usable surface (`mesh_problem`), the level is used whose silhouettes agree best with the coarse
        scene's at four views; `handover` records the level and the reason.

        Raises:
            InputError: the coarse scene is empty, or no level gives a surface.
        """
        scene = cls(stage.field, stage.dmtet, stage.background).to(nerf.device)
        scene.field.load_state_dict(nerf.field.state_dict())
        if scene.background is not None:
            assert nerf.background is not None  # by start_problem
            scene.background.load_state_dict(nerf.background.state_dict())
        views = Camera.orbit(75.0, [0.0, 90.0, 180.0, 270.0], 1.8, 40.0, 64, device=scene.sdf.device)
        seen = nerf.render(views).opacity
        if float(seen.mean()) < EMPTY:
            raise InputError(
                f"The coarse scene is empty (mean opacity {float(seen.mean()):.1e} in four views), so dmtet has no surface "
                "to start from: look at the coarse stage's views, train it longer or raise its rgb and mask weights."
            )
        density = _density(nerf, scene.lattice)

        def tried(level: float) -> dict:
            problem = scene._take_level(nerf, density, level)
            return {
                "level": level,
                "problem": problem,
                "silhouette_iou": None if problem else scene._silhouette_iou(views, seen),
            }

        published = float(nerf.occupancy.threshold_value())
        attempts = [tried(published)]
        chosen, rule, why = attempts[0], "published", "the published level gives a usable surface"
        if chosen["problem"]:
            highest = 0.9 * float(density.max())
            lowest = min(max(published / 10, 1e-2), highest / 2)
            if highest > 0:
                attempts += [tried(float(level)) for level in np.geomspace(lowest, highest, LEVELS_TRIED)]
            usable = [attempt for attempt in attempts if attempt["problem"] is None]
            if not usable:
                raise InputError(
                    f"The coarse scene has no surface to start dmtet from: at its density threshold {published:.3g} the mesh "
                    f"is unusable ({chosen['problem']}), as it is at {len(attempts) - 1} other levels; "
                    "look at the coarse stage's views, train it longer or raise its rgb and mask weights."
                )
            why = f"at the published level {published:.3g} the mesh is unusable: {chosen['problem']}"
            chosen = max(usable, key=lambda attempt: attempt["silhouette_iou"])
            rule = "best silhouette"
            scene._take_level(nerf, density, chosen["level"])
        vertices, faces = scene.mesh()
        scene.handover = {
            "level": chosen["level"], "published_level": published, "rule": rule, "why": why,
            "silhouette_iou": chosen["silhouette_iou"], "scale": scene.scale.tolist(),
            "vertices": len(vertices), "faces": len(faces), "tried": attempts,
        }  # fmt: skip
        return scene

    def _take_level(self, nerf: NeRF, density: Tensor, level: float) -> str | None:
        """Set scale and sdf from the density above `level`, and return what is wrong with the surface, if anything.

        Args:
            nerf: the coarse scene.
            density: its density at the unscaled lattice, [V].
            level: the density at which the surface lies.
        """
        occupied = self.lattice[density > level]
        if not len(occupied):
            return mesh_problem(np.zeros((0, 3)), np.zeros((0, 3), int))
        margin = max(MARGIN, 5 / self.settings.grid_resolution)
        scale = occupied.abs().amax(0) + margin
        self.scale.copy_(scale.clamp_max(1.0) if self.settings.within_cube else scale)
        self.sdf.copy_((_density(nerf, self.scale * self.lattice) - level).clamp(-1, 1))
        vertices, faces = marching_tets(self.scale * self.lattice, self.sdf, self.tets)
        return mesh_problem(vertices.cpu().numpy(), faces.cpu().numpy(), self.scale.cpu().numpy())

    def _silhouette_iou(self, views: Camera, seen: Tensor) -> float:
        """Return the agreement of this surface's opacity with another's at the same views: sum of minima / sum of maxima."""
        own = self.render(views, RenderOptions(mode="normal")).opacity
        return float(torch.minimum(own, seen).sum() / torch.maximum(own, seen).sum().clamp_min(1e-6))


def _density(nerf: NeRF, points: Tensor, chunk: int = 2**18) -> Tensor:
    """Return the density at points [V, 3], 0 outside the field's cube: [V]."""
    outside = (points.abs() > nerf.field.settings.bound).any(-1)
    return torch.cat([nerf.field.density(part) for part in points.split(chunk)]).masked_fill(outside, 0.0)
