"""Samples of more than 8 bits as 8 bits: by the depth that a file declares, or by a given white.

Pillow knows gray of 16 and 32 bits and float as modes of their own. Of colour with 16 bits a
sample it keeps the high bytes and does not say so; the low bytes come out of a second decode that
takes the bytes of a sample in the other order.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_SIXTEENTH = 16  # a file that uses less than this part of its range is noted
_GUESSED = (1.0, 255.0, 65535.0)  # what floats are usually scaled to
_OTHER_BYTES = {  # how Pillow reads the high bytes of 16 bit samples -> how it reads the low ones
    "16B": "16L",
    "16L": "16B",
    "16N": "16B" if sys.byteorder == "little" else "16L",
}
_TIFF_SAMPLE_FORMAT = 339
_KEY = "declared depth"  # in Image.info


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """How a file's samples are stored, as its header says."""

    white: int  # the largest sample there can be; 0: floats
    file_white: int  # the same in the file's units, where Pillow rescales; else as `white`
    rawmode: str  # of Pillow's decoder


def read_depth(image: Image.Image) -> None:
    """Keep in `image.info` what the header says of samples; to be called before any decoding."""
    image.info[_KEY] = _depth_of(image)


def depth_of(image: Image.Image) -> Depth:
    """Return what `read_depth` kept; 8 bits if the image was not opened from a file."""
    found = image.info.get(_KEY)
    return found if isinstance(found, Depth) else Depth(white=255, file_white=255, rawmode="")


def _depth_of(image: Image.Image) -> Depth:
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    codec, args = (tiles[0].codec_name, tiles[0].args) if tiles else ("", "")
    parts = args if isinstance(args, tuple) else (args,)
    rawmode = str(parts[0]) if parts else ""
    if codec.startswith("ppm") and len(parts) == 2:  # Pillow rescales these to 8 or 16 bits
        return Depth(
            white=65535 if image.mode == "I" else 255, file_white=int(parts[1]), rawmode=codec
        )
    if image.mode == "F":
        white = 0
    elif image.mode.startswith("I;16") or (image.mode == "I" and rawmode.startswith("I;16")):
        white = {"I;12": 4095, "I;16S": 32767, "I;16BS": 32767}.get(rawmode, 65535)
    elif image.mode == "I":
        unsigned = rawmode == "I;32N" and _sample_format(image) == 1
        white = 2**32 - 1 if unsigned else 2**31 - 1
    else:
        return Depth(white=255, file_white=65535 if ";16" in rawmode else 255, rawmode=rawmode)
    return Depth(white=white, file_white=white, rawmode=rawmode)


def _sample_format(image: Image.Image) -> int:
    value = getattr(image, "tag_v2", {}).get(_TIFF_SAMPLE_FORMAT, 1)
    return int(value[0] if isinstance(value, tuple) else value)


def deep_samples(image: Image.Image) -> NDArray[Any]:
    """Return the samples of a decoded image of mode I, I;16 or F, [H, W], none of them NaN.

    32 bit integers are int32 or, where the file says so, uint32.
    """
    samples = np.asarray(image)
    if samples.dtype.kind == "f":
        return np.where(np.isnan(samples), np.float32(0), samples)
    return samples.view(np.uint32) if depth_of(image).white == 2**32 - 1 else samples


def guess_white(samples: NDArray[Any]) -> float:
    """Return what floats seem to be scaled to: 1, 255 or 65535, else their largest finite value."""
    largest = float(samples.max(initial=0, where=np.isfinite(samples)))
    return next((white for white in _GUESSED if largest <= white), largest)


def to_8_bits(samples: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Scale samples so that `white` is 255; below 0 is 0, above white 255.

    Where white is 2^n - 1 of integers, their upper 8 of n bits are taken.
    """
    bits = int(white).bit_length()
    if samples.dtype.kind in "iu" and white == 2**bits - 1 and bits > 8:
        most = min(int(white), np.iinfo(samples.dtype).max)
        upper = np.clip(samples, 0, most) >> (bits - 8)
        return np.asarray(upper, np.uint8)
    with np.errstate(over="ignore"):
        scaled = np.clip(samples.astype(np.float32) * np.float32(255 / white), 0, 255)
    nearest: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return nearest


def gray_from_deep(image: Image.Image, white_level: int) -> tuple[Image.Image, str]:
    """Return a decoded image of mode I, I;16 or F as L, and what there is to say of it, or "".

    Args:
        white_level: the sample that is white, in the file's units; 0: what the file declares.
    """
    samples, depth = deep_samples(image), depth_of(image)
    # of what Pillow has rescaled, the level as well
    level = white_level * depth.white / max(depth.file_white, 1)
    if depth.white == 0:
        white = float(white_level) or guess_white(samples)
    else:
        white = level or float(depth.white)
    low, high = samples.min(), samples.max()
    note = ""
    if white_level == 0 and depth.white == 0:
        note = f"floats from {low:.6g} to {high:.6g}, white is {white:.6g}"
    elif white_level == 0 and depth.white >= 2**31 - 1:
        note = f"32 bit integers from {low} to {high}, white is {depth.white}"
    elif high < (white + 1) / _SIXTEENTH or (white_level and low >= white):
        note = f"values from {low:.6g} to {high:.6g}, white is {white:.6g}"
    return Image.fromarray(to_8_bits(samples, white)), note


def rescale_colour(image: Image.Image, data: bytes, white_level: int) -> tuple[Image.Image, str]:
    """Bring colour of more than 8 bits a sample to the white level; a note as `gray_from_deep`.

    Args:
        image: decoded by Pillow, so of 8 bits a sample.
        data: the file.
        white_level: as of `gray_from_deep`.

    Raises:
        ValueError: Pillow cannot read the low bytes of this kind of file.
    """
    depth = depth_of(image)
    if depth.file_white <= 255:
        return image, ""
    white = white_level or depth.file_white
    if white_level:
        image = _at_level(image, data, depth, white_level)
    low, high = _colour_range(image)
    if high <= 256 // _SIXTEENTH:  # not only below: some formats are rounded to 8 bits
        return image, f"values of at most {(high + 1) * (white + 1) // 256}, white is {white}"
    if white_level and low == 255:
        return image, f"no values below {white}, which is white"
    return image, ""


def _colour_range(image: Image.Image) -> tuple[int, int]:
    """The least and the largest of the samples of all bands but alpha."""
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if "A" in image.getbands():
        bands = bands[:-1]
    return min(int(band[0]) for band in bands), max(int(band[1]) for band in bands)


def _at_level(image: Image.Image, data: bytes, depth: Depth, level: int) -> Image.Image:
    again = Image.open(io.BytesIO(data))
    (tile, *others) = again.tile
    if depth.rawmode.startswith("ppm") and level > 255:
        again.tile = [tile._replace(args=("RGB", level))]
        again.load()
        return again
    bands, _, order = depth.rawmode.partition(";")
    if bands == "LA":  # the four bytes of a pixel as they are
        rawmode, low_bands = "RGBA", [1, 1, 1]
    elif order in _OTHER_BYTES and image.mode.startswith("RGB"):
        rawmode, low_bands = f"{bands};{_OTHER_BYTES[order]}", [0, 1, 2]
    else:
        raise ValueError(
            f"its 16 bit samples ({depth.rawmode}) cannot be brought to --white-level {level}"
        )
    again.tile = [
        one._replace(args=(rawmode, *one.args[1:]) if isinstance(one.args, tuple) else rawmode)
        for one in (tile, *others)
    ]
    high, low = np.asarray(image), np.asarray(again)[:, :, low_bands]
    scaled = to_8_bits(high[:, :, :3].astype(np.uint16) << 8 | low, level)
    return Image.fromarray(np.concatenate([scaled, high[:, :, 3:]], axis=2))
