"""train.py as it is, with a record of what each step was fed, and faults where a test wants them.

Run as a script with train.py's arguments, by Python or by torchrun. Of the environment it takes

    TRACE    a folder: each process appends a line of JSON for each step to a file of its own
    FAULTS   JSON list of {"attempt", "rank", "step", "signal", "to": "self" | "torchrun"}
    PACE     seconds to sleep before each step, so that a fault from outside meets the run
"""

import ctypes
import hashlib
import inspect
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Fed:
    """What one rank was fed in one step."""

    attempt: int
    step: int
    rank: int
    world_size: int
    samples: list  # (sample id, hash of each view)


def read_trace(folder):
    """All that was recorded in a folder."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [Fed(**json.loads(line)) for line in lines if line.endswith("}")]


def pids(folder):
    return [int(path.stem) for path in folder.glob("*.jsonl")]


def _traced(train_step):
    path = Path(os.environ["TRACE"]) / f"{os.getpid()}.jsonl"
    attempt = int(os.environ.get(ATTEMPT, "0"))
    faults = json.loads(os.environ.get("FAULTS", "[]"))
    signature = inspect.signature(train_step)

    def traced_step(*positional, **named):
        given = signature.bind(*positional, **named).arguments
        batch, step, world = given["batch"], given["step"], given["world"]
        views = [*batch.large, *batch.small]
        record = {
            "attempt": attempt,
            "step": step,
            "rank": world.rank,
            "world_size": world.size,
            "samples": [
                [int(sample_id), [_hash(view[row]) for view in views]]
                for row, sample_id in enumerate(batch.sample_ids)
            ],
        }
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for fault in faults:
            if (fault["attempt"], fault["rank"], fault["step"]) == (attempt, world.rank, step):
                os.kill(os.getppid() if fault["to"] == "torchrun" else os.getpid(), fault["signal"])
        time.sleep(float(os.environ.get("PACE", "0")))
        return train_step(*positional, **named)

    return traced_step


def _hash(view):
    return hashlib.sha256(view.contiguous().numpy().tobytes()).hexdigest()[:16]


def main():
    # a test that fails leaves nothing behind
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    import train

    train.train_step = _traced(train.train_step)
    train.main()


if __name__ == "__main__":
    main()
