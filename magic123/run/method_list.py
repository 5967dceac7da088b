"""The list of methods as Markdown: what each is, what it extends, and every setting in which it differs from that.

`magic123 methods --methods config/methods.yaml --out reports/methods.md`
"""

from __future__ import annotations

import json
from typing import Any

from magic123.settings.stage import Method

ABSENT = "absent"


def leaves(settings: Any, path: str = "") -> dict[str, str]:
    """Every setting by its dotted path, as JSON. Empty mappings count as nothing."""
    if not isinstance(settings, dict):
        return {path: json.dumps(settings)}
    found: dict[str, str] = {}
    for key, value in settings.items():
        found |= leaves(value, f"{path}.{key}" if path else str(key))
    return found


def differences(method: Method, base: Method) -> list[tuple[str, str, str]]:
    """(path, in the base, here) of every resolved setting that differs. A stage or a prior gone or new is one line."""
    ours, theirs = (leaves(one.model_dump(mode="json")["stages"]) for one in (method, base))
    gone, new = ({".".join(at) for at in _subtrees(one) - _subtrees(other)} for one, other in ((base, method), (method, base)))

    def below(path: str, subtrees: set[str]) -> bool:
        return any(path.startswith(f"{subtree}.") for subtree in subtrees)

    found = [(path, "set", ABSENT) for path in sorted(gone) if not below(path, gone)]
    found += [(path, ABSENT, _described(path, method)) for path in sorted(new) if not below(path, new)]
    for path in dict.fromkeys([*theirs, *ours]):
        if theirs.get(path) != ours.get(path) and not below(path, gone | new):
            found.append((path, theirs.get(path, ABSENT), ours.get(path, ABSENT)))
    return found


def _described(path: str, method: Method) -> str:
    """A new stage or prior: what in it is not as by default."""
    stage, _, prior = path.partition(".priors.")
    settings = method.stages[stage].priors[prior] if prior else method.stages[stage]
    return ", ".join(f"{at} {value}" for at, value in leaves(settings.model_dump(mode="json", exclude_defaults=True)).items())


def _subtrees(method: Method) -> set[tuple[str, ...]]:
    """The parts of a method that `null` can remove whole: stages, and their priors."""
    found: set[tuple[str, ...]] = {(stage,) for stage in method.stages}
    return found | {(name, "priors", prior) for name, stage in method.stages.items() for prior in stage.priors}


def markdown(methods: dict[str, Method], bases: dict[str, str | None]) -> str:
    """One section a method, in the file's order."""
    lines = ["# Methods", "", "Written by `uv run snakemake reports/methods.md` from the resolved settings.", ""]
    for name, method in methods.items():
        lines += [f"## {name}", "", f"**{method.label}**" + (f": {method.about}" if method.about else ""), ""]
        base = bases.get(name)
        if base is None:
            lines += [
                "Extends nothing. What is not as by default (magic123/settings/):",
                "",
                "| setting | value |",
                "|---|---|",
            ]
            own = method.model_dump(mode="json", exclude_defaults=True)
            lines += [f"| {path} | {_cell(value)} |" for path, value in leaves(own.get("stages", {})).items()]
            lines.append("")
            continue
        rows = differences(method, methods[base])
        if not rows:
            lines += [f"The same settings as [{base}](#{base}).", ""]
            continue
        lines += [f"| setting | [{base}](#{base}) | {name} |", "|---|---|---|"]
        lines += [f"| {path} | {_cell(before)} | {_cell(after)} |" for path, before, after in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A table's cell: its bars are no borders."""
    return text.replace("|", "\\|")
