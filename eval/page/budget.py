"""What goes into a page of limited size: everything at the best level that fits, else the most telling things of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval.page.media import LEVELS, Medium

KINDS = ("input", "truth", "colour", "own", "film", "normal", "depth", "mesh")  # what is given up last comes first
ENVELOPE = 120  # bytes of markup around a medium


@dataclass(frozen=True)
class Packed:
    """What was chosen. `data` by the medium's key."""

    level: int
    data: dict[str, bytes] = field(default_factory=dict)
    left_out: list[Medium] = field(default_factory=list)


def embedded_size(content: bytes) -> int:
    """Bytes of a medium in the page: base64 and the markup around it."""
    return 4 * (-(-len(content) // 3)) + ENVELOPE


def pack(media: list[Medium], limit: int) -> Packed:
    """Everything at the first level of economy whose total stays within `limit` bytes; else, at the last, what fits.

    Then kinds go in by their order and, within one, all in the order given: of two methods neither gets a film before
    both have their pictures.
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
    # the largest kinds first, so that a level that does not fit is given up before much is encoded
    for medium in sorted(media, key=lambda medium: KINDS.index(medium.kind), reverse=True):
        data[medium.key] = medium.encode(level)
        room -= embedded_size(data[medium.key])
        if room < 0:
            return None
    return data
