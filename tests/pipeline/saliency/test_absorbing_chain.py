"""MC beside the series of steps and beside walks that are walked."""

import numpy as np
import pytest

from pipeline.saliency.absorbing_chain import absorbing_chain, expected_visits, scattering
from pipeline.saliency.superpixels import make_scene
from tests.pipeline.saliency.support import disc_picture


def graph(seed=0, count=6):
    """Weights of a ring with chords, and which two nodes are on the border."""
    rng = np.random.default_rng(seed)
    weights = rng.random((count, count)) * (rng.random((count, count)) < 0.4)
    weights = np.maximum(weights, weights.T)
    weights += np.roll(np.eye(count), 1, axis=0) + np.roll(np.eye(count), -1, axis=0)
    np.fill_diagonal(weights, 0)
    return weights, np.arange(count) < 2


def transitions(weights, border):
    """The whole chain, [N + B, N + B]: superpixels, then the absorbing doubles of the border."""
    count, doubles = len(weights), np.flatnonzero(border)
    chain = np.zeros((count + len(doubles), count + len(doubles)))
    for i in range(count):
        for j in range(count):
            chain[i, j] = 1 if i == j else weights[i, j]
        for k, double in enumerate(doubles):
            chain[i, count + k] = 1 if i == double else weights[i, double]
    for k in range(len(doubles)):
        chain[count + k, count + k] = 1
    return chain / chain.sum(axis=1, keepdims=True)


def test_visits_are_the_sum_of_the_powers_of_q():
    weights, border = graph()
    inner = transitions(weights, border)[:6, :6]
    total, power = np.zeros((6, 6)), np.eye(6)
    for _ in range(3000):
        total += power
        power = power @ inner
    assert expected_visits(weights, border) == pytest.approx(total)


def test_absorbed_times_are_those_of_walks():
    weights, border = graph(seed=3)
    chain = transitions(weights, border).cumsum(axis=1)
    rng = np.random.default_rng(0)
    for start, expected in enumerate(expected_visits(weights, border).sum(axis=1)):
        nodes = np.full(20_000, start)
        steps = np.zeros(len(nodes))
        while (walking := nodes < 6).any():
            steps += walking
            draws = rng.random(len(nodes))[:, None]
            moved = np.minimum((draws > chain[nodes]).sum(axis=1), len(chain) - 1)
            nodes = np.where(walking, moved, nodes)
        assert steps.mean() == pytest.approx(expected, rel=0.04)


def test_scattering_counts_from_both_ends():
    assert scattering(np.array([0.0, 1.0, 0.01, 0.99])) == 1
    assert scattering(np.array([0.45, 0.55])) == 5
    assert scattering((np.arange(10) + 0.5) / 10) == pytest.approx(3)


def test_a_disc_holds_walkers_longest():
    image, _ = disc_picture()
    scene = make_scene(image)
    saliency = absorbing_chain(scene)
    offsets = np.hypot(*(scene.centres - 0.5).T)
    assert saliency[offsets < 0.1].min() > 0.7 > 0.3 > saliency[scene.border].max()
