"""Converted checkpoints on a disk that is full."""

import pytest
import torch
from limited_files import files_of_at_most

from magic123.records.errors import InputError
from magic123.weights.checkpoint_file import save_tensors


def test_tensors_that_do_not_fit_are_refused_and_leave_nothing(tmp_path):
    file = tmp_path / "new" / "model.safetensors"
    with files_of_at_most(50_000), pytest.raises(InputError, match=r"model\.safetensors cannot be written .*; make room"):
        save_tensors({"a": torch.zeros(100_000)}, file)
    assert not list(file.parent.iterdir())
