"""One file over HTTP: resumed where it was interrupted, from the first source that has it, kept only if its hash agrees.

While it grows the file is NAME.part, with NAME.part.json telling where it comes from; NAME itself is always complete.
Whatever a source answers wrongly (missing, silent, another size, another hash) is said by name, and the next one is tried.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from magic123.records.errors import InputError
from magic123.settings.registry import LOCAL, Download, readable

CHUNK = 2**20
TIMEOUT = 60.0  # seconds without an answer or a byte
ATTEMPTS = 4  # at one source, as long as each brings the file further
SPARE = 2**28  # bytes of the disk that stay free
WAIT = 2.0  # seconds before a broken connection is taken up again
TOKEN_HOST = "huggingface.co"  # the only host that ever sees HF_TOKEN
AGENT = "magic123-bench"


class Refused(Exception):
    """A source that does not give the file: the reason, as the end of a sentence."""


class Broken(Refused):
    """The connection ended early: what has come is kept."""


class SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone, and takes no token along."""

    def redirect_request(self, request, *arguments):
        new = super().redirect_request(request, *arguments)
        if new is not None and not _allowed(new.full_url):
            raise Refused(f"it redirects to {new.full_url}, which is not https")
        return new


def _allowed(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)


def check_room(folder: Path, wanted: int) -> None:
    """InputError unless `wanted` bytes fit on the disk of `folder` (which need not exist yet)."""
    at = Path(folder).resolve()
    while not at.exists():
        at = at.parent
    free = shutil.disk_usage(at).free
    if wanted + SPARE > free:
        raise InputError(
            f"{readable(wanted)} are to be written to {folder}, but only {readable(free)} are free there: make room, or let "
            "the folder be a link to a larger disk; nothing was downloaded"
        )


def download(
    urls: list[str], target: Path, expected: Download, say: Callable[[str], None], *, gated: str | None = None
) -> tuple[str, str]:
    """Fetch `target` from the first of `urls` that gives the expected file; returns (its SHA-256, the url).

    `gated` is the page on which a licence must be accepted first. Raises InputError: no room, or no source left, with what
    each of them answered.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, answers = target.with_name(f"{target.name}.part"), []
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{target} is being downloaded by another process: wait for it, or stop that one") from error
        for url in urls:
            try:
                digest = _from_one(url, target, file, expected, say)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise InputError(f"the disk of {target.parent} is full: make room; what has come is kept") from error
            except Refused as reason:
                said = str(reason)
                if gated and ("401" in said or "403" in said):
                    said += f" (accept the licence at {gated} and set HF_TOKEN to a token of that account)"
                answers.append(f"{url}: {said}")
                say(f"{target.name}: {answers[-1]}")
                continue
            os.fsync(file.fileno())
            part.rename(target)
            _note(part).unlink(missing_ok=True)
            return digest, url
        if not file.tell():
            part.unlink()
            _note(part).unlink(missing_ok=True)
    raise InputError(f"{target.name} could not be fetched from any source; {'; '.join(answers)}")


def _from_one(url: str, target: Path, file, expected: Download, say) -> str:
    """Take the file from one source, from where it stopped. Refused where that source does not give it."""
    for attempt in range(ATTEMPTS):
        before = file.seek(0, os.SEEK_END)
        came_from = _read_note(target)
        if before and not expected.known and came_from.get("url") != url:
            before = _restart(file)  # another source may hold another file, and no hash would tell
        try:
            _transfer(url, target, file, before, came_from, expected, say)
        except Broken as reason:
            # a connection that brought nothing will not do so the next time
            if attempt + 1 == ATTEMPTS or file.seek(0, os.SEEK_END) <= before:
                raise
            say(f"{target.name}: {reason}; going on from {readable(file.tell())}")
            time.sleep(WAIT)
            continue
        digests = file_digests(target.with_name(f"{target.name}.part"))
        if problem := disagreement(digests, expected):
            _restart(file)
            if before and came_from.get("url") != url and attempt + 1 < ATTEMPTS:
                continue  # the two halves came from different sources: once more from the start
            raise Refused(problem)
        return digests["sha256"]
    raise Refused("it gave no whole file")


def _transfer(url: str, target: Path, file, start: int, came_from: dict, expected: Download, say) -> None:
    """Append to `file` from byte `start` on until the source's end of it."""
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if came_from.get("url") == url and came_from.get("tag"):
            headers["If-Range"] = came_from["tag"]
    request = urllib.request.Request(url, headers=headers)
    if (token := os.environ.get("HF_TOKEN")) and urlsplit(url).hostname == TOKEN_HOST:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(SecureRedirects).open(request, timeout=TIMEOUT) as answer:
            total = _begin(url, target, file, start, answer, expected)
            progress = Progress(target.name, total, say)
            progress.at(file.tell())
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                progress.at(file.tell())
            file.flush()
    except urllib.error.HTTPError as error:
        if error.code == 416 and start and total_of(error.headers) == start:
            return  # everything was there already
        if error.code == 416:
            _restart(file)
        raise Refused(f"it answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        file.flush()
        reason = getattr(error, "reason", None) or error
        raise Broken(f"the connection failed ({reason or type(error).__name__})") from error
    if total is not None and file.tell() < total:
        raise Broken(f"the connection ended at {readable(file.tell())} of {readable(total)}")


def _begin(url: str, target: Path, file, start: int, answer, expected: Download) -> int | None:
    """Read the answer's head: where `file` must stand, whether the size is right and fits. Returns the whole size."""
    length = answer.headers.get("Content-Length")
    resumed = start and answer.status == 206
    if resumed:
        begins = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
        if begins != str(start):
            raise Refused(f"asked to go on from byte {start}, it answers with Content-Range from {begins or 'nowhere'}")
    elif start:
        start = _restart(file)  # it knows no ranges, or the file has changed
    total = start + int(length) if length else None
    if expected.bytes is not None and total is not None and total != expected.bytes:
        _restart(file)
        raise Refused(f"it has {total} bytes where {expected.bytes} are registered: another file")
    check_room(target.parent, (total or expected.size) - start)
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    if tag and tag.startswith("W/"):
        tag = None  # a weak tag promises no equal bytes
    _note(file.name).write_text(json.dumps({"url": url, "tag": tag, "bytes": total}))
    return total


def total_of(headers) -> int | None:
    """The whole size in a Content-Range such as bytes */1234."""
    size = (headers.get("Content-Range") or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _restart(file) -> int:
    file.seek(0)
    file.truncate()
    return 0


def _note(part: str | Path) -> Path:
    return Path(f"{part}.json")


def _read_note(target: Path) -> dict:
    """Where a .part comes from; {} where that is unknown."""
    try:
        note = json.loads(_note(target.with_name(f"{target.name}.part")).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


# -------------------------------------------------------------------------------------------------------------- hashes
def file_digests(path: Path) -> dict:
    """{"bytes", "sha256", "md5"} of a file."""
    sha, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": sha.hexdigest(), "md5": md5.hexdigest()}


def disagreement(digests: dict, expected: Download) -> str | None:
    """What about a file is not as registered, as the end of a sentence; None where all is."""
    if expected.bytes is not None and digests["bytes"] != expected.bytes:
        return f"{digests['bytes']} bytes came where {expected.bytes} are registered"
    if expected.sha256 and digests["sha256"] != expected.sha256:
        return f"the file's SHA-256 is {digests['sha256']} where {expected.sha256} is registered: it was refused"
    if expected.sha256_prefix and not digests["sha256"].startswith(expected.sha256_prefix):
        start = digests["sha256"][:8]
        return f"the file's SHA-256 starts with {start} where {expected.sha256_prefix} is registered: it was refused"
    if expected.md5 and digests["md5"] != expected.md5:
        return f"the file's MD5 is {digests['md5']} where {expected.md5} is registered: it was refused"
    return None


# ------------------------------------------------------------------------------------------------------------ progress
class Progress:
    """A line that is drawn over itself on a terminal, and a line every tenth in a log."""

    def __init__(self, name: str, total: int | None, say: Callable[[str], None]):
        self.name, self.total, self.say = name, total, say
        self.began, self.first, self.shown, self.tenth = time.monotonic(), None, 0.0, -1

    def at(self, done: int) -> None:
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        finished = done == self.total
        if sys.stderr.isatty():
            if now - self.shown > 0.5 or finished:
                self.shown = now
                print(f"\r{self.line(done, now)}", end="\n" if finished else "", file=sys.stderr, flush=True)
        elif self.total and done * 10 // self.total > self.tenth:
            self.tenth = done * 10 // self.total
            self.say(self.line(done, now))

    def line(self, done: int, now: float) -> str:
        speed = (done - self.first) / max(now - self.began, 1e-3)
        if not self.total:
            return f"{self.name}: {readable(done)}, {readable(speed)}/s"
        bar = "#" * (20 * done // self.total)
        left = f", {(self.total - done) / speed:.0f} s left" if speed else ""
        return f"{self.name}: [{bar:<20}] {readable(done)} of {readable(self.total)}, {readable(speed)}/s{left}"
