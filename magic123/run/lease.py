"""A card of this machine for one command, so that N cards run N jobs and no two share one by accident.

    magic123 lease [--per-card K] [--slots N] COMMAND ...

waits for a free card, shows it alone to COMMAND (CUDA_VISIBLE_DEVICES) and becomes COMMAND. A lease is the kernel's lock on an
open file that COMMAND inherits: it ends with the process, however that dies. Cards are those that CUDA_VISIBLE_DEVICES names,
else all that nvidia-smi lists. Inside a SLURM job the scheduler has given the card, and nothing is waited for.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from magic123.records.errors import InputError

WAIT = (0.02, 0.1)  # seconds between looks at the locks: at first, and at last


def cards() -> list[str]:
    """The cards that this process may use, by UUID where nvidia-smi tells it (an index can mean another card elsewhere)."""
    listed = _nvidia_smi()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return listed
    named = [name.strip() for name in visible.split(",") if name.strip()]
    usable = named[: named.index("-1")] if "-1" in named else named  # as CUDA reads it
    return [listed[int(name)] if name.isdigit() and int(name) < len(listed) else name for name in usable]


def _nvidia_smi() -> list[str]:
    """UUIDs of the machine's cards, in PCI order. InputError where nvidia-smi is there and fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if answer.returncode:
        said = " ".join((answer.stdout + answer.stderr).split())[:200]
        raise InputError(f"nvidia-smi does not list the cards ({said}): mend the driver, or name them in CUDA_VISIBLE_DEVICES")
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def lock_folder() -> Path:
    """This user's folder of locks on this machine. InputError where somebody else made it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parent = Path(runtime) if runtime and os.path.isdir(runtime) else Path(tempfile.gettempdir())
    folder = parent / f"magic123-leases-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(f"{folder} is not a folder of yours: remove it, or set XDG_RUNTIME_DIR to a folder of your own")
    return folder


def take(names: list[str], patience: float | None = None) -> tuple[str, int]:
    """The first of the `names` that is free, waited for, and the open file that holds it. InputError after `patience` s."""
    folder = lock_folder()
    files = [os.open(folder / re.sub(r"[^A-Za-z0-9._-]", "_", name), os.O_RDWR | os.O_CREAT, 0o600) for name in names]
    began, pause = time.monotonic(), WAIT[0]
    while True:
        for name, file in zip(names, files, strict=True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            for other in files:
                if other != file:
                    os.close(other)
            return name, file
        if patience is not None and time.monotonic() - began > patience:
            raise InputError(f"none of {', '.join(names)} became free in {patience:g} s; locks are in {folder}")
        time.sleep(pause)
        pause = min(WAIT[1], pause * 1.5)


def acquire(per_card: int, slots: int) -> None:
    """Take a card, or a slot on the CPU, for the program that this process becomes.

    Args:
        per_card: jobs that may share a card.
        slots: jobs that may run at once on the CPU where there is no card; 0 refuses that.

    Raises:
        InputError: there is no card and no CPU slot.
    """
    found = cards()
    if found:
        # all first places before any second one: a card is shared when none is left free
        name, file = take([f"{card}.{place}" for place in range(per_card) for card in found])
        os.environ["CUDA_VISIBLE_DEVICES"] = name.rpartition(".")[0]
    elif slots:
        name, file = take([f"cpu.{place}" for place in range(slots)])
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        raise InputError("there is no card here (nvidia-smi lists none): set compute.gpu to 0, or compute.cpu_slots")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.set_inheritable(file, True)
    print(f"lease: {name}", file=sys.stderr, flush=True)
