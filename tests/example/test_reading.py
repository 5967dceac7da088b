"""Picture files of all formats give the values that they show; alpha is straight or premultiplied."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_files import png
from PIL import Image
from prepared import (
    HARD,
    LIMIT,
    PUBLISHED,
    STRAIGHT,
    bytes_of,
    colour_ramp,
    prepare,
    published_folder,
    published_only,
    soft_disc,
)

from magic123.example.example import load_example
from magic123.example.picture_file import read_picture
from magic123.records import alpha as alpha_convention
from magic123.records.errors import InputError


def write_deep_png(file: Path, values: np.ndarray, colour_type: int) -> None:
    """A 16-bit PNG, byte by byte: the only way to grey with alpha."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "P with transparency", "RGB with transparency"])
def test_8_bit_files_read_as_what_they_show(mode, tmp_path):
    rgb, alpha = bytes_of(colour_ramp(7, 9)), np.full((7, 9), 255, np.uint8)
    alpha[:, :3] = 0
    grey = rgb[..., 0]
    file = tmp_path / "picture.png"
    want_alpha = None
    if mode == "1":
        grey = np.where(grey > 200, 255, 0).astype(np.uint8)
        Image.fromarray(grey).convert("1", dither=Image.Dither.NONE).save(file)
        want = grey[..., None].repeat(3, 2)
    elif mode in ("L", "LA"):
        want = grey[..., None].repeat(3, 2)
        want_alpha = alpha if mode == "LA" else None
        Image.fromarray(grey if mode == "L" else np.dstack([grey, alpha])).save(file)
    elif mode in ("RGB", "RGBA"):
        want = rgb
        want_alpha = alpha if mode == "RGBA" else None
        Image.fromarray(rgb if mode == "RGB" else np.dstack([rgb, alpha])).save(file)
    elif mode.startswith("P"):
        indices = np.arange(63, dtype=np.uint8).reshape(7, 9)
        palette = np.random.default_rng(0).integers(0, 255, (63, 3), dtype=np.uint8)
        image = Image.frombytes("P", (9, 7), indices.tobytes())
        image.putpalette(palette.tobytes())
        want = palette[indices]
        if mode == "P":
            image.save(file)
        else:
            image.save(file, transparency=bytes([0] * 9 + [100] * 9 + [255] * 45))
            want_alpha = np.repeat([[0], [100], *[[255]] * 5], 9, 1).astype(np.uint8)
    else:
        rgb[0] = (1, 2, 3)
        want, want_alpha = rgb, np.full((7, 9), 255, np.uint8)
        want_alpha[0] = 0
        Image.fromarray(rgb).save(file, transparency=(1, 2, 3))
    picture = read_picture(file, LIMIT)
    assert (bytes_of(picture.rgb) == want).all()
    assert (picture.alpha is None) == (want_alpha is None)
    if want_alpha is not None:
        assert (bytes_of(picture.alpha) == want_alpha).all()


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_16_bit_files_keep_16_bits(colour_type, channels, tmp_path):
    values = np.random.default_rng(0).integers(0, 65535, (5, 6, channels), dtype=np.uint16)
    write_deep_png(tmp_path / "deep.png", values, colour_type)
    picture = read_picture(tmp_path / "deep.png", LIMIT)
    want = values[..., :3] if channels >= 3 else values[..., :1].repeat(3, 2)
    assert np.abs(picture.rgb * 65535 - want).max() < 0.5
    if channels in (2, 4):
        assert np.abs(picture.alpha * 65535 - values[..., -1]).max() < 0.5
    assert picture.stored.endswith("16 bit")


def test_files_with_long_texts_are_read(tmp_path):
    """Programs write their whole state into a PNG, compressed."""
    (tmp_path / "a.png").write_bytes(
        png(np.zeros((4, 4, 3), np.uint8), 2, {b"zTXt": b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)})
    )
    assert read_picture(tmp_path / "a.png", LIMIT).size == (4, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    """Against Pillow's own, which does not see our table of turns."""
    from PIL import ImageOps

    image = Image.fromarray(bytes_of(colour_ramp(16, 24)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "photo.jpg") as stored:
        want = np.asarray(ImageOps.exif_transpose(stored))
    picture = read_picture(tmp_path / "photo.jpg", LIMIT)
    assert picture.size == ((24, 16) if orientation < 5 else (16, 24))
    assert (bytes_of(picture.rgb) == want).all()


def test_both_conventions_give_the_same_example(tmp_path):
    rgb, alpha = colour_ramp(), soft_disc()
    stored = {"straight": bytes_of(rgb), "premultiplied": bytes_of(rgb * alpha[..., None])}
    examples = {}
    for name, colours in stored.items():
        Image.fromarray(np.dstack([colours, bytes_of(alpha)])).save(tmp_path / f"{name}.png")
        assert prepare(tmp_path / f"{name}.png", tmp_path / name)["alpha"] == name
        examples[name] = load_example(tmp_path / name)
    on_white = rgb * alpha[..., None] + 1 - alpha[..., None]
    for example in examples.values():
        assert np.abs(example.rgb.numpy() - on_white).max() < 1.6 / 255  # three roundings to 8 bits
    # read the wrong way, the rim would be dark
    wrong = rgb * alpha[..., None] ** 2 + 1 - alpha[..., None]
    assert np.abs(on_white - wrong).max() > 0.2


def test_hard_and_missing_alpha():
    rgb, hard = colour_ramp(), (soft_disc() > 0.5).astype(np.float32)
    assert alpha_convention.detect(rgb, hard, "detect", 0.99).convention == "hard"
    assert alpha_convention.detect(rgb, None, "detect", 0.99).convention == "none"
    assert alpha_convention.detect(rgb, np.ones_like(hard), "detect", 0.99).convention == "none"


@pytest.mark.parametrize("convention", ["straight", "premultiplied"])
def test_objects_darker_than_their_fringe_are_read_by_their_neighbours_and_marked(convention):
    alpha = np.maximum(soft_disc(softness=3), 0)
    alpha[(alpha > 0) & (alpha < 0.25)] = 0
    rgb = colour_ramp() * 0.2
    stored = rgb if convention == "straight" else rgb * alpha[..., None]
    reading = alpha_convention.detect(stored, alpha, "detect", 0.99)
    assert (reading.convention, reading.certain) == (convention, False)
    told = alpha_convention.detect(stored, alpha, "straight", 0.99)
    assert (told.convention, told.decided_by, told.certain) == ("straight", "setting", True)


def test_the_setting_overrides_the_detection_and_a_contradiction_is_reported(tmp_path):
    Image.fromarray(np.dstack([bytes_of(colour_ramp()), bytes_of(soft_disc())])).save(tmp_path / "straight.png")
    record = prepare(tmp_path / "straight.png", tmp_path / "out", alpha="premultiplied")
    assert record["alpha"] == "premultiplied" and record["alpha_evidence"]["decided_by"] == "setting"
    warnings = json.loads((tmp_path / "out" / "qa.json").read_text())["warnings"]
    assert any("brighter than that allows" in warning for warning in warnings)


def test_straight_undoes_premultiplied():
    rgb, alpha = colour_ramp(), soft_disc()
    back = alpha_convention.straight(alpha_convention.premultiplied(rgb, alpha, "straight"), alpha)
    assert np.abs(back - rgb)[alpha > 0].max() < 1e-6
    assert (back[alpha == 0] == 0).all()


@published_only
def test_alpha_of_the_19_published_pictures():
    names = sorted(folder.name for part in ("nerf4", "realfusion15") for folder in (PUBLISHED / part).iterdir())
    assert len(names) == 19
    for name in names:
        picture = read_picture(published_folder(name) / "rgba.png", 64_000_000)
        reading = alpha_convention.detect(picture.rgb, picture.alpha, "detect", 0.99)
        want = "straight" if name in STRAIGHT else "hard" if name in HARD else "premultiplied"
        assert (reading.convention, reading.certain) == (want, True), name


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "loop.png", "/dev/null", "nowhere/picture.png"])
def test_paths_that_are_no_file_are_one_sentence(name, tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match=r"does not exist|is not a regular file"):
        read_picture(tmp_path / name, LIMIT)
