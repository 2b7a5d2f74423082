"""A process of its own that gets orders over a pipe, and answers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from bench.harness import Broken

_END_SECONDS = 10.0  # for a child that has been told to end


class Child:
    """Runs `serve(orders, *arguments)`, which must end when its orders do.

    A daemon is killed with this process, and may have no children of its own.
    """

    def __init__(self, serve: Callable[..., object], *arguments: Any, daemon: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *arguments), daemon=daemon)
        self._process.start()
        theirs.close()

    @property
    def exitcode(self) -> int | None:
        """Its status, None while it runs."""
        return self._process.exitcode

    def send(self, order: Any) -> None:
        self._orders.send(order)

    def receive(self, patience: float) -> Any:
        """Return its next answer.

        Raises:
            Broken: it gave none within `patience` seconds, or has ended.
        """
        try:
            if not self._orders.poll(patience):
                raise Broken(f"gave no answer within {patience:.0f} s")
            return self._orders.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_END_SECONDS)
            raise Broken(f"its process ended with status {self.exitcode}") from None

    def end_orders(self) -> None:
        """It reads the end of its orders; nobody waits for it yet."""
        self._orders.close()

    def close(self) -> None:
        """End it, by force if it has to be."""
        self.end_orders()
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
