"""Cards for jobs: never two on one, hardly ever one idle, and free at once when its holder is killed."""

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
JOB = """
import os, sys, time
began = time.monotonic()
time.sleep(float(sys.argv[2]))
line = f"{os.environ['CUDA_VISIBLE_DEVICES']} {began} {time.monotonic()}\\n"
os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT), line.encode())
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


def spans(trace: Path) -> dict[str, list[tuple[float, float]]]:
    found: dict = {}
    for line in trace.read_text().splitlines():
        card, began, ended = line.split()
        found.setdefault(card, []).append((float(began), float(ended)))
    return {card: sorted(jobs) for card, jobs in found.items()}


@pytest.mark.parametrize(("count", "per_card"), [(2, 1), (4, 1), (2, 2)])
def test_24_jobs_on_a_few_cards(tmp_path, monkeypatch, count, per_card):
    """A trace of all jobs: at most `per_card` at a time on a card, and the cards busy for 95 % of the time."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    (tmp_path / "job.py").write_text(JOB)
    length = 0.1 * count * per_card + 0.2
    words = ("--per-card", per_card, "--", sys.executable, "-S", tmp_path / "job.py", tmp_path / "trace", length)
    jobs = [start(*words, stderr=subprocess.DEVNULL) for _ in range(24)]
    assert [job.wait(timeout=100) for job in jobs] == [0] * 24
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
    print(f"{count} cards, {per_card} a card: busy for {share:.1%}")
    assert share >= 0.8  # what is reached on a quiet machine is 95 % and more: reports/survival.md


def test_a_killed_holders_card_is_free_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    holder = start("sleep", "60", stderr=subprocess.PIPE)
    assert holder.stderr.readline() == "lease: 7.0\n"
    with pytest.raises(InputError, match=r"none of 7\.0 became free"):
        lease.take(["7.0"], patience=0.2)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    name, file = lease.take(["7.0"], patience=0)
    assert name == "7.0" and time.monotonic() - began < 0.1
    os.close(file)


def environment_of(*words: str) -> tuple[int, str, str]:
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if 'CUDA' in k}))"
    job = start(*words, "--", sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = job.communicate(timeout=60)
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
    assert (job.communicate(timeout=60)[0], job.returncode) == ("a  b\n", 75)
    job = start("no-such-command", stderr=subprocess.PIPE)
    assert "no command 'no-such-command'" in job.communicate(timeout=60)[1] and job.returncode == 1


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
