"""train.py as it is, with a record of what each step was fed, and faults where a test wants them.

Run as a script by torchrun, with train.py's arguments. Of the environment it takes

    TRACE    a folder: each process appends a line of JSON for each step to a file of its own
    FAULTS   JSON: "ATTEMPT/RANK/STEP" -> "kill" (itself), "stop" (SIGTERM to torchrun)
    PACE     seconds to sleep before each step, so that a fault from outside meets the run
"""

import json
import os
import signal
import threading
import time
from pathlib import Path

from tests.elastic import Fed, die_with_parent


def stop_torchrun():
    """Send SIGTERM to torchrun, and wait until it has passed it on."""
    heard = threading.Event()
    noticed = signal.getsignal(signal.SIGTERM)

    def hear(*arguments):
        noticed(*arguments)
        heard.set()

    signal.signal(signal.SIGTERM, hear)
    os.kill(os.getppid(), signal.SIGTERM)
    assert heard.wait(60)


def main():
    die_with_parent()  # before the imports, which take seconds
    import train
    from bench.trace import rows_of

    trace = Path(os.environ["TRACE"], f"{os.getpid()}.jsonl")
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    faults = json.loads(os.environ["FAULTS"])
    train_step = train.train_step

    def traced_step(model, optimizer, batch, config, plan, step, world, guard):
        fault = faults.get(f"{attempt}/{world.rank}/{step}")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        with trace.open("a") as file:
            fed = Fed(attempt, step, world.rank, world.size, rows_of(batch))
            file.write(json.dumps(fed) + "\n")
        if fault == "stop":
            stop_torchrun()
        time.sleep(float(os.environ["PACE"]))
        return train_step(model, optimizer, batch, config, plan, step, world, guard)

    train.train_step = traced_step
    train.main()


if __name__ == "__main__":
    main()
