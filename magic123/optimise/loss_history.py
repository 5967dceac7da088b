"""What a loop says while it runs and leaves behind: every step's values, and a line of progress now and then."""

from __future__ import annotations

import resource
import sys
import time


class Losses:
    """Every step's values, and a line of progress about twenty times a stage. `rows` may be filled with earlier steps'."""

    def __init__(self, steps: int):
        self.steps, self.rows, self.began, self.here = steps, [], time.perf_counter(), 0

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def add(self, step: int, values: dict[str, float]) -> None:
        self.rows.append(values)
        done = step + 1
        self.here += 1
        if done % max(1, self.steps // 20) == 0 or done == self.steps:
            left = self.seconds() / self.here * (self.steps - done)
            bar = "#" * round(20 * done / self.steps)
            shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
            say(f"[{bar:<20}] {done}/{self.steps}  {self.seconds():.0f} s, {left:.0f} s left  {shown}")

    def table(self) -> str:
        """CSV: step, then one column for each loss or gradient norm; empty where not computed."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [",".join(["step", *names])]
        for step, row in enumerate(self.rows):
            lines.append(",".join([str(step), *(f"{row[name]:.6g}" if name in row else "" for name in names)]))
        return "\n".join(lines) + "\n"


def cost_of(starts: list[dict], started: str, began: float) -> dict:
    """What run.json says of every loop. starts: `Unfinished.starts`; started: UTC; began: time.perf_counter() then."""
    import torch

    return {
        "started": started,
        "starts": starts,
        "resumes": sum(start["step"] > 0 for start in starts),
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_gpu_memory_mib": torch.cuda.max_memory_reserved() // 2**20 if torch.cuda.is_available() else None,
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
