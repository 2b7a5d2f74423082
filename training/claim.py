"""One run at a time in a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.distributed import from_main
from pipeline.folder_lock import lock_folder


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Keep other runs out of `out`, for as long as this one lasts: two would mix their checkpoints.

    Rank 0 makes the directory and locks it.

    Raises:
        ValueError: on every rank, if another run holds it.
    """
    places: list[int] = []
    try:
        from_main(lambda: places.append(lock_folder(out)))
        yield
    finally:
        for place in places:
            os.close(place)
