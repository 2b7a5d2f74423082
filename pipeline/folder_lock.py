"""One process at a time at work in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 10.0  # seconds: a run that was killed and is started again may still be ending
_POLL = 0.2


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep others out of it; see `lock_folder`."""
    place = lock_folder(folder)
    try:
        yield
    finally:
        os.close(place)


def lock_folder(folder: Path) -> int:
    """Make a folder and lock it; closing what is returned lets go of it.

    The kernel lets go when the process ends, however it ends. A file system without such locks
    (some network disks) is taken as it is.

    Raises:
        ValueError: another process holds it, for some seconds already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(place, folder)
    except BaseException:
        os.close(place)
        raise
    return place


def _lock(place: int, folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                return  # no such locks here
        if time.monotonic() > deadline:
            raise ValueError(
                f"another run is at work in {folder}; wait for it, or give another --out"
            )
        time.sleep(_POLL)
