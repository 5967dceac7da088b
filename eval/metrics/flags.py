"""Flags: known failure modes of reconstructions, each measured by a number with a threshold.

The thresholds were chosen on the six true objects of the demo (rings of renders, depth maps, meshes), none of which raises a
flag, and on deliberately damaged versions of them: with two fronts, a concave front, a white back, floating pieces,
oversaturated colours, a shattered mesh. A flag is a reason to look at the pictures, not a verdict: a vase has no front, and
a bowl is concave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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

SMALL = 32  # side in pixels at which views are compared
FEWEST_SIDES = 8  # smallest number of views of a ring that is tested for repetition
SAME_SIDES = 1e-3  # mean squared difference below which all views of a ring count as equal
BEHIND = 120.0  # degrees of azimuth from the reference view, from which a view counts as from behind
SMALL_PIECE = 0.1  # share of the object's pixels below which a piece is small
NEAR_WHITE = 235  # smallest value of every channel, of 255


class NotMeasured(Exception):
    """A flag cannot be measured; the message is the reason."""


@dataclass(frozen=True)
class Result:
    """The result that flags are measured on.

    Attributes:
        folder: Folder of the views, with alpha/ and depth/.
        views: All views.
        poses: View name -> pose, from cameras.json.
        reference: The reference picture; None for a result made from a caption alone.
        mesh: File of the mesh, or None.
        no_mesh: The reason if there is no mesh.
    """

    folder: Path
    views: list[View]
    poses: dict[str, Pose]
    reference: Reference | None
    mesh: Path | None
    no_mesh: str

    @property
    def picture(self) -> Reference:
        """Return the reference picture. Raises NotMeasured if there is none."""
        if self.reference is None:
            raise NotMeasured(NO_PICTURE)
        return self.reference

    def opaque(self, view: View) -> np.ndarray:
        """Return the object's mask in a view, [S, S] bool. Raises NotMeasured if there is no alpha map."""
        alpha = _read_map(self.folder / "alpha" / f"{view.name}.png", "alpha map")
        if alpha.shape != view.render.shape[:2]:
            raise InputError(f"{self.folder}/alpha/{view.name}.png differs in size from its view; render the views again")
        return alpha > 127

    @property
    def novel(self) -> list[View]:
        """Return the novel views. Raises NotMeasured if there are none."""
        novel = [view for view in self.views if view.set != REFERENCE]
        if not novel:
            raise NotMeasured("there are no novel views")
        return novel


def _read_map(file: Path, what: str) -> np.ndarray:
    """Return a picture with one channel, [H, W]. Raises NotMeasured if there is none."""
    if not file.is_file():
        raise NotMeasured(f"there is no {what} {file.parent.name}/{file.name} beside the views")
    picture = decode(file)
    if picture.ndim != 2:
        raise InputError(f"{file} does not have one channel; render the views again")
    return picture


def largest_part(mesh: Path | None, reason: str) -> float:
    """Return the fraction of a mesh's area in its largest connected part.

    Vertices at the same position are merged, so that texture seams do not separate parts.

    Args:
        mesh: File of the mesh, or None.
        reason: Why there is no mesh.

    Raises:
        NotMeasured: The method does not make meshes.
    """
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
    """Return the difference of a ring's views after a half, third or quarter turn, relative to that of any two views.

    Args:
        renders: Views [S, S, 3] uint8 in the order of the ring.

    Returns:
        The smallest ratio of the three turns, near 0 for an object with several equal fronts; 1 if all views are equal.
    """
    sides = np.stack([resize_area(render.astype(np.float32) / 255, SMALL) for render in renders])
    count = len(sides)
    distances = np.stack([((side - sides) ** 2).mean((1, 2, 3)) for side in sides])
    any_two = distances.sum() / (count * (count - 1))
    if any_two < SAME_SIDES:
        return 1.0
    turns = [count // fronts for fronts in (2, 3, 4) if count % fronts == 0]
    places = np.arange(count)
    return float(min(distances[places, (places + turn) % count].mean() for turn in turns) / any_two)


def several_fronts(result: Result) -> float:
    """Return the smallest repetition of any ring of novel views."""
    ratios = []
    for name in dict.fromkeys(view.set for view in result.novel):
        views = [view for view in result.novel if view.set == name]
        poses = [result.poses[view.name] for view in views if view.name in result.poses]
        if len(views) >= FEWEST_SIDES and len(views) % 2 == 0 and (not poses or (len(poses) == len(views) and is_ring(poses))):
            ratios.append(repetition([view.render for view in views]))
    if not ratios:
        raise NotMeasured(f"no view set is a ring of an even number of views, {FEWEST_SIDES} or more")
    return min(ratios)


def bulge(depth: np.ndarray, inside: np.ndarray) -> float:
    """Return the mean depth of the middle of a silhouette minus that of its rim.

    Args:
        depth: [S, S] in world units.
        inside: [S, S] bool, the silhouette.

    Raises:
        NotMeasured: The silhouette is too small.
    """
    # the border of the picture counts as an edge
    distance = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    share = distance / max(float(distance.max()), 1e-6)
    middle, rim = share > 0.6, (share > 0.05) & (share < 0.35)
    if not middle.any() or not rim.any():
        raise NotMeasured("the reference view shows too little of the object")
    return float(depth[middle].mean() - depth[rim].mean())


def concave_front(result: Result) -> float:
    """Return how much farther the middle of the reference view is than its rim, in world units."""
    depth = _read_map(result.folder / "depth" / REFERENCE / "000.png", "depth map")
    scale = read_json(result.folder / "cameras.json", "cameras").get("depth_scale") if result.poses else None
    if not scale:
        raise NotMeasured("cameras.json does not give the depth_scale")
    return bulge(depth.astype(np.float64) / float(scale), depth > 0)


def _reference_pixels(reference: Reference) -> np.ndarray:
    """Return the object's colours in the reference picture, [N, 3] uint8."""
    colours = np.rint(blend_on_white(reference.rgba, reference.alpha) * 255).astype(np.uint8)
    return colours[reference.rgba[..., 3] > 127]


def _near_white(pixels: np.ndarray) -> float:
    return float((pixels.min(1) >= NEAR_WHITE).mean()) if len(pixels) else 0.0


def _chroma(pixels: np.ndarray) -> float:
    return float((pixels.max(1).astype(int) - pixels.min(1)).mean() / 255) if len(pixels) else 0.0


def white_back(result: Result) -> float:
    """Return the fraction of near-white pixels of the object in views from behind, minus that of the reference picture."""
    front = result.poses.get(f"{REFERENCE}/000")
    if front is None:
        raise NotMeasured("cameras.json does not say where the views are taken from")
    azimuths = {view.name: result.poses[view.name][1] for view in result.novel if view.name in result.poses}
    behind = [view for view in result.novel if abs((azimuths.get(view.name, front[1]) - front[1] + 180) % 360 - 180) >= BEHIND]
    if not behind:
        raise NotMeasured(f"no view is taken from {BEHIND:.0f} degrees or more round")
    pixels = np.concatenate([view.render[result.opaque(view)] for view in behind])
    return _near_white(pixels) - _near_white(_reference_pixels(result.picture))


def in_small_pieces(opaque: np.ndarray) -> float:
    """Return the fraction of a mask's pixels, [H, W] bool, in connected pieces below SMALL_PIECE; 0 for an empty mask."""
    pieces = cv2.connectedComponentsWithStats(opaque.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    return float(pieces[pieces < SMALL_PIECE * pieces.sum()].sum() / pieces.sum()) if len(pieces) else 0.0


def floaters(result: Result) -> float:
    """Return the fraction of the object's pixels in small pieces, mean over novel views, minus that of the reference."""
    masks = [result.opaque(view) for view in result.novel]
    # the object itself may have detached parts, and thin parts break at low resolution, so the reference is reduced too
    alpha = pad_to_square(result.picture.rgba[..., 3], 0)
    reference = resize_area(alpha, min(len(masks[0]), len(alpha))) > 127
    return float(np.mean([in_small_pieces(mask) for mask in masks])) - in_small_pieces(reference)


def saturation(result: Result) -> float:
    """Return the mean chroma, max - min over the channels, of the novel views minus that of the reference picture."""
    pixels = np.concatenate([view.render[result.opaque(view)] for view in result.novel])
    if not len(pixels):
        raise NotMeasured("the novel views show no object")
    return _chroma(pixels) - _chroma(_reference_pixels(result.picture))


def overlap(result: Result) -> float:
    """Return intersection over union of the object's silhouettes in the reference view and in the reference picture."""
    view = next((view for view in result.views if view.set == REFERENCE), None)
    if view is None:
        raise NotMeasured("there is no reference view")
    shown, alpha = result.opaque(view), pad_to_square(result.picture.rgba[..., 3], 0)
    size = min(len(shown), len(alpha))
    ours, theirs = (resize_area(mask, size) > 127 for mask in (shown.astype(np.uint8) * 255, alpha))
    if not theirs.any():
        raise NotMeasured("the reference picture shows no object")
    return float((ours & theirs).sum() / (ours | theirs).sum())


@dataclass(frozen=True)
class Rule:
    """How one flag is measured.

    Attributes:
        measure: Returns the number, or raises NotMeasured.
        threshold: The number beyond which the flag is raised.
        raised_above: Whether the flag is raised above the threshold; otherwise below.
        meaning: Meaning of the number, in words.
        of_the_picture: Whether it needs the reference picture or view, which a result made from a caption lacks.
    """

    measure: Callable[[Result], float]
    threshold: float
    raised_above: bool
    meaning: str
    of_the_picture: bool = False


RULES = {
    "shattered-mesh": Rule(
        lambda result: largest_part(result.mesh, result.no_mesh),
        0.5,
        False,
        "share of the surface's area in its largest connected part; 0 for an empty mesh",
    ),
    "several-fronts": Rule(
        several_fronts,
        0.35,
        False,
        "how much views a half, third or quarter turn apart differ, less than any two views where fronts repeat",
    ),
    "concave-front": Rule(
        concave_front,
        0.03,
        True,
        "how much farther the middle of the reference view is than its rim, in world units; below 0: it bulges",
        True,
    ),
    "white-back": Rule(
        white_back,
        0.5,
        True,
        "share of near-white object pixels in the views from behind, less that of the reference",
        True,
    ),
    "misplaced": Rule(
        overlap,
        0.5,
        False,
        "overlap (intersection over union) of the silhouettes in the reference view and in the picture; low for another frame",
        True,
    ),
    "floaters": Rule(
        floaters,
        0.03,
        True,
        "share of object pixels in pieces below a tenth of it each, mean over the novel views, less that of the reference",
        True,
    ),
    "saturation": Rule(
        saturation,
        0.2,
        True,
        "mean of max - min over the colour channels in the novel views, less that of the reference",
        True,
    ),
}


def measure_flags(result: Result) -> list[Flag]:
    """Return every flag of RULES: raised, clear, or not measured, with the reason."""
    flags = []
    for name, rule in RULES.items():
        number, reason = None, ""
        state: Literal["raised", "clear", "not measured"] = "not measured"
        try:
            if result.reference is None and rule.of_the_picture:
                raise NotMeasured(NO_PICTURE)
            number = round(rule.measure(result), 6)
            raised = number > rule.threshold if rule.raised_above else number < rule.threshold
            state = "raised" if raised else "clear"
        except NotMeasured as problem:
            reason = str(problem)
        flags.append(Flag(name=name, state=state, number=number, threshold=rule.threshold, meaning=rule.meaning, reason=reason))
    return flags
