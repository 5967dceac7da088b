"""prefetch: list and fetch what a configuration needs from elsewhere: network weights, and the pictures of its datasets.

    magic123 prefetch config/paper.yaml --list           what it would fetch: sources, sizes, licences
    magic123 prefetch config/paper.yaml                  the same list, then fetch it
    magic123 prefetch --weights NAME                     one entry of config/weights.yaml
    magic123 prefetch --dataset NAME --file PATH         one file of datasets/NAME.csv

Interrupted downloads go on where they stopped. Afterwards nothing needs the network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from magic123.records.errors import InputError
from magic123.run.manifest import FETCHED, HASHES, load_manifest
from magic123.run.suite import MANIFESTS, load_weights, read_suite
from magic123.settings.settings_file import choose_from
from magic123.weights.prefetch import LOCKS, fetch_all, fetch_picture, fetch_weights, listing


def main(argv: list[str] | None = None) -> None:
    """The command line. Raises InputError for whatever the user can mend."""
    parser = argparse.ArgumentParser(
        prog="magic123 prefetch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configuration", nargs="*", type=Path, help="files laid over config/config.yaml, as for snakemake")
    parser.add_argument("--list", action="store_true", help="list, and fetch nothing")
    parser.add_argument("--weights", metavar="NAME", help="one entry of the weights registry alone")
    parser.add_argument("--registry", default="config/weights.yaml", help="the weights registry, for --weights")
    parser.add_argument("--locks", type=Path, default=LOCKS, help="folder of the hashes recorded at first downloads")
    parser.add_argument("--dataset", help="one file of this dataset alone, named by --file")
    parser.add_argument("--file", help="as the dataset's csv file writes it")
    parser.add_argument("--out", type=Path, help="where --file is written (default: its place under datasets/)")
    options = parser.parse_args(argv)
    if options.weights and (options.dataset or options.configuration):
        raise InputError("give a configuration, or --weights, or --dataset and --file: one at a time")
    if options.weights:
        known = load_weights(options.registry)
        if options.weights not in known:
            raise InputError(
                f"{options.registry} has no weights {options.weights!r}; {choose_from(options.weights, list(known))}"
            )
        if known[options.weights].origin != "fetched":
            raise InputError(f"the weights {options.weights} are {known[options.weights].origin}, not fetched: nothing to do")
        fetch_weights(options.weights, known[options.weights], say, options.locks)
    elif options.dataset:
        fetch_one_file(options.dataset, options.file, options.out)
    else:
        suite = read_suite(options.configuration)
        print(listing(suite), flush=True)
        if not options.list:
            fetch_all(suite, say)


def fetch_one_file(dataset: str, file: str | None, out: Path | None) -> None:
    manifest = MANIFESTS / f"{dataset}.csv"
    for row in load_manifest(manifest).values():
        for column in FETCHED:
            if file and getattr(row, column) == file and (url := row.address_of(column)):
                fetch_picture(out or MANIFESTS / file, url, getattr(row, HASHES[column]), say)
                return
    raise InputError(f"{manifest} has no file {file!r} that it knows where to fetch; see its columns address and commit")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
