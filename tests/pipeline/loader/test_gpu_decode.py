"""Shares of hardware engine, CUDA and CPU: how they are found, said, obeyed, and put to work."""

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch

import pipeline.loader.gpu_decode as gpu_decode
from pipeline.loader.dali_gpu import DaliGpuDecoder
from pipeline.loader.gpu_decode import GpuShares, decided, gpu_decoder, proportional
from pipeline.loader.gpu_trial import NoOtherWork, Trial, try_engine
from pipeline.loader.hybrid import HybridDecoder, split_by_id
from pipeline.loader.trial_samples import trial_samples
from pipeline.loader.turbojpeg import TurboJpegDecoder
from pipeline.shards.memory import MemoryShards
from tests.pipeline.loader.gpu_support import (
    CPU,
    Wrong,
    batch_of,
    cut,
    decoded,
    exact,
    off_by,
    pictures,
    swapped,
)
from tests.pipeline.loader.loader_support import collected, jpegs, shards_of, views

CUDA = torch.device("cuda", 0)
SAMPLES = trial_samples(MemoryShards.from_images(pictures(16)))


def trials(hardware=400.0, cuda=200.0, hardware_fault="", cuda_fault=""):
    return [
        Trial(
            engine="hardware",
            images_per_second=0.0 if hardware_fault else hardware,
            fault=hardware_fault,
        ),
        Trial(engine="cuda", images_per_second=0.0 if cuda_fault else cuda, fault=cuda_fault),
    ]


# Shares


def test_left_to_auto_each_gets_samples_by_its_speed():
    shares = proportional("auto", "auto", trials(400, 200), cpu_speed=600)
    assert shares == GpuShares(gpu=0.5, hardware=0.67)
    assert shares.parts == pytest.approx((0.335, 0.165, 0.5))


def test_shares_are_whole_percents():
    shares = proportional("auto", "auto", trials(123.4, 77.7), cpu_speed=911.1)
    assert (shares.gpu, shares.hardware) == (0.18, 0.61)


def test_what_is_set_is_kept_and_the_rest_fitted_to_it():
    assert proportional(0.25, "auto", trials(300, 100), 50) == GpuShares(gpu=0.25, hardware=0.75)
    # all by hardware: 300 a second there, 100 on the CPU
    assert proportional("auto", 1.0, trials(300, 100), 100) == GpuShares(gpu=0.75, hardware=1.0)
    # half by CUDA, which then is what the GPU waits for: 2 x 100
    assert proportional("auto", 0.5, trials(300, 100), 200) == GpuShares(gpu=0.5, hardware=0.5)
    assert proportional(1.0, 0.0, trials(300, 100), 100) == GpuShares(gpu=1.0, hardware=0.0)


def test_an_engine_that_fails_gets_nothing():
    assert proportional("auto", "auto", trials(hardware_fault="bad"), 200) == GpuShares(
        gpu=0.5, hardware=0.0
    )
    assert proportional("auto", "auto", trials(cuda_fault="bad"), 400) == GpuShares(
        gpu=0.5, hardware=1.0
    )
    none = proportional("auto", "auto", trials(hardware_fault="a", cuda_fault="b"), 200)
    assert none == GpuShares(gpu=0.0, hardware=0.0)


@pytest.mark.parametrize(
    ("gpu", "hardware", "engine"),
    [
        (0.5, "auto", "CUDA"),
        ("auto", 1.0, "the hardware engine"),
        (0.5, 0.5, "the hardware engine"),
        ("auto", 0.0, "CUDA"),
    ],
)
def test_what_is_set_and_cannot_be_had_is_refused(gpu, hardware, engine):
    failing = trials(hardware_fault="it skips", cuda_fault="it skips")
    message = f"needs JPEG decoding by {engine}, but it skips; set both to auto, or use decoder"
    with pytest.raises(ValueError, match=message):
        proportional(gpu, hardware, failing, 100)


def test_an_engine_that_fails_and_is_not_wanted_is_no_matter():
    assert proportional(0.5, 0.0, trials(hardware_fault="bad"), 100).gpu == 0.5
    assert proportional(0.5, 1.0, trials(cuda_fault="bad"), 100).gpu == 0.5


# Trial to decision, in a process of its own, with decoders on the CPU


def attempt(engine, samples, *, wrong=(), crash=()):
    """Stands for a GPU: its decoders work on the CPU, some of them wrongly."""
    if engine in crash:
        os.kill(os.getpid(), signal.SIGSEGV)
    decoder = Wrong(swapped) if engine in wrong else Wrong(off_by(1))
    return try_engine(engine, decoder, samples, NoOtherWork(), CPU)


def decide(monkeypatch, **faults):
    """Decide from trials in this process, for speed, unless one of them crashes it."""
    if "crash" not in faults:
        monkeypatch.setattr(gpu_decode, "try_engines", try_here)
    lines = []
    shares = decided(
        "auto", "auto", SAMPLES, partial(attempt, **faults), threads=1, tell=lines.append
    )
    return shares, lines


def try_here(engines, attempt, samples):
    return [attempt(engine, samples) for engine in engines]


def test_a_decision_says_what_it_measured_and_what_it_chose(monkeypatch):
    shares, (line,) = decide(monkeypatch)
    assert 0 < shares.gpu < 1
    assert 0 < shares.hardware < 1
    assert line.startswith("decoding on this data set, images/s: the hardware engine ")
    assert f"gpu_decode_share={shares.gpu:g}, hw_decoder_load={shares.hardware:g}" in line
    assert "1 CPU thread " in line
    assert "nvImageCodec 0." in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("faults", "finding"),
    [({"wrong": ["hardware"]}, "off by"), ({"crash": ["hardware"]}, "killed by signal 11")],
)
def test_the_next_engine_stands_in(monkeypatch, faults, finding):
    shares, (fault, choice) = decide(monkeypatch, **faults)
    assert shares.hardware == 0
    assert 0 < shares.gpu < 1
    assert fault.startswith("no JPEG decoding by the hardware engine: ")
    assert finding in fault
    assert "(nvImageCodec 0." in fault
    assert fault.endswith("; CUDA and the CPU instead")
    assert "the hardware engine 0, CUDA" in choice


def test_at_last_the_cpu_decodes_everything(monkeypatch):
    shares, lines = decide(monkeypatch, wrong=["hardware", "cuda"])
    assert shares == GpuShares(gpu=0.0, hardware=0.0)
    assert [line.partition(":")[0] for line in lines] == [
        "no JPEG decoding by the hardware engine",
        "no JPEG decoding by CUDA",
        "decoding on this data set, images/s",
    ]
    assert lines[1].endswith("; the CPU instead")
    assert "shares 0 / 0 / 100 %" in lines[2]


# The decoders put together


@pytest.fixture
def on_cpu(monkeypatch):
    """Engines of a "GPU" whose pixels lie on the CPU, decoded by the same graph."""
    made = []

    class Recorded(DaliGpuDecoder):
        def __init__(self, *, engine, **options):
            super().__init__(engine=engine, **options)
            self.name, self.seen = engine, []
            made.append(self)

        def decode(self, encoded, images):
            self.seen += encoded.sample_ids.tolist()
            return super().decode(encoded, images)

    monkeypatch.setattr(gpu_decode, "DaliGpuDecoder", Recorded)
    return made


def together(shares):
    return gpu_decoder(TurboJpegDecoder(threads=1), shares, device=CPU, threads=1)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1.0, 0.6), (0.7, 1.0), (0.3, 0.0), (1.0, 1.0)])
def test_samples_go_where_their_ids_say(on_cpu, shares):
    shares = GpuShares(gpu=shares[0], hardware=shares[1])
    decoder = together(shares)
    encoded = batch_of(12, ids=range(100, 112))
    images, failures = decoded(decoder, encoded)
    assert failures == {}
    assert all(np.array_equal(*pair) for pair in zip(images, exact(encoded), strict=True))
    chosen = split_by_id(np.arange(100, 112), shares.parts)
    assert {each.name: sorted(each.seen) for each in on_cpu} == {
        engine: [100 + row for row in range(12) if chosen[row] == number]
        for number, engine in enumerate(("hardware", "cuda"))
        if shares.parts[number] > 0
    }
    decoder.close()


def test_bad_samples_are_named_whoever_has_them(on_cpu):
    decoder = together(GpuShares(gpu=0.6, hardware=0.5))
    encoded = cut(batch_of(12, ids=range(12)), 0, 3, 4, 7, 11)
    images, failures = decoded(decoder, encoded)
    assert list(failures) == [0, 3, 4, 7, 11]
    assert all("its JPEG cannot be decoded" in reason for reason in failures.values())
    for row in set(range(12)) - set(failures):
        assert np.array_equal(images[row], exact(encoded)[row])


def test_without_a_share_for_the_gpu_pixels_stay_on_the_cpu():
    cpu = TurboJpegDecoder(threads=1)
    shares = GpuShares(gpu=0.0, hardware=0.4)
    assert gpu_decoder(cpu, shares, device=CUDA, threads=1) is cpu


@pytest.mark.parametrize("world_size", [2, 4])
def test_views_are_the_same_at_any_world_size_though_decoders_differ(monkeypatch, world_size):
    """Bad samples included, in whichever share."""
    data = jpegs()
    for row in (3, 8, 9):
        data[row] = data[row][: len(data[row]) // 2]
    split = partial(split_by_id, shares=[0.5, 0.5])

    def differing(*_, **__):
        return HybridDecoder([Wrong(), Wrong(off_by(2))], split, device=CPU)

    monkeypatch.setattr("pipeline.loader.decoder_for", differing)
    whole = collected(views(shards_of(data)))
    for rank in range(world_size):
        share = collected(views(shards_of(data), rank=rank, world_size=world_size))
        for step, batch in enumerate(share):
            assert torch.equal(batch.large, whole[step].large[:, rank::world_size])
            assert torch.equal(batch.small, whole[step].small[:, rank::world_size])
    monkeypatch.undo()
    assert not torch.equal(whole[0].large, collected(views(shards_of(data)))[0].large)
