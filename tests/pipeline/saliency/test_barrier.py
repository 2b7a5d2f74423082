"""MB+: the barrier beside an exact search, reconstruction beside scikit-image's, cues by loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label
from scipy.spatial.distance import mahalanobis
from skimage.morphology import reconstruction

from pipeline.saliency.barrier import (
    background_colour_cue,
    barrier,
    centredness,
    enhanced,
    smoothed,
)
from pipeline.saliency.compiled_scan import barrier_distance, reconstruct
from pipeline.saliency.superpixels import make_scene
from tests.pipeline.saliency.support import disc_picture


def exact_barriers(channel):
    """For each interval of values, the pixels that ways within it join to the border."""
    best = np.full(channel.shape, np.inf)
    values = np.unique(channel)
    for low in values:
        for high in values[values >= low]:
            parts, _ = label((channel >= low) & (channel <= high))
            edge = np.concatenate((parts[0], parts[-1], parts[:, 0], parts[:, -1]))
            reached = np.isin(parts, edge[edge > 0])
            best[reached] = np.minimum(best[reached], high - low)
    return best


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_scans_find_a_way_and_never_a_better_one_than_there_is(height, width, levels, seed):
    channel = np.random.default_rng(seed).integers(0, levels, (height, width)).astype(np.float32)
    found, exact = barrier_distance(channel), exact_barriers(channel)
    assert (found >= exact).all()
    assert (found <= levels - 1).all()
    assert (found == exact).mean() >= 0.6


def test_scans_are_near_exact_on_smooth_pictures():
    for seed in range(5):
        noise = np.random.default_rng(seed).random((24, 24))
        channel = np.round(gaussian_filter(noise, 2) * 200).astype(np.float32)
        found, exact = barrier_distance(channel), exact_barriers(channel)
        assert np.abs(found - exact).mean() < 0.03 * np.ptp(channel)


def test_a_closed_wall_cannot_be_avoided_and_an_open_one_can():
    channel = np.zeros((15, 15), np.float32)
    channel[4:11, 4:11] = 9
    channel[5:10, 5:10] = 2
    assert (barrier_distance(channel)[5:10, 5:10] == 9).all()
    assert (barrier_distance(channel)[:4] == 0).all()
    channel[10, 7] = 2
    assert (barrier_distance(channel)[5:10, 5:10] == 2).all()


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_reconstruction_is_that_of_scikit_image(height, width, seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 9, (height, width)).astype(np.float32)
    marker = np.minimum(mask, rng.integers(0, 9, (height, width))).astype(np.float32)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    expected = reconstruction(marker, mask, method="dilation", footprint=cross)
    assert (reconstruct(marker.copy(), mask) == expected).all()


def test_colour_cue_is_the_distance_from_the_sides_without_the_farthest():
    rng = np.random.default_rng(0)
    lab = rng.normal(0, 20, (20, 30, 3)).astype(np.float32)
    lab[:, -3:] += 25
    sides = [lab[:2], lab[-2:], lab[:, :3], lab[:, -3:]]
    cues = []
    for side in sides:
        samples = side.reshape(-1, 3).astype(float)
        inverse = np.linalg.inv(np.cov(samples.T, bias=True) + 50 * (100 / 255) ** 2 * np.eye(3))
        middle = samples.mean(axis=0)
        cue = [[mahalanobis(pixel, middle, inverse) for pixel in row] for row in lab]
        cues.append(np.array(cue) / np.max(cue))
    expected = np.sort(cues, axis=0)[:3].sum(axis=0)
    expected = (expected - expected.min()) / np.ptp(expected)
    assert background_colour_cue(lab) == pytest.approx(expected, abs=1e-4)


def test_smoothing_takes_spots_and_keeps_edges():
    saliency = np.zeros((100, 100), np.float32)
    saliency[30:70, 30:70] = 1
    expected = saliency.copy()
    saliency[10:12, 10:12] = 1  # a spot outside
    saliency[50:52, 50:52] = 0  # and one inside
    assert (smoothed(saliency) == expected).all()
    nothing = np.zeros((9, 9), np.float32)
    assert (smoothed(nothing) == 0).all()


def test_the_middle_is_1_and_corners_are_0():
    share = centredness(31, 61)
    assert share[15, 30] == 1
    assert share[[0, 0, -1, -1], [0, -1, 0, -1]] == pytest.approx([0, 0, 0, 0], abs=1e-6)
    assert share[15, 0] == pytest.approx(1 - 61 / math.hypot(31, 61), abs=1e-6)


def test_contrast_keeps_order_and_ends():
    values = np.linspace(0, 1, 11)
    pushed = enhanced(values, middle=0.5)
    assert (np.diff(pushed) > 0).all()
    assert pushed[[0, 5, 10]] == pytest.approx([0, 0.5, 1])
    assert pushed[2] < 0.2
    assert pushed[8] > 0.8
    assert (enhanced(np.zeros(3)) == 0).all()


def test_contrast_finds_its_middle_between_the_means_of_both_parts():
    values = np.array([0, 0.1, 0.2, 0.6, 0.8])
    assert enhanced(values) == pytest.approx(enhanced(values, middle=(0.1 + 0.7) / 2))


def test_a_disc_is_behind_a_barrier():
    image, mask = disc_picture(225, 300)
    saliency = barrier(make_scene(image))
    assert saliency[mask].mean() > 0.8
    assert saliency[~mask].mean() < 0.05
