"""Colour spaces of picture files, against Little CMS and in closed form."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from picture_files import (
    SRGB_CURVE,
    coded_tag,
    gamma_curve,
    lightness_table,
    parametric_curve,
    png,
    profile,
    table_curve,
)
from PIL import Image, ImageCms

from magic123.example.picture_file import read_picture
from magic123.records import colour
from magic123.records.errors import InputError

LINEAR = gamma_curve(1.0)
PROFILES = {
    "Display P3": (SRGB_CURVE, colour.P3_PRIMARIES),
    "Adobe RGB": (gamma_curve(563 / 256), colour.ADOBE_PRIMARIES),
    "linear sRGB": (LINEAR, colour.SRGB_PRIMARIES),
    "sRGB": (SRGB_CURVE, colour.SRGB_PRIMARIES),
    "wide, by a table": (table_curve(np.linspace(0, 1, 1024) ** 1.8), colour.BT2020_PRIMARIES),
    "para 1": (parametric_curve(1, 2.2, 1.1, -0.1), colour.P3_PRIMARIES),
    "para 4": (parametric_curve(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0, 0), colour.P3_PRIMARIES),
}
LEVELS = np.arange(0, 256, 15, dtype=np.uint8)
COLOURS = np.stack(np.meshgrid(LEVELS, LEVELS, LEVELS), -1).reshape(18, -1, 3)


def read(data: bytes, folder, suffix: str = "png"):
    file = folder / f"picture.{suffix}"
    file.write_bytes(data)
    return read_picture(file, 10**7)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_applied_as_little_cms_applies_it(name, tmp_path):
    icc = profile(name, *PROFILES[name])
    picture = read(png(COLOURS, 2, {b"iCCP": b"p\0\0" + zlib.compress(icc)}), tmp_path)
    assert name in picture.stored and not picture.warnings
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    theirs = ImageCms.profileToProfile(Image.fromarray(COLOURS), source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    ours = picture.in_srgb("none").rgb * 255
    assert np.abs(ours - np.asarray(theirs)).max() < 1.01
    assert (picture.in_srgb("none") is picture) == (name == "sRGB")


def test_in_gamut_colours_survive_the_way_through_display_p3(tmp_path):
    """sRGB -> P3 by the inverse matrix -> file -> sRGB, in 16 bit and linear light as well."""
    wanted = 30 + 180 * COLOURS.astype(np.float64) / 255
    linear = colour.decoded(wanted / 255)
    to_p3 = np.linalg.solve(colour.xyz_of(colour.P3_PRIMARIES), colour.xyz_of(colour.SRGB_PRIMARIES))
    for curve, values in ((SRGB_CURVE, colour.encoded((linear @ to_p3.T).clip(0, 1))), (LINEAR, (linear @ to_p3.T).clip(0, 1))):
        deep = np.rint(values * 65535).astype(np.uint16)
        icc = zlib.compress(profile("a P3", curve, colour.P3_PRIMARIES))
        picture = read(png(deep, 2, {b"iCCP": b"p\0\0" + icc}), tmp_path).in_srgb("none")
        assert np.abs(picture.rgb * 255 - wanted).max() < 0.6


def test_gamma_and_primaries_of_a_png(tmp_path):
    """Closed forms: gAMA 1 is linear light, the primaries of P3 are its profile's, and the usual chunks of sRGB give sRGB."""
    chromaticities = struct.pack(">8I", *(round(number * 100000) for number in colour.P3_PRIMARIES))
    gamma = {
        name: struct.pack(">I", round(value * 100000)) for name, value in (("linear", 1), ("srgb", 0.45455), ("mac", 1 / 1.8))
    }
    linear = read(png(COLOURS, 2, {b"gAMA": gamma["linear"]}), tmp_path).in_srgb("none")
    assert np.abs(linear.rgb - colour.encoded(COLOURS / 255)).max() < 1e-4
    mac = read(png(COLOURS, 2, {b"gAMA": gamma["mac"]}), tmp_path).in_srgb("none")
    assert np.abs(mac.rgb - colour.encoded((COLOURS / 255) ** 1.8)).max() < 1e-4
    usual = read(png(COLOURS, 2, {b"gAMA": gamma["srgb"]}), tmp_path).in_srgb("none")
    assert (usual.rgb == COLOURS.astype(np.float32) / np.float32(255)).all()
    p3 = read(png(COLOURS, 2, {b"gAMA": gamma["srgb"], b"cHRM": chromaticities}), tmp_path).in_srgb("none")
    icc = zlib.compress(profile("a P3", SRGB_CURVE, colour.P3_PRIMARIES))
    by_profile = read(png(COLOURS, 2, {b"iCCP": b"p\0\0" + icc}), tmp_path).in_srgb("none")
    assert np.abs(p3.rgb - by_profile.rgb).max() * 255 < 0.3
    coded = read(png(COLOURS, 2, {b"cICP": bytes([12, 13, 0, 1]), b"gAMA": gamma["linear"]}), tmp_path).in_srgb("none")
    assert np.abs(coded.rgb - p3.rgb).max() < 1e-6
    marked = read(png(COLOURS, 2, {b"sRGB": b"\0", b"gAMA": gamma["linear"]}), tmp_path).in_srgb("none")  # sRGB goes first
    assert (marked.rgb == usual.rgb).all()


def test_grey_and_16_bit_grey_follow_their_curve(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    icc = zlib.compress(profile("linear grey", LINEAR, None))
    deep = read(png(ramp, 0, {b"iCCP": b"p\0\0" + icc}), tmp_path).in_srgb("none")
    assert np.abs(deep.rgb[..., 0] - colour.encoded(ramp / 65535)).max() < 1e-4
    assert (deep.rgb[..., 0] == deep.rgb[..., 2]).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_profiles_of_jpeg_and_webp_are_read(suffix, tmp_path):
    icc, stream = profile("Display P3", *PROFILES["Display P3"]), io.BytesIO()
    Image.new("RGB", (32, 32), (120, 160, 90)).save(stream, {"jpg": "JPEG", "webp": "WEBP"}[suffix], icc_profile=icc)
    picture = read(stream.getvalue(), tmp_path, suffix)
    wanted, _ = colour.to_srgb(picture.rgb, picture.space)
    assert picture.space.curves is not None
    assert np.abs(wanted[16, 16] * 255 - [108.6, 161.5, 80.4]).max() < 3
    assert np.abs(picture.in_srgb("none").rgb - wanted).max() == 0


def test_adobe_rgb_by_a_cameras_tags_alone(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (120, 160, 90)).save(stream, "JPEG", quality=100, exif=exif)
    picture = read(stream.getvalue(), tmp_path, "jpg")
    assert "Adobe RGB" in picture.stored
    icc = zlib.compress(profile("Adobe RGB", *PROFILES["Adobe RGB"]))
    same = read(png(np.rint(picture.rgb * 255).astype(np.uint8), 2, {b"iCCP": b"p\0\0" + icc}), tmp_path)
    assert np.abs(same.in_srgb("none").rgb - picture.in_srgb("none").rgb).max() < 1e-3


def test_premultiplied_colours_are_converted_as_straight_ones(tmp_path):
    alpha = np.full((18, 324, 1), 128, np.uint8)
    icc = zlib.compress(profile("a P3", SRGB_CURVE, colour.P3_PRIMARIES))
    straight = read(png(np.dstack([COLOURS, alpha]), 6, {b"iCCP": b"p\0\0" + icc}), tmp_path).in_srgb("straight")
    deep = (np.dstack([COLOURS * (alpha / 255), alpha]) * 257).round().astype(np.uint16)
    premultiplied = read(png(deep, 6, {b"iCCP": b"p\0\0" + icc}), tmp_path).in_srgb("premultiplied")
    assert np.abs(premultiplied.rgb - straight.rgb * premultiplied.alpha[..., None]).max() < 1e-3


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ({b"iCCP": b"p\0\0" + zlib.compress(b"no profile at all")}, "cannot be read"),
        ({b"iCCP": b"p\0\0" + zlib.compress(profile("grey in colour", SRGB_CURVE, None)[:160])}, "cannot be read"),
        ({b"cHRM": bytes(32)}, "damaged"),
        ({b"cICP": bytes([5, 13, 0, 1])}, "not supported"),
        ({b"cICP": bytes([1, 1, 0, 1])}, "not supported"),
    ],
)
def test_what_cannot_be_converted_is_remarked_upon(chunks, words, tmp_path):
    picture = read(png(COLOURS, 2, chunks), tmp_path)
    assert words in picture.warnings[0] and "sRGB" in picture.warnings[0]
    assert (picture.in_srgb("none").rgb == picture.rgb).all()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_a_profile_with_a_table_is_applied_in_8_bits_which_16_are_told(bits, colour_type, tmp_path):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    values = np.full((4, 4, channels), 204, np.uint8) if bits == 8 else np.full((4, 4, channels), 204 * 257, np.uint16)
    grey = colour_type in (0, 4)
    icc = profile("a table", SRGB_CURVE, None if grey else colour.P3_PRIMARIES, A2B0=lightness_table(1 if grey else 3))
    picture = read(png(values, colour_type, {b"iCCP": b"p\0\0" + zlib.compress(icc)}), tmp_path)
    # four fifths of the lightness: Y = ((80 + 16) / 116)^3
    assert np.abs(picture.rgb - colour.encoded(np.array((96 / 116) ** 3))).max() < 1 / 255
    assert (picture.alpha is None) == (colour_type < 4) and (picture.alpha is None or np.allclose(picture.alpha, 0.8))
    assert picture.warnings == (
        ()
        if bits == 8
        else ("the colour profile 'a table' is a table, which is applied in 8 bits: the picture's 16 were reduced",)
    )


@pytest.mark.parametrize(
    "chunks",
    [
        {b"cICP": bytes([9, 16, 0, 1])},
        {b"cICP": bytes([1, 18, 0, 1])},
        {b"iCCP": b"p\0\0" + zlib.compress(profile("BT.2100 PQ", SRGB_CURVE, colour.BT2020_PRIMARIES, cicp=coded_tag(9, 16)))},
    ],
)
def test_a_high_dynamic_range_is_refused(chunks, tmp_path):
    with pytest.raises(InputError, match=r"picture .*picture.png has a high dynamic range .*(PQ|HLG)\); export it"):
        read(png(COLOURS, 2, chunks), tmp_path)


def test_cmyk_without_a_profile_is_remarked_upon(tmp_path):
    stream = io.BytesIO()
    Image.new("CMYK", (16, 16), (30, 60, 90, 0)).save(stream, "JPEG")
    assert "approximate" in read(stream.getvalue(), tmp_path, "jpg").warnings[0]


def test_clipped_colours_are_counted(tmp_path):
    vivid = np.zeros((10, 10, 3), np.uint8)
    vivid[:5, :, 0] = 255
    icc = zlib.compress(profile("a P3", SRGB_CURVE, colour.P3_PRIMARIES))
    picture = read(png(vivid, 2, {b"iCCP": b"p\0\0" + icc}), tmp_path).in_srgb("none")
    assert picture.warnings[0].startswith("50.0% of the pixels")
