"""Logs that a stage writes into its folder: pictures of its guidance and of its progress, TensorBoard files.

No result depends on them, and writing them changes no result. A resumed run continues the logs of the killed one.
"""

from __future__ import annotations

import importlib.util
import io
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from magic123.example.example import Example
from magic123.geometry.camera import Camera
from magic123.priors.prior import Prior
from magic123.priors.sds import NoisePrediction, add_noise
from magic123.records.errors import InputError
from magic123.records.files import write_whole
from magic123.render.rendering import RenderOptions
from magic123.scenes.scene import Scene
from magic123.settings.stage import OptimisedStage, Watch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

GUIDANCE, PROGRESS, EVENTS = "guidance", "progress", "tensorboard"  # subfolders of the stage's folder
TURNS = (90.0, 180.0, 270.0)  # degrees from the reference view to the views that are shown beside it
SMALLEST_SSIM = 11  # side of the SSIM window in pixels
LEAST_ERROR = 1e-10  # limits the PSNR to 100 dB
SMALLEST_SIDE = 128  # smallest side of a picture in a sheet in pixels
LINE = 14  # height of a line of text in pixels
INK, PAPER = (28, 30, 34), (255, 255, 255)


def check_watch(watch: Watch) -> None:
    """Raise InputError if the requested logs cannot be written on this machine."""
    if watch.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "the stage sets watch.tensorboard, but the package tensorboard is not installed: run with it, as "
            "`uv run --extra tensorboard snakemake ...`, or set it to false"
        )


def sheet(rows: Sequence[tuple[str, Sequence[Float[Tensor, "_ _ 3"]]]], side: int) -> Image.Image:
    """Return rows of square pictures as one image, each row under a line of text.

    Args:
        rows: text and pictures [S, S, 3] in [0, 1] of each row; the sizes may differ.
        side: side of each picture in the image, in pixels.
    """
    columns = max(len(pictures) for _, pictures in rows)
    image = Image.new("RGB", (columns * side, len(rows) * (side + LINE)), PAPER)
    for index, (text, pictures) in enumerate(rows):
        top = index * (side + LINE)
        ImageDraw.Draw(image).text((2, top + 1), text, INK)
        for column, picture in enumerate(pictures):
            pixels = (picture.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            resampling = Image.Resampling.BOX if len(pixels) < side else Image.Resampling.LANCZOS
            image.paste(Image.fromarray(pixels).resize((side, side), resampling), (column * side, top + LINE))
    return image


def reference_scores(seen: Float[np.ndarray, "H W 3"], target: Float[np.ndarray, "H W 3"]) -> dict[str, float]:
    """Return the PSNR in dB and the SSIM of a picture in [0, 1], with the tables' formulas but at the training size."""
    from skimage.metrics import structural_similarity

    error = float(((seen.astype(np.float64) - target) ** 2).mean())
    scores = {"reference_psnr": -10 * math.log10(max(error, LEAST_ERROR))}
    if len(seen) >= SMALLEST_SSIM:
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 2}
        scores["reference_ssim"] = float(structural_similarity(seen.astype(np.float64), target.astype(np.float64), **options))
    return scores


class StageWatch:
    """The watch of one stage: a context around its loop.

    Args:
        out: the stage's folder.
        stage: its settings.
        scene: the scene that is optimised.
        example: its example.
        rows: values logged at each step so far, by name; grows with the loop.
        resumes: whether the stage resumes from a checkpoint. If not, the logs of an earlier run are deleted.
    """

    def __init__(
        self,
        out: Path,
        stage: OptimisedStage,
        scene: Scene,
        example: Example,
        rows: list[dict[str, float]],
        resumes: bool = False,
    ) -> None:
        self.out, self.settings, self.scene, self.example, self.rows = out, stage.watch, scene, example, rows
        self.size = round(stage.resolution * stage.reference_scale)
        self._shown: dict[str, tuple[str, list[Tensor]]] = {}
        self._events: SummaryWriter | None = None
        # event files are rewritten from `rows`, because the end of a killed process's file may be missing
        for folder in (EVENTS,) if resumes else (GUIDANCE, PROGRESS, EVENTS):
            shutil.rmtree(out / folder, ignore_errors=True)

    def __enter__(self) -> StageWatch:
        return self

    def __exit__(self, *error: object) -> None:
        if self._events is not None:
            self._events.close()

    @torch.no_grad()
    def guidance(self, name: str, rgb: Tensor, prior: Prior, prediction: NoisePrediction) -> None:
        """Keep a prior's input and prediction in this step: the view, and the noisy and the denoised latents, decoded.

        Args:
            name: name of the prior in the stage.
            rgb: the rendered pictures [B, H, W, 3]; the first one is shown.
            prior: the diffusion model.
            prediction: its prediction for the pictures.
        """
        alphas = prior.alphas_cumprod.to(prediction.latents.device)
        noisy = add_noise(prediction.latents.detach(), prediction.noise, alphas, prediction.t.to(alphas.device))
        decoded = [prior.decode(latents[:1].detach())[0] for latents in (noisy, prediction.denoised())]
        self._shown[name] = (f"{name}, t = {int(prediction.t[0])}: view, noisy, denoised", [rgb[0], *decoded])

    def after_step(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """Write the logs that are due after a step.

        Args:
            step: number of the step.
            values: values to log.

        Returns:
            `values`, with the scores of the reference view if the scene was evaluated.
        """
        if self._shown:
            side = max(len(pictures[1]) for _, pictures in self._shown.values())
            self._write(GUIDANCE, step, sheet(list(self._shown.values()), max(side, SMALLEST_SIDE)))
            self._shown = {}
        every = self.settings.evaluate_every
        if every and (step + 1) % every == 0:
            values = values | self._evaluate(step)
        if self.settings.tensorboard:
            self._log(step, values)
        return values

    @torch.no_grad()
    def _evaluate(self, step: int) -> dict[str, float]:
        """Write views of the current scene, and return the scores of the reference view, if the example has a picture."""
        c = self.example.camera
        azimuths = [c.azimuth, *(c.azimuth + turn for turn in TURNS)]
        camera = Camera.orbit(c.polar, azimuths, c.radius, c.fov, self.size)
        seen = [self.scene.render(camera[index], RenderOptions(mode="lambertian", ambient=1.0)) for index in range(len(camera))]
        colours = [view.rgb[0] for view in seen]
        normals = [
            (view.normal[0] + 1) / 2 + (1 - view.opacity[0]) / 2 for view in seen if view.normal is not None
        ]  # normals are multiplied by opacity, so empty pixels become white
        scores: dict[str, float] = {}
        text = f"after {step + 1} steps"
        if self.example.pictured:
            target = self.example.resized(self.size).require("rgb")
            scores = reference_scores(colours[0].float().cpu().clamp(0, 1).numpy(), target.cpu().numpy())
            text += "".join(f", {name.removeprefix('reference_')} {value:.4g}" for name, value in scores.items())
            colours = [target, *colours]
            normals = [torch.ones_like(target), *normals] if normals else []
        rows = [(f"{text}: {'input, ' if self.example.pictured else ''}reference view and around", colours)]
        rows += [("normals", normals)] if normals else []
        self._write(PROGRESS, step + 1, sheet(rows, max(self.size, SMALLEST_SIDE)))
        return scores

    def _log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step to the event file."""
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.out / EVENTS))
            for earlier, row in enumerate(self.rows[:step]):
                self._add(earlier, row)
        self._add(step, values)

    def _add(self, step: int, values: dict[str, float]) -> None:
        assert self._events is not None
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def _write(self, folder: str, number: int, image: Image.Image) -> None:
        """Write a picture as FOLDER/NUMBER.png, completely or not at all."""
        stream = io.BytesIO()
        image.save(stream, "PNG")
        (self.out / folder).mkdir(parents=True, exist_ok=True)
        write_whole(self.out / folder / f"{number:06d}.png", stream.getvalue())
