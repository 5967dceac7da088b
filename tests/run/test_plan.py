"""The plan of a table: the whole grid, and what failed in it."""

import json
from pathlib import Path

from magic123.run.plan import axes_of, cells, last_error, note_failures


def test_plan_is_the_whole_grid(suite_of) -> None:
    suite = suite_of("run: {methods: [both, copy-reference], seeds: [0, 5], examples: [dog, house]}")
    planned = cells(axes_of(suite, "demo"))
    assert len(planned) == 3 * 2 * 2  # rows, examples, seeds
    assert planned[0] == {
        "dataset": "demo", "example": "dog", "method": "both", "label": "both priors", "stage": "coarse", "seed": 0,
        "path": "results/demo/dog/both/seed0/coarse",
    }  # fmt: skip
    assert len({cell["path"] for cell in planned}) == len(planned)


def test_failures_are_told_from_what_was_never_reached(suite_of) -> None:
    suite = suite_of("run: {methods: [both, 3d-prior-only], examples: [dog]}")
    axes = axes_of(suite, "demo")
    log = Path("logs/demo/dog/both/seed0/coarse/reconstruct.log")
    log.parent.mkdir(parents=True)
    log.write_text("step 3\nerror: the gradient is not finite\n")
    unfinished = {f"{cell['path']}/scores.json" for cell in cells(axes)}
    notes = {(cell["method"], cell["stage"]): Path(cell["path"]) / "status.json" for cell in note_failures(axes, unfinished)}
    for stage in ("coarse", "fine"):  # fine starts from coarse, so that is why there is no fine
        note = json.loads(notes["both", stage].read_text())
        assert note == {
            "status": "failed",
            "reason": "reconstruct: the gradient is not finite",
            "step": "reconstruct",
            "log": str(log),
        }
    assert not notes["3d-prior-only", "coarse"].exists()
    finished = note_failures(axes, set())
    assert finished == cells(axes)


def test_last_error(tmp_path: Path) -> None:
    log = tmp_path / "view.log"
    for text, found in (
        ("all well\n", None),
        ("", None),
        ("error: once\nthen well\n", None),
        ("warming up\nerror: no mesh\n\n", "view: no mesh"),
        ("Traceback (most recent call last):\n  File x\nValueError: bad\n", "view: ValueError: bad"),
    ):
        log.write_text(text)
        assert last_error(log) == found
    assert last_error(tmp_path / "absent.log") is None
