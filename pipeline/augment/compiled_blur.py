"""Blur of the compiled executor: a separable Gaussian with zeros beyond the border, in place.

Rows and planes are copied between margins of zeros, so that no tap asks where the border is, and
four pairs of taps share one pass over the sums (docs/log.md has what that saves).

Shapes: s side of the view, R blur radius, M margin: R, rounded up to whole passes.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.augment.compiled_jit import compiled

PAIRS = 4  # pairs of taps in a pass


def scratch_length(size: int, radius: int) -> int:
    """Number of floats that `blur` needs beside the view: a row and a plane with margins."""
    return (size + 2 * (radius + PAIRS)) * (size + 1)


@compiled
def blur(view, scratch, sigma, radius):
    """Blur [3, s, s]; taps below 1e-8 of the peak are left out."""
    size = view.shape[1]
    taps, margin = _taps(sigma, radius)
    padded = size + 2 * margin
    line = scratch[:padded]
    plane = scratch[padded : padded + padded * size]
    line[:] = 0
    plane[: margin * size] = 0
    plane[(margin + size) * size :] = 0
    for c in range(3):
        for y in range(size):
            line[margin : margin + size] = view[c, y]
            start = (margin + y) * size
            _weigh(line, margin, 1, taps, margin, plane[start : start + size])
        for y in range(size):
            _weigh(plane, (margin + y) * size, size, taps, margin, view[c, y])


@compiled
def _taps(sigma, radius):
    """Return the weight at each distance 0..M, zeros behind the last that counts, and M."""
    weights = np.zeros(radius + PAIRS + 1, np.float64)
    total = 0.0
    reach = 0
    for k in range(radius + 1):
        weights[k] = math.exp(-(k * k) / (2.0 * sigma * sigma))
        total += weights[k] if k == 0 else 2 * weights[k]
        if weights[k] > 1e-8:
            reach = k
    weights[reach + 1 :] = 0
    return (weights / total).astype(np.float32), (reach + PAIRS - 1) // PAIRS * PAIRS


@compiled
def _weigh(source, start, step, taps, margin, target):
    """Fill target[x] = sum over k of taps[|k|] * source[start + x + k * step]."""
    size = target.shape[0]
    centre = source[start : start + size]
    for x in range(size):
        target[x] = taps[0] * centre[x]
    for k in range(1, margin, PAIRS):
        t0, t1, t2, t3 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
        a0 = source[start - k * step : start - k * step + size]
        a1 = source[start - (k + 1) * step : start - (k + 1) * step + size]
        a2 = source[start - (k + 2) * step : start - (k + 2) * step + size]
        a3 = source[start - (k + 3) * step : start - (k + 3) * step + size]
        b0 = source[start + k * step : start + k * step + size]
        b1 = source[start + (k + 1) * step : start + (k + 1) * step + size]
        b2 = source[start + (k + 2) * step : start + (k + 2) * step + size]
        b3 = source[start + (k + 3) * step : start + (k + 3) * step + size]
        for x in range(size):
            target[x] += (
                t0 * (a0[x] + b0[x]) + t1 * (a1[x] + b1[x])
                + t2 * (a2[x] + b2[x]) + t3 * (a3[x] + b3[x])
            )  # fmt: skip
