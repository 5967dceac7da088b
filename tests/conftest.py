"""Shared by all tests: one thread a process, no network, and tests skipped where what they need is not there."""

import os
import shutil
from pathlib import Path

import pytest

# before torch or numba are imported: several test processes share few cores
for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_weights() -> bool:
    return (REPOSITORY / "weights" / "stable-diffusion-1.5" / "model_index.json").is_file()


NEEDS = {
    "gpu": (_has_gpu, "no NVIDIA GPU here"),
    "weights": (_has_weights, "the real networks are not under weights/"),
    "slurm": (lambda: shutil.which("sbatch") is not None, "no SLURM here (sbatch)"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, (is_there, reason) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY
