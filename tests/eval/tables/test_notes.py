"""What stands under a table: flags, cards and gaps."""

import json

import pytest
from result_tables import lines_of, rewrite, table_of

from eval.tables.column_cards import cards_json
from eval.tables.flag_table import flag_notes, flags_csv
from eval.tables.layout import html, latex, markdown


def flag(name: str, state: str, number: float | None) -> dict:
    reason = "no depth map" if number is None else ""
    return {"name": name, "state": state, "number": number, "threshold": 0.5, "meaning": "m", "reason": reason}


def test_raised_flags_are_listed_and_named_under_the_table(run):
    assert flag_notes(table_of(run)) == []  # scored before there were flags
    for file in run.glob("*/*/*/scores.json"):
        rewrite(file, lambda content: content.update(flags=[flag("floaters", "clear", 0.1)]))
    assert flag_notes(table_of(run)) == ["No quality flag is raised in 12 results."]
    spoiled = [flag("floaters", "raised", 0.7), flag("concave-front", "not measured", None)]
    rewrite(run / "cup/both/1/scores.json", lambda content: content.update(flags=spoiled))
    table = table_of(run)
    for markup in (markdown(table, []), latex(table, []), html(table, [])):
        assert "Flag floaters raised: nerf4 both/fine (cup seed 1)." in markup.replace("\\", "")
        assert "concave-front in 1 of 12 results" in markup
    lines = lines_of(flags_csv(table))
    assert len(lines) == 13
    raised = next(line for line in lines if line["state"] == "raised")
    assert (raised["example"], raised["method"], raised["flag"], raised["number"]) == ("cup", "both", "floaters", "0.7")
    assert next(line for line in lines if line["state"] == "not measured")["reason"] == "no depth map"


@pytest.mark.requirement(id="R8")
def test_cards_of_the_columns_say_over_what(run):
    made = {"seed": 1, "determinism": "strict", "device": "cpu", "kernels": {"rasterizer": "numba"}, "versions": {}}
    for file in run.glob("*/*/1/scores.json"):
        rewrite(file, lambda content: content.update(made=made))
    (run / "cup/both/1/scores.json").unlink()
    rewrite(run / "cup/both/0/scores.json", lambda content: content["values"][0]["card"].update(device="cuda"))
    first, second = json.loads(cards_json(table_of(run, ["psnr", "chamfer"])))["columns"]
    assert (first["metric"], first["n"], first["planned"], first["seeds"]) == ("psnr", 11, 12, [0, 1])
    assert set(first["device"]) == {"cpu", "cuda"} and first["background"] == ["white"]
    assert first["determinism"] == ["strict"] and first["reconstruction_kernels"] == [{"rasterizer": "numba"}]
    assert (second["n"], second["planned"]) == (5, 12)
    for key in ("full_name", "weights_sha256", "libraries", "kernels", "resolution", "range", "n_views", "model", "time"):
        assert key in first


def test_gaps_of_what_a_missing_model_would_have_measured(run):
    table = table_of(run, ["r-precision-B-32", "consistency-clip-B-32", "psnr-shaded"])
    reasons = {entry.column.metric: entry.reason for entry in table.entries}
    assert reasons["r-precision-B-32"] == reasons["consistency-clip-B-32"] == "needs CLIP weights at w, run it"
    assert reasons["psnr-shaded"] == "there are no shaded renders"
