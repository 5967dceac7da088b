"""Read and write files of learned tokens: a token and its embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic123.records.errors import InputError
from magic123.records.files import write_whole

FILE_NAMES = ("learned_embeds.safetensors", "learned_embeds.bin")


def load_token(path: Path) -> tuple[str, Float[Tensor, " dim"]]:
    """Load a learned token and its embedding, float32.

    Supported layouts are {token: [dim]} as .safetensors or as a torch .bin (files of Magic123 and diffusers), and the .bin of
    the AUTOMATIC1111 web UI, {"string_to_param": {"*": [1, dim]}, "name": token}. No code in a file is executed: pickles are
    loaded with weights_only.

    Args:
        path: the file, or a folder that holds one of FILE_NAMES.

    Raises:
        InputError: there is no such file, or it has another layout.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in FILE_NAMES if (path / name).is_file()]
        if not files:
            raise InputError(f"{path} holds no learned token: it must contain {' or '.join(FILE_NAMES)}")
        path = files[0]
    if not path.is_file():
        raise InputError(f"the token file {path} does not exist: run `magic123 invert`, or give another file")
    content = _read(path)
    if isinstance(content, dict) and isinstance(content.get("string_to_param"), dict):
        values = list(content["string_to_param"].values())
        content = {content.get("name"): values[0]} if len(values) == 1 else {}
    if not isinstance(content, dict) or len(content) != 1:
        raise InputError(f"the token file {path} must hold exactly one token as {{token: [dim]}}")
    ((token, value),) = content.items()
    if not isinstance(token, str) or not token.strip() or not isinstance(value, Tensor) or not value.is_floating_point():
        raise InputError(f"the token file {path} must map one word to a vector of numbers")
    if value.dim() == 2 and len(value) == 1:
        value = value[0]
    if value.dim() != 1:
        raise InputError(
            f"the token file {path} holds an array of shape {list(value.shape)}: one vector per token is supported"
        )
    if not torch.isfinite(value).all():
        raise InputError(f"the token file {path} holds numbers that are not finite: learn the token again")
    return token, value.detach().float().clone()


def _read(path: Path) -> Any:
    """Return the content of a token file, which is not checked yet."""
    if path.suffix not in (".safetensors", ".bin", ".pt"):
        raise InputError(f"the token file {path} must end in .safetensors, .bin or .pt")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious or damaged pickle can raise anything
        raise InputError(
            f"the token file {path} cannot be read safely as tensors ({type(error).__name__}) and was refused"
        ) from error


def save_token(folder: Path, token: str, embedding: Float[Tensor, " dim"]) -> Path:
    """Write a learned token as {token: [dim]} to `folder`/learned_embeds.safetensors, and return that path."""
    from safetensors.torch import save

    path = Path(folder) / FILE_NAMES[0]
    # not save_file, which creates files that only the owner can read
    write_whole(path, save({token: embedding.detach().float().cpu().contiguous()}))
    return path
