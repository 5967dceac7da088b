"""What a machine has to offer: libraries, CUDA devices, compiled extensions, memory, disk and schedulers, as rows of a table.

Compiled extensions are tried in a process of their own: one that was built for another torch or another card may take its
process down with it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from magic123.settings.registry import readable

BROKEN = "broken"
OTHER = "built for another architecture"
PATIENCE = 180  # seconds for an extension to load and run: nvdiffrast compiles itself when first used

# Each runs one small kernel, so that code for another architecture shows.
TRIALS = {
    "tinycudann": """
import torch, tinycudann
if torch.cuda.is_available():
    grid = tinycudann.Encoding(3, {"otype": "Grid", "type": "Hash", "n_levels": 2, "log2_hashmap_size": 8}, dtype=torch.float32)
    assert torch.isfinite(grid(torch.rand(256, 3, device="cuda"))).all()
""",
    "nvdiffrast": """
import torch, nvdiffrast.torch as dr
if torch.cuda.is_available():
    corners = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]], device="cuda")
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32, device="cuda")
    seen, _ = dr.rasterize(dr.RasterizeCudaContext(), corners, faces, resolution=[8, 8])
    assert (seen[..., 3] == 1).all()
""",
}
LOST = {
    "tinycudann": "nothing where Triton runs; else the hash grid on CUDA runs in plain torch, several times slower",
    "nvdiffrast": "mesh visibility is found on the CPU: the fine stage waits for it at every step",
}
# words by which CUDA, its libraries and Python say that compiled code is for something else
ELSEWHERE = re.compile(
    r"no kernel image|compute capability|unsupported gpu|invalid device function|undefined symbol|abi version|"
    r"cannot open shared object|GLIBC",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Finding:
    """One row. state: present, absent, broken or built for another architecture."""

    what: str
    state: str
    detail: str
    lost: str
    needed: bool = False


def capabilities() -> list[tuple[int, int]]:
    """Compute capability of each CUDA device that torch can use."""
    try:
        import torch
    except Exception:  # a torch that does not load is a finding of its own
        return []
    return [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]


def arch_runs(arch_list: list[str], capability: tuple[int, int]) -> bool:
    """Whether code built for `arch_list` (sm_80, sm_90a, compute_90) runs on a device.

    Machine code (sm) runs on the same major version and no lower minor one (sm_90a: on 9.0 alone); PTX (compute) on anything
    as new.
    """
    for arch in arch_list:
        kind, digits, feature = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", arch).groups()
        built = (int(digits[:-1]), int(digits[-1]))
        if feature == "a":
            runs = built == capability
        elif kind == "compute" and not feature:
            runs = built <= capability
        else:
            runs = built[0] == capability[0] and built[1] <= capability[1]
        if runs:
            return True
    return False


def driver() -> str | None:
    """The NVIDIA driver's version, or None."""
    loaded = Path("/proc/driver/nvidia/version")
    if loaded.is_file() and (found := re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", loaded.read_text())):
        return found[1]
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout.split("\n")[0].strip() or None if answer.returncode == 0 else None


def python_and_torch(devices: list[tuple[int, int]], gpu_needed: bool = False) -> Iterable[Finding]:
    """Python, the libraries that no command does without, the driver, and the CUDA devices."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "present" if sys.version_info >= (3, 11) else BROKEN, version, "everything", needed=True)
    try:
        import torch
    except Exception as error:  # a broken library raises what it likes
        yield Finding("torch", BROKEN if importlib.util.find_spec("torch") else "absent", one_line(error), "everything", True)
        return
    build = f"CUDA {torch.version.cuda}: {' '.join(torch.cuda.get_arch_list())}" if torch.version.cuda else "for the CPU alone"
    yield Finding("torch", "present", f"{torch.__version__}, {build.rstrip(': ')}", "everything", needed=True)
    for name in ("diffusers", "transformers", "numba", "snakemake"):
        there = importlib.util.find_spec(name) is not None
        detail = importlib.metadata.version(name) if there else "install the environment again: uv sync"
        yield Finding(name, "present" if there else "absent", detail, "everything", needed=True)

    lost = "priors and scenes run on the CPU: right for the miniatures, days for the full-size models"
    found = driver()
    yield Finding("NVIDIA driver", "present" if found else "absent", found or "no driver is loaded", lost, gpu_needed)
    if not devices:
        why = "torch sees none" if torch.version.cuda else "this torch is built for the CPU alone"
        yield Finding("CUDA device", "absent", why, lost, gpu_needed)
    for index, capability in enumerate(devices):
        known = torch.cuda.get_device_properties(index)
        built = arch_runs([*torch.cuda.get_arch_list()], capability)
        text = f"{known.name}, sm_{capability[0]}{capability[1]}, {readable(known.total_memory)}"
        if not built:
            text += f"; torch has code for {' '.join(torch.cuda.get_arch_list())}"
        yield Finding(f"CUDA device {index}", "present" if built else OTHER, text, lost, gpu_needed)


def extensions(devices: list[tuple[int, int]]) -> Iterable[Finding]:
    """Triton, and the extensions that a user may have compiled."""
    from magic123.device import triton_problem

    lost = "on CUDA the hash grid runs in tiny-cuda-nn or, several times slower, in plain torch, as ray marching then does"
    if importlib.util.find_spec("triton") is None:
        yield Finding("Triton", "absent", triton_problem(None), lost)
    else:
        trouble = triton_problem(max(devices, default=None))
        ready = trouble is None or not devices  # without a device there is nothing for it to do
        detail = f"{importlib.metadata.version('triton')}{f'; {trouble}' if trouble else ''}"
        yield Finding("Triton", "present" if ready else BROKEN, detail, lost)
    for name in TRIALS:
        yield tried(name)


def tried(name: str) -> Finding:
    """An optional compiled extension: imported and, where there is a CUDA device, run."""
    if importlib.util.find_spec(name) is None:
        return Finding(name, "absent", "not installed (optional)", LOST[name])
    command = [sys.executable, "-c", TRIALS[name]]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return Finding(name, BROKEN, f"no answer after {PATIENCE} s", LOST[name])
    if answer.returncode == 0:
        return Finding(name, "present", "it loads and runs", LOST[name])
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    detail = lines[-1].strip()[:160] if lines else f"its process ended with status {answer.returncode}"
    return Finding(name, OTHER if ELSEWHERE.search(answer.stderr) else BROKEN, detail, LOST[name])


def host(room_needed: int = 0) -> Iterable[Finding]:
    """Cores, memory, disk, and SLURM."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores and memory", "present", f"{cores} cores, {readable(memory)}", "")
    free = shutil.disk_usage(".").free
    enough = free > room_needed + 10**9
    detail = f"{readable(free)} free here" + (f", {readable(room_needed)} still to fetch" if room_needed else "")
    yield Finding("disk", "present" if enough else "absent", detail, "room for weights and results", needed=True)
    plugin = importlib.util.find_spec("snakemake_executor_plugin_slurm") is not None
    commands = shutil.which("sbatch") is not None
    state = "present" if plugin and commands else "absent"
    lacks = [] if commands else ["sbatch"]
    lacks += [] if plugin else ["Snakemake's plugin (uv sync --extra slurm)"]
    said = f"without {' and '.join(lacks)}" if lacks else "sbatch and Snakemake's plugin"
    yield Finding("SLURM", state, said, "all jobs run on this machine")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
