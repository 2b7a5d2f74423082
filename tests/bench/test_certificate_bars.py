"""The certificate's bars and verdict, on numbers made by hand."""

from dataclasses import replace

import pytest

from bench.certificate.bars import (
    BARS,
    FAIL,
    INCOMPLETE,
    PASS,
    TOO_NOISY,
    judge,
    judge_tail,
    verdict,
)

BY_KEY = {bar.key: bar for bar in BARS}
TAIL = BY_KEY["p99_over_p50"]


def test_bars_and_goals_are_those_of_the_promise():
    assert {bar.key: (bar.bar, bar.goal) for bar in BARS} == {
        "full_over_synthetic": (0.97, 0.99),
        "stall_share": (0.01, 0.002),
        "p99_over_p50": (1.05, 1.02),
        "io_over_demand": (1.5, 3.0),
        "occupancy": (0.99, 0.999),
        "cold_full_over_synthetic": (None, 0.97),
    }
    assert all(bar.why for bar in BARS)


@pytest.mark.parametrize("bar", [bar for bar in BARS if bar.bar is not None], ids=lambda b: b.key)
def test_a_value_on_the_bar_passes_and_one_beyond_it_fails(bar):
    worse = -1e-6 if bar.higher else 1e-6
    assert judge(bar, bar.bar, steps=500).result == PASS
    assert judge(bar, bar.bar + worse, steps=500).result == FAIL
    assert not judge(bar, bar.bar, steps=500).goal_reached
    assert judge(bar, bar.goal, steps=500).goal_reached
    assert not judge(bar, bar.goal + worse, steps=500).goal_reached


def test_the_cold_pass_is_reported_whatever_it_is():
    cold = BY_KEY["cold_full_over_synthetic"]
    assert judge(cold, 0.1, steps=500).result == judge(cold, 1.0, steps=500).result == "reported"
    assert judge(cold, 0.97, steps=500).goal_reached


def test_a_tail_of_too_few_steps_is_not_judged():
    line = judge_tail(TAIL, 1.0, 1.0, (1.0, 1.0), steps=499)
    assert (line.result, line.goal_reached) == ("needs 500 steps", False)
    assert judge_tail(TAIL, 1.0, 1.0, (1.0, 1.0), steps=500).result == PASS


@pytest.mark.parametrize(
    ("full", "synthetic", "least", "result"),
    [
        (1.04, 1.01, 1.03, PASS),
        (1.06, 1.01, 1.04, FAIL),  # SYNTHETIC is calm, so FULL's tail is the loader's
        (1.06, 1.05, 1.00, FAIL),  # on the bar is not above it
        (1.35, 1.30, 1.00, PASS),  # 1.04 times SYNTHETIC's, which never waits
        (1.20, 1.30, 0.90, PASS),
        (1.40, 1.30, 1.05, TOO_NOISY),  # 1.08 times, and noise may have made that of 1.05
        (1.40, 1.30, 1.06, FAIL),
    ],
)
def test_the_tail_of_a_noisy_machine_is_judged_against_synthetic(full, synthetic, least, result):
    line = judge_tail(TAIL, full, synthetic, (full / synthetic, least), steps=500)
    assert line.result == result
    assert line.value == (full / synthetic if synthetic > 1.05 else full)
    assert ("above the bar without any loader" in line.note) == (synthetic > 1.05)
    assert f"SYNTHETIC {synthetic:.3f}" in line.note


def lines(**results):
    found = [judge(bar, bar.goal, steps=500) for bar in BARS]
    return [replace(line, result=results.get(line.bar.key, PASS)) for line in found]


def test_the_verdict_is_that_of_the_worst_line():
    cold = {"cold_full_over_synthetic": "reported"}
    assert verdict(lines(**cold)) == PASS
    assert verdict(lines(**cold, p99_over_p50="needs 500 steps")) == INCOMPLETE
    assert verdict(lines(**cold, p99_over_p50=TOO_NOISY)) == INCOMPLETE
    assert verdict(lines(**cold, p99_over_p50=TOO_NOISY, occupancy=FAIL)) == FAIL
    assert verdict(lines(**cold, p99_over_p50="needs 500 steps", occupancy=FAIL)) == FAIL
