"""RBD beside double loops over its equations."""

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.saliency.compiled_ways import shortest_ways
from pipeline.saliency.graph import two_rings
from pipeline.saliency.rbd import (
    background_probability,
    boundary_connectivity,
    geodesic_distances,
    optimised,
    rbd,
    weighted_contrast,
)
from pipeline.saliency.superpixels import make_scene
from tests.pipeline.saliency.support import disc_picture, tiny_scene


def dijkstra(steps, start):
    """Least sums of steps from one node; steps are infinite where there is no edge."""
    away = [math.inf] * len(steps)
    heap = [(0.0, start)]
    while heap:
        length, node = heapq.heappop(heap)
        if length >= away[node]:
            continue
        away[node] = length
        for other, step in enumerate(steps[node]):
            if math.isfinite(step):
                heapq.heappush(heap, (length + step, other))
    return away


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_shortest_ways_are_those_of_dijkstra(count, density, seed):
    rng = np.random.default_rng(seed)
    steps = np.where(
        rng.random((count, count)) < density, rng.integers(0, 9, (count, count)), np.inf
    )
    steps = np.minimum(steps, steps.T).astype(np.float32)
    np.fill_diagonal(steps, 0)
    expected = [dijkstra(steps.tolist(), start) for start in range(count)]
    assert (shortest_ways(steps) == np.array(expected)).all()


def test_geodesic_distances_follow_clipped_steps_and_jump_along_the_border():
    scene = tiny_scene()
    count = len(scene.areas)
    near = two_rings(scene.adjacent)
    smallest = [
        min(scene.distances[i, j] for j in range(count) if near[i, j]) for i in range(count)
    ]
    clip = sum(smallest) / count
    steps = [
        [
            max(scene.distances[i, j] - clip, 0)
            if scene.adjacent[i, j] or (scene.border[i] and scene.border[j])
            else math.inf
            for j in range(count)
        ]
        for i in range(count)
    ]
    expected = np.array([dijkstra(steps, start) for start in range(count)])
    assert geodesic_distances(scene) == pytest.approx(expected, abs=1e-3)


def test_boundary_connectivity_is_length_over_the_root_of_area():
    rng = np.random.default_rng(0)
    geodesic, border = rng.random((9, 9)) * 40, rng.random(9) < 0.4
    for p, connectivity in enumerate(boundary_connectivity(geodesic, border)):
        area = sum(math.exp(-(geodesic[p, i] ** 2) / (2 * 7**2)) for i in range(9))
        length = sum(math.exp(-(geodesic[p, i] ** 2) / (2 * 7**2)) for i in range(9) if border[i])
        assert connectivity == pytest.approx(length / math.sqrt(area))


def test_contrast_is_weighted_by_place_and_background():
    scene = tiny_scene()
    count = len(scene.areas)
    background = np.random.default_rng(0).random(count)
    contrast = np.zeros(count)
    for p in range(count):
        for i in range(count):
            gap = math.dist(scene.centres[p], scene.centres[i])
            near = math.exp(-(gap**2) / (2 * 0.4**2))
            contrast[p] += scene.distances[p, i] * near * background[i]
    contrast = (contrast - contrast.min()) / (contrast.max() - contrast.min())
    assert weighted_contrast(scene, background) == pytest.approx(contrast)


def test_optimised_saliency_has_the_least_cost():
    scene = tiny_scene()
    rng = np.random.default_rng(0)
    count = len(scene.areas)
    foreground, background = rng.random(count), rng.random(count)
    near = two_rings(scene.adjacent)

    def cost(s):
        total = sum(background * s**2) + sum(foreground * (s - 1) ** 2)
        for i in range(count):
            for j in range(i):
                weight = 0.1 * scene.adjacent[i, j]
                if near[i, j] or (scene.border[i] and scene.border[j]):
                    weight += math.exp(-(scene.distances[i, j] ** 2) / (2 * 10**2))
                total += weight * (s[i] - s[j]) ** 2
        return total

    found = optimised(scene, foreground, background)
    # the map is stretched to 0..1; undo it by the stretch of least cost
    basis = np.stack([found, np.ones(count)], axis=1)
    low, high = least_stretch(cost, basis)
    best = low + (high - low) * found
    for _ in range(20):
        assert cost(best + rng.normal(0, 0.01, count)) > cost(best)


def least_stretch(cost, basis):
    """Return (low, high): the values of 0 and 1 in the stretched map that cost least."""
    # a quadratic in two unknowns, found from its values at six points
    points = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2)], float)
    terms = np.stack(
        [points[:, 0] ** 2, points[:, 1] ** 2, points[:, 0] * points[:, 1], *points.T, np.ones(6)],
        axis=1,
    )
    aa, bb, ab, a, b, _ = np.linalg.solve(terms, [cost(basis @ point) for point in points])
    scale, shift = np.linalg.solve([[2 * aa, ab], [ab, 2 * bb]], [-a, -b])
    return shift, shift + scale


def test_a_disc_is_no_background_and_its_ground_is():
    image, mask = disc_picture()
    scene = make_scene(image)
    background = background_probability(scene)
    inside = scene.pool(resized(mask, scene)) > 0.9
    assert background[inside].max() < 0.2
    assert background[scene.border].min() > 0.9
    saliency = rbd(scene, background)
    assert saliency[inside].min() > 0.5 > saliency[scene.border].max()


def resized(mask, scene):
    height, width = scene.labels.shape
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    return mask[rows][:, columns].astype(np.float32)
