"""Shards in files: random access by offsets, the same for every format on disk.

Bytes are read, not mapped: of a file that is cut short meanwhile, or on a disk that fails, a read
names the sample where a memory map would kill the process (SIGBUS). The copy costs 50 us a photo of
110 KB here, 3 % of its decoding.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.batch import Bools, Bytes, EncodedBatch, Floats, Ids, Ints
from pipeline.shards.hints import GAP, advise, coalesced
from pipeline.shards.index import INDEX_NAME, Index, load_index, stored_bytes
from pipeline.shards.manifest import Manifest
from pipeline.stats import Beat, no_beat


class ReadMemory:
    """Memory that the bytes of one batch are read into; grows to the largest met, and stays."""

    def __init__(self) -> None:
        self._bytes: Bytes = np.empty(0, np.uint8)

    def of(self, size: int) -> memoryview:
        """Return `size` bytes; those of the last call are overwritten."""
        if len(self._bytes) < size:
            self._bytes = np.empty(size * 5 // 4, np.uint8)
        return self._bytes.data[:size]


class FileShards:
    """A shards folder, open: what formats share, which is everything but their own checks.

    `read` may be called from any number of threads. Each sample's bytes are compared with their
    checksums when this process reads them for the first time.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        _check_files(path, manifest)
        self.index: Index = load_index(
            path / INDEX_NAME, num_samples=manifest.num_samples, sha256=manifest.index_sha256
        )
        rows = self.index.rows
        self.heights: Ints = rows["height"].astype(np.int32)  # [N]
        self.widths: Ints = rows["width"].astype(np.int32)  # [N]
        self.labels: Ints = rows["label"].astype(np.int32)  # [N]; -1: unlabelled
        self.mask_coverage: Floats = rows["coverage"].astype(np.float32)  # [N]; NaN: no mask
        self.stored_bytes: Ids = stored_bytes(rows)  # [N]
        self._verified: Bools = np.zeros(len(rows), np.bool_)
        num_files = int(rows["file_number"].max(initial=0)) + 1
        self._files: tuple[_File, ...] = tuple(
            _File(path / entry.name) for entry in manifest.files[:num_files]
        )

    def __len__(self) -> int:
        return self.manifest.num_samples

    def key(self, sample_id: int) -> str:
        """The name of the picture in its source."""
        return self.index.key(sample_id)

    def read(
        self, sample_ids: Ids, memory: ReadMemory | None = None, beat: Beat = no_beat
    ) -> EncodedBatch:
        """Return the bytes of samples, in `memory` or else in memory of their own.

        `beat` is told of each sample before it is read.

        Raises:
            ValueError: an id is out of range, or the shards are closed.
        """
        ids = self._checked(sample_ids)
        files = self._open_files()
        places = self._places(ids)
        room = (memory or ReadMemory()).of(sum(at.jpeg_size + at.mask_size for at in places))
        jpegs, masks, faults, end = [], [], {}, 0
        for row, at in enumerate(places):
            beat(int(ids[row]))
            jpeg, end = _cut(room, end, at.jpeg_size)
            mask, end = _cut(room, end, at.mask_size)
            if fault := self._fill(files[at.file_number], int(ids[row]), at, jpeg, mask):
                faults[row] = fault
            jpegs.append(jpeg.toreadonly())
            masks.append(mask.toreadonly())
        return EncodedBatch(
            jpegs=tuple(jpegs),
            masks=tuple(masks),
            heights=self.heights[ids],
            widths=self.widths[ids],
            labels=self.labels[ids],
            sample_ids=ids,
            faults=faults,
        )

    def expect(self, sample_ids: Ids) -> None:
        """Let the kernel begin to fetch samples that will be read soon; returns at once."""
        files = self._open_files()
        rows = self.index.rows[self._checked(sample_ids)]
        for number in np.unique(rows["file_number"]).tolist():
            here = rows[rows["file_number"] == number]
            starts = np.concatenate([here["jpeg_offset"], here["mask_offset"]])
            sizes = np.concatenate([here["jpeg_size"], here["mask_size"]]).astype(np.int64)
            advise(files[number].number, *coalesced(starts, sizes, GAP))

    def close(self) -> None:
        """Let go of the files, once no read is under way any more."""
        self._files = ()

    def _checked(self, sample_ids: Ids) -> Ids:
        ids = np.asarray(sample_ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(f"sample ids {ids.min()}..{ids.max()} of {len(self)} samples")
        return ids

    def _places(self, ids: Ids) -> list[_Place]:
        rows = self.index.rows[ids]
        columns = (rows[name].tolist() for name in _Place._fields)
        return [_Place(*values) for values in zip(*columns, strict=True)]

    def _open_files(self) -> tuple[_File, ...]:
        if not self._files:
            raise ValueError(f"{self.path}: these shards are closed")
        return self._files

    def _fill(
        self, file: _File, sample_id: int, at: _Place, jpeg: memoryview, mask: memoryview
    ) -> str:
        """Read one sample; return what is wrong with its bytes, or ''."""
        try:
            got = file.read(jpeg, at.jpeg_offset) + file.read(mask, at.mask_offset)
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"
        if got < len(jpeg) + len(mask):
            return f"its file is cut short: {got} of its {len(jpeg) + len(mask)} bytes are there"
        if self._verified[sample_id]:
            return ""
        for name, data, checksum in (("JPEG", jpeg, at.jpeg_crc32), ("mask", mask, at.mask_crc32)):
            if zlib.crc32(data) != checksum:
                return f"the bytes of its {name} have changed since they were written"
        self._verified[sample_id] = True
        return ""


class _Place(NamedTuple):
    """Where a sample lies; the fields of the index's rows of these names."""

    file_number: int
    jpeg_offset: int
    jpeg_size: int
    jpeg_crc32: int
    mask_offset: int
    mask_size: int
    mask_crc32: int


class _File:
    """A file that is open for as long as somebody holds it: `close` must not pull it from under a
    read, whose number may by then be that of another file."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, target: memoryview, offset: int) -> int:
        """Fill `target`; return how many bytes there were."""
        done = 0
        while done < len(target):
            got = os.preadv(self.number, [target[done:]], offset + done)
            if not got:
                break
            done += got
        return done

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def find_damaged(shards: FileShards) -> Iterator[tuple[int, bool]]:
    """Read every sample in order and yield (sample id, whether its bytes fit their checksums)."""
    memory = ReadMemory()
    for sample_id in range(len(shards)):
        encoded = shards.read(np.array([sample_id], np.int64), memory)
        yield sample_id, bool(encoded.faults)


def _cut(room: memoryview, start: int, size: int) -> tuple[memoryview, int]:
    """The next piece of the room, and where it ends."""
    return room[start : start + size], start + size


def _check_files(path: Path, manifest: Manifest) -> None:
    for entry in manifest.files:
        file = path / entry.name
        if not file.is_file():
            raise ValueError(f"{file}: missing; copy the shards again, or convert the source again")
        if file.stat().st_size != entry.num_bytes:
            raise ValueError(
                f"{file}: {file.stat().st_size} bytes, but the manifest says {entry.num_bytes}; "
                "copy the shards again, or convert the source again"
            )
