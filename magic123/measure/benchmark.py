"""How fast a stage's steps are on this machine, where the time goes, and how far that is from what arithmetic allows.

Steps are the loop's own (`optimise`), on priors with random weights and an object made for it. Steps per second are taken
without looking inside; shares from other steps, which wait for the device at the end of each part.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

import torch

from magic123.example.example import Example
from magic123.measure.random_weights import Kind, Size, flops, random_prior
from magic123.optimise.stage import backward, differentiate, read, reference_view, sees_reference, step_losses
from magic123.priors.speed import apply_speed
from magic123.records.errors import InputError
from magic123.scenes.kinds import build_scene
from magic123.scenes.nerf import NeRF
from magic123.settings.cameras import ReferenceCamera
from magic123.settings.priors import Speed
from magic123.settings.stage import OptimisedStage, PointsStage, Stage

# What "small" lays over a stage: seconds on a CPU.
SMALL = {
    "resolution": 24,
    "field": {"hidden": 16, "grid": {"levels": 4, "log2_entries": 10, "base_resolution": 4, "finest_resolution": 32}},
    "nerf": {"occupancy_resolution": 24, "max_samples": 48},
    "dmtet": {"grid_resolution": 16},
    "dtype": "float32",
}

Optimised = TypeVar("Optimised", bound=OptimisedStage)


class Clock:
    """Seconds that each part took, the device's work included. What is timed inside another part is not counted twice."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self._inner = device, defaultdict(float), 0.0

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        outer, self._inner, began = self._inner, 0.0, self.now()
        yield
        spent = self.now() - began
        self.seconds[name] += spent - self._inner
        self._inner = outer + spent


class Timed:
    """Something whose named methods are timed as parts; all else is its own."""

    def __init__(self, thing: Any, clock: Clock, parts: dict[str, str]):
        self._thing, self._clock, self._parts = thing, clock, parts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        if name not in self._parts:
            return value

        def timed(*arguments, **keywords):
            with self._clock.part(self._parts[name]):
                return value(*arguments, **keywords)

        return timed


def small(stage: Optimised) -> Optimised:
    """The stage at the size of SMALL, its priors in float32."""
    values = stage.model_dump()
    for key, value in SMALL.items():
        if key not in type(stage).model_fields:
            continue
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    values["priors"] = {name: {**prior, "dtype": "float32"} for name, prior in values["priors"].items()}
    return type(stage)(**values | {"ladder": ()})


def peak_memory(where: torch.device) -> int:
    """Bytes: of a card what was reserved there since its count was reset, else what the process ever had."""
    if where.type == "cuda":
        return torch.cuda.max_memory_reserved(where)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine(where: torch.device) -> dict[str, Any]:
    """What measured it, plain data."""
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "torch": torch.__version__}


def ball(size: int) -> Example:
    """A shaded ball on white, with its depth: something for the losses on the known view to look at."""
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) * (2 / size) - 1] * 2, indexing="ij")
    height = (0.36 - x * x - y * y).clamp_min(0).sqrt()[..., None] / 0.6
    alpha = (height > 0).float()
    rgb = alpha * height * torch.tensor([0.9, 0.4, 0.2]) + 1 - alpha
    return Example("ball", rgb, alpha, alpha > 0.5, height, None, ReferenceCamera(), "a ball")


def measure(
    stage: Stage, size: Size, device: str, *, steps: int, warmup: int, at: float, seed: int = 0, speed: Speed | None = None
) -> dict[str, Any]:
    """Runs `warmup` + 2 `steps` steps from the share `at` of the stage on; plain data. Raises InputError, NonFinite.

    The scene is untrained and its occupancy grid looked at once: a trained one has fewer samples.
    """
    if not isinstance(stage, OptimisedStage):
        raise InputError(f"a {stage.scene} scene has nothing to optimise, so there is nothing to measure")
    if isinstance(stage, PointsStage):
        raise InputError("points are lifted from a trained stage: without one there is nothing to measure")
    if unknown := {prior.kind for prior in stage.priors.values() if prior.weight} - set(get_args(Kind)):
        raise InputError(f"there is no {min(unknown)} with random weights to measure: take a stage without it")
    if size == "small":
        stage = small(stage)
    where = torch.device(device)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    example = ball(round(stage.resolution * stage.reference_scale))
    scene = build_scene(stage).to(where)
    reference = reference_view(example, stage, where)
    priors = {
        name: random_prior(settings.kind, size, dtype=settings.dtype, device=where, reference=reference.camera, seed=seed)
        for name, settings in stage.priors.items()
        if settings.weight
    }
    applied = apply_speed(priors.values(), speed or Speed(), where)
    groups = scene.parameter_groups(stage.learning_rates)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    first = max(int(at * stage.steps), stage.reference_warmup)
    if first + warmup + 2 * steps > stage.steps:
        raise InputError(
            f"{warmup} + 2 x {steps} steps from step {first} on pass the stage's end at {stage.steps}: "
            "ask for fewer, or lower --at"
        )
    if isinstance(scene, NeRF):
        scene.occupancy.update(scene.field.density, generator)
    clock = Clock(where)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)

    def one(step: int) -> None:
        scene.before_step(step, stage.steps, generator)
        differentiate(scene, reference, priors, stage, step, generator, optimizer)
        optimizer.step()

    for step in range(first, first + warmup):
        one(step)
    seconds: dict[str, list[float]] = {"known view": [], "novel view": []}
    began = clock.now()
    for step in range(first + warmup, first + warmup + steps):
        one(step)
    whole = clock.now() - began
    peak = peak_memory(where)

    looked = Timed(scene, clock, {"render": "render", "regularizers": "losses"})
    asked = {name: Timed(prior, clock, {"encode": f"{name} VAE", "noise": f"{name} UNet"}) for name, prior in priors.items()}
    shares: dict[str, dict[str, float]] = {}
    for step in range(first + warmup + steps, first + warmup + 2 * steps):
        view = "known view" if sees_reference(step, stage) else "novel view"
        clock.seconds.clear()
        began = clock.now()
        with clock.part("occupancy and masks"):
            scene.before_step(step, stage.steps, generator)
        optimizer.zero_grad(set_to_none=True)
        with clock.part("losses"):
            losses = step_losses(looked, reference, asked, stage, step, generator)
        with clock.part("backward"):
            finite = backward(losses.total, optimizer)
        with clock.part("transfer"):
            read(losses, finite, priors, stage, step)
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
        "precision": {name: settings.dtype for name, settings in stage.priors.items()},
        **machine(where),
    } | limit(stage, size, where, seconds["novel view"])


def limit(stage: OptimisedStage, size: Size, device: torch.device, novel: list[float]) -> dict[str, Any]:
    """What the priors' arithmetic alone would take at the rate of this device's matrix products, against what a step took."""
    counted = {name: flops(prior.kind, size) for name, prior in stage.priors.items() if prior.weight}
    rates = {dtype: matmul_rate(device, dtype) for dtype in sorted({stage.priors[name].dtype for name in counted})}
    least = sum(sum(parts.values()) / rates[stage.priors[name].dtype] for name, parts in counted.items())
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
    """Operations a second of a large matrix product: the best of five."""
    side = 8192 if device.type == "cuda" else 768
    kind = getattr(torch, dtype)
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    clock, times = Clock(device), []
    for _ in range(6):
        began = clock.now()
        a @ b
        times.append(clock.now() - began)
    return 2 * side**3 / min(times[1:])  # the first warms up
