"""The weights registry: settings of a set of network weights in config/weights.yaml.

An entry is one of three: shipped with the repository (`files`), fetched (`sources` and `downloads`), or made from a fetched
one (`made_from` and `converter`). A mirror whose file has a different hash needs an entry, and a name, of its own.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, get_args
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from magic123.records.hashes import RECEIPT
from magic123.settings.common import Settings
from magic123.settings.priors import PriorKind

# networks behind metrics: OPTION or OPTION-TRUNK of `score` (eval.metrics.registry.weights_kinds)
MetricKind = Literal["clip", "perceptual", "lpips-alex", "lpips-vgg", "contextual-vgg19"]
METRIC_KINDS: tuple[str, ...] = get_args(MetricKind)
CANARY = "open_clip_model.canary.json"  # a CLIP model's stored outputs, written once the model is there
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
LOCAL = ("127.0.0.1", "localhost", "::1")  # the only hosts from which plain http is accepted


def check_relative(path: str) -> str:
    """Return `path` unchanged.

    Raises:
        ValueError: it is not a plain relative path, or could leave the folder that it is relative to.
    """
    if not SAFE.fullmatch(path) or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} is not a plain relative path (letters, digits and . _ - between slashes)")
    return path


def check_source(url: str) -> str:
    """Return `url` unchanged.

    Raises:
        ValueError: it is not https (http and file: are accepted from this machine alone), or has no placeholder {file}.
    """
    parts = urlsplit(url)
    local = (parts.scheme == "http" and parts.hostname in LOCAL) or (parts.scheme == "file" and not parts.netloc)
    if parts.scheme != "https" and not local:
        raise ValueError(f"{url} must start with https://, or with file:/// on this machine")
    if "{file}" not in url:
        raise ValueError(f"{url} must say where the file's name goes: {{file}}")
    return url


RelativePath = Annotated[str, AfterValidator(check_relative)]
Address = Annotated[str, AfterValidator(check_source)]


def readable(count: float) -> str:
    """Return a number of bytes as text, in powers of ten."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def url_of(source: str, file: str) -> str:
    """Return the URL of `file` at a source."""
    return source.replace("{file}", quote(file))


class Download(Settings):
    """One file to download. Unknown values (None) are recorded at the first download and enforced afterwards."""

    bytes: PositiveInt | None = None  # exact; another size is refused
    gigabytes: PositiveFloat | None = (
        None  # approximate size (10^9 bytes), if the exact one is unknown; right in all digits but the last
    )
    sha256: str | None = Field(None, pattern=r"[0-9a-f]{64}")
    sha256_prefix: str | None = Field(None, pattern=r"[0-9a-f]{8,63}")  # torchvision's files carry theirs in their names
    md5: str | None = Field(None, pattern=r"[0-9a-f]{32}")

    @model_validator(mode="after")
    def _has_a_size(self):
        if (self.bytes is None) == (self.gigabytes is None):
            raise ValueError("give either bytes (exact) or gigabytes (about)")
        return self

    @property
    def size(self) -> int:
        """Size in bytes, exact or approximate."""
        return self.bytes if self.bytes is not None else round((self.gigabytes or 0) * 1e9)

    @property
    def tolerance(self) -> int:
        """Bytes by which a file may differ: none from `bytes`, one unit of the last digit from `gigabytes`, 64 kB at least."""
        if self.gigabytes is None:
            return 0
        exponent = Decimal(repr(self.gigabytes)).as_tuple().exponent
        return max(64_000, round(10 ** int(exponent) * 10**9))

    @property
    def known(self) -> bool:
        """Whether the registry itself names the whole file's hash."""
        return self.sha256 is not None


class Weights(Settings):
    """One set of network weights."""

    kind: PriorKind | MetricKind | Literal["dpt", "rembg", "checkpoint"]
    path: RelativePath  # the folder that commands are given
    files: list[RelativePath] = []  # shipped or converted, in that folder; fetched ones are the names under `downloads`
    sources: list[Address] = []  # URLs in the order in which they are tried; {file} stands for a name under `downloads`
    downloads: dict[RelativePath, Download] = {}
    made_from: str | None = None  # the entry that `converter` turns into this one
    converter: Literal["zero123", "dpt", "open-clip"] | None = None
    conditioning: Literal["distance", "elevation"] | None = None  # of a zero123, see priors.zero123.pose_vector
    gigabytes: PositiveFloat | None = None  # approximate size of the converter's output (10^9 bytes)
    revision: str = ""
    source: str = ""
    licence: str = ""
    non_commercial: bool = False
    gated: str | None = None  # the page on which an account must accept the licence; HF_TOKEN then opens the files
    needed_for: str = ""
    random: bool = False  # random weights, for a rehearsal; tables never show published numbers beside their results

    @model_validator(mode="after")
    def _one_origin(self):
        if RECEIPT in self.downloads:
            raise ValueError(f"{RECEIPT} is the receipt's own name")
        if bool(self.sources) != bool(self.downloads):
            raise ValueError("sources and downloads belong together: give both or neither")
        if (self.made_from is None) != (self.converter is None):
            raise ValueError("made_from and converter belong together: give both or neither")
        if sum((bool(self.sources), self.made_from is not None, bool(self.files) and not self.made_from)) != 1:
            raise ValueError("give files (shipped), or sources and downloads (fetched), or made_from and converter")
        if (self.converter == "zero123") != (self.conditioning is not None):
            raise ValueError("conditioning belongs to the converter zero123, which needs it")
        return self

    @property
    def origin(self) -> Literal["shipped", "fetched", "converted"]:
        """Where the files come from: the repository, a download, or the converter."""
        return "fetched" if self.sources else "converted" if self.made_from else "shipped"

    @property
    def names(self) -> list[str]:
        """The files that commands read, in `path`."""
        return list(self.downloads) if self.sources else self.files

    @property
    def receipt(self) -> str:
        """Path of the file in which fetching and converting record the hashes."""
        return str(Path(self.path) / RECEIPT)

    @property
    def watched(self) -> list[str]:
        """The files whose change makes results of these weights stale."""
        if self.origin == "shipped":
            return [str(Path(self.path) / file) for file in self.files]
        return [self.receipt, *([str(Path(self.path) / CANARY)] if self.kind == "clip" else [])]

    @property
    def size(self) -> int:
        """Bytes on disk that fetching or converting takes, exact or approximate as in the registry."""
        return sum(download.size for download in self.downloads.values()) + round((self.gigabytes or 0) * 1e9)
