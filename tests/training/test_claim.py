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


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_directory_that_is_gone_is_made_and_locked_again(tmp_path, monkeypatch, how):
    monkeypatch.setattr(folder_lock, "_PATIENCE", 0.0)
    out = tmp_path / "run"
    with claimed(out) as claim:
        assert not claim.renew()
        out.rename(tmp_path / "elsewhere")
        if how == "removed":
            (tmp_path / "elsewhere").rmdir()
        if how == "replaced":
            out.mkdir()
        assert claim.renew()
        assert not claim.renew()
        with pytest.raises(ValueError, match="another run is at work"), claimed(out):
            raise AssertionError("two runs in one directory")
    with claimed(out):
        pass


def test_a_directory_that_another_run_has_taken_meanwhile_is_not_taken_back(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_PATIENCE", 0.0)
    with claimed(tmp_path / "run") as claim:
        (tmp_path / "run").rmdir()
        with claimed(tmp_path / "run"), pytest.raises(ValueError, match="another run is at work"):
            claim.renew()


def test_a_disk_without_locks_is_taken_as_it_is(tmp_path, monkeypatch):
    def refuse(place, how):
        raise OSError(errno.EBADF, "no")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
