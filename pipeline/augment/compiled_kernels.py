"""The kernels of the compiled executor: numba, float32, one view at a time, no GIL.

A view lives in a planar [3, s, s] scratch. Source rows are masked and resampled sideways once and
kept until the vertical taps have passed them; colour and blur work in place; `_finish` writes out.

Shapes: B samples, L large and S small views, s side of a view, R blur radius.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.batch import MASK_GRID

# Contraction and reassociation only: with them LLVM vectorises the sums. No assumption about NaN or
# infinity, so that a wrong value shows instead of spreading as something else.
_MATH = {"contract", "reassoc", "nsz"}


def _compiled(function):  # type: ignore[no-untyped-def]
    return njit(nogil=True, cache=True, fastmath=_MATH, boundscheck=False)(function)


@_compiled
def make_views(  # type: ignore[no-untyped-def]
    b, pixels, offsets, heights, widths, masks, tops, lefts, crop_heights, crop_widths, flips,
    jitter, orders, grays, sigmas, solarizes, masked, fills, limit, radii, thresholds, mean, scale,
    large, small, image_buffer, blur_buffer, row_buffer,
):  # fmt: skip
    height, width = heights[b], widths[b]
    source = pixels[offsets[b] : offsets[b] + height * width * 3].reshape(height, width, 3)
    for v in range(tops.shape[1]):
        out = large[v, b] if v < large.shape[0] else small[v - large.shape[0], b]
        size = out.shape[1]
        view = image_buffer[: 3 * size * size].reshape(3, size, size)
        scratch = blur_buffer[: 3 * size * size].reshape(3, size, size)
        _resize(
            source, masks[b], masked[b, v], fills[b, v], limit, tops[b, v], lefts[b, v],
            crop_heights[b, v], crop_widths[b, v], flips[b, v], row_buffer[:, :, :size], view,
        )  # fmt: skip
        for k in range(4):
            _jitter(view, orders[b, v, k], jitter[orders[b, v, k], b, v])
        if grays[b, v]:
            _gray(view)
        if sigmas[b, v] > 0:
            _blur(view, scratch, sigmas[b, v], radii[v])
        _finish(view, solarizes[b, v], thresholds[v], mean, scale, out)


@_compiled
def _resize(  # type: ignore[no-untyped-def]
    source, grid, masked, fill, limit, top, left, crop_height, crop_width, flip, rows, out
):  # fmt: skip
    """Crop, mask, resize and flip; each source row is resampled sideways once."""
    size = out.shape[1]
    columns = np.empty((size, 4), np.int64)
    weights = np.empty((size, 4), np.float32)
    _taps(crop_width, size, columns, weights)
    if flip:
        columns, weights = columns[::-1].copy(), weights[::-1].copy()
    row_taps = np.empty((size, 4), np.int64)
    row_weights = np.empty((size, 4), np.float32)
    _taps(crop_height, size, row_taps, row_weights)
    height, width = source.shape[0], source.shape[1]
    line = np.empty((crop_width, 3), np.uint8)
    held = np.full(4, -1, np.int64)
    for y in range(size):
        for tap in range(4):
            row = row_taps[y, tap]
            slot = row & 3  # the four taps of a row are consecutive: each has a slot of its own
            if held[slot] != row:
                held[slot] = row
                if masked:
                    _masked_row(source, grid, fill, limit, top + row, left, height, width, line)
                    _sideways(line, columns, weights, rows[slot])
                else:
                    _sideways(
                        source[top + row, left : left + crop_width], columns, weights, rows[slot]
                    )
        w0, w1, w2, w3 = (
            row_weights[y, 0], row_weights[y, 1], row_weights[y, 2], row_weights[y, 3]
        )  # fmt: skip
        r0, r1, r2, r3 = (
            rows[row_taps[y, 0] & 3], rows[row_taps[y, 1] & 3],
            rows[row_taps[y, 2] & 3], rows[row_taps[y, 3] & 3],
        )  # fmt: skip
        for c in range(3):
            for x in range(size):
                value = w0 * r0[c, x] + w1 * r1[c, x] + w2 * r2[c, x] + w3 * r3[c, x]
                out[c, y, x] = min(max(value, np.float32(0)), np.float32(1))


@_compiled
def _taps(length, size, taps, weights):  # type: ignore[no-untyped-def]
    """Fill the four source positions and weights of each output pixel (Keys cubic, a = -0.5)."""
    for i in range(size):
        centre = (i + 0.5) * length / size - 0.5
        first = math.floor(centre) - 1
        total = 0.0
        for k in range(4):
            x = abs(centre - (first + k))
            if first + k < 0 or first + k >= length:
                weight = 0.0
            elif x <= 1:
                weight = (1.5 * x - 2.5) * x * x + 1
            elif x < 2:
                weight = ((-0.5 * x + 2.5) * x - 4) * x + 2
            else:
                weight = 0.0
            weights[i, k] = weight
            total += weight
        for k in range(4):
            weights[i, k] = weights[i, k] / total
            taps[i, k] = min(max(first + k, 0), length - 1)


@_compiled
def _masked_row(source, grid, fill, limit, row, left, height, width, line):  # type: ignore[no-untyped-def]
    """Copy a row of the crop, background replaced; the integers of `mask_at_pixels`."""
    side = MASK_GRID
    y = ((2 * row + 1) * side * 256) // (2 * height) - 128
    fy = y & 255
    y0 = min(max(y >> 8, 0), side - 1)
    y1 = min(max((y >> 8) + 1, 0), side - 1)
    for i in range(line.shape[0]):
        x = ((2 * (left + i) + 1) * side * 256) // (2 * width) - 128
        fx = x & 255
        x0 = min(max(x >> 8, 0), side - 1)
        x1 = min(max((x >> 8) + 1, 0), side - 1)
        upper = np.int64(grid[y0, x0]) * (256 - fx) + np.int64(grid[y0, x1]) * fx
        lower = np.int64(grid[y1, x0]) * (256 - fx) + np.int64(grid[y1, x1]) * fx
        if upper * (256 - fy) + lower * fy > limit:
            for c in range(3):
                line[i, c] = source[row, left + i, c]
        else:
            for c in range(3):
                line[i, c] = fill[c]


@_compiled
def _sideways(line, columns, weights, out):  # type: ignore[no-untyped-def]
    scale = np.float32(1 / 255)
    for x in range(out.shape[1]):
        t0, t1, t2, t3 = columns[x, 0], columns[x, 1], columns[x, 2], columns[x, 3]
        w0, w1 = weights[x, 0] * scale, weights[x, 1] * scale
        w2, w3 = weights[x, 2] * scale, weights[x, 3] * scale
        for c in range(3):
            out[c, x] = (
                w0 * np.float32(line[t0, c]) + w1 * np.float32(line[t1, c])
                + w2 * np.float32(line[t2, c]) + w3 * np.float32(line[t3, c])
            )  # fmt: skip


@_compiled
def _jitter(view, op, value):  # type: ignore[no-untyped-def]
    zero, one = np.float32(0), np.float32(1)
    if op == 0 and value != 0:
        flat = view.reshape(-1)
        for i in range(flat.shape[0]):
            flat[i] = min(max(flat[i] + value, zero), one)
    elif op == 1 and value != 1:
        for c in range(3):
            flat = view[c].reshape(-1)
            total = 0.0
            for i in range(flat.shape[0]):
                total += flat[i]
            shift = np.float32(total / flat.shape[0]) * (one - value)
            for i in range(flat.shape[0]):
                flat[i] = min(max(value * flat[i] + shift, zero), one)
    elif op == 2 and value != 1:
        _saturate(view, value)
    elif op == 3 and value != 0:
        _rotate_hue(view, value)


@_compiled
def _saturate(view, factor):  # type: ignore[no-untyped-def]
    """Scale HSV saturation: hue and value kept, so each channel moves along value - channel.

    With s' = min(s * factor, 1) and x = v - s * v * d (d the channel's distance from the top, 0..1)
    the new channel is v - (v - x) * s' / s: no hue needed.
    """
    red, green, blue = view[0].reshape(-1), view[1].reshape(-1), view[2].reshape(-1)
    zero = np.float32(0)
    for i in range(red.shape[0]):
        r, g, b = red[i], green[i], blue[i]
        top = max(r, max(g, b))
        spread = top - min(r, min(g, b))
        # s'/s = min(factor, 1/s) = min(factor, top / spread)
        gain = max(min(factor, top / spread), zero) if spread > zero else zero
        red[i] = max(top - (top - r) * gain, zero)
        green[i] = max(top - (top - g) * gain, zero)
        blue[i] = max(top - (top - b) * gain, zero)


@_compiled
def _rotate_hue(view, delta):  # type: ignore[no-untyped-def]
    """Add `delta` turns to the HSV hue of every pixel.

    The channels of a hue are v - chroma * max(0, min(k, 4 - k, 1)), k = (n + 6 hue) mod 6 and
    n = 5, 3, 1 for red, green, blue: the sextants without branches.
    """
    red, green, blue = view[0].reshape(-1), view[1].reshape(-1), view[2].reshape(-1)
    zero, one, six = np.float32(0), np.float32(1), np.float32(6)
    shift = np.float32(6) * delta
    for i in range(red.shape[0]):
        r, g, b = red[i], green[i], blue[i]
        top = max(r, max(g, b))
        spread = top - min(r, min(g, b))
        inverse = one / spread if spread > zero else zero
        if r == top:
            hue = (g - b) * inverse
        elif g == top:
            hue = (b - r) * inverse + np.float32(2)
        else:
            hue = (r - g) * inverse + np.float32(4)
        hue += shift + six  # positive: hue is at least -1, the shift at least -3 (|delta| <= 1/2)
        for n in range(3):
            k = hue + np.float32(5 - 2 * n)
            k = k - six * np.floor(k / six)
            value = top - spread * max(zero, min(min(k, np.float32(4) - k), one))
            value = min(max(value, zero), one)
            if n == 0:
                red[i] = value
            elif n == 1:
                green[i] = value
            else:
                blue[i] = value


@_compiled
def _gray(view):  # type: ignore[no-untyped-def]
    red, green, blue = view[0].reshape(-1), view[1].reshape(-1), view[2].reshape(-1)
    for i in range(red.shape[0]):
        value = (
            np.float32(0.2989) * red[i] + np.float32(0.5870) * green[i]
            + np.float32(0.1140) * blue[i]
        )  # fmt: skip
        value = min(max(value, np.float32(0)), np.float32(1))
        red[i] = value
        green[i] = value
        blue[i] = value


@_compiled
def _blur(view, scratch, sigma, radius):  # type: ignore[no-untyped-def]
    """Separable Gaussian with zeros beyond the border; taps below 1e-8 of the peak are left out."""
    taps = np.empty(radius + 1, np.float32)
    total = 0.0
    for k in range(radius + 1):
        tap = math.exp(-(k * k) / (2.0 * sigma * sigma))
        taps[k] = tap
        total += tap if k == 0 else 2 * tap
    reach = 0
    for k in range(radius + 1):
        if taps[k] > 1e-8:
            reach = k
        taps[k] = taps[k] / total
    size = view.shape[1]
    for c in range(3):
        for y in range(size):
            source, target = view[c, y], scratch[c, y]
            for x in range(size):
                target[x] = taps[0] * source[x]
            for k in range(1, min(reach, size - 1) + 1):
                tap = taps[k]
                for x in range(k, size):
                    target[x] += tap * source[x - k]
                for x in range(size - k):
                    target[x] += tap * source[x + k]
        for y in range(size):
            target = view[c, y]
            middle = scratch[c, y]
            for x in range(size):
                target[x] = taps[0] * middle[x]
            for k in range(1, reach + 1):
                tap = taps[k]
                if y - k >= 0:
                    above = scratch[c, y - k]
                    for x in range(size):
                        target[x] += tap * above[x]
                if y + k < size:
                    below = scratch[c, y + k]
                    for x in range(size):
                        target[x] += tap * below[x]


@_compiled
def _finish(view, solarize, threshold, mean, scale, out):  # type: ignore[no-untyped-def]
    zero, one = np.float32(0), np.float32(1)
    for c in range(3):
        source, target = view[c].reshape(-1), out[c].reshape(-1)
        for i in range(source.shape[0]):
            value = source[i]
            if solarize and value >= threshold:
                value = one - value
            target[i] = (min(max(value, zero), one) - mean[c]) * scale[c]
