"""The recorded status of every command, and how a table shows it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.tables.plan import Cell, parse_column, read_cell
from magic123 import __main__
from magic123.records.errors import InputError, NonFinite, OutOfMemory, Stopped, is_out_of_memory
from magic123.records.status import noted, read_status, status_file
from magic123.run.plan import note_failures


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("the mask is empty"), "failed"),
        (NonFinite("step 3: rgb"), "non-finite"),
        (OutOfMemory("on every rung"), "out of memory"),
        (MemoryError("nothing left"), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"),
            "out of memory",
        ),
        (Stopped("SIGTERM: saved at step 4"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (ValueError("a bug"), "failed"),
    ],
)
def test_every_end_has_its_status(here, error, status):
    with pytest.raises(type(error)), noted("view", "cell/views"):
        assert json.loads(Path("cell/.views.status.json").read_text())["status"] == "running"
        raise error
    assert read_status("cell/views")["status"] == status and str(error) in read_status("cell/views")["reason"]
    with noted("view", "cell/views"):
        pass
    assert read_status("cell/views") == {"status": "ok", "reason": ""}
    assert [path.name for path in Path("cell").iterdir()] == [".views.status.json"]


@pytest.mark.parametrize(("left", "status"), [(10, "timed out"), (-10, "timed out"), (900, "stopped"), (None, "stopped")])
def test_leaving_at_the_end_of_a_slurm_job_is_a_lack_of_time(here, monkeypatch, left, status):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    if left is not None:
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + left))
    with pytest.raises(Stopped), noted("view", "cell/views"):
        raise Stopped("SIGTERM: saved at step 4")
    assert read_status("cell/views")["status"] == status


def test_what_is_and_is_not_a_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(ValueError("out of memory"))


def test_a_killed_process_is_known_by_its_silence(here):
    code = (
        "import time\nfrom magic123.records.status import noted\n"
        "with noted('view', 'views'):\n print(1, flush=True)\n time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__main__.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_status("views")["status"] == "killed"


def test_a_damaged_note_is_a_failure_and_none_is_none(here):
    assert read_status("views") is None
    for content in ("", "[]", '{"status": "ok"}'):
        status_file("views").write_text(content)
        assert read_status("views")["status"] == "failed"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "can be written"), (errno.ENAMETOOLONG, "shorter"), (errno.ENOTDIR, "another")],
)
def test_a_disk_that_takes_nothing_is_one_sentence(here, monkeypatch, capsys, number, advice):
    from magic123.commands import view

    def full(_):
        raise OSError(number, os.strerror(number), "cell/views/000.png")

    monkeypatch.setattr(view, "main", full)
    assert __main__.main(["view", "--out=cell/views"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: cell/views/000.png: {os.strerror(number)}; ") and advice in said and said.count("\n") == 1
    assert read_status("cell/views") == {"status": "failed", "reason": said.removeprefix("error: ").strip()}


def test_ctrl_c_is_one_sentence(here, monkeypatch, capsys):
    from magic123.commands import view

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(view, "main", interrupted)
    assert __main__.main(["view", "--out=cell/views"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("stopped: SIGINT (Ctrl-C)") and said.count("\n") == 1
    assert read_status("cell/views") == {"status": "stopped", "reason": said.removeprefix("stopped: ").strip()}


# -------------------------------------------------------------------------------------------------------------- tables
AXES = {
    "datasets": {"demo": ["cup"]},
    "rows": [{"method": "both", "stage": "fine", "label": "both", "starts": [("both", "coarse")]}],
    "seeds": [0],
}
SCORES = "results/demo/cup/both/seed0/fine/scores.json"


def cell_in(cells) -> Cell:
    given = {key: cells[0][key] for key in ("dataset", "example", "method", "stage", "seed", "label")}
    return Cell(**given, path=Path(cells[0]["path"]))


def entry(cells):
    return read_cell(cell_in(cells), [parse_column("psnr")])[0][0]


def test_the_first_step_that_ended_badly_is_the_reason(here):
    root = "results/demo/cup"
    ends = {
        f"{root}/both/seed0/fine/views": (InputError("no surface"), "failed", "view: no surface"),
        f"{root}/both/seed0/fine": (OutOfMemory("no rung"), "out of memory", "reconstruct: no rung"),
        f"{root}/both/seed0/coarse": (NonFinite("step 1"), "non-finite", "reconstruct: step 1"),
        f"{root}/token": (Stopped("SIGTERM"), "stopped", "invert: SIGTERM"),
        f"{root}/example": (InputError("no mask"), "failed", "prepare: no mask"),
    }
    assert entry(note_failures(AXES, {SCORES})).status == "missing"
    for out, (error, status, reason) in ends.items():
        with pytest.raises(type(error)), noted("x", out):
            raise error
        found = entry(note_failures(AXES, {SCORES}))
        assert (found.status, found.reason, found.value) == (status, reason, None)
    for out in ends:  # a later success clears it
        with noted("x", out):
            pass
    assert entry(note_failures(AXES, {SCORES})).status == "missing"
    log = Path("logs/demo/cup/both/seed0/fine/score.log")
    log.parent.mkdir(parents=True)
    log.write_text("error: the mesh is empty\n")
    assert entry(note_failures(AXES, {SCORES})).reason == "score: the mesh is empty"


def test_a_killed_job_stands_in_the_table_as_killed(here):
    status = status_file("results/demo/cup/both/seed0/fine")
    status.parent.mkdir(parents=True)
    status.write_text(json.dumps({"status": "running", "reason": "", "started": time.time()}))
    found = entry(note_failures(AXES, {SCORES}))
    assert found.status == "killed" and found.reason.startswith("reconstruct: the process ended without a status")
