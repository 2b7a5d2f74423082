"""The self-test finds what is wrong with a decoder, and survives what a decoder can do."""

import os
import pickle
import re
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import simplejpeg
import torch

from pipeline.loader import trial_samples as trial_samples_module
from pipeline.loader.gpu_trial import NoOtherWork, Trial, measure, try_engine, try_engines
from pipeline.loader.trial_samples import TrialSamples, trial_samples
from pipeline.shards.memory import MemoryShards
from tests.pipeline.loader.gpu_support import (
    CPU,
    Stale,
    Wrong,
    batch_of,
    off_by,
    pictures,
    skipped,
    swapped,
)
from tests.pipeline.loader.loader_support import jpegs, shards_of

SAMPLES = trial_samples(MemoryShards.from_images(pictures(16)))


def tried(decoder, other=None, samples=SAMPLES):
    return try_engine("hardware", decoder, samples, other or NoOtherWork(), CPU)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr("pipeline.loader.gpu_trial.measure", partial(measure, seconds=0.05))


@pytest.mark.parametrize("levels", [0, 1, -1])
def test_a_decoder_that_rounds_differently_passes_and_is_timed(levels):
    decoder = Wrong(off_by(levels))
    trial = tried(decoder)
    assert (trial.engine, trial.fault) == ("hardware", "")
    assert trial.images_per_second > 0
    assert decoder.closed


def blank_half(image, row, _):
    if row == 9:
        image[len(image) // 2 :] = 128


@pytest.mark.parametrize(
    ("decoder", "finding"),
    [
        (Wrong(swapped), r"on sample 0 \(000000000\), .*is off by"),
        (Wrong(off_by(3)), "brightness is off by 3.0 levels of 255"),
        (Wrong(skipped(5)), r"on sample 5 \(000000005\), brightness"),
        (Wrong(blank_half), r"on sample 9 \(000000009\), brightness"),
        (Wrong(refuse=[3]), r"on sample 3 \(000000003\), refused"),
    ],
    ids=["swapped", "off by 3", "skipped", "half of it", "refused"],
)
def test_what_is_wrong_is_named_with_its_sample(decoder, finding):
    trial = tried(decoder)
    assert trial.images_per_second == 0
    assert re.search(finding, trial.fault), trial.fault
    assert decoder.closed


def test_stale_pixels_show_in_the_second_round():
    same_size = [picture[:90, :70] for picture in pictures(16)]
    samples = trial_samples(MemoryShards.from_images(same_size))
    decoder = Stale()
    fault = tried(decoder, samples=samples).fault
    assert "off by" in fault
    assert decoder.calls == 2


def test_a_decoder_that_writes_nothing_the_second_time_is_found():
    class Lazy(Wrong):
        def decode(self, encoded, images):
            self.calls += 1
            return super().decode(encoded, images) if self.calls == 1 else {}

    assert "brightness is off" in tried(Lazy()).fault


@pytest.mark.parametrize("disturbed_round", [1, 2])
def test_other_work_is_under_way_in_each_round_and_its_fault_counts(disturbed_round):
    log = []

    class Other:
        rounds = 0

        def start(self):
            log.append("start")
            self.rounds += 1

        def fault(self):
            log.append("end")
            return "it wrote elsewhere" if self.rounds == disturbed_round else ""

    class Logged(Wrong):
        def decode(self, encoded, images):
            log.append("decode")
            return super().decode(encoded, images)

    assert tried(Logged(), Other()).fault == "it wrote elsewhere"
    assert log == ["start", "decode", "end"] * disturbed_round


def test_an_exception_is_a_fault_in_one_line():
    class Raises(Wrong):
        def decode(self, encoded, images):
            raise RuntimeError("CUDA error\nmany lines\nof it")

    decoder = Raises()
    assert tried(decoder).fault == "CUDA error"
    assert decoder.closed


def test_speed_is_images_over_time(monkeypatch):
    clock = iter([0.0, 0.1, 0.6, 1.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    decoder = Wrong()
    assert measure(decoder, batch_of(3), CPU, seconds=1.0) == pytest.approx(2 * 3 / 1.5)
    assert decoder.calls == 3  # one to warm up


# In a process of its own


def passes(engine, samples):
    return Trial(engine=engine, images_per_second=float(len(samples)), fault=str(os.getpid()))


def crashes(engine, samples, *, which):
    if engine == which:
        os.kill(os.getpid(), signal.SIGSEGV)
    return passes(engine, samples)


def hangs(engine, samples, *, which):
    if engine == which:
        time.sleep(600)
    return passes(engine, samples)


def fails(engine, samples):
    if engine == "hardware":
        raise ImportError("no such library\nin some folder")
    os._exit(3)


def test_engines_are_tried_in_one_other_process():
    trials = try_engines(["hardware", "cuda"], passes, SAMPLES)
    assert [trial.engine for trial in trials] == ["hardware", "cuda"]
    assert [trial.images_per_second for trial in trials] == [16, 16]
    assert len({trial.fault for trial in trials}) == 1
    assert trials[0].fault != str(os.getpid())


@pytest.mark.parametrize("which", ["hardware", "cuda"])
def test_a_crash_is_the_engine_s_fault_and_the_other_is_still_tried(which):
    trials = try_engines(["hardware", "cuda"], partial(crashes, which=which), SAMPLES)
    faults = {trial.engine: trial.fault for trial in trials}
    assert list(faults) == ["hardware", "cuda"]
    assert faults.pop(which) == "its process was killed by signal 11"
    assert faults.popitem()[1].isdigit()


@pytest.mark.slow
def test_a_hanging_engine_is_left_behind():
    attempt = partial(hangs, which="hardware")
    trials = try_engines(["hardware", "cuda"], attempt, SAMPLES, patience=15)
    assert trials[0].fault == "it did not end within 15 s"
    assert trials[1].images_per_second == 16


def test_a_failure_is_a_fault_in_one_line_and_so_is_an_end():
    first, second = try_engines(["hardware", "cuda"], fails, SAMPLES)
    assert first.fault == "no such library"
    assert second.fault == "its process ended with status 3"


# The samples


def test_samples_are_spread_over_the_data_set(monkeypatch):
    monkeypatch.setattr(trial_samples_module, "_MOST", 20)
    shards = MemoryShards.from_images(pictures(10) * 10)
    samples = trial_samples(shards)
    assert samples.names == tuple(f"sample {i} ({i:09d})" for i in range(0, 100, 5))
    assert samples.jpegs == tuple(bytes(j) for j in shards.read(np.arange(0, 100, 5)).jpegs)


def test_large_pictures_are_fewer(monkeypatch):
    shards = MemoryShards.from_images(pictures(4) * 10)
    average = int((shards.heights * shards.widths).mean()) * 3
    monkeypatch.setattr(trial_samples_module, "_MOST_PIXELS", 18 * average)
    assert len(trial_samples(shards)) == 18


def test_a_small_data_set_is_filled_up_with_generated_pictures():
    samples = trial_samples(MemoryShards.from_images(pictures(3)))
    assert len(samples) == 3 + 16
    assert samples.names[2:4] == ("sample 2 (000000002)", "generated picture 0")
    encoded = samples.encoded()
    for row, jpeg in enumerate(samples.jpegs):
        assert simplejpeg.decode_jpeg_header(jpeg)[:2] == (
            encoded.heights[row],
            encoded.widths[row],
        )
    assert tried(Wrong(), samples=samples).fault == ""


def test_damaged_samples_are_no_test():
    data = jpegs()
    data[5] = data[5][: len(data[5]) // 2]
    samples = trial_samples(shards_of(data))
    assert len(samples) == 23
    assert "sample 5 (005.jpg)" not in samples.names
    assert tried(Wrong(), samples=samples).fault == ""


def test_samples_that_cannot_be_read_are_no_test():
    shards = shards_of()
    good = shards.read

    def read(ids, memory=None):
        return replace(good(ids), faults={2: "it cannot be read"})

    shards.read = read
    names = trial_samples(shards).names
    assert len(names) == 23
    assert names[:3] == ("sample 0 (000.jpg)", "sample 1 (001.jpg)", "sample 3 (003.jpg)")


def test_samples_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(SAMPLES))
    assert isinstance(sent, TrialSamples)
    assert (sent.jpegs, sent.names) == (SAMPLES.jpegs, SAMPLES.names)
    assert torch.equal(torch.from_numpy(sent.heights), torch.from_numpy(SAMPLES.heights))
