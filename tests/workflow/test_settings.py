"""What each setting changes: the jobs that a changed leaf of the configuration makes stale, or the sentence that refuses it.

The leaves and another value for each come from the settings classes, so a new key is tested without being named here.
"""

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from workflow_tree import build, compare_each, write_lines

from magic123.settings.suite import SuiteSettings

EXAMPLE = "cone"
PREPARED, LEARNED = f"prepare {EXAMPLE}", f"invert {EXAMPLE}"
OPTIMISED, SHOWN, SCORED = (
    {f"{rule} {EXAMPLE}/both/{stage}" for stage in ("coarse", "fine")} for rule in ("reconstruct", "view", "score")
)
PLANNED = {"plan demo"}
REFUSED = "refused"
# The jobs that a setting changes by itself; those that need them follow. The longest prefix counts.
CHANGES: dict[str, set[str] | str] = {
    "registries": REFUSED,  # there is no such file
    "datasets_folder": REFUSED,
    "run": REFUSED,  # other names do not exist; what other selections do is tested in test_dag.py
    "run.examples": PLANNED,  # and jobs of other examples
    "run.seeds": PLANNED | OPTIMISED,
    "from_mesh": set(),  # no example here is a mesh
    "prepare": {PREPARED},
    "prepare.depth_weights": REFUSED,
    "prepare.mask_weights": set(),  # no mask is asked of a network here
    "prepare.settings.mask": REFUSED,  # there is no column of masks
    "prepare.settings.depth": REFUSED,
    "invert": {LEARNED},
    "invert.weights": REFUSED,
    "invert.given": REFUSED,
    "view": SHOWN,
    "truth_cameras": REFUSED,
    "score": SCORED,
    "ceilings": REFUSED,
    "compute": set(),  # by design: resources, and rounding
    "compute.dtype": set(),  # float32, which these settings are anyway
}
OTHER = {  # where the type says too little
    "prepare.settings.resolution": 128,
    "invert.settings.templates": ["a {}"],
    "invert.settings.dtype": "float16",
    "score.protocols": ["as-published"],
    "score.weights": ["miniature-clip"],
    "view.sets": {"ring": {"count": 5}},
    "compute.speed.compile": "default",
}


def leaves(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each leaf of a settings class: its path, its type and its default."""
    for name, field in model.model_fields.items():
        path = f"{at}.{name}" if at else name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, path)
        else:
            yield path, field.annotation, field.default


def other(kind: Any, value: Any) -> Any:
    """Another value of a type than `value`."""
    if get_origin(kind) is Annotated:
        return other(get_args(kind)[0], value)
    if get_origin(kind) in (Union, types.UnionType):
        return other(next(part for part in get_args(kind) if part is not type(None)), value)
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if get_origin(kind) is list:
        return [other(get_args(kind)[0], None)]
    if get_origin(kind) is tuple:
        return [0.5, 0.75]
    if kind is bool:
        return not value
    if kind is int:
        return 1 if value is None else value + 1
    if kind is float:
        return 0.5 if value in (None, 0) else value * 0.9
    assert kind is str, kind
    return "another"


def value_in(config: dict, path: str) -> Any:
    for step in path.split("."):
        config = config.get(step, {}) if isinstance(config, dict) else {}
    return config


LEAVES = list(leaves(SuiteSettings))


def prefix_of(path: str) -> str:
    """The key of CHANGES that speaks of a leaf."""
    return max((prefix for prefix in CHANGES if f"{path}.".startswith(f"{prefix}.")), key=len)


def with_what_needs_them(jobs: dict[str, dict], stale: set[str]) -> set[str]:
    """These jobs, and those that need one of them, one after the other."""
    while more := {job for job, about in jobs.items() if stale & set(about["before"])} - stale:
        stale = stale | more
    return stale


def a_change_of_each(tree: Path, paths: list[str]) -> None:
    """Fail where a changed leaf makes other jobs stale than CHANGES says."""
    config = yaml.safe_load((tree / "config" / "config.yaml").read_text())
    kinds = {path: (kind, default) for path, kind, default in LEAVES}
    for path in paths:
        kind, default = kinds[path]
        present = value_in(config, path)
        value = OTHER[path] if path in OTHER else other(kind, default if present == {} else present)
        for step in reversed(path.split(".")):
            value = {step: value}
        write_lines(tree / "config" / f"{path}.yaml", json.dumps(value))
    before, *after = compare_each(tree, ["all", "ceilings"], [f"config/{path}.yaml" for path in ("config", *paths)])
    assert isinstance(before, dict), before
    wrong = {}
    for path, now in zip(paths, after, strict=True):
        if isinstance(now, str):
            assert ("error: " in now or "WorkflowError" in now) and "Traceback (most" not in now, f"{path}: {now}"
            found: set[str] | str = REFUSED
        else:
            stale = {job for job in now.keys() & before if now[job]["compared"] != before[job]["compared"]}
            found = with_what_needs_them(before, stale)
        wanted = CHANGES[prefix_of(path)]
        wanted = wanted if isinstance(wanted, str) else with_what_needs_them(before, wanted)
        if found != wanted:
            wrong[path] = (found, wanted)
    assert not wrong, "\n".join(f"{path}: {found}, not {wanted}" for path, (found, wanted) in wrong.items())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One example and one method of two stages, from a short registry; and the pictures of `ceilings`."""
    root = build(tmp_path)
    entries, short, name = yaml.safe_load((root / "config" / "methods.yaml").read_text()), {}, "both"
    while name:
        short[name] = entries[name]
        name = entries[name].get("extends")
    (root / "config" / "methods.yaml").write_text(yaml.safe_dump(short, sort_keys=False))
    config = yaml.safe_load((root / "config" / "config.yaml").read_text())
    config["run"] |= {"examples": [EXAMPLE], "methods": ["both"]}
    config["ceilings"] = {"datasets": ["demo"]}
    (root / "config" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return root


def test_one_leaf_of_each_kind_of_change(tree: Path) -> None:
    """The rest is for the nightly run: a dry run each."""
    first = {prefix_of(path): path for path, _, _ in reversed(LEAVES)}
    assert first.keys() == CHANGES.keys()
    a_change_of_each(tree, list(first.values()))


@pytest.mark.nightly
def test_every_leaf(tree: Path) -> None:
    a_change_of_each(tree, [path for path, _, _ in LEAVES])
