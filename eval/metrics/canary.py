"""Canary: the stored outputs of a network for fixed pictures, which later runs compare with.

A network with random weights, a wrong activation or a wrong input range loads without an error and gives wrong numbers.
The canary is written once, beside the weights, when they are made or downloaded, and compared each time they are used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np

from magic123.records.errors import InputError
from magic123.records.files import read_json, write_text

TOLERANCE = 1e-3  # relative to the norm of the stored outputs
SIDE = 64  # pixels


class Scorer(Protocol):
    """A loaded network that a canary can check.

    Attributes:
        name: Name of its metric.
        file: Its weights.
        sha256: SHA-256 of that file.
    """

    name: str
    file: Path
    sha256: str

    def answers(self, first: list[np.ndarray], second: list[np.ndarray]) -> list[float]:
        """Return numbers for pairs of pictures that change whenever the network's scores would change."""


def canary_pairs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return four pairs of computed pictures [64, 64, 3] uint8: moved, recoloured, inverted, unrelated."""
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


def canary_file(weights: Path) -> Path:
    """Return the file of stored outputs that belongs to a file of weights."""
    return weights.with_name(f"{weights.stem}.canary.json")


def write_canary(scorer: Scorer) -> Path:
    """Store a network's outputs beside its weights; do this once, when the weights are known to be good.

    Returns:
        The file written.

    Raises:
        InputError: The network gives the same output for all pictures.
    """
    answers = scorer.answers(*canary_pairs())
    if np.ptp(answers) < 1e-4:
        raise InputError(f"{scorer.name} cannot tell the canary pictures apart; its weights in {scorer.file} are untrained")
    path = canary_file(scorer.file)
    write_text(path, json.dumps({"metric": scorer.name, "sha256": scorer.sha256, "answers": answers}) + "\n")
    return path


def check_canary(scorer: Scorer) -> str:
    """Compare a network's outputs with the stored ones.

    Returns:
        The result in words, for the metric card.

    Raises:
        InputError: There is no canary, or it belongs to other weights, or the outputs differ.
    """
    path = canary_file(scorer.file)
    if not path.is_file():
        raise InputError(f"{path} is missing, so {scorer.name} is unverified: write it once with `magic123 canary`")
    stored = read_json(path, "canary")
    if stored.get("sha256") != scorer.sha256:
        raise InputError(f"{path} does not belong to {scorer.file.name}; fetch the weights again or rewrite the canary")
    answers, expected = np.array(scorer.answers(*canary_pairs())), np.array(stored.get("answers"), dtype=float)
    error = 1.0
    if answers.shape == expected.shape:
        error = float(np.linalg.norm(answers - expected)) / float(np.linalg.norm(expected))
    if not error <= TOLERANCE:
        raise InputError(
            f"{scorer.name} differs from its canary {path} by {error:.2%} (allowed {TOLERANCE:.1%}); "
            "check for a different activation, input range or library version"
        )
    return f"agreed to {TOLERANCE:.1%}"
