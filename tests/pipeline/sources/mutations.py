"""Files of every mode and format that Pillow writes, and damage done to them, for a fuzz."""

import io
import struct
import warnings
from collections.abc import Iterator
from random import Random

import numpy as np
from PIL import Image, features

from tests.support import textured_image

_MODES = (
    *("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"),
    *("I;16", "I;16B", "La", "RGBa", "RGBX"),
)
_OPTIONS = {
    "JPEG": (
        *({"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}),
        *({"keep_rgb": True}, {"icc_profile": b"x" * 200}, {"comment": b"c"}),
    ),
    "PNG": ({"bits": 2}, {"transparency": 0}, {"compress_level": 0}),
    "TIFF": tuple(
        {"compression": name}
        for name in (
            *("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group3", "group4", "tiff_ccitt"),
            *("lzma", "zstd", "webp", "raw"),
        )
    ),
    "WEBP": ({"lossless": True},),
    "TGA": ({"compression": "tga_rle"},),
    "BMP": ({},),
    "DDS": ({"pixel_format": "DXT1"}, {"pixel_format": "DXT5"}, {"pixel_format": "BC5"}),
    "ICO": ({"bitmap_format": "bmp"},),
    "SGI": ({"bpc": 2},),
    "JPEG2000": ({"irreversible": True}, {"no_jp2": True}),
}
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def whole_files() -> list[bytes]:
    """Small files of every format and mode that Pillow can save, the same in every run."""
    Image.init()
    found = []
    for name in sorted(set(Image.SAVE).intersection(Image.OPEN)):
        for mode in _MODES:
            for options in ({}, *_OPTIONS.get(name, ())):
                data = _saved(mode, name, options)
                if data:
                    found.append(data)
    return found + list(_made_by_hand())


def _saved(mode: str, name: str, options: dict[str, object]) -> bytes:
    image = Image.fromarray(textured_image(12, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that Pillow will give up
            _converted(image, mode).save(out, name, exif=exif, **options)
        return out.getvalue()
    except Exception:
        return b""  # there is no such file


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("La", "RGBa"):
        return image.convert(f"{mode[:-1]}A").convert(mode)
    if mode.startswith("I;16"):
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return Image.fromarray(deep.astype(">u2") if mode == "I;16B" else deep)
    return image.convert(mode)


def _made_by_hand() -> Iterator[bytes]:
    """Formats that Pillow reads and does not write."""
    pixels = textured_image(12, 16)
    for bits in (8, 16, 32, -32):
        cards = [f"SIMPLE  = {'T':>20}", f"BITPIX  = {bits:>20}", f"NAXIS   = {2:>20}"]
        cards += [f"NAXIS1  = {16:>20}", f"NAXIS2  = {12:>20}", "END"]
        header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
        yield header + (b"\x00" + pixels.tobytes()) * 4
    yield (
        b"8BPS"
        + struct.pack(">H6xHIIHH", 1, 3, 12, 16, 8, 3)
        + bytes(12)
        + b"\0\0"
        + (pixels.transpose(2, 0, 1).tobytes())
    )
    rows = [f'"{"ab" * 8}",' for _ in range(12)]
    lines = [
        "/* XPM */",
        "static char *x[] = {",
        '"16 12 2 1",',
        '"a c #ff0000",',
        '"b c #00ff00",',
    ]
    yield "\n".join([*lines, *rows, "};"]).encode()
    if features.check("jpg_2000"):
        deep = np.asarray(Image.fromarray(pixels).convert("L")).astype(np.uint16)
        out = io.BytesIO()
        Image.fromarray(deep).save(out, "JPEG2000")
        yield out.getvalue()


def mutated(rng: Random, files: list[bytes]) -> bytes:
    """One of the files, damaged."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        # headers are where it hurts
        at = rng.randrange(len(data) if rng.random() < 0.4 else min(len(data), 120))
        kind = rng.randrange(7)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 4, 64))]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 64)))
        elif kind == 5:
            size = rng.choice((1, 2, 4))
            value = rng.choice(_EXTREMES) & (256**size - 1)
            data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))
        else:
            other = rng.choice(files)
            data[at:] = other[rng.randrange(len(other)) :]
    return bytes(data)
