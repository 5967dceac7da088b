"""Base classes of all settings.

Angles are degrees, lengths are world units (the object lies in the cube [-1, 1]^3), weights multiply summed gradients (priors)
or mean losses. Defaults are those of Magic123's published code (coarse stage) unless a comment says otherwise.
No module of `settings` imports torch: the Snakefile imports them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import to_jsonable_python

Range = tuple[float, float]
ABSENT = "absent"  # how messages and lists call a setting that one of two sides does not have


def leaves(settings: Any, path: str = "") -> dict[str, Any]:
    """Return every setting of a mapping by its dotted path, which starts with `path`; an empty mapping has none."""
    if not isinstance(settings, dict):
        return {path: settings}
    values: dict[str, Any] = {}
    for key, value in settings.items():
        values |= leaves(value, f"{path}.{key}" if path else str(key))
    return values


def _takes_truth(annotation: Any) -> bool:
    """Return whether a type, or a part of it, is bool or a class that checks its own values."""
    if annotation in (bool, Any) or isinstance(annotation, bool):
        return True
    return (isinstance(annotation, type) and issubclass(annotation, BaseModel)) or any(map(_takes_truth, get_args(annotation)))


def _has_truth(value: Any, levels: int = 4) -> bool:
    """Return whether a YAML value is true or false, or contains one within `levels` levels of lists and mappings."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or (levels > 0 and any(_has_truth(part, levels - 1) for part in parts))


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, numbers are finite, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        """Refuse true and false where a number or text is wanted; pydantic would take them for 1 and 0."""
        for name, field in cls.model_fields.items():
            if isinstance(values, dict) and _has_truth(value := values.get(name)) and not _takes_truth(field.annotation):
                raise ValueError(
                    f"{name} is {value}, which is neither a number nor text (YAML reads yes, no, on and off as true and false)"
                )
        return values


class Growth(Settings):
    """A share that grows over a stage: `start` at its first step, 1 once the share `until` of its steps is done."""

    start: float = Field(ge=0, le=1)
    until: float = Field(gt=0, le=1)

    def at(self, progress: float) -> float:
        """Return the share after `progress`, in [0, 1], of the stage's steps: linear until it is 1."""
        return min(1.0, self.start + (1 - self.start) * progress / self.until)


STRICT = {"strict_keys": True}  # validation context: a key of another kind is refused whatever its value
OMITTED = object()  # see KindSettings.recorded


def is_strict(info: ValidationInfo) -> bool:
    """Return whether settings are validated in the context STRICT, as settings files are."""
    return bool(info.context and info.context.get("strict_keys"))


class KindSettings(Settings):
    """Base of the settings of one kind among several, such as priors.

    Records (stage.json, and what Snakemake compares between runs) list the keys of all kinds, as they did when all kinds
    shared one class, so that earlier results stay up to date. `recorded` lists these keys in order, each with the value that
    records of kinds without the key have. A key that is OMITTED is left out of these records, and of the others where it has
    its default. Keys that are not in `recorded` come first.
    """

    recorded: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_recorded(cls, values: Any, info: ValidationInfo) -> Any:
        """Drop the keys that a record lists for other kinds, unless the validation context is STRICT."""
        if not isinstance(values, dict) or is_strict(info):
            return values
        plain = partial(to_jsonable_python, fallback=str)
        foreign = {key: plain(value) for key, value in cls.recorded.items() if key not in cls.model_fields}
        return {key: value for key, value in values.items() if key not in foreign or plain(value) != foreign[key]}

    @model_serializer(mode="wrap")
    def _as_recorded(self, serialize: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Serialize with the keys of all kinds, in the order of records."""
        values, own = serialize(self), type(self).model_fields
        written: dict[str, Any] = {}
        for key, value in self.recorded.items():
            if key in values and not (value is OMITTED and getattr(self, key) == own[key].default):
                written[key] = values[key]
            elif key not in own and value is not OMITTED and not _left_out(key, value, info):
                written[key] = value
        return {key: value for key, value in values.items() if key not in self.recorded} | written


def _left_out(key: str, value: Any, info: SerializationInfo) -> bool:
    """Return whether the options of `model_dump` leave out a key that the model does not have."""
    return (
        info.exclude_defaults
        or info.exclude_unset
        or (info.exclude_none and value is None)
        or (info.exclude is not None and key in info.exclude)
        or (info.include is not None and key not in info.include)
    )
