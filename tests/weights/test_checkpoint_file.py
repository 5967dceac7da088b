"""Converted checkpoints on a disk that is full."""

import errno

import pytest
import torch
from limited_files import files_of_at_most
from safetensors import SafetensorError
from safetensors.torch import save_file

from magic123.measure.original_layouts import save
from magic123.records.errors import disk_error, disk_sentence
from magic123.weights.checkpoint_file import save_tensors


@pytest.mark.parametrize("write", [save_tensors, save])
def test_tensors_that_do_not_fit_leave_nothing_and_what_was_there(tmp_path, write):
    file = tmp_path / "new" / "model.bin"
    tensors = {"a": torch.zeros(100_000), "b": torch.zeros(100)}
    with files_of_at_most(50_000), pytest.raises(OSError, match=r"File too large \(it needs .*0\.[0-9] MB\)") as problem:
        write(tensors, file)
    assert problem.value.errno == errno.EFBIG and problem.value.filename == str(file)
    assert not list(file.parent.iterdir())
    write({"a": torch.zeros(100)}, file)
    before = file.read_bytes()
    with files_of_at_most(50_000), pytest.raises(OSError, match="too large"):
        write(tensors, file)
    assert [other.name for other in file.parent.iterdir()] == ["model.bin"] and file.read_bytes() == before


def test_what_safetensors_says_of_the_disk_is_understood(tmp_path):
    with files_of_at_most(50_000), pytest.raises(SafetensorError) as problem:
        save_file({"a": torch.zeros(100_000)}, tmp_path / "model.safetensors")
    disk = disk_error(problem.value)
    assert disk is not None and disk.errno == errno.EFBIG and disk_sentence(disk).startswith("File too large; raise the limit")
    assert not list(tmp_path.iterdir()) and disk_error(SafetensorError("header too large")) is None
