"""Procedural toy objects: five families of coloured ellipsoids, boxes, cylinders and cones, with captions.

Objects are elongated, turned by 15 to 65 degrees and carry parts on one side only, so that a picture copied from the
reference view is a weak guess at any other view. Captions name the family and two colours; shades, proportions and
stripes are left out, so that textual inversion has something to learn. The frame is the project's: y up, the reference
camera looks from +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ELLIPSOID, BOX, CYLINDER, CONE = range(4)
FAMILIES = ("dog", "truck", "boat", "teapot", "plane")
COLOURS = {
    "red": (0.82, 0.16, 0.14),
    "orange": (0.93, 0.50, 0.12),
    "yellow": (0.93, 0.79, 0.20),
    "green": (0.22, 0.60, 0.24),
    "cyan": (0.20, 0.70, 0.74),
    "blue": (0.17, 0.32, 0.76),
    "purple": (0.50, 0.25, 0.65),
    "pink": (0.92, 0.50, 0.66),
    "brown": (0.48, 0.30, 0.18),
}
DARK = np.array([0.16, 0.16, 0.18])
FIRST_HELD_OUT = 1_000_000  # object numbers from here on are never trained on


@dataclass(frozen=True)
class ToyObject:
    """P primitives. rotation maps world offsets to the primitive's axes; a cylinder's and a cone's axis is local y."""

    name: str
    caption: str
    init_word: str
    kind: np.ndarray  # [P] int64
    centre: np.ndarray  # [P, 3]
    rotation: np.ndarray  # [P, 3, 3] world to local
    half: np.ndarray  # [P, 3] half sizes
    colour: np.ndarray  # [P, 2, 3] two colours; stripes alternate them
    stripes: np.ndarray  # [P] stripes per local unit along z, 0 for none


def turn(axis: int, degrees: float) -> np.ndarray:
    """Return the rotation matrix about a coordinate axis (right-handed)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


class _Builder:
    def __init__(self):
        self.parts = []

    def add(self, kind, centre, half, colour, rotation=None, second=None, stripes=0.0):
        colour = np.asarray(colour, float)
        second = colour if second is None else np.asarray(second, float)
        local_to_object = np.eye(3) if rotation is None else rotation
        self.parts.append(
            (kind, np.asarray(centre, float), local_to_object, np.asarray(half, float), (colour, second), stripes)
        )


def make_object(number: int) -> ToyObject:
    """Return the object with this number; the same number always gives the same object."""
    rng = np.random.default_rng([123, number])

    def between(low, high):
        return rng.uniform(low, high)

    family = FAMILIES[number % len(FAMILIES)]
    first, second = rng.choice(list(COLOURS), 2, replace=False)

    def shade(name):
        return np.clip(np.array(COLOURS[name]) * between(0.72, 1.12) + rng.normal(0, 0.02, 3), 0.02, 0.98)

    a, b = shade(first), shade(second)
    striped = rng.random() < 0.4
    stripes, a2 = (between(1.5, 3.0), np.clip(a * between(0.35, 0.6), 0, 1)) if striped else (0.0, a)
    bag = rng.random() < 0.6  # the one-sided part, on the side that the reference view shows (local -x)
    make = _Builder()
    if family == "dog":
        length, ry, rx = between(0.23, 0.33), between(0.10, 0.15), between(0.09, 0.13)
        head = between(0.10, 0.14)
        neck = ry + between(0.06, 0.11)
        make.add(ELLIPSOID, (0, 0, 0), (rx, ry, length), a, second=a2, stripes=stripes)
        make.add(ELLIPSOID, (0, neck, length * 0.85), (head * 0.9, head, head), b)
        make.add(ELLIPSOID, (0, neck - 0.03, length * 0.85 + head), (0.05, 0.045, 0.08), a)
        make.add(ELLIPSOID, (0, neck - 0.01, length * 0.85 + head + 0.07), (0.025, 0.022, 0.025), DARK)
        ear = between(0.05, 0.09)
        for side in (-1.0, 1.0):
            make.add(CONE, (side * head * 0.65, neck + head * 0.8 + ear * 0.4, length * 0.8), (0.04, ear, 0.03), a)
            make.add(ELLIPSOID, (side * head * 0.45, neck + head * 0.25, length * 0.85 + head * 0.85), (0.022,) * 3, DARK)
            for end in (-1.0, 1.0):
                make.add(CYLINDER, (side * rx * 0.7, -ry - 0.04, end * length * 0.6), (0.037, 0.11, 0.037), b)
        lift = between(25, 70)
        make.add(CYLINDER, (0, ry * 0.6 + 0.06, -length - 0.05), (0.025, 0.12, 0.025), b, turn(0, -lift))
        if bag:
            make.add(BOX, (-rx - 0.03, 0.03, -0.02), (0.04, 0.07, 0.09), b)
    elif family == "truck":
        length, width = between(0.26, 0.36), between(0.12, 0.16)
        make.add(BOX, (0, -0.07, 0), (width, 0.045, length), DARK * 1.6)
        cabin = between(0.10, 0.15)
        make.add(BOX, (0, cabin - 0.02, length - 0.11), (width, cabin, 0.11), b)
        make.add(BOX, (0, cabin + 0.03, length + 0.001), (width * 0.8, cabin * 0.35, 0.004), (0.65, 0.82, 0.90))
        cargo = between(0.09, 0.16)
        if rng.random() < 0.5:
            make.add(BOX, (0, cargo - 0.02, -0.12), (width * 1.05, cargo, length - 0.13), a, second=a2, stripes=stripes)
        else:
            make.add(CYLINDER, (0, cargo - 0.02, -0.12), (cargo * 1.1, length - 0.13, cargo), a, turn(0, 90), a2, stripes)
        wheel = between(0.07, 0.10)
        for side in (-1.0, 1.0):
            for end in (-0.62, 0.62):
                make.add(CYLINDER, (side * width, -0.12, end * length), (wheel, 0.03, wheel), DARK, turn(2, 90))
                make.add(
                    CYLINDER, (side * (width + 0.02), -0.12, end * length), (wheel * 0.5, 0.015, wheel * 0.5), b, turn(2, 90)
                )
            make.add(ELLIPSOID, (side * width * 0.6, -0.04, length + 0.01), (0.03,) * 3, COLOURS["yellow"])
        if bag:
            make.add(CYLINDER, (-width * 0.8, 2 * cabin + 0.04, length - 0.2), (0.025, 0.10, 0.025), DARK)
    elif family == "boat":
        length, width = between(0.28, 0.38), between(0.11, 0.16)
        make.add(ELLIPSOID, (0, -0.12, 0), (width, 0.12, length), a, second=a2, stripes=stripes)
        make.add(BOX, (0, -0.07, -0.02), (width * 0.85, 0.05, length * 0.72), a, second=a2, stripes=stripes)
        make.add(BOX, (0, 0.02, -length * 0.45), (width * 0.65, 0.07, 0.09), b)
        make.add(BOX, (0, 0.10, -length * 0.45), (width * 0.8, 0.014, 0.11), DARK)
        mast = between(0.22, 0.30)
        make.add(CYLINDER, (0, mast - 0.05, 0.08), (0.018, mast, 0.018), COLOURS["brown"])
        make.add(BOX, (-0.02, mast, 0.08 - 0.10), (0.012, mast * 0.6, 0.10), b)
        make.add(CONE, (0, -0.06, length * 0.9), (0.035, 0.12, 0.035), b, turn(0, 75))
        if bag:
            make.add(ELLIPSOID, (-width * 0.95, -0.08, 0.05), (0.03, 0.07, 0.07), (0.93, 0.55, 0.15))
    elif family == "teapot":
        radius, height = between(0.17, 0.23), between(0.14, 0.21)
        make.add(ELLIPSOID, (0, -0.02, 0), (radius * 0.9, height, radius), a, second=a2, stripes=stripes)
        make.add(CYLINDER, (0, -height - 0.0, 0), (radius * 0.6, 0.025, radius * 0.6), b)
        reach = between(0.10, 0.15)
        make.add(CONE, (0, 0.02, radius + 0.07), (0.06, reach + 0.04, 0.06), b, turn(0, between(35, 60)))
        make.add(CYLINDER, (0, 0.07, -radius - 0.07), (0.024, 0.09, 0.024), b, turn(0, 90))
        make.add(CYLINDER, (0, -0.01, -radius - 0.14), (0.024, 0.10, 0.024), b)
        make.add(CYLINDER, (0, -0.09, -radius - 0.06), (0.024, 0.09, 0.024), b, turn(0, 90))
        make.add(CONE, (0, height + 0.03, 0), (radius * 0.55, 0.07, radius * 0.55), b)
        make.add(ELLIPSOID, (0, height + 0.11, 0), (0.04,) * 3, a)
        if bag:
            make.add(ELLIPSOID, (-radius * 0.8, 0, 0.05), (0.05, 0.07, 0.07), b)
    else:  # plane
        length, radius = between(0.28, 0.38), between(0.075, 0.115)
        make.add(ELLIPSOID, (0, 0, 0), (radius, radius * 1.1, length), a, second=a2, stripes=stripes)
        span, sweep = between(0.30, 0.42), between(-0.02, 0.06)
        make.add(BOX, (0, between(-0.03, 0.03), sweep), (span, 0.022, between(0.07, 0.11)), b)
        make.add(BOX, (0, radius + 0.06, -length + 0.06), (0.02, 0.10, 0.06), b)
        make.add(BOX, (0, 0.02, -length + 0.05), (0.14, 0.018, 0.045), b)
        make.add(ELLIPSOID, (0, radius * 0.8, length * 0.35), (radius * 0.6, radius * 0.6, 0.10), (0.55, 0.78, 0.90))
        make.add(CONE, (0, 0, length + 0.01), (0.05, 0.06, 0.05), DARK, turn(0, 90))
        make.add(BOX, (0, 0, length + 0.02), (0.02, 0.13, 0.012), DARK, turn(2, between(0, 90)))
        for side in (-1.0, 1.0):
            make.add(CYLINDER, (side * 0.09, -radius - 0.07, 0.06), (0.05, 0.02, 0.05), DARK, turn(2, 90))
        if bag:
            make.add(CYLINDER, (-span * 0.6, -0.05, sweep + 0.02), (0.04, 0.10, 0.04), DARK * 2.2, turn(0, 90))
    yaw, scale = turn(1, between(15, 65)), between(1.1, 1.3)
    shift = np.array([between(-0.03, 0.03), between(-0.02, 0.04), between(-0.03, 0.03)])
    return ToyObject(
        name=f"{first}_{family}",
        caption=f"a {first} {family} with {second} parts",
        init_word=family,
        kind=np.array([p[0] for p in make.parts], np.int64),
        centre=np.stack([scale * (yaw @ p[1]) + shift for p in make.parts]),
        rotation=np.stack([(yaw @ p[2]).T for p in make.parts]),
        half=scale * np.stack([p[3] for p in make.parts]),
        colour=np.stack([np.stack(p[4]) for p in make.parts]),
        stripes=np.array([p[5] for p in make.parts]),
    )


def inside_distance(toy: ToyObject, points: np.ndarray) -> np.ndarray:
    """Return the approximate signed distance to the union, negative inside: [N]. Its zero set is the true surface."""
    best = np.full(len(points), np.inf)
    for kind, centre, rotation, half in zip(toy.kind, toy.centre, toy.rotation, toy.half, strict=True):
        p = (points - centre) @ rotation.T / half
        radial = np.hypot(p[:, 0], p[:, 2])
        if kind == ELLIPSOID:
            f = np.linalg.norm(p, axis=1) - 1
        elif kind == BOX:
            f = np.abs(p).max(1) - 1
        elif kind == CYLINDER:
            f = np.maximum(radial, np.abs(p[:, 1])) - 1
        else:
            f = np.maximum(radial - (1 - p[:, 1]) / 2, -1 - p[:, 1])
        best = np.minimum(best, f * half.min())
    return best


def true_mesh(toy: ToyObject, resolution: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface of the union by marching cubes: vertices [V, 3] in the world, faces [F, 3] outward."""
    from skimage.measure import marching_cubes

    axis = np.linspace(-0.75, 0.75, resolution)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    values = np.concatenate([inside_distance(toy, part) for part in np.array_split(grid, 64)])
    vertices, faces, _, _ = marching_cubes(values.reshape((resolution,) * 3).astype(np.float32), 0.0)
    return axis[0] + vertices * (axis[1] - axis[0]), faces
