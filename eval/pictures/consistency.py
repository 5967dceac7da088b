"""Pairs of neighbouring views on a ring, for the self-consistency of a result.

The views of a ring are split into two disjoint sets, even and odd, and each even view is compared with its two neighbours.
This needs no truth: a result that is wrong in the same way from all sides is consistent. The numbers measure how much the
object changes from one view to the next, so they are comparable over the same ring only.
"""

from __future__ import annotations

from eval.pictures.pictures import REFERENCE, View
from magic123.records.cameras import Pose

FEWEST_VIEWS = 4  # of a ring
TOLERANCE = 1e-2  # degrees and world units


def is_ring(poses: list[Pose]) -> bool:
    """Return whether cameras go once around the object in equal steps, with one polar angle, radius and field of view."""
    steps = [(b[1] - a[1]) % 360 for a, b in zip(poses, [*poses[1:], poses[0]], strict=True)]
    even = max(steps) - min(steps) < TOLERANCE and abs(sum(steps) - 360) < TOLERANCE
    return even and all(max(p[i] for p in poses) - min(p[i] for p in poses) < TOLERANCE for i in (0, 2, 3))


def neighbours(views: list[View], poses: dict[str, Pose]) -> tuple[list[tuple[int, int]], str]:
    """Pair the views of every ring with their neighbours.

    Args:
        views: All views of a result.
        poses: View name -> pose, from cameras.json. A set without poses counts as a ring, in the order of its views.

    Returns:
        Pairs (even view, odd neighbour) of indices into `views`, and the reason if there are none.
    """
    pairs, reasons = [], []
    for name in dict.fromkeys(view.set for view in views if view.set != REFERENCE):
        places = [place for place, view in enumerate(views) if view.set == name]
        cameras = [poses[views[place].name] for place in places if views[place].name in poses]
        if len(places) < FEWEST_VIEWS or len(places) % 2:
            reasons.append(f"{name} has {len(places)} views, which cannot be split into two sets around a ring")
        elif cameras and (len(cameras) < len(places) or not is_ring(cameras)):
            reasons.append(f"the cameras of {name} are not a ring")
        else:
            last = len(places) - 1
            for even in range(0, len(places), 2):
                pairs += [(places[even], places[even + 1]), (places[even], places[even - 1 if even else last])]
    return pairs, "" if pairs else "; ".join(reasons) or "there are no novel views"
