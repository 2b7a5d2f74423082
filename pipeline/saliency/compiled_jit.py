"""How kernels of the saliency methods are compiled: by numba, without the GIL, kept on disk."""

from __future__ import annotations

from numba import njit


def compiled(function):
    return njit(nogil=True, cache=True, boundscheck=False)(function)
