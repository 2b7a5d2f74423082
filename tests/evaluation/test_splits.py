import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.splits import held_out_size, split_held_out
from pipeline.rng import Stream, random_words


@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=80), st.data())
def test_every_sample_is_on_one_side(ids: set[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(ids) - 1))
    kept, held_out = split_held_out(np.array(sorted(ids), dtype=np.int64), size=size, seed=3)
    assert len(held_out) == size
    assert set(kept) | set(held_out) == ids
    assert not set(kept) & set(held_out)


def test_choice_follows_the_seed_and_not_the_order() -> None:
    ids = np.arange(500, dtype=np.int64)
    _, first = split_held_out(ids, size=50, seed=1)
    _, shuffled = split_held_out(ids[::-1].copy(), size=50, seed=1)
    _, other = split_held_out(ids, size=50, seed=2)
    assert np.array_equal(first, shuffled)
    assert not np.array_equal(first, other)
    assert 150 < first.mean() < 350  # spread over the data set, not a block of it


def test_split_shares_no_random_numbers_with_the_crops_of_the_same_seed() -> None:
    ids = np.arange(400, dtype=np.int64)
    _, held_out = split_held_out(ids, size=40, seed=0)
    for stream in set(Stream) - {Stream.HELD_OUT}:
        words = random_words(
            seed=0, stream=stream, epoch=0, sample_ids=ids, num_views=1, num_draws=1
        )
        smallest = np.sort(np.argsort(words[:, 0, 0], kind="stable")[:40])
        assert (
            len(np.intersect1d(smallest, held_out)) < 15
        )  # 4 are expected by chance, 40 if shared


def test_imagenet_gives_ten_thousand_and_small_sets_a_tenth() -> None:
    assert held_out_size(1_281_167, share=0.1, limit=10_000) == 10_000
    assert held_out_size(400, share=0.1, limit=10_000) == 40
    assert held_out_size(3, share=0.1, limit=10_000) == 1
    with pytest.raises(ValueError, match="1 labelled samples are too few"):
        held_out_size(1, share=0.1, limit=10_000)
