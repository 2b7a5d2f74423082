"""Who decodes: decided by rank 0 before the first step, the same on every rank and after a restart.

Decoders on a GPU differ from those on a CPU by a level or two, so what was decided is part of the
run: it stands in config.json, and a run that goes on takes it from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.distributed import from_main
from pipeline.loader import LoaderConfig
from pipeline.shards import Shards
from training.config import DECIDED_AT_START, TrainConfig
from training.launch import World
from training.runlog import recorded


def settle_decoding(
    config: TrainConfig, shards: Shards, out: Path, world: World, tell: Callable[[str], object]
) -> TrainConfig:
    """Return the config with the decoder and its shares decided; called on every rank.

    `tell` gets a line or two, on rank 0, where a GPU is to decode.

    Raises:
        ValueError: they cannot decode here; on every rank alike.
    """
    settled = from_main(lambda: _settled(config.loader, shards, out, world, tell))
    return replace(config, loader=settled)


def _settled(
    loader: LoaderConfig, shards: Shards, out: Path, world: World, tell: Callable[[str], object]
) -> LoaderConfig:
    if any(out.glob("checkpoint-*.pt")):
        loader = _as_recorded(loader, out)
        if loader.decoder == "auto":  # one on the CPU, and so it remains: they are equal to the bit
            return loader
    return loader.settled(shards, device=world.device, tell=tell)


def _as_recorded(loader: LoaderConfig, out: Path) -> LoaderConfig:
    """What is left to `auto`, as the run in `out` was started with it."""
    before = recorded(out)[0].loader
    names = [path.removeprefix("loader.") for path in DECIDED_AT_START if "." in path]
    kept: dict[str, Any] = {
        name: getattr(before, name) for name in names if getattr(loader, name) == "auto"
    }
    return replace(loader, **kept)
