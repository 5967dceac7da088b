"""Convert an open_clip checkpoint from the Hugging Face Hub (open_clip_pytorch_model.bin) to safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from magic123.records.errors import InputError
from magic123.weights.checkpoint_file import check_complete, read_checkpoint, save_tensors

CONFIG, BEFORE, AFTER = "open_clip_config.json", "open_clip_pytorch_model.bin", "open_clip_model.safetensors"


def convert(folder: Path, out: Path) -> dict[str, object]:
    """Convert a checkpoint to open_clip_config.json and open_clip_model.safetensors.

    Args:
        folder: the folder of the downloaded configuration and checkpoint.
        out: the folder to write into.

    Returns:
        The number of parameters, for the record of the conversion.

    Raises:
        InputError: a file is missing or damaged, or they do not fit each other.
    """
    import open_clip

    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        architecture = json.loads(text)["model_cfg"]
        with torch.device("meta"):
            network = open_clip.CLIP(**architecture)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / CONFIG} does not describe a CLIP model ({error!r}); download it again") from error
    state = {key.removeprefix("module."): value for key, value in read_checkpoint(folder / BEFORE).items()}
    check_complete(state, {name: value.shape for name, value in network.state_dict().items()}, "CLIP", folder / BEFORE)
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(state, out / AFTER)
    (out / CONFIG).write_text(text, encoding="utf-8")
    return {"parameters": sum(value.numel() for value in state.values())}
