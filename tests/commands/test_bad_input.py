"""A command with bad input ends with one sentence, exit status 1, and nothing half-written; what was there before stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from spoiled_inputs import NOTE, options, sound_inputs

from magic123.__main__ import main


def test_sound_inputs_are_accepted(tmp_path):
    """The cases above differ from this run in one thing each."""
    sound_inputs(tmp_path)
    given = ["--mask", tmp_path / "mask.png", "--depth", tmp_path / "depth.npy", "--token", tmp_path / "token.bin"]
    arguments = options(tmp_path / "opaque.png", *given, settings={"mask": "file", "depth": "file"})
    assert main(["prepare", *arguments, "--out", str(tmp_path / "example")]) == 0


def test_a_folder_with_other_files_is_not_replaced(tmp_path, capsys):
    sound_inputs(tmp_path)
    kept = tmp_path / "holiday"
    kept.mkdir()
    (kept / "letter.txt").write_text("dear")
    assert main(["prepare", *options(tmp_path / "image.png"), "--out", str(kept)]) == 1
    assert "so it is not replaced" in capsys.readouterr().err
    assert [file.name for file in kept.iterdir()] == ["letter.txt"]


def test_an_earlier_example_is_kept_after_a_failure_and_replaced_after_a_success(tmp_path):
    sound_inputs(tmp_path)
    out = tmp_path / "example"
    assert main(["prepare", *options(tmp_path / "image.png"), "--out", str(out)]) == 0
    before = (out / "example.json").read_bytes()
    assert main(["prepare", *options(tmp_path / "absent.png"), "--out", str(out)]) == 1
    assert (out / "example.json").read_bytes() == before
    assert main(["prepare", *options(tmp_path / "image.png", name="second"), "--out", str(out)]) == 0
    assert json.loads((out / "example.json").read_text())["name"] == "second"
    assert sorted(file.name for file in out.iterdir()) == ["example.json", "qa.json", "qa.png", "rgba.png"]
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == [NOTE]


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch, capsys):
    sound_inputs(tmp_path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("magic123.example.prepare.draw", full_disk)
    assert main(["prepare", *options(tmp_path / "image.png"), "--out", str(tmp_path / "results" / "example")]) == 1
    error = capsys.readouterr().err
    assert "results/example: No space left on device (it needs more than 0.0 MB" in error and "; make room" in error
    assert [file.name for file in (tmp_path / "results").iterdir()] == [NOTE]


def test_a_closed_output_pipe_is_no_error(repository):
    """As in `magic123 estimate | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "magic123", "estimate"], cwd=repository, stdout=writing, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writing)
    assert run.returncode == 1 and "Traceback" not in run.stderr and "BrokenPipe" not in run.stderr


@pytest.mark.parametrize("arguments", [[], ["prepair"]])
def test_unknown_command_lists_the_commands(arguments, capsys):
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    for command in ("prepare", "invert", "reconstruct", "view"):
        assert command in said


def test_as_a_process(tmp_path):
    """In a process of its own: exit status 1, one line on stderr, nothing on stdout."""
    arguments = ["--image", str(tmp_path / "absent.png"), "--name", "x", "--prompt", "x", "--out", str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "magic123", "prepare", *arguments], capture_output=True, text=True, cwd=root, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and "absent.png" in done.stderr
