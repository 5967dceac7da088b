"""The optimisation of one scene for one example: one loop, the same for the coarse and the fine stage."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from magic123.example.example import Example
from magic123.optimise.inputs import Priors, StepInputs
from magic123.optimise.resume import LoopCheckpoints, loop_state, restore_loop
from magic123.optimise.step import differentiate, differentiate_again
from magic123.optimise.views import reference_view
from magic123.optimise.watch import StageWatch
from magic123.records.collector import collect_as_usual
from magic123.records.errors import NonFinite
from magic123.scenes.scene import Scene
from magic123.settings.stage import OptimisedStage, Stage


def make_optimizer(groups: list[dict], stage: OptimisedStage) -> torch.optim.Optimizer:
    """Return the stage's optimiser for parameter groups, with the constants of the released codes that use it."""
    if stage.optimizer == "adam":
        fused = True if groups[0]["params"][0].is_cuda else None  # one kernel for all parameters of a dtype
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=fused)
    from timm.optim.adan import Adan

    return Adan(groups, eps=1e-8, weight_decay=2e-5, foreach=False)


def optimise(
    scene: Scene,
    example: Example,
    priors: Priors,
    stage: Stage,
    generator: torch.Generator,
    log: Callable[[int, dict[str, float]], None],
    checkpoints: LoopCheckpoints,
    watch: StageWatch | None = None,
) -> tuple[int, dict[str, Tensor]]:
    """Run all steps of a stage, or those after the last checkpoint, at constant learning rates.

    Args:
        scene: optimised in place, on its device; afterwards it holds the weights of the last step.
        example: the example.
        priors: all loaded priors of the stage.
        stage: the settings.
        generator: source of all random numbers; on the CPU.
        log: called with the step and its values after each step; appends one row to those of `checkpoints`.
        checkpoints: saves the state of the loop and resumes from it.
        watch: receives the guidance of the steps that the settings name.

    Returns:
        The number of steps that were repeated in float32, and the moving average of the trained tensors by their names in the
        scene's state dict; empty if the stage keeps none.

    Raises:
        NonFinite: a loss or a gradient is not finite.
        Stopped: a signal asked the process to stop, and the state is saved.
    """
    if not isinstance(stage, OptimisedStage) or not stage.steps:
        return 0, {}
    groups = scene.parameter_groups(stage.learning_rates)
    parameters = [p for group in groups for p in group["params"]]
    reference = reference_view(example, stage, parameters[0].device)
    optimizer = make_optimizer(groups, stage)
    average = [p.detach().clone() for p in parameters]
    retries = torch.zeros((), dtype=torch.int64)

    def tensors() -> dict[str, Tensor]:
        """Return the tensors that the loop's steps change, apart from the optimiser's."""
        return {**scene.state_dict(), **{f"average.{i}": a for i, a in enumerate(average)}, "retries": retries}

    restore_loop(checkpoints.load(), tensors(), optimizer, generator)
    collect_as_usual()
    for step in range(len(checkpoints.rows), stage.steps):
        scene.before_step(step, stage.steps, generator)
        random_state = generator.get_state()
        cameras = stage.cameras.at(step / stage.steps, example.camera)
        now = stage if cameras is stage.cameras else stage.model_copy(update={"cameras": cameras})
        inputs = StepInputs(scene, reference, priors, now, step, generator, watch)
        try:
            values = differentiate(inputs, optimizer)
        except NonFinite as error:
            values = differentiate_again(inputs, optimizer, error, random_state, retries)
        if stage.gradient_clip_value:
            torch.nn.utils.clip_grad_value_(parameters, stage.gradient_clip_value)
        if stage.gradient_clip:
            torch.nn.utils.clip_grad_norm_(parameters, stage.gradient_clip)
        optimizer.step()
        if (step + 1) % stage.ema_interval == 0:
            updates = (step + 1) // stage.ema_interval
            decay = min(stage.ema_decay, (1 + updates) / (10 + updates))  # as torch_ema
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        log(step, values)
        checkpoints.after_step(lambda: loop_state(tensors(), optimizer, generator))
    checkpoints.after_loop(lambda: loop_state(tensors(), optimizer, generator))
    if not stage.ema_decay or stage.steps < stage.ema_interval:
        return int(retries), {}
    names = {id(p): name for name, p in scene.named_parameters()}
    return int(retries), {names[id(p)]: a for p, a in zip(parameters, average, strict=True)}
