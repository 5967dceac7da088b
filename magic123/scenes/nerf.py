"""The coarse scene: a density and albedo field with an occupancy grid, rendered by ray marching."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from magic123.device import Capacities, require_triton, to_device, triton_problem_on
from magic123.fields.background import Background
from magic123.fields.field import Field
from magic123.geometry.camera import Camera
from magic123.render import losses
from magic123.render.occupancy import OccupancyGrid
from magic123.render.rendering import PLAIN, Rendering, RenderOptions, Samples
from magic123.render.shading import shade_colors
from magic123.render.volume import RayRendering, render_volume
from magic123.scenes.scene import Scene
from magic123.settings.losses import Losses
from magic123.settings.scenes import BackgroundSettings, FieldSettings, LearningRates, NeRFSettings
from magic123.settings.stage import NeRFStage


class NeRF(Scene[NeRFStage]):
    """Magic123's coarse scene in the cube [-1, 1]^3, or in the smaller one of `field.bound`.

    Args:
        field: settings of the field.
        nerf: settings of the occupancy grid and of ray marching.
        ray_chunk: rays rendered at once if no gradients are computed; such renderings carry no samples.
        background: settings of a background network; None: no network.
    """

    def __init__(
        self,
        field: FieldSettings,
        nerf: NeRFSettings,
        ray_chunk: int = 2**15,
        background: BackgroundSettings | None = None,
    ):
        super().__init__()
        self.settings = nerf
        self.field = Field(field)
        self.occupancy = OccupancyGrid(
            nerf.occupancy_resolution, nerf.occupancy_decay, nerf.occupancy_threshold, nerf.occupancy_cells == "all"
        )
        self.background = None if background is None else Background(background)
        self.ray_chunk = ray_chunk
        self._generator: torch.Generator | None = None
        self._capacities: dict[int, Capacities] = defaultdict(Capacities)  # for each number of rays

    @classmethod
    def build(cls, stage: NeRFStage, given: dict[str, Tensor]) -> NeRF:
        """Return the untrained scene of a stage."""
        return cls(stage.field, stage.nerf, background=stage.background)

    def render(self, camera: Camera, options: RenderOptions = PLAIN) -> Rendering:
        """Render by ray marching, as `Scene.render` describes. Mode "albedo" computes no normals."""
        device = self.field.grid.table.device
        camera = camera.to(device)
        origins, directions = camera.rays()
        forward = -camera.camera_to_world[:, None, None, :3, 2]
        in_depth = self.settings.spacing == "depth"
        if in_depth:  # then distances along a ray are depths
            directions = directions / (directions * forward).sum(-1, keepdim=True)
        if options.origins_offset is not None:
            origins = origins + to_device(options.origins_offset, device)
        if options.directions_offset is not None:
            directions = directions + to_device(options.directions_offset, device)
            if self.settings.spacing == "distance":
                directions = nn.functional.normalize(directions, dim=-1)
        # distance along the ray -> along the optical axis
        along = 1.0 if in_depth else (directions * forward).sum(-1, keepdim=True)

        per_ray = [origins, directions, options.background_on(device).expand_as(directions)]
        if (light := options.lights(camera, device)) is not None:
            per_ray.append(light[:, None, None].expand_as(directions))
        rays = [v.reshape(-1, 3) for v in per_ray]
        if torch.is_grad_enabled():
            seen = self._render_rays(options, *rays)
            samples = seen.samples
        else:
            seen, samples = self._render_pieces(options, rays), None

        shape = directions.shape[:-1]
        return Rendering(
            rgb=seen.rgb.reshape(*shape, 3),
            opacity=seen.opacity.reshape(*shape, 1),
            depth=seen.depth.reshape(*shape, 1) * along,
            normal=None if seen.normal is None else seen.normal.reshape(*shape, 3),
            samples=samples,
        )

    def _render_rays(
        self, options: RenderOptions, origins: Tensor, directions: Tensor, background: Tensor, light: Tensor | None = None
    ) -> RayRendering:
        def shade(albedo: Tensor, normals: Tensor | None, rays: Tensor) -> Tensor:
            towards = None if light is None else light.index_select(0, rays)
            return shade_colors(albedo, normals, towards, options.ambient, options.mode)

        seen = render_volume(
            self._in_unit_cube(self.field.density_and_albedo),
            origins / self.field.settings.bound,
            directions / self.field.settings.bound,
            occupied=self.occupancy.occupied,
            cells=self.occupancy.cells if self.marching_used == "triton" else None,
            max_samples=self.settings.max_samples,
            background=background,
            shade=shade,
            density=self._in_unit_cube(self.field.density),
            normal=None if options.mode == "albedo" else self._in_unit_cube(self.field.normal),
            generator=options.generator,
            box=self.occupancy.box,
            nearest=self.settings.nearest,
            full_steps=self.settings.spacing != "distance",
            normals_move_density=self.settings.normals_move_density,
            # on a CPU reading a size back costs nothing
            capacities=None if origins.device.type == "cpu" else self._capacities[len(origins)],
        )
        samples, bound = seen.samples, self.field.settings.bound
        if self.settings.spacing == "distance" and bound == 1:
            return seen

        def viewing(directions: Tensor) -> Tensor:
            """Return directions in the unit cube as losses use them: normalised, unless noise may scale them as released."""
            if self.settings.spacing == "whole-distance":
                return directions * bound
            return nn.functional.normalize(directions, dim=-1)

        def marched_normals() -> tuple[Tensor, Tensor, Tensor]:
            assert samples.marched_normals is not None
            densities, normals, directions = samples.marched_normals()
            return densities, normals, viewing(directions)

        on_request = None if samples.marched_normals is None else marched_normals
        return replace(seen, samples=replace(samples, directions=viewing(samples.directions), marched_normals=on_request))

    def _in_unit_cube(self, function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        """Convert a function of positions in the field's cube to one of positions in [-1, 1]^3."""
        bound = self.field.settings.bound
        return function if bound == 1 else lambda x: function(x * bound)

    def _render_pieces(self, options: RenderOptions, rays: list[Tensor]) -> RayRendering:
        parts = zip(*(v.split(self.ray_chunk) for v in rays), strict=True)
        pieces = [self._render_rays(options, *part) for part in parts]
        normals = [piece.normal for piece in pieces if piece.normal is not None]
        normal = torch.cat(normals) if normals else None
        rgb, opacity, depth = (torch.cat([getattr(p, name) for p in pieces]) for name in ("rgb", "opacity", "depth"))
        return RayRendering(rgb, opacity, depth, normal, Samples(opacity.new_zeros(0), *(opacity.new_zeros(0, 3),) * 2, 0))

    def learned_background(self, camera: Camera, offset: Float[Tensor, " 3"] | None = None) -> Float[Tensor, "B H W 3"] | None:
        """Return the background network's colours behind the pixels of B cameras; None without one."""
        if self.background is None:
            return None
        directions = camera.to(self.device).rays()[1]
        if offset is not None and self.settings.spacing == "whole-distance":
            directions = directions + to_device(offset, self.device)
        return self.background(directions)

    def parameter_groups(self, rates: LearningRates) -> list[dict]:
        """Return the groups of the hash grid and of the networks."""
        grid = self.field.grid.table
        network = [p for p in self.field.parameters() if p is not grid]
        groups = [{"params": [grid], "lr": rates.grid}, {"params": network, "lr": rates.network}]
        if self.background is not None:
            groups.append({"params": list(self.background.parameters()), "lr": rates.network})
        return groups

    def before_step(self, step: int, steps: int, generator: torch.Generator) -> None:
        """Set the level mask and, at every `occupancy_interval`-th step, update the occupancy grid."""
        self._generator = generator
        self.field.set_progress(step / max(steps, 1))
        if step % self.settings.occupancy_interval == 0:
            self.update_occupancy(generator)

    def update_occupancy(self, generator: torch.Generator | None = None) -> None:
        """Update the occupancy grid from the field; see `OccupancyGrid.update`."""
        self.occupancy.update(self._in_unit_cube(self.field.density), generator)

    def regularizers(self, rendering: Rendering, weights: Losses) -> dict[str, Tensor]:
        """Return the unweighted losses of the LOSSES table that this rendering allows (mode "albedo" has no normals)."""
        density = lambda: (self.field.density, self._generator, self.field.grid.table.device)  # noqa: E731
        samples = losses.sample_inputs(rendering.samples, self.settings.regularized, self._generator)
        given = losses.rendering_inputs(rendering) | samples | {"density": density}
        return losses.compute(weights, given)

    def albedo(self, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return colours [N, 3] in [0, 1] at points [N, 3] in [-1, 1]."""
        return self.field.albedo(points)

    @torch.no_grad()
    def mesh(self, resolution: int = 256) -> tuple[Float[Tensor, "V 3"], Int64[Tensor, "F 3"]]:
        """Return the surface on which the density equals the occupancy threshold, by marching cubes (Lewiner).

        The logarithm of the density is interpolated, because it is smoother and has the same level set.

        Args:
            resolution: samples along each axis.

        Returns:
            Vertices [V, 3] and faces [F, 3] int64, counter-clockwise from outside, closed (capped at the sides of the cube);
            both are empty if there is no surface.
        """
        from skimage.measure import marching_cubes

        device = self.field.grid.table.device
        bound = self.field.settings.bound
        axis = torch.linspace(-bound, bound, resolution, device=device)
        plane = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        planes = [self.field.density(torch.cat([x.expand(len(plane), 1), plane], -1)) for x in axis]
        sigma = torch.stack(planes).reshape((resolution,) * 3)
        height = torch.log(sigma.clamp_min(1e-30) / self.occupancy.threshold_value()).clamp(-20, 20)
        height = nn.functional.pad(height, (1,) * 6, value=-20.0).cpu()
        if not height.max() > 0:
            return torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)
        # the inside is positive, so "ascent" orients the faces outwards
        vertices, faces, _, _ = marching_cubes(height.numpy(), 0.0, gradient_direction="ascent")
        vertices = (torch.from_numpy(vertices.copy()) - 1) * (2 / (resolution - 1)) - 1
        return vertices.clamp(-1, 1) * bound, torch.from_numpy(faces.astype("int64"))

    @property
    def marching_used(self) -> str:
        """The ray marcher on the scene's device, "torch" or "triton".

        Raises:
            InputError: the settings ask for one that cannot run there.
        """
        asked, device = self.settings.ray_marching, self.occupancy.cells.device
        if asked == "triton":
            require_triton("nerf.ray_marching", device)
        if asked == "auto":
            return "triton" if device.type == "cuda" and triton_problem_on(device) is None else "torch"
        return asked

    def kernels(self) -> dict[str, str]:
        """Return the implementations of the hash grid and of ray marching."""
        return {"hash_grid": self.field.grid.backend_used, "ray_marching": self.marching_used}
