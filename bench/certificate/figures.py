"""Figures of one process, from its raw blocks.

A rank is {"rank", "images_per_step", "blocks", "reading", "cold"} as bench/certificate/rank.py
leaves it; a block has the fields of bench.certificate.blocks.Block.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.certificate.blocks import FULL, SYNTHETIC

Rank = dict[str, Any]
RawBlock = dict[str, Any]
Seconds = NDArray[np.float64]

_REDRAWN = 1000


def blocks_of(rank: Rank, kind: str) -> list[RawBlock]:
    return [block for block in rank["blocks"] if block["kind"] == kind]


def rate(rank: Rank, kind: str) -> float:
    """Images per second of this rank, over all counted steps of a kind."""
    seconds = _seconds(rank, kind)
    return float(rank["images_per_step"] * len(seconds) / sum(seconds))


def block_ratios(rank: Rank) -> list[float]:
    """FULL / SYNTHETIC of each block of FULL, against the mean of its two neighbours."""
    full, synthetic = (
        [sum(block["seconds"]) / len(block["seconds"]) for block in blocks_of(rank, kind)]
        for kind in (FULL, SYNTHETIC)
    )
    neighbours = [(before + after) / 2 for before, after in pairwise(synthetic)]
    return [beside / own for beside, own in zip(neighbours, full, strict=True)]


def ratio_error(rank: Rank) -> float:
    """Standard error of FULL / SYNTHETIC, from how its blocks differ."""
    ratios = block_ratios(rank)
    return float(np.std(ratios, ddof=1) / np.sqrt(len(ratios)))


def tail(rank: Rank, kind: str) -> float:
    """p99 / p50 of its step times."""
    return _tail(np.array(_seconds(rank, kind)))


def tail_excess(rank: Rank) -> tuple[float, float]:
    """How much longer FULL's tail is than SYNTHETIC's: the ratio of their p99 / p50, and the lower
    end of its 90 % interval, by drawing blocks of both again and again (bootstrap)."""
    full, synthetic = (
        [np.array(block["seconds"]) for block in blocks_of(rank, kind)]
        for kind in (FULL, SYNTHETIC)
    )
    rng = np.random.default_rng(0)
    ratios = [_tail(_drawn(full, rng)) / _tail(_drawn(synthetic, rng)) for _ in range(_REDRAWN)]
    ratio = tail(rank, FULL) / tail(rank, SYNTHETIC)
    return ratio, min(ratio, float(np.quantile(ratios, 0.05)))


def stall_share(rank: Rank) -> float:
    """Waiting over all time of FULL: by the device's clock or the host's, whichever says more."""
    blocks = blocks_of(rank, FULL)
    waiting = max(sum(block[name] for block in blocks) for name in ("waiting", "host_waiting"))
    return float(waiting / sum(_seconds(rank, FULL)))


def busy_shares(rank: Rank) -> dict[str, float]:
    """Share of FULL's time that each stage of the loader was at work."""
    blocks, total = blocks_of(rank, FULL), sum(_seconds(rank, FULL))
    stages = blocks[0]["busy"]
    return {stage: sum(block["busy"][stage] for block in blocks) / total for stage in stages}


def occupancy(rank: Rank) -> float:
    """Mean share of full places in the last queue when FULL asked."""
    blocks = blocks_of(rank, FULL)
    filled, asked = (sum(b[name] for b in blocks) for name in ("places_filled", "places_asked"))
    return float(filled / max(asked, 1))


def reading_over_demand(rank: Rank) -> float:
    """How many times faster reading alone is than what SYNTHETIC uses."""
    reading = rank["reading"]
    return float(reading["images"] / reading["seconds"] / rate(rank, SYNTHETIC))


def _seconds(rank: Rank, kind: str) -> list[float]:
    return [seconds for block in blocks_of(rank, kind) for seconds in block["seconds"]]


def _tail(seconds: Seconds) -> float:
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return float(p99 / p50)


def _drawn(blocks: list[Seconds], rng: np.random.Generator) -> Seconds:
    """As many blocks, drawn with replacement: noise comes in stretches, so steps go together."""
    return np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
