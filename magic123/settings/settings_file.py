"""Settings files: `extends`, and errors as one sentence. No torch here: the Snakefile imports this module.

`extends: base` starts from another entry, which may be in any of the files; keys override one by one, lists are replaced
whole, and `null` removes a key of the base. Files laid over each other override entries of the same name in the same way.
Error messages name the file, the full dotted path and the known keys.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from magic123.records.errors import InputError
from magic123.settings.common import STRICT
from magic123.settings.locations import locate
from magic123.settings.stage import Stage
from magic123.settings.yaml_file import read_yaml

Model = TypeVar("Model", bound=BaseModel)
Source = str | Path | Callable[[tuple], str]  # the file, or a function from the path of a setting to its file
Files = str | Path | Sequence[str | Path]  # a file, or files laid over each other, the last one on top

# names become folders, and parts of Snakemake's wildcards
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")
SHOWN = reprlib.Repr()  # of values in error messages
SHOWN.maxstring = SHOWN.maxother = SHOWN.maxlong = 300
SHOWN.maxlist = SHOWN.maxdict = SHOWN.maxtuple = 24
MANY = 24  # largest number of names that a message lists


def named_files(files: Files) -> str:
    """Return the name of a file, or the names of several, for a message."""
    return str(files) if isinstance(files, str | Path) else ", ".join(map(str, files))


class Entries(dict[str, Any]):
    """The entries of settings files laid over each other, by name.

    Mappings of the same name are merged key by key; `null` removes a key of an earlier file.
    """

    def __init__(self, files: Files):
        """Read the files. Raises InputError as `read_yaml`."""
        super().__init__()
        self.file_of: dict[str, str] = {}  # name -> the last file that has it
        for file in [files] if isinstance(files, str | Path) else files:
            read = read_yaml(file)
            self.file_of |= dict.fromkeys(read, str(file))
            laid = _laid_over(self, read)
            self.clear()
            self.update(laid)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `above` laid over `below`. A `null` without anything below it stays, because a base may have the key."""
    laid = dict(below)
    for key, value in above.items():
        if value is None and key in below:
            del laid[key]
        elif isinstance(value, dict) and isinstance(below.get(key), dict):
            laid[key] = _laid_over(below[key], value)
        else:
            laid[key] = value
    return laid


# ---------------------------------------------------------------------------------------------------------- extends
def choose_from(name: object, known: list[str]) -> str:
    """Return what follows an unknown name in a message: the closest known name, and all of them (of many, the closest)."""
    near = difflib.get_close_matches(str(name), known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    if len(known) > MANY:
        listed = difflib.get_close_matches(str(name), known, n=MANY // 2, cutoff=0)
        return f"{guess} (known: {', '.join(listed)} and {len(known) - len(listed)} more)"
    return f"{guess} (known: {', '.join(known) if known else 'none'})"


def merge(base: dict, changes: dict, file: str | Path, at: str) -> dict:
    """Return `base` with `changes` laid over it key by key; `null` removes a key.

    Raises:
        InputError: `null` would remove a key that `base` does not have.
    """
    merged = dict(base)
    for key, value in changes.items():
        here = f"{at}.{key}"
        if value is None:
            if key not in base:
                raise InputError(f"{file}: {here} is null, but there is nothing to remove{choose_from(key, list(base))}.")
            del merged[key]
        elif isinstance(value, dict):
            below = base.get(key)
            merged[key] = merge(below if isinstance(below, dict) else {}, value, file, here)
        else:
            merged[key] = value
    return merged


def resolve_extends(entries: dict[str, Any], default: str | Path, not_inherited: tuple[str, ...] = ()) -> dict[str, dict]:
    """Return all entries with their inherited keys, bases before the entries that extend them.

    Args:
        entries: the mapping of a settings file, or of several.
        default: its path, for error messages about entries whose file is unknown.
        not_inherited: keys that an entry does not take from its base.

    Raises:
        InputError: a base is unknown, entries extend each other in a circle, or an entry is not a mapping.
    """
    resolved: dict[str, dict] = {}
    file_of = entries.file_of if isinstance(entries, Entries) else {}

    def resolve(name: str, chain: tuple[str, ...]) -> dict:
        file = file_of.get(name, default)
        if name in chain:
            circle = " -> ".join((*chain[chain.index(name) :], name))
            raise InputError(f"{file}: {name}.extends goes in a circle ({circle}); remove one of these lines.")
        if name in resolved:
            return resolved[name]
        entry = entries[name]
        if not isinstance(entry, dict):
            raise InputError(f"{file}: {name} must hold keys and values, not a {type(entry).__name__}.")
        changes = {key: value for key, value in entry.items() if key != "extends"}
        base: dict = {}
        if "extends" in entry:
            parent = entry["extends"]
            if parent not in entries:
                raise InputError(
                    f"{file}: {name}.extends names {parent!r}, which is unknown{choose_from(parent, list(entries))}."
                )
            base = {k: v for k, v in resolve(parent, (*chain, name)).items() if k not in not_inherited}
        resolved[name] = merge(base, changes, file, name)
        return resolved[name]

    for name in entries:
        if not isinstance(name, str):  # YAML reads 7, null and yes as something else
            file = file_of.get(name, default)
            raise InputError(f"{file}: the name {name!r} of an entry is a {type(name).__name__}; put it in quotes.")
        resolve(name, ())
    return resolved


# -------------------------------------------------------------------------------------------------------- validation
def check_name(name: object, file: str | Path, at: str, taken: Iterable[str] = ()) -> None:
    """Check a name of a dataset, method, stage, table or set of weights, which becomes the name of folders and files.

    Args:
        name: the name.
        file: the file that contains it, for error messages.
        at: the setting or kind of thing that it names, for error messages.
        taken: names of other folders and files in the same place. Some file systems do not distinguish case.

    Raises:
        InputError: it is not a valid folder name on every system, or would share a folder with one of `taken`.
    """
    if not NAME.fullmatch(str(name)):
        raise InputError(
            f"{file}: {at} {name!r} is not a usable name; use at most 64 letters, digits and . _ -, with a letter or digit "
            "first and no dot last."
        )
    if other := next((other for other in taken if other != name and other.lower() == str(name).lower()), None):
        raise InputError(f"{file}: {at} {name!r} shares a folder with {other!r} where case is ignored; choose another name.")


def check_unreserved(name: str, reserved: Mapping[str, str], file: str | Path, at: str) -> None:
    """Raise InputError if a name is `reserved`, a mapping from names in lower case to what has them."""
    if use := reserved.get(name.lower()):
        raise InputError(f"{file}: {at} {name!r} is the name of {use}; choose another name.")


def validate(model: type[Model], data: Any, file: Source, at: str = "") -> Model:
    """Return `data` as a `model`.

    Raises:
        InputError: `data` does not fit. The message names the file, the dotted path below `at`, what is wrong there and what
            would be right.
    """
    return _validated(model, data, file, at, STRICT)


def stage_record(values: Any, file: Source) -> Stage:
    """Return the stage of a record: its settings as `stage.json` has them, with the keys of all kinds.

    Raises:
        InputError: as `validate`.
    """
    return _validated(Stage, values, file, "", None)


def _validated(model: Any, data: Any, file: Source, at: str, context: dict[str, Any] | None) -> Any:
    """Return `data` as a `model`, a settings class or a union of such. InputError as `validate`."""
    try:
        return TypeAdapter(model).validate_python(data, context=context)
    except ValidationError as error:
        problems = _one_of_a_place(model, error.errors(include_url=False))
        # an unknown key is the likeliest cause of the other errors
        problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        path, keys, below, chosen, description = locate(model, tuple(problem["loc"]))
        dotted = ".".join(str(step) for step in ((at,) if at else ()) + path)
        message = problem["msg"].removeprefix("Value error, ")
        details = problem.get("ctx", {})
        if problem["type"] == "union_tag_not_found" and (wrong := [key for key in problem["input"] if key not in below]):
            what = f"{dotted}{'.' if dotted else ''}{wrong[0]} is not a known setting{choose_from(wrong[0], below)}"
        elif problem["type"] == "extra_forbidden":
            what = f"{dotted} is not a known setting{chosen}{choose_from(path[-1], keys)}"
            what += "; remove it, with null where it is inherited" if chosen else ""
        elif problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
            key = details["discriminator"].strip("'")
            known = [tag.strip("'") for tag in details.get("expected_tags", "").split(", ")]
            unknown = f"is {details.get('tag')!r}{choose_from(details.get('tag'), known)}"
            what = f"{dotted}{'.' if dotted else ''}{key} {unknown if 'tag' in details else 'is missing and has no default'}"
        elif path[-1:] == ("[key]",):  # pydantic's mark for a wrong name in a mapping; the message has the name itself
            path = path[:-1]
            what = f"{dotted.removesuffix('.[key]')}: {message[:1].lower()}{message[1:]}"
        elif problem["type"] == "missing":
            what = f"{dotted} is missing" + (f": {description}" if description else " and has no default")
        elif isinstance(problem["input"], dict):
            what = f"{dotted}: {message}" if dotted else message  # no path: an error about the settings as a whole
        else:
            what = f"{dotted} is {SHOWN.repr(problem['input'])}: " if dotted else ""
            what += f"{message[:1].lower()}{message[1:]}"
        more = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
        raise InputError(f"{file(path) if callable(file) else file}: {what}{more}.") from None


def _one_of_a_place(model: Any, problems: list[Any]) -> list[Any]:
    """Return the problems of a validation, one for each place of a union such as "all" or a list of names.

    A problem inside a member replaces those of the other members; otherwise one message says what each member expects.
    """
    kept: list[Any] = []
    for problem in problems:
        path, before = locate(model, tuple(problem["loc"])).path, locate(model, tuple(kept[-1]["loc"])).path if kept else None
        if kept and before == path and {problem["type"], kept[-1]["type"]} <= {"literal_error", "list_type", "tuple_type"}:
            kept[-1] = kept[-1] | {"msg": f"{kept[-1]['msg']} or {problem['msg'].removeprefix('Input should be ')}"}
        elif kept and kept[-1]["type"] == "literal_error" and before == path[: len(before or ())]:
            kept[-1] = problem
        else:
            kept.append(problem)
    return kept


def load_entries(model: type[Model], files: Files) -> dict[str, Model]:
    """Return the entries of settings files by name, with `extends` resolved. Raises InputError as `validate`."""
    read = Entries(files)
    entries: dict[str, Model] = {}
    for name, data in resolve_extends(read, named_files(files)).items():
        check_name(name, read.file_of[name], "the entry", entries)
        entries[name] = validate(model, data, read.file_of[name], name)
    return entries
