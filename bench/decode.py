"""Rung `decode` beside bare calls of libjpeg-turbo in a loop: the same pictures, one core and two.

Ours reads the bytes from the shards, decodes them into a slot and the masks with them; the loop has
its bytes in memory and writes every picture to the same place. Its faster form is the bar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.augment import installed_version
from bench.environment import environment
from bench.generated import shards_for
from bench.harness import Built, Candidate, Measured, measure
from bench.isolated import isolated
from bench.peers import libjpeg_loop
from bench.rows import faster, named, pick, ratios_of, row
from bench.stages import Stages, Task
from pipeline.loader import LoaderConfig
from pipeline.shards import open_shards
from training.allocator import keep_freed_memory
from training.config import TrainConfig

BATCH = 32
_LOOPS = {
    "libjpeg-turbo (simplejpeg)": (libjpeg_loop.make_simplejpeg, libjpeg_loop.WHAT_SIMPLEJPEG),
    "libjpeg-turbo (Debian)": (libjpeg_loop.make_debian, libjpeg_loop.WHAT_DEBIAN),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeRequest:
    """What to measure."""

    images: int
    rounds: int
    threads: int  # of the rows that have several
    data: tuple[Path, ...] = ()  # shards of the same pictures; empty: generated
    only: tuple[str, ...] = ()  # names of rows; empty: all


def decode(request: DecodeRequest) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: unreadable shards, fewer samples than asked for, no such row.
    """
    with shards_for(request.data) as folders:
        candidates = pick(request.only, decode_candidates(request, folders))
        measured = measure(candidates, rounds=request.rounds)
        source = " and ".join(folder.name for folder in folders.values())
        return {
            "rung": "decode",
            "device": "cpu",
            "work": f"{request.images} pictures of {source}, warm page cache; {request.rounds} "
            "rounds, interleaved",
            "environment": environment(),
            "rows": [row(each) for each in measured],
            "ratios": decode_ratios(measured, list(folders), request.threads),
        }


def decode_candidates(request: DecodeRequest, folders: dict[str, Path]) -> list[Candidate]:
    """Ours from each format and the loops; on one core and on several."""
    images, first = request.images, next(iter(folders.values()))
    builds: dict[str, tuple[Callable[..., Built], str]] = {
        f"decode ({format})": (
            partial(build_ours, folder, images),
            "shards.read, decoded into a slot, masks too",
        )
        for format, folder in folders.items()
    }
    builds |= {
        name: (partial(build_loop, make, first, images), what)
        for name, (make, what) in _LOOPS.items()
    }
    moved = bytes_moved(first, images)
    return [
        isolated(
            Candidate(
                name=_on(name, threads),
                what=what,
                build=partial(build, threads=threads),
                images=images,
                bytes_per_image=moved,
                cores=threads,
                version=installed_version("simplejpeg") if "simplejpeg" in name else None,
                peer=name in _LOOPS,
            ),
            keep_freed_memory,
        )
        for threads in sorted({1, request.threads})
        for name, (build, what) in builds.items()
    ]


def build_ours(data: Path, images: int, *, threads: int) -> Built:
    """Decode the first `images` samples, batch by batch."""
    config = TrainConfig(loader=LoaderConfig(threads=threads), global_batch_size=1)
    stages = Stages(Task(config=config, data=data, device=torch.device("cpu"), threads=threads))
    batches = np.array_split(np.arange(images), -(-images // BATCH))

    def run() -> None:
        for ids in batches:
            stages.decode_ids(ids)

    return Built(run=run, note=stages.decoder, close=stages.close)


def build_loop(make: Callable[..., Built], data: Path, images: int, *, threads: int) -> Built:
    """Decode the same samples, their bytes in memory."""
    shards = open_shards(data)
    encoded = shards.read(np.arange(images))
    jpegs = [bytes(jpeg) for jpeg in encoded.jpegs]
    pictures = list(zip(jpegs, encoded.heights.tolist(), encoded.widths.tolist(), strict=True))
    shards.close()
    return make(pictures, threads=threads)


def decode_ratios(
    measured: Sequence[Measured], formats: Sequence[str], threads: int
) -> dict[str, float]:
    """How many times as fast as the faster loop on as many cores."""
    pairs = {}
    for count in sorted({1, threads}):
        loops = [named(measured, _on(name, count)) for name in _LOOPS]
        present = [loop for loop in loops if loop is not None]
        for format in formats:
            name = _on(f"decode ({format})", count)
            bar = faster(*present) if present else None
            pairs[f"{name}/libjpeg-turbo"] = (named(measured, name), bar)
    return ratios_of(pairs)


def bytes_moved(data: Path, images: int) -> float:
    """JPEG and mask read, pixels written, per picture.

    Raises:
        ValueError: unreadable shards, or fewer samples.
    """
    shards = open_shards(data)
    if len(shards) < images:
        raise ValueError(f"{data} holds {len(shards)} samples; ask for no more --images")
    encoded = shards.read(np.arange(images))
    stored = sum(map(len, encoded.jpegs)) + sum(map(len, encoded.masks))
    pixels = 3 * int((encoded.heights.astype(np.int64) * encoded.widths).sum())
    shards.close()
    return (stored + pixels) / images


def _on(name: str, threads: int) -> str:
    return name if threads == 1 else f"{name} x{threads}"
