"""Shared by all tests: one thread per process, no network, and tests are skipped if what they need is missing."""

import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from jaxtyping import install_import_hook
from repository_paths import REPOSITORY

# before torch or numba are imported: several test processes share few cores
for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# Rooms whose annotations (jaxtyping's shapes among them) are checked at every call while their own tests run. In the tests of
# whole stages the checks double the time, and find nothing that these do not.
TYPE_CHECKED = ["geometry", "fields", "render", "priors", "scenes"]


def _type_checked_modules() -> list[str]:
    """Return the modules of these rooms, without those that define numba or Triton kernels: no wrapper can be compiled."""
    files = [file for room in TYPE_CHECKED for file in sorted((REPOSITORY / "magic123" / room).glob("[a-z]*.py"))]
    kernels = re.compile(r"^(import|from) (numba|triton)\b", re.MULTILINE)
    plain = [file for file in files if not kernels.search(file.read_text(encoding="utf-8"))]
    return [f"magic123.{file.parent.name}.{file.stem}" for file in plain]


install_import_hook(_type_checked_modules(), "beartype.beartype")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_weights() -> bool:
    """Any network but the miniatures; a test skips those of its networks that are not there."""
    return any(folder.name != "miniature" for folder in (REPOSITORY / "weights").iterdir() if folder.is_dir())


def _has_slurm() -> bool:
    """Whether SLURM responds and has the partitions of profiles/slurm, and Snakemake's plugin is installed."""
    if shutil.which("sinfo") is None or importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return False
    answer = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, timeout=300)
    return answer.returncode == 0 and {"cpu", "gpu"} <= set(answer.stdout.split())


NEEDS = {
    "gpu": (_has_gpu, "no NVIDIA GPU here"),
    "weights": (_has_weights, "no real network is under weights/"),
    "nightly": (lambda: bool(os.environ.get("NIGHTLY")), "too long for every commit: set NIGHTLY=1"),
    "slurm": (_has_slurm, "no SLURM here with the partitions cpu and gpu, or no `uv sync --extra slurm`"),
}


# What an evaluation must never get wrong. Each test marked with one of these fails where its guard is removed.
# `pytest -m requirement` runs them all, `pytest -m 'requirement(id="R4")'` those of one.
REQUIREMENTS = {
    "R1": "one command, and a card for every number",
    "R2": "two protocols",
    "R3": "reference and novel views are kept apart",
    "R4": "CLIP is proved to be the right network",
    "R5": "LPIPS checks the range of its pictures",
    "R6": "PSNR is the same for bytes and floats, and is capped",
    "R7": "denominators count every planned result",
    "R8": "seeds and determinism",
    "R27": "partial results",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("requirement"):
            if marker.kwargs.get("id") not in REQUIREMENTS:
                raise pytest.UsageError(f"{item.nodeid}: requirement(id=...) must be one of {', '.join(REQUIREMENTS)}")
    for marker, (is_there, reason) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_there():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes only in the tests of the rooms in TYPE_CHECKED."""
    jaxtyping.config.update("jaxtyping_disable", item.path.parent.name not in TYPE_CHECKED)


def _seed() -> None:
    """Seed the global random generators of Python, NumPy and PyTorch with the same number."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):  # not imported for the sake of tests that do without it; its own default is fixed
        torch.manual_seed(0)


# Every fixture and every test starts from the same random states, whatever ran before it.
@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    _seed()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return REPOSITORY


@pytest.fixture
def suite_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loads a suite over the repository's configuration and a dataset of three, with changes laid over it."""
    from written_settings import suite_loader

    monkeypatch.chdir(tmp_path)
    return suite_loader(tmp_path)
