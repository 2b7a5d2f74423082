"""Tar shards in WebDataset layout, with the index files that DALI's reader takes.

    shard-000000.tar    000000000.jpg  000000000.mask  000000000.cls  000000001.jpg ...
    shard-000000.idx    what fn.readers.webdataset takes as index_paths: a line with version and
                        number of samples, then one for each sample: ending, offset, size and name
                        of each member; byte for byte what DALI's `wds2idx` makes of the tar

The name of a sample is its id. `.mask` is a record of the mask codec and is left out where there is
no mask; `.cls` is the label in ASCII, -1 where unlabelled. Headers hold no time and no owner: the
same samples give the same bytes.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import BinaryIO

from pipeline.shards.index import Place, Sample

MAX_SHARD_BYTES = 1 << 30
_INDEX_VERSION = "v1.2"


class TarWriter:
    """Writes samples one after another and begins a new shard where one would grow too large."""

    def __init__(self, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self._folder = folder
        self._max_shard_bytes = max_shard_bytes
        self._file: BinaryIO | None = None
        self._paths: list[Path] = []
        self._index_lines: list[str] = []  # of the open shard
        self._num_samples = 0

    def write(self, sample: Sample) -> Place:
        """Append a sample."""
        members = {"jpg": sample.jpeg, "mask": sample.mask, "cls": b"%d" % sample.label}
        if not sample.mask:
            del members["mask"]
        name = f"{self._num_samples:09d}"
        blocks = {ending: _member(f"{name}.{ending}", data) for ending, data in members.items()}
        file = self._file_with_room(sum(map(len, blocks.values())))
        offsets, entries = {}, []
        for ending, block in blocks.items():
            offsets[ending] = file.tell() + tarfile.BLOCKSIZE
            entries.append(f"{ending} {offsets[ending]} {len(members[ending])} {name}.{ending}")
            file.write(block)
        self._index_lines.append(" ".join(entries))
        self._num_samples += 1
        return Place(
            file=len(self._paths) - 1,
            jpeg_offset=offsets["jpg"],
            mask_offset=offsets.get("mask", 0),
        )

    def close(self) -> list[Path]:
        """Finish the last shard, and return the tars and then their index files."""
        self._end_shard()
        return self._paths + [path.with_suffix(".idx") for path in self._paths]

    def abort(self) -> None:
        """Close the open file; what was written is worthless."""
        if self._file is not None:
            self._file.close()

    def _file_with_room(self, num_bytes: int) -> BinaryIO:
        if self._file is not None and self._file.tell() + num_bytes <= self._max_shard_bytes:
            return self._file
        self._end_shard()
        self._paths.append(self._folder / f"shard-{len(self._paths):06d}.tar")
        self._file = self._paths[-1].open("wb")
        return self._file

    def _end_shard(self) -> None:
        if self._file is None:
            return
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.write(bytes(-self._file.tell() % tarfile.RECORDSIZE))
        self._file.close()
        lines = [f"{_INDEX_VERSION} {len(self._index_lines)}", *self._index_lines]
        self._paths[-1].with_suffix(".idx").write_text("\n".join(lines) + "\n")
        self._index_lines = []


def _member(name: str, data: bytes) -> bytes:
    """Header, data and padding of a member; its bytes begin one block in."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)
