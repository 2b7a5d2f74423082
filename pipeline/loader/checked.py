"""A decoder that is never trusted further than it was seen.

nvJPEG's batched call reports success for every image of a batch, also for those that it skipped
(seen on Blackwell: black frames), and sizes prove nothing: they are read from the headers. So

- what the decoder refuses, or leaves in one colour as if it had skipped it, is decoded by
  libjpeg-turbo: a sample is bad where it is bad on a CPU;
- one image of each batch, another place each time, is compared with libjpeg-turbo's. Beyond the
  tolerance, nobody knows what earlier batches held, and the run stops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.batch import EncodedBatch, RaggedImages
from pipeline.loader.decode import Decoder
from pipeline.loader.own_stream import OwnStream
from pipeline.loader.ragged import byte_sizes, side_by_side, some_encoded, some_images
from pipeline.loader.tolerance import TOLERANCE, difference
from pipeline.loader.turbojpeg import decode_into

_DEAD_AFTER = 32  # good images in a row that the decoder did not decode: it is broken
_POINTS = 32  # pixels looked at: a subject on a fifth of a plain picture is missed by 0.1 %
_GOLDEN = 0.6180339887498949


class WrongPixels(RuntimeError):
    """A decoder returned other pictures than libjpeg-turbo, or none. `found`: what exactly."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; start again with --set loader.decoder=turbojpeg")
        self.found = found


class CheckedDecoder:
    """Stands before a decoder that writes to `device`; `name` says which, in messages.

    Raises (from `decode`):
        WrongPixels: it cannot be relied on; the message says what to do.
    """

    def __init__(self, decoder: Decoder, *, name: str, device: torch.device) -> None:
        self.device = device
        self._decoder = decoder
        self._name = name
        self._stream = OwnStream(device)
        self._batches = 0
        self._missed = 0  # good images in a row that the decoder did not decode

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that libjpeg-turbo cannot decode either."""
        missed = self._decoder.decode(encoded, images)
        failures: dict[int, str] = {}
        with self._stream.current():
            good = [row for row in range(len(encoded.jpegs)) if row not in missed]
            for row in plain_rows(some_images(images, good)) if good else []:
                missed[good[row]] = "it came out in one colour"
            good = [row for row in good if row not in missed]
            if good:
                self._missed = 0
                self._compare(encoded, images, good[self._batches % len(good)])
            for row in sorted(missed):
                if reason := self._decode_exactly(encoded, images, row, missed[row]):
                    failures[row] = reason
            self._stream.wait()
        self._batches += 1
        return failures

    def close(self) -> None:
        """Close the decoder that it stands before."""
        self._decoder.close()

    def _compare(self, encoded: EncodedBatch, images: RaggedImages, row: int) -> None:
        """Compare an image with libjpeg-turbo's, unless that finds it damaged."""
        exact, reason = decode_exactly(encoded, images, row)
        found = "" if reason else unlike(images.image(row), exact)
        if found:
            raise WrongPixels(
                f"the {self._name} JPEG decoder gives another picture than libjpeg-turbo for "
                f"sample {encoded.sample_ids[row]}: {found}"
            )

    def _decode_exactly(
        self, encoded: EncodedBatch, images: RaggedImages, row: int, why: str
    ) -> str:
        """Decode an image that the decoder missed, or perhaps did; return why it cannot be done."""
        exact, reason = decode_exactly(encoded, images, row)
        if reason or not unlike(images.image(row), exact):
            return reason  # bad; or it is really of one colour
        self._missed += 1
        if self._missed >= _DEAD_AFTER:
            raise WrongPixels(
                f"the {self._name} JPEG decoder has missed {self._missed} good images in a row, "
                f"sample {encoded.sample_ids[row]} because: {why}"
            )
        images.image(row).copy_(exact)
        return ""


def decode_exactly(encoded: EncodedBatch, images: RaggedImages, row: int) -> tuple[Tensor, str]:
    """Decode one image by libjpeg-turbo: its pixels, uint8 [H, W, 3] on the CPU, and what is wrong.

    `images` only says how large it is to be.
    """
    sizes = some_images(images, [row])
    room = torch.empty(int(byte_sizes(sizes)), dtype=torch.uint8)
    alone = side_by_side(room, sizes)
    reason = decode_into(some_encoded(encoded, [row]), alone, 0)
    return alone.image(0), reason


def unlike(image: Tensor, exact: Tensor) -> str:
    """Say in what an image, uint8 [H, W, 3], is not the exact one within the tolerance, or ''."""
    return difference(image.cpu().numpy(), exact.numpy()).beyond(TOLERANCE)


def plain_rows(images: RaggedImages) -> list[int]:
    """The images of one colour, as far as 32 of their pixels show: perhaps they were skipped.

    One look at all images together, on their device.
    """
    pixels = images.heights.to(torch.float64) * images.widths
    fractions = torch.arange(1, _POINTS + 1, dtype=torch.float64) * _GOLDEN % 1
    at = (pixels[:, None] * fractions).to(torch.int64) * 3 + images.offsets[:, None]
    index = (at[:, :, None] + torch.arange(3)).to(images.pixels.device)
    seen = images.pixels[index]  # [B, points, 3]
    plain = (seen == seen[:, :1]).flatten(1).all(dim=1)
    return [int(row) for row in plain.nonzero().flatten().tolist()]
