"""JPEG decoding by DALI's CPU operators, fed with the bytes that `shards.read` gives.

Order and randomness stay ours: DALI sees one batch of encoded bytes at a time. DALI gives up a
whole batch for one bad JPEG and does not say which (observed with 2.4.0); so a failed batch is
decoded again one image at a time. DALI forgives damage that libjpeg-turbo's strict mode does not:
which of a damaged data set's samples count as bad depends on the decoder, but on nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.batch import EncodedBatch, RaggedImages
from pipeline.devices import CPU
from pipeline.loader.dali_gpu_graph import DecodeGraph, why_refused
from pipeline.stats import Beat, no_beat


class DaliDecoder:
    """Decoder of design section 3, stage G, by a DALI pipeline on CPU."""

    device = CPU

    def __init__(self, *, threads: int = 1, beat: Beat = no_beat) -> None:
        # on a CPU the engine means nothing
        self._graph = DecodeGraph(device=CPU, engine="cuda", threads=threads)
        self._beat = beat

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded."""
        rows = range(len(encoded.jpegs))
        try:
            decoded = self._graph.run(encoded.jpegs)
        except RuntimeError:
            return self._decode_alone(encoded, images)
        reasons = {row: _place(decoded[row], images, row) for row in rows}
        return {row: reason for row, reason in reasons.items() if reason}

    def close(self) -> None:
        """Drop the pipeline and its threads."""
        self._graph.close()

    def _decode_alone(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Decode image by image: what DALI refuses of one must not depend on the others."""
        failures = {}
        for row, jpeg in enumerate(encoded.jpegs):
            self._beat(int(encoded.sample_ids[row]))
            try:
                reason = _place(self._graph.run([jpeg])[0], images, row)
            except RuntimeError as error:
                reason = f"its JPEG cannot be decoded: {why_refused(error)}"
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
