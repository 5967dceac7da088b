"""Determine which weights and dataset files a run needs, download them and verify them. This module does not import torch.

If the registry has no hash for a file, the hash is recorded in weights/locks/NAME.json at the first download and enforced
afterwards, even after the file was deleted. A complete entry has a receipt with the hash of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveFloat

from magic123.records.errors import InputError
from magic123.records.files import write_json
from magic123.records.terminal import counted
from magic123.run.manifest import FETCHED, HASHES
from magic123.run.suite import Suite
from magic123.settings.registry import Download, Weights, readable, url_of
from magic123.weights.download import Recorded, check_free_space, disagreement, download, file_digests, wrong_content

LOCKS = Path("weights/locks")


@dataclass(frozen=True)
class DatasetFile:
    """A file of a dataset that can be downloaded.

    Attributes:
        dataset: name of the dataset.
        path: path of the file, relative to the working directory.
        url: address of the file.
        sha256: the registered hash; empty if it is recorded at the first download.
        source: origin and licence, as text.
    """

    dataset: str
    path: str
    url: str
    sha256: str
    source: str


def weights_needed(suite: Suite) -> dict[str, list[str]]:
    """Return the weights that a run needs, including those that others are converted from, in the order of use.

    Returns:
        Name of the weights -> what needs them: methods, "prepare (...)", "invert", "score", or converted weights.
    """
    settings = suite.settings
    needed: dict[str, list[str]] = {}

    def add(name: str, user: str) -> None:
        if (base := suite.weights[name].made_from) is not None:
            add(base, name)
        if user not in needed.setdefault(name, []):
            needed[name].append(user)

    for use, name in suite.prepare_weights().items():
        add(name, f"prepare ({use})")
    for method in settings.run.methods:
        for stage in suite.methods[method].stages.values():
            for prior in stage.priors.values():
                if prior.uses_token and not settings.invert.given:
                    add(settings.invert.weights, "invert")
                add(prior.weights, method)
    for name in settings.score.weights:
        add(name, "score")
    return needed


def weights_used(suite: Suite) -> list[str]:
    """Return the weights that a run's commands read: those needed, except those that are only converted."""
    needed = weights_needed(suite)
    originals = {suite.weights[name].made_from for name in needed}
    return [name for name in needed if name not in originals]


def dataset_files_needed(suite: Suite) -> list[DatasetFile]:
    """Return the files that a run's examples need and for which the datasets have addresses."""
    files = []
    for dataset, names in suite.examples.items():
        for row in (suite.row(dataset, name) for name in names):
            for column in FETCHED:
                if column in ("mesh", *suite.files_asked(row)) and (url := row.address_of(column)):
                    path = suite.path_of(getattr(row, column))
                    files.append(DatasetFile(dataset, path, url, getattr(row, HASHES[column]), row.source))
    return files


def missing_weights(suite: Suite) -> list[str]:
    """Return the names of the weights that a run needs and that are not complete."""
    return still_needed(suite.weights, weights_needed(suite))


def still_needed(registry: dict[str, Weights], needed: Iterable[str]) -> list[str]:
    """Return those of the needed weights that are not complete, except originals whose conversions are complete.

    Args:
        registry: all entries by name.
        needed: names of the needed weights, as `weights_needed` returns them.
    """
    needed = list(needed)
    return [name for name in needed if not is_complete(registry[name]) and not is_converted(name, registry, needed)]


def is_converted(name: str, registry: dict[str, Weights], needed: Iterable[str]) -> bool:
    """Return whether all needed weights that are converted from the entry are complete, so that its files may be deleted."""
    made = [registry[other] for other in needed if registry[other].made_from == name]
    return bool(made) and all(is_complete(entry) for entry in made)


def missing_bytes(entry: Weights) -> int:
    """Return about how many bytes of an entry have to be downloaded or written, less the received parts of files."""
    if is_complete(entry):
        return 0
    if entry.origin != "fetched":
        return entry.size
    return sum(bytes_left(Path(entry.path) / file, expected) for file, expected in entry.downloads.items())


def is_complete(entry: Weights) -> bool:
    """Return whether all files of an entry and its receipt exist. Hashes are verified by `fetch_weights`, not here."""
    names = [Path(entry.path) / file for file in entry.names]
    return all(file.is_file() for file in names) and (entry.origin == "shipped" or Path(entry.receipt).is_file())


# ----------------------------------------------------------------------------------------------------------- the list
def listing(suite: Suite) -> str:
    """Return a text that lists everything a run downloads: state, size, licence, source and what needs it."""
    lines, needed = [], weights_needed(suite)
    missing = still_needed(suite.weights, needed)
    left = sum(missing_bytes(suite.weights[name]) for name in missing)
    for name, users in needed.items():
        entry = suite.weights[name]
        if entry.origin == "shipped":
            continue
        state = "there" if is_complete(entry) else readable(missing_bytes(entry)) if name in missing else "converted, deleted"
        licence = entry.licence + (" [NON-COMMERCIAL]" if entry.non_commercial else "")
        lines.append(f"{name}  ({state})")
        lines.append(f"    licence  {licence}" + (f"; accept it at {entry.gated} and set HF_TOKEN" if entry.gated else ""))
        if entry.made_from:
            lines.append(f"    made     from {entry.made_from}, here")
        for number, source in enumerate(entry.sources):
            shown = source if len(entry.downloads) > 1 else url_of(source, next(iter(entry.downloads)))
            lines.append(f"    {'source' if not number else 'mirror'}   {shown}")
        if entry.origin == "fetched":
            lines.append(f"    files    {len(entry.downloads)}; hashes: {hashes_of(entry)}")
        lines.append(f"    for      {', '.join(users[:3])}" + (f" and {len(users) - 3} more" if len(users) > 3 else ""))
    files = dataset_files_needed(suite)
    for dataset in dict.fromkeys(file.dataset for file in files):
        own = [file for file in files if file.dataset == dataset]
        there = sum(Path(file.path).is_file() for file in own)
        size = sum(suite.row(dataset, name).megabytes for name in suite.examples[dataset])
        whole = f"the whole is {readable(size * 1e6)}" if size else "their size is not registered"
        lines.append(f"{dataset}  ({there} of {len(own)} files there; {whole})")
        known = sum(bool(file.sha256) for file in own)
        proof = [(known, "registered"), (len(own) - known, "recorded at the first download")]
        hashes = ", ".join(f"{count} {what}" for count, what in proof if count)
        lines.append(f"    source   {own[0].url} and so on; hashes: {hashes}")
        lines.append(f"    licence  {own[0].source}")
    total = f"{readable(left)} to fetch and convert" if left else "files to verify" if missing else "nothing to fetch"
    return "\n".join([*lines, f"{counted(len(needed), 'set')} of weights, {counted(len(files), 'file')} of datasets: {total}"])


def hashes_of(entry: Weights) -> str:
    """Return a text on how many files of an entry have a registered hash, and how the others are verified."""
    downloads = list(entry.downloads.values())
    whole = sum(download.known for download in downloads)
    partly = sum(not download.known and bool(download.sha256_prefix or download.md5) for download in downloads)
    rest = len(downloads) - whole - partly
    parts = [(whole, "registered"), (partly, "by MD5 or the beginning of SHA-256"), (rest, "recorded at the first download")]
    return ", ".join(f"{count} {what}" for count, what in parts if count)


# ------------------------------------------------------------------------------------------------------------ fetching
def fetch_all(suite: Suite, say: Callable[[str], None]) -> None:
    """Download everything that a run needs and that is missing, if there is enough free space for all of it.

    Args:
        suite: the run.
        say: called with each line of progress.

    Raises:
        InputError: there is not enough space, or a download fails.
    """
    missing = [name for name in missing_weights(suite) if suite.weights[name].origin == "fetched"]
    for name in weights_needed(suite):
        if suite.weights[name].origin == "shipped" and not is_complete(suite.weights[name]):
            raise InputError(
                f"the weights {name} belong to the repository, but {suite.weights[name].path} lacks files; clone it again"
            )
    check_space(suite)
    for name in missing:
        fetch_weights(name, suite.weights[name], say)
    for file in dataset_files_needed(suite):
        fetch_dataset_file(Path(file.path), file.url, file.sha256, say)


def check_space(suite: Suite) -> None:
    """Check that all missing weights of a run, converted ones included, fit on the disk.

    Raises:
        InputError: they do not fit.
    """
    check_free_space(Path("weights"), sum(missing_bytes(suite.weights[name]) for name in missing_weights(suite)))


def fetch_weights(name: str, entry: Weights, say: Callable[[str], None], locks: Path = LOCKS) -> None:
    """Download and verify the files of one entry, and write its receipt. Existing files are verified, never replaced.

    Args:
        name: name of the entry.
        entry: the entry of the weights registry.
        say: called with each line of progress.
        locks: folder of the recorded hashes.

    Raises:
        InputError: a file cannot be downloaded, does not fit on the disk or has another hash.
    """
    folder, lock = Path(entry.path), locks / f"{name}.json"
    recorded = read_lock(lock)
    check_free_space(folder, sum(bytes_left(folder / file, expected) for file, expected in entry.downloads.items()))
    for file, registered in entry.downloads.items():
        target, expected = folder / file, with_recorded_hash(registered, recorded.get(file), lock)
        check_inside(folder, target)
        if target.is_file():
            digests = file_digests(target)
            if problem := disagreement(digests, expected) or wrong_content(target, target.suffix, expected):
                raise InputError(f"{target} exists, but {problem}; move it away to download it again")
            sha256, size = digests["sha256"], digests["bytes"]
            url = recorded.get(file, {}).get("source", "found in place")
            say(
                f"{target}: there already, its hash agrees"
                if expected.sha256
                else f"{target}: there already; its hash is now recorded"
            )
        else:
            urls = [url_of(source, file) for source in entry.sources]
            sha256, url = download(urls, target, expected, say, gated=entry.gated)
            size = target.stat().st_size
            say(
                f"{target}: fetched, "
                + ("its hash agrees" if expected.sha256 else f"its hash is recorded in {lock} and enforced from now on")
            )
        recorded[file] = {"sha256": sha256, "bytes": size, "source": url, "registered": registered.known}
        write_json(lock, recorded)
    receipt = {file: {key: recorded[file][key] for key in ("sha256", "bytes")} for file in entry.downloads}
    write_json(Path(entry.receipt), {"weights": name, "files": receipt})


class Unregistered(Download):
    """A file for which the dataset has neither size nor hash."""

    gigabytes: PositiveFloat | None = 0.02  # free space that is required; any size is accepted

    @property
    def tolerance(self) -> int:
        """Bytes by which the size of the file may differ."""
        return 2**40


def fetch_dataset_file(path: Path, url: str, sha256: str, say: Callable[[str], None], locks: Path = LOCKS) -> None:
    """Download and verify one file of a dataset, unless it exists.

    Args:
        path: the file to write.
        url: address of the file.
        sha256: hash of the file. If it is empty, the hash is recorded for the address at the first download, and enforced
            afterwards.
        say: called with each line of progress.
        locks: folder of the recorded hashes.

    Raises:
        InputError: the file cannot be downloaded, or the existing file has another hash.
    """
    if sha256:
        expected = Download(gigabytes=0.02, sha256=sha256)
    else:
        lock = locks / "datasets" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{path.name}.json"
        recorded = read_lock(lock)
        expected = with_recorded_hash(Unregistered(), recorded.get(path.name), lock)
    if path.is_file():
        digests = file_digests(path)
        if problem := disagreement(digests, expected) or wrong_content(path, path.suffix, expected):
            raise InputError(f"{path} exists, but {problem}; move it away to download it again")
        digest, source = digests["sha256"], "found in place"
    else:
        digest, source = download([url], path, expected, say)
    if not sha256 and not recorded:
        entry = {"sha256": digest, "bytes": path.stat().st_size, "source": source, "registered": False}
        write_json(lock, {path.name: entry})
        say(f"{path}: its hash is recorded in {lock} and enforced from now on")


def with_recorded_hash(registered: Download, recorded: dict | None, lock: Path) -> Download:
    """Return the expected size and hash of a file: the registered ones, or those recorded in `lock` at the first download."""
    if recorded is None or registered.known:
        return registered
    size = recorded["bytes"] if registered.bytes is None else registered.bytes
    return Recorded(
        bytes=size, sha256=recorded["sha256"], sha256_prefix=registered.sha256_prefix, md5=registered.md5, lock=lock
    )


def bytes_left(target: Path, expected: Download) -> int:
    """Return how many bytes of a file remain to be downloaded."""
    if target.is_file():
        return 0
    part = target.with_name(f"{target.name}.part")
    return max(0, expected.size - (part.stat().st_size if part.is_file() else 0))


def check_inside(folder: Path, target: Path) -> None:
    """Check that the target is inside `folder` after symbolic links are resolved.

    Raises:
        InputError: it is not.
    """
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{target} would be written outside {folder}: a link there leads elsewhere; remove it")


def read_lock(lock: Path) -> dict:
    """Return the hashes recorded at earlier downloads: {file: {"sha256", "bytes", "source", "registered"}}.

    Raises:
        InputError: the file is damaged.
    """
    if not lock.exists():
        return {}
    try:
        recorded = json.loads(lock.read_text(encoding="utf-8"))
        return {file: {**entry, "sha256": entry["sha256"], "bytes": int(entry["bytes"])} for file, entry in recorded.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{lock} is damaged ({error!r}): restore it, or delete it to trust the next download") from error


def write_receipt(name: str, entry: Weights, files: Iterable[str], **more: object) -> None:
    """Write the receipt of converted weights: hash and size of each file, and `more`, such as what they were made from."""
    digests = {file: file_digests(Path(entry.path) / file) for file in files}
    content = {file: {"sha256": digest["sha256"], "bytes": digest["bytes"]} for file, digest in digests.items()}
    write_json(Path(entry.receipt), {"weights": name, "files": content, **more})
