"""`train.py --plan` as a user gives it: what it says, and that it leaves nothing behind."""

import json
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
from click.testing import CliRunner

from tests.journey import ROOT, damaged_shards, train, train_arguments
from train import main
from training.forecast import rehearsal
from training.forecast.text import two_digits


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
    assert "\nmasks: 24 of 24 samples have one\n" in done.stdout
    for line in ("parameters", "operations", "counted", "rehearsed", "memory", "disk", "speed"):
        assert any(each.startswith(line) for each in done.stdout.splitlines()), line
    assert "nothing is known that would stop it" in done.stdout
    found = outcome(done)
    assert (found["steps"], found["done"], found["processes"]) == (12, 0, 1)
    assert found["rehearsal"]["global_batch_size"] == 8
    assert found["rehearsal"]["steps"] >= 6
    assert found["images_per_second"] > 0
    # 96 pictures and two measurements of kNN, at that speed
    mean = found["rehearsal"]["images_per_second_mean"]
    assert 96 < found["days"] * 86_400 * mean < 110
    # three checkpoints and one that is being written; the encoder at the end
    encoder = 4 * found["parameters"]["encoder"]
    assert found["disk_bytes"] == 4 * found["rehearsal"]["saved_bytes"] + encoder
    assert found["rehearsal"]["saved_bytes"] > 8 * sum(found["parameters"].values())


def test_two_processes_are_rehearsed_as_two(home, tmp_path, brief):
    done = plan(home, tmp_path / "run", gpus=0, processes=2)
    assert done.exit_code == 0, done.stdout
    found = outcome(done)
    assert found["processes"] == 2
    one = found["rehearsal"]["peak_host_bytes"]
    # and the libraries of the process that starts them, which is this one here
    assert one < found["host_bytes"] < 2 * one + psutil.Process().memory_info().rss
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
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
    assert started.returncode == (1 if number == signal.SIGINT else 128 + number), said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    _, alive = psutil.wait_procs(below, timeout=20)
    assert alive == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_plan_that_is_killed_takes_its_rehearsal_along(home, tmp_path, processes):
    words = train_arguments(home, tmp_path / "run", gpus=0, processes=processes)
    started = subprocess.Popen(
        [sys.executable, *map(str, words), "--plan"], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        while not list(tmp_path.glob(".rehearsal-*/run/metrics.jsonl")):
            assert started.poll() is None
            time.sleep(0.1)
        below = psutil.Process(started.pid).children(recursive=True)
    finally:
        started.kill()
        started.wait()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []


def test_a_place_that_cannot_be_written_beside_is_no_place_for_a_rehearsal(
    home, tmp_path, brief, monkeypatch
):
    out = tmp_path / "run"
    out.mkdir()
    monkeypatch.setattr("training.forecast.forecast.writable_beside", lambda out: None)
    seen = []
    make = tempfile.TemporaryDirectory

    def watched(*arguments, **options):
        seen.append(options.get("dir"))
        return make(*arguments, **options)

    monkeypatch.setattr(rehearsal.tempfile, "TemporaryDirectory", watched)
    assert plan(home, out).exit_code == 0
    assert seen == [None, None]  # the system's

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rehearsal.tempfile, "TemporaryDirectory", full)
    done = plan(home, out)
    assert done.exit_code == 1
    assert "there is no place for a rehearsal: [Errno 28] No space left on device" in done.stdout


def script(code, *words):
    """What code says in an interpreter of its own: one that has started nothing else, whose peaks
    its children would begin with.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HALVED = """
import sys
import training.forecast.forecast as forecast
forecast._CPU_STEP_OPERATIONS = float(sys.argv.pop(1))
from train import main
main()
"""
PEAK = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("operations", "rehearsed"), [(1e15, 24), (1.0, 12)])
def test_memory_of_a_run_is_as_foretold(home, tmp_path, operations, rehearsed):
    """The most that the process held, kNN and checkpoint included, as a fresh interpreter sees."""
    settings = ("recipe.large_size=128", "recipe.small_size=64", "model.encoder.width=0.5")
    settings += ("global_batch_size=24", "num_negatives=7", "monitor_every=1")
    words = train_arguments(home, tmp_path / "run", *settings, gpus=0)
    found = json.loads(script(HALVED, operations, *words[1:], "--plan", "--json").splitlines()[-1])
    assert found["rehearsal"]["global_batch_size"] == rehearsed
    assert found["host_bytes"] == pytest.approx(int(script(PEAK, *words)), rel=0.15)


CHECK = """
import sys
from bench.planner import check
check.RUNS = {"demo": ("--preset", sys.argv.pop(1))}
check.plan_check_command()
"""


@pytest.mark.slow
def test_plan_check_compares_the_two(home):
    words = [home / "tiny.toml", "--data", home / "shards", "--turns", 1, "--only", "demo"]
    (pair,) = json.loads(script(CHECK, *words, "--json").splitlines()[-1])["pairs"]
    assert pair["memory"] == pair["plan"]["host_bytes"] / pair["peak_host_bytes"]
    assert pair["speed"] == pair["plan"]["images_per_second"] / pair["images_per_second"]
    assert 0.5 < pair["memory"] < 2


STUBBORN = """
import multiprocessing, os, signal, subprocess, sys, time
from pathlib import Path
from training.forecast.rehearsal import _act, _end_at_once

def stubborn(*_, **__):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(sys.argv[1]).write_text(str(child.pid))
    time.sleep(600)

if __name__ == "__main__":
    import training.forecast.rehearsal as rehearsal
    rehearsal.run_processes = stubborn
    actor = multiprocessing.get_context("fork").Process(
        target=_act,
        args=(os.getpid(), Path(os.devnull), stubborn, "cpu", 1, (rehearsal.TrainConfig(),)),
    )
    actor.start()
    while actor.is_alive() and not Path(sys.argv[1]).exists():
        time.sleep(0.05)
    _end_at_once(actor)
    print(actor.exitcode)
"""


def test_a_rehearsal_that_is_stopped_is_killed_with_all_that_it_started(tmp_path):
    """It is asked for nothing, so a step of minutes keeps nobody waiting."""
    assert script(STUBBORN, tmp_path / "child").split() == [str(-signal.SIGKILL)]
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("value", "said"),
    [(94_557.2, "95,000"), (155.4, "160"), (12.34, "12"), (9.96, "10"), (2.44, "2.4"), (0.0, "0")],
)
def test_a_prediction_has_two_digits(value, said):
    assert two_digits(value) == said
