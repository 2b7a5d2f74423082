"""Measures beside plain transcriptions of their papers, known answers, what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.saliency.measures import Measured, f_measure, measure, summarise
from pipeline.saliency.structure import structure_measure


def case(seed, height=9, width=11):
    """A map and a truth that have something to do with each other."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((height, width), bool)
    top, left = rng.integers(0, height), rng.integers(0, width)
    truth[top : top + rng.integers(1, height), left : left + rng.integers(1, width)] = True
    saliency = (truth * rng.random() + rng.random((height, width)) * rng.random()).clip(0, 1)
    return saliency.astype(np.float32), truth


def plain_curve(saliency, truth):
    """Precision and recall at each threshold, pixel by pixel."""
    levels = [[math.floor(float(v) * 255 + 0.5) for v in row] for row in saliency]
    curve = []
    for threshold in range(1, 256):
        found = right = wanted = 0
        for row, true_row in zip(levels, truth, strict=True):
            for level, true in zip(row, true_row, strict=True):
                found += level >= threshold
                right += bool(level >= threshold and true)
                wanted += bool(true)
        curve.append((right / found if found else 0, right / wanted if wanted else 0))
    return curve


def plain_f(precision, recall):
    if precision == recall == 0:
        return 0
    return 1.3 * precision * recall / (0.3 * precision + recall)


def plain_structure(saliency, truth):
    """Fan et al. 2017, written from its equations with numpy's own moments."""
    s, g = saliency.astype(float), truth.astype(float)
    if g.mean() in (0, 1):
        return abs(1 - g.mean() - s.mean())

    def o(values):
        deviation = np.std(values, ddof=1) if len(values) > 1 else 0
        return 2 * values.mean() / (values.mean() ** 2 + 1 + deviation)

    s_object = g.mean() * o(s[truth]) + (1 - g.mean()) * o(1 - s[~truth])
    ys, xs = np.where(truth)
    y, x = math.floor(ys.mean() + 0.5) + 1, math.floor(xs.mean() + 0.5) + 1
    s_region = 0
    for rows in (range(0, y), range(y, len(g))):
        for columns in (range(0, x), range(x, g.shape[1])):
            if not len(rows) or not len(columns):
                continue
            block = np.ix_(rows, columns)
            a, b = s[block].ravel(), g[block].ravel()
            if len(a) > 1:
                (var_a, cov), (_, var_b) = np.cov(a, b)
            else:
                var_a = cov = var_b = 0
            above = 4 * a.mean() * b.mean() * cov
            below = (a.mean() ** 2 + b.mean() ** 2) * (var_a + var_b)
            if above != 0:
                s_region += above / below * len(a) / g.size
            elif below == 0:
                s_region += len(a) / g.size
    return max(0.5 * s_object + 0.5 * s_region, 0)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_figures_of_a_picture_are_the_plain_ones(seed):
    saliency, truth = case(seed)
    found = measure(saliency, truth)
    curve = plain_curve(saliency, truth)
    assert np.stack([found.precision, found.recall], axis=1) == pytest.approx(np.array(curve))
    limit = min(2 * float(saliency.mean()), 1)
    binary = saliency >= limit
    right = (binary & truth).sum()
    assert found.adaptive_f == pytest.approx(
        plain_f(right / max(binary.sum(), 1), right / max(truth.sum(), 1))
    )
    assert found.mae == pytest.approx(
        sum(abs(float(s) - t) for s, t in zip(saliency.flat, truth.flat, strict=True)) / truth.size
    )
    assert found.structure == pytest.approx(plain_structure(saliency, truth), abs=1e-6)


def test_max_f_is_of_mean_precision_and_mean_recall():
    cases = [case(seed) for seed in range(6)]
    curves = np.array([plain_curve(*one) for one in cases])
    means = curves.mean(axis=0)
    expected = [plain_f(*point) for point in means]
    summary = summarise([measure(*one) for one in cases])
    assert summary.max_f == pytest.approx(max(expected))
    assert summary.best_threshold == pytest.approx((np.argmax(expected) + 1) / 255)
    assert summary.mae == pytest.approx(np.mean([measure(*one).mae for one in cases]))
    assert summary.structure == pytest.approx(np.mean([measure(*one).structure for one in cases]))
    # not the mean of each picture's own best
    assert summary.max_f < np.mean([max(plain_f(*p) for p in curve) for curve in curves])


def test_a_perfect_map_has_perfect_figures_and_its_opposite_the_worst():
    truth = np.zeros((20, 30), bool)
    truth[5:15, 8:20] = True
    best = measure(truth.astype(np.float32), truth)
    assert (best.precision == 1).all()
    assert (best.recall == 1).all()
    assert (best.adaptive_f, best.mae) == (1, 0)
    assert best.structure == pytest.approx(1)
    worst = measure((~truth).astype(np.float32), truth)
    assert (worst.adaptive_f, worst.mae, worst.structure) == (0, 1, 0)


def test_known_answers_by_hand():
    truth = np.array([[True, True, False, False]])
    found = measure(np.array([[1, 0, 0.2, 0]], np.float32), truth)
    assert (found.precision[50], found.recall[50]) == (0.5, 0.5)  # threshold 51 / 255 = 0.2
    assert (found.precision[51], found.recall[51]) == (1, 0.5)
    assert found.mae == pytest.approx(0.3)
    assert found.adaptive_f == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))  # threshold 0.6
    assert f_measure(np.array([0.0, 0.5]), np.array([0.0, 1.0])) == pytest.approx([0, 0.65 / 1.15])


@pytest.mark.parametrize(("fill", "expected"), [(False, 0.75), (True, 0.25)])
def test_structure_against_an_empty_or_full_truth_is_of_the_mean(fill, expected):
    saliency = np.full((6, 7), 0.25, np.float32)
    assert structure_measure(saliency, np.full((6, 7), fill)) == pytest.approx(expected)


@given(st.integers(0, 2**32 - 1))
def test_figures_lie_in_their_ranges_and_recall_falls(seed):
    found = measure(*case(seed))
    for figure in (found.adaptive_f, found.mae, found.structure):
        assert 0 <= figure <= 1 + 1e-9
    assert (np.diff(found.recall) <= 0).all()
    assert ((found.precision >= 0) & (found.precision <= 1)).all()


@given(st.integers(0, 2**32 - 1))
def test_flipping_both_changes_no_figure_but_structure_by_its_centroid(seed):
    saliency, truth = case(seed)
    one, other = measure(saliency, truth), measure(saliency[:, ::-1], truth[:, ::-1])
    assert (one.precision == other.precision).all()
    assert (one.recall == other.recall).all()
    assert one.mae == pytest.approx(other.mae)
    assert one.adaptive_f == pytest.approx(other.adaptive_f)


@pytest.mark.parametrize(
    ("saliency", "truth", "says"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), r"map of \(2, 3\) .* mask of \(3, 2\)"),
        (np.zeros((0, 3)), np.zeros((0, 3), bool), "cannot be measured"),
        (np.full((2, 2), 1.5), np.zeros((2, 2), bool), "from 1.5 to 1.5, not 0 to 1"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), bool), "from nan to nan"),
    ],
)
def test_what_cannot_be_measured_is_refused(saliency, truth, says):
    with pytest.raises(ValueError, match=says):
        measure(saliency.astype(np.float32), truth)


def test_no_pictures_have_no_summary():
    nothing: list[Measured] = []
    with pytest.raises(ValueError, match="no picture"):
        summarise(nothing)
