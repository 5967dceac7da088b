"""A stored answer beside the weights: a few fixed pairs of pictures and what the model said about them.

A model with random weights, another activation or inputs in another range loads without an error and gives other
numbers. The canary is written once, when the weights are made or fetched, and compared each time they are used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Protocol

import numpy as np

from magic123.records.errors import InputError
from magic123.records.files import read_json, write_text

TOLERANCE = 1e-3  # relative to the length of the stored answers
SIDE = 64


class Scorer(Protocol):
    """A loaded model that can be asked about the canary pictures."""

    name: str
    file: Path
    sha256: str

    def answers(self, first: list[np.ndarray], second: list[np.ndarray]) -> list[float]:
        """What the model says about pairs of pictures, by the same path as in scoring; whatever changes if it changes."""


def canary_pairs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Four pairs of [64, 64, 3] uint8 pictures in closed form: moved, recoloured, inverted, unrelated."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1.0)

    def disc(cx: float, cy: float, colour: tuple[float, float, float]) -> np.ndarray:
        inside = ((x - cx) ** 2 + (y - cy) ** 2 < 0.09)[..., None]
        return np.where(inside, np.array(colour) * (1 - 0.5 * y[..., None]), 1.0)

    ramp = np.stack([x, y, (x + y) / 2], axis=-1)
    stripes = np.stack([0.5 + 0.5 * np.sin(40 * x), 0.5 + 0.5 * np.sin(25 * (x + y)), 0.5 + 0.5 * np.cos(30 * y)], axis=-1)
    red = disc(0.4, 0.5, (0.9, 0.1, 0.1))
    first = [red, red, ramp, red]
    second = [disc(0.6, 0.4, (0.9, 0.1, 0.1)), disc(0.4, 0.5, (0.1, 0.3, 0.9)), 1 - ramp, stripes]
    return [_eight_bits(p) for p in first], [_eight_bits(p) for p in second]


def _eight_bits(picture: np.ndarray) -> np.ndarray:
    return np.round(picture * 255).astype(np.uint8)


def sha256_of(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canary_file(weights: Path) -> Path:
    """Where the stored answers for a weights file live: beside it."""
    return weights.with_name(f"{weights.stem}.canary.json")


def write_canary(scorer: Scorer) -> Path:
    """Store this model's answers beside its weights. Do it once, when the weights are known to be good."""
    answers = scorer.answers(*canary_pairs())
    if np.ptp(answers) < 1e-4:
        raise InputError(f"{scorer.name} cannot tell the canary pictures apart; its weights in {scorer.file} are not trained")
    path = canary_file(scorer.file)
    write_text(path, json.dumps({"metric": scorer.name, "sha256": scorer.sha256, "answers": answers}) + "\n")
    return path


def check_canary(scorer: Scorer) -> str:
    """Compare with the stored answers. Returns the word for the metric card; InputError says what differs."""
    path = canary_file(scorer.file)
    if not path.is_file():
        raise InputError(f"{path} is missing, so {scorer.name} is unproved: write it once with `magic123 canary`")
    stored = read_json(path, "canary")
    if stored.get("sha256") != scorer.sha256:
        raise InputError(
            f"{path} belongs to other weights than {scorer.file.name}; fetch the weights again or rewrite the canary"
        )
    answers, expected = np.array(scorer.answers(*canary_pairs())), np.array(stored.get("answers"), dtype=float)
    off = (
        float(np.linalg.norm(answers - expected)) / float(np.linalg.norm(expected)) if answers.shape == expected.shape else 1.0
    )
    if not off <= TOLERANCE:
        raise InputError(
            f"{scorer.name} answers the canary {off:.2%} away from {path} (allowed {TOLERANCE:.1%}); "
            "look for another activation, input range or library version"
        )
    return f"agreed to {TOLERANCE:.1%}"
