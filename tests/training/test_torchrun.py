"""What torchrun says about the world, and what it is told."""

import json

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from training.torchrun import (
    check_not_ended,
    lost_process,
    plan_processes,
    record_error,
    speaks_first,
)


@pytest.fixture
def started(monkeypatch):
    """Set what torchrun sets: 8 processes on each of 2 machines; this one is on the second."""

    def start(gpus, **others):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        sizes = {"RANK": 11, "WORLD_SIZE": 16, "LOCAL_RANK": 3, "LOCAL_WORLD_SIZE": 8}
        for name, value in (sizes | others).items():
            monkeypatch.setenv(name, str(value))

    return start


def test_the_world_is_as_torchrun_started_it(started):
    started(gpus=8)
    assert plan_processes(gpus=None, processes=1) == ("cuda", 16)
    assert plan_processes(gpus=8, processes=1) == ("cuda", 16)
    assert plan_processes(gpus=0, processes=1) == ("cpu", 16)
    assert plan_processes(gpus=0, processes=8) == ("cpu", 16)
    started(gpus=0)
    assert plan_processes(gpus=None, processes=1) == ("cpu", 16)


@pytest.mark.parametrize(
    ("gpus", "wishes", "message"),
    [
        (8, {"gpus": 4, "processes": 1}, "--gpus 4, but torchrun started 8 .* leave --gpus away"),
        (8, {"gpus": -1, "processes": 1}, "--gpus -1, but torchrun started 8"),
        (0, {"gpus": 0, "processes": 2}, "--processes 2, but torchrun started 8"),
        (8, {"gpus": None, "processes": 8}, "--processes is for the CPU"),
        (2, {"gpus": None, "processes": 1}, "which has 2 GPUs; give torchrun --nproc-per-node 2$"),
        (0, {"gpus": 8, "processes": 1}, "which has no GPUs; .* --gpus 0 to train on the CPU"),
    ],
)
def test_wishes_that_torchrun_does_not_fulfil_are_refused(started, gpus, wishes, message):
    started(gpus=gpus)
    with pytest.raises(ValueError, match=message):
        plan_processes(**wishes)


def test_each_process_with_one_gpu_of_its_own_is_fine(started):
    started(gpus=1, LOCAL_RANK=0)  # torchrun --virtual-local-rank
    assert plan_processes(gpus=None, processes=1) == ("cuda", 16)


def test_rank_0_speaks_for_all(started, monkeypatch):
    assert speaks_first()
    started(gpus=0)
    assert not speaks_first()
    monkeypatch.setenv("RANK", "0")
    assert speaks_first()


def test_torchrun_shows_the_message(tmp_path, monkeypatch):
    record_error("nobody listens")
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    record_error("too many bad samples")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(path))
    assert "traceback : too many bad samples" in str(ChildFailedError("train.py", {0: failure}))


def test_only_a_restart_of_the_same_launch_is_refused(tmp_path, monkeypatch):
    record_error("the loss is nan", ended=tmp_path)
    assert not any(tmp_path.iterdir())  # without torchrun nobody restarts
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    record_error("the loss is nan", ended=tmp_path)
    assert json.loads((tmp_path / "ended.json").read_text())["run_id"] == "a"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match=r"the loss is nan \(torchrun's restart"):
        check_not_ended(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "b")
    check_not_ended(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")  # a scheduler may give the same name again
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    check_not_ended(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    check_not_ended(tmp_path)


def test_errors_of_a_collective_are_told_from_others():
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    assert lost_process(RuntimeError(gloo))
    assert lost_process(dist.DistBackendError("NCCL communicator was aborted"))
    assert not lost_process(RuntimeError("CUDA out of memory"))
    assert not lost_process(ValueError("gloo/ is a word"))
