"""Where the time of a loader goes: what each stage is doing, and how full the last queue was.

A stage is either working, waiting (for the stage before it, or for room after it), or over. Its
clock is written by its own threads and read by others: by the training loop for the figures of a
log line, and by the watchdog, which asks for how long nothing has moved.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

STAGES = ("read", "decode", "augment")
FED = 0.01  # waiting below this share of the time: the step, not the pipeline, sets the speed

OTHER_WORK = "cores busy with other work"  # the bottleneck of a step on cores that others use too

Beat = Callable[[int], object]  # called with a sample id when work on it begins


def no_beat(sample_id: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderStats:
    """Totals since the loader began.

    `busy` and `waiting` are seconds per stage (STAGES, and "consumer", which waits for views).
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


class StageClock:
    """Seconds at work and waiting of one stage, and what it is at."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._seconds = {"working": 0.0, "waiting": 0.0, "over": 0.0}
        self._state = "waiting"
        self._since = self.moved = time.monotonic()  # of time.monotonic(): when it last did so
        self._thread = 0
        self._step = -1
        self._samples: Iterable[int] = ()
        self._at: dict[int, int] = {}  # thread -> the sample that it has in hand

    def beat(self, sample_id: int) -> None:
        """Work on a sample begins; from any thread of the stage."""
        self._at[threading.get_ident()] = sample_id
        self.moved = time.monotonic()

    @contextmanager
    def working(self, step: int, sample_ids: Iterable[int] = ()) -> Iterator[None]:
        """The stage works on a step, until it is left."""
        self._thread, self._step, self._samples = threading.get_ident(), step, sample_ids
        self._at.clear()
        self._turn("working")
        try:
            yield
        finally:
            self._turn("waiting")

    def end(self) -> None:
        """The stage has nothing to do any more."""
        self._turn("over")

    def _turn(self, state: str) -> None:
        with self._lock:
            now = time.monotonic()
            self._seconds[self._state] += now - self._since
            self._state, self._since, self.moved = state, now, now

    def seconds(self) -> tuple[float, float]:
        """Seconds (working, waiting) so far, what goes on now included."""
        with self._lock:
            running = dict(self._seconds)
            running[self._state] += time.monotonic() - self._since
        return running["working"], running["waiting"]

    def stuck_seconds(self) -> float:
        """Seconds that it has been at work without moving on; 0 while it waits."""
        return time.monotonic() - self.moved if self._state == "working" else 0.0

    def whereabouts(self) -> str:
        """One line: the stage, its step, and the samples in hand."""
        if self._state != "working":
            return f"stage {self.name!r} is {self._state}"
        samples = sorted(set(self._at.copy().values())) or [int(i) for i in self._samples]
        shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        return f"stage {self.name!r} is at step {self._step}" + (
            f", sample {shown}" if samples else ""
        )

    def threads(self) -> list[int]:
        """Identities of the threads that are at its work: its own, and its helpers'."""
        return list(dict.fromkeys([self._thread, *self._at.copy()]))


class LoaderClock:
    """The clocks of all stages of one loader."""

    def __init__(self) -> None:
        self.read, self.decode, self.augment = (StageClock(name) for name in STAGES)

    @property
    def stages(self) -> tuple[StageClock, ...]:
        return (self.read, self.decode, self.augment)


def bottleneck(wait_share: float, busy: Mapping[str, float]) -> str:
    """Name what sets the speed: "step", or, where views are waited for, the busiest stage.

    Args:
        wait_share: of the consumer's time, 0..1.
        busy: seconds (or shares of the time) at work by stage.
    """
    if wait_share < FED or not busy:
        return "step"
    return max(busy, key=lambda name: busy[name])
