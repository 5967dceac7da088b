"""reconstruct: one stage of a method for one example: an optimised scene.

Writes checkpoint.safetensors (the scene), stage.json (resolved settings and what ran: the same bytes for the same run),
losses.csv (every step) and run.json (time and memory).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

from pydantic import ValidationError

from magic123.optimise.loss_history import Losses, cost_of, say
from magic123.priors.loading import load_priors
from magic123.records.errors import InputError, OutOfMemory, is_out_of_memory
from magic123.records.hashes import hash_files
from magic123.settings.priors import Speed
from magic123.settings.stage import Stage
from magic123.settings.versions import VERSIONS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="magic123 reconstruct", description=__doc__.splitlines()[0])
    parser.add_argument("--example", required=True, type=Path, help="a folder that `prepare` wrote")
    parser.add_argument("--stage", required=True, help="the resolved stage as JSON, or a file that holds it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="folder of the finished stage that this one starts from")
    parser.add_argument("--token", type=Path, help="a learned word: folder of `invert`, or a learned_embeds file")
    parser.add_argument(
        "--reference",
        type=Path,
        action="append",
        help="another example's folder, where a prior asks for its picture; repeatable",
    )
    parser.add_argument(
        "--device", help="where the scene and the priors are: cpu, cuda, ...; default: cuda for settings in half precision"
    )
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FOLDER", help="where a prior's weights are")
    parser.add_argument("--views", help="ViewSettings as JSON, for a samples scene: what `view` will look at")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--save-steps", type=int, default=0, metavar="N", help="save what is unfinished every N steps")
    parser.add_argument("--save-seconds", type=float, default=60, metavar="S", help="and every S seconds (0: no); default 60")
    parser.add_argument("--speed", default="{}", help="Speed as JSON: how the networks are run; changes rounding alone")
    options = parser.parse_args(argv)
    weights = dict(item.split("=", 1) for item in options.weights if "=" in item)
    reconstruct(
        options.example,
        read_stage(options.stage),
        options.seed,
        options.out,
        init=options.init,
        token=options.token,
        reference=options.reference,
        weights=weights,
        device=options.device,
        views=options.views,
        save_steps=options.save_steps,
        save_seconds=options.save_seconds,
        speed=read_speed(options.speed),
    )


def read_speed(text: str) -> Speed:
    """Read Speed settings from JSON text. Raises InputError."""
    try:
        return Speed(**json.loads(text))
    except (ValueError, TypeError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"--speed: {reason} (keys: {', '.join(Speed.model_fields)})") from error


def read_stage(text: str) -> Stage:
    """A Stage from JSON text or from a JSON file (a stage.json of an earlier result will do). Raises InputError."""
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        values = json.loads(text)
        return Stage(**values.get("settings", values))
    except (OSError, ValueError, TypeError, ValidationError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            known = ", ".join(sorted(Stage.model_fields))
            raise InputError(
                f"--stage: {'.'.join(map(str, first['loc']))}: {first['msg']} (a stage's keys: {known})"
            ) from error
        raise InputError(f"--stage is neither a stage as JSON nor a file that holds one ({error})") from error


def reconstruct(
    example_folder: Path,
    stage: Stage,
    seed: int,
    out: Path,
    *,
    init: Path | None = None,
    token: Path | None = None,
    reference: list[Path] | None = None,
    weights: dict[str, str] | None = None,
    device: str | None = None,
    views: str | None = None,
    save_steps: int = 0,
    save_seconds: float = 60.0,
    speed: Speed = Speed(),  # noqa: B008 - frozen
) -> None:
    """Run the stage and write its files into `out` (which may hold other files). Raises InputError, and Stopped by a signal.

    An unfinished run of the same settings and inputs is resumed. Where memory runs out, the stage's next rung is tried.
    """
    rungs = stage.rungs()
    inputs = {"init": init, "token": token, "reference": reference, "weights": weights or {}, "device": device, "views": views}
    inputs["speed"] = speed
    for rung, settings in enumerate(rungs):
        trouble = _attempt(example_folder, settings, rung, seed, out, inputs, save_steps, save_seconds)
        if trouble is None:
            return
        say(f"memory ran out ({trouble}) on rung {rung} of the ladder (0 is the stage itself, {len(rungs) - 1} the last)")
    raise OutOfMemory(
        f"memory ran out on every rung of the ladder, {len(rungs)} in all ({trouble}): add a lower rung to the stage's ladder, "
        "or give the job more memory"
    )


def _attempt(
    example_folder: Path, stage: Stage, rung: int, seed: int, out: Path, inputs: dict, save_steps: int, save_seconds: float
) -> str | None:
    """Run one rung. Return the allocator's message where memory ran out, else None."""
    try:
        run_stage(example_folder, stage, rung, seed, out, **inputs, save_steps=save_steps, save_seconds=save_seconds)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        trouble = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    else:
        return None
    # here, where nothing holds the failed attempt's tensors any more
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return trouble


def run_stage(
    example_folder: Path,
    stage: Stage,
    rung: int,
    seed: int,
    out: Path,
    *,
    init: Path | None,
    token: Path | None,
    reference: list[Path] | None,
    weights: dict[str, str],
    device: str | None,
    views: str | None,
    speed: Speed,
    save_steps: int,
    save_seconds: float,
) -> None:
    """Run one stage, from its inputs to its files."""
    started, began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    import torch

    from magic123.commands.view import read_settings
    from magic123.example.example import load_example
    from magic123.optimise.resume import Unfinished, forget
    from magic123.optimise.stage import optimise
    from magic123.priors.speed import apply_speed
    from magic123.records.files import write_json, write_whole
    from magic123.scenes.building import draw_scene, start_scene
    from magic123.scenes.checkpoint import save_scene
    from magic123.scenes.kinds import SCENES

    if stage.dtype != "float32" and not torch.cuda.is_available():
        raise InputError(f"the stage asks for {stage.dtype} and this machine has no CUDA device: set dtype to float32")
    # torch.use_deterministic_algorithms does the same, and imports its compiler first, which takes seconds
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    example = load_example(example_folder)
    if stage.needs_picture and not example.pictured:
        raise InputError(f"the stage needs a picture, and the example {example.name} is a caption alone: take another")
    drawn = SCENES[stage.scene].drawn_from_prior
    if (views is not None) != drawn:
        raise InputError(
            f"a {stage.scene} scene needs --views" if views is None else f"--views is not for a {stage.scene} scene"
        )
    device = choose_device(stage, device)
    scene = None if drawn else start_scene(stage, example, init, device)
    priors = load_priors(stage, example, token, reference, weights, device)
    applied = apply_speed(priors.values(), speed, device)
    if scene is None:
        seen = read_settings(views, "--views")
        ((name, prior),) = priors.items()
        scene = draw_scene(stage, example, prior, stage.priors[name].guidance_scale, seen, generator, say)
    record = {
        "seed": seed,
        "example": example.name,
        "rung": rung,
        "kernels": scene.kernels(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "speed": applied,
        "determinism": "strict" if device == "cpu" else "sums in chance order",
        "priors": {name: prior.record | {"weights_sha256": prior.fingerprint} for name, prior in priors.items()},
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "numba", "numpy")
        },
        "handover": scene.handover,
    }
    files = {"example": example_folder, "init": init, "token": token}
    files |= {f"reference {number}": folder for number, folder in enumerate(reference or [])}
    if views is not None:
        record["views"] = seen.model_dump(mode="json")
    identity = {
        "code": VERSIONS["reconstruct"],
        "settings": stage.model_dump(mode="json", exclude={"ladder"}),
        "record": record,
        "files": {name: hash_files(path) for name, path in files.items()},
    }
    say(f"{example.name}: {stage.scene}, {stage.steps} steps, priors: {', '.join(priors) or 'none'}")
    for read in (init, token):
        forget(read)
    history = Losses(stage.steps)
    with Unfinished(out, identity, history.rows, steps=save_steps, seconds=save_seconds) as unfinished:
        record["float32_retries"] = optimise(scene, example, priors, stage, generator, history.add, unfinished)
        write_whole(out / "losses.csv", history.table().encode())
        save_scene(out, scene, stage, record)
        speed = round(history.here / max(history.seconds(), 1e-9), 2) if history.here else None
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        run = cost_of(unfinished.starts, started, began) | {"steps_per_second": speed, "machine": machine}
        write_json(out / "run.json", run)
        unfinished.finish()
    say(f"wrote {out} after {time.perf_counter() - began:.0f} s")


def choose_device(stage: Stage, asked: str | None) -> str:
    """Where the work is done: as asked; else on the GPU if anything is in half precision and there is one, else on the CPU."""
    import torch

    if asked and asked.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device is {asked}, and this machine has no CUDA device: leave it out, or set it to cpu")
    if asked:
        return asked
    half = stage.dtype != "float32" or any(prior.dtype != "float32" for prior in stage.priors.values())
    return "cuda" if half and torch.cuda.is_available() else "cpu"
