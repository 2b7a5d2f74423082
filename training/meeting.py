"""A store of its own for each attempt of torchrun, agreed on by the processes of that attempt.

torchrun's agents keep one store for all attempts, and in it lie the addresses of processes that are
gone: whoever reads them waits for the dead. Its count of restarts does not tell attempts apart: it
stays the same when a machine joins, and each machine has its own.
"""

from __future__ import annotations

import json
import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store

_PAUSE = 0.05  # seconds between two looks


def store_of_attempt(store: Store, *, rank: int, size: int, seconds: float) -> Store:
    """Return a part of `store` that none but the `size` processes of this attempt have seen.

    Each process writes a name that is new. Rank 0 proposes the list of names that it has read, and
    again when one was left by a process that is gone; a process agrees to a list with its own name.

    Raises:
        TimeoutError: somebody has not come within `seconds`.
    """
    deadline = time.monotonic() + seconds
    name = uuid.uuid4().hex
    store.set(f"meeting/name/{rank}", name)
    while True:
        if rank == 0:
            _propose(store, size)
        if found := _list_with(store, rank, name):
            store.set(f"meeting/{found}/{rank}", "here")
            if _all_agree(store, found, size):
                return PrefixStore(f"attempt/{found}", store)
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"not all of {size} processes have met within {seconds:g} s (patience_seconds)"
            )
        time.sleep(_PAUSE)


def _propose(store: Store, size: int) -> None:
    keys = [f"meeting/name/{rank}" for rank in range(size)]
    if store.check(keys):
        store.set("meeting/list", json.dumps([store.get(key).decode() for key in keys]))


def _list_with(store: Store, rank: int, name: str) -> str | None:
    """A key for the proposed list, if this process's name is in its place."""
    if not store.check(["meeting/list"]):
        return None
    names = json.loads(store.get("meeting/list"))
    return (
        uuid.uuid5(uuid.NAMESPACE_OID, " ".join(names)).hex if names[rank:][:1] == [name] else None
    )


def _all_agree(store: Store, found: str, size: int) -> bool:
    return bool(store.check([f"meeting/{found}/{rank}" for rank in range(size)]))
