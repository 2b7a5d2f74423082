"""Rung `loader`: bytes on disk to the six views, by our loader and by what a user would pick else.

All see the same pictures, from a warm page cache, each in a process of its own with as many workers
as cores, timed while it runs (bench/streams.py). What the rung is asked and what it reports; the
rows are in loader_cpu and loader_cuda.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.augment import installed_version
from bench.environment import environment
from bench.harness import Built, Candidate, Measured, Unavailable, tell
from bench.isolated import Setup, isolated
from bench.material import Material, material
from bench.rows import row
from bench.stages import Task, require_decoder
from bench.streams import Stream, timed
from bench.training_rungs import loader_stream
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.devices import CPU
from pipeline.loader import LoaderConfig
from pipeline.shards import open_shards
from training.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderRequest:
    """What to measure."""

    device: str
    batch: int
    rounds: int
    threads: int  # workers of each row
    data: tuple[Path, ...] = ()  # shards of the same pictures, one of each format; empty: generated
    photos: Path | None = None  # folder of their JPEG files; None: written from the shards
    peers: bool = True
    only: tuple[str, ...] = ()  # names of rows; empty: all


def loader(request: LoaderRequest) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: no such device or row, unreadable shards, fewer samples than a batch.
    """
    recipe = MultiCropRecipe()
    with material(request.data, request.photos, recipe, batch=request.batch) as found:
        if request.device == "cuda":
            from bench.loader_cuda import loader_cuda

            return loader_cuda(request, recipe, found)
        from bench.loader_cpu import loader_cpu

        return loader_cpu(request, recipe, found)


def candidate(
    request: LoaderRequest,
    found: Material,
    name: str,
    what: str,
    open_stream: Callable[[], Stream],
    *,
    setup: Setup | None = None,
    version: str | None = None,
    peer: bool = False,
) -> Candidate:
    """A loader in a process of its own; a share is one batch, the mean of those timed."""
    one = Candidate(
        name=name,
        what=what,
        build=partial(build_stream, open_stream),
        images=request.batch,
        bytes_per_image=found.bytes_per_image,
        cores=request.threads,
        version=version,
        peer=peer,
    )
    return isolated(one, setup)


def our_stream(
    found: Material,
    format: str,
    recipe: MultiCropRecipe,
    request: LoaderRequest,
    *,
    device: torch.device = CPU,
    decoder: str = "auto",
) -> Stream:
    """The loader of train.py on shards of one format.

    Raises:
        Unavailable: there are no such shards, this decoder cannot run here, a package is missing.
    """
    shards = open_shards(found.folder(format))
    try:
        config = LoaderConfig(threads=request.threads, decoder=decoder).for_device(device)
        config = config.settled(shards, device=device, tell=tell)
    except ValueError as error:
        raise Unavailable(str(error)) from error
    finally:
        shards.close()
    task = Task(
        config=TrainConfig(recipe=recipe, loader=config, global_batch_size=request.batch),
        data=found.folder(format),
        device=device,
        threads=request.threads,
    )
    require_decoder(task)
    return loader_stream(task)


def peer(
    request: LoaderRequest,
    found: Material,
    name: str,
    file: str,
    function: str,
    source: Callable[[Material], Any],
    recipe: MultiCropRecipe,
    *,
    setup: Setup | None = None,
    **arguments: Any,
) -> Candidate:
    """A loader of bench/peers/`file`; its library is imported in its process."""
    module = importlib.import_module(f"bench.peers.{file}")
    make = getattr(module, function)
    what = getattr(module, "WHAT" + function.removeprefix("make").upper())
    opened = partial(open_peer, make, source, found, recipe, request, arguments)
    version = installed_version(module.PACKAGE)
    return candidate(request, found, name, what, opened, setup=setup, version=version, peer=True)


def open_peer(
    make: Callable[..., Stream],
    source: Callable[[Material], Any],
    found: Material,
    recipe: MultiCropRecipe,
    request: LoaderRequest,
    arguments: dict[str, Any],
) -> Stream:
    return make(source(found), recipe, batch=request.batch, workers=request.threads, **arguments)


def build_stream(open_stream: Callable[[], Stream]) -> Built:
    return timed(open_stream())


def report(
    request: LoaderRequest,
    recipe: MultiCropRecipe,
    found: Material,
    measured: Sequence[Measured],
    ratios: dict[str, float],
) -> dict[str, Any]:
    """The JSON object that this rung prints."""
    views = f"{recipe.num_large}x{recipe.large_size} + {recipe.num_small}x{recipe.small_size}"
    source = " and ".join(folder.name for folder in found.shards.values())
    return {
        "rung": "loader",
        "device": request.device,
        "work": f"bytes on disk to views {views}, batch {request.batch}, {request.threads} "
        f"workers; {found.images} pictures of {source}, warm page cache; {request.rounds} rounds, "
        "interleaved",
        "environment": environment(),
        "rows": [row(each) for each in measured],
        "ratios": ratios,
    }
