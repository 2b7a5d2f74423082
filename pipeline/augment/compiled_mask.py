"""The background of the compiled executor: rows of a crop with what is not salient replaced.

The integers are those of `saliency.codec.mask_at_pixels`, with the columns worked out once a view
and the two rows of the grid blended once a row.

Shapes: h/w of the crop, H/W of the image, M mask grid.
"""

from __future__ import annotations

import numpy as np

from pipeline.augment.compiled_jit import compiled
from pipeline.batch import MASK_GRID


@compiled
def mean_levels(flat):
    """The mean colour of an image, rounded half up: uint8 [3]."""
    levels = np.empty(3, np.uint8)
    count = flat.shape[0] // 3
    for c in range(3):
        total = 0
        for i in range(c, flat.shape[0], 3):
            total += flat[i]
        levels[c] = (2 * total + count) // (2 * count)
    return levels


@compiled
def mask_columns(left, width, image_width, other_width):
    """Return int32 [4, w]: first cell, second, weight of the second; column of the other image."""
    columns = np.empty((4, width), np.int32)
    for i in range(width):
        first, second, weight = _cells(left + i, image_width)
        columns[0, i] = first
        columns[1, i] = second
        columns[2, i] = weight
        columns[3, i] = ((2 * (left + i) + 1) * other_width) // (2 * image_width)
    return columns


@compiled
def masked_row(source, row, image_height, grid, limit, columns, color, other, line):
    """Copy one row of the crop to `line`, its background replaced.

    Args:
        source: uint8 [3 w], the pixels of that row within the crop.
        row: its number in the image.
        color: uint8 [3], the background where there is no other image.
        other: uint8 [h', w', 3], the image that becomes the background; h' = 0: none.
    """
    top, bottom, down = _cells(row, image_height)
    cells = np.empty(MASK_GRID, np.int32)
    for j in range(MASK_GRID):
        cells[j] = np.int32(grid[top, j]) * (256 - down) + np.int32(grid[bottom, j]) * down
    other_row = ((2 * row + 1) * other.shape[0]) // (2 * image_height)
    for i in range(columns.shape[1]):
        along = columns[2, i]
        salience = cells[columns[0, i]] * (256 - along) + cells[columns[1, i]] * along
        if salience > limit:
            for c in range(3):
                line[3 * i + c] = source[3 * i + c]
        elif other.shape[0] > 0:
            for c in range(3):
                line[3 * i + c] = other[other_row, columns[3, i], c]
        else:
            for c in range(3):
                line[3 * i + c] = color[c]


@compiled
def _cells(position, length):
    """First cell, second cell and weight of the second (0..255) of a pixel along a side."""
    centre = ((2 * position + 1) * MASK_GRID * 256) // (2 * length) - 128
    first = min(max(centre >> 8, 0), MASK_GRID - 1)
    second = min(max((centre >> 8) + 1, 0), MASK_GRID - 1)
    return first, second, centre & 255
