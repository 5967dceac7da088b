"""One result -> scores.json: its views against the reference picture and, where known, the true views and mesh.

Reads {views}/{set}/{i}.png; the set `reference` is the view of the input picture, all others are novel. Truth is
{truth}/{set}/{i}.png, RGBA with straight alpha, blended on white. Render and truth meet at the smaller of their two
sizes, by area. Novel values come for all novel views and again for each set (`psnr-ring`). Mesh metrics concern the
whole surface and stand under `novel`.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from eval.cameras import compare_poses, repeats_of_reference
from eval.cards import Gap, MetricCard, Scores, Value, write_scores
from eval.errors import EvalError, need_file, need_folder, read_json
from eval.measure import Measured, Reference, measure_clip, measure_mesh, measure_pairs, pairs
from eval.metrics import describe
from eval.models import Models, load_models
from eval.pictures import REFERENCE, View, read_picture, read_views
from eval.protocols import Protocol, protocol_named


def read_reference(folder: Path, protocol: Protocol, alpha: str | None) -> Reference:
    """rgba.png of a prepared example (example.json beside it: straight alpha, square) or of a dataset's own folder."""
    file = folder if folder.is_file() else need_folder(folder, "reference folder") / "rgba.png"
    rgba = read_picture(file, 4)
    card = file.with_name("example.json")
    if protocol.blend == "zero-is-white":
        if card.is_file():
            raise EvalError(f"{file} is a prepared picture, {protocol.name} needs the untouched one: pass --published FILE")
        return Reference(rgba, "straight")
    if card.is_file():
        read_json(card, "example")
        return Reference(rgba, "straight")
    if alpha is None:
        raise EvalError(f"{folder} has no example.json: declare how its alpha is stored with --alpha straight|premultiplied")
    return Reference(rgba, alpha)


def _value(protocol: Protocol, measured: Measured, view_set: str, subset: str | None, images: dict, device: str) -> Value:
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
        device=device if measured.model else "cpu",
        seconds=round(measured.seconds, 3),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    mean = float(np.mean(list(images.values())))
    return Value(metric=name, protocol=protocol.name, view_set=view_set, value=mean, images=of_views, card=card)


def _split(protocol: Protocol, measured: Measured, device: str) -> list[Value]:
    """The reference view apart from the novel ones, these together and by set; or all in one as the protocol wants."""
    images = measured.images
    if measured.metric.startswith("clip") and protocol.clip_views == "all":
        return [_value(protocol, measured, "all", None, images, device)]
    groups = [(REFERENCE, None, {n: v for n, v in images.items() if n.startswith(f"{REFERENCE}/")})]
    if protocol.clip_views == "novel":
        novel = {name: value for name, value in images.items() if not name.startswith(f"{REFERENCE}/")}
        groups.append(("novel", None, novel))
        for subset in sorted({name.split("/")[0] for name in novel if name}):
            groups.append(("novel", subset, {n: v for n, v in novel.items() if n.startswith(f"{subset}/")}))
    return [_value(protocol, measured, view_set, subset, chosen, device) for view_set, subset, chosen in groups if chosen]


def score_views(protocol: Protocol, views: list[View], reference: Reference, models: Models) -> list[Value]:
    """All image metrics of one protocol. `as-published` knows PSNR and LPIPS of the reference view and CLIP of all."""
    if protocol.clip_views == "all":  # as published, no novel view has a truth
        views = [View(view.set, view.index, view.render) for view in views]
    measured = measure_pairs(protocol, pairs(protocol, views, reference), models)
    measured += measure_clip(protocol, views, reference, models)
    return [value for one in measured for value in _split(protocol, one, models.device)]


def score_mesh(protocol: Protocol, mesh: Path, truth: Path) -> list[Value]:
    """The surface metrics, under `novel`: they concern what no single view shows."""
    return [value for one in measure_mesh(mesh, truth) for value in _split(protocol, one, "cpu")]


def find_mesh(mesh: Path | None) -> tuple[Path | None, str]:
    """The mesh, or None and why there is none: the method makes none, or none.json in its place says the reason."""
    if mesh is None:
        return None, "this method makes no mesh"
    reason = mesh.with_name("none.json")
    if not mesh.is_file() and reason.is_file():
        return None, str(read_json(reason, "reason").get("reason", "no usable surface"))
    return need_file(mesh, "mesh"), ""


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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="scores.json")
    given = parser.parse_args(argv)

    protocols = [protocol_named(name) for name in dict.fromkeys(given.protocol)]
    if given.truth is not None:
        compare_poses(given.views, given.truth)
    repeats = repeats_of_reference(given.views)
    views = [view for view in read_views(given.views, given.truth) if view.name not in repeats]
    references = {}
    for protocol in protocols:
        untouched = protocol.blend == "zero-is-white" and given.published
        references[protocol.name] = read_reference(given.published if untouched else given.reference, protocol, given.alpha)
    mesh, no_mesh = find_mesh(given.mesh)
    models = load_models(given.clip, given.perceptual, given.lpips, given.device)
    values, gaps = [], list(models.gaps)
    for protocol in protocols:
        values += score_views(protocol, views, references[protocol.name], models)
        if given.truth_mesh is not None and protocol.name == "corrected":
            if mesh is None:
                gaps += [Gap(metric=name, reason=no_mesh) for name in ("chamfer", "f-score")]
            else:
                values += score_mesh(protocol, mesh, given.truth_mesh)
    write_scores(given.out, Scores(scheme="scores/1", values=values, gaps=gaps, left_out=repeats))
    for gap in gaps:
        print(f"not scored: {gap.metric}: {gap.reason}")
