"""A stage that hangs is named with its sample and stack, and nothing waits for ever."""

import re
import threading
import time
from dataclasses import replace

import pytest

from pipeline.loader import LoaderConfig
from pipeline.loader.watchdog import Stalled, Watchdog
from pipeline.stats import LoaderClock, StageClock, bottleneck
from tests.pipeline.loader.loader_support import CONFIG, assert_same, collected, shards_of, views

IMPATIENT = replace(CONFIG, stall_seconds=1.0)


@pytest.fixture
def hang():
    """Something to hang on until the test is over."""
    release = threading.Event()
    yield release.wait
    release.set()
    time.sleep(0.05)


def plant(stage, sample, hang, monkeypatch, config):
    """A loader whose stage hangs when it meets a sample."""
    if stage == "read":
        shards = shards_of()
        good = shards.read

        def read(ids, memory=None, beat=lambda i: None):
            for i in ids:
                beat(int(i))
                if i == sample:
                    hang()
            return good(ids, memory)

        shards.read = read
        return views(shards, config=config)
    if stage == "decode":
        from pipeline.loader import turbojpeg

        good_decode = turbojpeg.decode_into

        def decode_into(encoded, images, row):
            if encoded.sample_ids[row] == sample:
                hang()
            return good_decode(encoded, images, row)

        monkeypatch.setattr(turbojpeg, "decode_into", decode_into)
        return views(config=config)
    from pipeline.augment import reference

    good_view = reference.apply_view

    def apply_view(decoded, params, b, v, recipe):
        if decoded.sample_ids[b] == sample:
            hang()
        return good_view(decoded, params, b, v, recipe)

    monkeypatch.setattr(reference, "apply_view", apply_view)
    return views(config=replace(config, executor="reference"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stage", ["read", "decode", "augment"])
def test_a_stage_that_hangs_is_named_with_its_sample(stage, threads, hang, monkeypatch):
    sample = int(collected(views(steps=2))[1].sample_ids[3])
    config = replace(IMPATIENT, threads=threads)
    start = time.monotonic()
    with plant(stage, sample, hang, monkeypatch, config) as loader:
        served = iter(loader)
        next(served)  # the step before it is still served
        with pytest.raises(Stalled) as stalled:
            next(served)
    assert time.monotonic() - start < 20
    message = str(stalled.value)
    assert f"stage {stage!r} is at step 1" in message
    named = re.search(r"sample ([\d, ]+), and has not moved", message).group(1)
    assert str(sample) in named.split(", ")
    assert "loader.stall_seconds" in message
    assert "in wait" in message  # the stack, down to where it hangs


def test_a_slow_producer_is_not_stuck(monkeypatch):
    from pipeline.loader import turbojpeg

    good = turbojpeg.decode_into

    def slow(encoded, images, row):
        time.sleep(0.3)  # a batch of 8 takes longer than the patience, a sample does not
        return good(encoded, images, row)

    monkeypatch.setattr(turbojpeg, "decode_into", slow)
    found = collected(views(steps=2, config=IMPATIENT))
    monkeypatch.undo()
    assert_same(found, collected(views(steps=2)))


def test_a_slow_consumer_is_not_stuck():
    served = 0
    with views(steps=4, config=replace(IMPATIENT, stall_seconds=0.2)) as loader:
        for _ in loader:
            time.sleep(0.5)
            served += 1
    assert served == 4


def test_stages_that_wait_for_each_other_are_reported():
    clock = LoaderClock()
    time.sleep(0.1)
    with pytest.raises(Stalled, match=r"has not moved for .*stage 'read' is waiting"):
        Watchdog(clock, patience=0.05).check()
    Watchdog(clock, patience=60).check()


def test_a_clock_adds_up_what_a_stage_does():
    clock = StageClock("decode")
    with clock.working(3, [7, 8]):
        clock.beat(8)
        time.sleep(0.02)
        assert clock.whereabouts() == "stage 'decode' is at step 3, sample 8"
        assert clock.stuck_seconds() >= 0.02
    assert clock.stuck_seconds() == 0
    assert clock.whereabouts() == "stage 'decode' is waiting"
    working, waiting = clock.seconds()
    assert working >= 0.02
    time.sleep(0.02)
    assert clock.seconds()[1] >= waiting + 0.02
    clock.end()
    over = clock.seconds()
    time.sleep(0.01)
    assert clock.seconds() == over


@pytest.mark.parametrize(
    ("wait_share", "busy", "name"),
    [
        (0.0, {"read": 0.1, "decode": 0.9, "augment": 0.8}, "step"),
        (0.2, {"read": 0.1, "decode": 0.9, "augment": 0.8}, "decode"),
        (0.2, {"read": 0.99, "decode": 0.9, "augment": 0.8}, "read"),
        (0.2, {}, "step"),
    ],
)
def test_the_bottleneck_has_a_name(wait_share, busy, name):
    assert bottleneck(wait_share, busy) == name


def test_no_patience_is_refused():
    with pytest.raises(ValueError, match="stall_seconds > 0"):
        LoaderConfig(stall_seconds=0)
