"""The values of every step of a loop, lines of progress, and the time and memory that the loop took."""

from __future__ import annotations

import resource
import time
from typing import Any

from magic123.records.terminal import say


class LossHistory:
    """The values of every step, with a line of progress on stderr about twenty times per stage.

    Attributes:
        rows: the values of each step by name; on resuming, those of earlier steps are filled in from the checkpoint.
        steps_here: number of steps that this process has run.
    """

    def __init__(self, steps: int):
        self.steps, self.began, self.steps_here = steps, time.perf_counter(), 0
        self.rows: list[dict[str, float]] = []

    def seconds(self) -> float:
        """Return the seconds since the history was created, in this process."""
        return time.perf_counter() - self.began

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append the values of a step, and print a line of progress if one is due."""
        self.rows.append(values)
        done = step + 1
        self.steps_here += 1
        if done % max(1, self.steps // 20) == 0 or done == self.steps:
            left = self.seconds() / self.steps_here * (self.steps - done)
            bar = "#" * round(20 * done / self.steps)
            shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
            say(f"[{bar:<20}] {done}/{self.steps}  {self.seconds():.0f} s, {left:.0f} s left  {shown}")

    def table(self) -> str:
        """Return CSV: the step, then one column for each loss or gradient norm, empty where it was not computed."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [",".join(["step", *names])]
        for step, row in enumerate(self.rows):
            lines.append(",".join([str(step), *(f"{row[name]:.6g}" if name in row else "" for name in names)]))
        return "\n".join(lines) + "\n"


def cost_of(starts: list[dict[str, Any]], started: str, began: float) -> dict[str, Any]:
    """Return what run.json records about a loop: its starts, and the time and memory of all processes that worked on it.

    Args:
        starts: `LoopCheckpoints.starts`, with what each process before this one had spent at its last save.
        started: when this process started, UTC.
        began: time.perf_counter() at that moment.
    """
    spent = [*starts[:-1], spent_since(began)]
    numbers = {key: [part[key] for part in spent if part.get(key) is not None] for key in spent[-1]}
    return {
        "started": started,
        "starts": starts,
        "resumes": sum(start["step"] > 0 for start in starts),
        **{key: round(sum(numbers[key]), 2) for key in ("seconds", "cpu_seconds")},
        **{key: max(numbers[key], default=None) for key in ("peak_memory_mib", "peak_gpu_memory_mib")},
    }


def spent_since(began: float) -> dict[str, Any]:
    """Return the time and the peaks of memory, MiB, of this process, which started at time.perf_counter() `began`."""
    import torch

    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_gpu_memory_mib": torch.cuda.max_memory_reserved() // 2**20 if torch.cuda.is_available() else None,
    }
