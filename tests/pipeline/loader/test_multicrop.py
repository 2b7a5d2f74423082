"""The loader: order, equality with a plain loop, threads, failures, and nothing left behind."""

import gc
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch

from pipeline.augment.params import sample_view_params
from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe
from pipeline.augment.reference import ReferenceViews
from pipeline.loader import LoaderConfig, evaluation_views, training_views
from pipeline.loader.decode import TooManyBadSamples
from pipeline.saliency.codec import coverage, decode_mask, encode_mask
from pipeline.sampler import Sampler
from pipeline.shards.index import Sample
from pipeline.shards.memory import MemoryShards
from tests.support import blob_mask, decoded_batch, textured_image

SIZES = [(40 + i % 7, 60 - i % 5) for i in range(24)]
RECIPE = MultiCropRecipe(
    num_large=2,
    num_small=1,
    large_size=24,
    small_size=12,
    large_even=replace(LARGE_EVEN, mask_probability=0.5),
)
CONFIG = LoaderConfig(decoder="turbojpeg", threads=1)


def jpegs():
    images = [textured_image(h, w, seed=i) for i, (h, w) in enumerate(SIZES)]
    return [simplejpeg.encode_jpeg(image, quality=90) for image in images]


def shards_of(data=None, masks=True):
    samples = []
    for i, jpeg in enumerate(data or jpegs()):
        mask = encode_mask(blob_mask(i)) if masks else b""
        samples.append(
            Sample(
                key=f"{i:03d}.jpg",
                label=i % 4,
                height=SIZES[i][0],
                width=SIZES[i][1],
                jpeg=jpeg,
                mask=mask,
                coverage=coverage(blob_mask(i)) if masks else float("nan"),
                unchanged=True,
            )
        )
    return MemoryShards(samples)


def views(shards=None, *, steps=5, config=CONFIG, rank=0, world_size=1, start=0, batch=8):
    shards = shards or shards_of()
    return training_views(
        shards,
        recipe=RECIPE,
        sampler=Sampler(num_samples=len(shards), global_batch_size=batch, seed=3),
        seed=3,
        config=config,
        start_step=start,
        end_step=steps,
        rank=rank,
        world_size=world_size,
    )


def collected(loader):
    with loader:
        return list(loader)


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert np.array_equal(a.sample_ids, b.sample_ids)
        assert torch.equal(a.large, b.large)
        assert torch.equal(a.small, b.small)
        assert torch.equal(a.labels, b.labels)
        assert a.epoch == b.epoch


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


def damaged(*rows):
    data = jpegs()
    for row in rows:
        data[row] = data[row][: len(data[row]) // 2]
    return data


@pytest.mark.parametrize("decoder", ["turbojpeg", "dali"])
def test_a_bad_sample_is_named_and_replaced_by_the_next(decoder):
    config = replace(CONFIG, decoder=decoder)
    loader = views(shards_of(damaged(5, 6)), config=config, steps=3)
    batches = collected(loader)
    clean = collected(views(config=config, steps=3))
    for batch, whole in zip(batches, clean, strict=True):
        replaced = [7 if i in (5, 6) else i for i in whole.sample_ids.tolist()]
        assert batch.sample_ids.tolist() == replaced
        kept = [row for row, i in enumerate(whole.sample_ids) if i not in (5, 6)]
        assert torch.equal(batch.large[:, kept], whole.large[:, kept])
        assert batch.labels.tolist() == [i % 4 for i in replaced]
    assert loader.stats().bad_samples == 2
    assert any("sample 5 (" in line and "cannot be decoded" in line for line in loader.bad_samples)


def corrupted(row):
    """Damage in the middle of the entropy-coded data: libjpeg warns, DALI may not."""
    data = jpegs()
    middle = len(data[row]) * 2 // 3
    data[row] = data[row][:middle] + bytes(40) + data[row][middle + 40 :]
    return data[row]


@pytest.mark.parametrize("decoder", ["turbojpeg", "dali"])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_replacement_does_not_depend_on_the_company(world_size, decoder):
    data = damaged(5, 14)
    data[1], data[9] = corrupted(1), corrupted(9)
    shards, config = shards_of(data), replace(CONFIG, decoder=decoder)
    shares = [
        collected(views(shards, config=config, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    for step, whole in enumerate(collected(views(shards, config=config))):
        ids = np.stack([share[step].sample_ids for share in shares], axis=1).ravel()
        assert np.array_equal(ids, whole.sample_ids)
        for rank, share in enumerate(shares):
            assert torch.equal(share[step].large, whole.large[:, rank::world_size])


def test_a_damaged_mask_is_a_bad_sample():
    shards = shards_of()
    good = shards.read

    def read(ids):
        encoded = good(ids)
        spoilt = [
            memoryview(b"?" * 9) if i == 3 else m for i, m in zip(ids, encoded.masks, strict=True)
        ]
        return replace(encoded, masks=tuple(spoilt))

    shards.read = read
    loader = views(shards, steps=3)
    shown = np.concatenate([batch.sample_ids for batch in collected(loader)])
    assert sorted(shown) == sorted([4 if i == 3 else i for i in range(24)])
    assert "its mask cannot be decoded" in loader.bad_samples[0]


def test_steps_before_a_bad_one_are_still_served():
    config = replace(CONFIG, max_bad=0)
    clean = collected(views(steps=3))
    last = int(clean[2].sample_ids[0])
    with views(shards_of(damaged(last)), config=config, steps=3) as loader:
        served = iter(loader)
        assert_same([next(served), next(served)], clean[:2])
        with pytest.raises(TooManyBadSamples):
            next(served)


@pytest.mark.parametrize("world_size", [1, 2])
def test_replacement_does_not_depend_on_world_size(world_size):
    shards = shards_of(damaged(5))
    shares = [collected(views(shards, rank=r, world_size=world_size)) for r in range(world_size)]
    for step, whole in enumerate(collected(views(shards))):
        ids = np.stack([share[step].sample_ids for share in shares], axis=1).ravel()
        assert np.array_equal(ids, whole.sample_ids)


def test_above_the_budget_the_run_stops_with_the_list():
    config = replace(CONFIG, max_bad=2)
    with (
        views(shards_of(damaged(1, 5, 6, 11)), config=config) as loader,
        pytest.raises(TooManyBadSamples, match=r"max_bad=2.*sample \d+ \("),
    ):
        list(loader)


def test_a_picture_of_another_size_than_the_index_says_is_bad():
    data = jpegs()
    data[4] = simplejpeg.encode_jpeg(textured_image(9, 9))
    loader = views(shards_of(data), steps=3)
    collected(loader)
    assert "is 9x9, the index says" in loader.bad_samples[0]


@pytest.mark.parametrize("stage", ["decode", "augment"])
def test_an_exception_in_a_thread_reaches_the_caller(stage, monkeypatch):
    def fail(*_, **__):
        raise KeyError("the planted fault")

    if stage == "decode":
        shards = shards_of()
        monkeypatch.setattr(type(shards), "read", fail)
        loader = views(shards)
    else:
        monkeypatch.setattr("pipeline.augment.reference.apply_view", fail)
        loader = views(config=replace(CONFIG, executor="reference"))
    message = f"stage '{stage}' failed at step 0: KeyError: 'the planted fault'"
    with loader, pytest.raises(RuntimeError, match=message):
        list(loader)


def loader_threads():
    names = ("decoding", "augmenting", "decode", "views")
    return [t for t in threading.enumerate() if t.name.startswith(names)]


def test_early_breaks_leave_no_thread():
    before = len(loader_threads())
    shards = shards_of()
    for _ in range(20):
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
