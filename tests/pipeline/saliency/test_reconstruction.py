"""DSR: errors beside least squares and scikit-learn's lasso, the rest beside loops."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from pipeline.saliency.reconstruction import (
    clusters,
    dense_error,
    object_biased,
    posterior,
    propagated,
    reconstruction,
    sparse_error,
)
from pipeline.saliency.superpixels import make_scene
from tests.pipeline.saliency.support import disc_picture, tiny_scene


def features(count, seed=0):
    return np.random.default_rng(seed).random((count, 8))


def test_dense_error_is_what_the_main_axes_leave():
    templates = features(20) * [1, 1, 1, 0.8, 0.5, 0.1, 0.05, 0.01]
    found = features(12, seed=1)
    mean = templates.mean(axis=0)
    _, sizes, axes = np.linalg.svd(templates - mean)
    kept = 1
    while (sizes[:kept] ** 2).sum() < 0.95 * (sizes**2).sum():
        kept += 1
    assert kept < 8
    for x, error in zip(found, dense_error(found, templates), strict=True):
        fit, *_ = np.linalg.lstsq(axes[:kept].T, x - mean, rcond=None)
        assert error == pytest.approx(((x - mean - axes[:kept].T @ fit) ** 2).sum())


def test_sparse_error_is_that_of_the_lasso():
    templates, found = features(15), features(10, seed=1) * 1.5
    lasso = Lasso(alpha=0.01 / (2 * 8), fit_intercept=False, max_iter=100_000, tol=1e-10)
    for x, error in zip(found, sparse_error(found, templates, steps=3000), strict=True):
        fit = lasso.fit(templates.T, x)
        expected = ((x - fit.coef_ @ templates) ** 2).sum()
        assert error == pytest.approx(expected, abs=1e-5)


def test_errors_are_mixed_with_larger_ones_of_the_cluster():
    points, error = features(14), np.random.default_rng(1).random(14)
    context = np.arange(14) % 3
    spread = sum(np.var(column) for column in points.T)
    expected = error.copy()
    for k in range(3):
        members = sorted(np.flatnonzero(context == k), key=lambda n: -error[n])
        for i, n in enumerate(members[1:], start=1):
            alike = [
                math.exp(-(math.dist(points[n], points[m]) ** 2) / (2 * spread))
                for m in members[:i]
            ]
            around = sum(a * expected[m] for a, m in zip(alike, members[:i], strict=True))
            expected[n] = 0.5 * around / sum(alike) + 0.5 * error[n]
    assert propagated(points, error, context) == pytest.approx(expected)


def test_posterior_is_bayes_rule_on_histograms():
    rng = np.random.default_rng(0)
    prior, seen, areas = rng.random(40), rng.random(40), rng.integers(1, 9, 40).astype(float)
    limit = (prior * areas).sum() / areas.sum()
    for n, probability in enumerate(posterior(prior, seen, areas)):
        likelihoods = []
        for part in (prior > limit, prior <= limit):
            same = np.array([int(s * 10) == int(seen[n] * 10) for s in seen])
            likelihoods.append(areas[part & same].sum() / areas[part].sum())
        joint = prior[n] * likelihoods[0]
        assert probability == pytest.approx(joint / (joint + (1 - prior[n]) * likelihoods[1]))


def test_an_object_at_the_side_is_biased_to_its_own_place():
    scene = tiny_scene()
    left = np.where(scene.centres[:, 1] < 0.3, 1.0, 0.05)
    biased = object_biased(scene, left)
    share = biased / left
    centre = (left * scene.areas) @ scene.centres / (left * scene.areas).sum()
    nearest = np.hypot(*(scene.centres - centre).T).argmin()
    assert share.argmax() == nearest
    assert share[scene.centres[:, 1] > 0.9].max() < 0.2


def test_clusters_are_nearest_to_their_own_mean():
    points = np.concatenate([features(30) * 0.1 + offset for offset in (0, 1, 2)])
    cluster = clusters(points, 3)
    assert [len(set(cluster[i : i + 30])) for i in (0, 30, 60)] == [1, 1, 1]
    assert set(cluster) == {0, 1, 2}
    many = clusters(features(60), 8)
    means = np.array([features(60)[many == k].mean(axis=0) for k in range(many.max() + 1)])
    for point, k in zip(features(60), many, strict=True):
        assert np.linalg.norm(means - point, axis=1).argmin() == k


def test_equal_points_are_one_cluster_and_fewer_points_than_clusters_do():
    assert (clusters(np.ones((5, 2)), 3) == 0).all()
    assert sorted(clusters(np.array([[0.0], [5.0]]), 8)) == [0, 1]


def test_the_border_cannot_reconstruct_a_disc():
    image, _ = disc_picture()
    scene = make_scene(image)
    saliency = reconstruction(scene)
    offsets = np.hypot(*(scene.centres - 0.5).T)
    assert saliency[offsets < 0.1].min() > 0.6 > 0.3 > saliency[scene.border].max()
