"""Moving averages of each photo's predictions over the epochs, and the CRF that they pass before.

Shapes: N photos, B of a batch, s sides.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipeline.batch import Bytes, Floats, Ids

Refine = Callable[[Bytes, Floats], Floats]  # picture [s, s, 3], prediction [s, s] -> [s, s]


class History:
    """M <- keep * M + (1 - keep) * refined prediction; M starts at 0 and stays below 1 for it.

    Refining runs in threads beside the training; `finish` waits for what is under way. A photo
    is updated once an epoch, so the order of updates does not matter.
    """

    def __init__(self, maps: Floats, keep: float, refine: Refine, pool: ThreadPoolExecutor) -> None:
        self.maps = maps  # float32 [N, s, s], changed in place
        self._keep = np.float32(keep)
        self._refine = refine
        self._pool = pool
        self._running: list[Future[None]] = []

    def update(self, ids: Ids, pictures: Bytes, predictions: Floats) -> None:
        """Take in the predictions [B, s, s] of photos `ids`."""
        for row, picture, prediction in zip(ids, pictures, predictions, strict=True):
            self._running.append(self._pool.submit(self._update, int(row), picture, prediction))

    def finish(self) -> None:
        """Wait until all updates are done; raise what one has raised."""
        for future in self._running:
            future.result()
        self._running.clear()

    def _update(self, row: int, picture: Bytes, prediction: Floats) -> None:
        new = self._refine(picture, prediction)
        self.maps[row] = self._keep * self.maps[row] + (1 - self._keep) * new
