"""glibc's allocator, told to keep the memory that is freed to it.

PyTorch on a CPU allocates and frees every activation; by default glibc gives large blocks back to
the kernel, which clears each page when it is touched again. A step of the demo took 0.38 s so, and
0.29 s with these settings (docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys

# From <malloc.h>; the values are those of glibc's ABI.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = 1 << 30
_LARGEST = 256 << 20  # what is larger gets pages of its own: it is allocated once, not every step


def keep_freed_memory() -> bool:
    """Make this process reuse what it frees; return whether the C library can be told so."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP))
