"""Known ways in which reconstructions fail, each as a number, a threshold and a word; no flag is raised in silence.

Thresholds were set on the demo's six true objects (rings of renders, depth maps, meshes), none of which they accuse, and
on the same spoiled: folded to two fronts, turned inside out at the front, whitened behind, sprinkled, oversaturated,
broken up. They are warnings to look at the pictures, not verdicts: a vase has no front, a bowl is concave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from eval.pictures.consistency import is_ring
from eval.pictures.inputs import NO_MESH_MADE, NO_PICTURE, Reference
from eval.pictures.meshes import load_mesh
from eval.pictures.pictures import REFERENCE, View, decode
from eval.pictures.protocols import blend_on_white, pad_to_square, resize_area
from magic123.records.cameras import Pose
from magic123.records.cards import Flag
from magic123.records.errors import InputError
from magic123.records.files import read_json

SMALL = 32  # pixels at which sides of an object are compared
FEWEST_SIDES = 8  # views of a ring, to see a repetition in it
SAME_SIDES = 1e-3  # mean squared difference of two sides below which all sides count as alike
BEHIND = 120.0  # degrees of azimuth from the reference view
SMALL_PIECE = 0.1  # of the object's pixels
NEAR_WHITE = 235  # of 255, every channel


class NotMeasured(Exception):
    """Why a flag has no number."""


@dataclass(frozen=True)
class Rule:
    threshold: float
    raised_above: bool  # else: raised below
    meaning: str


RULES = {
    "shattered-mesh": Rule(0.5, False, "share of the surface's area in its largest connected part; 0 for an empty mesh"),
    "several-fronts": Rule(
        0.35, False, "how much views a half, third or quarter turn apart differ, less than any two views where fronts repeat"
    ),
    "concave-front": Rule(
        0.03, True, "how much farther the middle of the reference view is than its rim, in world units; below 0: it bulges"
    ),
    "white-back": Rule(0.5, True, "share of near-white object pixels in the views from behind, less that of the reference"),
    "floaters": Rule(
        0.03,
        True,
        "share of object pixels in pieces below a tenth of it each, mean over the novel views, less that of the reference",
    ),
    "saturation": Rule(0.2, True, "mean of max - min over the colour channels in the novel views, less that of the reference"),
}


@dataclass(frozen=True)
class Result:
    """What flags look at: views with their cameras and folder, the reference picture, the mesh or why there is none."""

    folder: Path
    views: list[View]
    poses: dict[str, Pose]
    reference: Reference | None  # None: made from a caption alone
    mesh: Path | None
    no_mesh: str

    def opaque(self, view: View) -> np.ndarray:
        """Where the object is in a view, [S, S] bool."""
        alpha = _read_map(self.folder / "alpha" / f"{view.name}.png", "alpha map")
        if alpha.shape != view.render.shape[:2]:
            raise InputError(f"{self.folder}/alpha/{view.name}.png has another size than its view; render the views again")
        return alpha > 127

    @property
    def novel(self) -> list[View]:
        found = [view for view in self.views if view.set != REFERENCE]
        if not found:
            raise NotMeasured("there are no novel views")
        return found


def _read_map(file: Path, what: str) -> np.ndarray:
    """A one-channel picture. NotMeasured where there is none."""
    if not file.is_file():
        raise NotMeasured(f"there is no {what} {file.parent.name}/{file.name} beside the views")
    picture = decode(file)
    if picture.ndim != 2:
        raise InputError(f"{file} is no picture of one channel; render the views again")
    return picture


def largest_part(mesh: Path | None, reason: str) -> float:
    """Share of the area in the largest connected part (by position: a seam of the texture parts nothing)."""
    if mesh is None:
        if reason == NO_MESH_MADE:
            raise NotMeasured(reason)
        return 0.0
    from trimesh.graph import connected_component_labels

    surface = load_mesh(mesh)
    surface.merge_vertices(merge_tex=True, merge_norm=True)
    labels = connected_component_labels(surface.face_adjacency, node_count=len(surface.faces))
    areas = np.bincount(labels, weights=surface.area_faces)
    return float(areas.max() / areas.sum())


def repetition(renders: list[np.ndarray]) -> float:
    """How much the views of a ring differ from those a half, third or quarter turn on (whichever repeats most), relative
    to any two views; 1 where all sides look alike. Renders [S, S, 3] uint8 in the order of the ring."""
    sides = np.stack([resize_area(render.astype(np.float32) / 255, SMALL) for render in renders])
    count = len(sides)
    apart = np.stack([((side - sides) ** 2).mean((1, 2, 3)) for side in sides])
    any_two = apart.sum() / (count * (count - 1))
    if any_two < SAME_SIDES:
        return 1.0
    turns = [count // fronts for fronts in (2, 3, 4) if count % fronts == 0]
    places = np.arange(count)
    return float(min(apart[places, (places + turn) % count].mean() for turn in turns) / any_two)


def several_fronts(result: Result) -> float:
    found = []
    for name in dict.fromkeys(view.set for view in result.novel):
        views = [view for view in result.novel if view.set == name]
        known = [result.poses[view.name] for view in views if view.name in result.poses]
        if len(views) >= FEWEST_SIDES and len(views) % 2 == 0 and (not known or (len(known) == len(views) and is_ring(known))):
            found.append(repetition([view.render for view in views]))
    if not found:
        raise NotMeasured(f"no view set is a ring of an even number of views, {FEWEST_SIDES} or more")
    return min(found)


def bulge(depth: np.ndarray, inside: np.ndarray) -> float:
    """Mean depth of the middle of a silhouette less that of its rim. depth [S, S], inside [S, S] bool."""
    # the border of the picture is an edge as well
    distance = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    share = distance / max(float(distance.max()), 1e-6)
    middle, rim = share > 0.6, (share > 0.05) & (share < 0.35)
    if not middle.any() or not rim.any():
        raise NotMeasured("the reference view shows too little of the object")
    return float(depth[middle].mean() - depth[rim].mean())


def concave_front(result: Result) -> float:
    depth = _read_map(result.folder / "depth" / REFERENCE / "000.png", "depth map")
    scale = read_json(result.folder / "cameras.json", "cameras").get("depth_scale") if result.poses else None
    if not scale:
        raise NotMeasured("cameras.json does not give the depth_scale")
    return bulge(depth.astype(np.float64) / float(scale), depth > 0)


def _reference_pixels(reference: Reference) -> np.ndarray:
    """The object's colours in the reference picture, [N, 3] uint8."""
    colours = np.rint(blend_on_white(reference.rgba, reference.alpha) * 255).astype(np.uint8)
    return colours[reference.rgba[..., 3] > 127]


def _near_white(pixels: np.ndarray) -> float:
    return float((pixels.min(1) >= NEAR_WHITE).mean()) if len(pixels) else 0.0


def _chroma(pixels: np.ndarray) -> float:
    return float((pixels.max(1).astype(int) - pixels.min(1)).mean() / 255) if len(pixels) else 0.0


def white_back(result: Result) -> float:
    front = result.poses.get(f"{REFERENCE}/000")
    if front is None:
        raise NotMeasured("cameras.json does not say where the views are taken from")
    azimuths = {view.name: result.poses[view.name][1] for view in result.novel if view.name in result.poses}
    behind = [view for view in result.novel if abs((azimuths.get(view.name, front[1]) - front[1] + 180) % 360 - 180) >= BEHIND]
    if not behind:
        raise NotMeasured(f"no view is taken from {BEHIND:.0f} degrees or more round")
    pixels = np.concatenate([view.render[result.opaque(view)] for view in behind])
    return _near_white(pixels) - _near_white(_reference_pixels(result.reference))


def in_small_pieces(opaque: np.ndarray) -> float:
    """Share of the pixels of [H, W] bool in connected pieces that hold less than a tenth of them each; 0 without any."""
    pieces = cv2.connectedComponentsWithStats(opaque.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    return float(pieces[pieces < SMALL_PIECE * pieces.sum()].sum() / pieces.sum()) if len(pieces) else 0.0


def floaters(result: Result) -> float:
    masks = [result.opaque(view) for view in result.novel]
    # an object may have detached parts of its own, and thin ones come apart at few pixels: the reference is seen as small
    alpha = pad_to_square(result.reference.rgba[..., 3], 0)
    known = resize_area(alpha, min(len(masks[0]), len(alpha))) > 127
    return float(np.mean([in_small_pieces(mask) for mask in masks])) - in_small_pieces(known)


def saturation(result: Result) -> float:
    pixels = np.concatenate([view.render[result.opaque(view)] for view in result.novel])
    if not len(pixels):
        raise NotMeasured("the novel views show no object")
    return _chroma(pixels) - _chroma(_reference_pixels(result.reference))


MEASURES: dict[str, Callable[[Result], float]] = {
    "shattered-mesh": lambda result: largest_part(result.mesh, result.no_mesh),
    "several-fronts": several_fronts,
    "concave-front": concave_front,
    "white-back": white_back,
    "floaters": floaters,
    "saturation": saturation,
}


OF_THE_PICTURE = ("concave-front", "white-back", "floaters", "saturation")  # they look at the reference view or picture


def measure_flags(result: Result) -> list[Flag]:
    """Every flag of RULES: raised, clear, or not measured and why."""
    flags = []
    for name, rule in RULES.items():
        about = {"name": name, "threshold": rule.threshold, "meaning": rule.meaning}
        try:
            if result.reference is None and name in OF_THE_PICTURE:
                raise NotMeasured(NO_PICTURE)
            number = round(MEASURES[name](result), 6)
        except NotMeasured as why:
            flags.append(Flag(**about, state="not measured", number=None, reason=str(why)))
            continue
        raised = number > rule.threshold if rule.raised_above else number < rule.threshold
        flags.append(Flag(**about, state="raised" if raised else "clear", number=number))
    return flags
