"""Files and folders are complete or absent: killed writers, full disks."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from limited_files import files_of_at_most

from magic123.records import files
from magic123.records.errors import InputError
from magic123.records.files import _ending, check_writable, output_folder, remove_left_over, scratch_folder, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from magic123.records import files

files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
with files.output_folder("views", "cameras.json") as folder:
    (folder / "000.png").write_text("half")
    files.write_whole(Path("scores.json"), b"half")
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_leaves_is_removed_at_the_next_start(tmp_path: Path, repository: Path) -> None:
    results = tmp_path / "results" / "seed0"
    results.mkdir(parents=True)
    run = subprocess.run([sys.executable, "-c", KILLED], cwd=results, env=os.environ | {"PYTHONPATH": str(repository)})
    assert run.returncode == -signal.SIGKILL
    left = names(results)
    assert [name.split(".")[1] for name in left] == ["scores", "views"]
    with output_folder(results / "views", "cameras.json"):  # its own leftover goes, and nobody else's
        assert left[0] in names(results) and left[1] not in names(results)
    assert [path.name for path in remove_left_over(tmp_path / "results")] == left[:1]
    assert names(results) == ["views"]


def test_what_others_are_writing_stays(tmp_path: Path) -> None:
    process, elsewhere = os.getppid(), 2**22 + 1
    own = tmp_path / f".views.{process}{_ending().partition(str(os.getpid()))[2]}"
    other = tmp_path / f".views.abc.{elsewhere}@another.machine.part"
    ours_too = tmp_path / "weights.part"
    for path in (own, ours_too):
        path.touch()
    other.mkdir()
    (other / "000.png").touch()
    assert remove_left_over(tmp_path) == [] and len(names(tmp_path)) == 3
    for path in (other / "000.png", other):
        os.utime(path, (1, 1))
    assert remove_left_over(tmp_path) == [other]
    assert remove_left_over(tmp_path / "nowhere") == []


def test_nothing_is_left_after_a_write(tmp_path: Path) -> None:
    write_whole(tmp_path / "deep" / "scores.json", b"{}")
    assert names(tmp_path / "deep") == ["scores.json"]


def test_a_file_without_room_is_named_with_what_it_needs_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "checkpoint.safetensors"
    with files_of_at_most(100_000), pytest.raises(OSError) as problem:
        write_whole(file, bytes(1_500_000))
    assert problem.value.filename == str(file) and problem.value.strerror == "File too large (it needs 1.5 MB)"
    assert names(file.parent) == []


def test_an_output_without_room_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "views"

    def fill(write) -> OSError:
        with files_of_at_most(200_000), pytest.raises(OSError) as problem, output_folder(out, "cameras.json") as folder:
            (folder / "000.png").write_bytes(bytes(100_000))
            write(folder / "001.png")
        assert names(tmp_path) == []
        return problem.value

    error = fill(lambda path: path.write_bytes(bytes(300_000)))
    assert error.filename == str(out) and error.strerror == "File too large (it needs more than 0.3 MB)"
    error = fill(lambda path: write_whole(path, bytes(300_000)))
    assert error.filename == str(out / "001.png") and error.strerror == "File too large (it needs 0.3 MB)"
    error = fill(lambda path: (path.parent / "000.png" / "below").mkdir())
    assert error.filename == str(out / "000.png" / "below")


def test_a_full_disk_of_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> OSError:
        with pytest.raises(OSError) as problem, scratch_folder() as folder:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert not folder.exists()
        return problem.value

    assert fill().filename is None  # of another disk
    monkeypatch.setattr(files, "FULL", 2**80)
    assert fill().filename == tempfile.gettempdir() and "TMPDIR names another folder" in fill().strerror
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"temporary files cannot be written .* set TMPDIR"), scratch_folder():
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    check_writable(".", "results", "none")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write whatever the permissions say
    check_writable("none")
    with pytest.raises(InputError, match=f"^{tmp_path}/results cannot be written"):
        check_writable("results", ".")
