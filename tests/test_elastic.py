"""torchrun on one machine: processes that are lost, told to stop, or wrong; and fewer of them."""

import signal

import pytest

from tests.elastic import (
    ON_THIS_MACHINE,
    Launch,
    assert_fed_alike,
    by_step,
    words_of_torchrun,
    words_of_train,
)

pytestmark = pytest.mark.slow
STEPS = 12
PATIENCE = 240  # seconds: eight processes that import torch on two cores, twice


def torchrun(processes, *options):
    return words_of_torchrun(processes, *ON_THIS_MACHINE, *options)


def checkpoints(out):
    return sorted(int(path.stem.partition("-")[2]) for path in out.glob("checkpoint-*.pt"))


@pytest.mark.timeout(3 * PATIENCE)
@pytest.mark.parametrize("processes", [2])
def test_a_run_survives_a_killed_worker_and_goes_on_with_half(
    pictures, undisturbed, tmp_path, processes
):
    out = tmp_path / "run"
    words = words_of_train(pictures, out, steps=STEPS)
    killed = {
        "attempt": 0,
        "rank": processes - 1,
        "step": 5,
        "signal": signal.SIGKILL,
        "to": "self",
    }
    stopped = {"attempt": 1, "rank": 0, "step": 7, "signal": signal.SIGTERM, "to": "torchrun"}
    faults = [killed, stopped]
    start = [*torchrun(processes, "--max-restarts=3"), *words]
    with Launch(tmp_path / "first", start, faults=faults, pace=0.1) as first:
        assert first.wait(PATIENCE) != 0, first.said  # torchrun's answer to SIGTERM
        said = first.said
    assert "another process is gone" in said
    assert "stopped by signal 15; step" in said
    assert {one.attempt for one in first.fed} == {0, 1}  # what was told to stop is not restarted
    again = [one for one in first.fed if one.attempt == 1]
    resumed = min(by_step(again))
    assert resumed in (2, 4)  # the checkpoint of step 4 may not have been finished
    assert f"going on after step {resumed}" in said
    (*_, saved) = checkpoints(out)
    assert saved == max(by_step(again)) + 1  # torchrun's SIGTERM lost nothing
    assert 7 < saved < STEPS

    start = [*torchrun(processes // 2), *words]
    with Launch(tmp_path / "second", start) as second:
        assert second.wait(PATIENCE) == 0, second.said
    assert min(by_step(second.fed)) == saved
    assert {one.world_size for one in second.fed} == {processes // 2}
    assert_fed_alike([first.fed, second.fed], undisturbed, steps=STEPS)
    assert (out / "encoder.pt").exists()


@pytest.mark.timeout(PATIENCE)
def test_what_cannot_be_ends_with_its_reason_in_the_table_of_torchrun(pictures, tmp_path):
    words = words_of_train(pictures, tmp_path / "run", "global_batch_size=15", steps=STEPS)
    with Launch(tmp_path / "trace", [*torchrun(2), *words]) as launch:
        assert launch.wait(PATIENCE) == 1
    reason = "global_batch_size=15 cannot be divided among 2 processes"
    assert launch.said.count(f"Error: {reason}") == 1  # rank 0 speaks for all
    assert f"traceback : {reason}" in launch.said
    assert launch.fed == []
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(PATIENCE)
def test_a_diverged_run_is_restarted_to_say_so_again_and_not_to_train(pictures, tmp_path):
    settings = ("optimizer.base_learning_rate=1e30", "optimizer.warmup_epochs=0")
    words = words_of_train(pictures, tmp_path / "run", *settings, steps=STEPS)
    start = [*torchrun(2, "--max-restarts=1"), *words]
    with Launch(tmp_path / "trace", start) as launch:
        assert launch.wait(PATIENCE) == 1
    assert "the last checkpoint is kept. Lower optimizer.base_learning_rate" in launch.said
    assert "(torchrun's restart does not change that)" in launch.said
    assert {one.attempt for one in launch.fed} == {0}
