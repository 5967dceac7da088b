"""The provenance of a page: the commit of the working tree, the time and the Python version."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime

NOT_SOURCES = ":(exclude)reports"  # tables that the run itself rewrites


@dataclass(frozen=True)
class Provenance:
    """The state of the code when a page was written.

    Attributes:
        commit: The commit; empty outside a Git checkout.
        committed: Date of the commit.
        changed: Tracked files that differ from the commit.
        written: When the page was written, UTC.
        python: Version of Python.
    """

    commit: str
    committed: str
    changed: list[str]
    written: str
    python: str


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.rstrip("\n") if run.returncode == 0 else None


def provenance() -> Provenance:
    """Describe the checkout in the current folder."""
    commit = _git("rev-parse", "HEAD") or ""
    changed = (_git("status", "--porcelain", "--untracked-files=no", "--", ".", NOT_SOURCES) or "") if commit else ""
    return Provenance(
        commit=commit,
        committed=(_git("show", "-s", "--format=%cs", "HEAD") or "") if commit else "",
        changed=[line[3:] for line in changed.splitlines()],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        python=platform.python_version(),
    )
