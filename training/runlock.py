"""One run at a time in a run directory: rank 0 holds OUT/.lock for as long as it lives.

The kernel lets go of it with the process, however that ends; a file that is merely there means
nothing. On a network filesystem the lock is seen by all machines, where it has locks at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from training.launch import World
from training.together import from_main
from training.torchrun import check_not_ended, under_torchrun

LOCK_NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a filesystem that has none
# Of a machine that was lost, NFS takes the locks back after 90 s.
_RESTART_PATIENCE = 120.0  # seconds


@contextmanager
def held(out: Path, world: World) -> Iterator[None]:
    """Keep others from writing to `out`; called on every rank.

    Started by torchrun, wait for a process of the attempt before, which may be about to leave.

    Raises:
        ValueError: another run is at work there, or torchrun restarts one that has ended for good.
    """
    wait = 0.0
    if under_torchrun():
        wait = min(_RESTART_PATIENCE, world.patience_seconds / 2)
    with ExitStack() as stack:

        def take() -> None:
            stack.enter_context(locked(out, wait=wait))
            check_not_ended(out)

        from_main(world, take)
        yield


@contextmanager
def locked(out: Path, *, wait: float) -> Iterator[None]:
    """Hold the lock of `out`, which is made if need be.

    Raises:
        ValueError: another process has held it for `wait` seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK_NAME).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait
        while not _taken(file):
            if time.monotonic() >= deadline:
                file.seek(0)
                raise ValueError(
                    f"another run is writing to {out} ({file.read().strip() or 'just started'}); "
                    "stop it or wait for its end, or give another --out"
                )
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _taken(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
