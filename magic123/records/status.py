"""The status of a command, in a small file beside its output: `.NAME.status.json`, which Snakemake does not delete.

{"status", "reason", "command", "started", "seconds", "process", "machine", "energy"}. The status is `running` at first, then
`ok`, `failed`, `non-finite`, `out of memory`, `stopped` (by a signal, with the progress saved) or `timed out` (the same, at the
time limit of the SLURM job). A status that is still `running` after the process has ended means that it was killed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magic123.records.energy import EnergyMeter, added
from magic123.records.errors import (
    INTERRUPTED,
    InputError,
    NonFinite,
    OutOfMemory,
    Stopped,
    disk_error,
    disk_sentence,
    is_out_of_memory,
)
from magic123.records.files import noted_json, write_json

RUNNING, OK = "running", "ok"
FAILED, NON_FINITE, OUT_OF_MEMORY, STOPPED = InputError.status, NonFinite.status, OutOfMemory.status, Stopped.status
TIMED_OUT, KILLED, SKIPPED = "timed out", "killed", "skipped"
NO_RESULT = (FAILED, SKIPPED, NON_FINITE, OUT_OF_MEMORY, STOPPED, TIMED_OUT, KILLED)  # statuses of outputs that have no result
GRACE = 120  # seconds before the end of a job's time in which a signal is taken as the scheduler's warning


def status_file(out: str | Path) -> Path:
    """Return the status file of an output."""
    out = Path(os.path.abspath(out))
    return out.parent / f".{out.name}.status.json"


def out_of_time() -> bool:
    """Return whether this process's SLURM job has reached its time limit, or almost."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return end.isdigit() and time.time() > int(end) - GRACE


@contextmanager
def noted(command: str, out: str | Path) -> Iterator[None]:
    """Write the status of an output at the start and at the end of the block, also when it raises.

    Args:
        command: the command that makes the output.
        out: the output.
    """
    began, meter, earlier = time.monotonic(), EnergyMeter(), _energy_until_stopped(out)
    note: dict[str, Any] = {
        "status": RUNNING,
        "reason": "",
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "process": os.getpid(),
        "machine": platform.node(),
    }

    def write(status: str, reason: str = "") -> None:
        try:
            seconds = round(time.monotonic() - began, 1)
            if status != RUNNING:
                energy = meter.stop()
                note["energy"] = added(earlier, energy) if earlier else energy
            write_json(status_file(out), {**note, "status": status, "reason": reason, "seconds": seconds})
        except OSError as error:  # the command fails with its own error when it writes its output
            print(f"{status_file(out)} cannot be written ({error.strerror})", file=sys.stderr)

    write(RUNNING)
    try:
        yield
    except (InputError, Stopped) as error:
        status = TIMED_OUT if isinstance(error, Stopped) and out_of_time() else error.status
        write(status, " ".join(str(error).split()))
        raise
    except (Exception, KeyboardInterrupt) as error:
        stopped, disk = isinstance(error, KeyboardInterrupt), disk_error(error)
        reason = disk_sentence(disk) if disk else " ".join(f"{type(error).__name__}: {error}".split())[:500]
        reason = INTERRUPTED if stopped else reason
        write(STOPPED if stopped else OUT_OF_MEMORY if is_out_of_memory(error) else FAILED, reason)
        raise
    write(OK)


def _energy_until_stopped(out: str | Path) -> dict[str, Any]:
    """Return the energy that earlier processes spent on an output before they were stopped; {} if there were none."""
    note = noted_json(status_file(out))
    energy = note.get("energy") if note.get("status") in (STOPPED, TIMED_OUT) else None
    return energy if isinstance(energy, dict) else {}


def read_energy(out: str | Path) -> dict[str, float | None]:
    """Return the energy that the command spent on an output: "gpu_joules" and "cpu_joules", None where it was not measured."""
    energy = noted_json(status_file(out)).get("energy")
    values = {key: energy.get(key) if isinstance(energy, dict) else None for key in ("gpu_joules", "cpu_joules")}
    return {key: float(value) if isinstance(value, int | float) else None for key, value in values.items()}


def read_status(out: str | Path) -> dict | None:
    """Read the status of an output.

    Returns:
        {"status", "reason"}, `running` read as `killed` and a damaged file as `failed`; None without a status file.
    """
    try:
        note = json.loads(status_file(out).read_text(encoding="utf-8"))
        status, reason = str(note["status"]), str(note["reason"])
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return {"status": FAILED, "reason": f"{status_file(out)} is damaged"}
    if status == RUNNING:
        status, reason = KILLED, "the process ended without a status: killed, perhaps for its memory or its time"
    return {"status": status, "reason": reason}
