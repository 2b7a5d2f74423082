"""JPEG decoding by DALI's CPU operators, fed with the bytes that `shards.read` gives.

Order and randomness stay ours: DALI sees one batch of encoded bytes at a time. DALI gives up a
whole batch for one bad JPEG and does not say which (observed with 2.4.0); so a failed batch is
decoded again by libjpeg-turbo, which names the culprit, and the pipeline is built anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.batch import EncodedBatch, RaggedImages
from pipeline.loader.turbojpeg import decode_into


class DaliDecoder:
    """Decoder of design section 3, stage F, by a DALI pipeline on CPU."""

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        self._pipeline: Any = None
        self._max_batch = 0

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded."""
        rows = range(len(encoded.jpegs))
        try:
            decoded = self._run(encoded)
        except RuntimeError as error:
            self._pipeline = None  # DALI: "Current pipeline object is no longer valid"
            reasons = {row: decode_into(encoded, images, row) for row in rows}
            failures = {row: reason for row, reason in reasons.items() if reason}
            if not failures:
                raise RuntimeError(
                    f"DALI cannot decode a batch that libjpeg-turbo can (samples "
                    f"{encoded.sample_ids.tolist()}); run with --set loader.decoder=turbojpeg"
                ) from error
            return failures
        failures = {}
        for row in rows:
            pixels, place = np.asarray(decoded[row]), images.image(row).numpy()
            if pixels.shape == place.shape:
                place[...] = pixels
            else:
                failures[row] = (
                    f"its JPEG is {pixels.shape[1]}x{pixels.shape[0]}, the index says "
                    f"{place.shape[1]}x{place.shape[0]}"
                )
        return failures

    def close(self) -> None:
        """Drop the pipeline and its threads."""
        self._pipeline = None

    def _run(self, encoded: EncodedBatch) -> Any:
        if self._pipeline is None or len(encoded.jpegs) > self._max_batch:
            self._max_batch = max(self._max_batch, len(encoded.jpegs))
            self._pipeline = build_decode_pipeline(self._max_batch, self._threads)
        bytes_of = [np.frombuffer(jpeg, np.uint8) for jpeg in encoded.jpegs]
        self._pipeline.feed_input("jpegs", bytes_of)
        (decoded,) = self._pipeline.run()
        return decoded


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
