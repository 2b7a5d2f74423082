"""One run at a time in a run directory."""

import errno
import fcntl
import re
import subprocess
import sys

import pytest

from pipeline import folder_lock
from tests.journey import ROOT
from training.claim import claimed

HOLDER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from training.claim import claimed\n"
    "with claimed(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(100)"
)


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path / 'run'."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    with process:
        yield process
        process.kill()


def test_a_second_run_is_refused_until_the_first_has_ended(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(folder_lock, "_PATIENCE", 0.3)
    message = re.escape(
        f"another run is at work in {tmp_path / 'run'}; wait for it, or give another"
    )
    with pytest.raises(ValueError, match=message), claimed(tmp_path / "run"):
        raise AssertionError("two runs in one directory")
    holder.kill()  # with no time to let go
    holder.wait()
    with claimed(tmp_path / "run"):
        assert list((tmp_path / "run").iterdir()) == []


def test_one_that_is_still_ending_is_waited_for(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(folder_lock, "_POLL", 0.01)
    asked = []

    def end(seconds):
        asked.append(seconds)
        holder.kill()
        holder.wait()

    monkeypatch.setattr(folder_lock.time, "sleep", end)
    with claimed(tmp_path / "run"):
        assert asked == [0.01]


def test_it_is_let_go_after_the_run_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), claimed(tmp_path / "a" / "run"):
            raise RuntimeError


def test_a_disk_without_locks_is_taken_as_it_is(tmp_path, monkeypatch):
    def refuse(place, how):
        raise OSError(errno.EBADF, "no")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
