"""JSON schemas of the YAML files in config/, generated from the settings classes, for editors to complete and check.

Entries may be partial: `extends` fills them in, files are laid over each other, and `null` removes an inherited key. So a
schema here requires no key and admits null for every key; unknown keys and wrong types are still marked. Missing keys are
found when the files are loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from magic123.records.files import write_text
from magic123.run.estimate import RecordedTime
from magic123.settings.method import Method
from magic123.settings.registry import Weights
from magic123.settings.suite import SuiteSettings, Table

FOLDER = Path("config/schemas")
ENTRIES = {"methods": Method, "tables": Table, "weights": Weights, "times": RecordedTime}  # files of named entries


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of every kind of settings file: `config` (a run), `methods`, `tables`, `weights`, `times`.

    Returns:
        Name -> JSON schema (draft 2020-12), as plain data.
    """
    made = {"config": _partial(TypeAdapter(SuiteSettings).json_schema())}
    for name, model in ENTRIES.items():
        schema = _partial(TypeAdapter(dict[str, model]).json_schema())  # type: ignore[valid-type]
        entry = schema["$defs"][model.__name__] if model.__name__ in schema.get("$defs", {}) else schema["additionalProperties"]
        entry["properties"]["extends"] = {"type": "string", "description": "the entry to start from"}
        made[name] = schema
    return {name: {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema} for name, schema in made.items()}


def write_schemas(folder: Path = FOLDER) -> list[Path]:
    """Write every schema as `folder`/NAME.json and return the files."""
    files = []
    for name, schema in schemas().items():
        files.append(folder / f"{name}.json")
        write_text(files[-1], json.dumps(schema, indent=1) + "\n")
    return files


def _partial(schema: Any) -> Any:
    """Return a copy of a schema in which no key is required and every value may be null."""
    if isinstance(schema, list):
        return [_partial(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # the key that selects a union's member may be inherited, so any member may fit
    renamed = {
        "anyOf" if key == "oneOf" else key: value for key, value in schema.items() if key not in ("required", "discriminator")
    }
    made = {key: _partial(value) if key != "properties" else value for key, value in renamed.items() if key != "default"}
    if "default" in schema:
        made["default"] = schema["default"]
    if isinstance(schema.get("properties"), dict):
        made["properties"] = {name: _nullable(_partial(value)) for name, value in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _nullable(_partial(schema["additionalProperties"]))
    return made


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that also admits null; title, description and default stay outside the `anyOf`."""
    outside: dict[str, Any] = {key: schema[key] for key in ("title", "description", "default") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    if not inside:
        return outside
    options = inside["anyOf"] if set(inside) == {"anyOf"} else [inside]
    if {"type": "null"} not in options:
        options = [*options, {"type": "null"}]
    return {**outside, "anyOf": options}
