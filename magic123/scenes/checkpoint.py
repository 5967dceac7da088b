"""A finished stage on disk: checkpoint.safetensors (the scene's tensors) and stage.json (its settings and what ran).

As in the reference code, the scene's tensors are those after the last step, which are rendered and exported. The exponential
moving averages of the trained tensors, with which the next stage starts, are stored beside them with the prefix "average.".
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from magic123.records.errors import InputError
from magic123.records.files import write_json, write_whole
from magic123.scenes.kinds import build_scene
from magic123.scenes.scene import Scene
from magic123.settings.stage import Stage, stage_settings

TENSORS, RECORD = "checkpoint.safetensors", "stage.json"
AVERAGE = "average."


def save_scene(folder: Path, scene: Scene, stage: Stage, record: dict, averages: dict[str, Tensor] | None = None) -> None:
    """Write a finished stage: the record first and the tensors last, so that a stage with tensors is complete.

    Args:
        folder: an existing folder.
        scene: the scene with the weights of the last step.
        stage: its settings.
        record: what ran, as plain data that JSON can hold.
        averages: moving averages of trained tensors, by their names in the scene's state dict.
    """
    from safetensors.torch import save

    kept = {**scene.state_dict(), **{AVERAGE + name: value for name, value in (averages or {}).items()}}
    tensors = {name: value.detach().cpu().contiguous() for name, value in kept.items()}
    write_json(folder / RECORD, {"settings": stage.model_dump(mode="json"), **record})
    write_whole(folder / TENSORS, save(tensors))


def load_scene(folder: str | Path, weights: str = "average") -> tuple[Scene, Stage]:
    """Load the scene of a finished stage, on the CPU and ready to render, and the stage's settings.

    Args:
        folder: the stage's folder.
        weights: "raw", those after the last step, or "average", their moving average (raw if the stage keeps none).

    Raises:
        InputError: a file is missing, damaged or of another version.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    for name in (RECORD, TENSORS):
        if not (folder / name).is_file():
            raise InputError(f"stage {folder}: {name} is missing; make it with `magic123 reconstruct`")
    try:
        stage = stage_settings(**json.loads((folder / RECORD).read_text(encoding="utf-8"))["settings"])
        with safe_open(folder / TENSORS, framework="pt") as file:  # reads only the requested tensors from disk
            stored = {name: name for name in file.keys() if not name.startswith(AVERAGE)}  # noqa: SIM118
            if weights == "average":
                stored |= {name.removeprefix(AVERAGE): name for name in file.keys() if name.startswith(AVERAGE)}  # noqa: SIM118
            tensors = {name: file.get_tensor(place) for name, place in stored.items()}
        scene = build_scene(stage, tensors)
        scene.load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, ValidationError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"stage {folder}: its files are damaged or of another version ({reason[:200]}); reconstruct it again"
        ) from error
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"stage {folder}: {TENSORS} holds non-finite numbers in {broken[0]}; reconstruct it again")
    return scene.eval(), stage
