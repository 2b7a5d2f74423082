"""Ctrl-C and SIGTERM that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a finaliser or a weak
reference's callback it is swallowed ("Exception ignored in ..."), and a long conversion would go on
for hours after it was told to stop: seen once in some dozen interrupted test runs.
"""

from __future__ import annotations

import signal
from types import FrameType


class Stop:
    """Remembers that a stop was asked for; `check` raises what may have been swallowed."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Take SIGINT, SIGTERM and SIGHUP from now on, unless they are ignored (nohup).

        Only in the main thread.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._notice)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a stop was asked for."""
        if self.asked:
            raise KeyboardInterrupt

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt
