"""The kernel's page cache of the data files: emptied, looked into, and the disk behind it timed."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path

_BLOCK = 4 << 20  # bytes of one read
_MOST_BYTES, _MOST_SECONDS = 1 << 30, 5.0  # read to time the disk


def drop(files: Sequence[Path]) -> float:
    """Ask the kernel to forget the pages of these files; return the share that stayed, 0..1.

    Pages stay where somebody maps them, where a file system does not listen, and seem to stay where
    this user may not look (others' files).
    """
    for path in files:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(number)  # pages that are not on the disk yet cannot be dropped
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)
    pages = [resident(path) for path in files]
    return sum(stayed for stayed, _ in pages) / max(sum(total for _, total in pages), 1)


def resident(path: Path) -> tuple[int, int]:
    """Return (pages in memory, all pages) of a file.

    Raises:
        OSError: the kernel does not say.
    """
    size = path.stat().st_size
    if not size:
        return 0, 0
    pages = -(-size // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # private and writable only because ctypes takes no address of what is read-only
        with mmap.mmap(number, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            start = ctypes.c_char.from_buffer(mapped)
            failed = _libc().mincore(ctypes.byref(start), ctypes.c_size_t(size), states)
            error = ctypes.get_errno()
            del start  # a map that is pointed at cannot be closed
    finally:
        os.close(number)
    if failed:
        raise OSError(error, os.strerror(error), str(path))
    return sum(state & 1 for state in states), pages


def sequential_rate(files: Sequence[Path]) -> tuple[float, int]:
    """Read the files from their beginnings; return (bytes per second, bytes read)."""
    buffer = bytearray(_BLOCK)
    done, start = 0, time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                done += got
                if done >= _MOST_BYTES or time.perf_counter() - start > _MOST_SECONDS:
                    return done / (time.perf_counter() - start), done
    return done / max(time.perf_counter() - start, 1e-9), done


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
