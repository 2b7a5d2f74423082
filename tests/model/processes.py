"""Runs a function in several gloo processes of this machine and collects what they return."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before a group exists: see training/launch.py
import torch.multiprocessing as mp


def run_in_processes(
    function: Callable[[int, int], Any], *, folder: Path, size: int = 2
) -> list[Any]:
    """Return [function(rank, size) of each rank]; it must be importable by name.

    Results travel as files in `folder`, tensors and plain values only.
    """
    mp.spawn(_one, (size, function, str(folder)), nprocs=size)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(size)]


def _one(rank: int, size: int, function: Callable[[int, int], Any], folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the machine's own name resolves to
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(function(rank, size), Path(folder) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
