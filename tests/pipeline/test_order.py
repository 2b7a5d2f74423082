"""The orders of an epoch: known answers, permutations, what a window holds, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import (
    OrderConfig,
    Window,
    cut_blocks,
    epoch_order,
    make_window,
    windowed_epoch,
)
from pipeline.rng import Stream
from pipeline.sampler import make_sampler
from tests.support import scalar_philox

SIZES = [700, 300, 900, 100, 500, 400, 600, 800, 200, 1000, 300, 700]


def config(window, block):
    """Settings in bytes."""
    return OrderConfig(window_gigabytes=window / 1e9, block_megabytes=block / 1e6)


def windowed(sizes, window, block, *, seed=0, epoch=0):
    made = make_window(np.asarray(sizes), config(window, block))
    return windowed_epoch(made, seed=seed, epoch=epoch).order


@st.composite
def windows(draw):
    """Sizes of samples, and a window over them that holds two blocks, but not all."""
    sizes = np.array(draw(st.lists(st.integers(1, 3000), min_size=10, max_size=120)))
    block = draw(st.integers(1, 4000))
    smallest = 2 * int(cut_blocks(sizes, block).num_bytes.max())
    if smallest >= sizes.sum():  # one sample is as large as half of the rest: halve it
        sizes, block, smallest = np.full(20, 100), 150, 400
    return Window(
        blocks=cut_blocks(sizes, block),
        num_bytes=draw(st.integers(smallest, int(sizes.sum()))),
    )


def ticket(sample, seed, epoch, stream):
    high, low = scalar_philox((0, 0, sample, epoch), (seed, int(stream)))[:2]
    return (high << 32) | low


def by_the_book(sizes, window, block, *, seed, epoch):
    """The windowed order in plain words."""
    blocks = {}
    begin = 0
    for sample, size in enumerate(sizes):
        blocks.setdefault(begin // block, []).append(sample)
        begin += size
    members = list(blocks.values())
    weights = [sum(sizes[i] for i in ids) for ids in members]
    reach = window - max(weights)
    keys, at = {}, 0
    for k in sorted(range(len(members)), key=lambda k: ticket(k, seed, epoch, Stream.BLOCKS)):
        for i in members[k]:
            fraction = (ticket(i, seed, epoch, Stream.ORDER) >> 11) / 2**53
            keys[i] = at + fraction * reach
        at += weights[k]
    return sorted(keys, key=keys.__getitem__)


def test_orders_never_change_silently():
    shuffled = epoch_order(num_samples=12, seed=7, epoch=3)
    assert shuffled.tolist() == [2, 9, 8, 4, 7, 0, 3, 1, 6, 10, 11, 5]
    known = {
        3: [7, 2, 9, 10, 11, 8, 3, 0, 1, 4, 6, 5],
        4: [1, 11, 5, 0, 2, 10, 8, 6, 9, 3, 7, 4],
    }
    for epoch, order in known.items():
        assert windowed(SIZES, 5000, 1000, seed=7, epoch=epoch).tolist() == order


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 99), block=st.integers(1, 2500))
def test_the_windowed_order_is_the_keys_sorted(seed, epoch, block):
    expected = by_the_book(SIZES, 6000, block, seed=seed, epoch=epoch)
    assert windowed(SIZES, 6000, block, seed=seed, epoch=epoch).tolist() == expected


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=100),
    block=st.integers(1, 5000),
)
def test_blocks_are_runs_of_neighbours_and_hardly_larger_than_asked(sizes, block):
    blocks = cut_blocks(np.array(sizes), block)
    runs = [blocks.ids(k).tolist() for k in range(len(blocks.first_ids))]
    assert [i for run in runs for i in run] == list(range(len(sizes)))
    assert blocks.num_bytes.tolist() == [sum(sizes[i] for i in run) for run in runs]
    assert [k for k, run in enumerate(runs) for _ in run] == blocks.block_of.tolist()
    for run in runs:
        assert sum(sizes[i] for i in run[:-1]) < block
    begins = np.cumsum(sizes) - sizes
    assert [begins[run[0]] // block for run in runs] == sorted({b // block for b in begins})


@given(window=windows(), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 9))
def test_every_windowed_epoch_is_a_permutation_and_the_same_again(window, seed, epoch):
    made = windowed_epoch(window, seed=seed, epoch=epoch)
    assert sorted(made.order) == list(range(window.num_samples))
    assert made.places[made.order].tolist() == list(range(window.num_samples))
    again = Window(blocks=window.blocks, num_bytes=window.num_bytes)
    assert np.array_equal(windowed_epoch(again, seed=seed, epoch=epoch).order, made.order)


@given(window=windows(), seed=st.integers(0, 1000))
def test_what_is_open_at_any_moment_fits_into_the_window(window, seed):
    made = windowed_epoch(window, seed=seed, epoch=0)
    blocks = window.blocks
    block_at = blocks.block_of[made.order]
    for place in range(window.num_samples):
        is_open = np.intersect1d(block_at[: place + 1], block_at[place:])
        assert blocks.num_bytes[is_open].sum() <= window.num_bytes


@given(window=windows())
def test_the_plan_of_an_epoch_says_where_its_blocks_are(window):
    made = windowed_epoch(window, seed=3, epoch=1)
    blocks = window.blocks
    assert sorted(made.line) == list(range(len(blocks.first_ids)))
    ends = made.begins + blocks.num_bytes[made.line]
    assert made.begins.tolist() == [0, *ends[:-1]]
    assert ends[-1] == window.total_bytes
    for block, first in zip(made.line, made.first_places, strict=True):
        assert made.places[blocks.ids(int(block))].min() == first


def test_epochs_and_seeds_differ_in_windowed_order_too():
    orders = [
        tuple(windowed([100] * 60, 2000, 300, seed=seed, epoch=epoch).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9


@pytest.mark.parametrize("window", [0, sum(SIZES), 10**9])
def test_no_window_or_one_that_holds_all_is_the_true_shuffle(window):
    order = config(window, 1500)
    sampler = make_sampler(np.array(SIZES), global_batch_size=4, seed=5, order=order)
    shown = np.concatenate([sampler.batch(step)[1] for step in range(6)])
    expected = [epoch_order(num_samples=12, seed=5, epoch=epoch) for epoch in (0, 1)]
    assert np.array_equal(shown, np.concatenate(expected))


def test_an_order_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        windowed(SIZES, 6000, 500)[0] = 3
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(num_samples=9, seed=0, epoch=0)[0] = 3


def test_neighbours_meet_about_as_often_as_a_window_goes_into_the_data():
    """Of 40,000 equal samples, with a window of a tenth: 10 times as often as by chance."""
    order = windowed([100] * 40_000, 400_000, 4000, seed=1)
    batch_of = np.empty(40_000, np.int64)
    batch_of[order] = np.arange(40_000) // 200
    in_a_block = np.arange(40_000 - 1) % 40 != 39  # neighbours of one block
    met = (batch_of[1:] == batch_of[:-1])[in_a_block].mean()
    assert 9 < met / (199 / 39_999) < 12
    far = (batch_of[20_000:] == batch_of[:-20_000]).mean()  # of other blocks: as by chance
    assert 0.7 < far / (199 / 39_999) < 1.3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_gigabytes": -1.0}, "order.window_gigabytes must not be negative, got -1.0"),
        ({"window_gigabytes": float("nan")}, "must not be negative, got nan"),
        ({"window_gigabytes": float("inf")}, "must not be negative, got inf"),
        ({"block_megabytes": 0.0}, "order.block_megabytes must be above zero, got 0.0"),
        ({"block_megabytes": -8.0}, "must be above zero, got -8.0"),
    ],
)
def test_senseless_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OrderConfig(**fields)


@pytest.mark.parametrize("sizes", [[3000] + [100] * 60, [100] * 90])
def test_a_window_that_holds_no_two_blocks_is_refused(sizes):
    message = r"gigabytes=5e-06 holds no two blocks: the largest has 0\.003 MB; raise it, lower"
    with pytest.raises(ValueError, match=message):
        make_window(np.array(sizes), config(5000, 3000))
