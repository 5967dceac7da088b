"""Learned tokens in tokenizers and text encoders, and the token ids of prompts."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from magic123.records.errors import InputError


def add_token(tokenizer: Any, text_encoder: Any, token: str) -> int:
    """Add a token to a tokenizer and an uninitialised row to its text encoder's embedding table.

    Args:
        tokenizer: a tokenizer of transformers, changed in place.
        text_encoder: a text model of transformers, changed in place.
        token: the new token.

    Returns:
        The id of the token.

    Raises:
        InputError: the tokenizer has this token already, or splits it within a sentence.
    """
    if len(word_ids(tokenizer, token)) == 1 or tokenizer.add_tokens(token) != 1:
        raise InputError(f"the token {token!r} is already a word of the tokenizer: choose another name, such as <object>")
    index = tokenizer.convert_tokens_to_ids(token)
    # without mean_resizing=False transformers draws the new row at random from the statistics of the others
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if index not in tokenizer(f"a {token}, here", add_special_tokens=False).input_ids:
        raise InputError(f"the tokenizer splits the token {token!r} within a sentence: choose another name, such as <object>")
    return index


def word_ids(tokenizer: Any, word: str) -> list[int]:
    """Return the token ids of a word, without start and end tokens."""
    return tokenizer(word, add_special_tokens=False).input_ids


def prompt_ids(tokenizer: Any, text_encoder: Any, prompts: list[str]) -> Int[Tensor, "N L"]:
    """Return the token ids of prompts, padded to the length that the text encoder reads, on its device.

    Raises:
        InputError: a prompt is longer than the text encoder reads (the tokenizer would truncate it silently).
    """
    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    for prompt in prompts:
        used = len(tokenizer(prompt).input_ids)
        if used > length:
            raise InputError(f"the prompt {prompt!r} takes {used} tokens where the text encoder reads {length}: shorten it")
    ids = tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt").input_ids
    return ids.to(text_encoder.device)
