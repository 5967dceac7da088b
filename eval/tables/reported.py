"""Numbers that papers printed, each with its source and how sure we are of it (config/reported.csv).

Confidence: T read in the paper's own text, C read in or run from source code, I read off an image, N third-party notes,
D derived here, M memory, unverified. `protocol` is `as-published` only for numbers made by Magic123's own metric script;
any other paper's protocol has that paper's name, and so never stands in one of our columns.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from eval.metrics.registry import describe
from magic123.records.errors import InputError
from magic123.records.files import need_file

FIELDS = ["paper", "table", "dataset", "method", "metric", "protocol", "value", "confidence", "note"]
CONFIDENCES = {"T", "C", "I", "N", "D", "M"}


@dataclass(frozen=True)
class Reported:
    paper: str
    table: str
    dataset: str
    method: str
    metric: str
    protocol: str
    value: float
    confidence: str
    note: str
    printed: str  # the value with the digits it was printed with

    @property
    def source(self) -> str:
        return f"{self.paper}, {self.table}"


def read_reported(path: Path) -> list[Reported]:
    """All published numbers. InputError names the line that is not as it should be."""
    with need_file(path, "published numbers").open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != FIELDS:
            raise InputError(f"{path} must have the columns {','.join(FIELDS)}")
        found = []
        for line, fields in enumerate(reader, start=2):
            try:
                value = float(fields["value"])
            except (TypeError, ValueError) as problem:
                raise InputError(f"{path}, line {line}: {fields['value']!r} is not a number") from problem
            if not math.isfinite(value) or fields["confidence"] not in CONFIDENCES or None in fields or None in fields.values():
                raise InputError(
                    f"{path}, line {line}: needs a finite value and a confidence of {'/'.join(sorted(CONFIDENCES))}"
                )
            found.append(Reported(**{**fields, "value": value, "printed": fields["value"]}))
    keys = [(r.paper, r.table, r.dataset, r.method, r.metric) for r in found]
    if len(keys) != len(set(keys)):
        raise InputError(f"{path} holds {' / '.join(max(keys, key=keys.count))} twice")
    return found


def is_comparable(reported: Reported, metric: str, view_set: str, protocol: str) -> bool:
    """Whether a published number may stand below a column of ours: same metric, same protocol, same views."""
    if protocol != "as-published" or (reported.metric, reported.protocol) != (metric, protocol):
        return False
    return view_set == describe(metric).published_views
