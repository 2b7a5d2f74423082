"""JPEG decoding by libjpeg-turbo (simplejpeg) in threads, straight into the slot.

Exact settings (slow DCT, smooth upsampling), so that pixels equal Pillow's and DALI's CPU decoder.
The library releases the GIL while it decodes. Truncated data counts as an error (strict).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.batch import EncodedBatch, RaggedImages


class TurboJpegDecoder:
    """Decoder of design section 3, stage F, on CPU threads."""

    def __init__(self, *, threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None
        self._threads = threads

    def decode(self, encoded: EncodedBatch, images: RaggedImages) -> dict[int, str]:
        """Fill `images`; return {row: reason} of those that could not be decoded."""
        rows = range(len(encoded.jpegs))
        if self._pool is None:
            reasons = [decode_into(encoded, images, row) for row in rows]
        else:
            reasons = list(self._pool.map(lambda row: decode_into(encoded, images, row), rows))
        return {row: reason for row, reason in zip(rows, reasons, strict=True) if reason}

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def decode_into(encoded: EncodedBatch, images: RaggedImages, row: int) -> str:
    """Decode one JPEG into its place; return why it could not be done, or ''."""
    import simplejpeg

    data = encoded.jpegs[row]
    expected = (int(encoded.heights[row]), int(encoded.widths[row]))
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != expected:
            return f"its JPEG is {width}x{height}, the index says {expected[1]}x{expected[0]}"
        simplejpeg.decode_jpeg(data, buffer=images.image(row).numpy())
    except ValueError as error:
        return f"its JPEG cannot be decoded: {error}"
    return ""
