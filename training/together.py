"""What all processes of a run must see alike, asked on rank 0 or compared among all.

Every function is called on every rank. A refusal is raised on all of them: nobody waits for one
that has left.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from training.launch import World

Value = TypeVar("Value")

# NFS shows other machines a new file late: they look at a folder again after up to a minute.
_PAUSES = (0.0, 5.0, 20.0, 45.0)  # seconds


def from_main(world: World, make: Callable[[], Value]) -> Value:
    """Return, on every rank, what `make` returns on rank 0.

    Raises:
        ValueError: `make` raised it, or an OSError, on rank 0; on every rank alike.
    """
    if world.size == 1:
        return make()
    made: list[Value | None] = [None]
    refusal: list[str | None] = [None]
    if world.is_main:
        try:
            made = [make()]
        except (ValueError, OSError) as error:
            refusal = [str(error)]
    both = [*made, *refusal]
    dist.broadcast_object_list(both, src=0)
    if both[1] is not None:
        raise ValueError(both[1])
    return both[0]  # type: ignore[return-value]


def resume_together(
    resume: Callable[[], int], out: Path, world: World, *, pauses: Sequence[float] = _PAUSES
) -> int:
    """Call `resume` on every rank until all come to the same step, and return it.

    Args:
        resume: loads the newest checkpoint of `out`, and returns its step or 0.
        pauses: seconds to wait before each try.

    Raises:
        ValueError: the ranks see different checkpoints, or cannot read them.
    """
    if world.size == 1:
        return resume()
    every: list[tuple[str, int | str]] = []
    for pause in pauses:
        time.sleep(pause)
        every = [(socket.gethostname(), _tried(resume))] * world.size
        dist.all_gather_object(every, every[world.rank])
        found = {step for _, step in every}
        if len(found) == 1:
            break
    (step, *others) = found
    if not others and isinstance(step, int):
        return step
    if not others:
        raise ValueError(step)
    raise ValueError(
        f"the processes do not see the same checkpoints in {out}: {_by_host(every)}; --out must "
        "be a folder that all machines share"
    )


def _tried(resume: Callable[[], int]) -> int | str:
    try:
        return resume()
    except (ValueError, OSError) as error:
        return str(error)


def _by_host(every: list[tuple[str, int | str]]) -> str:
    """What each host's ranks have found: "step 4 on a (ranks 0-7), none on b (ranks 8-15)"."""
    parts, rank = [], 0
    for (host, found), group in groupby(every):
        count = len(list(group))
        ranks = f"rank {rank}" if count == 1 else f"ranks {rank}-{rank + count - 1}"
        what = (f"step {found}" if found else "none") if isinstance(found, int) else found
        parts.append(f"{what} on {host} ({ranks})")
        rank += count
    return ", ".join(parts)
