"""The loader: order, equality with a plain loop, threads, failures, and nothing left behind."""

import gc
import threading
import time
from dataclasses import fields, replace

import numpy as np
import pytest
import simplejpeg
import torch

from pipeline.augment.params import sample_view_params
from pipeline.augment.reference import ReferenceViews
from pipeline.loader import LoaderConfig, evaluation_views, training_views
from pipeline.loader.multicrop import _Stages
from pipeline.loader.ring import Channel
from pipeline.saliency.codec import decode_mask
from pipeline.sampler import Sampler
from pipeline.stats import LoaderClock
from tests.pipeline.loader.loader_support import (
    CONFIG,
    RECIPE,
    assert_same,
    collected,
    shards_of,
    views,
)
from tests.support import decoded_batch


def test_views_equal_a_plain_loop_over_the_reference():
    shards = shards_of()
    config = replace(CONFIG, executor="reference")
    batches = collected(views(shards, config=config))
    sampler = Sampler(num_samples=len(shards), global_batch_size=8, seed=3)
    for step, batch in enumerate(batches):
        epoch, ids = sampler.batch(step)
        encoded = shards.read(ids)
        decoded = decoded_batch(
            [simplejpeg.decode_jpeg(bytes(jpeg)) for jpeg in encoded.jpegs],
            [decode_mask(mask) for mask in encoded.masks],
        )
        params = sample_view_params(
            RECIPE,
            seed=3,
            epoch=epoch,
            sample_ids=ids,
            heights=shards.heights[ids],
            widths=shards.widths[ids],
            mask_coverage=shards.mask_coverage[ids],
        )
        expected = ReferenceViews(RECIPE)(decoded, params)
        assert np.array_equal(batch.sample_ids, ids)
        assert batch.labels.tolist() == [i % 4 for i in ids]
        assert batch.epoch == epoch
        assert torch.equal(batch.large, expected.large)
        assert torch.equal(batch.small, expected.small)


@pytest.mark.parametrize("stage", ["reading", "decoding", "augmenting"])
def test_a_thread_works_on_the_device_of_its_process(stage, monkeypatch):
    # A new thread's current device is GPU 0: on another rank its first call opens a context there.
    seen = []
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    device = torch.device("cuda", 3)
    closed = Channel(1)
    closed.close()
    settled = {"steps": range(1), "clock": LoaderClock(), "device": device}
    settled |= dict.fromkeys(("memories", "encoded", "decoded", "views"), closed)
    stages = _Stages(**dict.fromkeys(item.name for item in fields(_Stages)) | settled)
    getattr(stages, f"run_{stage}")()
    assert seen == [device]


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_bit(threads):
    expected = collected(views())
    assert_same(collected(views(config=replace(CONFIG, threads=threads))), expected)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_batches_of_one(world_size):
    whole = collected(views())
    shares = [collected(views(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        for rank in range(world_size):
            share = shares[rank][step]
            assert np.array_equal(share.sample_ids, batch.sample_ids[rank::world_size])
            assert torch.equal(share.large, batch.large[:, rank::world_size])
            assert torch.equal(share.small, batch.small[:, rank::world_size])


def test_a_later_start_continues_the_same_stream():
    assert_same(collected(views(start=3, steps=7)), collected(views(steps=7))[3:])


def test_seeds_differ():
    other = training_views(
        shards_of(),
        recipe=RECIPE,
        sampler=Sampler(num_samples=24, global_batch_size=8, seed=4),
        seed=4,
        config=CONFIG,
        end_step=1,
    )
    (first,), (second,) = collected(views(steps=1)), collected(other)
    assert not torch.equal(first.large, second.large)


def test_evaluation_takes_every_sample_once_in_order():
    with evaluation_views(shards_of(), size=16, batch_size=10, config=CONFIG) as loader:
        batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [10, 10, 4]
    assert np.concatenate([batch.sample_ids for batch in batches]).tolist() == list(range(24))
    assert batches[0].large.shape == (1, 10, 3, 16, 16)
    assert batches[0].small.shape[0] == 0


def test_evaluation_takes_the_samples_asked_for():
    with evaluation_views(
        shards_of(), size=8, batch_size=2, config=CONFIG, sample_ids=np.array([5, 1, 9])
    ) as loader:
        assert [batch.sample_ids.tolist() for batch in loader] == [[5, 1], [9]]


@pytest.mark.parametrize("stage", ["read", "decode", "augment"])
def test_an_exception_in_a_thread_reaches_the_caller(stage, monkeypatch):
    def fail(*_, **__):
        raise KeyError("the planted fault")

    if stage == "read":
        shards = shards_of()
        monkeypatch.setattr(type(shards), "read", fail)
        loader = views(shards)
    elif stage == "decode":
        monkeypatch.setattr("pipeline.loader.turbojpeg.decode_into", fail)
        loader = views(config=replace(CONFIG, threads=2))
    else:
        monkeypatch.setattr("pipeline.augment.reference.apply_view", fail)
        loader = views(config=replace(CONFIG, executor="reference"))
    message = f"stage '{stage}' failed at step 0: KeyError: 'the planted fault'"
    with loader, pytest.raises(RuntimeError, match=message):
        list(loader)


def loader_threads():
    names = ("reading", "decoding", "augmenting", "decode", "views")
    return [t for t in threading.enumerate() if t.name.startswith(names)]


def test_a_hundred_early_breaks_leave_no_thread():
    before = len(loader_threads())
    shards = shards_of()
    for _ in range(100):
        with views(shards, config=replace(CONFIG, threads=2)) as loader:
            for _batch in loader:
                break
    assert len(loader_threads()) == before


def test_a_forgotten_loader_is_collected():
    before = len(loader_threads())
    loader = views(steps=50)
    next(iter(loader))
    del loader
    gc.collect()
    deadline = time.monotonic() + 5
    while len(loader_threads()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(loader_threads()) == before


def test_closing_while_full_does_not_hang():
    loader = views(steps=50)
    time.sleep(0.2)  # both queues are full by now
    loader.close()
    loader.close()
    assert not loader_threads()
    with pytest.raises(RuntimeError, match="this loader is closed"):
        next(iter(loader))


def test_a_slow_consumer_sees_every_batch_unchanged():
    expected = collected(views(steps=9))
    with views(steps=9) as loader:
        slow = []
        for batch in loader:
            time.sleep(0.01)
            slow.append(batch)
    assert_same(slow, expected)


def test_stats_count_images_and_time():
    loader = views(steps=4)
    collected(loader)
    stats = loader.stats()
    assert stats.images == 32
    assert stats.busy["decode"] > 0
    assert stats.busy["augment"] > 0
    assert stats.wait_seconds > 0
    assert 0 <= stats.occupancy <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "gif"}, "unknown decoder 'gif'; choose one of auto, turbojpeg, dali"),
        ({"threads": -1}, "threads >= 0"),
        ({"prefetch": 0}, "prefetch >= 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LoaderConfig(**change)


def test_a_world_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ValueError, match="global batch of 8 cannot be divided among 3 processes"):
        views(world_size=3)


def test_decoders_agree_to_the_bit():
    expected = collected(views())
    assert_same(collected(views(config=replace(CONFIG, decoder="dali"))), expected)


def test_evaluation_asks_for_each_sample_once_and_for_the_first_batches_at_the_start():
    shards, asked = shards_of(), []
    shards.expect = lambda ids: asked.append(ids.tolist())
    with evaluation_views(shards, size=16, batch_size=3, config=CONFIG) as loader:
        assert sum(len(batch.labels) for batch in loader) == 24
    assert asked[0] == list(range(15))  # those of the first step, and of four more
    assert asked[1] == [15, 16, 17]
    assert [i for ids in asked for i in ids] == list(range(24))
