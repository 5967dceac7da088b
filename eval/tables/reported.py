"""Published numbers, each with its source and our confidence in it (config/reported.csv).

Confidence: T read in the paper's own text, C read in or run from source code, I read off an image, N third-party notes,
D derived here, M memory, unverified. `protocol` is `as-published` only for numbers made by Magic123's own metric script;
any other paper's protocol has that paper's name, so its numbers never appear in our columns. The exception is SyncDreamer's
mesh metrics, which we compute in the same way (its pictures are lit, and ours are not).
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from eval.metrics.registry import default_views, describe
from magic123.records.errors import InputError
from magic123.records.files import need_file

FIELDS = ["paper", "table", "dataset", "method", "metric", "protocol", "value", "confidence", "note"]
CONFIDENCES = {"T", "C", "I", "N", "D", "M"}


@dataclass(frozen=True)
class Reported:
    """One published number and its source.

    Attributes:
        paper: The paper, with its version.
        table: The table or figure in it.
        dataset: Our name of the data set.
        method: Display name of the method.
        metric: Our name of the metric.
        protocol: `as-published`, or the paper's name.
        value: The number.
        confidence: One of CONFIDENCES.
        note: Remarks on the number.
        printed: The value with the digits that were printed.
    """

    paper: str
    table: str
    dataset: str
    method: str
    metric: str
    protocol: str
    value: float
    confidence: str
    note: str
    printed: str

    @property
    def source(self) -> str:
        """The paper and the table in it."""
        return f"{self.paper}, {self.table}"


def read_reported(path: Path) -> list[Reported]:
    """Read all published numbers.

    Raises:
        InputError: A line is malformed (its number is named), or a number is listed twice.
    """
    with need_file(path, "published numbers").open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != FIELDS:
            raise InputError(f"{path} must have the columns {','.join(FIELDS)}")
        numbers = []
        for line, fields in enumerate(reader, start=2):
            try:
                value = float(fields["value"])
            except (TypeError, ValueError) as problem:
                raise InputError(f"{path}, line {line}: {fields['value']!r} is not a number") from problem
            # DictReader puts surplus fields under None, and fills missing ones with None
            malformed = None in fields or None in fields.values()
            if malformed or not math.isfinite(value) or fields["confidence"] not in CONFIDENCES:
                raise InputError(
                    f"{path}, line {line}: needs a finite value and a confidence of {'/'.join(sorted(CONFIDENCES))}"
                )
            words = {name: text for name, text in fields.items() if name != "value"}
            numbers.append(Reported(**words, value=value, printed=fields["value"]))
    keys = [" / ".join((number.paper, number.table, number.dataset, number.method, number.metric)) for number in numbers]
    if len(keys) != len(set(keys)):
        raise InputError(f"{path} holds {max(keys, key=keys.count)} twice")
    return numbers


def is_comparable(reported: Reported, metric: str, view_set: str, protocol: str) -> bool:
    """Return whether a published number may be printed below a column of ours: same metric, same protocol, same views."""
    row = describe(metric)
    shared = protocol == "as-published" or (protocol == "syncdreamer" and row.needs == "true mesh")
    if not shared or (reported.metric, reported.protocol) != (metric, protocol):
        return False
    return view_set == default_views(row, protocol)
