"""reconstruct: one stage of a method for one example: an optimised scene.

Writes checkpoint.safetensors (the scene), stage.json (resolved settings and what ran: the same bytes for the same run),
losses.csv (every step) and run.json (time and memory).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

from pydantic import ValidationError

from magic123.config import Stage
from magic123.errors import InputError

HASHED_WHOLE = 256 * 2**20  # bytes; of larger weights only names and sizes go into the record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m magic123 reconstruct", description=__doc__.splitlines()[0])
    parser.add_argument("--example", required=True, type=Path, help="a folder that `prepare` wrote")
    parser.add_argument("--stage", required=True, help="the resolved stage as JSON, or a file that holds it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="folder of the finished stage that this one starts from")
    parser.add_argument("--token", type=Path, help="a learned word: folder of `invert`, or a learned_embeds file")
    parser.add_argument("--reference", type=Path, help="another example's folder, where a prior asks for its picture")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FOLDER", help="where a prior's weights are")
    parser.add_argument("--out", required=True, type=Path)
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
    )


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
    reference: Path | None = None,
    weights: dict[str, str] | None = None,
) -> None:
    """Runs the stage and writes its files into `out` (which may hold other files). Raises InputError."""
    started, began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    import torch

    from magic123.checkpoint import save_scene, write_json, write_whole
    from magic123.example import load_example
    from magic123.optimise import optimise

    if stage.dtype != "float32" and not torch.cuda.is_available():
        raise InputError(f"the stage asks for {stage.dtype} and this machine has no CUDA device: set dtype to float32")
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    example = load_example(example_folder)
    scene = start_scene(stage, example, init)
    priors = load_priors(stage, example, token, reference, weights or {})
    say(f"{example.name}: {stage.scene}, {stage.steps} steps, priors: {', '.join(priors) or 'none'}")
    history = Losses(stage.steps)
    optimise(scene, example, priors, stage, generator, history.add)
    record = {
        "seed": seed,
        "example": example.name,
        "kernels": scene.kernels(),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "determinism": "strict",
        "priors": {name: prior.record | {"weights_sha256": prior.fingerprint} for name, prior in priors.items()},
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "numba", "numpy")
        },
        "handover": getattr(scene, "handover", {}),
    }
    write_whole(out / "losses.csv", history.table().encode())
    save_scene(out, scene, stage, record)
    write_json(
        out / "run.json",
        {
            "started": started,
            "seconds": round(time.perf_counter() - began, 2),
            "steps_per_second": round(stage.steps / max(history.seconds(), 1e-9), 2) if stage.steps else None,
            "cpu_seconds": round(time.process_time(), 2),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        },
    )
    say(f"wrote {out} after {time.perf_counter() - began:.0f} s")


def start_scene(stage: Stage, example, init: Path | None):
    """The scene as the stage finds it: new, or taken over from the stage that it starts from. Raises InputError."""
    from magic123.checkpoint import build_scene, load_scene

    if (stage.init is None) != (init is None):
        asked = (
            f"starts from {stage.init}, but --init is missing" if init is None else "starts from nothing, but --init is given"
        )
        raise InputError(f"the stage {asked}")
    if init is None:
        return build_scene(stage, (example.rgb, example.alpha))
    before, _ = load_scene(init)
    if stage.scene == "dmtet" and hasattr(before, "occupancy"):
        from magic123.scenes.dmtet import DMTet

        return DMTet.from_nerf(before, stage)
    scene = build_scene(stage, (example.rgb, example.alpha))
    if type(before) is not type(scene):
        raise InputError(f"a {stage.scene} scene cannot start from the {type(before).__name__} in {init}")
    try:
        scene.load_state_dict(before.state_dict())
    except RuntimeError as error:
        raise InputError(f"the scene in {init} has other sizes than this stage's settings give: give both the same") from error
    return scene


def load_priors(stage: Stage, example, token: Path | None, reference: Path | None, weights: dict[str, str]) -> dict:
    """The stage's priors, conditioned on the example. A weight of 0 needs no model and loads none."""
    from magic123.example import load_example

    priors = {}
    for name, settings in stage.priors.items():
        if not settings.weight:
            continue
        if settings.weights not in weights:
            raise InputError(f"the prior {name} needs the weights {settings.weights}: give --weights {settings.weights}=FOLDER")
        folder = Path(weights[settings.weights])
        if settings.kind == "stable-diffusion":
            from magic123.priors.stable_diffusion import StableDiffusion

            if settings.use_token and token is None:
                raise InputError(f"the prior {name} uses a learned token: give --token, or set use_token to false")
            prior = StableDiffusion.load(
                folder,
                prompt=settings.prompt,
                subject=example.prompt,
                token_file=token if settings.use_token else None,
                view_prompts=settings.view_prompts,
                front_azimuth=example.camera.azimuth,
                dtype=settings.dtype,
            )
        else:
            from magic123.priors.zero123 import Zero123

            shown = example
            if settings.reference != "own":
                if reference is None:
                    raise InputError(f"the prior {name} is to see another example's picture: give --reference")
                shown = load_example(reference)
            prior = Zero123.load(folder, shown.rgb, shown.camera, dtype=settings.dtype)
            prior.record["reference"] = shown.name
        prior.fingerprint = fingerprint(folder)
        priors[name] = prior
    return priors


def fingerprint(folder: Path) -> str:
    """SHA-256 over a model folder's safetensors (of very large ones over names and sizes, which the prefix tells)."""
    files = sorted(folder.rglob("*.safetensors"))
    whole = sum(f.stat().st_size for f in files) <= HASHED_WHOLE
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
        if whole:
            digest.update(file.read_bytes())
    return ("" if whole else "names-and-sizes:") + digest.hexdigest()


class Losses:
    """Every step's values, and a line of progress about twenty times a stage."""

    def __init__(self, steps: int):
        self.steps, self.rows, self.began = steps, [], time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def add(self, step: int, values: dict[str, float]) -> None:
        self.rows.append(values)
        done = step + 1
        if done % max(1, self.steps // 20) == 0 or done == self.steps:
            left = self.seconds() / done * (self.steps - done)
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


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
