"""Processes: how many there are, and how they are told to stop."""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.journey import ROOT
from training.allocator import keep_freed_memory
from training.launch import StopRequest, World, plan_world, run_processes, unforeseen


def test_without_a_gpu_one_cpu_process_trains(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert plan_world(gpus=None, processes=1) == ("cpu", 1)
    assert plan_world(gpus=0, processes=4) == ("cpu", 4)
    with pytest.raises(ValueError, match="--gpus 8, but this machine has none; give --gpus 0"):
        plan_world(gpus=8, processes=1)


def test_gpus_that_exist_are_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert plan_world(gpus=None, processes=1) == ("cuda", 1)
    assert plan_world(gpus=2, processes=1) == ("cuda", 2)
    assert plan_world(gpus=0, processes=3) == ("cpu", 3)
    with pytest.raises(ValueError, match=r"--gpus 8, but this machine has 2; give --gpus 2$"):
        plan_world(gpus=8, processes=1)
    with pytest.raises(ValueError, match="--processes is for the CPU"):
        plan_world(gpus=2, processes=2)


@pytest.mark.parametrize(("gpus", "processes"), [(-1, 1), (0, 0)])
def test_impossible_numbers_are_refused(gpus, processes):
    with pytest.raises(ValueError, match="--gpus must be >= 0 and --processes >= 1"):
        plan_world(gpus=gpus, processes=processes)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def handlers():
    """Whoever runs the tests may have told them to ignore SIGHUP, as nohup does."""
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noticed_between_steps(handlers, number):
    stop = StopRequest(World())
    assert stop.agreed() == 0
    os.kill(os.getpid(), number)
    assert stop.agreed() == 128 + number
    os.kill(os.getpid(), signal.SIGTERM)  # the parent's copy of a Ctrl-C, or a scheduler's
    assert stop.agreed() == 128 + number
    assert stop.reason() == ("by Ctrl-C" if number == signal.SIGINT else f"by {number.name}")
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_a_hangup_that_was_ignored_before_stays_ignored(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest(World())
    os.kill(os.getpid(), signal.SIGHUP)
    assert stop.agreed() == 0


def print_much(world):
    for number in range(3000):
        print(number, "x" * 50)
    return 0


def test_processes_outlive_an_output_that_fails():
    """Also those that this one starts: the main rank is one of them."""
    with open("/dev/full", "w") as full:
        code = (
            "import sys\n"
            "from tests.training.test_launch import print_much\n"
            "from training.launch import run_processes\n"
            "sys.exit(run_processes(print_much, device_type='cpu', size=2, arguments=()))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("standard output is lost") == 2
    assert "Traceback" not in done.stderr


def status_of_rank(world, statuses):
    assert torch.get_num_threads() >= 1
    return statuses[world.rank]


@pytest.mark.parametrize(("statuses", "expected"), [((0,), 0), ((7,), 7), ((0, 0), 0), ((3, 3), 3)])
def test_the_exit_status_of_a_process_is_that_of_the_run(statuses, expected):
    arguments = (statuses,)
    status = run_processes(
        status_of_rank, device_type="cpu", size=len(statuses), arguments=arguments
    )
    assert status == expected


def step_and_look_for_threads_at_the_end(world):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    atexit.register(leave_with_number_of_gloo_threads)
    return 0


def leave_with_number_of_gloo_threads():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    os._exit(sum("gloo" in name for name in names))


def test_no_thread_of_the_process_group_outlives_the_run():
    """One that does may abort the process while the interpreter ends."""
    status = run_processes(
        step_and_look_for_threads_at_the_end, device_type="cpu", size=2, arguments=()
    )
    assert status == 0


def fail(world, status):
    atexit.register(os._exit, 77)  # as if a thread of the group aborted the interpreter's end
    if world.rank == 1:
        time.sleep(60)  # until it is told to end, since the other has
    if status:
        return status
    raise RuntimeError("unheard of")


@pytest.mark.parametrize(("status", "expected"), [(2, 2), (None, 1)])
def test_an_error_leaves_with_its_status_whatever_else_the_process_does(capfd, status, expected):
    found = run_processes(fail, device_type="cpu", size=2, arguments=(status,))
    assert found == expected
    assert ("RuntimeError: unheard of" in capfd.readouterr().err) == (status is None)


def test_a_lost_process_is_told_from_other_errors():
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    for error in (RuntimeError(gloo), dist.DistBackendError("NCCL communicator was aborted")):
        (line,) = unforeseen(error).splitlines()
        assert "another process is gone" in line
        assert str(error) in line
    assert unforeseen(RuntimeError("out of memory")) == "RuntimeError: out of memory\n"


def test_the_allocator_of_glibc_takes_the_settings():
    assert keep_freed_memory()
