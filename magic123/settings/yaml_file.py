"""Strict YAML: what the plain reader would misread is refused, with its line. No torch: the Snakefile imports this module."""

from __future__ import annotations

import json
import re
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from magic123.records.errors import InputError

DEEPEST = 40  # levels of nested lists and mappings

if TYPE_CHECKING:
    SafeLoader = yaml.SafeLoader
else:
    SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C library's where PyYAML has it


class Misread(yaml.constructor.ConstructorError):
    """Valid YAML that YAML 1.1 reads as something other than what it looks like."""

    def __init__(self, node: yaml.Node, problem: str):
        super().__init__(None, None, problem, node.start_mark)


class StrictLoader(SafeLoader):
    """A YAML loader that refuses what the plain loader would silently misread.

    That is: repeated keys, of which it would keep the last; keys such as `no` and `1`, which it would not read as text; numbers
    with a leading zero, which are octal; 1:30, which is 90; and dates.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return a mapping. Raises ConstructorError for a repeated key, or one that is not text."""
        seen: set = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} appears twice", key_node.start_mark)
            kind = KEYS.get(key_node.tag.rpartition(":")[2])
            if kind:
                raise Misread(key_node, f"YAML reads the key {key or '(empty)'} as {kind}; put it in quotes")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """Return a number. Raises Misread for octal and sexagesimal notation."""
        text = str(node.value)
        read = self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)
        if ":" in text:
            raise Misread(node, f"YAML reads {text} as the number {read}, to base 60; put it in quotes, or write the number")
        if re.fullmatch(r"[-+]?0[0-9_]+", text):
            raise Misread(node, f"YAML reads {text} as octal, {read}; write it without the leading zero, or put text in quotes")
        return read

    def construct_date(self, node: yaml.ScalarNode) -> Any:
        """Raise Misread: no setting is a date."""
        raise Misread(node, f"YAML reads {node.value} as a date; put it in quotes")


KEYS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}
StrictLoader.add_constructor("tag:yaml.org,2002:int", StrictLoader.construct_number)
StrictLoader.add_constructor("tag:yaml.org,2002:float", StrictLoader.construct_number)
StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", StrictLoader.construct_date)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file.

    Raises:
        InputError: the file cannot be read, is not valid, or holds something that YAML would misread (the message names the
            line).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); check the path.") from error
    try:
        if str(path).endswith(".json"):  # as Snakemake reads it; JSON may contain tabs, YAML may not
            data = json.loads(text, object_pairs_hook=_once)
        else:
            data = yaml.load(text, Loader=StrictLoader)  # StrictLoader is a SafeLoader
        if _height(data, {}) > DEEPEST:
            raise RecursionError
    except RecursionError as error:
        raise InputError(f"{path}: its lists or mappings are nested too deeply to be settings.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable character"
        what = problem if isinstance(error, Misread) else f"not valid YAML: {problem}"
        raise InputError(f"{path}{line}: {what}.") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold keys and values, not a {type(data).__name__}.")
    if "__use_yte__" in data:
        raise InputError(
            f"{path}: has __use_yte__, which makes its expressions code that Snakemake runs; "
            "write plain values, and remove the key."
        )
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of a JSON file. Raises ValueError for a repeated key."""
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} appears twice")
    return read


def _height(value: Any, known: dict[int, float], above: int = 0) -> float:
    """Return how deeply lists and mappings are nested in a value. Aliases of one object are visited once.

    Args:
        value: a value of a YAML file; one that contains itself is infinitely deep.
        known: heights of the objects visited so far, by identity.
        above: number of lists and mappings around the value.
    """
    if not isinstance(value, dict | list):
        return 0
    if above > DEEPEST:
        return inf
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + max((_height(part, known, above + 1) for part in parts), default=0)
    return known[id(value)]
