"""Pictures of a source as upright RGB pixels, for what looks at whole pictures, offline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.sources.prepare import (
    TRANSPOSE,
    BadPicture,
    open_picture,
    read_orientation,
    to_rgb,
)
from pipeline.sources.record import Record

_BACK = {
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
}  # the others undo themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class UprightPicture:
    """A picture, upright, and what it was before it was resized."""

    pixels: NDArray[np.uint8]  # [H, W, 3], RGB
    size: tuple[int, int]  # (width, height) of the whole picture, upright
    orientation: int  # of the file, by its EXIF, 1..8


def read_square(record: Record, side: int) -> UprightPicture:
    """Read a picture and resize it to a square, whatever its shape; else as `read_within`."""
    return _read(record, side, square=True)


def read_within(record: Record, side: int) -> UprightPicture:
    """Read a picture and reduce it, bicubic with antialias, to a longer side of at most `side`.

    Transparent parts are over white. A JPEG is decoded at a fraction of its size where that has
    still enough pixels.

    Raises:
        BadPicture: it cannot be read or decoded.
    """
    return _read(record, side, square=False)


def squared(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize decoded pixels, uint8 [H, W, 3], to [side, side, 3] as `read_square` does."""
    square = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return np.array(square)  # a copy, which torch may write to


def as_in_file(mask: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn an upright mask, uint8 [H, W], to lie as the pixels of the picture's file lie.

    That is what `prepare` expects of a mask: it turns picture and mask together.
    """
    if orientation not in TRANSPOSE:
        return mask
    turn = TRANSPOSE[orientation]
    return np.asarray(Image.fromarray(mask).transpose(_BACK.get(turn, turn)))


def as_upright(mask: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn a mask, uint8 [H, W], that lies as the pixels of the picture's file lie upright."""
    if orientation not in TRANSPOSE:
        return mask
    return np.asarray(Image.fromarray(mask).transpose(TRANSPOSE[orientation]))


def _read(record: Record, side: int, *, square: bool) -> UprightPicture:
    try:
        data, _ = record.read()
    except OSError as error:
        raise BadPicture(f"cannot be read: {error}") from error
    image = open_picture(data)
    orientation = read_orientation(image)
    size = image.size[::-1] if orientation >= 5 else image.size
    goal = (side, side) if square else _within(size, side)
    image.draft(None, goal[::-1] if orientation >= 5 else goal)
    rgb = to_rgb(image)
    if orientation in TRANSPOSE:
        rgb = rgb.transpose(TRANSPOSE[orientation])
    if rgb.size != goal:
        rgb = rgb.resize(goal, Image.Resampling.BICUBIC)
    return UprightPicture(pixels=np.asarray(rgb), size=size, orientation=orientation)


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    shrink = min(1.0, side / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
