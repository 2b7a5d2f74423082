"""Images to try decoders on: some of the data set's own, and generated ones if it has too few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.batch import Bytes, EncodedBatch, Ints
from pipeline.devices import CPU
from pipeline.loader.ragged import room_for, some_encoded
from pipeline.loader.turbojpeg import TurboJpegDecoder
from pipeline.shards import Shards
from pipeline.shards.memory import MemoryShards

_MOST = 128  # samples
_MOST_PIXELS = 256 << 20  # bytes of all when decoded, if they are like the average one
_FEWEST = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSamples:
    """Encoded images that libjpeg-turbo decodes; they can be sent to another process."""

    jpegs: tuple[bytes, ...]
    heights: Ints
    widths: Ints
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.jpegs)

    def encoded(self) -> EncodedBatch:
        """All of them as a batch, numbered from 0."""
        count = len(self.jpegs)
        return EncodedBatch(
            jpegs=tuple(memoryview(jpeg) for jpeg in self.jpegs),
            masks=(memoryview(b""),) * count,
            heights=self.heights,
            widths=self.widths,
            labels=np.full(count, -1, np.int32),
            sample_ids=np.arange(count),
        )


def trial_samples(shards: Shards) -> TrialSamples:
    """Read up to 128 samples, evenly spread over the ids; below 16, generated pictures follow."""
    average = int(np.mean(shards.heights.astype(np.int64) * shards.widths)) * 3
    count = min(_MOST, len(shards), max(1, _MOST_PIXELS // average))
    ids = np.arange(count) * len(shards) // count
    own = _decodable(shards.read(ids), [f"sample {i} ({shards.key(int(i))})" for i in ids])
    if len(own) >= _FEWEST:
        return own
    pictures = MemoryShards.from_images([_generated(number) for number in range(_FEWEST)])
    names = [f"generated picture {number}" for number in range(_FEWEST)]
    more = _decodable(pictures.read(np.arange(_FEWEST)), names)
    return TrialSamples(
        jpegs=own.jpegs + more.jpegs,
        heights=np.concatenate([own.heights, more.heights]),
        widths=np.concatenate([own.widths, more.widths]),
        names=own.names + more.names,
    )


def _decodable(encoded: EncodedBatch, names: Sequence[str]) -> TrialSamples:
    decoder = TurboJpegDecoder(threads=1)
    failures = decoder.decode(encoded, room_for(encoded, CPU))
    decoder.close()
    bad = failures.keys() | encoded.faults.keys()
    rows = [row for row in range(len(names)) if row not in bad]
    good = some_encoded(encoded, rows)
    return TrialSamples(
        jpegs=tuple(bytes(jpeg) for jpeg in good.jpegs),
        heights=good.heights,
        widths=good.widths,
        names=tuple(names[row] for row in rows),
    )


def _generated(number: int) -> Bytes:
    """A picture with smooth colours, edges and grain, uint8 [H, W, 3]; sides of all remainders."""
    rng = np.random.Generator(np.random.Philox(key=number))
    height, width = 180 + 13 * number, 333 - 11 * number
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(y / rng.uniform(9, 40) + rng.uniform(0, 6)) + x / width for _ in range(3)]
    image = 90 + 55 * np.stack(waves, axis=-1)
    top, left = height // 4, width // 4
    image[top : 2 * top, left : 3 * left] = rng.uniform(0, 255, 3)
    image += rng.normal(0, 6, (height, width, 1))
    picture: Bytes = np.clip(image, 0, 255).astype(np.uint8)
    return picture
