"""The parts of toy objects: five kinds of primitives, four kinds of patterns, and a builder that collects parts.

A primitive is defined in its own unit frame: an ellipsoid is the unit ball, a box the cube [-1, 1]^3, and cylinder, cone and
solid of revolution extend around local y from -1 to 1. A solid of revolution is x^2 + z^2 <= q(y) with a quadratic q, so that
ray intersections have a closed form; chains of them form smooth bodies of revolution, tubes and spirals.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ELLIPSOID, BOX, CYLINDER, CONE, REVOLUTION = range(5)
OF_CYLINDER, OF_CONE = (1.0, 0.0, 0.0), (0.25, -0.5, 0.25)  # coefficients of q(y): 1 and ((1 - y) / 2)^2
STRIPES, BANDS, GRADIENT, SPOTS = range(4)
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


@dataclass(frozen=True)
class Pattern:
    """A second colour on a part.

    Attributes:
        kind: STRIPES (hard, along local z), BANDS (soft, along local y), GRADIENT (along local y) or SPOTS.
        colour: the second colour, RGB in [0, 1].
        frequency: periods per local unit.
    """

    kind: int
    colour: np.ndarray
    frequency: float = 0.0


@dataclass(frozen=True)
class Part:
    """A primitive in the object's frame; see `ToyObject` for the fields."""

    kind: int
    centre: np.ndarray  # [3]
    rotation: np.ndarray  # [3, 3] from the primitive's axes to the object's
    half: np.ndarray  # [3] half sizes
    colour: np.ndarray  # [2, 3]
    pattern: int
    frequency: float
    profile: np.ndarray  # [3] coefficients of q(y) = a + b y + c y^2
    span: np.ndarray  # [2] offset and scale from local y to the pattern's coordinate, so that segments share a pattern


def turn(axis: int, degrees: float) -> np.ndarray:
    """Return the right-handed rotation matrix [3, 3] about a coordinate axis (0, 1 or 2)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


def towards(direction: np.ndarray) -> np.ndarray:
    """Return a rotation [3, 3] that maps the local y axis to a direction."""
    y = np.asarray(direction, float) / np.linalg.norm(direction)
    x = np.cross(y, (0.0, 0.0, 1.0) if abs(y[2]) < 0.9 else (1.0, 0.0, 0.0))
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], 1)


@dataclass
class Builder:
    """Collects the parts of an object with two colours.

    Attributes:
        rng: the object's random generator.
        first: the main colour, RGB in [0, 1].
        second: the second colour, RGB in [0, 1].
        stripes: the pattern of the main part, in families that use stripes; None for no pattern.
        one_sided: whether the object has a part on one side only.
        parts: the parts so far.
    """

    rng: np.random.Generator
    first: np.ndarray
    second: np.ndarray
    stripes: Pattern | None
    one_sided: bool
    parts: list[Part] = field(default_factory=list)

    def between(self, low: float, high: float) -> float:
        """Return a random number between two bounds."""
        return self.rng.uniform(low, high)

    def shaded(self, colour: np.ndarray, low: float, high: float) -> np.ndarray:
        """Return a colour made darker or lighter by a random factor."""
        return np.clip(np.asarray(colour) * self.between(low, high), 0.02, 0.98)

    def add(self, kind, centre, half, colour, rotation=None, pattern=None, profile=(1.0, 0.0, 0.0), span=(0.0, 1.0)) -> None:
        """Add one primitive.

        Args:
            kind: the kind of primitive.
            centre: centre in the object's frame, [3].
            half: half sizes along the local axes, [3].
            colour: the colour, RGB in [0, 1].
            rotation: rotation from local axes to the object's, [3, 3]; the identity by default.
            pattern: a second colour; None for a single colour.
            profile: coefficients of q(y) = a + b y + c y^2 of a solid of revolution, at most 1 for |y| <= 1.
            span: offset and scale from local y to the pattern's coordinate.
        """
        colour = np.asarray(colour, float)
        second = colour if pattern is None else np.asarray(pattern.colour, float)
        self.parts.append(
            Part(
                kind,
                np.asarray(centre, float),
                np.eye(3) if rotation is None else rotation,
                np.asarray(half, float),
                np.stack([colour, second]),
                STRIPES if pattern is None else pattern.kind,
                0.0 if pattern is None else pattern.frequency,
                np.asarray(profile, float),
                np.asarray(span, float),
            )
        )

    def lathe(self, centre, half_height, radii, colour, rotation=None, pattern=None, flatten=1.0) -> None:
        """Add a smooth solid of revolution around local y, the square of whose radius is a uniform quadratic B-spline.

        Args:
            centre: centre of the axis, [3].
            half_height: half the length of the axis.
            radii: three or more control radii from the lower to the upper end. The radius at an end is the root mean square of
                the last two; if the last one is None, the radius at the end is 0.
            colour: the colour, RGB in [0, 1].
            rotation: rotation from local axes to the object's, [3, 3]; the identity by default.
            pattern: a second colour, along the whole length; None for a single colour.
            flatten: ratio of the thickness along local x to that along local z.
        """
        square = np.array([0.0 if r is None else r * r for r in radii])
        for end, inner in ((0, 1), (-1, -2)):
            if radii[end] is None:
                square[end] = -square[inner]
        segments = len(square) - 2
        widest = square.max()
        rotation = np.eye(3) if rotation is None else rotation
        for i in range(segments):
            p, q, r = square[i : i + 3] / widest
            # with t = (1 + y) / 2: p (1 - t)^2 / 2 + q (1/2 + t - t^2) + r t^2 / 2
            profile = ((p + 6 * q + r) / 8, (r - p) / 4, (p - 2 * q + r) / 8)
            middle = -1 + (2 * i + 1) / segments
            width = np.sqrt(widest)
            self.add(
                REVOLUTION,
                np.asarray(centre) + rotation @ (0.0, middle * half_height, 0.0),
                (width * flatten, half_height / segments, width),
                colour,
                rotation,
                pattern,
                profile,
                (middle, 1 / segments),
            )

    def sweep(self, points, radii, colour, pattern=None) -> None:
        """Add a tube along points: balls connected by tapered segments.

        Args:
            points: points in the object's frame, [N, 3].
            radii: radius at each point, [N].
            colour: the colour, RGB in [0, 1].
            pattern: a second colour, along the whole length; None for a single colour.
        """
        points, count = np.asarray(points, float), len(points)
        for i, (point, radius) in enumerate(zip(points, radii, strict=True)):
            at = -1 + 2 * i / (count - 1)
            self.add(ELLIPSOID, point, (radius,) * 3, colour, None, pattern, span=(at, 0.0))
            if i + 1 < count:
                axis, widest = points[i + 1] - point, max(radius, radii[i + 1])
                mean, slope = (radius + radii[i + 1]) / 2 / widest, (radii[i + 1] - radius) / 2 / widest
                self.add(
                    REVOLUTION,
                    point + axis / 2,
                    (widest, np.linalg.norm(axis) / 2, widest),
                    colour,
                    towards(axis),
                    pattern,
                    (mean * mean, 2 * mean * slope, slope * slope),
                    (at + 1 / (count - 1), 1 / (count - 1)),
                )
