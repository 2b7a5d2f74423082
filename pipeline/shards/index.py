"""The per-sample table of a shards folder: `index.npz`, loaded whole, without pickle.

About 46 bytes a sample and its key. Arrays on disk, N samples:

    height, width  uint16       size of the stored JPEG
    label          int32        position in the manifest's label_names; -1: unlabelled
    coverage       float32      share of the image that the mask covers; NaN: no mask
    file_number    uint16       which of the manifest's files holds the sample
    jpeg_offset    int64        first byte of the JPEG in that file
    jpeg_size      uint32
    mask_offset    int64        first byte of the mask record (pipeline/saliency/codec.py)
    mask_size      uint16       0: no mask
    jpeg_crc32, mask_crc32      uint32, as of zlib.crc32
    key_size       uint16       bytes of the sample's key, the original relative name
    keys           uint8 [sum]  all keys in UTF-8, one after another
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

INDEX_NAME = "index.npz"

ROW = np.dtype(
    [
        ("height", "<u2"),
        ("width", "<u2"),
        ("label", "<i4"),
        ("coverage", "<f4"),
        ("file_number", "<u2"),
        ("jpeg_offset", "<i8"),
        ("jpeg_size", "<u4"),
        ("mask_offset", "<i8"),
        ("mask_size", "<u2"),
        ("jpeg_crc32", "<u4"),
        ("mask_crc32", "<u4"),
        ("key_size", "<u2"),
    ]
)
_NAMES: tuple[str, ...] = ROW.names or ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One prepared picture on its way into shards."""

    key: str
    label: int
    jpeg: bytes
    mask: bytes  # empty: no mask
    height: int
    width: int
    coverage: float  # NaN: no mask
    unchanged: bool  # the JPEG is byte for byte that of the source


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a writer put a sample."""

    file: int
    jpeg_offset: int
    mask_offset: int


class IndexBuilder:
    """Collects the rows of an index; room for `capacity` samples is taken at once."""

    def __init__(self, capacity: int) -> None:
        self._rows: NDArray[np.void] = np.zeros(capacity, ROW)
        self._keys = bytearray()
        self._num_samples = 0

    def add(self, sample: Sample, place: Place) -> None:
        key = sample.key.encode("utf-8", "surrogateescape")
        self._rows[self._num_samples] = (
            sample.height,
            sample.width,
            sample.label,
            sample.coverage,
            place.file,
            place.jpeg_offset,
            len(sample.jpeg),
            place.mask_offset,
            len(sample.mask),
            zlib.crc32(sample.jpeg),
            zlib.crc32(sample.mask),
            len(key),
        )
        self._keys += key
        self._num_samples += 1

    def finish(self) -> Index:
        """The index of what was added."""
        rows = self._rows[: self._num_samples]
        return Index(rows=rows, keys=bytes(self._keys), key_ends=_key_ends(rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """The table in memory: rows [N] of dtype `ROW`, and the keys."""

    rows: NDArray[np.void]
    keys: bytes
    key_ends: NDArray[np.int64]  # [N]

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, sample_id: int) -> str:
        end = int(self.key_ends[sample_id])
        start = end - int(self.rows["key_size"][sample_id])
        return self.keys[start:end].decode("utf-8", "surrogateescape")

    def save(self, path: Path) -> str:
        """Write the file and return its SHA-256 in hexadecimal."""
        columns = {name: np.ascontiguousarray(self.rows[name]) for name in _NAMES}
        np.savez(path, allow_pickle=False, keys=np.frombuffer(self.keys, np.uint8), **columns)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def load_index(path: Path, *, num_samples: int, sha256: str) -> Index:
    """Load an index that must have this many samples and this checksum.

    Raises:
        ValueError: it is missing, or not the file that the manifest was written for.
    """
    if not path.is_file():
        raise ValueError(f"{path}: missing; convert the source again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(
            f"{path}: its checksum is not the one in the manifest, so it was damaged or exchanged; "
            "copy the shards again, or convert the source again"
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as columns:
            rows = np.zeros(len(columns["height"]), ROW)
            for name in _NAMES:
                rows[name] = columns[name]
            keys = columns["keys"].tobytes()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not an index of this version: {error}") from error
    if len(rows) != num_samples:
        raise ValueError(f"{path}: {len(rows)} samples, but the manifest says {num_samples}")
    return Index(rows=rows, keys=keys, key_ends=_key_ends(rows))


def stored_bytes(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """Bytes of JPEG and mask of each sample [N]: what reading it moves."""
    jpegs: NDArray[np.int64] = rows["jpeg_size"].astype(np.int64)
    return jpegs + rows["mask_size"].astype(np.int64)


def _key_ends(rows: NDArray[np.void]) -> NDArray[np.int64]:
    return np.cumsum(rows["key_size"], dtype=np.int64)
