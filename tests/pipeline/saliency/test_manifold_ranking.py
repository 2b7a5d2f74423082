"""MR beside the iteration that it is the limit of."""

import math

import numpy as np
import pytest

from pipeline.saliency.graph import border_linked, two_rings
from pipeline.saliency.manifold_ranking import affinities, manifold_ranking, ranking_matrix
from tests.pipeline.saliency.support import tiny_scene


def ranked(weights, queries):
    """f <- alpha D^-1 W f + D^-1 y until it stands still; no query answers for itself."""
    degrees = weights.sum(axis=1)
    answers = np.zeros(len(weights))
    for query in np.flatnonzero(queries):
        only = np.zeros(len(weights))
        only[query] = 1
        f = np.zeros(len(weights))
        for _ in range(4000):
            f = 0.99 * (weights @ f) / degrees + only / degrees
        f[query] = 0
        answers += f
    return answers


def test_ranking_is_the_limit_of_spreading():
    rng = np.random.default_rng(0)
    weights = rng.random((7, 7)) * (rng.random((7, 7)) < 0.6)
    weights = np.maximum(weights, weights.T)
    weights += np.roll(np.eye(7), 1, axis=0) + np.roll(np.eye(7), 1, axis=1)
    np.fill_diagonal(weights, 0)
    queries = np.array([1, 0, 0, 1, 0, 0, 1], float)
    assert ranking_matrix(weights) @ queries == pytest.approx(ranked(weights, queries), rel=1e-6)


def test_affinities_fall_with_the_distance_of_colours():
    scene = tiny_scene()
    linked = two_rings(border_linked(scene))
    weights = affinities(scene, linked)
    largest = max(scene.distances[i, j] for i, j in zip(*np.nonzero(linked), strict=True))
    for i in range(len(weights)):
        for j in range(len(weights)):
            alike = math.exp(-scene.distances[i, j] / largest / 0.1) if linked[i, j] else 0
            assert weights[i, j] == pytest.approx(alike)


def test_both_stages_are_those_of_the_paper():
    scene = tiny_scene()
    weights = affinities(scene, two_rings(border_linked(scene)))

    def stretched(values):
        return (values - values.min()) / (values.max() - values.min())

    first = np.ones(len(weights))
    for side in scene.sides:
        first *= 1 - stretched(ranked(weights, side))
    first = stretched(first)
    second = stretched(ranked(weights, first >= first.mean()))
    assert manifold_ranking(scene) == pytest.approx(second, abs=1e-5)
