"""Mesh files of all formats: polygons are triangulated correctly or refused, and textures of all pixel formats are decoded."""

import numpy as np
import pytest
from PIL import Image
from textured_objects import pattern, write_obj

from magic123.geometry.mesh_reader import read_parts
from magic123.records.errors import InputError

CORNERS = [(-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (0, -0.2), (-0.4, 0.4)]  # an M, whose fan from its first corner leaves it


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("kind", ["obj", "obj, counted backwards", "ply"])
def test_polygons_are_filled_or_refused(tmp_path, kind, first):
    """The picture has the polygon's area, whichever corner comes first, or there is one sentence."""
    order = [*range(first, 5), *range(first)]
    corners = [CORNERS[number] for number in order]
    file = tmp_path / f"a.{kind[:3]}"
    if kind == "ply":
        properties = "".join(f"property float {axis}\n" for axis in "xyz")
        lines = [f"ply\nformat ascii 1.0\nelement vertex 5\n{properties}element face 1"]
        lines += ["property list uchar int vertex_indices\nend_header", *(f"{x} {y} 0" for x, y in corners), "5 0 1 2 3 4"]
    else:
        lines = [f"v {x} {y} 0" for x, y in corners]
        lines.append("f -5 -4 \\\n -3 -2 -1" if "," in kind else "f 1 2 3 4 5")
    file.write_text("\n".join(lines) + "\n")
    if order[0] == 3:  # from the corner that points inwards, the fan fills it
        (part,) = read_parts(file)
        across = np.cross(*(part.vertices[part.faces[:, k]] - part.vertices[part.faces[:, 0]] for k in (1, 2)))
        assert (across[:, 2] > 0).all() and across[:, 2].sum() / 2 == pytest.approx(0.64 - 0.24)
    else:
        with pytest.raises(InputError, match="has faces of 5 corners that are not convex"):
            read_parts(file)


@pytest.mark.parametrize("mode", ["I;16", "L", "LA", "P", "CMYK", "1"])
def test_textures_of_every_kind_of_pixel(tmp_path, mode):
    """16-bit grey is not clipped at 255; other formats are as Pillow decodes them."""
    grey = np.asarray(pattern().convert("L"))
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else pattern().convert(mode)
    file = write_obj(tmp_path / "a.obj")
    picture.save(tmp_path / "pattern.png", "TIFF" if mode == "CMYK" else "PNG")
    texture = next(part.texture for part in read_parts(file) if part.texture is not None)
    expected = np.repeat(grey[..., None], 3, 2) if mode in ("I;16", "L", "LA") else np.asarray(picture.convert("RGB"))
    assert np.array_equal(texture[..., :3], expected) and (texture[..., 3] == 255).all()
