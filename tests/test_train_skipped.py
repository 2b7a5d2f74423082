"""Steps that are not finite, in whole runs: skipped, named, and too many in a row end the run."""

import json
import os
import subprocess
import sys

import pytest

from pipeline.sampler import Sampler
from tests.journey import ROOT, train, train_arguments
from tests.test_train import assert_same_weights, metrics, weights

SAMPLER = Sampler(num_samples=24, global_batch_size=8, seed=0)

# Runs train.py with a pixel that is no number in some steps' views, on the last rank alone. It is a
# file, since other processes begin by running it, too.
POISONED = """
import sys
import train

good = train.train_step
steps = {steps}

def train_step(model, optimizer, batch, config, plan, step, world, guard):
    if step in steps and world.rank == world.size - 1:
        batch.large[0, 0, 0, 0, 0] = float("nan")
    return good(model, optimizer, batch, config, plan, step, world, guard)

train.train_step = train_step
if __name__ == "__main__":
    train.main(sys.argv[1:])
"""


def poisoned(home, out, steps, *settings, **options):
    """Run it with `steps` poisoned, 0-based."""
    script = out.with_suffix(".py")
    script.write_text(POISONED.format(steps=set(steps)))
    arguments = train_arguments(home, out, *settings, **options)
    return subprocess.run(
        [sys.executable, script, *map(str, arguments[1:])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def without_counts(state):
    """The schedules go on, so the optimizer's groups may differ; tensors may not."""
    return {name: tensor for name, tensor in state.items() if "param_groups" not in name}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("optimizer", ["lars", "adamw"])
def test_skipped_steps_are_named_and_change_nothing(home, tmp_path, processes, optimizer):
    out = tmp_path / "run"
    done = poisoned(
        *(home, out, [2, 4], "max_steps=6", "checkpoint_every=1", "keep_checkpoints=9"),
        *("log_every=4", f"optimizer.name={optimizer}"),
        gpus=0,
        processes=processes,
    )
    assert done.returncode == 0, done.stderr
    for step in (2, 4):  # completed steps 3 and 5
        assert_same_weights(
            without_counts(weights(out, step)), without_counts(weights(out, step + 1))
        )
    assert any(not weights(out, 5)[name].equal(tensor) for name, tensor in weights(out, 6).items())
    ids = {step: SAMPLER.batch(step)[1].tolist() for step in (2, 4)}
    for step, samples in ids.items():
        listed = ", ".join(map(str, samples))
        line = f"skipped: step {step + 1}, its loss or a gradient was not finite; samples {listed}"
        assert done.stdout.count(line) == 1
    kept = json.loads((out / "skipped_steps.json").read_text())
    assert kept == {str(step + 1): samples for step, samples in ids.items()}
    records = {record["step"]: record for record in metrics(out)}
    assert [records[step]["skipped_steps"] for step in range(1, 7)] == [0, 0, 1, 1, 2, 2]
    assert [step for step in records if "loss" not in records[step]] == [3, 5]


@pytest.mark.parametrize("processes", [1, 2])
def test_too_many_in_a_row_end_the_run_at_the_last_checkpoint(home, tmp_path, processes):
    out = tmp_path / "run"
    settings = ("max_skipped=3", "checkpoint_every=3", "log_every=2", "max_steps=9")
    options = {"gpus": 0, "processes": processes}
    done = poisoned(home, out, [0, *range(4, 9)], *settings, **options)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "not finite in 4 steps in a row, up to step 8, which changed nothing" in line
    assert "the last checkpoint is kept" in line
    assert "checkpoint-00000006.pt" in line
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in out.glob("checkpoint-*.pt"))[-1] == "checkpoint-00000006.pt"
    assert list(json.loads((out / "skipped_steps.json").read_text())) == ["1", "5", "6", "7", "8"]
    assert train(home, out, *settings, **options).returncode == 0  # as if the fault had gone
    assert list(json.loads((out / "skipped_steps.json").read_text())) == ["1", "5", "6"]


def test_steps_that_fail_now_and_then_end_no_run(home, tmp_path):
    out = tmp_path / "run"
    done = poisoned(home, out, [0, 1, 3, 4, 6, 7], "max_skipped=3", "max_steps=8", "log_every=8")
    assert done.returncode == 0, done.stderr
    assert metrics(out)[-1]["skipped_steps"] == 6
