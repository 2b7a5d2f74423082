"""JPEG decoding on one engine of a GPU by DALI and nvImageCodec, into memory that is ours.

- nvJPEG's hardware engine on Hopper writes without waiting for the CUDA stream. So nobody else may
  use a buffer that it gets: it writes to DALI's own, and the copies out of them are finished before
  DALI may use them again. `decode` returns when all is done.
- DALI loses a whole batch for one bad JPEG, without a name. A refused batch is halved until the bad
  ones are alone.
- Sizes are compared with the index. Pixels are not looked at here: see checked.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.batch import EncodedBatch, RaggedImages
from pipeline.loader.dali_gpu_graph import ENGINES, DecodeGraph, copy_out, why_refused
from pipeline.loader.own_stream import OwnStream, Scratch
from pipeline.loader.ragged import (
    byte_sizes,
    one_run,
    places,
    side_by_side,
    some_encoded,
    some_images,
)
from pipeline.stats import Beat, no_beat


class DaliGpuDecoder:
    """Decoder on one engine of a GPU: "hardware" or "cuda". On a CPU device, DALI's CPU decoder.

    What `hardware` cannot do (progressive JPEGs, 4:1:1 and 4:1:0 chroma) falls to CUDA in DALI.
    `images.pixels` lies on `device`, and nobody else uses it during `decode`.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        engine: str,
        threads: int = 1,
        beat: Beat = no_beat,
    ) -> None:
        assert engine in ENGINES, engine
        self.device = device
        self._graph = DecodeGraph(device=device, engine=engine, threads=threads)
        self._stream = OwnStream(device)
        self._scratch = Scratch(device)
        self._beat = beat

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that DALI refuses."""
        with self._stream.current():
            return self._decode_rows(encoded, images, range(len(encoded.jpegs)))

    def close(self) -> None:
        """Drop the pipeline and its threads."""
        self._graph.close()

    def _decode_rows(
        self, encoded: EncodedBatch, images: RaggedImages, rows: Sequence[int]
    ) -> dict[int, str]:
        """Decode rows; return {row: reason} of those that DALI refuses, or finds of another size.

        What becomes of an image does not depend on the others: one that is decoded in company is
        decoded alone too.
        """
        self._beat(int(encoded.sample_ids[rows[0]]))
        try:
            decoded = self._graph.run(some_encoded(encoded, rows).jpegs)
        except RuntimeError as error:
            if len(rows) == 1:
                return {rows[0]: why_refused(error)}
            middle = len(rows) // 2
            halves = (rows[:middle], rows[middle:])
            first, second = (self._decode_rows(encoded, images, half) for half in halves)
            return first | second
        wanted = some_images(images, rows)
        others = _of_another_size(decoded.shape(), wanted)
        if not others:
            self._copy(decoded, wanted)
            return {}
        fitting = [row for number, row in enumerate(rows) if number not in others]
        refused = {rows[number]: reason for number, reason in others.items()}
        return refused | (self._decode_rows(encoded, images, fitting) if fitting else {})

    def _copy(self, decoded: object, images: RaggedImages) -> None:
        """Copy what DALI decoded to its places, and wait: then DALI may have its memory back."""
        try:
            target = one_run(images)
            if target is not None:
                copy_out(decoded, target, self._stream.handle)
                return
            # Other images lie between these. One launch into a row, few from there to the places.
            row = side_by_side(self._scratch.of(int(byte_sizes(images).sum())), images)
            copy_out(decoded, row.pixels, self._stream.handle)
            torch._foreach_copy_(places(images), places(row))
        finally:
            self._stream.wait()


def _of_another_size(found: Sequence[Sequence[int]], wanted: RaggedImages) -> dict[int, str]:
    """Which images DALI made of another size than the index says, by their number."""
    expected = zip(wanted.heights.tolist(), wanted.widths.tolist(), strict=True)
    return {
        number: f"DALI makes it {tuple(shape)}"
        for number, (shape, size) in enumerate(zip(found, expected, strict=True))
        if tuple(shape) != (*size, 3)
    }
