"""Which JPEGs every decoder reads alike: a look at the markers, not at the pixels.

libjpeg-turbo, DALI and FFCV agree to a level or so on plain JPEGs, and not on others: FFCV's
decoder fails on CMYK and lossless ones and leaves the buffer as it was, DALI turns what EXIF says
is turned, hardware knows neither arithmetic coding nor odd chroma sampling. Only plain ones keep
their bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_HUFFMAN_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive
_NOT_FRAMES = frozenset((0xC4, 0xC8, 0xCC))  # DHT, JPG, DAC lie among the SOF markers
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_END, _SCAN, _APP2, _APP14 = 0xD9, 0xDA, 0xE2, 0xEE
_PLAIN_SAMPLING = frozenset(  # (horizontal, vertical) of luma, where both chromas have (1, 1)
    ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1))
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JpegHeader:
    """What the markers before the first scan say."""

    frame: int  # marker of the frame header
    precision: int  # bits
    height: int
    width: int
    components: tuple[tuple[int, int, int], ...]  # (id, horizontal, vertical sampling)
    adobe_transform: int | None
    has_pictures_inside: bool  # MPO: more frames follow the first picture

    @property
    def is_plain(self) -> bool:
        """Whether all decoders read it alike: 8 bit Huffman YCbCr of a usual sampling."""
        sampling = tuple(component[1:] for component in self.components)
        ids = bytes(component[0] for component in self.components)
        return (
            self.frame in _HUFFMAN_FRAMES
            and self.precision == 8
            and len(sampling) == 3
            and sampling[0] in _PLAIN_SAMPLING
            and sampling[1:] == ((1, 1), (1, 1))
            and self.adobe_transform in (None, 1)
            and ids != b"RGB"
            and not self.has_pictures_inside
        )


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG does."""
    return data[:3] == b"\xff\xd8\xff"


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the markers up to the first scan; None: they are damaged."""
    frame: tuple[int, bytes] | None = None
    adobe, has_pictures_inside = None, False
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:  # a fill byte, or a marker alone
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (_SCAN, _END):
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            frame = (marker, body)
        elif marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == _APP2 and body[:4] == b"MPF\x00":
            has_pictures_inside = True
        position += 2 + length
    if frame is None or len(frame[1]) < 6 or len(frame[1]) < 6 + 3 * frame[1][5]:
        return None
    return _header(*frame, adobe, has_pictures_inside)


def _header(marker: int, body: bytes, adobe: int | None, has_pictures_inside: bool) -> JpegHeader:
    precision, height, width, count = struct.unpack_from(">BHHB", body)
    return JpegHeader(
        frame=marker,
        precision=precision,
        height=height,
        width=width,
        components=tuple(
            (body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, 6 + 3 * count, 3)
        ),
        adobe_transform=adobe,
        has_pictures_inside=has_pictures_inside,
    )
