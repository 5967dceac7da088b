"""Overviews of a result: a turntable video, and a contact sheet.

All images are uint8, [H, W, 3].
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from magic123.records.errors import InputError

FRAMES_PER_SECOND = 24
INK, FAINT, PAPER, FRAME = (28, 30, 34), (120, 124, 132), (255, 255, 255), (222, 224, 228)
MARGIN, GAP, CELL = 36, 10, 176  # pixels


@dataclass(frozen=True)
class Frame:
    """One view of the turntable.

    Attributes:
        azimuth: azimuth of the camera in degrees.
        colour: the rendered image.
        normal: the normals as colours.
    """

    azimuth: float
    colour: UInt8[np.ndarray, "H W 3"]
    normal: UInt8[np.ndarray, "H W 3"]


def write_video(file: Path, frames: list[Frame]) -> None:
    """Write the frames as an MP4 video (H.264), colours and normals side by side, 24 per second.

    Raises:
        InputError: the file is incomplete, which the encoder, a separate process, does not report.
    """
    import imageio.v2 as imageio

    # a single thread, because the encoder's output depends on the number of threads
    writer = imageio.get_writer(
        file, fps=FRAMES_PER_SECOND, codec="libx264", quality=8, macro_block_size=2, ffmpeg_params=["-threads", "1"]
    )
    with writer:
        for frame in frames:
            writer.append_data(np.concatenate([frame.colour, frame.normal], 1))
    if not is_complete_video(file):
        raise InputError(f"the video {file} could not be written to its end; make room, and run the command again")


def is_complete_video(file: Path) -> bool:
    """Return whether an MP4 file ends with the end of a box (ISO 14496-12, 4.2), and has the box that lists its frames."""
    data = file.read_bytes() if file.is_file() else b""
    at, kinds = 0, set()
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        kinds.add(kind)
        if size < 8:  # 1: the size follows in 64 bits, in videos above 4 GiB; 0: the box extends to the end of the file
            return size == 1 or b"moov" in kinds
        at += size
    return at == len(data) and b"moov" in kinds


def contact_sheet(
    title: str, subtitle: str, reference: UInt8[np.ndarray, "H W 3"] | None, frames: list[Frame], columns: int = 8
) -> Image.Image:
    """Return an image with the input picture, and beside it evenly spaced frames with their azimuths, colours and normals.

    Args:
        title: first line; truncated if it is too long.
        subtitle: second line; truncated too.
        reference: the input picture; None for an example without one, and a note is shown in its place.
        frames: the frames of the turntable.
        columns: largest number of frames to show.
    """
    columns = min(columns, len(frames))
    chosen = [frames[round(k * len(frames) / columns)] for k in range(columns)]
    heading, label = ImageFont.load_default(30), ImageFont.load_default(17)
    tall = 2 * CELL + GAP
    top, left = MARGIN + 84, MARGIN + tall + 3 * GAP + 28
    size = (left + columns * (CELL + GAP) - GAP + MARGIN, top + 28 + tall + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)

    def place(picture: np.ndarray, x: int, y: int, side: int) -> None:
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x, y))
        draw.rectangle((x - 1, y - 1, x + side, y + side), outline=FRAME)

    def upright(text: str, x: int, y: int) -> None:
        """Draw text that reads upwards, centred at y."""
        width = int(draw.textlength(text, label)) + 4
        strip = Image.new("RGB", (width, 24), PAPER)
        ImageDraw.Draw(strip).text((2, 12), text, FAINT, label, anchor="lm")
        sheet.paste(strip.rotate(90, expand=True), (x, y - width // 2))

    draw.text((MARGIN, MARGIN), _fitting(draw, title, heading, size[0] - 2 * MARGIN), INK, heading)
    draw.text((MARGIN, MARGIN + 42), _fitting(draw, subtitle, label, size[0] - 2 * MARGIN), FAINT, label)
    if reference is None:
        draw.text((MARGIN + tall // 2, top + 28 + tall // 2), "made from text alone", FAINT, label, anchor="mm")
        draw.rectangle((MARGIN - 1, top + 27, MARGIN + tall, top + 28 + tall), outline=FRAME)
    else:
        draw.text((MARGIN + tall // 2, top + 8), "input picture", FAINT, label, anchor="mm")
        place(reference, MARGIN, top + 28, tall)
    rows = (top + 28, top + 28 + CELL + GAP)
    for text, y in zip(("colour", "normals"), rows, strict=True):
        upright(text, left - 32, y + CELL // 2)
    for k, frame in enumerate(chosen):
        x = left + k * (CELL + GAP)
        draw.text((x + CELL // 2, top + 8), f"{frame.azimuth % 360:.0f}°", FAINT, label, anchor="mm")
        place(frame.colour, x, rows[0], CELL)
        place(frame.normal, x, rows[1], CELL)
    return sheet


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return the text, truncated with an ellipsis if it is wider than `width` pixels."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text.rstrip() + "…"
