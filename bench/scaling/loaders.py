"""N loaders on the cores of one machine against a demand: where do they fall behind?

Each of N processes runs the loader of train.py and consumes as a GPU would, at a pace (worker.py).
Two sweeps: more and more loaders that each want the same, and one number of loaders that want more
and more. The scale of both is what all cores can make, which is measured first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.child import Child
from bench.harness import Broken, tell
from bench.scaling.worker import Counted, Feed, Trial, serve

SWEEPS = ("loaders", "demand")
LOADS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5)  # of what the cores can make
KEEPS_UP = 0.99  # of the demand: below, a loader is behind
_PATIENCE_SECONDS = 120.0
_WARM_UP = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadersRequest:
    """What to run."""

    feed: Feed
    most: int  # loaders at a time
    seconds: float  # of each measurement


def simulate(request: LoadersRequest) -> dict[str, Any]:
    """Measure what the cores can make, then both sweeps; the JSON object of it.

    Raises:
        Broken: a loader's process failed.
    """
    cores = len(os.sched_getaffinity(0))
    with processes(request.feed, request.most) as team:
        knee = max(1, request.most // 2)  # as many as the cores can feed in the first sweep
        free = team.measure(knee, 0.0, request.seconds)
        capacity = free["delivered"]
        points = []
        for sweep, loaders, load in plan_sweeps(knee, request.most):
            demanded = load * capacity
            tell(f"{loaders} loaders, {demanded:.0f} images/s demanded of {capacity:.0f}")
            point = team.measure(loaders, demanded, request.seconds)
            point["predicted"] = min(1.0, 1 / load)
            points.append({"sweep": sweep, "load": load} | point)
    return {
        "cores": cores,
        "views": "cpu" if request.feed.views_here else "gpu",
        "batch": request.feed.batch,
        "seconds": request.seconds,
        "capacity": capacity,
        "core_milliseconds_per_image": free["core_milliseconds_per_image"],
        "points": points,
        "behind": {sweep: first_behind(points, sweep) for sweep in SWEEPS},
    }


def plan_sweeps(knee: int, most: int) -> list[tuple[str, int, float]]:
    """(sweep, loaders, what they demand together as a share of the capacity) of each measurement.

    In the first each loader wants what is left for it when `knee` of them share the cores.
    """
    numbers = sorted({min(2**power, most) for power in range(most.bit_length() + 1)} | {knee})
    first = [(SWEEPS[0], number, number / knee) for number in numbers]
    return first + [(SWEEPS[1], knee, load) for load in LOADS]


def first_behind(points: Sequence[dict[str, Any]], sweep: str) -> dict[str, Any] | None:
    """The smallest load of a sweep at which less than KEEPS_UP of the demand was delivered."""
    found = [p for p in points if p["sweep"] == sweep and p["ratio"] < KEEPS_UP]
    return min(found, key=lambda point: point["load"], default=None)


def summed(counted: Sequence[Counted], demanded: float, cores: int) -> dict[str, Any]:
    """What all loaders of one measurement came to; `demanded` 0: as much as there is."""
    delivered = sum(each.images / each.seconds for each in counted)
    cpu = sum(each.cpu_seconds / each.seconds for each in counted)
    return {
        "loaders": len(counted),
        "demanded": demanded,
        "delivered": delivered,
        "ratio": delivered / demanded if demanded else math.nan,
        "waiting": max(each.waited / each.seconds for each in counted),
        "cores_busy": cpu / cores,
        "core_milliseconds_per_image": 1e3 * cpu / delivered,
    }


class Team:
    """The processes that are there; each measurement uses the first N."""

    def __init__(self, members: list[Child], batch: int) -> None:
        self._members, self._batch = members, batch

    def measure(self, loaders: int, demanded: float, seconds: float) -> dict[str, Any]:
        """Run `loaders` of them together; `demanded` images/s of all, 0: what they can.

        Raises:
            Broken: one of them failed.
        """
        pace = loaders * self._batch / demanded if demanded else 0.0
        trial = Trial(loaders=loaders, pace=pace, warm_up=_WARM_UP, seconds=seconds)
        chosen = self._members[:loaders]
        for member in chosen:
            member.send(trial)
        for member in chosen:
            _answer(member)  # its loader is open
        for member in chosen:
            member.send("go")
        counted = [_answer(member) for member in chosen]
        return summed(counted, demanded, len(os.sched_getaffinity(0)))


@contextmanager
def processes(feed: Feed, count: int) -> Iterator[Team]:
    """Start `count` processes and end them.

    Raises:
        Broken: one of them did not start.
    """
    tell(f"starting {count} loaders")
    members: list[Child] = []
    try:
        for rank in range(count):
            members.append(Child(serve, feed, rank, daemon=True))
        for member in members:
            _answer(member)
        yield Team(members, feed.batch)
    finally:
        for member in members:
            member.end_orders()  # of all: they end side by side
        for member in members:
            member.close()


def _answer(member: Child) -> Any:
    try:
        return member.receive(_PATIENCE_SECONDS)
    except Broken as error:
        if member.exitcode is None:
            raise Broken(f"a loader {error}") from None
        raise Broken(
            f"a loader's process ended with status {member.exitcode}; its error stands above"
        ) from None
