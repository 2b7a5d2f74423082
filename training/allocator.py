"""glibc's allocator, told to keep the memory that is freed to it.

PyTorch on a CPU allocates and frees every activation; by default glibc gives large blocks back to
the kernel, which clears each page when it is touched again. A step of the demo took 0.38 s so, and
0.29 s with these settings (docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# From <malloc.h>; the values are those of glibc's ABI.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP = 1 << 30
_LARGEST = 256 << 20  # what is larger gets pages of its own: it is allocated once, not every step


def keep_freed_memory() -> bool:
    """Make this process reuse what it frees; return whether the C library can be told so."""
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP))


def give_freed_memory_back() -> bool:
    """Let the kernel have what was freed so far; return whether there was any.

    Threads allocate in arenas of their own: what one has freed there, another does not use.
    """
    malloc_trim = _function("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(0))


def _function(name: str) -> Any:
    """One of glibc's own; None elsewhere, musl has none of them."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
