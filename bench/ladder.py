"""The ladder: read, decode, upload, augment, loader, model, step.

Each rung contains the one before (step: loader and model). The first that falls below what the
training takes is the bottleneck (bench/bottleneck.py). Every rung has a process of its own, with
the allocator as train.py sets it, and rounds are interleaved, as everywhere in bench.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.bottleneck import RUNGS, drops, find_bottleneck, own_seconds
from bench.environment import environment
from bench.generated import generated_shards
from bench.harness import Built, Candidate, Measured, Unavailable, anywhere, measure, pinned, tell
from bench.isolated import isolated
from bench.rows import named, ratios_of, row
from bench.stages import Stages, Task, require_decoder
from bench.streams import mean_seconds, timed
from bench.training_rungs import full_step, loader_stream, model_alone, plan_of
from pipeline.batch import MASK_GRID
from pipeline.shards import open_shards
from train import views_dtype
from training.allocator import keep_freed_memory
from training.config import TrainConfig

WHAT = {
    "read": "the bytes of the sampler's pictures, in memory",
    "decode": "+ decoded into a slot",
    "upload": "+ pixels and masks on the device",
    "augment": "+ params drawn, views made; one stage after another",
    "loader": "the real loader, threads and all: bytes on disk to views",
    "model": "SYNTHETIC: the training step on views already on the device",
    "step": "FULL: the training step fed by the loader",
}
# Without --batch: the preset's up to the first, or else, as it is meant for many GPUs, the second.
BATCHES = {"cpu": (128, 32), "cuda": (512, 256)}


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderRequest:
    """What to measure; `config` as train.py would run it."""

    config: TrainConfig
    device: str
    rounds: int
    threads: int
    data: Path | None = None  # None: shards of generated pictures
    batch: int | None = None  # images of a step; None: see BATCHES
    only: tuple[str, ...] = ()  # rungs; empty: all


def ladder(request: LadderRequest) -> dict[str, Any]:
    """Measure, and return the JSON object of the ladder.

    Raises:
        ValueError: no such rung or device, unreadable shards, or a configuration that cannot be
            trained on them.
    """
    if unknown := [name for name in request.only if name not in RUNGS]:
        raise ValueError(f"--only {unknown[0]!r}: no such rung; choose from {', '.join(RUNGS)}")
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device on this machine")
    with _shards(request) as data:
        task = task_of(request, data)
        plan_of(task)  # what train.py would refuse is refused here, in one line
        placed = anywhere if request.device == "cuda" else pinned
        measured = measure(rungs(request, task), rounds=request.rounds, placed=placed)
        return report(request, task, measured)


def task_of(request: LadderRequest, data: Path) -> Task:
    """The run to measure: this batch, these threads, executor and decoder decided.

    Raises:
        ValueError: unreadable shards, an executor or a decoder that cannot run here.
    """
    device = torch.device(request.device)
    loader = replace(request.config.loader, threads=request.threads).for_device(device)
    shards = open_shards(data)
    loader = loader.settled(shards, device=device, tell=tell)
    shards.close()
    wanted, (largest, instead) = request.config.global_batch_size, BATCHES[request.device]
    batch = request.batch or (wanted if wanted <= largest else instead)
    recipe = request.config.recipe.full_size
    config = replace(request.config, recipe=recipe, global_batch_size=batch, loader=loader)
    return Task(config=config, data=data, device=device, threads=request.threads)


def rungs(request: LadderRequest, task: Task) -> list[Candidate]:
    """The candidates, in the order of the ladder."""
    moved = bytes_moved(task)
    return [
        isolated(
            Candidate(
                name=name,
                what=WHAT[name],
                build=partial(build_rung, name, task),
                images=task.batch_size,
                bytes_per_image=moved[name],
                cores=task.threads,
            ),
            keep_freed_memory,
        )
        for name in RUNGS
        if name in (request.only or RUNGS)
    ]


def build_rung(name: str, task: Task) -> Built:
    """Build a rung, in its process.

    Raises:
        Unavailable: it has nothing to do here, or a package that it needs is missing.
    """
    try:
        if name not in ("read", "model"):
            require_decoder(task)
        if name == "loader":
            return timed(loader_stream(task))
        if name == "model":
            return model_alone(task)
        if name == "step":
            return full_step(task)
        return _serial(name, task)
    except ImportError as error:
        raise Unavailable(f"not installed: {error}") from error


def _serial(name: str, task: Task) -> Built:
    stages = Stages(task)
    step: Callable[[], object] = getattr(stages, name)
    return Built(run=lambda: mean_seconds(step, finish=stages.finish), close=stages.close)


def bytes_moved(task: Task) -> dict[str, float]:
    """Bytes per image that each rung cannot avoid to read and write."""
    shards = open_shards(task.data)
    stored = shards.manifest.stored_bytes_per_sample
    pixels = 3 * float(np.mean(shards.heights.astype(np.int64) * shards.widths)) + MASK_GRID**2
    shards.close()
    element = views_dtype(task.config, task.device).itemsize
    views = task.config.recipe.values_per_image * element
    made = stored + 2 * pixels + views
    return {
        "read": stored,
        "decode": stored + pixels,
        "upload": stored + 2 * pixels,
        "augment": made,
        "loader": made,
        "model": float(views),
        "step": made + views,
    }


def report(request: LadderRequest, task: Task, measured: Sequence[Measured]) -> dict[str, Any]:
    """The JSON object: the common form, and what the ladder adds to rows."""
    seconds = {each.candidate.name: each.seconds for each in measured if each.seconds}
    shared = "GPU" if task.device.type == "cuda" else "cores"
    found = find_bottleneck(seconds, shared=shared)
    return {
        "rung": "ladder",
        "device": request.device,
        "work": _described(request, task),
        "environment": environment(),
        "settings": {
            "preset": task.config.name,
            "batch": task.batch_size,
            "threads": task.threads,
            "executor": task.config.loader.executor,
            "decoder": task.config.loader.decoder,
        },
        "rows": _rows(measured, seconds),
        "ratios": ratios_of(
            {
                f"{ours}/{theirs}": (named(measured, ours), named(measured, theirs))
                for ours, theirs in (("loader", "model"), ("step", "model"))
            }
        ),
        "bottleneck": None if found is None else asdict(found),
    }


def _rows(
    measured: Sequence[Measured], seconds: dict[str, tuple[float, ...]]
) -> list[dict[str, Any]]:
    own, lost = own_seconds(seconds), drops(seconds)
    model = median(seconds["model"]) if "model" in seconds else None
    rows = []
    for each in measured:
        name, made = each.candidate.name, row(each)
        if "skipped" not in made:
            made["drop"] = lost.get(name)
            made["own_milliseconds_per_image"] = 1e3 * own[name] if name in own else None
            made["times_demand"] = model / median(each.seconds) if model else None
        rows.append(made)
    return rows


def _described(request: LadderRequest, task: Task) -> str:
    recipe, shards = task.config.recipe, open_shards(task.data)
    source = "generated pictures" if request.data is None else task.data.name
    masks = shards.manifest.masks.num_masks
    plural = "s" * (task.threads > 1)
    shards.close()
    return (
        f"{task.config.name}, {recipe.num_large}x{recipe.large_size} + "
        f"{recipe.num_small}x{recipe.small_size} views, batch {task.batch_size}, "
        f"{task.threads} thread{plural}, {task.device.type}; {len(shards)} samples of {source} "
        f"({shards.manifest.format}, {masks} masks), warm page cache; {request.rounds} rounds, "
        "interleaved"
    )


@contextmanager
def _shards(request: LadderRequest) -> Iterator[Path]:
    if request.data is not None:
        yield request.data
        return
    with generated_shards(("dali",)) as folders:
        yield folders["dali"]
