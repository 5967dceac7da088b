"""Download a file over HTTP: resume after an interruption, try one source after another, verify size and hash.

An incomplete file is called NAME.part, and NAME.part.json records its source; NAME itself is always complete. If a source fails
(it does not answer, does not have the file, or has a file of another size or hash), the reason is reported and the next source
is tried.
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
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, BinaryIO, TypedDict
from urllib.parse import urlsplit
from urllib.request import Request

from magic123.records.errors import InputError
from magic123.records.files import noted_json
from magic123.settings.registry import LOCAL, Download, readable

CHUNK = 2**20
TIMEOUT = 60.0  # seconds without an answer or data
ATTEMPTS = 4  # attempts per source, as long as each receives data
SPARE = 2**28  # bytes of the disk that are kept free
WAIT = 2.0  # seconds before a broken connection is resumed
TOKEN_HOST = "huggingface.co"  # the only host to which HF_TOKEN is sent
USER_AGENT = "magic123-bench"


Say = Callable[[str], None]


class Refused(Exception):
    """A source does not provide the file; the message is the reason."""


class Broken(Refused):
    """The connection ended early; the received bytes are kept."""


class SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https only. The access token is an unredirected header, so it is not sent to the new address."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """Return the request for the new address.

        Raises:
            Refused: the new address is not https.
        """
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and not _allowed(new.full_url):
            raise Refused(f"it redirects to {new.full_url}, which is not https")
        return new


def _allowed(url: str) -> bool:
    """Return whether an address is https, or http on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)


def check_free_space(folder: Path, wanted: int) -> None:
    """Check that `wanted` bytes fit on the disk of `folder`, which need not exist yet.

    Raises:
        InputError: there is not enough free space.
    """
    existing = Path(folder).resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if wanted + SPARE > free:
        raise InputError(
            f"{readable(wanted)} are to be written to {folder}, but only {readable(free)} are free there: make room, or make "
            "the folder a link to a larger disk; nothing was downloaded"
        )


def download(urls: list[str], target: Path, expected: Download, say: Say, *, gated: str | None = None) -> tuple[str, str]:
    """Download a file from the first source that has the expected one.

    Args:
        urls: addresses of the file, in the order in which they are tried.
        target: the file to write.
        expected: the registered size and hash.
        say: called with each line of progress.
        gated: address of the page on which a licence must be accepted first; None if there is none.

    Returns:
        The file's SHA-256, and the address from which it was downloaded.

    Raises:
        InputError: another process downloads the file, the disk is full, or every source failed; the message has the reasons.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, failures = target.with_name(f"{target.name}.part"), []
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{target} is being downloaded by another process; wait for that process, or stop it") from error
        for url in urls:
            try:
                digest = _from_source(url, target, file, expected, say)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise InputError(f"the disk of {target.parent} is full: make room; the received part is kept") from error
            except Refused as error:
                reason = str(error)
                if gated and ("401" in reason or "403" in reason):
                    reason += f" (accept the licence at {gated} and set HF_TOKEN to a token of that account)"
                failures.append(f"{url}: {reason}")
                say(f"{target.name}: {failures[-1]}")
                continue
            os.fsync(file.fileno())
            part.rename(target)
            _note(part).unlink(missing_ok=True)
            return digest, url
        if not file.tell():
            part.unlink()
            _note(part).unlink(missing_ok=True)
    raise InputError(f"{target.name} could not be downloaded from any source; {'; '.join(failures)}")


def _from_source(url: str, target: Path, file: BinaryIO, expected: Download, say: Say) -> str:
    """Download or resume from one source, and return the SHA-256. Raises Refused if the source does not have the file."""
    for attempt in range(ATTEMPTS):
        before = file.seek(0, os.SEEK_END)
        note = noted_json(_note(target.with_name(f"{target.name}.part")))
        if before and not expected.known and note.get("url") != url:
            before = _restart(file)  # another source may have another file, and without a hash this would not be detected
        try:
            _transfer(url, target, file, before, note, expected, say)
        except Broken as reason:
            # do not retry a source that sent no data
            if attempt + 1 == ATTEMPTS or file.seek(0, os.SEEK_END) <= before:
                raise
            say(f"{target.name}: {reason}; resuming at {readable(file.tell())}")
            time.sleep(WAIT)
            continue
        part = target.with_name(f"{target.name}.part")
        digests = file_digests(part)
        if problem := disagreement(digests, expected) or wrong_content(part, target.suffix, expected):
            _restart(file)
            if before and note.get("url") != url and attempt + 1 < ATTEMPTS:
                continue  # the parts are from different sources, so try once more from the start
            raise Refused(problem)
        return digests["sha256"]
    raise Refused("it did not send the whole file")


def _transfer(url: str, target: Path, file: BinaryIO, start: int, note: dict, expected: Download, say: Say) -> None:
    """Download the source's file from byte `start` on, and append it to `file`."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if note.get("url") == url and note.get("tag"):
            headers["If-Range"] = note["tag"]
    request = urllib.request.Request(url, headers=headers)
    if (token := os.environ.get("HF_TOKEN")) and urlsplit(url).hostname == TOKEN_HOST:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(SecureRedirects).open(request, timeout=TIMEOUT) as answer:
            total = _begin(url, target, file, start, answer, expected)
            progress = Progress(target.name, total, file.tell(), say)
            progress.at(file.tell())
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                progress.at(file.tell())
            file.flush()
    except urllib.error.HTTPError as error:
        if error.code == 416 and start and total_of(error.headers) == start:
            return  # the file was already complete
        if error.code == 416:
            _restart(file)
        raise Refused(f"it answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        file.flush()
        reason = getattr(error, "reason", None) or error
        raise Broken(f"the connection failed ({reason or type(error).__name__})") from error
    if total is not None and file.tell() < total:
        raise Broken(f"the connection ended at {readable(file.tell())} of {readable(total)}")


def _begin(
    url: str, target: Path, file: BinaryIO, start: int, answer: http.client.HTTPResponse, expected: Download
) -> int | None:
    """Check the headers of a response, and truncate `file` if it starts at byte 0. Returns the size of the whole file."""
    length = answer.headers.get("Content-Length")
    resumed = start and answer.status == 206
    if resumed:
        begins = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
        if begins != str(start):
            raise Refused(f"asked to resume at byte {start}, it answers with a Content-Range from {begins or 'nowhere'}")
    elif start:
        start = _restart(file)  # the server does not support ranges, or the file has changed
    total = start + int(length) if length else None
    if total is not None and (problem := wrong_size(total, expected)):
        _restart(file)
        raise Refused(f"it has {problem}, so it is another file")
    check_free_space(target.parent, (total or expected.size) - start)
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    if tag and tag.startswith("W/"):
        tag = None  # a weak ETag does not guarantee identical bytes
    _note(target.with_name(f"{target.name}.part")).write_text(json.dumps({"url": url, "tag": tag, "bytes": total}))
    return total


def total_of(headers: Message) -> int | None:
    """Return the size of the whole file from a Content-Range such as "bytes */1234"; None if there is none."""
    size = (headers.get("Content-Range") or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _restart(file: BinaryIO) -> int:
    """Empty the file and return 0, its new size."""
    file.seek(0)
    file.truncate()
    return 0


def _note(part: Path) -> Path:
    """Return the path of the file that records the source of an incomplete download."""
    return Path(f"{part}.json")


# -------------------------------------------------------------------------------------------------------------- hashes
class Digests(TypedDict):
    """Size and hashes of a file."""

    bytes: int
    sha256: str
    md5: str


def file_digests(path: Path) -> Digests:
    """Return the size and the hashes of a file."""
    sha, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": sha.hexdigest(), "md5": md5.hexdigest()}


class Recorded(Download):
    """A file without a registered hash, whose hash was recorded at an earlier download."""

    lock: Path  # the file in which the hash is recorded

    @property
    def where(self) -> str:
        """A clause for error messages: where the hash was recorded, and what to do about it."""
        return f"was recorded in {self.lock} (delete its entry there to trust another file)"


def wrong_size(size: int, expected: Download) -> str | None:
    """Return how the size of a file differs from the expected one, as a clause; None if it agrees within its precision.

    Args:
        size: size of the file in bytes.
        expected: the expected size; an approximate size is compared only if there is no hash.
    """
    if abs(size - expected.size) <= expected.tolerance or (expected.bytes is None and expected.known):
        return None
    about = "" if expected.bytes is not None else "about "
    wanted = f"{about}{expected.bytes or readable(expected.size)}"
    return f"{size} bytes where {wanted} {expected.where if isinstance(expected, Recorded) else 'are registered'}"


def wrong_content(file: Path, suffix: str, expected: Download) -> str | None:
    """Return why a file cannot have the format of its suffix, as a clause; None if its first bytes are those of the format.

    Args:
        file: the file, under any name.
        suffix: suffix of the name that it will have, such as .ckpt.
        expected: the expected file; if its hash is known, the content is not checked.
    """
    with file.open("rb") as stream:
        start = stream.read(16)
    kind, begins = ("", ()) if expected.known else CONTENTS.get(suffix, ("", ()))
    # safetensors: eight bytes with the length of the header, then JSON
    good = start[8:9] == b"{" if suffix == ".safetensors" else start.lstrip().startswith(begins)
    if not kind or good:
        return None
    page = " but a web page" if start.lstrip().startswith(b"<") else ""
    return f"it is not a {kind}{page}: it was refused"


ARCHIVE = ("torch archive", (b"PK\x03\x04", b"\x80\x02"))  # zip since torch 1.6, before that a pickle
CONTENTS = {  # suffix -> name of the format, and the bytes with which its files begin
    **dict.fromkeys((".bin", ".ckpt", ".pt", ".pth"), ARCHIVE),
    ".safetensors": ("safetensors file", ()),
    ".json": ("JSON file", (b"{", b"[")),
    ".onnx": ("ONNX file", (b"\x08",)),
    ".zip": ("zip archive", (b"PK\x03\x04",)),
}


def disagreement(digests: Digests, expected: Download) -> str | None:
    """Return how a file differs from the expected size and hash, as a clause; None if it does not differ."""
    if problem := wrong_size(digests["bytes"], expected):
        return f"it has {problem}"
    if expected.sha256 and digests["sha256"] != expected.sha256:
        where = expected.where if isinstance(expected, Recorded) else "is registered"
        return f"the file's SHA-256 is {digests['sha256']} where {expected.sha256} {where}: it was refused"
    if expected.sha256_prefix and not digests["sha256"].startswith(expected.sha256_prefix):
        start = digests["sha256"][:8]
        return f"the file's SHA-256 starts with {start} where {expected.sha256_prefix} is registered: it was refused"
    if expected.md5 and digests["md5"] != expected.md5:
        return f"the file's MD5 is {digests['md5']} where {expected.md5} is registered: it was refused"
    return None


# ------------------------------------------------------------------------------------------------------------ progress
class Progress:
    """Report the progress of a download: on a terminal in a line that is overwritten, otherwise in a line per tenth.

    Args:
        name: name of the file.
        total: size of the file in bytes; None if unknown.
        start: number of bytes that were downloaded before.
        say: called with each line if the output is not a terminal.
    """

    def __init__(self, name: str, total: int | None, start: int, say: Say) -> None:
        self.name, self.total, self.start, self.say = name, total, start, say
        self.began, self.shown, self.tenth = time.monotonic(), 0.0, -1

    def at(self, done: int) -> None:
        """Report that `done` bytes have arrived."""
        now = time.monotonic()
        finished = done == self.total
        if sys.stderr.isatty():
            if now - self.shown > 0.5 or finished:
                self.shown = now
                print(f"\r{self.line(done, now)}", end="\n" if finished else "", file=sys.stderr, flush=True)
        elif self.total and done * 10 // self.total > self.tenth:
            self.tenth = done * 10 // self.total
            self.say(self.line(done, now))

    def line(self, done: int, now: float) -> str:
        """Return the line for `done` bytes at the time `now`."""
        speed = (done - self.start) / max(now - self.began, 1e-3)
        if not self.total:
            return f"{self.name}: {readable(done)}, {readable(speed)}/s"
        bar = "#" * (20 * done // self.total)
        left = f", {(self.total - done) / speed:.0f} s left" if speed else ""
        return f"{self.name}: [{bar:<20}] {readable(done)} of {readable(self.total)}, {readable(speed)}/s{left}"
