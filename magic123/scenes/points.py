"""Make-it-3D's second stage (arXiv 2303.14184): a textured point cloud that a small network renders.

Positions are fixed; colours, features and the network are learned. `Points.from_scene` lifts the cloud from a trained scene.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.render import losses
from magic123.render.deferred import DeferredRenderer
from magic123.render.points import splat
from magic123.render.rendering import PLAIN, Rendering, RenderOptions
from magic123.render.shading import shade_colors
from magic123.scenes.dmtet import DMTet
from magic123.scenes.lifting import Cloud, lift
from magic123.scenes.nerf import NeRF
from magic123.scenes.scene import Scene
from magic123.settings.losses import Losses
from magic123.settings.scenes import LearningRates, PointsSettings
from magic123.settings.stage import PointsStage

CLEAR, SOLID = 0.45, 0.9  # coverages: the blur around the outline is below CLEAR, seams between points are above SOLID
EDGE = 1e-3  # colours are kept this far from 0 and 1 before a logit


class Points(Scene[PointsStage]):
    """A cloud of N points with learned colours and features, and the network that renders them.

    Args:
        settings: settings of the points.
        cloud: positions of the points, and their initial colours.
    """

    positions: Tensor  # [N, 3]
    normals: Tensor  # [N, 3] unit
    colours: Tensor  # [N, 3] as lifted
    sizes: Tensor  # [N] world units
    known: Tensor  # [N] bool: coloured by the input picture

    def __init__(self, settings: PointsSettings, cloud: Cloud):
        super().__init__()
        self.settings = settings
        for name, value in vars(cloud).items():
            self.register_buffer(name, value)
        self.colour = nn.Parameter(cloud.colours.clone())
        self.feature = nn.Parameter(torch.randn(len(cloud.positions), settings.features).to(cloud.positions.device))
        # colour, features and opacity in, colour out
        self.renderer = DeferredRenderer(3 + settings.features + 1, 3, settings.scales, settings.width)

    @classmethod
    def of_size(cls, settings: PointsSettings, count: int) -> Points:
        """Return a cloud of `count` points that are all zeros, to load a state dict into."""
        flat, solid = torch.zeros(count), torch.zeros(count, 3)
        return cls(settings, Cloud(solid, solid.clone(), solid.clone(), flat, flat.bool()))

    @classmethod
    def build(cls, stage: PointsStage, given: dict[str, Tensor]) -> Points:
        """Return a cloud of zeros, of as many points as `given` has positions [N, 3]."""
        return cls.of_size(stage.points, len(given["positions"]))

    @classmethod
    def hand_over(cls, before: Scene, example: Example, stage: PointsStage) -> Scene:
        """Return the scene of a stage that starts from other points, or is lifted from another kind of trained scene."""
        if isinstance(before, NeRF | DMTet):
            return cls.from_scene(before, example, stage)
        return super().hand_over(before, example, stage)

    @classmethod
    def from_scene(cls, scene: Scene, example: Example, stage: PointsStage) -> Points:
        """Return the points of `stage`, lifted from a trained scene at the reference view's training size, on its device.

        Raises:
            InputError: as `lift`.
        """
        device = scene.device
        cloud, figures = lift(scene, example, stage.points, round(stage.resolution * stage.reference_scale), device)
        points = cls(stage.points, cloud).to(device)
        points.handover = figures
        return points

    def render(self, camera: Camera, options: RenderOptions = PLAIN) -> Rendering:
        """Render the points as `Scene.render` describes. Every mode has normals; the offsets are ignored.

        Depth and normal are means over the nearest points, without gradient.
        """
        device = self.positions.device
        camera = camera.to(device)
        background, light = options.background_on(device), options.lights(camera, device)
        pictures = []
        for index in range(len(camera)):  # one by one: each sees other points
            albedo, opacity, depth, normal = self._render_one(camera[index])
            flat = albedo.reshape(-1, 3), normal.reshape(-1, 3), None if light is None else light[index]
            shaded = shade_colors(*flat, options.ambient, options.mode).reshape(albedo.shape)
            behind = background[index] if background.dim() == 4 else background
            rgb = opacity * shaded + (1 - opacity) * behind
            pictures.append((rgb, opacity, depth * opacity, normal * opacity))
        rgb, opacity, depth, normal = (torch.stack(values) for values in zip(*pictures, strict=True))
        return Rendering(rgb, opacity, depth, normal)

    def _render_one(self, camera: Camera) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return colour [H, W, 3], opacity [H, W, 1], depth [H, W, 1] and unit normal [H, W, 3], none premultiplied."""
        carried = torch.cat([self.colour, self.feature, torch.ones_like(self.sizes)[:, None]], -1)
        splats, layers = [], []  # finest scale first; a layer is the points' channels and the opacity
        for scale in range(self.settings.scales):
            size = (-(-camera.height // 2**scale), -(-camera.width // 2**scale))
            splats.append(
                splat(self.positions, self.settings.radius * self.sizes, camera.resized(size), self.settings.per_pixel)
            )
            values, coverage = splats[-1].picture(carried).split([carried.shape[1] - 1, 1], -1)
            layers.append((values / coverage.clamp_min(EDGE), solidity(coverage)))
        inputs = [torch.cat([values * opacity, opacity], -1).permute(2, 0, 1)[None] for values, opacity in layers]
        colour = self.renderer(inputs)[0].permute(1, 2, 0)
        values, opacity = layers[0]
        if self.settings.residual:
            colour = colour + values[..., :3].clamp(EDGE, 1 - EDGE).logit()
        with torch.no_grad():
            geometry = splats[0].picture(torch.cat([self.normals, splats[0].distance[:, None]], -1))
            coverage = splats[0].picture(carried[:, -1:]).clamp_min(EDGE)
            normal, depth = F.normalize(geometry[..., :3], dim=-1), geometry[..., 3:] / coverage
        return colour.sigmoid(), opacity, depth, normal

    def parameter_groups(self, rates: LearningRates) -> list[dict]:
        """Return the groups of the points and of the network."""
        return [
            {"params": [self.colour, self.feature], "lr": rates.points},
            {"params": list(self.renderer.parameters()), "lr": rates.network},
        ]

    def regularizers(self, rendering: Rendering, weights: Losses) -> dict[str, Tensor]:
        """Return how far the colours are from the lifted ones, if that loss has a weight."""
        return losses.compute(weights, {"colours": lambda: (self.colour, self.colours, self.known)})

    def mesh(self, resolution: int = 256) -> None:
        """Return None: points have no surface."""
        return None

    @torch.no_grad()
    def cloud(self) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """Return positions and learned colours in [0, 1], [N, 3] each."""
        return self.positions, self.colour.clamp(0, 1)

    def kernels(self) -> dict[str, str]:
        """Return the kernel that splats points."""
        return {"points": "torch"}


def solidity(coverage: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return opacities from coverages: 0 up to CLEAR, 1 from SOLID on, linear in between."""
    return ((coverage - CLEAR) / (SOLID - CLEAR)).clamp(0, 1)
