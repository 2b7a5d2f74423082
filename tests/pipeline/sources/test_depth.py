"""Samples of more than 8 bits: scaled by the declared depth or a given white, and noted if odd."""

import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline.sources.prepare import PrepareSettings, prepare
from tests.pipeline.sources.support import encoded, record_of

RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))
TWELVE = np.rint(RAMP * 4095).astype(np.uint16)


def made(data: bytes, white_level: int = 0) -> tuple[np.ndarray, str]:
    """The pixels that shards hold, [H, W, 3] of 0..1, and what is said of the depth."""
    prepared = prepare(record_of(data), PrepareSettings(quality=95, white_level=white_level))
    return simplejpeg.decode_jpeg(prepared.jpeg) / 255, prepared.depth


def is_ramp(pixels: np.ndarray, low: float = 0, high: float = 1) -> bool:
    return bool(np.abs(pixels - (low + RAMP * (high - low))[:, :, None]).max() < 0.03)


def png(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits a sample, uint16 [H, W, C]: Pillow writes none with several bands."""
    height, width, bands = samples.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bands(samples: np.ndarray, count: int) -> np.ndarray:
    """The same samples in all bands, and no transparency in a last one of an even number."""
    whole = np.repeat(samples[:, :, None], count, axis=2)
    if count % 2 == 0:
        whole[:, :, -1] = 65535
    return whole


def ppm(samples: np.ndarray, kind: bytes) -> bytes:
    return b"%b 64 48 65535\n" % kind + samples.astype(">u2").tobytes()


TWELVE_IN_SIXTEEN = {
    **{f"png, {count} bands": png(bands(TWELVE, count)) for count in (1, 2, 3, 4)},
    "tiff": encoded(Image.fromarray(TWELVE), "TIFF"),
    "tiff, deflated": encoded(Image.fromarray(TWELVE), "TIFF", compression="tiff_deflate"),
    "pgm": ppm(TWELVE, b"P5"),
    "ppm": ppm(bands(TWELVE, 3), b"P6"),
}


@pytest.mark.parametrize("name", list(TWELVE_IN_SIXTEEN))
def test_little_of_a_depth_is_noted_and_a_level_makes_it_right(name):
    pixels, note = made(TWELVE_IN_SIXTEEN[name])
    assert is_ramp(pixels, high=1 / 16)
    assert "white is 65535" in note
    pixels, note = made(TWELVE_IN_SIXTEEN[name], 4095)
    assert is_ramp(pixels)
    assert note == ""


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_all_of_a_depth_is_not_worth_a_note(count):
    pixels, note = made(png(bands(np.rint(RAMP * 65535).astype(np.uint16), count)))
    assert is_ramp(pixels)
    assert note == ""


@pytest.mark.parametrize(
    ("samples", "note", "low", "high"),
    [
        (RAMP.astype(np.float32), "floats from 0 to 1, white is 1", 0, 1),
        (RAMP.astype(np.float32) * 255, "floats from 0 to 255, white is 255", 0, 1),
        (RAMP.astype(np.float32) * 1e6, "floats from 0 to 1e+06, white is 1e+06", 0, 1),
        (RAMP.astype(np.float32) / 100, "floats from 0 to 0.01, white is 1", 0, 0.01),
        (-1 - RAMP.astype(np.float32), "floats from -2 to -1, white is 1", 0, 0),
        (RAMP.astype(np.float32) * np.nan, "floats from 0 to 0, white is 1", 0, 0),
        ((RAMP * (2**31 - 1)).astype(np.int32), "32 bit integers from 0 to 2147483", 0, 1),
        ((RAMP * 255).astype(np.int32), "32 bit integers from 0 to 255, white is 2147", 0, 0),
        ((RAMP * -255).astype(np.int32), "32 bit integers from -255 to 0", 0, 0),
    ],
)
def test_floats_and_32_bits_are_always_noted(samples, note, low, high):
    pixels, found = made(encoded(Image.fromarray(samples), "TIFF"))
    assert found.startswith(note)
    assert is_ramp(pixels, low, high)


def test_infinite_values_are_white_and_black():
    samples = RAMP.astype(np.float32)
    samples[:16], samples[16:32] = np.inf, -np.inf
    pixels, _ = made(encoded(Image.fromarray(samples), "TIFF"))
    assert (pixels[:8] > 0.98).all()
    assert (pixels[24:28] < 0.02).all()
    assert is_ramp(np.tile(pixels[40:], (6, 1, 1)))


@pytest.mark.parametrize("scale", [1000.0, 4095.0])
def test_a_level_is_white_in_floats_and_32_bits(scale):
    for samples in ((RAMP * scale).astype(np.float32), np.rint(RAMP * scale).astype(np.int32)):
        pixels, note = made(encoded(Image.fromarray(samples), "TIFF"), int(scale))
        assert is_ramp(pixels)
        assert note == ""


def test_a_level_that_makes_all_black_or_white_is_noted():
    bright = np.rint(RAMP * 5000 + 60000).astype(np.uint16)
    for data, level in (
        (encoded(Image.fromarray(TWELVE), "PNG"), 2**20),
        (encoded(Image.fromarray(bright), "PNG"), 255),
        (png(bands(bright, 3)), 255),
    ):
        assert "white" in made(data, level)[1]


def test_a_level_leaves_8_bits_alone():
    eight = encoded(np.rint(RAMP * 255).astype(np.uint8), "PNG")
    assert made(eight)[1] == ""
    assert (made(eight, 4095)[0] == made(eight)[0]).all()
