"""A store of its own for each attempt of torchrun.

torchrun's agents keep one store for all attempts, and in it lie the addresses of processes that are
gone: a process that reads one waits for the dead. TORCHELASTIC_RESTART_COUNT does not tell attempts
apart: each machine has its own, and it stays the same when a machine joins or leaves.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

_PAUSE = 0.05  # seconds between two looks


def store_of_attempt(store: Store, *, rank: int, size: int) -> Store:
    """Return a part of `store` that none but the `size` processes of this attempt have seen.

    Each process asks by a name that nobody had before, and rank 0 answers with the name of the
    attempt; also those that have gone, until all have said that they have read it.

    Raises:
        DistStoreError: one has not come within the store's timeout.
    """
    name = uuid.uuid4().hex
    if rank == 0:
        _gather(store, name, size)
        return PrefixStore(name, store)
    store.set(f"asking/{rank}", name)
    attempt = store.get(name).decode()
    store.set(f"{attempt}/{rank}", "here")
    return PrefixStore(attempt, store)


def _gather(store: Store, attempt: str, size: int) -> None:
    missing = list(range(1, size))
    patience: timedelta = store.timeout  # type: ignore[attr-defined]
    deadline = time.monotonic() + patience.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"rank {missing[0]} has not come")
        for rank in missing:
            if store.check([f"asking/{rank}"]):
                store.set(store.get(f"asking/{rank}").decode(), attempt)
        time.sleep(_PAUSE)
        missing = [rank for rank in missing if not store.check([f"{attempt}/{rank}"])]
