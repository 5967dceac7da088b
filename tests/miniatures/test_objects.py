"""Toy objects: solids of revolution against the older primitives, pictures against the signed distance, captions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from magic123.geometry.camera import Camera
from magic123.miniatures.families import FAMILIES
from magic123.miniatures.objects import inside_distance, make_object
from magic123.miniatures.picture import draw
from magic123.miniatures.shapes import CONE, CYLINDER, ELLIPSOID, REVOLUTION, Builder, turn

FOV = 40.0


def pose(polar: float, azimuth: float) -> np.ndarray:
    return Camera.orbit(polar, azimuth, 1.8, FOV, 48).camera_to_world[0].double().numpy()


def builder() -> Builder:
    return Builder(np.random.default_rng(0), np.array([0.8, 0.2, 0.1]), np.array([0.1, 0.2, 0.8]), None, True)


@pytest.mark.parametrize(
    "kind, profile", [(ELLIPSOID, (1.0, 0.0, -1.0)), (CYLINDER, (1.0, 0.0, 0.0)), (CONE, (0.25, -0.5, 0.25))]
)
def test_a_solid_of_revolution_is_drawn_as_the_primitive_that_it_equals(kind, profile):
    toy = make_object(0)
    one = {name: value[:1] for name, value in vars(toy).items() if isinstance(value, np.ndarray)} | {
        "half": np.array([[0.3, 0.4, 0.2]]),
        "rotation": turn(0, 30)[None],
        "centre": np.array([[0.05, 0.0, -0.1]]),
    }
    expected = replace(toy, **one | {"kind": np.array([kind])})
    actual = replace(toy, **one | {"kind": np.array([REVOLUTION]), "profile": np.array([profile])})
    for camera in (pose(60, 20), pose(95, 130)):
        for a, b in zip(draw(expected, camera, FOV, 48), draw(actual, camera, FOV, 48), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
    points = np.random.default_rng(1).uniform(-0.6, 0.6, (500, 3))
    assert ((inside_distance(expected, points) < 0) == (inside_distance(actual, points) < 0)).all()


def test_a_lathe_is_smooth_and_closes_where_asked():
    make = builder()
    make.lathe((0, 0, 0), 0.4, (0.1, 0.15, 0.3, 0.2, None), (1, 0, 0))
    assert len(make.parts) == 3
    radius = [p.half[2] for p in make.parts]

    def square(i, y):
        a, b, c = make.parts[i].profile
        return radius[i] ** 2 * (a + b * y + c * y * y), radius[i] ** 2 * (b + 2 * c * y)

    for i in range(2):
        np.testing.assert_allclose(square(i, 1.0), square(i + 1, -1.0), atol=1e-12)
        np.testing.assert_allclose(make.parts[i + 1].centre[1] - make.parts[i].centre[1], 2 * 0.4 / 3)
    assert square(0, -1.0)[0] == pytest.approx((0.1**2 + 0.15**2) / 2)
    assert square(2, 1.0)[0] == pytest.approx(0.0, abs=1e-12)
    assert all(-1e-12 <= square(i, y)[0] <= radius[i] ** 2 + 1e-12 for i in range(3) for y in np.linspace(-1, 1, 21))


def test_a_tube_contains_its_path():
    make = builder()
    points, radii = np.array([(0, 0, 0), (0.2, 0.1, 0), (0.2, 0.3, 0.1)]), (0.05, 0.08, 0.03)
    make.sweep(points, radii, (1, 0, 0))
    toy = make_object(0)
    arrays = {name: np.stack([getattr(p, name) for p in make.parts]) for name in ("kind", "centre", "half", "profile")}
    tube = replace(toy, **arrays, rotation=np.stack([p.rotation.T for p in make.parts]))
    t = np.linspace(0, 1, 20)[:, None]
    for a, b in itertools.pairwise(points):
        path = a + t * (b - a)
        assert (inside_distance(tube, path) < 0).all()
        across = np.cross(b - a, (0, 0, 1.0))
        across /= np.linalg.norm(across)
        outside = path[5:15] + across * 0.1
        assert (inside_distance(tube, outside) > 0).all()


@pytest.mark.parametrize("number", range(len(FAMILIES)))
def test_depth_lies_on_the_surface_of_the_signed_distance(number):
    toy, camera, size = make_object(number), pose(75, 40), 48
    rgba, depth, normal = draw(toy, camera, FOV, size, supersampling=1)
    y, x = np.nonzero(rgba[..., 3] > 0)
    assert len(x) > 60
    half = np.tan(np.radians(FOV) / 2)
    u, v = ((x + 0.5) / size * 2 - 1) * half, (1 - (y + 0.5) / size * 2) * half
    z = depth[y, x]
    points = np.stack([u * z, v * z, -z], 1) @ camera[:3, :3].T + camera[:3, 3]
    np.testing.assert_allclose(inside_distance(toy, points), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normal[y, x], axis=1), 1, atol=1e-6)
    towards = camera[:3, 3] - points
    assert ((normal[y, x] * towards).sum(1) > -1e-6).mean() > 0.99


def test_an_object_is_determined_by_its_number():
    first, again, other = make_object(25), make_object(25), make_object(35)
    assert first.name == again.name and (first.colour == again.colour).all() and first.init_word == "duck"
    assert other.init_word == "duck" and not np.array_equal(first.half, other.half)


def test_every_word_of_a_caption_is_one_token(tmp_path):
    from magic123.miniatures.vocabulary import write_tokenizer

    tokenizer = write_tokenizer(tmp_path)
    for number in range(40):
        caption = make_object(number).caption
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2, caption
