"""What the certificate asks of a machine, as data, and the verdict on what was measured.

Pure functions of numbers: nothing here measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

PASS, FAIL, REPORTED, NEEDS_STEPS = "PASS", "FAIL", "reported", "needs {} steps"
TOO_NOISY = "too noisy to say"
INCOMPLETE = "INCOMPLETE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One line of the certificate. Values are shares or ratios, not per cent."""

    key: str
    title: str
    bar: float | None  # None: reported, and no part of the verdict
    goal: float
    higher: bool  # whether more is better
    unit: str  # how a value is written: "x" or "%"
    why: str
    min_steps: int = 1  # counted steps of FULL below which the value says nothing


BARS = (
    Bar(
        key="full_over_synthetic",
        title="FULL / SYNTHETIC step rate",
        bar=0.97,
        goal=0.99,
        higher=True,
        unit="x",
        why="what the step loses to being fed; the pipeline's own work on the device included",
    ),
    Bar(
        key="stall_share",
        title="stall share",
        bar=0.01,
        goal=0.002,
        higher=False,
        unit="%",
        why="time without views over all time: by CUDA events on a GPU, and by the host's clock",
    ),
    Bar(
        key="p99_over_p50",
        title="p99 / p50 step time",
        bar=1.05,
        goal=1.02,
        higher=False,
        unit="x",
        why="steps that wait now and then hide in a mean; an epoch's end and a checkpoint included",
        min_steps=500,  # with fewer, the 99th percentile is one of the five slowest steps
    ),
    Bar(
        key="io_over_demand",
        title="IO-only rate over demand",
        bar=1.5,
        goal=3.0,
        higher=True,
        unit="x",
        why="reading alone must have room: what just suffices stalls as soon as a disk is shared",
    ),
    Bar(
        key="occupancy",
        title="slowest rank's occupancy of the last queue",
        bar=0.99,
        goal=0.999,
        higher=True,
        unit="%",
        why="views are ready when the step asks: the first sign of starving, before any step waits",
    ),
    Bar(
        key="cold_full_over_synthetic",
        title="cold page cache: first pass FULL / SYNTHETIC",
        bar=None,
        goal=0.97,
        higher=True,
        unit="x",
        why="the first epoch after a start, and every epoch of data larger than memory",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A line with its measured value and what was found."""

    bar: Bar
    value: float | None  # None: not measured
    result: str
    goal_reached: bool
    note: str = ""


def judge(bar: Bar, value: float | None, *, steps: int, note: str = "") -> Judged:
    """Compare one value, measured over `steps` counted steps of FULL, with its bar."""
    reached = value is not None and _reaches(bar, value, bar.goal)
    if bar.bar is None:
        result = REPORTED
    elif steps < bar.min_steps:
        result, reached = NEEDS_STEPS.format(bar.min_steps), False
    else:
        result = PASS if value is not None and _reaches(bar, value, bar.bar) else FAIL
    return Judged(bar=bar, value=value, result=result, goal_reached=reached, note=note)


def judge_tail(
    bar: Bar, full: float, synthetic: float, excess: tuple[float, float], *, steps: int
) -> Judged:
    """Judge p99 / p50 of FULL, knowing SYNTHETIC's of the same run.

    SYNTHETIC never waits for views: where it is above the bar itself, FULL alone says nothing of
    the loader. What is compared with the bar then is `excess`: how many times longer FULL's tail
    is, and at least is, by the lower end of what noise leaves possible. Above the bar even at the
    least, it FAILs; above it by what was measured only, nobody can tell.
    """
    assert bar.bar is not None
    if _reaches(bar, synthetic, bar.bar):
        return judge(bar, full, steps=steps, note=f"SYNTHETIC {synthetic:.3f}")
    ratio, least = excess
    note = (
        f"FULL {full:.3f}, SYNTHETIC {synthetic:.3f}: above the bar without any loader (noise, or "
        f"a checkpoint in every hundred steps). Judged is how many times longer FULL's tail is: "
        f"{ratio:.3f}, at least {least:.3f} (95 %)"
    )
    line = judge(bar, ratio, steps=steps, note=note)
    if line.result == FAIL and _reaches(bar, least, bar.bar):
        return replace(line, result=TOO_NOISY)
    return line


def verdict(lines: Sequence[Judged]) -> str:
    """PASS if every bar is passed, FAIL if one is not, INCOMPLETE if steps were too few or the
    machine too noisy to say."""
    results = {line.result for line in lines} - {REPORTED}
    if FAIL in results:
        return FAIL
    return PASS if results == {PASS} else INCOMPLETE


def _reaches(bar: Bar, value: float, limit: float) -> bool:
    return value >= limit if bar.higher else value <= limit
