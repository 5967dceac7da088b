"""Settings files: strict YAML, `extends`, and errors as one sentence. No torch here: the Snakefile imports this module.

`extends: base` starts from another entry of the same file; keys override one by one, lists are replaced whole, and `null`
removes a key that the base has. Whatever is wrong is refused with the file, the full dotted path and the keys that would
have been right.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Discriminator, Tag, ValidationError
from pydantic.fields import FieldInfo

from magic123.records.errors import InputError
from magic123.records.results import start_of
from magic123.settings.common import STRICT
from magic123.settings.priors import Zero123Settings
from magic123.settings.stage import SCENE_LACKS, Method

Model = TypeVar("Model", bound=BaseModel)
Source = str | Path | Callable[[tuple], str]  # the file in question, or what tells it from the path of a setting

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # names become folders, and parts of Snakemake's wildcards
MANY = 24  # names that a sentence can still list


class StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML in which a key may stand once only; the plain loader would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. InputError names the file and, for bad YAML, the line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); check the path.") from error
    try:
        data = yaml.load(text, Loader=StrictLoader)  # StrictLoader is a SafeLoader
    except RecursionError as error:
        raise InputError(f"{path}: its lists or mappings are nested too deeply to be settings.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable character'}."
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold keys and values, not a {type(data).__name__}.")
    return data


# ---------------------------------------------------------------------------------------------------------- extends
def choose_from(name: object, known: list[str]) -> str:
    """The tail of a sentence about an unknown name: the nearest known one, and all of them (of many, the nearest)."""
    near = difflib.get_close_matches(str(name), known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    if len(known) > MANY:
        listed = difflib.get_close_matches(str(name), known, n=MANY // 2, cutoff=0)
        return f"{guess}(known: {', '.join(listed)} and {len(known) - len(listed)} more)"
    return f"{guess}(known: {', '.join(known) if known else 'none'})"


def merge(base: dict, changes: dict, file: str | Path, at: str) -> dict:
    """`base` with `changes` laid over it key by key. InputError when `null` would remove what is not there."""
    merged = dict(base)
    for key, value in changes.items():
        here = f"{at}.{key}"
        if value is None:
            if key not in base:
                raise InputError(f"{file}: {here} is null, but there is nothing to remove; {choose_from(key, list(base))}.")
            del merged[key]
        elif isinstance(value, dict):
            below = base.get(key)
            merged[key] = merge(below if isinstance(below, dict) else {}, value, file, here)
        else:
            merged[key] = value
    return merged


def resolve_extends(entries: dict[str, Any], file: str | Path, not_inherited: tuple[str, ...] = ()) -> dict[str, dict]:
    """Every entry with what it inherits filled in, bases before those that extend them.

    Keys named in `not_inherited` belong to their own entry alone. InputError for an unknown base and for a circle.
    """
    resolved: dict[str, dict] = {}

    def resolve(name: str, chain: tuple[str, ...]) -> dict:
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
                    f"{file}: {name}.extends names {parent!r}, which is not here; {choose_from(parent, list(entries))}."
                )
            base = {k: v for k, v in resolve(parent, (*chain, name)).items() if k not in not_inherited}
        resolved[name] = merge(base, changes, file, name)
        return resolved[name]

    for name in entries:
        if not isinstance(name, str):  # YAML reads 7, null and yes as something else
            raise InputError(f"{file}: the name {name!r} of an entry is a {type(name).__name__}; put it in quotes.")
        resolve(name, ())
    return resolved


# -------------------------------------------------------------------------------------------------------- validation
def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes that an annotation admits, inside unions but not inside containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []


def _members(annotation: Any) -> dict[str, tuple[Any, str]]:
    """Return the members of a tagged union: tag -> (annotation of the member, the tag in words). Empty for all else."""
    marks = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    key = next((m.discriminator for m in marks if isinstance(m, FieldInfo | Discriminator) and m.discriminator), None)
    if key is None:
        return {}
    members: dict[str, tuple[Any, str]] = {}
    for member in get_args(get_args(annotation)[0]):
        if isinstance(key, str):
            tags = [tag for model in _models(member) for tag in get_args(model.model_fields[key].annotation)]
            members |= {tag: (member, f" of the {key} {tag}") for tag in tags}
        else:
            tag = next(mark.tag for mark in get_args(member) if isinstance(mark, Tag))
            members[tag] = member, f" {tag}"
    return members


class Location(NamedTuple):
    """Where in the settings a pydantic error is."""

    path: tuple  # without the tags of unions
    keys: list[str]  # that are known where the last step of the path looks
    below: list[str]  # that are known where the path ends
    chosen: str  # the last member of a union that was chosen on the way, as words (" of the kind zero123"), or ""


def locate(model: type[BaseModel], location: tuple) -> Location:
    """Follow the location of a pydantic error through the annotations of `model`.

    Args:
        model: the settings class that was validated.
        location: keys and indices, with the tags that pydantic puts in after a union has chosen one of its members.
    """
    here: Any = model
    path: list[Any] = []
    keys: list[str] = []
    chosen, in_tag = "", False
    for step in location:
        members = _members(here)
        if step in members:
            here, words = members[step]
            chosen, in_tag = (chosen + words if in_tag else words), True
            continue
        in_tag = False
        models = _models(here)
        parts = get_args(here) if get_origin(here) in (Union, types.UnionType) else (here,)
        containers = [part for part in parts if get_origin(part) in (dict, Mapping, list, tuple)]
        if not (models or isinstance(step, int) or any(get_origin(part) in (dict, Mapping) for part in containers)):
            continue  # pydantic's name of a member of a plain union
        keys = _keys(here)
        path.append(step)
        inner = [_annotation(known.model_fields[step]) for known in models if step in known.model_fields]
        inner += [part for container in containers for part in get_args(container)[-1:]]
        here = Union[tuple(inner)] if inner else None  # noqa: UP007
    return Location(tuple(path), keys, _keys(here), chosen)


def _keys(annotation: Any) -> list[str]:
    """Return the keys of the settings classes that an annotation admits, each once."""
    return list(dict.fromkeys(name for model in _models(annotation) for name in model.model_fields))


def _annotation(field: FieldInfo) -> Any:
    """Return a field's annotation, with the discriminator that pydantic moves from there into the field."""
    return Annotated[field.annotation, field] if field.discriminator else field.annotation


def check_name(name: object, file: str | Path, at: str) -> None:
    """InputError unless `name` can be a folder's name."""
    if not NAME.fullmatch(str(name)):
        raise InputError(
            f"{file}: {at} {name!r} is not a usable name; take letters, digits and . _ - only, a letter or digit first."
        )


def validate(model: type[Model], data: Any, file: Source, at: str = "") -> Model:
    """Return `data` as a `model`.

    Raises:
        InputError: `data` does not fit: one sentence with the file, the dotted path below `at`, what is wrong there and what
            would be right.
    """
    try:
        return model.model_validate(data, context=STRICT)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # an unknown key is the likeliest cause of whatever else is wrong
        problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        path, keys, below, chosen = locate(model, tuple(problem["loc"]))
        dotted = ".".join(str(step) for step in ((at,) if at else ()) + path)
        message = problem["msg"].removeprefix("Value error, ")
        context = problem.get("ctx", {})
        if problem["type"] == "union_tag_not_found" and (wrong := [key for key in problem["input"] if key not in below]):
            what = f"{dotted}.{wrong[0]} is not a known setting; {choose_from(wrong[0], below)}"
        elif problem["type"] == "extra_forbidden":
            what = f"{dotted} is not a known setting{chosen}; {choose_from(path[-1], keys)}"
            what += "; remove it, with null where it is inherited" if chosen else ""
        elif problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
            key = context["discriminator"].strip("'")
            known = [tag.strip("'") for tag in context.get("expected_tags", "").split(", ")]
            unknown = f"is {context.get('tag')!r}; {choose_from(context.get('tag'), known)}"
            what = f"{dotted}.{key} {unknown if 'tag' in context else 'is missing and has no default'}"
        elif path[-1:] == ("[key]",):  # pydantic's mark for a wrong name in a mapping; the sentence says the name itself
            path = path[:-1]
            what = f"{dotted.removesuffix('.[key]')}: {message[:1].lower()}{message[1:]}"
        elif problem["type"] == "missing":
            what = f"{dotted} is missing and has no default"
        else:
            # an error about the settings as a whole has no path, and their value would be all of them
            what = f"{dotted} is {problem['input']!r}: " if dotted else ""
            what += f"{message[:1].lower()}{message[1:]}"
        more = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
        raise InputError(f"{file(path) if callable(file) else file}: {what}{more}.") from None


def load_entries(model: type[Model], path: str | Path) -> dict[str, Model]:
    """The named entries of a file, `extends` resolved, each checked."""
    entries = {}
    for name, data in resolve_extends(read_yaml(path), path).items():
        check_name(name, path, "the entry")
        entries[name] = validate(model, data, path, name)
    return entries


# ----------------------------------------------------------------------------------------------------------- methods
def load_methods(path: str | Path) -> dict[str, Method]:
    """All methods of a file, resolved and checked: settings, `extends`, and where every stage starts from."""
    methods: dict[str, Method] = {}
    for name, data in resolve_extends(read_yaml(path), path, not_inherited=("label", "about")).items():
        methods[name] = validate(Method, {"label": name} | data, path, name)
        check_name(name, path, "the method")
        for stage in methods[name].stages:
            check_name(stage, path, f"{name}.stages:")
            if methods[name].renders is None:
                check_kinds(data["stages"][stage], path, f"{name}.stages.{stage}")
    _check_starts(methods, path)
    return methods


def check_kinds(stage: dict[str, Any], file: str | Path, at: str) -> None:
    """InputError where a stage, as its file gives it, sets what its scene or a prior's kind knows nothing of."""
    scene = stage["scene"]
    losses = stage.get("losses", {})
    given = {*stage} | {f"losses.{name}" for name, weight in losses.items() if weight}
    if unknown := sorted(given & SCENE_LACKS[scene]):
        raise InputError(f"{file}: {at}.{unknown[0]} is given, which a {scene} scene knows nothing of; remove it (null).")
    if stage.get("reference_interval") == 0 and (blind := [k for k in ("rgb", "mask", "depth", "normal") if losses.get(k)]):
        raise InputError(
            f"{file}: {at}.losses.{blind[0]} is about the known view, which reference_interval 0 never shows; set it to 0."
        )


def _check_starts(methods: dict[str, Method], file: str | Path) -> None:
    """Every `init` names a stage that exists and has a field, and following them ends."""
    for name, method in methods.items():
        for stage_name, stage in method.stages.items():
            at = f"{name}.stages.{stage_name}"
            if stage.scene == "dmtet" and stage.init is None:
                raise InputError(f"{file}: {at}.init is missing: a dmtet scene starts from a nerf stage; name it.")
            if stage.scene == "points" and stage.init is None:
                raise InputError(f"{file}: {at}.init is missing: points are lifted from a nerf or dmtet stage; name it.")
            if stage.scene == "picture" and stage.steps:
                raise InputError(f"{file}: {at} shows the picture itself, so it takes steps: 0.")
            if stage.scene == "samples" and (
                stage.steps or [type(prior) for prior in stage.priors.values()] != [Zero123Settings]
            ):
                raise InputError(f"{file}: {at} draws its views from one prior of the kind zero123, and takes steps: 0.")
            if stage.scene == "renders" and method.renders is None:
                raise InputError(
                    f"{file}: {at}.scene is renders, which needs no stage: write `renders: FOLDER` in place of stages."
                )
            chain = [(name, stage_name)]
            while (init := methods[chain[-1][0]].stages[chain[-1][1]].init) is not None:
                owner, start = start_of(chain[-1][0], init)
                at = f"{chain[-1][0]}.stages.{chain[-1][1]}.init"
                if owner not in methods:
                    raise InputError(f"{file}: {at} names the method {owner!r}; {choose_from(owner, list(methods))}.")
                if start not in methods[owner].stages:
                    known = list(methods[owner].stages)
                    raise InputError(f"{file}: {at} names {start!r}, not a stage of {owner}; {choose_from(start, known)}.")
                if methods[owner].stages[start].scene in ("picture", "samples", "renders"):
                    raise InputError(f"{file}: {at} names {init!r}, pictures: start from a nerf, dmtet or points stage.")
                if (owner, start) in chain:
                    circle = " -> ".join("/".join(step) for step in [*chain, (owner, start)])
                    raise InputError(f"{file}: {at} goes in a circle ({circle}).")
                chain.append((owner, start))
