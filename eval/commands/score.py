"""One result -> scores.json: its views against the reference picture and, where known, the true views and mesh."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.metrics.flags import Result, measure_flags
from eval.metrics.measure import missing_without
from eval.metrics.models import load_models
from eval.metrics.registry import NETWORKS
from eval.metrics.score import score_mesh, score_views
from eval.pictures.consistency import neighbours
from eval.pictures.inputs import (
    NO_PICTURE,
    alignment_of,
    find_mesh,
    is_caption,
    notes_of,
    read_captions,
    read_made,
    read_reference,
    read_shaded,
    rendering_kernels,
)
from eval.pictures.pictures import read_views
from eval.pictures.protocols import CORRECTED, protocol_named
from magic123.records.cameras import compare_poses, read_poses, repeats_of_reference
from magic123.records.cards import Scores, write_scores
from magic123.records.devices import present_device
from magic123.records.errors import InputError


def _path(text: str) -> Path | None:
    return None if text == "none" else Path(text)


def main(argv: list[str]) -> None:
    """Run `magic123 score` with the options in `argv`."""
    parser = argparse.ArgumentParser(prog="magic123 score", description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=Path, required=True, help="folder {set}/{i}.png with a set named reference")
    parser.add_argument("--truth", type=_path, default=None, help="folder of true novel views (RGBA), or none")
    parser.add_argument("--reference", type=Path, required=True, help="folder with rgba.png (and example.json when prepared)")
    parser.add_argument("--published", type=Path, help="the untouched picture, or the folder of its rgba.png, for as-published")
    parser.add_argument(
        "--alpha",
        choices=["straight", "premultiplied", "hard", "none"],
        help="how the alpha is stored, if there is no example.json",
    )
    parser.add_argument("--mesh", type=_path, default=None, help="the result's mesh, or none")
    parser.add_argument("--truth-mesh", type=_path, default=None, help="the true mesh in the same frame, or none")
    parser.add_argument(
        "--protocol", nargs="+", default=["corrected"], help="corrected, as-published, syncdreamer (default: corrected)"
    )
    for option, network in NETWORKS.items():
        parser.add_argument(f"--{option}", action="append", default=[], help=network.help)
    parser.add_argument("--caption", help="the example's own caption, for R-precision")
    parser.add_argument("--captions", help="all captions of its dataset, a JSON list")
    parser.add_argument("--record", type=_path, default=None, help="the result's stage.json, or none")
    parser.add_argument("--device", help="device of the networks; default: cuda if there is one")
    parser.add_argument("--out", type=Path, required=True, help="scores.json to write")
    given = parser.parse_args(argv)

    protocols = [protocol_named(name) for name in dict.fromkeys(given.protocol)]
    captions, no_captions = read_captions(given.caption, given.captions)
    made = read_made(given.record)
    if given.truth is not None:
        compare_poses(given.views, given.truth)
    repeats = repeats_of_reference(given.views)
    pictured = not is_caption(given.reference)
    every = read_views(given.views, given.truth, pictured)
    views = [view for view in every if view.name not in repeats]
    shaded = read_shaded(given.views, given.truth, views)
    ring, no_ring = neighbours(views, read_poses(given.views))
    references = {}
    for protocol in protocols:
        if not pictured and protocol.name == "as-published":
            raise InputError(
                f"{protocol.name} compares with the input picture, but {given.reference} has none; leave this protocol out"
            )
        untouched = protocol.blend == "zero-is-white" and given.published
        references[protocol.name] = read_reference(given.published if untouched else given.reference, protocol, given.alpha)
    mesh, no_mesh = find_mesh(given.mesh)
    networks = {option: getattr(given, option) for option in NETWORKS}
    # torch takes seconds to import, and is not needed without networks
    device = present_device(given.device) if given.device or any(networks.values()) else "cpu"
    models = load_models(networks, device)
    kernels, alignment, values = rendering_kernels(given.views), alignment_of(given.views), []
    for protocol in protocols:
        reference = references[protocol.name]
        chosen = every if protocol.name == "syncdreamer" else views  # it includes the input's view
        values += score_views(protocol, chosen, reference, models, kernels, captions, ring, alignment=alignment)
        if protocol.name == "syncdreamer" and given.truth_mesh is not None and mesh is not None:
            mesh_values, mesh_gaps = score_mesh(protocol, mesh, given.truth_mesh, alignment)
            values, models.gaps = values + mesh_values, models.gaps + mesh_gaps
        if protocol.name == "corrected":
            if shaded:
                values += score_views(
                    protocol, shaded, reference, models, kernels, captions, ring, shaded=True, alignment=alignment
                )
            if no_captions:
                models.gaps += missing_without(models, no_captions, "captions")
            if no_ring:
                models.gaps += missing_without(models, no_ring, "ring")
            if not pictured:
                models.gaps += missing_without(models, NO_PICTURE, "truth", "reference picture")
            if given.truth_mesh is not None and mesh is None:
                models.gaps += missing_without(models, no_mesh, "true mesh")
            elif given.truth_mesh is not None and mesh is not None:
                mesh_values, mesh_gaps = score_mesh(protocol, mesh, given.truth_mesh, alignment)
                values, models.gaps = values + mesh_values, models.gaps + mesh_gaps
    gaps = list({gap.metric: gap for gap in models.gaps}.values())
    corrected = (
        references["corrected"] if "corrected" in references else read_reference(given.reference, CORRECTED, given.alpha)
    )
    flags = measure_flags(Result(given.views, views, read_poses(given.views), corrected, mesh, no_mesh))
    notes = notes_of(given.views)
    write_scores(
        given.out, Scores(scheme="scores/1", values=values, gaps=gaps, left_out=repeats, flags=flags, made=made, notes=notes)
    )
    for gap in gaps:
        print(f"not scored: {gap.metric}: {gap.reason}")
    for flag in flags:
        if flag.state == "raised":
            print(f"flag raised: {flag.name}: {flag.number:.3f} (threshold {flag.threshold}): {flag.meaning}")
