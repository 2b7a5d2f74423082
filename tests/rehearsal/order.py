"""What a stub's log says: what a run must not do, and whether its streams are in order.

Happens-before: each stream and each thread has a vector clock. A stream's clock takes over the
thread's that queues work on it, and an event's that it waits for; a thread's takes over an event's
or a stream's that it waited for. Two accesses to the same bytes, one of them a write, must be in
that order: views between executor and step, memory that is lent again, pinned memory between a
thread and a copy engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Clock = dict[str, int]


class Call(NamedTuple):
    """One line of the log."""

    thread: str
    device: int
    what: str
    stream: str
    to: int
    source: int
    size: int


def calls(lines: Iterable[str]) -> Iterator[Call]:
    """Parse the lines."""
    for line in lines:
        thread, device, what, stream, to, source, size = line.split()
        if stream == "0":
            stream = f"default of {device}"
        yield Call(thread, int(device), what, stream, int(to, 16), int(source, 16), int(size))


@dataclass(slots=True)
class Faults:
    """What a run did that it must not; each kind with the number of times and an example."""

    times: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)

    def note(self, kind: str, example: object) -> None:
        self.times[kind] += 1
        self.example.setdefault(kind, str(example))

    def __str__(self) -> str:
        return "; ".join(f"{kind} ({n}x): {self.example[kind]}" for kind, n in self.times.items())


def faults_of(log: Iterable[Call], *, device: int) -> tuple[Faults, int]:
    """Return the faults of a run on `device`, and how many accesses were compared.

    Marks between which the first thread may wait: ASIDE_BEGIN, ASIDE_END (log lines, kNN).
    """
    faults, order = Faults(), Order()
    main, aside, in_step, views = "", False, False, []
    for call in log:
        what = call.what
        if what == "STEP_BEGIN":
            main, in_step, views = call.thread, True, []
        elif what == "STEP_END":
            in_step = False
        elif what == "RUN_END":
            main = ""
        elif what == "VIEW":
            views.append(call)
        elif what.startswith("ASIDE"):
            aside = what == "ASIDE_BEGIN"
        elif what.startswith("CONTEXT") and call.device != device:
            faults.note("context on a foreign device", f"device {call.device}, {what}")
        elif what == "FOREIGN_event":
            faults.note("event of another device", call)
        if main and what.startswith("SYNC") and call.thread == main and not aside:
            faults.note("the host waits", call)
        if main and what == "PAGEABLE" and (in_step or call.thread != main):
            faults.note("pageable copy", call)
        step = in_step and what == "kernel" and not call.to
        race = order.follow(call, [(v.to, v.size) for v in views] if step else [])
        if race:
            faults.note("race", race)
    return faults, order.compared


@dataclass(slots=True)
class _Bytes:
    """Who was last at a piece of memory: agents with their clocks' values."""

    written: tuple[str, int] | None = None
    read: dict[str, int] = field(default_factory=dict)


class Order:
    """The clocks, and the memory that they are compared at."""

    def __init__(self) -> None:
        self.compared = 0
        self._clocks: dict[str, Clock] = {}
        self._events: dict[int, Clock] = {}
        self._memory: dict[tuple[int, int], _Bytes] = {}

    def follow(self, call: Call, also_read: list[tuple[int, int]]) -> str:
        """Take over one call; return the race that it shows, or ""."""
        thread, stream = f"thread {call.thread}", f"stream {call.stream}"
        what = call.what
        if what in ("SYNC_event", "passed"):
            self._join(thread, self._events.get(call.source, {}))
        elif what == "SYNC_stream":
            self._join(thread, self._clock(stream))
        elif what == "SYNC_device":
            for name in [name for name in self._clocks if name.startswith("stream")]:
                self._join(thread, self._clock(name))
        elif what == "wait":
            self._join(stream, self._events.get(call.source, {}))
        elif what == "record":
            self._tick(stream, thread)
            self._events[call.to] = dict(self._clock(stream))
        elif what == "FRESH":  # torch has seen to it that nobody is at it any more
            end = call.to + call.size
            for place in [place for place in self._memory if call.to <= place[0] < end]:
                del self._memory[place]
        elif what == "event":
            self._events.pop(call.to, None)
        elif what in ("HOST_WRITE", "HOST_READ"):
            self._tick(thread, thread)
            return self._access(thread, call.to, call.size, write=what == "HOST_WRITE", call=call)
        elif what in ("kernel", "copy", "PAGEABLE", "memset") or what.startswith("nccl"):
            self._tick(stream, thread)
            races = [self._access(stream, a, n, write=False, call=call) for a, n in also_read]
            # only copies between memory that CUDA knows: what malloc gives is anybody's
            if what in ("copy", "kernel", "nccl_all_reduce"):
                races.append(self._access(stream, call.source, call.size, write=False, call=call))
                races.append(self._access(stream, call.to, call.size, write=True, call=call))
            return next(filter(None, races), "")
        return ""

    def _clock(self, name: str) -> Clock:
        return self._clocks.setdefault(name, {})

    def _join(self, name: str, other: Clock) -> None:
        mine = self._clock(name)
        for agent, value in other.items():
            if mine.get(agent, 0) < value:
                mine[agent] = value

    def _tick(self, name: str, thread: str) -> None:
        if name != thread:
            self._join(name, self._clock(thread))
        mine = self._clock(name)
        mine[name] = mine.get(name, 0) + 1

    def _access(self, agent: str, at: int, size: int, *, write: bool, call: Call) -> str:
        if not at or not size:
            return ""
        clock, race = self._clock(agent), ""
        for (start, length), seen in self._memory.items():
            if start < at + size and at < start + length:
                earlier = [seen.written] if seen.written else []
                if write:
                    earlier += seen.read.items()
                # What a thread did before another got it is the program's to order, by locks.
                earlier = [other for other in earlier if other[0].startswith("stream")]
                for other, value in earlier:
                    self.compared += 1
                    if clock.get(other, 0) < value:
                        race = f"{call} does not wait for {other}"
        mine = self._memory.setdefault((at, size), _Bytes())
        if write:
            self._memory[at, size] = _Bytes(written=(agent, clock[agent]))
        else:
            mine.read[agent] = clock[agent]
        return race
