"""Configurations of a step that is over in no time, and work for processes of their own."""

import numpy as np
import torch

from bench.step.memory import peak_on_cpu
from training.allocator import keep_freed_memory
from training.config import apply_settings
from training.presets import demo

CPU = torch.device("cpu")
SETTINGS = (
    "global_batch_size=8",
    "recipe.num_large=2",
    "recipe.num_small=1",
    "recipe.large_size=32",
    "recipe.small_size=16",
    "model.hidden_size=16",
    "model.embedding_size=8",
    "model.encoder.width=0.125",
    "loss.num_negatives=3",
)
MEGABYTE = 1 << 20


def tiny(*settings):
    return apply_settings(demo(), (*SETTINGS, *settings))


def words(*settings):
    """The same for the command line."""
    given = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    return ["--preset", "demo", *given]


def peak_of_an_allocation(megabytes, freed_before=0):
    """Peak of work that touches so much memory, in a process that has freed some before."""
    keep_freed_memory()
    _touch(freed_before)
    return peak_on_cpu(lambda: _touch(megabytes))


def _touch(megabytes):
    """In blocks that come from the heap, which keeps them."""
    held = [np.ones(MEGABYTE // 8) for _ in range(megabytes)]
    del held


def fail():
    raise ValueError("planted")
