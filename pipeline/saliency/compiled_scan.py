"""Raster scans over a picture, which do not vectorise: compiled.

Shapes: h/w of the working picture.
"""

from __future__ import annotations

import numpy as np

from pipeline.numba_kernels import kernel

_PASSES = 3  # of the barrier distance: Zhang et al. (ICCV 2015), section 3.1


@kernel
def barrier_distance(channel):
    """Return the minimum barrier distance [h, w] of each pixel to the border of a channel [h, w].

    The barrier of a way is its largest minus its smallest value. Algorithm 1 (FastMBD): pixels keep
    the best way that they know; scans from the top left, the bottom right and the top left again.
    """
    height, width = channel.shape
    distance = np.full((height, width), np.float32(np.inf))
    high, low = channel.copy(), channel.copy()
    for y in range(height):
        distance[y, 0] = distance[y, width - 1] = 0
    for x in range(width):
        distance[0, x] = distance[height - 1, x] = 0
    for scan in range(_PASSES):
        step = 1 if scan % 2 == 0 else -1
        for row in range(1, height - 1):
            y = row if step == 1 else height - 1 - row
            for column in range(1, width - 1):
                x = column if step == 1 else width - 1 - column
                value = channel[y, x]
                best = distance[y, x]
                for k in range(2):
                    near_y, near_x = (y - step, x) if k == 0 else (y, x - step)
                    top = max(high[near_y, near_x], value)
                    bottom = min(low[near_y, near_x], value)
                    if top - bottom < best:
                        best = top - bottom
                        high[y, x], low[y, x] = top, bottom
                distance[y, x] = best
    return distance


@kernel
def reconstruct(marker, mask):
    """Raise a marker [h, w] under a mask [h, w] as far as it spreads, in place.

    Morphological reconstruction by dilation with the four neighbours, until nothing moves.
    """
    height, width = mask.shape
    moved = True
    while moved:
        moved = False
        for y in range(height):
            for x in range(width):
                best = marker[y, x]
                if y > 0:
                    best = max(best, marker[y - 1, x])
                if x > 0:
                    best = max(best, marker[y, x - 1])
                best = min(best, mask[y, x])
                if best > marker[y, x]:
                    marker[y, x] = best
                    moved = True
        for y in range(height - 1, -1, -1):
            for x in range(width - 1, -1, -1):
                best = marker[y, x]
                if y < height - 1:
                    best = max(best, marker[y + 1, x])
                if x < width - 1:
                    best = max(best, marker[y, x + 1])
                best = min(best, mask[y, x])
                if best > marker[y, x]:
                    marker[y, x] = best
                    moved = True
    return marker
