"""Encode pictures, videos and meshes to be embedded in the page, at three levels of compression.

Level 0 keeps the media as the run made them, level 1 compresses them more, and level 2 makes them small: thumbnails, few faces
with a colour for each vertex.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.pictures.meshes import load_mesh
from eval.pictures.pictures import open_picture
from magic123.records.errors import InputError, first_line
from magic123.records.files import scratch_folder

SIDES, QUALITIES = (256, 192, 104), (88, 80, 68)  # side in pixels and WebP quality, by level
SHEET_SIDES = (1280, 960, 520)  # side of contact sheets in pixels, by level
FILM_RATES = (None, 27, 34)  # x264 constant rate factor, by level
FEW_FACES = 1400
MOST_POINTS = (120_000, 40_000, 8_000)  # of a point cloud, by level
LEVELS = (
    "as the run made them",
    "textures as JPEG, videos at a lower rate, at most 40,000 points of a cloud",
    "thumbnails, videos at a low rate, meshes of at most 1,400 faces with a colour for each vertex, at most 8,000 points",
)


@dataclass(frozen=True)
class Medium:
    """One picture, video or mesh to embed.

    Attributes:
        key: Its id in the page.
        kind: One of eval.page.budget.KINDS, whose order decides what is kept if not everything fits.
        about: What it shows.
        mime: Its MIME type.
        encode: Returns its bytes at a level.
    """

    key: str
    kind: str
    about: str
    mime: str
    encode: Callable[[int], bytes]


def _webp(image: Image.Image, level: int, sides: tuple[int, ...] = SIDES) -> bytes:
    image.thumbnail((sides[level], sides[level]), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITIES[level], method=4)
    return stream.getvalue()


def picture(file: Path, level: int) -> bytes:
    """Composite a picture of any mode on white and encode it as WebP."""
    image = open_picture(file).convert("RGBA")
    return _webp(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"), level)


def sheet(file: Path, level: int) -> bytes:
    """Encode a contact sheet without alpha as WebP."""
    return _webp(open_picture(file).convert("RGB"), level, SHEET_SIDES)


def read_depth(file: Path) -> np.ndarray:
    """Read a 16-bit depth map as stored: float64 [H, W], 0 for the background."""
    depth = np.asarray(open_picture(file)).astype(np.float64)
    if depth.ndim != 2:
        raise InputError(f"{file} is not a depth map: it has {depth.ndim} axes instead of 2")
    return depth


def depth_picture(file: Path, level: int, near: float, far: float) -> bytes:
    """Encode a depth map as WebP: yellow at the stored depth `near`, violet at `far`, white for the background."""
    import matplotlib

    depth = read_depth(file)
    colours = matplotlib.colormaps["viridis"](np.clip((far - depth) / (far - near), 0, 1), bytes=True)[..., :3]
    return _webp(Image.fromarray(np.where(depth[..., None] > 0, colours, np.uint8(255))), level)


def video(file: Path, level: int) -> bytes:
    """Return an MP4 unchanged, or re-encoded at a lower rate."""
    if FILM_RATES[level] is None:
        return file.read_bytes()
    from imageio_ffmpeg import get_ffmpeg_exe

    with scratch_folder() as folder:
        out = folder / "film.mp4"
        command = [get_ffmpeg_exe(), "-v", "error", "-i", str(file), "-c:v", "libx264", "-crf", str(FILM_RATES[level])]
        command += ["-preset", "medium", "-pix_fmt", "yuv420p", "-an", "-threads", "1", "-movflags", "+faststart", str(out)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            if os.strerror(errno.ENOSPC) in run.stderr:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise InputError(f"{file} cannot be read as a video ({(run.stderr.splitlines() or ['no reason given'])[-1]})")
        return out.read_bytes()


def mesh(file: Path, level: int) -> bytes:
    """Return a GLB compressed with gzip: as it is, with its texture as JPEG, or with few faces and vertex colours."""
    content = file.read_bytes()
    if level:
        import trimesh

        try:
            surface = trimesh.load_mesh(io.BytesIO(content), file_type="glb")
            content = (_with_jpeg if level == 1 else _with_few_faces)(surface).export(file_type="glb")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError, OSError) as problem:
            raise InputError(f"{file} cannot be read as a mesh ({first_line(problem)}); regenerate it") from problem
    return gzip.compress(content, 9, mtime=0)


def points(file: Path, level: int) -> bytes:
    """Return a PLY point cloud as a gzipped GLB; a large one is reduced to points evenly spaced in the file's order."""
    import trimesh

    try:
        cloud: Any = trimesh.load(file, file_type="ply", process=False)
        positions, colours = np.asarray(cloud.vertices), np.asarray(cloud.colors)
        if not len(positions) or len(colours) != len(positions) or not np.isfinite(positions).all():
            raise ValueError("it has no points, or points without colours")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as problem:
        raise InputError(f"{file} cannot be read as a point cloud ({first_line(problem)}); regenerate it") from problem
    kept = np.unique(np.linspace(0, len(positions) - 1, min(len(positions), MOST_POINTS[level])).astype(int))
    small = trimesh.PointCloud(positions[kept], colors=colours[kept])
    return gzip.compress(trimesh.Scene([small]).export(file_type="glb"), 9, mtime=0)


def surface(file: Path, level: int) -> bytes:
    """Return the surface of an OBJ without colours as a gzipped GLB, with few faces at the last level."""
    import trimesh

    found = load_mesh(file)
    plain = trimesh.Trimesh(found.vertices, found.faces, process=False)
    if level == len(LEVELS) - 1:
        plain = _with_few_faces(plain)
    return gzip.compress(trimesh.Scene([plain]).export(file_type="glb"), 9, mtime=0)


def _with_jpeg(surface):
    material = getattr(surface.visual, "material", None)
    texture = getattr(material, "baseColorTexture", None)
    if texture is not None:
        stream = io.BytesIO()
        texture.convert("RGB").save(stream, "JPEG", quality=82)
        material.baseColorTexture = Image.open(stream)  # keeps the format, which the exporter uses
    return surface


def _with_few_faces(surface):
    """Return the surface with at most FEW_FACES faces; each vertex takes the colour of the nearest old vertex."""
    import fast_simplification
    import trimesh
    from scipy.spatial import cKDTree

    points = np.asarray(surface.vertices)
    # vertices are duplicated along texture seams; merge them, so that the surface does not tear there
    joined = trimesh.Trimesh(points, surface.faces, process=False)
    joined.merge_vertices(merge_tex=True, merge_norm=True)
    if len(joined.faces) > FEW_FACES:
        fewer = fast_simplification.simplify(
            np.asarray(joined.vertices, np.float32), np.asarray(joined.faces, np.int32), target_count=FEW_FACES
        )
        joined = trimesh.Trimesh(*fewer, process=False)
    if surface.visual.kind is None:
        return joined
    colours = surface.visual.to_color().vertex_colors if surface.visual.kind == "texture" else surface.visual.vertex_colors
    nearest = cKDTree(points).query(np.asarray(joined.vertices))[1]
    return trimesh.Trimesh(joined.vertices, joined.faces, vertex_colors=np.asarray(colours)[nearest], process=False)
