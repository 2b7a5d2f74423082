"""A loader that does not move says where it stands, and stops the run, instead of hanging."""

from __future__ import annotations

import sys
import threading
import time
import traceback

from pipeline.stats import LoaderClock, StageClock

_FRAMES = 8  # of each thread's stack that are shown


class Stalled(RuntimeError):
    """No stage of the loader has moved for too long; the message names stage, sample and stack."""


class Watchdog:
    """Judges the stages by their clocks. Asked by the consumer while it waits for views."""

    def __init__(self, clock: LoaderClock, *, patience: float) -> None:
        self._clock = clock
        self._patience = patience

    def check(self) -> None:
        """Look whether anything moves. A stage that hangs stops those around it too, but what they
        still had in hand is done first.

        Raises:
            Stalled: no stage has moved for longer than the patience.
        """
        still = time.monotonic() - max(stage.moved for stage in self._clock.stages)
        if still <= self._patience:
            return
        stuck = max(self._clock.stages, key=StageClock.stuck_seconds)
        if stuck.stuck_seconds():
            raise Stalled(self._report(stuck))
        where = "; ".join(stage.whereabouts() for stage in self._clock.stages)
        raise Stalled(f"the loader has not moved for {still:.0f} s: {where}")

    def _report(self, stage: StageClock) -> str:
        return (
            f"{stage.whereabouts()}, and has not moved for {stage.stuck_seconds():.0f} s (the "
            "limit is loader.stall_seconds); look at the disk and at that sample. Its threads:\n"
            + "\n".join(_stack(thread) for thread in stage.threads())
        )


def _stack(thread: int) -> str:
    names = {each.ident: each.name for each in threading.enumerate()}
    frame = sys._current_frames().get(thread)
    if frame is None:
        return f"{names.get(thread, thread)}: ended"
    lines = traceback.format_stack(frame)[-_FRAMES:]
    return f"{names.get(thread, thread)}:\n" + "".join(lines).rstrip()
