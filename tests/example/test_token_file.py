"""Files of learned tokens: what is read, and what is refused."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch

from magic123.example.token_file import load_token, save_token
from magic123.records.errors import InputError

VECTOR = torch.linspace(-1, 1, 6)


@pytest.mark.parametrize(
    ("name", "content", "token"),
    [
        ("learned_embeds.bin", {"<cat>": VECTOR}, "<cat>"),
        ("learned_embeds.bin", {"_banana_": torch.nn.Parameter(VECTOR.half())}, "_banana_"),
        ("other.pt", {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTOR[None]}, "name": "_teddy_"}, "_teddy_"),
    ],
)
def test_token_files_are_read(tmp_path, name, content, token):
    torch.save(content, tmp_path / name)
    read, vector = load_token(tmp_path / name)
    assert read == token and vector.dtype == torch.float32 and not vector.requires_grad
    torch.testing.assert_close(vector, VECTOR, atol=1e-3, rtol=0)


def test_saved_tokens_come_back(tmp_path):
    path = save_token(tmp_path, "<object>", VECTOR)
    assert path.name == "learned_embeds.safetensors"
    for source in (path, tmp_path):
        token, vector = load_token(source)
        assert token == "<object>" and torch.equal(vector, VECTOR)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"<object>": Bomb(mark)}, tmp_path / "zipped.bin")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps({"<object>": Bomb(mark)}))
    for name in ("zipped.bin", "bare.bin"):
        with pytest.raises(InputError, match="refused"):
            load_token(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"a": VECTOR, "b": VECTOR},
        {},
        VECTOR,
        {"a": torch.zeros(2, 6)},
        {"a": torch.zeros(6, dtype=torch.long)},
        {"a": torch.full((6,), math.nan)},
        {"a": "text"},
        {3: VECTOR},
        {"string_to_param": {"*": torch.zeros(3, 6)}, "name": "a"},
        {"string_to_param": {"*": VECTOR[None]}},
    ],
)
def test_files_that_are_not_one_token_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "learned_embeds.bin")
    with pytest.raises(InputError, match=r"learned_embeds\.bin"):
        load_token(tmp_path / "learned_embeds.bin")


def test_absent_and_unreadable_token_files_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no learned token"):
        load_token(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_token(tmp_path / "learned_embeds.bin")
    for name in ("a.safetensors", "a.bin", "a.txt"):
        (tmp_path / name).write_bytes(b"not a tensor")
        with pytest.raises(InputError, match=name):
            load_token(tmp_path / name)
