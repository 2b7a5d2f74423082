"""Order and negatives: permutations, world sizes, uniformity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.order import OrderConfig, epoch_order
from pipeline.rng import Stream
from pipeline.sampler import Sampler, make_sampler, sample_negatives
from tests.support import scalar_philox


@given(num_samples=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 9))
def test_every_epoch_is_a_permutation(num_samples, seed, epoch):
    order = epoch_order(num_samples=num_samples, seed=seed, epoch=epoch)
    assert sorted(order) == list(range(num_samples))


def test_the_order_is_the_tickets_sorted():
    order = epoch_order(num_samples=50, seed=3, epoch=2)
    tickets = []
    for sample in range(50):
        high, low = scalar_philox((0, 0, sample, 2), (3, int(Stream.ORDER)))[:2]
        tickets.append((high << 32) | low)
    assert list(order) == sorted(range(50), key=tickets.__getitem__)


@given(
    num_samples=st.integers(8, 200),
    batch=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 1000),
)
def test_an_epoch_shows_no_sample_twice(num_samples, batch, seed):
    sampler = Sampler(num_samples=num_samples, global_batch_size=batch, seed=seed)
    steps = sampler.steps_per_epoch
    shown = np.concatenate([sampler.batch(step)[1] for step in range(steps)])
    assert len(set(shown.tolist())) == len(shown) == steps * batch
    assert sampler.batch(steps)[0] == 1
    assert [sampler.batch(step)[0] for step in range(steps)] == [0] * steps


def windowed(num_samples, batch, *, seed=0, window=4000, block=500):
    """A windowed sampler of samples of 100 bytes, settings in bytes."""
    order = OrderConfig(window_gigabytes=window / 1e9, block_megabytes=block / 1e6)
    sizes = np.full(num_samples, 100)
    return make_sampler(sizes, global_batch_size=batch, seed=seed, order=order)


@given(
    num_samples=st.integers(41, 200),
    batch=st.sampled_from([1, 4, 8, 20]),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 5),
)
def test_a_windowed_epoch_shows_no_sample_twice(num_samples, batch, seed, epoch):
    sampler = windowed(num_samples, batch, seed=seed)
    steps = sampler.steps_per_epoch
    assert steps == num_samples // batch
    batches = [sampler.batch(epoch * steps + step) for step in range(steps)]
    assert [found for found, _ in batches] == [epoch] * steps
    shown = np.concatenate([ids for _, ids in batches])
    assert len(set(shown.tolist())) == len(shown) == steps * batch


def test_a_step_is_the_same_for_whoever_starts_there():
    first = [windowed(100, 8).batch(step)[1].tolist() for step in range(40)]
    later = windowed(100, 8)
    assert [later.batch(step)[1].tolist() for step in reversed(range(40))] == first[::-1]


def test_epochs_and_seeds_differ():
    orders = [
        epoch_order(num_samples=100, seed=seed, epoch=epoch).tolist()
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 9


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(num_samples=21, global_batch_size=8, seed=5),
        windowed(21, 8, seed=5, window=1700, block=300),
    ],
    ids=["shuffled", "windowed"],
)
def test_what_is_left_over_in_an_epoch_differs_from_epoch_to_epoch(sampler):
    left_over = []
    for epoch in range(8):
        shown = [sampler.batch(epoch * 2 + step)[1] for step in range(2)]
        left_over.append(set(range(21)) - set(np.concatenate(shown).tolist()))
    assert all(len(left) == 5 for left in left_over)
    assert len({frozenset(left) for left in left_over}) == 8


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="10 samples do not fill one global batch of 16"):
        Sampler(num_samples=10, global_batch_size=16, seed=0)


def test_a_window_of_less_than_two_batches_is_refused():
    message = "window_gigabytes=4e-06 holds about 40 samples, less than two global batches of 21"
    with pytest.raises(ValueError, match=message):
        windowed(100, 21)


def test_a_window_over_other_samples_is_refused():
    window = windowed(100, 8).window
    with pytest.raises(ValueError, match="a window over 100 samples for 99 samples"):
        Sampler(num_samples=99, global_batch_size=8, seed=0, window=window)


def negatives(positions, num_candidates, n, ids=None, epoch=0, seed=1):
    positions = np.asarray(positions)
    return sample_negatives(
        seed=seed,
        epoch=epoch,
        sample_ids=positions + 1000 if ids is None else np.asarray(ids),
        positions=positions,
        num_candidates=num_candidates,
        num_negatives=n,
        num_online=3,
        num_target=2,
    )


@settings(max_examples=50)
@given(num_candidates=st.integers(2, 40), data=st.data())
def test_negatives_are_distinct_others(num_candidates, data):
    n = data.draw(st.integers(1, num_candidates - 1))
    drawn = negatives(np.arange(num_candidates), num_candidates, n)
    assert drawn.shape == (3, 2, num_candidates, n)
    assert drawn.min() >= 0
    assert drawn.max() < num_candidates
    for anchor in range(num_candidates):
        for row in drawn[:, :, anchor].reshape(-1, n):
            assert len(set(row.tolist())) == n
            assert anchor not in row


def test_negatives_are_uniform_over_the_others():
    drawn = np.concatenate(
        [negatives([3], 8, 3, ids=[i], epoch=e).ravel() for i in range(300) for e in range(3)]
    )
    counts = np.bincount(drawn, minlength=8)
    assert counts[3] == 0
    others = np.delete(counts, 3)
    expected = len(drawn) / 7
    assert ((others - expected) ** 2 / expected).sum() < 28  # 6 degrees of freedom: p = 1e-4


def test_negatives_of_an_anchor_do_not_depend_on_the_rank_that_draws_them():
    whole = negatives(np.arange(16), 16, 5)
    for rank in range(4):
        share = negatives(np.arange(16)[rank::4], 16, 5)
        assert np.array_equal(share, whole[:, :, rank::4])


def test_too_many_negatives_name_the_settings():
    with pytest.raises(ValueError, match="num_negatives=8 needs a batch of at least 9, got 8"):
        negatives(np.arange(8), 8, 8)
