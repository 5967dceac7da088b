"""Zero-1-to-3 without 3D: one picture per camera, each drawn from the prior independently, so they need not agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from magic123.geometry.camera import Camera
from magic123.records.errors import InputError
from magic123.render.rendering import PLAIN, Rendering, RenderOptions
from magic123.scenes.fixed_pictures import FixedPictures
from magic123.settings.stage import SamplesStage

TOLERANCE = 1e-3  # degrees and world units
WHITE = 250 / 255  # a sample has no alpha: pixels with all channels above this count as background
BATCH = 8


def draw(sample: Callable[[Camera], Tensor], cameras: Iterable[Camera], say: Callable[[str], None]) -> Samples:
    """Return a scene with the views of all `cameras`.

    Args:
        sample: cameras -> rgb [B, R, R, 3] in [0, 1].
        cameras: batches of cameras; the view of equal cameras is drawn once.
        say: called with a line of progress after each batch.
    """
    places = torch.cat([_places(camera) for camera in cameras])
    kept = [i for i in range(len(places)) if not any(_same(places[i], places[j]) for j in range(i))]
    places, pictures = places[kept], []
    for part in places.split(BATCH):
        polar, azimuth, radius, fov = part.unbind(-1)
        pictures.append((sample(Camera.orbit(polar, azimuth, radius, fov, 1)) * 255).round().to(torch.uint8).cpu())
        say(f"samples: {sum(map(len, pictures))} of {len(places)} views")
    return Samples(torch.cat(pictures), places)


def _places(camera: Camera) -> Tensor:
    return torch.stack([camera.polar, camera.azimuth, camera.radius, camera.fov], -1).float().cpu()


def _same(a: Tensor, b: Tensor) -> bool:
    apart = (a - b).abs()
    apart[1] = torch.minimum(apart[1] % 360, -apart[1] % 360)
    return bool(apart.max() < TOLERANCE)


class Samples(FixedPictures[SamplesStage]):
    """Pictures drawn from a prior, one for each camera.

    Args:
        pictures: [N, R, R, 3] uint8 on white.
        places: [N, 4] the camera of each picture: polar, azimuth, radius, fov; degrees and world units.

    Raises:
        ValueError: the shapes differ.
    """

    drawn_from_prior = True
    pictures: Tensor
    places: Tensor

    def __init__(self, pictures: Tensor, places: Tensor):
        super().__init__()
        if pictures.dim() != 4 or pictures.dtype != torch.uint8 or places.shape != (len(pictures), 4):
            raise ValueError(
                f"expected pictures [N, R, R, 3] and places [N, 4], got {list(pictures.shape)}, {list(places.shape)}"
            )
        self.register_buffer("pictures", pictures)
        self.register_buffer("places", places)

    @classmethod
    def build(cls, stage: SamplesStage, given: dict[str, Tensor]) -> Samples:
        """Return the scene of drawn pictures: `given` holds pictures [N, R, R, 3] and places [N, 4]."""
        return cls(given["pictures"], given["places"])

    def render(self, camera: Camera, options: RenderOptions = PLAIN) -> Rendering:
        """Return the pictures that were drawn for these cameras; shading is ignored, because the pictures contain it.

        Opacity is estimated, see WHITE. Depth is the camera's radius, and normals face the camera.

        Raises:
            InputError: no picture was drawn for one of the cameras.
        """
        chosen = []
        for place in _places(camera):
            matches = [i for i in range(len(self.places)) if _same(place, self.places[i].cpu())]
            if not matches:
                position = ", ".join(f"{value:g}" for value in place.tolist())
                raise InputError(
                    f"no view was drawn from polar, azimuth, radius, fov = {position}: reconstruct with these views"
                )
            chosen.append(self.pictures[matches[0]])
        image = torch.stack(chosen).permute(0, 3, 1, 2).float() / 255
        size = (camera.height, camera.width)
        if image.shape[-1] > camera.width:
            image = F.interpolate(image, size, mode="area")
        elif image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        rgb = image.permute(0, 2, 3, 1)
        opacity = (rgb.amin(-1, keepdim=True) < WHITE).float()
        # without a background, white pixels stay as they were drawn
        behind = rgb if options.background is None else options.background_on(rgb.device)
        facing = camera.to(rgb.device).camera_to_world[:, None, None, :3, 2].expand_as(rgb)
        return Rendering(
            rgb=rgb * opacity + (1 - opacity) * behind,
            opacity=opacity,
            depth=opacity * camera.radius.to(rgb.device)[:, None, None, None],
            normal=facing * opacity,
        )
