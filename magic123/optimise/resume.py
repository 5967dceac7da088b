"""Unfinished work: the state of a loop on disk, from which another process goes on as if nothing had happened.

It lies beside the output, in `.NAME.unfinished/`: Snakemake deletes the outputs of a job that did not end, and leaves alone
what it was not told of. The last state stays until a later step has read the output (`forget`), because an end that Snakemake
had no time to record is no end. A file is named IDENTITY-STEP-CHECKSUM.safetensors. The identity stands for all that decides
the result; the checksum, over the whole file, tells a damaged one.
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

import numpy as np
import torch
from torch import Tensor

from magic123.optimise.loss_history import say
from magic123.records.errors import InputError, Stopped
from magic123.records.files import write_whole

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NAME = r"([0-9a-f]{16})-(\d{8})-[0-9a-f]{32}\.safetensors"  # identity, step, checksum
KEPT = 2  # should the last be damaged, there is the one before
SHARE = 0.01  # of the time goes into saving at most, however short the interval is


class Unfinished:
    """A context in which the loop's process alone owns the unfinished work of `out`.

    identity: plain data of all that decides the result. Saved is after every `steps` steps, or when `seconds` have passed
    since (0: neither), and when a signal asks to leave. rows: a list with one plain value a step, kept with the state.
    Entering raises InputError where another process has it.
    """

    def __init__(self, out: Path, identity: dict, rows: list, *, steps: int = 0, seconds: float = 60.0):
        out = Path(out).resolve()
        self.folder = out.parent / f".{out.name}.unfinished"
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.rows, self.steps, self.seconds = rows, steps, seconds
        self.starts: list[dict] = []  # of each process that worked on this: when, and from which step
        self._signal: int | None = None
        self._saved, self._cost, self._handlers = time.monotonic(), 0.0, {}

    def __enter__(self) -> Unfinished:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._lock).st_ino != os.stat(self.folder / "lock").st_ino:
                raise BlockingIOError  # its last owner finished just now
        except (BlockingIOError, FileNotFoundError) as error:
            os.close(self._lock)
            raise InputError(f"another process works on {self.folder}: wait for its end, or stop it") from error
        if len(os.listdir(self.folder)) == 1:
            say(f"what is unfinished is kept in {self.folder}")
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.folder.is_dir() and not any(re.fullmatch(NAME, name) for name in os.listdir(self.folder)):
            shutil.rmtree(self.folder)  # there is nothing in it to go on from
        os.close(self._lock)

    def _asked(self, number: int, _frame) -> None:
        self._signal = number
        say(f"{signal.Signals(number).name}: saves after this step and leaves; the same once more leaves at once")
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    def load(self) -> dict[str, Tensor]:
        """The tensors of the last whole save of this identity, its rows put into `rows`; {} where there is none.

        A damaged file is set aside as damaged-NAME, and said so; the one before it is taken.
        """
        for part in self.folder.glob(".*.part"):
            part.unlink()
        found = [re.fullmatch(NAME, name) for name in sorted(os.listdir(self.folder), reverse=True)]
        own = [match for match in found if match and match[1] == self.identity]
        if len(own) < sum(match is not None for match in found):
            say(f"{self.folder} holds work of other settings, inputs, weights or versions: it is not gone on with")
        state: dict[str, Tensor] = {}
        for match in own:
            file = self.folder / match[0]
            content = file.read_bytes()
            if _name(self.identity, int(match[2]), content) == file.name and (read := _read(content, int(match[2]))):
                state, self.rows[:], self.starts = read
                break
            aside = file.with_name(f"damaged-{file.name}")
            file.rename(aside)
            say(f"the saved state {file} is damaged: set aside as {aside.name}; the one before it is used, if there is one")
        self.starts = [*self._noted(), {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "step": len(self.rows)}]
        note = {"identity": self.identity, "starts": self.starts}
        write_whole(self.folder / "starts.json", json.dumps(note, indent=1).encode())
        if self.rows:
            say(f"goes on from step {len(self.rows)}, saved earlier (start {len(self.starts)})")
        return state

    def _noted(self) -> list[dict]:
        """The earlier starts, saves or none."""
        file = self.folder / "starts.json"
        try:
            note = json.loads(file.read_text()) if file.is_file() else {}
            return list(note["starts"]) if note.get("identity") == self.identity else []
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            say(f"{file} is damaged: how often this was started before is not known")
            return []

    def after_step(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """To be called at the end of each step: saves when it is time. Raises Stopped when a signal had asked for it."""
        step, waited = len(self.rows), time.monotonic() - self._saved
        by_time = self.seconds and waited >= max(self.seconds, self._cost / SHARE)
        if self._signal is None and not by_time and not (self.steps and step % self.steps == 0):
            return
        began = time.monotonic()
        trouble = None
        try:
            self._save(step, state())
        except OSError as error:  # a full disk now may have room later, and the save before is still there
            trouble = f"the state at step {step} could not be saved ({error.strerror}): an earlier one, if any, stays"
            say(trouble)
        self._saved = time.monotonic()
        self._cost = self._saved - began
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise Stopped(f"{name}: {trouble or f'saved at step {step}'}; the same command goes on from there")

    def _save(self, step: int, state: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        text = json.dumps({"rows": self.rows, "starts": self.starts}).encode()
        rows = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        content = save({**{name: value.detach().cpu().contiguous() for name, value in state.items()}, "rows": rows})
        write_whole(self.folder / _name(self.identity, step, content), content)
        for old in sorted(self.folder.glob(f"{self.identity}-*.safetensors"))[:-KEPT]:
            old.unlink()

    def after_loop(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """To be called when all steps are done and before the state becomes a result: saves it."""
        if self.rows and not any(self.folder.glob(f"{self.identity}-{len(self.rows):08d}-*.safetensors")):
            try:
                self._save(len(self.rows), state())
            except OSError as error:
                say(f"the last state could not be saved ({error.strerror}): an earlier one, if any, stays")

    def finish(self) -> None:
        """The output is there: of what was kept all but the last state goes, damaged files as well."""
        kept = sorted(self.folder.glob(f"{self.identity}-*.safetensors"))[-1:]
        for file in self.folder.iterdir():
            if file not in kept and file.name not in ("lock", "starts.json"):
                file.unlink()


def forget(out: Path | None) -> None:
    """What is kept of a finished `out` goes. For who reads `out` as an input: whoever asked for that knows that it is there."""
    if out is not None:
        out = Path(out).resolve()
        shutil.rmtree(out.parent / f".{out.name}.unfinished", ignore_errors=True)


def loop_state(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator) -> dict[str, Tensor]:
    """All that a step reads and a step changes: the loop's own tensors, the optimiser's, and every source of chance."""
    state = {f"tensor.{name}": value for name, value in tensors.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": value for key, value in entry.items()}
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state["chance.generator"] = generator.get_state()
    state["chance.torch"] = torch.get_rng_state()
    state["chance.python"] = torch.tensor([version, *words])
    state["chance.python_gauss"] = torch.tensor([] if gauss is None else [gauss], dtype=torch.float64)
    state["chance.numpy"] = torch.from_numpy(np.concatenate([keys, [position, has_gauss]]).astype(np.int64))
    state["chance.numpy_gauss"] = torch.tensor([cached], dtype=torch.float64)
    if torch.cuda.is_available():
        state |= {f"chance.cuda{device}": value for device, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


@torch.no_grad()
def restore_loop(
    state: dict[str, Tensor], tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Puts a `loop_state` back, into the same tensors. Nothing is done for an empty one."""
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
    version, *words = state["chance.python"].tolist()
    random.setstate((version, tuple(words), *(state["chance.python_gauss"].tolist() or [None])))
    *keys, position, has_gauss = state["chance.numpy"].tolist()
    cached = state["chance.numpy_gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["chance.torch"])
    generator.set_state(state["chance.generator"])
    for name in (name for name in state if name.startswith("chance.cuda")):
        torch.cuda.set_rng_state(state[name], int(name.removeprefix("chance.cuda")))


def _read(content: bytes, step: int) -> tuple[dict[str, Tensor], list, list] | None:
    """(tensors, rows, starts) of a save; None where it is none, which its checksum alone does not tell."""
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
