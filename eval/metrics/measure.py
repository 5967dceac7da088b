"""Compute metrics for each view. `eval.metrics.score` takes their means and writes the metric cards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.metrics.mesh_metrics import surface_distances
from eval.metrics.models import Models
from eval.metrics.registry import METRICS, LoadedNetwork, Metric, Needs, name_with, rows
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

if TYPE_CHECKING:
    import trimesh

NEIGHBOURS = "odd neighbours on the ring"
SAME = 1e-6  # captions whose embeddings differ by no more than this, by rounding, are the same to a text encoder


@dataclass(frozen=True)
class Measured:
    """The values of one metric before averaging, and the facts for its card.

    Attributes:
        metric: Its name.
        images: View name, SET/INDEX, -> value. A metric of meshes has one value, under "".
        against: What the views are compared with.
        resolution: Side of the compared pictures in pixels; None for meshes.
        seconds: Time it took.
        range: Range of the compared pixels or coordinates.
        libraries: Distributions whose versions go into the card.
        model: The network behind it, or None.
        details: Additions to the card's full name.
    """

    metric: str
    images: dict[str, float]
    against: str
    resolution: int | None
    seconds: float
    range: str
    libraries: tuple[str, ...]
    model: LoadedNetwork | None
    details: str


@dataclass(frozen=True)
class Pair:
    """A render and the true picture, at the same size.

    Attributes:
        view: The view that was rendered.
        render: [S, S, 3] uint8.
        truth: [S, S, 3] uint8.
        mask: [S, S] bool, the object's mask in the true picture.
    """

    view: View
    render: np.ndarray
    truth: np.ndarray
    mask: np.ndarray


def pairs(protocol: Protocol, views: list[View], reference: Reference | None) -> list[Pair]:
    """Return the pairs of a render and its truth: the reference view if there is a picture, and the views with a truth.

    Args:
        protocol: Determines how pictures are prepared, and their size.
        views: All views.
        reference: The reference picture, or None.
    """
    with_truth = []
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
        with_truth.append(Pair(view, resize_area(render_as_saved(protocol, view.render), size), truth, mask))
    return with_truth


def measure_pairs(protocol: Protocol, given: list[Pair], models: Models) -> list[Measured]:
    """Compute the metrics that compare a render with its truth.

    Args:
        protocol: Determines the metrics.
        given: The result of `pairs`.
        models: Loaded networks.
    """
    if not given:
        return []
    size = max(len(pair.render) for pair in given)
    measured = []
    for name, row in rows("truth", protocol.name).items():
        if row.compute is not None:
            start = time.perf_counter()
            images = {pair.view.name: row.compute(pair) for pair in given}
            measured.append(_measured(name, images, row.needs, size, start, row=row))
        for model in models.of(row.network):
            start = time.perf_counter()
            values = model.compare([pair.render for pair in given], [pair.truth for pair in given])
            images = {pair.view.name: value for pair, value in zip(given, values, strict=True)}
            measured.append(_measured(name, images, row.needs, model.size, start, model))
    return measured


def _measured(
    family: str,
    images: dict[str, float],
    against: str,
    size: int | None,
    start: float,
    model: LoadedNetwork | None = None,
    details: str | None = None,
    row: Metric | None = None,
) -> Measured:
    """Return values of a family of METRICS with the facts of its row, and of the network if one computed them."""
    row, seconds = row or METRICS[family], time.perf_counter() - start
    if model is None:
        details = str(row.details) if details is None else details
        return Measured(family, images, against, size, seconds, str(row.range), row.libraries, None, details)
    name, libraries, span = name_with(family, model), (*row.libraries, *model.libraries), row.range or model.range
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
    """Compute the metrics that use CLIP.

    These are the cosine similarity of each view with the reference picture (if there is none, with the caption, under another
    name), and under `corrected` also R-precision and self-consistency. Gaps are added to `models.gaps`.

    Args:
        protocol: Determines the metrics, and how pictures are prepared.
        views: All views.
        reference: The reference picture, or None.
        models: Loaded networks.
        captions: The captions of the data set, or None.
        ring: Pairs of neighbours, indices into `views`.
    """
    measured = []
    for model in models.of("clip"):
        start = time.perf_counter()
        embeddings = model.encode([resize_area(render_as_saved(protocol, view.render), model.size) for view in views])

        def add(family: str, values: dict[str, float] | list[float], against: str, start: float = start, model=model) -> None:
            images = values if isinstance(values, dict) else dict(zip((view.name for view in views), values, strict=True))
            # cards of neighbours do not name the activation
            details = f"{METRICS[family].details}{'' if against == NEIGHBOURS else f'.{model.activation}'}"
            measured.append(_measured(family, images, against, model.size, start, model, details))

        if reference is not None:
            picture = reference_picture(protocol, reference.rgba, model.size, reference.alpha)
            add("clip", (embeddings @ model.encode([picture])[0]).tolist(), "reference picture")
        elif captions is not None:
            try:
                caption = model.encode_captions([captions.own])[0]
            except MetricGap as gap:
                models.gaps.append(Gap(metric=name_with("clip-text", model), reason=str(gap)))
            else:
                add("clip-text", (embeddings @ caption).tolist(), "its caption")
        else:
            reason = "neither a picture nor a caption to compare with"
            models.gaps.append(Gap(metric=name_with("clip-text", model), reason=reason))
        if "r-precision" in rows("captions", protocol.name) and captions is not None and captions.others:
            start = time.perf_counter()
            try:
                own, *others = model.encode_captions([captions.own, *captions.others])
                for caption, other in zip(captions.others, others, strict=True):
                    if np.abs(own - other).max() < SAME:
                        raise MetricGap(
                            f"the captions {captions.own!r} and {caption!r} are the same for it: there is no choice"
                        )
            except MetricGap as gap:
                models.gaps.append(Gap(metric=name_with("r-precision", model), reason=str(gap)))
            else:
                first = embeddings @ own > (embeddings @ np.stack(others).T).max(1)
                against = f"{1 + len(others)} captions"
                add("r-precision", first.astype(float).tolist(), against, start)
        if "consistency-clip" in rows("ring", protocol.name) and ring:
            start = time.perf_counter()
            cosines = [float(embeddings[even] @ embeddings[odd]) for even, odd in ring]
            add("consistency-clip", by_even(views, ring, cosines), NEIGHBOURS, start)
    return measured


def by_even(views: list[View], pairs: Sequence[tuple[int, int]], values: list[float]) -> dict[str, float]:
    """Return the mean over the two neighbours of each even view.

    Args:
        views: All views.
        pairs: (even view, odd neighbour), indices into `views`.
        values: One for each pair.

    Returns:
        Name of the even view -> mean.
    """
    of_view: dict[str, list[float]] = {}
    for (even, _), value in zip(pairs, values, strict=True):
        of_view.setdefault(views[even].name, []).append(value)
    return {name: float(np.mean(both)) for name, both in of_view.items()}


def measure_features(
    protocol: Protocol, views: list[View], reference: Reference | None, models: Models, ring: Sequence[tuple[int, int]]
) -> list[Measured]:
    """Compute the metrics that need no truth and use networks other than CLIP.

    Args:
        protocol: Determines the metrics, and how pictures are prepared.
        views: All views.
        reference: The reference picture, or None.
        models: Loaded networks.
        ring: Pairs of neighbours, indices into `views`.
    """
    measured = []
    renders = [render_as_saved(protocol, view.render) for view in views]
    for name, row in rows("reference picture", protocol.name).items():
        for model in models.of(row.network) if row.network != "clip" else []:
            if reference is None:
                break
            start = time.perf_counter()
            picture = reference_picture(protocol, reference.rgba, model.size, reference.alpha)
            images = dict(zip((view.name for view in views), model.similarity(picture, renders), strict=True))
            measured.append(_measured(name, images, row.needs, model.size, start, model))
    for name, row in rows("ring", protocol.name).items():
        for model in models.of(row.network) if ring and row.network != "clip" else []:
            start = time.perf_counter()
            values = model.compare(*([renders[place] for place in side] for side in zip(*ring, strict=True)))
            measured.append(_measured(name, by_even(views, ring, values), NEIGHBOURS, model.size, start, model))
    return measured


@dataclass(frozen=True)
class MeshPair:
    """The mesh of a result and the true mesh, in the same frame."""

    mesh: trimesh.Trimesh
    truth: trimesh.Trimesh

    @cached_property
    def distances(self) -> dict[str, float]:
        """The result of `surface_distances`, computed once for all metrics."""
        return surface_distances(self.mesh, self.truth)

    @property
    def closed(self) -> str:
        """Whether both surfaces are watertight, as a word for the card."""
        return "watertight" if self.mesh.is_watertight and self.truth.is_watertight else "not-watertight"


def measure_mesh(mesh: Path, truth: Path, protocol: str = "corrected") -> tuple[list[Measured], list[Gap]]:
    """Compute the metrics of meshes, in the files' own frame.

    Args:
        mesh: File of the result's mesh.
        truth: File of the true mesh.
        protocol: Determines the metrics, and how they are computed.

    Returns:
        The values, and a gap for each metric that is not defined for these meshes.
    """
    pair = MeshPair(load_mesh(mesh), load_mesh(truth))
    measured, gaps = [], []
    for name, row in rows("true mesh", protocol).items():
        if row.compute is None:
            continue
        start = time.perf_counter()
        try:
            images = {"": row.compute(pair)}
        except MetricGap as gap:
            gaps.append(Gap(metric=name, reason=str(gap)))
        else:
            details = row.details(pair) if callable(row.details) else row.details
            measured.append(_measured(name, images, row.needs, None, start, details=details, row=row))
    return measured, gaps


def missing_without(models: Models, reason: str, *needs: Needs) -> list[Gap]:
    """Return a gap for every metric that needs something missing.

    Args:
        models: Loaded networks; a metric that uses a network has a gap for each of them.
        reason: Why it is missing.
        *needs: What is missing.
    """
    return [
        Gap(metric=name, reason=reason)
        for need in needs
        for family, row in rows(need).items()
        for name in ([family] if row.network is None else [name_with(family, model) for model in models.of(row.network)])
    ]
