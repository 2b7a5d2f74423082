"""The control: shards that are read too slowly, on purpose. A certificate must FAIL with them."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from pipeline.batch import EncodedBatch, Ids
from pipeline.shards import Shards


class ThrottledShards:
    """Shards whose reads take as long as `images_per_second` asks; at first, as they take.

    Everything else is that of the shards inside.
    """

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._lock = threading.Lock()
        self._due = 0.0  # of time.monotonic(): when the last read may return
        self.images_per_second = math.inf

    def __len__(self) -> int:
        return len(self._shards)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shards, name)

    def read(self, sample_ids: Ids, *more: Any, **others: Any) -> EncodedBatch:
        """As the shards inside, no faster than the rate."""
        encoded = self._shards.read(sample_ids, *more, **others)
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + len(sample_ids) / self.images_per_second
            wait = self._due - now
        time.sleep(wait)
        return encoded
