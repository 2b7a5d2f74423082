"""Cores set apart: on a CPU model and pipeline need the same device, so each gets cores of its own.

A step that shares its cores with the loader is slower by what the loader takes; that says how many
cores there are, not whether the loader keeps up. With cores apart, for FULL and SYNTHETIC alike,
what is left between the two is waiting and the memory that they share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from training.launch import World

_LOADER_SHARE = 4  # one core in four for the pipeline, at least one


@dataclass(frozen=True, kw_only=True, slots=True)
class Cores:
    """Where the threads of one process run."""

    model: frozenset[int]
    loader: frozenset[int]
    note: str


def divide(world: World) -> Cores:
    """Divide the cores that this process keeps to between model and loader.

    On a GPU, or with one core for the process, both have all of it.
    """
    available = sorted(os.sched_getaffinity(0))
    if world.device.type == "cuda":
        everywhere = frozenset(available)
        return Cores(model=everywhere, loader=everywhere, note="the loader on the host's cores")
    if len(available) < 2:
        note = "model and loader share one core: FULL pays for the pipeline's work in full"
        return Cores(model=frozenset(available), loader=frozenset(available), note=note)
    count = max(1, len(available) // _LOADER_SHARE)
    model, loader = available[:-count], available[-count:]
    note = f"cores set apart: {len(model)} for the model, {len(loader)} for the loader"
    return Cores(model=frozenset(model), loader=frozenset(loader), note=note)


@contextmanager
def model_cores(cores: Cores, world: World) -> Iterator[None]:
    """Keep this thread and torch's on the model's cores; on a GPU nothing changes."""
    if world.device.type == "cuda":
        yield
        return
    threads = torch.get_num_threads()
    try:
        with pinned_to(cores.model):
            torch.set_num_threads(len(cores.model))
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def pinned_to(cores: frozenset[int]) -> Iterator[None]:
    """Keep this thread on these cores, and those that it starts meanwhile for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
