"""GPU leases: at most one job per GPU, no idle GPU while a job waits, and a GPU is free as soon as its holder is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from magic123.records.errors import InputError
from magic123.run import lease

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds that a process may take on a loaded machine
# writes down when it ran on which card, and waits meanwhile until the file named last is there
JOB = """
import os, sys, time
began = time.monotonic()
trace, seconds, gate = sys.argv[1:]
open(f"{trace}.{os.getpid()}", "w").close()
while not os.path.exists(gate):
    time.sleep(0.01)
time.sleep(float(seconds))
line = f"{os.environ['CUDA_VISIBLE_DEVICES']} {began} {time.monotonic()}\\n"
os.write(os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT), line.encode())
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Locks of this test alone, and no real card."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(lease, "_nvidia_smi", lambda: [])


def start(*words: object, **how) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-S", "-m", "magic123", "lease", *map(str, words)], text=True, **how)


def wait_for_jobs(trace: Path, count: int) -> None:
    """Wait until `count` jobs have been given a card."""
    ends = time.monotonic() + PATIENCE
    while len(list(trace.parent.glob(f"{trace.name}.*"))) < count:
        assert time.monotonic() < ends
        time.sleep(0.01)


def spans(trace: Path) -> dict[str, list[tuple[float, float]]]:
    found: dict = {}
    for line in trace.read_text().splitlines():
        card, began, ended = line.split()
        found.setdefault(card, []).append((float(began), float(ended)))
    return {card: sorted(jobs) for card, jobs in found.items()}


@pytest.mark.parametrize(("count", "per_card"), [(2, 1), (4, 1), (2, 2)])
def test_24_jobs_on_a_few_cards(tmp_path, monkeypatch, count, per_card):
    """A trace of all jobs: every card is used, and at most `per_card` jobs run on one at a time."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    (tmp_path / "job.py").write_text(JOB)
    length = 0.1 * count * per_card + 0.2
    words = ("--per-card", per_card, "--", sys.executable, "-S", tmp_path / "job.py", tmp_path / "trace", length)
    jobs = [start(*words, tmp_path / "gate", stderr=subprocess.DEVNULL) for _ in range(24)]
    wait_for_jobs(tmp_path / "trace", count * per_card)
    (tmp_path / "gate").touch()
    assert [job.wait(timeout=PATIENCE) for job in jobs] == [0] * 24
    found = spans(tmp_path / "trace")
    assert sorted(found) == [str(card) for card in range(count)] and sum(map(len, found.values())) == 24
    for card in found.values():
        for moment, _ in card:
            assert sum(began <= moment < ended for began, ended in card) <= per_card
    # from when the first job runs to when the first card has nothing left to do
    first = max(card[0][0] for card in found.values())
    last = min(max(ended for _, ended in card) for card in found.values())
    busy = sum(max(0.0, min(ended, last) - max(began, first)) for card in found.values() for began, ended in card)
    share = busy / (count * per_card * (last - first))
    print(f"{count} cards, {per_card} a card: busy for {share:.1%}")  # depends on the machine's load: reports/survival.md


def test_a_waiting_job_takes_any_card_that_becomes_free(tmp_path, monkeypatch):
    """Three jobs wait for two held cards: all three run on the one that is given back, while the other stays held."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (tmp_path / "job.py").write_text(JOB)
    words = ("--", sys.executable, "-S", tmp_path / "job.py", tmp_path / "trace", 0)
    holders = []
    for place in range(2):
        holders.append(start(*words, tmp_path / f"gate{place}", stderr=subprocess.DEVNULL))
        wait_for_jobs(tmp_path / "trace", place + 1)
    waiting = [start(*words, tmp_path / "gate1", stderr=subprocess.DEVNULL) for _ in range(3)]
    (tmp_path / "gate1").touch()
    assert [job.wait(timeout=PATIENCE) for job in (holders[1], *waiting)] == [0] * 4
    assert holders[0].poll() is None and {card: len(jobs) for card, jobs in spans(tmp_path / "trace").items()} == {"1": 4}
    (tmp_path / "gate0").touch()
    assert holders[0].wait(timeout=PATIENCE) == 0


def test_a_killed_holders_card_is_free_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    holder = start("sleep", PATIENCE, stderr=subprocess.PIPE)
    assert holder.stderr.readline() == "lease: 7.0\n"
    with pytest.raises(InputError, match=r"none of 7\.0 became free"):
        lease.take(["7.0"], patience=0.2)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    name, file = lease.take(["7.0"], patience=0)
    assert name == "7.0"
    os.close(file)


def environment_of(*words: str) -> tuple[int, str, str]:
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if 'CUDA' in k}))"
    job = start(*words, "--", sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = job.communicate(timeout=PATIENCE)
    return job.returncode, out, err


@pytest.mark.parametrize(
    ("visible", "words", "shown"),
    [("3,1", (), "3"), ("GPU-8c1f", (), "GPU-8c1f"), ("", ("--slots", "2"), ""), ("-1", ("--slots", "1"), "")],
)
def test_the_command_sees_its_card_alone(monkeypatch, visible, words, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    code, out, _ = environment_of(*words)
    assert code == 0 and json.loads(out) == {"CUDA_VISIBLE_DEVICES": shown, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_no_card_is_an_error_and_not_the_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, out, err = environment_of()
    assert (code, out) == (1, "") and err.startswith("error: there is no card here") and err.count("\n") == 1


def test_inside_slurm_the_scheduler_has_given_the_card(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert json.loads(environment_of()[1]) == {"CUDA_VISIBLE_DEVICES": "5"}


def test_exit_status_and_arguments_are_the_commands_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    job = start("--", "sh", "-c", 'echo "$1"; exit 75', "--", "a  b", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert (job.communicate(timeout=PATIENCE)[0], job.returncode) == ("a  b\n", 75)
    job = start("no-such-command", stderr=subprocess.PIPE)
    assert "no command 'no-such-command'" in job.communicate(timeout=PATIENCE)[1] and job.returncode == 1


def test_cards_by_index_are_known_by_uuid(monkeypatch):
    monkeypatch.setattr(lease, "_nvidia_smi", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert lease.cards() == ["GPU-a", "GPU-b"]
    for visible, expected in {"1": ["GPU-b"], "1, GPU-a": ["GPU-b", "GPU-a"], "0,-1,1": ["GPU-a"], "": []}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert lease.cards() == expected


def test_a_lock_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / f"magic123-leases-{os.getuid()}").symlink_to("/etc")
    with pytest.raises(InputError, match="not a folder of yours"):
        lease.lock_folder()
