"""One run at a time in a run directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.distributed import from_main
from pipeline.folder_lock import lock_folder


class Claim:
    """The lock of a run directory, which rank 0 holds."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._place: int | None = None

    def take(self) -> None:
        """Make the directory and lock it; see `lock_folder`."""
        place = lock_folder(self._out)
        self.release()
        self._place = place

    def renew(self) -> bool:
        """Make and lock the directory again if it was removed or moved; return whether it was.

        Raises:
            ValueError: another run has taken its place.
            OSError: it cannot be made.
        """
        assert self._place is not None
        try:
            if os.path.samestat(os.stat(self._out), os.fstat(self._place)):
                return False
        except FileNotFoundError:
            pass
        self.take()
        return True

    def release(self) -> None:
        if self._place is not None:
            os.close(self._place)
            self._place = None


@contextmanager
def claimed(out: Path) -> Iterator[Claim]:
    """Keep other runs out of `out`, for as long as this one lasts: two would mix their checkpoints.

    Rank 0 makes the directory and locks it.

    Raises:
        ValueError: on every rank, if another run holds it.
    """
    claim = Claim(out)
    try:
        from_main(claim.take)
        yield claim
    finally:
        claim.release()
