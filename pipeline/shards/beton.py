"""One `.beton`: written by FFCV's own writer, read by FFCV's own Loader, and read here without it.

Layout (little endian; FFCV's CURRENT_VERSION 2):

    header         HEADER: version, number of fields, page size, number of samples, allocation table
    fields         one FIELD each: image (RGB image), mask (bytes), label (int)
    metadata       METADATA [N]; the room is that of the source's N, which may be more than is used
    pages          page_size bytes each, on multiples of it: JPEG and mask of a sample side by side
    allocations    ALLOCATION [2 N]: sample, first byte, size; to the end of the file

FFCV finds the size of a record by its first byte, so no record may be empty: a sample without a
mask holds the one byte `NO_MASK`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.codec import NO_MASK
from pipeline.shards.index import Index, Place, Sample

BETON_NAME = "data.beton"
FIELD_NAMES = ("image", "mask", "label")

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype(
    [("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", 1024))], align=True
)
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])
METADATA = np.dtype([("image", _IMAGE), ("mask", _BYTES), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

_VERSION = 2
_JPEG_MODE = 0
_MIN_PAGE = 8 << 20
_MAX_PAGE = 256 << 20
_MASK_ROOM = 1 << 16  # more than any mask record needs


class BetonWriter:
    """Writes samples one after another; FFCV's parts, but our loop and our processes.

    FFCV's own loop hangs when a worker dies and cannot leave out a bad sample. Here the number of
    samples in the header is put right at the end.
    """

    def __init__(self, folder: Path, *, capacity: int, largest: int) -> None:
        """Make the file.

        Args:
            capacity: the most samples that may come.
            largest: bytes of the largest picture to expect; decides the size of a page.
        """
        from ffcv.fields import BytesField, IntField, RGBImageField
        from ffcv.memory_allocator import MemoryAllocator
        from ffcv.writer import DatasetWriter, handle_sample

        self.path = folder / BETON_NAME
        self._page_size = page_size_for(largest)
        image = RGBImageField(write_mode="jpg")
        image.encode = _store_jpeg  # on the instance: a subclass would be foreign to FFCV's Loader
        fields = dict(zip(FIELD_NAMES, (image, BytesField(), IntField()), strict=True))
        self._writer: Any = DatasetWriter(
            str(self.path), fields, page_size=self._page_size, num_workers=1
        )
        self._writer.num_samples = capacity
        self._writer.prepare()
        self._metadata = _own_memory(self._writer, capacity)
        self._allocator: Any = MemoryAllocator(
            str(self.path), self._writer.data_region_start, self._page_size
        )
        self._allocator.__enter__()
        self._handle_sample: Callable[..., None] = handle_sample
        self._allocations: NDArray[np.void] = np.zeros(2 * capacity, ALLOCATION)
        self._num_samples = 0

    def write(self, sample: Sample) -> Place:
        """Append a sample.

        Raises:
            ValueError: it does not fit into a page.
        """
        mask = sample.mask or NO_MASK
        if len(sample.jpeg) + len(mask) > self._page_size:
            raise ValueError(f"{len(sample.jpeg)} bytes do not fit a page of {self._page_size}")
        number, metadata, fields = self._num_samples, self._metadata, self._writer.fields
        values = (sample, np.frombuffer(mask, np.uint8), sample.label)
        self._handle_sample(values, number, metadata.dtype.names, metadata, self._allocator, fields)
        # FFCV would keep a Python tuple for each: 400 MB for ImageNet
        self._allocations[2 * number : 2 * number + 2] = self._allocator.allocations
        self._allocator.allocations.clear()
        self._num_samples += 1
        jpeg, mask_at = self._allocations["ptr"][2 * number : 2 * number + 2].tolist()
        return Place(file=0, jpeg_offset=jpeg, mask_offset=mask_at)

    def close(self) -> list[Path]:
        """Finish the file and return it."""
        self._allocator.__exit__(None, None, None)
        self._writer.header["num_samples"] = self._num_samples
        self._writer.finalize([self._allocations[: 2 * self._num_samples]])
        return [self.path]

    def abort(self) -> None:
        """Close the open file; what was written is worthless."""
        self._allocator.fp.close()


def page_size_for(largest: int) -> int:
    """The power of two, from 8 to 256 MiB, in which a picture of this size fits with its mask."""
    size = _MIN_PAGE
    while size < min(largest + _MASK_ROOM, _MAX_PAGE):
        size *= 2
    return size


def check_beton(path: Path, index: Index) -> None:
    """Compare a `.beton` with our index, so that both readers see the same.

    Raises:
        ValueError: it is not such a file, or says something else than the index.
    """
    header = np.fromfile(path, HEADER, count=1)
    if len(header) != 1 or header["version"][0] != _VERSION:
        raise ValueError(f"{path}: not a .beton of version {_VERSION}; convert the source again")
    count, fields = int(header["num_samples"][0]), int(header["num_fields"][0])
    if (count, fields) != (len(index), len(FIELD_NAMES)):
        raise ValueError(
            f"{path}: {count} samples of {fields} fields, but the index holds {len(index)} of "
            f"{len(FIELD_NAMES)}: the files are of different conversions"
        )
    start = HEADER.itemsize + fields * FIELD.itemsize
    page_size, table_at = int(header["page_size"][0]), int(header["alloc_table_ptr"][0])
    pages_at, size = start + count * METADATA.itemsize, path.stat().st_size
    if page_size_for(page_size - _MASK_ROOM) != page_size or not pages_at <= table_at <= size:
        raise ValueError(
            f"{path}: its header is damaged (pages of {page_size} bytes, allocations at byte "
            f"{table_at} of {size}); copy the shards again, or convert the source again"
        )
    metadata = np.fromfile(path, METADATA, count=count, offset=start)
    table = np.fromfile(path, ALLOCATION, offset=table_at)
    if not _agree(index.rows, metadata, table):
        raise ValueError(f"{path}: its metadata differ from the index; convert the source again")


def _agree(rows: NDArray[np.void], metadata: NDArray[np.void], table: NDArray[np.void]) -> bool:
    if len(metadata) != len(rows) or len(table) != 2 * len(rows):
        return False
    jpeg, mask = table[0::2], table[1::2]
    pairs = (
        (metadata["image"]["data_ptr"], rows["jpeg_offset"]),
        (metadata["image"]["height"], rows["height"]),
        (metadata["image"]["width"], rows["width"]),
        (metadata["mask"]["ptr"], rows["mask_offset"]),
        (metadata["label"], rows["label"]),
        (jpeg["ptr"], rows["jpeg_offset"]),
        (jpeg["size"], rows["jpeg_size"]),
        (mask["size"], np.maximum(rows["mask_size"], len(NO_MASK))),
    )
    return all(bool((ours == theirs).all()) for ours, theirs in pairs)


def _own_memory(writer: Any, capacity: int) -> NDArray[np.void]:
    """Give FFCV's writer memory of this process for its metadata.

    It comes with shared memory, for workers that we do not have: of that there may be too little
    (64 MB in a container), and a killed process leaves it behind.
    """
    writer.metadata_sm.close()
    writer.metadata_sm.unlink()
    metadata: NDArray[np.void] = np.zeros(capacity, writer.metadata_type)
    writer.metadata_sm = SimpleNamespace(buf=metadata.view(np.uint8))
    return metadata


def _store_jpeg(
    destination: NDArray[np.void], sample: Sample, malloc: Callable[[int], tuple[int, Any]]
) -> None:
    """What `RGBImageField.encode` does, with the bytes as they are."""
    destination["mode"] = _JPEG_MODE
    destination["height"], destination["width"] = sample.height, sample.width
    destination["data_ptr"], storage = malloc(len(sample.jpeg))
    storage[:] = np.frombuffer(sample.jpeg, np.uint8)
