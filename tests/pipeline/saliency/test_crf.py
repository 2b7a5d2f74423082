"""The dense CRF: the lattice against sums over all pairs of pixels, and what it does to masks."""

import cv2
import numpy as np
import pytest

from pipeline.saliency.compiled_lattice import build_lattice, filter_lattice
from pipeline.saliency.crf import CrfConfig, refine_by_crf
from pipeline.sources.demo import render

SIDE = 48
# what the lattice may differ by: of marginals on average, and the share of decisions at 0.5
MEAN_DIFFERENCE, OTHER_DECISIONS = 0.006, 0.006


def picture(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A generated picture, its true mask and a noisy prediction of it, SIDE x SIDE."""
    image, mask = (
        cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for part in render("demo", 0, index)
    )
    rng = np.random.default_rng(index)
    blurred = cv2.GaussianBlur(mask, (0, 0), 3) / 255
    noisy = 0.5 + 0.35 * (blurred - 0.5) + 0.2 * rng.normal(size=mask.shape)
    return image, mask, noisy.clip(0.02, 0.98).astype(np.float32)


def by_all_pairs(image: np.ndarray, salient: np.ndarray, config: CrfConfig) -> np.ndarray:
    """Mean field with both kernels as matrices [pixels, pixels], two classes, float64."""
    height, width = salient.shape
    scale = max(height, width) / config.side
    y, x = np.mgrid[0:height, 0:width]
    place = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64)
    colour = image.reshape(-1, 3).astype(np.float64)
    apart = ((place[:, None] - place[None]) ** 2).sum(-1)
    unlike = ((colour[:, None] - colour[None]) ** 2).sum(-1)
    near = np.exp(-apart / (2 * (config.near_sigma * scale) ** 2))
    alike = np.exp(
        -apart / (2 * (config.colour_sigma_xy * scale) ** 2)
        - unlike / (2 * config.colour_sigma_rgb**2)
    )
    kernel = np.zeros_like(near)
    for weight, part in ((config.near_weight, near), (config.colour_weight, alike)):
        norm = 1 / np.sqrt(part.sum(axis=1))
        kernel += weight * norm[:, None] * part * norm
    q = np.stack([salient.reshape(-1), 1 - salient.reshape(-1)]).astype(np.float64)
    unary = -np.log(q)
    for _ in range(config.iterations):
        scores = -unary + q @ kernel  # Potts: what agrees is rewarded
        scores = np.exp(scores - scores.max(axis=0))
        q = scores / scores.sum(axis=0)
    return q[0].reshape(height, width)


@pytest.mark.parametrize("index", range(4))
def test_it_equals_the_sum_over_all_pairs_within_the_tolerance(index):
    image, _, noisy = picture(index)
    found = refine_by_crf(image, noisy, CrfConfig())
    exact = by_all_pairs(image, noisy, CrfConfig())
    assert found.dtype == np.float32
    assert np.abs(found - exact).mean() < MEAN_DIFFERENCE
    assert ((found > 0.5) != (exact > 0.5)).mean() < OTHER_DECISIONS


def test_without_colours_it_is_exact():
    image, _, noisy = picture(0)
    config = CrfConfig(colour_weight=0.0)
    exact = by_all_pairs(image[:40, :31], noisy[:40, :31], config)
    found = refine_by_crf(image[:40, :31], noisy[:40, :31], config)
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_the_lattice_filters_as_a_gaussian():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.7, (900, 5)).astype(np.float32)
    values = (points[:, 0] + points[:, 3] > 0).astype(np.float32)
    lattice = build_lattice(points)
    found = filter_lattice(*lattice, values) / filter_lattice(*lattice, np.ones_like(values))
    apart = ((points[:, None].astype(np.float64) - points[None]) ** 2).sum(-1)
    kernel = np.exp(-apart / 2)
    exact = kernel @ values / kernel.sum(axis=1)
    assert np.corrcoef(found, exact)[0, 1] > 0.97
    assert np.abs(found - exact).max() < 0.12
    assert exact.max() - exact.min() > 0.6  # else a constant would pass


@pytest.mark.parametrize("index", range(4))
def test_it_brings_a_noisy_mask_nearer_to_the_truth(index):
    image, mask, noisy = picture(index)
    refined = refine_by_crf(image, noisy, CrfConfig())

    def iou(salient: np.ndarray) -> float:
        ours, truth = salient > 0.5, mask > 127
        return (ours & truth).sum() / (ours | truth).sum()

    assert iou(refined) > iou(noisy) + 0.3


def test_certain_predictions_and_the_extremes_of_colour_stay_finite():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    salient = (image[:, :, 0] > 0).astype(np.float32)
    refined = refine_by_crf(image, salient, CrfConfig(colour_sigma_rgb=3.0))
    np.testing.assert_array_equal(refined > 0.5, salient > 0.5)
    assert np.isfinite(refined).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("iterations", 0), ("near_sigma", 0.0), ("colour_weight", -1.0), ("colour_sigma_rgb", 2.0)],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"crf.{name} .*{value}"):
        CrfConfig(**{name: value})
