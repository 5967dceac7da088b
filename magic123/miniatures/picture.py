"""Exact pictures of toy objects, by ray casting with supersampling.

Shading is diffuse, with light from a fixed direction, so a point has the same colour from every viewpoint, and an albedo field
can reproduce the pictures exactly.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from magic123.miniatures.objects import ToyObject
from magic123.miniatures.shapes import BANDS, BOX, CONE, CYLINDER, ELLIPSOID, GRADIENT, OF_CONE, OF_CYLINDER, STRIPES

LIGHT = np.array([0.45, 0.75, 0.48]) / np.linalg.norm([0.45, 0.75, 0.48])
AMBIENT, DIFFUSE = 0.62, 0.42


@nb.njit(cache=True)
def _hit(kind, profile, o, d):
    """Return the smallest positive t at which o + t d enters a primitive, and the normal there, in the primitive's frame."""
    normal = np.zeros(3)
    best = np.inf
    if kind == ELLIPSOID:
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
        c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0
        disc = b * b - a * c
        if disc > 0:
            t = (-b - math.sqrt(disc)) / a
            if t > 0:
                best = t
                for k in range(3):
                    normal[k] = o[k] + t * d[k]
    elif kind == BOX:
        near, far, axis, sign = -np.inf, np.inf, 0, 1.0
        miss = False
        for k in range(3):
            if abs(d[k]) < 1e-12:
                if abs(o[k]) > 1:
                    miss = True
                continue
            t0, t1 = (-1.0 - o[k]) / d[k], (1.0 - o[k]) / d[k]
            s = -1.0
            if t0 > t1:
                t0, t1 = t1, t0
                s = 1.0
            if t0 > near:
                near, axis, sign = t0, k, s
            far = min(far, t1)
        if not miss and near < far and near > 0:
            best = near
            normal[axis] = sign
    else:
        q0, q1, q2 = profile[0], profile[1], profile[2]
        if kind == CYLINDER:
            q0, q1, q2 = OF_CYLINDER
        elif kind == CONE:
            q0, q1, q2 = OF_CONE
        a = d[0] * d[0] + d[2] * d[2] - q2 * d[1] * d[1]
        b = o[0] * d[0] + o[2] * d[2] - q2 * o[1] * d[1] - 0.5 * q1 * d[1]
        c = o[0] * o[0] + o[2] * o[2] - q0 - o[1] * (q1 + q2 * o[1])
        disc = b * b - a * c
        if disc > 0 and abs(a) > 1e-14:
            root = math.sqrt(disc)
            for s in (-1.0, 1.0):
                t = (-b + s * root) / a
                y = o[1] + t * d[1]
                if 0 < t < best and -1 <= y <= 1:
                    best = t
                    normal[0], normal[1], normal[2] = o[0] + t * d[0], -0.5 * q1 - q2 * y, o[2] + t * d[2]
        if abs(d[1]) > 1e-12:
            for end in (-1.0, 1.0):
                t = (end - o[1]) / d[1]
                x, z = o[0] + t * d[0], o[2] + t * d[2]
                if 0 < t < best and x * x + z * z <= q0 + end * q1 + q2:
                    best = t
                    normal[0], normal[1], normal[2] = 0.0, end, 0.0
    return best, normal


@nb.njit(cache=True)
def _second_colour_weight(pattern, frequency, span, x, y, z):
    """Return the weight, in [0, 1], of the second colour at a point in the primitive's frame."""
    along = span[0] + span[1] * y
    if pattern == STRIPES:
        return float(math.floor(z * frequency + 100.5) % 2) if frequency > 0 else 0.0
    if pattern == GRADIENT:
        share = 0.5 - 0.8 * along
    elif pattern == BANDS:
        share = 0.5 + 1.2 * math.sin(math.pi * frequency * along + 0.7)
    else:
        wave = math.pi * frequency
        share = 2.2 * math.sin(wave * x + 1.0) * math.sin(wave * along + 0.4) * math.sin(wave * z + 1.6)
        share = abs(share) - 0.3
    share = min(1.0, max(0.0, share))
    return share * share * (3.0 - 2.0 * share)


@nb.njit(cache=True)
def _render(
    kind,
    centre,
    rotation,
    half,
    colour,
    pattern,
    frequency,
    profile,
    span,
    pose,
    focal,
    size,
    ss,
    light,
    ambient,
    diffuse,
    rgba,
    depth,
    normals,
):
    fine = size * ss
    zbuffer = np.full((fine, fine), np.inf)
    rgb = np.zeros((fine, fine, 3))
    nrm = np.zeros((fine, fine, 3))
    eye = pose[:, 3]
    scale = focal * ss
    for p in range(len(kind)):
        offset = centre[p] - eye
        bound = math.sqrt(half[p, 0] ** 2 + half[p, 1] ** 2 + half[p, 2] ** 2)
        cx = pose[0, 0] * offset[0] + pose[1, 0] * offset[1] + pose[2, 0] * offset[2]
        cy = pose[0, 1] * offset[0] + pose[1, 1] * offset[1] + pose[2, 1] * offset[2]
        cz = -(pose[0, 2] * offset[0] + pose[1, 2] * offset[1] + pose[2, 2] * offset[2])
        if cz - bound < 0.05:
            continue
        reach = bound / (cz - bound) * 1.05 * scale
        u, v = cx / cz * scale + fine / 2, -cy / cz * scale + fine / 2
        x0, x1 = max(0, int(u - reach - 1)), min(fine, int(u + reach + 2))
        y0, y1 = max(0, int(v - reach - 1)), min(fine, int(v + reach + 2))
        origin = np.zeros(3)
        for k in range(3):
            origin[k] = (
                -(rotation[p, k, 0] * offset[0] + rotation[p, k, 1] * offset[1] + rotation[p, k, 2] * offset[2]) / half[p, k]
            )
        local, world, direction = np.zeros(3), np.zeros(3), np.zeros(3)
        for y in range(y0, y1):
            for x in range(x0, x1):
                lx, ly = (x + 0.5 - fine / 2) / scale, -(y + 0.5 - fine / 2) / scale
                for k in range(3):  # of length 1 along the optical axis, so that the ray parameter is the depth
                    direction[k] = pose[k, 0] * lx + pose[k, 1] * ly - pose[k, 2]
                for k in range(3):
                    local[k] = (
                        rotation[p, k, 0] * direction[0] + rotation[p, k, 1] * direction[1] + rotation[p, k, 2] * direction[2]
                    ) / half[p, k]
                t, normal = _hit(kind[p], profile[p], origin, local)
                if t < zbuffer[y, x]:
                    zbuffer[y, x] = t
                    w = _second_colour_weight(
                        pattern[p],
                        frequency[p],
                        span[p],
                        origin[0] + t * local[0],
                        origin[1] + t * local[1],
                        origin[2] + t * local[2],
                    )
                    length = 0.0
                    for k in range(3):
                        world[k] = 0.0
                        for j in range(3):
                            world[k] += rotation[p, j, k] * normal[j] / half[p, j]
                        length += world[k] ** 2
                    length = math.sqrt(length) + 1e-12
                    lambert = 0.0
                    for k in range(3):
                        nrm[y, x, k] = world[k] / length
                        lambert += nrm[y, x, k] * light[k]
                    s = ambient + diffuse * max(lambert, 0.0) + 0.06 * nrm[y, x, 1]
                    for k in range(3):
                        rgb[y, x, k] = min(1.0, ((1 - w) * colour[p, 0, k] + w * colour[p, 1, k]) * s)
    for y in range(size):
        for x in range(size):
            count = 0
            z = 0.0
            for j in range(ss):
                for i in range(ss):
                    yy, xx = y * ss + j, x * ss + i
                    if zbuffer[yy, xx] < np.inf:
                        count += 1
                        z += zbuffer[yy, xx]
                        for k in range(3):
                            rgba[y, x, k] += rgb[yy, xx, k]
                            normals[y, x, k] += nrm[yy, xx, k]
            if count > 0:
                for k in range(3):
                    rgba[y, x, k] /= count
                    normals[y, x, k] /= count
                depth[y, x] = z / count
                rgba[y, x, 3] = count / (ss * ss)


def draw(toy: ToyObject, pose: np.ndarray, fov: float, size: int, supersampling: int = 2):
    """Render a square picture of a toy object.

    Args:
        toy: the object.
        pose: camera-to-world matrix [4, 4], with OpenGL's axes.
        fov: field of view in degrees.
        size: side of the picture in pixels.
        supersampling: number of samples along each side of a pixel.

    Returns:
        RGBA [S, S, 4] in [0, 1] with straight alpha, depth [S, S] along the optical axis (0 in the background), and normal
        [S, S, 3]. Depth and normal are means over the covered samples of a pixel.
    """
    focal = size / (2 * math.tan(math.radians(fov) / 2))
    rgba, depth, normals = np.zeros((size, size, 4)), np.zeros((size, size)), np.zeros((size, size, 3))
    _render(
        toy.kind,
        toy.centre,
        toy.rotation,
        toy.half,
        toy.colour,
        toy.pattern,
        toy.frequency,
        toy.profile,
        toy.span,
        np.ascontiguousarray(pose[:3], dtype=float),
        focal,
        size,
        supersampling,
        LIGHT,
        AMBIENT,
        DIFFUSE,
        rgba,
        depth,
        normals,
    )
    return rgba, depth, normals
