"""A finished run of six results for each of two methods, and the tables that are built of it."""

import csv
import io
import json
from pathlib import Path

from repository_paths import REPOSITORY

from eval.tables.build import build_table
from eval.tables.plan import parse_column, read_plan

REPORTED, TABLES = REPOSITORY / "config" / "reported.csv", REPOSITORY / "config" / "tables.yaml"


EXAMPLES, METHODS, SEEDS = ("car", "cup", "dog"), ("both", "one_prior"), (0, 1)


def value(metric: str, number: float, view_set: str = "novel", protocol: str = "corrected", **card) -> dict:
    """One value as scores.json has it."""
    names = "full_name version protocol view_set sets n_views against resolution range background model canary"
    names += " weights_sha256 alignment"
    whole = dict.fromkeys(names.split()) | {
        "full_name": metric, "version": 1, "protocol": protocol, "view_set": view_set, "sets": ["ring"], "n_views": 1,
        "against": "truth", "range": "[0, 1]", "background": "white", "libraries": {}, "kernels": {}, "device": "cpu",
        "seconds": 0.0, "time": "2030-01-01T00:00:00+00:00",
    }  # fmt: skip
    images = {"ring/000": number} if view_set == "novel" else {}
    line = {"metric": metric, "protocol": protocol, "view_set": view_set, "value": number, "images": images}
    return line | {"card": whole | card}


def number_of(example: str, method: str, seed: int) -> float:
    return 20 + EXAMPLES.index(example) + 0.5 * seed + (3 if method == "both" else 0)


def table_of(run, columns=("psnr",), **settings):
    return build_table("main", {"title": "Main", "columns": list(columns), **settings}, read_plan(run / "plan.json"))


def summary(table, method="both", column="psnr"):
    return table.summaries["nerf4", method, "fine", parse_column(column)]


def rewrite(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def lines_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))
