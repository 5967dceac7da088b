"""Render textured meshes from other programs: albedo or fixed light, with straight alpha, depth and normals.

Visibility is computed by `geometry.zbuffer` at several samples of each pixel. Textures are filtered trilinearly from mipmaps;
the level is chosen for each face from its size on the screen. Colours are filtered, multiplied and averaged in linear light and
stored as sRGB. Faces seen from behind are culled unless their material is double-sided. Translucent surfaces are rendered by
depth peeling, nearest first. Nothing here is differentiable; `raster` renders the meshes that are optimised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from magic123.geometry.camera import Camera
from magic123.geometry.mesh_parts import Part, joined
from magic123.geometry.zbuffer import triangle_ids
from magic123.records.colour import decoded, encoded

LIGHT = np.array([0.45, 0.75, 0.48]) / np.linalg.norm([0.45, 0.75, 0.48])  # direction to the light in the world
AMBIENT = 0.4  # fraction of ambient light
LAYERS = 8  # largest number of layers of translucent surfaces
CHUNK = 2**19  # number of samples that are shaded at once
STORED = decoded(np.arange(256) / 255).astype(np.float32)  # 8-bit sRGB value -> linear light


@dataclass(frozen=True)
class MeshPicture:
    """One view of a mesh.

    Attributes:
        rgba: sRGB values in [0, 1] with straight alpha; 0 in the background.
        depth: mean distance of the visible surface along the optical axis, in world units; 0 in the background.
        normal: mean of the unit normals in world coordinates, flipped towards the camera, times alpha.
    """

    rgba: Float[np.ndarray, "H W 4"]
    depth: Float[np.ndarray, "H W"]
    normal: Float[np.ndarray, "H W 3"]


class TexturedMesh:
    """A mesh prepared for rendering: its parts joined to one surface, and the mipmaps of every texture.

    Args:
        parts: the parts of the mesh, in world coordinates.
    """

    def __init__(self, parts: list[Part]):
        self.parts = parts
        self.vertices, self.faces = joined(parts)
        self.part_of_face = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
        self.starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
        self.normals = np.concatenate([_normals(part) for part in parts])
        pyramids: dict[int, list[np.ndarray]] = {}
        for part in parts:
            if part.texture is not None and id(part.texture) not in pyramids:
                pyramids[id(part.texture)] = _pyramid(part.texture, part.transparency != "opaque")
        self.pyramids = [pyramids.get(id(part.texture), []) for part in parts]
        self.culled = np.array([not part.double_sided for part in parts])[self.part_of_face]
        self.clear = np.array([part.transparency != "opaque" for part in parts])

    def render(self, camera: Camera, samples: int = 4, lit: bool = False) -> MeshPicture:
        """Render the mesh from one camera.

        Args:
            camera: a batch of one camera.
            samples: number of samples along each side of a pixel.
            lit: whether the albedo is shaded by a fixed light from above.
        """
        height, width = camera.height, camera.width
        matrix = camera.clip_matrices()[0].double().numpy()
        clip = self.vertices @ matrix[:, :3].T + matrix[:, 3]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            nearness = np.where(clip[:, 3] > 1e-9, 1 / clip[:, 3], 0.0)
            x, y = ((clip[:, k] * nearness + 1) * side * samples / 2 for k, side in ((0, width), (1, height)))
        faces, numbers = self._facing(x, y)
        seen = _Sums(height, width, samples)
        behind = None
        for _ in range(LAYERS if self.clear.any() else 1):
            ids, near = triangle_ids(x, y, nearness, faces, height * samples, width * samples, behind)
            found = np.flatnonzero(ids)
            for points in np.array_split(found, max(1, -(-len(found) // CHUNK))):
                face = numbers[ids.reshape(-1)[points] - 1]
                self._shade(seen, points, face, x, y, nearness, camera, lit)
            if not len(found) or not self.clear[self.part_of_face[numbers[ids.reshape(-1)[found] - 1]]].any():
                break
            behind = np.where(ids > 0, near, 0.0)
        return seen.picture()

    def _facing(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the faces that are not culled, and their numbers among all faces."""
        if not self.culled.any():
            return self.faces, np.arange(len(self.faces))
        a, b, c = self.faces.T
        with np.errstate(invalid="ignore", over="ignore"):
            turned = (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])
        numbers = np.flatnonzero(~(self.culled & (turned >= 0)))  # front faces are clockwise, because y points down
        return self.faces[numbers], numbers

    def _shade(
        self, seen: _Sums, points: np.ndarray, face: np.ndarray, x: np.ndarray, y: np.ndarray, nearness: np.ndarray,
        camera: Camera, lit: bool,
    ) -> None:  # fmt: skip
        """Shade the samples `points`, flat indices in the image of all samples, and add their colours to `seen`."""
        corners = self.faces[face]
        row, column = np.divmod(points, seen.width * seen.samples)
        dx, dy = x[corners] - (column + 0.5)[:, None], y[corners] - (row + 0.5)[:, None]
        flat = np.roll(dx, -1, 1) * np.roll(dy, 1, 1) - np.roll(dx, 1, 1) * np.roll(dy, -1, 1)
        weight = flat * nearness[corners]
        total = weight.sum(1, keepdims=True)
        weight = np.divide(weight, total, out=np.full_like(weight, 1 / 3), where=np.abs(total) > 0)
        distance = (weight / nearness[corners]).sum(1)
        normal = _unit((weight[..., None] * self.normals[corners]).sum(1))
        position = (weight[..., None] * self.vertices[corners]).sum(1)
        eye = camera.position[0].double().numpy()
        normal = np.where(((eye - position) * normal).sum(1, keepdims=True) < 0, -normal, normal)
        colour = np.ones((len(points), 4), np.float32)
        part_of_point = self.part_of_face[face]
        for number in np.unique(part_of_point).tolist():
            own = np.flatnonzero(part_of_point == number)
            colour[own] = self._albedo(number, corners[own], weight[own], x, y)
        if lit:
            colour[:, :3] *= (AMBIENT + (1 - AMBIENT) * (normal @ LIGHT).clip(0))[:, None]
        seen.add(points, colour, distance, normal)

    def _albedo(self, number: int, corners: np.ndarray, weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the linear RGBA [N, 4] of samples of one part; alpha is 1 if the part is opaque."""
        part, local = self.parts[number], corners - self.starts[number]
        colour = np.broadcast_to(np.array(part.factor, np.float32), (len(corners), 4)).copy()
        if part.colours is not None:
            colour *= (weight[..., None] * part.colours[local]).sum(1)
        if part.texture is not None:
            assert part.uv is not None  # the reader checks it
            uv = part.uv[local]
            size = np.array(part.texture.shape[1::-1])
            texels, pixels = _doubled_area(uv * size), _doubled_area(np.stack([x[corners], y[corners]], -1))
            level = 0.5 * np.log2((texels / np.maximum(pixels, 1e-12)).clip(1, 2**40))
            colour *= _filtered(self.pyramids[number], (weight[..., None] * uv).sum(1), level, part)
        if part.transparency == "opaque":
            colour[:, 3] = 1
        elif part.transparency == "mask":
            colour[:, 3] = colour[:, 3] >= part.cutoff
        return colour.clip(0, 1)


class _Sums:
    """Sums over the samples of every pixel, and the transmittance of each sample so far."""

    def __init__(self, height: int, width: int, samples: int):
        self.height, self.width, self.samples = height, width, samples
        self.transmittance = np.ones(height * width * samples**2, np.float32)
        # premultiplied red, green and blue, alpha, distance times alpha, normal times alpha
        self.sums = np.zeros((8, height * width))

    def add(self, points: np.ndarray, colour: np.ndarray, distance: np.ndarray, normal: np.ndarray) -> None:
        row, column = np.divmod(points, self.width * self.samples)
        pixel = (row // self.samples) * self.width + column // self.samples
        weight = colour[:, 3] * self.transmittance[points]
        self.transmittance[points] -= weight
        for total, values in zip(self.sums, (*colour[:, :3].T, None, distance, *normal.T), strict=True):
            weights = weight if values is None else weight * values
            total += np.bincount(pixel, weights, minlength=len(total))

    def picture(self) -> MeshPicture:
        shape, count = (self.height, self.width), self.samples**2
        alpha = self.sums[3]
        mean = np.divide(self.sums, alpha, out=np.zeros_like(self.sums), where=alpha > 1e-6)
        rgba = np.concatenate([encoded(mean[:3].clip(0, 1)), (alpha / count).clip(0, 1)[None]])
        return MeshPicture(
            rgba.T.reshape(*shape, 4).astype(np.float32),
            mean[4].reshape(shape).astype(np.float32),
            (self.sums[5:] / count).T.reshape(*shape, 3).astype(np.float32),
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def _doubled_area(corners: np.ndarray) -> np.ndarray:
    """Return twice the area of triangles [N, 3, 2]."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])


def _normals(part: Part) -> np.ndarray:
    """Return the unit normals [V, 3] of a part: those of the file, or the area-weighted mean of the faces' normals.

    In the mean, vertices at the same position have the same normal.
    """
    if part.normals is not None:
        return _unit(part.normals)
    a, b, c = part.vertices[part.faces].swapaxes(0, 1)
    of_face = np.cross(b - a, c - a)
    _, place = np.unique(part.vertices, axis=0, return_inverse=True)
    place = place.reshape(-1)
    total = np.zeros((place.max() + 1, 3))
    for k in range(3):
        np.add.at(total, place[part.faces[:, k]], of_face)
    return _unit(total)[place]


# ---------------------------------------------------------------------------------------------------------------- textures
def _pyramid(texture: UInt8[np.ndarray, "H W 4"], with_alpha: bool) -> list[np.ndarray]:
    """Return the mipmaps of a texture: itself, then linear premultiplied floats, each of half the size, down to one texel."""
    levels: list[np.ndarray] = [texture]
    while max(levels[-1].shape[:2]) > 1:
        finer = levels[-1]
        height, width = finer.shape[0] + finer.shape[0] % 2, finer.shape[1] + finer.shape[1] % 2
        coarser = np.empty((height // 2, width // 2, 4), np.float32)
        for top in range(0, height, 1024):  # in strips, to limit the memory for floats
            strip = _linear(finer[top : top + 1024], with_alpha)
            strip = np.pad(strip, ((0, strip.shape[0] % 2), (0, strip.shape[1] % 2), (0, 0)), mode="edge")
            coarser[top // 2 : (top + len(strip)) // 2] = (
                strip[::2, ::2] + strip[1::2, ::2] + strip[::2, 1::2] + strip[1::2, 1::2]
            ) / 4
        levels.append(coarser)
    return levels


def _linear(texels: np.ndarray, with_alpha: bool) -> np.ndarray:
    """Convert texels that are stored as bytes to linear premultiplied floats; floats are returned unchanged."""
    if texels.dtype != np.uint8:
        return texels
    alpha = texels[..., 3:] / np.float32(255) if with_alpha else np.ones_like(texels[..., 3:], np.float32)
    return np.concatenate([STORED[texels[..., :3]] * alpha, alpha], -1)


def _filtered(levels: list[np.ndarray], uv: np.ndarray, level: np.ndarray, part: Part) -> np.ndarray:
    """Return linear RGBA [N, 4] of a texture, interpolated between texels and between the two nearest mipmap levels."""
    lower = np.minimum(np.floor(level).astype(int), len(levels) - 1)
    share = np.where(lower < len(levels) - 1, level - lower, 0.0).astype(np.float32)[:, None]
    result = np.zeros((len(uv), 4), np.float32)
    for number in np.unique(lower).tolist():
        own = np.flatnonzero(lower == number)
        result[own] = (1 - share[own]) * _bilinear(levels, number, uv[own], part)
        upper = own[share[own, 0] > 0]
        if len(upper):
            result[upper] += share[upper] * _bilinear(levels, number + 1, uv[upper], part)
    alpha = result[:, 3:]
    result[:, :3] = np.divide(result[:, :3], alpha, out=result[:, :3].copy(), where=alpha > 1e-6)
    return result


def _bilinear(levels: list[np.ndarray], number: int, uv: np.ndarray, part: Part) -> np.ndarray:
    texels = levels[number]
    height, width = (side / 2**number for side in levels[0].shape[:2])
    column, row = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(column), np.floor(row)
    across, down = (column - left).astype(np.float32)[:, None], (row - top).astype(np.float32)[:, None]
    columns = [_wrapped(left + step, texels.shape[1], part.wrap[0]) for step in (0, 1)]
    rows = [_wrapped(top + step, texels.shape[0], part.wrap[1]) for step in (0, 1)]
    clear = part.transparency != "opaque"

    def at(i: int, j: int) -> np.ndarray:
        return _linear(texels[rows[i], columns[j]], clear)

    upper = (1 - across) * at(0, 0) + across * at(0, 1)
    lower = (1 - across) * at(1, 0) + across * at(1, 1)
    return (1 - down) * upper + down * lower


def _wrapped(places: Float[np.ndarray, " N"], size: int, how: str) -> Int[np.ndarray, " N"]:
    """Return texel indices along a side of a texture; those beyond its ends are mapped by the wrap mode `how`."""
    if how == "clamp":
        return places.clip(0, size - 1).astype(np.int64)
    if how == "mirror":
        folded = np.mod(places, 2 * size)
        return np.minimum(folded, 2 * size - 1 - folded).astype(np.int64)
    return np.mod(places, size).astype(np.int64)


def covered(picture: MeshPicture) -> Bool[np.ndarray, "H W"]:
    """Return where a picture shows the object: where alpha is at least one half."""
    return picture.rgba[..., 3] >= 0.5
