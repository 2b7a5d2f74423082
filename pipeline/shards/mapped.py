"""Shards in files: random access through memory maps, the same for every format on disk."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.batch import EncodedBatch, Floats, Ids, Ints
from pipeline.shards.index import INDEX_NAME, Index, load_index, stored_bytes
from pipeline.shards.manifest import Manifest


class MappedShards:
    """A shards folder, open: what formats share, which is everything but their own checks.

    `read` may be called from any number of threads. The views it returns keep their file mapped, so
    they stay valid for as long as they are held, also after `close`.
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
        num_files = int(rows["file_number"].max(initial=0)) + 1
        self._maps: tuple[memoryview, ...] = tuple(
            _map(path / entry.name) for entry in manifest.files[:num_files]
        )

    def __len__(self) -> int:
        return self.manifest.num_samples

    def key(self, sample_id: int) -> str:
        """The name of the picture in its source."""
        return self.index.key(sample_id)

    def read(self, sample_ids: Ids) -> EncodedBatch:
        """Return the bytes of samples, without copying them.

        Raises:
            ValueError: an id is out of range, or the shards are closed.
        """
        ids = np.asarray(sample_ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(f"sample ids {ids.min()}..{ids.max()} of {len(self)} samples")
        maps = self._maps
        if not maps:
            raise ValueError(f"{self.path}: these shards are closed")
        rows = self.index.rows[ids]
        places = zip(
            rows["file_number"].tolist(),
            rows["jpeg_offset"].tolist(),
            rows["jpeg_size"].tolist(),
            rows["mask_offset"].tolist(),
            rows["mask_size"].tolist(),
            strict=True,
        )
        jpegs, masks = [], []
        for number, jpeg, jpeg_size, mask, mask_size in places:
            jpegs.append(maps[number][jpeg : jpeg + jpeg_size])
            masks.append(maps[number][mask : mask + mask_size])
        return EncodedBatch(
            jpegs=tuple(jpegs),
            masks=tuple(masks),
            heights=self.heights[ids],
            widths=self.widths[ids],
            labels=self.labels[ids],
            sample_ids=ids,
        )

    def close(self) -> None:
        """Let go of the files; views that are still held keep theirs."""
        self._maps = ()


def find_damaged(shards: MappedShards) -> Iterator[tuple[int, bool]]:
    """Read every sample in order and yield (sample id, whether its bytes fit their checksums)."""
    rows = shards.index.rows
    for sample_id in range(len(shards)):
        encoded = shards.read(np.array([sample_id], np.int64))
        intact = (
            zlib.crc32(encoded.jpegs[0]) == rows["jpeg_crc32"][sample_id]
            and zlib.crc32(encoded.masks[0]) == rows["mask_crc32"][sample_id]
        )
        yield sample_id, not intact


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


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
