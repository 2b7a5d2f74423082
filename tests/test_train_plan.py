"""`train.py --plan` as a user gives it: what it says, and that it leaves nothing behind."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
from click.testing import CliRunner

from tests.journey import ROOT, damaged_shards, train, train_arguments
from train import main
from training.forecast import rehearsal


@pytest.fixture
def brief(monkeypatch):
    """Rehearsals of a few steps: for tests of what is said, not of how true it is."""
    monkeypatch.setattr(rehearsal, "_SETTLING_SECONDS", 0.0)
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.2)


def plan(home, out, *settings, **options):
    words = train_arguments(home, out, *settings, **options)[1:]
    return CliRunner().invoke(main, [*map(str, words), "--plan", "--json"])


def outcome(done):
    return json.loads(done.stdout.splitlines()[-1])


def test_it_says_what_a_run_takes_and_leaves_nothing(home, tmp_path, brief):
    done = plan(home, tmp_path / "run", "monitor_every=2", gpus=0)
    assert done.exit_code == 0, done.stdout
    assert list(tmp_path.iterdir()) == []
    assert "tiny: 24 pictures, 3 steps of 8 an epoch, 12 in all" in done.stdout
    for line in ("parameters", "operations", "counted", "rehearsed", "memory", "disk", "speed"):
        assert any(each.startswith(line) for each in done.stdout.splitlines()), line
    assert "nothing is known that would stop it" in done.stdout
    found = outcome(done)
    assert (found["steps"], found["done"], found["processes"]) == (12, 0, 1)
    assert found["rehearsal"]["global_batch_size"] == 8
    assert found["rehearsal"]["steps"] >= 6
    assert found["images_per_second"] > 0
    # 96 pictures and two measurements of kNN, at that speed
    assert 96 < found["days"] * 86_400 * found["images_per_second"] < 110
    # three checkpoints and one that is being written
    assert found["disk_bytes"] == 4 * found["rehearsal"]["saved_bytes"]
    assert found["rehearsal"]["saved_bytes"] > 8 * sum(found["parameters"].values())


def test_two_processes_are_rehearsed_as_two(home, tmp_path, brief):
    done = plan(home, tmp_path / "run", gpus=0, processes=2)
    assert done.exit_code == 0, done.stdout
    found = outcome(done)
    assert found["processes"] == 2
    assert found["host_bytes"] == 2 * found["rehearsal"]["peak_host_bytes"]
    assert "2 process(es) on cpu, 4 pictures each" in done.stdout


def test_of_a_run_that_has_begun_the_rest_is_planned(home, tmp_path, brief):
    out = tmp_path / "run"
    assert train(home, out).returncode == 0
    for later in (10, 12):
        (out / f"checkpoint-{later:08d}.pt").unlink()
    kept = sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir())
    done = plan(home, out)
    assert "12 in all, 4 left" in done.stdout
    assert outcome(done)["done"] == 8
    assert sorted((path.name, path.stat().st_mtime_ns) for path in out.iterdir()) == kept


def test_what_stops_a_run_stops_its_rehearsal_and_is_said(home, tmp_path, brief):
    def cut(content, start, end):
        content[start:end] = bytes(end - start)

    damaged = damaged_shards(home, tmp_path, range(24), cut)
    done = plan(damaged, tmp_path / "run")
    assert done.exit_code == 1
    assert "would stop it: the rehearsal ended with status" in done.stdout
    assert "speed        not known" in done.stdout
    assert outcome(done)["rehearsal"] is None
    assert [path.name for path in tmp_path.iterdir() if "rehearsal" in path.name] == []


def test_what_train_refuses_is_refused_and_torchrun_is_not_for_it(home, tmp_path, monkeypatch):
    done = plan(home, tmp_path / "run", "global_batch_size=25")
    assert (done.exit_code, done.stdout) == (2, "")
    done = plan(home, tmp_path / "run", gpus=0, processes=3)
    assert "cannot be divided among 3 processes" in done.stderr
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = plan(home, tmp_path / "run")
    assert done.exit_code == 2
    assert "--plan is of one machine: give it without torchrun, with --gpus" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_neither_folder_nor_process(home, tmp_path, number):
    words = [*map(str, train_arguments(home, tmp_path / "run", gpus=0, processes=2)), "--plan"]
    started = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    try:
        while not list(tmp_path.glob(".rehearsal-*/run/metrics.jsonl")):
            assert started.poll() is None, started.stdout.read()
            time.sleep(0.1)
        below = psutil.Process(started.pid).children(recursive=True)
        assert len(below) >= 3
        started.send_signal(number)
        said, _ = started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode == (143 if number == signal.SIGTERM else 1), said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    _, alive = psutil.wait_procs(below, timeout=20)
    assert alive == []


@pytest.mark.slow
def test_memory_of_a_run_is_as_foretold(home, tmp_path):
    """The most that the process held, kNN and checkpoint included, as a fresh interpreter sees."""
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)\n"
        "print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    settings = ("recipe.large_size=96", "recipe.small_size=64", "model.encoder.width=0.5")
    words = train_arguments(home, tmp_path / "run", *settings, "monitor_every=1", gpus=0)
    words = [*map(str, words)]
    done = subprocess.run(
        [sys.executable, *words, "--plan", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    measured = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert measured.returncode == 0, measured.stderr
    assert outcome(done)["host_bytes"] == pytest.approx(int(measured.stdout), rel=0.15)
