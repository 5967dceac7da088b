"""Doctor: its findings with extensions that are hidden, broken or built for other hardware."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from magic123.__main__ import main
from magic123.device import triton_problem
from magic123.measure import machine
from magic123.measure.machine import Finding, extensions, host, python_and_torch, try_extension
from magic123.records.devices import arch_runs, present_device
from magic123.records.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Puts a package of some name and content where Python finds it, here and in child processes."""

    def put(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(textwrap.dedent(text))
        (tmp_path / name / "torch.py").write_text("")  # nvdiffrast.torch
        # of torch the child needs to know alone that there is no device, and the real one takes seconds to import
        (tmp_path / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        ("sm_80 sm_90", (9, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80 sm_90", (12, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),
        ("sm_70 compute_70", (12, 0), True),
        ("compute_90", (8, 9), False),
        ("", (9, 0), False),
    ],
)
def test_code_runs_on_its_own_architecture_and_on_what_it_was_made_to_meet(archs, capability, runs):
    assert arch_runs(archs.split(), capability) == runs


def test_an_extension_that_is_not_there_is_absent():
    finding = try_extension("nvdiffrast") if not machine.importlib.util.find_spec("nvdiffrast") else None
    if finding is None:
        pytest.skip("nvdiffrast is installed here")
    assert finding.state == "absent" and "fine step" in finding.lost and not finding.needed


@pytest.mark.parametrize(
    ("text", "state", "word"),
    [
        ("raise EnvironmentError('compiled for compute capability 75, the device has 90')", machine.OTHER, "75"),
        ("raise ImportError('_C.so: undefined symbol: _ZN3c106detail')", machine.OTHER, "undefined symbol"),
        ("raise RuntimeError('something else')", machine.BROKEN, "something else"),
        ("import os; os.abort()", machine.BROKEN, "status"),
        ("", "present", "loads"),
    ],
)
def test_an_extension_is_tried_in_a_process_of_its_own(extension, text, state, word):
    if torch.cuda.is_available():
        pytest.skip("an empty package cannot pretend to run on the device")
    extension("nvdiffrast", text)
    finding = try_extension("nvdiffrast")
    assert finding.state == state and word in finding.detail


def test_torch_without_code_for_the_card_is_reported(monkeypatch):
    properties = SimpleNamespace(name="A new card", total_memory=24e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    rows = {one.what: one for one in python_and_torch([(9, 0), (13, 0)], gpu_needed=True)}
    assert rows["CUDA device 0"].state == "present"
    assert rows["CUDA device 1"].state == machine.OTHER and "sm_80 sm_90" in rows["CUDA device 1"].detail
    assert rows["CUDA device 1"].needed
    assert {one.what for one in python_and_torch([])} >= {"CUDA device", "NVIDIA driver", "torch"}


def test_a_card_that_torch_was_not_built_for_is_reported_with_what_to_install(monkeypatch):
    """CUDA 13 has nothing for a V100, on which the published times were taken."""
    properties = SimpleNamespace(name="V100", total_memory=32e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "compute_120"])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    rows = {one.what: one for one in python_and_torch([(7, 0), (7, 5)], gpu_needed=True)}
    assert (
        rows["CUDA device 0"].state == machine.OTHER
        and "install a build of torch that lists sm_70" in rows["CUDA device 0"].detail
    )
    assert rows["CUDA device 1"].state == "present"
    assert "7.5 or later" in triton_problem((7, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "V100")
    with pytest.raises(InputError, match="torch has no code for V100"):
        present_device("cuda")


def test_triton_needs_a_compiler_where_there_is_a_card(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr("shutil.which", lambda name: None)
    rows = {one.what: one for one in extensions([(9, 0)])}
    assert rows["Triton"].state == machine.BROKEN and "C compiler" in rows["Triton"].detail


def test_too_little_disk_is_found():
    rows = {one.what: one for one in host(room_needed=10**18)}
    assert rows["disk"].state == "absent" and rows["disk"].needed
    assert {one.what: one for one in host()}["disk"].state == "present"


HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"triton", "tinycudann", "nvdiffrast", "snakemake_executor_plugin_slurm"}:
            raise ModuleNotFoundError(f"{name} is hidden")

import importlib.util
real = importlib.util.find_spec
hidden = Hidden()
sys.meta_path.insert(0, hidden)

def find_spec(name, package=None):
    try:
        return real(name, package)
    except ModuleNotFoundError:
        return None

importlib.util.find_spec = find_spec
"""


def test_all_runs_with_every_extension_hidden():
    """Both scenes render and have gradients, and the doctor says what is lost."""
    program = HIDE + textwrap.dedent("""
        import torch
        from magic123.__main__ import main
        from magic123.geometry.camera import Camera
        from magic123.scenes.kinds import build_scene
        from magic123.settings.stage import stage_settings

        field = {"hidden": 8, "grid": {"levels": 2, "log2_entries": 8, "base_resolution": 4, "finest_resolution": 8}}
        for own in (
            {"scene": "nerf", "nerf": {"max_samples": 16}},
            {"scene": "dmtet", "init": "coarse", "dmtet": {"grid_resolution": 8}},
        ):
            stage = stage_settings(field=field, **own)
            scene = build_scene(stage)
            scene.render(Camera.orbit(80, 30, 1.8, 40, 8)).rgb.sum().backward()
            assert scene.field.grid.table.grad.abs().sum() > 0
        sys.exit(main(["doctor", "--json"]))
    """)
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    assert answer.returncode == 0, answer.stderr
    rows = {one["what"]: one for one in json.loads(answer.stdout)}
    for name in ("Triton", "tinycudann", "nvdiffrast", "SLURM"):
        assert rows[name]["state"] == "absent" and rows[name]["lost"], name


def test_the_demo_can_run_here(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main(["doctor", "config/demo-full.yaml"]) == 0
    text = capsys.readouterr().out
    assert "* weights miniature-zero123" in text and "other weights" in text
    assert "without it" in text.splitlines()[0]


def test_weights_that_are_needed_and_not_there_end_with_status_1(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    monkeypatch.setattr("magic123.commands.doctor.is_complete", lambda entry: entry.kind != "zero123")
    assert main(["doctor", "config/demo-full.yaml"]) == 1
    captured = capsys.readouterr()
    assert "weights miniature-zero123 is broken" in captured.err and captured.err.count("\n") == 1
    assert "* weights miniature-zero123" in captured.out
    assert main(["doctor"]) == 0  # nothing was asked for that needs it


def test_a_terminal_gets_a_table_with_the_same_findings(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("COLUMNS", "200")
    rows = [Finding("torch", "present", "2.13 [cpu]", "everything", True), Finding("SLURM", "absent", "without sbatch", "jobs")]
    for name in ("python_and_torch", "extensions", "host", "weights"):
        monkeypatch.setattr(f"magic123.commands.doctor.{name}", lambda *_, name=name: rows if name == "host" else [])
    assert main(["doctor"]) == 0
    plain = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "│" in shown and "│" not in plain
    for words in ("* torch", "present", "2.13 [cpu]", "SLURM", "without sbatch", "jobs", "* needed", "without it"):
        assert words in shown and words in plain
