"""Gaussian filtering among points of five features, by a permutohedral lattice, compiled by numba.

A point gives its value to the six corners of the simplex that holds it (splat), values are blurred
along the six directions of the lattice, and each point takes the blend of its corners (slice).
Adams, Baek, Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice, 2010. The
result approximates sum_j exp(-|f_i - f_j|^2 / 2) v_j up to a constant factor.

Shapes: N points, M corners in use (found as they are met).
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.numba_kernels import kernel

FEATURES = 5
MOST = 2048  # a corner's coordinates lie in -MOST..MOST-1: five of 12 bits make a key of 60

_CORNERS = FEATURES + 1


@kernel
def build_lattice(features):
    """Place points in the lattice.

    Args:
        features: float32 [N, 5], in units of the Gaussian's deviation.

    Returns:
        corners int32 [N, 6] and their shares float32 [N, 6] of each point; the two neighbours
        int32 [6, M, 2] of each corner along each direction, M where there is none.
    """
    count = features.shape[0]
    corners = np.empty((count, _CORNERS), np.int32)
    shares = np.empty((count, _CORNERS), np.float32)
    size = 1
    while size < 2 * count * _CORNERS:
        size *= 2
    table = np.full(size, -1, np.int64)
    keys = np.empty(count * _CORNERS, np.int64)
    found = 0
    scale = np.empty(FEATURES)
    for i in range(FEATURES):
        scale[i] = math.sqrt(2 / 3) * _CORNERS / math.sqrt((i + 1) * (i + 2))
    elevated, share = np.empty(_CORNERS), np.empty(_CORNERS + 1)
    base, rank = np.empty(_CORNERS, np.int64), np.empty(_CORNERS, np.int64)
    for point in range(count):
        _elevate(features[point], scale, elevated)
        _locate(elevated, base, rank, share)
        for corner in range(_CORNERS):
            key = 0
            for i in range(FEATURES):
                step = corner if rank[i] <= FEATURES - corner else corner - _CORNERS
                key = key * 2 * MOST + (base[i] + step + MOST)
            slot = _slot(key, table, keys)
            if table[slot] < 0:
                table[slot] = found
                keys[found] = key
                found += 1
            corners[point, corner] = table[slot]
            shares[point, corner] = share[corner]
    return corners, shares, _neighbours(table, keys, found)


@kernel
def filter_lattice(corners, shares, neighbours, values):
    """Return the filtered values, float32 [N], of values float32 [N]."""
    count = neighbours.shape[1]
    now, then = np.zeros(count + 1, np.float32), np.zeros(count + 1, np.float32)
    for point in range(values.shape[0]):
        for corner in range(_CORNERS):
            now[corners[point, corner]] += shares[point, corner] * values[point]
    for direction in range(_CORNERS):
        pairs = neighbours[direction]
        for i in range(count):
            then[i] = now[i] + np.float32(0.5) * (now[pairs[i, 0]] + now[pairs[i, 1]])
        now, then = then, now
    out = np.empty(values.shape[0], np.float32)
    for point in range(values.shape[0]):
        total = np.float32(0)
        for corner in range(_CORNERS):
            total += shares[point, corner] * now[corners[point, corner]]
        out[point] = total
    return out


@kernel
def _elevate(feature, scale, elevated):
    """Map a point into the plane sum = 0 of six dimensions, in which the lattice lies."""
    total = 0.0
    for j in range(FEATURES, 0, -1):
        scaled = feature[j - 1] * scale[j - 1]
        elevated[j] = total - j * scaled
        total += scaled
    elevated[0] = total


@kernel
def _locate(elevated, base, rank, share):
    """Find the simplex of a point: its first corner, the order of its residuals, its shares."""
    total = 0
    for i in range(_CORNERS):
        nearest = math.floor(elevated[i] / _CORNERS + 0.5)
        base[i] = nearest * _CORNERS
        total += nearest
        rank[i] = 0
    for i in range(FEATURES):
        for j in range(i + 1, _CORNERS):
            if elevated[i] - base[i] < elevated[j] - base[j]:
                rank[i] += 1
            else:
                rank[j] += 1
    share[:] = 0
    for i in range(_CORNERS):
        rank[i] += total
        if rank[i] < 0:
            rank[i] += _CORNERS
            base[i] += _CORNERS
        elif rank[i] > FEATURES:
            rank[i] -= _CORNERS
            base[i] -= _CORNERS
    for i in range(_CORNERS):
        part = (elevated[i] - base[i]) / _CORNERS
        share[FEATURES - rank[i]] += part
        share[_CORNERS - rank[i]] -= part
    share[0] += 1 + share[_CORNERS]


@kernel
def _slot(key, table, keys):
    """Return where a key stands in the table, or where it is to be put."""
    last = table.shape[0] - 1
    mixed = key * 0x9E3779B97F4A7C1 & 0x7FFFFFFFFFFFFFFF
    slot = (mixed ^ mixed >> 29) & last
    while table[slot] >= 0 and keys[table[slot]] != key:
        slot = (slot + 1) & last
    return slot


@kernel
def _neighbours(table, keys, found):
    """Return int32 [6, M, 2]: a step along j takes 1 from all coordinates and adds 6 to j."""
    neighbours = np.empty((_CORNERS, found, 2), np.int32)
    all_ones = 0
    for _ in range(FEATURES):
        all_ones = all_ones * 2 * MOST + 1
    for direction in range(_CORNERS):
        weight = 0  # of coordinate `direction` in a key; the sixth is not part of it
        if direction < FEATURES:
            weight = 1
            for _ in range(FEATURES - 1 - direction):
                weight *= 2 * MOST
        step = all_ones - _CORNERS * weight
        for i in range(found):
            before = table[_slot(keys[i] - step, table, keys)]
            after = table[_slot(keys[i] + step, table, keys)]
            neighbours[direction, i, 0] = before if before >= 0 else found
            neighbours[direction, i, 1] = after if after >= 0 else found
    return neighbours
