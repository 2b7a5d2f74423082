"""Mask, crop, resize and flip of the compiled executor.

Bytes become floats a row at a time, which vectorises; the taps across then pick floats. A crop
taller than the view is combined down its columns first, so that fewer rows are resampled across; a
lower one goes across first, each of its rows once.

Shapes: s side of the view, h/w of the crop, H/W of the image, M mask grid, T taps of an output
pixel (a multiple of four).
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.augment.compiled_jit import compiled
from pipeline.augment.compiled_mask import mask_columns, masked_row


@compiled
def resize(image, crop, flip, cubic, antialias, masked, grid, limit, color, other, out):
    """Fill `out` [3, s, s], clipped to 0..1.

    Args:
        image: uint8 [H, W, 3].
        crop: (top, left, h, w).
        masked: whether to replace the background; `grid`, `limit`, `color` and `other` are those of
            `masked_row`.
    """
    top, left, height, width = crop
    size = out.shape[1]
    columns, across = _taps(width, size, cubic, antialias)
    if flip:
        columns, across = columns[::-1].copy(), across[::-1].copy()
    # unsigned: numba would ask of each signed index whether it counts from the end
    columns = (3 * columns).astype(np.uint64)
    rows, down = _taps(height, size, cubic, antialias)
    taps = rows.shape[1]

    across_first = height <= size  # then there are four taps down
    taps, pitch = rows.shape[1], 3 * image.shape[1]
    pixels = image.reshape(-1)[top * pitch + 3 * left :]  # row r of the crop begins at r * pitch
    line = np.empty(3 * width, np.float32)
    masked_lines = np.empty((taps, 3 * width if masked else 0), np.uint8)
    sampled = np.empty((taps, 3, size if across_first else 0), np.float32)
    cells = mask_columns(left, width if masked else 0, image.shape[1], other.shape[1])
    # A row keeps its slot while it is within reach: the rows of an output pixel are consecutive.
    held = np.full(taps, -1, np.int64)
    for y in range(size):
        for k in range(taps if masked or across_first else 0):
            row, slot = rows[y, k], rows[y, k] % taps
            if held[slot] == row:
                continue
            held[slot] = row
            source = pixels[row * pitch :][: 3 * width]
            if masked:
                masked_row(
                    source, top + row, image.shape[0], grid, limit, cells, color, other,
                    masked_lines[slot],
                )  # fmt: skip
                source = masked_lines[slot]
            if across_first:
                _to_floats(source, line)
                _across(line, columns, across, sampled[slot])
        if across_first:
            _down(sampled, rows[y], down[y], out, y)
            continue
        line[:] = 0
        for k in range(0, taps, 4):
            four, weights = rows[y, k : k + 4], down[y, k : k + 4]
            if masked:
                _add_lines(masked_lines.reshape(-1), four % taps, 3 * width, weights, line)
            else:
                _add_lines(pixels, four, pitch, weights, line)
        _across(line, columns, across, out[:, y])
    for c in range(3):
        plane = out[c].reshape(-1)
        for i in range(plane.shape[0]):
            plane[i] = min(max(plane[i] * np.float32(1 / 255), np.float32(0)), np.float32(1))


@compiled
def _taps(length, size, cubic, antialias):
    """Return [s, T] source positions and weights of each output pixel.

    Where the border holds positions back, or a kernel needs no multiple of four taps, weights are
    zero.
    """
    stretch = max(length / size, 1.0) if antialias else 1.0
    radius = (2 if cubic else 1) * stretch
    count = (math.ceil(2 * radius) + 4) // 4 * 4 if stretch > 1 else 4
    taps = np.empty((size, count), np.int64)
    weights = np.empty((size, count), np.float32)
    for i in range(size):
        centre = (i + 0.5) * length / size - 0.5
        first = math.floor(centre) - 1 if stretch == 1 else math.ceil(centre - radius)
        total = 0.0
        for k in range(count):
            weight = 0.0
            if 0 <= first + k < length:
                weight = _kernel(abs(centre - (first + k)) / stretch, cubic)
            weights[i, k] = weight
            total += weight
        for k in range(count):
            weights[i, k] = weights[i, k] / total
            taps[i, k] = min(max(first + k, 0), length - 1)
    return taps, weights


@compiled
def _kernel(x, cubic):
    if not cubic:
        return max(1 - x, 0.0)
    if x <= 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


@compiled
def _across(line, columns, weights, out):
    """Resample an interleaved row [3 w] to planes [3, s]."""
    one, two = np.uint64(1), np.uint64(2)
    for x in range(columns.shape[0]):
        red, green, blue = np.float32(0), np.float32(0), np.float32(0)
        for k in range(0, columns.shape[1], 4):
            a, b, c, d = columns[x, k], columns[x, k + 1], columns[x, k + 2], columns[x, k + 3]
            wa, wb, wc, wd = weights[x, k], weights[x, k + 1], weights[x, k + 2], weights[x, k + 3]
            red += wa * line[a] + wb * line[b] + wc * line[c] + wd * line[d]
            green += (
                wa * line[a + one] + wb * line[b + one] + wc * line[c + one] + wd * line[d + one]
            )
            blue += (
                wa * line[a + two] + wb * line[b + two] + wc * line[c + two] + wd * line[d + two]
            )
        out[0, x] = red
        out[1, x] = green
        out[2, x] = blue


@compiled
def _to_floats(pixels, line):
    for i in range(line.shape[0]):
        line[i] = pixels[i]


@compiled
def _add_lines(pixels, rows, pitch, weights, line):
    """Add four weighted rows of bytes, `pitch` apart, to a row of floats."""
    length = line.shape[0]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    p0, p1 = pixels[rows[0] * pitch :][:length], pixels[rows[1] * pitch :][:length]
    p2, p3 = pixels[rows[2] * pitch :][:length], pixels[rows[3] * pitch :][:length]
    for i in range(length):
        line[i] += (
            w0 * np.float32(p0[i]) + w1 * np.float32(p1[i])
            + w2 * np.float32(p2[i]) + w3 * np.float32(p3[i])
        )  # fmt: skip


@compiled
def _down(sampled, rows, weights, out, y):
    """Combine four rows of planes [4, 3, s], each in the slot of its number."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for c in range(3):
        r0, r1 = sampled[rows[0] & 3, c], sampled[rows[1] & 3, c]
        r2, r3 = sampled[rows[2] & 3, c], sampled[rows[3] & 3, c]
        target = out[c, y]
        for x in range(target.shape[0]):
            target[x] = w0 * r0[x] + w1 * r1[x] + w2 * r2[x] + w3 * r3[x]
