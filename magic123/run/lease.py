"""Leases of this machine's GPUs: each job gets one, and jobs share one only where the settings allow it.

A lease is a kernel lock (flock) on an open file that the job's process inherits, so it is released whenever and however the
process ends. The GPUs are those in CUDA_VISIBLE_DEVICES, or else all that nvidia-smi lists.
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

WAIT = (0.02, 0.1)  # first and longest pause between attempts to lock, seconds


def cards() -> list[str]:
    """Return the GPUs that this process may use, as UUIDs if nvidia-smi gives them: indices depend on the process."""
    listed = _nvidia_smi()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return listed
    named = [name.strip() for name in visible.split(",") if name.strip()]
    usable = named[: named.index("-1")] if "-1" in named else named  # as CUDA reads it
    return [listed[int(name)] if name.isdigit() and int(name) < len(listed) else name for name in usable]


def _nvidia_smi() -> list[str]:
    """Return the UUIDs of the machine's GPUs in PCI order. Raises InputError if nvidia-smi is installed and fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if answer.returncode:
        output = " ".join((answer.stdout + answer.stderr).split())[:200]
        raise InputError(
            f"nvidia-smi does not list the cards ({output}): repair the driver, or name them in CUDA_VISIBLE_DEVICES"
        )
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def lock_folder() -> Path:
    """Return this user's folder of locks on this machine. Raises InputError if it is another user's."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    parent = Path(runtime) if runtime and os.path.isdir(runtime) else Path(tempfile.gettempdir())
    folder = parent / f"magic123-leases-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise InputError(f"{folder} is not a folder of yours: remove it, or set XDG_RUNTIME_DIR to a folder of your own")
    return folder


def take(names: list[str], patience: float | None = None) -> tuple[str, int]:
    """Wait until one of several names is free, and lock it.

    Args:
        names: names of GPUs or slots, the preferred ones first.
        patience: seconds to wait; None: without limit.

    Returns:
        The name, and the descriptor of the open file that holds the lock.

    Raises:
        InputError: none became free in time.
    """
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
    """Wait for a GPU, or for a slot on the CPU, and make it the only one that the program this process becomes can see.

    Args:
        per_card: number of jobs that may share a GPU.
        slots: number of jobs that may run at once on the CPU if there is no GPU; 0: none may.

    Raises:
        InputError: there is no GPU and no slot.
    """
    usable = cards()
    if usable:
        # the first place of every GPU before any second place: a GPU is shared only if none is free
        name, file = take([f"{card}.{place}" for place in range(per_card) for card in usable])
        os.environ["CUDA_VISIBLE_DEVICES"] = name.rpartition(".")[0]
    elif slots:
        name, file = take([f"cpu.{place}" for place in range(slots)])
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        raise InputError("there is no card here (nvidia-smi lists none): set compute.gpu to 0, or compute.cpu_slots")
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.set_inheritable(file, True)
    print(f"lease: {name}", file=sys.stderr, flush=True)
