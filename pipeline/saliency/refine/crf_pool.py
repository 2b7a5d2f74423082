"""Threads that finish maps, by the CRF and the cut, among other work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from pipeline.saliency.one_thread import one_thread_each


@contextmanager
def crf_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool whose waiting work is dropped at the end: after an interruption it may be much.

    Meanwhile BLAS, of the CRF, and OpenCV, of the cut, have one thread.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        with one_thread_each():
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)
