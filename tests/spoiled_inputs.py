"""Inputs of `prepare` with a single fault, and the check that each is refused with one sentence.

A module of cases decorates each function with `case`: the function is given a folder with a sound picture, mask, depth map and
token in it, spoils one thing, and returns the options of the command. Its sentence holds one of the words, divided by |.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from magic123.__main__ import main

SIDE = 64


def disc(side: int = SIDE, radius: float = 20) -> np.ndarray:
    """[side, side] bool"""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(x, y) < radius


def sound_inputs(folder: Path) -> None:
    """A red disc: image.png (RGBA), opaque.png (RGB), mask.png, depth.png, depth.npy, token.bin."""
    alpha = disc().astype(np.uint8) * 255
    red = np.full((SIDE, SIDE, 3), (200, 30, 40), np.uint8)
    Image.fromarray(np.dstack([red, alpha])).save(folder / "image.png")
    Image.fromarray(np.where(disc()[..., None], red, 255).astype(np.uint8)).save(folder / "opaque.png")
    Image.fromarray(alpha).save(folder / "mask.png")
    depth = np.linspace(0.2, 0.9, SIDE)[:, None].repeat(SIDE, 1).astype(np.float32)
    Image.fromarray((depth * 255).astype(np.uint8)).save(folder / "depth.png")
    np.save(folder / "depth.npy", depth)
    torch.save({"<disc>": torch.ones(8)}, folder / "token.bin")


def options(image: Path, *more, settings: dict | None = None, name: str = "disc", prompt: str = "a red disc") -> list[str]:
    chosen = {"depth": "none"} | (settings or {})
    fixed = ["--image", image, "--name", name, "--prompt", prompt, "--settings", json.dumps(chosen)]
    return [str(option) for option in [*fixed, *more]]


NOTE = ".example.status.json"  # how the command ended, which it writes beside its output, whatever becomes of that


def add_to(cases: list) -> Callable[[str], Callable]:
    """Return a decorator, given the words of the sentence, that appends a case to the parameters of a test."""

    def case(words: str) -> Callable:
        def add(spoil: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
            cases.append(pytest.param(spoil, words, id=spoil.__name__))
            return spoil

        return add

    return case


def refused(spoil: Callable[[Path], list[str]], words: str, folder: Path, capfd: pytest.CaptureFixture) -> None:
    """Run `prepare` on spoiled inputs, and assert that it ends with one sentence and leaves nothing half-written."""
    inputs, results = folder / "inputs", folder / "results"
    inputs.mkdir()
    sound_inputs(inputs)
    arguments = spoil(inputs)
    status = main(["prepare", *arguments, "--out", str(results / "example")])
    said = capfd.readouterr().err.splitlines()
    sentences = [line for line in said if line.startswith("error: ")]
    assert status == 1
    assert len(sentences) == 1 and sentences[0] == said[-1]
    assert any(word in sentences[0] for word in words.split("|")), sentences[0]
    assert "Traceback" not in "".join(said)
    assert not results.exists() or {file.name for file in results.iterdir()} <= {NOTE}
    assert not (inputs / "executed").exists()
