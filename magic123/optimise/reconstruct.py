"""Run one stage of a method for one example, from its input files to its output files.

Written: checkpoint.safetensors (the scene), stage.json (resolved settings and what ran; the same run gives the same bytes),
losses.csv (every step), run.json (time and memory), and the logs that the stage's `watch` asks for.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from magic123.device import set_determinism
from magic123.example.example import Example, load_example, with_camera
from magic123.geometry.camera import view_cameras
from magic123.optimise.inputs import Priors
from magic123.optimise.loss_history import LossHistory, cost_of
from magic123.optimise.resume import LoopCheckpoints, forget
from magic123.optimise.stage import optimise
from magic123.optimise.watch import StageWatch, check_watch
from magic123.priors.loading import load_priors
from magic123.priors.offload import on_device
from magic123.priors.speed import apply_speed, compile_problems
from magic123.priors.zero123 import Zero123
from magic123.records.cameras import read_cameras
from magic123.records.devices import present_device
from magic123.records.errors import InputError, OutOfMemory, is_out_of_memory
from magic123.records.files import write_json, write_whole
from magic123.records.hashes import hash_files
from magic123.records.terminal import counted, say
from magic123.scenes.building import draw_scene, start_scene
from magic123.scenes.checkpoint import save_scene
from magic123.scenes.kinds import SCENES
from magic123.scenes.scene import Scene
from magic123.settings.priors import Speed, Zero123Settings
from magic123.settings.stage import OptimisedStage, SamplesStage, Stage
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings


@dataclass(frozen=True)
class StageRun:
    """The inputs of a stage's run, apart from its settings.

    Attributes:
        example: folder of the example.
        seed: seed of all random numbers.
        out: the folder to write into; it may hold other files.
        init: folder of the finished stage that this one starts from.
        token: file or folder of a learned token, if a prior uses one.
        reference: folders of other examples, if a prior needs their pictures.
        weights: name of an entry of config/weights.yaml -> its folder.
        device: see `stage_device`.
        views: the views that `view` will render; only for a scene of samples.
        cameras: cameras.json of true views, whose sets `view` will render instead of those of `views`.
        save_steps: steps between checkpoints of the unfinished stage; 0: none.
        save_seconds: seconds between such checkpoints; 0: none.
        speed: settings for running the priors' networks.
    """

    example: Path
    seed: int
    out: Path
    init: Path | None = None
    token: Path | None = None
    reference: list[Path] | None = None
    weights: dict[str, str] | None = None
    device: str | None = None
    views: ViewSettings | None = None
    cameras: Path | None = None
    save_steps: int = 0
    save_seconds: float = 60.0
    speed: Speed = Speed()  # noqa: RUF009 - frozen


def reconstruct(example: Path, stage: Stage, seed: int, out: Path, **given: Any) -> None:
    """Optimise one stage and write its files. An unfinished run of the same settings and inputs is resumed.

    If memory runs out, the stage is tried again with the next rung of its ladder.

    Args:
        example: folder of the example.
        stage: the resolved settings.
        seed: seed of all random numbers.
        out: the folder to write into; it may hold other files.
        given: the other attributes of `StageRun`.

    Raises:
        InputError: the inputs do not fit the stage.
        OutOfMemory: memory ran out on every rung.
        NonFinite: a loss or a gradient is not finite.
        Stopped: a signal asked to stop, and the progress is saved.
    """
    run = StageRun(example, seed, out, **given)
    rungs: Sequence[Stage] = stage.rungs()
    for rung, settings in enumerate(rungs):
        error = _run_unless_out_of_memory(settings, rung, run)
        if error is None:
            return
        # only here, because nothing refers to the failed attempt's tensors any more
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"memory ran out ({error}) on rung {rung} of the ladder (0 is the stage itself, {len(rungs) - 1} is the last)")
    raise OutOfMemory(
        f"memory ran out on every rung of the ladder, {len(rungs)} in all ({error}): add a lower rung to the stage's ladder, "
        "or give the job more memory"
    )


def _run_unless_out_of_memory(stage: Stage, rung: int, run: StageRun) -> str | None:
    """Run one rung. Return the allocator's message if memory ran out, else None."""
    try:
        run_rung(stage, rung, run)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return None


def stage_device(stage: Stage, device: str | None) -> str:
    """Return the device of a stage's scene and priors.

    Args:
        stage: the settings.
        device: the value of --device; None: cuda if there is one and anything is in half precision, else the CPU.

    Raises:
        InputError: this machine does not have the device, or the installed torch has no code for it.
    """
    half = stage.dtype != "float32" or any(prior.dtype != "float32" for prior in stage.priors.values())
    return present_device(device if device is not None or half else "cpu")


def run_rung(stage: Stage, rung: int, run: StageRun) -> None:
    """Run one rung of a stage, from its inputs to its files.

    Args:
        stage: the settings of the rung.
        rung: its number; 0 is the stage itself.
        run: the inputs.

    Raises:
        InputError: the inputs do not fit the stage.
        NonFinite: a loss or a gradient is not finite.
        Stopped: a signal asked to stop, and the progress is saved.
    """
    started, began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    example = load_example(run.example)
    if isinstance(stage, OptimisedStage):
        example = with_camera(example, stage.reference_camera)
    check_inputs(stage, example, run)
    given = None if run.cameras is None else read_cameras(run.cameras)
    device = stage_device(stage, run.device)
    set_determinism(device)
    scene = None if SCENES[stage.scene].drawn_from_prior else start_scene(stage, example, run.init, device)
    priors = load_priors(stage, example, run.token, run.reference, run.weights or {}, device)
    applied = apply_speed(priors.values(), run.speed, device)
    if scene is None:
        scene = draw_samples(stage, example, priors, run.views, given, generator)
    record = run_record(example, rung, run, scene, priors, device) | {"speed": applied}
    if run.views is not None:
        record["views"] = run.views.model_dump(mode="json")
    if given is not None:
        record["cameras"] = given
    say(f"{example.name}: {stage.scene}, {counted(stage.steps, 'step')}, priors: {', '.join(priors) or 'none'}")
    for folder in (run.init, run.token):
        forget(folder)
    history, identity = LossHistory(stage.steps), checkpoint_identity(stage, run, record)
    with LoopCheckpoints(
        run.out, identity, history.rows, steps=run.save_steps, seconds=run.save_seconds, began=began
    ) as unfinished:
        watch = None
        if isinstance(stage, OptimisedStage):
            watch = StageWatch(run.out, stage, scene, example, history.rows, unfinished.resumable)

        def log(step: int, values: dict[str, float]) -> None:
            history.add(step, values if watch is None else watch.after_step(step, values))

        with watch or nullcontext():
            record["float32_retries"], averages = optimise(scene, example, priors, stage, generator, log, unfinished, watch)
        if problems := compile_problems(priors.values()):
            record["speed"] = applied | {"compile_problems": problems}
        write_whole(run.out / "losses.csv", history.table().encode())
        save_scene(run.out, scene, stage, record, averages)
        steps_per_second = round(history.steps_here / max(history.seconds(), 1e-9), 2) if history.steps_here else None
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        cost = cost_of(unfinished.starts, started, began) | {"steps_per_second": steps_per_second, "machine": machine}
        write_json(run.out / "run.json", cost)
        unfinished.finish()
    say(f"wrote {run.out} after {time.perf_counter() - began:.0f} s")


def check_inputs(stage: Stage, example: Example, run: StageRun) -> None:
    """Check that a stage has the inputs and the device that it needs.

    Args:
        stage: the settings.
        example: the example.
        run: the other inputs.

    Raises:
        InputError: an input is missing, or is not for such a stage.
    """
    if stage.dtype != "float32" and not torch.cuda.is_available():
        raise InputError(f"the stage asks for {stage.dtype}, but this machine has no CUDA device: set dtype to float32")
    if isinstance(stage, OptimisedStage):
        check_watch(stage.watch)
    if stage.needs_picture and not example.pictured:
        raise InputError(f"the stage needs a picture, but the example {example.name} has only a caption: choose another")
    drawn = SCENES[stage.scene].drawn_from_prior
    if drawn and run.views is None:
        raise InputError(f"a {stage.scene} scene needs --views")
    for option, value in (("--views", run.views), ("--cameras", run.cameras)):
        if value is not None and not drawn:
            raise InputError(f"{option} is not for a {stage.scene} scene")


def draw_samples(
    stage: Stage, example: Example, priors: Priors, views: ViewSettings | None, cameras: dict | None, generator: torch.Generator
) -> Scene:
    """Return the scene of a stage whose only prior draws it, instead of being optimised.

    Args:
        stage: the settings.
        example: the example.
        priors: the loaded prior by name.
        views: the views to draw.
        cameras: cameras of true views that replace those of `views`, as `read_cameras` returns them.
        generator: source of all random numbers; on the CPU.
    """
    ((name, prior),) = priors.items()
    guidance = stage.priors[name]
    # the settings of such a scene allow exactly this prior
    assert isinstance(stage, SamplesStage) and views is not None
    assert isinstance(prior, Zero123) and isinstance(guidance, Zero123Settings)
    places = view_cameras(views, example.camera, cameras).values()
    with on_device(prior.offloaded):
        return draw_scene(stage, prior, guidance.guidance_scale, places, generator, say)


def run_record(example: Example, rung: int, run: StageRun, scene: Scene, priors: Priors, device: str) -> dict[str, Any]:
    """Return what stage.json records of a run besides its settings: everything that could make two runs of them differ.

    Args:
        example: the example.
        rung: number of the rung of the stage's ladder.
        run: the inputs.
        scene: the scene at the start of the stage.
        priors: all loaded priors by name.
        device: the result of `stage_device`.
    """
    return {
        "seed": run.seed,
        "example": example.name,
        "rung": rung,
        "kernels": scene.kernels(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "determinism": "strict" if device == "cpu" else "sums in chance order",
        "priors": {name: prior.record | {"weights_sha256": prior.fingerprint} for name, prior in priors.items()},
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "numba", "numpy")
        },
        "handover": scene.handover,
    }


def checkpoint_identity(stage: Stage, run: StageRun, record: dict[str, Any]) -> dict[str, Any]:
    """Return what an unfinished run must have in common with this one to be resumed: settings, record, contents of files."""
    files = {"example": run.example, "init": run.init, "token": run.token}
    files |= {f"reference {number}": folder for number, folder in enumerate(run.reference or [])}
    return {
        "code": VERSIONS["reconstruct"],
        "settings": stage.model_dump(mode="json", exclude={"ladder"}),
        "record": record,
        "files": {name: hash_files(path) for name, path in files.items()},
    }
