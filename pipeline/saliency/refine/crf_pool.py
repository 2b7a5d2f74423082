"""Threads that finish maps, by the CRF and the cut, among other work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
from threadpoolctl import threadpool_limits


@contextmanager
def crf_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool whose waiting work is dropped at the end: after an interruption it may be much.

    Meanwhile BLAS and OpenCV have one thread: a CRF takes 35 ms, and 230 where each takes all of
    two cores.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        with one_thread_each():
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """BLAS, of the CRF, and OpenCV, of the cut, work in the thread that calls them."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        cv2.setNumThreads(threads)
