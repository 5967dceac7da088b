"""The training loop of all miniatures: AdamW, warm-up and decay of the learning rate, gradient clipping, EMA, a record."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from magic123.records.files import whole_file

# device of all training runs except that of the perceptual network, which takes a minute on a CPU
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BEFORE_DECAY = ".before-decay"  # suffix of the state at the start of the decay


def train(
    modules: Iterable[nn.Module],
    loss: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    name: str,
    ema_decay: float = 0.999,
    weight_decay: float = 1e-4,
    warmup: int = 100,
    seed: int = 0,
    inputs: dict[str, str | None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_interval: int = 1000,
    constant_until: float | None = None,
    on_checkpoint: Callable[[int], None] | None = None,
) -> dict:
    """Minimise a loss over the parameters of modules, which are replaced by their moving average at the end.

    Args:
        modules: the modules to train.
        loss: function that computes the loss, with a generator for all random numbers.
        steps: number of steps.
        batch: number of samples in each step.
        learning_rate: the largest learning rate.
        name: name of the training run, for messages and the record.
        ema_decay: decay of the exponential moving average.
        weight_decay: weight decay of AdamW.
        warmup: number of steps in which the learning rate rises linearly.
        seed: seed of the generator.
        inputs: hashes of the files that the loss depends on, by their role.
        checkpoint: file of the training state. If it exists and is of the same training, training resumes from it; otherwise
            training starts anew and says why. None for no checkpoints.
        checkpoint_interval: number of steps between checkpoints.
        constant_until: fraction of the steps with a constant learning rate, which then decays linearly to zero; None for cosine
            decay. The state at the start of the decay is kept as `*.before-decay`; a training with more steps resumes from it
            with the same result as if it had been run from the start.
        on_checkpoint: called with the number of steps after each checkpoint.

    Returns:
        The record: steps, times and the history of the loss, as JSON data.
    """
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    decay_from = steps if constant_until is None else round(constant_until * steps)

    def rate(step: int) -> float:
        if constant_until is None:
            return min(1.0, (step + 1) / warmup) * (0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + 0.01)
        return min(1.0, (step + 1) / warmup, (steps - step) / (steps - decay_from))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    average = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(seed)
    start, history, seconds, running = 0, [], 0.0, None
    settings = {
        "batch": batch,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "ema_decay": ema_decay,
        "warmup": warmup,
        "seed": seed,
        "shapes": [list(p.shape) for p in parameters],
        "inputs": inputs or {},
    }
    state = None if checkpoint is None else find_state(checkpoint, name, settings, steps, decay_from)
    if state is not None:
        with torch.no_grad():
            for p, a, saved, saved_average in zip(parameters, average, state["parameters"], state["average"], strict=True):
                p.copy_(saved)
                a.copy_(saved_average)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"].cpu())
        start, history, seconds, running = (state[key] for key in ("step", "history", "seconds", "running"))
    began = time.perf_counter()

    def save(file: Path, step: int) -> None:
        content = {
            "parameters": [p.detach() for p in parameters],
            "average": average,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "generator": generator.get_state(),
            "settings": settings,
            "steps": steps,
            "decay_from": decay_from,
            "step": step + 1,
            "history": history,
            "running": running,
            "seconds": seconds + time.perf_counter() - began,
        }
        with whole_file(file) as part, open(part, "wb") as stream:  # with a path, torch does not report why writing failed
            torch.save(content, stream)

    for step in range(start, steps):
        value = loss(generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        decay = min(ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, list[Tensor](parameters), 1 - decay)
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        if step % 100 == 99 or step == steps - 1:
            history.append([step + 1, running])
            spent = seconds + time.perf_counter() - began
            print(f"{name}: step {step + 1}/{steps} loss {running:.5f} {spent:.0f} s", flush=True)
        if checkpoint is not None and (step + 1) % checkpoint_interval == 0:
            save(checkpoint, step)
            if on_checkpoint is not None:
                on_checkpoint(step + 1)
        if checkpoint is not None and constant_until is not None and step + 1 == decay_from:
            save(checkpoint.with_suffix(BEFORE_DECAY), step)
    with torch.no_grad():
        for p, a in zip(parameters, average, strict=True):
            p.copy_(a)
    return {
        "name": name,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "ema_decay": ema_decay,
        "seed": seed,
        "parameters": sum(p.numel() for p in parameters),
        "seconds": round(seconds + time.perf_counter() - began),
        "loss": history,
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name()
        if parameters[0].device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
    }


def find_state(checkpoint: Path, name: str, settings: dict, steps: int, decay_from: int) -> dict | None:
    """Return the saved state from which a training can resume with the same result as without an interruption, if there is one.

    Args:
        checkpoint: file of the training state; a state at the start of the decay may lie beside it.
        name: name of the training, for the message.
        settings: what the training depends on besides its number of steps.
        steps: number of steps of the training.
        decay_from: step at which its learning rate begins to decay; without a constant part, `steps`.

    Returns:
        The state, or None if the training has to start anew; the reason is then printed.
    """
    reasons = []
    for file in (checkpoint, checkpoint.with_suffix(BEFORE_DECAY)):
        if not file.exists():
            continue
        state = torch.load(file, weights_only=True, map_location=DEVICE)
        saved = state.get("settings", {})
        different = [key for key in settings if saved.get(key) != settings[key]]
        if different:
            reasons.append(f"{file} is of another training ({', '.join(different)})")
        elif state["steps"] != steps and (decay_from == steps or state["step"] > min(decay_from, state["decay_from"])):
            reasons.append(f"{file} is of a training of {state['steps']} steps, at a learning rate that this one does not have")
        else:
            return state
    if reasons:
        print(f"{name}: starts anew: {'; '.join(reasons)}", flush=True)
    return None


def write_record(folder: Path, record: dict, quality: dict) -> None:
    """Write training.json: the record of the training, and the quality on held-out objects."""
    (folder / "training.json").write_text(json.dumps(record | {"held_out": quality}, indent=1))


def save_half(model, folder: Path) -> None:
    """Save a model as float16 safetensors; the model in memory stays in float32."""
    import copy

    copy.deepcopy(model).half().cpu().save_pretrained(
        folder, safe_serialization=True
    )  # safetensors replaces the file atomically


def draw_batch(generator: torch.Generator, objects: int, views: int, size: int, first_view: int = 0):
    """Draw `size` random indices of objects and of views, as NumPy arrays."""
    o = torch.randint(objects, (size,), generator=generator).numpy()
    v = torch.randint(first_view, views, (size,), generator=generator).numpy()
    return o, v
