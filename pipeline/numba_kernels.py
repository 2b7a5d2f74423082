"""How numba compiles kernels: without the GIL, and kept on disk where there is a place for that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_log = logging.getLogger(__name__)
_has_warned = False


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Return the function compiled by numba at its first call.

    A cache that cannot be written or read (a checkout that is read-only and no home, a full disk, a
    file that was cut off) costs the time to compile anew, and is logged once in a process.

    Args:
        options: of numba.njit.
    """
    compiled = njit(nogil=True, boundscheck=False, **options)(function)
    try:
        compiled._cache = _LenientCache(function)  # what njit(cache=True) sets, too
    except (RuntimeError, OSError) as error:  # RuntimeError: numba found no folder
        _warn(error)
    return compiled


class _LenientCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of one kernel, whose errors do not reach the call that compiles it."""

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)
        except Exception as error:  # what unpickling a damaged file raises is anything
            _warn(error, self.cache_path)
            return None

    def save_overload(self, *arguments: Any) -> None:
        try:
            super().save_overload(*arguments)
        except Exception as error:
            _warn(error, self.cache_path)


def _warn(error: Exception, folder: str = "") -> None:
    global _has_warned
    if _has_warned:
        return
    _has_warned = True
    where = f"its cache {folder} cannot be used" if folder else "there is no folder for its cache"
    remedy = (
        "remove the folder, or set NUMBA_CACHE_DIR to another"
        if folder
        else ("set NUMBA_CACHE_DIR to a folder that can be written")
    )
    _log.warning(f"numba compiles its kernels anew in each process: {where} ({error}); {remedy}")
