"""What a program says of its own result: short texts and numbers by name, and nothing else."""

import json
from pathlib import Path

import pytest

from magic123.records.errors import InputError
from magic123.records.notes import LONGEST, MOST, read_notes


def test_notes_are_texts_and_numbers(tmp_path: Path) -> None:
    assert read_notes(tmp_path) is None
    notes = {"object": 17, "similarity": 0.25, "name": "a red dog", "exact": True}
    (tmp_path / "notes.json").write_text(json.dumps(notes))
    assert read_notes(tmp_path) == notes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must hold a JSON object"),
        ('{"a": {"b": 1}}', "'a' is neither a text nor a finite number"),
        ('{"a": null}', "'a' is neither"),
        ('{"a": NaN}', "'a' is neither"),
        (json.dumps({"a": "x" * (LONGEST + 1)}), f"'a' takes more than {LONGEST} characters"),
        (json.dumps({f"name {i}": i for i in range(MOST + 1)}), f"has {MOST + 1} entries"),
    ],
)
def test_other_notes_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "notes.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_notes(tmp_path)
