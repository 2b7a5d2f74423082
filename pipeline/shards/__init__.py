"""Shards: samples in files that are read by random access, and the index that describes them.

`open_shards` opens what convert_dataset.py wrote, in either format; `MemoryShards` (memory.py) are
the same without files. docs/formats.md draws the files for those who want to read them without us.

Shapes: N samples, B samples of one read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipeline.batch import EncodedBatch, Floats, Ids, Ints
from pipeline.shards.beton import BETON_NAME, check_beton
from pipeline.shards.files import FileShards, ReadMemory
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.stats import Beat, no_beat

FORMATS = ("ffcv", "dali")

__all__ = ["FORMATS", "FileShards", "Manifest", "ReadMemory", "Shards", "open_shards"]


class Shards(Protocol):
    """N samples: what is known of each without touching pixels, and their bytes.

    heights, widths: int32 [N], size of the stored JPEG. labels: int32 [N], -1 unlabelled.
    mask_coverage: float32 [N] in 0..1, NaN where there is no mask.
    stored_bytes: int64 [N], JPEG and mask together.
    """

    manifest: Manifest
    path: Path
    heights: Ints
    widths: Ints
    labels: Ints
    mask_coverage: Floats
    stored_bytes: Ids

    def __len__(self) -> int: ...

    def key(self, sample_id: int) -> str:
        """The name of the picture in its source."""
        ...

    def read(
        self, sample_ids: Ids, memory: ReadMemory | None = None, beat: Beat = no_beat
    ) -> EncodedBatch:
        """The bytes of samples, in any order; thread safe. What cannot be read is in `faults`.

        They lie in `memory`; `beat` is told of each sample before it is read.
        """
        ...

    def expect(self, sample_ids: Ids) -> None:
        """A hint that these samples will be read soon."""
        ...

    def close(self) -> None: ...


def open_shards(path: Path) -> FileShards:
    """Open a folder written by convert_dataset.py; a file in it stands for the folder.

    Raises:
        ValueError: there are no complete shards, or they are damaged; it says what to do.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise ValueError(
            f"{path}: no such folder; make shards with convert_dataset.py --out {path}"
        )
    manifest = read_manifest(folder)
    if manifest.format not in FORMATS:
        raise ValueError(f"{folder}: shards of an unknown format {manifest.format!r}")
    shards = FileShards(folder, manifest)
    if manifest.format == "ffcv":
        check_beton(folder / BETON_NAME, shards.index)
    return shards
