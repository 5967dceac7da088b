"""Run an external program on one example: its command line, its time limit, and the check of its result."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magic123.records.errors import InputError, Stopped
from magic123.records.files import output_folder, read_json, scratch_folder, write_json
from magic123.records.notes import read_notes
from magic123.records.terminal import say
from magic123.settings.external import External

if TYPE_CHECKING:
    from types import FrameType

MARKER = "external.json"  # written beside the program's result
GRACE = 5.0  # seconds between SIGTERM and SIGKILL


class OutOfTime(InputError):
    """The program exceeded its time limit."""

    status = "timed out"


def run_on_example(settings: External, example: Path, cameras: dict, seed: int, views: Path | None, out: Path) -> None:
    """Run a program on one example, and keep its result completely or not at all.

    Args:
        settings: the command and its environment.
        example: folder that `prepare` wrote.
        cameras: cameras of the pictures to make, as in cameras.json.
        seed: replaces {seed} in the program's command.
        views: folder of another row's views, if the command asks for them.
        out: the folder to write.

    Raises:
        InputError: the program cannot be started, fails, or makes nothing.
        OutOfTime: the program takes too long.
        Stopped: this process was asked to stop.
    """
    record = read_json(example / "example.json", "example")
    with output_folder(out, MARKER) as folder, scratch_folder() as scratch:
        cameras_file = scratch / "cameras.json"
        write_json(cameras_file, cameras)
        values = {
            "image": (example / "rgba.png").resolve(),
            "example": example.resolve(),
            "prompt": record.get("prompt", ""),
            "seed": seed,
            "cameras": cameras_file,
            "views": views and views.resolve(),
            "out": folder,
        }
        words = command_words(settings, values)
        if settings.conda is not None and "CONDA_PREFIX" not in os.environ:
            raise InputError(f"this program needs the conda environment {settings.conda}: run Snakemake with --sdm conda")
        began = time.monotonic()
        run(words, Path(settings.folder), settings.minutes * 60)
        seconds = time.monotonic() - began
        need_result(folder, settings.makes)
        read_notes(folder)  # raises if they are not valid
        write_json(folder / MARKER, {"command": settings.run, "seconds": round(seconds, 1), "seed": seed})
    say(f"external: {settings.makes} in {seconds:.1f} s")


def command_words(settings: External, values: dict[str, Any]) -> list[str]:
    """Return the words of the command line, including what starts its environment.

    Args:
        settings: The command.
        values: Values of the placeholders.
    """
    # split first: a caption with quotes or spaces stays one word
    words = [word.format(**values) for word in shlex.split(settings.run)]
    if settings.project is not None:
        return ["uv", "run", "--project", str(Path(settings.project).resolve()), "--", *words]
    if settings.requirements is not None:
        return ["uv", "run", "--no-project", "--with-requirements", str(Path(settings.requirements).resolve()), "--", *words]
    if settings.container is not None:
        bound = [
            f"--bind={folder}"
            for folder in (values["example"], values["out"], Path(values["cameras"]).parent, values.get("views"))
            if folder
        ]
        return ["apptainer", "exec", *(["--nv"] if settings.gpu else []), *bound, settings.container, *words]
    return words


def run(words: list[str], folder: Path, seconds: float) -> None:
    """Run a program in a process group of its own, which ends with the program, its time limit or this process.

    Raises:
        InputError: It cannot be started, or its exit status is not 0.
        OutOfTime: It takes longer than `seconds`.
        Stopped: This process was asked to stop.
    """
    # external programs may download weights, and have their own environment
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "VIRTUAL_ENV")}
    if conda := environment.get("CONDA_PREFIX"):  # the rule puts our programs before the environment's
        environment["PATH"] = os.pathsep.join([f"{conda}/bin", environment.get("PATH", "")])
    print("+", shlex.join(words), flush=True)

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(f"signal {number} stopped the program; the next run starts it again")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    process = None
    try:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        status = process.wait(seconds)
    except OSError as error:
        raise InputError(
            f"{words[0]} cannot be started in {folder} ({error.strerror}): install it, or correct `run`"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OutOfTime(f"{words[0]} took longer than its {seconds / 60:g} minutes; raise `minutes`, or see its log") from error
    finally:
        if process is not None:
            end_group(process)
        for number, handler in before.items():
            signal.signal(number, handler)
    if status:
        how = f"status {status}" if status > 0 else f"signal {-status}"
        raise InputError(f"{words[0]} ended with {how}; its output is in its log")


def end_group(process: subprocess.Popen) -> None:
    """End the remaining processes of a group: by SIGTERM, then by SIGKILL."""
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        until = time.monotonic() + wait
        while time.monotonic() < until:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.05)


def need_result(folder: Path, makes: str) -> None:
    """Raise InputError unless a folder holds the result that the program was to make."""
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    if links:
        raise InputError(f"it wrote the link {links[0].name}, but a result must not depend on other files: write a copy")
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    listed = ", ".join(map(str, sorted(files)[:5])) or "nothing"
    if makes != "renders" and (not (folder / makes).is_file() or not (folder / makes).stat().st_size):
        raise InputError(f"it made no {makes}, but {listed}; correct `makes`, or see its log")
    if makes == "renders" and not any(path.suffix == ".png" for path in files):
        raise InputError(f"it made no pictures SET/NNN.png, but {listed}; see its log")
