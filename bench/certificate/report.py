"""From the raw figures of all processes to the lines of the certificate and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.certificate.bars import BARS, Bar, Judged, judge, judge_tail, verdict
from bench.certificate.blocks import BESIDE_COLD, COLD, FULL, SYNTHETIC
from bench.certificate.figures import (
    Rank,
    blocks_of,
    busy_shares,
    occupancy,
    rate,
    ratio_error,
    reading_over_demand,
    stall_share,
    tail,
    tail_excess,
)
from bench.certificate.schedule import Schedule
from pipeline.stats import bottleneck

_CALM = 0.01  # standard error of FULL / SYNTHETIC; bar and goal are 0.02 apart
_STAYED = 0.05  # share of the pages that may stay for a pass to be called cold


def report(ranks: Sequence[Rank], schedule: Schedule) -> dict[str, Any]:
    """Judge; in every line the slowest, most starved rank counts."""
    lines = judged(ranks, schedule.counted)
    full = blocks_of(ranks[0], FULL)
    starved = max(ranks, key=stall_share)
    busy = busy_shares(starved)
    return {
        "verdict": verdict(lines),
        "bottleneck": bottleneck(stall_share(starved), busy),
        "lines": [_as_dict(line) for line in lines],
        "images_per_second": {
            "full": sum(rate(rank, FULL) for rank in ranks),
            "synthetic": sum(rate(rank, SYNTHETIC) for rank in ranks),
        },
        "busy": busy,
        "steps": {
            "full": schedule.counted,
            "block": schedule.block,
            "epochs_crossed": sum(block["epochs_crossed"] for block in full),
            "checkpoints": sum(block["checkpoints"] for block in full),
        },
    }


def judged(ranks: Sequence[Rank], steps: int) -> list[Judged]:
    """Return the lines in the order of BARS."""
    values = {
        "full_over_synthetic": min(rate(rank, FULL) / rate(rank, SYNTHETIC) for rank in ranks),
        "stall_share": max(map(stall_share, ranks)),
        "io_over_demand": min(map(reading_over_demand, ranks)),
        "occupancy": min(map(occupancy, ranks)),
        "cold_full_over_synthetic": min(
            rate(rank, COLD) / rate(rank, BESIDE_COLD) for rank in ranks
        ),
    }
    notes = {
        "full_over_synthetic": _noise(ranks),
        "io_over_demand": _reading(ranks),
        "cold_full_over_synthetic": _disk(ranks[0]),
    }
    return [
        _judged_tail(bar, ranks, steps)
        if bar.key == "p99_over_p50"
        else judge(bar, values[bar.key], steps=steps, note=notes.get(bar.key, ""))
        for bar in BARS
    ]


def _judged_tail(bar: Bar, ranks: Sequence[Rank], steps: int) -> Judged:
    """The rank with the longest tail, against SYNTHETIC of the same rank."""
    worst = max(ranks, key=lambda rank: tail(rank, FULL))
    full, synthetic = tail(worst, FULL), tail(worst, SYNTHETIC)
    return judge_tail(bar, full, synthetic, tail_excess(worst), steps=steps)


def _noise(ranks: Sequence[Rank]) -> str:
    """How sure FULL / SYNTHETIC is, on the slowest rank."""
    error = ratio_error(min(ranks, key=lambda rank: rate(rank, FULL) / rate(rank, SYNTHETIC)))
    noisy = "; this machine is too noisy to tell bar from goal" if error > _CALM else ""
    return f"standard error {error:.3f}, from its blocks{noisy}"


def _reading(ranks: Sequence[Rank]) -> str:
    images = sum(rank["reading"]["images"] / rank["reading"]["seconds"] for rank in ranks)
    stayed = max(rank["reading"]["pages_stayed"] for rank in ranks)
    warm = f"; NOT from the disk: {stayed:.0%} of the pages stayed in memory"
    return f"{images:.0f} images/s from the disk" + (warm if stayed > _STAYED else "")


def _disk(rank: Rank) -> str:
    cold = rank["cold"]
    note = (
        f"the disk reads {cold['disk_bytes_per_second'] / 1e6:.0f} MB/s in order, "
        f"{cold['disk_bytes'] / 1e6:.0f} MB read"
    )
    if cold["pages_stayed"] > _STAYED:
        note += f"; not cold: {cold['pages_stayed']:.0%} of the pages stayed in memory"
    return note


def _as_dict(line: Judged) -> dict[str, Any]:
    bar = line.bar
    return {
        "key": bar.key,
        "title": bar.title,
        "value": line.value,
        "bar": bar.bar,
        "goal": bar.goal,
        "higher": bar.higher,
        "unit": bar.unit,
        "result": line.result,
        "goal_reached": line.goal_reached,
        "note": line.note,
        "why": bar.why,
    }
