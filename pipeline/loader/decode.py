"""From encoded to decoded batches: what every decoder shares, and what happens to a bad sample.

A decoder fills the images of a slot. A sample that it cannot decode, or that has not the size that
the index promises, is named and counted, and its place is taken by the next sample id that decodes:
a rule that knows neither ranks nor threads, so every world size sees the same batches.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from pipeline.batch import Bytes, DecodedBatch, EncodedBatch, Ids, RaggedImages
from pipeline.loader.ring import Slot
from pipeline.saliency.codec import decode_mask
from pipeline.shards import ReadMemory, Shards
from pipeline.stats import Beat, no_beat


class Decoder(Protocol):
    """Decodes JPEGs into prepared room. `device`: where that room has to be."""

    @property
    def device(self) -> torch.device: ...

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded."""
        ...

    def close(self) -> None: ...


class TooManyBadSamples(RuntimeError):
    """More samples cannot be decoded than the run tolerates."""


class BadSamples:
    """The samples that could not be decoded, by id, with the reason; shared by threads.

    Raises:
        TooManyBadSamples: from `add`, above the budget, with the list.
    """

    def __init__(self, shards: Shards, *, budget: int) -> None:
        self._shards = shards
        self._budget = budget
        self._lock = threading.Lock()
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, sample_id: int, reason: str) -> None:
        with self._lock:
            self.reasons[sample_id] = reason
            spent = len(self.reasons) > self._budget
        if spent:
            raise TooManyBadSamples(too_many(self.described(), self._budget))

    def add_rows(self, sample_ids: Ids, faults: Mapping[int, str]) -> None:
        """Add the samples of some rows."""
        for row, reason in faults.items():
            self.add(int(sample_ids[row]), reason)

    def described(self) -> dict[int, str]:
        """The original name and what is wrong, by sample id."""
        with self._lock:  # others may add while this one reads
            reasons = dict(self.reasons)
        return {i: f"{self._shards.key(i)}: {reason}" for i, reason in reasons.items()}


def too_many(bad: Mapping[int, str], budget: int) -> str:
    """Say that more samples are bad than the budget allows, and which."""
    return (
        f"{len(bad)} samples cannot be decoded, more than loader.max_bad={budget}; convert the "
        f"data set again. " + "; ".join(bad_lines(bad))
    )


def bad_lines(bad: Mapping[int, str], limit: int = 20) -> list[str]:
    """One line for each bad sample, by id, up to a limit."""
    lines = [f"sample {i} ({bad[i]})" for i in sorted(bad)[:limit]]
    return lines + ([f"and {len(bad) - limit} more"] if len(bad) > limit else [])


def read_batch(
    shards: Shards,
    bad: BadSamples,
    *,
    sample_ids: Ids,
    memory: ReadMemory | None = None,
    beat: Beat = no_beat,
) -> EncodedBatch:
    """Read samples; in place of those whose bytes are no good, others.

    Raises:
        TooManyBadSamples: the budget of bad samples is spent.
    """
    while True:
        encoded = shards.read(_without_known_bad(sample_ids, bad, len(shards)), memory, beat)
        if not encoded.faults:
            return encoded
        bad.add_rows(encoded.sample_ids, encoded.faults)


def decode_batch(
    shards: Shards,
    decoder: Decoder,
    slot: Slot,
    bad: BadSamples,
    *,
    encoded: EncodedBatch,
    epoch: int,
) -> DecodedBatch:
    """Decode samples into a slot; in place of those that cannot be decoded, others.

    Raises:
        TooManyBadSamples: the budget of bad samples is spent.
    """
    while True:
        images, masks = slot.lay_out(encoded.heights, encoded.widths)
        failures = decoder.decode(encoded, images) | _decode_masks(encoded.masks, masks.numpy())
        if not failures:
            break
        bad.add_rows(encoded.sample_ids, failures)
        encoded = read_batch(shards, bad, sample_ids=encoded.sample_ids)
    return DecodedBatch(
        images=images,
        masks=masks,
        labels=torch.from_numpy(encoded.labels.astype(np.int64)),
        sample_ids=encoded.sample_ids,
        epoch=epoch,
    )


def _without_known_bad(sample_ids: Ids, bad: BadSamples, num_samples: int) -> Ids:
    """Replace each bad id by the next good one, cyclically."""
    if not bad.reasons:
        return sample_ids
    ids = sample_ids.copy()
    for row, sample_id in enumerate(ids):
        while int(sample_id) in bad.reasons:
            sample_id = (sample_id + 1) % num_samples
            if sample_id == sample_ids[row]:
                raise TooManyBadSamples("no sample of these shards can be decoded")
        ids[row] = sample_id
    return ids


def _decode_masks(encoded: Sequence[memoryview], grids: Bytes) -> dict[int, str]:
    """Fill the grids; return {row: reason} of those that could not be decoded."""
    failures = {}
    for row, data in enumerate(encoded):
        try:
            grids[row] = decode_mask(data) if len(data) else 255
        except ValueError as error:
            failures[row] = f"its mask cannot be decoded: {error}"
    return failures
