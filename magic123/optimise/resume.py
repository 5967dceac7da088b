"""Checkpoints of an unfinished loop, from which another process resumes it; the result has the same bytes.

They are stored beside the output, in `.NAME.unfinished/`: Snakemake deletes the outputs of a job that did not finish, but no
other files. The last checkpoint is kept until a later step has read the output (`forget`), because Snakemake, if it is killed
before it has recorded the end of a job, deletes the outputs and runs the job again. A file is named
IDENTITY-STEP-CHECKSUM.safetensors. The identity is a hash of everything that affects the result; the checksum, over the whole
file, reveals damaged files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic123.optimise.loss_history import spent_since
from magic123.records.errors import InputError, Stopped
from magic123.records.files import write_whole
from magic123.records.terminal import say

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NAME = r"([0-9a-f]{16})-(\d{8})-[0-9a-f]{32}\.safetensors"  # identity, step, checksum
KEPT = 2  # number of checkpoints: if the last one is damaged, the one before is used
SHARE = 0.01  # largest share of the time that saving every `seconds` may take; the interval is lengthened to keep to it
RANDOM_STATE = "chance"  # prefix of random states in a file; unchanged, so that older checkpoints can be resumed


class LoopCheckpoints:
    """The checkpoints of one loop: a context that holds their lock, and in which signals save a checkpoint before stopping.

    Attributes:
        rows: one plain value for each finished step.
        starts: for each process that worked on this loop, when it started ("at", UTC), from which step ("step"), and the time
            and memory it had spent at its last save (`spent_since`).
    """

    def __init__(
        self,
        out: Path,
        identity: dict[str, Any],
        rows: list[Any],
        *,
        steps: int = 0,
        seconds: float = 60.0,
        began: float | None = None,
    ):
        """Create the context; entering it raises InputError if another process has the lock.

        Args:
            out: the output of the loop.
            identity: plain data, everything that affects the result: only checkpoints of the same identity are resumed.
            rows: a list to which the loop appends one plain value per step; saved with the state.
            steps: steps between saves; 0: none.
            seconds: seconds between saves; 0: none.
            began: time.perf_counter() when this process started; None: now.
        """
        out = Path(out).resolve()
        self.folder = out.parent / f".{out.name}.unfinished"
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.rows, self.steps, self.seconds = rows, steps, seconds
        self.starts: list[dict[str, Any]] = []
        self.began = time.perf_counter() if began is None else began
        self._signal: int | None = None
        self._saved, self._cost = time.monotonic(), 0.0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> LoopCheckpoints:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._lock).st_ino != os.stat(self.folder / "lock").st_ino:
                raise BlockingIOError  # the process that had the lock has just deleted the folder
        except (BlockingIOError, FileNotFoundError) as error:
            os.close(self._lock)
            raise InputError(f"another process is using {self.folder}: wait until it has finished, or stop it") from error
        if len(os.listdir(self.folder)) == 1:
            say(f"checkpoints are saved in {self.folder}")
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.folder.is_dir() and not any(re.fullmatch(NAME, name) for name in os.listdir(self.folder)):
            shutil.rmtree(self.folder)  # it holds no checkpoint
        os.close(self._lock)

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return any(self.folder.glob(f"{self.identity}-*.safetensors"))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note the signal for `after_step`; the same signal again ends the process."""
        self._signal = number
        say(f"{signal.Signals(number).name}: will save a checkpoint after this step and stop; send it again to stop at once")
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    def load(self) -> dict[str, Tensor]:
        """Return the tensors of the last checkpoint of this identity, and fill `rows` from it; {} if there is none.

        A damaged file is renamed to damaged-NAME, with a line on stderr, and the checkpoint before it is used.
        """
        for part in self.folder.glob(".*.part"):
            part.unlink()
        names = sorted(os.listdir(self.folder), reverse=True)
        matches = [match for name in names if (match := re.fullmatch(NAME, name))]
        own = [match for match in matches if match[1] == self.identity]
        if len(own) < len(matches):
            say(f"{self.folder} holds checkpoints of other settings, inputs, weights or versions, which are not used")
        state: dict[str, Tensor] = {}
        for match in own:
            file = self.folder / match[0]
            content = file.read_bytes()
            if _name(self.identity, int(match[2]), content) == file.name and (read := _read(content, int(match[2]))):
                state, self.rows[:], self.starts = read
                break
            aside = file.with_name(f"damaged-{file.name}")
            file.rename(aside)
            say(f"the checkpoint {file} is damaged: renamed to {aside.name}; the one before it is used, if there is one")
        self.starts = [
            *self._earlier_starts(),
            {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "step": len(self.rows)},
        ]
        self._note_starts()
        if self.rows:
            say(f"resuming from step {len(self.rows)} (start {len(self.starts)})")
        return state

    def _note_starts(self) -> None:
        note = {"identity": self.identity, "starts": self.starts}
        write_whole(self.folder / "starts.json", json.dumps(note, indent=1).encode())

    def _earlier_starts(self) -> list[dict[str, Any]]:
        """Return the starts of earlier processes, whether or not they saved a checkpoint."""
        file = self.folder / "starts.json"
        try:
            note = json.loads(file.read_text()) if file.is_file() else {}
            return list(note["starts"]) if note.get("identity") == self.identity else []
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            say(f"{file} is damaged: earlier starts are not counted")
            return []

    def after_step(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """Save a checkpoint if one is due; to be called at the end of each step.

        Args:
            state: returns the tensors to save.

        Raises:
            Stopped: a signal asked the process to stop.
        """
        step, waited = len(self.rows), time.monotonic() - self._saved
        by_time = self.seconds and waited >= max(self.seconds, self._cost / SHARE)
        if self._signal is None and not by_time and not (self.steps and step % self.steps == 0):
            return
        began = time.monotonic()
        failure = None
        try:
            self._save(step, state())
        except OSError as error:  # a full disk may have room later, and the previous checkpoint still exists
            failure = f"the checkpoint at step {step} could not be saved ({error.strerror}): an earlier one, if any, is kept"
            say(failure)
        self._saved = time.monotonic()
        self._cost = self._saved - began
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise Stopped(f"{name}: {failure or f'saved at step {step}'}; the same command resumes from there")

    def _save(self, step: int, state: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        if self.starts:
            self.starts[-1] |= spent_since(self.began)
            self._note_starts()
        text = json.dumps({"rows": self.rows, "starts": self.starts}).encode()
        record = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        content = save({**{name: value.detach().cpu().contiguous() for name, value in state.items()}, "rows": record})
        write_whole(self.folder / _name(self.identity, step, content), content)
        for old in sorted(self.folder.glob(f"{self.identity}-*.safetensors"))[:-KEPT]:
            old.unlink()

    def after_loop(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """Save a checkpoint of the last step, unless there is one; to be called before the output is written.

        Args:
            state: returns the tensors to save.
        """
        if self.rows and not any(self.folder.glob(f"{self.identity}-{len(self.rows):08d}-*.safetensors")):
            try:
                self._save(len(self.rows), state())
            except OSError as error:
                say(f"the last checkpoint could not be saved ({error.strerror}): an earlier one, if any, is kept")

    def finish(self) -> None:
        """Delete damaged files and all checkpoints except the last; to be called when the output is written."""
        kept = sorted(self.folder.glob(f"{self.identity}-*.safetensors"))[-1:]
        for file in self.folder.iterdir():
            if file not in kept and file.name not in ("lock", "starts.json"):
                file.unlink()


def forget(out: Path | None) -> None:
    """Delete the checkpoints of a finished output.

    Called by the steps that read `out` as an input: by then Snakemake has recorded that it is finished.

    Args:
        out: the output of a loop; with None, nothing is done.
    """
    if out is not None:
        out = Path(out).resolve()
        shutil.rmtree(out.parent / f".{out.name}.unfinished", ignore_errors=True)


def loop_state(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator) -> dict[str, Tensor]:
    """Return everything that steps change: the loop's tensors, the optimiser's, and all random states.

    Args:
        tensors: the loop's tensors by name.
        optimizer: the optimiser.
        generator: the loop's generator; the global random states of Python, NumPy and PyTorch are saved too.
    """
    state = {f"tensor.{name}": value for name, value in tensors.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": value for key, value in entry.items()}
    # timm's Adan counts its steps in the groups
    state["optimizer_steps"] = torch.tensor([group.get("step", 0) for group in optimizer.param_groups])
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state[f"{RANDOM_STATE}.generator"] = generator.get_state()
    state[f"{RANDOM_STATE}.torch"] = torch.get_rng_state()
    state[f"{RANDOM_STATE}.python"] = torch.tensor([version, *words])
    state[f"{RANDOM_STATE}.python_gauss"] = torch.tensor([] if gauss is None else [gauss], dtype=torch.float64)
    state[f"{RANDOM_STATE}.numpy"] = torch.from_numpy(np.concatenate([keys, [position, has_gauss]]).astype(np.int64))
    state[f"{RANDOM_STATE}.numpy_gauss"] = torch.tensor([cached], dtype=torch.float64)
    if torch.cuda.is_available():
        state |= {f"{RANDOM_STATE}.cuda{device}": value for device, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


@torch.no_grad()
def restore_loop(
    state: dict[str, Tensor], tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Restore a `loop_state`, in place.

    Args:
        state: the result of `loop_state`; if it is empty, nothing is restored.
        tensors: the loop's tensors by name; overwritten.
        optimizer: the optimiser; its state is overwritten.
        generator: the loop's generator; the global random states are restored too.
    """
    if not state:
        return
    for name, value in tensors.items():
        value.copy_(state[f"tensor.{name}"])
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, steps in zip(optimizer.param_groups, state["optimizer_steps"].tolist(), strict=True):
        group |= {"step": steps} if steps else {}
    version, *words = state[f"{RANDOM_STATE}.python"].tolist()
    random.setstate((version, tuple(words), *(state[f"{RANDOM_STATE}.python_gauss"].tolist() or [None])))
    *keys, position, has_gauss = state[f"{RANDOM_STATE}.numpy"].tolist()
    cached = state[f"{RANDOM_STATE}.numpy_gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state[f"{RANDOM_STATE}.torch"])
    generator.set_state(state[f"{RANDOM_STATE}.generator"])
    for name in (name for name in state if name.startswith(f"{RANDOM_STATE}.cuda")):
        torch.cuda.set_rng_state(state[name], int(name.removeprefix(f"{RANDOM_STATE}.cuda")))


def _read(content: bytes, step: int) -> tuple[dict[str, Tensor], list[Any], list[dict[str, Any]]] | None:
    """Return the tensors, rows and starts of a checkpoint with the right checksum; None if it is not a checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(content)
        kept = json.loads(state.pop("rows").numpy().tobytes())
        return (state, kept["rows"], kept["starts"]) if len(kept["rows"]) == step else None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _name(identity: str, step: int, content: bytes) -> str:
    return f"{identity}-{step:08d}-{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
