"""The families of toy objects: each function adds the parts of an object to a builder.

An object faces local +z, and y is up; the one-sided part is at local -x, the side that the reference view shows.
"""

from __future__ import annotations

import numpy as np

from magic123.miniatures.shapes import (
    BANDS,
    BOX,
    COLOURS,
    CONE,
    CYLINDER,
    ELLIPSOID,
    GRADIENT,
    SPOTS,
    Builder,
    Pattern,
    turn,
)

DARK = np.array([0.16, 0.16, 0.18])


def dog(make: Builder) -> None:
    """Add the parts of a dog."""
    a, b, between = make.first, make.second, make.between
    length, ry, rx = between(0.23, 0.33), between(0.10, 0.15), between(0.09, 0.13)
    head = between(0.10, 0.14)
    neck = ry + between(0.06, 0.11)
    make.add(ELLIPSOID, (0, 0, 0), (rx, ry, length), a, pattern=make.stripes)
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
    if make.one_sided:
        make.add(BOX, (-rx - 0.03, 0.03, -0.02), (0.04, 0.07, 0.09), b)


def truck(make: Builder) -> None:
    """Add the parts of a truck."""
    a, b, between = make.first, make.second, make.between
    length, width = between(0.26, 0.36), between(0.12, 0.16)
    make.add(BOX, (0, -0.07, 0), (width, 0.045, length), DARK * 1.6)
    cabin = between(0.10, 0.15)
    make.add(BOX, (0, cabin - 0.02, length - 0.11), (width, cabin, 0.11), b)
    make.add(BOX, (0, cabin + 0.03, length + 0.001), (width * 0.8, cabin * 0.35, 0.004), (0.65, 0.82, 0.90))
    cargo = between(0.09, 0.16)
    if make.rng.random() < 0.5:
        make.add(BOX, (0, cargo - 0.02, -0.12), (width * 1.05, cargo, length - 0.13), a, pattern=make.stripes)
    else:
        make.add(CYLINDER, (0, cargo - 0.02, -0.12), (cargo * 1.1, length - 0.13, cargo), a, turn(0, 90), make.stripes)
    wheel = between(0.07, 0.10)
    for side in (-1.0, 1.0):
        for end in (-0.62, 0.62):
            make.add(CYLINDER, (side * width, -0.12, end * length), (wheel, 0.03, wheel), DARK, turn(2, 90))
            make.add(CYLINDER, (side * (width + 0.02), -0.12, end * length), (wheel * 0.5, 0.015, wheel * 0.5), b, turn(2, 90))
        make.add(ELLIPSOID, (side * width * 0.6, -0.04, length + 0.01), (0.03,) * 3, COLOURS["yellow"])
    if make.one_sided:
        make.add(CYLINDER, (-width * 0.8, 2 * cabin + 0.04, length - 0.2), (0.025, 0.10, 0.025), DARK)


def boat(make: Builder) -> None:
    """Add the parts of a boat."""
    a, b, between = make.first, make.second, make.between
    length, width = between(0.28, 0.38), between(0.11, 0.16)
    make.add(ELLIPSOID, (0, -0.12, 0), (width, 0.12, length), a, pattern=make.stripes)
    make.add(BOX, (0, -0.07, -0.02), (width * 0.85, 0.05, length * 0.72), a, pattern=make.stripes)
    make.add(BOX, (0, 0.02, -length * 0.45), (width * 0.65, 0.07, 0.09), b)
    make.add(BOX, (0, 0.10, -length * 0.45), (width * 0.8, 0.014, 0.11), DARK)
    mast = between(0.22, 0.30)
    make.add(CYLINDER, (0, mast - 0.05, 0.08), (0.018, mast, 0.018), COLOURS["brown"])
    make.add(BOX, (-0.02, mast, 0.08 - 0.10), (0.012, mast * 0.6, 0.10), b)
    make.add(CONE, (0, -0.06, length * 0.9), (0.035, 0.12, 0.035), b, turn(0, 75))
    if make.one_sided:
        make.add(ELLIPSOID, (-width * 0.95, -0.08, 0.05), (0.03, 0.07, 0.07), (0.93, 0.55, 0.15))


def teapot(make: Builder) -> None:
    """Add the parts of a teapot."""
    a, b, between = make.first, make.second, make.between
    radius, height = between(0.17, 0.23), between(0.14, 0.21)
    make.add(ELLIPSOID, (0, -0.02, 0), (radius * 0.9, height, radius), a, pattern=make.stripes)
    make.add(CYLINDER, (0, -height - 0.0, 0), (radius * 0.6, 0.025, radius * 0.6), b)
    reach = between(0.10, 0.15)
    make.add(CONE, (0, 0.02, radius + 0.07), (0.06, reach + 0.04, 0.06), b, turn(0, between(35, 60)))
    make.add(CYLINDER, (0, 0.07, -radius - 0.07), (0.024, 0.09, 0.024), b, turn(0, 90))
    make.add(CYLINDER, (0, -0.01, -radius - 0.14), (0.024, 0.10, 0.024), b)
    make.add(CYLINDER, (0, -0.09, -radius - 0.06), (0.024, 0.09, 0.024), b, turn(0, 90))
    make.add(CONE, (0, height + 0.03, 0), (radius * 0.55, 0.07, radius * 0.55), b)
    make.add(ELLIPSOID, (0, height + 0.11, 0), (0.04,) * 3, a)
    if make.one_sided:
        make.add(ELLIPSOID, (-radius * 0.8, 0, 0.05), (0.05, 0.07, 0.07), b)


def plane(make: Builder) -> None:
    """Add the parts of a plane."""
    a, b, between = make.first, make.second, make.between
    length, radius = between(0.28, 0.38), between(0.075, 0.115)
    make.add(ELLIPSOID, (0, 0, 0), (radius, radius * 1.1, length), a, pattern=make.stripes)
    span, sweep = between(0.30, 0.42), between(-0.02, 0.06)
    make.add(BOX, (0, between(-0.03, 0.03), sweep), (span, 0.022, between(0.07, 0.11)), b)
    make.add(BOX, (0, radius + 0.06, -length + 0.06), (0.02, 0.10, 0.06), b)
    make.add(BOX, (0, 0.02, -length + 0.05), (0.14, 0.018, 0.045), b)
    make.add(ELLIPSOID, (0, radius * 0.8, length * 0.35), (radius * 0.6, radius * 0.6, 0.10), (0.55, 0.78, 0.90))
    make.add(CONE, (0, 0, length + 0.01), (0.05, 0.06, 0.05), DARK, turn(0, 90))
    make.add(BOX, (0, 0, length + 0.02), (0.02, 0.13, 0.012), DARK, turn(2, between(0, 90)))
    for side in (-1.0, 1.0):
        make.add(CYLINDER, (side * 0.09, -radius - 0.07, 0.06), (0.05, 0.02, 0.05), DARK, turn(2, 90))
    if make.one_sided:
        make.add(CYLINDER, (-span * 0.6, -0.05, sweep + 0.02), (0.04, 0.10, 0.04), DARK * 2.2, turn(0, 90))


def duck(make: Builder) -> None:
    """Add the parts of a duck: a body with a colour gradient, a curved neck, a bill, and wings of the second colour."""
    a, b, between = make.first, make.second, make.between
    width, height, length = between(0.13, 0.17), between(0.11, 0.15), between(0.22, 0.29)
    belly = Pattern(GRADIENT, np.clip(a * between(1.2, 1.5) + 0.1, 0, 0.98))
    make.add(ELLIPSOID, (0, 0, 0), (width, height, length), a, pattern=belly)
    make.add(CONE, (0, height * 0.7, -length * 0.95), (width * 0.5, 0.11, height * 0.4), a, turn(0, -between(35, 60)))
    rise, reach = between(0.15, 0.26), between(0.02, 0.08)
    t = np.linspace(0, 1, 5)
    neck = np.stack([np.zeros(5), height * 0.4 + (rise + 0.05) * t, length * 0.65 + reach * np.sin(np.pi * t) + 0.03 * t], 1)
    make.sweep(neck, np.linspace(0.085, 0.05, 5), a)
    head, skull = np.add(neck[-1], (0, 0.03, 0.02)), between(0.075, 0.1)
    make.add(ELLIPSOID, head, (skull * 0.9, skull, skull * 1.1), b if make.rng.random() < 0.4 else a)
    make.add(ELLIPSOID, np.add(head, (0, -0.015, skull + 0.03)), (0.045, 0.018, 0.065), (0.95, 0.6, 0.1))
    wing, lift = length * between(0.55, 0.75), between(-10, 25)
    bars = Pattern(BANDS, make.shaded(b, 0.4, 0.7), between(1.0, 2.0)) if make.rng.random() < 0.5 else None
    for side in (-1.0, 1.0):
        make.add(
            ELLIPSOID,
            (side * (width + 0.005), 0.03, -0.03),
            (0.035, wing, height * 0.6),
            b,
            turn(2, -side * lift) @ turn(0, 100),
            bars,
        )
        make.add(ELLIPSOID, np.add(head, (side * skull * 0.75, skull * 0.25, skull * 0.55)), (0.02,) * 3, DARK)
        make.add(CYLINDER, (side * width * 0.45, -height - 0.03, 0.02), (0.02, 0.06, 0.02), (0.95, 0.6, 0.1))
        make.add(BOX, (side * width * 0.45, -height - 0.09, 0.05), (0.045, 0.012, 0.06), (0.95, 0.6, 0.1))
    if make.one_sided:
        make.add(ELLIPSOID, np.add(head, (-skull * 0.7, skull * 0.85, -0.02)), (0.06, 0.04, 0.04), b)


def snail(make: Builder) -> None:
    """Add the parts of a snail: a tapered foot with stalks, and a spiral shell that leans to one side."""
    a, b, between = make.first, make.second, make.between
    length = between(0.30, 0.38)
    t = np.linspace(0, 1, 7)
    foot = np.stack([np.zeros(7), -0.17 + 0.16 * t**6, -length + (2 * length - 0.04) * t], 1)
    make.sweep(
        foot,
        0.035 + 0.065 * np.sin(np.pi * np.clip(0.12 + 0.62 * t, 0, 1)),
        b,
        make.stripes and Pattern(BANDS, make.stripes.colour, between(2, 3)),
    )
    head = foot[-1]
    for side in (-1.0, 1.0):
        tip = np.add(head, (side * between(0.05, 0.09), between(0.13, 0.19), between(0.02, 0.07)))
        make.sweep(
            [np.add(head, (side * 0.03, 0.03, 0)), (head + tip) / 2 + (side * 0.02, 0, 0.01), tip], (0.018, 0.015, 0.014), b
        )
        make.add(ELLIPSOID, tip, (0.027,) * 3, DARK)
    turns, size, steps = between(1.6, 2.2), between(0.20, 0.25), 16
    u = np.linspace(0, 1, steps)
    angle, radius = 2 * np.pi * turns * u - between(0.5, 1.1), size * 0.62 * np.exp(-1.5 * u)
    lean = -between(0.06, 0.14)
    spiral = np.stack([lean * u * 1.4, radius * np.sin(angle), radius * np.cos(angle)], 1)
    bands = Pattern(BANDS, make.shaded(a, 0.35, 0.65), between(2.5, 5.0))
    make.sweep(np.add(spiral, (0, size * 0.42 - 0.06, -0.05)), size * 0.55 * np.exp(-1.25 * u), a, bands)
    if make.one_sided:
        make.add(ELLIPSOID, (lean * 1.6, size * 0.42 - 0.06, -0.05), (0.03, 0.05, 0.05), b)


def cactus(make: Builder) -> None:
    """Add the parts of a cactus: a pot of the second colour, a ribbed column, bent arms and a flower."""
    a, b, between = make.first, make.second, make.between
    pot, height = between(0.12, 0.16), between(0.24, 0.31)
    rim = Pattern(BANDS, make.shaded(b, 0.5, 0.8), between(0.8, 1.6)) if make.rng.random() < 0.5 else None
    make.lathe((0, -0.27, 0), 0.10, (pot * 0.7, pot * 0.75, pot, pot * 1.15), b, pattern=rim)
    make.add(CYLINDER, (0, -0.175, 0), (pot * 0.95, 0.012, pot * 0.95), (0.33, 0.22, 0.15))
    thick = between(0.075, 0.105)
    ribs = Pattern(SPOTS if make.rng.random() < 0.4 else BANDS, make.shaded(a, 0.55, 0.8), between(2.0, 4.0))
    waist = thick * between(0.85, 1.2)
    make.lathe((0, height - 0.18, 0), height, (thick, thick, waist, thick * 1.05, thick * 0.9, None), a, pattern=ribs)
    for side, low, up in ((-1.0, between(-0.05, 0.08), between(0.12, 0.22)), (1.0, between(-0.02, 0.16), between(0.10, 0.20))):
        if side > 0 and make.rng.random() < 0.25:
            continue
        out, forward = thick + between(0.06, 0.11), between(-0.06, 0.06)
        path = [
            (0, low, 0),
            (side * out * 0.7, low, forward * 0.7),
            (side * (out + 0.02), low + 0.05, forward),
            (side * (out + 0.03), low + up, forward),
        ]
        make.sweep(path, (0.05, 0.05, 0.052, 0.045), a, ribs)
    make.add(ELLIPSOID, (0, 2 * height - 0.17, 0), (0.06, 0.035, 0.06), b)
    make.add(ELLIPSOID, (0, 2 * height - 0.145, 0), (0.028,) * 3, (0.95, 0.82, 0.25))
    if make.one_sided:
        make.add(ELLIPSOID, (-thick * 0.9, height * 0.9, 0.02), (0.045, 0.045, 0.045), b)


def fish(make: Builder) -> None:
    """Add the parts of a fish: a flattened body of revolution with scales or bands, and fins of the second colour."""
    a, b, between = make.first, make.second, make.between
    length, tall = between(0.26, 0.33), between(0.13, 0.19)
    kind = (BANDS, SPOTS, GRADIENT)[make.rng.integers(3)]
    scales = Pattern(kind, make.shaded(a, 0.4, 0.7) if kind != GRADIENT else b, between(1.8, 3.6))
    along = turn(0, 90) @ turn(1, 90)  # the lathe's y is the object's z, its z the object's height
    radii = (tall * 0.28, tall * 0.35, tall * 0.9, tall * 1.1, tall * between(0.9, 1.1), tall * 0.6, None)
    make.lathe((0, 0, 0), length, radii, a, along, scales, flatten=between(0.5, 0.75))
    spread = between(0.13, 0.19)
    for up in (-1.0, 1.0):
        make.add(ELLIPSOID, (0, up * spread * 0.6, -length - 0.06), (0.022, spread * 0.75, 0.055), b, turn(0, -up * 35))
        make.add(ELLIPSOID, (up * tall * 0.42, tall * 0.2, length * 0.72), (0.03,) * 3, (0.95, 0.95, 0.95))
        make.add(ELLIPSOID, (up * tall * 0.47, tall * 0.2, length * 0.75), (0.02,) * 3, DARK)
        make.add(
            ELLIPSOID,
            (up * tall * 0.72, -tall * 0.3, length * 0.2),
            (0.018, 0.05, 0.10),
            b,
            turn(1, up * 25) @ turn(2, up * 40),
        )
    make.add(
        ELLIPSOID,
        (0, tall * 0.95, between(-0.08, 0.04)),
        (0.02, between(0.06, 0.11), between(0.10, 0.16)),
        b,
        turn(0, between(-25, -5)),
    )
    make.add(ELLIPSOID, (0, -tall * 0.9, -length * 0.35), (0.018, 0.06, 0.07), b)
    make.add(ELLIPSOID, (0, -tall * 0.12, length * 0.97), (0.05, 0.028, 0.03), make.shaded(b, 0.7, 1.0))
    if make.one_sided:
        make.add(ELLIPSOID, (-tall * 0.55, 0.02, -length * 0.15), (0.03, 0.05, 0.06), b)


def lamp(make: Builder) -> None:
    """Add the parts of a desk lamp: a base of revolution, a bent arm, and a shade of the second colour that faces forward."""
    a, b, between = make.first, make.second, make.between
    foot = between(0.14, 0.19)
    make.lathe((0, -0.27, -0.05), 0.07, (foot, foot, foot * 0.8, foot * 0.25, foot * 0.2), a)
    rise, back, reach = between(0.24, 0.34), between(0.10, 0.20), between(0.10, 0.22)
    t = np.linspace(0, 1, 6)[:, None]
    start, elbow, tip = (np.array(p) for p in ((0, -0.22, -0.05), (0, -0.22 + rise, -0.05 - back), (0, 0.18, reach - 0.02)))
    arm = (1 - t) ** 2 * start + 2 * t * (1 - t) * (np.add(elbow, (0, 0.2, -0.05))) + t**2 * tip
    make.sweep(
        arm,
        np.full(6, between(0.026, 0.036)),
        make.shaded(a, 0.8, 1.1),
        make.stripes and Pattern(BANDS, make.stripes.colour, between(1, 3)),
    )
    tilt, wide = between(20, 65), between(0.12, 0.17)
    look = turn(0, 180 - tilt)  # the shade's local y points away from the arm, forward and down
    rings = Pattern((BANDS, SPOTS, GRADIENT)[make.rng.integers(3)], make.shaded(b, 0.45, 0.75), between(1.2, 2.4))
    make.lathe(tip + look @ (0, 0.08, 0), 0.11, (wide * 0.25, wide * 0.4, wide * 0.85, wide * 1.1), b, look, rings)
    make.add(ELLIPSOID, tip + look @ (0, 0.18, 0), (wide * 0.7, 0.04, wide * 0.7), (0.98, 0.93, 0.62), look)
    make.add(ELLIPSOID, tip, (0.045,) * 3, a)
    if make.one_sided:
        make.add(CYLINDER, (-foot * 0.55, -0.21, 0.0), (0.035, 0.03, 0.035), b)


FAMILIES = {f.__name__: f for f in (dog, truck, boat, teapot, plane, duck, snail, cactus, fish, lamp)}
