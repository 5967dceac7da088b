"""Check this machine: libraries, CUDA devices, compiled extensions, memory, disk and schedulers.

Compiled extensions are tested in a subprocess, because one that was built for another version of torch or another device may
crash its process.
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

from magic123.records.devices import arch_runs
from magic123.run.estimate import too_old
from magic123.settings.registry import readable

BROKEN = "broken"
OTHER = "built for another architecture"
TIMEOUT = 180  # seconds for an extension to load and run; nvdiffrast is compiled when it is first used

# programs that run a small kernel of an extension, which fails if the extension was built for another architecture
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
    "tinycudann": "nothing if Triton runs; otherwise the hash grid on CUDA runs in plain torch, several times slower",
    "nvdiffrast": "nothing if Triton runs; otherwise mesh visibility is computed on the CPU, which slows every fine step",
}
# error messages of CUDA, its libraries and Python about code that was compiled for another architecture or library
OTHER_BUILD = re.compile(
    r"no kernel image|compute capability|unsupported gpu|invalid device function|undefined symbol|abi version|"
    r"cannot open shared object|GLIBC",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Finding:
    """The state of a part of the machine.

    Attributes:
        what: name of the part.
        state: present, absent, broken or built for another architecture.
        detail: the version that was found, or what is wrong.
        lost: what does not work, or is slower, without it.
        needed: whether a run cannot start without it.
    """

    what: str
    state: str
    detail: str
    lost: str
    needed: bool = False


def capabilities() -> list[tuple[int, int]]:
    """Return the compute capability of each CUDA device that torch sees."""
    try:
        import torch
    except Exception:  # python_and_torch reports that torch cannot be imported
        return []
    return [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]


def driver() -> str | None:
    """Return the version of the NVIDIA driver, or None if there is none."""
    loaded = Path("/proc/driver/nvidia/version")
    if loaded.is_file() and (match := re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", loaded.read_text())):
        return match[1]
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout.split("\n")[0].strip() or None if answer.returncode == 0 else None


def python_and_torch(devices: list[tuple[int, int]], gpu_needed: bool = False) -> Iterable[Finding]:
    """Yield findings about Python, the required libraries, the NVIDIA driver and the CUDA devices.

    Args:
        devices: compute capabilities of the CUDA devices.
        gpu_needed: whether a run needs a CUDA device.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "present" if sys.version_info >= (3, 11) else BROKEN, version, "everything", needed=True)
    try:
        import torch
    except Exception as error:  # a broken library may raise any exception
        yield Finding("torch", BROKEN if importlib.util.find_spec("torch") else "absent", one_line(error), "everything", True)
        return
    build = f"CUDA {torch.version.cuda}: {' '.join(torch.cuda.get_arch_list())}" if torch.version.cuda else "for the CPU alone"
    yield Finding("torch", "present", f"{torch.__version__}, {build.rstrip(': ')}", "everything", needed=True)
    for name in ("diffusers", "transformers", "numba", "snakemake"):
        there = importlib.util.find_spec(name) is not None
        detail = importlib.metadata.version(name) if there else "install the environment again: uv sync"
        yield Finding(name, "present" if there else "absent", detail, "everything", needed=True)

    lost = "priors and scenes run on the CPU, which is fast enough for the miniatures, but takes days for full-size models"
    version_of_driver = driver()
    state = "present" if version_of_driver else "absent"
    yield Finding("NVIDIA driver", state, version_of_driver or "no driver is loaded", lost, gpu_needed)
    if not devices:
        why = "torch sees none" if torch.version.cuda else "this torch is built for the CPU alone"
        yield Finding("CUDA device", "absent", why, lost, gpu_needed)
    for index, capability in enumerate(devices):
        properties = torch.cuda.get_device_properties(index)
        runs = arch_runs([*torch.cuda.get_arch_list()], capability)
        text = f"{properties.name}, sm_{capability[0]}{capability[1]}, {readable(properties.total_memory)}"
        if not runs:
            text += f"; torch has code for {' '.join(torch.cuda.get_arch_list())}"
            if (reason := too_old(capability, torch.version.cuda)) is not None:
                text += f"; {reason}"
        yield Finding(f"CUDA device {index}", "present" if runs else OTHER, text, lost, gpu_needed)


def extensions(devices: list[tuple[int, int]]) -> Iterable[Finding]:
    """Yield findings about Triton and the optional compiled extensions.

    Args:
        devices: compute capabilities of the CUDA devices.
    """
    from magic123.device import triton_problem

    lost = (
        "on CUDA the hash grid runs in tiny-cuda-nn or, several times slower, in plain torch; ray marching runs in torch; "
        "mesh visibility is computed by nvdiffrast or on the CPU"
    )
    if importlib.util.find_spec("triton") is None:
        yield Finding("Triton", "absent", triton_problem(None) or "not installed", lost)
    else:
        problem = triton_problem(max(devices, default=None))
        ready = problem is None or not devices  # without a device Triton is not used
        detail = f"{importlib.metadata.version('triton')}{f'; {problem}' if problem else ''}"
        yield Finding("Triton", "present" if ready else BROKEN, detail, lost)
    for name in TRIALS:
        yield try_extension(name)


def try_extension(name: str) -> Finding:
    """Import an optional compiled extension in a subprocess and, if there is a CUDA device, run one of its kernels."""
    if importlib.util.find_spec(name) is None:
        return Finding(name, "absent", "not installed (optional)", LOST[name])
    command = [sys.executable, "-c", TRIALS[name]]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Finding(name, BROKEN, f"it did not finish within {TIMEOUT} s", LOST[name])
    if answer.returncode == 0:
        return Finding(name, "present", "it loads and runs", LOST[name])
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    detail = lines[-1].strip()[:160] if lines else f"its process ended with status {answer.returncode}"
    return Finding(name, OTHER if OTHER_BUILD.search(answer.stderr) else BROKEN, detail, LOST[name])


def host(room_needed: int = 0) -> Iterable[Finding]:
    """Yield findings about cores, memory, disk and SLURM.

    Args:
        room_needed: bytes that are still to be downloaded or converted.
    """
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
    missing = [] if commands else ["sbatch"]
    missing += [] if plugin else ["Snakemake's plugin (uv sync --extra slurm)"]
    detail = f"without {' and '.join(missing)}" if missing else "sbatch and Snakemake's plugin"
    yield Finding("SLURM", state, detail, "all jobs run on this machine")


def one_line(error: BaseException) -> str:
    """Return the message of an exception on one line of at most 160 characters, or its type if it has none."""
    return " ".join(str(error).split())[:160] or type(error).__name__
