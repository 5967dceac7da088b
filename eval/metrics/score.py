"""One result -> scores.json: its views against the reference picture and, where known, the true views and mesh.

Reads {views}/{set}/{i}.png; the set `reference` is the view of the input picture, all others are novel. Truth is
{truth}/{set}/{i}.png, RGBA with straight alpha, blended on white. Render and truth meet at the smaller of their two
sizes, by area. Novel values come for all novel views and again for each set (`psnr-ring`). Mesh metrics concern the
whole surface and stand under `novel`. Where {views}/shaded/{set}/{i}.png exist beside the albedo, the corrected metrics
come for them as well (`psnr-shaded`, `psnr-shaded-ring`).

A result made from a caption alone (example.json says so) has no reference view. It gets CLIP similarity to the caption
(`clip-text-...`), R-precision, self-consistency and the flags that need no picture; all else is listed as a gap.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from eval.metrics.flags import Result, measure_flags
from eval.metrics.image_metrics import describe
from eval.metrics.measure import (
    Captions,
    Measured,
    Reference,
    measure_clip,
    measure_features,
    measure_mesh,
    measure_pairs,
    pairs,
)
from eval.metrics.models import Models, load_models
from eval.pictures.consistency import neighbours
from eval.pictures.inputs import (
    NO_PICTURE,
    find_mesh,
    is_caption,
    read_captions,
    read_made,
    read_reference,
    read_shaded,
    rendering_kernels,
)
from eval.pictures.pictures import REFERENCE, View, read_views
from eval.pictures.protocols import CORRECTED, Protocol, protocol_named
from magic123.records.cameras import compare_poses, read_poses, repeats_of_reference
from magic123.records.cards import Gap, MetricCard, Scores, Value, write_scores
from magic123.records.errors import InputError


@dataclass(frozen=True)
class Where:
    """What every card of one result says alike: where it was scored, and what rendered it."""

    device: str
    kernels: dict[str, str]


def _value(protocol: Protocol, measured: Measured, view_set: str, subset: str | None, images: dict, where: Where) -> Value:
    name = measured.metric if subset is None else f"{measured.metric}-{subset}"
    of_views = {image: number for image, number in images.items() if image}
    sha256 = getattr(measured.model, "sha256", None)
    background = protocol.background if of_views else "none"
    size = measured.resolution and f"{measured.resolution}px"
    parts = [
        name,
        measured.details,
        sha256 and sha256[:8],
        size,
        of_views and background,
        protocol.name,
        f"v{describe(name).version}",
    ]
    card = MetricCard(
        full_name=".".join([*(part for part in parts if part), f"v{describe(name).version}"]),
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
        kernels=where.kernels,
        device=where.device if measured.model else "cpu",
        seconds=round(measured.seconds, 3),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    mean = float(np.mean(list(images.values())))
    return Value(metric=name, protocol=protocol.name, view_set=view_set, value=mean, images=of_views, card=card)


def _split(protocol: Protocol, measured: Measured, where: Where) -> list[Value]:
    """The reference view apart from the novel ones, these together and by set; or all in one as the protocol wants."""
    images = measured.images
    if measured.metric.startswith("clip") and protocol.clip_views == "all":
        return [_value(protocol, measured, "all", None, images, where)]
    groups = [(REFERENCE, None, {n: v for n, v in images.items() if n.startswith(f"{REFERENCE}/")})]
    if protocol.clip_views == "novel":
        novel = {name: value for name, value in images.items() if not name.startswith(f"{REFERENCE}/")}
        groups.append(("novel", None, novel))
        for subset in sorted({name.split("/")[0] for name in novel if name}):
            groups.append(("novel", subset, {n: v for n, v in novel.items() if n.startswith(f"{subset}/")}))
    return [_value(protocol, measured, view_set, subset, chosen, where) for view_set, subset, chosen in groups if chosen]


def score_views(
    protocol: Protocol,
    views: list[View],
    reference: Reference | None,
    models: Models,
    kernels: dict[str, str] | None = None,
    captions: Captions | None = None,
    ring: list[tuple[int, int]] | None = None,
    shaded: bool = False,
) -> list[Value]:
    """All image metrics of one protocol. `as-published` knows PSNR and LPIPS of the reference view and CLIP of all.

    `ring` are pairs of places in `views` whose self-consistency is measured. `shaded` views say so in their names.
    """
    if protocol.clip_views == "all":  # as published, no novel view has a truth
        views = [View(view.set, view.index, view.render) for view in views]
    measured = measure_pairs(protocol, pairs(protocol, views, reference), models)
    measured += measure_clip(protocol, views, reference, models, captions, ring or [])
    if protocol.name == "corrected":
        measured += measure_features(protocol, views, reference, models, ring or [])
    if shaded:
        measured = [replace(one, metric=f"{one.metric}-shaded") for one in measured]
    where = Where(models.device, kernels or {})
    return [value for one in measured for value in _split(protocol, one, where)]


def score_mesh(protocol: Protocol, mesh: Path, truth: Path) -> tuple[list[Value], list[Gap]]:
    """The surface metrics, under `novel`: they concern what no single view shows."""
    measured, gaps = measure_mesh(mesh, truth)
    return [value for one in measured for value in _split(protocol, one, Where("cpu", {}))], gaps


def _path(text: str) -> Path | None:
    return None if text == "none" else Path(text)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m eval score", description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=Path, required=True, help="folder {set}/{i}.png with a set named reference")
    parser.add_argument("--truth", type=_path, default=None, help="folder of true novel views (RGBA), or none")
    parser.add_argument("--reference", type=Path, required=True, help="folder with rgba.png (and example.json when prepared)")
    parser.add_argument("--published", type=Path, help="the untouched picture, or the folder of its rgba.png, for as-published")
    parser.add_argument("--alpha", choices=["straight", "premultiplied", "hard", "none"], help="where there is no example.json")
    parser.add_argument("--mesh", type=_path, default=None, help="the result's mesh, or none")
    parser.add_argument("--truth-mesh", type=_path, default=None, help="the true mesh in the same frame, or none")
    parser.add_argument("--protocol", nargs="+", default=["corrected"], help="corrected, as-published, or both")
    parser.add_argument("--clip", action="append", default=[], help="open_clip folder or ARCHITECTURE=FILE; repeatable")
    parser.add_argument("--perceptual", action="append", default=[], help="folder of the miniature perceptual model")
    parser.add_argument("--lpips", action="append", default=[], help="alex=FILE or vgg=FILE, torchvision's trunks; repeatable")
    parser.add_argument("--contextual", action="append", default=[], help="vgg19=FILE, torchvision's trunk; repeatable")
    parser.add_argument("--caption", help="the example's own caption, for R-precision")
    parser.add_argument("--captions", help="all captions of its dataset, a JSON list")
    parser.add_argument("--record", type=_path, default=None, help="the result's stage.json, or none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="scores.json")
    given = parser.parse_args(argv)

    protocols = [protocol_named(name) for name in dict.fromkeys(given.protocol)]
    captions, no_captions = read_captions(given.caption, given.captions)
    made = read_made(given.record)
    if given.truth is not None:
        compare_poses(given.views, given.truth)
    repeats = repeats_of_reference(given.views)
    pictured = not is_caption(given.reference)
    views = [view for view in read_views(given.views, given.truth, pictured) if view.name not in repeats]
    shaded = read_shaded(given.views, given.truth, views)
    ring, no_ring = neighbours(views, read_poses(given.views))
    references = {}
    for protocol in protocols:
        if not pictured and protocol.name != "corrected":
            raise InputError(f"{protocol.name} compares with the input picture, and {given.reference} has none; leave it out")
        untouched = protocol.blend == "zero-is-white" and given.published
        references[protocol.name] = read_reference(given.published if untouched else given.reference, protocol, given.alpha)
    mesh, no_mesh = find_mesh(given.mesh)
    models = load_models(given.clip, given.perceptual, given.lpips, given.device, given.contextual)
    kernels, values = rendering_kernels(given.views), []
    for protocol in protocols:
        reference = references[protocol.name]
        values += score_views(protocol, views, reference, models, kernels, captions, ring)
        if protocol.name == "corrected":
            if shaded:
                values += score_views(protocol, shaded, reference, models, kernels, captions, ring, shaded=True)
            models.gaps += _gaps(models, no_captions, no_ring)
            models.gaps += [Gap(metric=name, reason=NO_PICTURE) for name in _of_the_picture(models) if not pictured]
            if given.truth_mesh is not None and mesh is None:
                models.gaps += [Gap(metric=name, reason=no_mesh) for name in ("chamfer", "f-score", "volume-iou")]
            elif given.truth_mesh is not None:
                of_mesh, gaps = score_mesh(protocol, mesh, given.truth_mesh)
                values, models.gaps = values + of_mesh, models.gaps + gaps
    gaps = list({gap.metric: gap for gap in models.gaps}.values())
    known = references["corrected"] if "corrected" in references else read_reference(given.reference, CORRECTED, given.alpha)
    flags = measure_flags(Result(given.views, views, read_poses(given.views), known, mesh, no_mesh))
    write_scores(given.out, Scores(scheme="scores/1", values=values, gaps=gaps, left_out=repeats, flags=flags, made=made))
    for gap in gaps:
        print(f"not scored: {gap.metric}: {gap.reason}")
    for flag in flags:
        if flag.state == "raised":
            print(f"flag raised: {flag.name}: {flag.number:.3f} (threshold {flag.threshold}): {flag.meaning}")


def _of_the_picture(models: Models) -> list[str]:
    """The metrics that compare with the input picture, or with truths of the object in it."""
    networks = [*models.perceptual, *models.clip, *models.contextual]
    return ["psnr", "psnr-mask", "ssim", *(model.name for model in networks)]


def _gaps(models: Models, no_captions: str, no_ring: str) -> list[Gap]:
    """What the networks at hand could have measured, had there been captions to choose from, or a ring."""
    gaps = []
    for model in models.clip if no_captions else []:
        gaps.append(Gap(metric=f"r-precision-{model.name.removeprefix('clip-')}", reason=no_captions))
    for model in [*models.clip, *models.perceptual] if no_ring else []:
        gaps.append(Gap(metric=f"consistency-{model.name}", reason=no_ring))
    return gaps
