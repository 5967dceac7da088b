"""Measure or predict the cost of a stage of a method, or of textual inversion, and write it as JSON and Markdown."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from magic123.measure.benchmark import measure
from magic123.measure.cost_model import predict, predict_inversion, table
from magic123.measure.inversion_benchmark import measure_inversion
from magic123.measure.random_weights import Size
from magic123.optimise.reconstruct import stage_device
from magic123.records.devices import present_device
from magic123.records.errors import InputError
from magic123.records.files import write_json, write_whole
from magic123.settings.inversion import InversionSettings
from magic123.settings.priors import Speed
from magic123.settings.stage import Stage


def write_prediction(method: str, name: str, settings: Stage | InversionSettings, out: Path) -> str:
    """Predict the cost of a stage, or of textual inversion, and write METHOD-NAME-predicted.json and .md.

    Args:
        method: name of the method.
        name: name of the stage, or "invert".
        settings: settings of the stage, or of the inversion, which is predicted in half precision unless its settings name a
            dtype.
        out: the folder to write.

    Returns:
        The Markdown.

    Raises:
        InputError: the cost of the stage cannot be predicted.
    """
    if isinstance(settings, InversionSettings):
        predicted = predict_inversion(InversionSettings(**{"dtype": "float16"} | settings.model_dump(exclude_unset=True)))
    else:
        predicted = predict(settings)
    return _write(out / f"{method}-{name}-predicted", about(method, name) | predicted, table(predicted, f"{method}, {name}"))


def write_measurement(
    method: str,
    name: str,
    settings: Stage | InversionSettings,
    out: Path,
    *,
    size: Size,
    device: str | None,
    steps: int,
    warmup: int,
    at: float,
    speed: Speed,
    memory: str | None,
    compare: bool = False,
) -> str:
    """Measure a stage, or textual inversion, and write METHOD-NAME-SIZE.json and .md.

    Args:
        method: name of the method.
        name: name of the stage, or "invert".
        settings: settings of the stage, or of the inversion.
        out: the folder to write.
        size: "full" for the shapes of the published models, or "small".
        device: the device of --device. If it is None, a stage at full size is measured on the device that `stage_device`
            chooses, everything else on cuda if there is a CUDA device.
        steps: number of steps to measure, and of further steps for the shares of the parts.
        warmup: number of steps before the measurement.
        at: where in the stage to begin, as a fraction of its steps.
        speed: performance options of the networks.
        memory: memory in GB of the GPU that the stage's settings were chosen for; None if none was named.
        compare: whether to measure again with compiled networks and report which is faster; only on CUDA, and if `speed` leaves
            compilation open.

    Returns:
        The Markdown.

    Raises:
        InputError: the stage cannot be measured on this machine.
    """
    run: Callable[..., dict[str, Any]]
    if isinstance(settings, InversionSettings):
        # half precision on CUDA, as published, and float32 on a CPU
        device, given = present_device(device), settings.model_dump(exclude_unset=True)
        settings = InversionSettings(**{"dtype": "float16" if device.startswith("cuda") else "float32"} | given)
        run = partial(measure_inversion, settings, size, device, steps=steps, warmup=warmup)
    else:
        device = stage_device(settings, device) if size == "full" else present_device(device)
        half = {settings.dtype, *(prior.dtype for prior in settings.priors.values())} - {"float32"}
        if size == "full" and device == "cpu" and half:
            raise InputError(
                f"the stage asks for {', '.join(sorted(half))}, which needs a CUDA device, and there is none: "
                "measure --size small here, or a method in float32"
            )
        run = partial(measure, settings, size, device, steps=steps, warmup=warmup, at=at)
    measured = run(speed=speed)
    if memory and not isinstance(settings, InversionSettings):
        measured["memory_gb_asked"] = int(memory)
    if compare and device.startswith("cuda") and speed.compile is None:
        compiled = run(speed=speed.model_copy(update={"compile": "default"}))
        measured["compiled"] = {key: compiled[key] for key in COMPARED} | {"verdict": verdict(measured, compiled)}
    measured = about(method, name) | measured
    return _write(out / f"{method}-{name}-{size}", measured, markdown(measured))


COMPARED = (
    "compile_problems", "peak_memory_bytes", "seconds_per_step", "stage_minutes", "steps_per_second", "warmup_seconds"
)  # fmt: skip


def verdict(plain: dict[str, Any], compiled: dict[str, Any]) -> str:
    """Return a sentence on whether a whole stage is faster with compiled networks, including the time to compile them.

    Args:
        plain: a measurement without compilation.
        compiled: a measurement of the same steps with compiled networks.
    """
    if compiled["compile_problems"]:
        return f"not compiled: {'; '.join(compiled['compile_problems'])}"
    steps = plain["stage_steps"]
    step, faster = (1 / measured["steps_per_second"] for measured in (plain, compiled))
    more = compiled["warmup_seconds"] - plain["warmup_seconds"]
    reasons = (
        f"{1e3 * faster:.3g} ms per step compiled, {1e3 * step:.3g} ms otherwise; compilation took {more:.3g} s (less if the "
        f"result is in torch's cache); memory {compiled['peak_memory_bytes'] / 1e9:.3g} GB compiled, "
        f"{plain['peak_memory_bytes'] / 1e9:.3g} GB otherwise"
    )
    if faster >= step:
        return f"leave compute.speed.compile off: {reasons}"
    even = max(more, 0) / (step - faster)
    advice = "set compute.speed.compile to default" if even < steps else "leave compute.speed.compile off"
    return f"{advice}: {reasons}; compilation pays off after {even:.0f} steps, and the stage has {steps}"


def about(method: str, name: str) -> dict[str, Any]:
    """Return the first entries of every report: method, stage and date."""
    return {"method": method, "stage": name, "date": time.strftime("%Y-%m-%d", time.gmtime())}


def _write(file: Path, values: dict[str, Any], text: str) -> str:
    """Write `file`.json and `file`.md, print the latter, and return it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(f"{file}.json"), values)
    write_whole(Path(f"{file}.md"), text.encode())
    print(text)
    return text


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
    lines += [f"- {problem}" for problem in measured["compile_problems"]]
    if "compiled" in measured:
        lines.append(f"- {measured['compiled']['verdict']}")
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
