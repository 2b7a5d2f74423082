"""One thread for what is worked on beside other pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import cv2
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread_each() -> Iterator[None]:
    """BLAS and OpenCV work in the thread that calls them.

    Sums have one order then whatever the machine, and where all cores have pictures of their own,
    threads would only wait: a CRF that took 35 ms took 230 where each had all of two cores. A BLAS
    that is loaded after the first call is not limited.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        cv2.setNumThreads(threads)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks at all libraries of the process: 2 ms
