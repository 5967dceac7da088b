"""Loops that are killed at a chosen step, in this process, and the comparison of their output."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from magic123.optimise.loss_history import LossHistory

FILES = ("checkpoint.safetensors", "losses.csv", "stage.json")


class Killed(BaseException):
    """Represents the death of the process: no code under test may catch it."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, by: signal.Signals | None = None):
    """End the loop in step `step`, before it saves: as SIGKILL would, or by the signal `by`, which can be handled."""
    add = LossHistory.add

    def deadly(self, at, values):
        add(self, at, values)
        if at == step:
            if by is None:
                raise Killed
            os.kill(os.getpid(), by)

    with monkeypatch.context() as patch:
        patch.setattr(LossHistory, "add", deadly)
        yield


def same(one: Path, other: Path, *names: str) -> None:
    """Assert that the files `names` have the same bytes in both folders."""
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
