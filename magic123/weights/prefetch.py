"""What a run needs from elsewhere, where it comes from, and how it is fetched and proved. No torch here.

Hashes that the registry does not know are written to weights/locks/NAME.json when a file first arrives, and enforced from
then on, also after the files were deleted. A finished entry has a receipt with the hash of every file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from magic123.records.errors import InputError
from magic123.records.files import write_json
from magic123.run.manifest import FETCHED, HASHES
from magic123.run.suite import Suite
from magic123.settings.registry import Download, Weights, readable, url_of
from magic123.weights.download import check_room, disagreement, download, file_digests

LOCKS = Path("weights/locks")


@dataclass(frozen=True)
class Picture:
    """A file of a dataset that can be fetched."""

    dataset: str
    path: str  # from the working directory
    url: str
    sha256: str
    source: str  # where it comes from, and its licence


def weights_needed(suite: Suite) -> dict[str, list[str]]:
    """The weights of a run and what asks for each, bases of a conversion included, in the order of the chain."""
    settings, asked = suite.settings, {}

    def ask(name: str, by: str) -> None:
        if (base := suite.weights[name].made_from) is not None:
            ask(base, name)
        if by not in asked.setdefault(name, []):
            asked[name].append(by)

    for use, name in suite.prepare_weights().items():
        ask(name, f"prepare ({use})")
    for method in settings.run.methods:
        for stage in suite.methods[method].stages.values():
            for prior in stage.priors.values():
                if prior.uses_token and not settings.invert.given:
                    ask(settings.invert.weights, "invert")
                ask(prior.weights, method)
    for name in settings.score.weights:
        ask(name, "score")
    return asked


def pictures_needed(suite: Suite) -> list[Picture]:
    """The files of a run's examples that their dataset knows where to fetch, and that the settings ask for."""
    found = []
    for dataset, names in suite.examples.items():
        for row in (suite.row(dataset, name) for name in names):
            for column in FETCHED:
                if column in suite.files_asked(row) and (url := row.address_of(column)):
                    path = suite.path_of(getattr(row, column))
                    found.append(Picture(dataset, path, url, getattr(row, HASHES[column]), row.source))
    return found


def absent(suite: Suite) -> list[str]:
    """The entries of a run's weights that are not there yet."""
    return [name for name in weights_needed(suite) if not is_there(suite.weights[name])]


def is_there(entry: Weights) -> bool:
    """Whether an entry's files are all there (by name; fetching compares their hashes)."""
    names = [Path(entry.path) / file for file in entry.names]
    return all(file.is_file() for file in names) and (entry.origin == "shipped" or Path(entry.receipt).is_file())


# ----------------------------------------------------------------------------------------------------------- the list
def listing(suite: Suite) -> str:
    """Everything that the run takes from elsewhere, as text: state, size, licence, source and who asks."""
    lines, needed, missing = [], weights_needed(suite), 0
    for name, asked in needed.items():
        entry = suite.weights[name]
        if entry.origin == "shipped":
            continue
        there = is_there(entry)
        missing += 0 if there else entry.size
        licence = entry.licence + (" [NON-COMMERCIAL]" if entry.non_commercial else "")
        lines.append(f"{name}  ({'there' if there else readable(entry.size)})")
        lines.append(f"    licence  {licence}" + (f"; accept it at {entry.gated} and set HF_TOKEN" if entry.gated else ""))
        if entry.made_from:
            lines.append(f"    made     from {entry.made_from}, here")
        for number, source in enumerate(entry.sources):
            shown = source if len(entry.downloads) > 1 else url_of(source, next(iter(entry.downloads)))
            lines.append(f"    {'source' if not number else 'mirror'}   {shown}")
        if entry.origin == "fetched":
            lines.append(f"    files    {len(entry.downloads)}; hashes: {proof_of(entry)}")
        lines.append(f"    for      {', '.join(asked[:3])}" + (f" and {len(asked) - 3} more" if len(asked) > 3 else ""))
    pictures = pictures_needed(suite)
    for dataset in dict.fromkeys(picture.dataset for picture in pictures):
        own = [picture for picture in pictures if picture.dataset == dataset]
        there = sum(Path(picture.path).is_file() for picture in own)
        size = sum(suite.row(dataset, name).megabytes for name in suite.examples[dataset])
        lines.append(f"{dataset}  ({there} of {len(own)} files there; the whole is {readable(size * 1e6)})")
        lines.append(f"    source   {own[0].url} and so on; hashes: {len(own)} registered")
        lines.append(f"    licence  {own[0].source}")
    total = f"{readable(missing)} to fetch and convert" if missing else "nothing to fetch"
    return "\n".join([*lines, f"{len(needed)} sets of weights, {len(pictures)} files of datasets: {total}"])


def proof_of(entry: Weights) -> str:
    """How many of the files have a registered hash, and what stands for the rest."""
    downloads = list(entry.downloads.values())
    whole = sum(download.known for download in downloads)
    partly = sum(not download.known and bool(download.sha256_prefix or download.md5) for download in downloads)
    rest = len(downloads) - whole - partly
    parts = [(whole, "registered"), (partly, "by MD5 or the beginning of SHA-256"), (rest, "recorded at the first download")]
    return ", ".join(f"{count} {what}" for count, what in parts if count)


# ------------------------------------------------------------------------------------------------------------ fetching
def fetch_all(suite: Suite, say: Callable[[str], None]) -> None:
    """Fetch whatever the run needs and lacks, once it is clear that there is room for all of it. Raises InputError."""
    wanted = [name for name in absent(suite) if suite.weights[name].origin == "fetched"]
    for name in weights_needed(suite):
        if suite.weights[name].origin == "shipped" and not is_there(suite.weights[name]):
            raise InputError(
                f"the weights {name} belong to the repository, but {suite.weights[name].path} lacks files; clone it again"
            )
    room_for(suite)
    for name in wanted:
        fetch_weights(name, suite.weights[name], say)
    for picture in pictures_needed(suite):
        fetch_picture(Path(picture.path), picture.url, picture.sha256, say)


def room_for(suite: Suite) -> None:
    """InputError unless all that is missing, converted weights included, fits on the disk."""
    check_room(Path("weights"), sum(suite.weights[name].size for name in absent(suite)))


def fetch_weights(name: str, entry: Weights, say: Callable[[str], None], locks: Path = LOCKS) -> None:
    """Fetch and prove one entry, and write its receipt. Files that are there are compared, never replaced."""
    folder, lock = Path(entry.path), locks / f"{name}.json"
    recorded = read_lock(lock)
    check_room(folder, sum(size_left(folder / file, expected) for file, expected in entry.downloads.items()))
    for file, registered in entry.downloads.items():
        target, expected = folder / file, enforced(registered, recorded.get(file))
        check_inside(folder, target)
        if target.is_file():
            digests = file_digests(target)
            if problem := disagreement(digests, expected):
                raise InputError(f"{target} is there, but {problem}; move it away, and it is fetched again")
            url = recorded.get(file, {}).get("source", "found in place")
            say(
                f"{target}: there already, its hash agrees"
                if expected.sha256
                else f"{target}: there already; its hash is now recorded"
            )
        else:
            digest, url = download([url_of(source, file) for source in entry.sources], target, expected, say, gated=entry.gated)
            digests = {"sha256": digest, "bytes": target.stat().st_size}
            say(
                f"{target}: fetched, "
                + ("its hash agrees" if expected.sha256 else f"its hash is recorded in {lock} and enforced from now on")
            )
        recorded[file] = {"sha256": digests["sha256"], "bytes": digests["bytes"], "source": url, "registered": registered.known}
        write_json(lock, recorded)
    receipt = {file: {key: recorded[file][key] for key in ("sha256", "bytes")} for file in entry.downloads}
    write_json(Path(entry.receipt), {"weights": name, "files": receipt})


def fetch_picture(path: Path, url: str, sha256: str, say: Callable[[str], None]) -> None:
    """Fetch one file of a dataset, whose hash the dataset knows."""
    expected = Download(gigabytes=0.02, sha256=sha256)
    if path.is_file():
        if problem := disagreement(file_digests(path), expected):
            raise InputError(f"{path} is there, but {problem}; move it away, and it is fetched again")
        return
    download([url], path, expected, say)


def enforced(registered: Download, recorded: dict | None) -> Download:
    """What a file must be: as registered, and where the registry does not know, as it was when it first came."""
    if recorded is None or registered.known:
        return registered
    size = {"bytes": recorded["bytes"], "gigabytes": None} if registered.bytes is None else {}
    return registered.model_copy(update={"sha256": recorded["sha256"], **size})


def size_left(target: Path, expected: Download) -> int:
    """Bytes that are still to come for a file."""
    if target.is_file():
        return 0
    part = target.with_name(f"{target.name}.part")
    return max(0, expected.size - (part.stat().st_size if part.is_file() else 0))


def check_inside(folder: Path, target: Path) -> None:
    """InputError where a link inside `folder` leads the target out of it."""
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{target} would be written outside {folder}: a link there leads elsewhere; remove it")


def read_lock(lock: Path) -> dict:
    """Hashes recorded at earlier downloads: {file: {"sha256", "bytes", "source", "registered"}}."""
    if not lock.exists():
        return {}
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
        return {file: {**entry, "sha256": entry["sha256"], "bytes": int(entry["bytes"])} for file, entry in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{lock} is damaged ({error!r}): restore it, or delete it to trust the next download") from error


def write_receipt(name: str, entry: Weights, files: Iterable[str], **more) -> None:
    """The receipt of converted weights; `more` says what they were made from."""
    digests = {file: file_digests(Path(entry.path) / file) for file in files}
    content = {file: {key: digest[key] for key in ("sha256", "bytes")} for file, digest in digests.items()}
    write_json(Path(entry.receipt), {"weights": name, "files": content, **more})
