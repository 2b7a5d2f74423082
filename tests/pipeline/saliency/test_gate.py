"""The gate: too little, too much, and what frames the object instead of being it."""

import numpy as np
import pytest

from pipeline.saliency.gate import GateSettings, judge


def drawn(*boxes, size=(50, 100)):
    """A map that is 1 in boxes (top, bottom, left, right)."""
    saliency = np.zeros(size, np.float32)
    for top, bottom, left, right in boxes:
        saliency[top:bottom, left:right] = 1
    return saliency


@pytest.mark.parametrize(
    ("saliency", "coverage", "fault"),
    [
        (drawn(), 0, "small"),
        (drawn((20, 29, 20, 31)), 0.0198, "small"),
        (drawn((20, 30, 20, 30)), 0.02, None),
        (drawn((0, 50, 0, 95)), 0.95, None),
        (drawn((0, 50, 0, 96)), 0.96, "large"),
        (drawn((10, 40, 30, 70)), 0.24, None),  # in the middle
        (drawn((10, 50, 30, 70)), 0.32, None),  # cut off by one side
        (drawn((10, 40, 0, 20), (10, 40, 80, 100)), 0.24, "split"),  # at two sides
        (drawn((10, 40, 0, 20), (10, 40, 30, 50)), 0.24, None),  # the second touches nothing
        (drawn((10, 40, 0, 20), (10, 40, 98, 100)), 0.132, None),  # the second is a crumb
        (drawn((10, 40, 0, 20), (10, 40, 80, 100), (10, 40, 40, 60)), 0.36, None),  # not alone
        (drawn((0, 25, 0, 20), (25, 50, 20, 40)), 0.2, None),  # joined at a corner
    ],
)
def test_faults(saliency, coverage, fault):
    verdict = judge(saliency)
    assert verdict.coverage == pytest.approx(coverage)
    assert verdict.fault == fault


def test_foreground_is_what_exceeds_the_threshold():
    assert judge(np.full((9, 9), 0.5, np.float32)).fault == "small"
    assert judge(np.full((9, 9), 0.51, np.float32)).fault == "large"
    assert judge(np.full((9, 9), 0.3, np.float32), GateSettings(threshold=0.2)).fault == "large"


def test_limits_are_settings():
    one, two = drawn((20, 30, 20, 30)), drawn((10, 40, 0, 20), (10, 40, 80, 100))
    assert judge(one, GateSettings(min_coverage=0.05)).fault == "small"
    assert judge(two, GateSettings(max_coverage=0.2)).fault == "large"
    assert judge(two, GateSettings(part_share=0.6)).fault is None
    three = drawn((10, 40, 0, 20), (10, 40, 80, 100), (10, 40, 40, 60))
    assert judge(three, GateSettings(split_share=0.6)).fault == "split"
