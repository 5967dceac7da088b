"""benchmark: a stage's speed here, with random weights: steps a second, where time goes, memory, the arithmetic limit.

    magic123 benchmark --stage coarse --out reports/performance          Magic123 at full size; nothing is downloaded
    magic123 benchmark --stage fine --method magic123-12gb --out ...     a memory profile: a method like any other
    magic123 benchmark --stage invert --out ...                          textual inversion, at its published settings
    magic123 benchmark --stage coarse --size small --out ...             a minute on a CPU

Writes METHOD-STAGE-SIZE.json and .md into the folder --out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from magic123.commands.reconstruct import choose_device, read_speed
from magic123.records.errors import InputError
from magic123.records.files import write_json, write_whole
from magic123.settings.inversion import InversionSettings
from magic123.settings.priors import Speed
from magic123.settings.settings_file import choose_from, load_methods


def main(argv: list[str] | None = None) -> None:
    """The command line. Raises InputError for whatever the user can mend."""
    parser = argparse.ArgumentParser(
        prog="magic123 benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", required=True, help="a stage of the method: coarse, fine; or invert, textual inversion")
    parser.add_argument("--method", default="magic123", help="an entry of the methods file; default: magic123")
    parser.add_argument("--memory", choices=["12", "24", "40"], help="GB of the card: METHOD-12gb, METHOD-24gb, METHOD itself")
    parser.add_argument("--speed", default="{}", help="Speed as JSON, as compute.speed")
    parser.add_argument("--compile", choices=["off", "default", "reduce-overhead", "max-autotune"], help="shorthand for it")
    parser.add_argument("--inversion", default="{}", help="InversionSettings as JSON, for --stage invert")
    parser.add_argument("--methods", default="config/methods.yaml", help="the methods file")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: networks and scene for a CPU")
    parser.add_argument("--steps", type=int, default=60, help="measured steps, and as many again for the shares")
    parser.add_argument("--warmup", type=int, default=12, help="steps before that")
    parser.add_argument("--at", type=float, default=0.5, help="share of the stage at which to begin; default 0.5")
    parser.add_argument("--device", help="cpu, cuda, ...; default: as reconstruct would choose")
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    options = parser.parse_args(argv)
    if options.steps < 4 or options.warmup < 0 or not 0 <= options.at < 1:
        raise InputError(
            "--steps must be 4 or more (each fourth sees the known view), --warmup 0 or more, --at from 0 to below 1"
        )
    speed = read_speed(options.speed)
    if options.compile:
        speed = read_speed(json.dumps(speed.model_dump(exclude_none=True) | {"compile": options.compile}))
    found = {"method": options.method, "stage": options.stage, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    if options.stage == "invert":
        return report(found | inversion(options, speed), options.out, None)
    if options.memory and options.memory != "40":
        options.method += f"-{options.memory}gb"
        found["method"] = options.method
    methods = load_methods(options.methods)
    if options.method not in methods:
        raise InputError(f"{options.methods} has no method {options.method!r}; {choose_from(options.method, list(methods))}")
    stages = methods[options.method].stages
    if options.stage not in stages:
        raise InputError(
            f"the method {options.method} has no stage {options.stage!r}; {choose_from(options.stage, list(stages))}"
        )
    stage = stages[options.stage]

    import torch

    from magic123.measure.benchmark import measure

    if options.size == "full":
        device = choose_device(stage, options.device)
        half = {stage.dtype, *(prior.dtype for prior in stage.priors.values())} - {"float32"}
        if device == "cpu" and half:
            raise InputError(
                f"the stage asks for {', '.join(sorted(half))}, which needs a CUDA device, and there is none: "
                "measure --size small here, or a method in float32"
            )
    else:
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    found |= measure(stage, options.size, device, steps=options.steps, warmup=options.warmup, at=options.at, speed=speed)
    report(found, options.out, options.memory)


def inversion(options: argparse.Namespace, speed: Speed) -> dict:
    """What is measured of textual inversion; in half precision on CUDA, as published, in float32 on a CPU."""
    import torch

    from magic123.commands.invert import read_settings
    from magic123.measure.inversion_benchmark import measure_inversion

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    asked = read_settings(options.inversion).model_dump(exclude_unset=True)
    settings = InversionSettings(**{"dtype": "float16" if device.startswith("cuda") else "float32"} | asked)
    return measure_inversion(settings, options.size, device, steps=options.steps, warmup=options.warmup, speed=speed)


def report(found: dict, out: Path, memory: str | None) -> None:
    """Writes and prints a measurement; `memory`: GB that it was to fit."""
    if memory:
        found["memory_gb_asked"] = int(memory)
    out.mkdir(parents=True, exist_ok=True)
    name = f"{found['method']}-{found['stage']}-{found['size']}"
    write_json(out / f"{name}.json", found)
    text = markdown(found)
    write_whole(out / f"{name}.md", text.encode())
    print(text)


def markdown(found: dict) -> str:
    """A measurement as text."""
    lines = [
        f"# {found['method']}, {found['stage']} stage, {found['size']} size, random weights ({found['date']})",
        "",
        f"{found['device']}, torch {found['torch']}, {found['threads']} threads; kernels: "
        + ", ".join(f"{part} {kernel}" for part, kernel in found["kernels"].items())
        + (f"; precision: {', '.join(f'{n} {d}' for n, d in found['precision'].items())}" if found["precision"] else ""),
        "",
        f"- {found['steps_per_second']:.3g} steps a second; {found['stage_steps']} steps: {found['stage_minutes']:.3g} minutes",
        f"- peak memory of {found['memory_of']}: {found['peak_memory_bytes'] / 1e9:.2f} GB"
        + (f" of {found['memory_gb_asked']}" if "memory_gb_asked" in found else ""),
        f"- networks: {', '.join(f'{name} {value}' for name, value in found['speed'].items())}",
    ]
    if found["tflop_of_a_novel_view"]:
        total = sum(sum(parts.values()) for parts in found["tflop_of_a_novel_view"].values())
        rates = ", ".join(f"{rate:.3g} in {dtype}" for dtype, rate in found["tflop_per_second_of_matrix_products"].items())
        lines.append(f"- a novel view's priors: {total:.3g} TFLOP; this device's matrix products: {rates} TFLOP a second")
        if found["share_of_the_limit"] is not None:
            lines.append(
                f"- arithmetic limit of a novel view: {1e3 * found['seconds_at_the_limit']:.3g} ms, "
                f"{found['share_of_the_limit']:.0%} of what it took"
            )
    for view, parts in found["shares"].items():
        lines += ["", f"| {view}: {1e3 * found['seconds_per_step'][view]:.3g} ms | share |", "|---|---|"]
        lines += [f"| {name} | {share:.1%} |" for name, share in sorted(parts.items(), key=lambda item: -item[1])]
    return "\n".join([*lines, ""])
