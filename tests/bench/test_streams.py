"""How a running loader is timed: by a clock that is told how long things take."""

import multiprocessing
import time
from types import SimpleNamespace

import pytest

from bench import streams
from bench.streams import Stream, cpu_seconds, mean_seconds, timed, wait_until_quiet


class Clock:
    """Stands in for the module `time`; the process works for a while after each batch."""

    def __init__(self):
        self.now = self.cpu = 0.0
        self.works_until = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter

    def sleep(self, seconds):
        self.cpu += max(min(seconds, self.works_until - self.now), 0.0)
        self.now += seconds

    def process_time(self):
        return self.cpu


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(streams, "time", made)
    monkeypatch.setattr(streams.multiprocessing, "active_children", list)
    return made


def stream(clock, *, ready, seconds, works_for=0.0, **fields):
    """The first `ready` batches after a rest cost nothing, each further one `seconds`."""
    state = SimpleNamespace(ready=ready, taken=0)

    def batches():
        while True:
            state.taken += 1
            if state.ready:
                state.ready -= 1
            else:
                clock.now += seconds
            clock.works_until = clock.now + works_for
            yield [], None

    return Stream(batches=batches(), ahead=ready, **fields), state


def test_what_lies_ready_is_not_counted(clock):
    made, state = stream(clock, ready=5, seconds=0.25)
    assert timed(made, seconds=1.0).run() == pytest.approx(0.25)
    assert state.taken == 5 + 4


def test_who_make_batches_side_by_side_are_counted_in_whole_turns(clock):
    made, state = stream(clock, ready=3, seconds=0.25, workers=2)
    assert timed(made, seconds=1.25).run() == pytest.approx(0.25)
    assert state.taken == 4 + 6  # both times a multiple of two


def test_a_share_ends_when_the_loader_rests(clock):
    made, _ = stream(clock, ready=0, seconds=0.5, works_for=3.0)
    timed(made, seconds=0.5).run()
    assert clock.now >= 0.5 + 3.0


def test_who_never_rests_is_not_waited_for_without_end(clock):
    clock.works_until = float("inf")
    assert not wait_until_quiet(patience=2.0)
    assert clock.now == pytest.approx(2.0, abs=0.2)
    clock.works_until = clock.now
    assert wait_until_quiet(patience=2.0)


def test_a_mean_is_over_at_least_one_step_and_waits_for_the_device(clock):
    def step():
        clock.now += 3.0

    def finish():
        clock.now += 1.0

    assert mean_seconds(step, seconds=0.1, finish=finish) == 4.0
    assert mean_seconds(step, seconds=5.0, finish=finish) == 3.5


def test_note_and_end_of_a_stream_are_those_of_the_row(clock):
    ended = []
    made, _ = stream(clock, ready=0, seconds=1.0, note="a note", close=lambda: ended.append(1))
    built = timed(made)
    assert built.note == "a note"
    built.close()
    assert ended == [1]


def test_the_work_of_worker_processes_counts_until_they_end():
    worker = multiprocessing.get_context("spawn").Process(target=_burn)
    worker.start()
    try:
        deadline = time.monotonic() + 60
        while streams._of_process(worker.pid) < 0.05:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert cpu_seconds() - time.process_time() > 0.03
    finally:
        worker.kill()
        worker.join()
    assert streams._of_process(worker.pid) == 0


def _burn():
    while True:
        sum(range(10_000))
