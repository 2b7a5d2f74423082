"""How the compiled executor's kernels are compiled: by numba, without the GIL, kept on disk."""

from __future__ import annotations

from numba import njit

# Contraction and reassociation only: with them LLVM vectorises the sums. No assumption about NaN or
# infinity, so that a wrong value shows instead of spreading as something else.
_MATH = {"contract", "reassoc", "nsz"}


def compiled(function):
    return njit(nogil=True, cache=True, fastmath=_MATH, boundscheck=False)(function)
