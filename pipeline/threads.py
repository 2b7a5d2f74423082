"""A fixed team of threads that do one piece of work together.

Not concurrent.futures: its threads are joined when Python ends, so one that hangs in a broken disk
or library would keep the process for ever, and a future for each sample costs 30 us.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

Work = Callable[[], object]


@dataclass(slots=True)
class _Team:
    """What the threads share. It does not know the Threads, so that those can be collected."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    work: Work | None = None
    turn: int = 0
    unfinished: int = 0
    error: BaseException | None = None
    closed: bool = False

    def serve(self) -> None:
        """One thread: each turn's work once, until the end."""
        turn = 0
        while (turn := self._next_turn(turn)) > 0:
            self._finish(_error_of(self.work))

    def _next_turn(self, last: int) -> int:
        """Wait for a turn after the last; 0: there will be none.

        One that began before the closing is still done: its caller waits for it.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.turn > last)
            return self.turn if self.turn > last else 0

    def _finish(self, error: BaseException | None) -> None:
        with self.changed:
            self.error = self.error or error
            self.unfinished -= 1
            if not self.unfinished:
                self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class Threads:
    """`count` daemon threads; with one, the caller itself does the work. One caller at a time."""

    def __init__(self, count: int, name: str) -> None:
        if count < 1:
            raise ValueError(f"a team needs at least one thread, got {count}")
        self.count = count
        self._team = team = _Team()
        self._finalizer = weakref.finalize(self, team.close)
        self._threads = [
            threading.Thread(target=team.serve, name=f"{name}_{number}", daemon=True)
            for number in range(count if count > 1 else 0)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Work) -> None:
        """Call `work` once in every thread, and wait for all.

        Raises:
            RuntimeError: the team is closed.
            What `work` raises: of several threads, the first.
        """
        if not self._threads:
            work()
            return
        team = self._team
        with team.changed:
            if team.closed:
                raise RuntimeError("these threads have ended")
            team.work, team.unfinished, team.error = work, len(self._threads), None
            team.turn += 1
            team.changed.notify_all()
            team.changed.wait_for(lambda: not team.unfinished)
            error, team.work, team.error = team.error, None, None
        if error is not None:
            raise error

    def close(self, patience: float = 5.0) -> None:
        """End the threads. One that hangs for longer than `patience` seconds is left behind."""
        self._finalizer()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(patience)


def _error_of(work: Work | None) -> BaseException | None:
    assert work is not None
    try:
        work()
    except BaseException as error:
        return error
    return None
