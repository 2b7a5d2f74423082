"""Waiting time by the GPU's clock: what is recorded where, with a stream that only takes notes."""

import pytest
import torch

from pipeline.batch import MultiCropBatch
from pipeline.loader import waiting
from pipeline.loader.waiting import DeviceWaiting, HostWaiting

GPU = torch.device("cuda", 0)


class Stream:
    """Takes notes of what is queued; `now` is the time that its events will show."""

    def __init__(self):
        self.now, self.notes = 0.0, []

    def wait_event(self, event):
        self.notes.append(("wait", event))
        self.now = max(self.now, event.at)


class Event:
    made = 0

    def __init__(self):
        Event.made += 1
        self.at, self.passed = 0.0, False

    def record(self, stream):
        stream.notes.append(("record", self))
        self.at, self.passed = stream.now, False

    def query(self):
        return self.passed

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(waiting, "_event", Event)
    monkeypatch.setattr(Event, "made", 0)
    return stream


def batch_ready_at(seconds):
    empty = torch.empty(0)
    ready = Event()
    ready.at = seconds
    return MultiCropBatch(
        large=empty, small=empty, labels=empty, sample_ids=None, epoch=0, ready=ready
    )


def pass_all(stream):
    for kind, event in stream.notes:
        event.passed = event.passed or kind == "record"


def test_the_stream_waits_for_views_and_the_time_between_is_counted(stream):
    clock = DeviceWaiting(GPU)
    stream.now = 5.0  # the steps that are queued end then
    with clock.measure():
        clock.until_ready(batch_ready_at(5.25))
    assert [kind for kind, _ in stream.notes] == ["record", "wait", "record"]
    assert clock.seconds() == 0  # not passed yet: nobody waits for the device to know
    pass_all(stream)
    assert clock.seconds() == pytest.approx(0.25)
    assert clock.seconds() == pytest.approx(0.25)  # counted once


def test_views_that_are_ready_before_they_are_needed_cost_nothing(stream):
    clock = DeviceWaiting(GPU)
    stream.now = 5.0
    with clock.measure():
        clock.until_ready(batch_ready_at(3.0))
    pass_all(stream)
    assert clock.seconds() == 0


def test_events_are_used_again(stream):
    clock = DeviceWaiting(GPU)
    for turn in range(100):
        stream.now = 10.0 * turn
        with clock.measure():
            clock.until_ready(batch_ready_at(10 * turn + 1))
        pass_all(stream)
    assert clock.seconds() == pytest.approx(100)
    assert Event.made <= 100 + 4  # one of each batch is its own


def test_on_the_host_it_is_the_time_inside(monkeypatch):
    times = iter([1.0, 1.5, 7.0, 7.25])
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: next(times))
    clock = HostWaiting()
    for _ in range(2):
        with clock.measure():
            pass
    assert clock.seconds() == 0.75
