"""Hashes of weights: large ones are known by the hash of their content, from the receipt where it can be trusted."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from magic123.records import hashes
from magic123.records.hashes import RECEIPT, fingerprint, sha256_of


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose file counts as large."""
    monkeypatch.setattr(hashes, "HASHED_WHOLE", 100)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(bytes(1000))
    return tmp_path


def receipt(folder: Path, sha256: str, size: int = 1000) -> None:
    (folder / RECEIPT).write_text(json.dumps({"files": {"unet/model.safetensors": {"sha256": sha256, "bytes": size}}}))


def test_the_receipt_is_believed_while_nothing_changed(weights: Path) -> None:
    file, true = weights / "unet" / "model.safetensors", hashlib.sha256(bytes(1000)).hexdigest()
    assert sha256_of(file, weights) == true  # without a receipt it is computed
    receipt(weights, "a" * 64)
    assert sha256_of(file, weights) == "a" * 64
    before = fingerprint(weights)
    receipt(weights, "b" * 64)
    assert fingerprint(weights) != before  # names and sizes alone would look alike
    receipt(weights, "a" * 64, size=999)
    assert sha256_of(file, weights) == true
    receipt(weights, "a" * 64)
    file.write_bytes(bytes(999) + b"1")
    os.utime(file, (0, 0))  # a copy that keeps an old date
    status = (weights / RECEIPT).stat()
    os.utime(weights / RECEIPT, ns=(status.st_atime_ns, min(status.st_mtime_ns, file.stat().st_ctime_ns - 1)))
    while file.stat().st_ctime_ns <= (weights / RECEIPT).stat().st_ctime_ns:
        file.chmod(0o644)
    assert sha256_of(file, weights) == hashlib.sha256(bytes(999) + b"1").hexdigest()
    (weights / RECEIPT).write_text("[")
    assert sha256_of(file, weights) == hashlib.sha256(bytes(999) + b"1").hexdigest()


def test_of_small_weights_names_and_contents_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    assert fingerprint(tmp_path) == hashlib.sha256(b"model.safetensors 3\nabc").hexdigest()
