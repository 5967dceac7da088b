"""Score one result: its views against the reference picture and, if there is a truth, the true views and mesh.

Reads {views}/{set}/{i}.png; the set `reference` is the view of the input picture, all others are novel. Truth is
{truth}/{set}/{i}.png, RGBA with straight alpha, blended on white. Render and truth are compared at the smaller of their two
sizes, resized by area averaging. There is one value for all novel views and one for each set (`psnr-ring`). Mesh metrics
cover the whole surface and are listed under `novel`. If {views}/shaded/{set}/{i}.png exist beside the albedo, the
corrected metrics are computed for them as well (`psnr-shaded`, `psnr-shaded-ring`).

A result made from a caption alone (according to example.json) has no reference view. It gets CLIP similarity to the caption
(`clip-text-...`), R-precision, self-consistency and the flags that need no picture; all other metrics are listed as gaps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from eval.metrics.measure import (
    Measured,
    measure_clip,
    measure_features,
    measure_mesh,
    measure_pairs,
    pairs,
)
from eval.metrics.models import Models
from eval.metrics.registry import describe
from eval.pictures.inputs import Captions, Reference
from eval.pictures.pictures import REFERENCE, View
from eval.pictures.protocols import Protocol
from magic123.records.cards import Gap, MetricCard, Value, ViewSet


@dataclass(frozen=True)
class ScoringSetup:
    """The facts that all metric cards of one result share.

    Attributes:
        device: Device that networks ran on.
        kernels: The implementations that rendered the views.
        alignment: How another system's mesh was brought into the project's frame, from cameras.json; None for other results.
    """

    device: str
    kernels: dict[str, str]
    alignment: dict[str, Any] | None = None

    @property
    def aligned(self) -> str | None:
        """A word for the card's full name if the mesh was aligned; otherwise None."""
        align = (self.alignment or {}).get("align", "none")
        return None if align == "none" else f"aligned-{align}"


def _value(
    protocol: Protocol, measured: Measured, view_set: ViewSet, subset: str | None, images: dict[str, float], setup: ScoringSetup
) -> Value:
    name = measured.metric if subset is None else f"{measured.metric}-{subset}"
    of_views = {image: number for image, number in images.items() if image}
    sha256 = getattr(measured.model, "sha256", None)
    background = protocol.background if of_views else "none"
    size = measured.resolution and f"{measured.resolution}px"
    details = measured.details.replace("unaligned", setup.aligned or "unaligned")
    made_with = [details, None if "aligned" in details else setup.aligned, sha256 and sha256[:8], size, of_views and background]
    parts = [name, *made_with, protocol.name, f"v{describe(name).version}"]
    card = MetricCard(
        full_name=".".join(part for part in parts if part),
        version=describe(name).version,
        protocol=protocol.name,
        view_set=view_set,
        sets=sorted({image.split("/")[0] for image in of_views}),
        n_views=len(of_views),
        against="reference picture" if view_set == REFERENCE else measured.against,
        resolution=measured.resolution,
        range=measured.range,
        background=background,
        model=str(measured.model.file.name) if measured.model else None,
        weights_sha256=sha256,
        canary=getattr(measured.model, "canary", None),
        libraries={library: version(library) for library in measured.libraries},
        kernels=setup.kernels,
        device=setup.device if measured.model else "cpu",
        seconds=round(measured.seconds, 3),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        alignment=setup.alignment,
    )
    mean = float(np.mean(list(images.values())))
    return Value(metric=name, protocol=protocol.name, view_set=view_set, value=mean, images=of_views, card=card)


def _split(protocol: Protocol, measured: Measured, setup: ScoringSetup) -> list[Value]:
    """Return values for the reference view, all novel views and each set; or for all views, depending on the protocol."""
    images = measured.images
    if protocol.name == "syncdreamer" and "" not in images:
        return [_value(protocol, measured, "all", None, images, setup)]
    if protocol.clip_views == "all" and describe(measured.metric).published_views == "all":
        return [_value(protocol, measured, "all", None, images, setup)]
    groups: list[tuple[ViewSet, str | None, dict[str, float]]] = [
        ("reference", None, {n: v for n, v in images.items() if n.startswith(f"{REFERENCE}/")})
    ]
    if protocol.clip_views == "novel":
        novel = {name: value for name, value in images.items() if not name.startswith(f"{REFERENCE}/")}
        groups.append(("novel", None, novel))
        for subset in sorted({name.split("/")[0] for name in novel if name}):
            groups.append(("novel", subset, {n: v for n, v in novel.items() if n.startswith(f"{subset}/")}))
    return [_value(protocol, measured, view_set, subset, chosen, setup) for view_set, subset, chosen in groups if chosen]


def score_views(
    protocol: Protocol,
    views: list[View],
    reference: Reference | None,
    models: Models,
    kernels: dict[str, str] | None = None,
    captions: Captions | None = None,
    ring: list[tuple[int, int]] | None = None,
    shaded: bool = False,
    alignment: dict[str, Any] | None = None,
) -> list[Value]:
    """Compute all metrics of pictures under one protocol.

    Args:
        protocol: `as-published` has PSNR and LPIPS of the reference view and CLIP similarity of all views; `syncdreamer` PSNR,
            SSIM and LPIPS of all views with a truth.
        views: All views.
        reference: The reference picture; None for a result made from a caption alone.
        models: Loaded networks; gaps are added to its list.
        kernels: The implementations that rendered the views.
        captions: The captions of the data set, or None.
        ring: Pairs of neighbours, indices into `views`, for the self-consistency.
        shaded: Whether the views are shaded, which is added to the metrics' names.
        alignment: How another system's mesh was brought into the project's frame, or None.
    """
    if protocol.name == "syncdreamer":
        measured = measure_pairs(protocol, pairs(protocol, [view for view in views if view.truth is not None], None), models)
        setup = ScoringSetup(models.device, kernels or {}, alignment)
        return [value for each in measured for value in _split(protocol, each, setup)]
    if protocol.clip_views == "all":  # as published, no novel view has a truth
        views = [View(view.set, view.index, view.render) for view in views]
    measured = measure_pairs(protocol, pairs(protocol, views, reference), models)
    measured += measure_clip(protocol, views, reference, models, captions, ring or [])
    if protocol.name == "corrected":
        measured += measure_features(protocol, views, reference, models, ring or [])
    if shaded:
        measured = [replace(each, metric=f"{each.metric}-shaded") for each in measured]
    setup = ScoringSetup(models.device, kernels or {}, alignment)
    return [value for each in measured for value in _split(protocol, each, setup)]


def score_mesh(
    protocol: Protocol, mesh: Path, truth: Path, alignment: dict[str, Any] | None = None
) -> tuple[list[Value], list[Gap]]:
    """Compute the metrics of meshes, which are listed under `novel` because they cover the whole surface.

    Returns:
        The values, and a gap for each metric that is not defined for these meshes.
    """
    measured, gaps = measure_mesh(mesh, truth, protocol.name)
    setup = ScoringSetup("cpu", {}, alignment)
    return [value for each in measured for value in _split(protocol, each, setup)], gaps
