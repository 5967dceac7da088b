"""prefetch: list and fetch the downloads that a configuration needs: network weights, and the pictures of its datasets.

    magic123 prefetch config/paper.yaml --list           what it would fetch: sources, sizes, licences
    magic123 prefetch config/paper.yaml                  the same list, then fetch it
    magic123 prefetch --weights NAME                     one entry of config/weights.yaml
    magic123 prefetch --dataset NAME --file PATH         one file of datasets/NAME.csv

Interrupted downloads resume where they stopped. Afterwards nothing needs the network.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_configuration, add_registry, command_parser, registered_weights
from magic123.records.errors import InputError
from magic123.records.terminal import say
from magic123.run.load import read_suite
from magic123.run.manifest import FETCHED, HASHES, load_manifest
from magic123.run.suite import MANIFESTS
from magic123.weights.prefetch import LOCKS, fetch_all, fetch_dataset_file, fetch_weights, listing


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, then list and fetch. Raises InputError for bad input."""
    parser = command_parser("prefetch", __doc__)
    add_configuration(parser)
    parser.add_argument("--list", action="store_true", help="only list, fetch nothing")
    parser.add_argument("--weights", metavar="NAME", help="only this entry of the weights registry")
    add_registry(parser)
    parser.add_argument("--locks", type=Path, default=LOCKS, help="folder of the hashes recorded at first downloads")
    parser.add_argument("--dataset", help="only one file of this dataset, given by --file")
    parser.add_argument("--file", help="the file's path as in the dataset's CSV file")
    parser.add_argument("--out", type=Path, help="where --file is written (default: its place under datasets/)")
    options = parser.parse_args(argv)
    if options.weights and (options.dataset or options.configuration):
        raise InputError("give a configuration, or --weights, or --dataset and --file: one at a time")
    if options.weights:
        entry = registered_weights(options.registry, options.weights, "fetched")[options.weights]
        fetch_weights(options.weights, entry, say, options.locks)
    elif options.dataset:
        fetch_one_file(options.dataset, options.file, options.out, options.locks)
    else:
        suite = read_suite(options.configuration)
        print(listing(suite), flush=True)
        if not options.list:
            fetch_all(suite, say)


def fetch_one_file(dataset: str, file: str | None, out: Path | None, locks: Path = LOCKS) -> None:
    """Fetch one file of a dataset and verify it.

    Args:
        dataset: datasets/DATASET.csv lists the file.
        file: its path as in that list.
        out: where to write it; None: its place under datasets/.
        locks: folder of the hashes recorded at first downloads.

    Raises:
        InputError: the dataset does not know where to fetch such a file.
    """
    manifest = MANIFESTS / f"{dataset}.csv"
    for row in load_manifest(manifest).values():
        for column in FETCHED:
            if file and getattr(row, column) == file and (url := row.address_of(column)):
                fetch_dataset_file(out or MANIFESTS / file, url, getattr(row, HASHES[column]), say, locks)
                return
    raise InputError(f"{manifest} does not say where to fetch a file {file!r}; see its columns address and commit")
