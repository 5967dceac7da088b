"""What can go wrong in an evaluation, and the small checks that say so."""

from __future__ import annotations

import json
import os
from pathlib import Path

FETCH = "put it there (config/weights.yaml says where it comes from) and score again"


class EvalError(Exception):
    """Bad input: the message is one sentence that says what is wrong, where, and what to do."""


class MetricGap(Exception):
    """A metric that cannot be computed here (its weights are absent). It is recorded by name, never replaced."""


def first_line(problem: Exception) -> str:
    """What a foreign exception says, as part of one sentence."""
    return f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"


def need_file(path: Path, what: str) -> Path:
    """The path itself if it is a file, else EvalError."""
    if not path.is_file():
        raise EvalError(f"{what} is missing: {path} is not a file")
    return path


def need_folder(path: Path, what: str) -> Path:
    """The path itself if it is a folder, else EvalError."""
    if not path.is_dir():
        raise EvalError(f"{what} is missing: {path} is not a folder")
    return path


def read_json(path: Path, what: str) -> dict:
    """The JSON object in a file; EvalError if it is absent, not JSON, or not an object."""
    need_file(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise EvalError(f"{what} {path} is not valid JSON ({problem}); make it again") from problem
    if not isinstance(content, dict):
        raise EvalError(f"{what} {path} must hold a JSON object, found a {type(content).__name__}")
    return content


def write_atomically(path: Path, text: str) -> None:
    """Write under a temporary name in the same folder, then rename: a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
