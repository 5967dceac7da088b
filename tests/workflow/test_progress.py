"""The output of a run: progress bars on a terminal, Snakemake's text otherwise, and the location of the results."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from workflow_tree import build, snakemake, write_lines

RUN = ["--cores", "2", "--configfile", "config/small.yaml"]


def small_tree(root: Path) -> Path:
    tree = build(root)
    write_lines(
        tree / "config/small.yaml",
        "run: {datasets: [demo], examples: [cone], methods: [copy-reference], seeds: [0], tables: [demo]}",
    )
    return tree


def on_terminal(folder: Path, *words: str) -> tuple[int, str]:
    """Run Snakemake with a terminal as its output; return the exit status and what was shown."""
    master, terminal = pty.openpty()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "snakemake", *words]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux reports the end of a terminal's output so
            break
        if not part:
            break
        shown += part
    os.close(master)
    return process.wait(), shown.decode("utf-8", "replace")


def test_bars_on_a_terminal_and_the_text_in_the_log_file(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    code, shown = on_terminal(tree, *RUN)
    assert code == 0, shown
    assert "Workflow Progress" in shown and "Total Progress" in shown and "100%" in shown
    assert "reports/demo.html" in shown and "reports/demo-report.html" in shown
    assert "rule score:" not in shown
    (log,) = (tree / ".snakemake/log").glob("*.snakemake.log")
    assert "rule score:" in log.read_text()


def test_a_failed_job_is_named_on_a_terminal_with_its_log(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    program = tree / "magic123/__main__.py"
    program.write_text(
        program.read_text().replace(
            'elif command == "score":', 'elif command == "score":\n    sys.exit("error: the ground truth is missing")'
        )
    )
    code, shown = on_terminal(tree, *RUN)
    assert code == 1
    assert "Failed" in shown and "score" in shown and "error: the ground truth is missing" in shown


def test_text_without_a_terminal(tmp_path: Path) -> None:
    run = snakemake(small_tree(tmp_path), *RUN)
    assert run.returncode == 0, run.text
    assert "rule score:" in run.text and "Total Progress" not in run.text
    assert "reports/demo.html" in run.text and "reports/demo-report.html" in run.text
