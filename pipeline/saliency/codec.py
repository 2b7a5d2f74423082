"""Masks as stored: 128 x 128 cells over the whole image, 16 levels, some 600 bytes.

A mask of any size is averaged over the area of each cell, rounded to 16 levels, packed two levels a
byte and deflated:

    byte 0      version: 1, or 0 for "no mask" (then nothing follows)
    byte 1..    zlib stream of 8192 bytes; row by row, the left cell of a pair in the high half

A record ends where its zlib stream ends, so bytes after it (FFCV pads all records of a batch to the
longest) do no harm. All arithmetic is on integers: the same on every machine, and the same in every
executor, which is what `mask_at_pixels` is for.

Shapes: M side of the grid, H/W sides of the image.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import MASK_GRID, Bytes, Ints

CODEC = "zlib4-1"  # name of version 1 in a manifest
LEVELS = 16
NO_MASK = b"\x00"  # what stands for "no mask" where a record must have at least one byte
STEP = 255 // (LEVELS - 1)  # grid value of level 1

_VERSION = 1
_PACKED = MASK_GRID * MASK_GRID // 2


def encode_mask(mask: Bytes) -> bytes:
    """Return the record of a mask of any size, uint8 [H, W], 0 background .. 255 foreground.

    Raises:
        ValueError: the mask is not such an array, or empty.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise ValueError(f"a mask must be uint8 [height, width], got {mask.dtype} {mask.shape}")
    levels = _levels(mask)
    packed = levels[:, 0::2] << 4 | levels[:, 1::2]
    return bytes([_VERSION]) + zlib.compress(packed.tobytes(), 6)


def decode_mask(data: bytes | memoryview) -> Bytes:
    """Return the grid, uint8 [M, M], of a record: multiples of 17 from 0 to 255.

    Raises:
        ValueError: the record is damaged, of an unknown version, or says "no mask".
    """
    if len(data) == 0 or data[0] != _VERSION:
        version = data[0] if len(data) else "missing"
        raise ValueError(f"mask record of version {version}; this code reads version {_VERSION}")
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(data[1:], _PACKED)
    except zlib.error as error:
        raise ValueError(f"damaged mask record of {len(data)} bytes: {error}") from error
    if len(raw) != _PACKED:
        raise ValueError(f"mask record ends after {len(raw)} of {_PACKED} bytes")
    packed = np.frombuffer(raw, np.uint8).reshape(MASK_GRID, MASK_GRID // 2)
    return (np.stack((packed >> 4, packed & 15), axis=-1) * STEP).reshape(MASK_GRID, MASK_GRID)


def coverage(grid: Bytes) -> float:
    """Return the share of the image, 0..1, whose cells are more foreground than background."""
    return float((grid > 127).mean())


def mask_at_pixels(grid: Bytes, height: int, width: int) -> Ints:
    """Return the salience of every pixel of an image, int32 [H, W] in 0..255*65536.

    This is the definition that every executor follows to the bit: the grid is interpolated
    bilinearly at pixel centres, in fixed point with 8 fractional bits a side,

        p = ((2*y + 1) * M * 256) // (2 * H) - 128;  i = p >> 8;  f = p & 255

    between cells i and i + 1 (clamped to the grid) with weights 256 - f and f, for rows and columns
    alike. A pixel is foreground where the value exceeds threshold * 255 * 65536.
    """
    top, bottom, down = _taps(height)
    left, right, along = _taps(width)
    cells = grid.astype(np.int32)
    rows: Ints = cells[top] * (256 - down)[:, None] + cells[bottom] * down[:, None]  # [H, M]
    salience: Ints = rows[:, left] * (256 - along) + rows[:, right] * along
    return salience


def _taps(size: int) -> tuple[Ints, Ints, Ints]:
    """First cell, second cell and weight of the second (0..255) of each pixel along a side."""
    centre = ((2 * np.arange(size, dtype=np.int64) + 1) * MASK_GRID * 256) // (2 * size) - 128
    first = centre >> 8
    fraction = (centre & 255).astype(np.int32)
    second = (first + 1).clip(0, MASK_GRID - 1).astype(np.int32)
    return first.clip(0, MASK_GRID - 1).astype(np.int32), second, fraction


def _levels(mask: Bytes) -> Bytes:
    """Average over the exact area of each cell and round half up: uint8 [M, M] of 0..15."""
    height, width = mask.shape
    sums = _sum_cells(_sum_cells(mask).T).T  # [M, M], each cell M * M * its sum
    full = 255 * height * width  # of a cell that is foreground all over
    levels: NDArray[np.int64] = (2 * (LEVELS - 1) * sums + full) // (2 * full)
    return levels.astype(np.uint8)


def _sum_cells(rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Sum rows [H, W] over M cells of H / M rows each, in units of 1 / M: int64 [M, W]."""
    height = len(rows)
    whole, part = np.divmod(np.arange(MASK_GRID + 1, dtype=np.int64) * height, MASK_GRID)
    # the sum of all rows above each border: whole rows, and the part of the row that it cuts
    starts = np.flatnonzero(np.diff(whole))
    blocks = np.zeros((MASK_GRID + 1, rows.shape[1]), np.int64)
    blocks[starts + 1] = np.add.reduceat(rows, whole[starts], axis=0, dtype=np.int64)
    above = blocks.cumsum(axis=0) * MASK_GRID
    above += part[:, None] * rows[np.minimum(whole, height - 1)].astype(np.int64)
    return np.diff(above, axis=0)
