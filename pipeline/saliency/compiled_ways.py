"""Shortest ways between all nodes of a small graph: compiled.

Shapes: N nodes.
"""

from __future__ import annotations

from pipeline.numba_kernels import kernel


@kernel
def shortest_ways(steps):
    """Return the least sum of steps between each two nodes, float32 [N, N] (Floyd, Warshall).

    Args:
        steps: float32 [N, N], not negative, 0 on the diagonal, infinite where there is no edge;
            symmetric.
    """
    ways = steps.copy()
    count = len(ways)
    for via in range(count):
        onward = ways[via]
        for start in range(count):
            there = ways[start, via]
            row = ways[start]
            for end in range(count):
                row[end] = min(row[end], there + onward[end])
    return ways
