"""Several decoders that share each batch, at the same time.

Decoders differ by a level or two, so who decodes an image must not depend on where it stands in a
batch, on the other images there, or on time: it is a pure function of the sample id, once the
shares are fixed. Every world size and every restart then sees the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import EncodedBatch, Ids, RaggedImages
from pipeline.loader.decode import Decoder
from pipeline.loader.ragged import some_encoded, some_images
from pipeline.threads import Threads

Choices = NDArray[np.intp]
Job = tuple[Decoder, Ids]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: the fractions of its multiples
_TO_UNIT = np.float64(2.0**-53)


def split_by_id(sample_ids: Ids, shares: Sequence[float]) -> Choices:
    """Return which share each sample falls to, 0..len(shares)-1.

    Shares add up to 1. Multiples of the golden ratio lie as evenly as any sequence can: among any
    run of ids, shares are kept to within a few samples, so that no class falls to one decoder
    alone. Of ids in random order, a batch of 256 deviates as a coin does: by 8 for shares of 1/2.
    """
    with np.errstate(over="ignore"):
        fractions = ((sample_ids.astype(np.uint64) * _GOLDEN) >> np.uint64(11)) * _TO_UNIT
    borders = np.cumsum(shares)[:-1]
    return np.searchsorted(borders, fractions, side="right")


class HybridDecoder:
    """Gives each decoder its samples and waits for all; their images have places in one buffer.

    Args:
        decoders: all write to `device`.
        split: sample ids [B] -> which of the decoders each falls to.
    """

    def __init__(
        self,
        decoders: Sequence[Decoder],
        split: Callable[[Ids], Choices],
        *,
        device: torch.device,
    ) -> None:
        self.device = device
        self._decoders = tuple(decoders)
        self._split = split
        self._threads = Threads(len(decoders), "engine")

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded.

        What a decoder raises is raised here, when the others have ended their part.
        """
        waiting = iter(self._jobs(encoded.sample_ids))  # a thread takes the next when it is free
        failures: dict[int, str] = {}

        def work() -> None:
            for decoder, rows in waiting:
                found = decoder.decode(some_encoded(encoded, rows), some_images(images, rows))
                failures.update({int(rows[row]): reason for row, reason in found.items()})

        self._threads.run(work)
        return {row: failures[row] for row in sorted(failures)}

    def close(self) -> None:
        """End the threads and the decoders."""
        self._threads.close()
        for decoder in self._decoders:
            decoder.close()

    def _jobs(self, sample_ids: Ids) -> list[Job]:
        chosen = self._split(sample_ids)
        parts = [(each, np.flatnonzero(chosen == i)) for i, each in enumerate(self._decoders)]
        return [(decoder, rows) for decoder, rows in parts if len(rows)]
