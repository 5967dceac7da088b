"""Colour spaces of picture files: find the one that a file declares, and convert its colours to sRGB.

A file may declare its colours by an embedded ICC profile (PNG, JPEG, WebP), by PNG's cICP, sRGB, gAMA and cHRM chunks (in the
order of precedence of the PNG specification, third edition, section 4.3) or by the EXIF tags of cameras. Spaces of three curves
and a matrix are converted here, in floating point, because Pillow's binding of Little CMS is limited to 8 bits; everything
else (tables, CMYK) goes through Little CMS.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

STEPS = 65536  # entries of a curve, one for each value of 16 bits
D50 = (0.96422, 1.0, 0.82521)  # white of the ICC profile connection space, XYZ
# white, red, green and blue as xy chromaticities
SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_PRIMARIES = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
BT2020_PRIMARIES = (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046)
ADOBE_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
CODED_PRIMARIES = {1: SRGB_PRIMARIES, 9: BT2020_PRIMARIES, 12: P3_PRIMARIES}  # code points of a cICP chunk (ITU-T H.273)
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # likewise, for light brighter than a screen's white
CLIPPED = 2e-3  # linear light beyond [0, 1] that is not a rounding error
ROWS = 256  # converted at once, to bound the memory


@dataclass(frozen=True)
class ColourSpace:
    """The colour space of a file.

    Attributes:
        name: e.g. "Display P3".
        curves: [3, 65536] float32, linear light of each channel's values; None: the colours are sRGB, or assumed to be.
        matrix: [3, 3], linear light of this space to that of sRGB.
        profile: an ICC profile that only Little CMS can apply (`applied`); empty otherwise.
        remark: why sRGB is only assumed; empty if it is known.
        refusal: why the picture is refused, since any conversion to sRGB is a matter of taste; empty if it is accepted.
    """

    name: str
    curves: np.ndarray | None = None
    matrix: np.ndarray | None = None
    profile: bytes = b""
    remark: str = ""
    refusal: str = ""


SRGB = ColourSpace("sRGB")


def encoded(linear: np.ndarray) -> np.ndarray:
    """Return sRGB values of linear light in [0, 1] (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)


def decoded(values: np.ndarray) -> np.ndarray:
    """Return linear light of sRGB values in [0, 1], the inverse of `encoded`."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def xyz_of(chromaticities: tuple[float, ...]) -> np.ndarray:
    """Return the matrix [3, 3] from linear RGB to XYZ under D50, adapted by the Bradford transform.

    Args:
        chromaticities: x and y of white, red, green and blue.
    """
    xy = np.asarray(chromaticities, np.float64).reshape(4, 2)
    xyz = np.column_stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]])
    white, primaries = xyz[0], xyz[1:].T
    matrix = primaries * np.linalg.solve(primaries, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = np.diag((bradford @ D50) / (bradford @ white))
    return np.linalg.solve(bradford, scale @ bradford @ matrix)


def to_srgb(rgb: np.ndarray, space: ColourSpace) -> tuple[np.ndarray, float]:
    """Convert colours to sRGB; colours outside it are clipped channel by channel.

    Args:
        rgb: [H, W, 3] float32 in [0, 1], straight.
        space: their colour space.

    Returns:
        The colours [H, W, 3] float32, and the fraction of pixels that were clipped.
    """
    if space.curves is None or space.matrix is None:
        return rgb, 0.0
    converted, clipped = np.empty_like(rgb), 0
    for top in range(0, len(rgb), ROWS):
        index = np.rint(rgb[top : top + ROWS] * (STEPS - 1)).astype(np.uint16)
        linear = np.stack([curve[index[..., channel]] for channel, curve in enumerate(space.curves)], -1)
        linear = linear @ space.matrix.T.astype(np.float32)
        clipped += int(((linear < -CLIPPED) | (linear > 1 + CLIPPED)).any(-1).sum())
        converted[top : top + ROWS] = encoded(linear.clip(0, 1))
    return converted, clipped / max(1, rgb.shape[0] * rgb.shape[1])


def space_of(image: Image.Image, data: bytes) -> ColourSpace:
    """Return the colour space that a file declares; sRGB where it declares none.

    Args:
        image: the loaded picture.
        data: the file's bytes.
    """
    info = image.info
    if image.format == "PNG" and (code := _png_chunk(data, b"cICP")):
        return _coded(code)
    if profile := info.get("icc_profile"):
        wide = image.format == "PNG" and data[25] == 4  # grey with alpha, which Pillow opens as RGBA if it has 16 bits
        return _of_profile(profile, "LA" if wide else image.mode)
    if image.mode == "CMYK":
        return ColourSpace("CMYK", remark="the picture is CMYK without a colour profile: its colours are approximate")
    if image.format == "PNG" and "srgb" not in info and ("gamma" in info or "chromaticity" in info):
        chromaticities = tuple(info.get("chromaticity", SRGB_PRIMARIES))
        gamma = float(info.get("gamma", 1 / 2.2))
        if not 0.05 < gamma < 5 or min(chromaticities) < 0 or chromaticities[1] <= 0:
            return ColourSpace(
                "gAMA and cHRM", remark="the picture's gAMA or cHRM chunk is damaged: its colours are taken as sRGB"
            )
        # all writers declare sRGB's curve as 0.45455, although it is not a power law
        exponent = None if abs(gamma / 0.45455 - 1) < 0.01 else 1 / gamma
        return _of_primaries(f"gAMA {gamma:.5g}", chromaticities, exponent)
    if image.format in ("JPEG", "MPO", "WEBP"):
        return _of_exif(image)
    return SRGB


def applied(image: Image.Image, space: ColourSpace) -> Image.Image:
    """Return a picture with `space.profile` applied by Little CMS, in sRGB and 8 bits, with its alpha if it has one."""
    if image.mode.startswith("I"):  # 16-bit grey
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    alpha = None
    if "transparency" in image.info or image.mode in ("PA", "LA", "La", "RGBA", "RGBa"):
        alpha = image.convert("RGBA").getchannel("A")
    source = ImageCms.ImageCmsProfile(io.BytesIO(space.profile))
    kind = source.profile.xcolor_space.strip()
    image = image.convert({"GRAY": "L"}.get(kind, kind))
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None  # it is None only with inPlace=True
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _of_primaries(name: str, chromaticities: tuple[float, ...], gamma: float | None) -> ColourSpace:
    """Return a space with the given primaries and power law; sRGB's curve if `gamma` is None."""
    values = np.linspace(0, 1, STEPS)
    curve = decoded(values) if gamma is None else values**gamma
    try:
        matrix = np.linalg.solve(xyz_of(SRGB_PRIMARIES), xyz_of(chromaticities))
    except np.linalg.LinAlgError:
        return ColourSpace(name, remark="the picture's cHRM chunk is damaged: its colours are taken as sRGB")
    return _unless_srgb(name, np.stack([curve] * 3), matrix)


def _unless_srgb(name: str, curves: np.ndarray, matrix: np.ndarray) -> ColourSpace:
    """Return the colour space, without a conversion if it would change no colour by an 8-bit step."""
    space = ColourSpace(name, curves.astype(np.float32), matrix)
    levels = np.linspace(0, 1, 18, dtype=np.float32)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(18, -1, 3)
    return ColourSpace(name) if np.abs(to_srgb(grid, space)[0] - grid).max() < 1 / 255 else space


def _coded(code: bytes) -> ColourSpace:
    """Return the space of a cICP chunk: code points of primaries, transfer, matrix and range (ITU-T H.273)."""
    primaries, transfer = CODED_PRIMARIES.get(code[0]), {8: 1.0, 13: None}
    name = "cICP " + "/".join(str(number) for number in code[:4])
    if code[1] in HDR_TRANSFERS:
        return _hdr(name, code[1])
    if primaries is None or code[1] not in transfer or len(code) != 4 or code[2:] != b"\0\1":
        return ColourSpace(name, remark=f"the picture's colours are coded as {name}, which is not supported: taken as sRGB")
    return _of_primaries(name, primaries, transfer[code[1]])


def _hdr(name: str, transfer: int) -> ColourSpace:
    """Return a space of high dynamic range, with a refusal: there is no standard tone mapping to sRGB."""
    refusal = f"has a high dynamic range ({name}: {HDR_TRANSFERS[transfer]}); export it as an ordinary (SDR) picture"
    return ColourSpace(name, refusal=refusal)


def _of_exif(image: Image.Image) -> ColourSpace:
    """Return the space that a camera's tags declare: Adobe RGB is "uncalibrated" with the interoperability index R03."""
    exif = image.getexif()
    if exif.get_ifd(0xA005).get(1) == "R03" or exif.get_ifd(0x8769).get(0xA001) == 2:
        return _of_primaries("Adobe RGB by its EXIF tags", ADOBE_PRIMARIES, ADOBE_GAMMA)
    return SRGB


def _of_profile(profile: bytes, mode: str) -> ColourSpace:
    """Return the space of an embedded ICC profile (ICC.1:2022)."""
    taken = "its colours are taken as sRGB"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = " ".join((opened.profile.profile_description or "unnamed profile").split())
        kind = opened.profile.xcolor_space.strip()
        tags = _tags(profile)
        fits = {"CMYK": mode == "CMYK", "RGB": mode != "CMYK", "GRAY": mode != "CMYK"}.get(kind, False)
        if not fits:
            remark = f"the embedded colour profile {name!r} ({kind}) does not fit a picture of mode {mode}: {taken}"
            return ColourSpace(name, remark=remark)
        if "cicp" in tags and tags["cicp"][9] in HDR_TRANSFERS:  # ICC.1:2022, 9.2.17
            return _hdr(name, tags["cicp"][9])
        if kind == "GRAY" and "kTRC" in tags:
            return _unless_srgb(name, np.stack([_curve(tags["kTRC"])] * 3), np.eye(3))
        if kind == "RGB" and {"rXYZ", "gXYZ", "bXYZ", "rTRC", "gTRC", "bTRC"} <= tags.keys() and "A2B0" not in tags:
            colorants = np.column_stack([np.array(struct.unpack(">3i", tags[f"{c}XYZ"][8:20])) / 65536 for c in "rgb"])
            matrix = np.linalg.solve(xyz_of(SRGB_PRIMARIES), colorants)
            return _unless_srgb(name, np.stack([_curve(tags[f"{c}TRC"]) for c in "rgb"]), matrix)
        grey = mode in ("1", "L", "LA", "La") or mode.startswith("I")
        if (kind == "GRAY") != grey and kind != "CMYK":
            remark = f"the embedded colour profile {name!r} ({kind}) does not fit a picture of mode {mode}: {taken}"
            return ColourSpace(name, remark=remark)
        # raises PyCMSError if the profile cannot be applied
        ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), {"GRAY": "L"}.get(kind, kind), "RGB")
    except (
        ImageCms.PyCMSError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        struct.error,
        np.linalg.LinAlgError,
        ZeroDivisionError,
    ) as error:
        reason = str(error) or type(error).__name__
        return ColourSpace("unreadable profile", remark=f"the embedded colour profile cannot be read ({reason}): {taken}")
    return ColourSpace(name, profile=profile)


def _tags(profile: bytes) -> dict[str, bytes]:
    """Return the tagged elements of an ICC profile: a table of signature, offset and size follows the header of 128 bytes."""
    (count,) = struct.unpack(">I", profile[128:132])
    if count > 200:
        raise ValueError(f"its table has {count} tags, more than any profile needs")
    entries = [struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i]) for i in range(count)]
    return {signature.decode("latin-1"): profile[offset : offset + size] for signature, offset, size in entries}


def _curve(tag: bytes) -> np.ndarray:
    """Return linear light [65536] of an ICC curve: a table or exponent (`curv`), or one of five functions (`para`)."""
    values = np.linspace(0, 1, STEPS)
    if tag[:4] == b"curv":
        (count,) = struct.unpack(">I", tag[8:12])
        if count == 0:
            return values
        table = np.frombuffer(tag[12 : 12 + 2 * count], ">u2").astype(np.float64)
        if len(table) != count:
            raise ValueError("a curve is cut off")
        return values ** (table[0] / 256) if count == 1 else np.interp(values, np.linspace(0, 1, count), table / 65535)
    if tag[:4] != b"para":
        raise ValueError(f"a curve of type {tag[:4]!r}")
    (kind,) = struct.unpack(">H", tag[8:10])
    length = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}[kind]
    g, *rest = (number / 65536 for number in struct.unpack(f">{length}i", tag[12 : 12 + 4 * length]))
    if kind == 0:
        return values**g
    a, b, *rest = rest
    power = np.maximum(a * values + b, 0) ** g
    if kind == 1:  # (a x + b)^g from x = -b/a on, else 0
        return np.where(values >= -b / a, power, 0)
    c, *rest = rest
    if kind == 2:  # (a x + b)^g + c from x = -b/a on, else c
        return (np.where(values >= -b / a, power, 0) + c).clip(0, 1)
    d, *rest = rest
    e, f = rest or (0.0, 0.0)  # (a x + b)^g + e from x = d on, else c x + f
    return np.where(values >= d, power + e, c * values + f).clip(0, 1)


def _png_chunk(data: bytes, kind: bytes) -> bytes:
    """Return the content of a PNG chunk that precedes the pixels; empty if there is none."""
    at = 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == kind:
            return data[at + 8 : at + 8 + length]
        if data[at + 4 : at + 8] == b"IDAT":
            break
        at += 12 + length
    return b""
