"""Reading shards into an empty page cache, by an order or along the files; the rows of it.

Samples are asked for and read as the loader's reading stage does it, in one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.certificate.page_cache import drop
from bench.harness import Built, Candidate, Measured, Unavailable, anywhere, measure
from bench.rows import named, ratios_of, row
from pipeline.readahead import upcoming
from pipeline.sampler import Sampler
from pipeline.shards import FileShards, ReadMemory
from pipeline.shards.hints import advise

STILL_COLD = 0.01  # share of the pages that may stay in memory
PIECE, PIECES_AHEAD = 1 << 20, 16  # of reading along: a disk is kept busy by 16 MiB
ALONG = "files read along"
HINTS = ", hints"


@dataclass(kw_only=True, slots=True)
class ColdRead:
    """Work that begins with an empty page cache.

    It remembers of the last time what share of the pages stayed, and what the disk gave.
    """

    files: Sequence[Path]
    images: int  # that it reads
    work: Callable[[], None]
    pages_kept: float = 0.0
    bytes_from_disk: int | None = None

    def run(self) -> float:
        """Empty the cache, then do the work; return the seconds of the work alone.

        Raises:
            Unavailable: the pages stay in memory.
        """
        self.pages_kept = drop(self.files)
        if self.pages_kept > STILL_COLD:
            raise Unavailable(
                f"{self.pages_kept:.0%} of the pages stay in the page cache: a file system that "
                "ignores POSIX_FADV_DONTNEED, files of another user, or files in use"
            )
        before = bytes_from_disk()
        start = time.perf_counter()
        self.work()
        seconds = time.perf_counter() - start
        after = bytes_from_disk()
        self.bytes_from_disk = None if before is None or after is None else after - before
        return seconds


def read_epoch(shards: FileShards, memory: ReadMemory, sampler: Sampler, *, ahead: int) -> None:
    """Read epoch 0 by an order; `ahead`: steps that samples are asked for before, 0: never.

    Raises:
        OSError: a sample cannot be read.
    """
    steps = range(sampler.steps_per_epoch)
    for step in steps:
        if ahead:
            shards.expect(upcoming(sampler, step, steps=steps, ahead=ahead))
        faults = shards.read(sampler.batch(step)[1], memory).faults
        if faults:
            raise OSError(f"{shards.path}, step {step}: {next(iter(faults.values()))}")


def read_along(ends: Mapping[Path, int]) -> None:
    """Read files from their first byte to the given end, hints ahead: what the disk can do."""
    buffer = bytearray(PIECE)
    for path, end in ends.items():
        with path.open("rb", buffering=0) as file:
            for offset in range(0, end, PIECE):
                first = offset + PIECE * PIECES_AHEAD if offset else 0
                hinted = min(offset + PIECE * (PIECES_AHEAD + 1), end) - first
                advise(file.fileno(), np.array([first]), np.array([hinted]))
                os.preadv(file.fileno(), [buffer], offset)


def bytes_from_disk() -> int | None:
    """What this process has had read from disks, hints included; None where that is not told."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    values = (int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    return next(values, None)


def cold_rows(
    shards: FileShards, samplers: Mapping[str, Sampler], num_images: int, *, rounds: int, ahead: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Read each order with hints and without, beside the files from end to end; rows and ratios.

    Args:
        samplers: over the first `num_images` samples; the first of them is the true shuffle.
        ahead: batches that hints run ahead of the reading.
    """
    ends = _ends(shards, num_images)
    memory = ReadMemory()
    along = ColdRead(files=list(ends), images=num_images, work=partial(read_along, ends))
    reads = {ALONG: (along, "from end to end, hinted: the disk itself")}
    for name, sampler in samplers.items():
        epoch = partial(read_epoch, shards, memory, sampler)
        cold = partial(
            ColdRead,
            files=list(ends),
            images=sampler.steps_per_epoch * sampler.global_batch_size,
        )
        reads[name] = (cold(work=partial(epoch, ahead=0)), "no hints")
        hinted = cold(work=partial(epoch, ahead=ahead))
        reads[name + HINTS] = (hinted, f"hints {ahead} batches ahead")
    mean = float(shards.stored_bytes[:num_images].mean())
    found = measure(
        [_candidate(name, read, what, mean) for name, (read, what) in reads.items()],
        rounds=rounds,
        stopwatch=lambda work: float(work()),  # emptying the cache is not part of its time
        placed=anywhere,
    )
    rows = [_with_disk(row(one), reads[one.candidate.name][0], mean) for one in found]
    return rows, _ratios(found, list(samplers))


def _ends(shards: FileShards, num_images: int) -> dict[Path, int]:
    """Where in each file the last of the first samples ends."""
    rows = shards.index.rows[:num_images]
    ends = np.maximum(
        rows["jpeg_offset"] + rows["jpeg_size"], rows["mask_offset"] + rows["mask_size"]
    )
    return {
        shards.path / shards.manifest.files[number].name: int(
            ends[rows["file_number"] == number].max()
        )
        for number in np.unique(rows["file_number"]).tolist()
    }


def _candidate(name: str, read: ColdRead, what: str, mean: float) -> Candidate:
    return Candidate(
        name=name,
        what=what,
        build=lambda: Built(run=read.run),
        images=read.images,
        bytes_per_image=mean,
    )


def _with_disk(found: dict[str, Any], read: ColdRead, mean: float) -> dict[str, Any]:
    """Add, of the last round, how cold it was, and what the disk gave for each stored byte."""
    asked = read.images * mean
    given = None if read.bytes_from_disk is None else read.bytes_from_disk / asked
    return found | {"pages_kept": read.pages_kept, "bytes_from_disk_per_byte": given}


def _ratios(found: Sequence[Measured], orders: Sequence[str]) -> dict[str, float]:
    """Hinted over not hinted, over the hinted true shuffle, and over the disk itself."""
    shuffled = orders[0] + HINTS
    pairs = [
        (name + HINTS, other)
        for name in orders
        for other in (name, shuffled, ALONG)
        if other != name + HINTS
    ]
    return ratios_of({f"{a}/{b}": (named(found, a), named(found, b)) for a, b in pairs})
