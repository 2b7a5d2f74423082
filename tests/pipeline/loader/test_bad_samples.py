"""Samples that cannot be decoded: named, counted, replaced by a rule that knows no ranks."""

from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch

from pipeline.loader.decode import BadSamples, TooManyBadSamples
from tests.pipeline.loader.loader_support import (
    CONFIG,
    assert_same,
    collected,
    jpegs,
    shards_of,
    views,
)
from tests.support import textured_image


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

    def read(ids, *others):
        encoded = good(ids, *others)
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


@pytest.mark.parametrize("wrong_size", [False, True])
def test_a_subsampling_without_a_name_is_decoded(monkeypatch, wrong_size):
    """simplejpeg knows no name for 4:4:1, and raises KeyError, but decodes it."""
    data = jpegs()
    if wrong_size:
        data[4] = simplejpeg.encode_jpeg(textured_image(9, 9))
    expected = collected(views(shards_of(data), steps=3))

    def nameless(_):
        raise KeyError(6)

    monkeypatch.setattr(simplejpeg, "decode_jpeg_header", nameless)
    loader = views(shards_of(data), steps=3)
    assert_same(collected(loader), expected)
    assert len(loader.bad_samples) == wrong_size


def test_a_sample_that_turns_out_bad_while_others_are_described_is_no_error():
    class Names:
        def key(self, sample_id):
            bad.add(sample_id + 100, "as another thread would")
            return f"{sample_id}.jpg"

    bad = BadSamples(Names(), budget=9)
    bad.add(1, "cut short")
    bad.add(2, "cut short")
    assert bad.described() == {1: "1.jpg: cut short", 2: "2.jpg: cut short"}
    assert len(bad) == 4
