"""The content of scores.json: values, each with a card of how it was measured. It is read and written through one schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, model_validator

from magic123.records.errors import InputError
from magic123.records.files import read_json, write_text
from magic123.records.notes import Notes

SCHEMA = "scores/1"
ViewSet = Literal["reference", "novel", "all"]


class Strict(BaseModel):
    """A record that is immutable and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricCard(Strict):
    """Everything a reader needs to reproduce a number. A card is complete or refused: no field has a default."""

    full_name: str  # what is compared, model, weights, size, background, version
    version: int
    protocol: str
    view_set: ViewSet
    sets: list[str]  # the folders of views that were measured
    n_views: int
    against: str  # what the views are compared with
    resolution: int | None  # side of the compared images in pixels; None for meshes
    range: str
    background: str
    model: str | None
    weights_sha256: str | None
    canary: str | None
    libraries: dict[str, str]
    kernels: dict[str, str]  # which implementations rendered the views; empty if that is not recorded
    device: str
    seconds: float
    time: str  # UTC, ISO 8601
    # how another system's mesh was brought into this frame (align, method, frame, transform, residual); None: not needed
    alignment: dict[str, Any] | None


class Value(Strict):
    """One number. Only as-published (CLIP similarity) and syncdreamer mix `reference` with `novel` views."""

    metric: str
    protocol: str
    view_set: ViewSet
    value: FiniteFloat
    images: dict[str, FiniteFloat]  # the value of each image before averaging, by "set/index"; empty for meshes
    card: MetricCard

    @model_validator(mode="after")
    def _agrees_with_its_card(self) -> Value:
        if (self.card.protocol, self.card.view_set) != (self.protocol, self.view_set):
            raise ValueError(f"{self.metric}: the card's protocol and view set differ from the value's")
        if self.view_set == "novel" and any(name.startswith("reference/") for name in self.images):
            raise ValueError(f"{self.metric}: a reference view is counted as novel")
        if self.view_set == "reference" and any(not name.startswith("reference/") for name in self.images):
            raise ValueError(f"{self.metric}: a novel view is counted as reference")
        if self.view_set == "all" and self.protocol not in ("as-published", "syncdreamer"):
            raise ValueError(f"{self.metric}: only as-published and syncdreamer mix the reference view with novel ones")
        return self


class Made(Strict):
    """How the result was made, from its stage.json."""

    seed: int
    determinism: str  # strict: the same bytes on the same machine; seeded: the same seed, with a spread; free
    device: str
    kernels: dict[str, str]
    versions: dict[str, str]


class Gap(Strict):
    """A requested metric that could not be computed, and why."""

    metric: str
    reason: str


class Flag(Strict):
    """One known failure mode: the measured number, the threshold, and whether the flag is raised."""

    name: str
    state: Literal["raised", "clear", "not measured"]
    number: FiniteFloat | None  # None where it could not be measured
    threshold: FiniteFloat
    meaning: str  # of the number and of the threshold
    reason: str = ""  # why it was not measured

    @model_validator(mode="after")
    def _agrees_with_its_number(self) -> Flag:
        if (self.number is None) != (self.state == "not measured") or (self.number is None) != bool(self.reason):
            raise ValueError(f"{self.name}: a flag has a number, or a reason why it was not measured")
        return self


class Scores(Strict):
    """The content of scores.json."""

    scheme: Literal["scores/1"]
    values: list[Value]
    gaps: list[Gap]
    left_out: list[str]  # views whose camera is the reference's, which are not novel
    flags: list[Flag] = []  # empty in scores of earlier versions
    made: Made | None = None  # None: made elsewhere, or scored without its stage.json
    notes: Notes | None = None  # notes.json of another system's program; None: it wrote none

    @model_validator(mode="after")
    def _each_once(self) -> Scores:
        keys = [(value.metric, value.protocol, value.view_set) for value in self.values]
        if len(keys) != len(set(keys)):
            raise ValueError("the same metric, protocol and view set twice")
        return self


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores as JSON, complete or not at all."""
    write_text(path, json.dumps(scores.model_dump(), indent=1) + "\n")


def read_scores(path: Path) -> Scores:
    """Read and validate scores.

    Raises:
        InputError: the file is missing or does not fit the schema; the message names the first field that is wrong.
    """
    content = read_json(path, "scores")
    try:
        return Scores.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} does not fit the schema {SCHEMA}: {field or 'whole'}: {first['msg']}; score it again"
        ) from problem
