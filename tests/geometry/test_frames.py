"""Frames of meshes from other programs: every pair of axes is rotated upright, and scales have the declared meaning."""

from itertools import permutations, product

import numpy as np
import pytest

from magic123.geometry.frames import Sphere, axes, bounding_sphere, placement
from magic123.records.errors import InputError
from magic123.settings.frames import Frame

POINTS = np.array([[1, 2, 3], [4, -2, 3], [0, 0, -5], [2, 2, 2.0]])


@pytest.mark.parametrize(("up", "front"), [("".join(a), "".join(b)) for (u, f) in permutations("xyz", 2)
                                           for a, b in product([("-", u), (u,)], [("-", f), (f,)])])  # fmt: skip
def test_every_pair_of_axes_is_turned_without_mirroring(up, front):
    turn = axes(Frame(up=up, front=front))
    for axis, goal in ((up, [0, 1, 0]), (front, [0, 0, 1])):
        vector = np.zeros(3)
        vector["xyz".index(axis[-1])] = -1 if axis[0] == "-" else 1
        assert np.array_equal(turn @ vector, goal)
    assert np.linalg.det(turn) == 1


def placed(**frame) -> np.ndarray:
    matrix = placement(POINTS, Frame(**frame), Sphere(np.array([0.1, 0.2, 0.3]), 0.25))
    return POINTS @ matrix[:3, :3].T + matrix[:3, 3]


def test_sizes():
    assert np.array_equal(placed(), POINTS)
    assert np.allclose(placed(scale=0.01), POINTS / 100)
    ball = bounding_sphere(placed(scale="unit-sphere", up="z", front="-y"))
    assert np.allclose(ball.centre, 0) and ball.radius == pytest.approx(0.5)
    cube = placed(scale="unit-cube")
    assert np.ptp(cube, axis=0).max() == pytest.approx(1) and np.allclose(cube.min(0) + cube.max(0), 0)
    fitted = bounding_sphere(placed(scale="fit"))
    assert np.allclose(fitted.centre, [0.1, 0.2, 0.3]) and fitted.radius == pytest.approx(0.25)
    alone = bounding_sphere(POINTS @ (without := placement(POINTS, Frame(scale="fit")))[:3, :3].T + without[:3, 3])
    assert np.allclose(alone.centre, 0) and alone.radius == pytest.approx(0.5)


def test_frames_that_are_none():
    with pytest.raises(ValueError, match="lie on one axis"):
        Frame(up="y", front="-y")
    with pytest.raises(InputError, match="single point"):
        placement(np.zeros((3, 3)), Frame(scale="unit-cube"))
