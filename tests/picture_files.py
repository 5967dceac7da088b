"""Picture files that no library writes, byte by byte: ICC profiles with any curves and primaries, PNG chunks."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from magic123.records.colour import xyz_of


def fixed(*numbers: float) -> bytes:
    """Numbers as s15Fixed16."""
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def gamma_curve(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def parametric_curve(kind: int, *numbers: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(*numbers)


def table_curve(values: NDArray[np.float64]) -> bytes:
    table = np.rint(values * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(table)) + table.tobytes()


SRGB_CURVE = parametric_curve(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def lightness_table(channels: int) -> bytes:
    """A table (`mft1`) to Lab: the lightness is the mean of the channels, without chroma."""
    grid = b"".join(bytes([round(255 * index.bit_count() / channels), 128, 128]) for index in range(2**channels))
    ramp, matrix = bytes(range(256)), fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return b"mft1" + bytes(4) + bytes([channels, 3, 2, 0]) + matrix + ramp * channels + grid + ramp * 3


def coded_tag(primaries: int, transfer: int) -> bytes:
    """The tag `cicp`."""
    return b"cicp" + bytes(4) + bytes([primaries, transfer, 0, 1])


def profile(name: str, curve: bytes, chromaticities: tuple[float, ...] | None, **more: bytes) -> bytes:
    """An ICC profile (version 4) of one curve, and of primaries, or grey without them; with `A2B0`, a table to Lab."""

    def text(words: str) -> bytes:
        coded = words.encode("utf-16-be")
        return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(coded), 28) + coded

    tags = {"desc": text(name), "cprt": text("none"), "wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    if chromaticities is None:
        tags["kTRC"] = curve
    else:
        for column, letter in zip(xyz_of(chromaticities).T, "rgb", strict=True):
            tags[f"{letter}XYZ"] = b"XYZ " + bytes(4) + fixed(*column)
            tags[f"{letter}TRC"] = curve
    if "A2B0" in more:
        tags = {tag: content for tag, content in tags.items() if not tag.endswith("TRC")}
    tags |= more
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for signature, content in tags.items():
        table += struct.pack(">4sII", signature.encode(), start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    space = b"GRAY" if chromaticities is None else b"RGB "
    header = struct.pack(
        ">I4sI4s4s4s", start + len(data), bytes(4), 0x04300000, b"mntr", space, b"Lab " if "A2B0" in more else b"XYZ "
    )
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def png(values: NDArray[np.uint8 | np.uint16], colour_type: int, chunks: dict[bytes, bytes] | None = None) -> bytes:
    """A PNG of 8 or 16 bits with these chunks before its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    bits = values.dtype.itemsize * 8
    rows = b"".join(b"\0" + row.astype(f">u{values.dtype.itemsize}").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    before = b"".join(chunk(kind, data) for kind, data in (chunks or {}).items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
