"""Views and models -> numbers, image by image; the means and the cards are made in eval.score."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.metrics import SSIM_SIGMA, psnr, ssim
from eval.models import Models
from eval.pictures import REFERENCE, View
from eval.protocols import (
    Protocol,
    blend_on_white,
    reference_mask,
    reference_picture,
    render_as_saved,
    resize_area,
    to_bytes,
)


@dataclass(frozen=True)
class Reference:
    """The picture a result was made from, [H, W, 4] uint8, and the convention its alpha is stored in."""

    rgba: np.ndarray
    alpha: str


@dataclass(frozen=True)
class Measured:
    """One metric's values by view, "set/index", and what its cards say about them. A mesh has one value, under ""."""

    metric: str
    images: dict[str, float]
    against: str
    resolution: int | None
    seconds: float
    range: str = "[0, 1]"
    libraries: tuple[str, ...] = ("numpy", "opencv-python-headless")
    model: object | None = None
    details: str = ""


@dataclass(frozen=True)
class Pair:
    """A render and what it should show, at one size: uint8, uint8, and where the object is (bool)."""

    view: View
    render: np.ndarray
    truth: np.ndarray
    mask: np.ndarray


def pairs(protocol: Protocol, views: list[View], reference: Reference) -> list[Pair]:
    """The views whose truth is known: the reference view always, the others where they carry one."""
    found = []
    for view in views:
        if view.set == REFERENCE:
            size = protocol.psnr_size or min(len(view.render), max(reference.rgba.shape[:2]))
            truth = reference_picture(protocol, reference.rgba, size, reference.alpha)
            mask = reference_mask(protocol, reference.rgba, size)
        elif view.truth is not None:
            size = protocol.psnr_size or min(len(view.render), len(view.truth))
            truth = to_bytes(resize_area(blend_on_white(view.truth, "straight"), size))
            mask = resize_area(view.truth[..., 3].astype(np.float32) / 255, size) > 0.5
        else:
            continue
        found.append(Pair(view, resize_area(render_as_saved(protocol, view.render), size), truth, mask))
    return found


def measure_pairs(protocol: Protocol, known: list[Pair], models: Models) -> list[Measured]:
    """PSNR and LPIPS; under `corrected` also PSNR inside the mask and SSIM."""
    size = max(len(pair.render) for pair in known)
    functions = {"psnr": lambda pair: psnr(pair.render, pair.truth)}
    if protocol.name == "corrected":
        functions["psnr-mask"] = lambda pair: psnr(pair.render, pair.truth, pair.mask)
        functions["ssim"] = lambda pair: ssim(pair.render, pair.truth)
    found = []
    for name, function in functions.items():
        start = time.perf_counter()
        images = {pair.view.name: function(pair) for pair in known}
        seconds = time.perf_counter() - start
        if name == "ssim":
            libraries = (*Measured.libraries, "scikit-image")
            found.append(Measured(name, images, "truth", size, seconds, "[0, 1]", libraries, None, f"gaussian-{SSIM_SIGMA}"))
        else:
            found.append(Measured(name, images, "truth", size, seconds))
    for model in models.perceptual:
        start = time.perf_counter()
        values = model.compare([pair.render for pair in known], [pair.truth for pair in known])
        images = {pair.view.name: value for pair, value in zip(known, values, strict=True)}
        libraries = (*Measured.libraries, *model.libraries)
        seconds = time.perf_counter() - start
        found.append(Measured(model.name, images, "truth", model.size, seconds, "[-1, 1]", libraries, model, model.details))
    return found


def measure_clip(protocol: Protocol, views: list[View], reference: Reference, models: Models) -> list[Measured]:
    """Cosine of each view with the reference picture, by each CLIP model."""
    found = []
    for model in models.clip:
        start = time.perf_counter()
        picture = reference_picture(protocol, reference.rgba, model.size, reference.alpha)
        renders = [resize_area(render_as_saved(protocol, view.render), model.size) for view in views]
        images = {view.name: value for view, value in zip(views, model.similarity(picture, renders), strict=True)}
        scaling = f"(x - {np.round(model.mean, 4).tolist()}) / {np.round(model.deviation, 4).tolist()} with x in [0, 1]"
        libraries = (*Measured.libraries, *model.libraries)
        seconds = time.perf_counter() - start
        details = f"image-image.{model.activation}"
        found.append(Measured(model.name, images, "reference picture", model.size, seconds, scaling, libraries, model, details))
    return found


def measure_mesh(mesh: Path, truth: Path) -> list[Measured]:
    """Chamfer distance and F-score, in the frame the meshes came in."""
    from eval.mesh_metrics import F_SCORE_THRESHOLD, SAMPLES, load_mesh, surface_distances

    start = time.perf_counter()
    numbers = surface_distances(load_mesh(mesh), load_mesh(truth))
    seconds = time.perf_counter() - start
    found = []
    for name, number in numbers.items():
        details = f"unaligned.{SAMPLES}-samples" + (f".threshold-{F_SCORE_THRESHOLD}" if name == "f-score" else "")
        libraries = ("numpy", "scipy", "trimesh")
        found.append(Measured(name, {"": number}, "true mesh", None, seconds, "world units", libraries, None, details))
    return found
