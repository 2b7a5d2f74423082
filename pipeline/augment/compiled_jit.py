"""Which arithmetic the compiled executor's kernels are allowed."""

from __future__ import annotations

from pipeline.numba_kernels import kernel

# Contraction and reassociation only: with them LLVM vectorises the sums. No assumption about NaN or
# infinity, so that a wrong value shows instead of spreading as something else.
_MATH = {"contract", "reassoc", "nsz"}


def compiled(function):
    return kernel(function, fastmath=_MATH)
