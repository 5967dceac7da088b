"""Learned tokens: files that hold one word's embedding, and prompts that contain such a word."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from magic123.records.errors import InputError

FILE_NAMES = ("learned_embeds.safetensors", "learned_embeds.bin")


def load_token(path: Path) -> tuple[str, Tensor]:
    """(token, embedding [dim] float32) of a file, or of a folder with a learned_embeds file in it.

    Layouts: {token: [dim]} as .safetensors or as a torch .bin (Magic123's and diffusers' files), and the .bin of the
    "AUTOMATIC1111" interface {"string_to_param": {"*": [1, dim]}, "name": token}. Nothing in a file is executed: pickles are
    opened with weights_only. Raises InputError for everything else.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in FILE_NAMES if (path / name).is_file()]
        if not found:
            raise InputError(f"{path} holds no learned token: {' or '.join(FILE_NAMES)} is expected in it")
        path = found[0]
    if not path.is_file():
        raise InputError(f"the token file {path} does not exist: run invert, or give another one")
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
        raise InputError(f"the token file {path} holds numbers that are not finite: make it anew")
    return token, value.detach().float().clone()


def _read(path: Path):
    if path.suffix not in (".safetensors", ".bin", ".pt"):
        raise InputError(f"the token file {path} must end in .safetensors, .bin or .pt")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken pickle can make the reader fail in any way it likes
        raise InputError(
            f"the token file {path} is not a readable file of tensors ({type(error).__name__}): it was refused"
        ) from error


def save_token(folder: Path, token: str, embedding: Tensor) -> Path:
    """Write folder/learned_embeds.safetensors as {token: [dim]}; returns its path."""
    from safetensors.torch import save

    path = Path(folder) / FILE_NAMES[0]
    # through bytes: save_file would make a file that only its owner can read
    path.write_bytes(save({token: embedding.detach().float().cpu().contiguous()}))
    return path


def add_token(tokenizer, text_encoder, token: str) -> int:
    """Make `token` a word of its own and return its id; its embedding row is new and undefined. Raises InputError."""
    if len(word_ids(tokenizer, token)) == 1 or tokenizer.add_tokens(token) != 1:
        raise InputError(f"the token {token!r} is already a word of the tokenizer: choose another name such as <object>")
    index = tokenizer.convert_tokens_to_ids(token)
    # without mean_resizing=False transformers draws the new row at random from the statistics of the others
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if index not in tokenizer(f"a {token}, here", add_special_tokens=False).input_ids:
        raise InputError(f"the tokenizer does not find the token {token!r} in a sentence: choose another name such as <object>")
    return index


def word_ids(tokenizer, word: str) -> list[int]:
    """Ids of a word without start and end marks."""
    return tokenizer(word, add_special_tokens=False).input_ids


def prompt_ids(tokenizer, text_encoder, prompts: list[str]) -> Tensor:
    """Padded ids [N, L] of prompts. Raises InputError if one does not fit (it would silently lose its end)."""
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    for prompt in prompts:
        used = len(tokenizer(prompt).input_ids)
        if used > length:
            raise InputError(f"the prompt {prompt!r} takes {used} tokens where the text encoder reads {length}: shorten it")
    ids = tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt").input_ids
    return ids.to(text_encoder.device)
