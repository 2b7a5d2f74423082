"""Runs under torchrun on 96 pictures: 6 steps an epoch of 16 pictures, traced step by step."""

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict

from tests.journey import ROOT, train_arguments
from tests.traced_train import pids, read_trace

SETTINGS = (
    *("epochs=4", "global_batch_size=16", "loss.negatives=global", "checkpoint_every=2"),
    "loader.prefetch=1",
)


class Launch:
    """One start of the training, by torchrun or alone; a context manager that leaves nothing."""

    def __init__(self, folder, command, *, faults=(), pace=0.0, within=()):
        self.trace = folder
        folder.mkdir(parents=True)
        environment = os.environ | {
            "TRACE": str(folder),
            "FAULTS": json.dumps(list(faults)),
            "PACE": str(pace),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        self._said = (folder / "said.txt").open("w+")
        self.process = subprocess.Popen(
            [*within, sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds):
        """The exit status; whoever has not ended by then has hung."""
        return self.process.wait(timeout=seconds)

    @property
    def said(self):
        return (self.trace / "said.txt").read_text()

    @property
    def fed(self):
        return read_trace(self.trace)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._said.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pid in pids(self.trace):  # torchrun gives its workers sessions of their own
            if os.path.exists(f"/proc/{pid}/cmdline"):
                with open(f"/proc/{pid}/cmdline") as file:
                    ours = "traced_train" in file.read()
                if ours:
                    os.kill(pid, signal.SIGKILL)


def words_of_train(home, out, *settings, steps):
    arguments = train_arguments(home, out, *SETTINGS, f"max_steps={steps}", *settings, gpus=0)
    return ["tests/traced_train.py", *arguments[1:]]


def words_of_torchrun(processes, *options):
    return ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options]


ON_THIS_MACHINE = ("--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0")


def by_step(fed):
    """step -> [(sample id, hashes)] of the whole batch, from the records of one attempt."""
    ranks = defaultdict(dict)
    for one in fed:
        ranks[one.step][one.rank] = one
    steps = {}
    for step, shares in ranks.items():
        (size,) = {one.world_size for one in shares.values()}
        if len(shares) == size:  # else one was killed in this step
            rows = zip(*(shares[rank].samples for rank in range(size)), strict=True)
            steps[step] = [sample for row in rows for sample in row]
    return steps


def assert_fed_alike(launches, whole, *, steps):
    """What counts in the end is what an undisturbed run was fed; so is whatever was done twice.

    launches: for each launch, the records of all its nodes.
    """
    counting = {}
    for fed in launches:
        for one in fed:  # the shares of a step that was cut off included
            assert one.samples == whole[one.step][one.rank :: one.world_size], one.step
        for attempt in sorted({one.attempt for one in fed}):
            counting |= by_step([one for one in fed if one.attempt == attempt])
    assert counting == {step: whole[step] for step in range(steps)}
