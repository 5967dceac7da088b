"""A local file server with simulated faults, and the files that it serves."""

import hashlib
from dataclasses import dataclass, field

from magic123.settings.registry import Download

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 12000  # 3 MB, three chunks, begins as a torch archive


SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Files by path, what to do wrong, and every request as (path, Range header, bytes of body sent)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: dict[str, list[int]] = field(default_factory=dict)  # path -> bytes after which answers end early, one each
    no_ranges: bool = False
    redirect: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str | None, int]] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)

    def ranges(self, path: str) -> list[str | None]:
        return [range_ for seen, range_, _ in self.seen if seen == path]

    def sent(self, path: str) -> int:
        return sum(count for seen, _, count in self.seen if seen == path)


def known(**more) -> Download:
    return Download(**({"bytes": len(CONTENT), "sha256": SHA256} | more))
