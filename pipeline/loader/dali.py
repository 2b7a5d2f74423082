"""JPEG decoding by DALI's CPU operators, fed with the bytes that `shards.read` gives.

Order and randomness stay ours: DALI sees one batch of encoded bytes at a time. DALI gives up a
whole batch for one bad JPEG and does not say which (observed with 2.4.0); so a failed batch is
decoded again one image at a time. DALI forgives damage that libjpeg-turbo's strict mode does not:
which of a damaged data set's samples count as bad depends on the decoder, but on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.batch import CPU, EncodedBatch, RaggedImages
from pipeline.stats import Beat, no_beat


class DaliDecoder:
    """Decoder of design section 3, stage G, by a DALI pipeline on CPU."""

    device = CPU

    def __init__(self, *, threads: int = 1, beat: Beat = no_beat) -> None:
        self._threads = threads
        self._beat = beat
        self._pipeline: Any = None
        self._max_batch = 0

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded."""
        rows = range(len(encoded.jpegs))
        try:
            decoded = self._run(encoded.jpegs)
        except RuntimeError:
            return self._decode_alone(encoded, images)
        reasons = {row: _place(decoded[row], images, row) for row in rows}
        return {row: reason for row, reason in reasons.items() if reason}

    def close(self) -> None:
        """Drop the pipeline and its threads."""
        self._pipeline = None

    def _run(self, jpegs: Sequence[memoryview]) -> Any:
        if self._pipeline is None or len(jpegs) > self._max_batch:
            self._max_batch = max(self._max_batch, len(jpegs))
            self._pipeline = build_decode_pipeline(self._max_batch, self._threads)
        try:
            self._pipeline.feed_input("jpegs", [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs])
            (decoded,) = self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # DALI: "Current pipeline object is no longer valid"
            raise
        return decoded

    def _decode_alone(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Decode image by image: what DALI refuses of one must not depend on the others."""
        failures = {}
        for row, jpeg in enumerate(encoded.jpegs):
            self._beat(int(encoded.sample_ids[row]))
            try:
                reason = _place(self._run([jpeg])[0], images, row)
            except RuntimeError as error:
                reason = f"its JPEG cannot be decoded: {_short(error)}"
            if reason:
                failures[row] = reason
        return failures


def _place(decoded: Any, images: RaggedImages, row: int) -> str:
    """Copy a decoded image to its place; return why it could not be done, or ''."""
    pixels, place = np.asarray(decoded), images.image(row).numpy()
    if pixels.shape != place.shape:
        return (
            f"its JPEG is {pixels.shape[1]}x{pixels.shape[0]}, the index says "
            f"{place.shape[1]}x{place.shape[0]}"
        )
    place[...] = pixels
    return ""


def _short(error: RuntimeError) -> str:
    """The line of DALI's long message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if "failure" in line.lower()]
    return (lines or [str(error).splitlines()[0]])[0][:200]


def build_decode_pipeline(batch_size: int, threads: int) -> Any:
    """Return a DALI pipeline from external encoded bytes ("jpegs") to uint8 RGB on the CPU."""
    from nvidia.dali import fn, pipeline_def, types

    # prefetch_queue_depth 1: the ring is the queue, a second one would only hold batches back.
    @pipeline_def(
        batch_size=batch_size, num_threads=threads, device_id=None, prefetch_queue_depth=1
    )
    def decode() -> Any:
        jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
        return fn.decoders.image(jpegs, device="cpu", output_type=types.RGB)

    pipeline = decode()
    pipeline.build()
    return pipeline
