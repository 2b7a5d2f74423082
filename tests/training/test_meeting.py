"""Processes of an attempt find each other in a store that is full of those before."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from training.meeting import store_of_attempt


def meet(store, size, *, ranks=None):
    """What each rank's part of the store says that rank 0 has written there."""

    def one(rank):
        part = store_of_attempt(store, rank=rank, size=size)
        part.set(f"from {rank}", str(rank))
        return part, part.get("from 0").decode()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, ranks or range(size)))


@pytest.mark.parametrize("sizes", [(1, 1), (2, 2, 2), (4, 2, 4, 8)])
def test_each_attempt_has_an_empty_store_that_its_processes_share(sizes):
    store = dist.HashStore()
    for size in sizes:
        parts = meet(store, size)
        assert [said for _, said in parts] == ["0"] * size
        assert all(part.get(f"from {size - 1}") for part, _ in parts)
        assert not any(part.check(["later"]) for part, _ in parts)
        parts[0][0].set("later", "seen by no attempt after this one")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_an_attempt_that_lost_a_process_before_it_met_does_not_mislead_the_next(lost):
    store = dist.HashStore()
    meet(store, 3)
    store.set_timeout(timedelta(seconds=0.3))
    with pytest.raises(dist.DistStoreError):
        meet(store, 3, ranks=[rank for rank in range(3) if rank != lost])
    store.set_timeout(timedelta(seconds=20))
    assert [said for _, said in meet(store, 3)] == ["0"] * 3
