"""Choose the media to embed in a page of limited size: everything at the best level that fits, else the most useful ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval.page.media import LEVELS, Medium

KINDS = ("input", "truth", "colour", "own", "film", "normal", "depth", "progress", "mesh")  # most important first
ENVELOPE = 120  # bytes of markup around a medium


@dataclass(frozen=True)
class Packed:
    """The chosen media.

    Attributes:
        level: Level of compression, an index of eval.page.media.LEVELS.
        data: The bytes of each embedded medium, by its key.
        left_out: The media that did not fit.
    """

    level: int
    data: dict[str, bytes] = field(default_factory=dict)
    left_out: list[Medium] = field(default_factory=list)


def embedded_size(content: bytes) -> int:
    """Return the bytes that a medium takes in the page: base64 and the markup around it."""
    return 4 * (-(-len(content) // 3)) + ENVELOPE


def pack(media: list[Medium], limit: int) -> Packed:
    """Encode all media at the first level whose total stays within the limit, or else at the last level as many as fit.

    In the latter case media are added by kind, and within a kind in the given order, so that all methods get their pictures
    before any gets a video.

    Args:
        media: The media, in the order of the page.
        limit: Largest total size in the page, bytes.
    """
    for level in range(len(LEVELS) - 1):
        data = _all_within(media, level, limit)
        if data is not None:
            return Packed(level, data)
    level, data, left_out, room = len(LEVELS) - 1, {}, [], limit
    for medium in sorted(media, key=lambda medium: KINDS.index(medium.kind)):
        content = medium.encode(level)
        if (size := embedded_size(content)) <= room:
            data[medium.key] = content
            room -= size
        else:
            left_out.append(medium)
    return Packed(level, data, left_out)


def _all_within(media: list[Medium], level: int, limit: int) -> dict[str, bytes] | None:
    data, room = {}, limit
    # the largest kinds first, so that a level that does not fit is abandoned early
    for medium in sorted(media, key=lambda medium: KINDS.index(medium.kind), reverse=True):
        data[medium.key] = medium.encode(level)
        room -= embedded_size(data[medium.key])
        if room < 0:
            return None
    return data
