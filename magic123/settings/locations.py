"""Locate a pydantic error: its path without the tags of unions, and the keys that are known there."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag
from pydantic.fields import FieldInfo


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes that an annotation admits, inside unions but not inside containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []


def _members(annotation: Any) -> dict[str, tuple[Any, str]]:
    """Return the members of a tagged union: tag -> (annotation of the member, the tag in words). Empty for anything else."""
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
    """The location of a pydantic error in the settings."""

    path: tuple  # without the tags of unions
    keys: list[str]  # known keys beside the last step of the path
    below: list[str]  # known keys below the path
    chosen: str  # the last member of a union chosen along the path, in words (" of the kind zero123"), or ""
    description: str | None  # of the setting at the path


def locate(model: Any, location: tuple) -> Location:
    """Follow the location of a pydantic error through the annotations of `model`.

    Args:
        model: the settings class, or union of classes, that was validated.
        location: keys and indices, with the tags that pydantic inserts where a union has chosen one of its members.
    """
    here: Any = model
    path: list[Any] = []
    keys: list[str] = []
    chosen, in_tag, description = "", False, None
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
            continue  # pydantic's name for a member of a plain union
        keys = _keys(here)
        path.append(step)
        fields = [known.model_fields[step] for known in models if step in known.model_fields]
        description = fields[0].description if fields else None
        inner = [_annotation(field) for field in fields]
        inner += [part for container in containers for part in get_args(container)[-1:]]
        here = Union[tuple(inner)] if inner else None  # noqa: UP007
    return Location(tuple(path), keys, _keys(here), chosen, description)


def _keys(annotation: Any) -> list[str]:
    """Return the keys of the settings classes that an annotation admits, each once."""
    return list(dict.fromkeys(name for model in _models(annotation) for name in model.model_fields))


def _annotation(field: FieldInfo) -> Any:
    """Return a field's annotation, including its discriminator, which pydantic moves from there into the field."""
    return Annotated[field.annotation, field] if field.discriminator else field.annotation
