"""torchrun: a worker that is killed, a stop, and half the processes; all steps fed alike."""

import pytest

from tests.elastic import Launch, fed_alike, words_of_train

pytestmark = pytest.mark.slow
STEPS = 10
PATIENCE = 280  # seconds for one start: eight processes that import torch on two cores, twice


def torchrun(processes, *options):
    here = ("--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0")
    return [*here, f"--nproc-per-node={processes}", *options]


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_a_run_survives_a_killed_worker_and_goes_on_with_half(
    home, undisturbed, tmp_path, processes
):
    words = words_of_train(home, tmp_path / "run", steps=STEPS)
    faults = {f"0/{processes - 1}/4": "kill", "1/0/6": "stop"}
    options = torchrun(processes, "--max-restarts=3")
    with Launch(tmp_path / "whole", options, words, faults=faults) as whole:
        assert whole.wait(PATIENCE) == 1, whole.said  # torchrun's answer to SIGTERM
    told = [line for line in whole.said.splitlines() if line.startswith("Error: ")]
    assert len(told) == sum("another process is gone" in line for line in told) == processes - 1
    assert "going on after step 3" in whole.said
    assert "stopped by SIGTERM; step 7 is saved" in whole.said
    assert {one.world_size for one in whole.fed} == {processes}
    assert fed_alike(whole.fed, undisturbed, attempt=0) == [*range(4)]
    assert fed_alike(whole.fed, undisturbed, attempt=1) == [*range(3, 7)]
    with Launch(tmp_path / "half", torchrun(processes // 2), words) as half:
        assert half.wait(PATIENCE) == 0, half.said
    assert {one.world_size for one in half.fed} == {processes // 2}
    assert fed_alike(half.fed, undisturbed) == [*range(7, STEPS)]
    assert (tmp_path / "run" / "encoder.pt").exists()
