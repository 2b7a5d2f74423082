"""Faults in mid-run: the run names them, saves, leaves on every rank, and goes on where it was."""

import json
import re
import subprocess
import sys
import threading
import time

import pytest

from pipeline.sampler import Sampler
from tests.journey import ROOT, command, damaged_shards, train, train_arguments
from tests.test_train import assert_same_weights, metrics, weights

# Runs train.py with a loader whose reads hang from some call on, as of a disk that is gone.
HANGING = """
import sys, threading
from pipeline.shards.files import FileShards
import train

good, calls, never = FileShards.read, [], threading.Event()

def read(self, ids, *others):
    calls.append(1)
    if len(calls) > 4:
        others[1](int(ids[0]))
        print("hanging", file=sys.stderr, flush=True)
        never.wait()
    return good(self, ids, *others)

FileShards.read = read
train.main(sys.argv[1:])
"""


# Of the third step; of two ranks, both belong to the second.
BAD = Sampler(num_samples=24, global_batch_size=8, seed=0).batch(2)[1][[1, 3]].tolist()


@pytest.fixture(scope="module")
def damaged(home):
    """The shards with a flipped bit in two pictures: they are JPEGs still."""
    return damaged_shards(home, home / "damaged-later", BAD, flip_a_bit)


def flip_a_bit(content, start, end):
    content[(start + end) // 2] ^= 1


def saved_steps(out):
    return sorted(int(path.stem.partition("-")[2]) for path in out.glob("checkpoint-*.pt"))


def test_a_loader_that_hangs_ends_the_run_after_saving(home):
    out = home / "hanging"
    arguments = train_arguments(home, out, "max_steps=8", "loader.stall_seconds=15")
    done = command("-c", HANGING, *arguments[1:])
    assert done.returncode == 1, done.stderr
    assert re.search(
        r"Error: stage 'read' is at step 4, sample \d+, and has not moved", done.stderr
    )
    assert "never.wait()" in done.stderr or "in wait" in done.stderr  # its stack
    assert "Traceback" not in done.stderr
    assert "stopped by an error; step 4 is saved, run again to go on" in done.stdout
    assert 4 in saved_steps(out)
    assert train(home, out, "max_steps=8").returncode == 0
    whole = home / "hanging-whole"
    assert train(home, whole, "max_steps=8").returncode == 0
    assert_same_weights(weights(out, 8), weights(whole, 8))


def steps_logged(out):
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_sigterm_ends_a_run_whose_loader_hangs_long_before_the_watchdog_does(home):
    """Job schedulers give some seconds; loader.stall_seconds is 300."""
    out = home / "hanging-stopped"
    arguments = train_arguments(home, out, "max_steps=8", "checkpoint_every=100")
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, *map(str, arguments[1:])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        timer = threading.Timer(200, process.kill)
        timer.start()
        for line in process.stderr:
            if line == "hanging\n":
                break
        while process.poll() is None and steps_logged(out) < 4:  # those whose views were made
            time.sleep(0.2)
        process.terminate()
        shown, errors = process.communicate()
        timer.cancel()
    assert process.returncode == 143, errors
    assert "stopped by SIGTERM; step 4 is saved, run again to go on" in shown
    assert saved_steps(out) == [4]


BLIND = """
import sys
import train
import training.monitor

measured = training.monitor.extract_features
calls = []

def extract_features(*arguments, **options):
    calls.append(arguments)
    if len(calls) == 1:  # of the untrained encoder
        return measured(*arguments, **options)
    raise RuntimeError("no features today")

training.monitor.extract_features = extract_features
train.main(sys.argv[1:])
"""


def test_an_error_of_the_monitor_saves_the_run_first(home):
    out = home / "blind"
    arguments = train_arguments(home, out, "max_steps=8", "checkpoint_every=100", "monitor_every=1")
    done = command("-c", BLIND, *arguments[1:])
    assert done.returncode == 1
    assert "RuntimeError: no features today" in done.stderr
    assert "stopped by an error; step 3 is saved, run again to go on" in done.stdout
    assert saved_steps(out) == [3]


def test_bad_samples_count_over_all_starts_of_a_run(damaged, tmp_path):
    out = tmp_path / "run"
    settings = ("max_steps=5", "checkpoint_every=1", "keep_checkpoints=9")
    assert train(damaged, out, *settings, gpus=0).returncode == 0
    known = json.loads((out / "bad_samples.json").read_text())
    assert {int(i) for i in known} == set(BAD)
    for step in (4, 5):  # the third step has met both; it goes on behind that
        (out / f"checkpoint-{step:08d}.pt").unlink()
    again = train(damaged, out, *settings, "loader.max_bad=1", gpus=0)
    assert again.returncode == 1
    assert "2 samples cannot be decoded, more than loader.max_bad=1" in again.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_bad_samples_end_every_rank_after_saving(home, damaged, tmp_path, processes):
    options = {"gpus": 0, "processes": processes}
    settings = ("max_steps=6", "checkpoint_every=100", "log_every=100")
    out, whole = tmp_path / "strict", tmp_path / "whole"
    stopped = train(damaged, out, *settings, "loader.max_bad=0", **options)
    assert stopped.returncode == 1
    named = re.search(
        r"more than loader\.max_bad=0.*sample (\d+) \(.+\.jpg: the bytes of its JPEG have changed",
        stopped.stderr,
    )
    assert int(named.group(1)) in BAD
    assert "Traceback" not in stopped.stderr
    assert saved_steps(out) == [2]
    assert "stopped by an error" in stopped.stdout
    assert "step 2 is saved, run again to go on" in stopped.stdout
    resumed = train(damaged, out, *settings, **options)
    assert resumed.returncode == 0, resumed.stderr
    assert train(damaged, whole, *settings, **options).returncode == 0
    assert_same_weights(weights(out, 6), weights(whole, 6))


def test_too_many_bad_samples_at_the_last_step_are_no_success(home, tmp_path):
    """Each rank's loader is within the budget; the last log line adds them up."""
    first, second = (
        Sampler(num_samples=24, global_batch_size=8, seed=0).batch(2)[1][[0, 1]].tolist()
    )
    damaged_shards(home, tmp_path, [first, second], flip_a_bit)
    settings = ("max_steps=3", "checkpoint_every=100", "log_every=100", "loader.max_bad=1")
    done = train(tmp_path, tmp_path / "run", *settings, gpus=0, processes=2)
    assert done.returncode == 1
    assert "2 samples cannot be decoded, more than loader.max_bad=1" in done.stderr
    assert saved_steps(tmp_path / "run") == [3]


def test_bad_samples_are_named_once_and_listed(damaged, tmp_path):
    out = tmp_path / "run"
    done = train(damaged, out, "max_steps=8", "log_every=1")
    assert done.returncode == 0, done.stderr
    assert sorted(int(i) for i in re.findall(r"replaced: sample (\d+)", done.stdout)) == sorted(BAD)
    assert "bad samples 2" in done.stdout
    listed = json.loads((out / "bad_samples.json").read_text())
    assert list(listed) == [str(i) for i in sorted(BAD)]
    assert all("have changed since they were written" in text for text in listed.values())
    assert metrics(out)[-1]["bad_samples"] == 2
