"""Single steps of a stage on the pretended device, with priors with random weights."""

from __future__ import annotations

import torch
from pretended_cuda.device import CUDA, Device, Wait
from repository_paths import REPOSITORY

from magic123.measure.benchmark import ball, small
from magic123.measure.random_weights import random_prior
from magic123.optimise.inputs import StepInputs
from magic123.optimise.stage import make_optimizer
from magic123.optimise.step import differentiate
from magic123.optimise.views import reference_view
from magic123.priors.speed import apply_speed
from magic123.scenes.kinds import build_scene
from magic123.settings.method import load_methods
from magic123.settings.priors import Speed

KNOWN, NOVEL = 400, 401  # steps of the released stages that render the reference view, and a novel one


def tiny(which: str, method: str = "magic123"):
    """Return a stage of the released method with few pixels, samples and cells."""
    full = load_methods(REPOSITORY / "config" / "methods.yaml")[method].stages[which]
    values = small(full).model_dump() | {"ladder": (), "priors": full.model_dump()["priors"]}
    if which == "coarse":
        values["nerf"] |= {"occupancy_resolution": 8, "max_samples": 24}
        values["resolution"] = 8
    return type(full)(**values)


def steps_of(device: Device, which: str, steps: tuple[int, ...], method: str = "magic123") -> dict[int, list[Wait]]:
    """Run steps of a tiny stage on the pretended device, and return the waits of each."""
    torch.manual_seed(0)
    stage, generator = tiny(which, method), torch.Generator().manual_seed(0)
    scene = build_scene(stage).to(CUDA)
    reference = reference_view(ball(round(stage.resolution * stage.reference_scale)), stage, CUDA)
    assert reference is not None
    priors = {
        name: random_prior(settings.kind, "small", dtype=settings.dtype, device=CUDA, reference=reference.camera)
        for name, settings in stage.priors.items()
    }
    apply_speed(priors.values(), Speed(), CUDA)
    optimizer = make_optimizer(scene.parameter_groups(stage.learning_rates), stage)
    if which == "coarse":
        scene.update_occupancy(generator)
    waits = {}
    for step in steps:
        device.clear()
        scene.before_step(step, stage.steps, generator)
        differentiate(StepInputs(scene, reference, priors, stage, step, generator), optimizer)
        optimizer.step()
        waits[step] = list(device.waits)
    return waits
