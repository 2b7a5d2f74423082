"""The look at a JPEG's markers: what is plain, what is not, and what is damaged."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.sources.jpeg import (
    is_jpeg,
    read_jpeg_header,
    says_turned,
    with_end_marker,
    without_metadata,
)
from tests.pipeline.sources.support import encoded, jpeg
from tests.support import textured_image

IMAGE = textured_image(24, 40)
PLAIN = jpeg(24, 40)


def patched(data: bytes, marker: int, offset: int, value: int) -> bytes:
    """Change a byte of the body of the first segment with this marker."""
    at = data.index(bytes([0xFF, marker])) + 4 + offset
    return data[:at] + bytes([value]) + data[at + 1 :]


def test_a_header_is_read():
    header = read_jpeg_header(PLAIN)
    assert (header.height, header.width, header.precision) == (24, 40, 8)
    assert header.components == ((1, 2, 2), (2, 1, 1), (3, 1, 1))
    assert header.is_plain


@pytest.mark.parametrize(
    "data",
    [
        encoded(IMAGE, "JPEG", progressive=True),
        encoded(IMAGE, "JPEG", subsampling=0),
        encoded(IMAGE, "JPEG", exif=Image.Exif(), comment=b"hello", icc_profile=b"x" * 70000),
        PLAIN[:2] + b"\xff" * 5 + PLAIN[2:],  # fill bytes before a marker are allowed
    ],
)
def test_usual_jpegs_are_plain(data):
    assert read_jpeg_header(data).is_plain


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(IMAGE).convert("L"), "JPEG"),
        encoded(Image.fromarray(IMAGE).convert("CMYK"), "JPEG"),
        encoded(IMAGE, "JPEG", keep_rgb=True),
        encoded(IMAGE, "MPO", save_all=True, append_images=[Image.fromarray(IMAGE)]),
        patched(PLAIN, 0xC0, 0, 12),  # 12 bits
        patched(PLAIN, 0xC0, 7, 0x41 + 1),  # 4:2 luma sampling
        patched(PLAIN, 0xC0, 10, 0x21),  # a chroma sampled more finely
        PLAIN.replace(b"\xff\xc0", b"\xff\xc9", 1),  # arithmetic coding
        PLAIN.replace(b"\xff\xc0", b"\xff\xc3", 1),  # lossless
    ],
)
def test_unusual_jpegs_are_not_plain(data):
    assert not read_jpeg_header(data).is_plain


def test_the_end_of_a_header_is_not_searched_for_in_pixels():
    assert read_jpeg_header(PLAIN[:2] + PLAIN[PLAIN.index(b"\xff\xda") :]) is None
    assert read_jpeg_header(b"\xff\xd8\xff") is None
    assert read_jpeg_header(b"\xff\xd8" + b"\x00" * 100) is None


@given(st.integers(2, len(PLAIN) - 1), st.integers(0, 255), st.integers(0, len(PLAIN)))
def test_damage_never_ends_in_an_exception(at, value, length):
    damaged = (PLAIN[:at] + bytes([value]) + PLAIN[at + 1 :])[:length]
    header = read_jpeg_header(damaged)
    assert header is None or isinstance(header.is_plain, bool)


def test_jpegs_are_known_by_their_first_bytes():
    assert is_jpeg(PLAIN)
    assert not is_jpeg(encoded(np.zeros((2, 2, 3), np.uint8), "PNG"))
    assert not is_jpeg(b"")


def test_decoders_need_all_coefficients_only_where_there_are_more_scans():
    assert read_jpeg_header(PLAIN).coefficient_bytes == 0
    progressive = read_jpeg_header(encoded(IMAGE, "JPEG", progressive=True))
    assert progressive.coefficient_bytes == 2 * 24 * 40 * 6 // 4


def app(body: bytes, number: int = 1) -> bytes:
    return bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body


def tiff(*entries: tuple[int, int, int, bytes], order: str = "<", count: int = 0) -> bytes:
    """A TIFF folder of (tag, type, count, value) entries."""
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return start + struct.pack(order + "H", count or len(entries)) + body + bytes(4)


def exif(*entries: tuple[int, int, int, bytes], **options: object) -> bytes:
    return app(b"Exif\0\0" + tiff(*entries, **options))


def xmp(text: bytes) -> bytes:
    return app(b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + text + b"</x:xmpmeta>")


def extension(text: bytes) -> bytes:
    return app(b"http://ns.adobe.com/xmp/extension/\0" + bytes(40) + text)


TAG = 0x0112
SIX = (TAG, 3, 1, b"\6\0\0\0")
ONE = (TAG, 3, 1, b"\1\0\0\0")
NAME = (0x010E, 2, 4, b"abc\0")
TURNED = {
    "short": exif(SIX),
    "big endian": exif((TAG, 3, 1, b"\0\6\0\0"), order=">"),
    "long": exif((TAG, 4, 1, b"\6\0\0\0")),
    "byte": exif((TAG, 1, 1, b"\6\0\0\0")),
    "a type that there is not": exif((TAG, 77, 1, b"\6\0\0\0")),
    "no values": exif((TAG, 3, 0, b"\6\0\0\0")),
    "two values": exif((TAG, 3, 2, b"\6\0\6\0")),
    "twice in a folder": exif(ONE, SIX),
    "in the second segment": exif(ONE) + exif(SIX),
    "in the second segment, the first says nothing": exif(NAME) + exif(SIX),
    "after a comment": b"\xff\xfe\0\4ab" + exif(SIX),
    "folder longer than its segment": exif(SIX, count=500),
    "folder cut": app(b"Exif\0\0" + tiff(SIX)[:-8]),
    "tag of a later folder": app(b"Exif\0\0" + tiff(NAME)[:-4] + b"\x1a\0\0\0" + tiff(SIX)[8:]),
    "odd position": app(b"Exif\0\0" + tiff(NAME) + b"x" + tiff(SIX)[8:]),
    "lower case": app(b"exif\0\0" + tiff(SIX)),
    "split over two": app(b"Exif\0\0" + tiff(SIX)[:14]) + app(b"Exif\0\0" + tiff(SIX)[14:]),
    "kept by Photoshop": app(b"Photoshop 3.0\0" + tiff(SIX), 13),
    "XMP attribute": xmp(b'<r tiff:Orientation="6"/>'),
    "XMP single quotes": xmp(b"<r tiff:Orientation = '8'/>"),
    "XMP element": xmp(b"<tiff:Orientation>\n 3 </tiff:Orientation>"),
    "XMP other prefix": xmp(b'<t:orientation rdf:datatype="i">6</t:orientation>'),
    "extended XMP": extension(b"<r tiff:Orient") + extension(b'ation="6"/>'),
    "XMP beside upright EXIF": exif(ONE) + xmp(b'<r tiff:Orientation="6"/>'),
}
UPRIGHT = {
    "short": exif(ONE),
    "big endian": exif((TAG, 3, 1, b"\0\1\0\0"), order=">"),
    "long": exif((TAG, 4, 1, b"\1\0\0\0")),
    "unknown": exif((TAG, 3, 1, b"\0\0\0\0")),
    "no tag": exif(NAME),
    "empty": app(b"Exif\0\0"),
    "XMP": xmp(b'<r tiff:Orientation="1"/><tiff:Orientation>1</tiff:Orientation> 6'),
    "colour profile": app(b"ICC_PROFILE\0\1\1" + tiff(SIX), 2),
    "nothing": b"",
}


@pytest.mark.parametrize("name", list(TURNED))
def test_an_orientation_is_found_wherever_a_reader_could_and_cut_out(name):
    data = PLAIN[:2] + TURNED[name] + PLAIN[2:]
    assert says_turned(data, read_jpeg_header(data))
    kept = without_metadata(data, read_jpeg_header(data))
    assert not says_turned(kept, read_jpeg_header(kept))
    assert kept.replace(b"\xff\xfe\0\4ab", b"") == PLAIN


def test_an_orientation_between_tables_is_found():
    at = PLAIN.index(b"\xff\xc0")
    data = PLAIN[:at] + exif(SIX) + PLAIN[at:]
    assert says_turned(data, read_jpeg_header(data))
    assert without_metadata(data, read_jpeg_header(data)) == PLAIN


@pytest.mark.parametrize("name", list(UPRIGHT))
def test_metadata_that_turns_nothing_is_left_alone(name):
    data = PLAIN[:2] + UPRIGHT[name] + PLAIN[2:]
    assert not says_turned(data, read_jpeg_header(data))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2])
def test_an_end_marker_is_added_where_nothing_else_is_missing(progressive, cut):
    data = encoded(IMAGE, "JPEG", progressive=progressive)
    assert with_end_marker(data[:-cut]) == data
    assert with_end_marker(data) is None


def test_no_end_marker_is_added_where_scans_are_missing():
    whole = encoded(IMAGE, "JPEG", progressive=True)
    whole = whole[:2] + app(b"Exif\0\0" + PLAIN) + whole[2:]
    last_scan = whole.rindex(b"\xff\xda")
    last_tables = whole.rindex(b"\xff\xc4", 0, last_scan)
    assert with_end_marker(whole[:last_scan]) is None
    assert with_end_marker(whole[:last_tables]) is None
    assert with_end_marker(PLAIN[: PLAIN.index(b"\xff\xda")]) is None
    assert with_end_marker(b"\xff\xd8\xff") is None
    assert with_end_marker(encoded(IMAGE, "PNG")) is None
