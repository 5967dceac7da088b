"""`magic123 table`, and the tables that config/tables.yaml declares."""

import csv
import json
import subprocess

import pytest
import yaml
from result_tables import REPORTED, TABLES

from eval.__main__ import main
from eval.tables.plan import parse_column


@pytest.mark.parametrize("name", sorted(yaml.safe_load(TABLES.read_text())))
def test_declared_tables_have_columns_and_rows_that_exist(name):
    from magic123.settings.method import load_methods
    from magic123.settings.settings_file import resolve_extends

    methods = load_methods([str(TABLES.with_name(name)) for name in ("methods.yaml", "effects-methods.yaml")])
    table = resolve_extends(yaml.safe_load(TABLES.read_text()), TABLES)[name]
    assert len({parse_column(key) for key in table["columns"]}) == len(table["columns"])
    rows = [tuple(row) for row in table.get("rows", [])]
    for method, stage in rows:
        assert stage in methods[method].stages
    if "baseline" in table:
        assert not rows or tuple(table["baseline"]) in rows
        assert table["baseline"][1] in methods[table["baseline"][0]].stages


def test_command_writes_every_file(run, capsys):
    (run / "cup/both/1/scores.json").unlink()
    settings = json.dumps({"title": "T", "columns": ["psnr", "chamfer"], "reported": True})
    words = [
        "table",
        "--plan",
        run / "plan.json",
        "--settings",
        settings,
        "--reported",
        REPORTED,
        "--out",
        run / "reports/main",
    ]
    assert main([str(word) for word in words]) == 0
    names = {path.name for path in (run / "reports").iterdir()}
    suffixes = (
        ".csv",
        "-cells.csv",
        "-differences.csv",
        "-pairs.csv",
        "-ranks.csv",
        "-flags.csv",
        "-cards.json",
        ".md",
        ".tex",
        ".html",
    )
    assert names == {f"main{suffix}" for suffix in suffixes}
    with (run / "reports/main.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    header = ["dataset", "method", "stage", "metric", "protocol", "view_set", "mean", "sd", "n", "planned", "seeds"]
    assert list(lines[0]) == header and len(lines) == 4
    first = next(line for line in lines if (line["method"], line["metric"]) == ("both", "psnr"))
    assert (first["n"], first["planned"], first["seeds"]) == ("5", "6", "2")
    empty = next(line for line in lines if (line["method"], line["metric"]) == ("one_prior", "chamfer"))
    assert (empty["mean"], empty["sd"], empty["n"]) == ("", "", "0")
    with (run / "reports/main-cells.csv").open(newline="") as stream:
        cells = list(csv.DictReader(stream))
    assert len(cells) == 2 * 2 * 3 * 2
    gone = [c for c in cells if c["status"] == "missing"]
    assert {(c["example"], c["method"], c["seed"], c["value"]) for c in gone} == {("cup", "both", "1", "")}

    words = ["difference", "--cells", run / "reports/main-cells.csv", "--dataset", "nerf4", "--metric", "psnr"]
    assert main([str(word) for word in [*words, "both/fine", "one_prior/fine"]]) == 0
    assert "+3.0000, 95% [+3.0000, +3.0000]" in capsys.readouterr().out
    assert main([str(word) for word in [*words, "both/fine", "ghost/fine"]]) == 1


def test_command_ends_with_one_sentence(run, capsys):
    for settings in ("{", "[]", json.dumps({"columns": ["beauty"]})):
        words = ["table", "--plan", str(run / "plan.json"), "--settings", settings, "--out", str(run / "t")]
        assert main(words) == 1
        sentence = capsys.readouterr().err
        assert sentence.startswith("error: ") and sentence.count("\n") == 1
    assert not list(run.glob("t*"))


def test_tables_import_no_network():
    import sys

    code = "import eval.tables.build, eval.tables.layout, sys; print('torch' in sys.modules or 'pandas' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
