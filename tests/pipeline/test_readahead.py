"""What is asked for ahead: all that will be read, once, in time, evenly, by whoever reads it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import OrderConfig
from pipeline.readahead import Share, upcoming
from pipeline.sampler import make_sampler


def sampler_of(sizes, batch, *, window=0, block=1000, seed=0):
    order = OrderConfig(window_gigabytes=window / 1e9, block_megabytes=block / 1e6)
    return make_sampler(np.asarray(sizes), global_batch_size=batch, seed=seed, order=order)


@st.composite
def readers(draw):
    """A sampler in either order, the steps that are read, and how far ahead."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    sizes = rng.integers(50, 150, draw(st.integers(60, 300)))
    if draw(st.booleans()):  # small and large samples in stretches: as many bytes are fewer samples
        sizes[np.arange(len(sizes)) // 20 % 2 == 0] = 10
    window = draw(st.sampled_from([0, 3000, 5000]))
    batch = draw(st.sampled_from([4, 8, 12]))
    sampler = sampler_of(sizes, batch, window=window, block=draw(st.sampled_from([150, 600, 1200])))
    start = draw(st.integers(0, 2 * sampler.steps_per_epoch))
    length = draw(st.integers(1, 2 * sampler.steps_per_epoch))
    return sampler, range(start, start + length), draw(st.integers(0, 6))


def steps_by_sample(batches, steps):
    """{sample id: the steps whose batch holds it, ascending}."""
    found = {}
    for step, ids in zip(steps, batches, strict=True):
        for sample_id in ids.tolist():
            found.setdefault(sample_id, []).append(step)
    return found


@given(reader=readers())
def test_all_that_is_read_is_named_once_and_in_time(reader):
    sampler, steps, ahead = reader
    named = steps_by_sample(
        [upcoming(sampler, step, steps=steps, ahead=ahead) for step in steps], steps
    )
    read = steps_by_sample([sampler.batch(step)[1] for step in steps], steps)
    assert set(read) <= set(named)
    for sample_id, uses in read.items():
        pairs = zip(named[sample_id], uses, strict=False)
        assert all(early <= max(use - ahead, steps.start) for early, use in pairs)
        assert len(named[sample_id]) >= len(uses)
    begun = blocks_cut_by_the_end(sampler, steps)
    for sample_id, times in named.items():
        extra = len(times) - len(read.get(sample_id, []))
        assert extra == 0 or (extra == 1 and block_of(sampler, sample_id) in begun)


def block_of(sampler, sample_id):
    return None if sampler.window is None else int(sampler.window.blocks.block_of[sample_id])


def blocks_cut_by_the_end(sampler, steps):
    """Blocks with samples on both sides of the last step, in its epoch."""
    size = sampler.steps_per_epoch
    first = (steps.stop - 1) // size * size
    sides = [range(max(first, steps.start), steps.stop), range(steps.stop, first + size)]
    before, after = (
        {block_of(sampler, i) for step in side for i in sampler.batch(step)[1].tolist()}
        for side in sides
    )
    return (before & after) - {None}


@given(reader=readers(), world=st.sampled_from([(2, 1), (2, 2), (4, 2), (4, 4)]))
def test_processes_divide_the_naming_and_each_machine_names_what_it_reads(reader, world):
    sampler, steps, ahead = reader
    world_size, local_size = world
    alone = [upcoming(sampler, step, steps=steps, ahead=ahead) for step in steps]
    shares = [
        Share(rank=rank, world_size=world_size, local_size=local_size) for rank in range(world_size)
    ]
    for step, whole in zip(steps, alone, strict=True):
        parts = [upcoming(sampler, step, steps=steps, ahead=ahead, share=part) for part in shares]
        assert sorted(np.concatenate(parts)) == sorted(whole)
    for machine in range(world_size // local_size):
        ranks = range(machine * local_size, (machine + 1) * local_size)
        named = {
            int(i)
            for rank in ranks
            for step in steps
            for i in upcoming(sampler, step, steps=steps, ahead=ahead, share=shares[rank])
        }
        read = {
            int(i)
            for rank in ranks
            for step in steps
            for i in sampler.batch(step)[1][rank::world_size]
        }
        assert read <= named


def test_a_shuffled_order_is_named_batch_by_batch():
    sampler = sampler_of([100] * 40, 8)
    steps = range(3, 9)
    named = [upcoming(sampler, step, steps=steps, ahead=2).tolist() for step in steps]
    batches = [sampler.batch(step)[1].tolist() for step in steps]
    assert named == [[*batches[0], *batches[1], *batches[2]], *batches[3:], [], []]


def test_blocks_are_named_whole():
    sampler = sampler_of([100] * 400, 8, window=8000, block=1000)
    steps = range(100)
    for step in steps:
        ids = upcoming(sampler, step, steps=steps, ahead=2)
        assert len(ids) % 10 == 0
        for run in ids.reshape(-1, 10):
            assert run.tolist() == list(range(run[0], run[0] + 10))
            assert run[0] % 10 == 0


@pytest.mark.parametrize("window", [40_000, 100_000, 150_000])
def test_the_disk_has_the_same_to_do_at_every_step_across_epochs(window):
    sampler = sampler_of([100] * 2000, 20, window=window, block=1000)
    size = sampler.steps_per_epoch
    steps = range(4 * size)
    loads = [100 * len(upcoming(sampler, s, steps=steps, ahead=3)) for s in steps]
    full = loads[size : 3 * size]  # the first window fills; after the last nothing follows
    assert max(full) <= 2000 + 2 * 1000  # a batch, and blocks are not cut
    for start in range(0, len(full) - 10):
        assert abs(sum(full[start : start + 10]) - 10 * 2000) <= 3000


@pytest.mark.parametrize("window", [40_000, 100_000, 150_000])
@pytest.mark.parametrize("ahead", [2, 8])
def test_a_cache_of_the_window_and_the_steps_ahead_loses_nothing_before_it_is_read(window, ahead):
    """A cache that forgets what it was given first, as a page cache does with what is read once."""
    sampler = sampler_of([100] * 2000, 20, window=window, block=1000)
    steps = range(3 * sampler.steps_per_epoch)
    given, held = 0, {}
    for step in steps:
        for sample_id in upcoming(sampler, step, steps=steps, ahead=ahead).tolist():
            held.setdefault(sample_id, []).append(given)
            given += 100
        ages = [given - held[sample_id].pop(0) for sample_id in sampler.batch(step)[1].tolist()]
        assert max(ages) <= window + (ahead + 4) * 2000


def test_after_a_resume_open_blocks_are_not_read_again():
    """Only their samples that are still to come are named; a whole window would be 100 blocks."""
    sampler = sampler_of([100] * 4000, 20, window=100_000, block=1000)
    steps = range(100, 400)
    first = upcoming(sampler, 100, steps=steps, ahead=2)
    still_to_come = {int(i) for s in range(100, 200) for i in sampler.batch(s)[1]}
    assert set(first.tolist()) <= still_to_come
    assert 60 <= len(first) <= 300


def test_an_epoch_that_is_read_to_its_end_is_named_without_its_rest():
    sampler = sampler_of([100] * 403, 20, window=10_000, block=1000)
    steps = range(sampler.steps_per_epoch)
    named = np.concatenate([upcoming(sampler, s, steps=steps, ahead=2) for s in steps])
    read = np.concatenate([sampler.batch(s)[1] for s in steps])
    assert sorted(named) == sorted(read)
