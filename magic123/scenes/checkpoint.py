"""A finished stage on disk: checkpoint.safetensors (the scene's tensors) and stage.json (its settings and what ran)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from magic123.records.errors import InputError
from magic123.records.files import write_json, write_whole
from magic123.settings.config import Stage

TENSORS, RECORD = "checkpoint.safetensors", "stage.json"


def save_scene(folder: Path, scene: nn.Module, stage: Stage, record: dict) -> None:
    """Writes the record first and the tensors last: where the tensors are, all is there."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in scene.state_dict().items()}
    write_json(folder / RECORD, {"settings": stage.model_dump(mode="json"), **record})
    write_whole(folder / TENSORS, save(tensors))


def build_scene(stage: Stage, given: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """An untrained scene of a stage. given: what scenes of pictures or points are made of, by their buffers' names."""
    if stage.scene == "picture":
        from magic123.scenes.picture import Picture

        return Picture(given["rgb"], given["alpha"])
    if stage.scene == "samples":
        from magic123.scenes.samples import Samples

        return Samples(given["pictures"], given["places"])
    if stage.scene == "points":
        from magic123.scenes.points import Points

        return Points.of_size(stage.points, len(given["positions"]))
    if stage.scene == "nerf":
        from magic123.scenes.nerf import NeRF

        return NeRF(stage.field, stage.nerf)
    from magic123.scenes.dmtet import DMTet

    return DMTet(stage.field, stage.dmtet)


def load_scene(folder: str | Path) -> tuple[nn.Module, Stage]:
    """The scene of a finished stage, on the CPU, ready to render. InputError names what is missing or does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (RECORD, TENSORS):
        if not (folder / name).is_file():
            raise InputError(f"stage {folder}: {name} is missing; make it with `python -m magic123 reconstruct`")
    try:
        stage = Stage(**json.loads((folder / RECORD).read_text(encoding="utf-8"))["settings"])
        tensors = load_file(folder / TENSORS)
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
