"""benchmark: a stage's speed here, with random weights: steps per second, shares of time, memory, the arithmetic limit.

    magic123 benchmark --stage coarse --out results/performance          Magic123 at full size; nothing is downloaded
    magic123 benchmark --stage fine --method magic123-12gb --out ...     a memory profile, which is a method too
    magic123 benchmark --stage invert --out ...                          textual inversion, at its published settings
    magic123 benchmark --stage coarse --size small --out ...             a minute on a CPU
    magic123 benchmark --stage coarse --predict --out ...                counted at full size, without a card: memory, times
    magic123 benchmark --all --out ...                                   every stage, and textual inversion, in one report;
                                                                         on a card also the effect of compiling networks

Writes METHOD-STAGE-SIZE.json and .md into the folder --out; METHOD-STAGE-predicted with --predict.
"""

from __future__ import annotations

from pathlib import Path

from magic123.commands.options import add_device, add_settings, command_parser
from magic123.records.errors import InputError
from magic123.records.files import write_whole
from magic123.settings.inversion import InversionSettings
from magic123.settings.method import load_methods
from magic123.settings.priors import Speed
from magic123.settings.settings_file import choose_from, validate
from magic123.settings.stage import Stage


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, and write the figures. Raises InputError for bad input."""
    parser = command_parser("benchmark", __doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--stage", help="a stage of the method: coarse, fine; or invert, textual inversion")
    which.add_argument("--all", action="store_true", help="every stage of the method, and invert, in one report")
    parser.add_argument("--method", default="magic123", help="an entry of the methods file; default: magic123")
    parser.add_argument("--memory", choices=["12", "24", "40"], help="GB of the card: METHOD-12gb, METHOD-24gb or METHOD")
    add_settings(parser, Speed, "--speed", "as compute.speed")
    parser.add_argument(
        "--compile", choices=["off", "default", "reduce-overhead", "max-autotune"], help="shorthand for its key compile"
    )
    add_settings(parser, InversionSettings, "--inversion", "for --stage invert")
    parser.add_argument("--methods", default="config/methods.yaml", help="the methods file")
    parser.add_argument("--size", choices=["full", "small"], default="full", help="small: networks and scene for a CPU")
    parser.add_argument("--steps", type=int, default=60, help="measured steps; as many again for the shares of time")
    parser.add_argument("--warmup", type=int, default=12, help="steps before the measured ones")
    parser.add_argument("--at", type=float, default=0.5, help="share of the stage at which to begin; default 0.5")
    parser.add_argument("--predict", action="store_true", help="count instead of measuring, and predict times on named cards")
    add_device(parser, "as reconstruct would choose")
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    options = parser.parse_args(argv)
    if options.steps < 4 or options.warmup < 0 or not 0 <= options.at < 1:
        raise InputError(
            "--steps must be 4 or more (every fourth sees the known view), --warmup 0 or more, --at at least 0 and below 1"
        )
    speed = options.speed
    if options.compile:
        speed = validate(Speed, speed.model_dump(exclude_none=True) | {"compile": options.compile}, "--speed")
    method = options.method
    stages: dict[str, Stage] = {}
    if options.stage != "invert":
        method, stages = method_and_stages(options.method, options.memory, options.methods)
        if not options.all and options.stage not in stages:
            raise InputError(f"the method {method} has no stage {options.stage!r}{choose_from(options.stage, list(stages))}")
    from magic123.measure.benchmark_report import write_measurement, write_prediction

    texts = []
    for name in (*stages, "invert") if options.all else [options.stage]:
        of, settings = (options.method, options.inversion) if name == "invert" else (method, stages[name])
        if options.predict:
            texts.append(write_prediction(of, name, settings, options.out))
            continue
        text = write_measurement(
            of, name, settings, options.out, size=options.size, device=options.device, steps=options.steps,
            warmup=options.warmup, at=options.at, speed=speed, memory=options.memory, compare=options.all,
        )  # fmt: skip
        texts.append(text)
    if options.all:
        kind = "predicted" if options.predict else options.size
        write_whole(options.out / f"{method}-all-{kind}.md", "\n".join(texts).encode())


def method_and_stages(method: str, memory: str | None, methods_file: str) -> tuple[str, dict[str, Stage]]:
    """Return the name of the method that --method and --memory ask for, and its stages.

    Args:
        method: the method.
        memory: GB of the card that it must fit, or None.
        methods_file: where both are looked up.

    Raises:
        InputError: there is no such method.
    """
    name = method + (f"-{memory}gb" if memory and memory != "40" else "")
    methods = load_methods(methods_file)
    if name not in methods:
        raise InputError(f"{methods_file} has no method {name!r}{choose_from(name, list(methods))}")
    return name, methods[name].stages
