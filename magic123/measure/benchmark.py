"""Measure the speed of a stage's steps on this machine, the time of each part, and the limit that arithmetic sets.

The steps are those of `optimise`, with priors with random weights and a synthetic object. Steps per second are measured without
instrumentation; the share of each part is measured in further steps, which synchronise with the device after each part.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch

from magic123.device import set_determinism
from magic123.example.example import Example
from magic123.measure.random_weights import Size, flops, random_prior
from magic123.optimise.inputs import StepInputs
from magic123.optimise.stage import make_optimizer
from magic123.optimise.step import backward, differentiate, read, step_losses
from magic123.optimise.views import reference_view, sees_reference
from magic123.priors.prior import offload
from magic123.priors.speed import apply_speed, compile_problems
from magic123.records.errors import InputError
from magic123.scenes.kinds import build_scene
from magic123.scenes.nerf import NeRF
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import Speed
from magic123.settings.stage import OptimisedStage, PointsStage, Stage

# overrides of a stage's settings at the size "small", at which a measurement takes seconds on a CPU
SMALL = {
    "resolution": 24,
    "field": {"hidden": 16, "grid": {"levels": 4, "log2_entries": 10, "base_resolution": 4, "finest_resolution": 32}},
    "nerf": {"occupancy_resolution": 24, "max_samples": 48},
    "dmtet": {"grid_resolution": 16},
    "dtype": "float32",
}

PRODUCTS_IN = {"autocast": "float16"}  # dtype in the settings -> dtype of matrix products, if it is another one

Optimised = TypeVar("Optimised", bound=OptimisedStage)


class Clock:
    """Measures the time of parts, including the device's work. The time of a nested part is not counted in the outer one.

    Attributes:
        seconds: name of a part -> seconds so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._inner = device, 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def now(self) -> float:
        """Wait until the device has finished its work, and return the time in seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the context to the part with this name."""
        outer, self._inner, began = self._inner, 0.0, self.now()
        yield
        spent = self.now() - began
        self.seconds[name] += spent - self._inner
        self._inner = outer + spent


class Timed:
    """A wrapper of an object that measures the time of some of its methods.

    Args:
        wrapped: the object.
        clock: measures the time.
        parts: name of a method -> name of the part that its time is added to.
    """

    def __init__(self, wrapped: object, clock: Clock, parts: dict[str, str]) -> None:
        self._wrapped, self._clock, self._parts = wrapped, clock, parts

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped object; the methods in `parts` are timed."""
        value = getattr(self._wrapped, name)
        if name not in self._parts:
            return value

        def timed(*args: object, **kwargs: object) -> object:
            with self._clock.part(self._parts[name]):
                return value(*args, **kwargs)

        return timed


def small(stage: Optimised) -> Optimised:
    """Return the settings of a stage with the overrides in SMALL and priors in float32."""
    values = stage.model_dump()
    for key, value in SMALL.items():
        if key not in type(stage).model_fields:
            continue
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    values["priors"] = {name: {**prior, "dtype": "float32"} for name, prior in values["priors"].items()}
    return type(stage)(**values | {"ladder": ()})


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: reserved on a CUDA device since its statistics were reset, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_process(device: torch.device) -> None:
    """Release what an earlier measurement in this process holds: compiled networks and the allocator's memory."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, Any]:
    """Return the device, the number of threads and cores, and the version of torch, as plain data."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "torch": torch.__version__}


def ball(size: int) -> Example:
    """Return a synthetic example of size x size pixels: a shaded ball on white, with a depth map."""
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) * (2 / size) - 1] * 2, indexing="ij")
    height = (0.36 - x * x - y * y).clamp_min(0).sqrt()[..., None] / 0.6
    alpha = (height > 0).float()
    rgb = alpha * height * torch.tensor([0.9, 0.4, 0.2]) + 1 - alpha
    return Example("ball", rgb, alpha, alpha > 0.5, height, None, ReferenceCamera(), "a ball")


def measure(
    stage: Stage, size: Size, device: str, *, steps: int, warmup: int, at: float, seed: int = 0, speed: Speed | None = None
) -> dict[str, Any]:
    """Run `warmup` + 2 `steps` steps and measure them.

    The scene is untrained and its occupancy grid is updated once; a trained scene has fewer samples per ray.

    Args:
        stage: settings of the stage.
        size: "full" for the shapes of the published models, or "small".
        device: name of the torch device.
        steps: number of steps to measure without instrumentation, and of further steps with instrumentation.
        warmup: number of steps before the measurement.
        at: where in the stage to begin, as a fraction of its steps.
        seed: seed of all random numbers.
        speed: performance options; the defaults of `Speed` if None.

    Returns:
        Plain data: steps per second, seconds per step, shares of the parts, memory, and the conditions of the measurement.

    Raises:
        InputError: the stage cannot be measured by itself, or has too few steps.
        NonFinite: too many gradients in a row were not finite.
    """
    if not isinstance(stage, OptimisedStage):
        raise InputError(f"a {stage.scene} scene has no parameters to optimise, so there is nothing to measure")
    if isinstance(stage, PointsStage):
        raise InputError("points are lifted from a trained stage, so they cannot be measured without one")
    if size == "small":
        stage = small(stage)
    where = torch.device(device)
    reset_process(where)
    set_determinism(where)  # as in a run
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    example = ball(round(stage.resolution * stage.reference_scale))
    scene = build_scene(stage).to(where)
    reference = reference_view(example, stage, where)
    camera = None if reference is None else reference.camera
    priors = {
        name: random_prior(settings.kind, size, dtype=settings.dtype, device=where, reference=camera, seed=seed)
        for name, settings in stage.priors.items()
        if settings.weight
    }
    for name, prior in priors.items():
        if stage.priors[name].offload:
            offload(prior, where)
    applied = apply_speed(priors.values(), speed or Speed(), where)
    optimizer = make_optimizer(scene.parameter_groups(stage.learning_rates), stage)
    first = max(int(at * stage.steps), stage.reference_warmup)
    if first + warmup + 2 * steps > stage.steps:
        raise InputError(
            f"{warmup} + 2 x {steps} steps from step {first} exceed the stage's {stage.steps}: use fewer steps, or lower --at"
        )
    if isinstance(scene, NeRF):
        scene.update_occupancy(generator)
    clock = Clock(where)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)

    def run_step(step: int) -> None:
        scene.before_step(step, stage.steps, generator)
        differentiate(StepInputs(scene, reference, priors, stage, step, generator), optimizer)
        optimizer.step()

    began = clock.now()
    for step in range(first, first + warmup):
        run_step(step)
    warming = clock.now() - began
    seconds: dict[str, list[float]] = {"known view": [], "novel view": []}
    began = clock.now()
    for step in range(first + warmup, first + warmup + steps):
        run_step(step)
    whole = clock.now() - began
    peak = peak_memory(where)

    timed_scene: Any = Timed(scene, clock, {"render": "render", "regularizers": "losses"})
    timed_priors: dict[str, Any] = {
        name: Timed(prior, clock, {"encode": f"{name} VAE", "noise": f"{name} UNet"}) for name, prior in priors.items()
    }
    shares: dict[str, dict[str, float]] = {}
    for step in range(first + warmup + steps, first + warmup + 2 * steps):
        view = "known view" if sees_reference(step, stage) else "novel view"
        inputs = StepInputs(scene, reference, priors, stage, step, generator)
        clock.seconds.clear()
        began = clock.now()
        with clock.part("occupancy and masks"):
            scene.before_step(step, stage.steps, generator)
        optimizer.zero_grad(set_to_none=True)
        with clock.part("losses"):
            losses = step_losses(replace(inputs, scene=timed_scene, priors=timed_priors))
        with clock.part("backward"):
            finite = backward(losses.total, optimizer)
        with clock.part("transfer"):
            read(losses, finite, inputs)
        with clock.part("optimiser"):
            optimizer.step()
        seconds[view].append(clock.now() - began)
        for name, spent in clock.seconds.items():
            shares.setdefault(view, {})[name] = shares.get(view, {}).get(name, 0.0) + spent
    return {
        "size": size,
        "scene": stage.scene,
        "resolution": stage.resolution,
        "stage_steps": stage.steps,
        "first_step": first,
        "measured_steps": steps,
        "warmup_seconds": warming,
        "steps_per_second": steps / whole,
        "seconds_per_step": {view: sum(times) / len(times) for view, times in seconds.items() if times},
        "shares": {
            view: {name: spent / sum(parts.values()) for name, spent in parts.items()} for view, parts in shares.items()
        },
        "stage_minutes": stage.steps * whole / steps / 60,
        "peak_memory_bytes": peak,
        "memory_of": "the card (reserved)" if where.type == "cuda" else "the process",
        "kernels": scene.kernels(),
        "speed": applied,
        "compile_problems": compile_problems(priors.values()),
        "precision": {name: settings.dtype for name, settings in stage.priors.items()},
        **machine(where),
    } | limit(stage, size, where, seconds["novel view"])


def limit(stage: OptimisedStage, size: Size, device: torch.device, novel: list[float]) -> dict[str, Any]:
    """Return how long the priors' arithmetic takes at the device's rate of matrix products, also as a share of a step.

    Args:
        stage: settings of the stage.
        size: size of the networks.
        device: the device whose rate is measured.
        novel: seconds of each measured step with a novel view.
    """
    counted = {name: flops(prior.kind, size) for name, prior in stage.priors.items() if prior.weight}
    dtypes = {name: PRODUCTS_IN.get(stage.priors[name].dtype, stage.priors[name].dtype) for name in counted}
    rates = {dtype: matmul_rate(device, dtype) for dtype in sorted(set(dtypes.values()))}
    least = sum(sum(parts.values()) / rates[dtypes[name]] for name, parts in counted.items())
    took = sum(novel) / len(novel) if novel else None
    return {
        "tflop_of_a_novel_view": {
            name: {part: value / 1e12 for part, value in parts.items()} for name, parts in counted.items()
        },
        "tflop_per_second_of_matrix_products": {dtype: rate / 1e12 for dtype, rate in rates.items()},
        "seconds_at_the_limit": least,
        "share_of_the_limit": least / took if took and counted else None,
    }


def matmul_rate(device: torch.device, dtype: str) -> float:
    """Return the floating-point operations per second of a large matrix product, the best of five."""
    side = 8192 if device.type == "cuda" else 768
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    clock, times = Clock(device), []
    for _ in range(6):
        began = clock.now()
        a @ b
        times.append(clock.now() - began)
    return 2 * side**3 / min(times[1:])  # without the first one, which is a warm-up
