"""Shares of the cores that other processes use: what a slow step on a busy machine is due to."""

import pytest

from training.meter import core_seconds, other_work


def test_other_work_is_what_is_busy_and_not_ours():
    before = (100.0, 40.0, 200.0)
    assert other_work(before, (110.0, 44.0, 220.0)) == pytest.approx(0.3)
    assert other_work(before, (104.0, 44.0, 220.0)) == 0
    assert other_work(before, (103.0, 44.0, 220.0)) == 0  # ticks are coarse
    assert other_work(before, before) == 0


def test_the_seconds_of_the_cores_grow():
    before = core_seconds()
    while core_seconds()[1] - before[1] < 0.2:
        sum(range(10_000))
    now = core_seconds()
    assert now[0] - before[0] >= 0.1
    assert now[2] - before[2] >= 0.1
