"""Which JPEGs every decoder reads alike: a look at the markers, not at the pixels.

libjpeg-turbo, DALI and FFCV agree to a level or so on plain JPEGs, and not on others: FFCV's
decoder fails on CMYK and lossless ones and leaves the buffer as it was, DALI turns what EXIF says
is turned, hardware knows neither arithmetic coding nor odd chroma sampling. Only plain ones keep
their bytes.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_HUFFMAN_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive
_NOT_FRAMES = frozenset((0xC4, 0xC8, 0xCC))  # DHT, JPG, DAC lie among the SOF markers
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_END, _SCAN, _APP1, _APP2, _APP13, _APP14 = 0xD9, 0xDA, 0xE1, 0xE2, 0xED, 0xEE
_PROGRESSIVE = 0xC2
_METADATA = (_APP1, _APP13)  # EXIF and XMP; what Photoshop keeps, copies of both among it
_SCAN_MARKER = re.compile(rb"\xff\xda")  # pixels hold no such bytes
_END_MARKER = b"\xff\xd9"
_PLAIN_SAMPLING = frozenset(  # (horizontal, vertical) of luma, where both chromas have (1, 1)
    ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1))
)

# the tag Orientation in a TIFF folder, with any type of value there is, and with what is upright:
# a BYTE, SHORT or LONG of 1, or a SHORT of 0, which says nothing
_ENTRY = re.compile(rb"\x12\x01[\x01-\x0d]\x00|\x01\x12\x00[\x01-\x0d]")
_UPRIGHT = re.compile(
    rb"\x12\x01[\x01\x03]\x00\x01\x00\x00\x00\x01\x00|\x12\x01\x03\x00\x01\x00\x00\x00\x00\x00"
    rb"|\x12\x01\x04\x00\x01\x00\x00\x00\x01\x00\x00\x00"
    rb"|\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x00\x01]|\x01\x12\x00\x01\x00\x00\x00\x01\x01"
    rb"|\x01\x12\x00\x04\x00\x00\x00\x01\x00\x00\x00\x01"
)
_EXIF = re.compile(rb"exif\x00.", re.IGNORECASE | re.DOTALL)
_XMP = re.compile(rb"(</[\w:.-]*)?orientation(?:\s*=\s*[\"']|[^<>]*>)\s*([0-9]+)", re.IGNORECASE)
_XMP_EXTENSION = b"http://ns.adobe.com/xmp/extension/\x00"
_XMP_EXTENSION_HEADER = len(_XMP_EXTENSION) + 40  # identifier, size and offset follow


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
    metadata: tuple[tuple[int, int], ...]  # (first byte, end) of segments that could turn it
    first_scan: int  # position of its marker; 0: there is none
    scan_components: int  # in that scan

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

    @property
    def coefficient_bytes(self) -> int:
        """What a decoder must hold beside the pixels: all coefficients, if there are more scans."""
        if self.frame != _PROGRESSIVE and self.scan_components == len(self.components):
            return 0
        samples = [across * down for _, across, down in self.components]
        largest = max(across for _, across, _ in self.components)
        largest *= max(down for _, _, down in self.components)
        return 2 * self.width * self.height * sum(samples) // max(largest, 1)


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes begin as a JPEG does."""
    return data[:3] == b"\xff\xd8\xff"


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the markers up to the first scan; None: they are damaged."""
    frame: tuple[int, bytes] | None = None
    adobe, has_pictures_inside = None, False
    metadata: list[tuple[int, int]] = []
    first_scan = scan_components = 0
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:  # a fill byte, or a marker alone
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (_SCAN, _END):
            if marker == _SCAN and position + 4 < len(data):
                first_scan, scan_components = position, data[position + 4]
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            frame = (marker, body)
        elif marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == _APP2 and body[:4] == b"MPF\x00":
            has_pictures_inside = True
        elif marker in _METADATA:
            metadata.append((position, min(position + 2 + length, len(data))))
        position += 2 + length
    if frame is None or len(frame[1]) < 6 or len(frame[1]) < 6 + 3 * frame[1][5]:
        return None
    precision, height, width, count = struct.unpack_from(">BHHB", frame[1])
    return JpegHeader(
        frame=frame[0],
        precision=precision,
        height=height,
        width=width,
        components=tuple(
            (frame[1][at], frame[1][at + 1] >> 4, frame[1][at + 1] & 15)
            for at in range(6, 6 + 3 * count, 3)
        ),
        adobe_transform=adobe,
        has_pictures_inside=has_pictures_inside,
        metadata=tuple(metadata),
        first_scan=first_scan,
        scan_components=scan_components,
    )


def says_turned(data: bytes, header: JpegHeader) -> bool:
    """Whether a reader could find an orientation other than upright in the metadata of a JPEG.

    Readers differ in what they forgive, so the bytes are searched: for every entry that could be
    the EXIF tag, in either byte order and wherever it lies, and for the word in XMP.
    """
    bodies = [data[start + 4 : end] for start, end in header.metadata]
    if not bodies:
        return False
    # some readers join segments, without the name that each begins with
    whole = bodies[0] + b"".join(body[len(b"Exif\0\0") :] for body in bodies[1:])
    if any(not _UPRIGHT.match(whole, found.start()) for found in _ENTRY.finditer(whole)):
        return True
    if any(_has_odd_entry(body) for body in bodies):
        return True
    extended = [body[_XMP_EXTENSION_HEADER:] for body in bodies if body.startswith(_XMP_EXTENSION)]
    texts = (body.replace(b"\x00", b"") for body in (whole, b"".join(extended)))
    values = (found[2] for text in texts for found in _XMP.finditer(text) if not found[1])
    return any(value not in (b"0", b"1") for value in values)


def _has_odd_entry(body: bytes) -> bool:
    """Whether a first EXIF folder has the tag with a type that there is not: some take it."""
    for found in _EXIF.finditer(body):
        tiff = body[found.end() :]
        for order in "<>":
            if len(tiff) < 10:
                continue
            (first,) = struct.unpack_from(order + "I", tiff, 4)
            if first + 2 > len(tiff):
                continue
            (count,) = struct.unpack_from(order + "H", tiff, first)
            tag = struct.pack(order + "H", 0x0112)
            end = min(first + 2 + 12 * count, len(tiff))
            for at in range(first + 2, end, 12):
                if tiff[at : at + 2] == tag and not _UPRIGHT.match(tiff, at):
                    return True
    return False


def without_metadata(data: bytes, header: JpegHeader) -> bytes:
    """Cut out the segments that could hold an orientation; all other bytes stay as they are."""
    start, parts = 0, []
    for first, end in header.metadata:
        parts.append(data[start:first])
        start = end
    return b"".join((*parts, data[start:]))


def with_end_marker(data: bytes) -> bytes | None:
    """Return a JPEG that lacks nothing but its end marker with that marker, any other as None.

    All coefficients have to be there: of a progressive file that was cut between two scans, the
    last ones are missing. Whether a scan itself is whole is for a strict decoder to say.
    """
    header = read_jpeg_header(data) if is_jpeg(data) else None
    if header is None or data.endswith(_END_MARKER):
        return None
    missing = {component[0]: set(range(64)) for component in header.components}
    if not header.first_scan:
        return None
    for found in _SCAN_MARKER.finditer(data, header.first_scan):
        scan = data[found.end() + 2 : found.end() + 18]
        if not scan or len(scan) < 4 + 2 * scan[0]:
            return None
        first, last, accuracy = scan[1 + 2 * scan[0] : 4 + 2 * scan[0]]
        if accuracy & 15 == 0:  # the lowest bit
            for at in range(1, 1 + 2 * scan[0], 2):
                missing.get(scan[at], set()).difference_update(range(first, last + 1))
    if any(missing.values()):
        return None
    return data.removesuffix(b"\xff") + _END_MARKER
