"""The automata cell by cell, Otsu beside scikit-image's, and what fusion is for."""

import math

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from pipeline.saliency.fusion import automata, fused
from pipeline.saliency.otsu import otsu
from tests.pipeline.saliency.support import tiny_scene


def test_each_cell_is_moved_by_the_same_cells_of_the_other_maps():
    rng = np.random.default_rng(0)
    layers, areas = rng.random((4, 25)), rng.integers(1, 9, 25).astype(float)
    limits = [otsu(np.sqrt(layer), areas) ** 2 for layer in layers]
    state = layers.clip(0.01, 0.99).tolist()
    for _ in range(5):
        moved = [row[:] for row in state]
        for m in range(4):
            for n in range(25):
                votes = sum(math.copysign(1, state[k][n] - limits[k]) for k in range(4) if k != m)
                odds = math.log(state[m][n] / (1 - state[m][n])) + 0.15 * votes
                moved[m][n] = 1 / (1 + math.exp(-odds))
        state = moved
    assert automata(layers, areas) == pytest.approx(np.mean(state, axis=0))


def test_maps_that_agree_become_surer_and_one_that_errs_is_outvoted():
    areas = np.ones(10)
    truth = np.repeat([0.3, 0.7], 5)
    agreed = automata(np.stack([truth] * 4), areas)
    assert agreed[:5].max() < 0.1
    assert agreed[5:].min() > 0.9
    outvoted = automata(np.stack([truth] * 4 + [1 - truth]), areas)
    assert outvoted[:5].max() < 0.3 < 0.7 < outvoted[5:].min()


@pytest.mark.parametrize("seed", range(5))
def test_otsu_parts_values_as_scikit_image_does(seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate((rng.normal(0.2, 0.05, 300), rng.normal(0.7, 0.1, 200))).clip(0, 1)
    values[:2] = 0, 1  # its bins go from the least to the largest value
    ours, theirs = otsu(values, np.ones(500)), threshold_otsu(values, nbins=256)
    assert ((values >= ours) != (values > theirs)).sum() <= 5


def test_otsu_weighs_and_takes_the_middle_between_two_values():
    values = np.array([0.1, 0.2, 0.9])
    assert otsu(values, np.array([1.0, 0.0, 1.0])) == pytest.approx(0.5, abs=0.01)
    assert 0.2 < otsu(values, np.array([5.0, 5.0, 5.0])) < 0.9


def test_fusion_of_one_error_among_good_maps_keeps_the_object():
    scene = tiny_scene()
    inside = np.hypot(*(scene.centres - 0.5).T) < 0.2
    background = np.where(scene.border, 1.0, 0.0)
    good, bad = np.where(inside, 0.8, 0.2), np.where(inside, 0.1, 0.6)
    saliency = fused(scene, np.stack([good, good, good, bad]), background)
    assert saliency.min() == 0
    assert saliency.max() == 1
    assert saliency[inside].min() > 0.5 > saliency[~inside].max()
