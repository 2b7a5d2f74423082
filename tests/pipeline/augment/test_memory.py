"""Executors hold what they need from their first batches on, and no more."""

import gc
from dataclasses import replace

import psutil
import pytest

from pipeline.augment import make_executor
from pipeline.augment.recipe import SMALL, MultiCropRecipe
from tests.pipeline.augment.test_executors_agree import batch_of, drawn

BUSY = replace(SMALL, mask_probability=0.5, blur_probability=0.5)
TINY = MultiCropRecipe(
    num_large=2, num_small=1, large_size=32, small_size=16, large_even=BUSY, large_odd=BUSY,
    mask_fill="other-image",
)  # fmt: skip


def resident_megabytes():
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize("threads", [1, 2])
def test_the_compiled_executor_does_not_grow_over_2000_batches(threads):
    executor = make_executor("compiled", TINY, threads=threads)
    batches = [batch_of([(40, 50), (60, 30), (200, 300), (9, 9)]), batch_of([(97, 61), (3, 77)])]
    for number in range(2500):
        if number == 500:  # pools of the allocator and of numba have been filled
            before = resident_megabytes()
        decoded = batches[number % 2]
        views = executor(decoded, drawn(TINY, decoded, epoch=number))
    # half a kilobyte lost in each batch would show
    assert resident_megabytes() - before < 1
    assert views.large.isfinite().all()
    executor.close()


def test_small_views_never_take_the_memory_of_large_ones():
    # If they did, large views would need new memory, and up to twice of what is lent would be held.
    executor = make_executor("compiled", TINY)
    decoded = batch_of([(40, 50), (60, 30)])
    params = drawn(TINY, decoded)
    first, second = (executor(decoded, params) for _ in range(2))
    large = {views.large.data_ptr() for views in (first, second)}
    kept = first.small, second.small
    del first, second  # only large ones come back
    views = executor(decoded, params)
    assert views.large.data_ptr() in large
    assert views.small.data_ptr() not in large
    del kept
    executor.close()
