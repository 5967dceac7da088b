"""The list of methods as Markdown: a description, the method it extends, and every setting that differs from that."""

from __future__ import annotations

import json
from typing import Any

from magic123.settings.common import ABSENT, leaves
from magic123.settings.method import Method


def _leaves_as_json(settings: dict[str, Any]) -> dict[str, str]:
    """Return every setting as JSON by its dotted path."""
    return {path: json.dumps(value) for path, value in leaves(settings).items()}


def differences(method: Method, base: Method) -> list[tuple[str, str, str]]:
    """Return (path, value in the base, value here) for every resolved setting that differs.

    A removed or added stage or prior is a single entry.
    """
    ours, theirs = (_leaves_as_json(side.model_dump(mode="json")["stages"]) for side in (method, base))
    gone = {".".join(at) for at in _subtrees(base) - _subtrees(method)}
    new = {".".join(at) for at in _subtrees(method) - _subtrees(base)}

    def below(path: str, subtrees: set[str]) -> bool:
        return any(path.startswith(f"{subtree}.") for subtree in subtrees)

    changes = [(path, "set", ABSENT) for path in sorted(gone) if not below(path, gone)]
    changes += [(path, ABSENT, _described(path, method)) for path in sorted(new) if not below(path, new)]
    for path in dict.fromkeys([*theirs, *ours]):
        if theirs.get(path) != ours.get(path) and not below(path, gone | new):
            changes.append((path, theirs.get(path, ABSENT), ours.get(path, ABSENT)))
    return changes


def _described(path: str, method: Method) -> str:
    """Return the settings of a new stage or prior that differ from the defaults."""
    stage, _, prior = path.partition(".priors.")
    settings = method.stages[stage].priors[prior] if prior else method.stages[stage]
    return ", ".join(
        f"{at} {value}" for at, value in _leaves_as_json(settings.model_dump(mode="json", exclude_defaults=True)).items()
    )


def _subtrees(method: Method) -> set[tuple[str, ...]]:
    """Return the paths of the parts of a method that `null` can remove as a whole: stages, and their priors."""
    stages: set[tuple[str, ...]] = {(stage,) for stage in method.stages}
    return stages | {(name, "priors", prior) for name, stage in method.stages.items() for prior in stage.priors}


def markdown(methods: dict[str, Method], bases: dict[str, str | None]) -> str:
    """Return the list: a section for each method, in the file's order.

    Args:
        methods: resolved methods by name.
        bases: name of a method -> the method that it extends, or None.
    """
    lines = ["# Methods", "", "Written by `uv run snakemake reports/methods.md` from the resolved settings.", ""]
    for name, method in methods.items():
        lines += [f"## {name}", "", f"**{method.label}**" + (f": {method.about}" if method.about else ""), ""]
        base = bases.get(name)
        if base is None:
            lines += [
                "Extends nothing. Settings that differ from their defaults (magic123/settings/):",
                "",
                "| setting | value |",
                "|---|---|",
            ]
            own = method.model_dump(mode="json", exclude_defaults=True)
            lines += [f"| {path} | {table_cell(value)} |" for path, value in _leaves_as_json(own.get("stages", {})).items()]
            lines.append("")
            continue
        rows = differences(method, methods[base])
        if not rows:
            lines += [f"The same settings as [{base}](#{base}).", ""]
            continue
        lines += [f"| setting | [{base}](#{base}) | {name} |", "|---|---|---|"]
        lines += [f"| {path} | {table_cell(before)} | {table_cell(after)} |" for path, before, after in rows]
        lines.append("")
    return "\n".join(lines)


def table_cell(text: str) -> str:
    """Return the text of a table's cell, with vertical bars escaped."""
    return text.replace("|", "\\|")
