"""Shards without files: the same protocol over pictures in memory, for tests and small sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from pipeline.batch import Bytes, EncodedBatch, Floats, Ids, Ints
from pipeline.saliency.codec import coverage, decode_mask, encode_mask
from pipeline.shards.files import ReadMemory
from pipeline.shards.index import IndexBuilder, Place, Sample, stored_bytes
from pipeline.shards.manifest import FORMAT_VERSION, Manifest
from pipeline.shards.writer import library_versions, summarise_masks, summarise_sizes
from pipeline.stats import Beat, no_beat


class MemoryShards:
    """Samples held as bytes."""

    def __init__(self, samples: Sequence[Sample], *, label_names: Sequence[str] = ()) -> None:
        """Take samples in the order of their ids.

        Raises:
            ValueError: there are none.
        """
        if not samples:
            raise ValueError("shards need at least one sample")
        builder = IndexBuilder(len(samples))
        for sample in samples:
            builder.add(sample, Place(file=0, jpeg_offset=0, mask_offset=0))
        rows = builder.finish().rows
        self.path = Path("memory")
        self.heights: Ints = rows["height"].astype(np.int32)
        self.widths: Ints = rows["width"].astype(np.int32)
        self.labels: Ints = rows["label"].astype(np.int32)
        self.mask_coverage: Floats = rows["coverage"].astype(np.float32)
        self.stored_bytes: Ids = stored_bytes(rows)
        self.manifest = Manifest(
            format="memory",
            format_version=FORMAT_VERSION,
            num_samples=len(samples),
            label_names=tuple(label_names),
            source="memory",
            description=f"{len(samples)} pictures in memory",
            short_side=0,
            quality=0,
            masks=summarise_masks(rows, "memory"),
            sizes=summarise_sizes(rows, sum(sample.unchanged for sample in samples)),
            files=(),
            index_sha256="",
            num_skipped=0,
            skipped=(),
            num_repaired=0,
            repaired=(),
            versions=library_versions(),
        )
        self._samples = tuple(samples)

    @classmethod
    def from_images(
        cls,
        images: Sequence[Bytes],
        *,
        masks: Sequence[Bytes | None] | None = None,
        labels: Sequence[int] | None = None,
        label_names: Sequence[str] = (),
        quality: int = 95,
    ) -> MemoryShards:
        """Encode pictures, uint8 RGB [H, W, 3] each, and their masks, uint8 [H, W] or None each."""
        chosen = masks if masks is not None else [None] * len(images)
        numbers = labels if labels is not None else [-1] * len(images)
        return cls(
            [
                _encode(f"{row:09d}", image, mask, int(label), quality)
                for row, (image, mask, label) in enumerate(
                    zip(images, chosen, numbers, strict=True)
                )
            ],
            label_names=label_names,
        )

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, sample_id: int) -> str:
        return self._samples[sample_id].key

    def read(
        self, sample_ids: Ids, memory: ReadMemory | None = None, beat: Beat = no_beat
    ) -> EncodedBatch:
        """Return the bytes of samples, without copying them.

        Raises:
            ValueError: an id is out of range.
        """
        ids = np.asarray(sample_ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(f"sample ids {ids.min()}..{ids.max()} of {len(self)} samples")
        samples = [self._samples[sample_id] for sample_id in ids]
        return EncodedBatch(
            jpegs=tuple(memoryview(sample.jpeg) for sample in samples),
            masks=tuple(memoryview(sample.mask) for sample in samples),
            heights=self.heights[ids],
            widths=self.widths[ids],
            labels=self.labels[ids],
            sample_ids=ids,
        )

    def expect(self, sample_ids: Ids) -> None:
        """They are here already."""

    def close(self) -> None:
        """There is nothing to let go of."""


def _encode(key: str, image: Bytes, mask: Bytes | None, label: int, quality: int) -> Sample:
    record = b"" if mask is None else encode_mask(mask)
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling="420"
    )
    return Sample(
        key=key,
        label=label,
        jpeg=jpeg,
        mask=record,
        height=image.shape[0],
        width=image.shape[1],
        coverage=coverage(decode_mask(record)) if record else math.nan,
        unchanged=False,
    )
