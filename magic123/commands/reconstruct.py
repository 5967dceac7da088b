"""reconstruct: one stage of a method for one example: an optimised scene.

Writes checkpoint.safetensors (the scene), stage.json (resolved settings and what ran: the same bytes for the same run),
losses.csv (every step) and run.json (time and memory); and the logs that the stage's `watch` asks for, in guidance/, progress/
and tensorboard/.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from magic123.commands.options import (
    add_device,
    add_loop,
    choose_device,
    command_parser,
    named_folder,
    read_stage,
    settings_type,
)
from magic123.optimise.loss_history import LossHistory, cost_of, say
from magic123.priors.loading import load_priors
from magic123.records.cameras import read_cameras
from magic123.records.errors import InputError, OutOfMemory, is_out_of_memory
from magic123.records.hashes import hash_files
from magic123.settings.priors import Speed, Zero123Settings
from magic123.settings.stage import OptimisedStage, SamplesStage, Stage
from magic123.settings.versions import VERSIONS
from magic123.settings.view import ViewSettings


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run the stage. Raises InputError for bad input."""
    parser = command_parser("reconstruct", "Optimise one stage of a method for one example.")
    parser.add_argument("--example", required=True, type=Path, help="a folder that `prepare` wrote")
    parser.add_argument("--stage", required=True, type=read_stage, help="the resolved stage as JSON, or a file that holds it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="folder of the finished stage that this one starts from")
    parser.add_argument("--token", type=Path, help="a learned word: folder of `invert`, or a learned_embeds file")
    parser.add_argument(
        "--reference",
        type=Path,
        action="append",
        help="another example's folder, where a prior asks for its picture; repeatable",
    )
    add_device(parser, "cuda for settings in half precision")
    parser.add_argument(
        "--weights",
        type=named_folder,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="where a prior's weights are; repeatable",
    )
    parser.add_argument(
        "--views",
        type=settings_type("--views", ViewSettings),
        help="ViewSettings as JSON, for a samples scene: the views that `view` will render",
    )
    parser.add_argument("--cameras", type=Path, help="cameras.json of true views: its sets in place of those of --views")
    parser.add_argument("--out", required=True, type=Path)
    add_loop(parser)
    options = parser.parse_args(argv)
    reconstruct(
        options.example,
        options.stage,
        options.seed,
        options.out,
        init=options.init,
        token=options.token,
        reference=options.reference,
        weights=dict(options.weights),
        device=options.device,
        views=options.views,
        cameras=options.cameras,
        save_steps=options.save_steps,
        save_seconds=options.save_seconds,
        speed=options.speed,
    )


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
    views: ViewSettings | None = None,
    cameras: Path | None = None,
    save_steps: int = 0,
    save_seconds: float = 60.0,
    speed: Speed = Speed(),  # noqa: B008 - frozen
) -> None:
    """Optimise one stage and write its files. An unfinished run of the same settings and inputs is resumed.

    Where memory runs out, the stage is tried again as the next rung of its ladder changes it.

    Args:
        example_folder: the example.
        stage: the resolved settings.
        seed: of all random numbers.
        out: the folder to write into; it may hold other files.
        init: folder of the finished stage that this one starts from.
        token: file or folder of a learned token, where a prior uses one.
        reference: folders of other examples, where a prior asks for their pictures.
        weights: name of an entry of config/weights.yaml -> its folder.
        device: see `choose_device`.
        views: the views that `view` will render, for a scene of samples alone.
        cameras: cameras.json of true views, whose sets `view` will render in place of those of `views`.
        save_steps: steps between checkpoints of what is unfinished; 0: none.
        save_seconds: seconds between them; 0: none.
        speed: how the priors' networks are run.

    Raises:
        InputError: the inputs do not fit the stage; as OutOfMemory, memory ran out on every rung; as NonFinite, the values
            are not finite.
        Stopped: a signal asked to stop, and what was done is saved.
    """
    rungs: Sequence[Stage] = stage.rungs()
    for rung, settings in enumerate(rungs):
        attempt = partial(
            run_stage, example_folder, settings, rung, seed, out, init=init, token=token, reference=reference,
            weights=weights or {}, device=device, views=views, cameras=cameras,
            save_steps=save_steps, save_seconds=save_seconds, speed=speed,
        )  # fmt: skip
        trouble = _memory_trouble(attempt)
        if trouble is None:
            return
        say(f"memory ran out ({trouble}) on rung {rung} of the ladder (0 is the stage itself, {len(rungs) - 1} the last)")
    raise OutOfMemory(
        f"memory ran out on every rung of the ladder, {len(rungs)} in all ({trouble}): add a lower rung to the stage's ladder, "
        "or give the job more memory"
    )


def _memory_trouble(attempt: Callable[[], None]) -> str | None:
    """Run one rung. Return the allocator's message where memory ran out, else None."""
    try:
        attempt()
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
    views: ViewSettings | None,
    cameras: Path | None,
    speed: Speed,
    save_steps: int,
    save_seconds: float,
) -> None:
    """Run one rung of a stage, from its inputs to its files; see `reconstruct` for the arguments."""
    started, began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    import torch

    from magic123.device import set_determinism
    from magic123.example.example import assumed, load_example
    from magic123.geometry.camera import view_cameras
    from magic123.optimise.resume import LoopCheckpoints, forget
    from magic123.optimise.stage import optimise
    from magic123.optimise.watch import StageWatch, check_watch
    from magic123.priors.offload import visit
    from magic123.priors.speed import apply_speed
    from magic123.priors.zero123 import Zero123
    from magic123.records.files import write_json, write_whole
    from magic123.scenes.building import draw_scene, start_scene
    from magic123.scenes.checkpoint import save_scene
    from magic123.scenes.kinds import SCENES

    if stage.dtype != "float32" and not torch.cuda.is_available():
        raise InputError(f"the stage asks for {stage.dtype} and this machine has no CUDA device: set dtype to float32")
    if isinstance(stage, OptimisedStage):
        check_watch(stage.watch)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    example = load_example(example_folder)
    if isinstance(stage, OptimisedStage):
        example = assumed(example, stage.reference_camera)
    if stage.needs_picture and not example.pictured:
        raise InputError(f"the stage needs a picture, and the example {example.name} is a caption alone: take another")
    drawn = SCENES[stage.scene].drawn_from_prior
    if (views is not None) != drawn:
        raise InputError(
            f"a {stage.scene} scene needs --views" if views is None else f"--views is not for a {stage.scene} scene"
        )
    if cameras is not None and not drawn:
        raise InputError(f"--cameras is not for a {stage.scene} scene")
    given = None if cameras is None else read_cameras(cameras)
    device = choose_device(stage, device)
    set_determinism(device)
    scene = None if drawn else start_scene(stage, example, init, device)
    priors = load_priors(stage, example, token, reference, weights, device)
    applied = apply_speed(priors.values(), speed, device)
    if scene is None:
        ((name, prior),) = priors.items()
        guidance = stage.priors[name]
        # the settings of such a scene demand exactly this prior
        assert isinstance(stage, SamplesStage) and views is not None
        assert isinstance(prior, Zero123) and isinstance(guidance, Zero123Settings)
        places = view_cameras(views, example.camera, given).values()
        with visit(prior.offloaded):
            scene = draw_scene(stage, prior, guidance.guidance_scale, places, generator, say)
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
        record["views"] = views.model_dump(mode="json")
    if given is not None:
        record["cameras"] = given
    identity = {
        "code": VERSIONS["reconstruct"],
        "settings": stage.model_dump(mode="json", exclude={"ladder"}),
        "record": record,
        "files": {name: hash_files(path) for name, path in files.items()},
    }
    say(f"{example.name}: {stage.scene}, {stage.steps} steps, priors: {', '.join(priors) or 'none'}")
    for folder in (init, token):
        forget(folder)
    history = LossHistory(stage.steps)
    with LoopCheckpoints(out, identity, history.rows, steps=save_steps, seconds=save_seconds, began=began) as unfinished:
        watch = None
        if isinstance(stage, OptimisedStage):
            watch = StageWatch(out, stage, scene, example, history.rows, unfinished.resumable)

        def log(step: int, values: dict[str, float]) -> None:
            history.add(step, values if watch is None else watch.after_step(step, values))

        with watch or nullcontext():
            loop = optimise(scene, example, priors, stage, generator, log, unfinished, watch)
        record["float32_retries"], averages = loop
        write_whole(out / "losses.csv", history.table().encode())
        save_scene(out, scene, stage, record, averages)
        steps_per_second = round(history.steps_here / max(history.seconds(), 1e-9), 2) if history.steps_here else None
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        run = cost_of(unfinished.starts, started, began) | {"steps_per_second": steps_per_second, "machine": machine}
        write_json(out / "run.json", run)
        unfinished.finish()
    say(f"wrote {out} after {time.perf_counter() - began:.0f} s")
