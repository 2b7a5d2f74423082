"""The look at a JPEG's markers: what is plain, what is not, and what is damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.sources.jpeg import is_jpeg, read_jpeg_header
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
