"""A candidate in a process of its own: one heap, one allocator, one set of threads for each.

In one process, candidates disturb each other: what one leaves in glibc's heap decides whether the
large blocks of another come with fresh pages (1.6 or 2.5 ms an image for the compiled executor),
and libraries change each other's number of threads. A process that crashes is a skipped row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from bench.child import Child
from bench.harness import Broken, Built, Candidate, Unavailable

Setup = Callable[[], object]
Result = TypeVar("Result")

PATIENCE_SECONDS = 600.0  # for one answer: a peer whose own thread has died would never give one


def isolated(candidate: Candidate, setup: Setup | None = None) -> Candidate:
    """The same, built and run in a child; `setup` is called there first.

    The child starts where the harness builds it, so it inherits the cores that it is pinned to. A
    share costs one message there and one back, some 0.1 ms, on top of the work.
    """
    return replace(candidate, build=lambda: _start(candidate, setup))


def _start(candidate: Candidate, setup: Setup | None) -> Built:
    # not a daemon: it may have children itself, as torch's DataLoader does
    child = Child(_serve, candidate.build, setup, candidate.cores, daemon=False)

    def run() -> object:
        child.send("run")
        return _answer(child)

    try:
        note = _answer(child)
    except BaseException:
        child.close()
        raise
    return Built(run=run, note=note, close=child.close)


def alone(function: Callable[..., Result], *arguments: Any, setup: Setup | None = None) -> Result:
    """Call a function in a process of its own, after `setup` there, and return what it returns.

    Function, arguments and result travel by pickling.

    Raises:
        Unavailable, ImportError: the function did.
        Broken: it raised another error, its process died, or it gave no answer in time.
    """
    child = Child(_call, function, arguments, setup, daemon=False)
    try:
        result: Result = _answer(child)
        return result
    finally:
        child.close()


def _answer(child: Child) -> Any:
    """What the child sends, or the error that it tells of."""
    kind, value = child.receive(PATIENCE_SECONDS)
    if kind == "done":
        return value
    known = {"Unavailable": Unavailable, "ImportError": ImportError}
    raise known.get(kind, Broken)(value)


def _call(
    answers: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    setup: Setup | None,
) -> None:
    """The child of `alone`."""
    try:
        if setup is not None:
            setup()
        answers.send(("done", function(*arguments)))
    except (BrokenPipeError, KeyboardInterrupt):
        return
    except Exception as error:
        answers.send(_described(error))


def _serve(orders: Connection, build: Callable[[], Built], setup: Setup | None, cores: int) -> None:
    """The child: build, then one share for each order, until the orders end."""
    built: Built | None = None
    try:
        torch.set_num_threads(cores)
        if setup is not None:
            setup()
        built = build()
        orders.send(("done", built.note))
        while True:
            orders.recv()
            told = built.run()
            orders.send(("done", told if isinstance(told, float) else None))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
    except Exception as error:
        orders.send(_described(error))
    finally:
        if built is not None:
            built.close()


def _described(error: Exception) -> tuple[str, str]:
    """What kind of failure it was for the harness, and its message."""
    if isinstance(error, Unavailable):
        return "Unavailable", str(error)
    if isinstance(error, ImportError):
        return "ImportError", str(error)
    return "Broken", f"{type(error).__name__}: {error}"
