"""benchmark: a stage's speed here, with random weights: steps a second, where time goes, memory, the arithmetic limit.

    magic123 benchmark --stage coarse --out results/performance          Magic123 at full size; nothing is downloaded
    magic123 benchmark --stage fine --method magic123-12gb --out ...     a memory profile: a method like any other
    magic123 benchmark --stage invert --out ...                          textual inversion, at its published settings
    magic123 benchmark --stage coarse --size small --out ...             a minute on a CPU
    magic123 benchmark --stage coarse --predict --out ...                counted at full size, without a card: memory, times
    magic123 benchmark --all --out ...                                   every stage, and textual inversion, in one report

Writes METHOD-STAGE-SIZE.json and .md into the folder --out; METHOD-STAGE-predicted with --predict.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from magic123.commands.options import add_device, add_settings, choose_device, command_parser, device_or_default
from magic123.records.errors import InputError
from magic123.records.files import write_json, write_whole
from magic123.settings.inversion import InversionSettings
from magic123.settings.priors import Speed
from magic123.settings.settings_file import choose_from, load_methods, validate
from magic123.settings.stage import Stage


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, and write the figures. Raises InputError for bad input."""
    parser = command_parser("benchmark", __doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--stage", help="a stage of the method: coarse, fine; or invert, textual inversion")
    which.add_argument("--all", action="store_true", help="every stage of the method, and invert, in one report")
    parser.add_argument("--method", default="magic123", help="an entry of the methods file; default: magic123")
    parser.add_argument("--memory", choices=["12", "24", "40"], help="GB of the card: METHOD-12gb, METHOD-24gb, METHOD itself")
    add_settings(parser, Speed, "--speed", "as compute.speed")
    parser.add_argument("--compile", choices=["off", "default", "reduce-overhead", "max-autotune"], help="shorthand for it")
    add_settings(parser, InversionSettings, "--inversion", "for --stage invert")
    parser.add_argument("--methods", default="config/methods.yaml", help="the methods file")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: networks and scene for a CPU")
    parser.add_argument("--steps", type=int, default=60, help="measured steps, and as many again for the shares")
    parser.add_argument("--warmup", type=int, default=12, help="steps before that")
    parser.add_argument("--at", type=float, default=0.5, help="share of the stage at which to begin; default 0.5")
    parser.add_argument("--predict", action="store_true", help="count instead of measuring, and predict times on named cards")
    add_device(parser, "as reconstruct would choose")
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    words = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(words)
    if options.steps < 4 or options.warmup < 0 or not 0 <= options.at < 1:
        raise InputError(
            "--steps must be 4 or more (each fourth sees the known view), --warmup 0 or more, --at from 0 to below 1"
        )
    speed = options.speed
    if options.compile:
        speed = validate(Speed, speed.model_dump(exclude_none=True) | {"compile": options.compile}, "--speed")
    if options.all:
        return measure_all(options, [word for word in words if word != "--all"])
    measured = {"method": options.method, "stage": options.stage, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    if options.predict and options.stage == "invert":
        from magic123.measure.ledger import predict_inversion

        half = {"dtype": "float16"} | options.inversion.model_dump(exclude_unset=True)  # as published
        return write_prediction(measured, predict_inversion(InversionSettings(**half)), options.out)
    if options.stage == "invert":
        return report(measured | inversion(options, speed), options.out, None)
    measured["method"], stages = method_and_stages(options)
    options.method = measured["method"]
    if options.stage not in stages:
        raise InputError(
            f"the method {options.method} has no stage {options.stage!r}; {choose_from(options.stage, list(stages))}"
        )
    stage = stages[options.stage]

    if options.predict:
        from magic123.measure.ledger import predict

        return write_prediction(measured, predict(stage), options.out)

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
        device = device_or_default(options.device)
    measured |= measure(stage, options.size, device, steps=options.steps, warmup=options.warmup, at=options.at, speed=speed)
    report(measured, options.out, options.memory)


def write_prediction(about: dict, predicted: dict, out: Path) -> None:
    """Write a ledger as JSON and Markdown, and print it.

    Args:
        about: method, stage and date.
        predicted: what `predict` or `predict_inversion` returned.
        out: the folder to write.
    """
    from magic123.measure.ledger import table

    text = table(predicted, f"{about['method']}, {about['stage']}")
    write_json(out / f"{about['method']}-{about['stage']}-predicted.json", about | predicted)
    write_whole(out / f"{about['method']}-{about['stage']}-predicted.md", text.encode())
    print(text)


def method_and_stages(options: argparse.Namespace) -> tuple[str, dict[str, Stage]]:
    """Return the name of the method that --method and --memory ask for, and its stages. Raises InputError without it."""
    profile = f"-{options.memory}gb" if options.memory and options.memory != "40" else ""
    name, methods = options.method + profile, load_methods(options.methods)
    if name not in methods:
        raise InputError(f"{options.methods} has no method {name!r}; {choose_from(name, list(methods))}")
    return name, methods[name].stages


def measure_all(options: argparse.Namespace, words: list[str]) -> None:
    """Measure or predict every stage of the method, and textual inversion, and write them into one report as well.

    Args:
        options: the options of `main`.
        words: its command line without --all.
    """
    name, stages = method_and_stages(options)
    kind = "predicted" if options.predict else options.size
    texts = []
    for stage in (*stages, "invert"):
        main([*words, "--stage", stage])
        method = options.method if stage == "invert" else name
        texts.append((options.out / f"{method}-{stage}-{kind}.md").read_text(encoding="utf-8"))
    write_whole(options.out / f"{name}-all-{kind}.md", "\n".join(texts).encode())


def inversion(options: argparse.Namespace, speed: Speed) -> dict:
    """Measure textual inversion: in half precision on CUDA, as published, and in float32 on a CPU.

    Args:
        options: the options of `main`.
        speed: how the network is run.

    Returns:
        What `magic123.measure.inversion_benchmark.measure_inversion` returns.
    """
    from magic123.measure.inversion_benchmark import measure_inversion

    device = device_or_default(options.device)
    asked = options.inversion.model_dump(exclude_unset=True)
    settings = InversionSettings(**{"dtype": "float16" if device.startswith("cuda") else "float32"} | asked)
    return measure_inversion(settings, options.size, device, steps=options.steps, warmup=options.warmup, speed=speed)


def report(measured: dict, out: Path, memory: str | None) -> None:
    """Write a measurement as JSON and Markdown, and print it.

    Args:
        measured: what `measure` or `measure_inversion` returned, with method, stage and date.
        out: the folder to write.
        memory: GB of the card that it was to fit; None: not asked.
    """
    if memory:
        measured["memory_gb_asked"] = int(memory)
    out.mkdir(parents=True, exist_ok=True)
    name = f"{measured['method']}-{measured['stage']}-{measured['size']}"
    write_json(out / f"{name}.json", measured)
    text = markdown(measured)
    write_whole(out / f"{name}.md", text.encode())
    print(text)


def markdown(measured: dict) -> str:
    """Return a measurement as Markdown."""
    lines = [
        f"# {measured['method']}, {measured['stage']} stage, {measured['size']} size, random weights ({measured['date']})",
        "",
        f"{measured['device']}, torch {measured['torch']}, {measured['threads']} threads; kernels: "
        + ", ".join(f"{part} {kernel}" for part, kernel in measured["kernels"].items())
        + (f"; precision: {', '.join(f'{n} {d}' for n, d in measured['precision'].items())}" if measured["precision"] else ""),
        "",
        f"- {measured['steps_per_second']:.3g} steps a second; "
        f"{measured['stage_steps']} steps: {measured['stage_minutes']:.3g} minutes",
        f"- peak memory of {measured['memory_of']}: {measured['peak_memory_bytes'] / 1e9:.2f} GB"
        + (f" of {measured['memory_gb_asked']}" if "memory_gb_asked" in measured else ""),
        f"- networks: {', '.join(f'{name} {value}' for name, value in measured['speed'].items())}",
    ]
    if measured["tflop_of_a_novel_view"]:
        total = sum(sum(parts.values()) for parts in measured["tflop_of_a_novel_view"].values())
        rates = ", ".join(f"{rate:.3g} in {dtype}" for dtype, rate in measured["tflop_per_second_of_matrix_products"].items())
        lines.append(f"- a novel view's priors: {total:.3g} TFLOP; this device's matrix products: {rates} TFLOP a second")
        if measured["share_of_the_limit"] is not None:
            lines.append(
                f"- arithmetic limit of a novel view: {1e3 * measured['seconds_at_the_limit']:.3g} ms, "
                f"{measured['share_of_the_limit']:.0%} of what it took"
            )
    for view, parts in measured["shares"].items():
        lines += ["", f"| {view}: {1e3 * measured['seconds_per_step'][view]:.3g} ms | share |", "|---|---|"]
        lines += [f"| {name} | {share:.1%} |" for name, share in sorted(parts.items(), key=lambda item: -item[1])]
    return "\n".join([*lines, ""])
