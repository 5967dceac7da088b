"""The control scene: the reference picture, shown unchanged to every camera. A method must beat it at novel views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from magic123.geometry.camera import Camera
from magic123.render.rendering import PLAIN, Rendering, RenderOptions
from magic123.render.shading import shade_colors
from magic123.scenes.fixed_pictures import FixedPictures
from magic123.settings.stage import PictureStage


class Picture(FixedPictures[PictureStage]):
    """A billboard at the origin that faces each camera and fills its picture. Nothing in it is trained.

    Args:
        rgb: [H, W, 3] in [0, 1], composited on white (an example's).
        alpha: [H, W, 1] in [0, 1].

    Raises:
        ValueError: the shapes differ.
    """

    rgb: Tensor
    alpha: Tensor

    def __init__(self, rgb: Tensor, alpha: Tensor):
        super().__init__()
        if rgb.shape[:2] != alpha.shape[:2] or rgb.shape[2:] != (3,) or alpha.shape[2:] != (1,):
            raise ValueError(f"expected rgb [H, W, 3] and alpha [H, W, 1], got {list(rgb.shape)} and {list(alpha.shape)}")
        self.register_buffer("rgb", rgb.float())
        self.register_buffer("alpha", alpha.float())

    @classmethod
    def build(cls, stage: PictureStage, given: dict[str, Tensor]) -> Picture:
        """Return the scene of an example's picture: `given` holds rgb [H, W, 3] and alpha [H, W, 1]."""
        return cls(given["rgb"], given["alpha"])

    def render(self, camera: Camera, options: RenderOptions = PLAIN) -> Rendering:
        """Render as `Scene.render` does: the picture resized by area. Depth is the camera's radius, normals face the camera.

        The offsets are ignored.
        """
        camera = camera.to(self.rgb.device)
        size = (len(camera), camera.height, camera.width)
        premultiplied = self.rgb - (1 - self.alpha)
        image = torch.cat([premultiplied, self.alpha], -1).permute(2, 0, 1)[None]
        image = F.interpolate(image, size[1:], mode="area").permute(0, 2, 3, 1).expand(*size, 4)
        premultiplied, alpha = image[..., :3], image[..., 3:]

        normal = camera.camera_to_world[:, None, None, :3, 2].expand(*size, 3)
        mode, light = options.mode, options.lights(camera, alpha.device)
        # shading is linear in albedo, except for "textureless" and "normal", which replace it: these are premultiplied below
        straight = premultiplied if mode in ("albedo", "lambertian") else torch.ones_like(premultiplied)
        towards = None if light is None else light[:, None, None].expand(*size, 3).reshape(-1, 3)
        shaded = shade_colors(straight.reshape(-1, 3), normal.reshape(-1, 3), towards, options.ambient, mode).reshape(*size, 3)
        if mode not in ("albedo", "lambertian"):
            shaded = shaded * alpha
        return Rendering(
            rgb=(shaded + (1 - alpha) * options.background_on(alpha.device)).clamp(0, 1),
            opacity=alpha,
            depth=alpha * camera.radius[:, None, None, None],
            normal=None if mode == "albedo" else normal * alpha,
        )
