"""JPEG decoding by libjpeg-turbo (simplejpeg) in threads, straight into the slot.

Exact settings (slow DCT, smooth upsampling), so that pixels equal Pillow's and DALI's CPU decoder.
The library releases the GIL while it decodes. Truncated data counts as an error (strict).
"""

from __future__ import annotations

from pipeline.batch import Bytes, EncodedBatch, RaggedImages
from pipeline.devices import CPU
from pipeline.stats import Beat, no_beat
from pipeline.threads import Threads


class TurboJpegDecoder:
    """Decoder of design section 3, stage G, on CPU threads."""

    device = CPU

    def __init__(self, *, threads: int = 1, beat: Beat = no_beat) -> None:
        self._threads = Threads(threads, "decode")
        self._beat = beat

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded."""
        rows = iter(range(len(encoded.jpegs)))  # a thread takes the next when it is free
        failures = {}

        def decode_rows() -> None:
            for row in rows:
                self._beat(int(encoded.sample_ids[row]))
                if reason := decode_into(encoded, images, row):
                    failures[row] = reason

        self._threads.run(decode_rows)
        return failures

    def close(self) -> None:
        """End the threads."""
        self._threads.close()


def decode_into(encoded: EncodedBatch, images: RaggedImages, row: int) -> str:
    """Decode one JPEG into its place; return why it could not be done, or ''."""
    place, data = images.image(row).numpy(), encoded.jpegs[row]
    try:
        found = _decode(data, place)
    except ValueError as error:
        return f"its JPEG cannot be decoded: {error}"
    if found == place.shape[:2]:
        return ""
    return f"its JPEG is {found[1]}x{found[0]}, the index says {place.shape[1]}x{place.shape[0]}"


def _decode(data: memoryview, place: Bytes) -> tuple[int, int]:
    """Fill the place if the picture has its size; return the picture's (height, width)."""
    import simplejpeg

    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except KeyError:  # a subsampling that it has no name for (4:4:1), but decodes
        pixels = simplejpeg.decode_jpeg(data)
        if pixels.shape == place.shape:
            place[...] = pixels
        return int(pixels.shape[0]), int(pixels.shape[1])
    if (height, width) == place.shape[:2]:
        simplejpeg.decode_jpeg(data, buffer=place)
    return int(height), int(width)
