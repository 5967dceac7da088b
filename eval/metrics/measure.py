"""Views and models -> numbers, image by image; the means and the cards are made in eval.metrics.score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.metrics.image_metrics import SSIM_SIGMA, psnr, ssim
from eval.metrics.models import Models
from eval.pictures.inputs import Captions, Reference
from eval.pictures.meshes import load_mesh
from eval.pictures.pictures import REFERENCE, View
from eval.pictures.protocols import (
    Protocol,
    blend_on_white,
    reference_mask,
    reference_picture,
    render_as_saved,
    resize_area,
    to_bytes,
)
from magic123.records.cards import Gap
from magic123.records.errors import MetricGap

NEIGHBOURS = "odd neighbours on the ring"


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


def pairs(protocol: Protocol, views: list[View], reference: Reference | None) -> list[Pair]:
    """The views whose truth is known: the reference view where there is a picture, the others where they carry one."""
    found = []
    for view in views:
        if view.set == REFERENCE and reference is not None:
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
    """PSNR and LPIPS; under `corrected` also PSNR inside the mask and SSIM. Nothing of nothing."""
    if not known:
        return []
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


def measure_clip(
    protocol: Protocol,
    views: list[View],
    reference: Reference | None,
    models: Models,
    captions: Captions | None = None,
    ring: Sequence[tuple[int, int]] = (),
) -> list[Measured]:
    """By each CLIP model: cosine of each view with the reference picture; under `corrected` also whether its own caption
    is the nearest of the dataset's, and the cosine of neighbours on a `ring` (pairs of places in `views`). Without a reference
    picture the cosine is that with the caption, under another name."""
    found = []
    for model in models.clip:
        start = time.perf_counter()
        renders = [resize_area(render_as_saved(protocol, view.render), model.size) for view in views]
        embeddings = model.encode(renders)
        scaling = f"(x - {np.round(model.mean, 4).tolist()}) / {np.round(model.deviation, 4).tolist()} with x in [0, 1]"
        card = {
            "resolution": model.size,
            "range": scaling,
            "libraries": (*Measured.libraries, *model.libraries),
            "model": model,
        }

        def measured(metric: str, images: dict, against: str, details: str, start: float = start, card: dict = card):
            found.append(Measured(metric, images, against, seconds=time.perf_counter() - start, details=details, **card))

        if reference is not None:
            picture = reference_picture(protocol, reference.rgba, model.size, reference.alpha)
            known = model.encode([picture])[0]
            similarities = dict(zip((view.name for view in views), (embeddings @ known).tolist(), strict=True))
            measured(model.name, similarities, "reference picture", f"image-image.{model.activation}")
        elif captions is not None:
            name = f"clip-text-{model.name.removeprefix('clip-')}"
            try:
                known = model.encode_captions([captions.own])[0]
            except MetricGap as gap:
                models.gaps.append(Gap(metric=name, reason=str(gap)))
            else:
                similarities = dict(zip((view.name for view in views), (embeddings @ known).tolist(), strict=True))
                measured(name, similarities, "its caption", f"image-text.{model.activation}")
        else:
            gap = "neither a picture nor a caption to compare with"
            models.gaps.append(Gap(metric=f"clip-text-{model.name.removeprefix('clip-')}", reason=gap))
        if protocol.name != "corrected":
            continue
        if captions is not None and captions.others:
            start = time.perf_counter()
            try:
                own, *others = model.encode_captions([captions.own, *captions.others])
            except MetricGap as gap:
                models.gaps.append(Gap(metric=f"r-precision-{model.name.removeprefix('clip-')}", reason=str(gap)))
            else:
                first = embeddings @ own > (embeddings @ np.stack(others).T).max(1)
                hits = dict(zip((view.name for view in views), first.astype(float).tolist(), strict=True))
                name = f"r-precision-{model.name.removeprefix('clip-')}"
                measured(name, hits, f"{1 + len(others)} captions", f"image-text.{model.activation}", start)
        start = time.perf_counter()
        if ring:
            cosines = [float(embeddings[even] @ embeddings[odd]) for even, odd in ring]
            measured(f"consistency-{model.name}", by_even(views, ring, cosines), NEIGHBOURS, "image-image", start)
    return found


def by_even(views: list[View], pairs: Sequence[tuple[int, int]], values: list[float]) -> dict[str, float]:
    """Values of pairs (even view, odd neighbour) -> the mean at each even view, by its name."""
    at: dict[str, list[float]] = {}
    for (even, _), value in zip(pairs, values, strict=True):
        at.setdefault(views[even].name, []).append(value)
    return {name: float(np.mean(found)) for name, found in at.items()}


def measure_features(
    protocol: Protocol, views: list[View], reference: Reference | None, models: Models, ring: Sequence[tuple[int, int]]
) -> list[Measured]:
    """Contextual distance of each view from the reference picture, and perceptual distance of neighbours on a ring."""
    found = []
    renders = [render_as_saved(protocol, view.render) for view in views]
    for model in models.contextual if reference is not None else []:
        start = time.perf_counter()
        picture = reference_picture(protocol, reference.rgba, model.size, reference.alpha)
        images = dict(zip((view.name for view in views), model.similarity(picture, renders), strict=True))
        seconds, libraries = time.perf_counter() - start, (*Measured.libraries, *model.libraries)
        against = "reference picture"
        found.append(Measured(model.name, images, against, model.size, seconds, "[-1, 1]", libraries, model, model.details))
    for model in models.perceptual if ring else []:
        start = time.perf_counter()
        values = model.compare(*([renders[place] for place in side] for side in zip(*ring, strict=True)))
        images = by_even(views, ring, values)
        seconds, libraries = time.perf_counter() - start, (*Measured.libraries, *model.libraries)
        name = f"consistency-{model.name}"
        found.append(Measured(name, images, NEIGHBOURS, model.size, seconds, "[-1, 1]", libraries, model, model.details))
    return found


def measure_mesh(mesh: Path, truth: Path) -> tuple[list[Measured], list[Gap]]:
    """Chamfer distance, F-score and volume IoU, in the frame the meshes came in."""
    from eval.metrics.mesh_metrics import F_SCORE_THRESHOLD, SAMPLES, VOXELS, surface_distances, volume_iou

    start = time.perf_counter()
    ours, theirs = load_mesh(mesh), load_mesh(truth)
    numbers = surface_distances(ours, theirs)
    seconds = time.perf_counter() - start
    found, gaps = [], []
    for name, number in numbers.items():
        details = f"unaligned.{SAMPLES}-samples" + (f".threshold-{F_SCORE_THRESHOLD}" if name == "f-score" else "")
        libraries = ("numpy", "scipy", "trimesh")
        found.append(Measured(name, {"": number}, "true mesh", None, seconds, "world units", libraries, None, details))
    start = time.perf_counter()
    try:
        shared = {"": volume_iou(ours, theirs)}
    except MetricGap as gap:
        gaps.append(Gap(metric="volume-iou", reason=str(gap)))
    else:
        watertight = "watertight" if ours.is_watertight and theirs.is_watertight else "not-watertight"
        details = f"unaligned.{VOXELS}-voxels-filled.{watertight}"
        seconds = time.perf_counter() - start
        found.append(Measured("volume-iou", shared, "true mesh", None, seconds, "world units", libraries, None, details))
    return found, gaps
