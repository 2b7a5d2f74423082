"""Where the time of a run goes: seconds and items per stage, and how full the last queue was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderStats:
    """Totals since the loader began.

    `busy` and `waiting` are seconds per stage ("read", "decode", "augment" and "consumer"; the
    consumer waits for views, a stage waits for the one before it or for room after it).
    """

    images: int
    busy: dict[str, float]
    waiting: dict[str, float]
    places_asked: int  # places of the last queue, added up over the times the consumer asked
    places_filled: int  # of these, how many held a batch
    bad_samples: int

    @property
    def occupancy(self) -> float:
        """Mean share of full places in the last queue when the consumer asks, 0..1."""
        return self.places_filled / max(self.places_asked, 1)

    @property
    def wait_seconds(self) -> float:
        """Seconds that the consumer spent without a batch."""
        return self.waiting.get("consumer", 0.0)


class Clock:
    """Adds up seconds by name, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + elapsed

    def seconds(self) -> dict[str, float]:
        with self._lock:
            return dict(self._seconds)
