"""A decoder on the CPU whose pixels are wanted in the memory of a GPU."""

from __future__ import annotations

import torch

from pipeline.batch import EncodedBatch, RaggedImages
from pipeline.devices import CPU
from pipeline.loader.decode import Decoder
from pipeline.loader.own_stream import OwnStream, Scratch
from pipeline.loader.ragged import byte_sizes, places, side_by_side


class UploadedDecoder:
    """Decodes into page-locked memory of its own, and copies each image to its place from there.

    The copies are done by the GPU's copy engines, on a stream of their own; `decode` returns when
    they have arrived.
    """

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self.device = device
        self._decoder = decoder
        self._stream = OwnStream(device)
        self._staging = Scratch(CPU, pinned=device.type == "cuda")

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded."""
        staged = side_by_side(self._staging.of(int(byte_sizes(images).sum())), images)
        failures = self._decoder.decode(encoded, staged)
        with self._stream.current():
            torch._foreach_copy_(places(images), places(staged), non_blocking=True)
            self._stream.wait()
        return failures

    def close(self) -> None:
        """Close the decoder that it stands before."""
        self._decoder.close()
