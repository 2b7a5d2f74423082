"""One run at a time in a run directory."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.distributed import from_main

_PATIENCE = 10.0  # seconds: a run that was killed and is started again may still be ending
_POLL = 0.2


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other runs out of `out`, for as long as this one lasts: two would mix their checkpoints.

    Rank 0 makes the directory and locks it; the kernel lets go of the lock when the process ends,
    however it ends. A file system without such locks (some network disks) is taken as it is.

    Raises:
        ValueError: on every rank, if another run holds it.
    """
    places: list[int] = []

    def take() -> None:
        out.mkdir(parents=True, exist_ok=True)
        place = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
        places.append(place)
        _lock(place, out)

    try:
        from_main(take)
        yield
    finally:
        for place in places:
            os.close(place)


def _lock(place: int, out: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                return  # no such locks here
        if time.monotonic() > deadline:
            raise ValueError(f"another run is at work in {out}; wait for it, or give another --out")
        time.sleep(_POLL)
