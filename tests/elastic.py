"""Runs under torchrun on the 24 pictures of `home`: 3 steps an epoch, recorded step by step."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from typing import NamedTuple

from tests.journey import ROOT, train_arguments

BATCH = 8
MOST_STEPS = 20
SETTINGS = (
    *(f"global_batch_size={BATCH}", "loss.negatives=global", "epochs=7", "checkpoint_every=3"),
    *("loader.prefetch=1", "loader.stall_seconds=15"),
)


class Fed(NamedTuple):
    """What one rank was fed in one step."""

    attempt: int
    step: int
    rank: int
    world_size: int
    rows: list  # [sample id, epoch, a hash for each view]


def die_with_parent():
    """Have the kernel kill this process when its parent ends: a test that fails leaves nothing."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Launch:
    """One start of torchrun, whose processes write down what they are fed; a context manager."""

    def __init__(self, folder, options, words, *, faults=None, pace=0.0, within=()):
        folder.mkdir()
        self._folder = folder
        command = [*within, sys.executable, "-m", "torch.distributed.run", *options, *words]
        with (folder / "said.txt").open("w") as said:
            self._process = subprocess.Popen(
                [*map(str, command)],
                cwd=ROOT,
                env=os.environ
                | {"TRACE": str(folder), "FAULTS": json.dumps(faults or {}), "PACE": str(pace)}
                # There are more processes than cores: who waits lets others work.
                | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"},
                stdout=said,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )

    def wait(self, seconds):
        """The exit status; whoever has not ended by then has hung."""
        return self._process.wait(timeout=seconds)

    @property
    def is_running(self):
        return self._process.poll() is None

    @property
    def said(self):
        return (self._folder / "said.txt").read_text()

    @property
    def fed(self):
        texts = [path.read_text() for path in self._folder.glob("*.jsonl")]
        lines = [line for text in texts for line in text.splitlines(keepends=True)]
        return [Fed(*json.loads(line)) for line in lines if line.endswith("\n")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()  # and the kernel its workers
        self._process.wait()


def words_of_train(home, out, *settings, steps):
    words = train_arguments(home, out, *SETTINGS, f"max_steps={steps}", *settings, gpus=0)
    return ["tests/traced_train.py", *words[1:]]


def fed_alike(fed, undisturbed, *, attempt=0):
    """The steps of which every rank was fed its share, which must be that of an undisturbed run."""
    places = defaultdict(set)
    for one in fed:
        if one.attempt == attempt:
            assert one.rows == undisturbed[one.step][one.rank :: one.world_size], one.step
            places[one.step] |= set(range(one.rank, BATCH, one.world_size))
    return sorted(step for step in places if len(places[step]) == BATCH)
