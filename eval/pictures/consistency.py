"""Does a result agree with itself? Views of a ring are dealt into two disjoint sets, even and odd, and neighbours compared.

No truth is needed, and none is claimed: a result that is wrong all round in the same way is consistent. The numbers say
how much the object changes between a view and its neighbours on either side, so they compare results over the same ring.
"""

from __future__ import annotations

from eval.pictures.pictures import REFERENCE, View
from magic123.records.cameras import Pose

FEWEST = 4  # views of a ring
TOLERANCE = 1e-2  # degrees, world units


def is_ring(poses: list[Pose]) -> bool:
    """Whether cameras (polar, azimuth, radius, fov) go once around in equal steps, at one height and distance."""
    steps = [(b[1] - a[1]) % 360 for a, b in zip(poses, [*poses[1:], poses[0]], strict=True)]
    even = max(steps) - min(steps) < TOLERANCE and abs(sum(steps) - 360) < TOLERANCE
    return even and all(max(p[i] for p in poses) - min(p[i] for p in poses) < TOLERANCE for i in (0, 2, 3))


def neighbours(views: list[View], poses: dict[str, Pose]) -> tuple[list[tuple[int, int]], str]:
    """Pairs (even view, odd neighbour) as places in `views`, and, where there are none, why.

    `poses` is what cameras.json says ("set/000": pose); views that it does not know are taken for a ring in their order.
    """
    pairs, reasons = [], []
    for name in dict.fromkeys(view.set for view in views if view.set != REFERENCE):
        places = [place for place, view in enumerate(views) if view.set == name]
        known = [poses[views[place].name] for place in places if views[place].name in poses]
        if len(places) < FEWEST or len(places) % 2:
            reasons.append(f"{name} has {len(places)} views, which cannot be dealt into two sets around a ring")
        elif known and (len(known) < len(places) or not is_ring(known)):
            reasons.append(f"the cameras of {name} are not a ring")
        else:
            last = len(places) - 1
            for even in range(0, len(places), 2):
                pairs += [(places[even], places[even + 1]), (places[even], places[even - 1 if even else last])]
    return pairs, "" if pairs else "; ".join(reasons) or "there are no novel views"
