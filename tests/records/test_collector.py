"""The garbage collector waits while a command starts, not in its loop, and has nothing to search when it ends."""

import gc
import subprocess
import sys

from repository_paths import REPOSITORY

from magic123.records.collector import USUAL, collect_as_usual, collect_rarely


def test_rarely_and_as_usual():
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.get_threshold()[0] > 10 * USUAL[0] and gc.get_threshold()[1:] == USUAL[1:]
        collect_as_usual()
        assert gc.get_threshold() == USUAL
    finally:
        gc.set_threshold(*before)


def test_a_process_collects_rarely_while_it_starts_and_a_caller_in_python_as_before():
    program = (
        "import gc, sys; from magic123.__main__ import main\n"
        "main(['nothing']); print(gc.get_threshold()[0], gc.get_freeze_count() > 0)\n"
        "sys.argv = ['magic123', 'nothing']; main(); print(gc.get_threshold()[0], gc.get_freeze_count() > 0)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [f"{USUAL[0]} False", "200000 True"]
