"""Procedural toy objects of ten families, with captions.

Objects are elongated, rotated by 15 to 65 degrees and have parts on one side only, so that a copy of the reference view differs
from all other views. Captions name the family and two colours, but not shades, proportions and patterns, so that textual
inversion has something to learn. The frame is the project's: y up, with the reference camera at +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magic123.miniatures.families import FAMILIES
from magic123.miniatures.shapes import (
    BOX,
    COLOURS,
    CONE,
    CYLINDER,
    ELLIPSOID,
    OF_CONE,
    OF_CYLINDER,
    STRIPES,
    Builder,
    Pattern,
    turn,
)

FIRST_HELD_OUT = 1_000_000  # objects with this number or a greater one are never used for training


@dataclass(frozen=True)
class ToyObject:
    """A toy object: P primitives (see `magic123.miniatures.shapes`) in world coordinates, its name and its caption."""

    name: str
    caption: str
    init_word: str
    kind: np.ndarray  # [P] int64
    centre: np.ndarray  # [P, 3]
    rotation: np.ndarray  # [P, 3, 3] from world axes to the primitive's axes
    half: np.ndarray  # [P, 3] half sizes along the primitive's axes
    colour: np.ndarray  # [P, 2, 3] two colours, between which the pattern interpolates
    pattern: np.ndarray  # [P] int64: kind of the pattern
    frequency: np.ndarray  # [P] periods of the pattern per local unit; 0 for a single colour, except for a gradient
    profile: np.ndarray  # [P, 3] coefficients (a, b, c) of the squared radius a + b y + c y^2 of solids of revolution
    span: np.ndarray  # [P, 2] offset and scale that map local y to the coordinate of the pattern


def make_object(number: int) -> ToyObject:
    """Return the object with a number; the same number always gives the same object."""
    rng = np.random.default_rng([123, number])
    family = list(FAMILIES)[number % len(FAMILIES)]
    first, second = rng.choice(list(COLOURS), 2, replace=False)

    def shade(name):
        return np.clip(np.array(COLOURS[name]) * rng.uniform(0.72, 1.12) + rng.normal(0, 0.02, 3), 0.02, 0.98)

    a, b = shade(first), shade(second)
    stripes = None
    if rng.random() < 0.4:
        frequency = rng.uniform(1.5, 3.0)
        stripes = Pattern(STRIPES, np.clip(a * rng.uniform(0.35, 0.6), 0, 1), frequency)
    make = Builder(rng, a, b, stripes, one_sided=rng.random() < 0.6)
    FAMILIES[family](make)
    yaw, scale = turn(1, rng.uniform(15, 65)), rng.uniform(1.1, 1.3)
    shift = np.array([rng.uniform(-0.03, 0.03), rng.uniform(-0.02, 0.04), rng.uniform(-0.03, 0.03)])
    parts = make.parts
    return ToyObject(
        name=f"{first}_{family}",
        caption=f"a {first} {family} with {second} parts",
        init_word=family,
        kind=np.array([p.kind for p in parts], np.int64),
        centre=np.stack([scale * (yaw @ p.centre) + shift for p in parts]),
        rotation=np.stack([(yaw @ p.rotation).T for p in parts]),
        half=scale * np.stack([p.half for p in parts]),
        colour=np.stack([p.colour for p in parts]),
        pattern=np.array([p.pattern for p in parts], np.int64),
        frequency=np.array([p.frequency for p in parts]),
        profile=np.stack([p.profile for p in parts]),
        span=np.stack([p.span for p in parts]),
    )


def inside_distance(toy: ToyObject, points: np.ndarray) -> np.ndarray:
    """Return the approximate signed distance [N] of points to the union of all primitives, negative inside.

    Its zero level set is the exact surface.
    """
    best = np.full(len(points), np.inf)
    for kind, centre, rotation, half, profile in zip(toy.kind, toy.centre, toy.rotation, toy.half, toy.profile, strict=True):
        p = (points - centre) @ rotation.T / half
        if kind == ELLIPSOID:
            f = np.linalg.norm(p, axis=1) - 1
        elif kind == BOX:
            f = np.abs(p).max(1) - 1
        else:
            a, b, c = {CYLINDER: OF_CYLINDER, CONE: OF_CONE}.get(kind, profile)
            radius = np.sqrt(np.maximum(a + p[:, 1] * (b + p[:, 1] * c), 0))
            f = np.maximum(np.hypot(p[:, 0], p[:, 2]) - radius, np.abs(p[:, 1]) - 1)
        best = np.minimum(best, f * half.min())
    return best


def true_mesh(toy: ToyObject, resolution: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Extract the surface of an object by marching cubes.

    Returns:
        Vertices [V, 3] in world coordinates, and faces [F, 3], counter-clockwise seen from outside.
    """
    from skimage.measure import marching_cubes

    axis = np.linspace(-0.75, 0.75, resolution)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    values = np.concatenate([inside_distance(toy, part) for part in np.array_split(grid, 64)])
    vertices, faces, _, _ = marching_cubes(values.reshape((resolution,) * 3).astype(np.float32), 0.0)
    return axis[0] + vertices * (axis[1] - axis[0]), faces
