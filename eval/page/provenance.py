"""Where a page comes from: the commit of the working tree and the versions that wrote it."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime

NOT_SOURCES = ":(exclude)reports"  # tables that the run itself rewrites


@dataclass(frozen=True)
class Provenance:
    """`commit` is empty outside a Git checkout, `changed` lists tracked files that differ from it."""

    commit: str
    committed: str
    changed: list[str]
    written: str
    python: str


def _git(*words: str) -> str | None:
    try:
        run = subprocess.run(["git", *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.rstrip("\n") if run.returncode == 0 else None


def provenance() -> Provenance:
    """Of the working directory, now."""
    commit = _git("rev-parse", "HEAD") or ""
    changed = (_git("status", "--porcelain", "--untracked-files=no", "--", ".", NOT_SOURCES) or "") if commit else ""
    return Provenance(
        commit=commit,
        committed=(_git("show", "-s", "--format=%cs", "HEAD") or "") if commit else "",
        changed=[line[3:] for line in changed.splitlines()],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        python=platform.python_version(),
    )
