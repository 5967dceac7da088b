"""Views and models -> numbers, image by image; the means and the cards are made in eval.metrics.score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics.mesh_metrics import surface_distances
from eval.metrics.models import Models
from eval.metrics.registry import METRICS, Needs, name_with, rows
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
    range: str
    libraries: tuple[str, ...]
    model: Any | None
    details: str


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
    """Compute the metrics that compare a render with what it should show. Nothing of nothing."""
    if not known:
        return []
    size = max(len(pair.render) for pair in known)
    found = []
    for name, row in rows("truth", protocol.name).items():
        if row.compute is not None:
            start = time.perf_counter()
            images = {pair.view.name: row.compute(pair) for pair in known}
            found.append(_measured(name, images, row.needs, size, start))
        for model in models.of(row.network):
            start = time.perf_counter()
            values = model.compare([pair.render for pair in known], [pair.truth for pair in known])
            images = {pair.view.name: value for pair, value in zip(known, values, strict=True)}
            found.append(_measured(name, images, row.needs, model.size, start, model))
    return found


def _measured(
    known: str, images: dict, against: str, size: int | None, start: float, model=None, details: str | None = None
) -> Measured:
    """Return values of a family of METRICS as its row describes them, by a network where `model` is given."""
    row, seconds = METRICS[known], time.perf_counter() - start
    if model is None:
        details = str(row.details) if details is None else details
        return Measured(known, images, against, size, seconds, str(row.range), row.libraries, None, details)
    name, libraries, span = name_with(known, model), (*row.libraries, *model.libraries), row.range or model.range
    details = model.details if details is None else details
    return Measured(name, images, against, size, seconds, span, libraries, model, details)


def measure_clip(
    protocol: Protocol,
    views: list[View],
    reference: Reference | None,
    models: Models,
    captions: Captions | None = None,
    ring: Sequence[tuple[int, int]] = (),
) -> list[Measured]:
    """Compute the metrics by CLIP: by each model the cosine of each view with the reference picture; under `corrected` also
    whether its own caption is the nearest of the dataset's, and the cosine of neighbours on a `ring` (pairs of places in
    `views`). Without a reference picture the cosine is that with the caption, under another name."""
    found = []
    for model in models.of("clip"):
        start = time.perf_counter()
        embeddings = model.encode([resize_area(render_as_saved(protocol, view.render), model.size) for view in views])

        def measured(known: str, values, against: str, start: float = start, model=model, words: str = ""):
            images = values if isinstance(values, dict) else dict(zip((view.name for view in views), values, strict=True))
            found.append(_measured(known, images, against, model.size, start, model, f"{METRICS[known].details}{words}"))

        activation = f".{model.activation}"
        if reference is not None:
            picture = reference_picture(protocol, reference.rgba, model.size, reference.alpha)
            known = model.encode([picture])[0]
            measured("clip", (embeddings @ known).tolist(), "reference picture", words=activation)
        elif captions is not None:
            try:
                known = model.encode_captions([captions.own])[0]
            except MetricGap as gap:
                models.gaps.append(Gap(metric=name_with("clip-text", model), reason=str(gap)))
            else:
                measured("clip-text", (embeddings @ known).tolist(), "its caption", words=activation)
        else:
            gap = "neither a picture nor a caption to compare with"
            models.gaps.append(Gap(metric=name_with("clip-text", model), reason=gap))
        if "r-precision" in rows("captions", protocol.name) and captions is not None and captions.others:
            start = time.perf_counter()
            try:
                own, *others = model.encode_captions([captions.own, *captions.others])
            except MetricGap as gap:
                models.gaps.append(Gap(metric=name_with("r-precision", model), reason=str(gap)))
            else:
                first = embeddings @ own > (embeddings @ np.stack(others).T).max(1)
                against = f"{1 + len(others)} captions"
                measured("r-precision", first.astype(float).tolist(), against, start, words=activation)
        if "consistency-clip" in rows("ring", protocol.name) and ring:
            start = time.perf_counter()
            cosines = [float(embeddings[even] @ embeddings[odd]) for even, odd in ring]
            measured("consistency-clip", by_even(views, ring, cosines), NEIGHBOURS, start)
    return found


def by_even(views: list[View], pairs: Sequence[tuple[int, int]], values: list[float]) -> dict[str, float]:
    """Return, from values of pairs (even view, odd neighbour), the mean at each even view, by its name."""
    at: dict[str, list[float]] = {}
    for (even, _), value in zip(pairs, values, strict=True):
        at.setdefault(views[even].name, []).append(value)
    return {name: float(np.mean(found)) for name, found in at.items()}


def measure_features(
    protocol: Protocol, views: list[View], reference: Reference | None, models: Models, ring: Sequence[tuple[int, int]]
) -> list[Measured]:
    """Compute the metrics by networks other than CLIP on views and the reference picture, or on neighbours on a ring."""
    found = []
    renders = [render_as_saved(protocol, view.render) for view in views]
    for name, row in rows("reference picture", protocol.name).items():
        for model in models.of(row.network) if reference is not None and row.network != "clip" else []:
            start = time.perf_counter()
            picture = reference_picture(protocol, reference.rgba, model.size, reference.alpha)
            images = dict(zip((view.name for view in views), model.similarity(picture, renders), strict=True))
            found.append(_measured(name, images, row.needs, model.size, start, model))
    for name, row in rows("ring", protocol.name).items():
        for model in models.of(row.network) if ring and row.network != "clip" else []:
            start = time.perf_counter()
            values = model.compare(*([renders[place] for place in side] for side in zip(*ring, strict=True)))
            found.append(_measured(name, by_even(views, ring, values), NEIGHBOURS, model.size, start, model))
    return found


@dataclass(frozen=True)
class MeshPair:
    """A mesh and what it should be, as trimeshes in one frame."""

    mesh: Any
    truth: Any

    @cached_property
    def distances(self) -> dict[str, float]:
        """What `surface_distances` returns; computed once for all metrics of it."""
        return surface_distances(self.mesh, self.truth)

    @property
    def closed(self) -> str:
        """Whether both surfaces are watertight, in a word for the card."""
        return "watertight" if self.mesh.is_watertight and self.truth.is_watertight else "not-watertight"


def measure_mesh(mesh: Path, truth: Path) -> tuple[list[Measured], list[Gap]]:
    """Compute the metrics of the surface, in the frame the meshes came in."""
    pair = MeshPair(load_mesh(mesh), load_mesh(truth))
    found, gaps = [], []
    for name, row in rows("true mesh").items():
        start = time.perf_counter()
        try:
            images = {"": row.compute(pair)}
        except MetricGap as gap:
            gaps.append(Gap(metric=name, reason=str(gap)))
        else:
            details = row.details(pair) if callable(row.details) else row.details
            found.append(_measured(name, images, row.needs, None, start, details=details))
    return found, gaps


def missing_without(models: Models, reason: str, *needs: Needs) -> list[Gap]:
    """Return a gap for every metric that compares with one of `needs`, by each network at hand where it takes one."""
    return [
        Gap(metric=name, reason=reason)
        for one in needs
        for known, row in rows(one).items()
        for name in ([known] if row.network is None else [name_with(known, model) for model in models.of(row.network)])
    ]
