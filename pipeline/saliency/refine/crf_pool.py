"""Threads that pass maps through the CRF, among other work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def crf_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool whose waiting work is dropped at the end: after an interruption it may be much.

    Meanwhile BLAS has one thread: a CRF takes 35 ms, and 230 where each takes all of two cores.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)
